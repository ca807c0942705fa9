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
use tartan_fabric::{Underlay, Way, choose, path_mtu, pod_mtu, vxlan_device};
use tartan_model::{Family, InterfaceAddress, Mtu, Node, NodeId, Path, Vni};

const TUNNEL: [Path; 1] = [Path::Vxlan];
const ROUTE: [Path; 1] = [Path::Direct];
const BOTH: [Path; 2] = [Path::Direct, Path::Vxlan];

fn node(name: &str, mtu: u32, addresses: &[&str]) -> Node {
    Node {
        id: NodeId::from_bytes([7; 16]),
        name: name.parse().unwrap(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        public_addresses: Vec::new(),
        mtu: mtu.try_into().unwrap(),
    }
}

fn behind(public: &[&str], node: Node) -> Node {
    Node { public_addresses: public.iter().map(|text| text.parse().unwrap()).collect(), ..node }
}

fn underlay(own: &Node, peer: &Node) -> Option<(Family, IpAddr, IpAddr)> {
    let reached = choose(own, peer, &TUNNEL, Family::Ipv4).reached?;
    Some((reached.underlay.family, reached.underlay.local, reached.underlay.remote))
}

fn reason(own: &Node, peer: &Node, paths: &[Path], pods: Family) -> String {
    let Way { reached, blocked } = choose(own, peer, paths, pods);
    assert_eq!((reached, blocked.len()), (None, 1));
    format!("{}: {}", blocked[0].path, blocked[0].reason)
}

fn direct(own: &Node, peer: &Node, pods: Family) -> Option<IpAddr> {
    choose(own, peer, &ROUTE, pods).reached.map(|reached| reached.underlay.remote)
}

/// On two links of each family, with two prefix lengths.
fn any_node() -> impl Strategy<Value = Node> {
    let v4 = (1u8..4, 0u8..2, prop_oneof![Just(24u8), Just(16)]);
    let v4 = prop::option::of(v4.prop_map(|(last, net, length)| {
        InterfaceAddress::new(IpAddr::from([10, 9, net, last]), length).unwrap()
    }));
    let v6 = prop::option::of((1u16..4, 0u16..2).prop_map(|(last, net)| {
        InterfaceAddress::new(IpAddr::from([0x2001, 0xdb8, 0, net, 0, 0, 0, last]), 64).unwrap()
    }));
    let public = prop::option::of((1u8..3).prop_map(|last| IpAddr::from([203, 0, 113, last])));
    (v4, v6, public, 576u32..=65535, any::<bool>()).prop_map(|(v4, v6, public, mtu, swapped)| {
        let mut addresses: Vec<_> = [v4, v6].into_iter().flatten().collect();
        if swapped {
            addresses.reverse();
        }
        Node { addresses, public_addresses: public.into_iter().collect(), ..node("n1", mtu, &[]) }
    })
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]
}

fn any_paths() -> impl Strategy<Value = Vec<Path>> {
    prop_oneof![
        Just(TUNNEL.to_vec()),
        Just(ROUTE.to_vec()),
        Just(BOTH.to_vec()),
        Just(vec![Path::Vxlan, Path::Direct])
    ]
}

proptest! {
    /// Both choose one path, and what each sends to is what the other is known by there.
    #[test]
    fn reach_is_symmetric(a in any_node(), b in any_node(), paths in any_paths(), pods in family()) {
        let (there, back) = (choose(&a, &b, &paths, pods).reached, choose(&b, &a, &paths, pods).reached);
        prop_assert_eq!(there.map(|r| (r.path, r.underlay.family)), back.map(|r| (r.path, r.underlay.family)));
        if let (Some(there), Some(back)) = (there, back) {
            let known = |node: &Node, path, family| match path {
                Path::Direct => node.address(family),
                Path::Vxlan => node.outer_address(family),
            };
            let Underlay { family, local, remote } = there.underlay;
            prop_assert_eq!(Some(remote), known(&b, there.path, family));
            prop_assert_eq!(Some(back.underlay.remote), known(&a, there.path, family));
            prop_assert_eq!(Some(local), a.address(family));
        }
    }

    #[test]
    fn the_first_path_that_works_is_taken_and_the_better_ones_have_reasons(
        a in any_node(), b in any_node(), paths in any_paths(), pods in family(),
    ) {
        let Way { reached, blocked } = choose(&a, &b, &paths, pods);
        let refused: Vec<Path> = blocked.iter().map(|blocked| blocked.path).collect();
        let taken = reached.map(|reached| reached.path);
        prop_assert_eq!(refused.into_iter().chain(taken).collect::<Vec<_>>(), &paths[..blocked.len() + usize::from(taken.is_some())]);
        prop_assert!(taken.is_some() || blocked.len() == paths.len());
    }

    #[test]
    fn a_tunnel_takes_the_first_family_with_two_addresses(a in any_node(), b in any_node()) {
        let outer = |node: &Node, family| node.outer_address(family);
        let differ = |family: &Family| matches!((outer(&a, *family), outer(&b, *family)), (Some(x), Some(y)) if x != y);
        let expected = Family::ALL.into_iter().find(differ);
        prop_assert_eq!(underlay(&a, &b).map(|found| found.0), expected);
    }

    /// What is sent there without a tunnel comes to that node, and its answer to this one.
    #[test]
    fn a_direct_peer_is_in_the_network_of_both(a in any_node(), b in any_node(), pods in family()) {
        if let Some(reached) = choose(&a, &b, &ROUTE, pods).reached {
            let family = reached.underlay.family;
            let (here, there) = (a.interface_address(family).unwrap(), b.interface_address(family).unwrap());
            prop_assert_eq!(reached.underlay.remote, there.address());
            prop_assert!(here.network().contains(there.address()) && there.network().contains(here.address()));
            prop_assert_eq!(a.public_address(family), b.public_address(family));
            prop_assert!(family == pods || pods == Family::Ipv4);
        }
    }

    #[test]
    fn pods_fit_every_way_out_of_their_node(
        a in any_node(), b in any_node(), paths in any_paths(), pods in family(),
        fixed in prop::option::of(576u32..=65535),
    ) {
        let fixed = fixed.map(|bytes| Mtu::try_from(bytes).unwrap());
        let mtu = pod_mtu(&a, &paths, fixed);
        prop_assert!(fixed.is_none_or(|fixed| mtu <= fixed));
        if let Some(reached) = choose(&a, &b, &paths, pods).reached {
            let alike = Node { mtu: a.mtu, ..b.clone() };
            prop_assert!(mtu <= path_mtu(&a, &alike, &reached));
            prop_assert_eq!(path_mtu(&a, &b, &reached), path_mtu(&b, &a, &reached));
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
    let reason = |own, peer| reason(own, peer, &TUNNEL, Family::Ipv4);
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
        reason(&n1, &n2, &TUNNEL, Family::Ipv4),
        "vxlan: n2 names this node's own address 10.0.2.15; give each node an address of its own"
    );
    let n3 = node("n3", 1500, &["10.0.2.15/24", "2001:db8::3/64"]);
    let n4 = node("n4", 1500, &["10.0.2.15/24", "2001:db8::4/64"]);
    assert_eq!(underlay(&n3, &n4).unwrap().0, Family::Ipv6);
}

#[test]
fn the_overhead_is_that_of_the_widest_underlay() {
    let v4 = node("n1", 1500, &["192.0.2.1/24"]);
    let dual = node("n2", 1500, &["192.0.2.2/24", "2001:db8::1/64"]);
    let jumbo = node("n3", 9000, &["192.0.2.3/24"]);
    let mtu = |bytes: u32| Mtu::try_from(bytes).unwrap();
    assert_eq!(pod_mtu(&v4, &TUNNEL, None), mtu(1450));
    assert_eq!(pod_mtu(&dual, &TUNNEL, None), mtu(1430));
    assert_eq!(pod_mtu(&v4, &TUNNEL, Some(mtu(1400))), mtu(1400));
    assert_eq!(pod_mtu(&v4, &TUNNEL, Some(mtu(1500))), mtu(1450));
    assert_eq!(pod_mtu(&dual, &BOTH, None), mtu(1430));
    assert_eq!(pod_mtu(&dual, &ROUTE, None), mtu(1500));
    let by = |own: &Node, peer: &Node, paths: &[Path]| {
        path_mtu(own, peer, &choose(own, peer, paths, Family::Ipv4).reached.unwrap())
    };
    assert_eq!(by(&jumbo, &dual, &TUNNEL), mtu(1450));
    assert_eq!(by(&jumbo, &dual, &BOTH), mtu(1500));
    let six = [node("n4", 9000, &["2001:db8::4/64"]), node("n5", 9000, &["2001:db8::5/64"])];
    assert_eq!(by(&six[0], &six[1], &TUNNEL), mtu(8930));
}

#[test]
fn packets_go_straight_to_a_peer_on_the_link_only() {
    let n1 = node("n1", 1500, &["172.30.0.1/16"]);
    let near = node("n2", 1500, &["172.30.0.2/16"]);
    let far = node("n3", 1500, &["172.29.0.3/16"]);
    let odd = node("n4", 1500, &["172.30.9.4/24"]);
    assert_eq!(direct(&n1, &near, Family::Ipv4), near.address(Family::Ipv4));
    assert_eq!(
        reason(&n1, &far, &ROUTE, Family::Ipv4),
        "direct: n3 is not on this node's link: its address 172.29.0.3 is not in 172.30.0.0/16"
    );
    assert_eq!(
        reason(&n1, &odd, &ROUTE, Family::Ipv4),
        "direct: n4 does not take this node to be on its link: 172.30.0.1 is not in 172.30.9.0/24; give both addresses the same prefix length"
    );
    let way = choose(&n1, &far, &BOTH, Family::Ipv4);
    assert_eq!((way.reached.unwrap().path, way.blocked.len()), (Path::Vxlan, 1));
}

#[test]
fn ipv4_takes_a_next_hop_of_either_family_and_ipv6_its_own() {
    let v4 = [node("n1", 1500, &["192.0.2.1/24"]), node("n2", 1500, &["192.0.2.2/24"])];
    let v6 = [node("n1", 1500, &["2001:db8::1/64"]), node("n2", 1500, &["2001:db8::2/64"])];
    let dual = node("n3", 1500, &["2001:db8::3/64", "192.0.2.3/24"]);
    assert_eq!(direct(&v6[0], &v6[1], Family::Ipv4), v6[1].address(Family::Ipv6));
    assert_eq!(direct(&v6[0], &v6[1], Family::Ipv6), v6[1].address(Family::Ipv6));
    assert_eq!(direct(&v4[0], &dual, Family::Ipv4), dual.address(Family::Ipv4));
    assert_eq!(direct(&dual, &v6[0], Family::Ipv4), v6[0].address(Family::Ipv6));
    assert_eq!(
        reason(&v4[0], &v4[1], &ROUTE, Family::Ipv6),
        "direct: ipv6 packets need a next hop that both nodes have an address for: this node has ipv4, n2 has ipv4"
    );
}

#[test]
fn behind_nat_the_public_address_counts() {
    let n1 = node("n1", 1500, &["172.30.0.1/16"]);
    let n2 = behind(&["203.0.113.2"], node("n2", 1500, &["172.30.0.2/16"]));
    let n3 = behind(&["203.0.113.2"], node("n3", 1500, &["172.30.0.3/16"]));
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    assert_eq!(underlay(&n1, &n2), Some((Family::Ipv4, ip("172.30.0.1"), ip("203.0.113.2"))));
    assert_eq!(underlay(&n2, &n1), Some((Family::Ipv4, ip("172.30.0.2"), ip("172.30.0.1"))));
    let nat = "n2 has the public address 203.0.113.2: behind NAT its own address may be of another link than it looks";
    assert_eq!(reason(&n1, &n2, &ROUTE, Family::Ipv4), format!("direct: {nat}"));
    assert_eq!(reason(&n2, &n1, &ROUTE, Family::Ipv4), format!("direct: {nat}"));
    // Behind one NAT the tunnel's port leads to one of them only; on their own link they meet.
    assert_eq!(
        reason(&n2, &n3, &TUNNEL, Family::Ipv4),
        "vxlan: n3 names this node's own address 203.0.113.2; give each node an address of its own"
    );
    assert_eq!(direct(&n2, &n3, Family::Ipv4), n3.address(Family::Ipv4));
}

#[test]
fn no_allowed_path_is_no_way() {
    let n1 = node("n1", 1500, &["192.0.2.1/24"]);
    assert_eq!(choose(&n1, &n1, &[], Family::Ipv4), Way { reached: None, blocked: Vec::new() });
}
