//! The `v1` objects of Kubernetes that policies speak of: Namespace, Pod, ServiceAccount. People paste whole ones, so what
//! does not matter here is passed over.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tartan_model::Name;

use crate::label::Labels;
use crate::meta::{NamespaceMeta, ObjectMeta};
use crate::policy::{MAX_PARTS, Parts, PolicyError, Protocol, is_port_name, port_number};

/// The one API version of these kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CoreVersion {
    /// The first.
    #[serde(rename = "v1")]
    V1,
}

/// A Namespace: its labels are what namespace selectors ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Namespace {
    /// Always `v1`.
    pub api_version: CoreVersion,
    /// Always `Namespace`.
    pub kind: NamespaceKind,
    /// Its name and labels.
    pub metadata: NamespaceMeta,
}

/// The one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceKind {
    /// A namespace.
    Namespace,
}

/// A ServiceAccount: its labels are what service account selectors ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccount {
    /// Always `v1`.
    pub api_version: CoreVersion,
    /// Always `ServiceAccount`.
    pub kind: ServiceAccountKind,
    /// Its name, namespace and labels.
    pub metadata: ObjectMeta,
}

/// The one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceAccountKind {
    /// A service account.
    ServiceAccount,
}

/// A Pod: what is known of it besides what the container runtime says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Always `v1`.
    pub api_version: CoreVersion,
    /// Always `Pod`.
    pub kind: PodKind,
    /// Its name, namespace and labels.
    pub metadata: ObjectMeta,
    /// Its containers and account.
    #[serde(default, skip_serializing_if = "PodSpec::is_empty")]
    pub spec: PodSpec,
}

/// The one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodKind {
    /// A pod.
    Pod,
}

/// The part of a pod's specification that policies speak of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Its containers.
    #[serde(default, skip_serializing_if = "Parts::is_empty")]
    pub containers: Parts<Container>,
    /// The service account that it runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<Name>,
}

/// A container of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Ports that it serves.
    #[serde(default, skip_serializing_if = "Parts::is_empty")]
    pub ports: Parts<ContainerPort>,
}

/// A port that a container serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "WrittenContainerPort")]
pub struct ContainerPort {
    /// What policies may call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The port, 1 to 65535.
    pub container_port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenContainerPort {
    name: Option<String>,
    container_port: i64,
    protocol: Option<Protocol>,
}

impl TryFrom<WrittenContainerPort> for ContainerPort {
    type Error = PolicyError;
    fn try_from(written: WrittenContainerPort) -> Result<Self, PolicyError> {
        let name = written.name.filter(|name| !name.is_empty());
        if let Some(name) = name.as_ref().filter(|name| !is_port_name(name)) {
            return Err(PolicyError::port(name));
        }
        let container_port = port_number(written.container_port)?;
        Ok(ContainerPort { name, container_port, protocol: written.protocol.unwrap_or_default() })
    }
}

impl PodSpec {
    fn is_empty(&self) -> bool {
        *self == PodSpec::default()
    }
}

/// What policies ask of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodObject {
    /// Its labels.
    pub labels: Arc<Labels>,
    /// Its ports that have a name; of two that share one with one protocol the first counts.
    pub ports: Vec<NamedPort>,
    /// The service account that it runs as, if it says one.
    pub service_account: Option<Name>,
}

/// A port by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// The name.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl From<Pod> for PodObject {
    fn from(pod: Pod) -> PodObject {
        let named = |port: ContainerPort| {
            Some(NamedPort { name: port.name?, protocol: port.protocol, port: port.container_port })
        };
        let ports = pod.spec.containers.0.into_iter().flat_map(|container| container.ports.0);
        PodObject {
            labels: Arc::new(pod.metadata.labels),
            ports: ports.filter_map(named).take(MAX_PARTS).collect(),
            service_account: pod.spec.service_account_name,
        }
    }
}
