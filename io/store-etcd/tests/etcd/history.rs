//! A store that is not what it was is told as such; one that only was away is not.

use std::fs;

use crate::server::Cluster;
use crate::suite::{put, wait_until};
use tartan_store::{History, Store, StoreError};

fn history(store: &dyn Store) -> History {
    let mut found = None;
    wait_until("etcd lists", || {
        found = store.list("").ok();
        found.is_some()
    });
    found.unwrap().history
}

#[test]
fn a_restart_and_other_clients_are_the_same_history() {
    let mut cluster = Cluster::start(1);
    let (store, other) = (cluster.open(), cluster.open());
    put(&store, "a", "1");
    let before = history(&store);
    put(&other, "b", "1");
    cluster.stop(0);
    assert!(matches!(store.list(""), Err(StoreError::Unavailable { .. })));
    cluster.start_all();
    assert_eq!(history(&store), before);
    assert_eq!(history(&cluster.open()).store, before.store);
}

/// With the same flags the cluster has the same id as before.
#[test]
fn a_wiped_store_is_another_and_its_watches_end() {
    let mut cluster = Cluster::start(1);
    let store = cluster.open();
    for count in 0..20 {
        put(&store, "a", &count.to_string());
    }
    let before = history(&store);
    let mut watch = store.watch("", store.list("").unwrap().revision).unwrap();
    assert_eq!(watch.changes().unwrap(), []);
    cluster.wipe();
    cluster.start_all();
    // Another agent is quicker, and its revisions outrun those of before.
    let other = cluster.open();
    wait_until("etcd serves", || other.list("").is_ok());
    for count in 0..40 {
        put(&other, "b", &count.to_string());
    }
    wait_until("the watch ends", || matches!(watch.changes(), Err(StoreError::Compacted)));
    let after = history(&store);
    assert_ne!(after.store, before.store);
    assert_eq!(history(&store), after, "that is what there is now");
}

#[test]
fn what_is_restored_from_a_snapshot_is_the_same_store_in_another_history() {
    let mut cluster = Cluster::start(1);
    let store = cluster.open();
    put(&store, "a", "1");
    let before = history(&store);
    let snapshot = cluster.folder.path().join("snapshot");
    cluster.ctl(&["snapshot", "save", snapshot.to_str().unwrap()]);
    put(&store, "a", "2");
    let mut watch = store.watch("", store.list("").unwrap().revision).unwrap();
    cluster.stop(0);
    fs::remove_dir_all(cluster.data(0)).unwrap();
    cluster.restore(&snapshot);
    cluster.start_all();
    wait_until("the watch ends", || matches!(watch.changes(), Err(StoreError::Compacted)));
    let after = history(&store);
    assert_eq!(after.store, before.store);
    assert_ne!(after.epoch, before.epoch);
    assert_eq!(store.get("a").unwrap().unwrap().value, b"1");
}

#[test]
fn that_somebody_deletes_everything_of_ours_is_a_wipe_and_not_a_deletion_of_each() {
    let cluster = Cluster::start(1);
    let store = cluster.open();
    put(&store, "a", "1");
    let before = history(&store);
    let mut watch = store.watch("", store.list("").unwrap().revision).unwrap();
    assert_eq!(watch.changes().unwrap(), []);
    cluster.ctl(&["del", "/tartan/", "--prefix"]);
    wait_until("the watch ends", || match watch.changes() {
        Err(StoreError::Compacted) => true,
        Ok(changes) => {
            assert_eq!(changes, []);
            false
        }
        other => panic!("{other:?}"),
    });
    assert_ne!(history(&store).store, before.store);
}

#[test]
fn what_a_later_release_wrote_or_somebody_spoilt_is_let_be() {
    for (text, told) in
        [(r#"{"format":2,"id":"x"}"#, "has format 2, this release knows 1"), ("x", "is not understood")]
    {
        let cluster = Cluster::start(1);
        cluster.ctl(&["put", "/tartan/store", text]);
        let store = cluster.open();
        let error = store.list("").unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(told), "{source}");
        assert!(store.take_lease("n1", "id", std::time::Duration::from_secs(9), true).is_err());
        assert_eq!(cluster.ctl(&["get", "", "--prefix", "--keys-only"]).trim(), "/tartan/store");
    }
}
