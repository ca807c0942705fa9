//! The maps of the programs: keys and values byte by byte, as guard.bpf.c has them.

use std::net::IpAddr;

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

/// Notes a source of a link among its usual ones (`struct usual`), or takes it out; whether that changed anything. A link has one
/// of each family there, from one MAC address; what it seldom sends from is not worth the place.
pub(crate) fn put_usual(usual: &mut [u8], mac: Mac, of: IpAddr, there: bool) -> bool {
    let (bit, at, address) = match of {
        IpAddr::V4(v4) => (1, 8..12, v4.octets().to_vec()),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => return false,
        IpAddr::V6(v6) => (2, 12..28, v6.octets().to_vec()),
    };
    let Some((head, _)) = usual.split_first_chunk::<8>() else { return false };
    let [own @ .., low, high] = *head;
    let families = u16::from_ne_bytes([low, high]);
    let is_known = families & bit != 0;
    let is_same = is_known && own == mac.bytes() && usual.get(at.clone()) == Some(&address);
    let is_free = families == 0 || (own == mac.bytes() && !is_known);
    if there && !is_free || !there && !is_same {
        return false;
    }
    let families = families ^ bit;
    let own = if families == 0 { [0; 6] } else { mac.bytes() };
    let address = if there { address } else { vec![0; address.len()] };
    for (at, bytes) in [(0..6, &own[..]), (6..8, &families.to_ne_bytes()), (at, &address)] {
        if let Some(place) = usual.get_mut(at) {
            place.copy_from_slice(bytes);
        }
    }
    true
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
        let empty = vec![0; 28];
        let mut usual = empty.clone();
        assert!(!put_usual(&mut usual, mac, local, true));
        assert!(put_usual(&mut usual, mac, v4, true));
        let one = usual.clone();
        assert_eq!(one, [&mac.bytes()[..], &1_u16.to_ne_bytes(), &[10, 1, 0, 2], &[0; 16]].concat());
        for (mac, of) in [(mac, v4), (mac, more), (other, more), (other, v6)] {
            assert!(!put_usual(&mut usual, mac, of, true), "{mac} {of}");
        }
        assert!(put_usual(&mut usual, mac, v6, true));
        for (mac, of) in [(mac, more), (other, v4), (other, v6), (mac, local)] {
            assert!(!put_usual(&mut usual, mac, of, false), "{mac} {of}");
        }
        assert!(put_usual(&mut usual, mac, v6, false));
        assert_eq!(usual, one);
        assert!(put_usual(&mut usual, mac, v4, false));
        assert_eq!(usual, empty);
        assert!(!put_usual(&mut usual, mac, v4, false) && !put_usual(&mut [], mac, v4, true));
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
