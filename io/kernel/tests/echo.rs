//! Echo requests and their answers, through a real kernel.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use std::net::IpAddr;
use std::time::Duration;

use tartan_kernel::{EchoSockets, Kernel, Marks};
use tartan_model::Family;

/// An echo request: type, id, number, and a payload of this length.
fn request(family: Family, id: u16, length: usize) -> Vec<u8> {
    let mut message = vec![if family == Family::Ipv4 { 8 } else { 128 }, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend([0, 7]);
    message.resize(8 + length, 0);
    if family == Family::Ipv4 {
        let sum: u32 = message
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
            .sum();
        let sum = !(((sum >> 16) + (sum & 0xffff)) as u16);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

fn wait() {
    std::thread::sleep(Duration::from_millis(50));
}

#[test]
fn answers_of_our_own_are_heard_and_no_others() {
    let scratch = common::Scratch::new();
    let netns = scratch.fd();
    let ours = EchoSockets::open_in(netns, 0x1234).unwrap();
    let other = EchoSockets::open_in(netns, 0x4321).unwrap();
    for local in ["127.0.0.1", "::1"] {
        let local: IpAddr = local.parse().unwrap();
        let family = Family::of(local);
        ours.send(local, local, &request(family, 0x1234, 100)).unwrap();
        wait();
        let heard = ours.answers();
        assert_eq!(heard.len(), 1, "{local}");
        assert_eq!((heard[0].0, heard[0].1.from), (family, local));
        assert_eq!(heard[0].1.message[..8][4..], [0x12, 0x34, 0, 7]);
        assert!(heard[0].1.message.len() <= 128);
        // The other hears the request only.
        assert_eq!((other.answers().len(), other.requests().len()), (0, 1));
        ours.requests();
        // Nothing is split to fit: the MTU of loopback is 65536.
        let large = ours.send(local, local, &request(family, 0x1234, 65_520));
        assert_eq!(large.unwrap_err().raw_os_error(), Some(libc::EMSGSIZE), "{local}");
    }
    assert!(ours.send("127.0.0.1".parse().unwrap(), "::1".parse().unwrap(), &[]).is_err());
}

#[test]
fn what_a_device_has_sent_is_counted() {
    let scratch = common::Scratch::new();
    let mut kernel = Kernel::open_in(scratch.fd(), Marks::Node).unwrap();
    let (loopback, nobody) = ("lo".parse().unwrap(), "absent".parse().unwrap());
    let before = kernel.sent_packets([&loopback, &nobody]);
    let ours = EchoSockets::open_in(scratch.fd(), 0x1234).unwrap();
    for local in ["127.0.0.1", "::1"] {
        let local: IpAddr = local.parse().unwrap();
        ours.send(local, local, &request(Family::of(local), 0x1234, 100)).unwrap();
    }
    wait();
    // A request and its answer in each family; the kernel may have something of its own to say.
    let sent = kernel.sent_packets([&nobody, &loopback]) - before;
    assert!((4..20).contains(&sent), "{sent} packets");
    assert_eq!(kernel.sent_packets([&nobody]), 0);
}
