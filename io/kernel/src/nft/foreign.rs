//! Other people's chains for what is forwarded, read as far as [`tartan_host::obstacles`] understands them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use tartan_host::policy;
use tartan_host::{ForeignChain, ForeignRule, TABLE, Test, Verdict};
use tartan_model::{Cidr, Family};

use super::kind;
use super::socket::Nftables;
use super::wire::{self, Attributes};
use crate::KernelError;

/// Families of tables that see forwarded packets: their numbers (NFPROTO_) and words.
const FAMILIES: [(u8, &str); 4] = [(2, "ip"), (10, "ip6"), (1, "inet"), (7, "bridge")];
/// The most rules that are looked at in one table. Behind them nothing is told of it.
const MOST_RULES: usize = 20_000;
/// NF_INET_FORWARD and NF_BR_FORWARD.
const FORWARD: u32 = 2;

/// All chains of the tables in which forwarded packets enter one by themselves.
///
/// # Errors
/// When the kernel cannot be read.
pub(super) fn read(nft: &mut Nftables) -> Result<Vec<ForeignChain>, KernelError> {
    let mut all = Vec::new();
    for (number, family) in FAMILIES {
        let found = nft.dump_number(kind::GETCHAIN, number, &Attributes::default(), usize::MAX, |body| {
            chain(family, body)
        })?;
        let tables: BTreeSet<String> =
            found.iter().filter(|chain| chain.entry.is_some()).map(|chain| chain.table.clone()).collect();
        // A node with many services has tens of thousands of chains and of rules.
        let mut chains: BTreeMap<(String, String), ForeignChain> =
            found.into_iter().map(|chain| ((chain.table.clone(), chain.name.clone()), chain)).collect();
        let mut whole = BTreeSet::new();
        for table in tables {
            let of_table = Attributes::default().text(1, &table);
            let rules = nft.dump_number(kind::GETRULE, number, &of_table, MOST_RULES, |body| {
                rule(number, body).filter(|(of, ..)| *of == table)
            })?;
            if rules.len() > MOST_RULES {
                continue;
            }
            for (_, name, rule) in rules {
                if let Some(chain) = chains.get_mut(&(table.clone(), name)) {
                    chain.rules.push(rule);
                }
            }
            whole.insert(table);
        }
        all.extend(chains.into_values().filter(|chain| whole.contains(&chain.table)));
    }
    Ok(all)
}

fn text(body: &[u8], kind: u16) -> Option<String> {
    wire::text(wire::find(body, kind)?).map(str::to_owned)
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn chain(family: &'static str, body: &[u8]) -> Option<ForeignChain> {
    let (table, name) = (text(body, 1)?, text(body, 3)?);
    if table == TABLE || table == policy::TABLE {
        return None;
    }
    let hook = wire::find(body, 4).and_then(|hook| number(wire::find(hook, 1)?));
    let policy = wire::find(body, 5).and_then(number);
    // NF_DROP is 0. A chain that translates addresses drops nothing by itself.
    let entry = (hook == Some(FORWARD)).then_some(policy == Some(0));
    Some(ForeignChain { family, table, name, entry, rules: Vec::new() })
}

/// Table, chain and what is understood of a rule.
fn rule(table_family: u8, body: &[u8]) -> Option<(String, String, ForeignRule)> {
    let (table, chain) = (text(body, 1)?, text(body, 2)?);
    let mut reading = Reading { family: family(table_family), ..Reading::default() };
    for (_, expression) in wire::attributes(wire::find(body, 4).unwrap_or_default()) {
        let name = wire::find(expression, 1).and_then(wire::text).unwrap_or_default();
        reading.take(name, wire::find(expression, 2).unwrap_or_default());
    }
    Some((table, chain, reading.rule))
}

/// What a register holds.
#[derive(Debug, Clone, Copy)]
enum Held {
    Source(Family),
    Destination(Family),
    Iifname,
    Oifname,
    Family,
    /// The same, of which only so many bits count.
    Masked(Family, bool, u8),
}

#[derive(Default)]
struct Reading {
    held: HashMap<u32, Held>,
    /// Whose header the network's is, if that is certain.
    family: Option<Family>,
    rule: ForeignRule,
}

impl Reading {
    fn take(&mut self, name: &str, data: &[u8]) {
        let field = |kind| wire::find(data, kind);
        let register = |kind| field(kind).and_then(number).unwrap_or(u32::MAX);
        match name {
            "payload" => {
                let held = self.family.and_then(|of| payload(of, register(2), register(3), register(4)));
                self.load(register(1), held);
            }
            "meta" if field(1).is_some() => self.load(register(1), meta(register(2))),
            "bitwise" => {
                let mask = field(4).and_then(|mask| wire::find(mask, 1)).and_then(prefix);
                let held = self
                    .held
                    .get(&register(1))
                    .copied()
                    .zip(mask)
                    .and_then(|(held, bits)| masked(held, bits));
                self.load(register(2), held);
            }
            "cmp" => {
                let value = field(3).and_then(|value| wire::find(value, 1)).unwrap_or_default();
                let test = self.held.get(&register(1)).and_then(|held| compared(*held, register(2), value));
                if let Some(Test::Family(family)) = test {
                    self.family = Some(family);
                }
                self.rule.tests.push(test.unwrap_or(Test::Unknown));
            }
            "lookup" => {
                let known = self.held.contains_key(&register(2));
                self.rule.tests.push(if known { Test::Among } else { Test::Unknown });
            }
            "immediate" if register(1) == 0 => self.rule.verdict = field(2).and_then(verdict),
            "reject" => self.rule.verdict = Some(Verdict::Drop),
            "target" if field(1).and_then(wire::text) == Some("REJECT") => {
                self.rule.verdict = Some(Verdict::Drop);
            }
            "match" => match field(1).and_then(wire::text) {
                Some("comment") => {}
                Some("set") => self.rule.tests.push(Test::Among),
                _ => self.rule.tests.push(Test::Unknown),
            },
            // What loads something into a register that is not known here, or does nothing to the packet's way.
            "meta" | "ct" | "counter" | "log" | "immediate" | "target" | "rt" | "fib" | "exthdr"
            | "notrack" => {
                if matches!(name, "ct" | "rt" | "fib" | "exthdr") {
                    self.held.clear();
                }
            }
            _ => self.rule.tests.push(Test::Unknown),
        }
    }

    fn load(&mut self, register: u32, held: Option<Held>) {
        match held {
            Some(held) => self.held.insert(register, held),
            None => self.held.remove(&register),
        };
    }
}

/// The family of which all packets of a table are (NFPROTO_).
fn family(number: u8) -> Option<Family> {
    match number {
        2 => Some(Family::Ipv4),
        10 => Some(Family::Ipv6),
        _ => None,
    }
}

/// Addresses in the network's header. Of one that is compared at whole bytes only those are loaded.
fn payload(family: Family, base: u32, offset: u32, length: u32) -> Option<Held> {
    if length == 0 || length > u32::from(family.bits() / 8) {
        return None;
    }
    match (family, base, offset) {
        (Family::Ipv4, 1, 12) | (Family::Ipv6, 1, 8) => Some(Held::Source(family)),
        (Family::Ipv4, 1, 16) | (Family::Ipv6, 1, 24) => Some(Held::Destination(family)),
        _ => None,
    }
}

fn meta(key: u32) -> Option<Held> {
    match key {
        6 => Some(Held::Iifname),
        7 => Some(Held::Oifname),
        15 => Some(Held::Family),
        _ => None,
    }
}

fn masked(held: Held, bits: u8) -> Option<Held> {
    match held {
        Held::Source(family) => Some(Held::Masked(family, true, bits)),
        Held::Destination(family) => Some(Held::Masked(family, false, bits)),
        _ => None,
    }
}

/// How many bits a mask has; None if they are not the first.
fn prefix(mask: &[u8]) -> Option<u8> {
    let ones: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let leading: u32 = mask.iter().take_while(|byte| **byte == 0xff).count() as u32 * 8
        + mask.iter().find(|byte| **byte != 0xff).map_or(0, |byte| byte.leading_ones());
    (ones == leading).then(|| u8::try_from(ones).ok()).flatten()
}

fn compared(held: Held, how: u32, value: &[u8]) -> Option<Test> {
    let wanted = match how {
        0 => true,
        1 => false,
        _ => return None,
    };
    let whole = u8::try_from(value.len() * 8).ok()?;
    Some(match held {
        Held::Source(family) => Test::Source(range(family, value, whole)?, wanted),
        Held::Destination(family) => Test::Destination(range(family, value, whole)?, wanted),
        Held::Masked(family, true, bits) => Test::Source(range(family, value, bits)?, wanted),
        Held::Masked(family, false, bits) => Test::Destination(range(family, value, bits)?, wanted),
        Held::Iifname => Test::Iifname(name(value), wanted),
        Held::Oifname => Test::Oifname(name(value), wanted),
        Held::Family if wanted && value == [2] => Test::Family(Family::Ipv4),
        Held::Family if wanted && value == [10] => Test::Family(Family::Ipv6),
        Held::Family => return None,
    })
}

fn name(value: &[u8]) -> Vec<u8> {
    value.iter().copied().take_while(|byte| *byte != 0).collect()
}

fn range(family: Family, value: &[u8], bits: u8) -> Option<Cidr> {
    let mut bytes = value.to_vec();
    bytes.resize(usize::from(family.bits() / 8), 0);
    let address = match family {
        Family::Ipv4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        Family::Ipv6 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Cidr::containing(address, bits)
}

fn verdict(data: &[u8]) -> Option<Verdict> {
    let verdict = wire::find(data, 2)?;
    let chain = || text(verdict, 2);
    match number(wire::find(verdict, 1)?)? as i32 {
        0 => Some(Verdict::Drop),
        1 => Some(Verdict::Accept),
        -3 => chain().map(Verdict::Jump),
        -4 => chain().map(Verdict::Goto),
        -5 => Some(Verdict::Return),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_tables_family_are_taken_for_addresses() {
        let source = |family, offset, length| matches!(payload(family, 1, offset, length), Some(Held::Source(found)) if found == family);
        assert!(source(Family::Ipv4, 12, 4) && source(Family::Ipv4, 12, 2));
        assert!(source(Family::Ipv6, 8, 16));
        assert!(!source(Family::Ipv4, 8, 1), "the time to live");
        assert!(!source(Family::Ipv4, 12, 8), "both addresses at once");
        assert!(!source(Family::Ipv6, 12, 4));
        assert!(family(1).is_none() && family(7).is_none(), "not certain before it is compared");
    }
}
