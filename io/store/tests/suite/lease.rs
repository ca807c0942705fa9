//! Leases: one holder, an end, and no noise.

use std::thread;
use std::time::Duration;

use super::{Shared, put, wait_until, woken};
use tartan_store::{Store, StoreError};

/// A term that does not end while a test runs.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Whether the only lease that there is has ended.
fn is_over(store: &dyn Store) -> bool {
    store.leases().unwrap()[0].expires_in.is_none()
}

pub(crate) fn a_living_lease_keeps_others_out_until_released(place: &impl Shared) {
    let (one, other) = (place.instance(), place.instance());
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
    let leases = other.leases().unwrap();
    assert_eq!(leases.len(), 1, "it was not id-2's to release");
    assert_eq!(leases[0].holder, "id-1");
    one.release_lease("node/n1", "id-1").unwrap();
    assert_eq!(other.leases().unwrap(), []);
    assert!(matches!(one.renew_lease("node/n1", "id-1", LONG), Err(StoreError::LeaseLost { .. })));
    other.take_lease("node/n1", "id-2", LONG, false).unwrap();
}

pub(crate) fn force_takes_it_and_the_old_holder_learns(place: &impl Shared) {
    let (one, other) = (place.instance(), place.instance());
    one.take_lease("node/n1", "id-1", LONG, false).unwrap();
    other.take_lease("node/n1", "id-2", LONG, true).unwrap();
    let lost = one.renew_lease("node/n1", "id-1", LONG).unwrap_err();
    assert!(matches!(&lost, StoreError::LeaseLost { .. }));
    assert_eq!(lost.to_string(), "id-1 no longer holds node/n1; stop acting in that name");
    other.renew_lease("node/n1", "id-2", LONG).unwrap();
    other.release_lease("node/n1", "id-2").unwrap();
    assert!(matches!(other.renew_lease("node/n1", "id-2", LONG), Err(StoreError::LeaseLost { .. })));
}

pub(crate) fn an_old_lease_is_over_and_may_be_taken_or_renewed(place: &impl Shared) {
    let (one, other) = (place.instance(), place.instance());
    one.take_lease("n1", "id-1", place.brief(), false).unwrap();
    assert!(!is_over(&*one));
    wait_until("the lease is over", || is_over(&*other));
    assert_eq!(one.leases().unwrap()[0].holder, "id-1");
    one.renew_lease("n1", "id-1", place.brief()).unwrap();
    assert!(matches!(other.take_lease("n1", "id-2", LONG, false), Err(StoreError::Held { .. })));
    wait_until("the lease is over again", || is_over(&*other));
    other.take_lease("n1", "id-2", LONG, false).unwrap();
    assert!(matches!(one.renew_lease("n1", "id-1", LONG), Err(StoreError::LeaseLost { .. })));
}

pub(crate) fn renewing_keeps_it_alive_makes_no_revision_and_wakes_nobody(place: &impl Shared) {
    let (one, other) = (place.instance(), place.instance());
    put(&*one, "a", "");
    one.take_lease("n1", "id-1", place.brief(), false).unwrap();
    let before = one.list("").unwrap().revision;
    let mut watch = other.watch("", before).unwrap();
    assert_eq!(watch.changes().unwrap(), []);
    for _ in 0..10 {
        thread::sleep(place.brief() / 5);
        one.renew_lease("n1", "id-1", place.brief()).unwrap();
    }
    assert!(!woken(&*watch, Duration::from_millis(100)));
    assert_eq!(one.list("").unwrap().revision, before);
    assert!(!is_over(&*one));
}

pub(crate) fn one_of_many_takes_an_old_lease(place: &impl Shared) {
    let first = place.instance();
    first.take_lease("n1", "dead", place.brief(), false).unwrap();
    wait_until("the lease is over", || is_over(&*first));
    let takers = 8;
    let won = thread::scope(|scope| {
        let threads: Vec<_> = (0..takers)
            .map(|id| {
                let store = place.instance();
                scope.spawn(move || store.take_lease("n1", &format!("id-{id}"), LONG, false).is_ok())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(won, 1);
}

pub(crate) fn names_and_holders_are_bounded(place: &impl Shared) {
    let store = place.instance();
    assert!(matches!(store.take_lease("", "id", LONG, false), Err(StoreError::BadKey { .. })));
    assert!(matches!(store.take_lease("n", "i\nd", LONG, false), Err(StoreError::BadKey { .. })));
    store.take_lease("n", "id", Duration::MAX, false).unwrap();
    assert!(!is_over(&*store));
}
