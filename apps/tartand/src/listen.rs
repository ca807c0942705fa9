//! The thread that turns the store's changes into facts.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tartan_decide::Fact;
use tartan_store::{Change, EntryKey, Lease, Listing, Store, StoreError};
use tracing::{info, warn};

use crate::cluster::{Write, told};
use crate::entry::{WAITS, fact};
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
    /// What people wrote and is not understood, by key: a newer release's, or spoilt.
    pub(crate) unread: BTreeMap<String, String>,
    /// Why the store does not answer, if it does not.
    pub(crate) fails: Option<String>,
}

/// Whether the ring goes on: it has taken what it was told.
type GoesOn = bool;

impl Listener {
    pub(crate) fn run(mut self) {
        if self.registered.recv().is_err() {
            return;
        }
        loop {
            let goes_on = match self.follow() {
                Ok(()) => false,
                Err(StoreError::Compacted) => true,
                Err(error) => self.wait_for_store(&error),
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Tells why there is no store, and waits a moment.
    fn wait_for_store(&mut self, error: &StoreError) -> GoesOn {
        let error = told(error);
        // An outage may be long: each new reason once.
        if self.fails.as_ref() != Some(&error) {
            warn!("the store: {error}");
            self.fails = Some(error.clone());
        }
        if !self.inbox.put(Input::Store(Err(error))) {
            return false;
        }
        thread::sleep(PAUSE);
        true
    }

    /// Lists everything, then tells every change; returns when the ring has ended. A store that does not answer for a
    /// while is gone on with from where we were: a cluster that lists anew after each outage would burden it most when
    /// it has just come back.
    fn follow(&mut self) -> Result<(), StoreError> {
        let listing = self.store.list("")?;
        let mut watch = self.store.watch("", listing.revision)?;
        if !self.tell_listing(listing) {
            return Ok(());
        }
        loop {
            if self.fails.is_none() {
                let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
                // An interrupted wait looks once too often, which is harmless.
                let _ = poll(&mut fds, PollTimeout::from(LOOK));
            }
            let goes_on = match watch.changes() {
                Ok(changes) => self.tell_answers() && self.tell_changes(changes),
                Err(error @ StoreError::Unavailable { .. }) => self.wait_for_store(&error),
                Err(error) => return Err(error),
            };
            if !goes_on {
                return Ok(());
            }
            let store = &self.store;
            let is_alive = |lease: &Lease| lease.expires_in.is_some();
            let living = || {
                Some(store.leases().ok()?.into_iter().filter(is_alive).map(|lease| lease.holder).collect())
            };
            if self.memory.believe(Instant::now(), living) {
                return Err(StoreError::Compacted);
            }
        }
    }

    /// Tells that the store answers again, if it did not.
    fn tell_answers(&mut self) -> GoesOn {
        self.fails.take().is_none() || self.inbox.put(Input::Store(Ok(())))
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
        self.fails = None;
        told && self.inbox.put(Input::Store(Ok(()))) && self.tell_kept() && self.tell_whether_all()
    }

    fn tell_changes(&mut self, changes: Vec<Change>) -> GoesOn {
        let (unread, kept) = (self.unread.clone(), self.memory.kept());
        changes.into_iter().all(|change| self.tell_change(change))
            && (unread == self.unread || self.tell_whether_all())
            && (kept == self.memory.kept() || self.tell_kept())
    }

    /// Who does not understand a network does not know all that is wanted, and must not remove what may belong to it; who
    /// does not understand a policy does not know all that is refused, and must not begin to let anything in.
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
        let follows = self.memory.consequences(&change);
        self.tell_fact(&change) && follows.into_iter().all(|change| self.tell_fact(&change))
    }

    fn tell_fact(&mut self, change: &Change) -> GoesOn {
        let (key, value) = match change {
            Change::Put(entry) => (&entry.key, Some(entry.value.as_slice())),
            Change::Delete { key, .. } => (key, None),
        };
        if !self.memory.note(change) {
            return true;
        }
        let Some(parsed) = EntryKey::parse(key) else { return true };
        let is_object = matches!(parsed, EntryKey::Object(_));
        self.unread.remove(key);
        match fact(parsed, value) {
            Ok(Some(fact)) => self.inbox.put(Input::Fact(fact)),
            Ok(None) => true,
            Err(error) => {
                // What was known of it before stays known: a spoilt entry takes nothing away.
                warn!("{error}");
                if is_object {
                    self.unread.insert(key.clone(), error.to_string());
                }
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    use tartan_model::NodeId;
    use tartan_store::{Durability, Entry, Expect, Owner, Revision, Sqlite, Watch};

    use super::*;

    const ME: NodeId = NodeId::from_bytes([1; 16]);

    /// A store whose watches fail for a while.
    struct Flaky {
        store: Sqlite,
        lists: AtomicUsize,
        fails: Arc<AtomicBool>,
    }

    struct FlakyWatch(Box<dyn Watch>, Arc<AtomicBool>);

    impl AsFd for FlakyWatch {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    impl Watch for FlakyWatch {
        fn changes(&mut self) -> Result<Vec<Change>, StoreError> {
            if self.1.load(Ordering::SeqCst) {
                return Err(StoreError::Unavailable { store: "s".into(), source: "away".into() });
            }
            self.0.changes()
        }
    }

    impl Store for Flaky {
        fn kind(&self) -> &'static str {
            self.store.kind()
        }
        fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
            self.store.get(key)
        }
        fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
            self.lists.fetch_add(1, Ordering::SeqCst);
            self.store.list(prefix)
        }
        fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
            Ok(Box::new(FlakyWatch(self.store.watch(prefix, after)?, self.fails.clone())))
        }
        fn put(
            &self,
            key: &str,
            value: &[u8],
            expect: Expect,
            durability: Durability,
        ) -> Result<Revision, StoreError> {
            self.store.put(key, value, expect, durability)
        }
        fn delete(&self, key: &str, expect: Expect) -> Result<Option<Revision>, StoreError> {
            self.store.delete(key, expect)
        }
        fn take_lease(&self, name: &str, holder: &str, ttl: Duration, force: bool) -> Result<(), StoreError> {
            self.store.take_lease(name, holder, ttl, force)
        }
        fn renew_lease(&self, name: &str, holder: &str, ttl: Duration) -> Result<(), StoreError> {
            self.store.renew_lease(name, holder, ttl)
        }
        fn release_lease(&self, name: &str, holder: &str) -> Result<(), StoreError> {
            self.store.release_lease(name, holder)
        }
        fn leases(&self) -> Result<Vec<Lease>, StoreError> {
            self.store.leases()
        }
    }

    /// What is told until something is, that included.
    #[track_caller]
    fn until(inputs: &Receiver<Input>, is_it: impl Fn(&Input) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if is_it(&inputs.recv_timeout(left).unwrap()) {
                return;
            }
        }
    }

    #[test]
    fn after_an_outage_it_goes_on_from_where_it_was_and_lists_nothing_anew() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Flaky {
            store: Sqlite::open(&folder.path().join("s.db")).unwrap(),
            lists: AtomicUsize::new(0),
            fails: Arc::default(),
        });
        let put = |block: &str| {
            let key = format!("block/default/{block}");
            store.put(&key, &Owner::text(ME), Expect::Absent, Durability::Crash).unwrap();
        };
        let ((tell, inputs), (register, registered), (writes, _writes)) = (channel(), channel(), channel());
        let listener = Listener {
            store: store.clone(),
            inbox: Inbox::new(tell).unwrap(),
            registered,
            writes,
            memory: Memory::new(ME),
            unread: BTreeMap::new(),
            fails: None,
        };
        register.send(()).unwrap();
        thread::spawn(move || listener.run());
        until(&inputs, |input| matches!(input, Input::Fact(Fact::InSync)));
        store.fails.store(true, Ordering::SeqCst);
        put("10.244.1.0-24");
        until(&inputs, |input| matches!(input, Input::Store(Err(_))));
        put("10.244.2.0-24");
        store.fails.store(false, Ordering::SeqCst);
        until(&inputs, |input| matches!(input, Input::Store(Ok(()))));
        for block in ["10.244.1.0/24", "10.244.2.0/24"] {
            let block = block.parse().unwrap();
            until(
                &inputs,
                |input| matches!(input, Input::Fact(Fact::Block(_, told, Some(ME))) if *told == block),
            );
        }
        assert_eq!(store.lists.load(Ordering::SeqCst), 1);
    }
}
