//! Nodes and blocks as entries of a store, and how a node is taken out of it.
//!
//! `node/ID` is a node, `block/NETWORK/ADDRESS-LENGTH` the owner of a block; a node's name is a lease.

use serde::Deserialize;

use crate::{Entry, Expect, Store, StoreError};

/// The prefix of all nodes.
pub const NODES: &str = "node/";
/// The prefix of all blocks.
pub const BLOCKS: &str = "block/";

/// The owner of a block, as far as it tells who that is.
#[derive(Deserialize)]
struct Owner {
    node: String,
}

/// The entries of the blocks that a node owns.
///
/// # Errors
/// [`StoreError::Unavailable`].
pub fn blocks_of(store: &dyn Store, id: &str) -> Result<Vec<Entry>, StoreError> {
    let is_own =
        |entry: &Entry| serde_json::from_slice::<Owner>(&entry.value).is_ok_and(|owner| owner.node == id);
    Ok(store.list(BLOCKS)?.entries.into_iter().filter(is_own).collect())
}

/// Takes a node out: its blocks, then its entry. Gives the keys of the blocks. Whoever is stopped half way can begin anew:
/// as long as there are blocks, the entry tells whose they are.
///
/// # Errors
/// [`StoreError::Unavailable`].
pub fn withdraw(store: &dyn Store, id: &str) -> Result<Vec<String>, StoreError> {
    let mut freed = Vec::new();
    for Entry { key, revision, .. } in blocks_of(store, id)? {
        match store.delete(&key, Expect::Revision(revision)) {
            Ok(_) => freed.push(key),
            // Another node of the same name took it over.
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    store.delete(&format!("{NODES}{id}"), Expect::Any)?;
    Ok(freed)
}
