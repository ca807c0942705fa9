//! What a node knows. It depends on current knowledge only, never on how that was come by.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use tartan_api::endpoint::PublishedEndpoint;
use tartan_api::kubernetes::PodObject;
use tartan_api::label::Labels;
use tartan_api::network::{MtuChoice, Network};
use tartan_api::policy::NetworkPolicy;
use tartan_ipam::BlockAddresses;
use tartan_model::{
    AttachmentKey, Cidr, Endpoint, Family, ListName, Mtu, Name, NetworkName, NoUplink, Node, NodeId,
    NodeName, PodName, PolicyName, ServiceAccountName, Uplink,
};
use tartan_policy::{IdentityId, RemotesId};

use crate::judge::Judges;
use crate::objects::SharedLabels;

/// What is decided at once, and what a row belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The node itself: its settings and what it publishes.
    Node,
    /// A network on this node: its devices, blocks and bridge.
    Network(NetworkName),
    /// Another node.
    Peer(NodeId),
    /// A pod's interface on this node.
    Endpoint(AttachmentKey),
    /// What policies are enforced by.
    Policy,
    /// Other ends that policies tell apart by their address.
    Remotes(RemotesId),
    /// An address among these.
    Member(RemotesId, IpAddr),
    /// Pods that policies do not tell apart.
    Identity(IdentityId),
    /// A pod of another node, by its address.
    Far(IpAddr),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Node => write!(f, "node"),
            Scope::Network(name) => write!(f, "network {name}"),
            Scope::Peer(id) => write!(f, "peer {id}"),
            Scope::Endpoint(key) => write!(f, "endpoint {key}"),
            Scope::Policy => write!(f, "policy"),
            Scope::Remotes(id) => write!(f, "remotes {id:016x}"),
            Scope::Member(id, address) => write!(f, "remote {address} of {id:016x}"),
            Scope::Identity(id) => write!(f, "identity {id:016x}"),
            Scope::Far(address) => write!(f, "pod elsewhere {address}"),
        }
    }
}

/// A pod's interface and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The choices made for it.
    pub endpoint: Endpoint,
    /// How far it is.
    pub phase: Phase,
}

/// How far a pod's interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It shall work, and the runtime was not told yet that it does.
    Adding,
    /// It shall work.
    Wanted,
    /// It shall be shut; its addresses are still its own.
    Leaving,
}

/// Everything that this node knows of the world. [`World::learn`] is its only writer.
#[derive(Debug, Clone)]
pub struct World {
    pub(crate) this: NodeId,
    pub(crate) name: NodeName,
    /// Whether addresses can be told to be ours by themselves.
    pub(crate) marks_addresses: bool,
    /// The uplink as it was last seen with an address.
    pub(crate) uplink: Option<Uplink>,
    /// Why it is not there now, if it is not.
    pub(crate) no_uplink: Option<NoUplink>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    /// The nodes by their public addresses: two that have one are told apart by nobody.
    pub(crate) public: BTreeMap<IpAddr, BTreeSet<NodeId>>,
    pub(crate) networks: BTreeMap<NetworkName, Network>,
    pub(crate) blocks: BTreeMap<NetworkName, BTreeMap<Cidr, NodeId>>,
    /// The same by owner, in order.
    pub(crate) owned: BTreeMap<NodeId, Vec<(NetworkName, Cidr)>>,
    /// Own blocks on their way back to the store: no pod gets an address from them any more.
    pub(crate) returning: BTreeSet<(NetworkName, Cidr)>,
    /// Blocks that are this node's as far as it knows: neither did it give them back, nor are they another's. They are
    /// claimed again when the store has lost them.
    pub(crate) held: BTreeSet<(NetworkName, Cidr)>,
    pub(crate) endpoints: BTreeMap<AttachmentKey, Attached>,
    /// What people write for policies. Nobody has to have written a pod's namespace, or the pod itself.
    pub(crate) policies: BTreeMap<PolicyName, Arc<NetworkPolicy>>,
    pub(crate) namespaces: BTreeMap<Name, Labels>,
    pub(crate) pods: BTreeMap<PodName, PodObject>,
    pub(crate) service_accounts: BTreeMap<ServiceAccountName, Labels>,
    /// What each node says of its pods' interfaces, true or not; of this node what the store has.
    pub(crate) published: BTreeMap<NodeId, BTreeMap<AttachmentKey, PublishedEndpoint>>,
    /// The labels of those and of Pods.
    pub(crate) labels: SharedLabels,
    /// The number in each bridge's name: given once, kept.
    pub(crate) bridges: BTreeMap<NetworkName, u32>,
    /// The addresses of this node's own blocks. Outlives the knowledge of who owns the block, so that an
    /// address in use is never given twice.
    pub(crate) addresses: BTreeMap<(NetworkName, Cidr), BlockAddresses>,
    /// How often in a row a block was lost to another node.
    pub(crate) lost_claims: BTreeMap<NetworkName, u32>,
    pub(crate) in_sync: bool,
    pub(crate) judges: Judges,
}

impl World {
    /// The world of a node that knows nothing but itself.
    pub fn new(this: NodeId, name: NodeName) -> World {
        World {
            this,
            name,
            marks_addresses: false,
            uplink: None,
            no_uplink: Some(NoUplink::Unseen),
            nodes: BTreeMap::new(),
            public: BTreeMap::new(),
            networks: BTreeMap::new(),
            blocks: BTreeMap::new(),
            owned: BTreeMap::new(),
            returning: BTreeSet::new(),
            held: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            policies: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            service_accounts: BTreeMap::new(),
            published: BTreeMap::new(),
            labels: SharedLabels::default(),
            bridges: BTreeMap::new(),
            addresses: BTreeMap::new(),
            lost_claims: BTreeMap::new(),
            in_sync: false,
            judges: Judges::default(),
        }
    }

    /// This node's id.
    pub fn this(&self) -> NodeId {
        self.this
    }

    /// This node's name.
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// The interface to the other nodes.
    pub fn uplink(&self) -> Option<&Uplink> {
        self.uplink.as_ref()
    }

    /// Whether the store has told all it knows.
    pub fn in_sync(&self) -> bool {
        self.in_sync
    }

    /// This node as the others shall see it; None as long as no uplink was ever seen.
    pub fn own_node(&self) -> Option<Node> {
        let uplink = self.uplink.as_ref()?;
        Some(Node {
            id: self.this,
            name: self.name.clone(),
            addresses: uplink.addresses.clone(),
            public_addresses: uplink.public_addresses.clone(),
            mtu: uplink.mtu,
        })
    }

    /// Every node in the store, this one included.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The other nodes in the store.
    pub fn peers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.id != self.this)
    }

    /// The node with this id.
    pub fn node(&self, id: &NodeId) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// The networks.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        self.networks.values()
    }

    /// The network of this name.
    pub fn network(&self, name: &NetworkName) -> Option<&Network> {
        self.networks.get(name)
    }

    /// Every block that is owned: its network, range and owner.
    pub fn blocks(&self) -> impl Iterator<Item = (&NetworkName, &Cidr, &NodeId)> {
        self.blocks.iter().flat_map(|(name, blocks)| blocks.iter().map(move |(block, id)| (name, block, id)))
    }

    /// The blocks of a network that a node owns, in order.
    pub fn blocks_of<'a>(
        &'a self,
        network: &'a NetworkName,
        owner: &NodeId,
    ) -> impl Iterator<Item = Cidr> + use<'a> {
        let owned = self.owned.get(owner).into_iter().flatten();
        owned.filter(move |(name, _)| name == network).map(|(_, block)| *block)
    }

    /// The blocks of a node but those that another network has a better right to.
    pub(crate) fn served_blocks<'a>(
        &'a self,
        network: &'a NetworkName,
        owner: &NodeId,
    ) -> impl Iterator<Item = Cidr> + use<'a> {
        self.blocks_of(network, owner).filter(|block| !self.is_contested(network, block))
    }

    /// The interfaces that the runtime made in a network of this name of its own, and does not list any more. What
    /// cannot be told to be of that network stays.
    pub fn stale(&self, list: &ListName, valid: &BTreeSet<AttachmentKey>) -> Vec<AttachmentKey> {
        let of_list =
            self.endpoints.values().filter(|attached| attached.endpoint.list.as_ref() == Some(list));
        of_list.map(|attached| &attached.endpoint.key).filter(|key| !valid.contains(*key)).cloned().collect()
    }

    /// The pods' interfaces on this node.
    pub fn endpoints(&self) -> impl Iterator<Item = &Attached> {
        self.endpoints.values()
    }

    /// The pod's interface that the runtime knows by this key.
    pub fn endpoint(&self, key: &AttachmentKey) -> Option<&Attached> {
        self.endpoints.get(key)
    }

    /// How many addresses of an own block are in use.
    pub fn used(&self, network: &NetworkName, block: &Cidr) -> Option<usize> {
        self.addresses.get(&(network.clone(), *block)).map(BlockAddresses::used)
    }

    /// Whether a network has pods of a family on this node, or may have some: a block outlives its pool as long as pods live in it.
    pub(crate) fn carries(&self, network: &Network, family: Family) -> bool {
        network.has_family(family)
            || self.blocks_of(&network.name, &self.this).any(|it| it.family() == family)
    }

    /// The MTU of a network's pods; None without an uplink.
    pub fn pod_mtu(&self, network: &Network) -> Option<Mtu> {
        let fixed = match network.mtu {
            MtuChoice::Auto => None,
            MtuChoice::Bytes(mtu) => Some(mtu),
        };
        let mtu = self.own_node().map(|own| tartan_fabric::pod_mtu(&own, &network.paths, fixed))?;
        // Under 1280 the kernel takes IPv6 off a link; the tunnel's packets are then fragmented instead.
        Some(if self.carries(network, Family::Ipv6) { mtu.max(Mtu::IPV6_MIN) } else { mtu })
    }

    /// The source address of traffic that this node itself sends to pods of a network: its own in its first block.
    pub(crate) fn source(&self, network: &NetworkName, family: Family) -> Option<IpAddr> {
        let mut blocks = self.served_blocks(network, &self.this);
        blocks.find(|block| block.family() == family).map(|block| tartan_ipam::own_address(&block))
    }

    /// Every scope that there is something to decide for.
    pub fn scopes(&self) -> BTreeSet<Scope> {
        let mut scopes = self.policy_scopes();
        scopes.insert(Scope::Node);
        let held = self.owned.get(&self.this).into_iter().flatten().map(|(network, _)| network);
        scopes.extend(self.networks.keys().chain(held).cloned().map(Scope::Network));
        scopes.extend(self.peers().map(|node| Scope::Peer(node.id)));
        scopes.extend(self.endpoints.keys().cloned().map(Scope::Endpoint));
        // Of pods that are gone, too, as long as the others are told of them.
        let told = self.published.get(&self.this).into_iter().flatten().map(|(key, _)| key);
        scopes.extend(told.cloned().map(Scope::Endpoint));
        scopes
    }
}
