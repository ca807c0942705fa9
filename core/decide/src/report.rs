//! What a node tells people of what it knows.

use std::net::IpAddr;

use tartan_api::cni::{Added, AddedIp, AddedRoute, Interface};
use tartan_api::verb::{
    Blocked, DeniedRow, EndpointRow, IpamRow, NetworkStatus, NodeRow, PeerHealth, PeerRow, RouteRow,
    UplinkStatus,
};
use tartan_host::{Route, RouteKind, Row, Rows};
use tartan_model::{Attachment, Cidr, Endpoint, IfName, NetworkName, Node, NodeId, PodName};

use crate::lower::{gateway, host_mac, pod_address, routes_of};
use crate::{Choice, EndpointChoice, Note, Reach, Scope, World};

/// What probes tell of a peer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Probed {
    /// Whether it answers.
    pub health: PeerHealth,
    /// How soon, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// What is wrong, in words.
    pub reason: Option<String>,
}

impl World {
    /// `tartan nodes`; `alive` tells whose lease is renewed.
    pub fn report_nodes(&self, alive: impl Fn(&NodeId) -> bool) -> Vec<NodeRow> {
        let row = |node: &Node| NodeRow {
            name: node.name.clone(),
            id: node.id,
            addresses: node.addresses.clone(),
            alive: alive(&node.id),
            this: node.id == self.this,
            blocks: self.all_blocks_of(&node.id),
        };
        sorted(self.nodes().map(row).collect(), |row: &NodeRow| row.name.clone())
    }

    /// `tartan peers`; `since` tells since when a peer's path is in use, `probed` what probes tell of it.
    pub fn report_peers(
        &self,
        since: impl Fn(&NodeId) -> Option<String>,
        probed: impl Fn(&Node) -> Probed,
    ) -> Vec<PeerRow> {
        let own = self.own_node();
        let rows = self.peers().map(|peer| {
            let Probed { health, rtt_ms, reason } = probed(peer);
            let row = self.report_peer(own.as_ref(), peer, since(&peer.id));
            PeerRow { health, rtt_ms, reason, ..row }
        });
        sorted(rows.collect(), |row: &PeerRow| row.node.clone())
    }

    fn report_peer(&self, own: Option<&Node>, peer: &Node, since: Option<String>) -> PeerRow {
        let decision = self.decide(&Scope::Peer(peer.id));
        let reach = match decision.choice {
            Some(Choice::Peer(choice)) => choice.reach,
            _ => Vec::new(),
        };
        let notes = decision.notes.into_iter().filter_map(|note| match note {
            Note::NoPath { path, reason, .. } => Some((path, reason)),
            _ => None,
        });
        let better = reach.iter().flat_map(|reach| &reach.blocked);
        let better = better.map(|blocked| (blocked.path, blocked.reason.clone()));
        let mut blocked: Vec<Blocked> = Vec::new();
        for (path, reason) in better.chain(notes) {
            let row = Blocked { path, reason: reason.to_string() };
            if !blocked.contains(&row) {
                blocked.push(row);
            }
        }
        let worst = worst(&reach);
        let mtu = |own: &Node, reach: &Reach| tartan_fabric::path_mtu(own, peer, &reach.reached);
        PeerRow {
            node: peer.name.clone(),
            address: worst.map(|reach| reach.reached.underlay.remote),
            path: worst.map(|reach| reach.reached.path),
            sealed: false,
            mtu: own.and_then(|own| reach.iter().map(|reach| mtu(own, reach)).min()),
            rtt_ms: None,
            health: PeerHealth::default(),
            reason: None,
            since: since.filter(|_| worst.is_some()),
            blocked,
            blocks: self.all_blocks_of(&peer.id),
        }
    }

    /// `tartan endpoints`; `ready` tells whether everything of one is in the kernel.
    pub fn report_endpoints(
        &self,
        denied: &[DeniedRow],
        ready: impl Fn(&Endpoint) -> bool,
    ) -> Vec<EndpointRow> {
        let row = |endpoint: &Endpoint| EndpointRow {
            pod: endpoint.pod.clone(),
            network: endpoint.network.clone(),
            addresses: endpoint.addresses.clone(),
            mac: endpoint.mac,
            attachment: endpoint.attachment,
            link: endpoint.link.clone(),
            container: endpoint.key.container.clone(),
            interface: endpoint.key.interface.clone(),
            ready: ready(endpoint),
            denied: denied
                .iter()
                .filter(|row| row.link.as_ref() == Some(&endpoint.link))
                .map(|row| (row.reason.clone(), row.packets))
                .collect(),
        };
        let rows = self.endpoints().map(|attached| row(&attached.endpoint)).collect();
        sorted(rows, |row: &EndpointRow| row.pod.clone())
    }

    /// The pod whose host end this is.
    pub fn pod_of(&self, link: &IfName) -> Option<&PodName> {
        let mut endpoints = self.endpoints().map(|attached| &attached.endpoint);
        endpoints.find(|endpoint| endpoint.link == *link).map(|endpoint| &endpoint.pod)
    }

    /// `tartan ipam`.
    pub fn report_ipam(&self) -> Vec<IpamRow> {
        let row = |(network, block, owner): (&NetworkName, &Cidr, &NodeId)| IpamRow {
            network: network.clone(),
            pool: self.pool_of(network, block),
            block: *block,
            node: self.node(owner).map_or_else(|| owner.to_string(), |node| node.name.to_string()),
            used: self.used(network, block).filter(|_| *owner == self.this).map(|used| used as u64),
            capacity: u64::try_from(tartan_ipam::capacity(block)).unwrap_or(u64::MAX),
        };
        self.blocks().map(row).collect()
    }

    /// `tartan routes`: the routes that are wanted, with what they are for and whether the kernel has them.
    pub fn report_routes(&self, installed: impl Fn(&Row) -> bool) -> Vec<RouteRow> {
        let mut rows = Vec::new();
        for scope in self.scopes() {
            let Some(choice) = self.decide(&scope).choice else { continue };
            let purpose = self.purpose(&choice);
            for row in crate::lower(&choice, None) {
                if let Row::Route(route) = &row {
                    rows.push(route_row(route, &purpose, installed(&row)));
                }
            }
        }
        sorted(rows, |row: &RouteRow| row.dst)
    }

    fn purpose(&self, choice: &Choice) -> String {
        match choice {
            Choice::Node(_) => "node".into(),
            Choice::Network(_) => "block".into(),
            Choice::Peer(peer) => {
                let name =
                    self.node(&peer.id).map_or_else(|| peer.id.to_string(), |node| node.name.to_string());
                format!("peer {name}")
            }
            Choice::Endpoint(EndpointChoice { endpoint, .. }) | Choice::Guard(endpoint, _) => {
                format!("pod {}", endpoint.pod)
            }
            Choice::Policy(_) => "policy".into(),
        }
    }

    /// The networks as `tartan status` shows them.
    pub fn report_networks(&self) -> Vec<NetworkStatus> {
        self.networks()
            .map(|network| NetworkStatus {
                name: network.name.clone(),
                attachment: network.attachment,
                mtu: self.pod_mtu(network),
                blocks: self.blocks_of(&network.name, &self.this).collect(),
            })
            .collect()
    }

    /// The uplink as `tartan status` shows it.
    pub fn report_uplink(&self) -> Option<UplinkStatus> {
        self.uplink().map(|uplink| UplinkStatus {
            interface: uplink.name.clone(),
            mtu: uplink.mtu,
            addresses: uplink.addresses.clone(),
        })
    }

    /// Everything that is wanted now, and every note.
    pub fn wanted(&self) -> (Rows, Vec<String>) {
        let mut rows = Rows::default();
        let mut notes = Vec::new();
        for scope in self.scopes() {
            let decision = self.decide(&scope);
            rows.extend(decision.choice.iter().flat_map(|choice| crate::lower(choice, None)));
            notes.extend(decision.notes.iter().map(ToString::to_string));
        }
        (rows, notes)
    }

    fn all_blocks_of(&self, id: &NodeId) -> Vec<Cidr> {
        self.owned.get(id).into_iter().flatten().map(|(_, block)| *block).collect()
    }

    fn pool_of(&self, network: &NetworkName, block: &Cidr) -> Cidr {
        let pools = self.network(network).map(|network| network.pools.as_slice()).unwrap_or_default();
        pools.iter().map(|pool| pool.cidr()).find(|pool| pool.covers(block)).unwrap_or(*block)
    }
}

/// What is shown where networks or families reach a peer by several paths: the one with the most better ones.
pub fn worst(reach: &[Reach]) -> Option<&Reach> {
    // Of equals the first.
    reach.iter().rev().max_by_key(|reach| (reach.reached.path, reach.blocked.len()))
}

/// The answer to the runtime for an interface that is in the kernel.
pub fn added(choice: &EndpointChoice) -> Added {
    let endpoint = &choice.endpoint;
    let pairs = || endpoint.addresses.iter().copied().zip(&endpoint.blocks);
    Added {
        host: Interface { name: endpoint.link.clone(), mac: host_mac(endpoint.mac) },
        container: Interface { name: endpoint.key.interface.clone(), mac: endpoint.mac },
        mtu: choice.mtu,
        ips: pairs().map(|(address, block)| added_ip(endpoint.attachment, address, block)).collect(),
        routes: pairs()
            .flat_map(|(_, block)| {
                let gw = gateway(endpoint.attachment, block);
                routes_of(endpoint, block.family()).map(move |dst| AddedRoute { dst, gw })
            })
            .collect(),
    }
}

fn added_ip(attachment: Attachment, address: IpAddr, block: &Cidr) -> AddedIp {
    AddedIp { address: pod_address(attachment, address, block), gateway: gateway(attachment, block) }
}

fn route_row(route: &Route, purpose: &str, installed: bool) -> RouteRow {
    let via = match &route.kind {
        RouteKind::Via { gateway, .. } => Some(*gateway),
        RouteKind::Link { .. } | RouteKind::Blackhole => None,
    };
    RouteRow { dst: route.dst, via, dev: route.link().cloned(), purpose: purpose.into(), installed }
}

fn sorted<T, K: Ord>(mut rows: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    rows.sort_by_key(key);
    rows
}
