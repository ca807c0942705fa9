//! Leases by the clock of the machine.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::place::Place;
use crate::suite::lease::LONG;
use crate::suite::put;
use rusqlite::Connection;
use tartan_store::{Sqlite, Store, StoreError};

#[test]
fn a_reboot_ends_every_lease() {
    let place = Place::new();
    let store = place.open();
    store.take_lease("n1", "id-1", LONG, false).unwrap();
    let raw = Connection::open(&place.file).unwrap();
    raw.execute("UPDATE lease SET boot = 'an earlier one'", []).unwrap();
    assert_eq!(store.leases().unwrap()[0].expires_in, None);
    store.take_lease("n1", "id-2", LONG, false).unwrap();
}

#[test]
fn leases_are_no_entries_and_make_no_revision() {
    let place = Place::new();
    let store = place.open();
    let before = put(&store, "a", "");
    store.take_lease("n1", "id-1", LONG, false).unwrap();
    store.take_lease("n1", "id-2", LONG, true).unwrap();
    store.release_lease("n1", "id-2").unwrap();
    assert_eq!(store.list("").unwrap().revision, before);
}

/// A clock that tests set, in seconds since boot.
static CLOCK: AtomicU64 = AtomicU64::new(1_000_000);

fn clock() -> io::Result<Duration> {
    Ok(Duration::from_secs(CLOCK.load(Ordering::Relaxed)))
}

#[test]
fn a_lease_goes_by_the_clock_that_was_handed_in_however_it_jumps() {
    let place = Place::new();
    let open = || Sqlite::open_by(&place.file, clock).unwrap();
    let (one, other) = (open(), open());
    one.take_lease("n1", "id-1", LONG, false).unwrap();
    // The machine slept for an hour: nobody renewed, and whoever comes first goes on.
    CLOCK.fetch_add(3600, Ordering::Relaxed);
    assert_eq!(other.leases().unwrap()[0].expires_in, None);
    one.renew_lease("n1", "id-1", LONG).unwrap();
    assert!(matches!(other.take_lease("n1", "id-2", LONG, false), Err(StoreError::Held { .. })));
    CLOCK.fetch_add(3600, Ordering::Relaxed);
    other.take_lease("n1", "id-2", LONG, false).unwrap();
    assert!(matches!(one.renew_lease("n1", "id-1", LONG), Err(StoreError::LeaseLost { .. })));
    assert!(matches!(one.take_lease("n1", "id-1", LONG, false), Err(StoreError::Held { .. })));
    // Backwards, which no boot clock goes: the holder stays the holder.
    CLOCK.fetch_sub(7200, Ordering::Relaxed);
    assert!(other.leases().unwrap()[0].expires_in.is_some());
    assert!(matches!(one.take_lease("n1", "id-1", LONG, false), Err(StoreError::Held { .. })));
    other.renew_lease("n1", "id-2", LONG).unwrap();
    assert_eq!(one.leases().unwrap()[0].expires_in, Some(LONG));
}
