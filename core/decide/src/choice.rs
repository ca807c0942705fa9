//! Choices: what a scope comes to, before any dataplane is thought of.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tartan_api::endpoint::PublishedEndpoint;
use tartan_fabric::{Blocked, Reached, Reason};
use tartan_host::policy::PolicyRow;
use tartan_model::{
    AttachmentKey, Cidr, Endpoint, Family, IfName, Mac, Mtu, NetworkName, NoUplink, Node, NodeId, NodeName,
    Path, PodName, Vni,
};
use thiserror::Error;

use crate::{Conflict, WayOut};

/// What was decided for one scope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// What the dataplane shall do; None if nothing.
    pub choice: Option<Choice>,
    /// Blocks to claim in the store.
    pub claims: Vec<Claim>,
    /// Own blocks that no pool covers any more and nobody uses, to be given back in the store.
    pub returns: Vec<(NetworkName, Cidr)>,
    /// What this node shall publish of itself in the store.
    pub publish: Option<Node>,
    /// What this node shall publish of a pod's interface in the store, or take away.
    pub announce: Option<Announcement>,
    /// What cannot be done, and why.
    pub notes: Vec<Note>,
}

/// What the store shall have of a pod's interface on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The runtime's name for it.
    pub key: AttachmentKey,
    /// What is said of it; None to take away what was said.
    pub endpoint: Option<PublishedEndpoint>,
}

/// A block to claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The network.
    pub network: NetworkName,
    /// The block.
    pub block: Cidr,
}

/// What the dataplane shall do for one scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The node's own part.
    Node(NodeChoice),
    /// A network's devices.
    Network(NetworkChoice),
    /// The way to a peer.
    Peer(PeerChoice),
    /// A pod's interface.
    Endpoint(EndpointChoice),
    /// A pod's interface of which not enough is known yet to touch it: only what it may send is certain.
    Guard(Endpoint, Vec<PolicyRow>),
    /// A part of what policies come to.
    Policy(PolicyRow),
}

/// The node's own part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeChoice {
    /// Families that are forwarded.
    pub forward: Vec<Family>,
    /// The link that keeps taking its default route from router advertisements although it forwards.
    pub accept_ra: Option<IfName>,
    /// The link by which packets for pods come in as they are.
    pub forward_from: Option<IfName>,
    /// The link that takes packets in whose answers would go another way: a peer may change its path before this node does.
    pub loosen: Option<IfName>,
    /// Whether the loopback interface has to have IPv6, as it may hold addresses of this node's own.
    pub opens_loopback: bool,
    /// This node's addresses on the underlay.
    pub addresses: Vec<IpAddr>,
    /// The UDP ports of its tunnels.
    pub tunnels: BTreeSet<u16>,
    /// The way out of its networks, and between them; None as long as it is not known.
    pub way_out: Option<WayOut>,
    /// Whether policies are enforced on frames between its bridged pods.
    pub judges_frames: bool,
}

/// A network's devices on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkChoice {
    /// The network.
    pub network: NetworkName,
    /// VXLAN's identifier.
    pub vni: Vni,
    /// VXLAN's UDP port.
    pub port: u16,
    /// The MTU of pods and devices.
    pub mtu: Mtu,
    /// The MAC address of the VXLAN devices.
    pub mac: Mac,
    /// This node's underlay addresses, one VXLAN device each; none where no path needs one.
    pub locals: Vec<IpAddr>,
    /// This node's blocks.
    pub blocks: Vec<Cidr>,
    /// The bridge, where pods are attached to one, and where no other link can hold the node's own addresses.
    pub bridge: Option<Bridge>,
    /// The link with the node's own addresses: a tunnel's device, else the bridge, else the loopback interface.
    pub holder: Option<IfName>,
    /// Whether packets may come in by a tunnel whose answers go another way.
    pub loose: bool,
    /// Whether all nodes are known, so that tunnel packets of others can be refused.
    pub closed: bool,
}

/// A network's bridge on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its name.
    pub name: IfName,
    /// Its MAC address.
    pub mac: Mac,
    /// Whether pods are attached to it.
    pub pods: bool,
}

/// The way to a peer, in each network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerChoice {
    /// The peer.
    pub id: NodeId,
    /// Its addresses on the underlay.
    pub addresses: Vec<IpAddr>,
    /// Where it is reached.
    pub reach: Vec<Reach>,
}

/// The way to a peer in one network, for blocks of one family or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The VXLAN identifier.
    pub vni: Vni,
    /// The path and both its ends.
    pub reached: Reached,
    /// The interface to the other nodes.
    pub uplink: IfName,
    /// The largest packet, where the link that it leaves by takes larger ones.
    pub mtu: Option<Mtu>,
    /// The peer's blocks, each with this node's source address for its own traffic.
    pub blocks: Vec<(Cidr, Option<IpAddr>)>,
    /// Why not a better path.
    pub blocked: Vec<Blocked>,
}

/// A pod's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointChoice {
    /// The choices made when it was added.
    pub endpoint: Endpoint,
    /// Its MTU.
    pub mtu: Mtu,
    /// Whether it shall carry traffic.
    pub open: bool,
    /// The bridge that it is a port of; None where it is routed.
    pub bridge: Option<IfName>,
    /// This node's source addresses for its own traffic to the pod, by family as far as there is one.
    pub sources: Vec<IpAddr>,
    /// How policies judge it.
    pub judged: Vec<PolicyRow>,
}

impl Note {
    /// Whether it says that this node has not done all that it was told. Others only want a person's look.
    pub fn is_unfinished(&self) -> bool {
        !matches!(
            self,
            Note::NoPath { .. }
                | Note::MixedAttachments { .. }
                | Note::SmallUnderlay { .. }
                | Note::ReservedElsewhere { .. }
                | Note::BlockTakenOver { .. }
                | Note::IdlePolicies { .. }
        )
    }
}

/// Something that cannot be done, for a person.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Note {
    /// A network is not served.
    #[error("network {network} is not served: {conflict}")]
    Unserved {
        /// The network.
        network: NetworkName,
        /// Why.
        conflict: Conflict,
    },
    /// No interface to the other nodes.
    #[error("no uplink: {0}")]
    NoUplink(#[source] NoUplink),
    /// No block of a pool's family is held yet.
    #[error("network {network}: no {family} block held yet")]
    NoBlock {
        /// The network.
        network: NetworkName,
        /// The family.
        family: Family,
    },
    /// Every block of every pool is taken.
    #[error(
        "network {network}: its {family} pools have no free block for this node; add a pool, or one with smaller blocks (tartan ipam shows who has them)"
    )]
    PoolExhausted {
        /// The network.
        network: NetworkName,
        /// The family.
        family: Family,
    },
    /// A block that is reserved for this node is another one's.
    #[error(
        "network {network}: block {block} is reserved for this node and held by {holder}, as long as pods there have addresses from it; delete those pods, or give the node back: tartan node leave"
    )]
    ReservedElsewhere {
        /// The network.
        network: NetworkName,
        /// The block.
        block: Cidr,
        /// The name of the node that has it, or its id.
        holder: String,
    },
    /// More ranges that no pool covers any more than are looked after.
    #[error(
        "network {network}: pods may still have addresses from {ranges} ranges more than are looked after that no pool covers any more: from those nothing is kept apart or masqueraded; delete these pods, or put the pool back"
    )]
    TooManyRanges {
        /// The network.
        network: NetworkName,
        /// How many ranges are left out.
        ranges: usize,
    },
    /// An underlay that IPv6 pods hardly fit through.
    #[error(
        "network {network}: the underlay's MTU of {mtu} leaves less than the 1280 bytes that IPv6 needs (RFC 8200); pods have 1280 and the tunnel fragments, so raise the underlay's MTU"
    )]
    SmallUnderlay {
        /// The network.
        network: NetworkName,
        /// The underlay's MTU.
        mtu: Mtu,
    },
    /// Pods of both kinds on one node.
    #[error(
        "network {network}: pods on the bridge and routed pods of this node do not reach each other; delete and add those that were there before the attachment was changed"
    )]
    MixedAttachments {
        /// The network.
        network: NetworkName,
    },
    /// No way to a peer.
    #[error("no path to {node}: {path}: {reason}")]
    NoPath {
        /// The peer.
        node: NodeName,
        /// Which path was thought of.
        path: Path,
        /// Why.
        reason: Reason,
    },
    /// The block of a pod's address is another node's.
    #[error(
        "pod {pod} has an address of block {block}, which node {owner} owns by now: others do not reach it, and its address may be another pod's; delete and add it"
    )]
    BlockTakenOver {
        /// The pod.
        pod: PodName,
        /// The block.
        block: Cidr,
        /// Its owner.
        owner: NodeId,
    },
    /// The policies about a pod stand for too much.
    #[error(
        "pod {pod} reaches nobody in a direction: its policies ({policies}) stand for more than 200,000 remotes at different ports; join their ranges of ports, or write less into one"
    )]
    TooMuchPolicy {
        /// The pod.
        pod: PodName,
        /// Its policies.
        policies: String,
    },
    /// There are policies, and no network that they are about.
    #[error("{count} {} enforced: no network here has `policy: true`; apply one that has", if *count == 1 { "NetworkPolicy is not" } else { "NetworkPolicies are not" })]
    IdlePolicies {
        /// How many.
        count: usize,
    },
    /// A pod's network is gone or not served.
    #[error("pod {pod} is shut: its network {network} is gone or not served")]
    NetworkGone {
        /// The pod.
        pod: PodName,
        /// The network.
        network: NetworkName,
    },
}
