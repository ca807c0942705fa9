//! What policies refused, as the kernel's packet log tells it.

use std::net::IpAddr;

use crate::policy::Direction;

/// A packet that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Denial {
    /// Whose policies refused it: of the client for egress, of the server for ingress.
    pub direction: Direction,
    /// Its source.
    pub source: IpAddr,
    /// Its destination, behind what was translated before it was judged.
    pub destination: IpAddr,
    /// The protocol above IP (IANA).
    pub protocol: u8,
    /// The port that it comes from, where its protocol has ports.
    pub source_port: Option<u16>,
    /// The port that it goes to.
    pub destination_port: Option<u16>,
    /// The type of an ICMP or ICMPv6 message.
    pub icmp_type: Option<u8>,
    /// Its length in bytes by its IP header, 0 where that does not tell.
    pub length: u32,
}
