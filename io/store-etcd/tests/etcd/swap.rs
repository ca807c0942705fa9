//! Reading, writing, and swapping by comparison: as in every driver.

use std::collections::BTreeMap;
use std::thread;

use crate::server::{Cluster, put};
use tartan_store::{Durability, Expect, KEY_MAX, Revision, Store, StoreError, VALUE_MAX};

fn put_if(store: &dyn Store, key: &str, value: &[u8], expect: Expect) -> Result<Revision, StoreError> {
    store.put(key, value, expect, Durability::Crash)
}

#[test]
fn what_was_put_is_read_by_another_instance_in_key_order() {
    let cluster = Cluster::start(1);
    let (one, other) = (cluster.open(), cluster.open());
    assert_eq!(one.kind(), "etcd");
    assert_eq!(other.get("node/n1").unwrap(), None);
    let revision = one.put("node/n1", b"\0\xff", Expect::Absent, Durability::Power).unwrap();
    let entry = other.get("node/n1").unwrap().unwrap();
    assert_eq!(
        (entry.key.as_str(), entry.value.as_slice(), entry.revision),
        ("node/n1", &b"\0\xff"[..], revision)
    );

    for key in ["pod/b", "pod/a", "pod0", "pod", "pod/~", "pod/%", "poe", "Pod/a", "~"] {
        put(&one, key, "");
    }
    let keys = |prefix| -> Vec<String> {
        other.list(prefix).unwrap().entries.into_iter().map(|entry| entry.key).collect()
    };
    assert_eq!(keys("pod/"), ["pod/%", "pod/a", "pod/b", "pod/~"]);
    assert_eq!(keys("~"), ["~"]);
    assert_eq!(keys("").len(), 10);
    // Somebody else's keys, and such as we would not write.
    cluster.ctl(&["put", "/tartan/entry/\u{e4}", "x"]);
    cluster.ctl(&["put", "/tartan/entry/", "x"]);
    cluster.ctl(&["put", "/tartan/other", "x"]);
    cluster.ctl(&["put", "/zzz", "x"]);
    assert_eq!(keys("").len(), 10);
}

#[test]
fn a_long_listing_comes_in_pages_and_is_one_snapshot() {
    let cluster = Cluster::start(1);
    let store = cluster.open();
    thread::scope(|scope| {
        for part in 0..8 {
            let store = &store;
            scope.spawn(move || {
                (0..160).for_each(|number| {
                    put(store, &format!("k/{part}/{number:03}"), "x");
                })
            });
        }
    });
    let listing = store.list("k/").unwrap();
    assert_eq!(listing.entries.len(), 1280);
    assert!(listing.entries.is_sorted_by_key(|entry| entry.key.clone()));
    assert!(listing.entries.iter().all(|entry| entry.revision <= listing.revision));
}

#[test]
fn a_failed_expectation_changes_nothing_and_says_what_is_there() {
    let cluster = Cluster::start(1);
    let store = cluster.open();
    let nowhere = put_if(&store, "a", b"1", Expect::Revision(Revision(7))).unwrap_err();
    assert!(matches!(&nowhere, StoreError::Conflict { key, found: None } if key == "a"));
    let first = put_if(&store, "a", b"1", Expect::Absent).unwrap();
    let taken = put_if(&store, "a", b"2", Expect::Absent).unwrap_err();
    assert!(matches!(taken, StoreError::Conflict { found, .. } if found == Some(first)));
    let second = put_if(&store, "a", b"2", Expect::Revision(first)).unwrap();
    assert!(second > first);
    let late = store.delete("a", Expect::Revision(first)).unwrap_err();
    assert!(matches!(late, StoreError::Conflict { found, .. } if found == Some(second)));
    assert!(matches!(store.delete("a", Expect::Absent), Err(StoreError::Conflict { .. })));
    assert_eq!(store.list("").unwrap().revision, second);
    let gone = store.delete("a", Expect::Revision(second)).unwrap();
    assert!(gone > Some(second));
    assert_eq!(store.delete("a", Expect::Any).unwrap(), None);
    assert_eq!(store.delete("a", Expect::Absent).unwrap(), None);
    assert!(matches!(
        store.delete("a", Expect::Revision(second)),
        Err(StoreError::Conflict { found: None, .. })
    ));
}

#[test]
fn each_key_has_exactly_one_winner() {
    const THREADS: usize = 8;
    let cluster = Cluster::start(1);
    let claims: Vec<(String, String)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let cluster = &cluster;
                scope.spawn(move || {
                    let store = cluster.open();
                    let me = format!("thread {thread}");
                    let claim = |key: &String| match put_if(&store, key, me.as_bytes(), Expect::Absent) {
                        Ok(_) => true,
                        Err(StoreError::Conflict { found: Some(_), .. }) => false,
                        Err(error) => panic!("{error:?}"),
                    };
                    let keys = (0..50).map(|key| format!("block/{key:03}"));
                    keys.filter(claim).map(|key| (key, me.clone())).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(claims.len(), 50, "each key was won once");
    let winners: BTreeMap<_, _> = claims.into_iter().collect();
    let stored = cluster.open().list("block/").unwrap().entries;
    let stored: BTreeMap<_, _> =
        stored.into_iter().map(|entry| (entry.key, String::from_utf8(entry.value).unwrap())).collect();
    assert_eq!(stored, winners);
}

#[test]
fn keys_and_values_out_of_bounds_are_refused_and_the_largest_are_kept() {
    let cluster = Cluster::start(1);
    let store = cluster.open();
    for key in ["", "a\n", "a\x7f", "\u{e4}", &"k".repeat(KEY_MAX + 1)] {
        assert!(matches!(put_if(&store, key, b"", Expect::Any), Err(StoreError::BadKey { .. })), "{key:?}");
        assert!(matches!(store.get(key), Err(StoreError::BadKey { .. })), "{key:?}");
    }
    put_if(&store, &"k".repeat(KEY_MAX), &vec![7; VALUE_MAX], Expect::Any).unwrap();
    assert_eq!(store.list("").unwrap().entries[0].value.len(), VALUE_MAX);
    assert!(matches!(
        put_if(&store, "l", &vec![0; VALUE_MAX + 1], Expect::Any),
        Err(StoreError::TooLarge { .. })
    ));
}

#[test]
fn two_prefixes_are_two_stores_on_one_etcd() {
    let cluster = Cluster::start(1);
    let other = format!("{}/other/", cluster.url()).parse().unwrap();
    let other = tartan_store_etcd::Etcd::open(other, &Default::default()).unwrap();
    let one = cluster.open();
    put(&one, "a", "1");
    one.take_lease("n1", "id", std::time::Duration::from_secs(60), false).unwrap();
    assert_eq!((other.list("").unwrap().entries, other.leases().unwrap()), (vec![], vec![]));
    assert_ne!(one.list("").unwrap().history, other.list("").unwrap().history);
}
