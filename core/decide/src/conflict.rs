//! What keeps a network from being served: it contradicts the underlay or another network.

use tartan_api::network::Network;
use tartan_model::{Cidr, InterfaceAddress, NetworkName, Pool, Vni};
use thiserror::Error;

use crate::World;

/// The most pools of all networks together: each pair of pools of two networks is looked out for.
pub const MOST_POOLS: usize = 128;

/// A contradiction between a network and what is there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Conflict {
    /// A pool holds addresses of the nodes' own network.
    #[error(
        "pool {pool} overlaps the underlay: nodes stand in {underlay}; choose a pool that no node's own network touches"
    )]
    Underlay {
        /// The pool.
        pool: Cidr,
        /// The network of nodes that it meets.
        underlay: Cidr,
    },
    /// A pool holds addresses of another network.
    #[error("pool {pool} overlaps pool {other} of network {network}; give each network ranges of its own")]
    Pool {
        /// The pool.
        pool: Cidr,
        /// The other network's pool.
        other: Cidr,
        /// The other network.
        network: NetworkName,
    },
    /// A pool holds addresses that pods of another network may still have.
    #[error(
        "pool {pool} overlaps block {block}, which network {network} still holds; choose another pool, or wait until its pods are gone"
    )]
    Block {
        /// The pool.
        pool: Cidr,
        /// The block.
        block: Cidr,
        /// The network that holds it.
        network: NetworkName,
    },
    /// More pools than can be kept apart.
    #[error(
        "all networks together have {0} pools, and this release serves {MOST_POOLS}; give networks fewer and larger ones"
    )]
    Pools(usize),
    /// Another network has the same identifier.
    #[error(
        "VXLAN identifier {vni} is that of network {network}; give each network its own (spec.vxlan.vni)"
    )]
    Vni {
        /// The identifier.
        vni: Vni,
        /// The other network.
        network: NetworkName,
    },
}

impl World {
    /// Whether a network, written anew or in place of what it was, would contradict the underlay of any node, or any
    /// other network. Pools that it has already are its own: nodes that came after them must move.
    pub fn conflict(&self, network: &Network) -> Option<Conflict> {
        let had = self.networks.get(&network.name).map(|had| had.pools.as_slice()).unwrap_or_default();
        let is_had = |pool: &Pool| had.iter().any(|had| had.cidr() == pool.cidr());
        let new = network.pools.iter().filter(|pool| !is_had(pool)).cloned().collect::<Vec<_>>();
        let nodes = self.nodes.values().flat_map(|node| &node.addresses).chain(self.own_addresses());
        let underlay = under(&new, nodes.map(InterfaceAddress::network));
        let mut others = self.networks.values().filter(|other| other.name != network.name);
        let count = network.pools.len() + others.clone().map(|other| other.pools.len()).sum::<usize>();
        underlay
            .or_else(|| others.find_map(|other| between(network, other)))
            .or_else(|| self.block_conflict(network))
            .or_else(|| (count > MOST_POOLS).then_some(Conflict::Pools(count)))
    }

    /// Why a known network is not served on this node: of two that contradict each other the first by name is. Only
    /// this node's own place counts: what another node publishes of itself must not shut this one's pods.
    pub(crate) fn unserved(&self, network: &Network) -> Option<Conflict> {
        let mut before = self.networks.range(..network.name.clone()).map(|(_, other)| other);
        let count = network.pools.len() + before.clone().map(|other| other.pools.len()).sum::<usize>();
        under(&network.pools, self.own_addresses().map(InterfaceAddress::network))
            .or_else(|| before.find_map(|other| between(network, other)))
            .or_else(|| (count > MOST_POOLS).then_some(Conflict::Pools(count)))
    }

    fn own_addresses(&self) -> impl Iterator<Item = &InterfaceAddress> {
        self.uplink.iter().flat_map(|uplink| &uplink.addresses)
    }

    /// Blocks outlive the pools that they are from as long as pods have addresses from them.
    fn block_conflict(&self, network: &Network) -> Option<Conflict> {
        let others = self.blocks.iter().filter(|(name, _)| **name != network.name);
        let mut blocks = others.flat_map(|(name, blocks)| blocks.keys().map(move |block| (name, block)));
        blocks.find_map(|(name, block)| {
            let pool = network.pools.iter().find(|pool| pool.cidr().overlaps(block))?;
            Some(Conflict::Block { pool: pool.cidr(), block: *block, network: name.clone() })
        })
    }
}

fn under(pools: &[Pool], mut underlays: impl Iterator<Item = Cidr>) -> Option<Conflict> {
    underlays.find_map(|underlay| {
        let pool = pools.iter().find(|pool| pool.cidr().overlaps(&underlay))?;
        Some(Conflict::Underlay { pool: pool.cidr(), underlay })
    })
}

fn between(network: &Network, other: &Network) -> Option<Conflict> {
    let pools = network.pools.iter().find_map(|pool| {
        let met = other.pools.iter().find(|theirs| theirs.cidr().overlaps(&pool.cidr()))?;
        Some(Conflict::Pool { pool: pool.cidr(), other: met.cidr(), network: other.name.clone() })
    });
    pools.or_else(|| {
        (network.vxlan.vni == other.vxlan.vni)
            .then(|| Conflict::Vni { vni: network.vxlan.vni, network: other.name.clone() })
    })
}
