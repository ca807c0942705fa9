//! CNI as it crosses the plugin: versions 0.3.1 to 1.1.0 of the specification
//! (https://www.cni.dev/docs/spec/).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tartan_model::{AttachmentKey, Cidr, IfName, InterfaceAddress, Mac, Mtu, NetworkName, PodName};

/// The versions of the specification that the plugin speaks, oldest first.
pub const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The longest network configuration that the plugin reads from its standard input: 1 MiB.
pub const MAX_CONFIG: usize = 1 << 20;

/// The network configuration as far as the plugin looks at it; other keys belong to the runtime or to other plugins.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf {
    /// The version that the runtime speaks.
    pub cni_version: String,
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
