//! Ending processes that need not be our children, without ever hitting one that is not of the lab.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tartan_kernel::netns::{self, NetnsId};

/// How often a process that is to end is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How long a process may take to vanish after SIGKILL.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// Ends every process in these namespaces but this one: asks first, and kills what is left after `patience`. Gives
/// those that are still there.
pub(crate) fn end_all(namespaces: &[NetnsId], patience: Duration) -> Vec<Pid> {
    signal_all(namespaces, Signal::SIGTERM);
    if wait_until_empty(namespaces, patience).is_empty() {
        return Vec::new();
    }
    let deadline = Instant::now() + AFTER_KILL;
    loop {
        // Again each time: a process may have been starting another.
        signal_all(namespaces, Signal::SIGKILL);
        let left = wait_until_empty(namespaces, Duration::from_millis(100));
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
    }
}

/// Ends one process if it is in this namespace; false if it is still there.
pub(crate) fn end(pid: Pid, namespace: NetnsId, first: Signal, patience: Duration) -> bool {
    for (signal, patience) in [(first, patience), (Signal::SIGKILL, AFTER_KILL)] {
        if !is_in(pid, namespace) {
            break;
        }
        // It may have ended since we looked.
        kill(pid, signal).ok();
        wait_until(patience, || has_ended(pid, namespace));
    }
    let has_ended = wait_until(AFTER_KILL, || has_ended(pid, namespace));
    reap(pid);
    has_ended
}

/// Whether nothing of a process of this namespace is left that could hold a lock or a socket: a thread gives up its
/// namespace before its files are closed (`do_exit`, kernel/exit.c).
fn has_ended(pid: Pid, namespace: NetnsId) -> bool {
    let is_another = |thread: &Path| namespace_of(thread).is_some_and(|other| other != namespace);
    threads(pid).all(|thread| is_over(&thread) || is_another(&thread))
}

/// Whether a thread does nothing any more: the letter behind its name is Z or X, or it is gone (proc_pid_stat(5)).
fn is_over(thread: &Path) -> bool {
    let Ok(stat) = fs::read_to_string(thread.join("stat")) else { return true };
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// Whether this process is alive and in this namespace: a number that was used again is in another. Its first thread may
/// end before the others, which hold its files until they have ended too.
pub(crate) fn is_in(pid: Pid, namespace: NetnsId) -> bool {
    threads(pid).any(|thread| namespace_of(&thread) == Some(namespace))
}

/// The folders of a process's threads.
fn threads(pid: Pid) -> impl Iterator<Item = PathBuf> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.map(|thread| thread.path())
}

fn namespace_of(thread: &Path) -> Option<NetnsId> {
    let file = fs::metadata(thread.join("ns/net")).ok()?;
    Some((file.dev(), file.ino()))
}

/// Looks until the condition holds or the time is over; says whether it holds.
pub(crate) fn wait_until(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(LOOK);
    }
}

fn signal_all(namespaces: &[NetnsId], signal: Signal) {
    for pid in others_in(namespaces) {
        // It may have ended since we looked.
        kill(pid, signal).ok();
    }
}

fn wait_until_empty(namespaces: &[NetnsId], patience: Duration) -> Vec<Pid> {
    let mut left = Vec::new();
    wait_until(patience, || {
        left = others_in(namespaces);
        left.is_empty()
    });
    left
}

fn others_in(namespaces: &[NetnsId]) -> Vec<Pid> {
    let me = Pid::this();
    netns::processes_in(namespaces).into_iter().filter(|pid| *pid != me).collect()
}

/// Takes away what an ended child leaves; those of an earlier run are not our children.
fn reap(pid: Pid) {
    waitpid(pid, Some(WaitPidFlag::WNOHANG)).ok();
}
