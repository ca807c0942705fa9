//! The store's side of the ring: one thread listens to it, another writes to it and keeps the node's name.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use tartan_decide::{Announcement, Claim, Fact};
use tartan_model::{Cidr, NetworkName, Node};
use tartan_store::{Durability, EntryKey, Expect, Owner, Revision, Store, StoreError};
use tracing::{error, info, warn};

use crate::entry::{HEARD, Heard, fact};
use crate::identity::{Identity, LEASE, NameHeld};
use crate::input::{Inbox, Input};
use crate::listen::Listener;
use crate::memory::{Memory, PutBack};

/// How long to wait after the store failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Something to write to the store.
pub(crate) enum Write {
    /// Claim a block.
    Claim(Claim),
    /// Give a block back.
    Return(NetworkName, Cidr),
    /// Publish this node.
    Publish(Node),
    /// Publish a pod's interface, or take away what was published.
    Announce(Announcement),
    /// Put back what the store has lost.
    PutBack(Vec<PutBack>),
    /// Answer a wait.
    Heard(String, Heard),
    /// Take this node out, before anything that waits. Nothing is written after it, unless it fails. Whoever sets the flag
    /// first has decided: the writer that the node is out, the ring that it stays.
    Leave(Arc<AtomicBool>),
    /// Write nothing more.
    Stop,
}

/// How far this node is with its name.
pub(crate) enum Name {
    /// It is held.
    Held,
    /// The store could not be reached yet; whether it is then to be taken from a living holder.
    Wanted { force: bool },
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
        name: Name,
        store: Arc<dyn Store>,
        watched: Arc<dyn Store>,
        inbox: Inbox,
    ) -> anyhow::Result<Cluster> {
        let (writes, commands) = channel();
        let (tell, registered) = channel();
        let mut writer = Writer {
            identity: identity.clone(),
            store,
            inbox: inbox.clone(),
            wanted: None,
            tell: Some(tell),
            published: None,
            waiting: VecDeque::new(),
            renew_at: Instant::now(),
            gone: false,
        };
        match name {
            Name::Held => writer.registered(),
            Name::Wanted { force } => writer.wanted = Some(force),
        }
        let named = |name: &str| thread::Builder::new().name(name.into());
        let writer =
            named("store-write").spawn(move || writer.run(&commands)).context("cannot start a thread")?;
        let listener = Listener {
            store: watched,
            inbox,
            registered,
            writes: writes.clone(),
            memory: Memory::new(identity.id),
            unread: BTreeMap::new(),
            fails: None,
        };
        named("store-watch").spawn(move || listener.run()).context("cannot start a thread")?;
        Ok(Cluster { writes, writer })
    }

    /// Ends the writing thread: from now on nothing of this node changes in the store.
    pub(crate) fn stop(self) {
        // Nobody hears it only if it has ended.
        let _ = self.writes.send(Write::Stop);
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

/// The thread that writes.
struct Writer {
    identity: Identity,
    store: Arc<dyn Store>,
    inbox: Inbox,
    /// The name is not held yet; whether it is to be taken from a living holder.
    wanted: Option<bool>,
    /// Tells the listening thread that it is.
    tell: Option<Sender<()>>,
    /// This node, as it was published last.
    published: Option<Node>,
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
            // A node that is gone has nothing to renew.
            let due = if self.gone { LEASE } else { self.renew_at.saturating_duration_since(Instant::now()) };
            let wait = due.min(pause);
            match commands.recv_timeout(wait) {
                Ok(Write::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(_) if self.gone => continue,
                Ok(write) => self.queue(write),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.gone {
                continue;
            }
            if let Some(force) = self.wanted {
                self.refuse_leave();
                self.register_in_time(force);
            } else {
                self.renew_in_time();
                self.write_next();
            }
        }
    }

    /// The name is held: from now on it is renewed, and the store listened to.
    fn registered(&mut self) {
        self.wanted = None;
        self.renew_at = Instant::now() + LEASE / 3;
        // Nobody hears it only if the ring has ended.
        let _ = self.tell.take().map(|tell| tell.send(()));
    }

    /// Tries again to take the name.
    fn register_in_time(&mut self, force: bool) {
        if Instant::now() < self.renew_at {
            return;
        }
        self.renew_at = Instant::now() + PAUSE;
        let error = match self.identity.register(self.store.as_ref(), force) {
            Ok(()) => {
                info!("the store is there, and the node's name is held");
                return self.registered();
            }
            Err(error) => error,
        };
        warn!("{error:#}");
        let held = error.is::<NameHeld>();
        let text = format!("{error:#}");
        self.inbox.put(if held { Input::NameLost(text) } else { Input::Store(Err(text)) });
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
        if matches!(write, Write::Leave(_)) {
            // What else waits is kept: if leaving fails, the ring relies on it.
            self.waiting.push_front(write);
            return;
        }
        if let Write::Publish(node) = &write {
            self.published = Some(node.clone());
            self.waiting.retain(|waiting| !matches!(waiting, Write::Publish(_)));
        }
        if let Write::Announce(Announcement { key, .. }) = &write {
            self.waiting.retain(|waiting| !matches!(waiting, Write::Announce(other) if other.key == *key));
        }
        self.waiting.push_back(write);
    }

    /// Writes what waits, in its order, as far as the store takes it.
    fn write_next(&mut self) {
        while let Some(write) = self.waiting.front() {
            if let Write::Leave(decided) = write {
                let decided = decided.clone();
                self.waiting.pop_front();
                self.leave(&decided);
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
                // What is gone is learned here and now, not when the store tells of it: until then it would be this
                // node's to give addresses from.
                let fact = match self.give_back(network, *block)? {
                    true => Fact::Returned(network.clone(), *block),
                    false => Fact::NotReturned(network.clone(), *block),
                };
                self.inbox.put(Input::Fact(fact));
                Ok(())
            }
            Write::Publish(node) => self.publish(node),
            Write::Announce(announcement) => self.announce(announcement),
            Write::PutBack(entries) => self.put_back(entries),
            Write::Leave(_) | Write::Stop => Ok(()),
            Write::Heard(wait, heard) => {
                let key = format!("{HEARD}{wait}/{}", self.identity.id);
                self.store.put(&key, &encode(heard), Expect::Any, Durability::Crash).map(drop)
            }
        }
    }

    /// Nothing of this node is in the store that it could not reach yet, as far as is known; who asked is not kept waiting.
    fn refuse_leave(&mut self) {
        let (asked, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<VecDeque<_>, _>(|write| matches!(write, Write::Leave(_)));
        self.waiting = waiting;
        // One that the ring gave up waiting for is not answered.
        let decides =
            |write: &Write| matches!(write, Write::Leave(decided) if !decided.swap(true, Ordering::SeqCst));
        if asked.iter().any(decides) {
            self.inbox.put(Input::Left(Err("it could not be reached since the agent started".into())));
        }
    }

    /// Tried once: who asked for it is told, and may ask again.
    fn leave(&mut self, decided: &AtomicBool) {
        if decided.load(Ordering::SeqCst) {
            return;
        }
        let Identity { id, name } = &self.identity;
        let outcome = tartan_store::withdraw(self.store.as_ref(), *id)
            .and_then(|freed| self.store.release_lease(name.as_str(), &id.to_string()).map(|()| freed));
        if decided.swap(true, Ordering::SeqCst) {
            // The ring gave up waiting. It sees which of its entries are gone, and writes them anew.
            warn!("the store was too late to take this node out; it stays, and writes anew what is gone");
            self.renew();
            return;
        }
        if outcome.is_ok() {
            self.gone = true;
            self.waiting.clear();
        }
        self.inbox.put(Input::Left(outcome.map_err(|error| told(&error))));
    }

    fn claim(&self, claim: &Claim) -> Result<(), StoreError> {
        if !self.holds_name()? {
            return Ok(());
        }
        let key = EntryKey::block(&claim.network, claim.block);
        let mine = Owner::text(self.identity.id);
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
        if let Ok(Some(fact)) = fact(key, entry.as_ref().map(|entry| entry.value.as_slice())) {
            self.inbox.put(Input::Fact(fact));
        }
        self.inbox.put(Input::Fact(Fact::ClaimLost(claim.network.clone())));
        Ok(())
    }

    /// Whether nobody has the block now; who was quicker than this is told by the watch.
    fn give_back(&self, network: &NetworkName, block: Cidr) -> Result<bool, StoreError> {
        let key = EntryKey::block(network, block).to_string();
        let Some(entry) = self.store.get(&key)? else { return Ok(true) };
        if Owner::read(&entry.value) != Some(self.identity.id) {
            return Ok(false);
        }
        match self.store.delete(&key, Expect::Revision(entry.revision)) {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
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

    fn announce(&self, Announcement { key, endpoint }: &Announcement) -> Result<(), StoreError> {
        if !self.holds_name()? {
            return Ok(());
        }
        let key = EntryKey::Endpoint(self.identity.id, key.clone()).to_string();
        let Some(endpoint) = endpoint else { return self.store.delete(&key, Expect::Any).map(drop) };
        let text = encode(endpoint);
        // The same again would wake every node for nothing.
        if self.store.get(&key)?.is_none_or(|entry| entry.value != text) {
            self.store.put(&key, &text, Expect::Any, Durability::Crash)?;
        }
        Ok(())
    }

    /// Puts back what nobody else has put there meanwhile; of this node what it is by now.
    fn put_back(&self, entries: &[PutBack]) -> Result<(), StoreError> {
        self.renew();
        if !self.holds_name()? {
            return Ok(());
        }
        let own = EntryKey::Node(self.identity.id).to_string();
        for PutBack { key, value, expect, known } in entries {
            if *key == own
                && let Some(node) = &self.published
            {
                self.publish(node)?;
                continue;
            }
            if self.was_deleted(key, *known)? {
                continue;
            }
            match self.store.put(key, value, *expect, Durability::Power) {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether somebody deleted a network after the state that is known of it, here, and not in a store of before.
    fn was_deleted(&self, key: &str, known: Revision) -> Result<bool, StoreError> {
        let Some(EntryKey::Object(object)) = EntryKey::parse(key) else { return Ok(false) };
        let word = self.store.get(&EntryKey::Deleted(object).to_string())?;
        Ok(word.is_some_and(|word| word.revision > known))
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

/// Our own types become JSON without fail: their keys are texts.
fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tartan_model::NodeId;
    use tartan_store::BlockKey;

    use super::*;

    /// A writer with two things that wait, its store, and what it tells.
    fn writer(folder: &tempfile::TempDir) -> (Writer, Arc<dyn Store>, Receiver<Input>) {
        let store: Arc<dyn Store> =
            Arc::new(tartan_store::Sqlite::open(&folder.path().join("s.db")).unwrap());
        let identity = Identity { id: NodeId::from_bytes([1; 16]), name: "n1".parse().unwrap() };
        let (told, inputs) = channel();
        let waiting = ["a", "b"].map(|wait| Write::Heard(wait.into(), Heard { reasons: Vec::new() })).into();
        let writer = Writer {
            identity,
            store: store.clone(),
            inbox: Inbox::new(told).unwrap(),
            wanted: None,
            tell: None,
            published: None,
            waiting,
            renew_at: Instant::now(),
            gone: false,
        };
        (writer, store, inputs)
    }

    fn left(inputs: &Receiver<Input>) -> Vec<Result<Vec<BlockKey>, String>> {
        let left = inputs.try_iter().filter_map(|input| match input {
            Input::Left(outcome) => Some(outcome),
            _ => None,
        });
        left.collect()
    }

    #[test]
    fn the_name_is_renewed_between_two_writes() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, store, _inputs) = writer(&folder);
        writer.write_next();
        assert!(writer.waiting.is_empty());
        assert_eq!(store.leases().unwrap().len(), 1);
    }

    #[test]
    fn leaving_comes_first_and_only_if_it_succeeds_the_rest_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, store, inputs) = writer(&folder);
        let away = folder.path().join("away.db");
        std::fs::rename(folder.path().join("s.db"), &away).unwrap();
        writer.queue(Write::Leave(Arc::default()));
        writer.write_next();
        assert!(matches!(left(&inputs).as_slice(), [Err(_)]));
        assert!(!writer.gone);
        assert_eq!(writer.waiting.len(), 2);

        std::fs::rename(&away, folder.path().join("s.db")).unwrap();
        writer.queue(Write::Leave(Arc::default()));
        writer.write_next();
        assert_eq!(left(&inputs), [Ok(Vec::new())]);
        assert!(writer.gone && writer.waiting.is_empty());
        assert!(store.list(HEARD).unwrap().entries.is_empty());
    }

    #[test]
    fn leaving_that_the_ring_gave_up_is_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, store, inputs) = writer(&folder);
        writer.queue(Write::Leave(Arc::new(AtomicBool::new(true))));
        writer.write_next();
        assert!(left(&inputs).is_empty() && !writer.gone);
        assert_eq!(store.list(HEARD).unwrap().entries.len(), 2);
    }

    #[test]
    fn leaving_is_answered_while_the_store_was_never_reached() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, _store, inputs) = writer(&folder);
        writer.wanted = Some(false);
        // Not until long after this test.
        writer.renew_at = Instant::now() + LEASE;
        let (writes, commands) = channel();
        let thread = thread::spawn(move || writer.run(&commands));
        writes.send(Write::Leave(Arc::default())).unwrap();
        let answer = inputs.recv_timeout(Duration::from_secs(5));
        assert!(matches!(answer, Ok(Input::Left(Err(_)))));
        writes.send(Write::Stop).unwrap();
        thread.join().unwrap();
    }
}
