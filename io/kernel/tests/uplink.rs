//! The uplink, by each way to choose it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

mod common;

use std::collections::BTreeSet;

use common::*;
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tartan_kernel::{Kernel, Request, Rtnl};
use tartan_model::{Family, NoUplink, UplinkChoice};

struct Network {
    node: Scratch,
    _wire: Scratch,
    rtnl: Rtnl,
}

/// A node with two uplinks, without routes; it takes none from advertisements.
fn network() -> Network {
    let (node, wire) = (Scratch::new(), Scratch::new());
    let mut rtnl = node.rtnl();
    accept_ra(&node, "default", "0");
    for (name, peer, mtu) in [("up0", "w0", 1500), ("up1", "w1", 1400)] {
        rtnl.add_veth(&ifname(name), mtu.try_into().unwrap(), &ifname(peer), wire.fd()).unwrap();
        rtnl.set_up(&ifname(name)).unwrap();
        wire.rtnl().set_up(&ifname(peer)).unwrap();
    }
    for (name, address) in [
        ("up0", "192.0.2.1/24"),
        ("up0", "192.0.2.7/24"),
        ("up0", "2001:db8::1/64"),
        ("up1", "198.51.100.1/24"),
        ("up1", "2001:db8:1::9/64"),
        ("up1", "2001:db8:1::1/64"),
    ] {
        rtnl.add_address(&ifname(name), address.parse().unwrap()).unwrap();
    }
    Network { node, _wire: wire, rtnl }
}

fn accept_ra(node: &Scratch, link: &str, value: &str) {
    write(node, &format!("/proc/sys/net/ipv6/conf/{link}/accept_ra"), value);
}

fn write(node: &Scratch, path: &str, value: &str) {
    tartan_kernel::netns::run_in(node.fd(), || std::fs::write(path, value)).unwrap().unwrap();
}

#[test]
fn default_routes_of_another_namespace_are_seen_whoever_made_them() {
    let Network { node, _wire, mut rtnl } = network();
    assert_eq!(Kernel::default_routes(node.fd()).unwrap(), BTreeSet::new());
    default_route(&mut rtnl, AddressFamily::Inet6, "up0", 9, RouteProtocol::Static);
    assert_eq!(Kernel::default_routes(node.fd()).unwrap(), BTreeSet::from([Family::Ipv6]));
    default_route(&mut rtnl, AddressFamily::Inet, "up1", 7, RouteProtocol::Other(116));
    assert_eq!(Kernel::default_routes(node.fd()).unwrap(), BTreeSet::from(Family::ALL));
}

fn chosen(network: &Network, choice: &UplinkChoice) -> Option<(String, u32, Vec<String>, bool)> {
    let uplink = network.node.kernel().uplink(choice, None).unwrap().ok()?;
    let addresses = uplink.addresses.iter().map(ToString::to_string).collect();
    Some((uplink.name.to_string(), uplink.mtu.into(), addresses, uplink.accepts_routers))
}

/// Why none is as chosen.
fn why(network: &Network, choice: &str) -> NoUplink {
    network.node.kernel().uplink(&choice.parse().unwrap(), None).unwrap().unwrap_err()
}

fn some(
    name: &str,
    mtu: u32,
    addresses: [&str; 2],
    advertised: bool,
) -> Option<(String, u32, Vec<String>, bool)> {
    Some((name.into(), mtu, addresses.map(str::to_string).to_vec(), advertised))
}

fn default_route(rtnl: &mut Rtnl, family: AddressFamily, link: &str, metric: u32, protocol: RouteProtocol) {
    let mut route = RouteMessage::default();
    route.header.address_family = family;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = protocol;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.attributes.push(RouteAttribute::Oif(rtnl.index(&ifname(link)).unwrap()));
    route.attributes.push(RouteAttribute::Priority(metric));
    let request = Request::new(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE);
    assert_eq!(rtnl.request(vec![request]), [Ok(())]);
}

#[test]
fn of_the_default_route() {
    let mut network = network();
    let up0 = |advertised| some("up0", 1500, ["192.0.2.1/24", "2001:db8::1/64"], advertised);
    let up1 = |advertised| some("up1", 1400, ["198.51.100.1/24", "2001:db8:1::1/64"], advertised);
    assert_eq!(chosen(&network, &UplinkChoice::DefaultRoute), None);
    default_route(&mut network.rtnl, AddressFamily::Inet6, "up0", 1024, RouteProtocol::Static);
    assert_eq!(chosen(&network, &UplinkChoice::DefaultRoute), up0(false));
    default_route(&mut network.rtnl, AddressFamily::Inet6, "up1", 512, RouteProtocol::Ra);
    assert_eq!(chosen(&network, &UplinkChoice::DefaultRoute), up1(true));
    default_route(&mut network.rtnl, AddressFamily::Inet, "up0", 200, RouteProtocol::Dhcp);
    assert_eq!(chosen(&network, &UplinkChoice::DefaultRoute), up0(false));
    default_route(&mut network.rtnl, AddressFamily::Inet, "up1", 100, RouteProtocol::Dhcp);
    assert_eq!(chosen(&network, &UplinkChoice::DefaultRoute), up1(true));
}

#[test]
fn by_name_and_by_range() {
    let network = network();
    let up1 = some("up1", 1400, ["198.51.100.1/24", "2001:db8:1::1/64"], false);
    assert_eq!(chosen(&network, &UplinkChoice::Named(ifname("up1"))), up1);
    assert_eq!(chosen(&network, &UplinkChoice::Named(ifname("up7"))), None);
    for range in ["198.51.100.0/24", "198.51.0.0/16", "2001:db8:1::/48", "2001:db8:1::1/128"] {
        assert_eq!(chosen(&network, &UplinkChoice::Holding(range.parse().unwrap())), up1, "{range}");
    }
    let second = some("up0", 1500, ["192.0.2.7/24", "2001:db8::1/64"], false);
    assert_eq!(chosen(&network, &UplinkChoice::Holding("192.0.2.7/32".parse().unwrap())), second);
    assert_eq!(chosen(&network, &UplinkChoice::Holding("10.0.0.0/8".parse().unwrap())), None);
}

#[test]
fn only_the_address_that_is_named() {
    let network = network();
    let mut kernel = network.node.kernel();
    let mut chosen = |choice: &str, address: &str| {
        kernel.uplink(&choice.parse().unwrap(), Some(address.parse().unwrap())).unwrap()
    };
    // Also where another of its family would be the best.
    for (choice, address, expected) in [
        ("up0", "192.0.2.7", "192.0.2.7/24"),
        ("up*", "192.0.2.7", "192.0.2.7/24"),
        ("192.0.2.0/24", "192.0.2.7", "192.0.2.7/24"),
        ("can-reach=192.0.2.99", "192.0.2.7", "192.0.2.7/24"),
        ("up0", "2001:db8::1", "2001:db8::1/64"),
    ] {
        let addresses = chosen(choice, address).unwrap().addresses;
        assert_eq!(addresses, [expected.parse().unwrap()], "{choice} {address}");
    }
    let (link, address) = (ifname("up1"), "192.0.2.7".parse().unwrap());
    assert_eq!(chosen("up1", "192.0.2.7"), Err(NoUplink::OtherAddress { link, address }));
}

#[test]
fn never_a_link_of_ours() {
    let mut network = network();
    let mut kernel = network.node.kernel();
    done(&mut kernel, &[create(tartan_host::Row::Link(vxlan("tartan.1", 1, "192.0.2.1")))]);
    default_route(&mut network.rtnl, AddressFamily::Inet, "tartan.1", 1, RouteProtocol::Static);
    assert_eq!(chosen(&network, &UplinkChoice::DefaultRoute), None);
    assert_eq!(chosen(&network, &UplinkChoice::Named(ifname("tartan.1"))), None);
}

#[test]
fn like_a_pattern() {
    let mut network = network();
    let like = |pattern: &str| pattern.parse::<UplinkChoice>().unwrap();
    let up0 = some("up0", 1500, ["192.0.2.1/24", "2001:db8::1/64"], false);
    let up1 = some("up1", 1400, ["198.51.100.1/24", "2001:db8:1::1/64"], false);
    for pattern in ["up*", "*", "up?", "u[a-z][!1-9]", "up[0]", "*0"] {
        assert_eq!(chosen(&network, &like(pattern)), up0, "{pattern}");
    }
    assert_eq!(chosen(&network, &like("up[1-9]")), up1);
    network.rtnl.set_down(&ifname("up0")).unwrap();
    assert_eq!(chosen(&network, &like("up*")), up1, "one that is up");
    assert_eq!(
        why(&network, "en[op]*").to_string(),
        "no interface that is up and has an address is named like en[op]*; change the pattern: interface = …"
    );
}

#[test]
fn where_an_address_is_reached() {
    let mut network = network();
    let up0 = some("up0", 1500, ["192.0.2.1/24", "2001:db8::1/64"], false);
    let up1 = some("up1", 1400, ["198.51.100.1/24", "2001:db8:1::1/64"], false);
    for (address, expected) in
        [("192.0.2.99", &up0), ("198.51.100.99", &up1), ("2001:db8::99", &up0), ("2001:db8:1::99", &up1)]
    {
        let choice = UplinkChoice::Reaching(address.parse().unwrap());
        assert_eq!(chosen(&network, &choice), *expected, "{address}");
    }
    let far = "can-reach=203.0.113.9";
    assert_eq!(why(&network, far), NoUplink::Unreachable("203.0.113.9".parse().unwrap()));
    assert_eq!(why(&network, "can-reach=192.0.2.7"), NoUplink::Own("192.0.2.7".parse().unwrap()));
    // Whoever chose so is told when a route to there comes, and not of others.
    let mut kernel = network.node.kernel();
    assert!(kernel.uplink(&far.parse().unwrap(), None).unwrap().is_err());
    kernel.read(&[]).unwrap();
    network.rtnl.add_route(Some("203.0.114.0/24".parse().unwrap()), "198.51.100.7".parse().unwrap()).unwrap();
    assert!(!kernel.notices().underlay);
    network.rtnl.add_route(Some("203.0.113.0/24".parse().unwrap()), "198.51.100.7".parse().unwrap()).unwrap();
    assert!(kernel.notices().underlay);
    assert_eq!(kernel.uplink(&far.parse().unwrap(), None).unwrap().unwrap().name, ifname("up1"));
}

#[test]
fn what_was_not_found_is_named() {
    let mut network = network();
    assert_eq!(why(&network, "nope"), NoUplink::Absent(ifname("nope")));
    assert_eq!(why(&network, "tartan.1"), NoUplink::Ours(ifname("tartan.1")));
    assert_eq!(why(&network, "lo"), NoUplink::NoAddress(ifname("lo")));
    assert_eq!(why(&network, "10.0.0.0/8"), NoUplink::NotIn("10.0.0.0/8".parse().unwrap()));
    network.rtnl.set_down(&ifname("up1")).unwrap();
    assert_eq!(why(&network, "up1"), NoUplink::Down(ifname("up1")));
}

/// A node that forwarded before us, and so took none, goes on taking none; one that forwards for us takes them as before.
#[test]
fn advertisements_are_taken_where_they_were() {
    let network = network();
    let takes = || chosen(&network, &UplinkChoice::Named(ifname("up0"))).unwrap().3;
    assert!(!takes());
    accept_ra(&network.node, "up0", "1");
    assert!(takes());
    write(&network.node, "/proc/sys/net/ipv6/conf/all/forwarding", "1");
    assert!(!takes());
    accept_ra(&network.node, "up0", "2");
    assert!(takes());
}
