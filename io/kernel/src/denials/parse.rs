//! A message of the packet log, as what was refused. The packet may be anything that a pod or a stranger sends.

use etherparse::LaxIpSlice;
use tartan_host::Denial;
use tartan_host::policy::Direction;

use crate::nft::wire::{self, find};
use crate::nft::{LOG_GROUP, log_prefix};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// What is behind the netlink header of a message, if it is about a packet that was refused and whose ends can be read.
pub(super) fn denial(payload: &[u8]) -> Option<Denial> {
    const PACKET: u16 = 9;
    const PREFIX: u16 = 10;
    // Family, version and group (struct nfgenmsg).
    let (head, body) = payload.split_first_chunk::<4>()?;
    let [_, _, group @ ..] = *head;
    if u16::from_be_bytes(group) != LOG_GROUP {
        return None;
    }
    let prefix = find(body, PREFIX).and_then(wire::text)?;
    let direction = Direction::ALL.into_iter().find(|direction| log_prefix(*direction) == prefix)?;
    packet(direction, find(body, PACKET)?)
}

fn packet(direction: Direction, bytes: &[u8]) -> Option<Denial> {
    let (ip, stopped) = LaxIpSlice::from_slice(bytes).ok()?;
    // A header that is cut hides the protocol behind it.
    if stopped.is_some() {
        return None;
    }
    let payload = ip.payload();
    let protocol = payload.ip_number.0;
    let (source_port, destination_port, icmp_type) = match protocol {
        // The first bytes of a later fragment are no header.
        _ if payload.fragmented => (None, None, None),
        TCP | UDP | SCTP => {
            let ([a, b, c, d], _) = payload.payload.split_first_chunk::<4>()?;
            (Some(u16::from_be_bytes([*a, *b])), Some(u16::from_be_bytes([*c, *d])), None)
        }
        ICMP | ICMPV6 => (None, None, Some(*payload.payload.first()?)),
        _ => (None, None, None),
    };
    Some(Denial {
        direction,
        source: ip.source_addr(),
        destination: ip.destination_addr(),
        protocol,
        source_port,
        destination_port,
        icmp_type,
        length: length(&ip),
    })
}

fn length(ip: &LaxIpSlice<'_>) -> u32 {
    const IPV6_HEADER: u32 = 40;
    match ip {
        LaxIpSlice::Ipv4(ip) => ip.header().total_len().into(),
        // 0 stands for a jumbogram (RFC 2675).
        LaxIpSlice::Ipv6(ip) => match ip.header().payload_length() {
            0 => 0,
            length => IPV6_HEADER + u32::from(length),
        },
    }
}

#[cfg(test)]
mod tests;
