//! Few descriptors, little memory.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tartan_scenarios::{Container, Lab, Probe, Run, holds_within, programs, run_command};

use crate::harness::{kernel, wait_for_kernel, wait_healthy};

/// Pods that come at once.
const AT_ONCE: usize = 50;

/// A lab of one node whose agent has these limits, in the words of prlimit(1).
fn lab_with(name: &str, limit: &str) -> Lab {
    let lab =
        Lab::up(name, &["--nodes", "1", "--pods", "0", "--family", "dual", "--set", "attachment=routed"]);
    lab.lab(&["fault", "add", "stop", "n1"]).ok();
    // A process has the limits of the one that starts it.
    let mut command = Command::new("prlimit");
    command.arg(limit).arg(programs().join("tartan")).args(["lab", "--name", name, "fault", "clear"]);
    run_command(&mut command).ok();
    lab
}

fn descriptors(lab: &Lab) -> usize {
    fs::read_dir(format!("/proc/{}/fd", lab.agent("n1"))).expect("a process").count()
}

/// Calls the plugin for all containers at once.
fn all_at_once(containers: &[Container], command: &str) -> Vec<Run> {
    std::thread::scope(|scope| {
        let calls: Vec<_> =
            containers.iter().map(|container| scope.spawn(|| container.call(command).0)).collect();
        calls.into_iter().map(|call| call.join().expect("a call")).collect()
    })
}

fn addresses(runs: &[Run]) -> BTreeSet<String> {
    let ips = runs.iter().flat_map(|run| run.json()["ips"].as_array().expect("addresses").clone());
    ips.map(|ip| ip["address"].to_string()).collect()
}

/// A connection that says nothing.
fn idle(lab: &Lab, number: usize) -> Vec<UnixStream> {
    let socket = lab.file("n1", "tartand.sock");
    (0..number).map(|_| UnixStream::connect(&socket).expect("room in the backlog")).collect()
}

#[track_caller]
fn wait_for_descriptors(lab: &Lab, most: usize) {
    let is_so = holds_within(Duration::from_secs(5), || descriptors(lab) <= most);
    assert!(is_so, "{} descriptors, {most} before", descriptors(lab));
}

#[test]
fn with_256_descriptors_fifty_pods_come_and_go_beside_idle_connections() {
    let lab = lab_with("t-fds", "--nofile=256");
    let (agent, before, open) = (lab.agent("n1"), kernel(&lab, "n1"), descriptors(&lab));
    let limits = fs::read_to_string(format!("/proc/{agent}/limits")).expect("a process");
    assert!(
        limits.lines().any(|line| line.starts_with("Max open files") && line.contains(" 256 ")),
        "{limits}"
    );
    let containers: Vec<Container> = (0..AT_ONCE).map(|n| Container::make(&lab, "n1", n)).collect();
    let some = idle(&lab, 60);
    let runs = all_at_once(&containers, "ADD");
    assert!(runs.iter().all(|run| run.code == 0), "{runs:?}");
    assert_eq!(addresses(&runs).len(), 2 * AT_ONCE);
    // More than can be served: whoever comes behind them waits, and nothing breaks.
    let many = idle(&lab, 300);
    let last = Container::make(&lab, "n1", AT_ONCE);
    std::thread::scope(|scope| {
        let adding = scope.spawn(|| last.call("ADD").0);
        std::thread::sleep(Duration::from_millis(300));
        assert!(!adding.is_finished());
        let taken = descriptors(&lab);
        assert!(taken < 256 - 24, "{taken} of 256 descriptors: none are left for the agent itself");
        drop((some, many));
        adding.join().expect("a call").ok();
    });
    last.del();
    assert!(all_at_once(&containers, "DEL").iter().all(|run| run.code == 0));
    wait_healthy(&lab, "n1");
    wait_for_descriptors(&lab, open);
    wait_for_kernel(&lab, &before);
    assert_eq!(lab.agent("n1"), agent);
}

#[test]
fn without_descriptors_a_pod_is_to_come_again_later() {
    let lab = lab_with("t-nofds", "--nofile=256");
    let (agent, before, open) = (lab.agent("n1"), kernel(&lab, "n1"), descriptors(&lab));
    let limit = |most: usize| {
        let limit = format!("--nofile={most}:256");
        run_command(Command::new("prlimit").args(["--pid", &agent.to_string(), &limit])).ok();
    };
    // One for the connection, and hardly one for the namespace that comes along.
    limit(open + 1);
    let container = Container::make(&lab, "n1", 1);
    let (run, _) = container.call("ADD");
    assert_eq!(run.json()["code"], 11, "{run:?}");
    let words = ["no descriptors left", "Too many open files"];
    assert!(words.iter().any(|words| run.stdout.contains(words)), "{run:?}");
    limit(256);
    container.add();
    container.del();
    wait_for_descriptors(&lab, open);
    wait_for_kernel(&lab, &before);
}

/// The most memory that the agent had resident so far, in KiB.
fn peak(lab: &Lab) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", lab.agent("n1"))).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn fifty_pods_at_once_beside_all_the_connections_there_may_be_fit_32_mib() {
    let lab = lab_with("t-peak", "--nofile=1024");
    let containers: Vec<Container> = (0..AT_ONCE).map(|n| Container::make(&lab, "n1", n)).collect();
    let idle = idle(&lab, 200);
    assert!(all_at_once(&containers, "ADD").iter().all(|run| run.code == 0));
    assert!(all_at_once(&containers, "DEL").iter().all(|run| run.code == 0));
    drop(idle);
    let peak = peak(&lab);
    println!("peak: {peak} KiB");
    assert!(peak < 32 << 10, "{peak} KiB");
}

#[test]
fn an_agent_that_dies_for_want_of_memory_has_promised_nothing_that_the_next_one_does_not_keep() {
    // Less than the stacks of as many connections: threads cannot be started, and at last nothing can be allocated.
    let lab = lab_with("t-memory", &format!("--as={}", 100 << 20));
    let before = kernel(&lab, "n1");
    for pod in ["a", "b"] {
        lab.lab(&["pod", "add", pod, "--node", "n1"]).ok();
    }
    let probe =
        Probe::start(&lab.netns("default_a"), lab.addresses("default/b")[0], Duration::from_millis(1));
    let containers: Vec<Container> = (0..AT_ONCE).map(|n| Container::make(&lab, "n1", n)).collect();
    // It may die before the last of them is there.
    let socket = lab.file("n1", "tartand.sock");
    let idle: Vec<UnixStream> = (0..90).map_while(|_| UnixStream::connect(&socket).ok()).collect();
    let runs = all_at_once(&containers, "ADD");
    let code = |run: &Run| if run.code == 0 { 0 } else { run.json()["code"].as_u64().unwrap_or(u64::MAX) };
    assert!(runs.iter().all(|run| [0, 11].contains(&code(run))), "{runs:?}");
    assert!(runs.iter().any(|run| run.code != 0), "there was memory for all");
    drop(idle);
    // Without the limit, as somebody who found the reason starts it.
    lab.end_agent("n1", Signal::SIGKILL);
    lab.start_agent("n1");
    let rows: Value = lab.ask("n1", &["endpoints"]);
    for ip in addresses(&runs.into_iter().filter(|run| run.code == 0).collect::<Vec<_>>()) {
        let address = ip.trim_matches('"').split('/').next().expect("an address").to_string();
        assert!(
            rows.to_string().contains(&format!("\"{address}\"")),
            "{address} was given, and is not in {rows}"
        );
    }
    for container in &containers {
        container.del();
    }
    wait_healthy(&lab, "n1");
    lab.assert_full(2, &[]);
    let outcome = probe.finish();
    assert!(outcome.sent > 50 && outcome.lost.is_empty(), "{outcome:?}");
    for pod in ["a", "b"] {
        lab.lab(&["pod", "rm", pod]).ok();
    }
    wait_for_kernel(&lab, &before);
}
