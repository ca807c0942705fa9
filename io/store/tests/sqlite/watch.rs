//! Watching across instances: bells that wake, and a log that forgets.

use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Instant;

use crate::place::{Place, names};
use crate::suite::watch::{SECOND, keys, quiet_watch};
use crate::suite::{put, woken};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use tartan_store::{Change, Expect, LOG_KEEP, Revision, Store, StoreError};

#[test]
fn what_nobody_looked_at_is_collapsed() {
    let place = Place::new();
    let (writer, reader) = (place.open(), place.open());
    let mut watch = quiet_watch(&reader);
    for key in ["a", "b", "a", "c"] {
        put(&writer, key, "");
    }
    let c = writer.delete("c", Expect::Any).unwrap().unwrap();
    let changes = watch.changes().unwrap();
    assert_eq!(keys(&changes), ["b", "a", "c"]);
    assert_eq!(changes[2], Change::Delete { key: "c".into(), revision: c });
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
