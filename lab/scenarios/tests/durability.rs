//! What is on the disk when: nothing waits for it on the way of an ADD; block claims and the node's id do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tartan_scenarios::before::{addresses, kept_endpoints};
use tartan_scenarios::{Container, Lab, programs, wait_until, wait_until_traced};

/// The calls that wait for a disk.
const SYNCS: &str = "trace=fsync,fdatasync,sync_file_range,msync,sync,syncfs,rename";

/// Strace on a running agent, with the names of the files behind its descriptors.
struct Trace {
    strace: Child,
    file: PathBuf,
}

impl Trace {
    fn attach(pid: i32, file: PathBuf) -> Trace {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-e", SYNCS, "-o"]).arg(&file).args(["-p", &pid.to_string()]);
        let strace = strace.stderr(Stdio::null()).spawn().expect("strace starts");
        wait_until_traced(pid);
        Trace { strace, file }
    }

    fn end(self) -> String {
        kill(Pid::from_raw(self.strace.id() as i32), Signal::SIGINT).expect("strace is there");
        self.end_with_the_agent()
    }

    fn end_with_the_agent(mut self) -> String {
        self.strace.wait().expect("it ends");
        std::fs::read_to_string(&self.file).expect("a trace")
    }
}

/// The lines in which a thread waits for this file's disk.
fn syncs<'a>(trace: &'a str, file: &'a str) -> impl Iterator<Item = &'a str> {
    trace.lines().filter(move |line| line.contains("sync(") && line.contains(file))
}

/// The id of the thread of an agent by its name.
fn thread(agent: i32, name: &str) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{agent}/task")).expect("its threads");
    let named =
        |path: &Path| std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
    let task = tasks.flatten().map(|task| task.path()).find(|path| named(path)).expect("such a thread");
    task.file_name().expect("a number").to_string_lossy().into_owned()
}

#[test]
fn an_add_waits_for_no_disk_and_is_kept_all_the_same() {
    let lab = Lab::up("t-disk", &["--nodes", "1", "--pods", "0"]);
    let folder = tempfile::tempdir().expect("a folder");
    let agent = lab.agent("n1");
    let trace = Trace::attach(agent, folder.path().join("trace"));
    let mover = thread(agent, "records-log");
    let container = Container::make(&lab, "n1", 0);
    // Enough for the log to be moved into the file more than once.
    for _ in 0..100 {
        container.add();
        container.del();
    }
    let pods: Vec<Container> = (1..6).map(|n| Container::make(&lab, "n1", n)).collect();
    let given: Vec<String> = pods.iter().flat_map(|pod| addresses(&pod.add())).collect();
    kill(Pid::from_raw(agent), Signal::SIGKILL).expect("the agent is there");
    let trace = trace.end_with_the_agent();
    lab.lab(&["fault", "add", "kill", "n1"]).ok();
    let own: Vec<&str> = syncs(&trace, "records.db").filter(|line| !line.starts_with(&mover)).collect();
    assert!(own.is_empty(), "the ring waited for the disk:\n{own:#?}");
    assert!(
        syncs(&trace, "records.db").next().is_some(),
        "the log is moved at times, by its own thread:\n{trace}"
    );
    // Killed right after the last answer; nothing is forgotten and nothing is given again.
    lab.lab(&["fault", "clear"]).ok();
    assert_eq!(kept_endpoints(&lab).len(), 5);
    let again = addresses(&container.add());
    assert!(!given.contains(&again[0]), "{again:?} is in use");
}

#[test]
fn a_claim_of_a_block_is_on_the_disk() {
    let lab = Lab::up("t-disk", &["--nodes", "1", "--pods", "0"]);
    let folder = tempfile::tempdir().expect("a folder");
    let trace = Trace::attach(lab.agent("n1"), folder.path().join("trace"));
    let file = folder.path().join("other.yaml");
    let text = "apiVersion: tartan.dev/v1alpha1\nkind: ClusterNetwork\nmetadata: {name: other}\n\
        spec: {vxlan: {vni: 7}, pools: [{cidr: 10.77.0.0/16, blockSize: 24}]}\n";
    std::fs::write(&file, text).expect("a file");
    let held = || {
        let blocks = lab.ask("n1", &["ipam"]);
        blocks.as_array().is_some_and(|rows| rows.iter().any(|row| row["network"] == "other"))
    };
    let writer = thread(lab.agent("n1"), "store-write");
    lab.verb("n1", &["apply", "-f", file.to_str().expect("text")]).ok();
    wait_until("the node has a block", Duration::from_secs(10), held);
    let trace = trace.end();
    let claims = syncs(&trace, "tartan.db-wal").filter(|line| line.starts_with(&writer)).count();
    assert!(claims > 0, "the thread that claims blocks never waited for the disk:\n{trace}");
}

#[test]
fn a_new_nodes_id_is_on_the_disk_before_it_is_used() {
    let lab = Lab::up("t-disk", &["--nodes", "1", "--pods", "0"]);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let store = format!("sqlite://{}", lab.file("store", "tartan.db").display());
    let program = programs().join("tartand").display().to_string();
    let mut agent = Command::new(programs().join("tartan"));
    agent.args([
        "lab",
        "--name",
        lab.name(),
        "node",
        "exec",
        "outside",
        "--",
        "strace",
        "-f",
        "-y",
        "-e",
        SYNCS,
    ]);
    agent.args(["-o", &path("trace"), &program]);
    agent.args([
        "--node-name",
        "n9",
        "--store",
        &store,
        "--state-dir",
        &path("state"),
        "--run-dir",
        &path("run"),
    ]);
    let mut agent = agent.stderr(Stdio::null()).spawn().expect("strace starts");
    let read = || std::fs::read_to_string(path("trace")).unwrap_or_default();
    let published = || {
        let nodes = lab.ask("n1", &["nodes"]);
        nodes.as_array().is_some_and(|rows| rows.iter().any(|row| row["name"] == "n9"))
    };
    wait_until("the node is known", Duration::from_secs(20), published);
    let strace = agent.id();
    let children =
        std::fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).expect("its children");
    let traced = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("the agent");
    kill(Pid::from_raw(traced), Signal::SIGKILL).expect("the agent is there");
    agent.wait().expect("it ends");
    let trace = read();
    let at = |what: &str| {
        let found = trace.lines().position(|line| what.split('*').all(|part| line.contains(part)));
        found.unwrap_or_else(|| panic!("no {what} in\n{trace}"))
    };
    let (file, name, place) = (at("sync(*node.new"), at("rename(*node.json"), at("sync(*/state>"));
    // The file, then its name, then the folder that has the name.
    assert!(file < name && name < place, "{file} {name} {place}:\n{trace}");
}
