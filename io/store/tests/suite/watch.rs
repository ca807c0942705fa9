//! Watching across instances: nothing missed, in order, woken at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::{Ended, PATIENCE, Shared, put, wait_until, woken};
use tartan_store::{Change, Expect, Revision, Store, StoreError, Watch};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const SHORT: Duration = Duration::from_millis(50);
/// How often a sleeping reader is woken.
const WRITES: usize = 300;

pub(crate) fn keys(changes: &[Change]) -> Vec<&str> {
    changes.iter().map(Change::key).collect()
}

/// A watch on everything from now on that has already been told of its own beginning.
pub(crate) fn quiet_watch(store: &dyn Store) -> Box<dyn Watch> {
    let mut watch = store.watch("", store.list("").unwrap().revision).unwrap();
    assert!(woken(&*watch, SECOND), "a new watch is readable at once");
    assert_eq!(watch.changes().unwrap(), []);
    assert!(!woken(&*watch, Duration::ZERO));
    watch
}

pub(crate) fn another_instance_sees_the_last_state_of_each_key_in_order(place: &impl Shared) {
    let (writer, reader) = (place.instance(), place.instance());
    let mut watch = quiet_watch(&*reader);
    put(&*writer, "a", "1");
    assert!(woken(&*watch, SECOND));
    put(&*writer, "b", "1");
    let a = put(&*writer, "a", "2");
    put(&*writer, "c", "1");
    let c = writer.delete("c", Expect::Any).unwrap().unwrap();
    let mut changes = Vec::new();
    wait_until("all came", || {
        changes.extend(watch.changes().unwrap());
        changes.iter().any(|change| change.revision() == c)
    });
    assert!(changes.is_sorted_by_key(Change::revision));
    let last: BTreeMap<&str, &Change> = changes.iter().map(|change| (change.key(), change)).collect();
    assert!(matches!(last["a"], Change::Put(entry) if entry.value == b"2" && entry.revision == a));
    assert_eq!(*last["c"], Change::Delete { key: "c".into(), revision: c });
    assert!(last.contains_key("b"));
    assert_quiet(&mut *watch);
}

/// Nothing is told any more. One wake may still come for what was taken before it.
#[track_caller]
fn assert_quiet(watch: &mut dyn Watch) {
    woken(watch, SHORT);
    assert_eq!(watch.changes().unwrap(), []);
    assert!(!woken(watch, SHORT));
}

pub(crate) fn a_watch_sees_its_own_instance_and_only_its_prefix(place: &impl Shared) {
    let store = place.instance();
    let mut watch = store.watch("pod/", Revision(0)).unwrap();
    put(&*store, "node/n1", "");
    put(&*store, "pod/a", "");
    put(&*store, "pod0", "");
    wait_until("it is seen", || keys(&watch.changes().unwrap()) == ["pod/a"]);
    assert_quiet(&mut *watch);
}

pub(crate) fn what_changes_nothing_wakes_nobody(place: &impl Shared) {
    let (writer, reader) = (place.instance(), place.instance());
    let watch = quiet_watch(&*reader);
    assert_eq!(writer.delete("nothing", Expect::Any).unwrap(), None);
    assert!(writer.delete("nothing", Expect::Revision(Revision(1))).is_err());
    assert!(!woken(&*watch, SHORT));
}

pub(crate) fn a_listing_and_a_watch_from_its_revision_miss_nothing(place: &impl Shared) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let store = place.instance();
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                count += 1;
                put(&*store, &format!("key/{}", count % 17), &count.to_string());
            }
            store.list("key/").unwrap()
        });
        let ended = Ended(&stop);
        let reader = place.instance();
        let mut followers = Vec::new();
        for _ in 0..20 {
            let listing = reader.list("key/").unwrap();
            thread::sleep(Duration::from_millis(3));
            followers.push((reader.watch("key/", listing.revision).unwrap(), listing));
        }
        drop(ended);
        let last = writer.join().unwrap();
        for (mut watch, listing) in followers {
            let mut known: BTreeMap<_, _> =
                listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
            wait_until("everything was told", || {
                let changes = watch.changes().unwrap();
                assert!(changes.is_sorted_by_key(Change::revision));
                for change in changes {
                    let Change::Put(entry) = change else { panic!("{change:?}") };
                    known.insert(entry.key.clone(), entry);
                }
                known.values().cloned().collect::<Vec<_>>() == last.entries
            });
        }
    });
}

pub(crate) fn a_sleeping_reader_is_woken_for_every_write(place: &impl Shared) {
    let (writer, reader) = (place.instance(), place.instance());
    let mut watch = quiet_watch(&*reader);
    thread::scope(|scope| {
        let seen = scope.spawn(move || {
            let mut last = String::new();
            while last != WRITES.to_string() {
                assert!(woken(&*watch, PATIENCE), "not woken after {last:?}");
                for change in watch.changes().unwrap() {
                    let Change::Put(entry) = change else { panic!("{change:?}") };
                    last = String::from_utf8(entry.value).unwrap();
                }
            }
        });
        for count in 1..=WRITES {
            put(&*writer, "count", &count.to_string());
        }
        seen.join().unwrap();
    });
}

pub(crate) fn a_revision_of_another_store_is_told_to_list_anew(place: &impl Shared) {
    let store = place.instance();
    let after = put(&*store, "a", "");
    let mut watch = store.watch("", Revision(after.0 + 99)).unwrap();
    assert!(matches!(watch.changes(), Err(StoreError::Compacted)));
}
