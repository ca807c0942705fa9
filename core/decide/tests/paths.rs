//! Stories of paths: which way a peer is reached, and what of it stands in the kernel.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use tartan_api::network::Network;
use tartan_api::object::{Object, parse};
use tartan_decide::{Fact, Probed, Scope, World};
use tartan_model::{NoUplink, Node, NodeId, Uplink};

fn id(n: u8) -> NodeId {
    NodeId::from_bytes([n; 16])
}

fn node(n: u8, addresses: &[&str]) -> Node {
    Node {
        id: id(n),
        name: format!("n{n}").parse().unwrap(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        public_addresses: Vec::new(),
        mtu: 1500.try_into().unwrap(),
    }
}

fn network(spec: &str) -> Network {
    let text = format!(
        "{{apiVersion: tartan.dev/v1alpha1, kind: ClusterNetwork, metadata: {{name: default}}, spec: {{{spec}}}}}"
    );
    let Object::ClusterNetwork(object) = parse("test", &text).unwrap().remove(0) else { panic!() };
    object.resolve().unwrap()
}

/// n1 in a network, with a block of its own and one for each peer: 10.244.N.0/24 and fd00:10:244:N::/64.
fn world(own: &[&str], spec: &str, peers: &[Node]) -> World {
    let mut world = World::new(id(1), "n1".parse().unwrap());
    let own = node(1, own);
    let uplink = Uplink {
        name: "eth0".parse().unwrap(),
        mtu: own.mtu,
        addresses: own.addresses.clone(),
        public_addresses: Vec::new(),
        accepts_routers: false,
        is_strict: false,
    };
    let network = network(spec);
    let mut facts =
        vec![Fact::Uplink(Ok(uplink)), Fact::Network(network.name.clone(), Some(network.clone()))];
    for peer in peers.iter().chain([&own]) {
        let n = peer.id.bytes()[0];
        facts.push(Fact::Node(peer.id, Some(peer.clone())));
        for block in [format!("10.244.{n}.0/24"), format!("fd00:10:244:{n}::/64")] {
            let block: tartan_model::Cidr = block.parse().unwrap();
            if network.has_family(block.family()) {
                facts.push(Fact::Block(network.name.clone(), block, Some(peer.id)));
            }
        }
    }
    facts.push(Fact::InSync);
    facts.into_iter().for_each(|fact| drop(world.learn(fact).unwrap()));
    world
}

const DUAL: &str = "pools: [{cidr: 10.244.0.0/16}, {cidr: \"fd00:10:244::/56\"}]";

/// The wanted rows of these tables, as text.
fn rows(world: &World, tables: &[&str]) -> Vec<String> {
    let (rows, _) = world.wanted();
    let texts = rows.iter().map(ToString::to_string);
    texts.filter(|text| tables.iter().any(|table| text.starts_with(table))).collect()
}

fn routes_to_peers(world: &World) -> Vec<String> {
    rows(world, &["route 10", "route fd"]).into_iter().filter(|text| text.contains(" via ")).collect()
}

fn peer(world: &World, name: &str) -> (Option<String>, Vec<String>) {
    let row = world
        .report_peers(|_| None, |_| Probed::default())
        .into_iter()
        .find(|row| row.node.to_string() == name)
        .unwrap();
    let blocked = row.blocked.iter().map(|blocked| format!("{}: {}", blocked.path, blocked.reason));
    (row.path.map(|path| path.to_string()), blocked.collect())
}

#[test]
fn host_gateway_has_no_tunnel_at_all() {
    let spec = format!("{DUAL}, paths: [direct], attachment: routed");
    let peers = [node(2, &["172.30.0.2/16", "fd00:30::2/64"])];
    let world = world(&["172.30.0.1/16", "fd00:30::1/64"], &spec, &peers);
    assert_eq!(
        routes_to_peers(&world),
        [
            "route 10.244.2.0/24 via 172.30.0.2 dev eth0 onlink src 10.244.1.0",
            "route fd00:10:244:2::/64 via fd00:30::2 dev eth0 onlink src fd00:10:244:1::",
        ]
    );
    assert_eq!(rows(&world, &["fdb", "neighbor", "element inet vnis", "element inet tunnels"]), [""; 0]);
    assert_eq!(rows(&world, &["sysctl net.ipv4.conf.eth0"]), ["sysctl net.ipv4.conf.eth0.forwarding = 1"]);
    assert_eq!(peer(&world, "n2"), (Some("direct".into()), vec![]));
}

#[test]
fn where_there_is_no_tunnel_the_loopback_interface_has_the_own_addresses() {
    let own = |world: &World| rows(world, &["link", "address"]);
    let spec = format!("{DUAL}, paths: [direct], attachment");
    let addresses = |link: &str| {
        ["10.244.1.0/32", "fd00:10:244:1::/128"].map(|address| format!("address {address} dev {link}"))
    };
    let mut routed = world(&["172.30.0.1/16"], &format!("{spec}: routed"), &[]);
    let links = own(&routed);
    assert_eq!(links.len(), 3, "a kernel without marks needs a link: {links:?}");
    assert!(links[0].starts_with("link tartan0 bridge") && links[0].contains("mtu 1500"), "{links:?}");
    assert_eq!(&links[1..], addresses("tartan0"));
    routed.learn(Fact::MarksAddresses).unwrap();
    assert_eq!(own(&routed), addresses("lo"));
    let opened = |world: &World| rows(world, &["sysctl net.ipv6.conf.lo."]);
    assert_eq!(opened(&routed), ["sysctl net.ipv6.conf.lo.disable_ipv6 = 0"]);
    // Pods on the bridge find the node's addresses there.
    let mut bridged = world(&["172.30.0.1/16"], &format!("{spec}: bridge"), &[]);
    bridged.learn(Fact::MarksAddresses).unwrap();
    assert_eq!(own(&bridged).iter().filter(|row| row.contains("dev lo")).count(), 0, "{:?}", own(&bridged));
    assert_eq!(opened(&bridged), [""; 0]);
}

#[test]
fn a_peer_behind_a_router_takes_the_tunnel() {
    let spec = "paths: [direct, vxlan]";
    let peers = [node(2, &["172.30.0.2/16"]), node(3, &["172.29.0.3/16"])];
    let world = world(&["172.30.0.1/16"], spec, &peers);
    assert_eq!(
        routes_to_peers(&world),
        [
            "route 10.244.2.0/24 via 172.30.0.2 dev eth0 onlink src 10.244.1.0 mtu 1450",
            "route 10.244.3.0/24 via 10.244.3.0 dev tartan.1 onlink src 10.244.1.0",
        ]
    );
    assert_eq!(rows(&world, &["fdb"]).len(), 1);
    assert_eq!(
        peer(&world, "n3"),
        (
            Some("vxlan".into()),
            vec![
                "direct: n3 is not on this node's link: its address 172.29.0.3 is not in 172.30.0.0/16"
                    .into()
            ]
        )
    );
}

#[test]
fn each_family_of_pods_has_a_path_of_its_own() {
    let spec = format!("{DUAL}, paths: [direct, vxlan]");
    let world = world(&["172.30.0.1/16"], &spec, &[node(2, &["172.30.0.2/16"])]);
    let routes = routes_to_peers(&world);
    assert!(routes[0].contains("10.244.2.0/24 via 172.30.0.2 dev eth0"), "{routes:?}");
    assert!(
        routes[1].contains("fd00:10:244:2::/64 via fe80:") && routes[1].contains("tartan.1"),
        "{routes:?}"
    );
    let (path, blocked) = peer(&world, "n2");
    assert_eq!((path.as_deref(), blocked.len()), (Some("vxlan"), 1), "the worse of the two");
    assert!(blocked[0].starts_with("direct: ipv6 packets need a next hop"), "{blocked:?}");
}

#[test]
fn where_less_fits_than_a_link_takes_routes_say_so() {
    let small = Node { mtu: 1400.try_into().unwrap(), ..node(2, &["172.30.0.2/16"]) };
    let usual = " onlink src 10.244.1.0";
    for (spec, [to_small, to_usual]) in [
        ("paths: [vxlan]", [" mtu 1350", usual]),
        ("paths: [direct]", [" mtu 1400", usual]),
        // Pods have less than the uplink, as some of what they send takes the tunnel.
        ("paths: [direct, vxlan]", [" mtu 1400", " mtu 1450"]),
        ("paths: [direct], mtu: 1300", [" mtu 1300", " mtu 1300"]),
        ("paths: [vxlan], mtu: 1300", [usual, usual]),
    ] {
        let world = world(&["172.30.0.1/16"], spec, &[small.clone(), node(3, &["172.30.0.3/16"])]);
        let routes = routes_to_peers(&world);
        assert!(routes[0].ends_with(to_small) && routes[1].ends_with(to_usual), "{routes:?}");
    }
}

#[test]
fn two_nodes_with_one_public_address_are_not_told_apart() {
    let behind =
        |n: u8, own: &str| Node { public_addresses: vec!["203.0.113.9".parse().unwrap()], ..node(n, &[own]) };
    let mut world = world(&["172.30.0.1/16"], "", &[behind(2, "10.1.0.2/24"), behind(3, "10.1.0.3/24")]);
    let reason = "vxlan: n2 and n3 both have the public address 203.0.113.9, and only one of them can be meant by it; give each a public address of its own";
    assert_eq!(peer(&world, "n2"), (None, vec![reason.into()]));
    assert_eq!(peer(&world, "n3").0, None);
    // Once the other is gone this one is meant.
    let learned = world.learn(Fact::Node(id(3), None)).unwrap();
    assert!(learned.dirty.contains(&Scope::Peer(id(2))));
    assert_eq!(peer(&world, "n2"), (Some("vxlan".into()), vec![]));
    assert!(rows(&world, &["fdb"])[0].contains("dst 203.0.113.9"));
    let nodes = rows(&world, &["element inet nodes_ipv4"]);
    assert_eq!(nodes.len(), 3, "its own address and that of its NAT: {nodes:?}");
}

#[test]
fn a_missing_uplink_is_named() {
    let mut world = world(&["172.30.0.1/16"], "", &[]);
    world.learn(Fact::Uplink(Err(NoUplink::Absent("nope".parse().unwrap())))).unwrap();
    let (_, notes) = world.wanted();
    assert_eq!(
        notes,
        ["no uplink: there is no interface nope; bring it up or name another one: interface = …"]
    );
}

#[test]
fn a_family_whose_pool_went_is_carried_as_long_as_this_node_has_a_block_of_it() {
    let peers = [node(2, &["172.30.0.2/16", "fd00:30::2/64"])];
    let stands = |world: &World| rows(world, &["sysctl", "link", "address", "route", "neighbor", "fdb"]);
    for path in ["vxlan", "direct"] {
        for (left, gone, block) in [
            ("10.244.0.0/16", "fd00:10:244", "fd00:10:244:1::/64"),
            ("fd00:10:244::/56", "10.244.", "10.244.1.0/24"),
        ] {
            let others = format!("paths: [{path}], attachment: routed");
            let own = ["172.30.0.1/16", "fd00:30::1/64"];
            let mut world = world(&own, &format!("{DUAL}, {others}"), &peers);
            let before = (stands(&world), world.pod_mtu(world.networks().next().unwrap()));
            assert!(before.0.iter().any(|row| row.starts_with("route") && row.contains(gone)), "{before:?}");
            let network = network(&format!("pools: [{{cidr: \"{left}\"}}], {others}"));
            world.learn(Fact::Network(network.name.clone(), Some(network.clone()))).unwrap();
            assert_eq!((stands(&world), world.pod_mtu(&network)), before, "{path}: {gone}");
            world.learn(Fact::Block(network.name.clone(), block.parse().unwrap(), None)).unwrap();
            let after = stands(&world);
            assert!(!after.iter().any(|row| row.contains(gone)), "{after:?}");
            assert!(after.iter().any(|row| row.starts_with("route")), "{after:?}");
        }
    }
}
