//! The way out of a network, and between networks: the chains of the ruleset that connections of pods pass once they are
//! routed. Each is there only where some network wants it, as packets pay for it.

use crate::Reason;
use crate::guards::{DEVICES, IPV4, IPV6, PODS, PRIORITY, TCP, UDP, chain, deny, is};
use crate::nftables::{Base, BaseKind, Chain, Field, Holds, Hook, KeyType, Rule, Set, Statement};

/// The chain that tells that connections take the node's address.
pub(crate) const MASQUERADE: &str = "way_out";
/// The chain that tells that networks are kept apart.
pub(crate) const APART: &str = "apart";

/// Where addresses of sources are translated (NF_IP_PRI_NAT_SRC), beside kube-proxy's: the first to translate a
/// connection has it, and both give it the same address.
const SOURCE_NAT: i32 = 100;
/// Before connections are tracked (NF_IP_PRI_RAW).
const RAW: i32 = -300;
/// The ports that connections leave by. Below are those that somebody listens at, the tunnel's (8472) among them: as its
/// packets are not tracked, an answer to it would not find its way back.
const PORTS: (u16, u16) = (32768, 65535);

/// Sets of pairs of ranges, source and destination.
pub(crate) fn sets() -> [Set; 6] {
    let pairs = |name, part: KeyType| Set { name, key: vec![part, part], holds: Holds::Ranges };
    [
        pairs("masquerade_ipv4", KeyType::Ipv4),
        pairs("masquerade_ipv6", KeyType::Ipv6),
        pairs("kept_ipv4", KeyType::Ipv4),
        pairs("kept_ipv6", KeyType::Ipv6),
        pairs("across_ipv4", KeyType::Ipv4),
        pairs("across_ipv6", KeyType::Ipv6),
    ]
}

/// What pods send to somebody outside takes the node's address. The tunnel's own packets are neither tracked nor
/// translated, whoever else would: they are judged by themselves, and their source is what they are judged by.
pub(crate) fn masquerade() -> Vec<Chain> {
    let leaves = |set, kept, family, pair: fn() -> Vec<Field>| {
        vec![
            is(Field::Nfproto, family),
            Statement::In(set, pair()),
            Statement::NotIn(kept, pair()),
            Statement::Goto("leave"),
        ]
    };
    let out = vec![
        leaves("masquerade_ipv4", "kept_ipv4", IPV4, ipv4),
        leaves("masquerade_ipv6", "kept_ipv6", IPV6, ipv6),
    ];
    let outer = vec![
        is(Field::Protocol, UDP),
        Statement::In("tunnels", vec![Field::Protocol, Field::DestinationPort]),
        Statement::Goto("outer"),
    ];
    vec![
        chain(
            "leave",
            vec![
                vec![is(Field::Protocol, TCP), Statement::Masquerade(Some(PORTS))],
                vec![is(Field::Protocol, UDP), Statement::Masquerade(Some(PORTS))],
                vec![Statement::Masquerade(None)],
            ],
        ),
        base(MASQUERADE, BaseKind::Nat, Hook::Postrouting, SOURCE_NAT, out),
        chain(
            "outer",
            [vec![between_nodes(IPV4), between_nodes(IPV6)], [PODS, DEVICES].map(posing).into()].concat(),
        ),
        base("outer_in", BaseKind::Filter, Hook::Prerouting, RAW, vec![outer.clone()]),
        base("outer_out", BaseKind::Filter, Hook::Output, RAW, vec![outer]),
    ]
}

/// A pod's packet that a node would take for a tunnel's once it has this node's address: it may go to an address of a node
/// that is not published.
fn posing(prefix: &'static [u8]) -> Rule {
    vec![
        is(Field::Iifname, prefix),
        Statement::In("vnis", vec![Field::DestinationPort, Field::Vni]),
        deny(Reason::Tunnel),
    ]
}

fn between_nodes(family: &'static [u8]) -> Rule {
    let (nodes, source, destination) = if family == IPV4 {
        ("nodes_ipv4", Field::Ipv4Source, Field::Ipv4Destination)
    } else {
        ("nodes_ipv6", Field::Ipv6Source, Field::Ipv6Destination)
    };
    vec![
        is(Field::Nfproto, family),
        Statement::In(nodes, vec![source]),
        Statement::In(nodes, vec![destination]),
        Statement::Notrack,
    ]
}

/// Nothing is forwarded from one network to another, whatever its addresses were translated to.
pub(crate) fn apart() -> [Chain; 2] {
    let across = |set, family, pair: fn() -> Vec<Field>| {
        vec![is(Field::Nfproto, family), Statement::In(set, pair()), deny(Reason::Across)]
    };
    let rules = vec![across("across_ipv4", IPV4, ipv4), across("across_ipv6", IPV6, ipv6)];
    [
        chain("across", rules),
        base(APART, BaseKind::Filter, Hook::Forward, PRIORITY, vec![vec![Statement::Jump("across")]]),
    ]
}

/// Nor does a pod reach an address that this node has in another network.
pub(crate) fn apart_on_node() -> [Rule; 2] {
    [PODS, DEVICES].map(|prefix| vec![is(Field::Iifname, prefix), Statement::Jump("across")])
}

fn ipv4() -> Vec<Field> {
    vec![Field::Ipv4Source, Field::Ipv4Destination]
}

fn ipv6() -> Vec<Field> {
    vec![Field::Ipv6Source, Field::Ipv6Destination]
}

fn base(name: &'static str, kind: BaseKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { base: Some(Base { kind, hook, priority }), ..chain(name, rules) }
}
