//! The ways to a peer that can be probed: from this node's own address in each network to the peer's.

use std::net::IpAddr;

use tartan_model::{Cidr, Family, IfName, InterfaceAddress, Mtu, Node};
use tartan_probe::Lane;

use crate::{Choice, Decision, Reach, World};

impl World {
    /// The ways to a peer that a decision comes to. Where either side has no block of a family yet there is none.
    pub fn lanes(&self, peer: &Node, decision: &Decision) -> Vec<Lane> {
        let Some(Choice::Peer(choice)) = &decision.choice else { return Vec::new() };
        choice.reach.iter().flat_map(|reach| self.lanes_of(peer, reach)).collect()
    }

    /// The devices that carry this node's packets to its peers.
    pub fn tunnel_devices(&self) -> Vec<IfName> {
        let own = self.own_node();
        let families = own.iter().flat_map(|own| &own.addresses).map(InterfaceAddress::family);
        let devices = families.flat_map(|family| {
            self.networks().map(move |network| tartan_fabric::vxlan_device(network.vxlan.vni, family))
        });
        devices.collect()
    }

    /// The largest packets that leave this node, by network: what [`World::lanes`] depends on beside a peer's decision.
    pub fn sizes(&self) -> Vec<Option<Mtu>> {
        let own = self.uplink().map(|uplink| uplink.mtu);
        self.networks().map(|network| self.pod_mtu(network)).chain([own]).collect()
    }

    fn lanes_of(&self, peer: &Node, reach: &Reach) -> Vec<Lane> {
        let network = self.networks().find(|network| network.vxlan.vni == reach.vni);
        let Some((network, own)) = network.zip(self.own_node()) else { return Vec::new() };
        let whole = tartan_fabric::path_mtu(&own, peer, &reach.reached);
        let full = self.pod_mtu(network).map_or(whole, |mtu| mtu.min(whole)).max(Mtu::IPV6_MIN.min(whole));
        let lane = |family| {
            let of_family = |block: &&(Cidr, Option<IpAddr>)| block.0.family() == family;
            let (block, source) = reach.blocks.iter().find(of_family)?;
            Some(Lane {
                network: network.name.clone(),
                path: reach.reached.path,
                local: (*source)?,
                remote: tartan_ipam::own_address(block),
                full,
            })
        };
        Family::ALL.into_iter().filter_map(lane).collect()
    }
}
