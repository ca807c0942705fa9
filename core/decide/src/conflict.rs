//! What keeps a network from being served: it contradicts the underlay or another network.

use tartan_api::network::Network;
use tartan_model::{Cidr, InterfaceAddress, NetworkName, Pool, Vni};
use thiserror::Error;

use crate::World;

/// A contradiction between a network and what is there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Conflict {
    /// A pool holds addresses of the nodes' own network.
    #[error(
        "pool {pool} overlaps the underlay: nodes stand in {underlay}; choose a pool that no node's own network touches"
    )]
    Underlay {
        /// The pool.
        pool: Pool,
        /// The network of nodes that it meets.
        underlay: Cidr,
    },
    /// A pool holds addresses of another network.
    #[error("pool {pool} overlaps pool {other} of network {network}; give each network ranges of its own")]
    Pool {
        /// The pool.
        pool: Pool,
        /// The other network's pool.
        other: Pool,
        /// The other network.
        network: NetworkName,
    },
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
    /// Whether a network would contradict the underlay or any other network.
    pub fn conflict(&self, network: &Network) -> Option<Conflict> {
        let others = self.networks.values().filter(|other| other.name != network.name);
        self.underlay_conflict(network)
            .or_else(|| others.into_iter().find_map(|other| between(network, other)))
    }

    /// Why a known network is not served: of two that contradict each other the first by name is.
    pub(crate) fn unserved(&self, network: &Network) -> Option<Conflict> {
        let before = self.networks.range(..network.name.clone()).map(|(_, other)| other);
        self.underlay_conflict(network)
            .or_else(|| before.into_iter().find_map(|other| between(network, other)))
    }

    fn underlay_conflict(&self, network: &Network) -> Option<Conflict> {
        let own = self.uplink.iter().flat_map(|uplink| &uplink.addresses).map(InterfaceAddress::network);
        own.chain(self.underlays.keys().copied()).find_map(|underlay| {
            let pool = network.pools.iter().find(|pool| pool.cidr().overlaps(&underlay))?;
            Some(Conflict::Underlay { pool: *pool, underlay })
        })
    }
}

fn between(network: &Network, other: &Network) -> Option<Conflict> {
    let pools = network.pools.iter().find_map(|pool| {
        let met = other.pools.iter().find(|theirs| theirs.cidr().overlaps(&pool.cidr()))?;
        Some(Conflict::Pool { pool: *pool, other: *met, network: other.name.clone() })
    });
    pools.or_else(|| {
        (network.vxlan.vni == other.vxlan.vni)
            .then(|| Conflict::Vni { vni: network.vxlan.vni, network: other.name.clone() })
    })
}
