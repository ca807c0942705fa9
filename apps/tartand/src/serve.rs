//! What the socket asks for: objects are written to the store from here, everything else is asked of the ring.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use serde::Serialize;
use tartan_api::network::{ClusterNetwork, Network};
use tartan_api::object::{Object, ObjectKind};
use tartan_api::rpc::{Answer, Failure, FailureCode, Leave, Request};
use tartan_api::verb::{Action, Applied};
use tartan_model::{NetworkName, NodeId};
use tartan_rpc::{Client, Handler};
use tartan_store::{Durability, Expect, NETWORKS, Store, StoreError};

use crate::cluster::told;
use crate::deleted::delete_network;
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
        let networks: Vec<Network> = objects.iter().map(resolve).collect::<Result<_, _>>()?;
        if let Answer::Error(failure) = self.ask(Question::Check(networks)) {
            return Err(failure);
        }
        let applied: Vec<Applied> =
            objects.iter().map(|object| self.put(object)).collect::<Result<_, _>>()?;
        Ok(ok(&applied))
    }

    fn put(&self, object: &Object) -> Result<Applied, Failure> {
        let key = format!("{NETWORKS}{}", object.name());
        let text = serde_json::to_vec(object).map_err(|error| invalid(error.to_string()))?;
        let old = self.store.get(&key).map_err(store)?;
        let action = match old {
            Some(old) if old.value == text => Action::Unchanged,
            Some(_) => Action::Configured,
            None => Action::Created,
        };
        if action != Action::Unchanged {
            self.store.put(&key, &text, Expect::Any, Durability::Power).map_err(store)?;
        }
        Ok(Applied { kind: object.kind(), name: object.name().into(), action })
    }

    fn get(&self, kind: ObjectKind, name: Option<&str>) -> Result<Answer, Failure> {
        let entries = self.store.list(NETWORKS).map_err(store)?.entries;
        let objects =
            entries.iter().filter_map(|entry| serde_json::from_slice::<ClusterNetwork>(&entry.value).ok());
        let objects: Vec<Object> = objects.map(Object::ClusterNetwork).collect();
        match name {
            None => Ok(ok(&objects)),
            Some(name) => {
                let found: Vec<&Object> = objects.iter().filter(|object| object.name() == name).collect();
                if found.is_empty() { Err(not_found(kind, name)) } else { Ok(ok(&found)) }
            }
        }
    }

    fn delete(&self, kind: ObjectKind, name: &str) -> Result<Answer, Failure> {
        let Ok(network) = name.parse::<NetworkName>() else { return Err(not_found(kind, name)) };
        match delete_network(self.store.as_ref(), &network) {
            Ok(true) => Ok(ok(&Applied { kind, name: name.into(), action: Action::Deleted })),
            Ok(false) => Err(not_found(kind, name)),
            Err(error) => Err(store(error)),
        }
    }
}

fn resolve(object: &Object) -> Result<Network, Failure> {
    let Object::ClusterNetwork(network) = object;
    network.resolve().map_err(|error| invalid(format!("ClusterNetwork {}: {error}", object.name())))
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
