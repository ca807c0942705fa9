//! nftables as data: tables, sets, chains and rules, as far as Tartan uses them (nft(8)).

use std::borrow::Cow;

use serde::Serialize;

/// The family of a table: which packets its chains see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TableFamily {
    /// Frames that bridges take in.
    Bridge,
    /// ARP that is for this host.
    Arp,
    /// IPv4 and IPv6.
    Inet,
}

impl TableFamily {
    /// All of them.
    pub const ALL: [TableFamily; 3] = [TableFamily::Bridge, TableFamily::Arp, TableFamily::Inet];

    /// The family as `nft` writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            TableFamily::Bridge => "bridge",
            TableFamily::Arp => "arp",
            TableFamily::Inet => "inet",
        }
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: TableFamily,
    /// Its name.
    pub name: Cow<'static, str>,
    /// Its sets.
    pub sets: Vec<Set>,
    /// Its chains; one is jumped to only by those behind it.
    pub chains: Vec<Chain>,
}

/// A set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: &'static str,
    /// What its elements are made of.
    pub key: Vec<KeyType>,
    /// What kind of elements it has.
    pub holds: Holds,
}

/// What the elements of a set are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Keys.
    Keys,
    /// From one key to another, part by part. Two elements that share a key are refused by the kernel.
    Ranges,
    /// Keys that packets put in, each with a counter and until it was not met for a day.
    Counters,
}

/// A part of an element's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// An interface's name, 16 bytes.
    IfName,
    /// A MAC address.
    Mac,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A protocol above IP.
    Protocol,
    /// A port.
    Port,
    /// A VXLAN network identifier.
    Vni,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: Cow<'static, str>,
    /// Where packets enter it by themselves; None if it is only jumped to.
    pub base: Option<Base>,
    /// Its rules. What passes them all goes on.
    pub rules: Vec<Rule>,
}

/// How packets enter a chain by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// What the chain may do.
    pub kind: BaseKind,
    /// Where it sees packets.
    pub hook: Hook,
    /// When, beside other chains at the same place: the lower, the earlier.
    pub priority: i32,
}

/// What a chain that packets enter by themselves may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseKind {
    /// Let packets pass or not.
    Filter,
    /// Translate addresses. It sees the first packet of a connection only, and has the kernel track all of them.
    Nat,
}

/// Where a chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// On their way in, before they are routed or bridged.
    Prerouting,
    /// Those for this host.
    Input,
    /// Those that pass through.
    Forward,
    /// Those of this host.
    Output,
    /// Those that leave, whosever they are.
    Postrouting,
}

/// What a rule does, one after the other as long as they hold.
pub type Rule = Vec<Statement>;

/// A part of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// The field begins with these bytes.
    Is(Field, Cow<'static, [u8]>),
    /// It does not.
    Not(Field, Cow<'static, [u8]>),
    /// The packet is longer than so many bytes, without the frame's header in tables of bridges.
    LongerThan(u32),
    /// It happens to be among so many of a hundred.
    Percent(u8),
    /// The fields together are in a set of the same table.
    In(&'static str, Vec<Field>),
    /// They are not.
    NotIn(&'static str, Vec<Field>),
    /// Counts the packet in a set of the same table.
    Count(&'static str, Field),
    /// Goes through another chain, and on if that lets it.
    Jump(&'static str),
    /// Goes on in another chain for good.
    Goto(&'static str),
    /// The packet's mark has one of these bits.
    Marked(u32),
    /// It gets them.
    Mark(u32),
    /// It loses them.
    Unmark(u32),
    /// Connection tracking does not see the packet.
    Notrack,
    /// The connection takes the address of the interface that it leaves by, and a source port (or ICMP identifier) by
    /// chance, of this range if one is given.
    Masquerade(Option<(u16, u16)>),
    /// No more of this base chain.
    Accept,
    /// The packet is gone.
    Drop,
}

/// What a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The name of the interface that the packet came in by.
    Iifname,
    /// The name of the interface that it goes out by.
    Oifname,
    /// IPv4 or IPv6 (`NFPROTO_`), in `inet` tables.
    Nfproto,
    /// The protocol above IP, behind all extension headers.
    Protocol,
    /// Whether the frame is for this host (0), for all (1) or for some (2) (`PACKET_`).
    PacketType,
    /// The frame's source.
    EtherSource,
    /// The frame's type as it stands in the header: 0x8100 for a frame with a VLAN tag.
    EtherType,
    /// IPv4 source.
    Ipv4Source,
    /// IPv4 destination.
    Ipv4Destination,
    /// IPv6 source.
    Ipv6Source,
    /// IPv6 destination.
    Ipv6Destination,
    /// The sender's MAC address in ARP (RFC 826).
    ArpSenderMac,
    /// The sender's IPv4 address in ARP.
    ArpSenderIpv4,
    /// The IPv4 address that ARP asks for.
    ArpTargetIpv4,
    /// Source port of TCP or UDP.
    SourcePort,
    /// Destination port of TCP or UDP.
    DestinationPort,
    /// The type of an ICMP or ICMPv6 message.
    IcmpType,
    /// The target of a neighbor solicitation or advertisement (RFC 4861, section 4).
    NdTarget,
    /// The network identifier of a VXLAN packet (RFC 7348, section 5).
    Vni,
}
