//! The beginnings of netlink messages that several writers share.

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};
use tartan_model::{Cidr, Family, IfName, InterfaceAddress};

use crate::marks::PROTOCOL;

pub(crate) fn family(family: Family) -> AddressFamily {
    match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    }
}

/// A link that the kernel is to find by its name.
pub(crate) fn link_by_name(name: &IfName) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_string()));
    message
}

/// A link that the kernel is to find by its index.
pub(crate) fn link_by_index(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

/// Asks for one link, without its counters.
pub(crate) fn lookup(name: &IfName) -> LinkMessage {
    let mut message = link_by_name(name);
    message.attributes.push(skip_statistics());
    message
}

/// Counters are half of what the kernel tells of a link, and nobody here reads them.
pub(crate) fn skip_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

/// The mark of our addresses on the loopback interface.
pub(crate) const OURS: AddressAttribute = AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL));

/// An address on a link; `narrow` makes an IPv4 address one of scope link.
pub(crate) fn address(link: u32, address: InterfaceAddress, narrow: bool) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.family());
    message.header.prefix_len = address.length();
    message.header.index = link;
    message.attributes.push(AddressAttribute::Local(address.address()));
    message.attributes.push(AddressAttribute::Address(address.address()));
    match address.family() {
        Family::Ipv4 if narrow => message.header.scope = AddressScope::Link,
        Family::Ipv4 => {}
        Family::Ipv6 => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    message
}

/// A route of the main table to a destination.
pub(crate) fn route(dst: &Cidr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(dst.family());
    message.header.destination_prefix_length = dst.length();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    if dst.length() > 0 {
        message.attributes.push(RouteAttribute::Destination(dst.first().into()));
    }
    message
}
