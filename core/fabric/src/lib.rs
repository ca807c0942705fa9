//! How a node reaches each of its peers, and how large packets may be on the way.

use std::fmt;
use std::net::IpAddr;

use tartan_model::{Family, IfName, Mtu, Node, NodeName, Path, Vni};
use thiserror::Error;

/// Both ends of a way between two nodes, on the network that connects them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Underlay {
    /// The family of both addresses.
    pub family: Family,
    /// This node's address.
    pub local: IpAddr,
    /// The peer's address.
    pub remote: IpAddr,
}

/// The way to a peer, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// The best path that works.
    Through(Reached),
    /// Nothing works: each allowed path with its reason.
    None(Vec<Blocked>),
}

/// A path that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// The path.
    pub path: Path,
    /// Its ends.
    pub underlay: Underlay,
}

/// A path that does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// The path.
    pub path: Path,
    /// Why.
    pub reason: Reason,
}

/// Why a path to a peer does not work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Reason {
    /// No family in which both nodes have an address.
    #[error("no common address family: this node has {own}, {peer} has {theirs}")]
    NoCommonFamily {
        /// What this node has.
        own: Families,
        /// The peer.
        peer: NodeName,
        /// What the peer has.
        theirs: Families,
    },
    /// Both nodes name the same address, as machines behind one NAT do.
    #[error("{peer} names this node's own address {address}; give each node an address of its own")]
    SameAddress {
        /// The peer.
        peer: NodeName,
        /// The address.
        address: IpAddr,
    },
}

/// The families that a node has an underlay address of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    /// An IPv4 address.
    pub ipv4: bool,
    /// An IPv6 address.
    pub ipv6: bool,
}

/// The way to a peer: the first of `paths` (best first) that works, on the first family (IPv4 first) in which both
/// nodes have an address of their own.
pub fn choose(own: &Node, peer: &Node, paths: &[Path]) -> Way {
    let mut blocked = Vec::new();
    for path in paths {
        let found = match path {
            Path::Vxlan => common_underlay(own, peer),
        };
        match found {
            Ok(underlay) => return Way::Through(Reached { path: *path, underlay }),
            Err(reason) => blocked.push(Blocked { path: *path, reason }),
        }
    }
    Way::None(blocked)
}

/// The MTU of a node's pods in bytes: what fits into the widest encapsulation that any peer may be reached by, or
/// the fixed one where that is smaller.
pub fn pod_mtu(own: &Node, fixed: Option<Mtu>) -> Mtu {
    let widest = own.address(Family::Ipv6).map_or(Family::Ipv4, Family::of);
    let fitting = own.mtu.less(widest.vxlan_overhead());
    fixed.map_or(fitting, |fixed| fixed.min(fitting))
}

/// The largest packet between pods of two nodes in bytes, as far as both ends of an underlay of this family tell.
pub fn path_mtu(own: &Node, peer: &Node, underlay: Family) -> Mtu {
    own.mtu.min(peer.mtu).less(underlay.vxlan_overhead())
}

/// The VXLAN device of a network on an underlay of this family: `tartan.<vni>` or `tart6.<vni>`.
pub fn vxlan_device(vni: Vni, underlay: Family) -> IfName {
    let name = match underlay {
        Family::Ipv4 => format!("tartan.{vni}"),
        Family::Ipv6 => format!("tart6.{vni}"),
    };
    #[allow(clippy::expect_used, reason = "7 bytes and the 8 digits of the largest VNI are the 15 allowed")]
    name.parse().expect("a VXLAN device's name fits")
}

fn common_underlay(own: &Node, peer: &Node) -> Result<Underlay, Reason> {
    let common = Family::ALL.into_iter().filter_map(|family| {
        Some(Underlay { family, local: own.address(family)?, remote: peer.address(family)? })
    });
    let mut same = None;
    for underlay in common {
        if underlay.local != underlay.remote {
            return Ok(underlay);
        }
        same = Some(underlay.remote);
    }
    let peer_name = peer.name.clone();
    Err(match same {
        Some(address) => Reason::SameAddress { peer: peer_name, address },
        None => {
            Reason::NoCommonFamily { own: Families::of(own), peer: peer_name, theirs: Families::of(peer) }
        }
    })
}

impl Families {
    /// The families of a node's underlay addresses.
    pub fn of(node: &Node) -> Families {
        let has = |family| node.address(family).is_some();
        Families { ipv4: has(Family::Ipv4), ipv6: has(Family::Ipv6) }
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match (self.ipv4, self.ipv6) {
            (true, true) => "ipv4 and ipv6",
            (true, false) => "ipv4",
            (false, true) => "ipv6",
            (false, false) => "no address",
        })
    }
}
