//! Laws and plain cases of how nodes reach each other.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::net::IpAddr;

use proptest::prelude::*;
use tartan_fabric::{Reached, Way, choose, path_mtu, pod_mtu, vxlan_device};
use tartan_model::{Family, InterfaceAddress, Mtu, Node, NodeId, Path, Vni};

const PATHS: [Path; 1] = [Path::Vxlan];

fn node(name: &str, mtu: u32, addresses: &[&str]) -> Node {
    Node {
        id: NodeId::from_bytes([7; 16]),
        name: name.parse().unwrap(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        mtu: mtu.try_into().unwrap(),
    }
}

fn underlay(own: &Node, peer: &Node) -> Option<(Family, IpAddr, IpAddr)> {
    match choose(own, peer, &PATHS) {
        Way::Through(Reached { underlay: u, .. }) => Some((u.family, u.local, u.remote)),
        Way::None(_) => None,
    }
}

fn reason(own: &Node, peer: &Node) -> String {
    match choose(own, peer, &PATHS) {
        Way::Through(reached) => panic!("reached: {reached:?}"),
        Way::None(blocked) => {
            assert_eq!(blocked.len(), 1);
            format!("{}: {}", blocked[0].path, blocked[0].reason)
        }
    }
}

fn any_node() -> impl Strategy<Value = Node> {
    let v4 = prop::option::of((1u8..4).prop_map(|last| IpAddr::from([192, 0, 2, last])));
    let v6 = prop::option::of((1u16..4).prop_map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])));
    (v4, v6, 576u32..=65535, any::<bool>()).prop_map(|(v4, v6, mtu, swapped)| {
        let mut addresses: Vec<_> = [v4, v6].into_iter().flatten().map(InterfaceAddress::host).collect();
        if swapped {
            addresses.reverse();
        }
        Node { addresses, ..node("n1", mtu, &[]) }
    })
}

proptest! {
    #[test]
    fn reach_is_symmetric(a in any_node(), b in any_node()) {
        let back = underlay(&b, &a).map(|(family, local, remote)| (family, remote, local));
        prop_assert_eq!(underlay(&a, &b), back);
    }

    #[test]
    fn reach_takes_the_first_family_with_two_addresses(a in any_node(), b in any_node()) {
        let differ = |family: &Family| matches!((a.address(*family), b.address(*family)), (Some(x), Some(y)) if x != y);
        let expected = Family::ALL.into_iter().find(differ);
        prop_assert_eq!(underlay(&a, &b).map(|found| found.0), expected);
    }

    #[test]
    fn pods_fit_every_way_out_of_their_node(a in any_node(), b in any_node(), fixed in prop::option::of(576u32..=65535)) {
        let fixed = fixed.map(|bytes| Mtu::try_from(bytes).unwrap());
        let mtu = pod_mtu(&a, fixed);
        prop_assert!(fixed.is_none_or(|fixed| mtu <= fixed));
        if let Some((family, _, _)) = underlay(&a, &b) {
            prop_assert!(mtu <= a.mtu.less(family.vxlan_overhead()));
            prop_assert_eq!(path_mtu(&a, &b, family), path_mtu(&b, &a, family));
        }
    }

    #[test]
    fn vxlan_devices_have_one_name_for_each_network_and_family(vni in 1u32..1 << 24) {
        let names = Family::ALL.map(|family| vxlan_device(Vni::try_from(vni).unwrap(), family).to_string());
        prop_assert_eq!(names, [format!("tartan.{vni}"), format!("tart6.{vni}")]);
    }
}

#[test]
fn ipv4_goes_first() {
    let n1 = node("n1", 1500, &["2001:db8::1/64", "192.0.2.1/24"]);
    let n2 = node("n2", 1500, &["2001:db8::2/64", "192.0.2.2/24"]);
    assert_eq!(underlay(&n1, &n2).unwrap().0, Family::Ipv4);
}

#[test]
fn nodes_without_a_common_family_say_what_each_has() {
    let n1 = node("n1", 1500, &["192.0.2.1/24"]);
    let n2 = node("n2", 1500, &["2001:db8::2/64"]);
    assert_eq!(reason(&n1, &n2), "vxlan: no common address family: this node has ipv4, n2 has ipv6");
    assert_eq!(
        reason(&n2, &node("n3", 1500, &[])),
        "vxlan: no common address family: this node has ipv6, n3 has no address"
    );
}

#[test]
fn a_shared_address_is_no_way_but_another_family_is() {
    let n1 = node("n1", 1500, &["10.0.2.15/24"]);
    let n2 = node("n2", 1500, &["10.0.2.15/24"]);
    assert_eq!(
        reason(&n1, &n2),
        "vxlan: n2 names this node's own address 10.0.2.15; give each node an address of its own"
    );
    let n3 = node("n3", 1500, &["10.0.2.15/24", "2001:db8::3/64"]);
    let n4 = node("n4", 1500, &["10.0.2.15/24", "2001:db8::4/64"]);
    assert_eq!(underlay(&n3, &n4).unwrap().0, Family::Ipv6);
}

#[test]
fn the_overhead_is_that_of_the_widest_underlay() {
    let v4 = node("n1", 1500, &["192.0.2.1/24"]);
    let dual = node("n2", 1500, &["192.0.2.2/24", "2001:db8::2/64"]);
    let jumbo = node("n3", 9000, &["192.0.2.3/24"]);
    let mtu = |bytes: u32| Mtu::try_from(bytes).unwrap();
    assert_eq!(pod_mtu(&v4, None), mtu(1450));
    assert_eq!(pod_mtu(&dual, None), mtu(1430));
    assert_eq!(pod_mtu(&v4, Some(mtu(1400))), mtu(1400));
    assert_eq!(pod_mtu(&v4, Some(mtu(1500))), mtu(1450));
    assert_eq!(path_mtu(&jumbo, &dual, Family::Ipv4), mtu(1450));
    assert_eq!(path_mtu(&jumbo, &jumbo, Family::Ipv6), mtu(8930));
}

#[test]
fn no_allowed_path_is_no_way() {
    let n1 = node("n1", 1500, &["192.0.2.1/24"]);
    assert_eq!(choose(&n1, &n1, &[]), Way::None(Vec::new()));
}
