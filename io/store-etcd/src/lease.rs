//! Names held for a while.
//!
//! A name has two keys: `holder/NAME` says who took it last, and stays; `alive/NAME` hangs on a lease of etcd's and goes with
//! it. So a lease that is over is told from one that was released, and whoever held it may go on unless another came. Both
//! lie beside the entries: whoever watches those is not woken. Keeping a lease alive changes no key at all.

use std::time::Duration;

use http::uri::PathAndQuery;
use serde::{Deserialize, Serialize};
use tartan_store::{Lease, StoreError};
use tokio::time::{Instant, timeout_at};
use tonic::Request;
use tonic_prost::ProstCodec;

use crate::client::{ATTEMPT, Client, end_of};
use crate::fault::Fault;
use crate::store::DEADLINE;
use crate::wire::{
    KeyValue, LeaseGrantRequest, LeaseRequest, LeaseResponse, TxnRequest, delete, last_changed, put, range,
};

/// The longest term that is asked of etcd; it allows 9,000,000,000 s.
const LONGEST: Duration = Duration::from_secs(1 << 32);

/// What stands under both keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Held {
    holder: String,
    /// Milliseconds.
    term: u64,
}

/// A name as it was found.
#[derive(Default)]
struct Found {
    holder: Option<Held>,
    /// When the two keys were last changed; 0 for one that is not there.
    holder_revision: i64,
    alive_revision: i64,
    /// etcd's lease, 0 for none.
    lease: i64,
}

impl Found {
    fn is(&self, holder: &str) -> bool {
        self.holder.as_ref().is_some_and(|held| held.holder == holder)
    }

    fn lives(&self) -> bool {
        self.alive_revision != 0
    }
}

pub(crate) async fn take(
    client: &Client,
    name: &str,
    holder: &str,
    ttl: Duration,
    force: bool,
) -> Result<Result<(), StoreError>, Fault> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let found = find(client, name, deadline).await?;
        if found.lives() && !found.is(holder) && !force {
            let left = time_left(client, found.lease, deadline).await?;
            // It ended while it was asked for.
            let Some(expires_in) = left else {
                pause(deadline).await?;
                continue;
            };
            let other = found.holder.map(|held| held.holder).unwrap_or_default();
            return Ok(Err(StoreError::Held { name: name.into(), holder: other, expires_in }));
        }
        if hold(client, name, holder, ttl, &found, deadline).await? {
            return Ok(Ok(()));
        }
    }
}

pub(crate) async fn renew(
    client: &Client,
    name: &str,
    holder: &str,
    ttl: Duration,
) -> Result<Result<(), StoreError>, Fault> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let found = find(client, name, deadline).await?;
        if !found.is(holder) {
            return Ok(Err(StoreError::LeaseLost { name: name.into(), holder: holder.into() }));
        }
        if hold(client, name, holder, ttl, &found, deadline).await? {
            return Ok(Ok(()));
        }
    }
}

pub(crate) async fn release(client: &Client, name: &str, holder: &str) -> Result<(), Fault> {
    let deadline = Instant::now() + DEADLINE;
    let found = find(client, name, deadline).await?;
    if !found.is(holder) {
        return Ok(());
    }
    let (held, alive) = (client.url.holder(name), client.url.alive(name));
    let txn = TxnRequest {
        // Only what this holder took: who took it meanwhile changed it.
        compare: vec![last_changed(&held, found.holder_revision)],
        success: vec![delete(&held), delete(&alive)],
        failure: vec![],
    };
    client.txn(txn, deadline).await?;
    revoke(client, found.lease, deadline).await;
    Ok(())
}

pub(crate) async fn all(client: &Client, deadline: Instant) -> Result<Vec<Lease>, Fault> {
    let prefixes = [client.url.holder(""), client.url.alive("")];
    let success = prefixes.iter().map(|prefix| range(prefix, &end_of(prefix))).collect();
    let answer = client.txn(TxnRequest { success, ..TxnRequest::default() }, deadline).await?.answer;
    let mut ranges = answer.ranges();
    let (holders, alive) = (ranges.next().unwrap_or_default().kvs, ranges.next().unwrap_or_default().kvs);
    let [holder_prefix, alive_prefix] = prefixes;
    let name = |found: &KeyValue, prefix: &[u8]| {
        found.key.strip_prefix(prefix).and_then(|name| String::from_utf8(name.to_vec()).ok())
    };
    let alive: std::collections::BTreeSet<String> =
        alive.iter().filter_map(|found| name(found, &alive_prefix)).collect();
    let lease = |found: &KeyValue| {
        let (name, held) = (name(found, &holder_prefix)?, held(found)?);
        // How far each term has run would be a question for each; that it runs is known.
        let expires_in = alive.contains(&name).then(|| Duration::from_millis(held.term));
        Some(Lease { name, holder: held.holder, expires_in })
    };
    Ok(holders.iter().filter_map(lease).collect())
}

/// Keeps what is held alive, or takes it anew; false if somebody changed it meanwhile.
async fn hold(
    client: &Client,
    name: &str,
    holder: &str,
    ttl: Duration,
    found: &Found,
    deadline: Instant,
) -> Result<bool, Fault> {
    let ttl = ttl.min(LONGEST);
    let mine = Held { holder: holder.into(), term: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX) };
    let same_term = found.holder.as_ref().is_some_and(|held| held.term == mine.term);
    if found.is(holder) && found.lives() && same_term && keep_alive(client, found.lease, deadline).await? {
        return Ok(true);
    }
    let text = serde_json::to_vec(&mine).unwrap_or_default();
    let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
    let granted: LeaseResponse = client
        .call("/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest { ttl: seconds }, deadline)
        .await?
        .answer;
    let (held, alive) = (client.url.holder(name), client.url.alive(name));
    let mut success = vec![put(&alive, &text, granted.id)];
    if !found.is(holder) || !same_term {
        success.push(put(&held, &text, 0));
    }
    let txn = TxnRequest {
        compare: vec![last_changed(&held, found.holder_revision), last_changed(&alive, found.alive_revision)],
        success,
        failure: vec![],
    };
    let done = client.txn(txn, deadline).await;
    let mut succeeded = matches!(&done, Ok(called) if called.answer.succeeded);
    let mut unused = if succeeded { found.lease } else { granted.id };
    if !succeeded {
        // The answer of an attempt may be lost although it went through: then the name hangs on the new lease.
        match find(client, name, deadline).await {
            Ok(now) if now.lease == granted.id => (succeeded, unused) = (true, found.lease),
            Ok(_) => {}
            // Nobody knows: it ends by itself.
            Err(_) => unused = 0,
        }
    }
    // A lease that nothing hangs on would only wait for its end.
    revoke(client, unused, deadline).await;
    if succeeded { Ok(true) } else { done.map(|called| called.answer.succeeded) }
}

async fn find(client: &Client, name: &str, deadline: Instant) -> Result<Found, Fault> {
    let success = vec![range(&client.url.holder(name), b""), range(&client.url.alive(name), b"")];
    let answer = client.txn(TxnRequest { success, ..TxnRequest::default() }, deadline).await?.answer;
    let mut ranges = answer.ranges().map(|range| range.kvs.into_iter().next());
    let (holder, alive) = (ranges.next().flatten(), ranges.next().flatten());
    Ok(Found {
        holder: holder.as_ref().and_then(held),
        holder_revision: holder.map_or(0, |found| found.mod_revision),
        alive_revision: alive.as_ref().map_or(0, |found| found.mod_revision),
        lease: alive.map_or(0, |found| found.lease),
    })
}

fn held(found: &KeyValue) -> Option<Held> {
    serde_json::from_slice(&found.value).ok()
}

/// False if etcd has no such lease any more.
async fn keep_alive(client: &Client, id: i64, deadline: Instant) -> Result<bool, Fault> {
    if id == 0 {
        return Ok(false);
    }
    let open = client.open(deadline).await?;
    let asked = async {
        let mut grpc = open.grpc();
        grpc.ready().await.map_err(|error| Fault::of_connection(&open.endpoint, &error))?;
        let mut request = Request::new(tokio_stream::once(LeaseRequest { id }));
        open.sign(request.metadata_mut());
        let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
        let codec = ProstCodec::<LeaseRequest, LeaseResponse>::default();
        let told = |status| Fault::of_status(&open.endpoint, &status);
        let mut answers = grpc.streaming(request, path, codec).await.map_err(told)?.into_inner();
        Ok(answers.message().await.map_err(told)?.is_some_and(|answer| answer.ttl > 0))
    };
    let outcome = timeout_at(deadline.min(Instant::now() + ATTEMPT), asked).await;
    let outcome =
        outcome.unwrap_or_else(|_| Err(Fault::Late { endpoint: open.endpoint.clone(), patience: ATTEMPT }));
    if outcome.as_ref().is_err_and(Fault::may_pass) {
        client.leave(&open).await;
    }
    outcome
}

/// None if it is over.
async fn time_left(client: &Client, id: i64, deadline: Instant) -> Result<Option<Duration>, Fault> {
    let path = "/etcdserverpb.Lease/LeaseTimeToLive";
    let answer: LeaseResponse = client.call(path, LeaseRequest { id }, deadline).await?.answer;
    Ok(u64::try_from(answer.ttl).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs))
}

/// Ends a lease of etcd's that is not needed any more; if that fails it ends by itself.
async fn revoke(client: &Client, id: i64, deadline: Instant) {
    if id != 0 {
        let ended: Result<_, Fault> = client
            .call::<_, LeaseResponse>("/etcdserverpb.Lease/LeaseRevoke", LeaseRequest { id }, deadline)
            .await;
        drop(ended);
    }
}

async fn pause(deadline: Instant) -> Result<(), Fault> {
    let next = Instant::now() + Duration::from_millis(50);
    if next > deadline {
        return Err(Fault::Forgotten);
    }
    tokio::time::sleep_until(next).await;
    Ok(())
}
