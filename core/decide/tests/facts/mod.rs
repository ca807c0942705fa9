//! Facts by chance: few nodes, networks, blocks and pods, so that they meet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use tartan_api::endpoint::PublishedEndpoint;
use tartan_api::kubernetes::PodObject;
use tartan_api::label::Labels;
use tartan_api::network::{ClusterNetwork, Network};
use tartan_api::object::{Object, parse};
use tartan_decide::{Attach, Choice, Fact, Scope, WayOut, World};
use tartan_model::{
    AttachmentKey, Cidr, Family, InterfaceAddress, Mac, Mtu, NetnsPlace, NetworkName, NoUplink, Node, NodeId,
    Uplink,
};

pub(crate) const THIS: u8 = 1;

pub(crate) fn id(n: u8) -> NodeId {
    NodeId::from_bytes([n; 16])
}

pub(crate) fn world() -> World {
    World::new(id(THIS), "n1".parse().unwrap())
}

pub(crate) fn address(n: u8, family: u8) -> InterfaceAddress {
    let text = if family == 4 { format!("172.30.0.{n}/16") } else { format!("fd00:30::{n}/64") };
    text.parse().unwrap()
}

pub(crate) fn node(n: u8, families: &[u8]) -> Node {
    Node {
        id: id(n),
        name: format!("n{n}").parse().unwrap(),
        addresses: families.iter().map(|family| address(n, *family)).collect(),
        public_addresses: Vec::new(),
        mtu: Mtu::try_from(1500).unwrap(),
    }
}

pub(crate) fn uplink(families: &[u8], mtu: u32) -> Uplink {
    Uplink {
        name: "eth0".parse().unwrap(),
        mtu: Mtu::try_from(mtu).unwrap(),
        addresses: families.iter().map(|family| address(THIS, *family)).collect(),
        public_addresses: Vec::new(),
        accepts_routers: families.contains(&6) && mtu == 9000,
        is_strict: false,
    }
}

/// The same on the other link, or behind a NAT that others are behind, too.
pub(crate) fn placed(node: Node, place: u8) -> Node {
    match place {
        0 => Node { addresses: node.addresses.iter().map(|address| elsewhere(*address)).collect(), ..node },
        1 => Node { public_addresses: vec!["203.0.113.1".parse().unwrap()], ..node },
        _ => node,
    }
}

pub(crate) fn elsewhere(address: InterfaceAddress) -> InterfaceAddress {
    let text = address.to_string();
    text.replace("172.30.0.", "172.29.0.").replace("fd00:30::", "fd00:29::").parse().unwrap()
}

pub(crate) fn network(name: &str, pools: &str, vni: u32, attachment: &str) -> Network {
    let text = format!(
        "{{apiVersion: tartan.dev/v1alpha1, kind: ClusterNetwork, metadata: {{name: {name}}}, \
         spec: {{pools: [{pools}], vxlan: {{vni: {vni}}}, {attachment}}}}}"
    );
    let Object::ClusterNetwork(object) = parse("test", &text).unwrap().remove(0) else { panic!() };
    ClusterNetwork::resolve(&object).unwrap()
}

pub(crate) fn block(network: usize, family: u8, n: u8) -> Cidr {
    match family {
        4 => format!("10.{}.{n}.0/29", 10 + network),
        _ => format!("fd00:{}:0:{n}::/64", 10 + network),
    }
    .parse()
    .unwrap()
}

pub(crate) fn name(network: usize) -> NetworkName {
    ["blue", "red"][network].parse().unwrap()
}

pub(crate) fn key(n: u8) -> AttachmentKey {
    AttachmentKey { container: format!("c{n}").parse().unwrap(), interface: "eth0".parse().unwrap() }
}

pub(crate) fn attach(n: u8, network: usize, link: u32) -> Fact {
    Fact::Attach(Attach {
        key: key(n),
        pod: format!("default/p{n}").parse().unwrap(),
        network: name(network),
        list: None,
        ips: if link.is_multiple_of(4) {
            vec![block(network, 4, 3).nth(2 + u128::from(n)).unwrap()]
        } else {
            Vec::new()
        },
        default_routes: if link % 8 < 2 { BTreeSet::from([Family::Ipv4]) } else { BTreeSet::new() },
        netns: NetnsPlace { path: "/run/netns/x".into(), device: 4, inode: n.into() },
        labels: BTreeMap::new(),
        link: format!("tt{link:012x}").parse().unwrap(),
        mac: Mac::local([0, 0, 0, 0, link as u8, n]),
    })
}

pub(crate) fn networks(at: usize, pools: u8, attachment: &str) -> Network {
    let v4 = format!("{{cidr: 10.{}.0.0/16, blockSize: 29}}", 10 + at);
    let v6 = format!("{{cidr: \"fd00:{}::/48\", blockSize: 64}}", 10 + at);
    let pools = match pools {
        0 => v4,
        1 => v6,
        2 => format!("{v4}, {v6}"),
        // Where the other network may have been.
        3 => "{cidr: 10.10.0.0/16, blockSize: 29}".into(),
        // Bounds, a block for this node outside them, and one within them for another.
        4 => format!(
            "{{cidr: 10.{0}.0.0/16, blockSize: 29, firstBlock: 10.{0}.2.0/29, lastBlock: 10.{0}.3.0/29, reservations: \
             [{{node: n1, block: 10.{0}.1.0/29}}, {{node: n2, block: 10.{0}.2.0/29}}, {{node: n1, block: 10.{0}.2.8/29}}]}}",
            10 + at
        ),
        // Meets the underlay.
        _ => "{cidr: 172.16.0.0/12, blockSize: 24}".into(),
    };
    let mut network = network(["blue", "red"][at], &pools, 1 + at as u32, attachment);
    network.masquerade = attachment.contains("routed") || at == 0;
    if at == 0 {
        network.masquerade_exempt =
            ["192.168.0.0/16", "10.0.0.0/8", "fd00::/8"].map(|range| range.parse().unwrap()).into();
    }
    network
}

/// What the node's choice says of the way out; None as long as it says nothing.
pub(crate) fn way_out(world: &World) -> Option<WayOut> {
    match world.decide(&Scope::Node).choice {
        Some(Choice::Node(node)) => node.way_out,
        _ => None,
    }
}

pub(crate) fn has(pairs: &[(Cidr, Cidr)], from: IpAddr, to: IpAddr) -> bool {
    pairs.iter().any(|(a, b)| a.contains(from) && b.contains(to))
}

pub(crate) fn share_nothing(pairs: &[(Cidr, Cidr)]) -> bool {
    let meets =
        |one: &(Cidr, Cidr), other: &(Cidr, Cidr)| one.0.overlaps(&other.0) && one.1.overlaps(&other.1);
    pairs.iter().enumerate().all(|(at, one)| !pairs[at + 1..].iter().any(|other| meets(one, other)))
}

pub(crate) fn how() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("attachment: routed"),
        Just("attachment: bridge"),
        Just("attachment: routed, paths: [direct]"),
        Just("attachment: bridge, paths: [direct, vxlan]"),
        Just("preset: canal"),
    ]
}

pub(crate) fn families() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(vec![4]), Just(vec![6]), Just(vec![4, 6])]
}

pub(crate) fn labels(text: &str) -> Labels {
    serde_json::from_value(serde_json::json!({"app": text})).unwrap()
}

/// What people write: there, different, or gone.
pub(crate) fn objects() -> impl Strategy<Value = Fact> {
    let policy = |n: u8| {
        let text = format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p}}, \
             spec: {{podSelector: {{matchLabels: {{app: a{n}}}}}}}}}"
        );
        let Object::NetworkPolicy(policy) = parse("test", &text).unwrap().remove(0) else { panic!() };
        Arc::new(policy)
    };
    let labels = |n: u8| labels(&format!("a{n}"));
    (0u8..4, prop::option::of(0u8..2)).prop_map(move |(kind, is)| match kind {
        0 => Fact::Policy("default/p".parse().unwrap(), is.map(policy)),
        1 => Fact::Namespace("default".parse().unwrap(), is.map(labels)),
        2 => Fact::ServiceAccount("default/s".parse().unwrap(), is.map(labels)),
        _ => {
            let pod = |n| PodObject { labels: Arc::new(labels(n)), ..PodObject::default() };
            Fact::Pod("default/p1".parse().unwrap(), is.map(pod))
        }
    })
}

pub(crate) fn published_endpoint(n: u8, at: usize, address: u8) -> PublishedEndpoint {
    PublishedEndpoint {
        pod: format!("default/p{n}").parse().unwrap(),
        network: name(at),
        addresses: vec![block(at, 4, address % 4).nth(2).unwrap()],
        labels: Arc::new(labels("x")),
    }
}

/// What nodes say of their pods, true or not.
pub(crate) fn published() -> impl Strategy<Value = Fact> {
    (1u8..5, 0u8..6, prop::option::of((0usize..2, 0u8..4))).prop_map(|(node, n, is)| {
        Fact::Endpoint(id(node), key(n), is.map(|(at, address)| published_endpoint(n, at, address)))
    })
}

pub(crate) fn fact() -> impl Strategy<Value = Fact> {
    prop_oneof![
        1 => Just(Fact::Uplink(Err(NoUplink::DefaultRoute))),
        3 => (families(), prop_oneof![Just(1500u32), Just(9000)]).prop_map(|(f, m)| Fact::Uplink(Ok(uplink(&f, m)))),
        3 => (2u8..5, families(), 0u8..5).prop_map(|(n, f, place)| Fact::Node(id(n), Some(placed(node(n, &f), place)))),
        1 => (2u8..5).prop_map(|n| Fact::Node(id(n), None)),
        4 => (0usize..2, 0u8..6, how())
            .prop_map(|(at, pools, how)| Fact::Network(name(at), Some(networks(at, pools, how)))),
        1 => (0usize..2).prop_map(|at| Fact::Network(name(at), None)),
        6 => (0usize..2, prop_oneof![Just(4u8), Just(6)], 0u8..4, 1u8..5)
            .prop_map(|(at, f, n, owner)| Fact::Block(name(at), block(at, f, n), Some(id(owner)))),
        // A store in which two networks hold one range, as it may be after a race.
        2 => (0u8..4, 1u8..3).prop_map(|(n, owner)| Fact::Block(name(1), block(0, 4, n), Some(id(owner)))),
        1 => (0usize..2, prop_oneof![Just(4u8), Just(6)], 0u8..4)
            .prop_map(|(at, f, n)| Fact::Block(name(at), block(at, f, n), None)),
        1 => (0usize..2).prop_map(|at| Fact::ClaimLost(name(at))),
        1 => (0usize..2, prop_oneof![Just(4u8), Just(6)], 0u8..4)
            .prop_map(|(at, f, n)| Fact::Held(name(at), block(at, f, n))),
        2 => objects(),
        3 => published(),
        1 => Just(Fact::InSync),
        1 => Just(Fact::MarksAddresses),
        6 => (0u8..6, 0usize..2, any::<u32>()).prop_map(|(n, at, link)| attach(n, at, link)),
        2 => (0u8..6).prop_map(|n| Fact::Added(key(n))),
        2 => (0u8..6).prop_map(|n| Fact::Detach(key(n))),
        2 => (0u8..6).prop_map(|n| Fact::Shut(key(n))),
    ]
}

/// Facts as they come, most often behind a start that lets pods be attached.
pub(crate) fn facts(most: usize) -> impl Strategy<Value = Vec<Fact>> {
    let start = {
        let pools = prop_oneof![4 => 0u8..3, 1 => Just(4)];
        (families(), pools, how()).prop_map(|(f, pools, how)| {
            let blocks = [4, 6].map(|family| Fact::Block(name(0), block(0, family, 3), Some(id(THIS))));
            let mut facts = vec![
                Fact::Uplink(Ok(uplink(&f, 1500))),
                Fact::Network(name(0), Some(networks(0, pools, how))),
                Fact::InSync,
            ];
            facts.extend(blocks);
            facts
        })
    };
    let start = prop_oneof![1 => Just(Vec::new()), 3 => start];
    (start, prop::collection::vec(fact(), 1..most)).prop_map(|(mut start, rest)| {
        start.extend(rest);
        start
    })
}
