//! A store in a folder of its own, and waiting for a watch.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tartan_store::{Durability, Expect, Revision, Sqlite, Store, Watch};

/// A folder that vanishes with the test, and the database's path in it.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) file: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tartan.db");
        Place { folder, file }
    }

    /// One more instance on the same file, as another agent would open it.
    pub(crate) fn open(&self) -> Sqlite {
        Sqlite::open(&self.file).unwrap()
    }

    /// Where watchers hang their sockets.
    pub(crate) fn bells(&self) -> PathBuf {
        self.folder.path().join("tartan.db.watch")
    }
}

/// Writes whatever is there.
pub(crate) fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    store.put(key, value.as_bytes(), Expect::Any, Durability::Crash).unwrap()
}

/// Whether the watch's descriptor is readable within `timeout`.
pub(crate) fn woken(watch: &dyn Watch, timeout: Duration) -> bool {
    let mut descriptors = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
    poll(&mut descriptors, PollTimeout::try_from(timeout).unwrap()).unwrap() == 1
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
