//! Keeping: what must outlive the agent is written down, and what happens when it cannot be.

use tartan_decide::{Learned, Phase, Record};

use crate::ring::Ring;

impl Ring {
    /// Takes note of what is dirty, and keeps what must outlive the agent; false if it could not be kept.
    pub(crate) fn keep(&mut self, learned: Learned) -> bool {
        self.dirty.extend(learned.dirty);
        if learned.records.is_empty() {
            return true;
        }
        let Err(error) = self.records.keep(&learned.records) else { return true };
        self.note_unkept(&error);
        let is_so = |record: &Record| {
            matches!(
                record,
                Record::Bridge(..) | Record::Held(..) | Record::HeldNoMore(..) | Record::Epoch(_)
            )
        };
        self.unkept.extend(learned.records.into_iter().filter(is_so));
        false
    }

    /// Says it once, and not again as long as the reason is the same.
    fn note_unkept(&mut self, error: &anyhow::Error) {
        let message = format!("cannot keep a record: {error:#}");
        if self.kept.as_ref().err() != Some(&message) {
            self.went_wrong(message.clone());
        }
        self.kept = Err(message);
    }

    /// Records that went away are missed before the next one is to be kept.
    pub(crate) fn look_at_records(&mut self) {
        if let Err(error) = self.records.look() {
            self.note_unkept(&error);
        }
    }

    /// Tries again to keep what could not be kept. Once that works, so do the pods leave that could not be let go: not
    /// every runtime asks a second time.
    pub(crate) fn keep_again(&mut self) {
        if self.kept.is_ok() || self.retry_at.is_some() {
            return;
        }
        if let Err(error) = self.records.try_out(&self.unkept) {
            self.note_unkept(&error);
            return;
        }
        self.kept = Ok(());
        self.unkept.clear();
        let leaving = self.world.endpoints().filter(|attached| attached.phase == Phase::Leaving);
        self.leaving.extend(leaving.map(|attached| attached.endpoint.key.clone()));
    }

    /// Why not.
    pub(crate) fn unkept_reason(&self) -> String {
        self.kept.as_ref().err().cloned().unwrap_or_default()
    }
}
