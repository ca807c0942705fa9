//! From steps to transactions: in place, or the whole table anew.

use std::collections::{BTreeMap, BTreeSet};

use tartan_host::policy::{Identity, Judge, Judgement, PolicyKey, PolicyRow, Remotes, RemotesId};
use tartan_host::{Key, Notice, Row, Step};

use super::super::socket::Batch;
use super::draft::{Draft, For};
use super::elements::{judged, member, now, own, ports, ranges};
use super::read::Found;
use super::shape;

/// How a transaction is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    /// The flags of the table.
    pub(super) flags: u32,
    /// Whether the table is made anew, with the rows that it has.
    pub(super) anew: bool,
    /// Whether each element has a message of its own, so that it is known which one is refused.
    pub(super) each: bool,
}

/// What is to be done: the row to be, and the one that is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Todo<'a> {
    pub(super) put: Option<&'a PolicyRow>,
    pub(super) was: Option<&'a PolicyRow>,
}

impl<'a> Todo<'a> {
    pub(super) fn of(step: &'a Step) -> Option<Todo<'a>> {
        let (put, was) = match step {
            Step::Create { row: Row::Policy(row) } => (Some(row), None),
            Step::Change { from: Row::Policy(from), to: Row::Policy(to) } => (Some(to), Some(from)),
            Step::Remove { row: Row::Policy(row) } => (None, Some(row)),
            _ => return None,
        };
        Some(Todo { put, was })
    }

    /// The table, if it is to be written.
    pub(super) fn judge(&self) -> Option<&'a Judge> {
        match self.put {
            Some(PolicyRow::Judge(judge)) => Some(judge),
            _ => None,
        }
    }

    pub(super) fn is_removal(&self) -> bool {
        self.put.is_none()
    }

    pub(super) fn removes_table(&self) -> bool {
        matches!((self.put, self.was), (None, Some(PolicyRow::Judge(_))))
    }

    /// What there is once it is done.
    pub(super) fn told(&self) -> Notice {
        match (self.put, self.was) {
            (Some(PolicyRow::Judge(judge)), _) => {
                let judge = Judge { intact: true, ..judge.clone() };
                Notice::Is(Row::Policy(PolicyRow::Judge(judge)))
            }
            (Some(row), _) => Notice::Is(Row::Policy(row.clone())),
            (None, was) => Notice::Gone(Key::Policy(was.map_or(PolicyKey::Judge, PolicyRow::key))),
        }
    }
}

/// The steps as they are, but that of the table first: everything else needs it.
pub(super) fn in_place(todo: &[Todo<'_>], way: Way, skipped: &BTreeSet<usize>) -> (Batch, Vec<For>) {
    let mut writing = Writing { draft: Draft::new(way.each) };
    let steps = || todo.iter().enumerate().filter(|(number, _)| !skipped.contains(number));
    for (number, todo) in steps() {
        if let Some(judge) = todo.judge() {
            let is_there = matches!(todo.was, Some(PolicyRow::Judge(was)) if was.intact);
            writing.judge(For::Step(number), judge, way.flags, is_there);
        }
    }
    for (number, todo) in steps() {
        match (todo.put, todo.was) {
            (Some(row), was) => writing.put(For::Step(number), row, was),
            (None, Some(row)) => writing.remove(For::Step(number), row),
            (None, None) => {}
        }
    }
    writing.draft.finish()
}

/// The table with the rows that were found in it, and what the steps make of them.
pub(super) fn anew(todo: &[Todo<'_>], way: Way, found: Option<Found>) -> (Batch, Vec<For>) {
    let mut draft = Draft::new(way.each);
    if found.is_some() {
        draft.delete_table();
    }
    let found = found.map(|found| found.rows).unwrap_or_default();
    let mut rows: BTreeMap<PolicyKey, PolicyRow> = found.into_iter().map(|row| (row.key(), row)).collect();
    let mut reasons = BTreeMap::new();
    for (number, todo) in todo.iter().enumerate() {
        match (todo.put, todo.was) {
            (Some(row), _) => {
                rows.insert(row.key(), row.clone());
                reasons.insert(row.key(), number);
            }
            (None, Some(row)) => {
                rows.remove(&row.key());
            }
            (None, None) => {}
        }
    }
    complete(&mut rows);
    let mut writing = Writing { draft };
    for (key, row) in &rows {
        let reason = reasons.get(key).map_or(For::Kept, |number| For::Step(*number));
        match row {
            PolicyRow::Judge(judge) => writing.judge(reason, judge, way.flags, false),
            row => writing.put(reason, row, None),
        }
    }
    writing.draft.finish()
}

/// What some row leads to and was not found denies all, until it is told what it should be: nothing is opened meanwhile.
fn complete(rows: &mut BTreeMap<PolicyKey, PolicyRow>) {
    let mut missing = Vec::new();
    for row in rows.values() {
        if let PolicyRow::Judged(row) = row
            && !rows.contains_key(&PolicyKey::Identity(row.identity))
        {
            let (id, direction, about) = (row.identity, row.direction, String::new());
            let otherwise = RemotesId(id.0);
            missing.push(PolicyRow::Identity(Identity {
                id,
                direction,
                ports: Vec::new(),
                otherwise,
                about,
                is_far: false,
            }));
        }
    }
    rows.extend(missing.into_iter().map(|row| (row.key(), row)));
    let mut missing = Vec::new();
    for row in rows.values() {
        let PolicyRow::Identity(row) = row else { continue };
        let wanted = row.ports.iter().map(|class| class.remotes).chain([row.otherwise]);
        missing.extend(wanted.filter(|id| !rows.contains_key(&PolicyKey::Remotes(*id))).map(|id| {
            let (direction, otherwise) = (row.direction, Judgement::Deny);
            PolicyRow::Remotes(Remotes { id, direction, ranges: Vec::new(), otherwise })
        }));
    }
    rows.extend(missing.into_iter().map(|row| (row.key(), row)));
    let remotes: BTreeSet<PolicyKey> =
        rows.keys().filter(|key| matches!(key, PolicyKey::Remotes(_))).copied().collect();
    rows.retain(|key, _| match key {
        PolicyKey::Member(id, _) => remotes.contains(&PolicyKey::Remotes(*id)),
        _ => true,
    });
}

struct Writing {
    draft: Draft,
}

impl Writing {
    /// Where all else is as it was written, only the epoch is. It is in a set and in one rule.
    fn judge(&mut self, reason: For, judge: &Judge, flags: u32, is_there: bool) {
        let draft = &mut self.draft;
        if is_there {
            draft.begin(reason);
            let chain = shape::judged(judge.epoch);
            draft.empty_chain(&chain.name);
            draft.fill_chain(&chain);
            draft.empty_set(shape::NOW);
            draft.element(reason, true, now(judge.epoch));
            return;
        }
        draft.begin(For::Table);
        draft.table(flags);
        draft.begin(reason);
        shape::sets().iter().for_each(|set| draft.set(set));
        let chains = shape::chains(judge.epoch);
        chains.iter().for_each(|chain| draft.empty_chain(&chain.name));
        chains.iter().for_each(|chain| draft.fill_chain(chain));
        draft.empty_set(shape::NOW);
        draft.element(reason, true, now(judge.epoch));
    }

    fn put(&mut self, reason: For, row: &PolicyRow, was: Option<&PolicyRow>) {
        match row {
            // The table comes before all else.
            PolicyRow::Judge(_) => {}
            PolicyRow::Remotes(row) => self.put_remotes(reason, row),
            PolicyRow::Identity(row) => self.put_identity(reason, row, was),
            _ => {
                if let Some(was) = was {
                    self.elements(reason, false, was);
                }
                self.elements(reason, true, row);
            }
        }
    }

    /// Members stay.
    fn put_remotes(&mut self, reason: For, row: &Remotes) {
        let others = shape::remotes(row.id, row.direction, row.otherwise);
        self.draft.begin(reason);
        others.sets().for_each(|set| self.draft.set(set));
        others.ranges.iter().for_each(|set| self.draft.empty_set(&set.name));
        self.draft.empty_chain(&others.chain.name);
        self.draft.fill_chain(&others.chain);
        ranges(row).into_iter().for_each(|element| self.draft.element(reason, true, element));
    }

    fn put_identity(&mut self, reason: For, row: &Identity, was: Option<&PolicyRow>) {
        let (set, chain) = shape::identity(row);
        self.draft.begin(reason);
        if let Some(PolicyRow::Identity(was)) = was
            && was.direction != row.direction
        {
            self.draft.delete_chain(&shape::identity_chain(was.direction, was.id));
        }
        self.draft.set(&set);
        self.draft.empty_set(&set.name);
        self.draft.empty_chain(&chain.name);
        self.draft.fill_chain(&chain);
        ports(row).into_iter().for_each(|element| self.draft.element(reason, true, element));
    }

    fn remove(&mut self, reason: For, row: &PolicyRow) {
        match row {
            PolicyRow::Judge(_) => {}
            PolicyRow::Remotes(row) => {
                let others = shape::remotes(row.id, row.direction, row.otherwise);
                self.draft.begin(reason);
                self.draft.delete_chain(&others.chain.name);
                others.sets().for_each(|set| self.draft.delete_set(&set.name));
            }
            PolicyRow::Identity(row) => {
                let (set, chain) = shape::identity(row);
                self.draft.begin(reason);
                self.draft.delete_chain(&chain.name);
                self.draft.delete_set(&set.name);
            }
            _ => self.elements(reason, false, row),
        }
    }

    fn elements(&mut self, reason: For, puts: bool, row: &PolicyRow) {
        match row {
            // Remotes that are not there have no set either, so the kernel refuses.
            PolicyRow::Member(row) => self.draft.element(reason, puts, member(row)),
            PolicyRow::Judged(row) => self.draft.element(reason, puts, judged(row)),
            PolicyRow::Own(row) => {
                own(row).into_iter().for_each(|element| self.draft.element(reason, puts, element));
            }
            PolicyRow::Judge(_) | PolicyRow::Remotes(_) | PolicyRow::Identity(_) => {}
        }
    }
}
