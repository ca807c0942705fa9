//! Files under a store that serves.

use crate::place::Place;
use crate::suite::{put, swap::put_if};
use tartan_store::{Expect, History, Store, StoreError};

#[test]
fn a_file_is_one_history() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(store.kind(), "sqlite");
    assert_eq!(store.list("").unwrap().history, History::default());
}

#[test]
fn a_file_that_was_removed_or_replaced_is_unavailable() {
    let place = Place::new();
    let store = place.open();
    put(&store, "a", "1");
    std::fs::remove_file(&place.file).unwrap();
    let error = store.get("a").unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.to_string().starts_with("the file was removed or replaced"), "{source}");

    std::fs::write(&place.file, "another").unwrap();
    assert!(matches!(put_if(&store, "a", b"2", Expect::Any), Err(StoreError::Unavailable { .. })));
}
