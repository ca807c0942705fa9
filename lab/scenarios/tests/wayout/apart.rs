//! Several networks on the same nodes: nothing is forwarded between them.

use std::net::IpAddr;
use std::process::Command;

use tartan_scenarios::{Lab, run_command, wait_until};

use crate::harness::{PATIENCE, SHORT, apply, ask, netns, node, pods, udp_source};

const BLUE: &str = "{pools: [{cidr: 10.99.0.0/16}], vxlan: {vni: 16777215}, attachment: ATTACHMENT}";

fn pings(lab: &Lab, from: &str, to: IpAddr) -> bool {
    let from = format!("tartan-{}_{}", lab.name(), from.replace('/', "_"));
    let to = to.to_string();
    run_command(Command::new("ip").args(["netns", "exec", &from, "ping", "-c1", "-W1", &to])).code == 0
}

fn networks_are_kept_apart(attachment: &str) {
    let set = format!("attachment={attachment}");
    let lab = Lab::up("t-apart", &["--nodes", "3", "--pods", "1", "--set", &set]);
    apply(&lab, "blue", &BLUE.replace("ATTACHMENT", attachment)).ok();
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
    let pods = pods(&lab);
    let is_blue = |name: &str| name.contains("blue");
    for (from, _, _) in &pods {
        for (to, on, address) in pods.iter().filter(|(to, ..)| is_blue(to) != is_blue(from)) {
            let (here, there) = (netns(&lab, from), netns(&lab, to));
            assert_eq!(udp_source(&here, &there, *address, SHORT), None, "{from} to {to} on {on}");
        }
    }
    // One pair by each way and protocol, and the addresses that nodes have in the other network.
    let of = |name: &str| pods.iter().find(|(pod, ..)| pod == name).expect("the pod").clone();
    let (red, _, red_address) = of("default/p1");
    for blue in ["default/blue1", "default/blue2"] {
        let (blue, on, address) = of(blue);
        assert_eq!(ask(&netns(&lab, &red), address, SHORT), None, "{red} to {blue}");
        assert_eq!(ask(&netns(&lab, &blue), red_address, SHORT), None, "{blue} to {red}");
        assert!(!pings(&lab, &red, address) && !pings(&lab, &blue, red_address));
        for own in own_addresses(&lab, &on, "10.99.") {
            assert!(!pings(&lab, &red, own), "{red} to {own} of {on}");
        }
    }
    // Nor is there a way through a Service address that somebody translates.
    let (service, blue) = ("10.96.0.9".parse::<IpAddr>().expect("an address"), of("default/blue1"));
    let chain = "{ type nat hook prerouting priority -100; policy accept; }";
    node(&lab, "n1", "nft add table ip services");
    lab.on_node("n1", &["nft", "add", "chain", "ip", "services", "prerouting", chain]);
    node(&lab, "n1", &format!("nft add rule ip services prerouting ip daddr {service} dnat to {}", blue.2));
    assert_eq!(ask(&netns(&lab, &red), service, SHORT), None);
    let own = own_addresses(&lab, "n1", "10.244.");
    assert!(own.iter().all(|own| pings(&lab, &red, *own)), "its own network's are there: {own:?}");
    let denied = lab.ask("n1", &["denied"]);
    let counted = |row: &serde_json::Value| row["reason"] == "across" && row["packets"].as_u64() > Some(0);
    assert!(denied.as_array().expect("a list").iter().any(counted), "{denied}");
    // Without the rules it would pass: the test can tell.
    lab.lab(&["fault", "add", "kill", "n1"]).ok();
    node(&lab, "n1", "nft flush chain inet tartan across");
    let (blue, _, address) = of("default/blue1");
    assert_eq!(ask(&netns(&lab, &red), address, PATIENCE).map(|(name, _)| name).as_ref(), Some(&blue));
    assert_eq!(ask(&netns(&lab, &red), service, PATIENCE).map(|(name, _)| name), Some(blue));
    lab.lab(&["fault", "clear"]).ok();
    wait_until("ready", PATIENCE, || lab.ask("n1", &["status"])["healthy"] == true);
    assert_eq!(ask(&netns(&lab, &red), address, SHORT), None);
    // With one network left nobody pays for it.
    for number in 1..=3 {
        lab.lab(&["pod", "rm", &format!("blue{number}")]).ok();
    }
    lab.verb("n1", &["delete", "clusternetwork", "blue"]).ok();
    wait_until("the rules are gone", PATIENCE, || {
        !node(&lab, "n1", "nft list ruleset").contains("chain apart")
    });
}

/// The addresses that a node has of a range.
fn own_addresses(lab: &Lab, on: &str, range: &str) -> Vec<IpAddr> {
    let text = node(lab, on, "ip -o -4 addr show");
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
