//! Addresses and ranges, one form for IPv4 and IPv6.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::name::shorten;
use crate::{NodeId, NodeName};

/// Why a text or number is not an address, range or identifier.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Not `ADDRESS/LENGTH`.
    #[error(
        "{text:?} is not an address range: write ADDRESS/LENGTH, as in 10.244.0.0/16 or fd00:10:244::/56"
    )]
    Cidr {
        /// The refused text, shortened.
        text: String,
    },
    /// Bits behind the prefix are set.
    #[error("{given} has bits set behind its prefix: write {network}")]
    HostBits {
        /// The range as given.
        given: IpNet,
        /// What was probably meant.
        network: IpNet,
    },
    /// Not a MAC address.
    #[error("{text:?} is not a MAC address: write six hexadecimal bytes, as in 02:00:5e:10:00:01")]
    Mac {
        /// The refused text, shortened.
        text: String,
    },
    /// A VNI out of range.
    #[error("{0} is not a VXLAN network identifier: it is from 1 to 16777215 (RFC 7348)")]
    Vni(u32),
    /// An MTU out of range.
    #[error("{0} is not an MTU: it is from 576 to 65535 bytes, and at least 1280 where IPv6 is used")]
    Mtu(u32),
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Internet Protocol version 4.
    Ipv4,
    /// Internet Protocol version 6.
    Ipv6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::Ipv4,
            IpAddr::V6(_) => Family::Ipv6,
        }
    }

    /// Bits in an address: 32 or 128.
    pub const fn bits(self) -> u8 {
        match self {
            Family::Ipv4 => 32,
            Family::Ipv6 => 128,
        }
    }

    /// Bytes that VXLAN adds to a packet on an underlay of this family: outer IP, UDP, VXLAN and inner
    /// Ethernet headers, 50 or 70 (RFC 7348, section 5).
    pub const fn vxlan_overhead(self) -> u32 {
        match self {
            Family::Ipv4 => 50,
            Family::Ipv6 => 70,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        })
    }
}

/// An address range in network form: no bit behind the prefix is set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr(IpNet);

impl Cidr {
    /// The range of `length` bits that holds `address`; None if the family has fewer bits.
    pub fn containing(address: IpAddr, length: u8) -> Option<Cidr> {
        IpNet::new(address, length).ok().map(|net| Cidr(net.trunc()))
    }

    /// The range of this one address: /32 or /128.
    pub fn host(address: IpAddr) -> Cidr {
        Cidr(IpNet::from(address))
    }

    /// Everything of a family: the destination of a default route.
    pub fn everything(family: Family) -> Cidr {
        match family {
            Family::Ipv4 => Cidr(IpNet::V4(ipnet::Ipv4Net::default())),
            Family::Ipv6 => Cidr(IpNet::V6(ipnet::Ipv6Net::default())),
        }
    }

    /// The family.
    pub fn family(&self) -> Family {
        Family::of(self.0.network())
    }

    /// The first address.
    pub fn first(&self) -> IpAddr {
        self.0.network()
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        self.0.broadcast()
    }

    /// The range from one address to another; None if no range begins and ends there.
    pub fn between(first: IpAddr, last: IpAddr) -> Option<Cidr> {
        let family = Family::of(first);
        let inside = to_number(last).checked_sub(to_number(first)).filter(|_| Family::of(last) == family)?;
        let bits = u8::try_from(128 - inside.leading_zeros()).ok()?;
        let range = Cidr::containing(first, family.bits().checked_sub(bits)?)?;
        (range.first() == first && range.last() == last).then_some(range)
    }

    /// The prefix length in bits.
    pub fn length(&self) -> u8 {
        self.0.prefix_len()
    }

    /// How many addresses the range has; `u128::MAX` stands for 2^128.
    pub fn size(&self) -> u128 {
        ones(self.family().bits() - self.length()).saturating_add(1)
    }

    /// The address at a position, counted from 0; None behind the end.
    pub fn nth(&self, position: u128) -> Option<IpAddr> {
        if position > ones(self.family().bits() - self.length()) {
            return None;
        }
        Some(from_number(self.family(), to_number(self.first()).checked_add(position)?))
    }

    /// The position of an address, counted from 0; None if it is outside.
    pub fn position(&self, address: IpAddr) -> Option<u128> {
        self.contains(address).then(|| to_number(address).wrapping_sub(to_number(self.first())))
    }

    /// Whether the address is inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether all of the other range is inside.
    pub fn covers(&self, other: &Cidr) -> bool {
        self.family() == other.family() && self.length() <= other.length() && self.contains(other.first())
    }

    /// Whether the ranges share an address.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// The part of `length` bits at a position, counted from 0; None if there is no such part.
    pub fn part(&self, length: u8, position: u128) -> Option<Cidr> {
        let host_bits = self.family().bits().checked_sub(length)?;
        if position > ones(length.checked_sub(self.length())?) {
            return None;
        }
        // Only the one part of ::/0 that is ::/0 itself is as wide as the number.
        let offset = position.checked_shl(u32::from(host_bits)).unwrap_or(0);
        let first = from_number(self.family(), to_number(self.first()).checked_add(offset)?);
        Cidr::containing(first, length)
    }

    /// How many parts of `length` bits there are, 0 if the parts would be larger than the whole; `u128::MAX` stands
    /// for 2^128.
    pub fn parts(&self, length: u8) -> u128 {
        match length.checked_sub(self.length()) {
            Some(bits) if length <= self.family().bits() => ones(bits).saturating_add(1),
            _ => 0,
        }
    }

    /// The fewest ranges that hold the same addresses as these, in order.
    pub fn aggregate(ranges: impl IntoIterator<Item = Cidr>) -> Vec<Cidr> {
        let nets: Vec<IpNet> = ranges.into_iter().map(|range| range.0).collect();
        let mut fewest: Vec<Cidr> = IpNet::aggregate(&nets).into_iter().map(Cidr).collect();
        fewest.sort();
        fewest
    }

    /// The range as the library type, for wire formats.
    pub fn net(&self) -> IpNet {
        self.0
    }
}

/// The largest number of so many bits, 128 at most.
fn ones(bits: u8) -> u128 {
    u128::MAX.checked_shr(128 - u32::from(bits)).unwrap_or(0)
}

fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn from_number(family: Family, number: u128) -> IpAddr {
    match family {
        // A position within a v4 range never leaves 32 bits.
        Family::Ipv4 => IpAddr::V4((number as u32).into()),
        Family::Ipv6 => IpAddr::V6(number.into()),
    }
}

impl TryFrom<IpNet> for Cidr {
    type Error = AddressError;
    fn try_from(given: IpNet) -> Result<Self, AddressError> {
        let network = given.trunc();
        if network == given { Ok(Cidr(given)) } else { Err(AddressError::HostBits { given, network }) }
    }
}

impl FromStr for Cidr {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let net: IpNet = text.parse().map_err(|_| AddressError::Cidr { text: shorten(text) })?;
        net.try_into()
    }
}

/// An address with the length of the network that it stands in, as an interface carries it: `10.244.1.1/24`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceAddress(IpNet);

impl InterfaceAddress {
    /// The address in a network of `length` bits; None if the family has fewer bits.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        IpNet::new(address, length).ok().map(Self)
    }

    /// The address alone: /32 or /128.
    pub fn host(address: IpAddr) -> Self {
        Self(IpNet::from(address))
    }

    /// The address.
    pub fn address(&self) -> IpAddr {
        self.0.addr()
    }

    /// The prefix length in bits.
    pub fn length(&self) -> u8 {
        self.0.prefix_len()
    }

    /// The family.
    pub fn family(&self) -> Family {
        Family::of(self.0.addr())
    }

    /// The network that the address stands in.
    pub fn network(&self) -> Cidr {
        Cidr(self.0.trunc())
    }
}

impl FromStr for InterfaceAddress {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        text.parse().map(Self).map_err(|_| AddressError::Cidr { text: shorten(text) })
    }
}

/// Text forms of the two range types, which both wrap an `IpNet`.
macro_rules! net_text {
    ($($name:ident)*) => {$(
        impl TryFrom<String> for $name {
            type Error = AddressError;
            fn try_from(text: String) -> Result<Self, AddressError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0.to_string())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}
net_text!(Cidr InterfaceAddress);

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// The address of these bytes.
    pub const fn from_bytes(bytes: [u8; 6]) -> Mac {
        Mac(bytes)
    }

    /// The bytes.
    pub const fn bytes(&self) -> [u8; 6] {
        self.0
    }

    /// A unicast, locally administered address (IEEE 802, section 8.2) made of 46 bits of `seed`.
    pub const fn local(seed: [u8; 6]) -> Mac {
        let [a, b, c, d, e, f] = seed;
        Mac([a & 0xfc | 0x02, b, c, d, e, f])
    }

    /// The address of a node's VXLAN devices: peers derive it from the node's id, so it needs no exchange.
    pub const fn of_node(id: &NodeId) -> Mac {
        let [a, b, c, d, e, f, ..] = *id.bytes();
        Mac::local([a, b, c, d, e, f])
    }

    /// The address of a node's bridge by its number: pods keep it as their gateway's, so it is of what outlives the
    /// node's disk, the name. (FNV-1a, 64 bits.)
    pub fn of_bridge(node: &NodeName, number: u32) -> Mac {
        let bytes = node.as_str().bytes().chain(number.to_be_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let [_, _, a, b, c, d, e, f] = hash.to_be_bytes();
        Mac::local([a, b, c, d, e, f])
    }
}

impl FromStr for Mac {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refused = || AddressError::Mac { text: shorten(text) };
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            // The number's own parser would take a sign.
            let is_byte = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            let part = parts.next().filter(is_byte).ok_or_else(refused)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| refused())?;
        }
        if parts.next().is_none() { Ok(Mac(bytes)) } else { Err(refused()) }
    }
}

impl TryFrom<String> for Mac {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A VXLAN network identifier: 1 to 2^24-1 (RFC 7348).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

impl Vni {
    /// The identifier that a network has unless it says otherwise, as in flannel.
    pub const ONE: Vni = Vni(1);
}

impl TryFrom<u32> for Vni {
    type Error = AddressError;
    fn try_from(number: u32) -> Result<Self, AddressError> {
        if (1..1 << 24).contains(&number) { Ok(Vni(number)) } else { Err(AddressError::Vni(number)) }
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> u32 {
        vni.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A link's maximum transmission unit in bytes: 576 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Mtu(u32);

impl Mtu {
    /// The smallest MTU that a link with IPv6 may have (RFC 8200, section 5).
    pub const IPV6_MIN: Mtu = Mtu(1280);

    /// This MTU less `bytes` of encapsulation, never under 576.
    pub fn less(self, bytes: u32) -> Mtu {
        Mtu(self.0.saturating_sub(bytes).max(576))
    }
}

impl TryFrom<u32> for Mtu {
    type Error = AddressError;
    fn try_from(bytes: u32) -> Result<Self, AddressError> {
        if (576..=65535).contains(&bytes) { Ok(Mtu(bytes)) } else { Err(AddressError::Mtu(bytes)) }
    }
}

impl From<Mtu> for u32 {
    fn from(mtu: Mtu) -> u32 {
        mtu.0
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A TCP or UDP port, never 0.
pub type Port = std::num::NonZeroU16;
