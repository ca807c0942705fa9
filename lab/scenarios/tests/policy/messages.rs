//! What is said by protocols that nobody has sockets for: the first message of each and its answer.

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type};
use tartan_model::Family;

/// Types of ICMP messages (RFC 792, RFC 4443).
const ECHO_REPLY: [u8; 2] = [0, 129];
/// Types of SCTP chunks (RFC 9260, section 3.2).
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
/// The common header, and a chunk of either type without parameters (RFC 9260, sections 3.1, 3.3.2 and 3.3.3).
const SCTP: usize = 12 + 20;

/// An echo request; the kernel itself fills in the checksum of ICMPv6 (RFC 3542, section 3.1).
pub(crate) fn echo_request(family: Family, id: u16) -> Vec<u8> {
    let echo = IcmpEchoHeader { id, seq: 1 };
    match family {
        Family::Ipv4 => Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &[]).to_bytes().to_vec(),
        Family::Ipv6 => Icmpv6Header::new(Icmpv6Type::EchoRequest(echo)).to_bytes().to_vec(),
    }
}

/// Whether this is the answer to the echo request of this identifier.
pub(crate) fn is_echo_reply(family: Family, message: &[u8], id: u16) -> bool {
    let [high, low] = id.to_be_bytes();
    let kind = ECHO_REPLY[usize::from(family == Family::Ipv6)];
    matches!(message, [found, 0, _, _, a, b, ..] if *found == kind && [*a, *b] == [high, low])
}

/// The message that opens an SCTP association.
pub(crate) fn init(from: u16, to: u16) -> Vec<u8> {
    sctp(from, to, 0, INIT)
}

/// The answer to such a message; None to anything else.
pub(crate) fn init_ack(message: &[u8]) -> Option<Vec<u8>> {
    let (from, to, kind) = head(message)?;
    let tag = u32::from_be_bytes(message.get(16..20)?.try_into().ok()?);
    (kind == INIT).then(|| sctp(to, from, tag, INIT_ACK))
}

/// Whether this is the answer to the message that opens an association between these ports.
pub(crate) fn is_init_ack(message: &[u8], from: u16, to: u16) -> bool {
    head(message) == Some((to, from, INIT_ACK))
}

/// What a raw socket has received: that of IPv4 tells the IP header as well (raw(7)).
pub(crate) fn payload(is_ipv4: bool, packet: &[u8]) -> &[u8] {
    match packet.first() {
        Some(first) if is_ipv4 => packet.get(usize::from(first & 0x0f) * 4..).unwrap_or_default(),
        _ => packet,
    }
}

fn head(message: &[u8]) -> Option<(u16, u16, u8)> {
    let [a, b, c, d] = *message.first_chunk()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), *message.get(12)?))
}

fn sctp(from: u16, to: u16, tag: u32, kind: u8) -> Vec<u8> {
    let own_tag = 0x7461_7274u32;
    let (window, streams, number) = (65_536u32, 1u16, 1u32);
    let head = [&from.to_be_bytes()[..], &to.to_be_bytes(), &tag.to_be_bytes(), &[0; 4]].concat();
    let chunk = [&[kind, 0, 0, 20][..], &own_tag.to_be_bytes(), &window.to_be_bytes()].concat();
    let rest = [&streams.to_be_bytes()[..], &streams.to_be_bytes(), &number.to_be_bytes()].concat();
    let mut message = [head, chunk, rest].concat();
    assert_eq!(message.len(), SCTP);
    let sum = crc32c(&message);
    message[8..12].copy_from_slice(&sum.to_le_bytes());
    message
}

/// RFC 9260, appendix A. Connection tracking drops what has another sum (net/netfilter/nf_conntrack_proto_sctp.c,
/// `sctp_error`).
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let shift = |sum: u32| (sum >> 1) ^ (POLYNOMIAL & (sum & 1).wrapping_neg());
    !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| shift(sum)))
}

#[test]
fn the_sum_is_that_of_the_standard() {
    // RFC 3720, appendix B.4.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
}
