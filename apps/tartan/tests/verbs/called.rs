//! By what name it is called, and who reads what it says.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::harness::{Agent, run};

#[test]
fn as_a_kubectl_plugin_it_is_called_so() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tartan"));
    let ran = run(command.arg0("/usr/bin/kubectl-tartan").args(["get", "--help"]), "");
    assert!(ran.stdout.contains("Usage: kubectl tartan get "), "{}", ran.stdout);
}

#[test]
fn a_reader_that_stops_early_is_no_error() {
    let agent = Agent::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tartan"));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = command.arg("nodes").env("TARTAN_SOCKET", agent.socket()).stdout(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn members_are_etcds_only() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tartan"));
    let ran = run(command.args(["lab", "up", "--etcd-members", "3"]), "");
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("--etcd-members goes with --store etcd"), "{ran:?}");
}
