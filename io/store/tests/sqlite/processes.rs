//! Several processes on one file, as several agents are: this test program starts itself again.

use std::env;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::place::Place;
use crate::suite::woken;
use tartan_store::{Change, Durability, Expect, Revision, Sqlite, Store, StoreError};

const FILE: &str = "TARTAN_STORE_TEST_FILE";
const KEYS: usize = 100;

/// What a child process does; without the variable there is nothing to do.
#[test]
fn child_claims_keys() {
    let Some(file) = env::var_os(FILE).map(PathBuf::from) else { return };
    let store = Sqlite::open(&file).unwrap();
    let me = std::process::id().to_string();
    for key in 0..KEYS {
        let claim = store.put(&format!("{key:03}"), me.as_bytes(), Expect::Absent, Durability::Crash);
        assert!(matches!(claim, Ok(_) | Err(StoreError::Conflict { found: Some(_), .. })), "{claim:?}");
    }
}

fn start_child(place: &Place) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "processes::child_claims_keys"])
        .env(FILE, &place.file)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn processes_claim_each_key_once_and_wake_a_watcher() {
    let place = Place::new();
    let children: Vec<Child> = (0..3).map(|_| start_child(&place)).collect();
    let reader = place.open();
    let mut watch = reader.watch("", Revision(0)).unwrap();
    let mut seen = Vec::new();
    while seen.len() < KEYS {
        assert!(woken(&*watch, Duration::from_secs(10)), "{} of {KEYS} seen", seen.len());
        seen.extend(watch.changes().unwrap());
    }
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert!(seen.is_sorted_by_key(Change::revision));
    let entries = reader.list("").unwrap().entries.into_iter().map(Change::Put);
    assert_eq!(seen, entries.collect::<Vec<_>>(), "claimed in key order, each once");
}
