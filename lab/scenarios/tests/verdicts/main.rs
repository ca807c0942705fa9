//! Verdicts over time: what lives when policy changes, when agents die, when pods come.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

mod births;
mod cut;
mod deaths;
mod reuse;

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tartan_scenarios::policies::{add_pods, apply, lab, only_from};
use tartan_scenarios::{Lab, inside};

/// Whether a TCP connection opens from a namespace, within a second.
fn connects(from: &Path, to: IpAddr, port: u16) -> bool {
    let connect = || std::net::TcpStream::connect_timeout(&(to, port).into(), Duration::from_secs(1)).is_ok();
    inside(from, connect)
}

/// Runs a command on the node `n1`; whether it succeeded.
fn on_node(lab: &Lab, command: &str) -> bool {
    let netns = format!("tartan-{}_n1", lab.name());
    let mut ip = Command::new("ip");
    ip.args(["netns", "exec", &netns, "sh", "-c", command]);
    ip.output().expect("ip").status.success()
}
