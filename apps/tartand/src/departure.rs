//! Leaving: the pods first, then what the store has of this node, then its kernel, and then the agent ends.

use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use tartan_api::rpc::{Answer, FailureCode, Leave};
use tartan_api::verb::{Left, LeftBlock};
use tartan_model::{AttachmentKey, PodName};
use tartan_reconcile::Sweep;
use tracing::{info, warn};

use crate::cluster::Write;
use crate::entry::EntryKey;
use crate::pods::Deleting;
use crate::ring::{Ring, give};
use crate::serve::{failure, ok};

/// How long the pods' interfaces may take to go.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many pods are named at most.
const NAMED: usize = 10;

/// This node on its way out of the cluster. Until it is over nothing is claimed, published or added.
pub(crate) struct Departure {
    without_store: bool,
    reply: SyncSender<Answer>,
    pods: Vec<PodName>,
    /// When the pods' interfaces must be gone.
    until: Instant,
    /// The store was asked.
    asked: bool,
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
            Some(Departure { without_store: leave.without_store, reply, pods, until, asked: false });
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
        let names: Vec<String> = pods.iter().take(NAMED).map(|(_, pod)| pod.to_string()).collect();
        let more = pods.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let message = format!(
            "pods are on this node: {}{more}; nothing was changed: move them away first, or take their interfaces away \
             with --force",
            names.join(", ")
        );
        Some(failure(FailureCode::InUse, message))
    }

    /// What can be done now of leaving, and was not.
    pub(crate) fn go_on_leaving(&mut self) {
        let Some(departure) = self.departure.as_mut().filter(|departure| !departure.asked) else { return };
        if self.world.endpoints().next().is_none() {
            departure.asked = true;
            self.cluster.write(Write::Leave);
        } else if Instant::now() >= departure.until {
            let reasons: Vec<String> = self.loop_.all_unsettled().filter_map(|row| row.reason).collect();
            let reasons = self.kept.as_ref().err().cloned().into_iter().chain(reasons);
            let reasons: Vec<String> = reasons.take(NAMED).collect();
            self.stay(FailureCode::Kernel, format!("pods cannot be taken away: {}", reasons.join("; ")));
        }
    }

    /// When something has to be looked at although nothing came in.
    pub(crate) fn departs_by(&self) -> Option<Instant> {
        self.departure.as_ref().filter(|departure| !departure.asked).map(|departure| departure.until)
    }

    /// The store has answered.
    pub(crate) fn note_left(&mut self, outcome: Result<Vec<String>, String>) {
        let Some(departure) = &self.departure else { return };
        match outcome {
            Ok(freed) => self.leave(freed, None),
            Err(error) if departure.without_store => self.leave(Vec::new(), Some(error)),
            Err(error) => self.stay(FailureCode::Store, format!("the store: {error}")),
        }
    }

    /// Nothing of ours stays in the kernel but settings: see `tartan uninstall`.
    fn leave(&mut self, freed: Vec<String>, store: Option<String>) {
        let Some(departure) = self.departure.take() else { return };
        self.loop_.want_nothing();
        self.settle(Sweep::Now);
        for stays in self.loop_.failed_removals() {
            warn!("{stays}");
        }
        let block = |key: String| match EntryKey::parse(&key) {
            Some(EntryKey::Block(network, block)) => Some(LeftBlock { network, block }),
            _ => None,
        };
        let blocks = freed.into_iter().filter_map(block).collect();
        let left = Left { node: self.world.name().to_string(), blocks, pods: departure.pods, store };
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
