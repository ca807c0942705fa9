//! Pods whose interface is lost, or made on a node that is set up against it.

use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use serde_json::Value;
use tartan_host::Row;
use tartan_kernel::netns;
use tartan_scenarios::{Container, Lab, Witness};

const PATIENCE: Duration = Duration::from_secs(5);

#[track_caller]
fn wait_for(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The host's end of the pod p1.
fn end(witness: &mut Witness) -> String {
    let end = witness.state().node.rows.iter().find_map(|row| match row {
        Row::Link(link) if link.alias.ends_with("default/p1") => Some(link.name.to_string()),
        _ => None,
    });
    end.expect("the host's end of p1")
}

#[test]
fn a_lost_interface_is_made_anew_whenever_and_however_it_was_lost() {
    for attachment in ["attachment=routed", "attachment=bridge"] {
        let args = ["--nodes", "2", "--pods", "1", "--family", "dual", "--set", attachment];
        let lab = Lab::up("t-lost", &args);
        let mut witness = Witness::new(&lab, "n1", "default_p1");
        let (before, end) = (witness.state(), end(&mut witness));
        // While no agent looks.
        lab.lab(&["fault", "add", "kill", "n1"]).ok();
        lab.on_node("n1", &["ip", "link", "delete", &end]);
        lab.lab(&["fault", "clear"]).ok();
        witness.wait_for(&before, PATIENCE).unwrap();
        lab.assert_full(2, &[]);
        // The host's end is taken away, and the pod's stays.
        lab.on_node("n1", &["ip", "link", "set", &end, "netns", "tartan-t-lost_outside"]);
        witness.wait_for(&before, PATIENCE).unwrap();
        lab.assert_full(2, &[]);
        // Only the pod's end is deleted, from within.
        lab.in_pod("p1", &["ip", "link", "delete", "eth0"]);
        witness.wait_for(&before, PATIENCE).unwrap();
        lab.assert_full(2, &[]);
        // A host's end that was left shut is not opened before the inside is right.
        lab.lab(&["fault", "add", "kill", "n1"]).ok();
        lab.on_node("n1", &["ip", "link", "set", &end, "down"]);
        lab.in_pod("p1", &["ip", "address", "flush", "dev", "eth0"]);
        lab.lab(&["fault", "clear"]).ok();
        witness.wait_for(&before, PATIENCE).unwrap();
        lab.assert_full(2, &[]);
        assert_eq!(lab.ask("n1", &["status"])["healthy"], true);
        // A link without our mark is nobody we know, and the pod behind it neither.
        lab.on_node("n1", &["ip", "link", "set", &end, "alias", "mine now"]);
        let index = || lab.on_node("n1", &["cat", &format!("/sys/class/net/{end}/ifindex")]);
        let (index_before, status) =
            (index(), || lab.verb("n1", &["status", "-o", "json"]).json().to_string());
        wait_for(|| status().contains("is not tartan's"));
        assert_eq!(index(), index_before);
        lab.assert_full(2, &[]);
        lab.on_node("n1", &["ip", "link", "set", &end, "alias", "tartan pod default/p1"]);
        witness.wait_for(&before, PATIENCE).unwrap();
        wait_for(|| status().contains("\"healthy\":true"));
        // Nor is it made anew by the retry that was due: twice a second passes.
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(index(), index_before);
    }
}

#[test]
fn an_interface_is_not_resized_before_its_inside() {
    let lab = Lab::up("t-lost", &["--nodes", "1", "--pods", "1"]);
    let end = end(&mut Witness::new(&lab, "n1", "default_p1"));
    let read = |what: &str| lab.on_node("n1", &["cat", &format!("/sys/class/net/{end}/{what}")]);
    let (index, mtu) = (read("ifindex"), read("mtu"));
    lab.in_pod("p1", &["sh", "-c", "ip link set eth0 down && ip link set eth0 name eth9"]);
    lab.on_node("n1", &["ip", "link", "set", "eth0", "mtu", "1400"]);
    let status = || lab.verb("n1", &["status", "-o", "json"]).json();
    wait_for(|| status()["healthy"] == false);
    let reasons = status()["reasons"].to_string();
    assert!(reasons.contains("default/p1: inside its network namespace"), "{reasons}");
    assert_eq!(read("mtu"), mtu);
    lab.in_pod("p1", &["sh", "-c", "ip link set eth9 name eth0"]);
    wait_for(|| status()["healthy"] == true);
    assert_ne!(read("mtu"), mtu);
    assert!(
        lab.in_pod("p1", &["ip", "link", "show", "eth0"]).contains(&format!("mtu {}", read("mtu").trim()))
    );
    assert_eq!(read("ifindex"), index);
}

#[test]
fn a_pod_that_cannot_be_repaired_is_named() {
    let lab = Lab::up("t-lost", &["--nodes", "1", "--pods", "0", "--set", "attachment=routed"]);
    let container = Container::make(&lab, "n1", 1);
    container.add();
    let answered = || serde_json::from_str::<Value>(&lab.verb("n1", &["status", "-o", "json"]).stdout).ok();
    let status = || answered().expect("an answer");
    assert_eq!(status()["healthy"], true);
    let name = container.netns().file_name().expect("a name").to_str().expect("text").to_owned();
    netns::remove(&name).expect("it is there");
    wait_for(|| status()["healthy"] == false);
    let reasons: Value = status()["reasons"].clone();
    let reason = reasons[0].as_str().expect("a reason");
    assert!(reason.contains(&name) && reason.ends_with("delete and add it"), "{reasons}");
    // Another namespace of that name is not that pod's, also for the next agent.
    netns::create(&name).expect("to make it");
    lab.lab(&["fault", "add", "kill", "n1"]).ok();
    std::thread::scope(|scope| {
        // Waits until the node is healthy.
        let start = scope.spawn(|| lab.lab(&["fault", "clear"]));
        wait_for(|| answered().is_some_and(|status| status.to_string().contains("is another namespace now")));
        let inside = lab.on_node("n1", &["ip", "netns", "exec", &name, "ip", "-o", "link"]);
        assert_eq!(inside.lines().count(), 1, "{inside}");
        container.del();
        start.join().expect("to wait").ok();
    });
}

#[test]
fn pods_work_on_a_node_whose_defaults_are_against_them() {
    for attachment in ["attachment=routed", "attachment=bridge"] {
        let args = ["--nodes", "2", "--pods", "1", "--family", "dual", "--set", attachment];
        let lab = Lab::up("t-defaults", &args);
        let node = netns::open(&lab.netns("n1")).expect("the node");
        for (setting, value) in [
            ("ipv4/conf/all/rp_filter", "1"),
            ("ipv4/conf/default/rp_filter", "1"),
            ("ipv4/conf/default/forwarding", "0"),
            ("ipv6/conf/default/forwarding", "0"),
            ("ipv6/conf/default/disable_ipv6", "1"),
            ("ipv6/conf/default/accept_dad", "2"),
        ] {
            let path = format!("/proc/sys/net/{setting}");
            netns::run_in(node.as_fd(), || fs::write(&path, value)).expect("to enter").expect("a setting");
        }
        lab.lab(&["pod", "add", "new", "--node", "n1"]).ok();
        lab.assert_full(3, &[]);
        // And devices that are made anew there.
        for link in ["tartan.1", "tartan0"].iter().take(if attachment.ends_with("bridge") { 2 } else { 1 }) {
            lab.on_node("n1", &["ip", "link", "delete", link]);
        }
        wait_for(|| lab.ask("n1", &["plan"])["steps"] == serde_json::json!([]));
        lab.assert_full(3, &[]);
    }
}
