//! A lab leaves nothing behind, whatever became of it, and labs do not meet.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tartan_netlab::down::remove_folder;
use tartan_scenarios::{Lab, Traces, lock, programs, run};

#[test]
fn down_leaves_nothing() {
    let _lock = lock();
    let before = Traces::now();
    let lab = Lab::beside("t-down", &["--family", "dual"]);
    assert_ne!(Traces::now(), before);
    lab.down();
    before.assert_unchanged();
}

#[test]
fn down_finds_a_lab_whose_agents_were_killed_and_whose_files_are_gone() {
    let _lock = lock();
    let before = Traces::now();
    let lab = Lab::beside("t-down", &[]);
    for node in ["n1", "n2", "n3"] {
        kill(Pid::from_raw(lab.agent(node)), Signal::SIGKILL).expect("the agent is there");
    }
    remove_folder(Path::new("/run/tartan-lab/t-down")).expect("the lab's files go");
    lab.down();
    before.assert_unchanged();
}

#[test]
fn down_ends_what_people_left_running_in_a_lab() {
    let _lock = lock();
    let before = Traces::now();
    let lab = Lab::beside("t-down", &["--nodes", "1", "--pods", "1"]);
    let mut left = Command::new(programs().join("tartan"))
        .args(["lab", "--name", "t-down", "exec", "p1", "--", "sleep", "300"])
        .spawn()
        .expect("sleep starts");
    std::thread::sleep(Duration::from_millis(300));
    lab.down();
    assert!(left.wait().expect("it ended").code().is_none(), "a signal ended it");
    before.assert_unchanged();
}

#[test]
fn two_labs_live_side_by_side() {
    let first = Lab::up("t-one", &["--nodes", "2", "--pods", "1"]);
    let second = Lab::beside("t-one-b", &["--nodes", "2", "--pods", "1", "--family", "ipv6"]);
    first.assert_full(2, &[]);
    second.assert_full(2, &[]);
    let list = run("tartan", ["lab", "list", "-o", "json"]).ok().json();
    for name in ["t-one", "t-one-b"] {
        assert!(list.as_array().is_some_and(|rows| rows.iter().any(|row| row["name"] == name)), "{list}");
    }
    first.lab(&["down"]).ok();
    second.assert_full(2, &[]);
}

#[test]
fn a_lab_of_twenty_nodes_comes_up_full() {
    let lab = Lab::up("t-twenty", &["--nodes", "20", "--pods", "1", "--family", "dual"]);
    lab.assert_full(20, &["--family", "ipv4"]);
    lab.assert_full(20, &["--family", "ipv6"]);
    let peers = lab.ask("n7", &["peers"]);
    assert_eq!(peers.as_array().map(Vec::len), Some(19), "{peers}");
}

#[test]
fn a_lab_that_is_up_is_not_made_again() {
    let lab = Lab::up("t-again", &["--nodes", "1", "--pods", "0"]);
    let again = lab.lab(&["up", "--nodes", "1"]);
    assert_eq!(again.code, 2, "{again:?}");
    assert!(again.stderr.contains("t-again") && again.stderr.contains("down"), "{again:?}");
}

#[test]
fn nodes_and_pods_come_and_go() {
    let lab = Lab::up("t-come", &["--nodes", "2", "--pods", "1"]);
    lab.lab(&["node", "add", "n3"]).ok();
    lab.lab(&["pod", "add", "guest", "--node", "n3", "-n", "blue", "-l", "app=web"]).ok();
    lab.assert_full(3, &[]);
    let endpoints = lab.ask("n3", &["endpoints"]);
    assert_eq!(endpoints[0]["pod"], "blue/guest", "{endpoints}");
    lab.lab(&["pod", "rm", "guest", "-n", "blue"]).ok();
    assert_eq!(lab.ask("n3", &["endpoints"]).as_array().map(Vec::len), Some(0));
    lab.lab(&["node", "rm", "n3"]).ok();
    lab.assert_full(2, &[]);
}
