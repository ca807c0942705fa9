//! The guards: the constant nftables ruleset that keeps pods from claiming what is not theirs, and nodes from taking
//! tunnel packets of strangers.
//!
//! Nothing in it names a pod or a peer: those are elements of its sets. A pod's interface that has no elements is shut.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::nftables::{
    Base, BaseKind, Chain, Field, Holds, Hook, KeyType, Rule, Set, Statement, Table, TableFamily,
};
use crate::way_out;

/// The name of our tables.
pub const TABLE: &str = "tartan";
/// What the names of the pods' host ends begin with.
pub(crate) const PODS: &[u8] = b"tt";
/// What those of our bridges and tunnels begin with.
pub(crate) const DEVICES: &[u8] = b"tart";
/// Before connection tracking and everybody else's rules. Fragments may come one by one: ports and types stand in the
/// first, and without it the rest comes to nothing.
pub const PRIORITY: i32 = -350;

/// The chain that marks what the hooks of IP see.
const SEEING: &str = "seen";
/// The bit of the packet mark that it gets: what is bridged loses it again.
const SEEN: u32 = 0x0100_0000;
/// Behind the place where a bridge's frames are shown to the hooks of IP (net/bridge/br_netfilter_hooks.c, `br_nf_ops`:
/// -1, on newer kernels 0): at one place whoever registered last goes first.
const SHOWN: i32 = 1;

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
pub(crate) const IPV4: &[u8] = &[2];
pub(crate) const IPV6: &[u8] = &[10];
pub(crate) const TCP: &[u8] = &[6];
pub(crate) const UDP: &[u8] = &[17];
/// PACKET_BROADCAST and PACKET_MULTICAST (linux/if_packet.h).
const BROADCAST: &[u8] = &[1];
const MULTICAST: &[u8] = &[2];
const ICMP: &[u8] = &[1];
const ICMPV6: &[u8] = &[58];

/// Why a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// Its source MAC address is not the pod's.
    Mac,
    /// Its IPv4 source is not the pod's.
    Ipv4,
    /// Its IPv6 source is not the pod's.
    Ipv6,
    /// ARP that claims an address that is not the pod's.
    Arp,
    /// A neighbor advertisement for an address that is not the pod's.
    Nd,
    /// A router advertisement.
    Ra,
    /// An ICMP redirect.
    Redirect,
    /// A DHCP server's answer.
    Dhcp,
    /// A tunnel packet: to a node from a pod, or from one that is no node.
    Tunnel,
    /// A packet to a port of the nodes' own.
    Control,
    /// Neither IP nor ARP, with a VLAN tag, or with headers that cannot be read.
    Other,
    /// From one network to another.
    Across,
}

/// Chains of the ruleset that are only there where they are needed, as packets pay for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Parts {
    /// The way out with the node's address. It has the kernel track all connections.
    pub masquerade: bool,
    /// Several networks kept apart.
    pub apart: bool,
    /// Frames from bridged pods go on only if the hooks of IP saw them, where policies are enforced.
    pub judged: bool,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 12] = [
        Reason::Mac,
        Reason::Ipv4,
        Reason::Ipv6,
        Reason::Arp,
        Reason::Nd,
        Reason::Ra,
        Reason::Redirect,
        Reason::Dhcp,
        Reason::Tunnel,
        Reason::Control,
        Reason::Other,
        Reason::Across,
    ];

    /// Set and chain of this reason.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Reason::Mac => ("denied_mac", "deny_mac"),
            Reason::Ipv4 => ("denied_ipv4", "deny_ipv4"),
            Reason::Ipv6 => ("denied_ipv6", "deny_ipv6"),
            Reason::Arp => ("denied_arp", "deny_arp"),
            Reason::Nd => ("denied_nd", "deny_nd"),
            Reason::Ra => ("denied_ra", "deny_ra"),
            Reason::Redirect => ("denied_redirect", "deny_redirect"),
            Reason::Dhcp => ("denied_dhcp", "deny_dhcp"),
            Reason::Tunnel => ("denied_tunnel", "deny_tunnel"),
            Reason::Control => ("denied_control", "deny_control"),
            Reason::Other => ("denied_other", "deny_other"),
            Reason::Across => ("denied_across", "deny_across"),
        }
    }

    /// The set that counts what was refused for this reason, by interface.
    pub const fn set(self) -> &'static str {
        self.names().0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.set().trim_start_matches("denied_"))
    }
}

/// The reasons that a table refuses packets for.
pub const fn reasons(family: TableFamily) -> &'static [Reason] {
    match family {
        TableFamily::Bridge => &[
            Reason::Mac,
            Reason::Ipv4,
            Reason::Ipv6,
            Reason::Arp,
            Reason::Nd,
            Reason::Ra,
            Reason::Redirect,
            Reason::Dhcp,
            Reason::Tunnel,
            Reason::Control,
            Reason::Other,
        ],
        TableFamily::Arp => &[Reason::Arp],
        TableFamily::Inet => &[
            Reason::Mac,
            Reason::Ipv4,
            Reason::Ipv6,
            Reason::Nd,
            Reason::Ra,
            Reason::Redirect,
            Reason::Dhcp,
            Reason::Tunnel,
            Reason::Control,
            Reason::Across,
        ],
    }
}

/// The whole ruleset, with some of its parts. Where programs guard routed pods and the node (`io/bpf`), they go by the same
/// elements, and no packet passes chains for it.
pub fn ruleset(parts: Parts, by_programs: bool) -> [Table; 3] {
    [bridge(parts), arp(), inet(parts, by_programs)]
}

/// The parts of which chains of these names are there.
pub fn parts_of<'a>(chains: impl IntoIterator<Item = &'a str>) -> Parts {
    let mut parts = Parts::default();
    for chain in chains {
        parts.masquerade |= chain == way_out::MASQUERADE;
        parts.apart |= chain == way_out::APART;
        parts.judged |= chain == SEEING;
    }
    parts
}

/// Bridged pods: their frames pass here before the bridge looks at them.
fn bridge(parts: Parts) -> Table {
    let mut chains = checks();
    chains.push(chain("resolution", [vec![stranger()], claims()].concat()));
    let rules = vec![
        not_a_pod(),
        vec![is(Field::EtherType, &[0x08, 0x00]), Statement::Goto("ipv4")],
        vec![is(Field::EtherType, &[0x86, 0xdd]), Statement::Goto("ipv6")],
        vec![is(Field::EtherType, &[0x08, 0x06]), Statement::Goto("resolution")],
        stranger(),
        vec![deny(Reason::Other)],
    ];
    chains.push(base("pods", Hook::Prerouting, rules));
    // A frame for one port may go back by the port that it came by: that is how a pod reaches itself through an address
    // that was translated. One for many must not: it would meet its sender.
    chains.push(chain(
        "echo",
        vec![vec![Statement::In("ports", vec![Field::Iifname, Field::Oifname]), Statement::Drop]],
    ));
    let for_many = |kind: &'static [u8]| vec![is(Field::PacketType, kind), Statement::Goto("echo")];
    chains.push(base("echoes", Hook::Forward, vec![for_many(BROADCAST), for_many(MULTICAST)]));
    if parts.judged {
        chains.extend(unjudged());
    }
    let mut sets = pod_sets();
    sets.push(set("ports", &[KeyType::IfName, KeyType::IfName]));
    table(TableFamily::Bridge, sets, chains)
}

/// Routed pods: what else than IP and ARP they send is heard by nobody.
fn inet(parts: Parts, by_programs: bool) -> Table {
    let mut chains = Vec::new();
    if !by_programs {
        chains.extend(checks());
        let rules = vec![
            not_a_pod(),
            vec![is(Field::Nfproto, IPV4), Statement::Goto("ipv4")],
            vec![Statement::Goto("ipv6")],
        ];
        chains.push(base("pods", Hook::Prerouting, rules));
    }
    // No pod has a node's address. Most of what comes here are the tunnels' packets: they pay for no more than this.
    let by_node = |family: &'static [u8], nodes, source| {
        vec![is(Field::Nfproto, family), Statement::In(nodes, vec![source]), Statement::Accept]
    };
    // What came from a pod, or through a tunnel, is judged by any address of this node, not only by those it publishes.
    let inner = |prefix: &'static [u8]| {
        vec![Statement::Is(Field::Iifname, prefix.into()), Statement::Goto("to_node")]
    };
    let vni = || vec![Field::DestinationPort, Field::Vni];
    let ours = vec![is(Field::Protocol, UDP), Statement::In("vnis", vni()), deny(Reason::Tunnel)];
    // Others may have tunnels of their own on the same port: they are not looked at.
    let others = vec![is(Field::Protocol, UDP), Statement::NotIn("vnis", vni()), Statement::Accept];
    // Neither holds where no VNI can be read, as in the first of several fragments, which IPv6 puts together only later.
    let unread =
        vec![Statement::In("tunnels", vec![Field::Protocol, Field::DestinationPort]), deny(Reason::Tunnel)];
    let mut rules =
        vec![by_node(IPV4, "nodes_ipv4", Field::Ipv4Source), by_node(IPV6, "nodes_ipv6", Field::Ipv6Source)];
    if parts.apart {
        chains.extend(way_out::apart());
        rules.extend(way_out::apart_on_node());
    }
    if !by_programs {
        rules.extend([inner(PODS), inner(DEVICES), ours, others, unread]);
    }
    if !by_programs || parts.apart {
        chains.push(base("node", Hook::Input, rules));
    }
    if parts.masquerade {
        chains.extend(way_out::masquerade());
    }
    if parts.judged {
        // A bridged frame comes in there by the bridge.
        let bridged = vec![Statement::Is(Field::Iifname, DEVICES.into()), Statement::Mark(SEEN)];
        chains.push(base(SEEING, Hook::Forward, vec![bridged]));
    }
    let mut sets = pod_sets();
    sets.push(set("vnis", &[KeyType::Port, KeyType::Vni]));
    sets.extend(way_out::sets());
    table(TableFamily::Inet, sets, chains)
}

/// Where a bridge does not show its frames to the hooks of IP (`nf_call_iptables` of the bridge, or the sysctl
/// `bridge-nf-call-iptables`; or there is no `br_netfilter`), nobody judges them, and they are dropped. Those that were
/// seen bear a mark.
fn unjudged() -> [Chain; 2] {
    let from_pod = |kind: &'static [u8]| {
        vec![is(Field::Iifname, PODS), is(Field::EtherType, kind), Statement::Goto("unjudged")]
    };
    let frames = base("frames", Hook::Forward, vec![from_pod(&[0x08, 0x00]), from_pod(&[0x86, 0xdd])]);
    let rules = vec![
        vec![Statement::Marked(SEEN), Statement::Unmark(SEEN), Statement::Accept],
        vec![Statement::Drop],
    ];
    [
        chain("unjudged", rules),
        Chain { base: frames.base.map(|base| Base { priority: SHOWN, ..base }), ..frames },
    ]
}

fn arp() -> Table {
    let pods = base("pods", Hook::Input, [vec![not_a_pod()], claims()].concat());
    table(TableFamily::Arp, vec![sources_ipv4()], vec![pods])
}

fn not_a_pod() -> Rule {
    vec![Statement::Not(Field::Iifname, PODS.into()), Statement::Accept]
}

/// From another MAC address than the pod's.
fn stranger() -> Rule {
    vec![Statement::NotIn("macs", vec![Field::Iifname, Field::EtherSource]), deny(Reason::Mac)]
}

/// What ARP may claim.
fn claims() -> Vec<Rule> {
    let of = |address| vec![Field::Iifname, Field::ArpSenderMac, address];
    vec![
        // A probe for the pod's own address claims nothing yet (RFC 5227, section 2.1.1).
        vec![
            is(Field::ArpSenderIpv4, &[0; 4]),
            Statement::In("sources_ipv4", of(Field::ArpTargetIpv4)),
            Statement::Accept,
        ],
        vec![Statement::NotIn("sources_ipv4", of(Field::ArpSenderIpv4)), deny(Reason::Arp)],
        vec![Statement::Accept],
    ]
}

/// What a frame comes from: its link, its MAC address, and an address.
fn from(address: Field) -> Vec<Field> {
    vec![Field::Iifname, Field::EtherSource, address]
}

/// The chains for IP, those that are jumped to first.
fn checks() -> Vec<Chain> {
    let stranger_ipv4 = chain("stranger_ipv4", vec![stranger(), vec![deny(Reason::Ipv4)]]);
    // What is all that TCP is asked for beside its source.
    let onward = |name, nodes, address| {
        let to_node = vec![Statement::In(nodes, vec![address]), Statement::Goto("to_node")];
        chain(name, vec![to_node, vec![Statement::Accept]])
    };
    vec![
        to_node(),
        onward("onward_ipv4", "nodes_ipv4", Field::Ipv4Destination),
        onward("onward_ipv6", "nodes_ipv6", Field::Ipv6Destination),
        discovery(),
        nobody(),
        stranger_ipv4,
        stranger_ipv6(),
        ipv4(),
        ipv6(),
    ]
}

/// What a pod sends to a node.
fn to_node() -> Chain {
    let to =
        |set, reason| vec![Statement::In(set, vec![Field::Protocol, Field::DestinationPort]), deny(reason)];
    let rules = vec![to("tunnels", Reason::Tunnel), to("control", Reason::Control), vec![Statement::Accept]];
    chain("to_node", rules)
}

fn discovery() -> Chain {
    let foreign = Statement::NotIn("sources_ipv6", from(Field::NdTarget));
    let rules = vec![
        vec![is(Field::IcmpType, &[134]), deny(Reason::Ra)],
        vec![is(Field::IcmpType, &[136]), foreign, deny(Reason::Nd)],
        vec![is(Field::IcmpType, &[137]), deny(Reason::Redirect)],
    ];
    chain("discovery", rules)
}

/// Packets from `::`, sent before a pod's interface has an address that it may use: it reports the groups that it
/// listens to (RFC 3810, section 5.2.13), asks for routers, and asks whether somebody has its own address already
/// (RFC 4862, section 5.4.2).
fn nobody() -> Chain {
    let of_type = |kind: &'static [u8]| vec![is(Field::Protocol, ICMPV6), is(Field::IcmpType, kind)];
    let with = |mut rule: Rule, rest: Vec<Statement>| {
        rule.extend(rest);
        rule
    };
    let own = Statement::In("sources_ipv6", from(Field::NdTarget));
    let rules = vec![
        with(of_type(&[143]), vec![Statement::Accept]),
        with(of_type(&[131]), vec![Statement::Accept]),
        with(of_type(&[132]), vec![Statement::Accept]),
        with(of_type(&[133]), vec![Statement::Accept]),
        with(of_type(&[135]), vec![own, Statement::Accept]),
        vec![deny(Reason::Ipv6)],
    ];
    chain("nobody", rules)
}

fn stranger_ipv6() -> Chain {
    let rules = vec![
        stranger(),
        vec![is(Field::Ipv6Source, &[0; 16]), Statement::Goto("nobody")],
        vec![deny(Reason::Ipv6)],
    ];
    chain("stranger_ipv6", rules)
}

fn ipv4() -> Chain {
    let rules = vec![
        vec![Statement::NotIn("sources_ipv4", from(Field::Ipv4Source)), Statement::Goto("stranger_ipv4")],
        vec![is(Field::Protocol, TCP), Statement::Goto("onward_ipv4")],
        vec![is(Field::Protocol, ICMP), is(Field::IcmpType, &[5]), deny(Reason::Redirect)],
        // Servers answer to the client's port, from whichever they like (RFC 2131, section 4.1; RFC 8415, section 7.2).
        vec![is(Field::Protocol, UDP), is(Field::SourcePort, &[0, 67]), deny(Reason::Dhcp)],
        vec![is(Field::Protocol, UDP), is(Field::DestinationPort, &[0, 68]), deny(Reason::Dhcp)],
        vec![Statement::Goto("onward_ipv4")],
    ];
    chain("ipv4", rules)
}

fn ipv6() -> Chain {
    let rules = vec![
        vec![Statement::NotIn("sources_ipv6", from(Field::Ipv6Source)), Statement::Goto("stranger_ipv6")],
        vec![is(Field::Protocol, TCP), Statement::Goto("onward_ipv6")],
        vec![is(Field::Protocol, ICMPV6), Statement::Jump("discovery")],
        vec![is(Field::Protocol, UDP), is(Field::SourcePort, &[2, 35]), deny(Reason::Dhcp)],
        vec![is(Field::Protocol, UDP), is(Field::DestinationPort, &[2, 34]), deny(Reason::Dhcp)],
        vec![Statement::Goto("onward_ipv6")],
    ];
    chain("ipv6", rules)
}

fn pod_sets() -> Vec<Set> {
    vec![
        set("macs", &[KeyType::IfName, KeyType::Mac]),
        sources_ipv4(),
        set("sources_ipv6", &[KeyType::IfName, KeyType::Mac, KeyType::Ipv6]),
        set("nodes_ipv4", &[KeyType::Ipv4]),
        set("nodes_ipv6", &[KeyType::Ipv6]),
        set("tunnels", &[KeyType::Protocol, KeyType::Port]),
        set("control", &[KeyType::Protocol, KeyType::Port]),
    ]
}

fn sources_ipv4() -> Set {
    set("sources_ipv4", &[KeyType::IfName, KeyType::Mac, KeyType::Ipv4])
}

/// A table with what it counts, and the chains that do.
fn table(family: TableFamily, mut sets: Vec<Set>, chains: Vec<Chain>) -> Table {
    let counted =
        |reason: &Reason| Set { name: reason.set(), key: vec![KeyType::IfName], holds: Holds::Counters };
    sets.extend(reasons(family).iter().map(counted));
    let denying = |reason: &Reason| {
        let (set, name) = reason.names();
        // In two rules: a set that is full must not let the packet go.
        chain(name, vec![vec![Statement::Count(set, Field::Iifname)], vec![Statement::Drop]])
    };
    let chains = reasons(family).iter().map(denying).chain(chains).collect();
    Table { family, name: TABLE.into(), sets, chains }
}

fn set(name: &'static str, key: &[KeyType]) -> Set {
    Set { name, key: key.to_vec(), holds: Holds::Keys }
}

pub(crate) fn chain(name: &'static str, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), base: None, rules }
}

fn base(name: &'static str, hook: Hook, rules: Vec<Rule>) -> Chain {
    let base = Base { kind: BaseKind::Filter, hook, priority: PRIORITY };
    Chain { base: Some(base), ..chain(name, rules) }
}

pub(crate) fn is(field: Field, value: &'static [u8]) -> Statement {
    Statement::Is(field, Cow::Borrowed(value))
}

pub(crate) fn deny(reason: Reason) -> Statement {
    Statement::Goto(reason.names().1)
}
