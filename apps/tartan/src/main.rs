//! The Tartan command line: asks the node's agent and shows its answer.

mod args;
mod ask;
mod bundle;
mod check;
mod files;
mod lab;
mod output;
mod secrets;
mod table;
mod uninstall;
mod verbs;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Usage};
use files::BadInput;
use tartan_api::rpc::Failure;
use tartan_rpc::RpcError;

fn main() -> ExitCode {
    let cli = Cli::from_arg_matches_mut(&mut command().get_matches()).unwrap_or_else(|error| error.exit());
    verbs::run(cli).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(exit_code(&error))
    })
}

/// kubectl finds the program as a plugin, and its users type `kubectl tartan`.
fn command() -> clap::Command {
    let called = std::env::args_os().next().unwrap_or_default();
    let is_plugin = called.to_string_lossy().ends_with("kubectl-tartan");
    Cli::command().bin_name(if is_plugin { "kubectl tartan" } else { "tartan" })
}

/// 1: the answer is no. 2: the input is wrong. 3: the agent or the store cannot be reached.
fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.code.exit_code();
    }
    match error.downcast_ref::<RpcError>() {
        Some(RpcError::LongRequest { .. }) => 2,
        Some(_) => 3,
        None if error.is::<Usage>() || error.is::<BadInput>() => 2,
        None => 1,
    }
}
