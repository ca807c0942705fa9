//! What the kernel's refusals become, and that what is not ours is left alone.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

mod common;

use common::*;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use tartan_host::{Link, NetnsToken, Route, Row, Scope, Step, StepError, Sysctl, SysctlKey};
use tartan_kernel::{Request, Rtnl};
use tartan_model::{Family, IfName};

fn answer(scratch: &Scratch, before: &[Step], step: Step) -> Result<(), StepError> {
    let mut kernel = scratch.kernel();
    done(&mut kernel, before);
    kernel.apply(&[step]).pop().unwrap()
}

#[test]
fn exists() {
    let device = create(Row::Link(vxlan("tartan.1", 1, "192.0.2.1")));
    let bridge = create(Row::Link(bridge("tartan0")));
    let route = create(Row::Route(onto("10.9.0.0/24", "tartan0")));
    let route6 = create(Row::Route(onto("fd09::/64", "tartan0")));
    let like = create(Row::Link(vxlan("tartan.2", 1, "192.0.2.2")));
    for (before, step) in [
        (vec![bridge.clone()], bridge.clone()),
        (vec![bridge.clone(), route.clone()], route),
        (vec![bridge, route6.clone()], route6),
        (vec![device.clone()], device.clone()),
    ] {
        assert_eq!(answer(&Scratch::new(), &before, step.clone()), Err(StepError::Exists), "{step}");
    }
    assert_eq!(answer(&Scratch::new(), &[device], like), Err(StepError::SameTunnel));
}

#[test]
fn no_link() {
    let bridge = create(Row::Link(bridge("tartan0")));
    let port = Link { master: Some(ifname("tartan0")), ..vxlan("tartan.1", 1, "192.0.2.1") };
    let no_bridge = Link { master: Some(ifname("tartan.2")), ..port.clone() };
    let ra = Sysctl { key: SysctlKey::AcceptRa(ifname("tartan0")), value: 2 };
    let other = create(Row::Link(vxlan("tartan.2", 2, "192.0.2.1")));
    let mut steps = vec![
        (vec![], create(Row::Link(port))),
        (vec![other], create(Row::Link(no_bridge.clone()))),
        (vec![], create(Row::Sysctl(ra))),
        (vec![], create(address("tartan0", "10.1.0.1/32", Scope::Global))),
        (vec![], create(neighbor("tartan0", "10.1.0.1", "02:00:00:00:00:02"))),
        (vec![], create(fdb("tartan0", "02:00:00:00:00:02", "192.0.2.2"))),
    ];
    for dst in ["10.9.0.0/24", "fd09::/64"] {
        steps.push((vec![], create(Row::Route(onto(dst, "tartan0")))));
        steps.push((vec![bridge.clone()], create(Row::Route(onto(dst, "tartan1")))));
    }
    for (before, step) in steps {
        let scratch = Scratch::new();
        assert_eq!(answer(&scratch, &before, step.clone()), Err(StepError::NoLink), "{step}");
        assert_eq!(rows(&mut scratch.kernel()).len(), before.len(), "{step} left something");
    }
}

#[test]
fn not_ready() {
    let down = create(Row::Link(Link { up: false, ..bridge("tartan0") }));
    let up = create(Row::Link(bridge("tartan0")));
    for (dst, source, own) in [("10.9.0.0/24", "10.1.0.1", "10.1.0.2"), ("fd09::/64", "fd01::1", "fd01::2")] {
        let route = onto(dst, "tartan0");
        let step = create(Row::Route(route.clone()));
        assert_eq!(answer(&Scratch::new(), std::slice::from_ref(&down), step), Err(StepError::NotReady));
        let step = create(Row::Route(Route { source: Some(source.parse().unwrap()), ..route }));
        assert_eq!(answer(&Scratch::new(), std::slice::from_ref(&up), step), Err(StepError::NotReady));
        let bits = if source.contains(':') { 128 } else { 32 };
        let own_address = create(address("tartan0", &format!("{own}/{bits}"), Scope::Global));
        let step = create(Row::Route(via(dst, own, "tartan0")));
        assert_eq!(answer(&Scratch::new(), &[up.clone(), own_address], step), Err(StepError::NotReady));
    }
}

#[test]
fn gone_and_no_namespace() {
    let from = bridge("tartan0");
    let step = change(&Row::Link(from.clone()), &Row::Link(Link { up: false, ..from }));
    assert_eq!(answer(&Scratch::new(), &[], step), Err(StepError::Gone));
    let unknown = veth("tt0123456789ab", NetnsToken(7), "eth0");
    let no_peer = Link { peer: None, ..unknown.clone() };
    for link in [unknown, no_peer] {
        assert_eq!(answer(&Scratch::new(), &[], create(Row::Link(link))), Err(StepError::NoNamespace));
    }
}

#[test]
fn any_other_refusal_has_the_kernels_words() {
    let device = create(Row::Link(vxlan("tartan.1", 1, "192.0.2.1")));
    let other_family = create(fdb("tartan.1", "02:00:00:00:00:02", "2001:db8::2"));
    let Err(StepError::Kernel { errno, text }) = answer(&Scratch::new(), &[device], other_family) else {
        panic!("taken")
    };
    assert_eq!((errno, text.as_str()), (libc::EAFNOSUPPORT, "Address family not supported by protocol"));
    let inner = create(Row::Link(Link { master: Some(ifname("tartan0")), ..bridge("tartan1") }));
    let Err(StepError::Kernel { errno, text }) =
        answer(&Scratch::new(), &[create(Row::Link(bridge("tartan0")))], inner)
    else {
        panic!("taken")
    };
    assert_eq!((errno, text.as_str()), (libc::ELOOP, "Can not enslave a bridge to a bridge"));
}

#[test]
fn one_failure_stops_nothing_behind_it() {
    let scratch = Scratch::new();
    let mut kernel = scratch.kernel();
    let mut steps = vec![create(Row::Link(bridge("tartan0")))];
    for number in 0..300 {
        steps.push(create(Row::Route(blackhole(&format!("10.{}.{}.0/24", number / 250, number % 250)))));
        steps.push(create(Row::Route(onto("10.200.0.0/24", "tartan7"))));
    }
    let answers = kernel.apply(&steps);
    assert_eq!(answers.len(), steps.len());
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 301);
    assert_eq!(answers.iter().filter(|answer| **answer == Err(StepError::NoLink)).count(), 300);
    assert_eq!(rows(&mut kernel).len(), 301);
}

#[test]
fn foreign_links_are_not_ours() {
    let (node, other) = (Scratch::new(), Scratch::new());
    let mut rtnl = node.rtnl();
    let mtu = 1500.try_into().unwrap();
    rtnl.add_veth(&ifname("tt0123456789ab"), mtu, &ifname("a"), other.fd()).unwrap();
    rtnl.add_veth(&ifname("eth0"), mtu, &ifname("b"), other.fd()).unwrap();
    set_alias(&mut rtnl, &ifname("eth0"), "tartan");
    let mut kernel = node.kernel();
    let host = kernel.read(&[]).unwrap();
    assert!(host.rows.is_empty(), "{:?}", host.rows);
    assert_eq!(host.foreign.len(), 3);
    for name in ["tt0123456789ab", "eth0"] {
        let link = Row::Link(Link { peer: None, ..veth(name, NetnsToken(1), "x") });
        done(&mut kernel, &[remove(link)]);
    }
    assert_eq!(kernel.read(&[]).unwrap(), host);
}

#[test]
fn foreign_routes_are_not_ours() {
    for dst in ["10.9.0.0/24", "fd09::/64"] {
        let node = Scratch::new();
        let mut kernel = node.kernel();
        done(&mut kernel, &[create(Row::Link(bridge("tartan0")))]);
        let ours = onto(dst, "tartan0");
        add_foreign(&mut node.rtnl(), &ours, 0);
        let before = rows(&mut kernel);
        assert_eq!(before.len(), 1, "only the link");
        done(&mut kernel, &[remove(Row::Route(ours.clone()))]);
        assert_eq!(count_routes(&mut node.rtnl(), &ours), 1, "the foreign route stays");
        assert_eq!(kernel.apply(&[create(Row::Route(ours.clone()))]), [Err(StepError::Exists)]);
    }
}

/// In IPv6, routes of several protocols stand side by side.
#[test]
fn a_changed_route_is_never_a_foreign_one() {
    let node = Scratch::new();
    let mut kernel = node.kernel();
    let from = onto("fd09::/64", "tartan0");
    done(&mut kernel, &[create(Row::Link(bridge("tartan0"))), create(Row::Link(bridge("tartan1")))]);
    done(&mut kernel, &[create(Row::Route(from.clone()))]);
    add_foreign(&mut node.rtnl(), &onto("fd09::/64", "tartan1"), NLM_F_APPEND);
    let to = Row::Route(via("fd09::/64", "fd01::1", "tartan0"));
    assert_eq!(kernel.apply(&[change(&Row::Route(from.clone()), &to)]), [Err(StepError::Exists)]);
    done(&mut kernel, &[remove(to)]);
    assert_eq!(count_routes(&mut node.rtnl(), &from), 1);
    assert!(kernel.read_routes().unwrap().is_empty());
}

fn set_alias(rtnl: &mut Rtnl, name: &IfName, alias: &str) {
    let mut message = LinkMessage::default();
    message.header.index = rtnl.index(name).unwrap();
    message.attributes.push(LinkAttribute::IfAlias(alias.into()));
    send(rtnl, RouteNetlinkMessage::SetLink(message), 0);
}

fn add_foreign(rtnl: &mut Rtnl, like: &Route, flags: u16) {
    let mut message = route_message(like);
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Link;
    message.header.kind = RouteType::Unicast;
    message.header.destination_prefix_length = like.dst.length();
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(like.dst.first())));
    message.attributes.push(RouteAttribute::Oif(rtnl.index(like.link().unwrap()).unwrap()));
    send(rtnl, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | flags);
}

fn count_routes(rtnl: &mut Rtnl, like: &Route) -> usize {
    let message = RouteNetlinkMessage::GetRoute(route_message(like));
    let dst = RouteAttribute::Destination(RouteAddress::from(like.dst.first()));
    let dump = rtnl.dump(&message).unwrap();
    dump.messages()
        .filter(
            |message| matches!(message.parse(), Ok(RouteNetlinkMessage::NewRoute(route)) if route.attributes.contains(&dst)),
        )
        .count()
}

fn route_message(like: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = match like.dst.family() {
        Family::Ipv4 => netlink_packet_route::AddressFamily::Inet,
        Family::Ipv6 => netlink_packet_route::AddressFamily::Inet6,
    };
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message
}

fn send(rtnl: &mut Rtnl, message: RouteNetlinkMessage, flags: u16) {
    assert_eq!(rtnl.request(vec![Request::new(message, flags)]), [Ok(())]);
}
