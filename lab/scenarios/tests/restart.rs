//! The agent may die at any moment.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::time::Duration;

use tartan_scenarios::{Lab, Probe, wait_until};

const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn killing_both_agents_ten_times_loses_no_packet() {
    let lab = Lab::up("t-kill", &["--nodes", "2", "--pods", "1", "--family", "dual"]);
    let from = lab.netns("default_p1");
    let to = lab.addresses("default/p2");
    let probes: Vec<Probe> =
        to.iter().map(|address| Probe::start(&from, *address, Duration::from_millis(2))).collect();
    assert_eq!(probes.len(), 2);
    for _ in 0..10 {
        lab.lab(&["fault", "add", "kill", "n1"]).ok();
        lab.lab(&["fault", "add", "kill", "n2"]).ok();
        std::thread::sleep(Duration::from_millis(100));
        lab.lab(&["fault", "clear"]).ok();
        std::thread::sleep(Duration::from_millis(100));
    }
    for probe in probes {
        let outcome = probe.finish();
        assert!(outcome.sent > 900, "{outcome:?}");
        assert!(outcome.lost.is_empty(), "{outcome:?}");
    }
}

#[test]
fn a_restart_keeps_what_is_wanted_removes_what_is_not_and_touches_nothing_else() {
    let lab = Lab::up("t-restart", &["--nodes", "2", "--pods", "1", "--set", "attachment=routed"]);
    let node = |command: &str| lab.on_node("n1", &command.split(' ').collect::<Vec<_>>());
    let before = node("ip -o link");
    lab.lab(&["fault", "add", "kill", "n1"]).ok();
    // Ours, of a peer and a pod that left meanwhile.
    node("ip route add 10.244.99.0/24 via 10.244.99.0 dev tartan.1 onlink proto 116");
    node("ip neigh add 10.244.99.0 lladdr 02:00:00:00:00:99 dev tartan.1 proto 116");
    node("bridge fdb add 02:00:00:00:00:99 dev tartan.1 dst 172.30.0.99 self permanent");
    node("ip link add tt0123456789ab type veth peer name gone");
    lab.on_node("n1", &["ip", "link", "set", "tt0123456789ab", "alias", "tartan pod default/gone"]);
    // Not ours.
    node("ip link add ttffffffffffff type veth peer name foreign");
    node("ip link set ttffffffffffff up");
    node("ip route add 192.0.2.99/32 dev eth0 proto static");
    node("ip route add 10.99.0.0/16 via 172.30.0.2 proto 117");
    node("ip neigh add 172.30.0.77 lladdr 02:00:00:00:00:77 dev eth0");
    let foreign = || {
        node("ip -o link").contains("ttffffffffffff")
            && node("ip route").contains("192.0.2.99 dev eth0 proto static")
            && node("ip route").contains("10.99.0.0/16")
            && node("ip neigh").contains("172.30.0.77")
    };
    assert!(foreign());
    lab.lab(&["fault", "clear"]).ok();
    assert!(!node("ip route").contains("10.244.99.0"));
    assert!(!node("ip neigh").contains("10.244.99.0"));
    assert!(!node("bridge fdb").contains("02:00:00:00:00:99"));
    // Links are gathered and go together.
    wait_until("the link of a pod that is gone goes", PATIENCE, || {
        !node("ip -o link").contains("tt0123456789ab")
    });
    assert!(foreign());
    let after = node("ip -o link");
    for link in before.lines() {
        let kept: String = link.split(": ").take(2).collect::<Vec<_>>().join(": ");
        assert!(after.lines().any(|line| line.starts_with(&kept)), "made anew: {kept}\n{after}");
    }
    lab.assert_full(2, &[]);
}

#[test]
fn a_stopped_agent_leaves_the_traffic_and_gives_back_its_name() {
    let lab = Lab::up("t-stop", &["--nodes", "2", "--pods", "1"]);
    lab.lab(&["fault", "add", "stop", "n1"]).ok();
    lab.assert_full(2, &[]);
    // The kernel carries its traffic without it. Until its first probe is answered a peer counts by its lease, which is
    // given back.
    let all = serde_json::json!({"up": 1, "total": 1});
    wait_until("n1 answers probes", Duration::from_secs(5), || lab.ask("n2", &["status"])["peers"] == all);
    lab.lab(&["fault", "clear"]).ok();
    assert_eq!(lab.ask("n2", &["status"])["peers"]["up"], 1);
}

#[test]
fn an_agent_that_comes_back_knows_its_pods() {
    let lab = Lab::up("t-back", &["--nodes", "1", "--pods", "2", "--family", "dual"]);
    let before = lab.ask("n1", &["endpoints"]);
    lab.lab(&["fault", "add", "kill", "n1"]).ok();
    lab.lab(&["fault", "clear"]).ok();
    assert_eq!(lab.ask("n1", &["endpoints"]), before);
    lab.lab(&["pod", "rm", "p1"]).ok();
    lab.lab(&["pod", "add", "p3", "--node", "n1"]).ok();
    let after = lab.addresses("default/p3");
    // Addresses go up in order; a released one is the last choice.
    assert_eq!(
        after,
        ["10.244.0.4", "fd00:10:244::4"].map(|a| a.parse::<std::net::IpAddr>().expect("an address"))
    );
    lab.assert_full(2, &[]);
}

#[test]
fn apply_and_wait_returns_when_every_live_agent_has_it() {
    let lab = Lab::up("t-wait", &["--nodes", "3", "--pods", "0"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("network.yaml");
    let apply = |port: u16| {
        let text = format!(
            "apiVersion: tartan.dev/v1alpha1\nkind: ClusterNetwork\nmetadata: {{name: default}}\n\
             spec: {{attachment: routed, vxlan: {{port: {port}}}}}\n"
        );
        std::fs::write(&file, text).expect("a file");
        lab.verb("n1", &["apply", "--wait", "-f", file.to_str().expect("text")])
    };
    for port in 9000..9010 {
        apply(port).ok();
        for node in ["n1", "n2", "n3"] {
            let device = lab.on_node(node, &["ip", "-d", "link", "show", "tartan.1"]);
            assert!(device.contains(&format!("dstport {port}")), "{node}: {device}");
        }
    }
    // An agent that is stopped is not waited for; one that is alive and does not get on is named.
    lab.lab(&["fault", "add", "stop", "n3"]).ok();
    apply(9020).ok();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(lab.agent("n2")), nix::sys::signal::Signal::SIGSTOP)
        .expect("the agent is there");
    let run = apply(9021);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(lab.agent("n2")), nix::sys::signal::Signal::SIGCONT)
        .expect("the agent is there");
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("n2: it has not answered"), "{run:?}");
    apply(9022).ok();
}

#[test]
fn entries_that_somebody_takes_out_of_the_store_come_back() {
    let lab = Lab::up("t-entries", &["--nodes", "2", "--pods", "1", "--family", "dual"]);
    let before = (lab.ask("n2", &["nodes"]), lab.ask("n2", &["ipam"])[0]["block"].clone());
    {
        use tartan_store::{Expect, Sqlite, Store};
        let store = Sqlite::open(&lab.file("store", "tartan.db")).expect("the store");
        for prefix in ["node/", "block/"] {
            for entry in store.list(prefix).expect("a list").entries {
                store.delete(&entry.key, Expect::Any).expect("to delete");
            }
        }
    }
    wait_until("the entries are back", PATIENCE, || {
        (lab.ask("n2", &["nodes"]), lab.ask("n2", &["ipam"])[0]["block"].clone()) == before
    });
    lab.assert_full(2, &[]);
}
