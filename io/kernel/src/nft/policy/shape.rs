//! What the table of policies is made of: its sets, chains and rules, those that are constant and those of rows.
//!
//! In the table of a family, `ct original saddr` is the client whatever way a packet goes, and `ct reply saddr` the server
//! behind all translation. Each is only known of connections of its own family; a rule for another one does not hold
//! (net/netfilter/nft_ct.c, `nft_ct_get_eval`).

use std::borrow::Cow;

use tartan_host::nftables::{Field, Statement};
use tartan_host::policy::{Direction, Epoch, Identity, IdentityId, Judgement, MARK_MASK, RemotesId};
use tartan_model::Family;

use super::super::encode::{
    FIRST_REGISTER, NOT_EQUAL, bits_of, compare, expression, expressions, load, verdict, verdict_data,
};
use super::super::wire::Attributes;
use super::terms::{
    MARK, ORIGINAL, REPLY, end, looked_up, mapped, not_in, of_header, other, own, rule, tracked,
};

/// The netlink group of what is logged.
pub(crate) const LOG_GROUP: u16 = 8472;
/// Packets logged each second, and at once.
const LOGGED: u32 = 100;

/// Flags of sets (NFT_SET_INTERVAL, NFT_SET_MAP, NFT_SET_CONCAT).
const INTERVAL: u32 = 0x4;
const MAP: u32 = 0x8;
const CONCAT: u32 = 0x80;

/// A set, or a map to verdicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) name: String,
    pub(super) flags: u32,
    /// By libnftables' number of each part (`enum datatypes`), and how long each is.
    parts: &'static [(u32, u32)],
}

/// A chain; packets enter the one for what is forwarded by themselves.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    pub(super) name: String,
    pub(super) rules: Vec<Rule>,
}

/// A rule, and a word for people.
#[derive(Debug, Clone, Default)]
pub(super) struct Rule {
    pub(super) expressions: Vec<Attributes>,
    pub(super) about: String,
}

/// What an element of a map leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Leads {
    Return,
    Jump(String),
    Goto(String),
}

impl Leads {
    pub(super) fn encode(&self) -> Attributes {
        match self {
            Leads::Return => verdict_data(-5, None),
            Leads::Jump(chain) => verdict_data(-3, Some(chain)),
            Leads::Goto(chain) => verdict_data(-4, Some(chain)),
        }
    }

    /// What becomes of a connection.
    pub(super) fn of(judgement: Judgement, direction: Direction) -> Leads {
        match judgement {
            Judgement::Allow => Leads::Return,
            Judgement::Deny => Leads::Goto(deny(direction).into()),
        }
    }
}

const IPV4: &[(u32, u32)] = &[(7, 4)];
const IPV6: &[(u32, u32)] = &[(8, 16)];
const IPV4_TWICE: &[(u32, u32)] = &[(7, 4), (7, 4)];
const IPV6_TWICE: &[(u32, u32)] = &[(8, 16), (8, 16)];
const A_MARK: &[(u32, u32)] = &[(19, 4)];
const PROTOCOL_PORT: &[(u32, u32)] = &[(12, 1), (13, 2)];

impl Set {
    /// The number of its key's type.
    pub(super) fn key_type(&self) -> u32 {
        self.parts.iter().fold(0, |all, (part, _)| all << 6 | part)
    }

    /// The bytes of its key.
    pub(super) fn key_length(&self) -> u32 {
        match self.parts {
            [(_, length)] => *length,
            parts => parts.iter().map(|(_, length)| length.next_multiple_of(4)).sum(),
        }
    }

    /// The number of its values' type, if it is a map.
    pub(super) fn data_type(&self) -> Option<u32> {
        /// NFT_DATA_VERDICT.
        const VERDICT: u32 = 0xffff_ff00;
        (self.flags & MAP != 0).then_some(VERDICT)
    }

    /// What helps the kernel to choose how to keep it (NFTA_SET_DESC): how long each part of its key is, where that
    /// matters, or how many elements there are, of which one comes before the other goes.
    pub(super) fn description(&self) -> Option<Attributes> {
        const MOST_EPOCHS: u32 = 2;
        let part = |list: Attributes, (_, length): &(u32, u32)| {
            list.nested(1, Attributes::default().number(1, *length))
        };
        if self.flags & CONCAT != 0 {
            let parts = self.parts.iter().fold(Attributes::default(), part);
            return Some(Attributes::default().nested(2, parts));
        }
        (self.name == NOW).then(|| Attributes::default().number(1, MOST_EPOCHS))
    }

    /// What `nft` wants to know to list it (NFTA_SET_USERDATA): that the key's bytes are in the machine's own order
    /// (libnftnl, NFTNL_UDATA_SET_KEYBYTEORDER; libnftables, BYTEORDER_HOST_ENDIAN).
    pub(super) fn notes(&self) -> Option<[u8; 6]> {
        let [a, b, c, d] = 1u32.to_ne_bytes();
        (self.name == NOW).then_some([0, 4, a, b, c, d])
    }

    fn new(name: String, flags: u32, parts: &'static [(u32, u32)]) -> Set {
        Set { name, flags, parts }
    }
}

const fn address(family: Family) -> &'static [(u32, u32)] {
    match family {
        Family::Ipv4 => IPV4,
        Family::Ipv6 => IPV6,
    }
}

const fn twice(family: Family) -> &'static [(u32, u32)] {
    match family {
        Family::Ipv4 => IPV4_TWICE,
        Family::Ipv6 => IPV6_TWICE,
    }
}

pub(super) fn judged_map(direction: Direction, family: Family) -> String {
    format!("{direction}_{}", word(family))
}

pub(super) fn own_set(family: Family) -> String {
    format!("own_{}", word(family))
}

pub(super) fn here_set(family: Family) -> String {
    format!("here_{}", word(family))
}

pub(super) fn itself_set(family: Family) -> String {
    format!("itself_{}", word(family))
}

pub(super) fn members_set(remotes: RemotesId, judgement: Judgement, family: Family) -> String {
    let kind = match judgement {
        Judgement::Allow => 'h',
        Judgement::Deny => 'd',
    };
    format!("{kind}{}_{remotes}", digit(family))
}

pub(super) fn ranges_map(remotes: RemotesId, family: Family) -> String {
    format!("n{}_{remotes}", digit(family))
}

pub(super) fn ports_map(identity: IdentityId) -> String {
    format!("p_{identity}")
}

pub(super) fn remotes_chain(remotes: RemotesId) -> String {
    format!("r_{remotes}")
}

pub(super) fn identity_chain(direction: Direction, identity: IdentityId) -> String {
    match direction {
        Direction::Ingress => format!("in_{identity}"),
        Direction::Egress => format!("out_{identity}"),
    }
}

const fn word(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}

const fn digit(family: Family) -> char {
    match family {
        Family::Ipv4 => '4',
        Family::Ipv6 => '6',
    }
}

pub(super) const fn deny(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "deny_ingress",
        Direction::Egress => "deny_egress",
    }
}

/// What is logged begins with this.
pub(crate) const fn log_prefix(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "tartan ingress ",
        Direction::Egress => "tartan egress ",
    }
}

/// The chains that refuse and count, with the direction in which they do: none for what is a part of no connection.
pub(super) const COUNTING: [(&str, Option<Direction>); 3] = [
    (deny(Direction::Ingress), Some(Direction::Ingress)),
    (deny(Direction::Egress), Some(Direction::Egress)),
    (DENY_ODD, None),
];

/// The chain that packets enter by themselves.
pub(super) const FORWARD: &str = "forward";
/// The set of the epoch of now.
pub(super) const NOW: &str = "now";
/// The chain in which a connection gets the epoch of now. From its end packets go on.
const JUDGED: &str = "judged";
const ODD: &str = "odd";
const DENY_ODD: &str = "deny_odd";

pub(super) fn now() -> Set {
    Set::new(NOW.into(), 0, A_MARK)
}

/// The sets that are always there.
pub(super) fn sets() -> Vec<Set> {
    let mut all = vec![now()];
    for family in Family::ALL {
        let maps =
            Direction::ALL.map(|direction| Set::new(judged_map(direction, family), MAP, address(family)));
        all.extend(maps);
        all.push(Set::new(here_set(family), 0, address(family)));
        all.push(Set::new(own_set(family), 0, address(family)));
        all.push(Set::new(itself_set(family), 0, twice(family)));
    }
    all
}

/// The chains that are always there.
pub(super) fn chains(epoch: Epoch) -> Vec<Chain> {
    let chain = |name: &str, rules| Chain { name: name.into(), rules };
    vec![
        chain(deny(Direction::Ingress), denies(log_prefix(Direction::Ingress))),
        chain(deny(Direction::Egress), denies(log_prefix(Direction::Egress))),
        chain(DENY_ODD, vec![counted_drop()]),
        chain(ODD, odd()),
        judged(epoch),
        chain(FORWARD, forward()),
    ]
}

/// What remotes are made of.
///
/// Members are in sets and not in a map to verdicts: of such the kernel goes through all elements whenever some rule or
/// element that leads to a chain comes (net/netfilter/nft_lookup.c, `nft_lookup_validate`).
#[derive(Debug, Clone)]
pub(super) struct Others {
    /// By what becomes of those in it.
    pub(super) members: Vec<(Judgement, Set)>,
    /// Maps of ranges to verdicts.
    pub(super) ranges: Vec<Set>,
    /// All others than members and those in ranges go on to its last rule.
    pub(super) chain: Chain,
}

impl Others {
    pub(super) fn sets(&self) -> impl Iterator<Item = &Set> {
        self.members.iter().map(|(_, set)| set).chain(&self.ranges)
    }
}

pub(super) fn remotes(id: RemotesId, direction: Direction, otherwise: Judgement) -> Others {
    let (mut members, mut ranges, mut rules) = (Vec::new(), Vec::new(), Vec::new());
    let leads = |judgement| match judgement {
        Judgement::Allow => verdict(-5, None),
        Judgement::Deny => verdict(-4, Some(deny(direction))),
    };
    // Members first: they may be within a range.
    for judgement in [Judgement::Allow, Judgement::Deny] {
        for family in Family::ALL {
            let set = Set::new(members_set(id, judgement, family), 0, address(family));
            rules.push(rule([end(other(direction), family, 0), looked_up(&set.name), leads(judgement)]));
            members.push((judgement, set));
        }
    }
    for family in Family::ALL {
        let set = Set::new(ranges_map(id, family), MAP | INTERVAL, address(family));
        rules.push(rule([end(other(direction), family, 0), mapped(&set.name)]));
        ranges.push(set);
    }
    rules.push(rule([leads(otherwise)]));
    Others { members, ranges, chain: Chain { name: remotes_chain(id), rules } }
}

/// The chain and the map of an identity: from the server's port to remotes.
pub(super) fn identity(row: &Identity) -> (Set, Chain) {
    /// Of the connection, also where the packet is an ICMP error about it.
    const PROTOCOL: u32 = 10;
    const SERVER_PORT: u32 = 11;
    let set = Set::new(ports_map(row.id), MAP | INTERVAL | CONCAT, PROTOCOL_PORT);
    let protocol = tracked(PROTOCOL, None, 0);
    let port = tracked(SERVER_PORT, Some(REPLY), 1);
    let by_port = Rule { about: row.about.clone(), ..rule([protocol, port, mapped(&set.name)]) };
    let rest = rule([verdict(-4, Some(&remotes_chain(row.otherwise)))]);
    let from_elsewhere = Family::ALL
        .map(|family| rule([end(ORIGINAL, family, 0), not_in(&here_set(family)), verdict(-5, None)]));
    let mut rules: Vec<Rule> = if row.is_far { from_elsewhere.into() } else { Vec::new() };
    rules.extend([by_port, rest]);
    (set, Chain { name: identity_chain(row.direction, row.id), rules })
}

/// The log may be full; the packet is gone in any case.
fn denies(prefix: &str) -> Vec<Rule> {
    let rate = Attributes::default().bytes(1, &u64::from(LOGGED).to_be_bytes()).bytes(2, &1u64.to_be_bytes());
    let limit = expression("limit", rate.number(3, LOGGED).number(4, 0).number(5, 0));
    let log = expression("log", Attributes::default().bytes(1, &LOG_GROUP.to_be_bytes()).text(2, prefix));
    vec![rule([limit, log]), counted_drop()]
}

fn counted_drop() -> Rule {
    let zero = Attributes::default().bytes(1, &[0; 8]).bytes(2, &[0; 8]);
    rule([expression("counter", zero), verdict(0, None)])
}

/// What connection tracking does not take for a part of any connection. Some messages of ICMPv6 it never does
/// (net/netfilter/nf_conntrack_proto_icmpv6.c, `noct_valid_new`); without them nobody on a link finds anybody. Those that look
/// for neighbors are valid with a hop limit of 255 only, which nothing has that was routed (RFC 4861, section 7.1); reports go
/// to groups of the link.
fn odd() -> Vec<Rule> {
    const EQUAL: u32 = 0;
    const GREATER_OR_EQUAL: u32 = 5;
    const LESS_OR_EQUAL: u32 = 3;
    let is = |field, value: &'static [u8]| Statement::Is(field, Cow::Borrowed(value));
    let of_types = |first: &'static [u8], last: &'static [u8]| {
        let icmpv6 = [is(Field::Nfproto, &[10]), is(Field::Protocol, &[58])];
        let range =
            [load(Field::IcmpType, 0), compare(GREATER_OR_EQUAL, first), compare(LESS_OR_EQUAL, last)];
        [icmpv6.iter().flat_map(expressions).collect(), range.to_vec()].concat()
    };
    let not_routed = || vec![of_header(7, 1), compare(EQUAL, &[255])];
    let to_the_link = || vec![of_header(24, 2), compare(EQUAL, &[0xff, 0x02])];
    let accept = || vec![verdict(1, None)];
    let mut rules = vec![
        rule([of_types(&[133], &[136]), not_routed(), accept()].concat()),
        rule([of_types(&[130], &[132]), to_the_link(), accept()].concat()),
        rule([of_types(&[143], &[143]), to_the_link(), accept()].concat()),
    ];
    let own = [
        ([2], "own_ipv4", [Field::Ipv4Source, Field::Ipv4Destination]),
        ([10], "own_ipv6", [Field::Ipv6Source, Field::Ipv6Destination]),
    ];
    for (family, set, fields) in own {
        for field in fields {
            let statements = [
                Statement::Is(Field::Nfproto, Cow::Owned(family.into())),
                Statement::In(set, vec![field]),
                Statement::Goto(DENY_ODD),
            ];
            rules.push(rule(statements.iter().flat_map(expressions)));
        }
    }
    rules
}

/// The one that is written with each epoch. It has no verdict and leads nowhere: for a rule that does, the kernel goes
/// through all chains, and all elements of maps to verdicts, of the table (`nf_tables_newrule`, `nft_lookup_validate`).
pub(super) fn judged(epoch: Epoch) -> Chain {
    let set = Attributes::default().number(2, MARK).number(4, FIRST_REGISTER);
    let mark = [tracked(MARK, None, 0), bits_of(!MARK_MASK, epoch.mark()), expression("ct", set)];
    Chain { name: JUDGED.into(), rules: vec![rule(mark)] }
}

fn forward() -> Vec<Rule> {
    /// Of no connection, and not tracked (NF_CT_STATE_INVALID_BIT, NF_CT_STATE_UNTRACKED_BIT).
    const NONE: u32 = 1 << 0 | 1 << 6;
    const STATE: u32 = 0;
    let goto = |chain| verdict(-4, Some(chain));
    let mut rules = vec![
        rule([tracked(MARK, None, 0), bits_of(MARK_MASK, 0), looked_up(NOW), verdict(1, None)]),
        rule([tracked(STATE, None, 0), bits_of(NONE, 0), compare(NOT_EQUAL, &[0; 4]), goto(ODD)]),
    ];
    for family in Family::ALL {
        let behind = address(family).iter().map(|(_, length)| length / 4).sum();
        let ends = [end(ORIGINAL, family, 0), end(REPLY, family, behind)];
        rules.push(rule(ends.into_iter().chain([looked_up(&itself_set(family)), goto(JUDGED)])));
    }
    // Who opens a connection is judged first.
    for direction in [Direction::Egress, Direction::Ingress] {
        for family in Family::ALL {
            rules.push(rule([end(own(direction), family, 0), mapped(&judged_map(direction, family))]));
        }
    }
    rules.push(rule([goto(JUDGED)]));
    rules
}
