//! Figures: how long things take and what an agent needs. Run by `cargo xtask bench`; the table between the marks is
//! what it keeps.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tartan_scenarios::figures::{cpu, quantile, resident_kib, row, spread};
use tartan_scenarios::{Container, Lab, inside, left_of_pods, lock, run};

/// Pods added and deleted in a row, in each of two series.
const IN_A_ROW: usize = 200;
/// Pods added and deleted at once.
const AT_ONCE: usize = 50;
/// How often a lab is brought up.
const LABS: usize = 5;
/// How often a node joins.
const JOINS: usize = 10;
/// How long an idle agent is watched.
const IDLE: Duration = Duration::from_secs(30);

#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn bench() {
    println!("BENCH-BEGIN");
    println!("| what | figure | aim |\n|---|---|---|");
    up_to_full_matrix();
    join();
    add_and_del("routed");
    add_and_del("bridge");
    at_rest();
    sizes();
    println!("BENCH-END");
}

fn up_to_full_matrix() {
    let _lock = lock();
    let mut times = Vec::new();
    for _ in 0..LABS {
        let start = Instant::now();
        let lab =
            Lab::beside("bench", &["--preset", "flannel", "--nodes", "3", "--pods", "2", "--family", "dual"]);
        lab.assert_full(6, &[]);
        times.push(start.elapsed());
    }
    let worst = quantile(&mut times, 1.0);
    assert!(worst < 10_000.0, "{worst} ms");
    spread("lab of 3 nodes and 6 pods, both families: nothing to full matrix", times, "< 10 s");
}

/// A node that joins: its namespaces and files, the agent's start, a block, all peers, a pod, and that pod's answer to one
/// on another node.
fn join() {
    let lab = Lab::up("bench", &["--nodes", "2", "--pods", "1", "--family", "dual"]);
    let asker = lab.netns("default_p1");
    let mut times = Vec::new();
    for number in 0..JOINS {
        let (node, pod) = (format!("j{number}"), format!("new{number}"));
        let start = Instant::now();
        lab.lab(&["node", "add", &node]).ok();
        lab.lab(&["pod", "add", &pod, "--node", &node]).ok();
        let address = lab.addresses(&format!("default/{pod}"))[0];
        inside(&asker, || while TcpStream::connect((address, 80)).is_err() {});
        times.push(start.elapsed());
        lab.lab(&["node", "rm", &node]).ok();
    }
    spread("a node joins: nothing of it there to the first answer of a pod on it", times, "< 500 ms");
}

fn add_and_del(attachment: &str) {
    let set = format!("attachment={attachment}");
    let lab = Lab::up("bench", &["--nodes", "3", "--pods", "0", "--family", "dual", "--set", &set]);
    let containers: Vec<Container> = (0..IN_A_ROW).map(|n| Container::make(&lab, "n1", n)).collect();
    let start = lab.on_node("n1", &["ip", "-o", "link"]).lines().count();
    // Two series of the same, taken in turns: how far they differ is the noise.
    let mut series = [Vec::new(), Vec::new()];
    let mut dels = Vec::new();
    for (number, container) in containers.iter().enumerate() {
        let (run, time) = container.call("ADD");
        run.ok();
        series[number % 2].push(time);
    }
    for container in &containers {
        let (run, time) = container.call("DEL");
        run.ok();
        dels.push(time);
    }
    let [a, b] = &mut series;
    let (a50, b50) = (quantile(a, 0.5), quantile(b, 0.5));
    let noise = (a50 - b50).abs() / a50.min(b50) * 100.0;
    let all: Vec<Duration> = series.concat();
    spread(
        &format!("ADD, {attachment}, {IN_A_ROW} in a row, process start included"),
        all.clone(),
        "p50 < 10 ms",
    );
    row(
        &format!("ADD, {attachment}: A/A control, p50 of one half against the other"),
        &format!("{noise:.1} %"),
        "",
    );
    spread(&format!("DEL, {attachment}, {IN_A_ROW} in a row, process start included"), dels, "p50 < 10 ms");
    assert!(quantile(&mut all.clone(), 0.5) < 10.0);
    at_once(attachment, &containers);
    let end = Instant::now() + Duration::from_secs(1);
    while lab.on_node("n1", &["ip", "-o", "link"]).lines().count() != start {
        assert!(Instant::now() < end, "links stay");
        std::thread::sleep(Duration::from_millis(10));
    }
    row(
        &format!("links, routes, FDB entries, endpoints, records left after that, {attachment}"),
        &left(&lab),
        "none",
    );
}

fn at_once(attachment: &str, containers: &[Container]) {
    for command in ["ADD", "DEL"] {
        let start = Instant::now();
        let times: Vec<Duration> = std::thread::scope(|scope| {
            let calls: Vec<_> =
                containers.iter().take(AT_ONCE).map(|c| scope.spawn(|| c.call(command))).collect();
            calls
                .into_iter()
                .map(|call| {
                    let (run, time) = call.join().expect("a call");
                    run.ok();
                    time
                })
                .collect()
        });
        let whole = start.elapsed().as_secs_f64() * 1e3;
        spread(
            &format!("{command}, {attachment}, {AT_ONCE} at once (all done after {whole:.0} ms)"),
            times,
            "",
        );
    }
}

/// What is left of pods on the first node.
fn left(lab: &Lab) -> String {
    let left = left_of_pods(lab, "n1");
    assert_eq!(left, [0; 6], "links, routes, FDB entries, endpoints, records, store's endpoints are left");
    "none".into()
}

fn at_rest() {
    let lab = Lab::up("bench", &["--nodes", "20", "--pods", "1", "--family", "dual"]);
    let agents: Vec<i32> = (1..=20).map(|n| lab.agent(&format!("n{n}"))).collect();
    let before: Duration = agents.iter().map(|pid| cpu(*pid)).sum();
    std::thread::sleep(IDLE);
    let used = agents.iter().map(|pid| cpu(*pid)).sum::<Duration>() - before;
    let share = used.as_secs_f64() / IDLE.as_secs_f64() / agents.len() as f64 * 100.0;
    let resident = agents.iter().map(|pid| resident_kib(*pid)).max().unwrap_or(0) as f64 / 1024.0;
    row(
        "agent at rest for 30 s, 20 nodes, both families: share of a core",
        &format!("{share:.3} %"),
        "< 0.2 %",
    );
    row("agent, resident, largest of 20 nodes", &format!("{resident:.1} MiB"), "< 25 MB");
    assert!(share < 0.2 && resident < 25.0);
}

fn sizes() {
    for program in ["tartand", "tartan-cni", "tartan"] {
        let bytes = fs::metadata(tartan_scenarios::programs().join(program)).expect("the program").len();
        row(&format!("size of `{program}`"), &format!("{:.1} MB", bytes as f64 / 1e6), "");
    }
    assert!(run("tartan", ["--version"]).code == 0);
}
