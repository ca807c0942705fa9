//! Waiting for what nothing tells a test of.

use std::time::{Duration, Instant};

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Looks until something holds or the time is over; says whether it holds.
pub fn holds_within(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

/// Waits until something holds, which it must in time.
#[track_caller]
pub fn wait_until(what: &str, patience: Duration, holds: impl FnMut() -> bool) {
    assert!(holds_within(patience, holds), "not within {patience:?}: {what}");
}

/// Waits until somebody traces a process, as strace does with `-p`.
#[track_caller]
pub fn wait_until_traced(pid: i32) {
    let is_traced = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    };
    wait_until("strace has attached", Duration::from_secs(10), is_traced);
}
