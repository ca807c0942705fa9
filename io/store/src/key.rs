//! What the agents keep in the store, by its keys.
//!
//! `network/NAME` is a ClusterNetwork, `policy/NAMESPACE/NAME`, `namespace/NAME`, `pod/NAMESPACE/NAME` and
//! `serviceaccount/NAMESPACE/NAME` are what else people write; `deleted/NAME`, and `deleted/KEY` of those others, says that
//! one was deleted. `node/ID` is a node, `block/NETWORK/ADDRESS-LENGTH` the owner of a block,
//! `endpoint/NODE-ID/CONTAINER/INTERFACE` a pod's interface on a node; a node's name is a lease.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tartan_model::{AttachmentKey, Cidr, Name, NetworkName, NodeId, PodName, PolicyName, ServiceAccountName};
use thiserror::Error;

/// The prefix of all ClusterNetworks.
pub const NETWORKS: &str = "network/";
/// The prefix of all NetworkPolicies.
pub const POLICIES: &str = "policy/";
/// The prefix of all Namespaces.
pub const NAMESPACES: &str = "namespace/";
/// The prefix of all Pods, as people write them.
pub const PODS: &str = "pod/";
/// The prefix of all ServiceAccounts.
pub const SERVICE_ACCOUNTS: &str = "serviceaccount/";
/// The prefix of the names of what was deleted.
pub const DELETED: &str = "deleted/";
/// The prefix of all nodes.
pub const NODES: &str = "node/";
/// The prefix of all blocks.
pub const BLOCKS: &str = "block/";
/// The prefix of all pods' interfaces, as their nodes publish them.
pub const ENDPOINTS: &str = "endpoint/";

/// A key of the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKey {
    /// What people write.
    Object(ObjectKey),
    /// That there was one of this name, and that somebody deleted it.
    Deleted(ObjectKey),
    /// A node.
    Node(NodeId),
    /// The owner of a block.
    Block(BlockKey),
    /// A pod's interface on a node.
    Endpoint(NodeId, AttachmentKey),
}

/// What people write, by kind and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKey {
    /// A ClusterNetwork.
    Network(NetworkName),
    /// A NetworkPolicy.
    Policy(PolicyName),
    /// A Namespace.
    Namespace(Name),
    /// A Pod.
    Pod(PodName),
    /// A ServiceAccount.
    ServiceAccount(ServiceAccountName),
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
        if let Some(id) = text.strip_prefix(NODES) {
            return id.parse().ok().map(EntryKey::Node);
        }
        if let Some(block) = text.strip_prefix(BLOCKS) {
            return block.parse().ok().map(EntryKey::Block);
        }
        if let Some(endpoint) = text.strip_prefix(ENDPOINTS) {
            let (node, key) = endpoint.split_once('/')?;
            let (container, interface) = key.split_once('/')?;
            let key =
                AttachmentKey { container: container.parse().ok()?, interface: interface.parse().ok()? };
            return Some(EntryKey::Endpoint(node.parse().ok()?, key));
        }
        if let Some(deleted) = text.strip_prefix(DELETED) {
            // A network's name has no slash, and every other object's key has one.
            let network = || deleted.parse().ok().map(ObjectKey::Network);
            let other = || ObjectKey::parse(deleted).filter(|key| !matches!(key, ObjectKey::Network(_)));
            return network().or_else(other).map(EntryKey::Deleted);
        }
        ObjectKey::parse(text).map(EntryKey::Object)
    }

    /// The key of a network.
    pub fn network(name: &NetworkName) -> EntryKey {
        EntryKey::Object(ObjectKey::Network(name.clone()))
    }

    /// The key of a block.
    pub fn block(network: &NetworkName, block: Cidr) -> EntryKey {
        EntryKey::Block(BlockKey { network: network.clone(), block })
    }

    /// The prefix of the interfaces of a node's pods.
    pub fn endpoints_of(node: NodeId) -> String {
        format!("{ENDPOINTS}{node}/")
    }
}

impl ObjectKey {
    fn parse(text: &str) -> Option<ObjectKey> {
        let below = |prefix: &str| text.strip_prefix(prefix);
        if let Some(name) = below(NETWORKS) {
            return name.parse().ok().map(ObjectKey::Network);
        }
        if let Some(name) = below(POLICIES) {
            return name.parse().ok().map(ObjectKey::Policy);
        }
        if let Some(name) = below(NAMESPACES) {
            return name.parse().ok().map(ObjectKey::Namespace);
        }
        if let Some(name) = below(PODS) {
            return name.parse().ok().map(ObjectKey::Pod);
        }
        below(SERVICE_ACCOUNTS)?.parse().ok().map(ObjectKey::ServiceAccount)
    }
}

impl From<ObjectKey> for EntryKey {
    fn from(key: ObjectKey) -> EntryKey {
        EntryKey::Object(key)
    }
}

impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryKey::Object(key) => key.fmt(f),
            // As releases of before wrote it.
            EntryKey::Deleted(ObjectKey::Network(name)) => write!(f, "{DELETED}{name}"),
            EntryKey::Deleted(key) => write!(f, "{DELETED}{key}"),
            EntryKey::Node(id) => write!(f, "{NODES}{id}"),
            EntryKey::Block(block) => write!(f, "{BLOCKS}{block}"),
            EntryKey::Endpoint(node, key) => write!(f, "{ENDPOINTS}{node}/{key}"),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObjectKey::Network(name) => write!(f, "{NETWORKS}{name}"),
            ObjectKey::Policy(name) => write!(f, "{POLICIES}{name}"),
            ObjectKey::Namespace(name) => write!(f, "{NAMESPACES}{name}"),
            ObjectKey::Pod(name) => write!(f, "{PODS}{name}"),
            ObjectKey::ServiceAccount(name) => write!(f, "{SERVICE_ACCOUNTS}{name}"),
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
            "policy/shop/web.v1",
            "namespace/shop",
            "pod/shop/web-0",
            "serviceaccount/shop/web",
            "deleted/blue",
            "deleted/policy/shop/web.v1",
            "deleted/namespace/shop",
            "node/01010101010101010101010101010101",
            "endpoint/01010101010101010101010101010101/A_b.c-1/eth0",
            "endpoint/01010101010101010101010101010101/c1/net.1~x",
            "block/default/10.244.1.0-24",
            "block/default/fd00:10:244:1::-64",
        ];
        for key in keys {
            assert_eq!(EntryKey::parse(key).unwrap().to_string(), key);
        }
    }

    #[test]
    fn every_key_fits_every_store() {
        let (long, label) = (vec!["a"; 127].join("."), "a".repeat(63));
        for prefix in [POLICIES, PODS, SERVICE_ACCOUNTS] {
            let key = format!("{DELETED}{prefix}{label}/{long}");
            assert_eq!(EntryKey::parse(&key).unwrap().to_string(), key);
            crate::check_key(&key).unwrap();
        }
        let endpoint = format!(
            "{}{}/{}",
            EntryKey::endpoints_of(NodeId::from_bytes([1; 16])),
            "c".repeat(256),
            "i".repeat(15)
        );
        assert_eq!(EntryKey::parse(&endpoint).unwrap().to_string(), endpoint);
        crate::check_key(&endpoint).unwrap();
    }

    #[test]
    fn what_is_no_key_of_ours_is_none() {
        let keys = [
            "",
            "wait/1",
            "node/x",
            "network/",
            "block/default",
            "block/default/10.244.1.7-24",
            "block//-",
            "policy/web",
            "policy/a/b/c",
            "namespace/a/b",
            "deleted/network/blue",
            "deleted/node/x",
            "endpoint/01010101010101010101010101010101/c1",
            "endpoint/c1/eth0",
            "endpoint/01010101010101010101010101010101/c1/eth0/x",
        ];
        for key in keys {
            assert_eq!(EntryKey::parse(key), None, "{key}");
        }
    }
}
