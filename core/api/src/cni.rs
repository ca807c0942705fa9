//! CNI as it crosses the plugin: versions 0.3.1 to 1.1.0 of the specification
//! (https://www.cni.dev/docs/spec/).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tartan_model::{
    AttachmentKey, Cidr, Family, IfName, InterfaceAddress, ListName, Mac, Mtu, NetworkName, PodName,
};
use thiserror::Error;

pub use crate::prev::{Listed, PrevError, PrevResult};

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
    pub name: ListName,
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
    /// What the runtime fills in for the capabilities that the configuration declares.
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
    /// How other plugins give addresses; the agent gives them by itself.
    #[serde(default)]
    pub ipam: Value,
    /// What the containers are to resolve names with; passed on.
    #[serde(default)]
    pub dns: Option<Dns>,
    /// What the plugins before this one did.
    #[serde(default)]
    pub prev_result: Option<PrevResult>,
}

impl NetConf {
    /// The agent's usual socket.
    pub fn usual_socket() -> String {
        crate::rpc::SOCKET.into()
    }

    fn usual_network() -> NetworkName {
        #[allow(clippy::unwrap_used, reason = "a constant that the tests parse")]
        "default".parse().unwrap()
    }

    /// The addresses that are asked for, at most one a family: `args.cni.ips` and `runtimeConfig.ips`, each with or
    /// without the length of its network, which is the agent's to choose.
    ///
    /// # Errors
    /// When one cannot be read, or two of a family differ.
    pub fn ips(&self) -> Result<Vec<IpAddr>, IpsError> {
        let mut ips: BTreeMap<Family, IpAddr> = BTreeMap::new();
        for text in self.args.cni.ips.iter().chain(&self.runtime_config.ips) {
            let ip = read_ip(text).ok_or_else(|| IpsError::Text(text.chars().take(64).collect()))?;
            match ips.insert(Family::of(ip), ip) {
                Some(other) if other != ip => return Err(IpsError::Two(other, ip)),
                _ => {}
            }
        }
        Ok(ips.into_values().collect())
    }
}

fn read_ip(text: &str) -> Option<IpAddr> {
    let with_length = |text: &str| text.parse::<InterfaceAddress>().map(|ip| ip.address()).ok();
    text.parse().ok().or_else(|| with_length(text))
}

/// Addresses that cannot be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IpsError {
    /// Not an address.
    #[error("ips: {0:?} is not an address; write it as in 10.244.0.9 or fd00::9")]
    Text(String),
    /// Two of a family.
    #[error("ips: {0} and {1} are asked for, an interface has one address of a family; leave one out")]
    Two(IpAddr, IpAddr),
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
    /// Addresses that the container shall have.
    #[serde(default)]
    pub ips: Vec<String>,
}

/// `runtimeConfig` of the configuration, as far as it would change what the plugin does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeConfig {
    /// Addresses that the container shall have (capability `ips`).
    #[serde(default)]
    pub ips: Vec<String>,
    /// Ports of the node that lead to the container: the plugin `portmap` serves them.
    #[serde(default)]
    pub port_mappings: Value,
    /// Limits of traffic: the plugin `bandwidth` serves them.
    #[serde(default)]
    pub bandwidth: Value,
    /// A MAC address: the agent chooses it.
    #[serde(default)]
    pub mac: Value,
    /// Ranges to take addresses from: they are the ClusterNetwork's.
    #[serde(default)]
    pub ip_ranges: Value,
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
    /// The runtime's name for the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<ListName>,
    /// Addresses that the interface shall have, at most one a family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
}

/// What the plugin asks the agent for a CHECK. The namespace's descriptor goes beside it over the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The runtime's name for the interface.
    pub key: AttachmentKey,
    /// What the ADD's result says of it.
    pub listed: Listed,
}

/// What the plugin asks the agent for a GC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gc {
    /// The runtime's name for the network.
    pub list: ListName,
    /// The interfaces of that network that stay.
    pub valid: BTreeSet<AttachmentKey>,
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
