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
use tartan_kernel::{Rtnl, netns};
use tartan_scenarios::{CROWD_POOLS, Container, Lab, figures, pod_of_peer};

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
        cold_start(&lab, peers, false);
        cold_start(&lab, peers, true);
        if peers == 5_000 {
            publish_endpoints(&lab, peers);
            adds(&lab, peers);
            foreign_links(&lab);
        }
    }
    println!("BENCH-END");
}

/// A lab of one node whose store tells of many others.
fn lab_with(peers: usize) -> Lab {
    let dual = ["--nodes", "1", "--pods", "0", "--family", "dual"];
    let lab = Lab::up("bench", &[&dual[..], &["--set", CROWD_POOLS, "--set", "attachment=routed"]].concat());
    lab.add_crowd(0..peers);
    lab.wait_for_routes("n1", peers, PATIENCE);
    lab
}

/// Has the peers publish pods, as they do where policies are enforced.
fn publish_endpoints(lab: &Lab, peers: usize) {
    let endpoint = |n: usize| pod_of_peer(n % peers, n / peers, Some("app=web"));
    lab.write_entries(&(0..ENDPOINTS).map(endpoint).collect::<Vec<_>>());
    settle(lab);
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

/// Waits until the agent only does what it always does: it probes peers, of which none answers, and logs those that it finds
/// silent, which takes up to a twentieth of a core on some machines.
fn settle(lab: &Lab) {
    const LOOK: Duration = Duration::from_millis(300);
    let deadline = Instant::now() + PATIENCE;
    let mut before = figures::cpu(lab.agent("n1"));
    loop {
        std::thread::sleep(LOOK);
        let now = figures::cpu(lab.agent("n1"));
        if now - before < LOOK / 10 {
            return;
        }
        assert!(Instant::now() < deadline, "the agent does not rest");
        before = now;
    }
}

/// From the start of the process until every peer is programmed: over a kernel that has nothing, or everything.
fn cold_start(lab: &Lab, peers: usize, warm: bool) {
    lab.end_agent("n1", Signal::SIGKILL);
    if !warm {
        lab.forget_kernel("n1");
    }
    let start = Instant::now();
    lab.start_agent("n1");
    lab.wait_for_routes("n1", peers, PATIENCE);
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
