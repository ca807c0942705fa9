//! What the agents keep in the store, by its keys.
//!
//! `network/NAME` is a ClusterNetwork, `deleted/NAME` says that one was deleted, `node/ID` is a node,
//! `block/NETWORK/ADDRESS-LENGTH` the owner of a block; a node's name is a lease.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tartan_model::{Cidr, NetworkName, NodeId};
use thiserror::Error;

/// The prefix of all ClusterNetworks.
pub const NETWORKS: &str = "network/";
/// The prefix of the names of networks that were deleted.
pub const DELETED: &str = "deleted/";
/// The prefix of all nodes.
pub const NODES: &str = "node/";
/// The prefix of all blocks.
pub const BLOCKS: &str = "block/";

/// A key of the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKey {
    /// A ClusterNetwork.
    Network(NetworkName),
    /// That there was one of this name, and that somebody deleted it.
    Deleted(NetworkName),
    /// A node.
    Node(NodeId),
    /// The owner of a block.
    Block(BlockKey),
}

/// A block of a network, written `NETWORK/ADDRESS-LENGTH`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockKey {
    /// The network.
    pub network: NetworkName,
    /// The block.
    pub block: Cidr,
}

/// The owner of a block, as its entry tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The node.
    pub node: NodeId,
}

/// A text that is no block of a network.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no block: write NETWORK/ADDRESS-LENGTH")]
pub struct NoBlock(String);

impl EntryKey {
    /// The key that a text stands for; None for keys of a kind that this release does not know.
    pub fn parse(text: &str) -> Option<EntryKey> {
        if let Some(name) = text.strip_prefix(NETWORKS) {
            return name.parse().ok().map(EntryKey::Network);
        }
        if let Some(name) = text.strip_prefix(DELETED) {
            return name.parse().ok().map(EntryKey::Deleted);
        }
        if let Some(id) = text.strip_prefix(NODES) {
            return id.parse().ok().map(EntryKey::Node);
        }
        text.strip_prefix(BLOCKS)?.parse().ok().map(EntryKey::Block)
    }

    /// The key of a block.
    pub fn block(network: &NetworkName, block: Cidr) -> EntryKey {
        EntryKey::Block(BlockKey { network: network.clone(), block })
    }
}

impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryKey::Network(name) => write!(f, "{NETWORKS}{name}"),
            EntryKey::Deleted(name) => write!(f, "{DELETED}{name}"),
            EntryKey::Node(id) => write!(f, "{NODES}{id}"),
            EntryKey::Block(block) => write!(f, "{BLOCKS}{block}"),
        }
    }
}

impl FromStr for BlockKey {
    type Err = NoBlock;
    fn from_str(text: &str) -> Result<BlockKey, NoBlock> {
        let parts = || {
            let (network, block) = text.split_once('/')?;
            let (address, length) = block.rsplit_once('-')?;
            let block = format!("{address}/{length}").parse().ok()?;
            Some(BlockKey { network: network.parse().ok()?, block })
        };
        parts().ok_or_else(|| NoBlock(text.into()))
    }
}

impl fmt::Display for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}", self.network, self.block.first(), self.block.length())
    }
}

impl Owner {
    /// The owner that an entry's value names; None if it is not understood.
    pub fn read(value: &[u8]) -> Option<NodeId> {
        serde_json::from_slice(value).ok().map(|Owner { node }| node)
    }

    /// As it is written down.
    pub fn text(node: NodeId) -> Vec<u8> {
        // A struct of one text becomes JSON without fail.
        serde_json::to_vec(&Owner { node }).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let keys = [
            "network/default",
            "deleted/blue",
            "node/01010101010101010101010101010101",
            "block/default/10.244.1.0-24",
            "block/default/fd00:10:244:1::-64",
        ];
        for key in keys {
            assert_eq!(EntryKey::parse(key).unwrap().to_string(), key);
        }
    }

    #[test]
    fn what_is_no_key_of_ours_is_none() {
        for key in
            ["", "wait/1", "node/x", "network/", "block/default", "block/default/10.244.1.7-24", "block//-"]
        {
            assert_eq!(EntryKey::parse(key), None, "{key}");
        }
    }
}
