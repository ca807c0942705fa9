//! Lowering: choices written down as rows of the kernel's tables.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tartan_fabric::vxlan_device;
use tartan_host::Scope as AddressScope;
use tartan_host::nftables::TableFamily;
use tartan_host::{
    Address, Element, Fdb, Link, LinkKind, Member, Neighbor, NetnsToken, Parts, Peer, Protocol, Route,
    RouteKind, Row, Rows, Ruleset, Sysctl, SysctlKey,
};
use tartan_model::{Attachment, Cidr, Endpoint, Family, IfName, InterfaceAddress, Mac, Mtu, Path};

use crate::{Choice, EndpointChoice, NetworkChoice, NodeChoice, PeerChoice, Reach, WayOut};

/// The gateway of every routed pod for IPv4: an address of the host's end (link-local, RFC 3927).
pub const GATEWAY_IPV4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The gateway of every routed pod for IPv6: an address of the host's end.
pub const GATEWAY_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// The metric of the routes that catch a block's unused addresses: behind every route to a pod.
const CATCH_METRIC: u32 = 8400;

/// Of `rp_filter`: a source must be reached at all, by whichever link.
const LOOSE: u32 = 2;

/// The ports that agents talk to each other by: no pod reaches them on a node.
const CONTROL: [(Protocol, u16); 3] = [(Protocol::Udp, 8473), (Protocol::Tcp, 8474), (Protocol::Udp, 8474)];

/// The tables that pods' packets pass: those of bridged pods the first, those of routed pods the second.
const POD_TABLES: [TableFamily; 2] = [TableFamily::Bridge, TableFamily::Inet];

/// The rows of a choice. `netns` is where the pod's end of an interface goes that is still to be made.
pub fn lower(choice: &Choice, netns: Option<NetnsToken>) -> Vec<Row> {
    match choice {
        Choice::Node(node) => lower_node(node),
        Choice::Network(network) => lower_network(network),
        Choice::Peer(peer) => lower_peer(peer),
        Choice::Endpoint(endpoint) => lower_endpoint(endpoint, netns),
        Choice::Guard(endpoint, judged) => {
            lower_guard(endpoint).into_iter().chain(judged.iter().cloned().map(Row::Policy)).collect()
        }
        Choice::Policy(row) => vec![Row::Policy(row.clone())],
    }
}

/// The rows inside a pod's namespace.
pub fn inside(choice: &EndpointChoice) -> Rows {
    let endpoint = &choice.endpoint;
    let link = endpoint.key.interface.clone();
    let end = Link {
        name: link.clone(),
        kind: LinkKind::Veth,
        mac: endpoint.mac,
        mtu: choice.mtu,
        up: true,
        master: None,
        translated: false,
        alias: Box::default(),
        peer: None,
    };
    let mut rows = Rows::from_iter([Row::Link(end)]);
    for (address, block) in endpoint.addresses.iter().zip(&endpoint.blocks) {
        rows.extend(inside_address(endpoint, &link, *address, block));
    }
    rows
}

/// The next hop of a pod's default route.
pub fn gateway(attachment: Attachment, block: &Cidr) -> IpAddr {
    match (attachment, block.family()) {
        (Attachment::Bridge, _) => tartan_ipam::gateway(block),
        (Attachment::Routed, Family::Ipv4) => GATEWAY_IPV4,
        (Attachment::Routed, Family::Ipv6) => GATEWAY_IPV6,
    }
}

/// The address as the pod's interface carries it.
pub(crate) fn pod_address(attachment: Attachment, address: IpAddr, block: &Cidr) -> InterfaceAddress {
    match attachment {
        Attachment::Routed => InterfaceAddress::host(address),
        Attachment::Bridge => {
            InterfaceAddress::new(address, block.length()).unwrap_or_else(|| InterfaceAddress::host(address))
        }
    }
}

fn inside_address(endpoint: &Endpoint, link: &IfName, address: IpAddr, block: &Cidr) -> Vec<Row> {
    let gateway = gateway(endpoint.attachment, block);
    let address = pod_address(endpoint.attachment, address, block);
    let mut rows = vec![Row::Address(Address { link: link.clone(), address, scope: AddressScope::Global })];
    rows.extend(routes_of(endpoint, block.family()).map(|dst| Row::Route(via(dst, gateway, link, None))));
    if endpoint.attachment == Attachment::Routed {
        // The host's end is known: no packet waits for its first resolution.
        rows.push(Row::Neighbor(Neighbor {
            link: link.clone(),
            address: gateway,
            mac: host_mac(endpoint.mac),
        }));
    }
    rows
}

/// What a pod reaches through an interface, of one family.
pub(crate) fn routes_of(endpoint: &Endpoint, family: Family) -> impl Iterator<Item = Cidr> {
    endpoint.routes.iter().copied().filter(move |dst| dst.family() == family)
}

fn lower_node(node: &NodeChoice) -> Vec<Row> {
    let forward = node.forward.iter().map(|family| match family {
        Family::Ipv4 => SysctlKey::Ipv4Forward,
        Family::Ipv6 => SysctlKey::Ipv6Forward,
    });
    let accept =
        node.accept_ra.iter().map(|link| Sysctl { key: SysctlKey::AcceptRa(link.clone()), value: 2 });
    let from = node.forward_from.iter().cloned().map(SysctlKey::UplinkForward);
    let loose = node.loosen.iter().cloned().map(SysctlKey::UplinkReverse);
    let loopback =
        node.opens_loopback.then_some(Sysctl { key: SysctlKey::NoIpv6(IfName::LOOPBACK), value: 0 });
    let by_link = accept.chain(loose.map(|key| Sysctl { key, value: LOOSE })).chain(loopback);
    let sysctls = by_link.chain(forward.chain(from).map(|key| Sysctl { key, value: 1 })).map(Row::Sysctl);
    let mut rows = lower_way_out(node.way_out.as_ref(), node.judges_frames);
    for table in POD_TABLES {
        rows.extend(node.addresses.iter().map(|address| element(table, Member::Node(*address))));
        let tunnels = node.tunnels.iter().map(|port| Member::Tunnel(Protocol::Udp, *port));
        let control = CONTROL.map(|(protocol, port)| Member::Control(protocol, port));
        rows.extend(tunnels.chain(control).map(|member| element(table, member)));
    }
    rows.extend(sysctls);
    rows
}

/// As long as the way out is not known, that which the kernel has stays.
fn lower_way_out(way_out: Option<&WayOut>, judged: bool) -> Vec<Row> {
    let parts = way_out.map(|out| Parts {
        masquerade: !out.masquerade.is_empty(),
        apart: !out.across.is_empty(),
        judged,
    });
    let mut rows = vec![Row::Ruleset(Ruleset { intact: true, parts })];
    let all = |pairs: &[(Cidr, Cidr)], member: fn(Cidr, Cidr) -> Member| {
        let members = pairs.iter().map(|(from, to)| member(*from, *to));
        members.map(|member| element(TableFamily::Inet, member)).collect::<Vec<_>>()
    };
    if let Some(out) = way_out {
        rows.extend(all(&out.masquerade, Member::Masquerade));
        rows.extend(all(&out.kept, Member::Kept));
        rows.extend(all(&out.across, Member::Across));
    }
    rows
}

fn element(table: TableFamily, member: Member) -> Row {
    Row::Element(Element { table, member })
}

fn lower_network(network: &NetworkChoice) -> Vec<Row> {
    let families: BTreeSet<Family> = network.blocks.iter().map(Cidr::family).collect();
    let devices = network.locals.iter().map(|local| vxlan(network, *local));
    let mut rows: Vec<Row> = Vec::new();
    for device in devices {
        let loose = Some(SysctlKey::LinkReverse(device.name.clone())).filter(|_| network.loose);
        rows.extend(loose.map(|key| Row::Sysctl(Sysctl { key, value: LOOSE })));
        rows.extend(carries(device, &families));
    }
    // One link holds the node's addresses; routes by others name them as their source.
    let own = |holder| network.blocks.iter().map(move |block| own_address(holder, block));
    rows.extend(network.holder.iter().flat_map(own));
    if network.closed && !network.locals.is_empty() {
        rows.push(element(TableFamily::Inet, Member::Vxlan(network.port, network.vni)));
    }
    rows.extend(network.blocks.iter().map(|block| Row::Route(catch(*block))));
    if let Some(bridge) = &network.bridge {
        let alias = format!("tartan network {}", network.network);
        let bridge_link = link(&bridge.name, LinkKind::Bridge, bridge.mac, network.mtu, alias);
        rows.extend(carries(bridge_link, &families));
    }
    if let Some(bridge) = network.bridge.as_ref().filter(|bridge| bridge.pods) {
        rows.extend(network.blocks.iter().flat_map(|block| onto_bridge(&bridge.name, block)));
        if network.blocks.iter().any(|block| block.family() == Family::Ipv6) {
            // Without a link-local address the kernel solicits no neighbor for packets that it forwards
            // (net/ipv6/ndisc.c, ndisc_send_ns).
            rows.push(link_local(&bridge.name, GATEWAY_IPV6, 64));
        }
    }
    rows
}

/// What the node sends by an interface without an address of its own would come from an IPv4 address of the loopback interface
/// that is valid everywhere (net/ipv4/devinet.c, `inet_select_addr`).
fn own_address(holder: &IfName, block: &Cidr) -> Row {
    let address = InterfaceAddress::host(tartan_ipam::own_address(block));
    let scope = match block.family() {
        Family::Ipv4 if *holder == IfName::LOOPBACK => AddressScope::Link,
        _ => AddressScope::Global,
    };
    Row::Address(Address { link: holder.clone(), address, scope })
}

/// A link and the settings without which it forwards nothing of these families: it has them from the defaults of its
/// namespace, which are not ours.
fn carries(link: Link, families: &BTreeSet<Family>) -> Vec<Row> {
    let settings = families.iter().map(|family| match family {
        Family::Ipv4 => Sysctl { key: SysctlKey::LinkForward(link.name.clone()), value: 1 },
        Family::Ipv6 => Sysctl { key: SysctlKey::NoIpv6(link.name.clone()), value: 0 },
    });
    let mut rows: Vec<Row> = settings.map(Row::Sysctl).collect();
    rows.push(Row::Link(link));
    rows
}

fn vxlan(network: &NetworkChoice, local: IpAddr) -> Link {
    let kind = LinkKind::Vxlan { vni: network.vni, local, port: network.port };
    let alias = format!("tartan network {}", network.network);
    link(&vxlan_device(network.vni, Family::of(local)), kind, network.mac, network.mtu, alias)
}

fn link(name: &IfName, kind: LinkKind, mac: Mac, mtu: Mtu, alias: String) -> Link {
    let translated = kind == LinkKind::Bridge;
    let (name, alias) = (name.clone(), alias.into());
    Link { name, kind, mac, mtu, up: true, master: None, translated, alias, peer: None }
}

/// The gateway of a block, and the way to the block's pods. The route that the kernel makes for an address with a
/// network would be nobody's: when it is deleted, only taking the address away and giving it again brings it back.
fn onto_bridge(bridge: &IfName, block: &Cidr) -> [Row; 2] {
    let gateway = tartan_ipam::gateway(block);
    let address = InterfaceAddress::host(gateway);
    let route = Route {
        dst: *block,
        metric: Route::usual_metric(block.family()),
        kind: RouteKind::Link { link: bridge.clone() },
        source: Some(gateway),
        mtu: None,
    };
    [Row::Address(Address { link: bridge.clone(), address, scope: AddressScope::Global }), Row::Route(route)]
}

fn link_local(link: &IfName, address: IpAddr, length: u8) -> Row {
    let address = InterfaceAddress::new(address, length).unwrap_or_else(|| InterfaceAddress::host(address));
    Row::Address(Address { link: link.clone(), address, scope: AddressScope::Link })
}

/// Packets to an own block's unused addresses end here instead of following the default route out and back.
fn catch(block: Cidr) -> Route {
    Route { dst: block, metric: CATCH_METRIC, kind: RouteKind::Blackhole, source: None, mtu: None }
}

fn lower_peer(peer: &PeerChoice) -> Vec<Row> {
    let nodes = peer.addresses.iter().map(|address| Member::Node(*address));
    let nodes = nodes.flat_map(|member| POD_TABLES.map(|table| element(table, member.clone())));
    nodes.chain(peer.reach.iter().flat_map(|reach| lower_reach(reach, Mac::of_node(&peer.id)))).collect()
}

fn lower_reach(reach: &Reach, mac: Mac) -> Vec<Row> {
    match reach.reached.path {
        Path::Direct => {
            let by_uplink = |(block, source): &(Cidr, Option<IpAddr>)| {
                let route = via(*block, reach.reached.underlay.remote, &reach.uplink, *source);
                Row::Route(Route { mtu: reach.mtu, ..route })
            };
            reach.blocks.iter().map(by_uplink).collect()
        }
        Path::Vxlan => lower_tunnel(reach, mac),
    }
}

fn lower_tunnel(reach: &Reach, mac: Mac) -> Vec<Row> {
    let underlay = reach.reached.underlay;
    let device = vxlan_device(reach.vni, underlay.family);
    let mut rows = vec![Row::Fdb(Fdb { link: device.clone(), mac, dst: underlay.remote })];
    for (block, source) in &reach.blocks {
        let next_hop = next_hop(block, mac);
        rows.push(Row::Neighbor(Neighbor { link: device.clone(), address: next_hop, mac }));
        rows.push(Row::Route(Route { mtu: reach.mtu, ..via(*block, next_hop, &device, *source) }));
    }
    rows
}

/// The address by which routes name a peer on the overlay. For IPv6 it is link-local (RFC 4291, appendix A): the kernel
/// refuses any other to which some foreign route leads by another link, also onlink (net/ipv6/route.c,
/// ip6_route_check_nh).
fn next_hop(block: &Cidr, mac: Mac) -> IpAddr {
    match block.family() {
        Family::Ipv4 => tartan_ipam::own_address(block),
        Family::Ipv6 => link_local_of(mac),
    }
}

/// The link-local address that a host makes of its MAC address (RFC 4291, appendix A).
fn link_local_of(mac: Mac) -> IpAddr {
    let [a, b, c, d, e, f] = mac.bytes();
    let interface = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    IpAddr::V6((0xfe80_u128 << 112 | u128::from(interface)).into())
}

fn via(dst: Cidr, gateway: IpAddr, link: &IfName, source: Option<IpAddr>) -> Route {
    let kind = RouteKind::Via { gateway, link: link.clone() };
    Route { dst, metric: Route::usual_metric(dst.family()), kind, source, mtu: None }
}

fn lower_endpoint(choice: &EndpointChoice, netns: Option<NetnsToken>) -> Vec<Row> {
    let endpoint = &choice.endpoint;
    let peer = netns.map(|netns| Peer { netns, name: endpoint.key.interface.clone(), mac: endpoint.mac });
    let end = Link {
        name: endpoint.link.clone(),
        kind: LinkKind::Veth,
        mac: host_mac(endpoint.mac),
        mtu: choice.mtu,
        up: choice.open,
        master: choice.bridge.clone().filter(|_| choice.open),
        translated: choice.bridge.is_some() && choice.open,
        alias: alias(&format!("tartan pod {}", endpoint.pod)).into(),
        peer: peer.map(Box::new),
    };
    let mut guard = if choice.open { lower_guard(endpoint) } else { Vec::new() };
    guard.extend(choice.judged.iter().cloned().map(Row::Policy));
    if !choice.open || endpoint.attachment == Attachment::Bridge {
        return [vec![Row::Link(end)], guard].concat();
    }
    let mut rows = carries(end, &endpoint.addresses.iter().copied().map(Family::of).collect());
    rows.extend(guard);
    rows.extend(endpoint.addresses.iter().flat_map(|address| lower_routed(choice, *address)));
    rows
}

/// What a pod may send. Beside the addresses given to it that is the link-local one that its own kernel makes.
fn lower_guard(endpoint: &Endpoint) -> Vec<Row> {
    let Endpoint { link, mac, .. } = endpoint;
    let tables: &[TableFamily] = match endpoint.attachment {
        Attachment::Bridge => &[TableFamily::Bridge],
        Attachment::Routed => &[TableFamily::Inet, TableFamily::Arp],
    };
    let addresses = || endpoint.addresses.iter().copied().chain([link_local_of(*mac)]);
    let of_table = |table: &TableFamily| {
        let table = *table;
        let fitting = addresses().filter(move |address| table != TableFamily::Arp || address.is_ipv4());
        let sources = fitting.map(|address| Member::Source(link.clone(), *mac, address));
        // ARP is judged by what it says, not by its frame.
        let frames = (table != TableFamily::Arp).then(|| Member::Mac(link.clone(), *mac));
        frames.into_iter().chain(sources).map(move |member| element(table, member))
    };
    // Frames for one may go back by the port that they came by, those for many must not.
    let port = tables.contains(&TableFamily::Bridge).then(|| Member::Port(link.clone()));
    let port = port.map(|member| element(TableFamily::Bridge, member));
    tables.iter().flat_map(of_table).chain(port).collect()
}

/// The kernel takes 255 bytes (IFALIASZ), the one that ends the text among them; names are ASCII.
fn alias(text: &str) -> String {
    text.chars().take(254).collect()
}

fn lower_routed(choice: &EndpointChoice, address: IpAddr) -> [Row; 3] {
    let family = Family::of(address);
    let link = &choice.endpoint.link;
    let gateway = match family {
        Family::Ipv4 => link_local(link, GATEWAY_IPV4, 32),
        Family::Ipv6 => link_local(link, GATEWAY_IPV6, 64),
    };
    let route = Route {
        dst: Cidr::host(address),
        metric: Route::usual_metric(family),
        kind: RouteKind::Link { link: link.clone() },
        source: choice.sources.iter().copied().find(|source| Family::of(*source) == family),
        mtu: None,
    };
    [
        gateway,
        Row::Neighbor(Neighbor { link: link.clone(), address, mac: choice.endpoint.mac }),
        Row::Route(route),
    ]
}

/// The MAC address of the host's end: the pod's with its last bit turned.
pub(crate) fn host_mac(pod: Mac) -> Mac {
    let [a, b, c, d, e, f] = pod.bytes();
    Mac::from_bytes([a, b, c, d, e, f ^ 1])
}
