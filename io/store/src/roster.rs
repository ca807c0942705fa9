//! How a node is taken out of the store.

use tartan_model::NodeId;

use crate::{BLOCKS, BlockKey, Entry, EntryKey, Expect, Owner, Store, StoreError};

/// The entries of the blocks that a node owns.
///
/// # Errors
/// [`StoreError::Unavailable`].
pub fn blocks_of(store: &dyn Store, id: NodeId) -> Result<Vec<Entry>, StoreError> {
    let is_own = |entry: &Entry| Owner::read(&entry.value) == Some(id);
    Ok(store.list(BLOCKS)?.entries.into_iter().filter(is_own).collect())
}

/// Takes away what a node has published of its pods' interfaces.
///
/// # Errors
/// [`StoreError::Unavailable`].
pub fn forget_endpoints(store: &dyn Store, id: NodeId) -> Result<(), StoreError> {
    for entry in store.list(&EntryKey::endpoints_of(id))?.entries {
        store.delete(&entry.key, Expect::Any)?;
    }
    Ok(())
}

/// Takes a node out: what it published of its pods, its blocks, then its entry. Gives the blocks. Whoever is stopped half
/// way can begin anew: as long as there is anything else, the entry tells whose it is.
///
/// # Errors
/// [`StoreError::Unavailable`].
pub fn withdraw(store: &dyn Store, id: NodeId) -> Result<Vec<BlockKey>, StoreError> {
    forget_endpoints(store, id)?;
    let mut freed = Vec::new();
    for Entry { key, revision, .. } in blocks_of(store, id)? {
        match store.delete(&key, Expect::Revision(revision)) {
            Ok(_) => freed.extend(EntryKey::parse(&key).and_then(|key| match key {
                EntryKey::Block(block) => Some(block),
                _ => None,
            })),
            // Another node of the same name took it over.
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    store.delete(&EntryKey::Node(id).to_string(), Expect::Any)?;
    Ok(freed)
}
