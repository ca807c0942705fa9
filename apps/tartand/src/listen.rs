//! The thread that turns the store's changes into facts.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tartan_decide::Fact;
use tartan_store::{Change, Listing, Store, StoreError};
use tracing::{info, warn};

use crate::cluster::{Write, told};
use crate::entry::{EntryKey, WAITS};
use crate::input::{Inbox, Input};
use crate::memory::Memory;

/// How long to wait after the store failed.
const PAUSE: Duration = Duration::from_secs(1);
/// A wake-up is lost when its writer is killed between its commit and the call; what it wrote is seen by then.
const LOOK: u16 = 30_000;

/// What listens to the store.
pub(crate) struct Listener {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) inbox: Inbox,
    /// Says that the node's name is held; before, nothing is told, as the node may be another's.
    pub(crate) registered: Receiver<()>,
    /// The way to the writing thread.
    pub(crate) writes: Sender<Write>,
    pub(crate) memory: Memory,
    /// Networks that are not understood, by key: a newer release's, or spoilt.
    pub(crate) unread: BTreeMap<String, String>,
}

/// Whether the ring goes on: it has taken what it was told.
type GoesOn = bool;

impl Listener {
    pub(crate) fn run(mut self) {
        if self.registered.recv().is_err() {
            return;
        }
        let mut last = String::new();
        loop {
            let error = match self.follow() {
                Ok(()) => return,
                Err(error) => error,
            };
            if !matches!(error, StoreError::Compacted) {
                let error = told(&error);
                // An outage may be long: each new reason once.
                if last != error {
                    warn!("the store: {error}");
                    last.clone_from(&error);
                }
                if !self.inbox.put(Input::Store(Err(error))) {
                    return;
                }
                thread::sleep(PAUSE);
            }
        }
    }

    /// Lists everything, then tells every change; returns when the ring has ended.
    fn follow(&mut self) -> Result<(), StoreError> {
        let listing = self.store.list("")?;
        let mut watch = self.store.watch("", listing.revision)?;
        if !self.tell_listing(listing) {
            return Ok(());
        }
        loop {
            let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
            // An interrupted wait looks once too often, which is harmless.
            let _ = poll(&mut fds, PollTimeout::from(LOOK));
            if !self.tell_changes(watch.changes()?) {
                return Ok(());
            }
            if self.memory.believe(Instant::now()) {
                return Err(StoreError::Compacted);
            }
        }
    }

    fn tell_listing(&mut self, listing: Listing) -> GoesOn {
        let taken = self.memory.list(listing, Instant::now());
        if taken.other {
            info!("the store is not what it was; putting back {} entries of this node", taken.put_back.len());
        }
        let told = taken.changes.into_iter().all(|change| self.tell_change(change));
        if !taken.put_back.is_empty() && self.writes.send(Write::PutBack(taken.put_back)).is_err() {
            return false;
        }
        told && self.inbox.put(Input::Store(Ok(()))) && self.tell_kept() && self.tell_whether_all()
    }

    fn tell_changes(&mut self, changes: Vec<Change>) -> GoesOn {
        let (unread, kept) = (self.unread.clone(), self.memory.kept());
        changes.into_iter().all(|change| self.tell_change(change))
            && (unread == self.unread || self.tell_whether_all())
            && (kept == self.memory.kept() || self.tell_kept())
    }

    /// Who does not understand a network does not know all that is wanted, and must not remove what may belong to it.
    fn tell_whether_all(&self) -> GoesOn {
        self.inbox.put(Input::Misunderstood(self.unread.values().cloned().collect()))
            && (!self.unread.is_empty() || self.inbox.put(Input::Fact(Fact::InSync)))
    }

    fn tell_kept(&self) -> GoesOn {
        self.inbox.put(Input::Kept(self.memory.kept()))
    }

    fn tell_change(&mut self, change: Change) -> GoesOn {
        let (key, value) = match &change {
            Change::Put(entry) => (&entry.key, Some(entry.value.as_slice())),
            Change::Delete { key, .. } => (key, None),
        };
        if let (Some(wait), Some(_)) = (key.strip_prefix(WAITS), value) {
            return self.inbox.put(Input::Wait(wait.into()));
        }
        if !self.memory.note(&change) {
            return true;
        }
        let Some(parsed) = EntryKey::parse(key) else { return true };
        let is_network = matches!(parsed, EntryKey::Network(_));
        self.unread.remove(key);
        match parsed.fact(value) {
            Ok(fact) => self.inbox.put(Input::Fact(fact)),
            Err(error) => {
                // What was known of it before stays known: a spoilt entry takes nothing away.
                warn!("{error}");
                if is_network {
                    self.unread.insert(key.clone(), error.to_string());
                }
                true
            }
        }
    }
}
