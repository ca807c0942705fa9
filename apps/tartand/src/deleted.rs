//! Deleting a network, so that no agent that comes late puts it back.
//!
//! Agents put back what a store that was wiped has lost (`memory.rs`), and one of them may come when others have done so
//! and somebody has deleted a network since. The word of that is left in the store beside the networks.

use tartan_model::NetworkName;
use tartan_store::{DELETED, Durability, EntryKey, Expect, Store, StoreError};
use tracing::warn;

/// How many deletions are remembered; of those before, a late agent may put the network back.
const REMEMBERED: usize = 64;

/// Deletes a network; false if there is none.
///
/// # Errors
/// [`StoreError::Unavailable`].
pub(crate) fn delete_network(store: &dyn Store, name: &NetworkName) -> Result<bool, StoreError> {
    let key = EntryKey::Network(name.clone()).to_string();
    if store.get(&key)?.is_none() {
        return Ok(false);
    }
    // First: whoever sees that the network is gone finds the word of it.
    store.put(&EntryKey::Deleted(name.clone()).to_string(), b"null", Expect::Any, Durability::Crash)?;
    let gone = store.delete(&key, Expect::Any)?.is_some();
    // That too many stay is no reason to call the deletion a failure; the next one tries again.
    if let Err(error) = forget_old(store) {
        warn!("cannot forget old deletions: {error}");
    }
    Ok(gone)
}

fn forget_old(store: &dyn Store) -> Result<(), StoreError> {
    let mut entries = store.list(DELETED)?.entries;
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.revision));
    for old in entries.into_iter().skip(REMEMBERED) {
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

    #[test]
    fn a_bounded_number_of_deletions_is_remembered_the_last_ones() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("s.db")).unwrap();
        let names: Vec<NetworkName> =
            (0..REMEMBERED + 3).map(|number| format!("n{number}").parse().unwrap()).collect();
        assert!(!delete_network(&store, &names[0]).unwrap());
        assert!(store.list(DELETED).unwrap().entries.is_empty(), "of what was not there nothing is said");
        for name in &names {
            let key = EntryKey::Network(name.clone()).to_string();
            store.put(&key, b"{}", Expect::Absent, Durability::Crash).unwrap();
            assert!(delete_network(&store, name).unwrap());
        }
        assert!(store.list(NETWORKS).unwrap().entries.is_empty());
        assert_eq!(store.list(DELETED).unwrap().entries.len(), REMEMBERED);
        let has =
            |name: &NetworkName| store.get(&EntryKey::Deleted(name.clone()).to_string()).unwrap().is_some();
        assert!(!has(&names[2]) && has(&names[3]));
    }
}
