//! What the store has of this node, where no agent took it out.

use std::fs;
use std::sync::Arc;

use serde::Deserialize;
use tartan_api::verb::{LeftBlock, Uninstalled};
use tartan_model::NodeId;
use tartan_store::{BLOCKS, NODES, OpenError, Sqlite, Store, StoreError, blocks_of, withdraw};
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

/// What a person can do where the store does not answer.
const ELSEWHERE: &str = "if it still knows this node, run `tartan node leave NODE` on another one";

/// The store, or why it cannot be asked. None if there is none.
fn open(places: &Places) -> Option<Result<Arc<dyn Store>, String>> {
    if let Some(file) = places.database() {
        let open = || Ok(Arc::new(Sqlite::open(&file)?) as Arc<dyn Store>);
        return file
            .exists()
            .then(|| open().map_err(|error: OpenError| format!("the store: {error}; {ELSEWHERE}")));
    }
    let url: Result<EtcdUrl, _> = places.store.parse();
    let url = match url {
        Ok(url) => url,
        Err(error) => return Some(Err(format!("the store {}: {error}; {ELSEWHERE}", places.store))),
    };
    let etcd = Etcd::open(url, &places.etcd).map(|etcd| Arc::new(etcd) as Arc<dyn Store>);
    Some(etcd.map_err(|error| format!("the store {}: {error}; {ELSEWHERE}", places.store)))
}

/// What will be done there, for a person; none if there is nothing.
pub(crate) fn plan(places: &Places) -> Option<String> {
    let id = id(places)?.to_string();
    match open(places)? {
        Err(reason) => Some(reason),
        Ok(store) => {
            let there = store.get(&format!("{NODES}{id}")).ok()?.is_some();
            let blocks = blocks_of(store.as_ref(), &id).ok()?.len();
            let what = format!("node {id} leaves the cluster and gives back {blocks} blocks");
            (there || blocks > 0).then_some(what)
        }
    }
}

/// Takes this node out.
pub(crate) fn leave(places: &Places, outcome: &mut Uninstalled) {
    let Some(id) = id(places).map(|id| id.to_string()) else { return };
    match open(places) {
        None => {}
        Some(Err(reason)) => outcome.kept.push(reason),
        Some(Ok(store)) => match take_out(store.as_ref(), &id) {
            Ok(freed) => {
                outcome.blocks.extend(freed.iter().filter_map(|key| block(key)));
            }
            Err(error) => outcome.kept.push(format!("the store: {error}; {ELSEWHERE}")),
        },
    }
}

fn take_out(store: &dyn Store, id: &str) -> Result<Vec<String>, StoreError> {
    let freed = withdraw(store, id)?;
    for lease in store.leases()?.into_iter().filter(|lease| lease.holder == id) {
        store.release_lease(&lease.name, id)?;
    }
    Ok(freed)
}

/// The block that a key is of.
fn block(key: &str) -> Option<LeftBlock> {
    let (network, block) = key.strip_prefix(BLOCKS)?.split_once('/')?;
    let (address, length) = block.rsplit_once('-')?;
    Some(LeftBlock { network: network.parse().ok()?, block: format!("{address}/{length}").parse().ok()? })
}

/// The other nodes that the store knows; None if it cannot be asked.
pub(crate) fn others(places: &Places) -> Option<usize> {
    let own = id(places).map(|id| format!("{NODES}{id}"));
    let store = open(places)?.ok()?;
    let entries = store.list(NODES).ok()?.entries;
    Some(entries.iter().filter(|entry| Some(&entry.key) != own.as_ref()).count())
}
