//! Several networks on the same nodes: nothing is forwarded between them.

use std::net::IpAddr;
use std::process::Command;

use tartan_model::Family;
use tartan_scenarios::{Lab, run_command, wait_until};

use crate::harness::{PATIENCE, SHORT, ask, netns, nft_name, node, pods, udp_source};

const BLUE: &str = "{pools: [{cidr: 10.99.0.0/16}, {cidr: \"fd00:99::/56\"}], vxlan: {vni: 16777215}, \
                    attachment: ATTACHMENT}";

/// What begins the addresses of the networks, and a Service address: of a family.
struct Ranges {
    red: &'static str,
    blue: &'static str,
    service: IpAddr,
}

fn ranges(family: Family) -> Ranges {
    let (red, blue, service) = match family {
        Family::Ipv4 => ("10.244.", "10.99.", [10, 96, 0, 9].into()),
        Family::Ipv6 => ("fd00:10:244:", "fd00:99:", [0xfd00, 0x96, 0, 0, 0, 0, 0, 9].into()),
    };
    Ranges { red, blue, service }
}

fn pings(lab: &Lab, from: &str, to: IpAddr) -> bool {
    let from = format!("tartan-{}_{}", lab.name(), from.replace('/', "_"));
    let to = to.to_string();
    run_command(Command::new("ip").args(["netns", "exec", &from, "ping", "-c1", "-W1", &to])).code == 0
}

fn networks_are_kept_apart(attachment: &str) {
    let set = format!("attachment={attachment}");
    let lab = Lab::up("t-apart", &["--nodes", "3", "--pods", "1", "--family", "dual", "--set", &set]);
    lab.apply("blue", &BLUE.replace("ATTACHMENT", attachment)).ok();
    for number in 1..=3 {
        let on = format!("n{number}");
        let name = format!("blue{number}");
        wait_until("a block", PATIENCE, || {
            lab.lab(&["pod", "add", &name, "--node", &on, "--network", "blue"]).code == 0
        });
    }
    for network in ["default", "blue"] {
        for protocol in ["tcp", "udp", "icmp"] {
            lab.assert_full(3, &["--network", network, "--protocol", protocol]);
        }
    }
    for family in Family::ALL {
        nothing_passes(&lab, family);
    }
    let denied = lab.ask("n1", &["denied"]);
    let counted = |row: &serde_json::Value| row["reason"] == "across" && row["packets"].as_u64() > Some(0);
    assert!(denied.as_array().expect("a list").iter().any(counted), "{denied}");
    // Without the rules it would pass: the test can tell.
    lab.lab(&["fault", "add", "kill", "n1"]).ok();
    node(&lab, "n1", "nft flush chain inet tartan across");
    for family in Family::ALL {
        let (from, (blue, address)) = (netns(&lab, RED), of(&lab, family, "default/blue1"));
        for to in [address, ranges(family).service] {
            assert_eq!(ask(&from, to, PATIENCE).map(|(name, _)| name).as_ref(), Some(&blue), "{to}");
        }
    }
    lab.lab(&["fault", "clear"]).ok();
    wait_until("ready", PATIENCE, || lab.ask("n1", &["status"])["healthy"] == true);
    for family in Family::ALL {
        let (_, address) = of(&lab, family, "default/blue1");
        assert_eq!(ask(&netns(&lab, RED), address, SHORT), None);
    }
    // With one network left nobody pays for it.
    for number in 1..=3 {
        lab.lab(&["pod", "rm", &format!("blue{number}")]).ok();
    }
    lab.verb("n1", &["delete", "clusternetwork", "blue"]).ok();
    wait_until("the rules are gone", PATIENCE, || {
        !node(&lab, "n1", "nft list ruleset").contains("chain apart")
    });
}

/// A pod of the first network.
const RED: &str = "default/p1";

/// A pod's name, and its address of a family.
fn of(lab: &Lab, family: Family, name: &str) -> (String, IpAddr) {
    let pods = pods(lab, family);
    let (name, _, address) = pods.iter().find(|(pod, ..)| pod == name).expect("the pod");
    (name.clone(), *address)
}

fn nothing_passes(lab: &Lab, family: Family) {
    let pods = pods(lab, family);
    let is_blue = |name: &str| name.contains("blue");
    for (from, _, _) in &pods {
        for (to, on, address) in pods.iter().filter(|(to, ..)| is_blue(to) != is_blue(from)) {
            let (here, there) = (netns(lab, from), netns(lab, to));
            assert_eq!(udp_source(&here, &there, *address, SHORT), None, "{from} to {to} on {on}");
        }
    }
    // One pair by each way and protocol, and the addresses that nodes have in the other network.
    let ranges = ranges(family);
    let (_, red) = of(lab, family, RED);
    for (blue, on) in [("default/blue1", "n1"), ("default/blue2", "n2")] {
        let (_, address) = of(lab, family, blue);
        assert_eq!(ask(&netns(lab, RED), address, SHORT), None, "{RED} to {blue}");
        assert_eq!(ask(&netns(lab, blue), red, SHORT), None, "{blue} to {RED}");
        assert!(!pings(lab, RED, address) && !pings(lab, blue, red));
        for own in own_addresses(lab, on, ranges.blue) {
            assert!(!pings(lab, RED, own), "{RED} to {own} of {on}");
        }
    }
    // Nor is there a way through a Service address that somebody translates.
    let (table, service, (_, blue)) = (nft_name(family), ranges.service, of(lab, family, "default/blue1"));
    let chain = "{ type nat hook prerouting priority -100; policy accept; }";
    node(lab, "n1", &format!("nft add table {table} services"));
    lab.on_node("n1", &["nft", "add", "chain", table, "services", "prerouting", chain]);
    let rule = format!("{table} daddr {service} dnat to {blue}");
    node(lab, "n1", &format!("nft add rule {table} services prerouting {rule}"));
    assert_eq!(ask(&netns(lab, RED), service, SHORT), None);
    let own = own_addresses(lab, "n1", ranges.red);
    // On the pod's link the kernel answers for an IPv6 address of that link only (net/ipv6/ndisc.c, `ndisc_recv_ns`).
    assert!(own.iter().any(|own| pings(lab, RED, *own)), "its own network's are there: {own:?}");
}

/// The addresses that a node has of a range.
fn own_addresses(lab: &Lab, on: &str, range: &str) -> Vec<IpAddr> {
    let text = node(lab, on, "ip -o addr show");
    let words = text.split_whitespace().filter(|word| word.starts_with(range));
    let found: Vec<IpAddr> =
        words.filter_map(|word| word.split('/').next()).filter_map(|word| word.parse().ok()).collect();
    assert!(!found.is_empty(), "{text}");
    found
}

#[test]
fn bridged_networks_are_kept_apart() {
    networks_are_kept_apart("bridge");
}

#[test]
fn routed_networks_are_kept_apart() {
    networks_are_kept_apart("routed");
}
