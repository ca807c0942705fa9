//! What the kernel has of the table of policies, as rows. What is not as it would be written is no row.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tartan_host::nftables::TableFamily;
use tartan_host::policy::{
    Direction, Epoch, Identity, IdentityId, Judgement, Own, PolicyRow, Remotes, RemotesId,
};
use tartan_model::Family;

use super::super::kind;
use super::super::socket::Nftables;
use super::super::wire::{self, Attributes};
use super::draft::in_table;
use super::elements::{
    Element, identity_of, read_itself, read_judged, read_member, read_now, read_own, read_ports, read_ranges,
    remotes_of, uncomment,
};
use super::shape::{self, Chain, Set};
use super::{is_ours, same};
use crate::KernelError;

/// What was found in the table.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Whose it is, and its flags (NFTA_TABLE_OWNER, NFTA_TABLE_FLAGS).
    pub(super) owner: Option<u32>,
    pub(super) flags: u32,
    pub(super) epoch: Option<Epoch>,
    /// All rows but that of the table itself.
    pub(super) rows: Vec<PolicyRow>,
    /// Whether there is anything else in it, or something is missing.
    pub(super) is_strange: bool,
}

/// None if there is no table.
///
/// # Errors
/// When the kernel cannot be read.
pub(super) fn read(nft: &mut Nftables) -> Result<Option<Found>, KernelError> {
    let all = Attributes::default;
    let tables = nft.dump(kind::GETTABLE, TableFamily::Inet, &all(), |body| {
        is_ours(body).then(|| (number(body, 7), number(body, 2).unwrap_or(0)))
    })?;
    let Some((owner, flags)) = tables.into_iter().next() else { return Ok(None) };
    let mut reading =
        Reading { nft, sets: BTreeMap::new(), chains: BTreeMap::new(), found: Found::default() };
    (reading.found.owner, reading.found.flags) = (owner, flags);
    reading.look()?;
    reading.constant()?;
    reading.judged()?;
    reading.own()?;
    let chains: Vec<String> = reading.chains.keys().cloned().collect();
    for name in chains {
        if let Some(id) = remotes_of(&name) {
            reading.remotes(id)?;
        } else if let Some((direction, id)) = identity_of(&name) {
            reading.identity(direction, id)?;
        }
    }
    // What was not taken out is not ours.
    reading.found.is_strange |= !reading.sets.is_empty() || !reading.chains.is_empty();
    Ok(Some(reading.found))
}

/// How many packets were refused in each direction, or in none, since the table was made.
///
/// # Errors
/// When the kernel cannot be read.
pub(super) fn counted(nft: &mut Nftables) -> Result<Vec<(Option<Direction>, u64)>, KernelError> {
    const PACKETS: u16 = 2;
    let mut counted = Vec::new();
    for (chain, direction) in shape::COUNTING {
        let in_chain = in_table().text(2, chain);
        let packets = nft.dump(kind::GETRULE, TableFamily::Inet, &in_chain, |rule| {
            // An older kernel may tell of other chains too (net/netfilter/nf_tables_api.c, `nf_tables_dump_rules`).
            let is_it = is_ours(rule) && wire::find(rule, 2).and_then(wire::text) == Some(chain);
            wire::find(data_of(rule, "counter").filter(|_| is_it)?, PACKETS).and_then(wire::long)
        })?;
        counted.push((direction, packets.into_iter().fold(0, u64::saturating_add)));
    }
    Ok(counted)
}

fn number(body: &[u8], kind: u16) -> Option<u32> {
    wire::find(body, kind).and_then(wire::short)
}

struct Reading<'a> {
    nft: &'a mut Nftables,
    /// What the kernel told of sets that were not looked at yet.
    sets: BTreeMap<String, Vec<u8>>,
    /// The same of chains, and their rules.
    chains: BTreeMap<String, (Vec<u8>, Vec<Vec<u8>>)>,
    found: Found,
}

impl Reading<'_> {
    fn look(&mut self) -> Result<(), KernelError> {
        let named = |kind: u16| {
            move |body: &[u8]| {
                let name = wire::text(wire::find(body, kind)?)?.to_owned();
                is_ours(body).then(|| (name, body.to_vec()))
            }
        };
        let inet = TableFamily::Inet;
        self.sets = self.nft.dump(kind::GETSET, inet, &in_table(), named(2))?.into_iter().collect();
        let chains = self.nft.dump(kind::GETCHAIN, inet, &in_table(), named(3))?;
        self.chains = chains.into_iter().map(|(name, body)| (name, (body, Vec::new()))).collect();
        for (chain, rule) in self.nft.dump(kind::GETRULE, inet, &in_table(), named(2))? {
            if let Some((_, rules)) = self.chains.get_mut(&chain) {
                rules.push(rule);
            }
        }
        Ok(())
    }

    fn constant(&mut self) -> Result<(), KernelError> {
        let epoch = match self.elements(&shape::now())?.as_deref() {
            Some([element]) => read_now(element),
            _ => None,
        };
        self.found.epoch = epoch;
        self.found.is_strange |= epoch.is_none();
        for chain in shape::chains(epoch.unwrap_or(Epoch::LAST)) {
            let is_same = self.take_chain(&chain);
            self.found.is_strange |= !is_same;
        }
        Ok(())
    }

    /// The elements of a set that is as it should be.
    fn elements(&mut self, set: &Set) -> Result<Option<Vec<Element>>, KernelError> {
        let is_same = self.sets.get(&set.name).is_some_and(|body| same::is_set(set, body));
        if !is_same {
            self.found.is_strange = true;
            return Ok(None);
        }
        self.sets.remove(&set.name);
        let lists =
            self.nft.dump(kind::GETSETELEM, TableFamily::Inet, &in_table().text(2, &set.name), |body| {
                let list = wire::find(body, 3).unwrap_or_default();
                let decode = |(_, bytes)| Element::decode(&set.name, bytes);
                Some(wire::attributes(list).map(decode).collect::<Vec<_>>())
            })?;
        let all: Vec<Option<Element>> = lists.into_iter().flatten().collect();
        self.found.is_strange |= all.iter().any(Option::is_none);
        Ok(Some(all.into_iter().flatten().collect()))
    }

    /// Whether a chain is there and as it should be.
    fn take_chain(&mut self, chain: &Chain) -> bool {
        let is_same =
            self.chains.get(&chain.name).is_some_and(|(body, rules)| same::is_chain(chain, body, rules));
        is_same && self.chains.remove(&chain.name).is_some()
    }

    /// Puts a row in if there is one.
    fn take(&mut self, row: Option<PolicyRow>) {
        self.found.is_strange |= row.is_none();
        self.found.rows.extend(row);
    }

    fn judged(&mut self) -> Result<(), KernelError> {
        for set in shape::sets() {
            for direction in Direction::ALL {
                if !Family::ALL.map(|family| shape::judged_map(direction, family)).contains(&set.name) {
                    continue;
                }
                for element in self.elements(&set)?.unwrap_or_default() {
                    self.take(read_judged(direction, &element).map(PolicyRow::Judged));
                }
            }
        }
        Ok(())
    }

    fn own(&mut self) -> Result<(), KernelError> {
        for family in Family::ALL {
            let mut read = |name: String, read: fn(&Element) -> Option<IpAddr>| {
                let set = shape::sets().into_iter().find(|set| set.name == name);
                let Some(set) = set else { return Ok(Vec::new()) };
                let elements = self.elements(&set)?.unwrap_or_default();
                Ok::<_, KernelError>(elements.iter().map(read).collect())
            };
            let here: Vec<Option<IpAddr>> = read(shape::here_set(family), read_own)?;
            let own: BTreeSet<Option<IpAddr>> = read(shape::own_set(family), read_own)?.into_iter().collect();
            let itself = read(shape::itself_set(family), read_itself)?.into_iter().collect();
            self.found.is_strange |= own != itself;
            let mut isolated = 0;
            for address in here {
                let is_isolated = own.contains(&address);
                isolated += usize::from(is_isolated);
                self.take(address.map(|address| PolicyRow::Own(Own { address, is_isolated })));
            }
            self.found.is_strange |= isolated != own.len();
        }
        Ok(())
    }

    fn remotes(&mut self, id: RemotesId) -> Result<(), KernelError> {
        let mut shapes = Direction::ALL.into_iter().flat_map(|direction| {
            [Judgement::Allow, Judgement::Deny].map(|otherwise| (direction, otherwise))
        });
        let found = shapes.find_map(|(direction, otherwise)| {
            let others = shape::remotes(id, direction, otherwise);
            self.take_chain(&others.chain).then_some((direction, otherwise, others))
        });
        let Some((direction, otherwise, others)) = found else { return Ok(()) };
        let mut known = BTreeSet::new();
        for (judgement, set) in &others.members {
            for element in self.elements(set)?.unwrap_or_default() {
                let row = read_member(id, *judgement, &element);
                let is_new = row.as_ref().is_none_or(|row| known.insert(row.address));
                // Who is in two sets is judged by the first.
                self.found.is_strange |= !is_new;
                if is_new {
                    self.take(row.map(PolicyRow::Member));
                }
            }
        }
        let mut ranges = Some(Vec::new());
        for set in &others.ranges {
            let some = self.elements(set)?.and_then(|elements| read_ranges(direction, elements));
            ranges = ranges.zip(some).map(|(all, some)| [all, some].concat());
        }
        let row = ranges.map(|ranges| PolicyRow::Remotes(Remotes { id, direction, ranges, otherwise }));
        self.take(row);
        Ok(())
    }

    fn identity(&mut self, direction: Direction, id: IdentityId) -> Result<(), KernelError> {
        let name = shape::identity_chain(direction, id);
        let Some((_, rules)) = self.chains.get(&name) else { return Ok(()) };
        let by_port = rules.iter().rev().nth(1);
        let about = by_port.and_then(|rule| wire::find(rule, 7)).map_or(Some(String::new()), uncomment);
        let otherwise = rules.last().and_then(|rule| goes_to(rule)).and_then(remotes_of);
        let Some((about, otherwise)) = about.zip(otherwise) else { return Ok(()) };
        let shaped =
            |is_far| Identity { id, direction, ports: Vec::new(), otherwise, about: about.clone(), is_far };
        let mut rows = [false, true].map(shaped).into_iter();
        let Some(mut row) = rows.find(|row| self.take_chain(&shape::identity(row).1)) else { return Ok(()) };
        let (set, _) = shape::identity(&row);
        let elements = self.elements(&set)?;
        let classes = elements.and_then(|elements| elements.iter().map(read_ports).collect());
        let row = classes.map(|mut classes: Vec<_>| {
            classes.sort();
            row.ports = classes;
            PolicyRow::Identity(row)
        });
        self.take(row);
        Ok(())
    }
}

/// The chain that a rule goes on in.
fn goes_to(rule: &[u8]) -> Option<&str> {
    const VERDICT: u16 = 2;
    let verdict = wire::find(wire::find(data_of(rule, "immediate")?, 2)?, VERDICT)?;
    wire::find(verdict, 2).and_then(wire::text)
}

/// What is said of the first expression of a rule that has this name.
fn data_of<'a>(rule: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let expressions = wire::attributes(wire::find(rule, 4)?).map(|(_, expression)| expression);
    let mut named = expressions.filter(|one| wire::find(one, 1).and_then(wire::text) == Some(name));
    named.next().and_then(|expression| wire::find(expression, 2))
}
