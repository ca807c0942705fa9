//! Watching across instances: nothing missed, in order, woken at once.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::place::{Place, names, put, woken};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use tartan_store::{Change, Expect, LOG_KEEP, Revision, Store, StoreError, Watch};

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
    let place = Place::new();
    let (writer, reader) = (place.open(), place.open());
    let mut watch = quiet_watch(&reader);

    put(&writer, "a", "1");
    assert!(woken(&*watch, SECOND));
    put(&writer, "b", "1");
    let a = put(&writer, "a", "2");
    put(&writer, "c", "1");
    let c = writer.delete("c", Expect::Any).unwrap().unwrap();
    let changes = watch.changes().unwrap();
    assert_eq!(keys(&changes), ["b", "a", "c"]);
    assert!(matches!(&changes[1], Change::Put(entry) if entry.value == b"2" && entry.revision == a));
    assert_eq!(changes[2], Change::Delete { key: "c".into(), revision: c });

    assert!(!woken(&*watch, SHORT));
    assert_eq!(watch.changes().unwrap(), []);
}

#[test]
fn a_watch_sees_its_own_instance_and_only_its_prefix() {
    let place = Place::new();
    let store = place.open();
    let mut watch = store.watch("pod/", Revision(0)).unwrap();
    put(&store, "node/n1", "");
    put(&store, "pod/a", "");
    put(&store, "pod0", "");
    assert!(woken(&*watch, SECOND));
    assert_eq!(keys(&watch.changes().unwrap()), ["pod/a"]);
}

#[test]
fn what_changes_nothing_wakes_nobody() {
    let place = Place::new();
    let (writer, reader) = (place.open(), place.open());
    let watch = quiet_watch(&reader);
    assert_eq!(writer.delete("nothing", Expect::Any).unwrap(), None);
    assert!(writer.delete("nothing", Expect::Revision(Revision(1))).is_err());
    assert!(!woken(&*watch, SHORT));
}

#[test]
fn a_listing_and_a_watch_from_its_revision_miss_nothing() {
    let place = Place::new();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let store = place.open();
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                count += 1;
                put(&store, &format!("key/{}", count % 17), &count.to_string());
            }
            store.list("key/").unwrap()
        });
        let reader = place.open();
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
            let changes = watch.changes().unwrap();
            assert!(changes.is_sorted_by_key(Change::revision));
            for change in changes {
                let Change::Put(entry) = change else { panic!("{change:?}") };
                known.insert(entry.key.clone(), entry);
            }
            assert_eq!(known.into_values().collect::<Vec<_>>(), last.entries);
        }
    });
}

#[test]
fn a_sleeping_reader_is_woken_for_every_write() {
    let place = Place::new();
    let (writer, reader) = (place.open(), place.open());
    let mut watch = quiet_watch(&reader);
    thread::scope(|scope| {
        let seen = scope.spawn(move || {
            let mut last = String::new();
            while last != "500" {
                assert!(woken(&*watch, Duration::from_secs(10)), "not woken after {last:?}");
                for change in watch.changes().unwrap() {
                    let Change::Put(entry) = change else { panic!("{change:?}") };
                    last = String::from_utf8(entry.value).unwrap();
                }
            }
        });
        for count in 1..=500 {
            put(&writer, "count", &count.to_string());
        }
        seen.join().unwrap();
    });
}

#[test]
fn watchers_that_never_look_do_not_keep_others_asleep() {
    let place = Place::new();
    let (writer, reader) = (place.open(), place.open());
    let _stuck: Vec<_> = (0..30).map(|_| reader.watch("", Revision(0)).unwrap()).collect();
    let mut watch = quiet_watch(&reader);
    for count in 0..600 {
        put(&writer, "a", "");
        assert!(woken(&*watch, SECOND), "write {count}");
        assert_eq!(watch.changes().unwrap().len(), 1);
    }
}

#[test]
fn sockets_of_the_dead_are_swept_and_dropped_watches_leave_none() {
    let place = Place::new();
    let store = place.open();
    let watch = quiet_watch(&store);
    drop(UnixDatagram::bind(place.bells().join("1.1")).unwrap());
    assert_eq!(names(&place.bells()).len(), 2);
    put(&store, "a", "");
    assert_eq!(names(&place.bells()).len(), 1);
    assert!(woken(&*watch, SECOND));
    drop(watch);
    assert!(names(&place.bells()).is_empty());
    put(&store, "a", "");
}

#[test]
fn deep_folders_have_watches_too() {
    let mut place = Place::new();
    place.file = place.folder.path().join("deep/".repeat(60)).join("tartan.db");
    let store = place.open();
    let watch = quiet_watch(&store);
    put(&store, "a", "");
    assert!(woken(&*watch, SECOND));
}

#[test]
fn all_names_of_one_file_wake_each_other() {
    let mut place = Place::new();
    let reader = place.open();
    let watch = quiet_watch(&reader);
    let link = place.folder.path().join("link.db");
    std::os::unix::fs::symlink(&place.file, &link).unwrap();
    place.file = link;
    put(&place.open(), "a", "");
    assert!(woken(&*watch, SECOND));
}

#[test]
fn a_writer_in_another_network_namespace_wakes_us() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root makes network namespaces");
        return;
    }
    let place = Place::new();
    let reader = place.open();
    let watch = quiet_watch(&reader);
    thread::scope(|scope| {
        scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            put(&place.open(), "a", "");
        });
    });
    assert!(woken(&*watch, SECOND));
}

#[test]
fn a_watch_behind_the_log_is_told_to_list_anew() {
    let place = Place::new();
    let store = place.open();
    let mut behind = store.watch("", Revision(0)).unwrap();
    put(&store, "first", "");
    let mut just_there = store.watch("", Revision(1)).unwrap();
    let begin = Instant::now();
    for count in 0..LOG_KEEP {
        put(&store, "k", &count.to_string());
    }
    eprintln!("{LOG_KEEP} writes in {:?}", begin.elapsed());
    assert!(matches!(behind.changes(), Err(StoreError::Compacted)));
    assert!(matches!(behind.changes(), Err(StoreError::Compacted)), "it stays so");
    assert_eq!(keys(&just_there.changes().unwrap()), ["k"]);

    let listing = store.list("").unwrap();
    assert_eq!(listing.entries.len(), 2, "only the log forgets");
    assert_eq!(listing.revision, Revision(LOG_KEEP + 1));
}

#[test]
fn a_revision_of_another_store_is_told_to_list_anew() {
    let place = Place::new();
    let store = place.open();
    put(&store, "a", "");
    let mut watch = store.watch("", Revision(99)).unwrap();
    assert!(matches!(watch.changes(), Err(StoreError::Compacted)));
}
