//! Becoming a command in a namespace of the lab: same process, same terminal, same exit code.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tartan_kernel::netns;
use tartan_model::PodName;

use crate::error::{Usage, require_root};
use crate::names::{LabName, OUTSIDE, WIRE};
use crate::wire;

/// The exit code of a shell for a command that is not there, and for one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// A command that could not be become.
#[derive(Debug)]
pub struct NotStarted {
    /// The exit code that a shell would give.
    pub exit_code: u8,
    /// Why not, for a person.
    pub message: String,
}

/// Becomes the command in a pod. Returns only if that fails.
///
/// # Errors
/// When there is no such pod, or its namespace cannot be entered.
pub fn in_pod(lab: &LabName, pod: &PodName, command: &[OsString]) -> Result<NotStarted> {
    let missing =
        format!("lab {lab}: there is no pod {pod}; `tartan lab status --name {lab}` shows which there are");
    become_in(&lab.pod_netns(pod), missing, command)
}

/// Becomes the command on a node, or on the host beyond the router, which is called `outside`, or on the router,
/// which is called `wire`. Returns only if that fails.
///
/// # Errors
/// When there is no such node, or its namespace cannot be entered.
pub fn on_node(lab: &LabName, node: &str, command: &[OsString]) -> Result<NotStarted> {
    let missing = format!(
        "lab {lab}: there is no node {node}; `tartan lab status --name {lab}` shows which there are, \
         and every lab has {OUTSIDE} and {WIRE}"
    );
    become_in(&lab.netns(node), missing, command)
}

fn become_in(netns_name: &str, missing: String, command: &[OsString]) -> Result<NotStarted> {
    require_root()?;
    if !Path::new(netns::DIRECTORY).join(netns_name).exists() {
        bail!(Usage(missing));
    }
    let Some((program, arguments)) = command.split_first() else {
        bail!(Usage("there is no command; write it behind --, as in -- ip address".into()));
    };
    netns::enter(wire::open(netns_name)?.as_fd())?;
    // A /sys of another namespace only shows other links; the command runs all the same.
    show_own_links().ok();
    let error = Command::new(program).args(arguments).exec();
    let exit_code = if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN };
    Ok(NotStarted { exit_code, message: format!("cannot run {}: {error}", program.to_string_lossy()) })
}

/// Gives the process a /sys with the links of its network namespace, which nobody else sees (ip-netns(8), "exec").
fn show_own_links() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?;
    umount2("/sys", MntFlags::MNT_DETACH)?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>)
}
