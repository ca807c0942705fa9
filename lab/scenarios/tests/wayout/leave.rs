//! Traffic that leaves the cluster takes the node's address, and no other does.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;

use tartan_model::Family;
use tartan_scenarios::{Lab, Place, run_command, wait_until};

use crate::harness::{PATIENCE, ask, netns, node, outside, pods, tcp_source, udp_source};

/// As flannel's A20: pod to outside, pod to pod, node to pod, outside to pod.
fn everybody_meets_everybody(family: Family, attachment: &str) {
    let attachment = format!("attachment={attachment}");
    let of = family.to_string();
    let lab = Lab::up("t-out", &["--nodes", "2", "--pods", "2", "--family", &of, "--set", &attachment]);
    let (pods, out) = (pods(&lab, family), lab.netns("outside"));
    let before = tracked(&lab);
    let nodes: Vec<Place> = ["n1", "n2"].map(|name| Place::node(&lab, name)).into();
    let place = |name: &str| &nodes[usize::from(name == "n2")];
    for (pod, on, address) in &pods {
        let from = netns(&lab, pod);
        let met = tcp_source(&from, 0, &out, outside(family)).expect("to reach the outside");
        assert_eq!(met.ip(), place(on).address, "{pod} outside");
        let met = udp_source(&from, &out, outside(family), PATIENCE);
        assert_eq!(met, Some(place(on).address), "{pod} outside by UDP");
        for (other, _, to) in &pods {
            assert_eq!(ask(&from, *to, PATIENCE), Some((other.clone(), *address)), "{pod} to {other}");
        }
        for node in &nodes {
            let met = tcp_source(&from, 0, &node.netns, node.address).map(|met| met.ip());
            // Its own node knows it by its own address; the other one answers by the way that it knows.
            let own = node.address == place(on).address;
            assert_eq!(met, Some(if own { *address } else { place(on).address }), "{pod} to a node");
        }
        // A node meets a pod as the one that its routes say, not as somebody else.
        for (name, place) in ["n1", "n2"].iter().zip(&nodes) {
            let expected = source_by_routes(&lab, name, *address);
            assert_eq!(
                ask(&place.netns, *address, PATIENCE),
                Some((pod.clone(), expected)),
                "{name} to {pod}"
            );
        }
    }
    routes_to_pods(&lab, &nodes);
    for (pod, _, address) in &pods {
        assert_eq!(ask(&out, *address, PATIENCE), Some((pod.clone(), outside(family))), "outside to {pod}");
    }
    // The pods' connections are tracked, and the tunnel's packets that carry them are not.
    let after = tracked(&lab);
    let of_tunnel = |line: &&String| line.contains("dport=8472");
    assert!(after.iter().any(|line| line.ends_with("dport=80")), "{after:?}");
    // Before its peer was known, a node may have had one tracked.
    assert!(after.iter().filter(of_tunnel).all(|line| before.contains(line)), "{after:?}");
}

/// The connections that a node's kernel tracks, by what they are between.
fn tracked(lab: &Lab) -> BTreeSet<String> {
    let known = std::fs::read_to_string(format!("/proc/{}/net/nf_conntrack", lab.agent("n1")));
    let known = known.expect("a kernel that tells of connections");
    let ends = |line: &str| {
        line.split_whitespace()
            .filter(|word| word.contains("src=") || word.contains("port="))
            .take(3)
            .collect::<Vec<_>>()
            .join(" ")
    };
    known.lines().map(ends).collect()
}

fn source_by_routes(lab: &Lab, name: &str, to: IpAddr) -> IpAddr {
    let route = node(lab, name, &format!("ip route get {to}"));
    let words: Vec<&str> = route.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "src").unwrap_or_else(|| panic!("{route}"));
    words[at + 1].parse().expect("an address")
}

/// Has the router send what is for pods to their nodes.
fn routes_to_pods(lab: &Lab, nodes: &[Place]) {
    let rows = lab.ask("n1", &["ipam"]);
    for row in rows.as_array().expect("a list") {
        let text = |key: &str| row[key].as_str().expect("text").to_owned();
        let via = &nodes[usize::from(text("node") == "n2")].address;
        let wire = format!("tartan-{}_wire", lab.name());
        let words = ["-n", &wire, "route", "add", &text("block"), "via", &via.to_string()];
        run_command(Command::new("ip").args(words)).ok();
    }
}

#[test]
fn ipv4_bridged_pods_leave_with_their_nodes_address() {
    everybody_meets_everybody(Family::Ipv4, "bridge");
}

#[test]
fn ipv4_routed_pods_leave_with_their_nodes_address() {
    everybody_meets_everybody(Family::Ipv4, "routed");
}

#[test]
fn ipv6_bridged_pods_leave_with_their_nodes_address() {
    everybody_meets_everybody(Family::Ipv6, "bridge");
}

#[test]
fn ipv6_routed_pods_leave_with_their_nodes_address() {
    everybody_meets_everybody(Family::Ipv6, "routed");
}

/// Connections by neighbouring ports leave by ports of which one says nothing of the next.
#[test]
fn ports_are_fully_random() {
    let lab = Lab::up("t-out", &["--nodes", "1", "--pods", "1"]);
    let (from, out) = (lab.netns("default_p1"), lab.netns("outside"));
    let met =
        |port| tcp_source(&from, port, &out, outside(Family::Ipv4)).expect("to reach the outside").port();
    let ports: Vec<u16> = (40_000..40_024).map(met).collect();
    assert!(ports.iter().all(|port| *port >= 32_768), "{ports:?}");
    assert!(ports.iter().zip(40_000..).filter(|(port, own)| *port == own).count() < 2, "{ports:?}");
    let steps: BTreeSet<i32> = ports.windows(2).map(|pair| i32::from(pair[1]) - i32::from(pair[0])).collect();
    assert!(steps.len() > 20, "{ports:?}");
    let ruleset = node(&lab, "n1", "nft list chain inet tartan leave");
    assert_eq!(ruleset.matches("fully-random").count(), 3, "{ruleset}");
}

#[test]
fn without_masquerade_and_where_it_is_exempt_pods_keep_their_address() {
    let lab = Lab::up("t-out", &["--nodes", "1", "--pods", "1"]);
    let (from, out) = (lab.netns("default_p1"), lab.netns("outside"));
    let own = lab.addresses("default/p1")[0];
    let own_node = Place::node(&lab, "n1").address;
    let met = || udp_source(&from, &out, outside(Family::Ipv4), PATIENCE);
    let pool = "pools: [{cidr: 10.244.0.0/16}]";
    assert_eq!(met(), Some(own_node));
    for (spec, expected) in [
        ("masqueradeExempt: [192.0.2.0/24]", own),
        ("masqueradeExempt: [192.0.2.2/32, 192.0.0.0/16]", own),
        ("masqueradeExempt: [192.0.3.0/24]", own_node),
        ("masquerade: false", own),
        ("masquerade: true", own_node),
        ("masquerade: false", own),
    ] {
        lab.apply("default", &format!("{{{pool}, {spec}}}")).ok();
        assert_eq!(met(), Some(expected), "{spec}");
    }
    // Nothing is left that has connections tracked.
    let ruleset = node(&lab, "n1", "nft list ruleset");
    assert!(!ruleset.contains("type nat") && !ruleset.contains("way_out"), "{ruleset}");
    let plan = lab.ask("n1", &["plan"]);
    assert_eq!(plan["steps"].as_array().map(Vec::len), Some(0), "{plan}");
}

/// What was flushed while nobody could mend it is back before the agent says that it is ready; what is flushed while it
/// lives stays, or is back at once.
#[test]
fn what_is_flushed_while_the_agent_is_stopped_is_back_before_it_is_ready() {
    let lab = Lab::up("t-out", &["--nodes", "1", "--pods", "1"]);
    let (from, out) = (lab.netns("default_p1"), lab.netns("outside"));
    let own_node = Place::node(&lab, "n1").address;
    let met = || udp_source(&from, &out, outside(Family::Ipv4), PATIENCE);
    // The tables are the agent's own: nothing of them goes.
    let before = node(&lab, "n1", "nft list table inet tartan");
    let _ = lab.lab(&["node", "exec", "n1", "--", "nft", "flush", "ruleset"]);
    assert_eq!(met(), Some(own_node));
    assert_eq!(node(&lab, "n1", "nft list table inet tartan"), before);
    lab.lab(&["fault", "add", "stop", "n1"]).ok();
    assert_eq!(met(), Some(own_node), "without the agent");
    node(&lab, "n1", "nft flush ruleset");
    assert_ne!(met(), Some(own_node), "without rules");
    lab.lab(&["fault", "clear"]).ok();
    wait_until("ready", PATIENCE, || lab.ask("n1", &["status"])["healthy"] == true);
    assert_eq!(met(), Some(own_node));
    assert_eq!(node(&lab, "n1", "nft list table inet tartan"), before);
}
