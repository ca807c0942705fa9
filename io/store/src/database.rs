//! The open database: one connection, its transactions, and what a failure in them becomes.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::{Clock, Durability, Revision, StoreError};

/// One open database file, shared by the store and its watches.
#[derive(Debug)]
pub(crate) struct Database {
    /// Absolute and free of symbolic links, so that all who open the file agree on the watchers' folder.
    pub(crate) path: PathBuf,
    /// Which file was opened there.
    pub(crate) file: FileId,
    /// Where watchers hang their bells.
    pub(crate) watchers: PathBuf,
    /// Which boot this is.
    pub(crate) boot: String,
    /// What leases go by.
    pub(crate) clock: Clock,
    /// The one connection.
    pub(crate) session: Mutex<Session>,
}

/// A connection and what its commits survive at present.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) durability: Durability,
}

/// A file's identity, whatever its name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> Self {
        FileId { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// What stopped an operation: an answer for the caller, or something underneath.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Answer(#[from] StoreError),
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    #[error(transparent)]
    System(#[from] io::Error),
    #[error("the file was removed or replaced while it was open; restart the agent to use what is there now")]
    Replaced,
}

impl Database {
    /// Runs `work` on one consistent snapshot.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.tell(self.session().and_then(|mut session| {
            work(&session.connection.transaction_with_behavior(TransactionBehavior::Deferred)?)
        }))
    }

    /// Runs `work` as the only writer, and commits if it succeeds.
    pub(crate) fn write<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.tell(self.session().and_then(|mut session| {
            session.make(durability)?;
            let transaction = session.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        }))
    }

    /// Runs `work`, which is a single writing statement and commits by itself; it survives a crash.
    pub(crate) fn statement<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.tell(self.session().and_then(|mut session| {
            session.make(Durability::Crash)?;
            work(&session.connection)
        }))
    }

    /// Turns a fault into what the caller sees.
    pub(crate) fn tell<T>(&self, outcome: Result<T, Fault>) -> Result<T, StoreError> {
        outcome.map_err(|fault| match fault {
            Fault::Answer(answer) => answer,
            fault => StoreError::Unavailable {
                store: format!("sqlite://{}", self.path.display()),
                source: Box::new(fault),
            },
        })
    }

    /// SQLite goes on writing into a file that has lost its name, unseen by every other agent: so look first.
    fn session(&self) -> Result<MutexGuard<'_, Session>, Fault> {
        // A panic while it was held has rolled its transaction back.
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        match std::fs::metadata(&self.path) {
            Ok(metadata) if FileId::from(&metadata) == self.file => Ok(session),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Err(Fault::Replaced),
        }
    }
}

impl Session {
    /// Makes the next commits survive what `durability` says.
    fn make(&mut self, durability: Durability) -> rusqlite::Result<()> {
        if self.durability != durability {
            self.connection.pragma_update(None, "synchronous", level(durability))?;
            self.durability = durability;
        }
        Ok(())
    }
}

/// With a write-ahead log NORMAL syncs at checkpoints only, FULL at each commit (sqlite.org/pragma.html#pragma_synchronous).
pub(crate) fn level(durability: Durability) -> &'static str {
    match durability {
        Durability::Crash => "NORMAL",
        Durability::Power => "FULL",
    }
}

/// A revision as SQLite's signed integer.
pub(crate) fn to_column(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// A revision from SQLite's signed integer.
pub(crate) fn from_column(column: i64) -> Revision {
    Revision(u64::try_from(column).unwrap_or(0))
}
