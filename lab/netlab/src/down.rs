//! Taking a lab down: everything of it is found by name and by what runs in its namespaces, never by its files.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use tartan_kernel::netns::{self, NetnsId};

use crate::error::gather;
use crate::names::{DIRECTORY, LabName};
use crate::{process, shared, wire};

/// How long processes may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(2);

/// Takes a lab down; false if there was none.
///
/// # Errors
/// Everything that could not be taken away, after all that could has been.
pub fn down(lab: &LabName) -> Result<bool> {
    let names = namespaces(lab)?;
    let had_files = lab.directory().exists();
    let mut results = vec![end_processes(&names)];
    results.extend(names.iter().map(|name| Ok(netns::remove(name).map(drop)?)));
    results.push(remove_folder(&lab.directory()));
    results.push(leave());
    gather(&format!("lab {lab} is not quite down, try again"), results)?;
    Ok(had_files || !names.is_empty())
}

/// The labs that are up, or of which something is left.
///
/// # Errors
/// When the folders of labs or of namespaces cannot be read.
pub fn labs() -> Result<BTreeSet<LabName>> {
    let by_namespace = netns::list()?.into_iter().filter_map(|name| LabName::of_netns(&name));
    let mut labs: BTreeSet<LabName> = by_namespace.collect();
    match fs::read_dir(DIRECTORY) {
        Ok(entries) => {
            labs.extend(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {DIRECTORY}")),
    }
    Ok(labs)
}

/// The namespaces of a lab, by their names.
///
/// # Errors
/// When the folder of namespaces cannot be read.
pub fn namespaces(lab: &LabName) -> Result<Vec<String>> {
    Ok(netns::list()?.into_iter().filter(|name| lab.place(name).is_some()).collect())
}

/// Ends what runs in these namespaces.
pub(crate) fn end_processes(names: &[String]) -> Result<()> {
    // A name whose namespace cannot be opened, left by somebody who was stopped half way, has no process.
    let identity = |name: &String| -> Option<NetnsId> { netns::id(wire::open(name).ok()?.as_fd()).ok() };
    let ids: Vec<NetnsId> = names.iter().filter_map(identity).collect();
    if ids.is_empty() {
        return Ok(());
    }
    match process::end_all(&ids, STOP).as_slice() {
        [] => Ok(()),
        left => bail!("processes {left:?} do not end, not even by SIGKILL"),
    }
}

/// What all labs share goes with the last of them.
fn leave() -> Result<()> {
    match fs::remove_dir(DIRECTORY) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => return Ok(()),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {DIRECTORY}"));
        }
        _ => {}
    }
    shared::unshare_namespaces().map(drop)
}

/// Agents mount what keeps their programs (proc_pid_mountinfo(5)).
fn unmount_below(path: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read what is mounted")?;
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4).map(Path::new));
    for place in places.filter(|place| place.starts_with(path)) {
        umount2(place, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", place.display()))?;
    }
    Ok(())
}

/// Removes a folder with everything in it, if it is there. What is mounted in it is unmounted.
///
/// # Errors
/// When something of it cannot be removed.
pub fn remove_folder(path: &Path) -> Result<()> {
    unmount_below(path)?;
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
