//! Laws of the nouns: text forms, arithmetic of ranges, addresses made of ids.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fmt::{Debug, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tartan_model::{
    Cidr, ContainerId, Family, IfName, InterfaceAddress, Mac, Mtu, Name, NetworkName, NodeId, NodeName, Path,
    PodName, Pool, PoolError, Vni,
};

/// Text, value, text and value again; through `Display` and through JSON.
fn round_trip<T>(value: &T) -> Result<(), TestCaseError>
where
    T: FromStr<Err: Debug> + Display + Debug + PartialEq + Serialize + DeserializeOwned,
{
    prop_assert_eq!(&value.to_string().parse::<T>().unwrap(), value);
    let json = serde_json::to_string(value).unwrap();
    prop_assert_eq!(&json, &serde_json::to_string(&value.to_string()).unwrap());
    prop_assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), value);
    Ok(())
}

/// What is accepted is printed as it was written, up to the spelling of numbers; what is refused says so briefly.
fn never_panics<T: FromStr<Err: Display> + Display>(text: &str) -> Result<(), TestCaseError> {
    match text.parse::<T>() {
        Ok(value) => prop_assert!(value.to_string().parse::<T>().is_ok()),
        Err(error) => prop_assert!(error.to_string().len() < 1500),
    }
    Ok(())
}

fn all_never_panic(text: &str) -> Result<(), TestCaseError> {
    never_panics::<Cidr>(text)?;
    never_panics::<InterfaceAddress>(text)?;
    never_panics::<Mac>(text)?;
    never_panics::<Name>(text)?;
    never_panics::<NodeName>(text)?;
    never_panics::<NetworkName>(text)?;
    never_panics::<ContainerId>(text)?;
    never_panics::<IfName>(text)?;
    never_panics::<NodeId>(text)?;
    never_panics::<PodName>(text)?;
    if let Err(error) = Path::try_from(text.to_string()) {
        prop_assert!(error.to_string().len() < 1500);
    }
    Ok(())
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<Ipv4Addr>().prop_map(IpAddr::V4), any::<Ipv6Addr>().prop_map(IpAddr::V6)]
}

fn any_length(address: IpAddr) -> impl Strategy<Value = (IpAddr, u8)> {
    let bits = Family::of(address).bits();
    (Just(address), prop_oneof![4 => 0..=bits, 1 => Just(0), 1 => Just(bits)])
}

fn any_cidr() -> impl Strategy<Value = Cidr> {
    any_address()
        .prop_flat_map(any_length)
        .prop_map(|(address, length)| Cidr::containing(address, length).unwrap())
}

/// Two ranges that often have to do with each other.
fn two_cidrs() -> impl Strategy<Value = (Cidr, Cidr)> {
    let within = any_cidr().prop_flat_map(|whole| {
        let bits = whole.family().bits();
        (Just(whole), any::<u128>(), 0..=bits).prop_map(move |(whole, position, length)| {
            let address = whole.nth(position & (whole.size() - 1)).unwrap();
            (whole, Cidr::containing(address, length).unwrap())
        })
    });
    prop_oneof![3 => within, 1 => (any_cidr(), any_cidr())]
}

const LABEL: &str = "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?";

proptest! {
    #[test]
    fn printed_addresses_parse_to_themselves(
        cidr in any_cidr(), (address, length) in any_address().prop_flat_map(any_length), mac: [u8; 6], id: [u8; 16],
    ) {
        round_trip(&cidr)?;
        round_trip(&InterfaceAddress::new(address, length).unwrap())?;
        round_trip(&InterfaceAddress::host(address))?;
        round_trip(&Mac::from_bytes(mac))?;
        round_trip(&NodeId::from_bytes(id))?;
    }

    #[test]
    fn printed_names_parse_to_themselves(
        label in LABEL,
        subdomain in prop::collection::vec(LABEL, 1..6),
        container in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,255}",
        link in "[!-$&-.0-9;-~]{3,15}",
    ) {
        let subdomain = subdomain.join(".");
        round_trip(&label.parse::<NetworkName>().unwrap())?;
        round_trip(&subdomain.parse::<Name>().unwrap())?;
        round_trip(&subdomain.parse::<NodeName>().unwrap())?;
        round_trip(&format!("{label}/{subdomain}").parse::<PodName>().unwrap())?;
        round_trip(&container.parse::<ContainerId>().unwrap())?;
        round_trip(&link.parse::<IfName>().unwrap())?;
    }

    #[test]
    fn parsers_never_panic(text in ".{0,300}") {
        all_never_panic(&text)?;
    }

    /// The same with the characters that get far into a parser.
    #[test]
    fn parsers_never_panic_on_what_looks_right(text in "[0-9a-f:./+ x%-]{0,45}") {
        all_never_panic(&text)?;
    }

    #[test]
    fn numbers_out_of_range_are_refused(number: u32) {
        for number in [number, number % 20_000_000, number % 70_000] {
            prop_assert_eq!(Vni::try_from(number).ok().map(u32::from), (1..=16_777_215).contains(&number).then_some(number));
            prop_assert_eq!(Mtu::try_from(number).ok().map(u32::from), (576..=65_535).contains(&number).then_some(number));
        }
    }

    #[test]
    fn a_node_has_a_unicast_local_mac(id: [u8; 16]) {
        let mac = Mac::of_node(&NodeId::from_bytes(id)).bytes();
        prop_assert_eq!(mac[0] & 0b11, 0b10);
        prop_assert_eq!((mac[0] >> 2, &mac[1..]), (id[0] >> 2, &id[1..6]));
    }

    #[test]
    fn a_bridge_has_a_unicast_local_mac_of_its_own(name in "[a-z][a-z0-9]{0,30}", number: u16) {
        let name = name.parse().unwrap();
        let [mac, other] = [0, 1].map(|more| Mac::of_bridge(&name, u32::from(number) + more));
        prop_assert_eq!(mac.bytes()[0] & 0b11, 0b10);
        prop_assert_ne!(mac, other);
    }
}

/// A range as two numbers: the first and the last address.
fn plain(cidr: &Cidr) -> (Family, u128, u128) {
    let (family, rest) = (cidr.family(), u32::from(cidr.family().bits() - cidr.length()));
    let first = number(cidr.first());
    (family, first, (0..rest).fold(first, |last, bit| last | (1 << bit)))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.octets().into_iter().fold(0, |sum, byte| (sum << 8) | u128::from(byte)),
        IpAddr::V6(v6) => v6.octets().into_iter().fold(0, |sum, byte| (sum << 8) | u128::from(byte)),
    }
}

proptest! {
    #[test]
    fn ranges_cover_and_overlap_as_numbers_do((a, b) in two_cidrs()) {
        let ((a_family, a_first, a_last), (b_family, b_first, b_last)) = (plain(&a), plain(&b));
        let same = a_family == b_family;
        prop_assert_eq!(a.covers(&b), same && a_first <= b_first && b_last <= a_last);
        prop_assert_eq!(a.overlaps(&b), same && a_first <= b_last && b_first <= a_last);
        prop_assert_eq!(a.overlaps(&b), b.overlaps(&a));
        prop_assert_eq!(a.contains(b.first()), same && a_first <= b_first && b_first <= a_last);
    }

    #[test]
    fn positions_count_addresses(range in any_cidr(), at: u128, near in 0u128..3, stranger in any_address()) {
        let (family, first, last) = plain(&range);
        prop_assert_eq!(range.size(), (last - first).saturating_add(1));
        for position in [at, at & (last - first), near, (last - first).saturating_sub(near), (last - first).saturating_add(near)] {
            let expected = first.checked_add(position).filter(|address| *address <= last);
            let found = range.nth(position);
            prop_assert_eq!(found.map(|address| (Family::of(address), number(address))), expected.map(|n| (family, n)));
            if let Some(address) = found {
                prop_assert_eq!(range.position(address), Some(position));
            }
        }
        let inside = Family::of(stranger) == family && (first..=last).contains(&number(stranger));
        prop_assert_eq!(range.position(stranger), inside.then(|| number(stranger) - first));
    }

    #[test]
    fn parts_tile_the_whole(range in any_cidr(), length in 0u8..=130, at: u128) {
        let bits = range.family().bits();
        if length < range.length() || length > bits {
            prop_assert_eq!((range.parts(length), range.part(length, 0)), (0, None));
            return Ok(());
        }
        let (family, first, last) = plain(&range);
        let width = Cidr::containing(range.first(), length).map(|part| plain(&part).2 - first).unwrap();
        // Width and parts are one less than their count, which may be 2^128.
        let final_part = (last - first).checked_shr(u32::from(bits - length)).unwrap_or(0);
        prop_assert_eq!(range.parts(length), final_part.saturating_add(1));
        for position in [0, at, at.min(final_part), at & final_part, final_part] {
            let expected = (position <= final_part).then(|| {
                let begin = first + position.checked_mul(width.saturating_add(1)).unwrap_or(0);
                (family, begin, begin + width)
            });
            prop_assert_eq!(range.part(length, position).map(|part| plain(&part)), expected);
        }
        if let Some(beyond) = final_part.checked_add(1) {
            prop_assert_eq!(range.part(length, beyond), None);
        }
    }

    #[test]
    fn bits_behind_the_prefix_are_refused_with_what_was_meant((address, length) in any_address().prop_flat_map(any_length)) {
        let written = format!("{address}/{length}");
        let meant = Cidr::containing(address, length).unwrap();
        match written.parse::<Cidr>() {
            Ok(cidr) => prop_assert_eq!(cidr.first(), address),
            Err(error) => {
                prop_assert_ne!(meant.first(), address);
                let advice = format!("write {meant}");
                prop_assert!(error.to_string().ends_with(&advice));
            }
        }
        prop_assert_eq!(written.parse::<InterfaceAddress>().unwrap().network(), meant);
    }

    #[test]
    fn a_pool_is_cut_into_blocks_that_hold_pods(range in any_cidr(), size in prop::option::of(0u8..=130)) {
        let longest = range.family().bits() - 2;
        match Pool::new(range, size) {
            Ok(pool) => {
                prop_assert!(size.is_none_or(|size| size == pool.block_size()));
                prop_assert!((range.length()..=longest).contains(&pool.block_size()));
                prop_assert!(pool.has_block(&range.part(pool.block_size(), pool.blocks() - 1).unwrap()));
                let json = serde_json::to_string(&pool).unwrap();
                match serde_json::from_str::<Pool>(&json) {
                    Ok(read) => prop_assert_eq!(read, pool),
                    Err(_) => prop_assert!(pool.usable().is_err()),
                }
            }
            Err(PoolError::TooSmall { .. }) => prop_assert!(range.size() < 16),
            Err(PoolError::BlockSize { .. }) => {
                prop_assert!(size.is_some_and(|size| size < range.length() || size > longest));
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}

#[test]
fn bounds_and_reservations_of_a_pool() {
    let read = |more: &str| {
        serde_json::from_str::<Pool>(&format!(r#"{{"cidr": "10.0.0.0/16", "blockSize": 24{more}}}"#))
            .map_err(|error| error.to_string().split(" at line").next().unwrap_or_default().to_string())
    };
    let text = r#", "firstBlock": "10.0.4.0/24", "lastBlock": "10.0.5.0/24",
        "reservations": [{"node": "n2", "block": "10.0.5.0/24"}, {"node": "n1", "block": "10.0.0.0/24"}]"#;
    let pool = read(text).unwrap();
    assert_eq!(pool.common(), (4, 5));
    assert_eq!(serde_json::from_str::<Pool>(&serde_json::to_string(&pool).unwrap()).unwrap(), pool);
    let serves = |block: &str, node: &str| pool.serves(&block.parse().unwrap(), &node.parse().unwrap());
    assert!(serves("10.0.4.0/24", "n1") && serves("10.0.4.0/24", "n2"), "common");
    assert!(serves("10.0.5.0/24", "n2") && !serves("10.0.5.0/24", "n1"), "reserved within the bounds");
    assert!(serves("10.0.0.0/24", "n1") && !serves("10.0.0.0/24", "n2"), "reserved outside the bounds");
    assert!(!serves("10.0.6.0/24", "n1") && !serves("10.0.3.0/24", "n1"), "outside the bounds");
    assert!(!serves("10.0.4.0/25", "n1") && !serves("10.1.4.0/24", "n1"), "no block of it");
    let wrong = [
        (r#", "firstBlock": "10.0.4.0/25""#, "firstBlock 10.0.4.0/25 is no block of pool 10.0.0.0/16"),
        (r#", "lastBlock": "10.1.4.0/24""#, "write a /24 in it, such as 10.0.0.0/24"),
        (r#", "firstBlock": "10.0.4.0/24", "lastBlock": "10.0.3.0/24""#, "is behind lastBlock"),
        (r#", "reservations": [{"node": "n1", "block": "fd00::/64"}]"#, "reservation fd00::/64 is no block"),
        (r#", "reservations": [{"node": "N 1", "block": "10.0.3.0/24"}]"#, "N 1"),
        (r#", "reservations": [{"node": "n1", "block": "10.0.3.0/24", "x": 1}]"#, "unknown field"),
        (
            r#", "reservations": [{"node": "n1", "block": "10.0.3.0/24"}, {"node": "n2", "block": "10.0.3.0/24"}]"#,
            "block 10.0.3.0/24 is reserved twice, for n1 and n2",
        ),
    ];
    for (text, says) in wrong {
        let error = read(text).unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn the_edges_of_both_families() {
    for (text, last) in
        [("0.0.0.0/0", "255.255.255.255"), ("::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]
    {
        let everything: Cidr = text.parse().unwrap();
        let last: IpAddr = last.parse().unwrap();
        let bits = everything.family().bits();
        assert_eq!(everything, Cidr::everything(everything.family()));
        assert_eq!(everything.nth(everything.position(last).unwrap()), Some(last));
        assert_eq!(everything.part(0, 0), Some(everything));
        assert_eq!(everything.part(bits, everything.position(last).unwrap()), Some(Cidr::host(last)));
        assert_eq!((everything.part(0, 1), everything.part(bits + 1, 0)), (None, None));
        let host = Cidr::host(last);
        assert_eq!((host.size(), host.nth(0), host.nth(1)), (1, Some(last), None));
        assert!(everything.covers(&host) && everything.overlaps(&host) && !host.covers(&everything));
    }
    assert!(!Cidr::everything(Family::Ipv6).overlaps(&Cidr::everything(Family::Ipv4)));
}

#[test]
fn what_is_not_meant_is_refused() {
    for text in ["+f:00:00:00:00:00", "0:0:0:0:0:0", "02:00:5e:10:00:01:", "02-00-5e-10-00-01"] {
        assert!(text.parse::<Mac>().is_err(), "{text}");
    }
    for text in
        ["10.0.0.0", "10.0.0.0/33", "fe80::/129", "10.0.0.0/-1", "10.0.0/8", " 10.0.0.0/8", "10.0.0.0/+8"]
    {
        assert!(text.parse::<Cidr>().is_err(), "{text}");
    }
    for text in ["", ".", "..", "a/b", "a:b", "a%d", "a b", "sixteen-bytes-xx", "ü"] {
        assert!(text.parse::<IfName>().is_err(), "{text}");
    }
    for text in ["", "-a", "a-", "A", "a..b", "a.", "a_b", &"a".repeat(254)] {
        assert!(text.parse::<NodeName>().is_err() && text.parse::<NetworkName>().is_err(), "{text}");
    }
    for text in ["a", "a/", "/a", "a/b/c"] {
        assert!(text.parse::<PodName>().is_err(), "{text}");
    }
    assert!("a.b".parse::<NetworkName>().is_err() && "a".repeat(64).parse::<NetworkName>().is_err());
    assert!("a".repeat(253).parse::<NodeName>().is_ok());
    assert!("+f".repeat(16).parse::<NodeId>().is_err());
}

#[test]
fn a_pool_of_addresses_that_no_pod_can_have_is_refused() {
    let read = |cidr: &str| serde_json::from_str::<Pool>(&format!(r#"{{"cidr": "{cidr}"}}"#));
    for range in
        ["127.0.0.0/8", "224.0.0.0/8", "169.254.0.0/16", "0.0.0.0/0", "::/56", "fe80::/56", "ff00::/56"]
    {
        assert!(read(range).unwrap_err().to_string().contains("take another range"), "{range}");
    }
    for range in ["10.0.0.0/8", "100.64.0.0/10", "198.18.0.0/15", "240.0.0.0/4", "fd00::/48", "2001:db8::/48"]
    {
        assert!(read(range).is_ok(), "{range}");
    }
}
