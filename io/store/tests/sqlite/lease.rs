//! Leases: one holder, an end, and no noise.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::place::{Place, put, woken};
use rusqlite::Connection;
use tartan_store::{Sqlite, Store, StoreError};

const LONG: Duration = Duration::from_secs(60);
const BRIEF: Duration = Duration::from_millis(400);

#[test]
fn a_living_lease_keeps_others_out_until_released() {
    let place = Place::new();
    let (one, other) = (place.open(), place.open());
    one.take_lease("node/n1", "id-1", LONG, false).unwrap();
    one.take_lease("node/n1", "id-1", LONG, false).unwrap();
    let held = other.take_lease("node/n1", "id-2", LONG, false).unwrap_err();
    let StoreError::Held { name, holder, expires_in } = &held else { panic!("{held:?}") };
    assert_eq!((name.as_str(), holder.as_str()), ("node/n1", "id-1"));
    assert!(*expires_in <= LONG && *expires_in > LONG / 2);
    let text = held.to_string();
    assert!(text.starts_with("node/n1 is held by id-1 for "), "{text}");
    assert!(text.ends_with(" s more; wait, stop that holder, or take over"), "{text}");

    other.release_lease("node/n1", "id-2").unwrap();
    assert_eq!(other.leases().unwrap().len(), 1, "it was not id-2's to release");
    one.release_lease("node/n1", "id-1").unwrap();
    assert_eq!(other.leases().unwrap(), []);
    other.take_lease("node/n1", "id-2", LONG, false).unwrap();
}

#[test]
fn force_takes_it_and_the_old_holder_learns() {
    let place = Place::new();
    let (one, other) = (place.open(), place.open());
    one.take_lease("node/n1", "id-1", LONG, false).unwrap();
    other.take_lease("node/n1", "id-2", LONG, true).unwrap();
    let lost = one.renew_lease("node/n1", "id-1", LONG).unwrap_err();
    assert!(matches!(&lost, StoreError::LeaseLost { .. }));
    assert_eq!(lost.to_string(), "id-1 no longer holds node/n1; stop acting in that name");
    other.renew_lease("node/n1", "id-2", LONG).unwrap();
    other.release_lease("node/n1", "id-2").unwrap();
    assert!(matches!(other.renew_lease("node/n1", "id-2", LONG), Err(StoreError::LeaseLost { .. })));
}

#[test]
fn an_old_lease_is_over_and_may_be_taken_or_renewed() {
    let place = Place::new();
    let (one, other) = (place.open(), place.open());
    one.take_lease("n1", "id-1", BRIEF, false).unwrap();
    assert!(one.leases().unwrap()[0].expires_in.is_some());
    thread::sleep(BRIEF + Duration::from_millis(10));
    let over = one.leases().unwrap();
    assert_eq!((over[0].holder.as_str(), over[0].expires_in), ("id-1", None));

    one.renew_lease("n1", "id-1", BRIEF).unwrap();
    assert!(matches!(other.take_lease("n1", "id-2", LONG, false), Err(StoreError::Held { .. })));
    thread::sleep(BRIEF + Duration::from_millis(10));
    other.take_lease("n1", "id-2", LONG, false).unwrap();
    assert!(matches!(one.renew_lease("n1", "id-1", LONG), Err(StoreError::LeaseLost { .. })));
}

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
fn leases_make_no_revision_and_wake_nobody() {
    let place = Place::new();
    let (one, other) = (place.open(), place.open());
    let before = put(&one, "a", "");
    one.take_lease("n1", "id-1", LONG, false).unwrap();
    let mut watch = other.watch("", before).unwrap();
    assert_eq!(watch.changes().unwrap(), []);
    for _ in 0..10 {
        one.renew_lease("n1", "id-1", LONG).unwrap();
    }
    assert!(!woken(&*watch, Duration::from_millis(100)));
    assert_eq!(one.list("").unwrap().revision, before);
}

#[test]
fn one_of_many_takes_an_old_lease() {
    let place = Place::new();
    place.open().take_lease("n1", "dead", Duration::ZERO, false).unwrap();
    let takers = 8;
    let won = thread::scope(|scope| {
        let threads: Vec<_> = (0..takers)
            .map(|id| {
                let store = place.open();
                scope.spawn(move || store.take_lease("n1", &format!("id-{id}"), LONG, false).is_ok())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(won, 1);
}

#[test]
fn names_and_holders_are_bounded() {
    let place = Place::new();
    let store = place.open();
    assert!(matches!(store.take_lease("", "id", LONG, false), Err(StoreError::BadKey { .. })));
    assert!(matches!(store.take_lease("n", "i\nd", LONG, false), Err(StoreError::BadKey { .. })));
    store.take_lease("n", "id", Duration::MAX, false).unwrap();
    assert!(store.leases().unwrap()[0].expires_in.is_some());
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
