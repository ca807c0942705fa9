//! What the kernel tells, and when.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

mod common;

use std::time::{Duration, Instant};

use common::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tartan_host::{Key, Link, Notice, Route, Row, Scope, Sysctl, SysctlKey};
use tartan_kernel::{Kernel, Notices, netns};

/// All steps of a node and one pod.
fn steps(token: tartan_host::NetnsToken) -> Vec<Row> {
    vec![
        Row::Link(vxlan("tartan.1", 1, "192.0.2.1")),
        Row::Link(veth("tt0123456789ab", token, "eth0")),
        address("tartan.1", "10.244.0.0/32", Scope::Global),
        address("tt0123456789ab", "169.254.1.1/32", Scope::Link),
        address("tt0123456789ab", "fe80::1/64", Scope::Link),
        fdb("tartan.1", "02:00:00:00:00:02", "192.0.2.2"),
        neighbor("tartan.1", "10.244.1.0", "02:00:00:00:00:02"),
        Row::Route(Route {
            source: Some("10.244.0.0".parse().unwrap()),
            ..via("10.244.1.0/24", "10.244.1.0", "tartan.1")
        }),
        Row::Route(onto("10.244.0.7/32", "tt0123456789ab")),
        Row::Route(onto("fd00:10:244::7/128", "tt0123456789ab")),
    ]
}

#[test]
fn our_own_steps_are_told_of_before_apply_returns() {
    for _ in 0..20 {
        let (node, pod) = (Scratch::new(), Scratch::new());
        let mut kernel = node.kernel();
        let token = kernel.adopt(pod.clone_fd());
        let mut heard = kernel.read(&[]).unwrap();
        let made = steps(token);
        done(&mut kernel, &made.iter().cloned().map(create).collect::<Vec<_>>());
        let notices = follow(&mut kernel, &mut heard);
        assert!(!notices.lost && !notices.routes_stale && !notices.underlay);
        for row in &made {
            assert_eq!(heard.rows.get(&row.key()), Some(&seen(row)), "{row}");
        }
        done(&mut kernel, &made.iter().rev().cloned().map(remove).collect::<Vec<_>>());
        assert!(!follow(&mut kernel, &mut heard).lost);
        assert!(heard.rows.is_empty(), "{:?}", heard.rows);
    }
}

#[test]
fn our_links_are_not_the_underlay() {
    let (node, pod) = (Scratch::new(), Scratch::new());
    let mut kernel = node.kernel();
    let token = kernel.adopt(pod.clone_fd());
    kernel.read(&[]).unwrap();
    done(&mut kernel, &[create(Row::Link(vxlan("tartan.1", 1, "192.0.2.1")))]);
    done(&mut kernel, &[create(Row::Link(veth("tt0123456789ab", token, "eth0")))]);
    done(&mut kernel, &[create(address("tartan.1", "10.244.0.0/32", Scope::Global))]);
    done(&mut kernel, &[create(Row::Route(onto("10.244.0.7/32", "tartan.1")))]);
    assert!(!kernel.notices().underlay);
    let mut rtnl = node.rtnl();
    rtnl.add_veth(&ifname("up0"), 1500.try_into().unwrap(), &ifname("up1"), pod.fd()).unwrap();
    assert!(kernel.notices().underlay, "a foreign link");
    rtnl.set_up(&ifname("up0")).unwrap();
    let notices = kernel.notices();
    assert!(notices.underlay && !notices.routes_stale);
    assert!(
        matches!(notices.rows.last(), Some(Notice::Foreign(name, link)) if name.as_str() == "up0" && link.up)
    );
    rtnl.add_address(&ifname("up0"), "192.0.2.1/24".parse().unwrap()).unwrap();
    assert!(kernel.notices().underlay, "a foreign address");
    rtnl.add_route(Some("198.51.100.0/24".parse().unwrap()), "192.0.2.254".parse().unwrap()).unwrap();
    assert_eq!(kernel.notices(), Notices::default(), "a foreign route");
    rtnl.add_route(None, "192.0.2.254".parse().unwrap()).unwrap();
    assert!(kernel.notices().underlay, "a default route");
    rtnl.delete_link(&ifname("up0")).unwrap();
    let notices = kernel.notices();
    assert!(notices.underlay);
    assert!(notices.rows.contains(&Notice::Gone(Key::Link(ifname("up0")))));
}

#[test]
fn routes_are_stale_when_their_source_goes_and_told_when_their_link_does() {
    let node = Scratch::new();
    let mut kernel = node.kernel();
    let link = vxlan("tartan.1", 1, "192.0.2.1");
    let route = Route { source: Some("10.244.0.0".parse().unwrap()), ..onto("10.9.0.0/24", "tartan.1") };
    let source = address("tartan.1", "10.244.0.0/32", Scope::Global);
    done(
        &mut kernel,
        &[create(Row::Link(link.clone())), create(source.clone()), create(Row::Route(route.clone()))],
    );
    let mut heard = kernel.read(&[]).unwrap();
    done(&mut kernel, &[remove(source.clone())]);
    assert!(kernel.notices().routes_stale);
    assert!(kernel.read_routes().unwrap().is_empty(), "the kernel took the route along");
    done(&mut kernel, &[create(source), create(Row::Route(route))]);
    assert!(!follow(&mut kernel, &mut heard).routes_stale);
    assert_eq!(kernel.read_routes().unwrap().len(), 1);
    done(&mut kernel, &[change(&Row::Link(link.clone()), &Row::Link(Link { up: false, ..link }))]);
    assert!(!follow(&mut kernel, &mut heard).routes_stale);
    assert_eq!(heard, kernel.read(&[]).unwrap());
    assert!(kernel.read_routes().unwrap().is_empty());
}

/// What an ADD and a DEL do: neither may make the agent read whole tables.
#[test]
fn a_pod_comes_and_goes_without_a_need_to_read_anew() {
    let (node, pod) = (Scratch::new(), Scratch::new());
    let mut kernel = node.kernel();
    let token = kernel.adopt(pod.clone_fd());
    let base = [
        Row::Link(vxlan("tartan.1", 1, "192.0.2.1")),
        address("tartan.1", "10.244.0.0/32", Scope::Global),
        Row::Route(via("10.244.1.0/24", "10.244.1.0", "tartan.1")),
    ];
    done(&mut kernel, &base.map(create));
    let mut heard = kernel.read(&[]).unwrap();
    let before = heard.clone();
    let names = ["tt0123456789ab", "tt0123456789ac"];
    for (number, name) in names.into_iter().enumerate() {
        let source = Some("10.244.0.0".parse().unwrap());
        let link = Row::Link(veth(name, token, &format!("eth{number}")));
        let rows = [
            address(name, "169.254.1.1/32", Scope::Link),
            address(name, "fe80::1/64", Scope::Link),
            Row::Route(Route { source, ..onto(&format!("10.244.0.{}/32", number + 7), name) }),
            Row::Route(onto(&format!("fd00:10:244::{}/128", number + 7), name)),
        ];
        done(&mut kernel, &[create(link)]);
        done(&mut kernel, &rows.map(create));
        quiet(&follow(&mut kernel, &mut heard));
        assert_eq!(heard, kernel.read(&[]).unwrap());
    }
    let ups = names.map(|name| heard.rows.link(&ifname(name)).unwrap().clone());
    let downs = ups.clone().map(|link| Link { up: false, ..link });
    for (up, down) in ups.into_iter().zip(downs.clone()) {
        done(&mut kernel, &[change(&Row::Link(up), &Row::Link(down))]);
        quiet(&follow(&mut kernel, &mut heard));
    }
    assert_eq!(heard, node.kernel().read(&[]).unwrap());
    done(&mut kernel, &downs.map(|link| remove(Row::Link(link))));
    quiet(&follow(&mut kernel, &mut heard));
    assert_eq!(heard, before);
    assert_eq!(heard, kernel.read(&[]).unwrap());
}

fn quiet(notices: &Notices) {
    assert!(!notices.underlay && !notices.routes_stale && !notices.lost, "{notices:?}");
}

#[test]
fn a_pod_that_dies_takes_its_link_along_and_we_are_told() {
    let node = Scratch::new();
    let pod = Scratch::new();
    let mut kernel = node.kernel();
    let token = kernel.adopt(pod.clone_fd());
    let mut heard = kernel.read(&[]).unwrap();
    done(&mut kernel, &[create(Row::Link(veth("tt0123456789ab", token, "eth0")))]);
    follow(&mut kernel, &mut heard);
    assert!(!is_readable(&kernel, 0));
    kernel.release(token);
    assert!(kernel.netns(token).is_none());
    drop(pod);
    let end = Instant::now() + Duration::from_secs(20);
    while !heard.rows.is_empty() && Instant::now() < end {
        assert!(is_readable(&kernel, 20_000), "told");
        follow(&mut kernel, &mut heard);
    }
    assert!(heard.rows.is_empty());
}

#[test]
fn a_port_that_leaves_its_bridge_is_still_there() {
    let node = Scratch::new();
    let mut kernel = node.kernel();
    let mut heard = kernel.read(&[]).unwrap();
    let port =
        Link { master: Some(ifname("tartan0")), translated: true, ..vxlan("tartan.1", 1, "192.0.2.1") };
    done(&mut kernel, &[create(Row::Link(bridge("tartan0"))), create(Row::Link(port.clone()))]);
    done(&mut kernel, &[remove(Row::Link(bridge("tartan0")))]);
    follow(&mut kernel, &mut heard);
    assert_eq!(heard.rows.link(&port.name), Some(&Link { master: None, translated: false, ..port }));
    assert_eq!(heard, kernel.read(&[]).unwrap());
}

fn is_readable(kernel: &Kernel, milliseconds: u16) -> bool {
    let fds = kernel.notices_fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let mut fds: Vec<PollFd<'_>> = fds.collect();
    poll(&mut fds, PollTimeout::from(milliseconds)).unwrap() == 1
}

#[test]
fn settings_that_somebody_changes_are_told_of() {
    let (node, pod) = (Scratch::new(), Scratch::new());
    let mut kernel = node.kernel();
    let token = kernel.adopt(pod.clone_fd());
    kernel.read(&[]).unwrap();
    done(&mut kernel, &[create(Row::Link(veth("tt0123456789ab", token, "eth0")))]);
    let mut rtnl = node.rtnl();
    rtnl.add_veth(&ifname("up0"), 1500.try_into().unwrap(), &ifname("up1"), pod.fd()).unwrap();
    let link = ifname("tt0123456789ab");
    let keys = [
        // Before the switch for all, which sets each.
        SysctlKey::LinkForward(link),
        SysctlKey::Ipv4Forward,
        SysctlKey::Ipv6Forward,
        SysctlKey::AcceptRa(ifname("up0")),
    ];
    let write = |key: &SysctlKey, value: &str| {
        let path = format!("/proc/sys/{}", key.path());
        netns::run_in(node.fd(), || std::fs::write(path, value)).unwrap().unwrap();
    };
    // Nobody asked for them yet.
    keys.iter().for_each(|key| write(key, "0"));
    let told = |notices: Notices| {
        let settings = notices.rows.into_iter().filter(|notice| matches!(notice, Notice::Is(Row::Sysctl(_))));
        settings.collect::<Vec<_>>()
    };
    assert_eq!(told(kernel.notices()), []);
    let mut heard = kernel.read(&keys).unwrap();
    for key in &keys {
        assert!(!is_readable(&kernel, 0));
        write(key, "1");
        assert!(is_readable(&kernel, 0), "{key:?}");
        let setting = Notice::Is(Row::Sysctl(Sysctl { key: key.clone(), value: 1 }));
        assert!(told(follow(&mut kernel, &mut heard)).contains(&setting), "{key:?}");
        assert_eq!(heard, kernel.read(&keys).unwrap());
    }
    // A link that comes back has settings of its own, and is listened to as the one before.
    rtnl.delete_link(&ifname("up0")).unwrap();
    rtnl.add_veth(&ifname("up0"), 1500.try_into().unwrap(), &ifname("up1"), pod.fd()).unwrap();
    follow(&mut kernel, &mut heard);
    let accept = keys.last().unwrap();
    write(accept, "2");
    let setting = Notice::Is(Row::Sysctl(Sysctl { key: accept.clone(), value: 2 }));
    assert_eq!(told(kernel.notices()), [setting]);
}
