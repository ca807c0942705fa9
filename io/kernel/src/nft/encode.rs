//! From tables, sets, chains and rules to the kernel's messages.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use tartan_host::nftables::{
    BaseKind, Chain, Field, Holds, Hook, KeyType, Rule, Set, Statement, Table, TableFamily,
};

use super::kind;
use super::socket::Batch;
use super::wire::Attributes;

/// How long an element that packets put in is kept after the last of them, in milliseconds: a day.
const REMEMBER: u64 = 24 * 60 * 60 * 1000;
/// How many elements packets may put into a set.
const MOST_COUNTED: u32 = 65_535;
/// The first of the registers of four bytes (NFT_REG32_00).
pub(super) const FIRST_REGISTER: u32 = 8;
/// How values are compared (NFT_CMP_EQ, NFT_CMP_NEQ).
const EQUAL: u32 = 0;
pub(super) const NOT_EQUAL: u32 = 1;

impl Batch {
    /// Makes a table, or changes its flags.
    pub fn add_table(&mut self, family: TableFamily, name: &str, flags: u32) -> usize {
        let attributes = Attributes::default().text(1, name).number(2, flags);
        self.push(kind::NEWTABLE, family, NLM_F_CREATE, attributes)
    }

    /// Takes a table away with all that is in it. It must be there.
    pub fn delete_table(&mut self, family: TableFamily, name: &str) -> usize {
        self.push(kind::DELTABLE, family, 0, Attributes::default().text(1, name))
    }

    /// Takes all rules out of a table.
    pub fn clear_table(&mut self, table: &Table) {
        self.push(kind::DELRULE, table.family, 0, Attributes::default().text(1, &table.name));
    }

    /// Takes a chain away that nothing jumps to. It must be there.
    pub fn delete_chain(&mut self, table: &Table, chain: &str) {
        let attributes = Attributes::default().text(1, &table.name).text(3, chain);
        self.push(kind::DELCHAIN, table.family, 0, attributes);
    }

    /// Makes what is in a table. Rules that are there go.
    pub fn fill_table(&mut self, table: &Table) {
        self.clear_table(table);
        for set in &table.sets {
            self.push(kind::NEWSET, table.family, NLM_F_CREATE, encode_set(&table.name, set));
        }
        for chain in &table.chains {
            self.push(kind::NEWCHAIN, table.family, NLM_F_CREATE, encode_chain(table, chain));
            for rule in &chain.rules {
                let attributes = encode_rule(&table.name, &chain.name, rule);
                self.push(kind::NEWRULE, table.family, NLM_F_CREATE | NLM_F_APPEND, attributes);
            }
        }
    }
}

/// What `nft` writes beside a set of `typeof udp dport . @th,96,24` (NFTA_SET_USERDATA), without which it cannot list
/// the three bytes of a VNI.
const PORT_AND_VNI: [u8; 78] = *b"\x00\x04\x00\x00\x00\x00\x03\x46\x00\x04\x0d\x00\x00\x00\x01\x3e\x00\x14\x00\x04\
\x07\x00\x00\x00\x01\x0c\x00\x04\x06\x00\x00\x00\x01\x04\x02\x00\x00\x00\x01\x26\x00\x04\x07\x00\x00\x00\x01\x1e\x00\x04\
\x00\x00\x00\x00\x01\x04\x00\x00\x00\x00\x02\x04\x03\x00\x00\x00\x03\x04\x60\x00\x00\x00\x04\x04\x18\x00\x00\x00";

fn encode_set(table: &str, set: &Set) -> Attributes {
    let flags = match set.holds {
        Holds::Keys => 0,
        // NFT_SET_INTERVAL | NFT_SET_CONCAT
        Holds::Ranges => 0x4 | 0x80,
        // NFT_SET_TIMEOUT | NFT_SET_EVAL
        Holds::Counters => 0x10 | 0x20,
    };
    let kind = set.key.iter().fold(0, |kind, part| kind << 6 | nft_type(*part));
    let length: usize = set.key.iter().map(|part| length(*part).next_multiple_of(4)).sum();
    let length =
        if set.key.len() > 1 { length } else { set.key.first().map_or(0, |part| self::length(*part)) };
    let attributes = Attributes::default()
        .text(1, table)
        .text(2, set.name)
        .number(3, flags)
        .number(4, kind)
        .number(5, u32::try_from(length).unwrap_or(0))
        // The kernel wants a number that is the set's only one in the batch.
        .number(10, 1);
    if set.key == [KeyType::Port, KeyType::Vni] {
        return attributes.bytes(13, &PORT_AND_VNI);
    }
    match set.holds {
        Holds::Keys => attributes,
        Holds::Ranges => attributes.nested(9, Attributes::default().nested(2, parts(&set.key))),
        Holds::Counters => {
            let size = Attributes::default().number(1, MOST_COUNTED);
            attributes.nested(9, size).bytes(11, &REMEMBER.to_be_bytes())
        }
    }
}

/// How long each part of a key is (NFTA_SET_DESC_CONCAT).
fn parts(key: &[KeyType]) -> Attributes {
    key.iter().fold(Attributes::default(), |list, part| {
        let length = u32::try_from(length(*part)).unwrap_or(0);
        list.nested(1, Attributes::default().number(1, length))
    })
}

/// The number by which `nft` knows a type (libnftables, `enum datatypes`): only for its listing.
const fn nft_type(part: KeyType) -> u32 {
    match part {
        KeyType::Vni => 4,
        KeyType::Ipv4 => 7,
        KeyType::Ipv6 => 8,
        KeyType::Mac => 9,
        KeyType::Protocol => 12,
        KeyType::Port => 13,
        KeyType::IfName => 41,
    }
}

/// Bytes of a part of a key.
pub(super) const fn length(part: KeyType) -> usize {
    match part {
        KeyType::IfName | KeyType::Ipv6 => 16,
        KeyType::Ipv4 => 4,
        KeyType::Mac => 6,
        KeyType::Protocol => 1,
        KeyType::Port => 2,
        KeyType::Vni => 3,
    }
}

fn encode_chain(table: &Table, chain: &Chain) -> Attributes {
    let attributes = Attributes::default().text(1, &table.name).text(3, &chain.name);
    let Some(base) = chain.base else { return attributes };
    let number = match (table.family, base.hook) {
        // NF_ARP_IN; the others count from NF_INET_PRE_ROUTING.
        (TableFamily::Arp, _) | (_, Hook::Prerouting) => 0,
        (_, Hook::Input) => 1,
        (_, Hook::Forward) => 2,
        (_, Hook::Output) => 3,
        (_, Hook::Postrouting) => 4,
    };
    let hook = Attributes::default().number(1, number).number(2, base.priority as u32);
    let kind = match base.kind {
        BaseKind::Filter => "filter",
        BaseKind::Nat => "nat",
    };
    const ACCEPT: u32 = 1;
    attributes.nested(4, hook).number(5, ACCEPT).text(7, kind)
}

fn encode_rule(table: &str, chain: &str, rule: &Rule) -> Attributes {
    let expressions =
        rule.iter().flat_map(expressions).fold(Attributes::default(), |all, one| all.nested(1, one));
    Attributes::default().text(1, table).text(2, chain).nested(4, expressions)
}

pub(super) fn expressions(statement: &Statement) -> Vec<Attributes> {
    const LESS: u32 = 2;
    const GREATER: u32 = 4;
    const INVERT: u32 = 1;
    match statement {
        Statement::Is(field, value) => vec![load(*field, 0), compare(EQUAL, value)],
        Statement::Not(field, value) => vec![load(*field, 0), compare(NOT_EQUAL, value)],
        Statement::LongerThan(length) => measured(packet_length(), GREATER, *length),
        Statement::Percent(percent) => measured(random_below(100), LESS, u32::from(*percent)),
        Statement::In(set, fields) => looked_up(set, fields, 0),
        Statement::NotIn(set, fields) => looked_up(set, fields, INVERT),
        Statement::Count(set, field) => vec![load(*field, 0), count(set)],
        Statement::Marked(bits) => vec![packet_mark(1), bits_of(*bits, 0), compare(NOT_EQUAL, &[0; 4])],
        Statement::Mark(bits) => vec![packet_mark(1), bits_of(!*bits, *bits), packet_mark(3)],
        Statement::Unmark(bits) => vec![packet_mark(1), bits_of(!*bits, 0), packet_mark(3)],
        Statement::Notrack => vec![Attributes::default().text(1, "notrack")],
        Statement::Masquerade(ports) => masquerade(*ports),
        Statement::Jump(chain) => vec![verdict(-3, Some(chain))],
        Statement::Goto(chain) => vec![verdict(-4, Some(chain))],
        Statement::Accept => vec![verdict(1, None)],
        Statement::Drop => vec![verdict(0, None)],
    }
}

pub(super) fn expression(name: &str, data: Attributes) -> Attributes {
    Attributes::default().text(1, name).nested(2, data)
}

pub(super) fn compare(how: u32, value: &[u8]) -> Attributes {
    let value = Attributes::default().bytes(1, value);
    expression("cmp", Attributes::default().number(1, FIRST_REGISTER).number(2, how).nested(3, value))
}

/// The packet's mark to the first register (NFTA_META_DREG, 1), or from it (NFTA_META_SREG, 3).
fn packet_mark(way: u16) -> Attributes {
    const MARK: u32 = 3;
    expression("meta", Attributes::default().number(way, FIRST_REGISTER).number(2, MARK))
}

/// The first register's bits under a mask, and others set. Marks and states are numbers of the machine's own order.
pub(super) fn bits_of(mask: u32, set: u32) -> Attributes {
    let value = |number: u32| Attributes::default().bytes(1, &number.to_ne_bytes());
    let data = Attributes::default().number(1, FIRST_REGISTER).number(2, FIRST_REGISTER).number(3, 4);
    expression("bitwise", data.nested(4, value(mask)).nested(5, value(set)))
}

/// A number of the kernel's is put in network order first: it is compared byte by byte (net/netfilter/nft_cmp.c).
fn measured(number: Attributes, how: u32, value: u32) -> Vec<Attributes> {
    const TO_NETWORK: u32 = 1;
    let registers = Attributes::default().number(1, FIRST_REGISTER).number(2, FIRST_REGISTER);
    let order = registers.number(3, TO_NETWORK).number(4, 4).number(5, 4);
    vec![number, expression("byteorder", order), compare(how, &value.to_be_bytes())]
}

fn packet_length() -> Attributes {
    const LENGTH: u32 = 0;
    expression("meta", Attributes::default().number(1, FIRST_REGISTER).number(2, LENGTH))
}

fn random_below(limit: u32) -> Attributes {
    const RANDOM: u32 = 1;
    expression("numgen", Attributes::default().number(1, FIRST_REGISTER).number(2, limit).number(3, RANDOM))
}

/// The fields one behind the other, each from a register on.
fn looked_up(set: &str, fields: &[Field], flags: u32) -> Vec<Attributes> {
    let mut register = 0;
    let mut all = Vec::new();
    for field in fields {
        all.push(load(*field, register));
        register += place(*field).length().div_ceil(4);
    }
    let lookup = Attributes::default().text(1, set).number(2, FIRST_REGISTER).number(5, flags);
    all.push(expression("lookup", lookup));
    all
}

fn count(set: &str) -> Attributes {
    const UPDATE: u32 = 1;
    let zero = Attributes::default().bytes(1, &[0; 8]).bytes(2, &[0; 8]);
    let counter = expression("counter", zero);
    let data =
        Attributes::default().text(1, set).number(3, UPDATE).number(4, FIRST_REGISTER).nested(7, counter);
    expression("dynset", data)
}

/// The numbers of NF_NAT_RANGE_PROTO_RANDOM_FULLY and NF_NAT_RANGE_PROTO_SPECIFIED are those of linux/netfilter/nf_nat.h.
fn masquerade(ports: Option<(u16, u16)>) -> Vec<Attributes> {
    const FULLY_RANDOM: u32 = 1 << 4;
    const PORTS: u32 = 1 << 1;
    let Some((first, last)) = ports else {
        return vec![expression("masq", Attributes::default().number(1, FULLY_RANDOM))];
    };
    let (low, high) = (FIRST_REGISTER, FIRST_REGISTER + 1);
    let range = Attributes::default().number(1, FULLY_RANDOM | PORTS).number(2, low).number(3, high);
    vec![constant(low, &first.to_be_bytes()), constant(high, &last.to_be_bytes()), expression("masq", range)]
}

fn constant(register: u32, value: &[u8]) -> Attributes {
    let value = Attributes::default().bytes(1, value);
    expression("immediate", Attributes::default().number(1, register).nested(2, value))
}

pub(super) fn verdict(code: i32, chain: Option<&str>) -> Attributes {
    expression("immediate", Attributes::default().number(1, 0).nested(2, verdict_data(code, chain)))
}

/// A verdict as data (NFTA_DATA_VERDICT).
pub(super) fn verdict_data(code: i32, chain: Option<&str>) -> Attributes {
    let verdict = Attributes::default().number(1, code as u32);
    let verdict = chain.into_iter().fold(verdict, |verdict, chain| verdict.text(2, chain));
    Attributes::default().nested(2, verdict)
}

/// Where a field is found.
enum Place {
    /// Something that the kernel knows of the packet.
    Meta { key: u32, length: u32 },
    /// Bytes of the packet, from the link layer's header (0), the network's (1) or the transport's (2) on.
    Payload { base: u32, offset: u32, length: u32 },
}

impl Place {
    fn length(&self) -> u32 {
        match self {
            Place::Meta { length, .. } | Place::Payload { length, .. } => *length,
        }
    }
}

fn place(field: Field) -> Place {
    let payload = |base, offset, length| Place::Payload { base, offset, length };
    match field {
        Field::Iifname => Place::Meta { key: 6, length: 16 },
        Field::Oifname => Place::Meta { key: 7, length: 16 },
        Field::Nfproto => Place::Meta { key: 15, length: 1 },
        Field::Protocol => Place::Meta { key: 16, length: 1 },
        Field::PacketType => Place::Meta { key: 19, length: 1 },
        Field::EtherSource => payload(0, 6, 6),
        Field::EtherType => payload(0, 12, 2),
        Field::Ipv4Source => payload(1, 12, 4),
        Field::Ipv4Destination => payload(1, 16, 4),
        Field::Ipv6Source => payload(1, 8, 16),
        Field::Ipv6Destination => payload(1, 24, 16),
        Field::ArpSenderMac => payload(1, 8, 6),
        Field::ArpSenderIpv4 => payload(1, 14, 4),
        Field::ArpTargetIpv4 => payload(1, 24, 4),
        Field::SourcePort => payload(2, 0, 2),
        Field::DestinationPort => payload(2, 2, 2),
        Field::IcmpType => payload(2, 0, 1),
        Field::NdTarget => payload(2, 8, 16),
        Field::Vni => payload(2, 12, 3),
    }
}

/// Puts a field in a register, counted from the first.
pub(super) fn load(field: Field, register: u32) -> Attributes {
    let register = FIRST_REGISTER + register;
    match place(field) {
        Place::Meta { key, .. } => {
            expression("meta", Attributes::default().number(1, register).number(2, key))
        }
        Place::Payload { base, offset, length } => {
            let data = Attributes::default().number(1, register).number(2, base).number(3, offset);
            expression("payload", data.number(4, length))
        }
    }
}
