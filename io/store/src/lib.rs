//! The store: string keys with byte values, listed, watched, swapped by comparison, and leases.
//!
//! [`Store`] is what every driver offers; [`Sqlite`] is the driver for the agents of one machine.
//! The trait is synchronous and knows nothing of any database: a watch hands out a descriptor for `poll`,
//! so a thread can wait for many stores and sockets at once without a runtime.

mod database;
mod error;
mod key;
mod lease;
mod limits;
mod open;
mod roster;
mod sqlite;
mod wake;
mod watch;

use std::fmt;
use std::os::fd::AsFd;
use std::time::Duration;

pub use error::StoreError;
pub use key::{
    BLOCKS, BlockKey, DELETED, ENDPOINTS, EntryKey, NAMESPACES, NETWORKS, NODES, NoBlock, ObjectKey, Owner,
    PODS, POLICIES, SERVICE_ACCOUNTS,
};
pub use lease::{Clock, boot_clock};
pub use limits::{KEY_MAX, VALUE_MAX, check_key, check_prefix, check_value};
pub use open::OpenError;
pub use roster::{blocks_of, forget_endpoints, withdraw};
pub use sqlite::Sqlite;
pub use watch::LOG_KEEP;

/// A place where the cluster's objects live, shared by every agent that opens it.
///
/// Any method may answer [`StoreError::Unavailable`]; keys and values out of bounds are refused
/// with [`StoreError::BadKey`] and [`StoreError::TooLarge`] before the store is touched.
pub trait Store: Send + Sync {
    /// The driver's name, as in `store.kind` of `tartan status`: `sqlite`, `etcd`, `kubernetes`.
    fn kind(&self) -> &'static str;

    /// The entry under `key`, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// Every entry whose key begins with `prefix` (empty: all), in key order, as one consistent snapshot.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// Follows the keys that begin with `prefix`, from just after the revision `after`.
    ///
    /// With `after` from a [`Listing`], listing and watch together miss nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError>;

    /// Writes `value` under `key` if what is there is as `expect` says; answers the new revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if something else is there; then nothing was written.
    fn put(
        &self,
        key: &str,
        value: &[u8],
        expect: Expect,
        durability: Durability,
    ) -> Result<Revision, StoreError>;

    /// Deletes `key` if what is there is as `expect` says; `None`: it was not there, and nobody was woken.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if something else is there; then nothing was deleted.
    fn delete(&self, key: &str, expect: Expect) -> Result<Option<Revision>, StoreError>;

    /// Takes the lease `name` for `ttl`, or takes it again; `force` takes it from a living holder too.
    ///
    /// # Errors
    /// [`StoreError::Held`] if another holder's lease lives and `force` is false.
    fn take_lease(&self, name: &str, holder: &str, ttl: Duration, force: bool) -> Result<(), StoreError>;

    /// Lets the lease live for `ttl` from now; it makes no revision and wakes nobody.
    ///
    /// A lease that is over but that nobody else took is renewed all the same.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another holder has it or it was released.
    fn renew_lease(&self, name: &str, holder: &str, ttl: Duration) -> Result<(), StoreError>;

    /// Gives the lease back; a lease that is no longer this holder's is left alone.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn release_lease(&self, name: &str, holder: &str) -> Result<(), StoreError>;

    /// Every lease that was taken and not released, by name, also those that are over.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn leases(&self) -> Result<Vec<Lease>, StoreError>;
}

/// A running watch; dropping it ends it.
///
/// Its descriptor becomes readable when there may be something, a new watch's at once. A wake-up is a hint, lost when
/// the writer is killed just after its commit or runs out of descriptors: call [`Watch::changes`] now and then
/// unasked, too. No change is ever lost by that, only late.
pub trait Watch: Send + AsFd {
    /// What happened since the last call, in revision order; never waits for changes, empty when there are none.
    ///
    /// Several changes of one key are collapsed to its last, so a key may be deleted that was never put.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when the store no longer knows everything since the last call: list anew.
    /// After [`StoreError::Unavailable`] nothing is lost; call again.
    fn changes(&mut self) -> Result<Vec<Change>, StoreError>;
}

/// The number of a change: each one of a store is greater than those before it; 0 is the empty store's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// 1 to [`KEY_MAX`] bytes of printable ASCII.
    pub key: String,
    /// At most [`VALUE_MAX`] bytes.
    pub value: Vec<u8>,
    /// The revision of its last change.
    pub revision: Revision,
}

/// A consistent snapshot of the entries under a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The entries in key order.
    pub entries: Vec<Entry>,
    /// The revision of the whole store at that moment, where a watch goes on.
    pub revision: Revision,
    /// Whether it goes on from what the same instance listed before.
    pub history: History,
}

/// Which sequence of changes a listing belongs to. Two listings of one instance with the same history: the later one has
/// everything that happened since the earlier. With another, the store was wiped, replaced or put back to an earlier state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// Which store it is; one that was wiped is another, one that was put back to an earlier state the same.
    pub store: String,
    /// How often this instance saw it become another or go back.
    pub epoch: u64,
}

/// What must be under a key for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Anything, or nothing.
    Any,
    /// Nothing.
    Absent,
    /// An entry whose last change was this one.
    Revision(Revision),
}

impl Expect {
    /// Whether the expectation holds, given the revision found under the key.
    #[must_use]
    pub fn holds(self, found: Option<Revision>) -> bool {
        match self {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::Revision(expected) => found == Some(expected),
        }
    }
}

/// What an acknowledged write survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of every process, `kill -9` included.
    Crash,
    /// The loss of power, too: it is on the disk.
    Power,
}

/// One change that a watch saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The entry was written.
    Put(Entry),
    /// The entry is gone.
    Delete {
        /// Its key.
        key: String,
        /// The revision of the deletion.
        revision: Revision,
    },
}

impl Change {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Change::Put(entry) => &entry.key,
            Change::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Change::Put(entry) => entry.revision,
            Change::Delete { revision, .. } => *revision,
        }
    }
}

/// A name that somebody holds for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What is held, for instance a node's name.
    pub name: String,
    /// Who took it last, for instance a node's id.
    pub holder: String,
    /// How long it will live unless renewed; `None`: it is over.
    pub expires_in: Option<Duration>,
}
