//! The agents of a lab: each is `tartand` in its node's namespace.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use tartan_api::rpc::{Answer, Request};
use tartan_api::verb::Status;
use tartan_kernel::netns::{self, NetnsId};

use crate::error::Unreachable;
use crate::names::{LabName, LabNode};
use crate::process;
use crate::programs::{Programs, spawn_in};
use crate::store;
use crate::wire::{self, INTERFACE};

/// How long an agent may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(5);
/// How long a new process may take to bear its program's name.
const NAMED: Duration = Duration::from_secs(1);
/// How long an agent may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How many lines of a log are shown with a failure.
const LOG_LINES: usize = 15;
/// How much of a log's end is looked at for them.
const LOG_BYTES: u64 = 16 << 10;

/// Writes an agent's configuration.
///
/// # Errors
/// When a file cannot be written.
pub fn configure(lab: &LabName, node: &LabNode, store: &str) -> Result<()> {
    let files = lab.files(node);
    for folder in [&store::folder(lab), files.directory()] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let text = format!(
        "node_name = {:?}\nstore = {store:?}\nstate_dir = {:?}\nrun_dir = {:?}\ninterface = {INTERFACE:?}\n",
        node.as_str(),
        files.state(),
        files.directory(),
    );
    let config = files.config();
    fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))
}

/// Starts an agent. It is not waited for.
///
/// # Errors
/// When the node has no namespace, or the program cannot be started.
pub fn start(lab: &LabName, node: &LabNode, programs: &Programs) -> Result<()> {
    let files = lab.files(node);
    let log = OpenOptions::new().create(true).append(true).open(files.log());
    let log = log.with_context(|| format!("cannot open {}", files.log().display()))?;
    let mut command = Command::new(programs.tartand());
    command.arg("--config").arg(files.config()).current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    without_our_settings(&mut command);
    let mut child = spawn_in(wire::open(&lab.netns(node.as_str()))?.as_fd(), &mut command)?;
    let pid_file = files.pid();
    fs::write(&pid_file, format!("{}\n", child.id()))
        .with_context(|| format!("cannot write {}", pid_file.display()))?;
    // The kernel lets us go on a moment before it gives the process its new name (`begin_new_exec`, fs/exec.c).
    process::wait_until(NAMED, || pid(lab, node).is_some() || !matches!(child.try_wait(), Ok(None)));
    Ok(())
}

/// Ends an agent: by this signal, and by SIGKILL if that does not help within 5 seconds. Of one that is ending by itself
/// only the end is waited for; does nothing if none runs.
///
/// # Errors
/// When it is still there after that.
pub fn end(lab: &LabName, node: &LabNode, signal: Signal) -> Result<()> {
    if let Some(pid) = last(lab, node)
        && !process::end(pid, namespace_of(lab, node)?, signal, STOP)
    {
        bail!("node {node}: the agent (process {pid}) does not end, not even by SIGKILL");
    }
    fs::remove_file(lab.files(node).pid()).ok();
    Ok(())
}

/// The process of an agent that runs.
pub fn pid(lab: &LabName, node: &LabNode) -> Option<Pid> {
    let namespace = namespace_of(lab, node).ok()?;
    last(lab, node).filter(|pid| process::is_in(*pid, namespace))
}

/// The process that was started last, as long as anything is left of it.
fn last(lab: &LabName, node: &LabNode) -> Option<Pid> {
    let text = fs::read_to_string(lab.files(node).pid()).ok()?;
    let pid = Pid::from_raw(text.trim().parse().ok().filter(|pid| *pid > 1)?);
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == "tartand").then_some(pid)
}

/// Asks an agent.
///
/// # Errors
/// [`Unreachable`] when it does not answer in time; what it says when it refuses.
pub fn ask<T: DeserializeOwned>(
    lab: &LabName,
    node: &LabNode,
    request: &Request,
    patience: Duration,
) -> Result<T> {
    let unreachable = || Unreachable(format!("node {node}: its agent does not answer"));
    match tartan_rpc::call(&lab.files(node).socket(), request, None, patience).with_context(unreachable)? {
        Answer::Ok(value) => serde_json::from_value(value)
            .with_context(|| format!("node {node}: the agent's answer makes no sense")),
        Answer::Error(failure) => Err(Error::new(failure).context(format!("node {node}"))),
    }
}

/// What an agent says of itself.
///
/// # Errors
/// When it does not answer.
pub fn status(lab: &LabName, node: &LabNode) -> Result<Status> {
    ask(lab, node, &Request::Status, ANSWER)
}

/// Waits until an agent answers at all.
///
/// # Errors
/// When it ends, or does not answer in time; with the end of its log.
pub fn wait_for_answer(
    lab: &LabName,
    node: &LabNode,
    patience: Duration,
    stop: &dyn Fn() -> Result<()>,
) -> Result<()> {
    wait(lab, node, patience, stop, |_| None)
}

/// Waits until an agent is healthy and has this many peers up at least.
///
/// # Errors
/// When it ends, or is not healthy in time; with its reasons and the end of its log.
pub fn wait_until_healthy(
    lab: &LabName,
    node: &LabNode,
    peers: usize,
    patience: Duration,
    stop: &dyn Fn() -> Result<()>,
) -> Result<()> {
    wait(lab, node, patience, stop, |status| {
        if !status.healthy {
            Some(format!("it is not healthy: {}", status.reasons.join("; ")))
        } else if status.peers.up < peers {
            Some(format!("{} of {peers} peers are up", status.peers.up))
        } else {
            None
        }
    })
}

/// Adds to an error which node it is about, and the end of that node's log.
pub fn with_log(lab: &LabName, node: &LabNode, error: &Error) -> Error {
    let path = lab.files(node).log();
    match last_lines(&path) {
        Ok(lines) if !lines.is_empty() => {
            anyhow::anyhow!("node {node}: {error:#}\nThe end of {}:\n{lines}", path.display())
        }
        _ => anyhow::anyhow!("node {node}: {error:#}\n{} is empty", path.display()),
    }
}

/// Waits until the agent answers and nothing is missing.
fn wait(
    lab: &LabName,
    node: &LabNode,
    patience: Duration,
    stop: &dyn Fn() -> Result<()>,
    missing: impl Fn(&Status) -> Option<String>,
) -> Result<()> {
    let mut reason = None;
    let mut stopped = Ok(());
    let done = process::wait_until(patience, || {
        stopped = stop();
        reason = match status(lab, node) {
            Ok(status) => missing(&status),
            Err(error) => Some(format!("{error:#}")),
        };
        reason.is_none() || stopped.is_err() || pid(lab, node).is_none()
    });
    stopped?;
    match reason {
        None => Ok(()),
        Some(_) if done => Err(with_log(lab, node, &anyhow::anyhow!("the agent has ended"))),
        Some(reason) => {
            let seconds = patience.as_secs();
            Err(with_log(lab, node, &anyhow::anyhow!("not ready after {seconds} s: {reason}")))
        }
    }
}

fn namespace_of(lab: &LabName, node: &LabNode) -> Result<NetnsId> {
    Ok(netns::id(wire::open(&lab.netns(node.as_str()))?.as_fd())?)
}

/// What the caller has set for an agent of its own is not for those of the lab.
pub(crate) fn without_our_settings(command: &mut Command) {
    let ours = std::env::vars_os().map(|(name, _)| name);
    for name in ours.filter(|name| name.to_string_lossy().starts_with("TARTAN_")) {
        command.env_remove(name);
    }
}

fn last_lines(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default();
    Ok(last.iter().map(|line| format!("  {line}\n")).collect::<String>().trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_fifteen_lines() {
        let path = std::env::temp_dir().join(format!("tartan-netlab-log-{}", std::process::id()));
        let text: String = (1..=40).map(|line| format!("line {line}\n")).collect();
        fs::write(&path, text).unwrap();
        let lines = last_lines(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(lines.lines().count(), 15);
        assert!(lines.starts_with("  line 26\n") && lines.ends_with("  line 40"), "{lines}");
    }
}
