//! The main job: every pod reaches every other through the overlay.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tartan_scenarios::Lab;

/// Every node's agent is healthy and has nothing left to do.
fn assert_at_rest(lab: &Lab, nodes: usize) {
    for n in 1..=nodes {
        let node = format!("n{n}");
        let status = lab.ask(&node, &["status"]);
        assert_eq!(status["healthy"], true, "{status}");
        assert_eq!(status["peers"]["up"], nodes - 1, "{status}");
        let plan = lab.ask(&node, &["plan"]);
        assert_eq!(plan["steps"].as_array().map(Vec::len), Some(0), "{plan}");
    }
}

fn full_lab(family: &str, attachment: &str) {
    let attachment = format!("attachment={attachment}");
    let args =
        ["--preset", "flannel", "--nodes", "3", "--pods", "2", "--family", family, "--set", &attachment];
    let lab = Lab::up("t-overlay", &args);
    let families: &[&str] = if family == "dual" { &["ipv4", "ipv6"] } else { &[family] };
    for family in families {
        lab.assert_full(6, &["--family", family]);
        lab.assert_full(6, &["--family", family, "--protocol", "udp", "--port", "81"]);
        lab.assert_full(6, &["--family", family, "--protocol", "icmp"]);
    }
    assert_at_rest(&lab, 3);
}

#[test]
fn ipv4_bridged_pods_all_reach_each_other() {
    full_lab("ipv4", "bridge");
}

#[test]
fn ipv4_routed_pods_all_reach_each_other() {
    full_lab("ipv4", "routed");
}

#[test]
fn ipv6_bridged_pods_all_reach_each_other() {
    full_lab("ipv6", "bridge");
}

#[test]
fn ipv6_routed_pods_all_reach_each_other() {
    full_lab("ipv6", "routed");
}

#[test]
fn dual_bridged_pods_all_reach_each_other() {
    full_lab("dual", "bridge");
}

#[test]
fn dual_routed_pods_all_reach_each_other() {
    full_lab("dual", "routed");
}

#[test]
fn pods_of_either_family_cross_an_underlay_of_the_other() {
    for (pods, underlay, device, mtu) in [
        ("ipv4", "ipv6", "tart6.1", 1430),
        ("ipv6", "ipv4", "tartan.1", 1450),
        ("dual", "ipv6", "tart6.1", 1430),
    ] {
        let lab =
            Lab::up("t-overlay", &["--nodes", "2", "--pods", "1", "--family", pods, "--underlay", underlay]);
        lab.assert_full(2, &[]);
        assert_at_rest(&lab, 2);
        let link = lab.on_node("n1", &["ip", "-o", "link", "show", device]);
        assert!(link.contains(&format!("mtu {mtu}")), "{link}");
        let inside = lab.in_pod("p1", &["ip", "-o", "link", "show", "eth0"]);
        assert!(inside.contains(&format!("mtu {mtu}")), "{inside}");
    }
}

/// What crosses the wire is VXLAN between the nodes, never a pod's own packet.
#[test]
fn the_wire_carries_vxlan_only() {
    let lab = Lab::up("t-overlay", &["--nodes", "2", "--pods", "1"]);
    let mut capture = Command::new("ip")
        .args(["netns", "exec", "tartan-t-overlay_n2", "timeout", "3", "tcpdump", "-lnni", "eth0", "ip"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tcpdump starts");
    std::thread::sleep(Duration::from_millis(700));
    lab.assert_full(2, &[]);
    let mut text = String::new();
    capture.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
    capture.wait().expect("tcpdump ends");
    // tcpdump prints a packet inside another on a line of its own that bears no time.
    let outer: Vec<&str> =
        text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).collect();
    let from_nodes = outer.iter().filter(|line| line.contains(" IP 172.30.")).count();
    assert!(from_nodes >= 4 && text.contains("10.244."), "no VXLAN seen:\n{text}");
    assert!(!outer.iter().any(|line| line.contains(" IP 10.244.")), "a bare packet:\n{text}");
}

#[test]
fn the_pods_mtu_follows_the_underlay() {
    let lab = Lab::up("t-overlay", &["--nodes", "2", "--pods", "1", "--family", "dual"]);
    lab.on_node("n1", &["ip", "link", "set", "eth0", "mtu", "1400"]);
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let links = [
            lab.on_node("n1", &["ip", "-o", "link", "show", "tartan.1"]),
            lab.in_pod("p1", &["ip", "-o", "link", "show", "eth0"]),
        ];
        if links.iter().all(|link| link.contains("mtu 1350")) {
            break;
        }
        assert!(Instant::now() < deadline, "{links:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    lab.assert_full(2, &[]);
    assert_eq!(lab.ask("n1", &["status"])["networks"][0]["mtu"], 1350);
}
