//! The store's side of the ring: one thread listens to it, another writes to it and keeps the node's name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use tartan_decide::{Claim, Fact};
use tartan_model::{Cidr, NetworkName, Node, NodeId};
use tartan_store::{Change, Durability, Entry, Expect, Revision, Store, StoreError};
use tracing::{error, warn};

use crate::entry::{EntryKey, HEARD, Heard, Owner, WAITS};
use crate::identity::{Identity, LEASE};
use crate::input::{Inbox, Input};

/// How long to wait after the store failed.
const PAUSE: Duration = Duration::from_secs(1);
/// A wake-up is lost when its writer is killed between its commit and the call; what it wrote is seen by then.
const LOOK: u16 = 30_000;

/// Something to write to the store.
pub(crate) enum Write {
    /// Claim a block.
    Claim(Claim),
    /// Give a block back.
    Return(NetworkName, Cidr),
    /// Publish this node.
    Publish(Node),
    /// Answer a wait.
    Heard(String, Heard),
    /// Take this node out. Nothing is written after it, unless it fails.
    Leave,
}

/// The way to the writing thread.
pub(crate) struct Cluster {
    writes: Sender<Write>,
    writer: JoinHandle<()>,
}

impl Cluster {
    /// Starts both threads.
    pub(crate) fn start(
        identity: &Identity,
        store: Arc<dyn Store>,
        watched: Arc<dyn Store>,
        inbox: Inbox,
    ) -> anyhow::Result<Cluster> {
        let (writes, commands) = channel();
        let writer = Writer {
            identity: identity.clone(),
            store,
            inbox: inbox.clone(),
            waiting: VecDeque::new(),
            renew_at: Instant::now() + LEASE / 3,
            gone: false,
        };
        let named = |name: &str| thread::Builder::new().name(name.into());
        let writer =
            named("store-write").spawn(move || writer.run(&commands)).context("cannot start a thread")?;
        let listener = Listener { store: watched, inbox, known: BTreeSet::new(), unread: BTreeMap::new() };
        named("store-watch").spawn(move || listener.run()).context("cannot start a thread")?;
        Ok(Cluster { writes, writer })
    }

    /// Ends the writing thread: from now on nothing of this node changes in the store.
    pub(crate) fn stop(self) {
        drop(self.writes);
        if self.writer.join().is_err() {
            error!("the thread that writes to the store has panicked");
        }
    }

    /// Has something written, some time soon.
    pub(crate) fn write(&self, write: Write) {
        if self.writes.send(write).is_err() {
            error!("the thread that writes to the store has ended");
        }
    }
}

/// The thread that turns the store's changes into facts.
struct Listener {
    store: Arc<dyn Store>,
    inbox: Inbox,
    /// Keys that were told as facts: what is not listed any more after a gap is gone. Those of other kinds, of which there
    /// may be many, are passed over.
    known: BTreeSet<Box<str>>,
    /// Networks that are not understood, by key: a newer release's, or spoilt.
    unread: BTreeMap<String, String>,
}

impl Listener {
    fn run(mut self) {
        loop {
            let error = match self.follow() {
                Ok(()) => return,
                Err(error) => error,
            };
            if !matches!(error, StoreError::Compacted) {
                let error = told(&error);
                warn!("the store: {error}");
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
        if !self.tell_listing(listing.entries) {
            return Ok(());
        }
        loop {
            let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
            // An interrupted wait looks once too often, which is harmless.
            let _ = poll(&mut fds, PollTimeout::from(LOOK));
            let changes = watch.changes()?;
            let unread = self.unread.clone();
            if !changes.into_iter().all(|change| self.tell_change(change))
                || (unread != self.unread && !self.tell_whether_all())
            {
                return Ok(());
            }
        }
    }

    fn tell_listing(&mut self, entries: Vec<Entry>) -> bool {
        let mut gone = std::mem::take(&mut self.known);
        // Who waited before this gap has given up, or will.
        let mut entries = entries.into_iter().filter(|entry| !entry.key.starts_with(WAITS));
        let told = entries.all(|entry| {
            gone.remove(entry.key.as_str());
            self.tell_change(Change::Put(entry))
        });
        let delete = |key: Box<str>| Change::Delete { key: key.into(), revision: Revision(0) };
        told && gone.into_iter().all(|key| self.tell_change(delete(key)))
            && self.inbox.put(Input::Store(Ok(())))
            && self.tell_whether_all()
    }

    /// Who does not understand a network does not know all that is wanted, and must not remove what may belong to it.
    fn tell_whether_all(&self) -> bool {
        self.inbox.put(Input::Misunderstood(self.unread.values().cloned().collect()))
            && (!self.unread.is_empty() || self.inbox.put(Input::Fact(Fact::InSync)))
    }

    fn tell_change(&mut self, change: Change) -> bool {
        let (key, value) = match &change {
            Change::Put(entry) => (&entry.key, Some(entry.value.as_slice())),
            Change::Delete { key, .. } => (key, None),
        };
        if let (Some(wait), Some(_)) = (key.strip_prefix(WAITS), value) {
            return self.inbox.put(Input::Wait(wait.into()));
        }
        let Some(parsed) = EntryKey::parse(key) else { return true };
        match value {
            Some(_) => self.known.insert(key.as_str().into()),
            None => self.known.remove(key.as_str()),
        };
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

/// The thread that writes.
struct Writer {
    identity: Identity,
    store: Arc<dyn Store>,
    inbox: Inbox,
    /// What the store did not take yet.
    waiting: VecDeque<Write>,
    renew_at: Instant,
    /// This node is not in the store any more.
    gone: bool,
}

impl Writer {
    fn run(mut self, commands: &Receiver<Write>) {
        loop {
            let pause = if self.waiting.is_empty() { LEASE } else { PAUSE };
            let wait = self.renew_at.saturating_duration_since(Instant::now()).min(pause);
            match commands.recv_timeout(wait) {
                Ok(write) => self.queue(write),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if !self.gone {
                self.renew_in_time();
                self.write_next();
            }
        }
    }

    /// The name before any write: a store that makes each wait must not cost it.
    fn renew_in_time(&mut self) {
        if Instant::now() >= self.renew_at {
            self.renew();
            self.renew_at = Instant::now() + LEASE / 3;
        }
    }

    /// What is written later about the same thing makes what waits needless.
    fn queue(&mut self, write: Write) {
        if matches!(write, Write::Leave) {
            // What was to be written of this node is of no use any more.
            self.waiting.clear();
        }
        if matches!(write, Write::Publish(_)) {
            self.waiting.retain(|waiting| !matches!(waiting, Write::Publish(_)));
        }
        self.waiting.push_back(write);
    }

    /// Writes what waits, in its order, as far as the store takes it.
    fn write_next(&mut self) {
        while let Some(write) = self.waiting.front() {
            if matches!(write, Write::Leave) {
                self.waiting.pop_front();
                self.leave();
                continue;
            }
            if let Err(error) = self.write(write) {
                let error = told(&error);
                warn!("cannot write to the store, trying again: {error}");
                self.inbox.put(Input::Store(Err(error)));
                return;
            }
            self.waiting.pop_front();
            self.renew_in_time();
        }
    }

    fn write(&self, write: &Write) -> Result<(), StoreError> {
        match write {
            Write::Claim(claim) => self.claim(claim),
            Write::Return(network, block) => {
                self.give_back(network, *block)?;
                self.inbox.put(Input::Fact(Fact::Returned(network.clone(), *block)));
                Ok(())
            }
            Write::Publish(node) => self.publish(node),
            Write::Leave => Ok(()),
            Write::Heard(wait, heard) => {
                let key = format!("{HEARD}{wait}/{}", self.identity.id);
                self.store.put(&key, &encode(heard), Expect::Any, Durability::Crash).map(drop)
            }
        }
    }

    /// Tried once: who asked for it is told, and may ask again.
    fn leave(&mut self) {
        let Identity { id, name } = &self.identity;
        let id = id.to_string();
        let outcome = tartan_store::withdraw(self.store.as_ref(), &id)
            .and_then(|freed| self.store.release_lease(name.as_str(), &id).map(|()| freed));
        self.gone = outcome.is_ok();
        self.inbox.put(Input::Left(outcome.map_err(|error| told(&error))));
    }

    fn claim(&self, claim: &Claim) -> Result<(), StoreError> {
        if !self.holds_name()? {
            return Ok(());
        }
        let key = EntryKey::Block(claim.network.clone(), claim.block);
        let mine = encode(&Owner { node: self.identity.id });
        match self.store.put(&key.to_string(), &mine, Expect::Absent, Durability::Power) {
            Ok(_) => {
                let fact = Fact::Block(claim.network.clone(), claim.block, Some(self.identity.id));
                self.inbox.put(Input::Fact(fact));
            }
            Err(StoreError::Conflict { .. }) => self.lost(claim, key)?,
            Err(error) => return Err(error),
        }
        self.inbox.put(Input::Claimed(claim.clone()));
        Ok(())
    }

    /// Tells whose the block is, so that the next claim is for another.
    fn lost(&self, claim: &Claim, key: EntryKey) -> Result<(), StoreError> {
        let entry = self.store.get(&key.to_string())?;
        if let Ok(fact) = key.fact(entry.as_ref().map(|entry| entry.value.as_slice())) {
            self.inbox.put(Input::Fact(fact));
        }
        self.inbox.put(Input::Fact(Fact::ClaimLost(claim.network.clone())));
        Ok(())
    }

    fn give_back(&self, network: &NetworkName, block: Cidr) -> Result<(), StoreError> {
        let key = EntryKey::Block(network.clone(), block).to_string();
        let Some(entry) = self.store.get(&key)? else { return Ok(()) };
        match owner(&entry) {
            Some(id) if id == self.identity.id => {
                match self.store.delete(&key, Expect::Revision(entry.revision)) {
                    Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            _ => Ok(()),
        }
    }

    fn publish(&self, node: &Node) -> Result<(), StoreError> {
        if !self.holds_name()? {
            return Ok(());
        }
        let key = EntryKey::Node(node.id).to_string();
        let text = encode(node);
        // The same again would wake every node for nothing.
        if self.store.get(&key)?.is_none_or(|entry| entry.value != text) {
            self.store.put(&key, &text, Expect::Any, Durability::Crash)?;
        }
        Ok(())
    }

    /// Whether this node may still write in its name; tells the ring if another node took it, and what went with it.
    fn holds_name(&self) -> Result<bool, StoreError> {
        let (name, id) = (self.identity.name.as_str(), self.identity.id.to_string());
        let leases = self.store.leases()?;
        let other = leases.iter().find(|lease| lease.name == name && lease.holder != id);
        if let Some(other) = other {
            self.inbox.put(Input::NameLost(format!("{} holds it", other.holder)));
        }
        Ok(other.is_none())
    }

    fn renew(&self) {
        let (name, holder) = (self.identity.name.as_str(), self.identity.id.to_string());
        let outcome = match self.store.renew_lease(name, &holder, LEASE) {
            Err(StoreError::LeaseLost { .. }) => self.store.take_lease(name, &holder, LEASE, false),
            outcome => outcome,
        };
        if let Err(error) = &outcome {
            warn!("cannot renew the node's name: {}", told(error));
        }
        if let Err(error @ StoreError::Held { .. }) = &outcome {
            self.inbox.put(Input::NameLost(error.to_string()));
            return;
        }
        self.inbox.put(Input::Store(outcome.map_err(|error| told(&error))));
    }
}

/// An error of the store with what is behind it.
pub(crate) fn told(error: &StoreError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn owner(entry: &Entry) -> Option<NodeId> {
    serde_json::from_slice::<Owner>(&entry.value).ok().map(|owner| owner.node)
}

/// Our own types become JSON without fail: their keys are texts.
fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_renewed_between_two_writes() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(tartan_store::Sqlite::open(&folder.path().join("s.db")).unwrap());
        let identity = Identity { id: NodeId::from_bytes([1; 16]), name: "n1".parse().unwrap() };
        let inbox = Inbox::new(channel().0).unwrap();
        let waiting = ["a", "b"].map(|wait| Write::Heard(wait.into(), Heard { reasons: Vec::new() })).into();
        let mut writer =
            Writer { identity, store: store.clone(), inbox, waiting, renew_at: Instant::now(), gone: false };
        writer.write_next();
        assert!(writer.waiting.is_empty());
        assert_eq!(store.leases().unwrap().len(), 1);
    }
}
