//! The wall clock jumps: nothing that an agent decides goes by it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tartan_scenarios::{Container, Lab, Probe, programs, run_command};

use crate::harness::{kernel, reasons};

/// An agent renews its name every 5 s.
const RENEWED: Duration = Duration::from_secs(8);

/// The library of Debian's `libfaketime` that shows programs another wall clock; the folder is the architecture's.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("a folder").flatten();
    let mut libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    libraries.find(|path| path.is_file()).expect("Debian's libfaketime")
}

/// Starts the agents that faults have ended, with a wall clock that a file moves.
fn start_with_clock(lab: &Lab, file: &Path) {
    let mut command = Command::new(programs().join("tartan"));
    command.args(["lab", "--name", lab.name(), "fault", "clear"]);
    command.env("LD_PRELOAD", library()).env("FAKETIME_TIMESTAMP_FILE", file);
    // Only the wall clock, and the file is looked at each time.
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_NO_CACHE", "1");
    run_command(&mut command).ok();
}

/// When the leases end, by the machine's boot clock in milliseconds.
fn ends(lab: &Lab) -> Vec<i64> {
    let store = rusqlite::Connection::open(lab.file("store", "tartan.db")).expect("the store");
    let mut leases = store.prepare("SELECT expires_ms FROM lease ORDER BY name").expect("leases");
    let ends = leases.query_map([], |row| row.get(0)).expect("leases");
    ends.collect::<Result<_, _>>().expect("numbers")
}

#[test]
fn a_wall_clock_that_jumps_by_hours_changes_nothing() {
    let lab = Lab::up("t-clock", &["--nodes", "2", "--pods", "1", "--family", "dual"]);
    let folder = tempfile::tempdir().expect("a folder");
    let files = ["n1", "n2"].map(|node| folder.path().join(node));
    for (node, file) in ["n1", "n2"].into_iter().zip(&files) {
        fs::write(file, "+7200\n").expect("a file");
        lab.end_agent(node, Signal::SIGTERM);
        lab.lab(&["fault", "add", "stop", node]).ok();
        start_with_clock(&lab, file);
        // It is two hours ahead, as it tells people.
        let since = lab.ask(node, &["status"])["since"].as_str().expect("text").to_string();
        let ahead = run_command(Command::new("date").args(["-u", "-d", "+2 hours", "+%FT%H"])).ok().stdout;
        let later =
            run_command(Command::new("date").args(["-u", "-d", "+2 hours -1 minute", "+%FT%H"])).ok().stdout;
        assert!(since.starts_with(ahead.trim()) || since.starts_with(later.trim()), "{since}");
    }
    let before = ["n1", "n2"].map(|node| kernel(&lab, node));
    let leases = ends(&lab);
    let probe =
        Probe::start(&lab.netns("default_p1"), lab.addresses("default/p2")[0], Duration::from_millis(5));
    // One goes back by an hour, the other ahead by one.
    fs::write(&files[0], "+3600\n").expect("a file");
    fs::write(&files[1], "+10800\n").expect("a file");
    let container = Container::make(&lab, "n1", 1);
    container.add();
    container.del();
    let deadline = Instant::now() + RENEWED;
    while ends(&lab).iter().zip(&leases).any(|(now, then)| now <= then) {
        for node in ["n1", "n2"] {
            assert_eq!(reasons(&lab, node), Vec::<String>::new());
            assert_eq!(lab.ask(node, &["status"])["peers"]["up"], 1);
        }
        assert!(Instant::now() < deadline, "names are not renewed: {leases:?}, {:?}", ends(&lab));
        std::thread::sleep(Duration::from_millis(100));
    }
    // By 15 s each, as ever: the clock that was set has no part in it.
    let most = i64::try_from((Instant::now() - deadline + RENEWED).as_millis()).expect("a short time") + 1000;
    assert!(
        ends(&lab).iter().zip(&leases).all(|(now, then)| now - then < most + 5000),
        "{leases:?}, {:?}",
        ends(&lab)
    );
    assert_eq!(["n1", "n2"].map(|node| kernel(&lab, node)), before);
    lab.assert_full(2, &[]);
    let outcome = probe.finish();
    assert!(outcome.lost.is_empty(), "{outcome:?}");
}
