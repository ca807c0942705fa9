//! The loop.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use tartan_host::{Host, Key, LinkKind, Notice, Realm, Row, Rows, Step, SysctlKey, diff, diff_keys, guard};
use tartan_kernel::KernelError;
use tartan_model::IfName;
use tracing::{debug, warn};

use crate::Dataplane;

/// Rounds of compare and step before what is left is called unsettled. Two are enough for any host (a law of
/// `tartan-host`); the third is for a kernel that changes meanwhile.
const ROUNDS: usize = 3;

/// Whether removed pod links go now. Each removal waits for the kernel's RCU grace period, about 20 ms; many at
/// once share one, so they are gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// They stay until the next sweep.
    Later,
    /// They go now, all at once.
    Now,
}

/// A wanted row that the kernel does not have as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsettled {
    /// The row.
    pub row: Row,
    /// Why, as far as it is known.
    pub reason: Option<String>,
}

/// What is wanted, what there is, and the way from one to the other. `S` is what rows belong to.
pub struct Reconciler<S, K> {
    kernel: K,
    realm: Realm,
    want: Rows,
    owners: BTreeMap<Key, S>,
    /// Who else wants a row, where several do.
    shared: BTreeMap<Key, BTreeSet<S>>,
    scopes: BTreeMap<S, BTreeSet<Key>>,
    /// Wanted keys by the link that they stand on.
    on: BTreeMap<IfName, BTreeSet<Key>>,
    mirror: Host,
    /// Keys whose wanted or reported row changed since they were last compared.
    dirty: BTreeSet<Key>,
    /// Why a key is not settled.
    failed: BTreeMap<Key, String>,
    /// The reasons that the log has already.
    said: BTreeMap<Key, String>,
    /// Every source has told all it knows, so what is not wanted may go.
    may_remove: bool,
    routes_stale: bool,
    ruleset_stale: bool,
    underlay_changed: bool,
    lost: bool,
}

impl<S: Ord + Clone, K: Dataplane> Reconciler<S, K> {
    /// The loop over a kernel. Nothing is read or changed yet.
    pub fn new(kernel: K, realm: Realm) -> Self {
        Self {
            kernel,
            realm,
            want: Rows::default(),
            owners: BTreeMap::new(),
            shared: BTreeMap::new(),
            scopes: BTreeMap::new(),
            on: BTreeMap::new(),
            mirror: Host::default(),
            dirty: BTreeSet::new(),
            failed: BTreeMap::new(),
            said: BTreeMap::new(),
            may_remove: false,
            routes_stale: false,
            ruleset_stale: false,
            underlay_changed: false,
            lost: true,
        }
    }

    /// The kernel, for what is not rows.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// The kernel, to look at.
    pub fn kernel_ref(&self) -> &K {
        &self.kernel
    }

    /// What the kernel reported.
    pub fn mirror(&self) -> &Host {
        &self.mirror
    }

    /// From now on what is not wanted is removed.
    pub fn allow_removal(&mut self) {
        if !self.may_remove {
            self.may_remove = true;
            self.dirty.extend(self.mirror.rows.keys().cloned());
        }
    }

    /// Replaces what a scope wants. A row that two scopes want is as the one that asked last wants it, and stays as long
    /// as one of them does.
    pub fn want(&mut self, scope: &S, rows: Vec<Row>) {
        let new: BTreeSet<Key> = rows.iter().map(Row::key).collect();
        let old = self.scopes.remove(scope).unwrap_or_default();
        for key in old.difference(&new) {
            self.disown(key, scope);
        }
        for row in rows {
            let key = row.key();
            self.own(&key, scope);
            if self.want.get(&key) != Some(&row) {
                self.want_row(row);
                self.dirty.insert(key);
            }
        }
        if !new.is_empty() {
            self.scopes.insert(scope.clone(), new);
        }
    }

    fn own(&mut self, key: &Key, scope: &S) {
        if let Some(other) = self.owners.insert(key.clone(), scope.clone()).filter(|other| other != scope) {
            self.shared.entry(key.clone()).or_default().insert(other);
        }
        if let Some(others) = self.shared.get_mut(key) {
            others.remove(scope);
        }
    }

    fn disown(&mut self, key: &Key, scope: &S) {
        let others = self.shared.get_mut(key);
        if self.owners.get(key) != Some(scope) {
            others.map(|others| others.remove(scope));
        } else if let Some(next) = others.and_then(BTreeSet::pop_first) {
            self.owners.insert(key.clone(), next);
        } else {
            self.owners.remove(key);
            self.unwant(key);
        }
        if self.shared.get(key).is_some_and(BTreeSet::is_empty) {
            self.shared.remove(key);
        }
    }

    fn want_row(&mut self, row: Row) {
        let key = row.key();
        if let Some(link) = row.on() {
            self.on.entry(link.clone()).or_default().insert(key.clone());
        }
        if let Some(old) = self.want.insert(row.clone()).filter(|old| old.on() != row.on()) {
            self.forget_place(&old, &key);
        }
    }

    fn unwant(&mut self, key: &Key) {
        if let Some(old) = self.want.remove(key) {
            self.forget_place(&old, key);
        }
        self.failed.remove(key);
        self.dirty.insert(key.clone());
    }

    fn forget_place(&mut self, row: &Row, key: &Key) {
        let Some(link) = row.on() else { return };
        if let Some(keys) = self.on.get_mut(link) {
            keys.remove(key);
            if keys.is_empty() {
                self.on.remove(link);
            }
        }
    }

    /// Brings the kernel to what is wanted, as far as it goes.
    ///
    /// # Errors
    /// When the kernel could not be read; what is wanted is kept, and the next call reads anew.
    pub fn settle(&mut self, sweep: Sweep) -> Result<(), KernelError> {
        for _ in 0..ROUNDS {
            self.hear()?;
            let steps = self.plan_dirty(sweep);
            if steps.is_empty() {
                break;
            }
            self.take(&steps);
        }
        self.hear()
    }

    /// Takes in what the kernel told since the last call; reads it anew where that is not enough.
    ///
    /// # Errors
    /// When the kernel could not be read.
    pub fn hear(&mut self) -> Result<(), KernelError> {
        let notices = self.kernel.notices();
        self.routes_stale |= notices.routes_stale;
        self.ruleset_stale |= notices.ruleset_stale;
        self.underlay_changed |= notices.underlay;
        self.lost |= notices.lost;
        if self.lost {
            return self.read_anew();
        }
        for notice in notices.rows {
            let key = notice.key();
            if self.mirror.learn(notice) {
                self.note_change(key);
            }
        }
        if self.routes_stale {
            let found = self.kernel.read_routes()?;
            self.take_table(found, |row| matches!(row, Row::Route(_)));
            self.routes_stale = false;
        }
        if self.ruleset_stale {
            let found = self.kernel.read_ruleset()?;
            self.take_table(found, |row| matches!(row, Row::Ruleset(_) | Row::Element(_)));
            self.ruleset_stale = false;
        }
        Ok(())
    }

    /// Whether the underlay changed since this was last asked.
    pub fn take_underlay_changed(&mut self) -> bool {
        mem::take(&mut self.underlay_changed)
    }

    /// The underlay is to be looked at again, as if it had changed.
    pub fn doubt_underlay(&mut self) {
        self.underlay_changed = true;
    }

    /// Whether there is something to do that no notice will tell of.
    pub fn has_work(&self) -> bool {
        let waiting = |key: &Key| self.may_remove && !self.is_leftover(key);
        self.lost
            || self.underlay_changed
            || self.routes_stale
            || self.ruleset_stale
            || self.dirty.iter().any(waiting)
    }

    /// What should go and cannot, and why.
    pub fn failed_removals(&self) -> impl Iterator<Item = String> + '_ {
        let unwanted = self.failed.iter().filter(|(key, _)| self.want.get(key).is_none());
        unwanted.filter_map(|(key, reason)| Some(format!("{} stays: {reason}", self.mirror.rows.get(key)?)))
    }

    /// Reads the wanted settings again, of whose changes the kernel does not tell.
    pub fn look_at_settings(&mut self) {
        for key in self.want.iter().filter_map(sysctl_key).collect::<Vec<_>>() {
            if let Some(row) = self.kernel.read_sysctl(&key)
                && self.mirror.learn(Notice::Is(row.clone()))
            {
                self.dirty.insert(row.key());
            }
        }
    }

    /// The next [`Reconciler::settle`] reads everything and tries again what failed.
    pub fn distrust(&mut self) {
        self.lost = true;
    }

    /// Tries again what failed, at the next [`Reconciler::settle`].
    pub fn retry(&mut self) {
        self.dirty.extend(self.failed.keys().cloned());
    }

    /// Whether something wanted could not be done.
    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Whether something waits for the next sweep.
    pub fn has_leftovers(&self) -> bool {
        self.may_remove && self.dirty.iter().any(|key| self.is_leftover(key))
    }

    /// The wanted rows of a scope that the kernel does not have as wanted.
    pub fn unsettled(&self, scope: &S) -> Vec<Unsettled> {
        let keys = self.scopes.get(scope).into_iter().flatten();
        keys.filter_map(|key| self.want.get(key)).filter_map(|row| self.check(row)).collect()
    }

    /// Every wanted row that the kernel does not have as wanted.
    pub fn all_unsettled(&self) -> impl Iterator<Item = Unsettled> + '_ {
        self.want.iter().filter_map(|row| self.check(row))
    }

    /// What would be done now if this were wanted, without doing it.
    pub fn plan(&self, want: &Rows) -> Vec<Step> {
        let steps = diff(want, &self.mirror);
        let steps = steps.into_iter().filter(|step| self.may_remove || !matches!(step, Step::Remove { .. }));
        guard(steps.collect(), &self.mirror, &self.realm).0
    }

    fn check(&self, row: &Row) -> Option<Unsettled> {
        let key = row.key();
        let found = self.mirror.rows.get(&key).is_some_and(|found| row.matches(found));
        (!found).then(|| Unsettled { row: row.clone(), reason: self.failed.get(&key).cloned() })
    }

    fn plan_dirty(&mut self, sweep: Sweep) -> Vec<Step> {
        let leftover: BTreeSet<Key> = match sweep {
            Sweep::Later => self.dirty.iter().filter(|key| self.is_leftover(key)).cloned().collect(),
            Sweep::Now => BTreeSet::new(),
        };
        let keys: BTreeSet<Key> = mem::take(&mut self.dirty).difference(&leftover).cloned().collect();
        let mut steps = diff_keys(&self.want, &self.mirror, &keys);
        if !self.may_remove {
            steps.retain(|step| self.is_replacement(step));
        }
        self.dirty = leftover;
        let before: BTreeMap<Key, String> =
            keys.iter().filter_map(|key| self.failed.remove_entry(key)).collect();
        let (steps, refused) = guard(steps, &self.mirror, &self.realm);
        self.said = before;
        for refusal in refused {
            self.fail(&refusal.step, refusal.reason.to_string());
        }
        steps
    }

    /// A removal that makes place for the same thing made anew is no loss.
    fn is_replacement(&self, step: &Step) -> bool {
        !matches!(step, Step::Remove { .. }) || self.want.get(&step.key()).is_some()
    }

    /// A pod's link that nobody wants any more.
    fn is_leftover(&self, key: &Key) -> bool {
        let Key::Link(name) = key else { return false };
        let veth = self.mirror.rows.link(name).is_some_and(|link| link.kind == LinkKind::Veth);
        veth && self.want.get(key).is_none()
    }

    fn take(&mut self, steps: &[Step]) {
        for step in steps {
            debug!("{step}");
        }
        let outcomes = self.kernel.apply(steps);
        for (step, outcome) in steps.iter().zip(outcomes) {
            let key = step.key();
            if let Key::Sysctl(sysctl) = &key {
                // Settings have no notification of their own.
                if let Some(row) = self.kernel.read_sysctl(sysctl) {
                    self.mirror.rows.insert(row);
                }
            }
            if let Err(error) = outcome {
                self.fail(step, error.to_string());
            } else {
                // A step may be taken without effect; whether it had one is seen in the next round.
                self.dirty.insert(key);
            }
        }
    }

    /// Says so once, and not again as long as the reason is the same.
    fn fail(&mut self, step: &Step, reason: String) {
        let key = step.key();
        if self.said.get(&key) == Some(&reason) {
            debug!("failed again: {step}: {reason}");
        } else {
            warn!("failed: {step}: {reason}");
        }
        self.failed.insert(key, reason);
    }

    /// A changed link may stand in the way of, or make room for, everything on it; elements go with the ruleset.
    fn note_change(&mut self, key: Key) {
        if key == Key::Ruleset {
            self.dirty.extend(self.want.keys().filter(|key| matches!(key, Key::Element(_))).cloned());
        }
        if let Key::Link(name) = &key {
            let on = self.on.get(name).into_iter().flatten();
            self.dirty.extend(on.filter(|key| self.mirror.rows.get(key).is_none()).cloned());
        }
        self.dirty.insert(key);
    }

    fn read_anew(&mut self) -> Result<(), KernelError> {
        let sysctls: Vec<SysctlKey> = self.want.iter().filter_map(sysctl_key).collect();
        self.mirror = self.kernel.read(&sysctls)?;
        self.lost = false;
        self.routes_stale = false;
        self.ruleset_stale = false;
        self.underlay_changed = true;
        self.dirty.extend(self.want.keys().cloned());
        self.dirty.extend(self.mirror.rows.keys().cloned());
        Ok(())
    }

    /// Puts what was read anew of one table in the place of what was known of it.
    fn take_table(&mut self, found: Vec<Row>, is_of_table: impl Fn(&Row) -> bool) {
        let found = Rows::from_iter(found);
        let old: Vec<Row> = self.mirror.rows.iter().filter(|row| is_of_table(row)).cloned().collect();
        for row in old.iter().filter(|row| found.get(&row.key()).is_none()) {
            self.mirror.rows.remove(&row.key());
            self.note_change(row.key());
        }
        for row in found.iter().filter(|row| self.mirror.rows.get(&row.key()) != Some(row)) {
            self.dirty.insert(row.key());
        }
        self.mirror.rows.extend(found.iter().cloned());
    }
}

fn sysctl_key(row: &Row) -> Option<SysctlKey> {
    match row {
        Row::Sysctl(sysctl) => Some(sysctl.key.clone()),
        _ => None,
    }
}
