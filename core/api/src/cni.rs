//! CNI as it crosses the plugin: versions 0.3.1 to 1.1.0 of the specification
//! (https://www.cni.dev/docs/spec/).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tartan_model::{AttachmentKey, Cidr, IfName, InterfaceAddress, Mac, Mtu, NetworkName, PodName};
use thiserror::Error;

/// The most labels that a container may have.
pub const MAX_LABELS: usize = 64;
/// The longest key of a label in bytes: a prefix of 253, a slash and a name of 63, as in Kubernetes.
pub const MAX_LABEL_KEY: usize = 317;
/// The longest value of a label in bytes.
pub const MAX_LABEL_VALUE: usize = 63;
/// The longest network configuration that the plugin reads from its standard input: 1 MiB.
pub const MAX_CONFIG: usize = 1 << 20;

/// A version of the specification that the plugin speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    /// 0.3.1: lists of plugins.
    #[serde(rename = "0.3.1")]
    V0_3_1,
    /// 0.4.0: CHECK, and the previous result for DEL.
    #[serde(rename = "0.4.0")]
    V0_4_0,
    /// 1.0.0: addresses no longer say their family.
    #[serde(rename = "1.0.0")]
    V1_0_0,
    /// 1.1.0: GC, STATUS, the MTU of interfaces.
    #[serde(rename = "1.1.0")]
    V1_1_0,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Version; 4] = [Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];
    /// The newest.
    pub const NEWEST: Version = Version::V1_1_0;

    /// The version as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// The version that a text means; None if the plugin does not speak it.
    pub fn from_text(text: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

/// The network configuration as far as the plugin looks at it; other keys belong to the runtime or to other plugins.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf {
    /// The version that the runtime speaks.
    pub cni_version: Version,
    /// The name of the runtime's network.
    pub name: String,
    /// The program's name.
    #[serde(rename = "type")]
    pub plugin: String,
    /// The agent's socket.
    #[serde(default = "NetConf::usual_socket")]
    pub socket: String,
    /// The ClusterNetwork to attach to.
    #[serde(default = "NetConf::usual_network")]
    pub network: NetworkName,
    /// Arguments by the CNI conventions.
    #[serde(default)]
    pub args: Args,
    /// What the containers are to resolve names with; passed on.
    #[serde(default)]
    pub dns: Option<Dns>,
    /// What the plugins before this one did.
    #[serde(default)]
    pub prev_result: Option<PrevResult>,
}

impl NetConf {
    fn usual_socket() -> String {
        crate::rpc::SOCKET.into()
    }

    fn usual_network() -> NetworkName {
        #[allow(clippy::unwrap_used, reason = "a constant that the tests parse")]
        "default".parse().unwrap()
    }
}

/// `args` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Args {
    /// What is meant for all plugins.
    #[serde(default)]
    pub cni: CniArgs,
}

/// `args.cni` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct CniArgs {
    /// Labels of the container.
    #[serde(default)]
    pub labels: Vec<Label>,
    /// Addresses that the container shall have: not served yet, so none.
    #[serde(default)]
    pub ips: Vec<Value>,
}

/// A label as the CNI conventions write it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Label {
    /// The key.
    pub key: String,
    /// The value.
    #[serde(default)]
    pub value: String,
}

/// Labels that nobody should need.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LabelError {
    /// Too many of them.
    #[error("args.cni.labels has {0} labels, at most {MAX_LABELS} are taken")]
    Count(usize),
    /// An empty or too long key.
    #[error("args.cni.labels has a key of {0} bytes: keys have 1 to {MAX_LABEL_KEY}")]
    Key(usize),
    /// A too long value.
    #[error("args.cni.labels has a value of {bytes} bytes for {key}: values have at most {MAX_LABEL_VALUE}")]
    Value {
        /// Whose value.
        key: String,
        /// How long it is.
        bytes: usize,
    },
}

impl CniArgs {
    /// The labels by key; of two with one key the last counts.
    ///
    /// # Errors
    /// When there are more, or longer ones, than Kubernetes allows.
    pub fn label_map(&self) -> Result<BTreeMap<String, String>, LabelError> {
        if self.labels.len() > MAX_LABELS {
            return Err(LabelError::Count(self.labels.len()));
        }
        self.labels.iter().map(Label::checked).collect()
    }
}

impl Label {
    fn checked(&self) -> Result<(String, String), LabelError> {
        let (key, value) = (self.key.clone(), self.value.clone());
        if key.is_empty() || key.len() > MAX_LABEL_KEY {
            Err(LabelError::Key(key.len()))
        } else if value.len() > MAX_LABEL_VALUE {
            Err(LabelError::Value { key, bytes: value.len() })
        } else {
            Ok((key, value))
        }
    }
}

/// What a container resolves names with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Domains to search.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// The result of the plugins before this one in a chain: passed on as it is, so not looked into.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct PrevResult {
    /// Their interfaces.
    #[serde(default)]
    pub interfaces: Option<Vec<Value>>,
    /// Their addresses, which name interfaces by position.
    #[serde(default)]
    pub ips: Option<Vec<Value>>,
    /// Their routes.
    #[serde(default)]
    pub routes: Option<Vec<Value>>,
    /// What they resolve names with.
    #[serde(default)]
    pub dns: Option<Dns>,
}

/// What the plugin asks the agent for an ADD. The namespace's descriptor goes beside it over the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// The runtime's name for the interface.
    pub key: AttachmentKey,
    /// The pod.
    pub pod: PodName,
    /// The network.
    pub network: NetworkName,
    /// `CNI_NETNS`: the path that the runtime names the pod's namespace by, 4096 bytes at most.
    pub netns: String,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What the plugin asks the agent for a DEL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Del {
    /// The runtime's name for the interface.
    pub key: AttachmentKey,
}

/// What the agent did for an ADD; the plugin turns it into a result of the runtime's version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// The host's end.
    pub host: Interface,
    /// The container's end.
    pub container: Interface,
    /// The pods' MTU in bytes.
    pub mtu: Mtu,
    /// The container's addresses with their gateways.
    pub ips: Vec<AddedIp>,
    /// The container's routes.
    pub routes: Vec<AddedRoute>,
}

/// A link of an ADD's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: IfName,
    /// Its MAC address.
    pub mac: Mac,
}

/// An address of an ADD's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedIp {
    /// The address.
    pub address: InterfaceAddress,
    /// Its gateway.
    pub gateway: IpAddr,
}

/// A route of an ADD's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedRoute {
    /// The destination.
    pub dst: Cidr,
    /// The next hop.
    pub gw: IpAddr,
}
