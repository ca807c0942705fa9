//! The driver: every verb of the store as one transaction.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use tartan_store::{
    Durability, Entry, Expect, KEY_MAX, Lease, Listing, Revision, Store, StoreError, Watch, check_key,
    check_prefix, check_value,
};
use tokio::time::Instant;

use crate::client::{Called, Client, end_of};
use crate::config::{ConfigError, EtcdFiles, EtcdUrl};
use crate::fault::Fault;
use crate::history::{FORMAT, Marker, Seen, marker_of};
use crate::lease;
use crate::runtime::Runtime;
use crate::watch::EtcdWatch;
use crate::wire::{
    KeyValue, RangeRequest, RangeResponse, Request, RequestOp, Response, TxnRequest, TxnResponse, delete,
    last_changed, put, range,
};

/// How long a call may take, whatever the servers do.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);
/// How long a listing may take for each of its pages.
const PAGE_DEADLINE: Duration = Duration::from_secs(20);
/// Who only wants to know who is alive does not wait long for it.
const GLANCE: Duration = Duration::from_secs(3);
/// Entries of one page.
const PAGE: i64 = 100;

/// A store on etcd, for the agents of many machines.
#[derive(Clone)]
pub struct Etcd {
    client: Arc<Client>,
    runtime: Arc<Runtime>,
}

/// What a change was answered: where it happened, or what was there instead.
enum Changed {
    Done(TxnResponse),
    Not { found: Option<KeyValue>, repeated: bool, revision: Revision },
}

impl Etcd {
    /// Reads the certificates and the password, and starts the thread that will talk to etcd. Nothing is connected to
    /// yet: that the servers cannot be reached is told by each call, so whoever opens the store may wait for them.
    ///
    /// # Errors
    /// [`ConfigError`] when no server can be reached like this.
    pub fn open(url: EtcdUrl, files: &EtcdFiles) -> Result<Etcd, ConfigError> {
        let client = Arc::new(Client::new(url, files.read()?)?);
        let runtime = Runtime::start().map_err(|_| {
            ConfigError::Incomplete("cannot start a thread for etcd; see to memory and limits")
        })?;
        Ok(Etcd { client, runtime: Arc::new(runtime) })
    }

    /// Does something on the runtime's thread and waits for it.
    fn wait<T, F>(&self, work: impl FnOnce(Arc<Client>) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let outcome = self.runtime.wait(work(Arc::clone(&self.client))).unwrap_or(Err(Fault::Ended));
        outcome.map_err(|fault| unavailable(&self.client.url, fault))
    }

    fn change(&self, key: &str, expect: Expect, op: RequestOp) -> Result<Changed, StoreError> {
        let stored = self.client.url.entry(key);
        let compare = match expect {
            Expect::Any => vec![],
            Expect::Absent => vec![last_changed(&stored, 0)],
            Expect::Revision(revision) => vec![last_changed(&stored, signed(revision))],
        };
        let txn = TxnRequest { compare, success: vec![op], failure: vec![range(&stored, b"")] };
        let Called { answer, repeated } =
            self.wait(|client| async move { client.txn(txn, Instant::now() + DEADLINE).await })?;
        if answer.succeeded {
            return Ok(Changed::Done(answer));
        }
        let revision = unsigned(answer.revision());
        let found = answer.ranges().flat_map(|range| range.kvs).next();
        Ok(Changed::Not { found, repeated, revision })
    }
}

impl Store for Etcd {
    fn kind(&self) -> &'static str {
        "etcd"
    }

    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        let txn =
            TxnRequest { success: vec![range(&self.client.url.entry(key), b"")], ..TxnRequest::default() };
        let called = self.wait(|client| async move { client.txn(txn, Instant::now() + DEADLINE).await })?;
        let found = called.answer.ranges().flat_map(|range| range.kvs).next();
        Ok(found.and_then(|found| entry(&self.client.url, found)))
    }

    fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        check_prefix(prefix)?;
        let prefix = self.client.url.entry(prefix);
        self.wait(|client| list(client, prefix))
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        check_prefix(prefix)?;
        let (watch, begun) = EtcdWatch::start(&self.client, &self.runtime, prefix, after)
            .map_err(|fault| unavailable(&self.client.url, fault))?;
        self.wait(|_| async move { begun.await.unwrap_or(Err(Fault::Ended)) })?;
        Ok(Box::new(watch))
    }

    fn put(&self, key: &str, value: &[u8], expect: Expect, _: Durability) -> Result<Revision, StoreError> {
        check_key(key)?;
        check_value(key, value)?;
        // A majority has it on its disks before it is acknowledged: there is nothing less to have.
        let op = put(&self.client.url.entry(key), value, 0);
        match self.change(key, expect, op)? {
            Changed::Done(answer) => Ok(unsigned(answer.revision())),
            // It was us: the answer to an earlier attempt was lost.
            Changed::Not { found: Some(found), repeated: true, .. } if found.value == value => {
                Ok(unsigned(found.mod_revision))
            }
            Changed::Not { found, .. } => Err(conflict(key, found)),
        }
    }

    fn delete(&self, key: &str, expect: Expect) -> Result<Option<Revision>, StoreError> {
        check_key(key)?;
        match self.change(key, expect, delete(&self.client.url.entry(key)))? {
            Changed::Done(answer) => {
                let gone = answer
                    .responses
                    .iter()
                    .any(|op| matches!(&op.response, Some(Response::Delete(deleted)) if deleted.deleted > 0));
                Ok(gone.then(|| unsigned(answer.revision())))
            }
            Changed::Not { found: None, repeated: true, revision } => Ok(Some(revision)),
            Changed::Not { found, .. } => Err(conflict(key, found)),
        }
    }

    fn take_lease(&self, name: &str, holder: &str, ttl: Duration, force: bool) -> Result<(), StoreError> {
        check_key(name)?;
        check_key(holder)?;
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.wait(move |client| async move { lease::take(&client, &name, &holder, ttl, force).await })?
    }

    fn renew_lease(&self, name: &str, holder: &str, ttl: Duration) -> Result<(), StoreError> {
        check_key(name)?;
        check_key(holder)?;
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.wait(move |client| async move { lease::renew(&client, &name, &holder, ttl).await })?
    }

    fn release_lease(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        check_key(name)?;
        check_key(holder)?;
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.wait(move |client| async move { lease::release(&client, &name, &holder).await })
    }

    fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.wait(|client| async move { lease::all(&client, Instant::now() + GLANCE).await })
    }
}

/// Only where, never by what proof.
impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Etcd").field(&self.client.url).finish()
    }
}

/// Everything below a prefix as it was at one revision, in pages; and the mark of the store at that revision.
async fn list(client: Arc<Client>, prefix: Vec<u8>) -> Result<Listing, Fault> {
    loop {
        let key = client.url.marker();
        let ops = vec![range(&key, b""), page(&prefix, &end_of(&prefix), 0)];
        let txn = TxnRequest { success: ops, ..TxnRequest::default() };
        let answer = client.txn(txn, Instant::now() + PAGE_DEADLINE).await?.answer;
        let at = answer.revision();
        let mut ranges = answer.ranges();
        let marker = ranges.next().and_then(|range| range.kvs.into_iter().next());
        let Some(marker) = marker.as_ref().map(marker_of).transpose()? else {
            client.note(Seen::miss);
            mark(&client).await?;
            continue;
        };
        client.note(|seen| seen.find(&marker.id));
        let history = client.seen().history();
        let mut entries = Vec::new();
        let mut found = ranges.next().unwrap_or_default();
        loop {
            let next = found.kvs.last().filter(|_| found.more).map(|last| [&last.key, &b"\0"[..]].concat());
            entries.extend(found.kvs.into_iter().filter_map(|found| entry(&client.url, found)));
            let Some(next) = next else { break };
            let txn =
                TxnRequest { success: vec![page(&next, &end_of(&prefix), at)], ..TxnRequest::default() };
            found = one_range(client.txn(txn, Instant::now() + PAGE_DEADLINE).await?.answer);
        }
        return Ok(Listing { entries, revision: unsigned(at), history });
    }
}

/// Leaves a mark in a store that has none.
async fn mark(client: &Client) -> Result<(), Fault> {
    let key = client.url.marker();
    let spoilt = |reason: String| Fault::Spoilt { key: String::from_utf8_lossy(&key).into_owned(), reason };
    let mut chance = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut chance));
    read.map_err(|error| spoilt(format!("cannot read /dev/urandom: {error}")))?;
    let id = chance.iter().map(|byte| format!("{byte:02x}")).collect();
    let text =
        serde_json::to_vec(&Marker { format: FORMAT, id }).map_err(|error| spoilt(error.to_string()))?;
    let txn = TxnRequest {
        compare: vec![last_changed(&key, 0)],
        success: vec![put(&key, &text, 0)],
        failure: vec![],
    };
    client.txn(txn, Instant::now() + DEADLINE).await.map(drop)
}

fn page(key: &[u8], range_end: &[u8], revision: i64) -> RequestOp {
    let range = RangeRequest { key: key.into(), range_end: range_end.into(), limit: PAGE, revision };
    RequestOp { request: Some(Request::Range(range)) }
}

fn one_range(answer: TxnResponse) -> RangeResponse {
    answer.ranges().next().unwrap_or_default()
}

/// What etcd has under one of our keys; others have no business there, and keys that we would not write are passed over.
pub(crate) fn entry(url: &EtcdUrl, found: KeyValue) -> Option<Entry> {
    let revision = unsigned(found.mod_revision);
    key_of(url, &found.key).map(|key| Entry { key, value: found.value, revision })
}

/// The key of an entry, as the store calls it.
pub(crate) fn key_of(url: &EtcdUrl, key: &[u8]) -> Option<String> {
    let key = std::str::from_utf8(key.strip_prefix(url.entry("").as_slice())?).ok()?;
    (key.len() <= KEY_MAX && check_key(key).is_ok()).then(|| key.to_owned())
}

pub(crate) fn unavailable(url: &EtcdUrl, fault: Fault) -> StoreError {
    StoreError::Unavailable { store: url.to_string(), source: Box::new(fault) }
}

fn conflict(key: &str, found: Option<KeyValue>) -> StoreError {
    StoreError::Conflict { key: key.to_owned(), found: found.map(|found| unsigned(found.mod_revision)) }
}

pub(crate) fn unsigned(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or(0))
}

pub(crate) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}
