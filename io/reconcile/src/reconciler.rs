//! The loop.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Instant;

use tartan_host::policy::PolicyKey;
use tartan_host::{Host, Key, LinkKind, Notice, Realm, Row, Rows, Step, SysctlKey, diff, diff_keys, guard};
use tartan_kernel::KernelError;
use tartan_model::IfName;
use tracing::{debug, warn};

use crate::Dataplane;
use crate::pace::Pace;
use crate::wants::Wants;

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

/// What was done since the beginning, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Objects put right after somebody else changed them, by table.
    pub repairs: BTreeMap<&'static str, u64>,
    /// Steps and readings that failed.
    pub errors: u64,
    /// Notices that came.
    pub notices: u64,
    /// Times that notices were lost.
    pub lost: u64,
}

/// What is wanted, what there is, and the way from one to the other. `S` is what rows belong to.
pub struct Reconciler<S, K> {
    kernel: K,
    realm: Realm,
    wants: Wants<S>,
    mirror: Host,
    /// Keys whose wanted or reported row changed since they were last compared.
    dirty: BTreeSet<Key>,
    /// Why a key is not settled.
    failed: BTreeMap<Key, String>,
    /// The reasons that the log has already.
    said: BTreeMap<Key, String>,
    /// Wanted links that are gone, and of which the other end is not known.
    orphans: BTreeSet<Key>,
    /// Every source has told all it knows, so what is not wanted may go.
    may_remove: bool,
    /// Routes may be other than the mirror says.
    routes: Pace,
    /// So may our nftables.
    ruleset: Pace,
    /// And our table of policies.
    policy: Pace,
    /// The uplink may be another.
    underlay: Pace,
    /// Notices were lost: anything may be other than the mirror says.
    everything: Pace,
    /// Keys that changed without us since they were last compared.
    told: BTreeSet<Key>,
    tally: Tally,
}

impl<S: Ord + Clone, K: Dataplane> Reconciler<S, K> {
    /// The loop over a kernel. Nothing is read or changed yet.
    pub fn new(kernel: K, realm: Realm) -> Self {
        Self {
            kernel,
            realm,
            wants: Wants::new(),
            mirror: Host::default(),
            dirty: BTreeSet::new(),
            failed: BTreeMap::new(),
            said: BTreeMap::new(),
            orphans: BTreeSet::new(),
            may_remove: false,
            routes: Pace::with_burst(4),
            ruleset: Pace::with_burst(4),
            policy: Pace::with_burst(4),
            underlay: Pace::with_burst(4),
            everything: Pace::with_burst(1),
            told: BTreeSet::new(),
            tally: Tally::default(),
        }
        .in_doubt()
    }

    fn in_doubt(mut self) -> Self {
        self.everything.doubt_if(true);
        self
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
        let changed = self.wants.replace(scope, rows, &self.mirror.rows);
        for key in &changed {
            self.told.remove(key);
        }
        for key in changed.iter().filter(|key| self.wants.rows().get(key).is_none()) {
            self.failed.remove(key);
        }
        self.dirty.extend(changed);
    }

    /// Nothing is wanted any more, whoever wanted it: what is there goes with the next [`Sweep::Now`].
    pub fn want_nothing(&mut self) {
        self.failed.clear();
        self.orphans.clear();
        self.dirty.extend(self.wants.clear());
        self.may_remove = true;
        self.dirty.extend(self.mirror.rows.keys().cloned());
    }

    /// Brings the kernel to what is wanted, as far as it goes.
    ///
    /// # Errors
    /// When the kernel could not be read; what is wanted is kept, and the next call reads anew.
    pub fn settle(&mut self, sweep: Sweep) -> Result<(), KernelError> {
        for round in 0..ROUNDS {
            self.listen(round == 0)?;
            let steps = self.plan_dirty(sweep);
            if steps.is_empty() {
                // What is told from now on wakes the caller, so it must not be heard here.
                return Ok(());
            }
            self.take(&steps);
            // What is told from now on is our own doing.
            self.told.clear();
        }
        let heard = self.listen(false);
        self.told.clear();
        heard
    }

    /// What was done since the beginning.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Takes in what the kernel told since the last call; reads it anew where that is not enough, but not more often
    /// than a [`Pace`] allows. Until then what it told counts, as far as it came.
    ///
    /// # Errors
    /// When the kernel could not be read.
    pub fn hear(&mut self) -> Result<(), KernelError> {
        self.listen(true)
    }

    /// `of_others` tells that nothing of it is the echo of our own steps.
    fn listen(&mut self, of_others: bool) -> Result<(), KernelError> {
        let notices = self.kernel.notices();
        self.tally.notices += notices.rows.len() as u64;
        self.tally.lost += u64::from(notices.lost);
        self.routes.doubt_if(notices.routes_stale);
        self.ruleset.doubt_if(notices.ruleset_stale);
        self.policy.doubt_if(notices.policy_stale);
        self.underlay.doubt_if(notices.underlay);
        self.everything.doubt_if(notices.lost);
        let now = Instant::now();
        if self.everything.take(now) {
            return self.read_anew().inspect_err(|_| {
                self.tally.errors += 1;
                self.everything.failed(now);
            });
        }
        for notice in notices.rows {
            let key = notice.key();
            let (is_foreign, is_gone) =
                (matches!(notice, Notice::Foreign(..)), matches!(notice, Notice::Gone(_)));
            if self.mirror.learn(notice) {
                self.told.insert(key.clone());
                self.note_change(key);
            } else if let (Key::Link(name), true) = (&key, is_foreign) {
                self.note_way_clear(name);
            } else if of_others && is_gone {
                self.note_room(&key);
            }
        }
        // One table that cannot be read, because somebody else does not let it rest, must not stop the others.
        if self.routes.take(now) {
            match self.kernel.read_routes() {
                Ok(found) => self.take_table(found, |row| matches!(row, Row::Route(_))),
                Err(error) => {
                    warn!("cannot read the routes, trying again: {error}");
                    self.tally.errors += 1;
                    self.routes.failed(now);
                }
            }
        }
        if self.ruleset.take(now) {
            match self.kernel.read_ruleset() {
                Ok(found) => self.take_table(found, |row| matches!(row, Row::Ruleset(_) | Row::Element(_))),
                Err(error) => {
                    warn!("cannot read our nftables, trying again: {error}");
                    self.tally.errors += 1;
                    self.ruleset.failed(now);
                }
            }
        }
        if self.policy.take(now) {
            match self.kernel.read_policy() {
                Ok(found) => self.take_table(found, |row| matches!(row, Row::Policy(_))),
                Err(error) => {
                    warn!("cannot read our table of policies, trying again: {error}");
                    self.tally.errors += 1;
                    self.policy.failed(now);
                }
            }
        }
        Ok(())
    }

    /// Whether the underlay changed since this was last asked, and it is time to look at it.
    pub fn take_underlay_changed(&mut self) -> bool {
        self.underlay.take(Instant::now())
    }

    /// The underlay could not be looked at.
    pub fn doubt_underlay(&mut self) {
        self.underlay.failed(Instant::now());
    }

    /// Somebody waits for an answer: what is in doubt is read at the next [`Reconciler::hear`], however soon that is.
    pub fn hurry(&mut self) {
        self.routes.hurry();
        self.ruleset.hurry();
        self.policy.hurry();
        self.everything.hurry();
    }

    /// Whether anything may be other than the mirror says, as the kernel was not read since notices were lost.
    pub fn is_in_doubt(&self) -> bool {
        self.everything.due().is_some()
    }

    /// When something that is in doubt will be looked at.
    pub fn due(&self) -> Option<Instant> {
        [&self.everything, &self.routes, &self.ruleset, &self.policy, &self.underlay]
            .into_iter()
            .filter_map(Pace::due)
            .min()
    }

    /// Whether there is something to do that no notice will tell of.
    pub fn has_work(&self) -> bool {
        self.dirty.iter().any(|key| self.may_remove && !self.is_leftover(key))
    }

    /// The scopes whose link is gone and can only be made anew together with its other end: since the last call.
    pub fn take_orphans(&mut self) -> Vec<S> {
        let gone = mem::take(&mut self.orphans).into_iter().filter(|key| self.mirror.rows.get(key).is_none());
        gone.filter_map(|key| self.wants.owner(&key).cloned()).collect()
    }

    /// What should go and cannot, and why.
    pub fn failed_removals(&self) -> impl Iterator<Item = String> + '_ {
        let unwanted = self.failed.iter().filter(|(key, _)| self.wants.rows().get(key).is_none());
        unwanted.filter_map(|(key, reason)| Some(format!("{} stays: {reason}", self.mirror.rows.get(key)?)))
    }

    /// Reads the wanted settings again: it may be that nobody told of a change.
    pub fn look_at_settings(&mut self) {
        self.look_at(self.wants.rows().iter().filter_map(sysctl_key).collect());
    }

    fn look_at(&mut self, settings: Vec<SysctlKey>) {
        for key in settings {
            if let Some(row) = self.kernel.read_sysctl(&key)
                && self.mirror.learn(Notice::Is(row.clone()))
            {
                self.note_change(row.key());
            }
        }
    }

    /// The next [`Reconciler::settle`] reads everything and tries again what failed.
    pub fn distrust(&mut self) {
        self.everything.doubt_if(true);
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
        let here = |row: &&Row| !is_settled(self.wants.rows(), &self.mirror, &row.key());
        self.wants.of(scope).filter(here).map(|row| self.told(row)).collect()
    }

    /// Every wanted row that the kernel does not have as wanted.
    pub fn all_unsettled(&self) -> impl Iterator<Item = Unsettled> + '_ {
        self.wants.rows().missing_from(&self.mirror.rows).map(|row| self.told(row))
    }

    /// The same with a scope that wants it.
    pub fn all_unsettled_of(&self) -> impl Iterator<Item = (&S, Unsettled)> {
        let owned = |missing: Unsettled| Some((self.wants.owner(&missing.row.key())?, missing));
        self.all_unsettled().filter_map(owned)
    }

    /// What would be done now if this were wanted, without doing it.
    pub fn plan(&self, want: &Rows) -> Vec<Step> {
        let steps = diff(want, &self.mirror);
        let steps = steps.into_iter().filter(|step| self.may_remove || !matches!(step, Step::Remove { .. }));
        guard(steps.collect(), &self.mirror, &self.realm).0
    }

    fn told(&self, row: &Row) -> Unsettled {
        Unsettled { row: row.clone(), reason: self.failed.get(&row.key()).cloned() }
    }

    fn plan_dirty(&mut self, sweep: Sweep) -> Vec<Step> {
        let mut dirty = mem::take(&mut self.dirty);
        // What a connection is asked again for must not be parted from the new epoch, and no link is opened without it.
        let is_policy = |key: &&Key| matches!(key, Key::Policy(_));
        if dirty.iter().any(|key| matches!(key, Key::Policy(_) | Key::Link(_))) {
            dirty.extend(self.failed.keys().filter(is_policy).cloned());
        }
        let (leftover, keys): (BTreeSet<Key>, BTreeSet<Key>) =
            dirty.into_iter().partition(|key| sweep == Sweep::Later && self.is_leftover(key));
        let orphans: Vec<Key> = keys.iter().filter(|key| self.is_orphan(key)).cloned().collect();
        // They are made anew by who owns them.
        let lost = orphans.iter().filter(|key| self.told.contains(key)).count();
        if lost > 0 {
            *self.tally.repairs.entry("link").or_default() += lost as u64;
        }
        self.orphans.extend(orphans);
        for key in &keys {
            self.mirror.rows.share(key, self.wants.rows());
        }
        let mut steps = diff_keys(self.wants.rows(), &self.mirror, &keys);
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
        !matches!(step, Step::Remove { .. }) || self.wants.rows().get(&step.key()).is_some()
    }

    /// A pod's link that nobody wants any more.
    fn is_leftover(&self, key: &Key) -> bool {
        let Key::Link(name) = key else { return false };
        let veth = self.mirror.rows.link(name).is_some_and(|link| link.kind == LinkKind::Veth);
        veth && self.wants.rows().get(key).is_none()
    }

    fn is_orphan(&self, key: &Key) -> bool {
        matches!(self.wants.rows().get(key), Some(Row::Link(link)) if !link.can_be_made())
            && self.mirror.rows.get(key).is_none()
    }

    fn take(&mut self, steps: &[Step]) {
        for step in steps {
            debug!("{step}");
        }
        let outcomes = self.kernel.apply(steps);
        let mut together = false;
        for (step, outcome) in steps.iter().zip(outcomes) {
            let key = step.key();
            if let Key::Sysctl(sysctl) = &key {
                // Settings have no notification of their own.
                if let Some(row) = self.kernel.read_sysctl(sysctl) {
                    self.mirror.rows.insert(row);
                }
            }
            if let Err(error) = outcome {
                // Steps on policies are taken all together or not at all: one of them says why.
                if matches!(key, Key::Policy(_)) && mem::replace(&mut together, true) {
                    debug!("failed: {step}: {error}");
                    self.failed.insert(key, error.to_string());
                    continue;
                }
                self.fail(step, error.to_string());
                self.doubt_settings(step);
            } else {
                if self.told.contains(&key) {
                    *self.tally.repairs.entry(key.table()).or_default() += 1;
                }
                // A step may be taken without effect; whether it had one is seen in the next round.
                self.dirty.insert(key);
            }
        }
    }

    /// What a link does not take may be shut out by a setting of it; of IPv6 switched off there is no notice.
    fn doubt_settings(&mut self, step: &Step) {
        let (Step::Create { row } | Step::Change { to: row, .. } | Step::Remove { row }) = step;
        let on = row.on().into_iter().flat_map(|link| self.wants.on(link));
        self.look_at(
            on.filter_map(|key| if let Key::Sysctl(key) = key { Some(key.clone()) } else { None }).collect(),
        );
    }

    /// Says so once, and not again as long as the reason is the same.
    fn fail(&mut self, step: &Step, reason: String) {
        let key = step.key();
        self.tally.errors += 1;
        if self.said.get(&key) == Some(&reason) {
            debug!("failed again: {step}: {reason}");
        } else {
            warn!("failed: {step}: {reason}");
        }
        self.failed.insert(key, reason);
    }

    /// A changed link, or a setting of one, may stand in the way of, or make room for, everything on it; elements go with
    /// the ruleset, rows of the table of policies with that, and members with their remotes.
    fn note_change(&mut self, key: Key) {
        let link = match &key {
            Key::Ruleset => {
                self.dirty
                    .extend(self.wants.rows().keys().filter(|key| matches!(key, Key::Element(_))).cloned());
                None
            }
            // As long as it is there, what is in it is told of by itself.
            Key::Policy(gone) if self.mirror.rows.get(&key).is_none() => {
                let wants = self.wants.rows();
                match gone {
                    PolicyKey::Judge => self.dirty.extend(wants.policy_keys().cloned()),
                    PolicyKey::Remotes(id) => self.dirty.extend(wants.member_keys(*id).cloned()),
                    _ => {}
                }
                None
            }
            Key::Link(name) => Some(name),
            Key::Sysctl(key) => key.on(),
            _ => None,
        };
        if let Some(name) = link {
            let on = self.wants.on(name).filter(|key| !is_settled(self.wants.rows(), &self.mirror, key));
            self.dirty.extend(on.cloned());
        }
        self.dirty.insert(key);
    }

    /// A link of others came or went up: our routes by it may be made again.
    fn note_way_clear(&mut self, link: &IfName) {
        let on = self.wants.on(link).filter(|key| !is_settled(self.wants.rows(), &self.mirror, key));
        self.dirty.extend(on.cloned());
    }

    /// Something that is not ours went, so what it stood in the way of may be made: what has its key, and an address of the
    /// same link also where the lengths differ, as IPv6 has each once.
    fn note_room(&mut self, gone: &Key) {
        let hindered: Vec<Key> = match gone {
            Key::Address(link, theirs) => {
                let is_same = |key: &&Key| matches!(key, Key::Address(on, ours) if on == link && ours.address() == theirs.address());
                self.failed.keys().filter(is_same).cloned().collect()
            }
            // Of others' routes only those are told that replace one.
            Key::Route(..) => return,
            _ if self.failed.contains_key(gone) => vec![gone.clone()],
            _ => return,
        };
        hindered.into_iter().for_each(|key| self.note_change(key));
    }

    fn read_anew(&mut self) -> Result<(), KernelError> {
        let sysctls: Vec<SysctlKey> = self.wants.rows().iter().filter_map(sysctl_key).collect();
        self.mirror = self.kernel.read(&sysctls)?;
        self.routes.settled();
        self.ruleset.settled();
        self.policy.settled();
        self.underlay.doubt_if(true);
        self.dirty.extend(self.wants.rows().keys().cloned());
        self.dirty.extend(self.mirror.rows.keys().cloned());
        Ok(())
    }

    /// Puts what was read anew of one table in the place of what was known of it.
    fn take_table(&mut self, found: Vec<Row>, is_of_table: impl Fn(&Row) -> bool) {
        let found = Rows::from_iter(found);
        let old = self.mirror.rows.iter().filter(|row| is_of_table(row)).map(Row::key);
        let gone: Vec<Key> = old.filter(|key| found.get(key).is_none()).collect();
        for key in gone {
            self.mirror.rows.remove(&key);
            self.told.insert(key.clone());
            self.note_change(key);
        }
        for row in found.iter() {
            if self.mirror.rows.get(&row.key()) != Some(row) {
                self.told.insert(row.key());
                self.dirty.insert(row.key());
                self.mirror.rows.insert(row.clone());
            }
        }
    }
}

fn is_settled(want: &Rows, have: &Host, key: &Key) -> bool {
    want.get(key).zip(have.rows.get(key)).is_some_and(|(want, found)| want.matches(found))
}

fn sysctl_key(row: &Row) -> Option<SysctlKey> {
    match row {
        Row::Sysctl(sysctl) => Some(sysctl.key.clone()),
        _ => None,
    }
}
