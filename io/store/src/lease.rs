//! Leases in the database, timed by the machine's boot clock.
//!
//! All agents that share the file share the machine, hence one clock: `CLOCK_BOOTTIME`, which nobody can set and
//! which counts sleep. It begins anew at each boot, so a lease also names the boot that it was taken in;
//! after a reboot every old lease is over, as is every process that held one.

use std::fs;
use std::io;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::database::{Database, Fault};
use crate::{Durability, Lease, StoreError};

/// Where the kernel tells which boot this is (random(4)).
pub(crate) const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What leases go by: the time since boot.
pub type Clock = fn() -> io::Result<Duration>;

/// The machine's clock: the time since boot, sleep included.
///
/// # Errors
/// What clock_gettime(2) says.
pub fn boot_clock() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}

/// Which boot this is.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim_end().to_owned())
}

pub(crate) fn take(
    database: &Database,
    name: &str,
    holder: &str,
    ttl: Duration,
    force: bool,
) -> Result<(), StoreError> {
    database.write(Durability::Crash, |transaction| {
        // Read after the write lock is ours: waiting for it may have outlasted the old lease.
        let now = Now::read(database)?;
        if let Some(lease) = read_one(transaction, name, &now)?
            && let Some(expires_in) = lease.expires_in
            && lease.holder != holder
            && !force
        {
            return Err(StoreError::Held { name: lease.name, holder: lease.holder, expires_in }.into());
        }
        transaction
            .prepare_cached(
                "INSERT INTO lease (name, holder, boot, expires_ms) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (name) DO UPDATE SET holder = ?2, boot = ?3, expires_ms = ?4",
            )?
            .execute(params![name, holder, now.boot, now.plus(ttl)])?;
        Ok(())
    })
}

/// One statement: the database's own transaction around it is enough.
pub(crate) fn renew(database: &Database, name: &str, holder: &str, ttl: Duration) -> Result<(), StoreError> {
    database.statement(|connection| {
        let now = Now::read(database)?;
        let renewed = connection
            .prepare_cached("UPDATE lease SET boot = ?3, expires_ms = ?4 WHERE name = ?1 AND holder = ?2")?
            .execute(params![name, holder, now.boot, now.plus(ttl)])?;
        if renewed == 0 {
            return Err(StoreError::LeaseLost { name: name.to_owned(), holder: holder.to_owned() }.into());
        }
        Ok(())
    })
}

pub(crate) fn release(database: &Database, name: &str, holder: &str) -> Result<(), StoreError> {
    database.statement(|connection| {
        connection
            .prepare_cached("DELETE FROM lease WHERE name = ?1 AND holder = ?2")?
            .execute(params![name, holder])?;
        Ok(())
    })
}

pub(crate) fn all(database: &Database) -> Result<Vec<Lease>, StoreError> {
    database.read(|transaction| {
        let now = Now::read(database)?;
        let mut statement =
            transaction.prepare_cached("SELECT name, holder, boot, expires_ms FROM lease ORDER BY name")?;
        let leases = statement.query_map([], |row| now.lease(row))?;
        Ok(leases.collect::<Result<_, _>>()?)
    })
}

fn read_one(transaction: &Transaction<'_>, name: &str, now: &Now<'_>) -> rusqlite::Result<Option<Lease>> {
    transaction
        .prepare_cached("SELECT name, holder, boot, expires_ms FROM lease WHERE name = ?1")?
        .query_row([name], |row| now.lease(row))
        .optional()
}

/// A moment of this boot.
struct Now<'a> {
    boot: &'a str,
    milliseconds: i64,
}

impl Now<'_> {
    fn read(database: &Database) -> Result<Now<'_>, Fault> {
        Ok(Now { boot: &database.boot, milliseconds: milliseconds((database.clock)()?) })
    }

    fn plus(&self, ttl: Duration) -> i64 {
        self.milliseconds.saturating_add(milliseconds(ttl))
    }

    fn lease(&self, row: &Row<'_>) -> rusqlite::Result<Lease> {
        let same_boot = row.get_ref(2)?.as_str()? == self.boot;
        let left = row.get::<_, i64>(3)?.saturating_sub(self.milliseconds);
        let left = u64::try_from(left).ok().filter(|left| same_boot && *left > 0);
        Ok(Lease { name: row.get(0)?, holder: row.get(1)?, expires_in: left.map(Duration::from_millis) })
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
