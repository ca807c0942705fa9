//! The store's entries: how facts are written down there.
//!
//! `network/NAME` is a ClusterNetwork, `node/ID` a node, `block/NETWORK/ADDRESS-LENGTH` the owner of a block.
//! `wait/…` and `heard/…` are there only as long as somebody waits (`tartan apply --wait`).

use std::fmt;

use serde::{Deserialize, Serialize};
use tartan_api::network::ClusterNetwork;
use tartan_decide::Fact;
use tartan_model::{Cidr, NetworkName, Node, NodeId};
pub(crate) use tartan_store::{BLOCKS, NODES};
use thiserror::Error;

/// The prefix of all ClusterNetworks.
pub(crate) const NETWORKS: &str = "network/";
/// The prefix of what somebody waits for: `wait/ID-NUMBER`, written by the agent that was asked.
pub(crate) const WAITS: &str = "wait/";
/// The prefix of the answers: `heard/ID-NUMBER/ID`, one from each agent.
pub(crate) const HEARD: &str = "heard/";

/// An agent's answer to a wait: why its kernel has not everything, or nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Heard {
    pub(crate) reasons: Vec<String>,
}

/// A key of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKey {
    Network(NetworkName),
    Node(NodeId),
    Block(NetworkName, Cidr),
}

/// The owner of a block.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) node: NodeId,
}

/// An entry that cannot be understood.
#[derive(Debug, Error)]
#[error("store entry {key} is not understood: {reason}")]
pub(crate) struct Misunderstood {
    key: String,
    reason: String,
}

impl EntryKey {
    /// The key that a text stands for; None for keys of a kind that this release does not know.
    pub(crate) fn parse(text: &str) -> Option<EntryKey> {
        if let Some(name) = text.strip_prefix(NETWORKS) {
            return name.parse().ok().map(EntryKey::Network);
        }
        if let Some(id) = text.strip_prefix(NODES) {
            return id.parse().ok().map(EntryKey::Node);
        }
        let (network, block) = text.strip_prefix(BLOCKS)?.split_once('/')?;
        let (address, length) = block.rsplit_once('-')?;
        let block = format!("{address}/{length}").parse().ok()?;
        Some(EntryKey::Block(network.parse().ok()?, block))
    }

    /// The fact that an entry with this value, or its absence, is.
    pub(crate) fn fact(self, value: Option<&[u8]>) -> Result<Fact, Misunderstood> {
        let text = self.to_string();
        let wrong = |reason: String| Misunderstood { key: text.clone(), reason };
        Ok(match self {
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
            EntryKey::Block(network, block) => {
                let owner: Option<Owner> = read(value).map_err(wrong)?;
                Fact::Block(network, block, owner.map(|owner| owner.node))
            }
        })
    }
}

impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryKey::Network(name) => write!(f, "{NETWORKS}{name}"),
            EntryKey::Node(id) => write!(f, "{NODES}{id}"),
            EntryKey::Block(network, block) => {
                write!(f, "{BLOCKS}{network}/{}-{}", block.first(), block.length())
            }
        }
    }
}

fn read<T: for<'de> Deserialize<'de>>(value: Option<&[u8]>) -> Result<Option<T>, String> {
    value.map(|value| serde_json::from_slice(value).map_err(|error| error.to_string())).transpose()
}
