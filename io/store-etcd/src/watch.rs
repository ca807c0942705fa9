//! Watching: a task that follows one stream after the other, and the descriptor that tells of it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::uri::PathAndQuery;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tartan_store::{Change, Entry, Revision, StoreError, Watch};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::Stream;
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

use crate::client::{ATTEMPT, Client, end_of};
use crate::fault::Fault;
use crate::history::{Seen, marker_of};
use crate::runtime::Runtime;
use crate::store::{DEADLINE, key_of, signed, unavailable, unsigned};
use crate::wire::{Event, TxnRequest, WatchCreate, WatchRequest, WatchResponse, range};

/// How long until a stream that broke is begun again; longer after each that breaks, up to a second.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A watch on etcd.
pub(crate) struct EtcdWatch {
    shared: Arc<Shared>,
    task: tokio::task::AbortHandle,
    client: Arc<Client>,
    /// The thread that the task is on lives as long as this.
    _runtime: Arc<Runtime>,
}

/// What the task tells the watch.
struct Shared {
    bell: EventFd,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    /// The last change of each key since somebody looked.
    changes: BTreeMap<String, Change>,
    /// Why there is no stream now, if there is none.
    fault: Option<Fault>,
    /// What went on is not known any more.
    compacted: bool,
}

/// Why a stream is over.
enum End {
    Broken(Fault),
    /// etcd has forgotten what came after the last change, or it is another store.
    Compacted,
}

impl From<Fault> for End {
    fn from(fault: Fault) -> End {
        match fault {
            Fault::Forgotten => End::Compacted,
            fault => End::Broken(fault),
        }
    }
}

type Begun = oneshot::Receiver<Result<(), Fault>>;

impl EtcdWatch {
    /// The watch, and what tells when its first stream has begun.
    pub(crate) fn start(
        client: &Arc<Client>,
        runtime: &Arc<Runtime>,
        prefix: &str,
        after: Revision,
    ) -> Result<(EtcdWatch, Begun), Fault> {
        // It has rung once already.
        let bell = EventFd::from_value_and_flags(1, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Fault::Broken { endpoint: "the watch".into(), reason: errno.to_string() })?;
        let shared = Arc::new(Shared { bell, told: Mutex::default() });
        let (tell, begun) = oneshot::channel();
        let follower = Follower {
            client: Arc::clone(client),
            shared: Arc::clone(&shared),
            prefix: prefix.to_owned(),
            last: signed(after),
            epoch: client.seen().epoch,
            begun: Some(tell),
        };
        let task = runtime.spawn(follower.run());
        let watch = EtcdWatch { shared, task, client: Arc::clone(client), _runtime: Arc::clone(runtime) };
        Ok((watch, begun))
    }
}

impl Watch for EtcdWatch {
    fn changes(&mut self) -> Result<Vec<Change>, StoreError> {
        // Nothing to read means that it has not rung, which is as good.
        let _ = self.shared.bell.read();
        let mut told = self.shared.told();
        if told.compacted {
            return Err(StoreError::Compacted);
        }
        if let Some(fault) = &told.fault {
            return Err(unavailable(&self.client.url, fault.clone()));
        }
        let mut changes: Vec<Change> = std::mem::take(&mut told.changes).into_values().collect();
        changes.sort_by_key(Change::revision);
        Ok(changes)
    }
}

impl AsFd for EtcdWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.bell.as_fd()
    }
}

impl Drop for EtcdWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, tell: impl FnOnce(&mut Told)) {
        tell(&mut self.told());
        // It only fails to ring when it has rung 2^64 times unheard.
        let _ = self.bell.write(1);
    }
}

/// The task.
struct Follower {
    client: Arc<Client>,
    shared: Arc<Shared>,
    prefix: String,
    /// Everything up to here was told.
    last: i64,
    /// The history that it was told of.
    epoch: u64,
    /// Who waits for the first stream.
    begun: Option<oneshot::Sender<Result<(), Fault>>>,
}

impl Follower {
    async fn run(mut self) {
        let mut pause = PAUSE;
        loop {
            let start = Instant::now();
            let fault = match self.follow().await {
                Ok(never) => match never {},
                Err(End::Broken(fault)) => fault,
                Err(End::Compacted) => {
                    self.shared.tell(|told| told.compacted = true);
                    self.tell_begun(Ok(()));
                    return;
                }
            };
            if self.begun.is_some() {
                self.tell_begun(Err(fault));
                return;
            }
            self.shared.tell(|told| told.fault = Some(fault));
            pause = if start.elapsed() > LONGEST_PAUSE { PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            sleep(pause).await;
        }
    }

    fn tell_begun(&mut self, outcome: Result<(), Fault>) {
        if let Some(begun) = self.begun.take() {
            // Who does not wait any more has given up.
            let _ = begun.send(outcome);
        }
    }

    /// Follows one stream to its end.
    async fn follow(&mut self) -> Result<std::convert::Infallible, End> {
        let mut epochs = self.client.epochs();
        self.look().await?;
        let open = self.client.open(Instant::now() + DEADLINE).await?;
        let broken = |fault: Fault| (Arc::clone(&open), fault);
        let (_requests, mut stream) = match timeout(ATTEMPT, self.begin(&open)).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(fault)) => return Err(self.leave(broken(fault)).await),
            Err(_) => {
                let fault = Fault::Late { endpoint: open.endpoint.clone(), patience: ATTEMPT };
                return Err(self.leave(broken(fault)).await);
            }
        };
        loop {
            let answer = tokio::select! {
                answer = stream.message() => answer,
                changed = epochs.wait_for(|epoch| *epoch != self.epoch) => {
                    drop(changed);
                    return Err(End::Compacted);
                }
            };
            let fault = match answer {
                Ok(Some(answer)) => match self.take(answer)? {
                    None => continue,
                    Some(reason) => Fault::Broken { endpoint: open.endpoint.clone(), reason },
                },
                Ok(None) => {
                    Fault::Broken { endpoint: open.endpoint.clone(), reason: "it ended the watch".into() }
                }
                Err(status) => Fault::of_status(&open.endpoint, &status),
            };
            return Err(self.leave(broken(fault)).await);
        }
    }

    async fn leave(&self, (open, fault): (Arc<crate::client::Open>, Fault)) -> End {
        if fault.may_pass() {
            self.client.leave(&open).await;
        }
        fault.into()
    }

    /// Whether the store goes on from where we were: a member that is asked to watch from a revision that is yet to come
    /// would just wait for it.
    async fn look(&mut self) -> Result<(), End> {
        let key = self.client.url.marker();
        let txn = TxnRequest { success: vec![range(&key, b"")], ..TxnRequest::default() };
        let answer = self.client.txn(txn, Instant::now() + DEADLINE).await?.answer;
        let revision = answer.revision();
        let marker = answer.ranges().flat_map(|range| range.kvs).next();
        match marker.as_ref().map(marker_of).transpose()? {
            Some(marker) => self.client.note(|seen| seen.find(&marker.id)),
            None => self.client.note(Seen::miss),
        }
        if self.client.seen().epoch != self.epoch || revision < self.last {
            return Err(End::Compacted);
        }
        Ok(())
    }

    /// Begins a stream. It watches all of ours, so that the mark of the store is seen to go in the same moment as the
    /// entries that go with it.
    async fn begin(
        &self,
        open: &crate::client::Open,
    ) -> Result<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>), Fault> {
        let prefix = self.client.url.prefix.as_bytes();
        let create = WatchCreate {
            key: prefix.into(),
            range_end: end_of(prefix),
            start_revision: self.last.saturating_add(1),
            fragment: true,
        };
        // The stream lives as long as the sender does.
        let (requests, queue) = mpsc::channel(1);
        let full = |_| Fault::Broken { endpoint: open.endpoint.clone(), reason: "it is full".into() };
        requests.try_send(WatchRequest { create: Some(create) }).map_err(full)?;
        let mut grpc = open.grpc();
        grpc.ready().await.map_err(|error| Fault::of_connection(&open.endpoint, &error))?;
        let mut request = Request::new(Queue(queue));
        open.sign(request.metadata_mut());
        // A member that is cut off from the others says so, instead of telling nothing for ever.
        request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let told = |status| Fault::of_status(&open.endpoint, &status);
        Ok((requests, grpc.streaming(request, path, codec).await.map_err(told)?.into_inner()))
    }

    /// Takes in an answer; Some reason if etcd ended the watch.
    fn take(&mut self, answer: WatchResponse) -> Result<Option<String>, End> {
        if answer.canceled {
            let forgot = answer.compact_revision > 0;
            return if forgot { Err(End::Compacted) } else { Ok(Some(answer.cancel_reason)) };
        }
        if answer.created {
            self.tell_begun(Ok(()));
            self.shared.tell(|told| told.fault = None);
        }
        let marker = self.client.url.marker();
        let is_marker =
            |event: &Event| event.kv.as_ref().is_some_and(|kv| kv.key == marker) && event.kind == 1;
        if answer.events.iter().any(is_marker) {
            // Somebody took away everything of ours, and did not mean each of them.
            return Err(End::Compacted);
        }
        let newest =
            answer.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).max();
        let changes: Vec<Change> = answer.events.into_iter().filter_map(|event| self.change(event)).collect();
        if !changes.is_empty() {
            self.shared.tell(|told| {
                told.changes.extend(changes.into_iter().map(|change| (change.key().to_owned(), change)));
            });
        }
        // Of a revision that comes in parts the rest is missing until the last.
        let told = if answer.fragment { newest.map(|newest| newest - 1) } else { newest };
        self.last = self.last.max(told.unwrap_or(0));
        Ok(None)
    }

    fn change(&self, event: Event) -> Option<Change> {
        let found = event.kv?;
        let key = key_of(&self.client.url, &found.key).filter(|key| key.starts_with(&self.prefix))?;
        let revision = unsigned(found.mod_revision);
        Some(match event.kind {
            0 => Change::Put(Entry { key, value: found.value, revision }),
            _ => Change::Delete { key, revision },
        })
    }
}

/// A queue as a stream.
struct Queue(mpsc::Receiver<WatchRequest>);

impl Stream for Queue {
    type Item = WatchRequest;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<WatchRequest>> {
        self.0.poll_recv(context)
    }
}
