//! The main job: every pod reaches every other through the overlay.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::io::Read;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tartan_scenarios::{Lab, inside, wait_until};

const SOON: Duration = Duration::from_secs(5);

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
    sleep(Duration::from_millis(700));
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
        sleep(Duration::from_millis(50));
    }
    lab.assert_full(2, &[]);
    assert_eq!(lab.ask("n1", &["status"])["networks"][0]["mtu"], 1350);
}

/// The kernel makes a VXLAN device whose port somebody else has, and refuses to set it up: it is taken back each time.
#[test]
fn a_port_that_somebody_else_has_is_told_and_waited_for() {
    let lab = Lab::up("t-overlay", &["--nodes", "2", "--pods", "1"]);
    let node = lab.netns("n1");
    lab.lab(&["fault", "add", "kill", "n1"]).ok();
    lab.on_node("n1", &["ip", "link", "del", "tartan.1"]);
    let theirs = inside(&node, || UdpSocket::bind("0.0.0.0:8472")).expect("the port");
    lab.lab(&["fault", "rm", "kill", "n1"]).ok();
    let told = || lab.verb("n1", &["status", "-o", "json"]);
    wait_until("it is told", SOON, || told().stdout.contains("link tartan.1"));
    // Each link that is made in a namespace has the next index; of these two it is the second's.
    let next_index = || {
        lab.on_node("n1", &["ip", "link", "add", "index0", "type", "veth", "peer", "name", "index1"]);
        let link = lab.on_node("n1", &["ip", "-o", "link", "show", "index0"]);
        lab.on_node("n1", &["ip", "link", "del", "index0"]);
        link.split(':').next().and_then(|index| index.parse::<u32>().ok()).expect("an index")
    };
    let before = next_index();
    sleep(Duration::from_secs(3));
    let tries = next_index() - before - 2;
    assert!((1..=6).contains(&tries), "tried {tries} times in 3 s: {:?}", told());
    assert_eq!(told().code, 1);
    drop(theirs);
    wait_until("it is made", SOON, || told().code == 0);
    lab.assert_full(2, &[]);
    assert_at_rest(&lab, 2);
}
