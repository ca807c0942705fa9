//! Rows: the kernel objects that Tartan makes, each with the key by which the kernel tells it from others.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;
use tartan_model::{Cidr, Family, IfName, InterfaceAddress, Mac, Mtu, Vni};

use crate::policy::{PolicyKey, PolicyRow};
use crate::{Element, Parts};

/// One kernel object, with every choice made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "table", rename_all = "lowercase")]
pub enum Row {
    /// What is constant in our nftables.
    Ruleset(Ruleset),
    /// An element of one of our sets.
    Element(Element),
    /// A row of the table of policies.
    Policy(PolicyRow),
    /// A kernel setting.
    Sysctl(Sysctl),
    /// A network interface.
    Link(Link),
    /// An address on one of our links.
    Address(Address),
    /// A forwarding entry of a VXLAN device.
    Fdb(Fdb),
    /// A permanent neighbour entry.
    Neighbor(Neighbor),
    /// A route of the main table.
    Route(Route),
}

/// What tells a row from all others of the same kernel. The order of the variants is the order of building:
/// a row depends only on rows of kinds before its own, and on links.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Key {
    /// There is one ruleset.
    Ruleset,
    /// An element is its own key.
    Element(Element),
    /// A row of the table of policies, by its own key.
    Policy(PolicyKey),
    /// A setting, by its name.
    Sysctl(SysctlKey),
    /// A link, by its name.
    Link(IfName),
    /// An address, by its link.
    Address(IfName, InterfaceAddress),
    /// A forwarding entry, by its device and destination.
    Fdb(IfName, Mac),
    /// A neighbour, by its link.
    Neighbor(IfName, IpAddr),
    /// A route, by its destination and metric.
    Route(Cidr, u32),
}

/// The words for all kinds of rows.
pub const TABLES: [&str; 9] =
    ["ruleset", "element", "policy", "sysctl", "link", "address", "fdb", "neighbor", "route"];

impl Key {
    /// The word for its kind.
    pub const fn table(&self) -> &'static str {
        match self {
            Key::Ruleset => "ruleset",
            Key::Element(_) => "element",
            Key::Policy(_) => "policy",
            Key::Sysctl(_) => "sysctl",
            Key::Link(_) => "link",
            Key::Address(..) => "address",
            Key::Fdb(..) => "fdb",
            Key::Neighbor(..) => "neighbor",
            Key::Route(..) => "route",
        }
    }
}

/// The constant part of our nftables ([`crate::ruleset`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ruleset {
    /// Whether it is as it was written. What a hand finds and did not write itself is not known to be, and is written
    /// anew, in one transaction.
    pub intact: bool,
    /// The parts that are there, or that shall be; None leaves them as they are, as long as it is not known which are
    /// needed.
    pub parts: Option<Parts>,
}

/// A kernel setting under `/proc/sys/net`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sysctl {
    /// Which.
    pub key: SysctlKey,
    /// Its value.
    pub value: u32,
}

/// The kernel settings that Tartan needs (Documentation/networking/ip-sysctl.rst).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SysctlKey {
    /// `net.ipv6.conf.LINK.accept_ra`: 2 keeps a default route from router advertisements while forwarding.
    /// Sorts before the forwarding switches, so that the route is never lost in between.
    AcceptRa(IfName),
    /// `net.ipv4.ip_forward`.
    Ipv4Forward,
    /// `net.ipv6.conf.all.forwarding`.
    Ipv6Forward,
    /// `net.ipv4.conf.LINK.forwarding` of a link of ours. What comes in by a link that has it off is not forwarded,
    /// whatever `ip_forward` says (net/ipv4/route.c, `ip_route_input_slow`). IPv6 asks only the switch for all links.
    LinkForward(IfName),
    /// `net.ipv6.conf.LINK.disable_ipv6` of a link of ours.
    NoIpv6(IfName),
    /// `net.ipv4.conf.LINK.forwarding` of the uplink, by which packets for pods come in as they are.
    UplinkForward(IfName),
    /// `net.ipv4.conf.LINK.rp_filter` of a tunnel of ours: 2 lets packets in whose answers would go another way.
    LinkReverse(IfName),
    /// The same of the uplink.
    UplinkReverse(IfName),
}

impl SysctlKey {
    /// The path below `/proc/sys`.
    pub fn path(&self) -> String {
        match self {
            SysctlKey::AcceptRa(link) => format!("net/ipv6/conf/{link}/accept_ra"),
            SysctlKey::Ipv4Forward => "net/ipv4/ip_forward".into(),
            SysctlKey::Ipv6Forward => "net/ipv6/conf/all/forwarding".into(),
            SysctlKey::LinkForward(link) | SysctlKey::UplinkForward(link) => {
                format!("net/ipv4/conf/{link}/forwarding")
            }
            SysctlKey::LinkReverse(link) | SysctlKey::UplinkReverse(link) => {
                format!("net/ipv4/conf/{link}/rp_filter")
            }
            SysctlKey::NoIpv6(link) => format!("net/ipv6/conf/{link}/disable_ipv6"),
        }
    }

    /// The link whose setting it is: it comes and goes with the link.
    pub fn link(&self) -> Option<&IfName> {
        match self {
            SysctlKey::AcceptRa(link) | SysctlKey::UplinkForward(link) | SysctlKey::UplinkReverse(link) => {
                Some(link)
            }
            _ => self.on(),
        }
    }

    /// The same if that is a link of ours, or the loopback interface, which may hold addresses of ours; the uplink is not.
    pub fn on(&self) -> Option<&IfName> {
        match self {
            SysctlKey::LinkForward(link) | SysctlKey::LinkReverse(link) | SysctlKey::NoIpv6(link) => {
                Some(link)
            }
            SysctlKey::AcceptRa(_)
            | SysctlKey::UplinkForward(_)
            | SysctlKey::UplinkReverse(_)
            | SysctlKey::Ipv4Forward
            | SysctlKey::Ipv6Forward => None,
        }
    }
}

/// A network interface. [`Link::peer`] and [`Link::mac`] of a veth only matter when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Its name.
    pub name: IfName,
    /// What it is.
    pub kind: LinkKind,
    /// Its MAC address.
    pub mac: Mac,
    /// Its MTU in bytes; for a veth that of both ends when it is made, and of this end from then on.
    pub mtu: Mtu,
    /// Whether it is administratively up.
    pub up: bool,
    /// The bridge that it is a port of.
    pub master: Option<IfName>,
    /// Whether connections work whose addresses somebody translates. A bridge then has its frames pass the rules for IP
    /// packets (`nf_call_iptables`), so that answers are translated back, and the port of one may send a frame back by
    /// the way that it came (hairpin), so that a pod can reach itself. No other link has this.
    pub translated: bool,
    /// The mark that makes it ours beside its name, and a word for people (`ip link` shows it): begins with `tartan`.
    pub alias: Box<str>,
    /// The other end of a veth to be made; None where it is only compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Box<Peer>>,
}

impl Link {
    /// Whether it could be made if it was not there: a veth only goes together with its other end.
    pub fn can_be_made(&self) -> bool {
        self.kind != LinkKind::Veth || self.peer.is_some()
    }

    /// The same once the bridge that it was a port of is gone.
    pub(crate) fn released(&self) -> Link {
        Link { master: None, translated: false, ..self.clone() }
    }

    /// Whether what the kernel has is what is wanted: all but the other end, which cannot be seen from here.
    pub fn matches(&self, other: &Link) -> bool {
        Link { peer: None, ..self.clone() } == Link { peer: None, ..other.clone() }
    }
}

/// What a link is, with all that cannot be changed once it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum LinkKind {
    /// A VXLAN device without a lower device, learning off.
    Vxlan {
        /// The network identifier.
        vni: Vni,
        /// The outer source address; its family is that of the underlay.
        local: IpAddr,
        /// The UDP port, outer destination.
        port: u16,
    },
    /// A bridge.
    Bridge,
    /// One end of a veth pair.
    Veth,
}

/// The other end of a veth that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// The namespace that it goes to.
    pub netns: NetnsToken,
    /// Its name there.
    pub name: IfName,
    /// Its MAC address.
    pub mac: Mac,
}

/// Stands for a network namespace whose descriptor the hand holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct NetnsToken(pub u64);

/// An address on a link of ours, or, with our protocol number, on a node's loopback interface. IPv6 addresses skip duplicate
/// address detection (IFA_F_NODAD): it costs 1.8 s, and addresses are given out once by construction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Address {
    /// The link.
    pub link: IfName,
    /// The address and the length of its network.
    pub address: InterfaceAddress,
    /// How far it is valid.
    pub scope: Scope,
}

/// How far an address is valid (rtnetlink(7), `ifa_scope`). The kernel derives that of an IPv6 address from the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Everywhere.
    Global,
    /// On this link only, so never chosen as a source for traffic that leaves it.
    Link,
}

/// An entry of a VXLAN device's forwarding database: frames to this MAC go to this underlay address. Permanent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fdb {
    /// The VXLAN device.
    pub link: IfName,
    /// The inner destination.
    pub mac: Mac,
    /// The outer destination.
    pub dst: IpAddr,
}

/// A permanent neighbour entry with our protocol number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Neighbor {
    /// The link.
    pub link: IfName,
    /// The neighbour's address.
    pub address: IpAddr,
    /// The neighbour's MAC.
    pub mac: Mac,
}

/// A route of the main table with our protocol number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// The destination.
    pub dst: Cidr,
    /// The metric as the kernel reports it; see [`Route::usual_metric`].
    pub metric: u32,
    /// Where it leads.
    pub kind: RouteKind,
    /// The preferred source address of traffic that the node itself sends.
    pub source: Option<IpAddr>,
    /// The largest packet in bytes, where that is less than the link takes. The sender of a larger one is told, also
    /// when it is forwarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
}

impl Route {
    /// The metric of a route made without one: 0 for IPv4, 1024 for IPv6 (`IP6_RT_PRIO_USER`).
    pub const fn usual_metric(family: Family) -> u32 {
        match family {
            Family::Ipv4 => 0,
            Family::Ipv6 => 1024,
        }
    }

    /// The link that the route leaves by.
    pub fn link(&self) -> Option<&IfName> {
        match &self.kind {
            RouteKind::Link { link } | RouteKind::Via { link, .. } => Some(link),
            RouteKind::Blackhole => None,
        }
    }
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum RouteKind {
    /// Straight onto a link (scope link).
    Link {
        /// The link.
        link: IfName,
    },
    /// By a next hop, taken to be on the link whatever its address (RTNH_F_ONLINK).
    Via {
        /// The next hop; that of an IPv4 route may be of IPv6 (RTA_VIA, RFC 5549).
        gateway: IpAddr,
        /// The link.
        link: IfName,
    },
    /// Nowhere: packets are dropped in silence (RTN_BLACKHOLE).
    Blackhole,
}

impl Row {
    /// The key of this row.
    pub fn key(&self) -> Key {
        match self {
            Row::Ruleset(_) => Key::Ruleset,
            Row::Element(row) => Key::Element(row.clone()),
            Row::Policy(row) => Key::Policy(row.key()),
            Row::Sysctl(row) => Key::Sysctl(row.key.clone()),
            Row::Link(row) => Key::Link(row.name.clone()),
            Row::Address(row) => Key::Address(row.link.clone(), row.address),
            Row::Fdb(row) => Key::Fdb(row.link.clone(), row.mac),
            Row::Neighbor(row) => Key::Neighbor(row.link.clone(), row.address),
            Row::Route(row) => Key::Route(row.dst, row.metric),
        }
    }

    /// The link that this row is on and vanishes with; None for nftables, links, settings of the node and blackholes.
    pub fn on(&self) -> Option<&IfName> {
        match self {
            Row::Sysctl(row) => row.key.on(),
            Row::Ruleset(_) | Row::Element(_) | Row::Policy(_) | Row::Link(_) => None,
            Row::Address(row) => Some(&row.link),
            Row::Fdb(row) => Some(&row.link),
            Row::Neighbor(row) => Some(&row.link),
            Row::Route(row) => row.link(),
        }
    }

    /// Whether a kernel that reports `found` has what this row wants.
    pub fn matches(&self, found: &Row) -> bool {
        match (self, found) {
            (Row::Link(want), Row::Link(found)) => want.matches(found),
            (Row::Ruleset(want), Row::Ruleset(found)) => {
                want.intact == found.intact && (want.parts.is_none() || want.parts == found.parts)
            }
            _ => self == found,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Row::Ruleset(row) => row.fmt(f),
            Row::Element(row) => row.fmt(f),
            Row::Policy(row) => row.fmt(f),
            Row::Sysctl(row) => write!(f, "sysctl {} = {}", row.key.path().replace('/', "."), row.value),
            Row::Link(row) => row.fmt(f),
            Row::Address(row) => write!(f, "address {} dev {}", row.address, row.link),
            Row::Fdb(row) => write!(f, "fdb {} dst {} dev {}", row.mac, row.dst, row.link),
            Row::Neighbor(row) => write!(f, "neighbor {} lladdr {} dev {}", row.address, row.mac, row.link),
            Row::Route(row) => row.fmt(f),
        }
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { masquerade, apart, judged } = self.parts.unwrap_or_default();
        write!(f, "ruleset tartan")?;
        write!(f, "{}", if masquerade { " with masquerade" } else { "" })?;
        write!(f, "{}", if apart { " with networks kept apart" } else { "" })?;
        write!(f, "{}", if judged { " with bridged frames judged" } else { "" })?;
        write!(f, "{}", if self.intact { "" } else { " of somebody else's making" })
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {} ", self.name)?;
        match &self.kind {
            LinkKind::Vxlan { vni, local, port } => write!(f, "vxlan id {vni} local {local} port {port}")?,
            LinkKind::Bridge => write!(f, "bridge")?,
            LinkKind::Veth => write!(f, "veth")?,
        }
        write!(f, " mac {} mtu {}", self.mac, self.mtu)?;
        if let Some(master) = &self.master {
            write!(f, " master {master}")?;
        }
        if self.translated {
            let how = if self.kind == LinkKind::Bridge { "nf_call" } else { "hairpin" };
            write!(f, " {how}")?;
        }
        write!(f, " {}", if self.up { "up" } else { "down" })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            RouteKind::Link { link } => write!(f, "route {} dev {link}", self.dst)?,
            RouteKind::Via { gateway, link } => {
                let other = if Family::of(*gateway) == self.dst.family() { "" } else { "inet6 " };
                write!(f, "route {} via {other}{gateway} dev {link} onlink", self.dst)?
            }
            RouteKind::Blackhole => write!(f, "route blackhole {}", self.dst)?,
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        if self.metric != Route::usual_metric(self.dst.family()) {
            write!(f, " metric {}", self.metric)?;
        }
        Ok(())
    }
}
