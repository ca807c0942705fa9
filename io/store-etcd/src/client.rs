//! One connection to one of the endpoints, calls with a deadline over it, and what was seen of the store's history.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::config::{ConfigError, EtcdUrl, Secrets};
use crate::fault::Fault;
use crate::history::{Seen, marker_of};
use crate::wire::{AuthenticateRequest, AuthenticateResponse, TxnRequest, TxnResponse, range};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_millis(1500);
/// How long one endpoint may take to answer before another is asked; the last that is asked has until the deadline.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(2);
/// A server that is silent this long is asked whether it lives; etcd closes connections that ask more often than every
/// 5 s (`--grpc-keepalive-min-time`).
const SILENCE: Duration = Duration::from_secs(6);
/// How long it may take to say so.
const PING: Duration = Duration::from_secs(3);
/// The largest answer: a page of a listing with the largest values.
pub(crate) const LARGEST: usize = 128 << 20;

/// The way to etcd, shared by the store and its watches.
pub(crate) struct Client {
    pub(crate) url: EtcdUrl,
    endpoints: Vec<Endpoint>,
    login: Option<(String, String)>,
    /// None without TLS; else whether we have a certificate.
    certificate: Option<bool>,
    line: Mutex<Line>,
    seen: Lock<Seen>,
    /// Tells the watches that the store's history is another.
    epoch: watch::Sender<u64>,
}

/// The endpoint that is in use, and the connection to it.
#[derive(Default)]
struct Line {
    at: usize,
    open: Option<Arc<Open>>,
}

/// A connection.
pub(crate) struct Open {
    channel: Channel,
    pub(crate) endpoint: String,
    token: Option<MetadataValue<Ascii>>,
}

/// An answer, and whether an attempt before it may have been carried out as well.
pub(crate) struct Called<T> {
    pub(crate) answer: T,
    pub(crate) repeated: bool,
}

impl Open {
    /// For one call.
    pub(crate) fn grpc(&self) -> Grpc<Channel> {
        Grpc::new(self.channel.clone()).max_decoding_message_size(LARGEST)
    }

    /// Says who asks.
    pub(crate) fn sign(&self, metadata: &mut MetadataMap) {
        if let Some(token) = &self.token {
            metadata.insert("token", token.clone());
        }
    }

    async fn unary<Q, R>(&self, path: &'static str, message: Q) -> Result<R, Status>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        let mut request = Request::new(message);
        self.sign(request.metadata_mut());
        let codec = ProstCodec::<Q, R>::default();
        Ok(grpc.unary(request, PathAndQuery::from_static(path), codec).await?.into_inner())
    }
}

impl Client {
    pub(crate) fn new(url: EtcdUrl, secrets: Secrets) -> Result<Client, ConfigError> {
        let endpoints =
            url.endpoints.iter().map(|host| endpoint(&url, host, &secrets)).collect::<Result<_, _>>()?;
        Ok(Client {
            url,
            endpoints,
            certificate: secrets.ca.as_ref().map(|_| secrets.identity.is_some()),
            login: secrets.login,
            line: Mutex::default(),
            seen: Lock::default(),
            epoch: watch::Sender::new(0),
        })
    }

    /// A transaction. All that we read and write are transactions: their answers come from a majority, so no state that
    /// one of them tells is older than what any of them told before.
    pub(crate) async fn txn(&self, txn: TxnRequest, deadline: Instant) -> Result<Called<TxnResponse>, Fault> {
        let floor = self.seen().floor();
        let called: Called<TxnResponse> = self.call("/etcdserverpb.KV/Txn", txn, deadline).await?;
        if let Some(header) = called.answer.header {
            self.note(|seen| seen.hear(header, floor));
        }
        Ok(called)
    }

    /// Asks one endpoint after the other until one answers, each once and the first once more.
    pub(crate) async fn call<Q, R>(
        &self,
        path: &'static str,
        message: Q,
        deadline: Instant,
    ) -> Result<Called<R>, Fault>
    where
        Q: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        let mut repeated = false;
        let mut left = self.endpoints.len();
        loop {
            let open = self.open(deadline).await;
            let was_open = open.is_ok();
            let outcome = match open {
                Ok(open) => {
                    let until = if left == 0 { deadline } else { deadline.min(Instant::now() + ATTEMPT) };
                    self.ask(&open, path, message.clone(), until).await
                }
                Err(fault) => Err(fault),
            };
            match outcome {
                Ok(answer) => return Ok(Called { answer, repeated }),
                Err(fault) if !fault.may_pass() || left == 0 || Instant::now() >= deadline => {
                    return Err(fault);
                }
                Err(_) => {
                    repeated |= was_open;
                    left -= 1;
                }
            }
        }
    }

    async fn ask<Q, R>(
        &self,
        open: &Arc<Open>,
        path: &'static str,
        message: Q,
        until: Instant,
    ) -> Result<R, Fault>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        let start = Instant::now();
        let late = || Fault::Late { endpoint: open.endpoint.clone(), patience: start.elapsed() };
        let outcome = match timeout_at(until, open.unary(path, message)).await {
            Ok(answer) => answer.map_err(|status| Fault::of_status(&open.endpoint, &status)),
            Err(_) => Err(late()),
        };
        if outcome.as_ref().is_err_and(Fault::may_pass) {
            self.leave(open).await;
        }
        outcome
    }

    /// The connection there is, or a new one.
    pub(crate) async fn open(&self, deadline: Instant) -> Result<Arc<Open>, Fault> {
        let start = Instant::now();
        let late = |endpoint: String| Fault::Late { endpoint, patience: start.elapsed() };
        let all = || self.url.endpoints.join(",");
        let mut line = timeout_at(deadline, self.line.lock()).await.map_err(|_| late(all()))?;
        if let Some(open) = &line.open {
            return Ok(Arc::clone(open));
        }
        let asked = self.url.endpoints.get(line.at).cloned().unwrap_or_default();
        let connected = timeout_at(deadline, self.connect(line.at)).await;
        match connected.unwrap_or_else(|_| Err(late(asked))) {
            Ok(open) => Ok(Arc::clone(line.open.insert(Arc::new(open)))),
            Err(fault) => {
                line.at = (line.at + 1) % self.endpoints.len().max(1);
                Err(fault)
            }
        }
    }

    /// From now on another endpoint is asked, unless that was seen to already.
    pub(crate) async fn leave(&self, broken: &Arc<Open>) {
        let mut line = self.line.lock().await;
        if line.open.as_ref().is_some_and(|open| Arc::ptr_eq(open, broken)) {
            line.open = None;
            line.at = (line.at + 1) % self.endpoints.len().max(1);
        }
    }

    async fn connect(&self, at: usize) -> Result<Open, Fault> {
        let (Some(host), Some(endpoint)) = (self.url.endpoints.get(at), self.endpoints.get(at)) else {
            return Err(Fault::Ended);
        };
        let late = |patience| Fault::Late { endpoint: host.clone(), patience };
        let channel = timeout(CONNECT, endpoint.connect()).await.map_err(|_| late(CONNECT))?;
        let channel = channel.map_err(|error| match Fault::of_connection(host, &error) {
            // All that is told of a connection that came about and was ended.
            fault @ Fault::Broken { .. } if error.source().is_none_or(|cause| cause.source().is_none()) => {
                fault.broken_off(self.certificate)
            }
            fault => fault,
        })?;
        let mut open = Open { channel, endpoint: host.clone(), token: None };
        let welcome = async {
            self.log_in(&mut open).await?;
            self.check_format(&open).await
        };
        let welcomed = timeout(ATTEMPT, welcome).await.map_err(|_| late(ATTEMPT))?;
        welcomed.map_err(|fault| fault.broken_off(self.certificate))?;
        Ok(open)
    }

    async fn log_in(&self, open: &mut Open) -> Result<(), Fault> {
        let Some((name, password)) = self.login.clone() else { return Ok(()) };
        let request = AuthenticateRequest { name, password };
        match open.unary::<_, AuthenticateResponse>("/etcdserverpb.Auth/Authenticate", request).await {
            Ok(answer) => {
                open.token = answer.token.parse().ok();
                Ok(())
            }
            // Who is let in without has no use for a token.
            Err(status)
                if status.code() == Code::FailedPrecondition && status.message().contains("not enabled") =>
            {
                Ok(())
            }
            Err(status) => Err(Fault::of_status(&open.endpoint, &status)),
        }
    }

    /// What a later release wrote is let be, before anything is written.
    async fn check_format(&self, open: &Open) -> Result<(), Fault> {
        let key = self.url.marker();
        let txn = TxnRequest { success: vec![range(&key, b"")], ..TxnRequest::default() };
        let answer: TxnResponse = open
            .unary("/etcdserverpb.KV/Txn", txn)
            .await
            .map_err(|status| Fault::of_status(&open.endpoint, &status))?;
        let found = answer.ranges().flat_map(|range| range.kvs).next();
        found.map_or(Ok(()), |found| marker_of(&found).map(drop))
    }

    /// What was seen of the store's history up to now.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in what tells of the history; wakes the watches if it is another.
    pub(crate) fn note(&self, hear: impl FnOnce(&mut Seen)) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        hear(&mut seen);
        let epoch = seen.epoch;
        drop(seen);
        self.epoch.send_if_modified(|known| std::mem::replace(known, epoch) != epoch);
    }

    /// Tells when the history becomes another.
    pub(crate) fn epochs(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }
}

impl EtcdUrl {
    /// Where the store says which it is.
    pub(crate) fn marker(&self) -> Vec<u8> {
        format!("{}store", self.prefix).into_bytes()
    }

    /// The key of an entry.
    pub(crate) fn entry(&self, key: &str) -> Vec<u8> {
        format!("{}entry/{key}", self.prefix).into_bytes()
    }

    /// The key that tells who has a name, whether that one lives or not.
    pub(crate) fn holder(&self, name: &str) -> Vec<u8> {
        format!("{}holder/{name}", self.prefix).into_bytes()
    }

    /// The key that is there as long as the holder of a name lives.
    pub(crate) fn alive(&self, name: &str) -> Vec<u8> {
        format!("{}alive/{name}", self.prefix).into_bytes()
    }
}

/// Behind every key that begins so: keys are printable ASCII.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    [prefix, b"\x7f"].concat()
}

fn endpoint(url: &EtcdUrl, host: &str, secrets: &Secrets) -> Result<Endpoint, ConfigError> {
    let wrong = |_| ConfigError::Url(url.to_string(), "a host is badly written");
    let scheme = if secrets.ca.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{host}")).map_err(wrong)?;
    let endpoint = endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(SILENCE)
        .keep_alive_timeout(PING)
        // etcd takes pings of a connection without a call for an attack (`enforcementPolicy`, PermitWithoutStream).
        .keep_alive_while_idle(false);
    let Some(ca) = &secrets.ca else { return Ok(endpoint) };
    let mut tls = ClientTlsConfig::new().ca_certificates(certificates(ca));
    if let Some((cert, key)) = &secrets.identity {
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    endpoint.tls_config(tls).map_err(|_| {
        ConfigError::Incomplete("etcd_ca, etcd_cert or etcd_key holds no certificate or key that can be used")
    })
}

/// Every certificate of a bundle once.
fn certificates(bundle: &[u8]) -> Vec<Certificate> {
    const END: &str = "-----END CERTIFICATE-----";
    let text = String::from_utf8_lossy(bundle);
    let parts: BTreeSet<String> = text
        .split_inclusive(END)
        .filter(|part| part.contains(END))
        .map(|part| part.trim().to_owned())
        .collect();
    parts.into_iter().map(Certificate::from_pem).collect()
}
