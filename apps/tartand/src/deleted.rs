//! Deleting what people write, so that no agent goes on with it.
//!
//! Agents keep what a store that was wiped has lost, and put back the networks of it (`memory.rs`). One of them may come
//! when somebody has deleted something since, or it may be told to delete what only memory has. The word of that is left in
//! the store beside the objects.

use tartan_store::{DELETED, Durability, Entry, EntryKey, Expect, ObjectKey, Store, StoreError};
use tracing::warn;

/// How many deletions of networks are remembered; of those before, a late agent may put the network back.
const REMEMBERED: usize = 64;
/// How many of other objects; those before may stay in the memory of an agent that was away, until it is restarted.
const OTHERS_REMEMBERED: usize = 512;

/// Deletes an object; false if there is none, neither in the store nor, as `is_remembered` is asked, in memory.
///
/// # Errors
/// [`StoreError::Unavailable`].
pub(crate) fn delete_object(
    store: &dyn Store,
    object: &ObjectKey,
    is_remembered: impl FnOnce() -> bool,
) -> Result<bool, StoreError> {
    let key = EntryKey::Object(object.clone()).to_string();
    let in_store = store.get(&key)?.is_some();
    if !in_store && !is_remembered() {
        return Ok(false);
    }
    // First: whoever sees that the object is gone finds the word of it.
    store.put(&EntryKey::Deleted(object.clone()).to_string(), b"null", Expect::Any, Durability::Crash)?;
    let gone = store.delete(&key, Expect::Any)?.is_some() || !in_store;
    // That too many stay is no reason to call the deletion a failure; the next one tries again.
    if let Err(error) = forget_old(store) {
        warn!("cannot forget old deletions: {error}");
    }
    Ok(gone)
}

fn forget_old(store: &dyn Store) -> Result<(), StoreError> {
    let mut entries = store.list(DELETED)?.entries;
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.revision));
    let is_network =
        |entry: &Entry| matches!(EntryKey::parse(&entry.key), Some(EntryKey::Deleted(ObjectKey::Network(_))));
    let (networks, others): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(is_network);
    for old in networks.into_iter().skip(REMEMBERED).chain(others.into_iter().skip(OTHERS_REMEMBERED)) {
        match store.delete(&old.key, Expect::Revision(old.revision)) {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tartan_store::{NETWORKS, Sqlite};

    use super::*;

    fn network(number: usize) -> ObjectKey {
        ObjectKey::Network(format!("n{number}").parse().unwrap())
    }

    fn put(store: &Sqlite, object: &ObjectKey) {
        let key = EntryKey::Object(object.clone()).to_string();
        store.put(&key, b"{}", Expect::Absent, Durability::Crash).unwrap();
    }

    fn has_word(store: &Sqlite, object: &ObjectKey) -> bool {
        store.get(&EntryKey::Deleted(object.clone()).to_string()).unwrap().is_some()
    }

    #[test]
    fn a_bounded_number_of_deletions_is_remembered_the_last_ones() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("s.db")).unwrap();
        assert!(!delete_object(&store, &network(0), || false).unwrap());
        assert!(store.list(DELETED).unwrap().entries.is_empty(), "of what was not there nothing is said");
        // Policies that come and go do not push out the words of networks.
        let policy = ObjectKey::Policy("shop/web".parse().unwrap());
        for number in 0..REMEMBERED + 3 {
            put(&store, &network(number));
            assert!(delete_object(&store, &network(number), || unreachable!("the store has it")).unwrap());
            put(&store, &policy);
            assert!(delete_object(&store, &policy, || unreachable!("the store has it")).unwrap());
        }
        assert!(store.list(NETWORKS).unwrap().entries.is_empty());
        assert_eq!(store.list(DELETED).unwrap().entries.len(), REMEMBERED + 1);
        assert!(!has_word(&store, &network(2)) && has_word(&store, &network(3)) && has_word(&store, &policy));
    }

    #[test]
    fn what_only_memory_has_is_deleted_by_the_word_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("s.db")).unwrap();
        let policy = ObjectKey::Policy("shop/web".parse().unwrap());
        assert!(delete_object(&store, &policy, || true).unwrap());
        assert!(has_word(&store, &policy));
    }
}
