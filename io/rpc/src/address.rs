//! Socket addresses for paths of any length.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::UnixAddr;

/// The longest path that fits a socket address, in bytes (unix(7)).
const MAX_PATH: usize = 107;

/// The address of a socket. The folder, if there is one, must stay open as long as the address is used.
pub(crate) fn of(path: &Path) -> Result<(UnixAddr, Option<File>), Errno> {
    if path.as_os_str().len() <= MAX_PATH {
        return Ok((UnixAddr::new(path)?, None));
    }
    let (folder, name) = path.parent().zip(path.file_name()).ok_or(Errno::ENAMETOOLONG)?;
    let folder = File::open(folder)
        .map_err(|error| error.raw_os_error().map_or(Errno::ENAMETOOLONG, Errno::from_raw))?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok((UnixAddr::new(&short)?, Some(folder)))
}
