//! The container's network namespace: opened once, checked, and then known by its descriptor only.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{fstat, stat};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::failure::{Failure, code};

/// Opens a container's network namespace.
pub(crate) fn open(path: &Path) -> Result<OwnedFd, Failure> {
    check(path).map_err(|reason| {
        let msg = format!(
            "CNI_NETNS: {} {reason}; give the path of the container's network namespace",
            path.display()
        );
        Failure::new(code::ENVIRONMENT, msg)
    })
}

fn check(path: &Path) -> Result<OwnedFd, String> {
    // A FIFO in its place must not block us.
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    let netns = OwnedFd::from(opened.map_err(|error| format!("cannot be opened ({error})"))?);
    let failed = |errno: Errno| format!("cannot be looked at ({})", errno.desc());
    if fstatfs(&netns).map_err(failed)?.filesystem_type() != NSFS_MAGIC || is_other_kind(&netns) {
        return Err("is not a network namespace".into());
    }
    let found = fstat(&netns).map_err(failed)?;
    // Without /proc there is nothing to compare with; the agent compares again.
    if stat("/proc/self/ns/net").is_ok_and(|own| (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino)) {
        return Err("is the host's own network namespace".into());
    }
    Ok(netns)
}

/// Whether it is another kind of namespace: such a one cannot be entered as a network's (setns(2), EINVAL).
fn is_other_kind(netns: &OwnedFd) -> bool {
    // Entering moves the thread, so it is one that ends.
    std::thread::scope(|scope| {
        scope.spawn(|| setns(netns, CloneFlags::CLONE_NEWNET) == Err(Errno::EINVAL)).join().unwrap_or(false)
    })
}
