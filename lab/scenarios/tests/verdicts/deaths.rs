//! While an agent is dead or starts, verdicts stay as they were; what somebody does to the rules opens nothing.

use std::time::Duration;

use nix::sys::signal::Signal;
use tartan_scenarios::{Lab, Probe, holds_within};

use crate::{add_pods, apply, connects, lab, on_node, only_from};

fn open_and_shut(lab: &Lab) {
    for address in lab.addresses("default/server") {
        assert!(connects(&lab.netns("default_friend"), address, 80), "friend to {address}");
        assert!(!connects(&lab.netns("default_foe"), address, 80), "foe to {address}");
    }
}

#[test]
fn a_dead_agent_leaves_verdicts_as_they_were() {
    let lab = lab("t-dead", "routed");
    add_pods(&lab, &["server@n1", "friend@n1", "foe@n2"]);
    apply(&lab, &only_from("server", &["friend"]));
    open_and_shut(&lab);
    let probes: Vec<Probe> = lab
        .addresses("default/server")
        .iter()
        .map(|to| Probe::start(&lab.netns("default_friend"), *to, Duration::from_millis(1)))
        .collect();
    let shut: Vec<Probe> = lab
        .addresses("default/server")
        .iter()
        .map(|to| Probe::start(&lab.netns("default_foe"), *to, Duration::from_millis(1)))
        .collect();
    for _ in 0..5 {
        lab.end_agent("n1", Signal::SIGKILL);
        open_and_shut(&lab);
        lab.start_agent("n1");
        lab.wait_until_healthy(&["n1"]);
        open_and_shut(&lab);
    }
    for probe in probes {
        let outcome = probe.finish();
        assert!(outcome.sent > 1000 && outcome.lost.is_empty(), "{outcome:?}");
    }
    for probe in shut {
        let outcome = probe.finish();
        assert_eq!(outcome.sent, outcome.lost.len() as u64, "something came through");
    }
}

fn flush(lab: &Lab) -> bool {
    on_node(lab, "nft flush ruleset")
}

#[test]
fn a_foreign_flush_opens_nothing_while_the_agent_lives_and_is_undone_by_the_next() {
    let lab = lab("t-flush", "routed");
    add_pods(&lab, &["server@n1", "friend@n1", "foe@n2"]);
    apply(&lab, &only_from("server", &["friend"]));
    let shut: Vec<Probe> = lab
        .addresses("default/server")
        .iter()
        .map(|to| Probe::start(&lab.netns("default_foe"), *to, Duration::from_millis(1)))
        .collect();
    // Owned tables are passed over, or the whole is refused.
    flush(&lab);
    open_and_shut(&lab);
    for probe in shut {
        let outcome = probe.finish();
        assert_eq!(outcome.sent, outcome.lost.len() as u64, "something came through");
    }
    lab.end_agent("n1", Signal::SIGKILL);
    assert!(flush(&lab));
    lab.start_agent("n1");
    assert!(holds_within(Duration::from_secs(5), || lab.verb("n1", &["status"]).code == 0));
    open_and_shut(&lab);
}

/// Frames are judged where the bridge shows them to the hooks of IP.
#[test]
fn a_bridge_that_shows_no_frames_is_shut() {
    let lab = lab("t-unseen", "bridge");
    add_pods(&lab, &["server@n1", "friend@n1", "foe@n1"]);
    apply(&lab, &only_from("server", &["friend"]));
    open_and_shut(&lab);
    let sysctls = "sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0";
    assert!(on_node(&lab, sysctls));
    // It is a setting of the bridge itself.
    open_and_shut(&lab);
    lab.end_agent("n1", Signal::SIGKILL);
    let bridge = "ip link set $(ip -br link show type bridge | cut -d' ' -f1) type bridge";
    assert!(on_node(&lab, &format!("{bridge} nf_call_iptables 0 nf_call_ip6tables 0")));
    for address in lab.addresses("default/server") {
        for pod in ["default_friend", "default_foe"] {
            assert!(!connects(&lab.netns(pod), address, 80), "{pod} to {address}");
        }
    }
    lab.start_agent("n1");
    lab.wait_until_healthy(&["n1"]);
    open_and_shut(&lab);
}

/// Bridges, of others too, are there before the rules that frames pass: seen frames go on all the same.
#[test]
fn policy_comes_to_bridged_pods_that_live() {
    let sets = ["--set", "attachment=bridge", "--set", "policy=false"];
    let lab = Lab::up("t-on", &[&["--nodes", "1", "--pods", "2", "--family", "dual"][..], &sets].concat());
    let reaches = || {
        let all = lab.addresses("default/p2");
        all.into_iter().all(|address| connects(&lab.netns("default_p1"), address, 80))
    };
    assert!(reaches());
    let mut network = lab.ask("n1", &["get", "clusternetwork", "default"])[0].clone();
    network["spec"]["policy"] = true.into();
    apply(&lab, &network.to_string());
    let frames = "nft list chain bridge tartan unjudged";
    assert!(on_node(&lab, frames) && reaches());
    // Made anew, they are registered behind the bridge.
    lab.end_agent("n1", Signal::SIGKILL);
    assert!(flush(&lab) && !on_node(&lab, frames));
    lab.start_agent("n1");
    lab.wait_until_healthy(&["n1"]);
    assert!(on_node(&lab, frames) && reaches());
}
