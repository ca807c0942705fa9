//! At rest an agent does nothing: what it repairs, it is told of.

use std::fs;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tartan_kernel::{Rtnl, netns};
use tartan_model::{IfName, Mtu};
use tartan_scenarios::figures::{cpu, switches};
use tartan_scenarios::{Lab, wait_until_traced};

/// What tells of a program started, and of a kernel table read.
const TRACED: &str = "trace=execve,execveat,fork,vfork,clone,clone3,sendto,sendmsg";
/// Links, and addresses and routes of both families.
const DUMPS_OF_A_LOOK: usize = 5;
/// Links made and deleted in a storm.
const CHANGES: usize = 100;

#[test]
fn an_agent_at_rest_reads_nothing_and_starts_nothing() {
    watch(Duration::from_secs(5));
}

#[test]
fn a_storm_of_foreign_links_costs_one_look_in_a_while() {
    let lab = Lab::up("t-storm", &["--nodes", "1", "--pods", "1", "--family", "dual"]);
    let node = netns::open(&lab.netns("n1")).expect("the node");
    let mut storm = Rtnl::open_in(node.as_fd()).expect("its kernel");
    let foreign: IfName = "foreign".parse().expect("a name");
    let start = Instant::now();
    let heard = trace(lab.agent("n1"), || {
        for _ in 0..CHANGES {
            storm.add_bridge(&foreign, Mtu::IPV6_MIN).expect("a link");
            storm.delete_link(&foreign).expect("it is there");
        }
        std::thread::sleep(Duration::from_millis(300));
    });
    let looks = heard.lines().filter(|line| is_dump(line)).count() / DUMPS_OF_A_LOOK;
    let most = start.elapsed().as_millis() / 100 + 5;
    assert!(looks > 1 && looks as u128 <= most, "{looks} looks, no more than {most} were due");
}

/// The row of the table.
pub(crate) fn measure(how_long: Duration) {
    let share = watch(how_long);
    println!(
        "| at rest for {} s: no dump, no process; share of a core | {share:.4} % | |",
        how_long.as_secs()
    );
    assert!(share < 0.2, "{share} % of a core");
}

/// Watches an agent with peers and pods that nobody wants anything of: its share of a core, in percent.
fn watch(how_long: Duration) -> f64 {
    let lab = Lab::up("t-rest", &["--nodes", "3", "--pods", "2", "--family", "dual"]);
    let pid = lab.agent("n1");
    // What came late of the start is done within a second.
    std::thread::sleep(Duration::from_secs(1));
    let (before, before_switches) = (cpu(pid), switches(pid));
    std::thread::sleep(how_long);
    let share = (cpu(pid) - before).as_secs_f64() / how_long.as_secs_f64() * 100.0;
    // Aimed at is less than 0.2: a machine that is slow to come out of its own rest takes some times as much for the same.
    assert!(share < 1.0, "{share} % of a core");
    let woken = switches(pid) - before_switches;
    assert!(woken as f64 / how_long.as_secs_f64() < 10.0, "woken {woken} times");
    let quiet = trace(pid, || std::thread::sleep(how_long));
    let busy =
        |line: &&str| is_dump(line) || line.contains("exec") || line.contains("fork(") || is_process(line);
    assert_eq!(quiet.lines().filter(busy).collect::<Vec<_>>(), Vec::<&str>::new());
    // The same ears hear when it does read.
    let control = trace(pid, || {
        lab.on_node("n1", &["ip", "link", "add", "foreign", "type", "bridge"]);
        std::thread::sleep(Duration::from_millis(300));
    });
    assert!(control.lines().any(is_dump), "strace does not hear: {control}");
    share
}

/// NLM_F_DUMP is 0x300 to a strace that does not know which netlink it is.
fn is_dump(line: &str) -> bool {
    line.contains("NLM_F_DUMP") || line.contains("|0x300,")
}

/// A thread is no process.
fn is_process(line: &str) -> bool {
    line.contains("clone") && !line.contains("CLONE_THREAD")
}

fn trace(pid: i32, meanwhile: impl FnOnce()) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("trace");
    let mut strace = Command::new("strace")
        .args(["-f", "-e", TRACED, "-s", "64", "-p", &pid.to_string(), "-o"])
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .expect("strace starts");
    wait_until_traced(pid);
    meanwhile();
    kill(Pid::from_raw(strace.id().cast_signed()), Signal::SIGINT).expect("strace is there");
    strace.wait().expect("strace ends");
    fs::read_to_string(file).expect("a trace")
}
