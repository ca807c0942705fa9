//! Requests for tables, and for single objects.

use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::{RouteHeader, RouteMessage, RouteProtocol};
use tartan_model::{Family, InterfaceAddress};

use crate::message::{family as wire_family, skip_statistics};
use crate::{Dump, KernelError, Request, Rtnl};

pub(crate) fn links() -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(skip_statistics());
    RouteNetlinkMessage::GetLink(message)
}

pub(crate) fn addresses(family: Family) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = wire_family(family);
    RouteNetlinkMessage::GetAddress(message)
}

/// Asks for one address.
pub(crate) fn address(link: u32, address: InterfaceAddress) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = wire_family(address.family());
    message.header.index = link;
    message.attributes.push(AddressAttribute::Address(address.address()));
    Request::new(RouteNetlinkMessage::GetAddress(message), 0)
}

pub(crate) fn neighbors(family: Family) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = wire_family(family);
    RouteNetlinkMessage::GetNeighbour(message)
}

/// The forwarding entries of one device.
pub(crate) fn fdb(link: u32) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = link;
    RouteNetlinkMessage::GetNeighbour(message)
}

/// The routes of the main table, of one protocol or all.
pub(crate) fn dump_routes(
    rtnl: &mut Rtnl,
    family: Family,
    protocol: Option<RouteProtocol>,
) -> Result<Dump, KernelError> {
    let mut message = RouteMessage::default();
    message.header.address_family = wire_family(family);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = protocol.unwrap_or_default();
    match rtnl.dump(&RouteNetlinkMessage::GetRoute(message)) {
        // A namespace that never had a route has no main table.
        Err(KernelError::Refused { source, .. }) if source.errno == libc::ENOENT => Ok(Dump::default()),
        other => other,
    }
}
