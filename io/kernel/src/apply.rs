//! Taking steps: names become indexes, steps become requests, and the kernel's answers become those of the steps.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_route::RouteNetlinkMessage;
use tartan_host::{Key, Link, LinkKind, Row, Step, StepError};
use tartan_model::{Family, IfName};

use crate::kernel::Kernel;
use crate::message::lookup;
use crate::read::Seen;
use crate::write::{self, Wish};
use crate::{Refused, Request, Rtnl, sys, tables};

pub(crate) type Answer = Result<(), StepError>;

/// How many steps become requests at once.
const STEPS: usize = 512;

/// Steps that can share a send. Links come by themselves, as those behind them need their indexes; ports come behind
/// bridges; removals of links become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Filter,
    Policy,
    Sysctls,
    Links,
    Ports,
    LinkRemovals,
    Rest,
}

impl Kernel {
    /// Takes steps, in order; one that fails does not stop those behind it, but those on the table of policies are all
    /// taken where the first of them is, or none of them. Gives an answer for each.
    pub fn apply(&mut self, steps: &[Step]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(steps.len());
        let mut unguarded = Unguarded::default();
        let mut judged = None;
        for run in steps.chunk_by(|a, b| group(a) == group(b)) {
            answers.extend(match run.first().map(group) {
                Some(Group::Filter) => {
                    let answers = self.filter(run);
                    unguarded.note(run, &answers);
                    answers
                }
                Some(Group::Policy) => {
                    let judged = judged.get_or_insert_with(|| self.judge(steps).into_iter());
                    let answers: Vec<Answer> = judged.take(run.len()).collect();
                    unguarded.note(run, &answers);
                    answers
                }
                _ if run.iter().any(|step| unguarded.opens(step)) => self.apply_guarded(run, &unguarded),
                Some(Group::Sysctls) => run.iter().map(|step| self.set(step)).collect(),
                Some(Group::LinkRemovals) => self.remove_links(run),
                _ => self.send_rest(run),
            });
        }
        answers
    }

    /// Opens nothing that is not guarded.
    fn apply_guarded(&mut self, steps: &[Step], unguarded: &Unguarded) -> Vec<Answer> {
        let (shut, rest): (Vec<Step>, Vec<Step>) =
            steps.iter().cloned().partition(|step| unguarded.opens(step));
        let mut answers = self.apply(&rest).into_iter();
        let answer = |step| if shut.contains(step) { Err(StepError::NoRuleset) } else { Ok(()) };
        steps.iter().map(|step| answer(step).and_then(|()| answers.next().unwrap_or(Ok(())))).collect()
    }

    /// The hand knows what became of the ruleset that it wrote itself; of elements the kernel tells.
    fn filter(&mut self, steps: &[Step]) -> Vec<Answer> {
        let Some(filter) = &mut self.filter else { return vec![Err(no_filter()); steps.len()] };
        let mut answers = filter.ruleset.apply(steps);
        self.tell_programs(steps, &mut answers);
        if steps.iter().any(|step| step.key() == Key::Ruleset) {
            self.pending.ruleset_stale = true;
        }
        answers
    }

    /// All steps on the table of policies. What the kernel took whole, it has.
    fn judge(&mut self, steps: &[Step]) -> Vec<Answer> {
        let steps: Vec<&Step> = steps.iter().filter(|step| matches!(step.key(), Key::Policy(_))).collect();
        let Some(filter) = &mut self.filter else { return vec![Err(no_filter()); steps.len()] };
        let outcome = filter.policy.apply(&steps);
        self.pending.rows.extend(outcome.told);
        self.pending.policy_stale |= outcome.is_stale;
        outcome.answers
    }

    fn set(&self, step: &Step) -> Answer {
        match step {
            Step::Create { row: Row::Sysctl(row) } | Step::Change { to: Row::Sysctl(row), .. } => self
                .settings
                .set(self.netns.as_ref().map(AsFd::as_fd), row)
                .map_err(|refused| explain(step, refused)),
            // A setting cannot be taken away; what it was before is kept in a file.
            _ => Ok(()),
        }
    }

    /// Packets that found a route before it was changed still go its way: what they need there is taken away when they
    /// have passed. A plan builds before it clears. A whole device that goes is not waited for.
    fn send_rest(&mut self, steps: &[Step]) -> Vec<Answer> {
        let changes = |step: &Step| matches!(step, Step::Change { to: Row::Route(_), .. });
        let leaves = |step: &Step| matches!(step, Step::Remove { row: Row::Neighbor(_) | Row::Fdb(_) });
        let mut behind = steps.iter().enumerate().skip_while(|(_, step)| !changes(step));
        let end = behind.find(|(_, step)| leaves(step)).map_or(steps.len(), |(position, _)| position);
        let (before, after) = steps.split_at(end);
        let mut answers = self.send_all(before);
        if !after.is_empty() {
            sys::wait_for_packets();
            answers.extend(self.send_all(after));
        }
        answers
    }

    /// A start with thousands of peers has tens of thousands of steps: their requests are not all made at once.
    fn send_all(&mut self, steps: &[Step]) -> Vec<Answer> {
        steps.chunks(STEPS).flat_map(|some| self.send_steps(some)).collect()
    }

    fn send_steps(&mut self, steps: &[Step]) -> Vec<Answer> {
        let found = self.find(steps.iter().flat_map(names));
        let plans: Vec<Result<Vec<Wish>, StepError>> =
            steps.iter().map(|step| self.wishes(step, &found)).collect();
        let requests = plans.iter().flatten().flatten().map(|wish| wish.request.clone()).collect();
        let mut results = self.requests.request(requests).into_iter();
        let mut half_made = Vec::new();
        let mut answers = Vec::with_capacity(steps.len());
        for (step, plan) in steps.iter().zip(plans) {
            answers.push(plan.and_then(|plan| {
                let results: Vec<Result<(), Refused>> = results.by_ref().take(plan.len()).collect();
                let begun = results.first().is_some_and(Result::is_ok);
                let Some(refused) = first_refusal(&plan, results) else { return Ok(()) };
                half_made.extend(made_link(step).filter(|_| begun).map(write::unmake_link));
                Err(explain(step, refused))
            }));
        }
        self.requests.request(half_made);
        self.guard_made(steps, &mut answers);
        self.hear_of_silent(steps, &answers, &found);
        answers
    }

    fn wishes(&self, step: &Step, found: &Found) -> Result<Vec<Wish>, StepError> {
        match step {
            Step::Create { row } => self.create(row, found),
            Step::Change { from, to } => self.change(from, to, found),
            Step::Remove { row } => Ok(remove(row, found)),
        }
    }

    fn create(&self, row: &Row, found: &Found) -> Result<Vec<Wish>, StepError> {
        Ok(match row {
            // Taken elsewhere.
            Row::Ruleset(_) | Row::Element(_) | Row::Policy(_) | Row::Sysctl(_) => Vec::new(),
            Row::Link(link) => self.create_link(link, found)?,
            Row::Address(row) => write::put_address(found.index(&row.link)?, row),
            Row::Fdb(row) => write::put_fdb(found.index(&row.link)?, row),
            Row::Neighbor(row) => write::put_neighbor(found.index(&row.link)?, row),
            Row::Route(row) => {
                write::create_route(row.link().map(|name| found.index(name)).transpose()?, row)
            }
        })
    }

    fn create_link(&self, link: &Link, found: &Found) -> Result<Vec<Wish>, StepError> {
        // The requests that mark a link name it: they must not meet one that was there before.
        if found.get(&link.name).is_some() {
            return Err(StepError::Exists);
        }
        let netns = match link.kind {
            LinkKind::Veth => {
                let peer = link.peer.as_ref().ok_or(StepError::NoNamespace)?;
                Some(self.netns(peer.netns).ok_or(StepError::NoNamespace)?.as_raw_fd())
            }
            LinkKind::Vxlan { .. } | LinkKind::Bridge => None,
        };
        let link = Link { up: link.up && !self.is_guarded_later(link), ..link.clone() };
        Ok(write::create_link(&link, found.master(&link)?, netns, self.ipv6))
    }

    fn change(&self, from: &Row, to: &Row, found: &Found) -> Result<Vec<Wish>, StepError> {
        Ok(match (from, to) {
            (Row::Link(from), Row::Link(to)) => {
                let seen =
                    found.get(&to.name).filter(|seen| self.links.is_ours(seen)).ok_or(StepError::Gone)?;
                write::change_link(seen.index, from, to, found.master(to)?)
            }
            (Row::Route(from), Row::Route(to)) => {
                let link = to.link().map(|name| found.index(name)).transpose()?;
                write::change_route(from.link().and_then(|name| found.index(name).ok()), from, link, to)
            }
            _ => self.create(to, found)?,
        })
    }

    /// One link goes by itself; several go as a group, which costs the kernel one wait instead of one each.
    fn remove_links(&mut self, steps: &[Step]) -> Vec<Answer> {
        let found = self.find(steps.iter().flat_map(names));
        let indexes: Vec<Option<u32>> = steps.iter().map(|step| self.removable(step, &found)).collect();
        let present: Vec<u32> = indexes.iter().flatten().copied().collect();
        let group = if present.len() > 1 { free_group(&mut self.requests) } else { None };
        let mut wishes: Vec<Wish> = match group {
            Some(group) => present.iter().map(|index| write::group_link(*index, group)).collect(),
            None => present.iter().map(|index| write::remove_link(*index)).collect(),
        };
        wishes.extend(group.map(write::remove_group));
        let mut results = self.requests.request(wishes.into_iter().map(|wish| wish.request).collect());
        let together = if group.is_some() { results.pop().and_then(Result::err) } else { None };
        let mut results = results.into_iter();
        steps
            .iter()
            .zip(indexes)
            .map(|(step, index)| {
                let alone = index.and_then(|_| results.next()).and_then(Result::err);
                let refused = alone.or_else(|| index.and(together.clone()));
                refused
                    .filter(|refused| !is_absence(refused.errno))
                    .map_or(Ok(()), |refused| Err(explain(step, refused)))
            })
            .collect()
    }

    /// The index of the link that a step removes, if it is there and ours.
    fn removable(&self, step: &Step, found: &Found) -> Option<u32> {
        let Step::Remove { row: Row::Link(link) } = step else { return None };
        found.get(&link.name).filter(|seen| self.links.is_ours(seen)).map(|seen| seen.index)
    }

    /// Asks the kernel for links by name, those of the last instant.
    pub(crate) fn find<'a>(&mut self, names: impl Iterator<Item = &'a IfName>) -> Found {
        let names: Vec<&IfName> = names.collect::<BTreeSet<_>>().into_iter().collect();
        let request = |name: &&IfName| Request::new(RouteNetlinkMessage::GetLink(lookup(name)), 0);
        let mut found = HashMap::new();
        self.requests.exchange(names.iter().map(request).collect(), |position, message| {
            // Kept by the name asked for: a link can be found by an alternative name, and that is taken then.
            if let (Some(name), Some(seen)) = (names.get(position), Seen::read(&message)) {
                found.insert((*name).clone(), seen);
            }
        });
        Found(found)
    }

    /// Asks for what the kernel does not tell of by the time it acknowledges, or not at all.
    fn hear_of_silent(&mut self, steps: &[Step], answers: &[Answer], found: &Found) {
        let done = steps.iter().zip(answers).filter(|(_, answer)| answer.is_ok());
        let requests: Vec<Request> = done.filter_map(|(step, _)| inquiry(step, found)).collect();
        if !requests.is_empty() {
            self.hear_at_once(requests);
        }
    }
}

fn no_filter() -> StepError {
    let text = "this kernel has no nf_tables, without which pods cannot be guarded".into();
    StepError::Kernel { errno: libc::EPROTONOSUPPORT, text }
}

/// A group that no link is in; None if that cannot be known.
pub(crate) fn free_group(rtnl: &mut Rtnl) -> Option<u32> {
    const FIRST: u32 = u32::from_be_bytes(*b"tart");
    let dump = rtnl.dump(&tables::links()).ok()?;
    let mut taken = BTreeSet::new();
    for message in dump.messages().filter(|message| message.kind == libc::RTM_NEWLINK) {
        // The group of a link that cannot be read cannot be known either.
        let RouteNetlinkMessage::NewLink(link) = message.parse().ok()? else { return None };
        taken.extend(Seen::of(&link).map(|seen| seen.group));
    }
    (FIRST..).find(|group| !taken.contains(group))
}

/// Pods' links that what should guard them was refused for.
#[derive(Default)]
struct Unguarded {
    all: bool,
    links: BTreeSet<IfName>,
}

impl Unguarded {
    fn note(&mut self, steps: &[Step], answers: &[Answer]) {
        for (step, _) in steps.iter().zip(answers).filter(|(_, answer)| answer.is_err()) {
            match step.key() {
                Key::Ruleset | Key::Policy(_) => self.all = true,
                Key::Element(element) => self.links.extend(element.member.link().cloned()),
                _ => {}
            }
        }
    }

    /// Whether a step would let such a link carry something.
    fn opens(&self, step: &Step) -> bool {
        let (Step::Create { row: Row::Link(link) } | Step::Change { to: Row::Link(link), .. }) = step else {
            return false;
        };
        link.kind == LinkKind::Veth && link.up && (self.all || self.links.contains(&link.name))
    }
}

/// Links by name as they are at this instant.
pub(crate) struct Found(HashMap<IfName, Seen>);

impl Found {
    pub(crate) fn get(&self, name: &IfName) -> Option<&Seen> {
        self.0.get(name)
    }

    fn index(&self, name: &IfName) -> Result<u32, StepError> {
        self.get(name).map(|seen| seen.index).ok_or(StepError::NoLink)
    }

    fn master(&self, link: &Link) -> Result<Option<u32>, StepError> {
        link.master.as_ref().map(|master| self.index(master)).transpose()
    }
}

fn group(step: &Step) -> Group {
    match step {
        Step::Remove { row: Row::Link(_) } => Group::LinkRemovals,
        Step::Create { row } | Step::Change { to: row, .. } | Step::Remove { row } => match row {
            Row::Ruleset(_) | Row::Element(_) => Group::Filter,
            Row::Policy(_) => Group::Policy,
            Row::Sysctl(_) => Group::Sysctls,
            Row::Link(link) if link.master.is_some() => Group::Ports,
            Row::Link(_) => Group::Links,
            _ => Group::Rest,
        },
    }
}

/// The links that a step names.
fn names(step: &Step) -> impl Iterator<Item = &IfName> {
    let (old, row) = match step {
        Step::Create { row } | Step::Remove { row } => (None, row),
        Step::Change { from, to } => (from.on(), to),
    };
    let (link, master) = match row {
        Row::Link(link) => (Some(&link.name), link.master.as_ref()),
        _ => (row.on(), None),
    };
    old.into_iter().chain(link).chain(master)
}

/// The question for what a step did in silence. The kernel tells of a new IPv6 address without duplicate address
/// detection from a work queue (net/ipv6/addrconf.c, `inet6_addr_add` and `addrconf_dad_work`), and not at all of the
/// alias of a link that is down (net/core/dev.c, `netdev_state_change`).
fn inquiry(step: &Step, found: &Found) -> Option<Request> {
    let (Step::Create { row } | Step::Change { to: row, .. }) = step else { return None };
    match row {
        Row::Link(link) if !link.up => {
            Some(Request::new(RouteNetlinkMessage::GetLink(lookup(&link.name)), 0))
        }
        Row::Address(row) if row.address.family() == Family::Ipv6 => {
            Some(tables::address(found.index(&row.link).ok()?, row.address))
        }
        _ => None,
    }
}

/// What a step makes, if that is a link.
fn made_link(step: &Step) -> Option<&IfName> {
    match step {
        Step::Create { row: Row::Link(link) } => Some(&link.name),
        _ => None,
    }
}

fn first_refusal(plan: &[Wish], results: Vec<Result<(), Refused>>) -> Option<Refused> {
    plan.iter().zip(results).find_map(|(wish, result)| {
        let may = |refused: &Refused| wish.may_fail || wish.may_be_absent && is_absence(refused.errno);
        result.err().filter(|refused| !may(refused))
    })
}

/// What stood on a link that is gone is gone too.
fn remove(row: &Row, found: &Found) -> Vec<Wish> {
    let link = row.on().map(|name| found.index(name));
    let Ok(link) = link.transpose() else { return Vec::new() };
    match (row, link) {
        (Row::Address(row), Some(link)) => write::remove_address(link, row),
        (Row::Fdb(row), Some(link)) => write::remove_fdb(link, row),
        (Row::Neighbor(row), Some(link)) => write::remove_neighbor(link, row),
        (Row::Route(row), link) => write::remove_route(link, row),
        _ => Vec::new(),
    }
}

/// ENXIO: the link has no IPv6 (net/ipv6/addrconf.c, `inet6_addr_del`).
fn is_absence(errno: i32) -> bool {
    matches!(errno, libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO)
}

/// What an error number means for a step.
fn explain(step: &Step, refused: Refused) -> StepError {
    let (Step::Create { row } | Step::Change { to: row, .. } | Step::Remove { row }) = step;
    let changes = matches!(step, Step::Change { .. });
    match (refused.errno, row) {
        // Its name was looked for before (`create_link`).
        (libc::EEXIST, Row::Link(Link { kind: LinkKind::Vxlan { .. }, .. })) => StepError::SameTunnel,
        (libc::EEXIST, _) => StepError::Exists,
        (libc::ENODEV, Row::Link(_)) if changes => StepError::Gone,
        (libc::ENODEV, _) => StepError::NoLink,
        (libc::ENOENT, Row::Sysctl(row)) if row.key.link().is_some() => StepError::NoLink,
        (libc::ENOENT | libc::ESRCH, Row::Fdb(_) | Row::Neighbor(_) | Row::Route(_)) if changes => {
            StepError::Gone
        }
        // A source that no link has, or a gateway that is one of our own addresses.
        (libc::ENETDOWN, _) | (libc::EINVAL, Row::Route(_)) => StepError::NotReady,
        (libc::EINVAL | libc::EOPNOTSUPP, Row::Address(_) | Row::Fdb(_) | Row::Neighbor(_)) => {
            StepError::NoLink
        }
        (libc::EOPNOTSUPP, Row::Link(link)) if link.master.is_some() => StepError::NoLink,
        _ => StepError::Kernel { errno: refused.errno, text: refused.text },
    }
}
