//! Listings of an etcd that others use, too.

use std::thread;

use crate::server::Cluster;
use crate::suite::put;
use tartan_store::Store;

#[test]
fn keys_of_others_and_such_as_we_would_not_write_are_passed_over() {
    let cluster = Cluster::start(1);
    let store = cluster.open();
    assert_eq!(store.kind(), "etcd");
    put(&store, "a", "1");
    for key in ["entry/\u{e4}", "entry/", "other"] {
        cluster.ctl(&["put", &format!("/tartan/{key}"), "x"]);
    }
    cluster.ctl(&["put", "/zzz", "x"]);
    assert_eq!(store.list("").unwrap().entries.len(), 1);
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
