//! A cluster on etcd: whatever becomes of the store, no packet is lost and nothing is forgotten.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tartan_scenarios::{Lab, Probes, wait_until};

/// How long the issue says that etcd is away.
const OUTAGE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(30);

/// Probes between all pods while the store suffers.
fn probes(lab: &Lab, pods: &[&str]) -> Probes {
    Probes::between_all(lab, pods, Duration::from_millis(10))
}

/// The status of an agent that need not be healthy.
fn status(lab: &Lab, node: &str) -> serde_json::Value {
    lab.verb(node, &["status", "-o", "json"]).json()
}

/// The process of a member of the lab's etcd.
fn member(lab: &Lab, number: usize) -> Pid {
    let text = fs::read_to_string(lab.file("store", &format!("etcd-{number}.pid"))).expect("a pid file");
    Pid::from_raw(text.trim().parse().expect("a pid"))
}

#[test]
fn an_outage_changes_nothing_in_the_kernel_and_agents_that_start_in_it_wait() {
    let lab = Lab::up("t-etcd-out", &["--store", "etcd", "--nodes", "3", "--pods", "1", "--family", "dual"]);
    let before = ["n1", "n2", "n3"].map(|node| lab.ways(node));
    let probes = probes(&lab, &["p1", "p2", "p3"]);
    lab.lab(&["pod", "add", "spare", "--node", "n2"]).ok();
    lab.lab(&["pod", "add", "gone", "--node", "n2"]).ok();
    let start = Instant::now();
    lab.lab(&["store", "stop"]).ok();

    // An agent that goes on adds pods from its block and removes them, without the store.
    lab.lab(&["pod", "rm", "spare"]).ok();
    lab.lab(&["pod", "add", "late", "--node", "n2"]).ok();
    let status = status(&lab, "n2");
    assert_eq!((&status["store"]["connected"], &status["healthy"]), (&false.into(), &false.into()));
    assert!(
        status["reasons"].to_string().contains("etcd at 172.30.255.254:2379 cannot be reached"),
        "{status}"
    );
    let applied = lab.verb("n1", &["get", "ClusterNetwork"]);
    assert_eq!(applied.code, 3, "{applied:?}");

    // One that starts now comes up and serves what it can.
    lab.end_agent("n2", Signal::SIGKILL);
    lab.start_agent("n2");
    assert_eq!(lab.verb("n2", &["status"]).code, 1);
    lab.lab(&["pod", "rm", "gone"]).ok();
    lab.lab(&["pod", "rm", "late"]).ok();
    let refused = lab.lab(&["pod", "add", "none", "--node", "n2"]);
    assert!(
        refused.code != 0 && refused.stderr.contains("the store has not told everything yet"),
        "{refused:?}"
    );
    sleep(OUTAGE.saturating_sub(start.elapsed()));
    let during = ["n1", "n2", "n3"].map(|node| lab.ways(node));
    assert_eq!(during, before, "an outage changes nothing");

    lab.lab(&["store", "start"]).ok();
    lab.wait_until_healthy(&["n1", "n2", "n3"]);
    assert_eq!(["n1", "n2", "n3"].map(|node| lab.ways(node)), before);
    lab.join("n4", "p4", 4);
    probes.assert_none_lost(1500);
}

#[test]
fn a_wiped_store_and_one_that_is_restored_get_back_what_they_lost() {
    let lab = Lab::up("t-etcd-wipe", &["--store", "etcd", "--nodes", "3", "--pods", "1", "--family", "dual"]);
    let before = ["n1", "n2", "n3"].map(|node| lab.ways(node));
    let ipam = lab.ask("n1", &["ipam"]);
    let probes = probes(&lab, &["p1", "p2", "p3"]);

    lab.lab(&["store", "wipe"]).ok();
    wait_until("everything is put back", PATIENCE, || {
        // Three nodes, three blocks of each family, a network.
        lab.etcd_keys("").len() == 10
    });
    lab.wait_until_healthy(&["n1", "n2", "n3"]);
    let status = status(&lab, "n1");
    assert!(status["last_error"].to_string().contains("the store was wiped, replaced"), "{status}");
    assert_eq!(["n1", "n2", "n3"].map(|node| lab.ways(node)), before);
    assert_eq!(lab.ask("n1", &["ipam"]), ipam);

    // A snapshot of now; what comes later is not in it.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("snapshot");
    let file = file.to_str().expect("text");
    lab.etcdctl(&["snapshot", "save", file]);
    lab.join("n4", "p4", 4);
    let network = "apiVersion: tartan.dev/v1alpha1\nkind: ClusterNetwork\nmetadata: {name: late}\n\
                   spec: {pools: [{cidr: 10.77.0.0/16}], vxlan: {vni: 77}}\n";
    let late = folder.path().join("late.yaml");
    fs::write(&late, network).expect("a file");
    lab.verb("n1", &["apply", "--wait", "-f", late.to_str().expect("text")]).ok();
    lab.lab(&["store", "stop"]).ok();
    let data = lab.file("store", "etcd-1");
    restore(&lab, file, &data);
    lab.lab(&["store", "start"]).ok();
    lab.wait_until_healthy(&["n1", "n2", "n3", "n4"]);
    wait_until("what came after the snapshot is back", PATIENCE, || {
        lab.etcd_keys("network/").contains(&"network/late".into()) && lab.etcd_keys("node/").len() == 4
    });
    // Who comes now learns all of it from the store.
    lab.join("n5", "p5", 5);
    probes.assert_none_lost(200);
}

#[test]
fn who_sees_a_wipe_late_puts_no_deleted_network_back_and_who_died_before_it_can_be_taken_out() {
    let lab = Lab::up("t-etcd-late", &["--store", "etcd", "--nodes", "3", "--pods", "0"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("red.yaml");
    let red = "apiVersion: tartan.dev/v1alpha1\nkind: ClusterNetwork\nmetadata: {name: red}\n\
               spec: {pools: [{cidr: 10.77.0.0/24, blockSize: 24, reservations: [{node: n2, block: 10.77.0.0/24}]}], \
               vxlan: {vni: 77}}\n";
    fs::write(&file, red).expect("a file");
    lab.verb("n1", &["apply", "-f", file.to_str().expect("text")]).ok();
    let has_red = |node: &str| lab.on_node(node, &["ip", "-o", "link"]).contains(": tartan.77:");
    wait_until("red is there", PATIENCE, || {
        has_red("n1") && has_red("n2") && lab.blocks("n3", "n2").contains(&"10.77.0.0/24".into())
    });
    lab.lab(&["fault", "add", "kill", "n3"]).ok();
    let late = Pid::from_raw(lab.agent("n2"));
    kill(late, Signal::SIGSTOP).expect("the agent is there");
    lab.lab(&["store", "wipe"]).ok();
    wait_until("n1 has put back what it knows", PATIENCE, || lab.etcd_keys("network/").len() == 2);
    lab.verb("n1", &["delete", "ClusterNetwork", "red"]).ok();
    assert!(lab.verb("n1", &["node", "leave", "n3"]).stderr.contains("may be alive"));
    kill(late, Signal::SIGCONT).expect("the agent is there");
    wait_until("n2 has put back what is its", PATIENCE, || lab.etcd_keys("node/").len() == 2);
    wait_until("red goes", PATIENCE, || !has_red("n1") && !has_red("n2"));
    assert_eq!(lab.etcd_keys("network/"), ["network/default"]);

    assert!(!lab.blocks("n2", "n3").is_empty(), "from memory");
    let mut left = lab.verb("n1", &["node", "leave", "n3", "-o", "json"]);
    wait_until("it is known to be dead", PATIENCE, || {
        left = lab.verb("n1", &["node", "leave", "n3", "-o", "json"]);
        left.code == 0
    });
    assert_eq!(left.json()["node"], "n3");
    wait_until("both have forgotten it", PATIENCE, || {
        let knows = |node: &str| lab.ask(node, &["nodes"]).as_array().is_some_and(|rows| rows.len() > 2);
        !["n1", "n2"].into_iter().any(|node| knows(node) || !lab.blocks(node, "n3").is_empty())
    });
    lab.wait_until_healthy(&["n1", "n2"]);
    assert_eq!((lab.etcd_keys("node/").len(), lab.etcd_keys("block/").len()), (2, 2));
    assert_eq!(lab.verb("n1", &["node", "leave", "n3"]).code, 1);
    // It may come back.
    lab.lab(&["fault", "clear"]).ok();
    lab.wait_until_healthy(&["n1", "n2", "n3"]);
}

#[test]
fn an_idle_agent_that_was_away_at_a_wipe_takes_its_own_block_again() {
    let lab = Lab::up("t-etcd-idle", &["--store", "etcd", "--nodes", "2", "--pods", "0"]);
    // A block that it would not choose: it has two then, and gives the later one back.
    let id = status(&lab, "n2")["id"].as_str().expect("text").to_owned();
    let other = if lab.blocks("n1", "n1") == ["10.244.0.0/24"] { 1 } else { 0 };
    let key = format!("/tartan/entry/block/default/10.244.{other}.0-24");
    lab.etcdctl(&["put", &key, &format!("{{\"node\":\"{id}\"}}")]);
    let given = [format!("10.244.{other}.0/24")];
    wait_until("it has given the other back", PATIENCE, || lab.blocks("n1", "n2") == given);
    lab.lab(&["fault", "add", "kill", "n2"]).ok();
    lab.lab(&["store", "wipe"]).ok();
    wait_until("n1 has put back what it knows", PATIENCE, || {
        lab.etcd_keys("network/").len() == 1 && lab.etcd_keys("block/").len() == 1
    });
    lab.lab(&["fault", "clear"]).ok();
    lab.wait_until_healthy(&["n1", "n2"]);
    let mut blocks = lab.etcd_keys("block/");
    blocks.retain(|block| lab.etcdctl(&["get", &format!("/tartan/entry/{block}")]).contains(&id));
    assert_eq!(blocks, [format!("block/default/10.244.{other}.0-24")]);
}

/// Puts the state of a snapshot where etcd will look for its data.
fn restore(lab: &Lab, snapshot: &str, data: &PathBuf) {
    fs::remove_dir_all(data).expect("old data");
    let peer = "http://172.30.255.254:2380";
    let (member, token) = (format!("etcd-1={peer}"), format!("tartan-lab-{}", lab.name()));
    let data = data.to_str().expect("text");
    lab.etcdctl(&[
        "snapshot",
        "restore",
        snapshot,
        "--name",
        "etcd-1",
        "--data-dir",
        data,
        "--initial-cluster",
        &member,
        "--initial-cluster-token",
        &token,
        "--initial-advertise-peer-urls",
        peer,
    ]);
}

#[test]
fn three_members_lose_their_leader_and_nobody_notices() {
    let lab = Lab::up(
        "t-etcd-three",
        &["--store", "etcd", "--etcd-members", "3", "--nodes", "3", "--pods", "1", "--underlay", "ipv4"],
    );
    let before = ["n1", "n2", "n3"].map(|node| lab.ways(node));
    let probes = probes(&lab, &["p1", "p2", "p3"]);
    // The fifth field says whether a member leads.
    let leads = |number: &usize| {
        let endpoint = format!("http://172.30.255.254:{}", 2369 + 10 * number);
        let command = ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", &endpoint, "endpoint", "status"];
        lab.on_node("n1", &command).split(", ").nth(4) == Some("true")
    };
    let leader = (1..=3).find(leads).expect("a leader");
    kill(member(&lab, leader), Signal::SIGKILL).expect("the leader is there");
    // Longer than a new one takes to be elected.
    sleep(Duration::from_secs(2));
    lab.wait_until_healthy(&["n1", "n2", "n3"]);
    lab.join("n4", "p4", 4);
    for (node, before) in ["n1", "n2", "n3"].iter().zip(before) {
        let now = lab.ways(node);
        assert!(before.lines().all(|line| now.contains(line)), "{node}: {before}\nbecame {now}");
    }
    probes.assert_none_lost(200);
}

/// A11: as many agents as will, and fewer blocks than they.
#[test]
fn ten_agents_that_race_for_eight_blocks_get_one_or_say_why_and_none_ends() {
    let lab = Lab::up("t-etcd-race", &["--store", "etcd", "--nodes", "10", "--pods", "0"]);
    let nodes: Vec<String> = (1..=10).map(|number| format!("n{number}")).collect();
    let agents: Vec<i32> = nodes.iter().map(|node| lab.agent(node)).collect();
    let owners = |network: &str| -> Vec<String> {
        let rows = lab.ask("n1", &["ipam"]);
        let rows = rows.as_array().expect("a list").iter().filter(|row| row["network"] == network);
        let mut nodes: Vec<String> = rows.map(|row| row["node"].as_str().expect("text").into()).collect();
        nodes.sort();
        nodes
    };
    let mut all = nodes.clone();
    all.sort();
    assert_eq!(owners("default"), all, "ten that started at once have a block each");

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("few.yaml");
    let text = "apiVersion: tartan.dev/v1alpha1\nkind: ClusterNetwork\nmetadata: {name: few}\n\
                spec: {pools: [{cidr: 10.77.0.0/24, blockSize: 27}], vxlan: {vni: 77}}\n";
    fs::write(&file, text).expect("a file");
    lab.verb("n1", &["apply", "-f", file.to_str().expect("text")]).ok();
    wait_until("all blocks have an owner", PATIENCE, || owners("few").len() == 8);
    let mut with = owners("few");
    with.dedup();
    assert_eq!(with.len(), 8, "nobody has two: {with:?}");
    for node in nodes.iter().filter(|node| !with.contains(node)) {
        wait_until("who has none says so", PATIENCE, || {
            status(&lab, node)["reasons"]
                .to_string()
                .contains("network few: its ipv4 pools have no free block")
        });
    }
    let now: Vec<i32> = nodes.iter().map(|node| lab.agent(node)).collect();
    assert_eq!(now, agents);
    for agent in agents {
        kill(Pid::from_raw(agent), None).expect("the agent lives");
    }
}

/// A15 and A16.
#[test]
fn a_revoked_lease_is_taken_again_and_a_compaction_behind_the_watch_is_caught_up_with() {
    let lab = Lab::up("t-etcd-lease", &["--store", "etcd", "--nodes", "2", "--pods", "1"]);
    let before = ["n1", "n2"].map(|node| lab.ways(node));
    let agents = ["n1", "n2"].map(|node| lab.agent(node));
    let probes = probes(&lab, &["p1", "p2"]);
    let alive = || lab.etcdctl(&["get", "/tartan/alive/n2", "--print-value-only"]);
    let held = alive();
    assert!(!held.is_empty());
    for lease in lab.etcdctl(&["lease", "list"]).lines().skip(1) {
        lab.etcdctl(&["lease", "revoke", lease.trim()]);
    }
    assert_eq!(alive(), "");
    wait_until("the lease is taken again", PATIENCE, || alive() == held);
    lab.wait_until_healthy(&["n1", "n2"]);

    // An agent that is held still while its connection goes and the store forgets what it has not seen.
    let stopped = Pid::from_raw(agents[1]);
    kill(stopped, Signal::SIGSTOP).expect("the agent is there");
    lab.lab(&["store", "stop"]).ok();
    lab.lab(&["store", "start"]).ok();
    let key = "/tartan/entry/network/default";
    let network = lab.etcdctl(&["get", key, "--print-value-only"]);
    lab.etcdctl(&["put", key, &network.trim().replace(r#""spec":{"#, r#""spec":{"mtu":1300,"#)]);
    let told = lab.etcdctl(&["put", "/tartan/zzz", "x", "-w", "json"]);
    let revision: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    lab.etcdctl(&["compaction", &revision["header"]["revision"].to_string()]);
    kill(stopped, Signal::SIGCONT).expect("the agent is there");
    wait_until("the agent has caught up", PATIENCE, || status(&lab, "n2")["networks"][0]["mtu"] == 1300);
    lab.etcdctl(&["put", key, network.trim()]);
    lab.wait_until_healthy(&["n1", "n2"]);
    wait_until("all is as before", PATIENCE, || ["n1", "n2"].map(|node| lab.ways(node)) == before);
    assert_eq!(["n1", "n2"].map(|node| lab.agent(node)), agents);
    probes.assert_none_lost(200);
}

#[test]
fn apply_get_delete_and_wait_work_from_many_nodes_at_once() {
    let lab =
        Lab::up("t-etcd-apply", &["--store", "etcd", "--nodes", "3", "--pods", "0", "--family", "ipv6"]);
    let folder = tempfile::tempdir().expect("a folder");
    std::thread::scope(|scope| {
        for (number, node) in ["n1", "n2", "n3"].into_iter().enumerate() {
            let (lab, folder) = (&lab, folder.path());
            scope.spawn(move || {
                let file = folder.join(node);
                let text = format!(
                    "apiVersion: tartan.dev/v1alpha1\nkind: ClusterNetwork\nmetadata: {{name: {node}}}\n\
                     spec: {{pools: [{{cidr: \"fd00:7{number}::/56\"}}], vxlan: {{vni: {}}}}}\n",
                    70 + number
                );
                fs::write(&file, text).expect("a file");
                for _ in 0..3 {
                    lab.verb(node, &["apply", "--wait", "-f", file.to_str().expect("text")]).ok();
                    let got = lab.ask(node, &["get", "ClusterNetwork", node]);
                    assert!(got.to_string().contains(node), "{got}");
                    lab.verb(node, &["delete", "ClusterNetwork", node]).ok();
                }
            });
        }
    });
    let left = lab.ask("n2", &["get", "ClusterNetwork"]);
    assert_eq!(left.as_array().map(Vec::len), Some(1), "{left}");
}

#[test]
fn a_lab_without_etcd_has_no_store_to_stop() {
    let lab = Lab::up("t-etcd-none", &["--nodes", "1", "--pods", "0"]);
    for verb in ["stop", "start", "wipe"] {
        let run = lab.lab(&["store", verb]);
        assert!(run.code == 2 && run.stderr.contains("tartan lab up --store etcd"), "{run:?}");
    }
}
