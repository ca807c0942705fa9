//! The maps of the programs: keys and values byte by byte, as guard.bpf.c has them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tartan_host::{Member, Protocol, Reason};
use tartan_model::{IfName, Mac};

/// A set that the programs look things up in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Set {
    Frames,
    Sources,
    Nodes,
    Vnis,
}

impl Set {
    pub(crate) const ALL: [Set; 4] = [Set::Frames, Set::Sources, Set::Nodes, Set::Vnis];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Set::Frames => "frames",
            Set::Sources => "sources",
            Set::Nodes => "nodes",
            Set::Vnis => "vnis",
        }
    }
}

/// What a port is.
pub(crate) const A_TUNNEL: u8 = 1;
pub(crate) const OF_NODES: u8 = 2;
/// How many ports there are of each protocol.
pub(crate) const PORTS: usize = 1 << 16;

/// Where something is kept for the programs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A key of a set.
    Key(Set, Vec<u8>),
    /// A bit of the byte at this place of the ports.
    Port(usize, u8),
}

/// Where an element is kept; `link` is the index of the pod's link that it names. None if the programs do not go by it.
pub(crate) fn place(member: &Member, link: u32) -> Option<Place> {
    let port = |protocol: Protocol, port: u16, bit| {
        let first = if protocol == Protocol::Udp { PORTS } else { 0 };
        Some(Place::Port(first + usize::from(port), bit))
    };
    match member {
        Member::Mac(_, mac) => Some(Place::Key(Set::Frames, frame(link, *mac))),
        Member::Source(_, mac, of) => {
            Some(Place::Key(Set::Sources, [frame(link, *mac), address(*of)].concat()))
        }
        Member::Node(of) => Some(Place::Key(Set::Nodes, address(*of))),
        Member::Tunnel(protocol, number) => port(*protocol, *number, A_TUNNEL),
        Member::Control(protocol, number) => port(*protocol, *number, OF_NODES),
        Member::Vxlan(number, vni) => {
            let [_, vni @ ..] = u32::from(*vni).to_be_bytes();
            let key = [&number.to_be_bytes()[..], &[0; 2], &vni, &[0]].concat();
            Some(Place::Key(Set::Vnis, key))
        }
        // The rules go by these.
        Member::Port(_) | Member::Masquerade(..) | Member::Kept(..) | Member::Across(..) => None,
    }
}

/// Where a link's usual sources are kept.
pub(crate) fn usual(link: u32) -> [u8; 4] {
    const USUALS: u32 = 65536;
    (link % USUALS).to_ne_bytes()
}

/// Where a node is kept among the usual ones, and as what. What is all zero is nobody.
pub(crate) fn usual_node(of: IpAddr) -> ([u8; 4], Vec<u8>) {
    const USUAL_NODES: u32 = 4096;
    let node = address(of);
    let mut words = node.chunks_exact(4).filter_map(|word| word.try_into().ok()).map(u32::from_ne_bytes);
    let family = words.next().unwrap_or_default();
    let place = u32::from_be(words.fold(0, u32::wrapping_add)).wrapping_add(family) % USUAL_NODES;
    (place.to_ne_bytes(), node)
}

/// One source of each family that a link has, from one MAC address (`struct usual`).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Usual {
    /// The link and the MAC address, if anything is there.
    of: Option<(u32, Mac)>,
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
}

impl Usual {
    const WITH_IPV4: u16 = 1;
    const WITH_IPV6: u16 = 2;

    pub(crate) fn read(bytes: &[u8]) -> Option<Usual> {
        let (link, rest) = bytes.split_first_chunk()?;
        let (mac, rest) = rest.split_first_chunk()?;
        let (families, rest) = rest.split_first_chunk()?;
        let (ipv4, rest) = rest.split_first_chunk::<4>()?;
        let ipv6: [u8; 16] = *rest.first_chunk()?;
        let families = u16::from_ne_bytes(*families);
        Some(Usual {
            of: (families != 0).then_some((u32::from_ne_bytes(*link), Mac::from_bytes(*mac))),
            ipv4: (families & Usual::WITH_IPV4 != 0).then_some(Ipv4Addr::from(*ipv4)),
            ipv6: (families & Usual::WITH_IPV6 != 0).then_some(Ipv6Addr::from(ipv6)),
        })
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (link, mac) = self.of.unwrap_or((0, Mac::from_bytes([0; 6])));
        let with_ipv4 = self.ipv4.map_or(0, |_| Usual::WITH_IPV4);
        let families = with_ipv4 | self.ipv6.map_or(0, |_| Usual::WITH_IPV6);
        let ipv4 = self.ipv4.map_or([0; 4], |ipv4| ipv4.octets());
        let ipv6 = self.ipv6.map_or([0; 16], |ipv6| ipv6.octets());
        [&link.to_ne_bytes()[..], &mac.bytes(), &families.to_ne_bytes(), &ipv4, &ipv6].concat()
    }

    /// Notes a source, or takes it out; whether that changed anything. What a link seldom sends from is not worth the place.
    pub(crate) fn put(&mut self, link: u32, mac: Mac, address: IpAddr, there: bool) -> bool {
        if self.of.is_some_and(|of| of != (link, mac)) {
            return false;
        }
        let changed = match address {
            IpAddr::V4(v4) => exchange(&mut self.ipv4, v4, there),
            IpAddr::V6(v6) => !v6.is_unicast_link_local() && exchange(&mut self.ipv6, v6, there),
        };
        self.of = (self.ipv4.is_some() || self.ipv6.is_some()).then_some((link, mac));
        changed
    }
}

/// Fills an empty place, or empties one with this in it.
fn exchange<T: PartialEq>(place: &mut Option<T>, value: T, there: bool) -> bool {
    let (from, to) = if there { (None, Some(value)) } else { (Some(value), None) };
    let fits = *place == from;
    if fits {
        *place = to;
    }
    fits
}

fn frame(link: u32, mac: Mac) -> Vec<u8> {
    [&link.to_ne_bytes()[..], &mac.bytes(), &[0; 2]].concat()
}

/// The family as it stands in a frame, and the address.
fn address(of: IpAddr) -> Vec<u8> {
    const ETH_P_IP: u16 = 0x0800;
    const ETH_P_IPV6: u16 = 0x86dd;
    let family = |number: u16| u32::from(number.to_be()).to_ne_bytes();
    match of {
        IpAddr::V4(v4) => [&family(ETH_P_IP)[..], &v4.octets(), &[0; 12]].concat(),
        IpAddr::V6(v6) => [&family(ETH_P_IPV6)[..], &v6.octets()].concat(),
    }
}

/// As numbered in guard.bpf.c.
const REASONS: [Reason; 10] = [
    Reason::Mac,
    Reason::Ipv4,
    Reason::Ipv6,
    Reason::Nd,
    Reason::Ra,
    Reason::Redirect,
    Reason::Dhcp,
    Reason::Tunnel,
    Reason::Control,
    Reason::Other,
];

/// The key of a counter.
pub(crate) fn denial(key: &[u8]) -> Option<(IfName, Reason)> {
    let link = key.get(..16)?.split(|byte| *byte == 0).next()?;
    let reason = u64::from_ne_bytes(*key.get(16..)?.first_chunk()?);
    let reason = REASONS.get(usize::try_from(reason).ok()?)?;
    Some((std::str::from_utf8(link).ok()?.parse().ok()?, *reason))
}

/// Packets and bytes counted, and when last, in nanoseconds since the machine's start.
pub(crate) fn count(value: &[u8]) -> Option<[u64; 3]> {
    let number = |at: usize| Some(u64::from_ne_bytes(*value.get(at..)?.first_chunk()?));
    Some([number(0)?, number(8)?, number(16)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_ipv6_address_is_taken_for_an_ipv4_one() {
        let [v4, mapped, same]: [IpAddr; 3] =
            ["10.1.2.3", "::ffff:10.1.2.3", "a01:203::"].map(|text| text.parse().unwrap());
        assert_eq!(address(v4).len(), 20);
        assert!(address(v4) != address(mapped) && address(v4) != address(same));
    }

    #[test]
    fn a_link_has_one_usual_source_of_each_family() {
        let [mac, other] = [1, 2].map(|last| Mac::from_bytes([2, 0, 0, 0, 0, last]));
        let [v4, more, v6, local]: [IpAddr; 4] =
            ["10.1.0.2", "10.1.0.3", "fd00::2", "fe80::2"].map(|text| text.parse().unwrap());
        let mut usual = Usual::read(&[0; 32]).unwrap();
        assert!(!usual.put(7, mac, local, true));
        assert!(usual.put(7, mac, v4, true));
        let parts = [&7_u32.to_ne_bytes()[..], &mac.bytes(), &1_u16.to_ne_bytes(), &[10, 1, 0, 2], &[0; 16]];
        assert_eq!(usual.bytes(), parts.concat());
        for (link, mac, of) in [(7, mac, v4), (7, mac, more), (7, other, v6), (7 + 65536, mac, v6)] {
            assert!(!usual.put(link, mac, of, true), "{link} {mac} {of}");
        }
        assert!(usual.put(7, mac, v6, true));
        assert_eq!(Usual::read(&usual.bytes()).as_ref(), Some(&usual));
        for (link, mac, of) in [(7, mac, more), (7, other, v4), (7, mac, local), (7 + 65536, mac, v4)] {
            assert!(!usual.put(link, mac, of, false), "{link} {mac} {of}");
        }
        assert!(usual.put(7, mac, v6, false));
        assert_eq!(usual.bytes(), parts.concat());
        assert!(usual.put(7, mac, v4, false) && !usual.put(7, mac, v4, false));
        assert_eq!(usual.bytes(), [0; 32]);
        assert!((0..32).all(|end| Usual::read(&[1; 32][..end]).is_none()));
        assert_eq!(self::usual(7 + 65536), self::usual(7));
    }

    #[test]
    fn a_node_has_its_place_by_its_last_bits() {
        let place = |of: &str| u32::from_ne_bytes(usual_node(of.parse().unwrap()).0);
        for alike in [["192.0.2.1", "192.0.18.1"], ["fd00::201", "fd00::2:201"]] {
            assert_eq!(place(alike[0]), place(alike[1]), "{alike:?}");
        }
        for apart in [
            ["192.0.2.1", "192.0.2.2"],
            ["fd00::1", "fd00::2"],
            ["fd00:0:0:1::1", "fd00:0:0:2::1"],
            ["10.1.0.2", "fd00::2"],
        ] {
            assert_ne!(place(apart[0]), place(apart[1]), "{apart:?}");
        }
        assert!(place("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff") < 4096);
        assert_eq!(usual_node("10.1.0.2".parse().unwrap()).1, address("10.1.0.2".parse().unwrap()));
    }

    #[test]
    fn counters_are_read() {
        let mut key = b"tt0123456789ab\0\0".to_vec();
        key.extend(7_u64.to_ne_bytes());
        assert_eq!(denial(&key), Some(("tt0123456789ab".parse().unwrap(), Reason::Tunnel)));
        for end in 0..key.len() {
            assert_eq!(denial(key.get(..end).unwrap()), None);
        }
        assert_eq!(count(&[1; 23]), None);
    }
}
