//! Figures with many peers: adding a pod, starting from nothing, and what foreign changes cost. Run by
//! `cargo xtask bench`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tartan_host::Row;
use tartan_kernel::{Kernel, Marks, Rtnl, netns};
use tartan_netlab::{agent, programs::Programs};
use tartan_scenarios::{Container, Lab, figures, programs};
use tartan_store::Sqlite;

/// Pods added and deleted in a row.
const PODS: usize = 200;
/// Entries that other nodes' pods would have; this release publishes none, so they are of a kind that it passes over.
const ENDPOINTS: usize = 10_000;
/// Foreign links set up and down.
const TURNS: u32 = 2_500;
/// How long an agent may take to program all its peers.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn scale() {
    println!("BENCH-BEGIN");
    println!("| with many peers, both families | figure | aim |\n|---|---|---|");
    for peers in [1_000, 5_000] {
        let lab = lab_with(peers);
        if peers == 5_000 {
            adds(&lab, peers);
            foreign_links(&lab);
        }
        cold_start(&lab, peers, false);
        cold_start(&lab, peers, true);
    }
    println!("BENCH-END");
}

/// A lab of one node whose store tells of many others.
fn lab_with(peers: usize) -> Lab {
    let pools = r#"pools=[{cidr: 10.0.0.0/8, blockSize: 24}, {cidr: "fd00:10::/40", blockSize: 64}]"#;
    let args =
        ["--nodes", "1", "--pods", "0", "--family", "dual", "--set", pools, "--set", "attachment=routed"];
    let lab = Lab::up("bench", &args);
    let store = Sqlite::open(&lab.file("store", "tartan.db")).expect("the store");
    let nodes = (0..peers).flat_map(peer);
    let endpoint = |n: usize| {
        (format!("endpoint/default/pod-{n}"), Some(br#"{"node":"x","labels":{"app":"web"}}"#.to_vec()))
    };
    let entries: Vec<_> = nodes.chain((0..ENDPOINTS).map(endpoint)).collect();
    for some in entries.chunks(500) {
        store.write_all(some).expect("to write");
    }
    wait_for_routes(&lab, peers);
    lab
}

/// A node in the store, with a block of each family.
fn peer(number: usize) -> Vec<(String, Option<Vec<u8>>)> {
    let id = format!("{:032x}", number + 1_000_000);
    let address = format!("172.30.{}.{}", 8 + number / 250, 1 + number % 250);
    let node = format!(r#"{{"id":"{id}","name":"peer-{number}","addresses":["{address}/16"],"mtu":1500}}"#);
    let owner = format!(r#"{{"node":"{id}"}}"#).into_bytes();
    let block = number + 256;
    vec![
        (format!("node/{id}"), Some(node.into_bytes())),
        (format!("block/default/10.{}.{}.0-24", block / 256, block % 256), Some(owner.clone())),
        (format!("block/default/fd00:10:0:{block:x}::-64"), Some(owner)),
    ]
}

/// Waits until a route of each family to every peer is in the node's kernel.
fn wait_for_routes(lab: &Lab, peers: usize) {
    let node = netns::open(&lab.netns("n1")).expect("the node's namespace");
    let mut witness = Kernel::open_in(node.as_fd(), Marks::Node).expect("its kernel");
    let deadline = Instant::now() + PATIENCE;
    loop {
        witness.read(&[]).expect("to read");
        let to_peers = |row: &Row| matches!(row, Row::Route(route) if route.link().is_some());
        let routes = witness.read_routes().expect("to read").into_iter().filter(to_peers).count();
        if routes >= 2 * peers {
            return;
        }
        assert!(Instant::now() < deadline, "{routes} of {} routes", 2 * peers);
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn adds(lab: &Lab, peers: usize) {
    let containers: Vec<Container> = (0..PODS).map(|n| Container::make(lab, "n1", n)).collect();
    // VERSION is the start of a process, STATUS that and a question to the agent: what ADD takes more is its own.
    for (command, aim) in [("VERSION", ""), ("STATUS", ""), ("ADD", "p50 < 2 ms"), ("DEL", "p50 < 2 ms")] {
        let times = containers.iter().map(|container| {
            let (run, time) = container.call(command);
            run.ok();
            time
        });
        let what =
            format!("{command}, routed, {PODS} in a row, {peers} peers and {ENDPOINTS} remote endpoints");
        figures::spread(&what, times.collect(), aim);
    }
}

/// What the kernel tells of links that are not ours.
fn foreign_links(lab: &Lab) {
    let node = netns::open(&lab.netns("n1")).expect("the node's namespace");
    let mut rtnl = Rtnl::open_in(node.as_fd()).expect("its kernel");
    let link = "foreign0".parse().unwrap();
    rtnl.add_bridge(&link, 1500.try_into().unwrap()).expect("a bridge");
    settle(lab);
    let before = figures::cpu(lab.agent("n1"));
    for _ in 0..TURNS {
        rtnl.set_up(&link).expect("up");
        rtnl.set_down(&link).expect("down");
    }
    settle(lab);
    let used = figures::cpu(lab.agent("n1")) - before;
    rtnl.delete_link(&link).expect("to delete it");
    let thousand = used.as_secs_f64() * 1e3 / f64::from(2 * TURNS) * 1e3;
    figures::row("CPU for 1,000 changes of foreign links", &format!("{thousand:.1} ms"), "");
}

/// Waits until the agent rests.
fn settle(lab: &Lab) {
    let deadline = Instant::now() + PATIENCE;
    let mut before = figures::cpu(lab.agent("n1"));
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = figures::cpu(lab.agent("n1"));
        if now - before < Duration::from_millis(1) {
            return;
        }
        assert!(Instant::now() < deadline, "the agent does not rest");
        before = now;
    }
}

/// From the start of the process until every peer is programmed: over a kernel that has nothing, or everything.
fn cold_start(lab: &Lab, peers: usize, warm: bool) {
    let (name, node) = (lab.name().parse().unwrap(), "n1".parse().unwrap());
    agent::end(&name, &node, Signal::SIGKILL).expect("the agent ends");
    if !warm {
        lab.on_node("n1", &["ip", "link", "delete", "tartan.1"]);
        for family in ["bridge", "arp", "inet"] {
            lab.on_node("n1", &["nft", "delete", "table", family, "tartan"]);
        }
    }
    let start = Instant::now();
    agent::start(&name, &node, &Programs::within(programs()).expect("the programs")).expect("it starts");
    agent::wait_for_answer(&name, &node, PATIENCE, &|| Ok(())).expect("it answers");
    wait_for_routes(lab, peers);
    let time = start.elapsed();
    settle(lab);
    let pid = lab.agent("n1");
    let (cpu, resident) = (figures::cpu(pid), figures::resident_kib(pid) as f64 / 1024.0);
    let kernel = if warm { "a kernel that has it all" } else { "an empty kernel" };
    figures::row(
        &format!("start with {peers} peers on {kernel}: all programmed, CPU in all, resident"),
        &format!("{:.2} s, {:.2} s, {resident:.1} MiB", time.as_secs_f64(), cpu.as_secs_f64()),
        "< 2 s, < 1 s, < 45 MB",
    );
    let plan = lab.ask("n1", &["plan"]);
    assert_eq!(plan["steps"].as_array().map(Vec::len), Some(0), "{plan}");
    assert!(fs::metadata(lab.file("n1", "tartand.sock")).is_ok());
}
