//! Frames that a pod should not send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpNumber, Ipv4Header, PacketBuilder, PacketBuilderStep};

/// A MAC address.
pub(crate) type MacBytes = [u8; 6];

pub(crate) const EVERYBODY: MacBytes = [0xff; 6];
/// All nodes on the link, as a group address and its MAC (RFC 2464, section 7).
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const ALL_NODES_MAC: MacBytes = [0x33, 0x33, 0, 0, 0, 1];

/// Whom a frame says it is from and to, on the link and above.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) from: MacBytes,
    pub(crate) to: MacBytes,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
}

impl Way {
    fn ip(&self) -> PacketBuilderStep<etherparse::IpHeaders> {
        let ethernet = PacketBuilder::ethernet2(self.from, self.to);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                ethernet.ipv4(source.octets(), destination.octets(), 64)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                // Neighbor discovery takes no packet that has crossed a router.
                ethernet.ipv6(source.octets(), destination.octets(), 255)
            }
            ends => panic!("{ends:?} are of two families"),
        }
    }

    /// A datagram.
    pub(crate) fn udp(&self, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        self.ip().udp(from, to).write(&mut frame, payload).expect("memory");
        frame
    }

    /// The first packet of a connection.
    pub(crate) fn tcp(&self, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        self.ip().tcp(from, to, 1, 1000).syn().write(&mut frame, payload).expect("memory");
        frame
    }

    /// An ICMP or ICMPv6 message of this type.
    pub(crate) fn icmp(&self, kind: u8, head: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let ip = self.ip();
        match self.source {
            IpAddr::V4(_) => ip.icmpv4_raw(kind, 0, head).write(&mut frame, payload),
            IpAddr::V6(_) => ip.icmpv6_raw(kind, 0, head).write(&mut frame, payload),
        }
        .expect("memory");
        frame
    }

    /// A datagram with a VLAN tag of identifier 0, which many take for none (IEEE 802.1Q, priority tag).
    pub(crate) fn tagged_udp(&self, payload: &[u8]) -> Vec<u8> {
        let plain = self.udp(1000, 2000, payload);
        let (addresses, rest) = plain.split_at(12);
        [addresses, &[0x81, 0, 0, 0], rest].concat()
    }

    /// A packet of a protocol without ports, so that nothing but its addresses is looked at.
    pub(crate) fn bare(&self, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        self.ip().write(&mut frame, IpNumber::EXPERIMENTAL_AND_TESTING_0, payload).expect("memory");
        frame
    }
}

/// The same IPv6 packet in two fragments (RFC 8200, section 4.5), the first with no more than these bytes of it.
pub(crate) fn in_fragments(frame: &[u8], bytes: u16) -> [Vec<u8>; 2] {
    let (head, packet) = frame.split_at(14 + 40);
    let (first, rest) = packet.split_at(bytes.into());
    let fragment = |offset: u16, more: u16, part: &[u8]| {
        let mut head = head.to_vec();
        let length = u16::try_from(8 + part.len()).expect("a small packet");
        head[18..20].copy_from_slice(&length.to_be_bytes());
        let next = std::mem::replace(&mut head[20], 44);
        [&head, &[next, 0][..], &(offset | more).to_be_bytes(), &[0, 0, 0, 1], part].concat()
    };
    [fragment(0, 1, first), fragment(bytes, 0, rest)]
}

/// The same packet with options that say nothing (RFC 791, section 3.1), or behind some for its destination (RFC 8200, section 4.6).
pub(crate) fn behind_options(frame: &[u8]) -> Vec<u8> {
    if let Ok((mut ip, packet)) = Ipv4Header::from_slice(&frame[14..]) {
        ip.options = [1, 1, 1, 0].into();
        ip.total_len += 4;
        ip.header_checksum = ip.calc_header_checksum();
        return [&frame[..14], &ip.to_bytes()[..], packet].concat();
    }
    let (head, packet) = frame.split_at(14 + 40);
    let mut head = head.to_vec();
    let length = u16::try_from(8 + packet.len()).expect("a small packet");
    head[18..20].copy_from_slice(&length.to_be_bytes());
    let next = std::mem::replace(&mut head[20], 60);
    [&head, &[next, 0, 1, 4, 0, 0, 0, 0][..], packet].concat()
}

/// An ARP request by which the sender claims an address (RFC 826), with something behind it.
pub(crate) fn arp(from: MacBytes, claims: Ipv4Addr, asks: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let head = [&EVERYBODY[..], &from, &[0x08, 0x06], &[0, 1, 8, 0, 6, 4, 0, 1]].concat();
    [&head[..], &from, &claims.octets(), &[0; 6], &asks.octets(), payload].concat()
}

/// A frame of a type that nobody knows (IEEE 802, local experiments).
pub(crate) fn unknown(from: MacBytes, to: MacBytes, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &[0x88, 0xb5], payload].concat()
}

/// What a VXLAN packet of network 1 carries (RFC 7348, section 5).
pub(crate) fn vxlan(inner: &[u8]) -> Vec<u8> {
    [&[0x08, 0, 0, 0, 0, 0, 1, 0][..], inner].concat()
}
