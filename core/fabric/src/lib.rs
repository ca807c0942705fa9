//! How a node reaches each of its peers, and how large packets may be on the way.

use std::fmt;
use std::net::IpAddr;

use tartan_model::{Cidr, Family, IfName, InterfaceAddress, Mtu, NetworkName, Node, NodeName, Path, Vni};
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

/// The way to a peer for packets of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The best path that works, if one does.
    pub reached: Option<Reached>,
    /// The better paths, all where none works, each with its reason.
    pub blocked: Vec<Blocked>,
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
    /// Two other nodes have one public address, and the NAT has only one behind its tunnel's port.
    #[error(
        "{peer} and {other} both have the public address {address}, and only one of them can be meant by it; give each a public address of its own"
    )]
    SharedAddress {
        /// The peer.
        peer: NodeName,
        /// The other node.
        other: NodeName,
        /// The address.
        address: IpAddr,
    },
    /// What would be sent to the peer would go to pods.
    #[error("its address {address} is in pool {pool} of network {network}")]
    InPool {
        /// The peer's address.
        address: IpAddr,
        /// The pool.
        pool: Cidr,
        /// The pool's network.
        network: NetworkName,
    },
    /// Next hops of the packets' family, or of one that can carry them, are not there.
    #[error(
        "{pods} packets need a next hop that both nodes have an address for: this node has {own}, {peer} has {theirs}"
    )]
    NoNextHop {
        /// The packets' family.
        pods: Family,
        /// What this node has.
        own: Families,
        /// The peer.
        peer: NodeName,
        /// What the peer has.
        theirs: Families,
    },
    /// A router is between.
    #[error("{peer} is not on this node's link: its address {address} is not in {link}")]
    OtherLink {
        /// The peer.
        peer: NodeName,
        /// Its address.
        address: IpAddr,
        /// The network of this node's link.
        link: Cidr,
    },
    /// This node is on the peer's link only as this node sees it.
    #[error(
        "{peer} does not take this node to be on its link: {address} is not in {link}; give both addresses the same prefix length"
    )]
    OneSided {
        /// The peer.
        peer: NodeName,
        /// This node's address.
        address: IpAddr,
        /// The network of the peer's link.
        link: Cidr,
    },
    /// One of them is behind a NAT that the other is not behind.
    #[error(
        "{behind} has the public address {address}: behind NAT its own address may be of another link than it looks"
    )]
    Nat {
        /// The node behind NAT.
        behind: NodeName,
        /// Its public address.
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

/// The way to a peer for packets of a family: the first of `paths` (best first) that works.
pub fn choose(own: &Node, peer: &Node, paths: &[Path], pods: Family) -> Way {
    let mut blocked = Vec::new();
    for path in paths {
        let found = match path {
            Path::Direct => same_link(own, peer, pods),
            Path::Vxlan => common_underlay(own, peer),
        };
        match found {
            Ok(underlay) => return Way { reached: Some(Reached { path: *path, underlay }), blocked },
            Err(reason) => blocked.push(Blocked { path: *path, reason }),
        }
    }
    Way { reached: None, blocked }
}

/// The MTU of a node's pods in bytes: what fits into the widest encapsulation that any peer may be reached by on one of
/// these paths, or the fixed one where that is smaller.
pub fn pod_mtu(own: &Node, paths: &[Path], fixed: Option<Mtu>) -> Mtu {
    let widest = own.address(Family::Ipv6).map_or(Family::Ipv4, Family::of);
    let overhead = paths.iter().map(|path| overhead(*path, widest)).max().unwrap_or(0);
    let fitting = own.mtu.less(overhead);
    fixed.map_or(fitting, |fixed| fixed.min(fitting))
}

/// The largest packet between pods of two nodes in bytes, as far as both ends of a path tell.
pub fn path_mtu(own: &Node, peer: &Node, reached: &Reached) -> Mtu {
    own.mtu.min(peer.mtu).less(overhead(reached.path, reached.underlay.family))
}

fn overhead(path: Path, underlay: Family) -> u32 {
    match path {
        Path::Direct => 0,
        Path::Vxlan => underlay.vxlan_overhead(),
    }
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

/// Both ends of a tunnel: on the first family (IPv4 first) in which both nodes have an address of their own, as others
/// see it.
fn common_underlay(own: &Node, peer: &Node) -> Result<Underlay, Reason> {
    let mut same = None;
    for family in Family::ALL {
        let ends = own.address(family).zip(own.outer_address(family)).zip(peer.outer_address(family));
        let Some(((local, seen), remote)) = ends else { continue };
        if seen != remote {
            return Ok(Underlay { family, local, remote });
        }
        same = Some(remote);
    }
    let name = peer.name.clone();
    Err(match same {
        Some(address) => Reason::SameAddress { peer: name, address },
        None => Reason::NoCommonFamily { own: Families::of(own), peer: name, theirs: Families::of(peer) },
    })
}

/// Both ends on one link, of the packets' own family if there are such, as what both nodes publish tells: each must find
/// the other's address in the network of its own.
fn same_link(own: &Node, peer: &Node, pods: Family) -> Result<Underlay, Reason> {
    let mut first = None;
    for family in next_hops(pods) {
        let Some((here, there)) = own.interface_address(*family).zip(peer.interface_address(*family)) else {
            continue;
        };
        match check_link(own, peer, here, there) {
            None => {
                return Ok(Underlay { family: *family, local: here.address(), remote: there.address() });
            }
            reason => first = first.or(reason),
        }
    }
    Err(first.unwrap_or_else(|| Reason::NoNextHop {
        pods,
        own: Families::of(own),
        peer: peer.name.clone(),
        theirs: Families::of(peer),
    }))
}

/// The families of next hops that Linux takes for packets of one: IPv4 also by IPv6 (RTA_VIA, RFC 5549), not the other
/// way round.
fn next_hops(pods: Family) -> &'static [Family] {
    match pods {
        Family::Ipv4 => &[Family::Ipv4, Family::Ipv6],
        Family::Ipv6 => &[Family::Ipv6],
    }
}

fn check_link(own: &Node, peer: &Node, here: InterfaceAddress, there: InterfaceAddress) -> Option<Reason> {
    let family = here.family();
    let public = [own, peer].map(|node| node.public_address(family));
    let peer_name = peer.name.clone();
    if here.address() == there.address() {
        return Some(Reason::SameAddress { peer: peer_name, address: there.address() });
    }
    match public {
        [ours, theirs] if ours == theirs => {}
        [_, Some(address)] => return Some(Reason::Nat { behind: peer_name, address }),
        [Some(address), None] => return Some(Reason::Nat { behind: own.name.clone(), address }),
        [None, None] => {}
    }
    if !here.network().contains(there.address()) {
        return Some(Reason::OtherLink { peer: peer_name, address: there.address(), link: here.network() });
    }
    (!there.network().contains(here.address())).then(|| Reason::OneSided {
        peer: peer_name,
        address: here.address(),
        link: there.network(),
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
