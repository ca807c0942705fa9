//! The world changes under living pods.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tartan_scenarios::{Container, Lab, programs, run_plugin, wait_until};
use tartan_store::{Durability, Expect, Sqlite, Store};

#[track_caller]
fn eventually(what: &str, holds: impl FnMut() -> bool) {
    wait_until(what, Duration::from_secs(5), holds);
}

/// The blocks that a node knows of, in order.
fn blocks(lab: &Lab) -> Vec<String> {
    let rows = lab.ask("n1", &["ipam"]);
    let rows = rows.as_array().expect("a list").clone();
    let mut blocks: Vec<String> =
        rows.iter().map(|row| format!("{} {}", row["network"], row["block"]).replace('"', "")).collect();
    blocks.sort();
    blocks
}

#[test]
fn pools_change_and_blocks_go_back_when_their_pods_are_gone() {
    let lab = Lab::up("t-change", &["--nodes", "2", "--pods", "1"]);
    // Two nodes have a block each, all of one range; which of them is chance.
    let all_in = |lab: &Lab, range: &str| {
        let blocks = blocks(lab);
        blocks.len() == 2 && blocks.iter().all(|block| block.starts_with(&format!("default {range}.")))
    };
    assert!(all_in(&lab, "10.244"), "{:?}", blocks(&lab));
    lab.apply("default", "{pools: [{cidr: 10.50.0.0/16}]}").ok();
    // Pods keep what they have, and new ones get the new.
    lab.assert_full(2, &[]);
    lab.lab(&["pod", "add", "new", "--node", "n1"]).ok();
    assert!(lab.addresses("default/new")[0].to_string().starts_with("10.50."));
    lab.assert_full(3, &[]);
    // As long as they live nobody else gets their range.
    let other = lab.apply("other", "{pools: [{cidr: 10.244.0.0/16}], vxlan: {vni: 2}}");
    assert_eq!(other.code, 2, "{other:?}");
    assert!(other.stderr.contains("still holds"), "{other:?}");
    lab.lab(&["pod", "rm", "p1"]).ok();
    lab.lab(&["pod", "rm", "p2"]).ok();
    eventually("the old blocks are back", || all_in(&lab, "10.50"));
    // And once more, there and back.
    lab.lab(&["pod", "rm", "new"]).ok();
    lab.apply("default", "{}").ok();
    eventually("the newer blocks are back", || all_in(&lab, "10.244"));
    lab.apply("default", "{pools: [{cidr: 10.50.0.0/16}]}").ok();
    eventually("the old blocks are back again", || all_in(&lab, "10.50"));
    lab.apply("other", "{pools: [{cidr: 10.244.0.0/16}], vxlan: {vni: 2}}").ok();
    // The blocks of a network that is gone go back too.
    lab.verb("n1", &["delete", "clusternetwork", "other"]).ok();
    eventually("no block of a network that is gone", || all_in(&lab, "10.50"));
}

#[test]
fn what_a_network_says_changes_under_living_pods() {
    let lab = Lab::up("t-change", &["--nodes", "2", "--pods", "1", "--family", "dual"]);
    let pools = "pools: [{cidr: 10.244.0.0/16}, {cidr: \"fd00:10:244::/56\"}]";
    for change in ["attachment: routed", "vxlan: {vni: 77}", "vxlan: {port: 4789}", "mtu: 1300", "mtu: auto"]
    {
        lab.apply("default", &format!("{{{pools}, {change}}}")).ok();
        lab.assert_full(2, &[]);
        for node in ["n1", "n2"] {
            let plan = lab.ask(node, &["plan"]);
            assert_eq!(plan["steps"].as_array().map(Vec::len), Some(0), "{change}: {plan}");
        }
    }
    lab.verb("n1", &["delete", "clusternetwork", "default"]).ok();
    eventually("the pods are shut", || lab.lab(&["matrix", "-o", "json"]).code == 1);
    lab.apply("default", &format!("{{{pools}}}")).ok();
    lab.assert_full(2, &[]);
}

#[test]
fn a_node_that_stands_in_a_pool_harms_nobody_else() {
    let lab = Lab::up("t-change", &["--nodes", "2", "--pods", "1"]);
    let store = Sqlite::open(&lab.file("store", "tartan.db")).expect("the store");
    for (id, address) in [("a".repeat(32), "10.1.2.3/8"), ("b".repeat(32), "10.244.9.9/24")] {
        let node = format!(
            "{{\"id\":\"{id}\",\"name\":\"x{}\",\"addresses\":[\"{address}\"],\"mtu\":1500}}",
            &id[..1]
        );
        store.put(&format!("node/{id}"), node.as_bytes(), Expect::Any, Durability::Crash).expect("to write");
    }
    let seen = |lab: &Lab| lab.ask("n1", &["status"])["peers"]["total"] == 3;
    eventually("the nodes are seen", || seen(&lab));
    lab.assert_full(2, &[]);
    let status = lab.ask("n1", &["status"]);
    assert_eq!(status["peers"]["up"], 1, "{status}");
    let peers = lab.ask("n1", &["peers"]);
    let blocked = peers.as_array().expect("a list").iter().find(|row| row["node"] == "xb").expect("the node");
    assert!(blocked["blocked"].to_string().contains("10.244.9.9 is in pool"), "{peers}");
    // It is no reason for a wait to fail.
    lab.apply("default", "{attachment: routed}").ok();
}

#[test]
fn an_agent_whose_name_is_taken_over_ends() {
    let lab = Lab::up("t-change", &["--nodes", "2", "--pods", "0"]);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let before = lab.ask("n2", &["nodes"])[0]["blocks"].clone();
    let store = format!("sqlite://{}", lab.file("store", "tartan.db").display());
    let (state, run, program) = (path("state"), path("run"), programs().join("tartand"));
    let pid = lab.agent("n1");
    // Another machine of that name: the `outside` host.
    let mut taker = Command::new("ip")
        .args(["netns", "exec", "tartan-t-change_outside", program.to_str().expect("text"), "--take-over"])
        .args(["--node-name", "n1", "--store", &store, "--state-dir", &state, "--run-dir", &run])
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    wait_until("the agent of before ends", Duration::from_secs(12), || {
        fs::metadata(format!("/proc/{pid}/ns/net")).is_err()
    });
    let log = fs::read_to_string(lab.file("n1", "tartand.log")).expect("a log");
    assert!(log.contains("this node's name was taken"), "{log}");
    let name = |rows: &Value, at: usize| rows[at]["name"].clone();
    eventually("the other node is known", || name(&lab.ask("n2", &["nodes"]), 0) == "n1");
    let rows = lab.ask("n2", &["nodes"]);
    assert_eq!((name(&rows, 1), rows.as_array().map(Vec::len)), ("n2".into(), Some(2)));
    assert_eq!(rows[0]["blocks"], before);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(taker.id() as i32), nix::sys::signal::Signal::SIGTERM)
        .expect("it is there");
    taker.wait().expect("it ends");
}

#[test]
fn an_add_that_cannot_be_recorded_is_not_done() {
    let lab = Lab::up("t-change", &["--nodes", "1", "--pods", "0"]);
    let container = Container::make(&lab, "n1", 1);
    let links = || lab.on_node("n1", &["ip", "-o", "link"]).lines().count();
    let before = links();
    let records = lab.file("n1", "state/records.db");
    fs::rename(&records, records.with_extension("away")).expect("the records are there");
    let (run, _) = container.call("ADD");
    assert_eq!((run.code, run.json()["code"].as_u64()), (1, Some(11)), "{run:?}");
    assert_eq!(links(), before);
    fs::rename(records.with_extension("away"), &records).expect("to put it back");
    container.add();
    container.del();
}

#[test]
fn a_pod_may_have_the_longest_name() {
    let lab = Lab::up("t-change", &["--nodes", "1", "--pods", "0"]);
    let container = Container::make(&lab, "n1", 1);
    let name = "x".repeat(253);
    let args = format!("K8S_POD_NAMESPACE={};K8S_POD_NAME={name}", "y".repeat(63));
    let (run, _) = run_plugin(container.command("ADD").env("CNI_ARGS", args), &container.conf());
    run.ok();
    assert_eq!(lab.ask("n1", &["endpoints"])[0]["pod"], format!("{}/{name}", "y".repeat(63)));
    assert_eq!(lab.ask("n1", &["plan"])["steps"].as_array().map(Vec::len), Some(0));
    container.del();
}
