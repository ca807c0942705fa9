//! From steps to the kernel's requests.

use std::net::IpAddr;
use std::os::fd::RawFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeBooleanOptionFlags, BridgeBooleanOptions, In6AddrGenMode, InfoBridge,
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage};
use tartan_host::{Address, Fdb, Link, LinkKind, Neighbor, Route, RouteKind, Scope};
use tartan_model::{Family, IfName, Mac, Mtu, Vni};

use crate::marks::{LOOPBACK, PROTOCOL};
use crate::message::{self, link_by_index, link_by_name};
use crate::rtnl::Request;

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;
const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;
/// Hops that an outer packet may take: what the kernel would inherit is the inner packet's, which may be 1.
const VXLAN_TTL: u8 = 64;
const NUD_PERMANENT_NOARP: u16 = 0x80 | 0x40;

/// Frames to 01:80:c2:00:00:0X pass no filter of the bridge's, and would teach it any source address
/// (net/bridge/br_input.c, `br_handle_frame`, `__br_handle_local_finish`).
const NO_LINK_LOCAL_LEARN: BridgeBooleanOptionFlags = BridgeBooleanOptionFlags::NoLinkLocalLearn;

/// A request, and whether it may be refused: because what it takes away is not there, or for whatever reason.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) request: Request,
    pub(crate) may_be_absent: bool,
    pub(crate) may_fail: bool,
}

impl Wish {
    fn or_not(self) -> Wish {
        Wish { may_fail: true, ..self }
    }
}

fn want(message: Message, flags: u16) -> Wish {
    Wish { request: Request::new(message, flags), may_be_absent: false, may_fail: false }
}

fn rid(message: Message) -> Wish {
    Wish { may_be_absent: true, ..want(message, 0) }
}

/// Makes a link and marks it. The alias is not taken when a link is made, so it is a request of its own; both go in one
/// send, which the kernel works off in one system call, so that no signal comes between them. A kernel without IPv6
/// refuses any setting of it (EAFNOSUPPORT).
pub(crate) fn create_link(link: &Link, master: Option<u32>, peer: Option<RawFd>, ipv6: bool) -> Vec<Wish> {
    let mut make = link_by_name(&link.name);
    make.attributes.push(LinkAttribute::Address(link.mac.bytes().to_vec()));
    make.attributes.push(LinkAttribute::Mtu(first_mtu(link)));
    make.attributes.push(LinkAttribute::LinkInfo(link_info(link, peer)));
    let mut mark = link_by_name(&link.name);
    mark.attributes.push(LinkAttribute::IfAlias(link.alias.to_string()));
    if ipv6 {
        mark.attributes.push(no_automatic_address());
    }
    let mut finish = link_by_name(&link.name);
    finish.attributes.push(LinkAttribute::Mtu(link.mtu.into()));
    finish.attributes.extend(master.map(LinkAttribute::Controller));
    set_up(&mut finish, link.up);
    let mut wishes = vec![
        want(Message::NewLink(make), CREATE),
        want(Message::SetLink(mark), 0),
        want(Message::SetLink(finish), 0),
    ];
    wishes.extend(master.filter(|_| link.translated).map(|_| port(link_by_name(&link.name), true)));
    wishes
}

/// Sets a link up.
pub(crate) fn raise_link(index: u32) -> Wish {
    let mut link = link_by_index(index);
    set_up(&mut link, true);
    want(Message::SetLink(link), 0)
}

/// Whether a port may send a frame back by the way that it came. A link that becomes a port may not (net/bridge/br_if.c,
/// `new_nbp`), and what a port may is only taken of one that is one already (net/core/rtnetlink.c, `rtnl_changelink`).
fn port(mut link: LinkMessage, hairpin: bool) -> Wish {
    let data = InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(hairpin)]);
    let info = vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(data)];
    link.attributes.push(LinkAttribute::LinkInfo(info));
    want(Message::NewLink(link), 0)
}

/// Whether frames of a bridge pass the rules for IP packets, whatever `net.bridge.bridge-nf-call-iptables` says.
fn rules(on: bool) -> [InfoBridge; 2] {
    [InfoBridge::NfCallIpTables(on), InfoBridge::NfCallIp6Tables(on)]
}

/// Every address on our links is one that we put there.
fn no_automatic_address() -> LinkAttribute {
    let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])])
}

/// A link is born with an MTU at which it has IPv6, without which the mark is refused (net/core/rtnetlink.c,
/// `validate_linkmsg`). A bridge follows the MTU of its ports until its own is *changed* once (net/bridge/br_device.c,
/// `br_change_mtu`).
fn first_mtu(link: &Link) -> u32 {
    let (mtu, least) = (u32::from(link.mtu), u32::from(Mtu::IPV6_MIN));
    match link.kind {
        LinkKind::Bridge if mtu > least => mtu - 1,
        LinkKind::Bridge if mtu == least => mtu + 1,
        LinkKind::Bridge | LinkKind::Vxlan { .. } | LinkKind::Veth => mtu.max(least),
    }
}

fn link_info(link: &Link, peer: Option<RawFd>) -> Vec<LinkInfo> {
    match &link.kind {
        LinkKind::Bridge => {
            let options = BridgeBooleanOptions { value: NO_LINK_LOCAL_LEARN, mask: NO_LINK_LOCAL_LEARN };
            let options = [InfoBridge::MultiBoolOpt(options)].into_iter();
            let data = InfoData::Bridge(options.chain(rules(link.translated)).collect());
            vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(data)]
        }
        LinkKind::Vxlan { vni, local, port } => {
            vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(vxlan(*vni, *local, *port)))]
        }
        LinkKind::Veth => {
            let mut info = vec![LinkInfo::Kind(InfoKind::Veth)];
            if let (Some(peer), Some(netns)) = (&link.peer, peer) {
                let mut other = link_by_name(&peer.name);
                other.attributes.push(LinkAttribute::Address(peer.mac.bytes().to_vec()));
                other.attributes.push(LinkAttribute::Mtu(link.mtu.into()));
                other.attributes.push(LinkAttribute::NetNsFd(netns));
                info.push(LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))));
            }
            info
        }
    }
}

fn vxlan(vni: Vni, local: IpAddr, port: u16) -> Vec<InfoVxlan> {
    let local = match local {
        IpAddr::V4(v4) => InfoVxlan::Local(v4),
        IpAddr::V6(v6) => InfoVxlan::Local6(v6),
    };
    vec![
        InfoVxlan::Id(vni.into()),
        local,
        InfoVxlan::Port(port),
        InfoVxlan::Learning(false),
        InfoVxlan::Ttl(VXLAN_TTL),
    ]
}

fn set_up(link: &mut LinkMessage, up: bool) {
    link.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    link.header.change_mask = LinkFlags::Up;
}

/// Changes what differs; what a link is cannot be changed.
pub(crate) fn change_link(index: u32, from: &Link, to: &Link, master: Option<u32>) -> Vec<Wish> {
    let mut link = link_by_index(index);
    if from.mac != to.mac {
        link.attributes.push(LinkAttribute::Address(to.mac.bytes().to_vec()));
    }
    if from.mtu != to.mtu {
        link.attributes.push(LinkAttribute::Mtu(to.mtu.into()));
    }
    if from.alias != to.alias {
        link.attributes.push(LinkAttribute::IfAlias(to.alias.to_string()));
    }
    if from.master != to.master {
        link.attributes.push(LinkAttribute::Controller(master.unwrap_or(0)));
    }
    if from.up != to.up {
        set_up(&mut link, to.up);
    }
    let mut wishes = vec![want(Message::SetLink(link), 0)];
    if to.kind == LinkKind::Bridge && from.translated != to.translated {
        let mut link = link_by_index(index);
        let data = InfoData::Bridge(rules(to.translated).into());
        let info = vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(data)];
        link.attributes.push(LinkAttribute::LinkInfo(info));
        wishes.push(want(Message::NewLink(link), 0));
    }
    // A link that changes its bridge begins anew.
    let had = from.translated && from.master == to.master;
    if to.master.is_some() && had != to.translated {
        wishes.push(port(link_by_index(index), to.translated));
    }
    wishes
}

/// Gives a link an ingress qdisc, where classifiers have their place. One of `clsact` would have what leaves by the link pass its
/// other half too.
pub(crate) fn give_ingress(index: u32) -> Request {
    let mut qdisc = TcMessage::default();
    qdisc.header = TcHeader {
        index: index.cast_signed(),
        handle: TcHandle { major: 0xffff, minor: 0 },
        parent: TcHandle::INGRESS,
        ..TcHeader::default()
    };
    qdisc.attributes.push(TcAttribute::Kind("ingress".into()));
    Request::new(Message::NewQueueDiscipline(qdisc), CREATE)
}

/// Takes back a link that was made and could not be finished.
pub(crate) fn unmake_link(name: &IfName) -> Request {
    Request::new(Message::DelLink(link_by_name(name)), 0)
}

pub(crate) fn remove_link(index: u32) -> Wish {
    rid(Message::DelLink(link_by_index(index)))
}

/// Puts a link into a group, to be removed with it.
pub(crate) fn group_link(index: u32, group: u32) -> Wish {
    let mut link = link_by_index(index);
    link.attributes.push(LinkAttribute::Group(group));
    Wish { may_be_absent: true, ..want(Message::SetLink(link), 0) }
}

/// Removes all links of a group at once: the kernel waits for its readers only once (`rtnl_group_dellink`).
pub(crate) fn remove_group(group: u32) -> Wish {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::Group(group));
    rid(Message::DelLink(link))
}

/// On the loopback interface somebody else's is not taken over.
pub(crate) fn put_address(index: u32, row: &Address) -> Vec<Wish> {
    let mut address = message::address(index, row.address, row.scope == Scope::Link);
    if index != LOOPBACK {
        return vec![want(Message::NewAddress(address), REPLACE)];
    }
    address.attributes.push(message::OURS);
    vec![want(Message::NewAddress(address), CREATE)]
}

pub(crate) fn remove_address(index: u32, row: &Address) -> Vec<Wish> {
    vec![rid(Message::DelAddress(message::address(index, row.address, false)))]
}

pub(crate) fn put_fdb(index: u32, row: &Fdb) -> Vec<Wish> {
    vec![want(Message::NewNeighbour(fdb(index, row)), REPLACE)]
}

pub(crate) fn remove_fdb(index: u32, row: &Fdb) -> Vec<Wish> {
    vec![rid(Message::DelNeighbour(fdb(index, row)))]
}

fn fdb(index: u32, row: &Fdb) -> NeighbourMessage {
    let dst = match row.dst {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let mut entry = entry(index, AddressFamily::Bridge, NeighbourAddress::Other(dst), row.mac);
    entry.header.state = NeighbourState::Other(NUD_PERMANENT_NOARP);
    entry.header.flags = NeighbourFlags::Own;
    entry
}

pub(crate) fn put_neighbor(index: u32, row: &Neighbor) -> Vec<Wish> {
    vec![want(Message::NewNeighbour(neighbor(index, row)), REPLACE)]
}

pub(crate) fn remove_neighbor(index: u32, row: &Neighbor) -> Vec<Wish> {
    vec![rid(Message::DelNeighbour(neighbor(index, row)))]
}

fn neighbor(index: u32, row: &Neighbor) -> NeighbourMessage {
    let family = message::family(Family::of(row.address));
    let mut entry = entry(index, family, row.address.into(), row.mac);
    entry.header.state = NeighbourState::Permanent;
    entry.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    entry
}

fn entry(index: u32, family: AddressFamily, dst: NeighbourAddress, mac: Mac) -> NeighbourMessage {
    let mut entry = NeighbourMessage::default();
    entry.header.family = family;
    entry.header.ifindex = index;
    entry.attributes.push(NeighbourAttribute::Destination(dst));
    entry.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.bytes().to_vec()));
    entry
}

pub(crate) fn create_route(link: Option<u32>, row: &Route) -> Vec<Wish> {
    vec![want(Message::NewRoute(full_route(link, row)), CREATE)]
}

/// The metric of the route that stands in while one of IPv6 goes and comes: behind every other.
const STAND_IN: u32 = 8499;

/// Replaces in place what can be: for IPv6 the kernel would take the first route with that destination and metric,
/// whosever it is (net/ipv6/ip6_fib.c, `fib6_add_rt2node`), so there ours goes and comes in one send. No packet is
/// without a way meanwhile, as the new one stands behind it first with another metric.
pub(crate) fn change_route(old_link: Option<u32>, from: &Route, link: Option<u32>, to: &Route) -> Vec<Wish> {
    match to.dst.family() {
        Family::Ipv4 => vec![want(Message::NewRoute(full_route(link, to)), REPLACE)],
        Family::Ipv6 => {
            let stand_in = Route { metric: STAND_IN, ..to.clone() };
            // Where it cannot be made, the new one cannot be made either, or one stands there already.
            let before = create_route(link, &stand_in).into_iter().map(Wish::or_not);
            let change = remove_route(old_link, from).into_iter().chain(create_route(link, to));
            before.chain(change).chain(remove_route(link, &stand_in)).collect()
        }
    }
}

/// Names protocol, link and metric, so that no other route to that destination is taken for ours.
pub(crate) fn remove_route(link: Option<u32>, row: &Route) -> Vec<Wish> {
    let mut route = base_route(row);
    // Any scope (net/ipv4/fib_trie.c, `fib_table_delete`).
    route.header.scope = RouteScope::NoWhere;
    route.attributes.extend(link.map(RouteAttribute::Oif));
    if let RouteKind::Via { gateway, .. } = &row.kind {
        route.attributes.push(next_hop(row, *gateway));
    }
    vec![rid(Message::DelRoute(route))]
}

fn full_route(link: Option<u32>, row: &Route) -> RouteMessage {
    let mut route = base_route(row);
    route.attributes.extend(link.map(RouteAttribute::Oif));
    route.attributes.extend(row.source.map(|source| RouteAttribute::PrefSource(source.into())));
    match &row.kind {
        RouteKind::Link { .. } => route.header.scope = RouteScope::Link,
        RouteKind::Via { gateway, .. } => {
            route.header.flags = RouteFlags::Onlink;
            route.attributes.push(next_hop(row, *gateway));
        }
        RouteKind::Blackhole => {}
    }
    route.attributes.extend(row.mtu.map(|mtu| RouteAttribute::Metrics(metrics(row.dst.family(), mtu))));
    route
}

fn next_hop(row: &Route, gateway: IpAddr) -> RouteAttribute {
    match gateway {
        IpAddr::V6(v6) if row.dst.family() == Family::Ipv4 => RouteAttribute::Via(RouteVia::Inet6(v6)),
        _ => RouteAttribute::Gateway(gateway.into()),
    }
}

/// IPv4 goes by a route's MTU also when it forwards (`ip_dst_mtu_maybe_forward`, include/net/ip.h), IPv6 only by a locked
/// one (`ip6_dst_mtu_maybe_forward`, include/net/ip6_route.h). A locked one would let the node's own IPv4 packets be
/// fragmented.
fn metrics(family: Family, mtu: Mtu) -> Vec<RouteMetric> {
    /// RTAX_MTU (linux/rtnetlink.h): locks are a mask of such numbers.
    const RTAX_MTU: u32 = 2;
    let lock = match family {
        Family::Ipv4 => None,
        Family::Ipv6 => Some(RouteMetric::Lock(1 << RTAX_MTU)),
    };
    lock.into_iter().chain([RouteMetric::Mtu(mtu.into())]).collect()
}

fn base_route(row: &Route) -> RouteMessage {
    let mut route = message::route(&row.dst);
    route.header.protocol = RouteProtocol::Other(PROTOCOL);
    route.header.kind = match row.kind {
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Link { .. } | RouteKind::Via { .. } => RouteType::Unicast,
    };
    if row.metric != 0 {
        route.attributes.push(RouteAttribute::Priority(row.metric));
    }
    route
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_ipv6_is_not_spoken_to_of_it() {
        let link = Link {
            name: "tartan0".parse().unwrap(),
            kind: LinkKind::Bridge,
            mac: "02:00:5e:10:00:01".parse().unwrap(),
            mtu: Mtu::IPV6_MIN,
            up: true,
            master: None,
            translated: false,
            alias: "tartan".into(),
            peer: None,
        };
        for ipv6 in [true, false] {
            let wishes = format!("{:?}", create_link(&link, None, None, ipv6));
            assert_eq!(wishes.contains("AfSpec"), ipv6, "{wishes}");
        }
    }
}
