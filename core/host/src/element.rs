//! Elements: what varies in our nftables.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;
use tartan_model::{Cidr, Family, IfName, Mac, Vni};

use crate::nftables::TableFamily;

/// An element of a set of ours; it is there or not, and has no value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Element {
    /// Which table.
    pub table: TableFamily,
    /// What it says, which tells the set.
    pub member: Member,
}

/// What an element says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Member {
    /// Frames by this link may come from this MAC address.
    Mac(IfName, Mac),
    /// Packets by this link, from this MAC address, may come from this address.
    Source(IfName, Mac, IpAddr),
    /// This is a node's address.
    Node(IpAddr),
    /// No pod sends to a node on this port: it is a tunnel's.
    Tunnel(Protocol, u16),
    /// No pod sends to a node on this port: it is the agents' own.
    Control(Protocol, u16),
    /// VXLAN by this UDP port with this identifier is ours, and comes from nodes only.
    Vxlan(u16, Vni),
    /// This link is a port of a bridge of ours that frames may go back by.
    Port(IfName),
    /// Connections from here to there take this node's address.
    Masquerade(Cidr, Cidr),
    /// Those from here to there do not.
    Kept(Cidr, Cidr),
    /// Here is one network, there another.
    Across(Cidr, Cidr),
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its number (IANA, Protocol Numbers).
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}

impl Member {
    /// The link that it is about.
    pub const fn link(&self) -> Option<&IfName> {
        match self {
            Member::Mac(link, _) | Member::Source(link, ..) | Member::Port(link) => Some(link),
            Member::Node(_) | Member::Tunnel(..) | Member::Control(..) | Member::Vxlan(..) => None,
            Member::Masquerade(..) | Member::Kept(..) | Member::Across(..) => None,
        }
    }

    /// The set that it belongs to.
    pub fn set(&self) -> &'static str {
        match self {
            Member::Mac(..) => "macs",
            Member::Source(_, _, IpAddr::V4(_)) => "sources_ipv4",
            Member::Source(_, _, IpAddr::V6(_)) => "sources_ipv6",
            Member::Node(IpAddr::V4(_)) => "nodes_ipv4",
            Member::Node(IpAddr::V6(_)) => "nodes_ipv6",
            Member::Tunnel(..) => "tunnels",
            Member::Control(..) => "control",
            Member::Vxlan(..) => "vnis",
            Member::Port(_) => "ports",
            Member::Masquerade(from, _) => by_family(from, ["masquerade_ipv4", "masquerade_ipv6"]),
            Member::Kept(from, _) => by_family(from, ["kept_ipv4", "kept_ipv6"]),
            Member::Across(from, _) => by_family(from, ["across_ipv4", "across_ipv6"]),
        }
    }

    /// Whether it is a pair of ranges: two that share a pair of addresses cannot be in a set together.
    pub const fn is_ranges(&self) -> bool {
        matches!(self, Member::Masquerade(..) | Member::Kept(..) | Member::Across(..))
    }
}

fn by_family(range: &Cidr, [ipv4, ipv6]: [&'static str; 2]) -> &'static str {
    match range.family() {
        Family::Ipv4 => ipv4,
        Family::Ipv6 => ipv6,
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "element {} {} ", self.table.as_str(), self.member.set())?;
        match &self.member {
            Member::Mac(link, mac) => write!(f, "{link} . {mac}"),
            Member::Source(link, mac, address) => write!(f, "{link} . {mac} . {address}"),
            Member::Node(address) => write!(f, "{address}"),
            Member::Tunnel(protocol, port) | Member::Control(protocol, port) => {
                write!(f, "{protocol} . {port}")
            }
            Member::Vxlan(port, vni) => write!(f, "{port} . {vni}"),
            Member::Port(link) => write!(f, "{link} . {link}"),
            Member::Masquerade(from, to) | Member::Kept(from, to) | Member::Across(from, to) => {
                write!(f, "{from} . {to}")
            }
        }
    }
}
