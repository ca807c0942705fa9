//! The folder of named namespaces, `/run/netns`, which must be a mount point that is shared (ip-netns(8)).
//!
//! On a machine where nobody made it one yet, the lab mounts a small file system there whose source bears the lab's
//! mark: so the last `down` finds it by looking at the mounts, also when no file is left, and takes it away.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount, umount};
use tartan_kernel::netns;

/// The mark on a mount over a folder that was there.
const MARK: &str = "tartan-lab";
/// The mark on a mount over a folder that we made.
const MARK_WITH_FOLDER: &str = "tartan-lab-folder";
/// Names need no room but their inodes.
const OPTIONS: &str = "size=1m,mode=755";

/// Makes the folder a mount point if nobody has; leaves it alone if anything is in it.
///
/// # Errors
/// When it cannot be mounted.
pub(crate) fn share_namespaces() -> Result<()> {
    let folder = Path::new(netns::DIRECTORY);
    if mount_source(folder)?.is_some() {
        return Ok(());
    }
    let mark = match fs::create_dir(folder) {
        Ok(()) => MARK_WITH_FOLDER,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => MARK,
        Err(error) => return Err(error).with_context(|| format!("cannot create {}", folder.display())),
    };
    if fs::read_dir(folder)?.next().is_some() {
        return Ok(());
    }
    mount(Some(mark), folder, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(OPTIONS))
        .with_context(|| format!("cannot mount a file system at {}", folder.display()))
}

/// Undoes [`share_namespaces`] if no name is left in the folder; true if it did.
///
/// # Errors
/// When the mount is ours and cannot be undone.
pub(crate) fn unshare_namespaces() -> Result<bool> {
    let folder = Path::new(netns::DIRECTORY);
    let source = mount_source(folder)?;
    let Some(mark) = source.filter(|source| [MARK, MARK_WITH_FOLDER].contains(&source.as_str())) else {
        return Ok(false);
    };
    if fs::read_dir(folder)?.next().is_some() {
        return Ok(false);
    }
    match umount(folder) {
        Ok(()) => {}
        // Somebody is just making a namespace there.
        Err(Errno::EBUSY) => return Ok(false),
        Err(errno) => return Err(errno).with_context(|| format!("cannot unmount {}", folder.display())),
    }
    if mark == MARK_WITH_FOLDER {
        fs::remove_dir(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(true)
}

/// What is mounted at a path, the topmost; None if it is no mount point.
fn mount_source(path: &Path) -> Result<Option<String>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(mounts.lines().filter_map(|line| source_at(line, path)).next_back())
}

/// A line of mountinfo (proc_pid_mountinfo(5)): the fifth field is the mount point, and the second behind the lone
/// dash is the source.
fn source_at(line: &str, path: &Path) -> Option<String> {
    let (mount, file_system) = line.split_once(" - ")?;
    let point = mount.split(' ').nth(4)?;
    let source = file_system.split(' ').nth(1)?;
    (Path::new(point) == path).then(|| source.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_a_mount_is_read_at_its_point_only() {
        let line = "58 22 0:41 / /run/netns rw,nosuid shared:7 - tmpfs tartan-lab rw,size=1024k";
        assert_eq!(source_at(line, Path::new("/run/netns")).as_deref(), Some("tartan-lab"));
        assert_eq!(source_at(line, Path::new("/run")), None);
        assert_eq!(source_at("garbage", Path::new("/run")), None);
    }
}
