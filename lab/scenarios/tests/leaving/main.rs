//! Nodes that leave the cluster, by themselves or taken out by others, and nodes that Tartan is taken off.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

mod uninstall;

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tartan_scenarios::{Container, Lab, holds_within, wait_until};

/// How long the others may take to forget a node that has left.
const AT_ONCE: Duration = Duration::from_secs(1);

/// What a node's kernel has of a peer: its underlay address and its block.
fn traces(lab: &Lab, node: &str, marks: &[&str]) -> Vec<String> {
    let asks =
        ["ip route", "ip -6 route", "ip neighbor show nud permanent", "bridge fdb", "nft list ruleset"];
    let told = asks.map(|ask| lab.on_node(node, &ask.split(' ').collect::<Vec<_>>())).join("\n");
    // Ranges are of networks.
    let single = told.lines().filter(|line| !line.contains("/16") && !line.contains("/56"));
    single.filter(|line| marks.iter().any(|mark| line.contains(mark))).map(String::from).collect()
}

/// The first address of a block.
fn first(block: &str) -> &str {
    block.split('/').next().expect("an address")
}

fn is_running(pid: i32) -> bool {
    std::fs::metadata(format!("/proc/{pid}/ns/net")).is_ok()
}

#[test]
fn a_node_that_leaves_is_forgotten_at_once() {
    let lab = Lab::up("t-leave", &["--nodes", "3", "--pods", "1", "--family", "dual"]);
    let given = lab.blocks("n2", "n1");
    let marks: Vec<&str> =
        ["172.30.0.1 ", "172.30.0.1/"].into_iter().chain(given.iter().map(|block| first(block))).collect();
    let refused = lab.verb("n1", &["node", "leave"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("default/p1") && refused.stderr.contains("--force"), "{refused:?}");
    assert!(!traces(&lab, "n2", &marks).is_empty(), "{marks:?}");
    lab.assert_full(3, &[]);

    let pid = lab.agent("n1");
    let left = lab.verb("n1", &["node", "leave", "--force", "-o", "json"]).ok().json();
    assert_eq!(left["pods"], json!(["default/p1"]));
    assert_eq!(left["blocks"].as_array().map(Vec::len), Some(2), "{left}");
    for node in ["n2", "n3"] {
        let gone = holds_within(AT_ONCE, || traces(&lab, node, &marks).is_empty());
        assert!(gone, "{node}: {:?}", traces(&lab, node, &marks));
        assert_eq!(lab.ask(node, &["nodes"]).as_array().map(Vec::len), Some(2));
        assert!(lab.blocks(node, "n1").is_empty());
    }
    wait_until("the agent has ended", Duration::from_secs(5), || !is_running(pid));
    let links = lab.on_node("n1", &["ip", "-o", "link"]);
    assert!(!links.contains(": tartan") && !links.contains(": tt"), "{links}");
    assert_eq!(lab.on_node("n1", &["nft", "list", "tables"]), "");

    let cleared = lab.lab(&["fault", "clear"]);
    assert!(cleared.code == 1 && cleared.stderr.contains("node n1: its agent has ended"), "{cleared:?}");

    // Whoever starts the agent again has it join anew.
    lab.start_healthy("n1");
    lab.lab(&["pod", "rm", "p1"]).ok();
    lab.lab(&["pod", "add", "p1", "--node", "n1"]).ok();
    lab.assert_full(3, &[]);
}

#[test]
fn a_block_that_was_given_back_is_another_nodes() {
    // A pool of two blocks.
    let pools = "pools=[{cidr: 10.99.0.0/28, blockSize: 29}]";
    let lab = Lab::up("t-leave", &["--nodes", "2", "--pods", "0", "--set", pools]);
    let given = lab.blocks("n2", "n1");
    lab.verb("n1", &["node", "leave"]).ok();
    lab.lab(&["node", "rm", "n1"]).ok();
    lab.lab(&["node", "add", "n3"]).ok();
    assert_eq!(lab.blocks("n2", "n3"), given);
    for (pod, node) in [("p2", "n2"), ("p3", "n3")] {
        lab.lab(&["pod", "add", pod, "--node", node]).ok();
    }
    lab.assert_full(2, &[]);
}

#[test]
fn a_dead_node_is_taken_out_by_its_name_once_its_lease_is_over() {
    let lab = Lab::up("t-leave", &["--nodes", "3", "--pods", "0"]);
    let given = lab.blocks("n2", "n3");
    let mark = [first(&given[0])];
    let id = lab.ask("n3", &["status"])["id"].as_str().unwrap().to_string();
    let unknown = lab.verb("n1", &["node", "leave", "n9"]);
    assert!(unknown.code == 1 && unknown.stderr.contains("there is no node"), "{unknown:?}");
    lab.end_agent("n3", Signal::SIGKILL);
    for name in ["n3", &id] {
        let alive = lab.verb("n1", &["node", "leave", name]);
        assert!(alive.code == 1 && alive.stderr.contains("node n3 is alive"), "{alive:?}");
    }
    assert_eq!(lab.blocks("n2", "n3"), given);
    // As time would.
    let store = rusqlite::Connection::open(lab.file("store", "tartan.db")).unwrap();
    store.execute("UPDATE lease SET expires_ms = 1 WHERE name = 'n3'", []).unwrap();
    drop(store);
    let left = lab.verb("n1", &["node", "leave", "n3", "-o", "json"]).ok().json();
    assert_eq!(left["blocks"], json!([{"network": "default", "block": given[0]}]));
    for node in ["n1", "n2"] {
        let gone = holds_within(AT_ONCE, || traces(&lab, node, &mark).is_empty());
        assert!(gone, "{node}: {:?}", traces(&lab, node, &mark));
    }
    let rows = lab.ask("n1", &["nodes"]);
    assert!(rows.as_array().unwrap().iter().all(|row| row["name"] != "n3"), "{rows}");
    assert_eq!(lab.verb("n1", &["node", "leave", "n3"]).code, 1);
    // It may come back.
    lab.start_healthy("n3");
    assert_eq!(lab.blocks("n1", "n3").len(), 1);
}

#[test]
fn a_node_whose_store_does_not_answer_stays_as_it_is() {
    let lab = Lab::up("t-leave", &["--nodes", "2", "--pods", "1"]);
    let container = Container::make(&lab, "n1", 1);
    let away = lab.file("store", "").with_extension("away");
    std::fs::rename(lab.file("store", ""), &away).unwrap();
    wait_until("the agent knows", Duration::from_secs(15), || lab.verb("n1", &["status"]).code == 1);
    let refused = lab.verb("n1", &["node", "leave", "--force"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.stderr.contains("nothing was changed"), "{refused:?}");
    std::fs::rename(&away, lab.file("store", "")).unwrap();
    container.add();
    container.del();
    lab.assert_full(2, &[]);
    let rows: Value = lab.ask("n2", &["nodes"]);
    assert_eq!(rows.as_array().map(Vec::len), Some(2));
}
