//! Waking watchers in other processes: each has a datagram socket in a folder beside the database.
//!
//! After a commit the writer sends one byte to every socket there. Pathname sockets work across network
//! namespaces, and unlike inotify (128 instances an account) they have no limit of their own.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::lease::boot_clock;

/// A watcher's socket; dropping it removes its file.
#[derive(Debug)]
pub(crate) struct Bell {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Bell {
    /// Hangs a new bell into `folder`, which is made if need be; it has rung once already.
    pub(crate) fn hang(folder: &Path) -> io::Result<Bell> {
        make_folder(folder)?;
        let dir = File::open(folder)?;
        // Process ids repeat between pid namespaces and over time, the pair with the clock does not.
        let name = format!("{}.{}", std::process::id(), boot_clock()?.as_nanos());
        // A socket's file exists a moment before the kernel knows the socket, and a writer would take it for a dead
        // one: so it is bound under a name that writers pass over.
        let hidden = format!(".{name}");
        let socket = UnixDatagram::bind(through(&dir, OsStr::new(&hidden)))?;
        let bell = Bell { socket, path: folder.join(&name) };
        fs::rename(folder.join(&hidden), &bell.path)?;
        bell.socket.set_nonblocking(true)?;
        ring_once(&dir, OsStr::new(&name))?;
        Ok(bell)
    }

    /// Takes in every byte that was sent, so that the descriptor is quiet until the next one.
    pub(crate) fn drain(&self) -> io::Result<()> {
        let mut byte = [0];
        loop {
            match self.socket.recv(&mut byte) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        // Already gone if the whole folder was removed; otherwise the next writer sweeps it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Rings every bell in `folder`, and removes those whose owner is dead.
///
/// The commit is done, so a failure here is only told to the log.
pub(crate) fn ring(folder: &Path) {
    if let Err(error) = ring_all(folder) {
        tracing::warn!(folder = %folder.display(), %error, "watchers were not woken; they see the change at their next look");
    }
}

fn ring_all(folder: &Path) -> io::Result<()> {
    let dir = match File::open(folder) {
        Ok(dir) => dir,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let sender = sender()?;
    for bell in fs::read_dir(folder)? {
        let name = bell?.file_name();
        if !name.as_bytes().starts_with(b".") {
            ring_one(&sender, &dir, folder, &name);
        }
    }
    Ok(())
}

fn ring_one(sender_of_all: &UnixDatagram, dir: &File, folder: &Path, name: &OsStr) {
    let sent = send(sender_of_all, dir, name).or_else(|error| match error.kind() {
        // Either the receiver's queue is full, or ours is with what others have not yet taken in: a fresh
        // sender tells which.
        ErrorKind::WouldBlock => send(&sender()?, dir, name),
        _ => Err(error),
    });
    let Err(error) = sent else { return };
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::NotFound => {}
        ErrorKind::ConnectionRefused => {
            let _ = fs::remove_file(folder.join(name));
        }
        _ => tracing::warn!(?name, %error, "a watcher was not woken; it sees the change at its next look"),
    }
}

/// Rings a bell of which a writer may know already: one whose queue is full has rung.
fn ring_once(dir: &File, name: &OsStr) -> io::Result<()> {
    match send(&sender()?, dir, name) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        sent => sent,
    }
}

fn send(sender: &UnixDatagram, dir: &File, name: &OsStr) -> io::Result<()> {
    sender.send_to(&[1], through(dir, name)).map(|_| ())
}

fn sender() -> io::Result<UnixDatagram> {
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    Ok(sender)
}

fn make_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// A socket's address holds 108 bytes of path (unix(7)), so deep folders are named by descriptor.
fn through(dir: &File, name: &OsStr) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_that_many_have_rung_has_rung() {
        let folder = tempfile::tempdir().unwrap();
        let dir = File::open(folder.path()).unwrap();
        let bell = UnixDatagram::bind(folder.path().join("bell")).unwrap();
        bell.set_nonblocking(true).unwrap();
        let name = OsStr::new("bell");
        while send(&sender().unwrap(), &dir, name).is_ok() {}
        ring_once(&dir, name).unwrap();
        assert_eq!(bell.recv(&mut [0]).unwrap(), 1);
    }
}
