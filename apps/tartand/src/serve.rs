//! What the socket asks for: objects are written to the store from here, everything else is asked of the ring.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use serde::Serialize;
use tartan_api::network::Network;
use tartan_api::object::{Object, ObjectKind};
use tartan_api::rpc::{Answer, Failure, FailureCode, Leave, Request};
use tartan_api::verb::{Action, Applied};
use tartan_model::NodeId;
use tartan_rpc::{Client, Handler};
use tartan_store::{Durability, Entry, EntryKey, Expect, Store, StoreError};

use crate::cluster::told;
use crate::deleted::delete_object;
use crate::entry::{self, object_key, prefix};
use crate::input::{Inbox, Question};
use crate::metrics::{CniLabels, Metrics};
use crate::remove::Removal;

/// How long the ring may take; the plugin gives up after 30 s.
const PATIENCE: Duration = Duration::from_secs(25);

/// Serves the agent's socket.
pub(crate) struct Service {
    pub(crate) id: NodeId,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) waits: AtomicU64,
    inbox: Inbox,
    metrics: Arc<Metrics>,
}

impl Handler for Service {
    fn handle(&self, request: Request, netns: Option<OwnedFd>, client: Client) -> Answer {
        let outcome = match request {
            Request::Apply { objects } => self.apply(&objects),
            Request::Wait => self.wait(),
            Request::Probe { peers } => self.survey(peers),
            Request::Get { kind, name } => self.get(kind, name.as_deref()),
            Request::Delete { kind, name } => self.delete(kind, &name),
            Request::Leave(Leave { node: Some(node), force, without_store }) => {
                match self.remove_node(&node) {
                    Err(Removal::This) => {
                        let leave = Leave { node: None, force, without_store };
                        return self.ask_request(Request::Leave(leave), netns, client);
                    }
                    Err(Removal::Refused(failure)) => Err(failure),
                    Ok(left) => Ok(ok(&left)),
                }
            }
            request @ (Request::Add(_) | Request::Del(_)) => {
                return self.serve_runtime(request, netns, client);
            }
            request => return self.ask_request(request, netns, client),
        };
        outcome.unwrap_or_else(Answer::Error)
    }
}

impl Service {
    pub(crate) fn new(id: NodeId, inbox: Inbox, store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Service {
        Service { id, store, waits: AtomicU64::new(0), inbox, metrics }
    }

    /// ADD and DEL are measured.
    fn serve_runtime(&self, request: Request, netns: Option<OwnedFd>, client: Client) -> Answer {
        let verb = if matches!(request, Request::Add(_)) { "add" } else { "del" };
        let start = Instant::now();
        let answer = self.ask_request(request, netns, client);
        let outcome = if matches!(answer, Answer::Ok(_)) { "ok" } else { "error" };
        let took = start.elapsed().as_secs_f64();
        self.metrics.cni.get_or_create(&CniLabels { verb, outcome }).observe(took);
        answer
    }

    fn ask_request(&self, request: Request, netns: Option<OwnedFd>, client: Client) -> Answer {
        // Only these tell who is alive, and the ring does not wait for the store.
        let wants_leases = matches!(request, Request::Status | Request::Nodes | Request::Peers);
        let leases = if wants_leases { self.store.leases().ok() } else { None };
        self.ask(Question::Request { request, netns, client, leases })
    }

    pub(crate) fn ask(&self, question: Question) -> Answer {
        self.inbox.ask(question, PATIENCE)
    }

    fn apply(&self, objects: &[Object]) -> Result<Answer, Failure> {
        let networks: Vec<Network> = objects.iter().filter_map(resolve).collect::<Result<_, _>>()?;
        if !networks.is_empty()
            && let Answer::Error(failure) = self.ask(Question::Check(networks))
        {
            return Err(failure);
        }
        let applied: Vec<Applied> =
            objects.iter().map(|object| self.put(object)).collect::<Result<_, _>>()?;
        Ok(ok(&applied))
    }

    fn put(&self, object: &Object) -> Result<Applied, Failure> {
        let (kind, name) = (object.kind(), object.name());
        let key = object_key(kind, &name).ok_or_else(|| invalid(format!("{kind} {name:?}: no such name")))?;
        let key = EntryKey::Object(key).to_string();
        let text = serde_json::to_vec(object).map_err(|error| invalid(error.to_string()))?;
        let old = self.store.get(&key).map_err(store)?;
        let says_the_same =
            |old: &Entry| entry::object(kind, &old.value).is_ok_and(|old| old.says_the_same(object));
        let action = match &old {
            Some(old) if old.value == text || says_the_same(old) => Action::Unchanged,
            Some(_) => Action::Configured,
            None => Action::Created,
        };
        // What says the same may have moved to another line, which is noted.
        if old.is_none_or(|old| old.value != text) {
            self.store.put(&key, &text, Expect::Any, Durability::Power).map_err(store)?;
        }
        Ok(Applied { kind, name, action })
    }

    fn get(&self, kind: ObjectKind, name: Option<&str>) -> Result<Answer, Failure> {
        let read = |entry: &Entry| entry::object(kind, &entry.value).ok();
        let Some(name) = name else {
            let entries = self.store.list(prefix(kind)).map_err(store)?.entries;
            return Ok(ok(&entries.iter().filter_map(read).collect::<Vec<Object>>()));
        };
        let key = object_key(kind, name).ok_or_else(|| not_found(kind, name))?;
        let entry = self.store.get(&EntryKey::Object(key).to_string()).map_err(store)?;
        let found = entry.as_ref().and_then(read).ok_or_else(|| not_found(kind, name))?;
        Ok(ok(&[found]))
    }

    fn delete(&self, kind: ObjectKind, name: &str) -> Result<Answer, Failure> {
        let key = object_key(kind, name).ok_or_else(|| not_found(kind, name))?;
        // What the store has lost and memory has is deleted, too, and no network: that is put back first.
        let is_remembered = || {
            let knows = Question::Knows(key.clone());
            kind != ObjectKind::ClusterNetwork && self.ask(knows) == ok(&true)
        };
        match delete_object(self.store.as_ref(), &key, is_remembered) {
            Ok(true) => Ok(ok(&Applied { kind, name: name.into(), action: Action::Deleted })),
            Ok(false) => Err(not_found(kind, name)),
            Err(error) => Err(store(error)),
        }
    }
}

/// The network that an object is; None if it is none.
fn resolve(object: &Object) -> Option<Result<Network, Failure>> {
    let Object::ClusterNetwork(network) = object else { return None };
    let wrong = |error| invalid(format!("ClusterNetwork {}: {error}", object.name()));
    Some(network.resolve().map_err(wrong))
}

fn not_found(kind: ObjectKind, name: &str) -> Failure {
    Failure {
        code: FailureCode::NotFound,
        message: format!("there is no {kind} {name:?}; see those there are: tartan get {kind}"),
    }
}

fn invalid(message: String) -> Failure {
    Failure { code: FailureCode::Invalid, message }
}

pub(crate) fn store(error: StoreError) -> Failure {
    Failure { code: FailureCode::Store, message: format!("the store: {}", told(&error)) }
}

/// An answer that is not what was asked for.
pub(crate) fn failure(code: FailureCode, message: impl Into<String>) -> Answer {
    Answer::Error(Failure { code, message: message.into() })
}

/// An answer that is.
pub(crate) fn ok<T: Serialize>(value: &T) -> Answer {
    match serde_json::to_value(value) {
        Ok(value) => Answer::Ok(value),
        Err(error) => failure(FailureCode::Kernel, format!("cannot write the answer down: {error}")),
    }
}
