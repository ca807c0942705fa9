//! Leaving: the pods first, then what the store has of this node, then its kernel, and then the agent ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use tartan_api::rpc::{Answer, FailureCode, Leave};
use tartan_api::verb::{Left, LeftBlock};
use tartan_decide::Fact;
use tartan_model::{AttachmentKey, PodName};
use tartan_reconcile::Sweep;
use tartan_store::BlockKey;
use tracing::{info, warn};

use crate::cluster::Write;
use crate::pods::Deleting;
use crate::ring::{Ring, give};
use crate::serve::{failure, ok};
use crate::status::named;

/// How long the pods' interfaces may take to go.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many reasons are told at most.
const REASONS: usize = 10;
/// How long the store may take then: who asked is still there.
const STORE_PATIENCE: Duration = Duration::from_secs(8);

/// This node on its way out of the cluster. Until it is over nothing is claimed, published or added.
pub(crate) struct Departure {
    without_store: bool,
    reply: SyncSender<Answer>,
    pods: Vec<PodName>,
    /// When the pods' interfaces must be gone, or, once the store was asked, when it must have answered.
    until: Instant,
    /// The store was asked; whoever sets this first has decided.
    asked: Option<Arc<AtomicBool>>,
}

impl Ring {
    /// Begins to leave; gives the interfaces that have to go first.
    pub(crate) fn depart(&mut self, leave: &Leave, reply: SyncSender<Answer>) -> Option<Deleting> {
        let pods: Vec<(AttachmentKey, PodName)> = self
            .world
            .endpoints()
            .map(|attached| (attached.endpoint.key.clone(), attached.endpoint.pod.clone()))
            .collect();
        if let Some(refusal) = self.refuse_departure(leave, &pods) {
            give(&reply, refusal);
            return None;
        }
        let (keys, mut pods): (Vec<_>, Vec<_>) = pods.into_iter().unzip();
        info!("leaving the cluster");
        pods.sort();
        pods.dedup();
        let until = Instant::now() + PATIENCE;
        self.departure =
            Some(Departure { without_store: leave.without_store, reply, pods, until, asked: None });
        for waiting in std::mem::take(&mut self.waiting) {
            give(&waiting.reply, failure(FailureCode::Stopping, "this node leaves the cluster"));
        }
        Some(self.detach_all(keys))
    }

    fn refuse_departure(&self, leave: &Leave, pods: &[(AttachmentKey, PodName)]) -> Option<Answer> {
        if self.departure.is_some() {
            return Some(failure(FailureCode::TryAgain, "this node is leaving already"));
        }
        if let (Err(error), false) = (&self.store, leave.without_store) {
            let message = format!("the store: {error}; nothing was changed: try again when it answers");
            return Some(failure(FailureCode::Store, message));
        }
        if pods.is_empty() || leave.force {
            return None;
        }
        let message = format!(
            "pods are on this node: {}; nothing was changed: move them away first, or take their interfaces away \
             with --force",
            named(pods.iter().map(|(_, pod)| pod))
        );
        Some(failure(FailureCode::InUse, message))
    }

    /// What can be done now of leaving, and was not.
    pub(crate) fn go_on_leaving(&mut self) {
        let Some(departure) = self.departure.as_mut() else { return };
        if departure.asked.is_some() {
            self.give_up_the_store();
        } else if self.world.endpoints().next().is_none() {
            let decided = Arc::<AtomicBool>::default();
            departure.asked = Some(decided.clone());
            departure.until = Instant::now() + STORE_PATIENCE;
            self.cluster.write(Write::Leave(decided));
        } else if Instant::now() >= departure.until {
            let reasons: Vec<String> = self.loop_.all_unsettled().filter_map(|row| row.reason).collect();
            let reasons = self.kept.as_ref().err().cloned().into_iter().chain(reasons);
            let reasons: Vec<String> = reasons.take(REASONS).collect();
            self.stay(FailureCode::Kernel, format!("pods cannot be taken away: {}", reasons.join("; ")));
        }
    }

    /// A store that does not answer in time holds up nobody.
    fn give_up_the_store(&mut self) {
        let Some(departure) = self.departure.as_mut() else { return };
        let Some(decided) = departure.asked.as_ref().filter(|_| Instant::now() >= departure.until) else {
            return;
        };
        let why = format!("it has not answered within {} s", STORE_PATIENCE.as_secs());
        if departure.without_store {
            // If it takes this node out after all, so much the better.
            self.leave(Vec::new(), Some(why));
        } else if decided.swap(true, Ordering::SeqCst) {
            // It just did, and the answer is on its way.
            departure.until = Instant::now() + STORE_PATIENCE;
        } else {
            self.stay(FailureCode::Store, format!("the store: {why}"));
        }
    }

    /// When something has to be looked at although nothing came in.
    pub(crate) fn departs_by(&self) -> Option<Instant> {
        self.departure.as_ref().map(|departure| departure.until)
    }

    /// The store has answered.
    pub(crate) fn note_left(&mut self, outcome: Result<Vec<BlockKey>, String>) {
        let Some(departure) = &self.departure else { return };
        match outcome {
            Ok(freed) => self.leave(freed, None),
            Err(error) if departure.without_store => self.leave(Vec::new(), Some(error)),
            Err(error) => self.stay(FailureCode::Store, format!("the store: {error}")),
        }
    }

    /// Nothing of ours stays in the kernel but settings: see `tartan uninstall`.
    fn leave(&mut self, freed: Vec<BlockKey>, store: Option<String>) {
        let Some(departure) = self.departure.take() else { return };
        self.loop_.want_nothing();
        let read = self.settle(Sweep::Now);
        let mut stays: Vec<String> = self.loop_.failed_removals().collect();
        if !read {
            let why = self.last_error.as_deref().unwrap_or("the kernel could not be read");
            stays.push(format!("perhaps more stays: {why}"));
        }
        for stays in &stays {
            warn!("{stays}");
        }
        // Of before it has nothing to go back to.
        self.learn(Fact::Left);
        let block = |BlockKey { network, block }| LeftBlock { network, block };
        let blocks = freed.into_iter().map(block).collect();
        let left = Left { node: self.world.name().to_string(), blocks, pods: departure.pods, store, stays };
        give(&departure.reply, ok(&left));
        self.left_cluster = true;
    }

    /// All is as it was, but for pods that were taken away already.
    fn stay(&mut self, code: FailureCode, why: String) {
        let Some(departure) = self.departure.take() else { return };
        warn!("not leaving: {why}");
        let message = format!("{why}; the node stays in the cluster");
        give(&departure.reply, failure(code, message));
        self.dirty.extend(self.world.scopes());
    }
}
