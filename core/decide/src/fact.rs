//! Facts: what comes in, and what learning one of them gives.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tartan_api::endpoint::PublishedEndpoint;
use tartan_api::kubernetes::PodObject;
use tartan_api::label::Labels;
use tartan_api::network::Network;
use tartan_api::policy::NetworkPolicy;
use tartan_ipam::IpamError;
use tartan_model::{
    AttachmentKey, Cidr, Endpoint, Family, IfName, ListName, Mac, Name, NetnsPlace, NetworkName, NoUplink,
    Node, NodeId, PodName, PolicyName, ServiceAccountName, Uplink,
};
use thiserror::Error;

use crate::Scope;

/// Something about the world; never about our own kernel rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The kernel keeps who made an address, so that one on a link of others can be told to be ours.
    MarksAddresses,
    /// The interface to the other nodes, or why there is none.
    Uplink(Result<Uplink, NoUplink>),
    /// A node in the store, or that it is gone.
    Node(NodeId, Option<Node>),
    /// A network in the store, or that it is gone.
    Network(NetworkName, Option<Network>),
    /// A NetworkPolicy in the store, or that it is gone.
    Policy(PolicyName, Option<Arc<NetworkPolicy>>),
    /// The labels of a Namespace in the store, or that it is gone.
    Namespace(Name, Option<Labels>),
    /// A Pod in the store, or that it is gone; the pod itself may go on.
    Pod(PodName, Option<PodObject>),
    /// The labels of a ServiceAccount in the store, or that it is gone.
    ServiceAccount(ServiceAccountName, Option<Labels>),
    /// What a node has published of a pod's interface, this node included, or that it has taken it away.
    Endpoint(NodeId, AttachmentKey, Option<PublishedEndpoint>),
    /// Who owns a block, or that nobody does.
    Block(NetworkName, Cidr, Option<NodeId>),
    /// Another node was quicker to claim a block.
    ClaimLost(NetworkName),
    /// An own block is on its way back to the store.
    Returning(NetworkName, Cidr),
    /// The store has the block back. Another node may have been told to have it before this is learned.
    Returned(NetworkName, Cidr),
    /// The store did not take the block back: it is another's already.
    NotReturned(NetworkName, Cidr),
    /// A block that was this node's before a restart, from this node's own records.
    Held(NetworkName, Cidr),
    /// This node has left the cluster: no block of before is its own any more.
    Left,
    /// The store has told all it knows.
    InSync,
    /// A pod's interface of before a restart, from this node's own records.
    Restored(Endpoint),
    /// An address that was released before a restart, from this node's own records; the oldest first.
    Released(NetworkName, Cidr, IpAddr),
    /// The number of a network's bridge, from this node's own records.
    Bridge(NetworkName, u32),
    /// The number of an epoch that connections were judged in, from this node's own records.
    Epoch(u64),
    /// What there was to learn for now is learned: what may be judged otherwise by it is judged in another epoch.
    Turn,
    /// The runtime wants an interface for a pod.
    Attach(Attach),
    /// All of a pod's interface is there, and the runtime is about to be told.
    Added(AttachmentKey),
    /// The runtime is done with a pod's interface.
    Detach(AttachmentKey),
    /// The kernel has shut a leaving pod's interface, or it never came to be.
    Shut(AttachmentKey),
}

/// What the runtime wants for a pod, with the chance that its choices need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// The runtime's name for it.
    pub key: AttachmentKey,
    /// The pod.
    pub pod: PodName,
    /// The network.
    pub network: NetworkName,
    /// What the runtime calls the network.
    pub list: Option<ListName>,
    /// The addresses that it shall have; others are chosen.
    pub ips: Vec<IpAddr>,
    /// The families of which the pod has a default route already.
    pub default_routes: BTreeSet<Family>,
    /// Where the pod's namespace is.
    pub netns: NetnsPlace,
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
    /// The name of the host's end: never used before.
    pub link: IfName,
    /// The pod's MAC address: never used before.
    pub mac: Mac,
}

/// What learning a fact gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learned {
    /// What has to be decided anew.
    pub dirty: BTreeSet<Scope>,
    /// Choices made, to be durable before any row uses them.
    pub records: Vec<Record>,
}

/// A choice to be kept in this node's own records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A pod's interface that the runtime does not know of yet: what is found like this after a restart was never
    /// answered, and is taken back.
    Adding(Endpoint),
    /// A pod's interface.
    Endpoint(Endpoint),
    /// A pod's interface is gone.
    EndpointGone(AttachmentKey),
    /// An address was released just now.
    Released(NetworkName, Cidr, IpAddr),
    /// An address was released so long ago that it need not be remembered.
    Forgotten(NetworkName, Cidr, IpAddr),
    /// The number of a network's bridge.
    Bridge(NetworkName, u32),
    /// The number of the epoch that connections are judged in from now on.
    Epoch(u64),
    /// A block is this node's.
    Held(NetworkName, Cidr),
    /// It was given back, or is another node's.
    HeldNoMore(NetworkName, Cidr),
}

/// Why a pod cannot be attached.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// There may be pods with addresses that nobody has told of.
    #[error("the store has not told everything yet")]
    NotInSync,
    /// No such network.
    #[error("there is no ClusterNetwork {0:?}; write one and apply it: tartan apply -f FILE")]
    NoNetwork(NetworkName),
    /// The network cannot be served here.
    #[error("network {network}: {reason}")]
    NotServed {
        /// The network.
        network: NetworkName,
        /// Why.
        reason: crate::Conflict,
    },
    /// No interface to the other nodes.
    #[error("this node has no uplink yet: {0}")]
    NoUplink(#[source] NoUplink),
    /// No block with a free address.
    #[error("this node holds no block of network {network} with a free {family} address yet")]
    NoAddress {
        /// The network.
        network: NetworkName,
        /// The family.
        family: Family,
    },
    /// An address is asked for that the network has no pool for.
    #[error("{address} is asked for, and network {network} has no {} pool; ask for none", Family::of(*address))]
    NoPool {
        /// The address.
        address: IpAddr,
        /// The network.
        network: NetworkName,
    },
    /// Two addresses of a family are asked for.
    #[error("{0} and {1} are asked for, an interface has one address of a family; leave one out")]
    TwoAddresses(IpAddr, IpAddr),
    /// An address is asked for that this node may not give.
    #[error(
        "{address} is asked for, and is in no block of network {network} that this node holds; it holds {}: ask \
         for an address of these, or for none",
        list(held)
    )]
    NotHeld {
        /// The address.
        address: IpAddr,
        /// The network.
        network: NetworkName,
        /// This node's blocks of that family.
        held: Vec<Cidr>,
    },
    /// An address is asked for that cannot be given.
    #[error("an address is asked for that is not free: {0}")]
    NotFree(#[source] IpamError),
    /// The interface exists.
    #[error("container {} has interface {} already; delete it first", key.container, key.interface)]
    Exists {
        /// The interface.
        key: AttachmentKey,
    },
}

impl Refused {
    /// Whether waiting may help, once the store has told all it knows.
    pub fn is_temporary(&self) -> bool {
        match self {
            Refused::NotInSync
            | Refused::NoNetwork(_)
            | Refused::NotServed { .. }
            | Refused::NoUplink(_)
            | Refused::NoAddress { .. } => true,
            Refused::NoPool { .. }
            | Refused::TwoAddresses(..)
            | Refused::NotHeld { .. }
            | Refused::NotFree(_)
            | Refused::Exists { .. } => false,
        }
    }
}

fn list(blocks: &[Cidr]) -> String {
    let texts: Vec<String> = blocks.iter().map(ToString::to_string).collect();
    if texts.is_empty() { "none yet".into() } else { texts.join(", ") }
}
