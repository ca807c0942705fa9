//! A watch on a store that forgets.

use crate::server::Cluster;
use crate::suite::watch::{keys, quiet_watch};
use crate::suite::{put, wait_until};
use tartan_store::{Store, StoreError};

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
