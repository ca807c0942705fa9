//! What the scenarios share: a lock on the machine, a lab that is taken down by itself, probes and traces.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "this is test code: to fail is its work"
)]

mod agents;
pub mod before;
pub mod births;
mod cluster;
mod crowd;
mod datagrams;
mod etcd;
pub mod figures;
mod interrupt;
mod left;
mod nat;
mod plugin;
pub mod policies;
mod probe;
mod story;
pub mod streams;
mod traces;
mod visitor;
mod wait;
pub mod way;
mod witness;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use tartan_kernel::netns;

pub use cluster::{Lab, Run, programs, run, run_command};
pub use crowd::{CROWD_POOLS, PER_PEER, pod_of_peer};
pub use datagrams::Place;
pub use left::left_of_pods;
pub use plugin::{Container, run_plugin, start_plugin};
pub use probe::{Outcome, Probe, Probes};
pub use story::{Chance, Story};
pub use traces::Traces;
pub use visitor::{Host, Seen};
pub use wait::{holds_within, wait_until, wait_until_traced};
pub use witness::{State, Witness};

/// As long as this lives, no other test that takes the lock runs on this machine.
pub struct Lock {
    _file: Flock<File>,
}

/// Waits until no other test that uses the machine's network runs.
pub fn lock() -> Lock {
    let file = File::create("/run/lock/tartan-test").expect("/run/lock can be written");
    Lock { _file: Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).expect("a lock") }
}

/// Does something in a network namespace, named by its file.
pub fn inside<T: Send>(netns: &Path, run: impl FnOnce() -> T + Send) -> T {
    let netns = netns::open(netns).expect("the namespace");
    netns::run_in(netns.as_fd(), run).expect("to enter it")
}
