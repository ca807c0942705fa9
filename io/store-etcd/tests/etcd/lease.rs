//! Leases: one holder, an end, and no noise. etcd's terms are whole seconds, and its shortest is two.

use std::thread;
use std::time::Duration;

use crate::server::{Cluster, put, wait_until, woken};
use tartan_store::{Store, StoreError};

const LONG: Duration = Duration::from_secs(60);
const BRIEF: Duration = Duration::from_secs(2);

/// etcd's own leases.
fn etcd_leases(cluster: &Cluster) -> usize {
    cluster.ctl(&["lease", "list"]).lines().count() - 1
}

#[test]
fn a_living_lease_keeps_others_out_until_released_and_leaves_nothing() {
    let cluster = Cluster::start(1);
    let (one, other) = (cluster.open(), cluster.open());
    for _ in 0..3 {
        one.take_lease("node/n1", "id-1", LONG, false).unwrap();
    }
    // As an agent that was restarted: its lease of before goes on.
    cluster.open().take_lease("node/n1", "id-1", LONG, false).unwrap();
    assert_eq!(etcd_leases(&cluster), 1);
    let held = other.take_lease("node/n1", "id-2", LONG, false).unwrap_err();
    let StoreError::Held { name, holder, expires_in } = &held else { panic!("{held:?}") };
    assert_eq!((name.as_str(), holder.as_str()), ("node/n1", "id-1"));
    assert!(*expires_in <= LONG && *expires_in > LONG / 2);
    other.release_lease("node/n1", "id-2").unwrap();
    let leases = other.leases().unwrap();
    assert_eq!(leases.len(), 1, "it was not id-2's to release");
    assert_eq!((leases[0].holder.as_str(), leases[0].expires_in), ("id-1", Some(LONG)));
    one.release_lease("node/n1", "id-1").unwrap();
    assert_eq!(other.leases().unwrap(), []);
    assert_eq!(etcd_leases(&cluster), 0);
    assert!(matches!(one.renew_lease("node/n1", "id-1", LONG), Err(StoreError::LeaseLost { .. })));
    other.take_lease("node/n1", "id-2", LONG, false).unwrap();
}

#[test]
fn force_takes_it_and_the_old_holder_learns() {
    let cluster = Cluster::start(1);
    let (one, other) = (cluster.open(), cluster.open());
    one.take_lease("node/n1", "id-1", LONG, false).unwrap();
    other.take_lease("node/n1", "id-2", LONG, true).unwrap();
    assert_eq!(etcd_leases(&cluster), 1);
    assert!(matches!(one.renew_lease("node/n1", "id-1", LONG), Err(StoreError::LeaseLost { .. })));
    other.renew_lease("node/n1", "id-2", LONG).unwrap();
}

#[test]
fn an_old_lease_is_over_and_may_be_taken_or_renewed() {
    let cluster = Cluster::start(1);
    let (one, other) = (cluster.open(), cluster.open());
    one.take_lease("n1", "id-1", BRIEF, false).unwrap();
    assert!(one.leases().unwrap()[0].expires_in.is_some());
    let is_over = || other.leases().unwrap()[0].expires_in.is_none();
    wait_until("the lease is over", is_over);
    assert_eq!(one.leases().unwrap()[0].holder, "id-1");
    one.renew_lease("n1", "id-1", BRIEF).unwrap();
    assert!(matches!(other.take_lease("n1", "id-2", LONG, false), Err(StoreError::Held { .. })));
    wait_until("the lease is over again", is_over);
    other.take_lease("n1", "id-2", LONG, false).unwrap();
    assert!(matches!(one.renew_lease("n1", "id-1", LONG), Err(StoreError::LeaseLost { .. })));
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

#[test]
fn renewing_keeps_it_alive_makes_no_revision_and_wakes_nobody() {
    let cluster = Cluster::start(1);
    let (one, other) = (cluster.open(), cluster.open());
    put(&one, "a", "");
    one.take_lease("n1", "id-1", BRIEF, false).unwrap();
    let before = one.list("").unwrap().revision;
    let mut watch = other.watch("", before).unwrap();
    assert_eq!(watch.changes().unwrap(), []);
    for _ in 0..10 {
        thread::sleep(BRIEF / 5);
        one.renew_lease("n1", "id-1", BRIEF).unwrap();
    }
    assert!(!woken(&*watch, Duration::from_millis(100)));
    assert_eq!(one.list("").unwrap().revision, before);
    assert!(one.leases().unwrap()[0].expires_in.is_some());
}

#[test]
fn one_of_many_takes_an_old_lease() {
    let cluster = Cluster::start(1);
    let takers = 8;
    let won = thread::scope(|scope| {
        let threads: Vec<_> = (0..takers)
            .map(|id| {
                let store = cluster.open();
                scope.spawn(move || store.take_lease("n1", &format!("id-{id}"), LONG, false).is_ok())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(won, 1);
    assert_eq!(etcd_leases(&cluster), 1);
}

#[test]
fn names_and_holders_are_bounded() {
    let cluster = Cluster::start(1);
    let store = cluster.open();
    assert!(matches!(store.take_lease("", "id", LONG, false), Err(StoreError::BadKey { .. })));
    assert!(matches!(store.take_lease("n", "i\nd", LONG, false), Err(StoreError::BadKey { .. })));
    store.take_lease("n", "id", Duration::MAX, false).unwrap();
    assert!(store.leases().unwrap()[0].expires_in.is_some());
}
