//! Programs in the place of rules: which links they are at, and what they know.
//!
//! What they go by are the elements of table inet, which stay in its sets: an agent fills its own programs from there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use nix::net::if_::if_nametoindex;
use tartan_bpf::{BpfError, Denied, Guards};
use tartan_host::nftables::TableFamily;
use tartan_host::{Element, Key, Link, LinkKind, Member, Row, Step, StepError};
use tartan_model::IfName;

use crate::apply::Answer;
use crate::kernel::Kernel;
use crate::marks::is_of_pod;
use crate::read::Seen;
use crate::{KernelError, Rtnl, write};

/// The guards' programs, and where they are.
#[derive(Debug)]
pub(crate) struct Programs {
    guards: Guards,
    folder: PathBuf,
    /// What they know of each pod's link, there or not, and of the node.
    known: BTreeMap<Option<IfName>, BTreeSet<Member>>,
    /// Links that are guarded, and their indexes.
    links: BTreeMap<IfName, u32>,
    /// Those of them, by index, whose guard could cost packets less; None where the kernel has no place for that.
    heavy: Option<BTreeSet<u32>>,
    /// Whether those of the agent before are gone.
    alone: bool,
}

impl Programs {
    pub(crate) fn denied(&self) -> Result<Vec<Denied>, KernelError> {
        Ok(self.guards.denied()?)
    }

    /// Takes an element in or out. Of a link that is not there, it is kept for when it is.
    fn put(&mut self, member: &Member, there: bool) -> Result<(), BpfError> {
        let link = member.link().cloned();
        let known = self.known.entry(link.clone()).or_default();
        let differs = if there { known.insert(member.clone()) } else { known.remove(member) };
        let index = link.as_ref().map_or(Some(0), |link| self.links.get(link).copied());
        let done = match index.filter(|_| differs) {
            Some(index) => self.guards.put(member, index, there),
            None => Ok(()),
        };
        // What was refused is as it was.
        if done.is_err() && there {
            known.remove(member);
        } else if done.is_err() {
            known.insert(member.clone());
        }
        if known.is_empty() {
            self.known.remove(&link);
        }
        done
    }

    /// Guards a link, which may have been another before.
    fn guard(&mut self, requests: &mut Rtnl, link: &IfName, index: u32) -> Result<(), BpfError> {
        let before = self.links.insert(link.clone(), index).filter(|before| *before != index);
        for member in self.known.get(&Some(link.clone())).into_iter().flatten() {
            if let Some(before) = before {
                self.guards.put(member, before, false)?;
            }
            self.guards.put(member, index, true)?;
        }
        if self.guards.guard_at_tcx(index) {
            return Ok(());
        }
        let given = requests.request(vec![write::give_ingress(index)]);
        self.guards.guard(index).inspect_err(|_| {
            // It may have one already.
            tracing::warn!("an ingress qdisc for {link}: {given:?}");
        })?;
        if let Some(heavy) = &mut self.heavy {
            heavy.insert(index);
        }
        Ok(())
    }

    /// Whether a link is guarded, and was not another before: its program comes along.
    fn is_guarded(&self, link: &IfName, index: u32) -> bool {
        self.links.get(link) == Some(&index) && self.guards.is_guarded(index)
    }

    /// Lets go of a link that is gone.
    fn forget(&mut self, index: u32) {
        if let Some(heavy) = &mut self.heavy {
            heavy.remove(&index);
        }
        let gone = self.links.extract_if(.., |_, known| *known == index);
        for (link, _) in gone.collect::<Vec<_>>() {
            for member in self.known.get(&Some(link)).into_iter().flatten() {
                if let Err(error) = self.guards.put(member, index, false) {
                    tracing::debug!("an element of a link that is gone stays: {error}");
                }
            }
        }
    }

    /// Makes what the programs know what was read, and guards these links.
    fn take_in(
        &mut self,
        requests: &mut Rtnl,
        links: &[(IfName, u32)],
        rows: &[Row],
    ) -> Result<(), BpfError> {
        let read = rows.iter().filter_map(|row| match row {
            Row::Element(Element { table: TableFamily::Inet, member }) => Some(member),
            _ => None,
        });
        let read: BTreeSet<&Member> = read.collect();
        let stale = self.known.values().flatten().filter(|member| !read.contains(member));
        for member in stale.cloned().collect::<Vec<_>>() {
            self.put(&member, false)?;
        }
        for member in read {
            self.put(member, true)?;
        }
        for (link, index) in links {
            if self.is_guarded(link, *index) {
                continue;
            }
            if self.links.get(link) == Some(index) {
                tracing::warn!("{link} was without its guard");
            }
            match self.guard(requests, link, *index) {
                Err(_) if is_gone(link, *index) => {}
                other => other?,
            }
        }
        if !self.alone {
            self.guards.take_over()?;
            self.alone = true;
        }
        Ok(())
    }
}

impl Kernel {
    /// Has programs guard routed pods and the node from the next reading on, in the place of rules; they are kept by pins in
    /// this folder. Those that an agent before has there go then.
    ///
    /// # Errors
    /// When the kernel has no such programs; then rules guard.
    pub fn use_programs(&mut self, folder: PathBuf) -> Result<(), BpfError> {
        let Some(filter) = &mut self.filter else { return Err(BpfError::Missing("rules beside them")) };
        let guards = Guards::load(&folder)?;
        filter.ruleset.leave_to_programs(true);
        let (known, links, heavy) = (BTreeMap::new(), BTreeMap::new(), Some(BTreeSet::new()));
        self.programs = Some(Programs { guards, folder, known, links, heavy, alone: false });
        Ok(())
    }

    /// Has rules guard. Programs that an agent before has in this folder go once the rules are written.
    pub fn use_rules(&mut self, folder: PathBuf) {
        self.programs = None;
        self.former_programs = Some(folder);
        if let Some(filter) = &mut self.filter {
            filter.ruleset.leave_to_programs(false);
        }
        self.pending.ruleset_stale = true;
    }

    /// Whether programs guard in the place of rules.
    pub fn is_guarded_by_programs(&self) -> bool {
        self.programs.is_some()
    }

    /// Whether guards could cost packets less: [`Kernel::lighten_guard`].
    pub fn has_heavy_guards(&self) -> bool {
        let heavy = self.programs.as_ref().and_then(|programs| programs.heavy.as_ref());
        heavy.is_some_and(|heavy| !heavy.is_empty())
    }

    /// Has the guard of one link cost packets less. Whoever changes links meanwhile waits some 10 ms.
    pub fn lighten_guard(&mut self) {
        let Some(programs) = &mut self.programs else { return };
        let Some(index) = programs.heavy.as_mut().and_then(BTreeSet::pop_first) else { return };
        // It may be another's by now.
        let Some(link) = self.links.ours(index).filter(|link| programs.is_guarded(link, index)) else {
            return;
        };
        match programs.guards.lighten(index) {
            Err(error @ BpfError::NoTcx) => {
                tracing::info!("guards stay classifiers: {error}");
                programs.heavy = None;
            }
            Err(error) if !is_gone(link, index) => {
                tracing::info!("the guard of {link} stays a classifier: {}", explain(error));
            }
            _ => {}
        }
    }

    /// Guards links of ours again where somebody may have taken the program away and the kernel tells nobody.
    pub fn look_at_guards(&mut self) {
        let pods = self.links.ours_where(|link| is_of_pod(link.as_str())).collect();
        self.guard_again(&pods);
    }

    /// Guards links of ours where somebody took the program away, or that somebody brought.
    pub(crate) fn guard_again(&mut self, indexes: &BTreeSet<u32>) {
        let Some(programs) = &mut self.programs else { return };
        for index in indexes {
            if self.links.name(*index).is_none() {
                programs.forget(*index);
            }
            let Some(link) = self.links.ours(*index).filter(|link| is_of_pod(link.as_str())) else {
                continue;
            };
            if programs.is_guarded(link, *index) {
                continue;
            }
            match programs.guard(&mut self.requests, link, *index) {
                Ok(()) => tracing::warn!("{link} was without its guard"),
                Err(_) if is_gone(link, *index) => {}
                Err(error) => {
                    tracing::warn!("{link} has no guard: {}", explain(error));
                    self.pending.lost = true;
                }
            }
        }
    }

    /// Tells the programs what was read, and has them guard all links of pods that are there. Where that cannot be, rules do.
    pub(crate) fn guard_all(&mut self, seen: &[Seen], rows: &mut [Row]) {
        let ours = |seen: &&Seen| is_of_pod(seen.name.as_str()) && self.links.is_ours(seen);
        let links: Vec<(IfName, u32)> =
            seen.iter().filter(ours).map(|seen| (seen.name.clone(), seen.index)).collect();
        let Some(programs) = &mut self.programs else { return };
        if let Err(error) = programs.take_in(&mut self.requests, &links, rows) {
            let folder = programs.folder.clone();
            tracing::warn!("rules guard from now on, as programs cannot: {}", explain(error));
            self.use_rules(folder);
            // No link is opened before they are there.
            let rulesets = rows.iter_mut().filter_map(|row| match row {
                Row::Ruleset(ruleset) => Some(ruleset),
                _ => None,
            });
            rulesets.for_each(|ruleset| ruleset.intact = false);
        }
    }

    /// What changed in our sets. Elements that the programs do not take are refused.
    pub(crate) fn tell_programs(&mut self, steps: &[Step], answers: &mut [Answer]) {
        let done = steps.iter().zip(&*answers).find(|(step, _)| step.key() == Key::Ruleset);
        let done = done.filter(|(_, answer)| answer.is_ok()).map(|(step, _)| step);
        if matches!(done, Some(Step::Remove { .. }))
            && let Some(programs) = self.programs.take()
        {
            self.use_rules(programs.folder);
        }
        if done.is_some() && self.programs.is_none() {
            self.end_former_programs();
        }
        let Some(programs) = &mut self.programs else { return };
        for (step, answer) in steps.iter().zip(answers).filter(|(_, answer)| answer.is_ok()) {
            let (row, there) = match step {
                Step::Create { row } | Step::Change { to: row, .. } => (row, true),
                Step::Remove { row } => (row, false),
            };
            if let Row::Element(Element { table: TableFamily::Inet, member }) = row {
                *answer = programs.put(member, there).map_err(explain);
                // It is in our sets, so that nothing but reading anew tells that it is not there.
                self.pending.lost |= answer.is_err();
            }
        }
    }

    fn end_former_programs(&mut self) {
        let Some(folder) = self.former_programs.take() else { return };
        self.hear();
        self.links.ours_where(|link| is_of_pod(link.as_str())).for_each(tartan_bpf::unguard);
        if let Err(error) = tartan_bpf::remove(&folder) {
            tracing::warn!("programs of an agent before stay in {}: {error}", folder.display());
        }
    }

    /// Whether a link is set up only once a program guards it.
    pub(crate) fn is_guarded_later(&self, link: &Link) -> bool {
        link.kind == LinkKind::Veth && self.programs.is_some()
    }

    /// Has the programs guard pods' links that were just made; then they may be up. One that cannot be guarded goes again.
    pub(crate) fn guard_made(&mut self, steps: &[Step], answers: &mut [Answer]) {
        let made: Vec<(usize, &Link)> = steps
            .iter()
            .enumerate()
            .zip(&*answers)
            .filter(|(_, answer)| answer.is_ok())
            .filter_map(|((position, step), _)| match step {
                Step::Create { row: Row::Link(link) } => Some((position, link)),
                _ => None,
            })
            .filter(|(_, link)| self.is_guarded_later(link))
            .collect();
        if made.is_empty() {
            return;
        }
        let found = self.find(made.iter().map(|(_, link)| &link.name));
        let Some(programs) = &mut self.programs else { return };
        let mut requests = Vec::new();
        for (position, link) in made {
            let index = found.get(&link.name).map(|seen| seen.index).ok_or(StepError::Gone);
            let guarded = index.and_then(|index| {
                let done = programs.guard(&mut self.requests, &link.name, index);
                done.map(|()| index).map_err(explain)
            });
            match guarded {
                Ok(index) if link.up => requests.push(write::raise_link(index).request),
                Ok(_) => {}
                Err(error) => {
                    requests.push(write::unmake_link(&link.name));
                    if let Some(answer) = answers.get_mut(position) {
                        *answer = Err(error);
                    }
                }
            }
        }
        self.requests.request(requests);
    }
}

/// Whether a link went meanwhile.
fn is_gone(link: &IfName, index: u32) -> bool {
    if_nametoindex(link.as_str()) != Ok(index)
}

fn explain(error: BpfError) -> StepError {
    let text = match std::error::Error::source(&error) {
        Some(source) => format!("the guards' programs: {error}: {source}"),
        None => format!("the guards' programs: {error}"),
    };
    StepError::Kernel { errno: libc::EIO, text }
}
