//! Leases by etcd's own, of which none is left over.

use std::thread;

use crate::server::Cluster;
use crate::suite::lease::LONG;
use tartan_store::Store;

/// etcd's own leases.
fn etcd_leases(cluster: &Cluster) -> usize {
    cluster.ctl(&["lease", "list"]).lines().count() - 1
}

#[test]
fn a_name_has_one_lease_of_etcds_whoever_takes_it_and_none_when_released() {
    let cluster = Cluster::start(1);
    let (one, other) = (cluster.open(), cluster.open());
    for _ in 0..3 {
        one.take_lease("node/n1", "id-1", LONG, false).unwrap();
    }
    // As an agent that was restarted: its lease of before goes on.
    cluster.open().take_lease("node/n1", "id-1", LONG, false).unwrap();
    assert_eq!(etcd_leases(&cluster), 1);
    other.take_lease("node/n1", "id-2", LONG, false).unwrap_err();
    assert_eq!(etcd_leases(&cluster), 1);
    other.take_lease("node/n1", "id-2", LONG, true).unwrap();
    assert_eq!(etcd_leases(&cluster), 1);
    other.release_lease("node/n1", "id-2").unwrap();
    assert_eq!(etcd_leases(&cluster), 0);
    thread::scope(|scope| {
        for id in 0..8 {
            let store = cluster.open();
            // One of them gets it.
            scope.spawn(move || store.take_lease("node/n1", &format!("id-{id}"), LONG, false).ok());
        }
    });
    assert_eq!(etcd_leases(&cluster), 1);
}

#[test]
fn a_lease_that_somebody_revokes_is_taken_again() {
    let cluster = Cluster::start(1);
    let store = cluster.open();
    store.take_lease("n1", "id-1", LONG, false).unwrap();
    let listed = cluster.ctl(&["lease", "list"]);
    cluster.ctl(&["lease", "revoke", listed.lines().last().unwrap().trim()]);
    assert_eq!(store.leases().unwrap()[0].expires_in, None);
    store.renew_lease("n1", "id-1", LONG).unwrap();
    assert_eq!(store.leases().unwrap()[0].expires_in, Some(LONG));
}
