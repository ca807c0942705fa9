//! Storms of foreign links, heard and not heard.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tartan_scenarios::figures::cpu;
use tartan_scenarios::{Lab, Probe, programs, wait_until_traced};

use crate::harness::{kernel, wait_for_kernel, wait_healthy};

/// Links in a storm: both ends of each pair count.
const LINKS: usize = 1000;
/// Changes of one link, each with a notice of 2.3 kB: with a storm's, more than the 16 MiB that a queue has.
const CHANGES: usize = 8000;

/// Makes and removes 1,000 links that are not ours; the removals go together, since each waits for RCU.
fn storm(lab: &Lab, folder: &Path) {
    let mut batch = String::new();
    for n in 0..LINKS / 2 {
        writeln!(batch, "link add f{n} group 7 type veth peer name g{n} group 7").expect("text");
    }
    run_batch(lab, folder, &batch);
    lab.on_node("n1", &["ip", "link", "delete", "group", "7"]);
}

fn run_batch(lab: &Lab, folder: &Path, batch: &str) {
    let file = folder.join("batch");
    fs::write(&file, batch).expect("a file");
    lab.on_node("n1", &["ip", "-batch", file.to_str().expect("text")]);
}

/// Notices that the kernel could not queue, over all sockets of a node.
fn dropped(lab: &Lab) -> u64 {
    let table = lab.on_node("n1", &["cat", "/proc/net/netlink"]);
    table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok()).sum()
}

#[test]
fn a_thousand_foreign_links_cost_little_and_change_nothing() {
    let lab = Lab::up("t-storm", &["--nodes", "2", "--pods", "1", "--family", "dual"]);
    let folder = tempfile::tempdir().expect("a folder");
    let before = kernel(&lab, "n1");
    let probe =
        Probe::start(&lab.netns("default_p1"), lab.addresses("default/p2")[0], Duration::from_millis(1));
    let used = cpu(lab.agent("n1"));
    storm(&lab, folder.path());
    assert_eq!(lab.ask("n1", &["plan"])["steps"], serde_json::json!([]));
    let used = cpu(lab.agent("n1")) - used;
    println!("the agent's CPU for the storm: {used:?}");
    assert!(used < Duration::from_millis(2500), "{used:?}");
    assert_eq!(kernel(&lab, "n1"), before);
    let outcome = probe.finish();
    assert!(outcome.sent > 100 && outcome.lost.is_empty(), "{outcome:?}");
}

/// Writes down what a process asks of the kernel by netlink.
fn trace(lab: &Lab, pid: i32, file: &Path) -> Child {
    let mut command = Command::new(programs().join("tartan"));
    command.args([
        "lab",
        "--name",
        lab.name(),
        "node",
        "exec",
        "n1",
        "--",
        "strace",
        "-f",
        "-p",
        &pid.to_string(),
    ]);
    command.args(["-e", "trace=sendto,sendmsg", "-o", file.to_str().expect("text")]);
    let strace =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace");
    wait_until_traced(pid);
    strace
}

#[test]
fn what_was_not_heard_is_read_once_and_repaired() {
    let lab = Lab::up("t-deaf", &["--nodes", "2", "--pods", "1", "--family", "dual"]);
    let folder = tempfile::tempdir().expect("a folder");
    let before = kernel(&lab, "n1");
    let agent = lab.agent("n1");
    let probe =
        Probe::start(&lab.netns("default_p2"), lab.addresses("default/p1")[0], Duration::from_millis(1));
    let file = folder.path().join("trace");
    let mut strace = trace(&lab, agent, &file);
    let pid = Pid::from_raw(agent);
    kill(pid, Signal::SIGSTOP).expect("the agent");
    storm(&lab, folder.path());
    lab.on_node("n1", &["ip", "link", "add", "f", "type", "veth", "peer", "name", "g"]);
    let changes = |n: usize| format!("link set f txqueuelen {}\n", n + 1);
    run_batch(&lab, folder.path(), &(0..CHANGES).map(changes).collect::<String>());
    assert!(dropped(&lab) > 0, "the queue was not full");
    lab.on_node("n1", &["ip", "link", "delete", "f"]);
    // Of this no notice comes any more: a way that no probe takes.
    let ways = lab.on_node("n1", &["ip", "-6", "route", "show", "dev", "tartan.1", "proto", "116"]);
    let way = ways.split_whitespace().next().expect("a route to the other node's pods");
    lab.on_node("n1", &["ip", "-6", "route", "delete", way]);
    assert_ne!(kernel(&lab, "n1"), before);
    let used = cpu(agent);
    kill(pid, Signal::SIGCONT).expect("the agent");
    wait_for_kernel(&lab, &before);
    // Long enough for a loop to show.
    std::thread::sleep(Duration::from_millis(500));
    kill(Pid::from_raw(i32::try_from(strace.id()).expect("a pid")), Signal::SIGINT).expect("strace");
    strace.wait().expect("strace");
    let asked = fs::read_to_string(&file).expect("a trace");
    let is_dump = |line: &&str| line.contains("RTM_GETLINK") && line.contains("NLM_F_DUMP");
    let reads = asked.lines().filter(is_dump).count();
    // One, and a second where the reading was overtaken by a change (NLM_F_DUMP_INTR).
    assert!((1..=3).contains(&reads), "{reads} reads\n{asked}");
    assert!(cpu(agent) - used < Duration::from_millis(1500));
    wait_healthy(&lab, "n1");
    lab.assert_full(2, &[]);
    let outcome = probe.finish();
    assert!(outcome.sent > 300 && outcome.lost.is_empty(), "{outcome:?}");
}
