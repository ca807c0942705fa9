//! Every kind of row: made, read back, changed, taken away.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

mod common;

use common::*;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tartan_host::{Host, Link, Route, Row, Scope, Step, StepError, Sysctl, SysctlKey};
use tartan_kernel::{Kernel, Marks, Request, Rtnl, netns};
use tartan_model::{InterfaceAddress, NoUplink, UplinkChoice};

/// Makes the rows, reads them back, and reads nothing after they are taken away again; twice, so that both are also
/// tried where there is nothing to do. What was learned from notices is the same each time.
fn there_and_back(kernel: &mut Kernel, made: &[Row]) {
    let mut heard = kernel.read(&[]).unwrap();
    let before = heard.rows.clone();
    let create: Vec<Step> = made.iter().cloned().map(create).collect();
    done(kernel, &create);
    let mut expected = before.clone();
    expected.extend(made.iter().map(seen));
    follow(kernel, &mut heard);
    assert_eq!(heard.rows, expected, "as heard");
    let read = kernel.read(&[]).unwrap();
    assert_eq!(read.rows, expected, "as read");
    assert_eq!(heard, read);
    let remove: Vec<Step> = made.iter().rev().cloned().map(remove).collect();
    for round in ["removed", "removed again"] {
        done(kernel, &remove);
        follow(kernel, &mut heard);
        assert_eq!(heard.rows, before, "{round}, as heard");
        assert_eq!(kernel.read(&[]).unwrap().rows, before, "{round}, as read");
    }
}

#[test]
fn links() {
    let (node, pod) = (Scratch::new(), Scratch::new());
    let mut kernel = node.kernel();
    let token = kernel.adopt(pod.clone_fd());
    let port =
        Link { master: Some(ifname("tartan0")), translated: true, ..veth("tt0123456789ab", token, "eth0") };
    let made = [
        Row::Link(Link { mtu: 1500.try_into().unwrap(), ..bridge("tartan0") }),
        Row::Link(vxlan("tartan.1", 1, "192.0.2.1")),
        Row::Link(vxlan("tart6.1", 1, "2001:db8::1")),
        Row::Link(port),
        Row::Link(Link { up: false, translated: true, ..bridge("tartan1") }),
    ];
    there_and_back(&mut kernel, &made);
}

#[test]
fn what_stands_on_links() {
    let node = Scratch::new();
    let mut kernel = node.kernel();
    let devices = [vxlan("tartan.1", 1, "192.0.2.1"), vxlan("tart6.1", 1, "2001:db8::1")];
    done(&mut kernel, &devices.map(|device| create(Row::Link(device))));
    let made = [
        address("tartan.1", "10.244.0.0/32", Scope::Global),
        address("tartan.1", "169.254.1.1/32", Scope::Link),
        address("tartan.1", "fd00:10:244::/128", Scope::Global),
        address("tartan.1", "fe80::1/64", Scope::Link),
        fdb("tartan.1", "02:00:00:00:00:02", "192.0.2.2"),
        fdb("tart6.1", "02:00:00:00:00:02", "2001:db8::2"),
        neighbor("tartan.1", "10.244.1.0", "02:00:00:00:00:02"),
        neighbor("tartan.1", "fd00:10:244:1::", "02:00:00:00:00:02"),
        Row::Route(Route {
            source: Some("10.244.0.0".parse().unwrap()),
            ..via("10.244.1.0/24", "10.244.1.0", "tartan.1")
        }),
        Row::Route(via("fd00:10:244:1::/64", "fd00:10:244:1::", "tartan.1")),
        Row::Route(Route {
            source: Some("fd00:10:244::".parse().unwrap()),
            ..onto("fd00:10:244:2::/64", "tartan.1")
        }),
        Row::Route(onto("10.244.0.7/32", "tartan.1")),
        Row::Route(Route { metric: 50, ..onto("10.244.0.7/32", "tartan.1") }),
        Row::Route(Route { metric: 50, ..onto("fd00:10:244:2::/64", "tartan.1") }),
        Row::Route(blackhole("10.244.0.0/24")),
        Row::Route(blackhole("fd00:10:244::/64")),
    ];
    there_and_back(&mut kernel, &made);
}

/// Told by its mark: others have theirs there.
#[test]
fn an_address_on_the_loopback_interface() {
    let node = Scratch::new();
    let mut kernel = node.kernel();
    assert!(tartan_kernel::keeps_marks_of_addresses());
    on(&node, &["ip", "address", "add", "10.9.9.9/32", "dev", "lo"]);
    on(&node, &["ip", "-6", "address", "add", "fd09::9/128", "dev", "lo"]);
    let made =
        [address("lo", "10.244.0.0/32", Scope::Link), address("lo", "fd00:10:244::/128", Scope::Global)];
    there_and_back(&mut kernel, &made);

    let mut heard = kernel.read(&[]).unwrap();
    let create = made.clone().map(create);
    done(&mut kernel, &create);
    follow(&mut kernel, &mut heard);
    assert_eq!(heard.rows.len(), 2);
    // No link has an address in that range that others could send to.
    let uplink = kernel.uplink(&UplinkChoice::Holding("10.244.0.0/16".parse().unwrap()), None).unwrap();
    assert!(!matches!(uplink, Ok(_) | Err(NoUplink::Unseen)), "{uplink:?}");
    // In somebody else's hands it is none of ours, and is not taken from there.
    for own in ["10.244.0.0/32", "fd00:10:244::/128"] {
        on(&node, &["ip", "address", "del", own, "dev", "lo"]);
        on(&node, &["ip", "address", "add", own, "dev", "lo"]);
    }
    follow(&mut kernel, &mut heard);
    assert_eq!(heard, kernel.read(&[]).unwrap());
    assert!(heard.rows.is_empty(), "{:?}", heard.rows);
    assert_eq!(kernel.apply(&create), [Err(StepError::Exists), Err(StepError::Exists)]);
    follow(&mut kernel, &mut heard);
    assert!(heard.rows.is_empty(), "{:?}", heard.rows);
}

#[test]
fn a_link_changes_in_place() {
    let node = Scratch::new();
    let mut kernel = node.kernel();
    let from = vxlan("tartan.1", 1, "192.0.2.1");
    done(&mut kernel, &[create(Row::Link(bridge("tartan0"))), create(Row::Link(from.clone()))]);
    let to = Link {
        mac: "02:00:00:00:00:07".parse().unwrap(),
        mtu: 1400.try_into().unwrap(),
        up: false,
        alias: "tartan other".into(),
        master: Some(ifname("tartan0")),
        translated: true,
        ..from.clone()
    };
    let (from, to) = (Row::Link(from), Row::Link(to));
    for (from, to) in [(&from, &to), (&to, &from)] {
        done(&mut kernel, &[change(from, to)]);
        let read = kernel.read(&[]).unwrap();
        assert_eq!(read.rows.get(&to.key()), Some(to));
        assert!(kernel.notices().rows.is_empty(), "reading drops what was told before");
    }
}

#[test]
fn what_stands_on_links_changes_in_place() {
    let node = Scratch::new();
    let mut kernel = node.kernel();
    done(
        &mut kernel,
        &[create(Row::Link(vxlan("tartan.1", 1, "192.0.2.1"))), create(Row::Link(bridge("tartan0")))],
    );
    let pairs = [
        (
            fdb("tartan.1", "02:00:00:00:00:02", "192.0.2.2"),
            fdb("tartan.1", "02:00:00:00:00:02", "192.0.2.3"),
        ),
        (
            neighbor("tartan.1", "10.244.1.0", "02:00:00:00:00:02"),
            neighbor("tartan.1", "10.244.1.0", "02:00:00:00:00:03"),
        ),
        (Row::Route(onto("10.9.0.0/24", "tartan.1")), Row::Route(via("10.9.0.0/24", "10.1.1.1", "tartan0"))),
        (Row::Route(onto("fd09::/64", "tartan.1")), Row::Route(via("fd09::/64", "fd01::1", "tartan0"))),
        (Row::Route(blackhole("10.9.1.0/24")), Row::Route(onto("10.9.1.0/24", "tartan0"))),
        (Row::Route(blackhole("fd09:1::/64")), Row::Route(onto("fd09:1::/64", "tartan0"))),
    ];
    let mut heard = kernel.read(&[]).unwrap();
    done(&mut kernel, &pairs.clone().map(|(from, _)| create(from)));
    done(&mut kernel, &pairs.clone().map(|(from, to)| change(&from, &to)));
    follow(&mut kernel, &mut heard);
    let read = kernel.read(&[]).unwrap();
    assert_eq!(heard, read);
    for (_, to) in &pairs {
        assert_eq!(read.rows.get(&to.key()), Some(to));
    }
}

#[test]
fn a_veth_and_its_other_end() {
    let (node, pod) = (Scratch::new(), Scratch::new());
    let mut kernel = node.kernel();
    let token = kernel.adopt(pod.clone_fd());
    let from = veth("tt0123456789ab", token, "eth0");
    done(&mut kernel, &[create(Row::Link(from.clone()))]);
    let mut inside = Kernel::open_in(pod.fd(), Marks::Pod(ifname("eth0"))).unwrap();
    let end = inside.read(&[]).unwrap().rows.link(&ifname("eth0")).cloned().unwrap();
    assert_eq!((end.mac, end.mtu), ("02:00:00:00:00:99".parse().unwrap(), from.mtu));
    assert!(!end.up && end.alias.is_empty() && end.master.is_none());

    let up = Row::Link(Link { up: true, ..end.clone() });
    let made = [
        address("eth0", "10.244.0.7/32", Scope::Global),
        address("eth0", "fd00:10:244::7/128", Scope::Global),
        neighbor("eth0", "169.254.1.1", "02:00:5e:10:00:01"),
        Row::Route(onto("169.254.1.1/32", "eth0")),
        Row::Route(via("0.0.0.0/0", "169.254.1.1", "eth0")),
        Row::Route(via("::/0", "fe80::1", "eth0")),
    ];
    done(&mut inside, &[change(&Row::Link(end), &up)]);
    done(&mut inside, &made.clone().map(create));
    let read = rows(&mut inside);
    assert_eq!(read.len(), made.len() + 1, "{read:#?}");
    assert!(made.iter().all(|row| read.contains(row)));
}

#[test]
fn a_bridge_keeps_its_mtu_whatever_its_ports_have() {
    let (node, pod) = (Scratch::new(), Scratch::new());
    let mut kernel = node.kernel();
    let token = kernel.adopt(pod.clone_fd());
    let master = Link { mtu: 1500.try_into().unwrap(), ..bridge("tartan0") };
    let port = Link { master: Some(master.name.clone()), ..veth("tt0123456789ab", token, "eth0") };
    done(&mut kernel, &[create(Row::Link(master.clone())), create(Row::Link(port))]);
    assert_eq!(kernel.read(&[]).unwrap().rows.link(&master.name), Some(&master));
}

#[test]
fn settings_and_their_old_values() {
    let node = Scratch::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sysctl.json");
    let mut kernel = node.kernel();
    kernel.save_settings_in(file.clone());
    done(&mut kernel, &[create(Row::Link(bridge("tartan0")))]);
    let keys = [SysctlKey::AcceptRa(ifname("tartan0")), SysctlKey::Ipv4Forward, SysctlKey::Ipv6Forward];
    let before = kernel.read(&keys).unwrap();
    for (value, key) in [2, 1, 1].into_iter().zip(&keys) {
        let row = Row::Sysctl(Sysctl { key: key.clone(), value });
        let from = before.rows.get(&row.key()).unwrap().clone();
        done(&mut kernel, &[change(&from, &row), change(&row, &row), remove(row.clone())]);
        assert_eq!(kernel.read(&keys).unwrap().rows.get(&row.key()), Some(&row));
    }
    // As it was when it was first read, not as somebody made it since.
    let lo = |value| Row::Sysctl(Sysctl { key: SysctlKey::NoIpv6(ifname("lo")), value });
    let Row::Sysctl(Sysctl { key, .. }) = lo(0) else { unreachable!() };
    assert_eq!(kernel.read_sysctl(&key), Some(lo(0)));
    on(&node, &["sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1"]);
    done(&mut kernel, &[change(&lo(1), &lo(0))]);
    assert_eq!(kernel.read_sysctl(&key), Some(lo(0)));
    let saved: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let expected = serde_json::json!({
        "net/ipv6/conf/lo/disable_ipv6": "0",
        "net/ipv4/ip_forward": "0",
        "net/ipv6/conf/all/forwarding": "0",
        "net/ipv6/conf/tartan0/accept_ra": "1",
    });
    assert_eq!(saved, expected);
    let ours = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let inside =
        netns::run_in(node.fd(), || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap())
            .unwrap();
    assert_eq!(inside, "1\n");
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), ours);
}

#[test]
fn an_empty_namespace_has_nothing() {
    let node = Scratch::new();
    let host = node.kernel().read(&[]).unwrap();
    assert!(host.rows.is_empty());
    assert_eq!(host.foreign.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["lo"]);
    assert_ne!(host, Host::default());
}

/// A link of somebody else's with addresses of both families, and its other end.
fn with_uplink() -> (Scratch, Scratch) {
    let (node, wire) = (Scratch::new(), Scratch::new());
    let mut rtnl = node.rtnl();
    rtnl.add_veth(&ifname("up0"), 1500.try_into().unwrap(), &ifname("w0"), wire.fd()).unwrap();
    rtnl.set_up(&ifname("up0")).unwrap();
    wire.rtnl().set_up(&ifname("w0")).unwrap();
    for address in ["192.0.2.1/24", "2001:db8::1/64"] {
        rtnl.add_address(&ifname("up0"), address.parse().unwrap()).unwrap();
    }
    (node, wire)
}

fn by_peers() -> Vec<Row> {
    let mtu = Some(1400.try_into().unwrap());
    [
        via("10.244.2.0/24", "192.0.2.2", "up0"),
        via("10.244.3.0/24", "2001:db8::3", "up0"),
        Route { mtu, ..via("10.244.4.0/24", "192.0.2.4", "up0") },
        via("fd00:10:244:2::/64", "2001:db8::2", "up0"),
        Route { mtu, ..via("fd00:10:244:4::/64", "2001:db8::4", "up0") },
    ]
    .map(Row::Route)
    .to_vec()
}

#[test]
fn routes_by_a_link_of_others() {
    let (node, _wire) = with_uplink();
    there_and_back(&mut node.kernel(), &by_peers());
}

/// They go with the link's being up, or with its last address, and both is told.
#[test]
fn routes_by_a_link_of_others_that_fails() {
    let (node, _wire) = with_uplink();
    let (mut kernel, mut rtnl) = (node.kernel(), node.rtnl());
    let mut heard = kernel.read(&[]).unwrap();
    let routes = by_peers();
    let make: Vec<Step> = routes.iter().cloned().map(create).collect();
    done(&mut kernel, &make);
    follow(&mut kernel, &mut heard);
    assert_eq!(heard.rows.len(), routes.len());
    rtnl.set_down(&ifname("up0")).unwrap();
    follow(&mut kernel, &mut heard);
    assert_eq!(heard, kernel.read(&[]).unwrap());
    assert!(heard.rows.is_empty() && !heard.foreign[&ifname("up0")].up);
    rtnl.set_up(&ifname("up0")).unwrap();
    rtnl.add_address(&ifname("up0"), "2001:db8::1/64".parse().unwrap()).unwrap();
    follow(&mut kernel, &mut heard);
    assert!(heard.foreign[&ifname("up0")].up);
    done(&mut kernel, &make);
    follow(&mut kernel, &mut heard);
    let address = "192.0.2.1/24".parse().unwrap();
    assert_eq!(rtnl.request(vec![delete_address(&mut node.rtnl(), "up0", address)]), [Ok(())]);
    assert!(follow(&mut kernel, &mut heard).routes_stale);
}

fn delete_address(rtnl: &mut Rtnl, link: &str, address: InterfaceAddress) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = address.length();
    message.header.index = rtnl.index(&ifname(link)).unwrap();
    message.attributes.push(AddressAttribute::Local(address.address()));
    Request::new(RouteNetlinkMessage::DelAddress(message), 0)
}

/// From a tunnel to the uplink and back: what listens sees a route at every moment, and the end is right.
#[test]
fn a_route_that_moves_is_never_missing() {
    let (node, _wire) = with_uplink();
    let mut kernel = node.kernel();
    done(&mut kernel, &[create(Row::Link(vxlan("tartan.1", 1, "192.0.2.1")))]);
    done(&mut kernel, &[create(address("tartan.1", "fe80::1/64", Scope::Link))]);
    for (dst, inner, outer) in
        [("10.244.2.0/24", "10.244.2.0", "192.0.2.2"), ("fd00:10:244:2::/64", "fe80::2", "2001:db8::2")]
    {
        let tunnel = Row::Route(via(dst, inner, "tartan.1"));
        let direct = Row::Route(via(dst, outer, "up0"));
        done(&mut kernel, &[create(tunnel.clone())]);
        for (from, to) in [(&tunnel, &direct), (&direct, &tunnel)] {
            kernel.notices();
            let mut host = kernel.read(&[]).unwrap();
            done(&mut kernel, &[change(from, to)]);
            for notice in kernel.notices().rows {
                host.learn(notice);
                let there =
                    host.rows.iter().filter(|row| matches!(row, Row::Route(r) if r.dst.to_string() == dst));
                assert!(there.count() > 0, "{dst} is missing for a moment");
            }
            assert_eq!(host, kernel.read(&[]).unwrap());
            assert_eq!(host.rows.get(&to.key()), Some(to));
        }
    }
}

/// Somebody else's route to the same place stays, and ours is refused.
#[test]
fn a_foreign_route_to_the_same_place_is_left_alone() {
    let (node, _wire) = with_uplink();
    let mut kernel = node.kernel();
    for (dst, next_hop) in [("10.244.2.0/24", "192.0.2.77"), ("fd00:10:244:2::/64", "2001:db8::77")] {
        node.rtnl().add_route(Some(dst.parse().unwrap()), next_hop.parse().unwrap()).unwrap();
    }
    for route in by_peers()
        .into_iter()
        .filter(|row| row.to_string().contains("244.2.0") || row.to_string().contains(":2::/64"))
    {
        assert_eq!(kernel.apply(&[create(route.clone())]), [Err(StepError::Exists)], "{route}");
    }
    assert!(kernel.read(&[]).unwrap().rows.is_empty());
}
