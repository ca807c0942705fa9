//! A store in a folder of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::suite::Shared;
use tartan_store::{Sqlite, Store};

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

impl Shared for Place {
    fn instance(&self) -> Box<dyn Store> {
        Box::new(self.open())
    }

    fn brief(&self) -> Duration {
        Duration::from_millis(400)
    }
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
