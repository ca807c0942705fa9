//! A node whose IPv6 default route comes from router advertisements keeps it, although it forwards.

use std::fs;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket,
    sockopt,
};
use tartan_kernel::{Rtnl, netns};
use tartan_scenarios::{Lab, wait_until};

#[test]
fn forwarding_does_not_cost_an_advertised_default_route() {
    let lab = Lab::up("t-advertise", &["--nodes", "1", "--pods", "1", "--family", "dual"]);
    // The first advertisement comes when the node forwards already.
    assert_eq!(read(&lab, "ipv6/conf/all/forwarding"), "1");
    advertise(&lab, 600);
    wait_for(&lab, "a later route is taken", |lab| lifetime(lab).is_some());
    lab.lab(&["fault", "add", "stop", "n1"]).ok();
    // A node that no agent ever ran on.
    write(&lab, "ipv6/conf/eth0/accept_ra", "1");
    write(&lab, "ipv6/conf/all/forwarding", "0");
    advertise(&lab, 600);
    wait_for(&lab, "the route comes", |lab| lifetime(lab).is_some());
    // Without care, forwarding takes it: the test can fail.
    write(&lab, "ipv6/conf/all/forwarding", "1");
    assert_eq!(lifetime(&lab), None, "this kernel keeps the route by itself");
    write(&lab, "ipv6/conf/all/forwarding", "0");
    advertise(&lab, 20);
    wait_for(&lab, "the route comes again", |lab| lifetime(lab).is_some());

    lab.lab(&["fault", "clear"]).ok();
    assert_eq!(read(&lab, "ipv6/conf/all/forwarding"), "1");
    assert!(lifetime(&lab).is_some_and(|left| left <= 20), "{:?}", lifetime(&lab));
    advertise(&lab, 600);
    wait_for(&lab, "the route's life is renewed", |lab| lifetime(lab).is_some_and(|left| left > 500));

    // Somebody turns it back; nothing but a watch on the file can tell of that.
    write(&lab, "ipv6/conf/eth0/accept_ra", "1");
    wait_for(&lab, "accept_ra is put back", |lab| read(lab, "ipv6/conf/eth0/accept_ra") == "2");
    advertise(&lab, 1200);
    wait_for(&lab, "advertisements are taken", |lab| lifetime(lab).is_some_and(|left| left > 1000));
    lab.assert_full(1, &[]);
}

#[track_caller]
fn wait_for(lab: &Lab, what: &str, holds: impl Fn(&Lab) -> bool) {
    wait_until(what, Duration::from_secs(5), || holds(lab));
}

/// How long the advertised default route still holds, in seconds; None if there is none.
fn lifetime(lab: &Lab) -> Option<u64> {
    let routes = lab.on_node("n1", &["ip", "-6", "route", "show", "default", "proto", "ra"]);
    let words: Vec<&str> = routes.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "expires")?;
    words[at + 1].trim_end_matches("sec").parse().ok()
}

fn write(lab: &Lab, setting: &str, value: &str) {
    let node = netns::open(&lab.netns("n1")).expect("the node");
    let path = format!("/proc/sys/net/{setting}");
    netns::run_in(node.as_fd(), || fs::write(&path, value)).expect("to enter").expect("a setting");
}

fn read(lab: &Lab, setting: &str) -> String {
    let node = netns::open(&lab.netns("n1")).expect("the node");
    let path = format!("/proc/sys/net/{setting}");
    let text = netns::run_in(node.as_fd(), || fs::read_to_string(&path)).expect("to enter");
    text.expect("a setting").trim().into()
}

/// The router sends one advertisement to the node (RFC 4861, section 4.2): it is a default router for so many seconds.
fn advertise(lab: &Lab, lifetime: u16) {
    let node = link_local(lab);
    let wire = netns::open(&lab.netns("wire")).expect("the wire");
    let index = Rtnl::open_in(wire.as_fd()).expect("its kernel").index(&"wire".parse().expect("a name"));
    let to = SockaddrIn6::from(SocketAddrV6::new(node, 0, 0, index.expect("the router's link")));
    let socket = netns::run_in(wire.as_fd(), || {
        socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), SockProtocol::IcmpV6)
    });
    let socket = socket.expect("to enter").expect("a raw socket");
    // One that a router passed on is not believed (section 6.1.2).
    setsockopt(&socket, sockopt::Ipv6Ttl, &255).expect("a hop limit");
    let [high, low] = lifetime.to_be_bytes();
    // Type, code, checksum (the kernel's), hop limit, flags, lifetime, reachable time, retransmission timer.
    let message = [134, 0, 0, 0, 64, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0];
    // Its own address is tentative at first.
    wait_for(lab, "the router may send", |_| {
        sendto(socket.as_raw_fd(), &message, &to, MsgFlags::empty()).is_ok()
    });
}

/// The node's link-local address, once it may be used.
fn link_local(lab: &Lab) -> Ipv6Addr {
    let text = lab.on_node("n1", &["ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link"]);
    let word = text.split_whitespace().nth(3).expect("an address");
    word.split('/').next().expect("text").parse().expect("an address")
}
