//! Nodes and the pods' interfaces on them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::name::shorten;
use crate::{
    Cidr, ContainerId, Family, IfName, InterfaceAddress, ListName, Mac, Mtu, NetworkName, NodeId, NodeName,
    PodName,
};

/// A node as the others see it: this is what it publishes in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// The stable identity.
    pub id: NodeId,
    /// The name, unique among live nodes.
    pub name: NodeName,
    /// Addresses on the underlay with their networks, at most one a family.
    pub addresses: Vec<InterfaceAddress>,
    /// The underlay's MTU in bytes.
    pub mtu: Mtu,
}

impl Node {
    /// The node's underlay address of a family.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().map(InterfaceAddress::address).find(|a| Family::of(*a) == family)
    }
}

/// The interface that carries traffic between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: IfName,
    /// Its MTU in bytes.
    pub mtu: Mtu,
    /// The node's addresses on it, the best one of each family.
    pub addresses: Vec<InterfaceAddress>,
    /// A default route for IPv6 on this link was learned from router advertisements (RFC 4861).
    pub router_advertised: bool,
}

/// How a node reaches a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum Path {
    /// In VXLAN by the kernel (RFC 7348).
    Vxlan,
}

impl TryFrom<String> for Path {
    type Error = NotServed;
    fn try_from(word: String) -> Result<Self, NotServed> {
        match word.as_str() {
            "vxlan" => Ok(Path::Vxlan),
            _ => Err(NotServed::new("path", &word, "vxlan")),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Path::Vxlan => "vxlan",
        })
    }
}

/// A word of the configuration that this release has no answer to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} {word} is not served by this release; it serves {served}")]
pub struct NotServed {
    what: &'static str,
    word: String,
    served: &'static str,
}

impl NotServed {
    /// The error for a refused word: `what` it stands for, and what could be written instead.
    pub fn new(what: &'static str, word: &str, served: &'static str) -> NotServed {
        NotServed { what, word: shorten(word).escape_debug().to_string(), served }
    }
}

/// How a pod is attached to its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attachment {
    /// One address, /32 or /128, routed to the pod's link; the gateway is the link's other end.
    Routed,
    /// A port of the node's bridge, in one segment with the other pods of the node.
    Bridge,
}

/// What a container runtime calls one interface of a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// The container.
    pub container: ContainerId,
    /// The interface's name inside it.
    pub interface: IfName,
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.interface)
    }
}

/// A network namespace as the runtime named it, and the numbers that tell whether the name still means it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsPlace {
    /// The path of its file.
    pub path: String,
    /// The device number of what is behind the path (stat(2)).
    pub device: u64,
    /// The inode number of what is behind the path.
    pub inode: u64,
}

/// One pod's interface: the choices made for it when it was added, which hold until it is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The runtime's name for it.
    pub key: AttachmentKey,
    /// The pod; without Kubernetes its name is the container's, in namespace `default`.
    pub pod: PodName,
    /// The network that it is in.
    pub network: NetworkName,
    /// What the runtime calls the network. Records of before it was kept have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<ListName>,
    /// How it is attached.
    pub attachment: Attachment,
    /// Its addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// The block that each address is from, in the same order.
    pub blocks: Vec<Cidr>,
    /// What the pod reaches through it, by the gateways of its addresses. Before this was kept it was everything.
    #[serde(default = "everywhere")]
    pub routes: Vec<Cidr>,
    /// The MAC address of the pod's end.
    pub mac: Mac,
    /// The name of the host's end.
    pub link: IfName,
    /// Where its namespace was found when it was added.
    pub netns: NetnsPlace,
    /// Labels that policy selects by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

fn everywhere() -> Vec<Cidr> {
    Family::ALL.map(Cidr::everything).to_vec()
}
