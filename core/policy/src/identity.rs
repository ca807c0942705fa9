//! From the policies about an endpoint to its identity in a direction: which ports they tell apart, and who may be at the
//! other end of each.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use crate::form::{Direction, End, NamedPort, Policy, PortMatch, Ports, Rule, Tier};
use crate::remotes::{Definition, RemotePart, TierPart};

/// Ports of a protocol, and the other ends there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ClassPart {
    pub(crate) protocol: u8,
    pub(crate) first: u16,
    pub(crate) last: u16,
    pub(crate) remotes: Definition,
}

/// What policies say of an endpoint in a direction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct IdentityPart {
    /// Ports where it differs from elsewhere; no two share a port of a protocol.
    pub(crate) classes: Vec<ClassPart>,
    /// Everywhere else.
    pub(crate) otherwise: Definition,
    /// There was too much to be told apart, and everything is denied.
    pub(crate) too_much: bool,
}

/// How many remotes an identity may have, those of each class of ports counted: a short policy with nested ranges of ports
/// could otherwise stand for billions.
pub(crate) const MOST_REMOTES: usize = 200_000;

/// Ports that other ends have names for.
pub(crate) trait PortNames {
    /// The ports that some endpoint calls so.
    fn called(&self, name: &str, protocol: u8) -> Vec<u16>;
}

/// A rule at some ports.
struct Place<'a> {
    rule: &'a Rule,
    /// The tier of its policy, counted.
    tier: usize,
    /// A name that other ends have to have for the port.
    name: Option<&'a str>,
}

/// Where rules begin and end to be about ports of a protocol: first port, last port, and the rule, by its place.
type Spans = BTreeMap<u8, Vec<(u16, u16, usize)>>;

/// Whose identity is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whose<'a> {
    /// In which direction.
    pub(crate) direction: Direction,
    /// The names that it has for its own ports.
    pub(crate) ports: &'a [NamedPort],
    /// It is on another node, so that only what comes from here is judged here.
    pub(crate) is_far: bool,
}

/// The identity of an endpoint that these policies are about; they are in the order in which they are judged.
pub(crate) fn identity(whose: Whose<'_>, policies: &[&Policy], others: &impl PortNames) -> IdentityPart {
    let Whose { direction, ports: own, .. } = whose;
    let mut tiers: Vec<&Tier> = policies.iter().map(|policy| &policy.tier).collect();
    tiers.dedup();
    let tier = |policy: &Policy| tiers.iter().position(|tier| **tier == policy.tier).unwrap_or_default();
    let mut places: Vec<Place<'_>> = Vec::new();
    let (mut spans, mut everywhere) = (Spans::new(), Vec::new());
    for policy in policies {
        for rule in policy.rules(direction).into_iter().flatten() {
            let mut add = |name| {
                places.push(Place { rule, tier: tier(policy), name });
                places.len() - 1
            };
            let Some(ports) = &rule.ports else {
                everywhere.push(add(None));
                continue;
            };
            for port in ports {
                let (name, ranges) = resolve(direction, port, own, others);
                for (first, last) in ranges {
                    spans.entry(port.protocol).or_default().push((first, last, add(name)));
                }
            }
        }
    }
    let left = Cell::new(MOST_REMOTES);
    let define = |active: &BTreeSet<usize>, at: Option<(u8, u16)>| {
        left.set(left.get().checked_sub(size(&places, active))?);
        Some(define(whose, &tiers, &places, active, at))
    };
    let everywhere: BTreeSet<usize> = everywhere.into_iter().collect();
    let told = || {
        let otherwise = define(&everywhere, None)?;
        let classes: Option<Vec<Vec<ClassPart>>> = spans
            .iter()
            .map(|(protocol, spans)| classes(*protocol, spans, &everywhere, &otherwise, &define))
            .collect();
        Some(IdentityPart { classes: classes?.concat(), otherwise, too_much: false })
    };
    told().unwrap_or_else(|| nobody(whose))
}

/// An identity that denies everything.
fn nobody(whose: Whose<'_>) -> IdentityPart {
    let tiers = vec![TierPart { end: End::Deny, rules: Vec::new() }];
    IdentityPart { classes: Vec::new(), otherwise: whose.remotes(tiers), too_much: true }
}

/// How many remotes rules have; everybody counts as one.
fn size(places: &[Place<'_>], active: &BTreeSet<usize>) -> usize {
    let rules = active.iter().filter_map(|place| places.get(*place)).map(|place| place.rule);
    1 + rules.map(|rule| rule.remotes.as_ref().map_or(1, |remotes| remotes.len().max(1))).sum::<usize>()
}

/// The ports that a rule is about; by a name of other ends, if it is one.
fn resolve<'a>(
    direction: Direction,
    port: &'a PortMatch,
    own: &[NamedPort],
    others: &impl PortNames,
) -> (Option<&'a str>, Vec<(u16, u16)>) {
    match (&port.ports, direction) {
        (Ports::Range(first, last), _) => (None, vec![(*first, *last)]),
        (Ports::Named(name), Direction::Ingress) => {
            let mine = own.iter().filter(|own| own.name == *name && own.protocol == port.protocol);
            let mut ports: Vec<(u16, u16)> = mine.map(|own| (own.port, own.port)).collect();
            ports.sort_unstable();
            ports.dedup();
            (None, ports)
        }
        (Ports::Named(name), Direction::Egress) => {
            let ports = others.called(name, port.protocol);
            (Some(name), ports.into_iter().map(|port| (port, port)).collect())
        }
    }
}

/// The ports of a protocol, cut where rules begin and end.
fn classes(
    protocol: u8,
    spans: &[(u16, u16, usize)],
    everywhere: &BTreeSet<usize>,
    otherwise: &Definition,
    define: &impl Fn(&BTreeSet<usize>, Option<(u8, u16)>) -> Option<Definition>,
) -> Option<Vec<ClassPart>> {
    let mut turns: BTreeMap<u16, Vec<(bool, usize)>> = BTreeMap::new();
    for (first, last, place) in spans {
        turns.entry(*first).or_default().push((true, *place));
        if let Some(next) = last.checked_add(1) {
            turns.entry(next).or_default().push((false, *place));
        }
    }
    let ends: Vec<u16> = turns.keys().skip(1).map(|next| next - 1).chain([u16::MAX]).collect();
    let mut active = everywhere.clone();
    let mut classes: Vec<ClassPart> = Vec::new();
    for ((first, changes), last) in turns.into_iter().zip(ends) {
        for (begins, place) in changes {
            if begins {
                active.insert(place);
            } else {
                active.remove(&place);
            }
        }
        let remotes = define(&active, Some((protocol, first)))?;
        match classes.last_mut() {
            Some(class) if class.remotes == remotes && class.last.checked_add(1) == Some(first) => {
                class.last = last;
            }
            _ => classes.push(ClassPart { protocol, first, last, remotes }),
        }
    }
    classes.retain(|class| class.remotes != *otherwise);
    Some(classes)
}

impl Whose<'_> {
    fn remotes(&self, tiers: Vec<TierPart>) -> Definition {
        Definition { direction: self.direction, from_here: self.is_far, tiers }
    }
}

fn define(
    whose: Whose<'_>,
    tiers: &[&Tier],
    places: &[Place<'_>],
    active: &BTreeSet<usize>,
    at: Option<(u8, u16)>,
) -> Definition {
    let mut parts: Vec<TierPart> =
        tiers.iter().map(|tier| TierPart { end: tier.end, rules: Vec::new() }).collect();
    for place in active.iter().filter_map(|place| places.get(*place)) {
        let port = place.name.zip(at).map(|(name, (protocol, port))| NamedPort {
            name: name.to_owned(),
            protocol,
            port,
        });
        let remotes = match (&place.rule.remotes, &port) {
            (None, None) => None,
            (None, Some(_)) => Some(BTreeSet::from([RemotePart { remote: everybody(), port }])),
            (Some(remotes), _) => {
                let part =
                    |remote: &crate::form::Remote| RemotePart { remote: remote.clone(), port: port.clone() };
                Some(remotes.iter().map(part).collect())
            }
        };
        if let Some(tier) = parts.get_mut(place.tier) {
            Definition::add(tier, place.rule.action, remotes);
        }
    }
    whose.remotes(parts)
}

fn everybody() -> crate::form::Remote {
    crate::form::Remote { selector: None, nets: None, not_nets: Vec::new() }
}
