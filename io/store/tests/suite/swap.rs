//! Reading, writing, and swapping by comparison.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;

use super::{Shared, put};
use tartan_store::{Durability, Entry, Expect, KEY_MAX, Revision, Store, StoreError, VALUE_MAX};

pub(crate) fn put_if(
    store: &dyn Store,
    key: &str,
    value: &[u8],
    expect: Expect,
) -> Result<Revision, StoreError> {
    store.put(key, value, expect, Durability::Crash)
}

pub(crate) fn what_was_put_is_read_by_another_instance(place: &impl Shared) {
    let (one, other) = (place.instance(), place.instance());
    assert_eq!(other.get("node/n1").unwrap(), None);
    let revision = one.put("node/n1", b"\0\xff", Expect::Absent, Durability::Power).unwrap();
    let entry = Entry { key: "node/n1".into(), value: b"\0\xff".to_vec(), revision };
    assert_eq!(other.get("node/n1").unwrap(), Some(entry.clone()));
    drop((one, other));
    let listing = place.instance().list("").unwrap();
    assert_eq!((listing.entries, listing.revision), (vec![entry], revision));
}

pub(crate) fn revisions_go_up_across_instances_and_deletions(place: &impl Shared) {
    let (one, other) = (place.instance(), place.instance());
    let first = put(&*one, "a", "1");
    let second = put(&*other, "b", "1");
    let third = one.delete("b", Expect::Any).unwrap().unwrap();
    let fourth = put(&*other, "a", "2");
    assert!(first < second && second < third && third < fourth);
    let listing = one.list("zzz").unwrap();
    assert_eq!((listing.entries, listing.revision), (vec![], fourth));
}

pub(crate) fn a_prefix_is_taken_literally_and_in_key_order(place: &impl Shared) {
    let store = place.instance();
    for key in ["pod/b", "pod/a", "pod0", "pod", "pod/~", "pod/%", "poe", "Pod/a", "~"] {
        put(&*store, key, "");
    }
    let keys = |prefix| -> Vec<String> {
        store.list(prefix).unwrap().entries.into_iter().map(|entry| entry.key).collect()
    };
    assert_eq!(keys("pod/"), ["pod/%", "pod/a", "pod/b", "pod/~"]);
    assert_eq!(keys("pod/%"), ["pod/%"]);
    assert_eq!(keys("~"), ["~"]);
    assert_eq!(keys("").len(), 9);
}

pub(crate) fn a_failed_expectation_changes_nothing_and_says_what_is_there(place: &impl Shared) {
    let store = place.instance();
    let nowhere = put_if(&*store, "a", b"1", Expect::Revision(Revision(7))).unwrap_err();
    assert!(matches!(&nowhere, StoreError::Conflict { key, found: None } if key == "a"));
    assert_eq!(nowhere.to_string(), "a is not there; read it again and decide anew");

    let first = put_if(&*store, "a", b"1", Expect::Absent).unwrap();
    let taken = put_if(&*store, "a", b"2", Expect::Absent).unwrap_err();
    assert!(matches!(taken, StoreError::Conflict { found, .. } if found == Some(first)));
    let text = format!("a is there, last changed by revision {first}; read it again and decide anew");
    assert_eq!(taken.to_string(), text);

    let second = put_if(&*store, "a", b"2", Expect::Revision(first)).unwrap();
    let late = store.delete("a", Expect::Revision(first)).unwrap_err();
    assert!(matches!(late, StoreError::Conflict { found, .. } if found == Some(second)));
    assert!(matches!(store.delete("a", Expect::Absent), Err(StoreError::Conflict { .. })));
    assert_eq!(store.list("").unwrap().revision, second);

    assert!(store.delete("a", Expect::Revision(second)).unwrap() > Some(second));
    assert_eq!(store.delete("a", Expect::Any).unwrap(), None);
    assert_eq!(store.delete("a", Expect::Absent).unwrap(), None);
    assert!(matches!(
        store.delete("a", Expect::Revision(second)),
        Err(StoreError::Conflict { found: None, .. })
    ));
}

pub(crate) fn each_key_has_exactly_one_winner(place: &impl Shared) {
    const THREADS: usize = 8;
    const KEYS: usize = 50;
    let start = Barrier::new(THREADS);
    let claims: Vec<(String, String)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let start = &start;
                scope.spawn(move || {
                    // All open a store that is not there yet at once, too.
                    start.wait();
                    let store = place.instance();
                    let me = format!("thread {thread}");
                    let claim = |key: &String| match put_if(&*store, key, me.as_bytes(), Expect::Absent) {
                        Ok(_) => true,
                        Err(StoreError::Conflict { found: Some(_), .. }) => false,
                        Err(error) => panic!("{error:?}"),
                    };
                    let keys = (0..KEYS).map(|key| format!("block/{key:03}"));
                    keys.filter(claim).map(|key| (key, me.clone())).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(claims.len(), KEYS, "each key was won once");
    let winners: BTreeMap<_, _> = claims.into_iter().collect();
    let stored = place.instance().list("block/").unwrap().entries;
    let stored: BTreeMap<_, _> =
        stored.into_iter().map(|entry| (entry.key, String::from_utf8(entry.value).unwrap())).collect();
    assert_eq!(stored, winners);
}

pub(crate) fn keys_and_values_out_of_bounds_are_refused_and_the_largest_are_kept(place: &impl Shared) {
    let store = place.instance();
    for key in ["", "a\n", "a\x7f", "\u{e4}", &"k".repeat(KEY_MAX + 1)] {
        assert!(matches!(put_if(&*store, key, b"", Expect::Any), Err(StoreError::BadKey { .. })), "{key:?}");
        assert!(matches!(store.get(key), Err(StoreError::BadKey { .. })), "{key:?}");
    }
    assert_eq!(
        store.get("a\n").unwrap_err().to_string(),
        r#""a\n" is not a key: use 1 to 512 bytes of printable ASCII"#
    );
    let longest = "k".repeat(KEY_MAX);
    put_if(&*store, &longest, &vec![7; VALUE_MAX], Expect::Any).unwrap();
    assert_eq!(store.list(&longest).unwrap().entries[0].value.len(), VALUE_MAX);
    assert_eq!(
        put_if(&*store, "large", &vec![0; VALUE_MAX + 1], Expect::Any).unwrap_err().to_string(),
        "the value of large has 1048577 bytes; at most 1048576 are stored"
    );
}
