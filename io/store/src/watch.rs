//! Watching: the log of revisions, its bound, and reading on from where one was.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rusqlite::{Row, Transaction, params};

use crate::database::{Database, Fault, from_column, to_column};
use crate::wake::Bell;
use crate::{Change, Entry, Revision, StoreError, Watch};

/// How many revisions the SQLite driver remembers; a watch further behind is told to list anew.
pub const LOG_KEEP: u64 = 10_000;

/// A watch on the SQLite driver.
pub(crate) struct SqliteWatch {
    database: Arc<Database>,
    bell: Bell,
    range: Range,
    last: Revision,
}

impl SqliteWatch {
    pub(crate) fn start(
        database: Arc<Database>,
        prefix: &str,
        after: Revision,
    ) -> Result<SqliteWatch, StoreError> {
        let bell = database.tell(Bell::hang(&database.watchers).map_err(Fault::from))?;
        Ok(SqliteWatch { database, bell, range: Range::of(prefix), last: after })
    }
}

impl Watch for SqliteWatch {
    fn changes(&mut self) -> Result<Vec<Change>, StoreError> {
        // Drained first: a write during the reading rings again.
        self.database.tell(self.bell.drain().map_err(Fault::from))?;
        let (changes, last) = self.database.read(|transaction| {
            let log = Log::read(transaction)?;
            if !log.continues(self.last) {
                return Err(StoreError::Compacted.into());
            }
            let quiet = log.newest == self.last;
            let changes = if quiet { Vec::new() } else { read_on(transaction, self.last, &self.range)? };
            Ok((changes, log.newest))
        })?;
        self.last = last;
        Ok(changes)
    }
}

impl AsFd for SqliteWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// The keys that begin with a prefix, as bounds of an index scan: from the first, up to and without the second.
pub(crate) struct Range {
    pub(crate) from: String,
    pub(crate) to: String,
}

impl Range {
    /// Keys are printable ASCII, so DEL sorts behind every continuation of the prefix.
    pub(crate) fn of(prefix: &str) -> Range {
        Range { from: prefix.to_owned(), to: format!("{prefix}\x7f") }
    }
}

/// The revision of the whole store.
pub(crate) fn store_revision(transaction: &Transaction<'_>) -> rusqlite::Result<Revision> {
    transaction
        .prepare_cached("SELECT coalesce(max(revision), 0) FROM log")?
        .query_row([], |row| row.get(0).map(from_column))
}

/// Gives a change of `key` its revision, and forgets the oldest.
pub(crate) fn append(transaction: &Transaction<'_>, key: &str) -> rusqlite::Result<Revision> {
    transaction.prepare_cached("INSERT INTO log (key) VALUES (?1)")?.execute([key])?;
    // The newest row is never deleted, so the row id goes up by one each time.
    let revision = from_column(transaction.last_insert_rowid());
    let forgotten = Revision(revision.0.saturating_sub(LOG_KEEP));
    transaction.prepare_cached("DELETE FROM log WHERE revision <= ?1")?.execute([to_column(forgotten)])?;
    Ok(revision)
}

/// The revisions that the log still knows.
struct Log {
    oldest: Revision,
    newest: Revision,
}

impl Log {
    fn read(transaction: &Transaction<'_>) -> rusqlite::Result<Log> {
        // Two subqueries: each is one look at the end of the tree, both at once would be a scan.
        transaction
            .prepare_cached(
                "SELECT coalesce((SELECT min(revision) FROM log), 0), coalesce((SELECT max(revision) FROM log), 0)",
            )?
            .query_row([], |row| {
                Ok(Log { oldest: from_column(row.get(0)?), newest: from_column(row.get(1)?) })
            })
    }

    /// Whether every change after `last` is known. One who is ahead of the log knew another store.
    fn continues(&self, last: Revision) -> bool {
        last <= self.newest && self.oldest.0 <= last.0.saturating_add(1)
    }
}

/// An entry that is gone was deleted: the snapshot has each key's last state.
fn read_on(transaction: &Transaction<'_>, last: Revision, range: &Range) -> rusqlite::Result<Vec<Change>> {
    let mut statement = transaction.prepare_cached(
        "SELECT changed.key, changed.revision, entry.value
         FROM (SELECT key, max(revision) AS revision FROM log
               WHERE revision > ?1 AND key >= ?2 AND key < ?3 GROUP BY key) AS changed
         LEFT JOIN entry ON entry.key = changed.key
         ORDER BY changed.revision",
    )?;
    let changes = statement.query_map(params![to_column(last), range.from, range.to], change)?;
    changes.collect()
}

fn change(row: &Row<'_>) -> rusqlite::Result<Change> {
    let (key, revision) = (row.get(0)?, from_column(row.get(1)?));
    Ok(match row.get(2)? {
        Some(value) => Change::Put(Entry { key, value, revision }),
        None => Change::Delete { key, revision },
    })
}
