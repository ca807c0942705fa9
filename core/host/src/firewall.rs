//! Other people's rules for what is forwarded: whether they let pods' packets pass. Nothing of them is touched; one
//! table cannot let pass what another drops.
//!
//! Rules are not understood in whole. What is told is only what is certain to be dropped as far as a new connection is
//! looked at by its addresses and interfaces, and not accepted by any rule that may be about these.

use std::collections::BTreeMap;
use std::fmt;

use tartan_model::{Cidr, Family};

/// How deep chains jump to chains (NFT_JUMP_STACK_SIZE).
const DEEPEST: usize = 16;
/// What the names of our links begin with.
const OURS: [&[u8]; 2] = [crate::guards::PODS, crate::guards::DEVICES];

/// A chain of somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignChain {
    /// The table's family as `nft` writes it.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// For a chain that forwarded packets enter by themselves, whether what passes its rules is dropped.
    pub entry: Option<bool>,
    /// Its rules.
    pub rules: Vec<ForeignRule>,
}

/// A rule of somebody else's, as far as it is understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForeignRule {
    /// What has to hold.
    pub tests: Vec<Test>,
    /// What becomes of the packet then.
    pub verdict: Option<Verdict>,
}

/// Something that has to hold for a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// The source is in a range, or not.
    Source(Cidr, bool),
    /// The destination is in a range, or not.
    Destination(Cidr, bool),
    /// The interface that it came in by begins with this, or not.
    Iifname(Vec<u8>, bool),
    /// The interface that it goes out by begins with this, or not.
    Oifname(Vec<u8>, bool),
    /// It is of a family.
    Family(Family),
    /// Addresses or interfaces are in a set, of which the elements are not looked at.
    Among,
    /// Anything else.
    Unknown,
}

/// What a rule does with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The table lets it pass.
    Accept,
    /// It is gone.
    Drop,
    /// Another chain, and on behind it.
    Jump(String),
    /// Another chain.
    Goto(String),
    /// Back to where it was jumped from.
    Return,
}

/// A chain that drops what pods send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    family: &'static str,
    table: String,
    chain: String,
    range: Cidr,
    /// Also between pods, not only on the way out.
    between_pods: bool,
}

/// The chains that drop what pods of these ranges send each other, or to somebody outside.
pub fn obstacles(chains: &[ForeignChain], ranges: &[Cidr]) -> Vec<Obstacle> {
    let entries = || chains.iter().filter(|chain| chain.entry.is_some());
    let by_name = chains.iter().map(|chain| ((chain.family, &*chain.table, &*chain.name), chain)).collect();
    let found =
        ranges.iter().flat_map(|range| entries().filter_map(|chain| obstacle(&by_name, chain, *range)));
    found.collect()
}

/// Chains by family, table and name: there may be tens of thousands, which jump to each other.
type Chains<'a> = BTreeMap<(&'static str, &'a str, &'a str), &'a ForeignChain>;

fn obstacle(chains: &Chains<'_>, entry: &ForeignChain, range: Cidr) -> Option<Obstacle> {
    let sees = match range.family() {
        Family::Ipv4 => entry.family != "ip6",
        Family::Ipv6 => entry.family != "ip",
    };
    let drops = |to_pod| {
        let packet = Packet { range, to_pod };
        let fate = packet.walk(chains, entry, DEEPEST);
        fate == Fate::Dropped || fate == Fate::Through && entry.entry == Some(true)
    };
    let between_pods = sees && drops(true);
    (between_pods || sees && drops(false)).then(|| Obstacle {
        family: entry.family,
        table: way_in(chains, entry).table.clone(),
        chain: way_in(chains, entry).name.clone(),
        range,
        between_pods,
    })
}

/// Where people may put rules of their own: docker keeps a chain for that.
fn way_in<'a>(chains: &Chains<'a>, entry: &'a ForeignChain) -> &'a ForeignChain {
    beside(chains, entry, "DOCKER-USER").unwrap_or(entry)
}

/// The chain of a name in the same table.
fn beside<'a>(chains: &Chains<'a>, chain: &ForeignChain, name: &str) -> Option<&'a ForeignChain> {
    chains.get(&(chain.family, chain.table.as_str(), name)).copied()
}

/// The first of a new connection that a pod opens.
struct Packet {
    range: Cidr,
    /// To another pod; else to somebody outside.
    to_pod: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Accepted,
    Dropped,
    Through,
}

/// How certain something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Holds {
    No,
    Unknown,
    /// It may well be meant for us.
    Likely,
    Yes,
}

impl Packet {
    fn walk(&self, chains: &Chains<'_>, chain: &ForeignChain, depth: usize) -> Fate {
        for rule in &chain.rules {
            let holds = rule.tests.iter().map(|test| self.holds(test)).min().unwrap_or(Holds::Yes);
            let into = |name: &String| {
                beside(chains, chain, name)
                    .filter(|_| depth > 0)
                    .map_or(Fate::Through, |to| self.walk(chains, to, depth - 1))
            };
            let fate = match (&rule.verdict, holds) {
                (Some(Verdict::Accept), Holds::Yes | Holds::Likely) => Fate::Accepted,
                (Some(Verdict::Drop), Holds::Yes) => Fate::Dropped,
                (Some(Verdict::Return), Holds::Yes) => return Fate::Through,
                (Some(Verdict::Goto(name)), Holds::Yes) => return into(name),
                (Some(Verdict::Jump(name)), Holds::Yes) => into(name),
                // Whether it drops is not certain then.
                (Some(Verdict::Jump(name) | Verdict::Goto(name)), Holds::Likely) => match into(name) {
                    Fate::Accepted => Fate::Accepted,
                    Fate::Dropped | Fate::Through => Fate::Through,
                },
                _ => Fate::Through,
            };
            if fate != Fate::Through {
                return fate;
            }
        }
        Fate::Through
    }

    fn holds(&self, test: &Test) -> Holds {
        match test {
            Test::Source(range, wanted) => turned(self.within(range), *wanted),
            Test::Destination(range, wanted) if self.to_pod => turned(self.within(range), *wanted),
            Test::Destination(range, true) if range.length() == 0 => self.of(range.family()),
            Test::Destination(..) => Holds::Unknown,
            Test::Iifname(name, wanted) => turned(is_ours(name), *wanted),
            Test::Oifname(name, wanted) if self.to_pod => turned(is_ours(name), *wanted),
            // Whatever it goes out by.
            Test::Oifname(name, true) if is_ours(name) == Holds::Yes => Holds::No,
            Test::Oifname(..) | Test::Among => Holds::Likely,
            Test::Family(family) => self.of(*family),
            Test::Unknown => Holds::Unknown,
        }
    }

    fn of(&self, family: Family) -> Holds {
        if self.range.family() == family { Holds::Yes } else { Holds::No }
    }

    fn within(&self, range: &Cidr) -> Holds {
        match (range.covers(&self.range), range.overlaps(&self.range)) {
            (true, _) => Holds::Yes,
            (false, true) => Holds::Likely,
            (false, false) => Holds::No,
        }
    }
}

fn is_ours(name: &[u8]) -> Holds {
    if OURS.iter().any(|ours| name.starts_with(ours)) { Holds::Yes } else { Holds::No }
}

fn turned(holds: Holds, wanted: bool) -> Holds {
    match (holds, wanted) {
        (Holds::Yes, false) => Holds::No,
        (Holds::No, false) => Holds::Yes,
        (holds, _) => holds,
    }
}

/// What is wrong, where, and what to do.
impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Obstacle { family, table, chain, range, .. } = self;
        let whom = if self.between_pods { "each other" } else { "to somebody outside" };
        write!(f, "chain {chain} of table {family} {table}, which is not tartan's, ")?;
        write!(f, "drops what pods of {range} send {whom}; let it pass: ")?;
        let ip = if range.family() == Family::Ipv4 { "ip" } else { "ip6" };
        match (*family, table.as_str()) {
            ("ip" | "ip6", "filter") => {
                let program = if *family == "ip" { "iptables" } else { "ip6tables" };
                write!(
                    f,
                    "{program} -I {chain} -s {range} -j ACCEPT; {program} -I {chain} -d {range} -j ACCEPT"
                )
            }
            (_, "firewalld") => {
                write!(
                    f,
                    "firewall-cmd --permanent --zone=trusted --add-source={range}; firewall-cmd --reload"
                )
            }
            _ => write!(
                f,
                "nft insert rule {family} {table} {chain} {ip} saddr {range} accept; \
                 nft insert rule {family} {table} {chain} {ip} daddr {range} accept"
            ),
        }
    }
}
