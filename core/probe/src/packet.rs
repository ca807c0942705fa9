//! Echo requests and replies as they are on the wire (RFC 792, RFC 4443 section 4).

use tartan_model::Family;

use crate::Probe;

/// What our probes begin with, so that one can be told from other pings.
const MAGIC: [u8; 8] = *b"tartan\0\x01";
/// The ICMP header of an echo.
const HEADER: usize = 8;
/// The magic and the nonce.
const PAYLOAD: usize = 16;

/// Whether it asks or answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchoKind {
    /// It asks.
    Request,
    /// It answers.
    Reply,
}

/// An echo of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Whether it asks or answers.
    pub kind: EchoKind,
    /// Who asked, among those of one node.
    pub id: u16,
    /// The probe's number.
    pub sequence: u16,
    /// The probe's nonce.
    pub nonce: u64,
}

/// Types of echoes: request, reply.
const fn types(family: Family) -> (u8, u8) {
    match family {
        Family::Ipv4 => (8, 0),
        Family::Ipv6 => (128, 129),
    }
}

/// The bytes of the IP header that the kernel puts before it.
const fn ip_header(family: Family) -> usize {
    match family {
        Family::Ipv4 => 20,
        Family::Ipv6 => 40,
    }
}

/// The ICMP message of a probe. Of IPv6 the kernel fills in the checksum (RFC 3542, section 3.1).
pub fn encode(probe: &Probe, id: u16) -> Vec<u8> {
    let family = Family::of(probe.remote);
    let whole = probe.length.map_or(0, usize::from).saturating_sub(ip_header(family));
    let mut message = Vec::with_capacity(whole.max(HEADER + PAYLOAD));
    message.extend([types(family).0, 0, 0, 0]);
    message.extend(id.to_be_bytes());
    message.extend(probe.sequence.to_be_bytes());
    message.extend(MAGIC);
    message.extend(probe.nonce.to_be_bytes());
    message.resize(whole.max(HEADER + PAYLOAD), 0);
    if family == Family::Ipv4 {
        let sum = checksum(&message).to_be_bytes();
        message.iter_mut().skip(2).zip(sum).for_each(|(byte, sum)| *byte = sum);
    }
    message
}

/// What an ICMP message is, if it is an echo of ours; anything may come in.
pub fn decode(family: Family, message: &[u8]) -> Option<Echo> {
    let (request, reply) = types(family);
    let kind = match message.first()? {
        kind if *kind == request => EchoKind::Request,
        kind if *kind == reply => EchoKind::Reply,
        _ => return None,
    };
    let (id, rest) = message.get(4..)?.split_first_chunk::<2>()?;
    let (sequence, rest) = rest.split_first_chunk::<2>()?;
    let (magic, rest) = rest.split_first_chunk::<8>()?;
    let (nonce, _) = rest.split_first_chunk::<8>()?;
    (*magic == MAGIC).then(|| Echo {
        kind,
        id: u16::from_be_bytes(*id),
        sequence: u16::from_be_bytes(*sequence),
        nonce: u64::from_be_bytes(*nonce),
    })
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        let high = pair.first().copied().unwrap_or(0);
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([high, low]));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
