//! The table of policies: written in transactions that the kernel takes whole or not at all, and read back.

mod draft;
mod elements;
mod read;
mod same;
mod shape;
mod terms;
mod write;

use std::collections::BTreeSet;

use tartan_host::policy::{Direction, Epoch, Judge, PolicyRow, TABLE};
use tartan_host::{Notice, Step, StepError};

use super::ruleset::{OWNED, about_table, garbled, is_about_the_tables};
use super::socket::Nftables;
use super::wire;
use crate::conntrack::{Connections, Marks};
use crate::{KernelError, Refused};
use draft::For;
use read::Found;
pub(crate) use shape::{LOG_GROUP, log_prefix};
use write::{Todo, Way};

/// How often a transaction is tried, each time in another way.
const TRIES: usize = 8;

/// The hand that holds the table of policies.
#[derive(Debug)]
pub(crate) struct Policy {
    nft: Nftables,
    connections: Connections,
    /// The flags of our table, as far as the kernel takes them.
    flags: u32,
    /// What is known of the table; None if it was not read.
    known: Option<Known>,
    /// Whether this hand wrote what is constant in it.
    has_written: bool,
}

/// What the hand keeps of the table.
#[derive(Debug, Default)]
struct Known {
    /// The epoch that marks bear; None if there is no table, or not one that can be read.
    epoch: Option<Epoch>,
    /// Whether something in it is not as it would be written.
    is_strange: bool,
}

/// What became of steps.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) answers: Vec<Result<(), StepError>>,
    /// What is in the table by what the kernel took.
    pub(crate) told: Vec<Notice>,
    /// More may have changed than was asked for.
    pub(crate) is_stale: bool,
}

/// What was refused, by what for.
type Refusals = Vec<(For, Refused)>;

impl Policy {
    /// # Errors
    /// When the kernel has no netfilter netlink.
    pub(crate) fn open() -> Result<Policy, KernelError> {
        Ok(Policy {
            nft: Nftables::open()?,
            connections: Connections::open()?,
            flags: OWNED,
            known: None,
            has_written: false,
        })
    }

    pub(crate) fn own_no_tables(&mut self) {
        self.flags = 0;
    }

    /// The address that notices of this hand's own changes bear.
    pub(crate) fn port(&self) -> u32 {
        self.nft.port()
    }

    /// All rows that are in the table.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub(crate) fn read(&mut self) -> Result<Vec<PolicyRow>, KernelError> {
        let Some(found) = self.look()? else {
            self.has_written = false;
            return Ok(Vec::new());
        };
        let is_held = found.flags == self.flags && (self.flags == 0 || found.owner == Some(self.nft.port()));
        let intact = self.has_written && is_held && !found.is_strange;
        let judge = Judge { intact, epoch: found.epoch.unwrap_or(Epoch::LAST) };
        Ok([PolicyRow::Judge(judge)].into_iter().chain(found.rows).collect())
    }

    /// How many packets were refused in each direction, or in none, since the table was made.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub(crate) fn denied(&mut self) -> Result<Vec<(Option<Direction>, u64)>, KernelError> {
        read::counted(&mut self.nft)
    }

    fn look(&mut self) -> Result<Option<Found>, KernelError> {
        let found = read::read(&mut self.nft)?;
        self.known = Some(found.as_ref().map_or_else(Known::default, Known::of));
        Ok(found)
    }

    fn known(&mut self) -> Result<&mut Known, KernelError> {
        if self.known.is_none() {
            self.look()?;
        }
        Ok(self.known.get_or_insert_default())
    }

    /// Takes all steps in one transaction.
    pub(crate) fn apply(&mut self, steps: &[&Step]) -> Outcome {
        let todo: Vec<Todo<'_>> = steps.iter().filter_map(|step| Todo::of(step)).collect();
        let result = if todo.iter().any(Todo::removes_table) { self.remove() } else { self.transact(&todo) };
        match result {
            Ok(is_stale) => {
                let told = todo.iter().map(Todo::told).collect();
                Outcome { answers: vec![Ok(()); steps.len()], told, is_stale }
            }
            Err(refused) => {
                let answers = (0..steps.len()).map(|step| Err(answer(step, steps, &refused))).collect();
                Outcome { answers, told: Vec::new(), is_stale: true }
            }
        }
    }

    fn remove(&mut self) -> Result<bool, Refusals> {
        let mut draft = draft::Draft::new(false);
        draft.delete_table();
        (self.known, self.has_written) = (None, false);
        match self.nft.commit(&draft.finish().0) {
            Err(refused) if !refused.iter().all(|(_, refused)| refused.errno == libc::ENOENT) => {
                Err(refused.into_iter().map(|(_, refused)| (For::Table, refused)).collect())
            }
            _ => Ok(false),
        }
    }

    /// Tries in place first. A table that is not as it should be is made anew with the rows that it has, where it cannot
    /// be owned it is an ordinary one. Gives whether more may have changed than was asked for.
    fn transact(&mut self, todo: &[Todo<'_>]) -> Result<bool, Refusals> {
        let is_strange = self.known().map_err(|error| unread(&error))?.is_strange;
        let judge = todo.iter().find_map(Todo::judge);
        if let Some(judge) = judge {
            self.sweep(judge.epoch).map_err(|error| unread(&error))?;
        }
        let mut way = Way { flags: self.flags, anew: judge.is_some() && is_strange, each: false };
        let mut skipped = BTreeSet::new();
        let mut last = Vec::new();
        for _ in 0..TRIES {
            let refused = match self.attempt(todo, way, &skipped) {
                Ok(()) => {
                    self.note(todo, way);
                    return Ok(way.anew || !skipped.is_empty());
                }
                Err(refused) => refused,
            };
            let next = self.another_way(todo, way, &refused, &mut skipped);
            last = refused;
            match next {
                Some(next) => way = next,
                None => break,
            }
        }
        Err(last)
    }

    fn another_way(
        &mut self,
        todo: &[Todo<'_>],
        way: Way,
        refused: &Refusals,
        skipped: &mut BTreeSet<usize>,
    ) -> Option<Way> {
        let writes = todo.iter().any(|todo| todo.judge().is_some());
        let is_about_table =
            |(reason, refused): &(For, Refused)| *reason == For::Table && is_about_the_tables(refused.errno);
        if writes && refused.iter().any(is_about_table) {
            return match way {
                Way { anew: false, .. } => Some(Way { anew: true, ..way }),
                Way { flags: 0, .. } => None,
                _ => {
                    tracing::info!("this kernel does not let our nftables be owned; others can change them");
                    Some(Way { flags: 0, anew: false, ..way })
                }
            };
        }
        if refused.iter().any(|(reason, _)| !matches!(reason, For::Step(_))) {
            return None;
        }
        if !way.each {
            // Something may be in it that nobody told of.
            let is_strange =
                writes && self.look().is_ok_and(|found| found.is_some_and(|found| found.is_strange));
            return Some(Way { each: true, anew: way.anew || is_strange, ..way });
        }
        // What is not there need not be taken away.
        let absent = refused.iter().filter_map(|(reason, refused)| match reason {
            For::Step(step) if refused.errno == libc::ENOENT => Some(*step),
            _ => None,
        });
        let absent: Vec<usize> =
            absent.filter(|step| todo.get(*step).is_some_and(Todo::is_removal)).collect();
        let before = skipped.len();
        skipped.extend(absent);
        (skipped.len() > before).then_some(way)
    }

    fn attempt(&mut self, todo: &[Todo<'_>], way: Way, skipped: &BTreeSet<usize>) -> Result<(), Refusals> {
        let found = if way.anew { self.look().map_err(|error| unread(&error))? } else { None };
        let (batch, reasons) =
            if way.anew { write::anew(todo, way, found) } else { write::in_place(todo, way, skipped) };
        let reason = |position: usize| reasons.get(position).copied().unwrap_or(For::Table);
        self.nft.commit(&batch).map_err(|refused| {
            refused.into_iter().map(|(position, refused)| (reason(position), refused)).collect()
        })
    }

    /// Keeps what the kernel took.
    fn note(&mut self, todo: &[Todo<'_>], way: Way) {
        self.flags = way.flags;
        let known = self.known.get_or_insert_default();
        if let Some(judge) = todo.iter().find_map(Todo::judge) {
            *known = Known { epoch: Some(judge.epoch), is_strange: false };
            self.has_written = true;
        }
    }

    /// Who enters a half of the epochs takes its marks off all connections before, as they are of long ago. So may all be
    /// where there was no table, or where an agent of before wrote it: whether it kept the number is not known.
    fn sweep(&mut self, epoch: Epoch) -> Result<(), KernelError> {
        let known = self.known()?.epoch.filter(|_| self.has_written);
        let marks = match known {
            Some(was) if was.is_upper() == epoch.is_upper() => return Ok(()),
            Some(_) => Marks::HalfOf(epoch),
            None => Marks::All,
        };
        let count = self.connections.unmark(marks)?;
        tracing::debug!(count, "took old marks off connections");
        Ok(())
    }
}

impl Known {
    fn of(found: &Found) -> Known {
        Known { epoch: found.epoch, is_strange: found.is_strange }
    }
}

/// Whether a message is about the table of policies.
pub(super) fn is_ours(body: &[u8]) -> bool {
    wire::find(body, 1).and_then(wire::text) == Some(TABLE)
}

fn unread(error: &KernelError) -> Refusals {
    vec![(For::Table, garbled(error))]
}

/// The answer to a step of a transaction that was refused.
fn answer(step: usize, steps: &[&Step], refused: &Refusals) -> StepError {
    let own = refused.iter().find(|(reason, _)| *reason == For::Step(step));
    match (own, refused.first()) {
        (Some((_, refused)), _) if refused.errno == libc::ENOENT => StepError::NoRuleset,
        (Some((_, refused)), _) | (None, Some((For::Table | For::Kept, refused))) => {
            about_table(TABLE, refused.clone())
        }
        (None, Some((For::Step(other), refused))) => {
            let other = steps.get(*other).map(|step| step.to_string()).unwrap_or_default();
            let text = format!("no policy was changed, as this was refused: {other}: {}", refused.text);
            StepError::Kernel { errno: refused.errno, text }
        }
        (None, None) => about_table(TABLE, Refused::from_errno(libc::EIO)),
    }
}
