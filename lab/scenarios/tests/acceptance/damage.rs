//! Damages of the kernel's state, and packets that must not pass.

use std::net::{IpAddr, UdpSocket};

use tartan_scenarios::{Place, inside};

use crate::stand::Stand;

/// The overlay's device and its port.
const DEVICE: &str = "tartan.1";
const PORT: u16 = 8472;

/// The way from the first node to the second node's pod, as the kernel has it: what damages are compared with.
fn way(stand: &Stand) -> [String; 4] {
    let lines = |command: &str, word: &str| {
        let text = stand.node("n1", command);
        let mut lines: Vec<&str> = text.lines().filter(|line| line.contains(word)).collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    [
        lines("ip -4 route", DEVICE),
        lines("ip -6 route", "proto 116"),
        lines("ip neigh show dev tartan.1", "PERMANENT"),
        lines("bridge fdb show dev tartan.1", "permanent"),
    ]
}

/// Does a damage, and says how long until all is as it was.
fn damaged(stand: &Stand, commands: &[String]) -> String {
    let before = way(stand);
    assert!(before.iter().all(|lines| !lines.is_empty()), "{before:?}");
    for command in commands {
        stand.node("n1", command);
    }
    stand.until("the way is as it was", || way(stand) == before)
}

pub(crate) fn one_entry(stand: &Stand) -> String {
    let [route, _, neighbor, entry] =
        way(stand).map(|lines| lines.lines().next().expect("a line").to_owned());
    let first = |line: &str| line.split(' ').next().expect("a word").to_owned();
    let commands = [
        format!("ip route del {}", first(&route)),
        format!("ip neigh del {} dev {DEVICE}", first(&neighbor)),
        format!("bridge fdb del {} dev {DEVICE}", first(&entry)),
    ];
    commands.map(|command| damaged(stand, &[command])).join(", ")
}

pub(crate) fn device_down_and_up(stand: &Stand) -> String {
    damaged(stand, &[format!("ip link set {DEVICE} down"), format!("ip link set {DEVICE} up")])
}

pub(crate) fn device_deleted(stand: &Stand) -> String {
    damaged(stand, &[format!("ip link del {DEVICE}")])
}

/// The largest packet passes whole in each family, and one byte more does not.
pub(crate) fn mtu_fits(stand: &Stand) -> String {
    let mtu: u32 = stand.pod("p1", "cat /sys/class/net/eth0/mtu").ok().stdout.trim().parse().unwrap();
    for address in stand.addresses("p2") {
        let headers = if address.is_ipv4() { 28 } else { 48 };
        let ping = |size: u32| {
            stand.pod("p1", &format!("ping -M do -c 1 -W 1 -s {} {address}", size - headers)).code == 0
        };
        assert!(ping(mtu), "{mtu} bytes to {address}");
        assert!(!ping(mtu + 1), "{} bytes to {address}", mtu + 1);
    }
    format!("{mtu} in both")
}

/// While an agent lives its tables refuse it; while it is dead it succeeds, and they are back before it serves.
pub(crate) fn flushed(stand: &Stand) -> String {
    let tables = || {
        let text = stand.node("n1", "nft list tables");
        text.lines().filter(|line| line.ends_with(" tartan")).count()
    };
    let before = tables();
    assert!(before > 0);
    stand.fault("kill n1");
    stand.node("n1", "nft flush ruleset");
    assert_eq!(tables(), 0);
    stand.heal();
    assert_eq!(tables(), before);
    "back before it serves".into()
}

/// A datagram for a pod in VXLAN arrives when a node sends it, and not when the host beyond the router does.
pub(crate) fn forged(stand: &Stand) -> String {
    let node = Place::node(&stand.lab, "n1");
    let pod = Place::pod(&stand.lab, "p1");
    let mac = stand.node("n1", "cat /sys/class/net/tartan.1/address");
    let arrives = |from: &str, source: IpAddr| {
        let receiver = inside(&pod.netns, || UdpSocket::bind((pod.address, 9999))).expect("a socket");
        receiver.set_read_timeout(Some(std::time::Duration::from_millis(300))).expect("a short wait");
        let frame = vxlan(mac.trim(), stand.addresses("p2")[0], pod.address);
        let sender = inside(&stand.lab.netns(from), || UdpSocket::bind((source, 0))).expect("a socket");
        sender.send_to(&frame, (node.address, PORT)).expect("to send");
        receiver.recv(&mut [0; 64]).is_ok()
    };
    assert!(arrives("n2", Place::node(&stand.lab, "n2").address), "the control does not arrive");
    assert!(!arrives("outside", "192.0.2.2".parse().unwrap()), "a stranger's packet arrives");
    "dropped".into()
}

/// A VXLAN packet (RFC 7348) of network 1 with a datagram from one pod to another inside.
fn vxlan(mac: &str, from: IpAddr, to: IpAddr) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { panic!("addresses of IPv4") };
    let mac: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let mac: [u8; 6] = mac.try_into().unwrap();
    let frame = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], mac)
        .ipv4(from.octets(), to.octets(), 64)
        .udp(9999, 9999);
    let mut packet = vec![8, 0, 0, 0, 0, 0, 1, 0];
    frame.write(&mut packet, b"forged").unwrap();
    packet
}
