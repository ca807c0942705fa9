//! Other ends: who they are, as a definition that does not change, and what becomes of each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;

use hashbrown::HashMap;
use tartan_model::Family;

use crate::Selector;
use crate::form::{Action, Direction, End, Endpoint, NamedPort, Remote, Verdict};
use crate::index::SelectorId;
use crate::number::{address_of, last_of, number_of};

/// Addresses, the first and the last, and what becomes of them.
pub type JudgedRange = (IpAddr, IpAddr, Verdict);

/// What policies say of the other ends of an endpoint's connections in a direction, at ports that they do not tell
/// apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Definition {
    pub(crate) direction: Direction,
    /// Only endpoints of this node are told apart: nobody else is judged by it.
    pub(crate) from_here: bool,
    pub(crate) tiers: Vec<TierPart>,
}

/// The policies of a tier.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TierPart {
    pub(crate) end: End,
    pub(crate) rules: Vec<RulePart>,
}

/// A rule, or several that follow each other and do the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RulePart {
    pub(crate) action: Action,
    /// None is everybody.
    pub(crate) remotes: Option<BTreeSet<RemotePart>>,
}

/// Remotes, of these only those that call a port so, if one is given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RemotePart {
    pub(crate) remote: Remote,
    pub(crate) port: Option<NamedPort>,
}

impl Definition {
    /// Adds a rule behind those that are there. What nothing can come to is left out, so that definitions that mean the same
    /// are the same more often.
    pub(crate) fn add(tier: &mut TierPart, action: Action, remotes: Option<BTreeSet<RemotePart>>) {
        let ends = |rule: &RulePart| rule.remotes.is_none();
        if action == Action::Log
            || tier.rules.last().is_some_and(ends)
            || remotes.as_ref().is_some_and(BTreeSet::is_empty)
        {
            return;
        }
        match tier.rules.last_mut().filter(|last| last.action == action) {
            Some(last) => match (&mut last.remotes, remotes) {
                (Some(all), Some(more)) => all.extend(more),
                (all, _) => *all = None,
            },
            None => tier.rules.push(RulePart { action, remotes }),
        }
    }

    /// All remotes in the order in which they are judged, with the place of tier and rule; None is everybody.
    fn parts(&self) -> impl Iterator<Item = (usize, Action, Option<&RemotePart>)> {
        self.tiers.iter().enumerate().flat_map(|(place, tier)| {
            tier.rules.iter().flat_map(move |rule| {
                let everybody = rule.remotes.is_none().then_some(None);
                let some = rule.remotes.iter().flatten().map(Some);
                everybody.into_iter().chain(some).map(move |part| (place, rule.action, part))
            })
        })
    }
}

/// Remotes in use.
#[derive(Debug, Clone)]
pub(crate) struct Remotes {
    pub(crate) definition: Definition,
    pub(crate) users: usize,
    /// All remotes, in the order in which they are judged.
    parts: Vec<Part>,
    /// Where each tier begins and ends among them, and what then is.
    tiers: Vec<(Range<u32>, End)>,
    by_selector: HashMap<SelectorId, Vec<u32>>,
    /// Those without a selector for which an endpoint has to call a port so.
    named: Vec<u32>,
    /// Those that only look at the address.
    plain: Vec<u32>,
    /// What becomes of addresses of which nothing is known; what is not here is as `otherwise`.
    pub(crate) ranges: Vec<JudgedRange>,
    pub(crate) otherwise: Verdict,
}

#[derive(Debug, Clone)]
struct Part {
    action: Action,
    selector: Option<SelectorId>,
    part: Option<RemotePart>,
}

impl Remotes {
    /// Takes a definition into use; `id` gives the place of a selector.
    pub(crate) fn new(definition: Definition, mut id: impl FnMut(&Selector) -> SelectorId) -> Remotes {
        let mut parts = Vec::new();
        let mut tiers: Vec<(Range<u32>, End)> =
            definition.tiers.iter().map(|tier| (0..0, tier.end)).collect();
        for (place, action, part) in definition.parts() {
            let selector = part.and_then(|part| part.remote.selector.as_ref()).map(&mut id);
            parts.push(Part { action, selector, part: part.cloned() });
            if let Some((range, _)) = tiers.get_mut(place) {
                let end = position(parts.len());
                *range = if range.start == range.end { end - 1..end } else { range.start..end };
            }
        }
        let mut remotes = Remotes {
            definition,
            users: 1,
            parts,
            tiers,
            by_selector: HashMap::new(),
            named: Vec::new(),
            plain: Vec::new(),
            ranges: Vec::new(),
            otherwise: Verdict::Deny,
        };
        remotes.sort();
        remotes.cut();
        remotes
    }

    /// The selectors in use.
    pub(crate) fn selectors(&self) -> impl Iterator<Item = SelectorId> + use<'_> {
        self.parts.iter().filter_map(|part| part.selector)
    }

    /// Whether it may judge an endpoint by more than its address.
    pub(crate) fn tells(&self, endpoint: &Endpoint) -> bool {
        endpoint.local || !self.definition.from_here
    }

    /// Whether it looks at the names of ports of endpoints that no selector picks.
    pub(crate) fn looks_at_names(&self) -> bool {
        !self.named.is_empty()
    }

    /// What becomes of an endpoint at one of its addresses, picked by these selectors.
    pub(crate) fn judge(
        &self,
        endpoint: &Endpoint,
        address: IpAddr,
        picked_by: impl Iterator<Item = SelectorId>,
    ) -> Verdict {
        let picked = picked_by.filter_map(|id| self.by_selector.get(&id)).flatten();
        let fits = |at: &&u32| self.part(**at).is_some_and(|part| part.fits(address, Some(endpoint)));
        let found: BTreeSet<u32> = picked.chain(&self.named).filter(fits).copied().collect();
        if found.is_empty() {
            return self.judge_address(address);
        }
        if self.only_allows() {
            return Verdict::Allow;
        }
        let plain = self.plain.iter().filter(fits).copied();
        self.verdict(&found.into_iter().chain(plain).collect())
    }

    /// What becomes of an address of which nothing is known.
    pub(crate) fn judge_address(&self, address: IpAddr) -> Verdict {
        let at = self.ranges.partition_point(|(_, last, _)| last < &address);
        let found = self.ranges.get(at).filter(|(first, ..)| first <= &address);
        found.map_or(self.otherwise, |(_, _, verdict)| *verdict)
    }

    fn part(&self, at: u32) -> Option<&Part> {
        self.parts.get(usize::try_from(at).ok()?)
    }

    fn only_allows(&self) -> bool {
        self.tiers.len() == 1 && self.parts.iter().all(|part| part.action == Action::Allow)
    }

    fn sort(&mut self) {
        for (at, part) in self.parts.iter().enumerate() {
            let at = position(at);
            match (part.selector, &part.part) {
                (Some(id), _) => self.by_selector.entry(id).or_default().push(at),
                (None, Some(RemotePart { port: Some(_), .. })) => self.named.push(at),
                (None, _) => self.plain.push(at),
            }
        }
    }

    /// Cuts all addresses where what becomes of them changes.
    fn cut(&mut self) {
        let everybody = self.plain.iter().filter(|at| self.part(**at).is_some_and(|p| p.part.is_none()));
        let always: BTreeSet<u32> = everybody.copied().collect();
        self.otherwise = self.verdict(&always);
        for family in Family::ALL {
            let ranges = self.cut_family(family, &always);
            self.ranges.extend(ranges);
        }
    }

    fn cut_family(&self, family: Family, always: &BTreeSet<u32>) -> Vec<JudgedRange> {
        let mut turns: BTreeMap<u128, Vec<(bool, u32)>> = BTreeMap::new();
        for at in &self.plain {
            let Some(Part { part: Some(part), .. }) = self.part(*at) else { continue };
            for (first, last) in intervals(&part.remote, family) {
                turns.entry(first).or_default().push((true, *at));
                if last < last_of(family) {
                    turns.entry(last + 1).or_default().push((false, *at));
                }
            }
        }
        let mut active = always.clone();
        let mut ranges: Vec<(u128, u128, Verdict)> = Vec::new();
        let ends: Vec<u128> = turns.keys().skip(1).map(|next| next - 1).chain([last_of(family)]).collect();
        for ((first, changes), last) in turns.into_iter().zip(ends) {
            // A range of one remote may end where another of the same begins.
            for (_, at) in changes.iter().filter(|(begins, _)| !begins) {
                active.remove(at);
            }
            active.extend(changes.iter().filter(|(begins, _)| *begins).map(|(_, at)| *at));
            let verdict = self.verdict(&active);
            match ranges.last_mut() {
                Some((_, end, same)) if *same == verdict && *end + 1 == first => *end = last,
                _ => ranges.push((first, last, verdict)),
            }
        }
        let wanted = ranges.into_iter().filter(|(_, _, verdict)| *verdict != self.otherwise);
        wanted.map(|(a, b, verdict)| (address_of(family, a), address_of(family, b), verdict)).collect()
    }

    /// What becomes of one for which these hold.
    fn verdict(&self, found: &BTreeSet<u32>) -> Verdict {
        for (range, end) in &self.tiers {
            let first = found.range(range.clone()).next().and_then(|at| self.part(*at));
            match first.map(|part| part.action) {
                Some(Action::Allow) => return Verdict::Allow,
                Some(Action::Deny) => return Verdict::Deny,
                None if *end == End::Deny => return Verdict::Deny,
                _ => {}
            }
        }
        Verdict::Allow
    }
}

impl Part {
    fn fits(&self, address: IpAddr, endpoint: Option<&Endpoint>) -> bool {
        let Some(part) = &self.part else { return true };
        let named = |port: &NamedPort| endpoint.is_some_and(|endpoint| endpoint.ports.contains(port));
        let within =
            part.remote.nets.as_ref().is_none_or(|nets| nets.iter().any(|net| net.contains(address)));
        within
            && !part.remote.not_nets.iter().any(|net| net.contains(address))
            && part.port.as_ref().is_none_or(named)
    }
}

fn position(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// The addresses of a family that a remote is about, as disjoint ranges in order.
fn intervals(remote: &Remote, family: Family) -> Vec<(u128, u128)> {
    let of_family = |nets: &[tartan_model::Cidr]| {
        let nets = nets.iter().filter(|net| net.family() == family);
        let mut all: Vec<_> = nets.map(|net| (number_of(net.first()), number_of(net.last()))).collect();
        all.sort_unstable();
        joined(all)
    };
    let all = match &remote.nets {
        Some(nets) => of_family(nets),
        None => vec![(0, last_of(family))],
    };
    without(&all, &of_family(&remote.not_nets))
}

fn joined(sorted: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    let mut all: Vec<(u128, u128)> = Vec::new();
    for (first, last) in sorted {
        match all.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => all.push((first, last)),
        }
    }
    all
}

/// What is left of ranges once others are taken out; both are disjoint and in order.
fn without(ranges: &[(u128, u128)], gone: &[(u128, u128)]) -> Vec<(u128, u128)> {
    let mut left = Vec::new();
    let mut gone = gone.iter().peekable();
    for (first, last) in ranges {
        let mut first = Some(*first);
        while let (Some(from), Some((begin, end))) = (first, gone.peek().copied()) {
            if begin > last {
                break;
            }
            if from < *begin {
                left.push((from, begin - 1));
            }
            if end >= last {
                first = None;
                break;
            }
            // Above the last there is a next: the range goes on behind.
            first = Some(from.max(end + 1));
            gone.next();
        }
        left.extend(first.map(|from| (from, *last)));
    }
    left
}
