//! What the store has of this node, where no agent took it out.

use std::fmt;
use std::fs;
use std::sync::Arc;

use serde::Deserialize;
use tartan_api::verb::{LeftBlock, Uninstalled};
use tartan_model::NodeId;
use tartan_store::{BlockKey, EntryKey, NODES, Sqlite, Store, StoreError, blocks_of, withdraw};
use tartan_store_etcd::{Etcd, EtcdUrl};

use super::places::Places;

/// The id as the agent keeps it.
#[derive(Deserialize)]
struct Kept {
    id: NodeId,
}

/// This node's id, if it is still known.
fn id(places: &Places) -> Option<NodeId> {
    let kept: Kept = serde_json::from_slice(&fs::read(places.id()).ok()?).ok()?;
    Some(kept.id)
}

/// Why nothing can be done there, and what a person can do: the id is told because the file that has it goes.
fn elsewhere(why: &dyn fmt::Display, id: NodeId) -> String {
    format!("the store: {why}; if it still knows this node, run `tartan node leave {id}` on another one")
}

/// The store, or why it cannot be asked.
fn open(places: &Places) -> Result<Arc<dyn Store>, String> {
    let wrong = |error: &dyn fmt::Display| format!("{}: {error}", places.store);
    if let Some(file) = places.database() {
        // Opening would make one.
        if !file.exists() {
            return Err(wrong(&"there is no such file"));
        }
        // The error names the file.
        return Ok(Arc::new(Sqlite::open(&file).map_err(|error| error.to_string())?));
    }
    let url: EtcdUrl = places.store.parse().map_err(|error| wrong(&error))?;
    Ok(Arc::new(Etcd::open(url, &places.etcd).map_err(|error| wrong(&error))?))
}

/// What will be done there, or why nothing can be, for a person; none if there is nothing.
pub(crate) fn plan(places: &Places) -> Option<String> {
    let id = id(places)?;
    match open(places).and_then(|store| known(store.as_ref(), id).map_err(|error| error.to_string())) {
        Err(why) => Some(elsewhere(&why, id)),
        Ok((false, 0)) => None,
        Ok((_, blocks)) => Some(format!("node {id} leaves the cluster and gives back {blocks} blocks")),
    }
}

/// Whether the store has an entry of this node, and how many blocks.
fn known(store: &dyn Store, id: NodeId) -> Result<(bool, usize), StoreError> {
    Ok((store.get(&EntryKey::Node(id).to_string())?.is_some(), blocks_of(store, id)?.len()))
}

/// Takes this node out.
pub(crate) fn leave(places: &Places, outcome: &mut Uninstalled) {
    let Some(id) = id(places) else { return };
    match open(places).and_then(|store| take_out(store.as_ref(), id).map_err(|error| error.to_string())) {
        Ok(freed) => {
            let block = |BlockKey { network, block }| LeftBlock { network, block };
            outcome.blocks.extend(freed.into_iter().map(block));
        }
        Err(why) => outcome.kept.push(elsewhere(&why, id)),
    }
}

fn take_out(store: &dyn Store, id: NodeId) -> Result<Vec<BlockKey>, StoreError> {
    let freed = withdraw(store, id)?;
    let id = id.to_string();
    for lease in store.leases()?.into_iter().filter(|lease| lease.holder == id) {
        store.release_lease(&lease.name, &id)?;
    }
    Ok(freed)
}

/// The other nodes that the store knows; None if it cannot be asked.
pub(crate) fn others(places: &Places) -> Option<usize> {
    let own = id(places).map(|id| EntryKey::Node(id).to_string());
    let store = open(places).ok()?;
    let entries = store.list(NODES).ok()?.entries;
    Some(entries.iter().filter(|entry| Some(&entry.key) != own.as_ref()).count())
}
