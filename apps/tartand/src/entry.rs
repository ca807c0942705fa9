//! The store's entries as facts, and those that are there only as long as somebody waits (`tartan apply --wait`).

use serde::{Deserialize, Serialize};
use tartan_api::network::ClusterNetwork;
use tartan_decide::Fact;
use tartan_model::Node;
use tartan_store::{BlockKey, EntryKey, Owner};
use thiserror::Error;

/// The prefix of what somebody waits for: `wait/ID-NUMBER`, written by the agent that was asked.
pub(crate) const WAITS: &str = "wait/";
/// The prefix of the answers: `heard/ID-NUMBER/ID`, one from each agent.
pub(crate) const HEARD: &str = "heard/";

/// An agent's answer to a wait: why its kernel has not everything, or nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Heard {
    pub(crate) reasons: Vec<String>,
}

/// An entry that cannot be understood.
#[derive(Debug, Error)]
#[error("store entry {key} is not understood: {reason}")]
pub(crate) struct Misunderstood {
    key: String,
    reason: String,
}

/// The fact that an entry with this value, or its absence, is; None if it is none.
pub(crate) fn fact(key: EntryKey, value: Option<&[u8]>) -> Result<Option<Fact>, Misunderstood> {
    let text = key.to_string();
    let wrong = |reason: String| Misunderstood { key: text.clone(), reason };
    Ok(Some(match key {
        EntryKey::Network(name) => {
            let object: Option<ClusterNetwork> = read(value).map_err(wrong)?;
            let network = object.map(|object| object.resolve()).transpose();
            let network = network.map_err(|error| wrong(error.to_string()))?;
            if network.as_ref().is_some_and(|network| network.name != name) {
                return Err(wrong("it has another name inside".into()));
            }
            Fact::Network(name, network)
        }
        EntryKey::Node(id) => {
            let node: Option<Node> = read(value).map_err(wrong)?;
            if node.as_ref().is_some_and(|node| node.id != id) {
                return Err(wrong("it has another id inside".into()));
            }
            Fact::Node(id, node)
        }
        EntryKey::Block(BlockKey { network, block }) => {
            let owner: Option<Owner> = read(value).map_err(wrong)?;
            Fact::Block(network, block, owner.map(|owner| owner.node))
        }
        EntryKey::Deleted(_) => return Ok(None),
    }))
}

fn read<T: for<'de> Deserialize<'de>>(value: Option<&[u8]>) -> Result<Option<T>, String> {
    value.map(|value| serde_json::from_slice(value).map_err(|error| error.to_string())).transpose()
}
