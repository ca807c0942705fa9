//! The store's entries as facts, and those that are there only as long as somebody waits (`tartan apply --wait`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tartan_api::endpoint::PublishedEndpoint;
use tartan_api::meta::ObjectMeta;
use tartan_api::network::NetworkError;
use tartan_api::object::{Object, ObjectKind};
use tartan_decide::Fact;
use tartan_model::{Node, PodName, PolicyName, ServiceAccountName};
use tartan_store::{
    BlockKey, EntryKey, NAMESPACES, NETWORKS, ObjectKey, Owner, PODS, POLICIES, SERVICE_ACCOUNTS,
};
use thiserror::Error;

/// The prefix of what somebody waits for: `wait/ID-NUMBER`, written by the agent that was asked.
pub(crate) const WAITS: &str = "wait/";
/// The prefix of the answers: `heard/ID-NUMBER/ID`, one from each agent.
pub(crate) const HEARD: &str = "heard/";

/// An agent's answer to a wait: why its kernel has not everything, or nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Heard {
    pub(crate) reasons: Vec<String>,
}

/// An entry that cannot be understood.
#[derive(Debug, Error)]
#[error("store entry {key} is not understood: {reason}")]
pub(crate) struct Misunderstood {
    key: String,
    reason: String,
}

/// The fact that an entry with this value, or its absence, is; None if it is none.
pub(crate) fn fact(key: EntryKey, value: Option<&[u8]>) -> Result<Option<Fact>, Misunderstood> {
    let text = key.to_string();
    let wrong = |reason: String| Misunderstood { key: text.clone(), reason };
    Ok(Some(match key {
        EntryKey::Object(key) => kept_fact(key, value).map_err(wrong)?,
        EntryKey::Node(id) => {
            let node: Option<Node> = read(value).map_err(wrong)?;
            if node.as_ref().is_some_and(|node| node.id != id) {
                return Err(wrong("it has another id inside".into()));
            }
            Fact::Node(id, node)
        }
        EntryKey::Block(BlockKey { network, block }) => {
            let owner: Option<Owner> = read(value).map_err(wrong)?;
            Fact::Block(network, block, owner.map(|owner| owner.node))
        }
        EntryKey::Endpoint(node, key) => {
            let endpoint: Option<PublishedEndpoint> = read(value).map_err(wrong)?;
            Fact::Endpoint(node, key, endpoint)
        }
        EntryKey::Deleted(_) => return Ok(None),
    }))
}

fn kept_fact(key: ObjectKey, value: Option<&[u8]>) -> Result<Fact, String> {
    let Some(value) = value else { return Ok(absence(key)) };
    let object = object(kind(&key), value).map_err(|error| error.to_string())?;
    if object_key(object.kind(), &object.name()) != Some(key) {
        return Err("it has another name inside".into());
    }
    object_fact(object).map_err(|error| error.to_string())
}

/// The fact that an object is.
pub(crate) fn object_fact(object: Object) -> Result<Fact, NetworkError> {
    Ok(match object {
        Object::ClusterNetwork(object) => {
            let network = object.resolve()?;
            Fact::Network(network.name.clone(), Some(network))
        }
        Object::NetworkPolicy(policy) => {
            let ObjectMeta { namespace, name, .. } = policy.metadata.clone();
            Fact::Policy(PolicyName { namespace, name }, Some(Arc::new(policy)))
        }
        Object::Namespace(namespace) => {
            Fact::Namespace(namespace.metadata.name, Some(namespace.metadata.labels))
        }
        Object::Pod(pod) => {
            let ObjectMeta { namespace, name, .. } = pod.metadata.clone();
            Fact::Pod(PodName { namespace, name }, Some(pod.into()))
        }
        Object::ServiceAccount(account) => {
            let ObjectMeta { namespace, name, labels, .. } = account.metadata;
            Fact::ServiceAccount(ServiceAccountName { namespace, name }, Some(labels))
        }
    })
}

/// The fact that an object is not there.
fn absence(key: ObjectKey) -> Fact {
    match key {
        ObjectKey::Network(name) => Fact::Network(name, None),
        ObjectKey::Policy(name) => Fact::Policy(name, None),
        ObjectKey::Namespace(name) => Fact::Namespace(name, None),
        ObjectKey::Pod(name) => Fact::Pod(name, None),
        ObjectKey::ServiceAccount(name) => Fact::ServiceAccount(name, None),
    }
}

fn kind(key: &ObjectKey) -> ObjectKind {
    match key {
        ObjectKey::Network(_) => ObjectKind::ClusterNetwork,
        ObjectKey::Policy(_) => ObjectKind::NetworkPolicy,
        ObjectKey::Namespace(_) => ObjectKind::Namespace,
        ObjectKey::Pod(_) => ObjectKind::Pod,
        ObjectKey::ServiceAccount(_) => ObjectKind::ServiceAccount,
    }
}

/// The prefix of the keys of a kind.
pub(crate) fn prefix(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::ClusterNetwork => NETWORKS,
        ObjectKind::NetworkPolicy => POLICIES,
        ObjectKind::Namespace => NAMESPACES,
        ObjectKind::Pod => PODS,
        ObjectKind::ServiceAccount => SERVICE_ACCOUNTS,
    }
}

/// The key of the object of a kind with this name; None if no object can have it.
pub(crate) fn object_key(kind: ObjectKind, name: &str) -> Option<ObjectKey> {
    Some(match kind {
        ObjectKind::ClusterNetwork => ObjectKey::Network(name.parse().ok()?),
        ObjectKind::NetworkPolicy => ObjectKey::Policy(name.parse().ok()?),
        ObjectKind::Namespace => ObjectKey::Namespace(name.parse().ok()?),
        ObjectKind::Pod => ObjectKey::Pod(name.parse().ok()?),
        ObjectKind::ServiceAccount => ObjectKey::ServiceAccount(name.parse().ok()?),
    })
}

/// An object of a kind as it is kept.
pub(crate) fn object(kind: ObjectKind, value: &[u8]) -> serde_json::Result<Object> {
    Ok(match kind {
        ObjectKind::ClusterNetwork => Object::ClusterNetwork(serde_json::from_slice(value)?),
        ObjectKind::NetworkPolicy => Object::NetworkPolicy(serde_json::from_slice(value)?),
        ObjectKind::Namespace => Object::Namespace(serde_json::from_slice(value)?),
        ObjectKind::Pod => Object::Pod(serde_json::from_slice(value)?),
        ObjectKind::ServiceAccount => Object::ServiceAccount(serde_json::from_slice(value)?),
    })
}

fn read<T: for<'de> Deserialize<'de>>(value: Option<&[u8]>) -> Result<Option<T>, String> {
    value.map(|value| serde_json::from_slice(value).map_err(|error| error.to_string())).transpose()
}
