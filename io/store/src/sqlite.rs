//! The SQLite driver: one file that the agents of one machine share.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::database::{Database, Fault, from_column, to_column};
use crate::watch::{Range, SqliteWatch, append, store_revision};
use crate::{
    Clock, Durability, Entry, Expect, History, Lease, Listing, OpenError, Revision, Store, StoreError, Watch,
    boot_clock, check_key, check_prefix, check_value, lease, open, wake,
};

/// A store in one file on a local disk, for the agents of one machine.
#[derive(Debug, Clone)]
pub struct Sqlite {
    database: Arc<Database>,
}

impl Sqlite {
    /// Opens the file, or makes it (mode 0600) and its folder (0700).
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the file and what to do.
    pub fn open(path: &Path) -> Result<Sqlite, OpenError> {
        Sqlite::open_by(path, boot_clock)
    }

    /// The same with a clock that is handed in.
    ///
    /// # Errors
    /// As [`Sqlite::open`].
    pub fn open_by(path: &Path, clock: Clock) -> Result<Sqlite, OpenError> {
        Ok(Sqlite { database: Arc::new(open::open(path, clock)?) })
    }

    /// From now on no commit of this connection waits for the disk: neither to move the write-ahead log into the file nor
    /// to begin it anew. Another connection has to [`Sqlite::checkpoint`], and to be closed last.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub fn leave_log(&self) -> Result<(), StoreError> {
        self.database.statement(|connection| {
            connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
            connection.pragma_update(None, "synchronous", "OFF")?;
            Ok(())
        })
    }

    /// Moves the write-ahead log into the file and empties it, as far as nobody is in the way. Others write meanwhile: they
    /// are only kept out of the second step, which finds nothing left to wait for (sqlite.org/pragma.html#pragma_wal_checkpoint).
    /// The log is emptied, not written over: after a loss of power, old pages between new ones would be taken for new.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.database.statement(|connection| {
            for step in ["PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(TRUNCATE)"] {
                connection.query_row(step, [], |_| Ok(()))?;
            }
            let mut log = self.database.path.clone().into_os_string();
            log.push("-wal");
            Ok(std::fs::File::open(log)?.sync_all()?)
        })
    }

    /// Writes (Some) and deletes (None) all of these keys, or none of them. Survives kill -9.
    ///
    /// # Errors
    /// As [`Store::put`], whatever the keys held before.
    pub fn write_all(&self, writes: &[(String, Option<Vec<u8>>)]) -> Result<(), StoreError> {
        for (key, value) in writes {
            check_key(key)?;
            value.as_ref().map_or(Ok(()), |value| check_value(key, value))?;
        }
        self.database.write(Durability::Crash, |transaction| {
            for (key, value) in writes {
                match value {
                    Some(value) => drop(write(transaction, key, value)?),
                    None => drop(erase(transaction, key, Expect::Any)?),
                }
            }
            Ok(())
        })?;
        wake::ring(&self.database.watchers);
        Ok(())
    }
}

impl Store for Sqlite {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        self.database.read(|transaction| {
            let mut statement =
                transaction.prepare_cached("SELECT key, value, revision FROM entry WHERE key = ?1")?;
            Ok(statement.query_row([key], entry).optional()?)
        })
    }

    fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        check_prefix(prefix)?;
        let range = Range::of(prefix);
        self.database.read(|transaction| {
            let revision = store_revision(transaction)?;
            let mut statement = transaction.prepare_cached(
                "SELECT key, value, revision FROM entry WHERE key >= ?1 AND key < ?2 ORDER BY key",
            )?;
            let entries = statement.query_map([&range.from, &range.to], entry)?.collect::<Result<_, _>>()?;
            // A file that was replaced is not read at all.
            Ok(Listing { entries, revision, history: History::default() })
        })
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        check_prefix(prefix)?;
        Ok(Box::new(SqliteWatch::start(Arc::clone(&self.database), prefix, after)?))
    }

    fn put(
        &self,
        key: &str,
        value: &[u8],
        expect: Expect,
        durability: Durability,
    ) -> Result<Revision, StoreError> {
        check_key(key)?;
        check_value(key, value)?;
        let revision = self.database.write(durability, |transaction| {
            compare(transaction, key, expect)?;
            write(transaction, key, value)
        })?;
        wake::ring(&self.database.watchers);
        Ok(revision)
    }

    fn delete(&self, key: &str, expect: Expect) -> Result<Option<Revision>, StoreError> {
        check_key(key)?;
        let revision =
            self.database.write(Durability::Crash, |transaction| erase(transaction, key, expect))?;
        if revision.is_some() {
            wake::ring(&self.database.watchers);
        }
        Ok(revision)
    }

    fn take_lease(&self, name: &str, holder: &str, ttl: Duration, force: bool) -> Result<(), StoreError> {
        check_key(name)?;
        check_key(holder)?;
        lease::take(&self.database, name, holder, ttl, force)
    }

    fn renew_lease(&self, name: &str, holder: &str, ttl: Duration) -> Result<(), StoreError> {
        check_key(name)?;
        check_key(holder)?;
        lease::renew(&self.database, name, holder, ttl)
    }

    fn release_lease(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        check_key(name)?;
        check_key(holder)?;
        lease::release(&self.database, name, holder)
    }

    fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        lease::all(&self.database)
    }
}

fn write(transaction: &Transaction<'_>, key: &str, value: &[u8]) -> Result<Revision, Fault> {
    let revision = append(transaction, key)?;
    transaction
        .prepare_cached(
            "INSERT INTO entry (key, value, revision) VALUES (?1, ?2, ?3)
             ON CONFLICT (key) DO UPDATE SET value = ?2, revision = ?3",
        )?
        .execute(params![key, value, to_column(revision)])?;
    Ok(revision)
}

/// None when there was nothing under `key`.
fn erase(transaction: &Transaction<'_>, key: &str, expect: Expect) -> Result<Option<Revision>, Fault> {
    if compare(transaction, key, expect)?.is_none() {
        return Ok(None);
    }
    transaction.prepare_cached("DELETE FROM entry WHERE key = ?1")?.execute([key])?;
    Ok(Some(append(transaction, key)?))
}

/// The revision found under `key`, if `expect` allows it.
fn compare(transaction: &Transaction<'_>, key: &str, expect: Expect) -> Result<Option<Revision>, Fault> {
    let found = transaction
        .prepare_cached("SELECT revision FROM entry WHERE key = ?1")?
        .query_row([key], |row| row.get(0).map(from_column))
        .optional()?;
    if expect.holds(found) {
        return Ok(found);
    }
    Err(StoreError::Conflict { key: key.to_owned(), found }.into())
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry { key: row.get(0)?, value: row.get(1)?, revision: from_column(row.get(2)?) })
}
