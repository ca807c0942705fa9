//! Watching across instances: nothing missed, in order, woken at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::server::{Cluster, PATIENCE, put, wait_until, woken};
use tartan_store::{Change, Expect, Revision, Store, StoreError, Watch};

const SECOND: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_millis(50);

fn keys(changes: &[Change]) -> Vec<&str> {
    changes.iter().map(Change::key).collect()
}

/// A watch on everything from now on that has already been told of its own beginning.
fn quiet_watch(store: &dyn Store) -> Box<dyn Watch> {
    let mut watch = store.watch("", store.list("").unwrap().revision).unwrap();
    assert!(woken(&*watch, SECOND), "a new watch is readable at once");
    assert_eq!(watch.changes().unwrap(), []);
    assert!(!woken(&*watch, Duration::ZERO));
    watch
}

#[test]
fn another_instance_sees_the_last_state_of_each_key_in_order() {
    let cluster = Cluster::start(1);
    let (writer, reader) = (cluster.open(), cluster.open());
    let mut watch = quiet_watch(&reader);
    put(&writer, "a", "1");
    assert!(woken(&*watch, SECOND));
    put(&writer, "b", "1");
    let a = put(&writer, "a", "2");
    put(&writer, "c", "1");
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
    assert!(!woken(&*watch, SHORT));
    assert_eq!(watch.changes().unwrap(), []);
}

#[test]
fn a_watch_sees_its_own_instance_and_only_its_prefix() {
    let cluster = Cluster::start(1);
    let store = cluster.open();
    let mut watch = store.watch("pod/", Revision(0)).unwrap();
    put(&store, "node/n1", "");
    put(&store, "pod/a", "");
    put(&store, "pod0", "");
    wait_until("it is seen", || keys(&watch.changes().unwrap()) == ["pod/a"]);
    assert!(!woken(&*watch, SHORT));
}

#[test]
fn what_changes_nothing_wakes_nobody() {
    let cluster = Cluster::start(1);
    let (writer, reader) = (cluster.open(), cluster.open());
    let watch = quiet_watch(&reader);
    assert_eq!(writer.delete("nothing", Expect::Any).unwrap(), None);
    assert!(writer.delete("nothing", Expect::Revision(Revision(1))).is_err());
    assert!(!woken(&*watch, SHORT));
}

#[test]
fn a_listing_and_a_watch_from_its_revision_miss_nothing() {
    let cluster = Cluster::start(1);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let store = cluster.open();
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                count += 1;
                put(&store, &format!("key/{}", count % 17), &count.to_string());
            }
            store.list("key/").unwrap()
        });
        let reader = cluster.open();
        let mut followers = Vec::new();
        for _ in 0..20 {
            let listing = reader.list("key/").unwrap();
            thread::sleep(Duration::from_millis(3));
            followers.push((reader.watch("key/", listing.revision).unwrap(), listing));
        }
        stop.store(true, Ordering::Relaxed);
        let last = writer.join().unwrap();
        for (mut watch, listing) in followers {
            let mut known: BTreeMap<_, _> =
                listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
            wait_until("everything was told", || {
                for change in watch.changes().unwrap() {
                    let Change::Put(entry) = change else { panic!("{change:?}") };
                    known.insert(entry.key.clone(), entry);
                }
                known.values().cloned().collect::<Vec<_>>() == last.entries
            });
        }
    });
}

#[test]
fn a_sleeping_reader_is_woken_for_every_write() {
    let cluster = Cluster::start(1);
    let (writer, reader) = (cluster.open(), cluster.open());
    let mut watch = quiet_watch(&reader);
    thread::scope(|scope| {
        let seen = scope.spawn(move || {
            let mut last = String::new();
            while last != "300" {
                assert!(woken(&*watch, PATIENCE), "not woken after {last:?}");
                for change in watch.changes().unwrap() {
                    let Change::Put(entry) = change else { panic!("{change:?}") };
                    last = String::from_utf8(entry.value).unwrap();
                }
            }
        });
        for count in 1..=300 {
            put(&writer, "count", &count.to_string());
        }
        seen.join().unwrap();
    });
}

/// A16.
#[test]
fn a_watch_behind_a_compaction_is_told_to_list_anew() {
    let cluster = Cluster::start(1);
    let store = cluster.open();
    let first = put(&store, "k", "0");
    for count in 1..5 {
        put(&store, "k", &count.to_string());
    }
    let newest = store.list("").unwrap().revision;
    let mut live = quiet_watch(&store);
    cluster.ctl(&["compaction", &newest.to_string()]);
    let mut behind = store.watch("", first).unwrap();
    wait_until("it is told", || matches!(behind.changes(), Err(StoreError::Compacted)));
    assert!(matches!(behind.changes(), Err(StoreError::Compacted)), "it stays so");
    // A watch that was there goes on.
    put(&store, "k", "5");
    wait_until("it is seen", || keys(&live.changes().unwrap()) == ["k"]);
    // A listing goes on from where its watch does.
    let listing = store.list("").unwrap();
    assert!(store.watch("", listing.revision).unwrap().changes().is_ok());
}

#[test]
fn a_revision_of_another_store_is_told_to_list_anew() {
    let cluster = Cluster::start(1);
    let store = cluster.open();
    let after = put(&store, "a", "");
    let mut watch = store.watch("", Revision(after.0 + 99)).unwrap();
    assert!(matches!(watch.changes(), Err(StoreError::Compacted)));
}
