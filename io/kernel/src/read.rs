//! From the kernel's messages to rows.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVxlan, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteType, RouteVia,
};
use tartan_host::{Address, Fdb, ForeignLink, Key, Link, LinkKind, Neighbor, Route, RouteKind, Scope};
use tartan_model::{Cidr, Family, IfName, InterfaceAddress, Mac, Mtu};

use crate::marks::{LOOPBACK, Marks, PROTOCOL};
use crate::message;
use crate::rtnl::Message;

/// A link as the kernel tells of it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) index: u32,
    pub(crate) name: IfName,
    alias: String,
    pub(crate) up: bool,
    pub(crate) mtu: u32,
    mac: Option<Mac>,
    pub(crate) kind: Option<LinkKind>,
    master: Option<u32>,
    translated: bool,
    pub(crate) group: u32,
}

/// What is remembered of each link, ours or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) name: IfName,
    pub(crate) ours: bool,
    pub(crate) up: bool,
    pub(crate) mtu: u32,
}

/// All links by index, for the messages that name them so.
#[derive(Debug)]
pub(crate) struct Links {
    marks: Marks,
    known: HashMap<u32, Known>,
}

impl Links {
    pub(crate) fn new(marks: Marks) -> Links {
        Links { marks, known: HashMap::new() }
    }

    pub(crate) fn clear(&mut self) {
        self.known.clear();
    }

    /// Takes a link in; gives back what was known of that index.
    pub(crate) fn learn(&mut self, seen: &Seen) -> Option<Known> {
        let known = Known { name: seen.name.clone(), ours: self.is_ours(seen), up: seen.up, mtu: seen.mtu };
        self.known.insert(seen.index, known)
    }

    pub(crate) fn forget(&mut self, index: u32) -> Option<Known> {
        self.known.remove(&index)
    }

    pub(crate) fn name(&self, index: u32) -> Option<&IfName> {
        self.known.get(&index).map(|known| &known.name)
    }

    pub(crate) fn ours(&self, index: u32) -> Option<&IfName> {
        self.known.get(&index).filter(|known| known.ours).map(|known| &known.name)
    }

    pub(crate) fn ours_where(&self, holds: impl Fn(&IfName) -> bool) -> impl Iterator<Item = u32> {
        let ours = self.known.iter().filter(move |(_, known)| known.ours && holds(&known.name));
        ours.map(|(index, _)| *index)
    }

    /// Whether the name is one of ours, whatever the link's mark.
    pub(crate) fn is_our_name(&self, name: &IfName) -> bool {
        self.marks.is_our_name(name)
    }

    /// Whether a link could be the uplink, by its name.
    pub(crate) fn is_underlay(&self, index: u32) -> bool {
        self.name(index).is_none_or(|name| !self.is_our_name(name))
    }

    pub(crate) fn foreign(&self) -> impl Iterator<Item = (IfName, ForeignLink)> {
        self.known
            .values()
            .filter(|known| !known.ours)
            .map(|known| (known.name.clone(), ForeignLink { up: known.up }))
    }

    pub(crate) fn is_ours(&self, seen: &Seen) -> bool {
        self.row(seen).is_some()
    }

    /// The row of a link; None if it is not ours, or nothing that we could have made.
    pub(crate) fn row(&self, seen: &Seen) -> Option<Link> {
        if !self.marks.is_ours(&seen.name, &seen.alias) {
            return None;
        }
        let (kind, alias) = match self.marks {
            Marks::Node => (seen.kind.clone()?, seen.alias.clone()),
            Marks::Pod(_) => (LinkKind::Veth, String::new()),
        };
        Some(Link {
            name: seen.name.clone(),
            kind,
            mac: seen.mac?,
            mtu: seen.mtu.try_into().ok()?,
            up: seen.up,
            master: seen.master.and_then(|index| self.name(index).cloned()),
            translated: seen.translated,
            alias: alias.into(),
            peer: None,
        })
    }

    /// Whether the link is a node's loopback interface.
    pub(crate) fn is_loopback(&self, index: u32) -> bool {
        self.marks == Marks::Node && index == LOOPBACK
    }

    /// The row of an address; None if neither its link nor itself bears our mark, or the kernel made it.
    pub(crate) fn address(&self, message: &AddressMessage) -> Option<Address> {
        let index = message.header.index;
        let is_marked = || self.is_loopback(index) && message.attributes.contains(&message::OURS);
        let link = self.ours(index).or_else(|| self.name(index).filter(|_| is_marked()))?;
        let address = interface_address(message)?;
        if matches!(self.marks, Marks::Pod(_)) && is_automatic(message, address.address()) {
            return None;
        }
        let scope = match message.header.scope {
            AddressScope::Link => Scope::Link,
            _ => Scope::Global,
        };
        Some(Address { link: link.clone(), address, scope })
    }

    /// The key and row of a neighbour on a link of ours; no row if the neighbour is not ours.
    pub(crate) fn neighbor(&self, message: &NeighbourMessage) -> Option<(Key, Option<Neighbor>)> {
        let link = self.ours(message.header.ifindex)?;
        let mut address = None;
        let mut mac = None;
        let mut ours = message.header.state == NeighbourState::Permanent;
        let mut protocol = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(IpAddr::V4(*v4))
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(IpAddr::V6(*v6))
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = to_mac(bytes),
                NeighbourAttribute::Protocol(number) => protocol = Some(u8::from(*number)),
                _ => {}
            }
        }
        ours &= protocol == Some(PROTOCOL);
        let address = address?;
        let row = mac.filter(|_| ours).map(|mac| Neighbor { link: link.clone(), address, mac });
        Some((Key::Neighbor(link.clone(), address), row))
    }

    /// The row of a forwarding entry; None if it is none of a VXLAN device of ours, or the kernel's own default entry.
    pub(crate) fn fdb(&self, message: &NeighbourMessage) -> Option<Fdb> {
        let link = self.ours(message.header.ifindex)?;
        let mut dst = None;
        let mut mac = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => dst = to_address(bytes),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = to_mac(bytes),
                _ => {}
            }
        }
        let mac = mac.filter(|mac| mac.bytes() != [0; 6])?;
        let own = message.header.flags.contains(NeighbourFlags::Own);
        Some(Fdb { link: link.clone(), mac, dst: dst.filter(|_| own)? })
    }

    /// The row of a route; None if it is not ours, or nothing that we could have made.
    pub(crate) fn route(&self, message: &RouteMessage) -> Option<Route> {
        if u8::from(message.header.protocol) != PROTOCOL || table(message) != MAIN_TABLE {
            return None;
        }
        let (dst, metric) = route_key(message)?;
        let mut gateway = None;
        let mut source = None;
        let mut mtu = None;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Gateway(address) => gateway = from_route(address),
                RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
                RouteAttribute::Metrics(metrics) => mtu = mtu_of(metrics),
                RouteAttribute::PrefSource(address) => source = from_route(address),
                _ => {}
            }
        }
        let link = || oif(message).and_then(|index| self.name(index).cloned());
        let kind = match (message.header.kind, gateway) {
            (RouteType::BlackHole, _) => RouteKind::Blackhole,
            (RouteType::Unicast, Some(gateway)) => RouteKind::Via { gateway, link: link()? },
            (RouteType::Unicast, None) => RouteKind::Link { link: link()? },
            _ => return None,
        };
        Some(Route { dst, metric, kind, source, mtu })
    }
}

const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;

impl Seen {
    /// Whether it bears our mark, whatever kind of link it is.
    pub(crate) fn is_marked(&self, marks: &Marks) -> bool {
        marks.is_ours(&self.name, &self.alias)
    }

    /// A link whose name we cannot write down cannot matter to us: None.
    pub(crate) fn of(message: &LinkMessage) -> Option<Seen> {
        let mut seen = Seen {
            index: message.header.index,
            name: message.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => name.parse().ok(),
                _ => None,
            })?,
            alias: String::new(),
            up: message.header.flags.contains(LinkFlags::Up),
            mtu: 0,
            mac: None,
            kind: None,
            master: None,
            translated: false,
            group: 0,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfAlias(alias) => seen.alias.clone_from(alias),
                LinkAttribute::Mtu(mtu) => seen.mtu = *mtu,
                LinkAttribute::Address(bytes) => seen.mac = to_mac(bytes),
                LinkAttribute::LinkInfo(infos) => {
                    seen.kind = link_kind(infos);
                    seen.translated = is_translated(infos);
                }
                LinkAttribute::Controller(index) => seen.master = Some(*index),
                LinkAttribute::Group(group) => seen.group = *group,
                _ => {}
            }
        }
        Some(seen)
    }

    /// The link that a message from a dump or a lookup tells of.
    pub(crate) fn read(message: &Message<'_>) -> Option<Seen> {
        match message.parse().ok()? {
            RouteNetlinkMessage::NewLink(link) => Seen::of(&link),
            _ => None,
        }
    }
}

fn link_kind(infos: &[LinkInfo]) -> Option<LinkKind> {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })?;
    match kind {
        InfoKind::Veth => Some(LinkKind::Veth),
        InfoKind::Bridge => Some(LinkKind::Bridge),
        InfoKind::Vxlan => infos.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(data)) => vxlan(data),
            _ => None,
        }),
        _ => None,
    }
}

/// See [`Link::translated`]. A bridge that says nothing of it has no such setting (CONFIG_BRIDGE_NETFILTER).
fn is_translated(infos: &[LinkInfo]) -> bool {
    infos.iter().any(|info| match info {
        LinkInfo::Data(InfoData::Bridge(data)) => data.iter().all(|option| match option {
            InfoBridge::NfCallIpTables(on) | InfoBridge::NfCallIp6Tables(on) => *on,
            _ => true,
        }),
        LinkInfo::PortData(InfoPortData::BridgePort(data)) => {
            data.iter().any(|option| matches!(option, InfoBridgePort::HairpinMode(true)))
        }
        _ => false,
    })
}

fn vxlan(data: &[InfoVxlan]) -> Option<LinkKind> {
    let mut vni = None;
    // A device without a local address is none that we would make, and differs from all of ours by this.
    let mut local = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let mut port = 0;
    for attribute in data {
        match attribute {
            InfoVxlan::Id(id) => vni = (*id).try_into().ok(),
            InfoVxlan::Local(address) => local = IpAddr::V4(*address),
            InfoVxlan::Local6(address) => local = IpAddr::V6(*address),
            InfoVxlan::Port(number) => port = *number,
            _ => {}
        }
    }
    Some(LinkKind::Vxlan { vni: vni?, local, port })
}

/// The address of a message. IFA_LOCAL is ours where the two differ, on a point-to-point link (rtnetlink(7)).
pub(crate) fn interface_address(message: &AddressMessage) -> Option<InterfaceAddress> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) if found.is_none() => found = Some(*address),
            _ => {}
        }
    }
    InterfaceAddress::new(found?, message.header.prefix_len)
}

/// All flags of an address; the header has only the first eight.
pub(crate) fn address_flags(message: &AddressMessage) -> AddressFlags {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Flags(flags) => Some(*flags),
            _ => None,
        })
        .unwrap_or(AddressFlags::from_bits_retain(message.header.flags.bits().into()))
}

/// The link-local address that the kernel makes of its own accord: we always set IFA_F_NODAD, it never does.
fn is_automatic(message: &AddressMessage, address: IpAddr) -> bool {
    match address {
        IpAddr::V6(v6) => v6.is_unicast_link_local() && !address_flags(message).contains(AddressFlags::Nodad),
        IpAddr::V4(_) => false,
    }
}

/// Destination and metric.
pub(crate) fn route_key(message: &RouteMessage) -> Option<(Cidr, u32)> {
    let family = u8::from(message.header.address_family);
    let family = if family == libc::AF_INET as u8 { Family::Ipv4 } else { Family::Ipv6 };
    let mut dst = Cidr::everything(family).first();
    let mut metric = 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => dst = from_route(address)?,
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    Some((Cidr::containing(dst, message.header.destination_prefix_length)?, metric))
}

/// The link that a route leaves by; of several next hops the first.
pub(crate) fn oif(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        RouteAttribute::MultiPath(hops) => hops.first().map(|hop| hop.interface_index),
        _ => None,
    })
}

pub(crate) fn is_router_advertised(message: &RouteMessage) -> bool {
    // Kernels before 4.17 name themselves, and let the route expire (net/ipv6/route.c, `rt6_add_dflt_router`).
    let expires = message.attributes.iter().any(|attribute| match attribute {
        RouteAttribute::CacheInfo(info) => info.expires != 0,
        _ => false,
    });
    match message.header.protocol {
        RouteProtocol::Ra => true,
        RouteProtocol::Kernel => expires,
        _ => false,
    }
}

/// The attribute holds numbers above 255, which the header cannot.
fn table(message: &RouteMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or(message.header.table.into())
}

fn mtu_of(metrics: &[RouteMetric]) -> Option<Mtu> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(bytes) => (*bytes).try_into().ok(),
        _ => None,
    })
}

pub(crate) fn from_route(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn to_mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac::from_bytes)
}

fn to_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}
