//! The Tartan CNI plugin: hands what the container runtime wants to the node's agent, and the agent's answer back
//! (https://www.cni.dev/docs/spec/). It keeps no state, starts no program and touches no network itself.

mod ask;
mod config;
mod environment;
mod failure;
mod gc;
mod netns;
mod outcome;
mod pod;
mod serve;

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::Value;
use tartan_api::cni::Version;

use environment::Environment;
use failure::Failure;

fn main() -> ExitCode {
    let deadline = Instant::now() + serve::TIMEOUT;
    let text = config::read(std::io::stdin().lock());
    let version = text.as_ref().ok().and_then(|text| config::version(text).ok()).unwrap_or(Version::NEWEST);
    let served = text.and_then(|text| serve::command(&Environment::of_process(), &text, deadline));
    match served {
        Ok(answer) => say(answer, ExitCode::SUCCESS),
        Err(failure) => say(Some(failure.json(version)), ExitCode::FAILURE),
    }
}

/// Writes the answer for the runtime; one that cannot be written fails the command, so that it is done again.
fn say(answer: Option<Value>, code: ExitCode) -> ExitCode {
    let Some(answer) = answer else { return code };
    match writeln!(std::io::stdout().lock(), "{answer:#}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What a command says on standard output, or why it failed.
type Served = Result<Option<Value>, Failure>;
