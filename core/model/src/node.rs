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
    /// Addresses that the others reach it by instead, at most one a family: it stands behind NAT. Releases before 0.2
    /// do not know of them, and use the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub public_addresses: Vec<IpAddr>,
    /// The underlay's MTU in bytes.
    pub mtu: Mtu,
}

impl Node {
    /// The node's address of a family on its own link.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.interface_address(family).map(|address| address.address())
    }

    /// The same with the link's network.
    pub fn interface_address(&self, family: Family) -> Option<InterfaceAddress> {
        self.addresses.iter().copied().find(|address| address.family() == family)
    }

    /// The address of a family that is reached from behind NAT, if there is NAT before the node.
    pub fn public_address(&self, family: Family) -> Option<IpAddr> {
        self.public_addresses.iter().copied().find(|address| Family::of(*address) == family)
    }

    /// The address of a family that others send tunnel packets to.
    pub fn outer_address(&self, family: Family) -> Option<IpAddr> {
        let own = self.address(family)?;
        Some(self.public_address(family).unwrap_or(own))
    }

    /// Every address by which the node may send or be reached.
    pub fn all_addresses(&self) -> impl Iterator<Item = IpAddr> + use<'_> {
        let own = self.addresses.iter().map(InterfaceAddress::address);
        own.chain(self.public_addresses.iter().copied())
    }
}

/// How a node reaches a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum Path {
    /// By a route through the peer's own address, where both are on one link.
    Direct,
    /// In VXLAN by the kernel (RFC 7348).
    Vxlan,
}

impl TryFrom<String> for Path {
    type Error = NotServed;
    fn try_from(word: String) -> Result<Self, NotServed> {
        match word.as_str() {
            "direct" => Ok(Path::Direct),
            "vxlan" => Ok(Path::Vxlan),
            _ => Err(NotServed::new("path", &word, "direct and vxlan")),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Path::Direct => "direct",
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
