//! The JSON of every verb. Times are RFC 3339 in UTC.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tartan_model::{
    Attachment, Cidr, ContainerId, IfName, InterfaceAddress, Mac, Mtu, NetworkName, NodeId, NodeName, Path,
    PodName,
};

use crate::explain::{RuleName, Side};
use crate::object::ObjectKind;

/// `tartan status`: this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The node's name.
    pub node: NodeName,
    /// Its stable id.
    pub id: NodeId,
    /// The agent's version.
    pub version: String,
    /// Whether everything wanted is in the kernel and pods can be added.
    pub healthy: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// What a person should know although this node is healthy, as of a peer that does not answer.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The store.
    pub store: StoreStatus,
    /// The fabrics of its networks; `none` without a network.
    pub fabric: String,
    /// The interface to the other nodes.
    pub uplink: Option<UplinkStatus>,
    /// The other nodes.
    pub peers: PeerCount,
    /// How many pod interfaces this node has.
    pub endpoints: usize,
    /// What guards them.
    #[serde(default)]
    pub guards: Guards,
    /// How many policies there are.
    pub policies: usize,
    /// How many pod interfaces of other nodes it knows, of networks with policy.
    #[serde(default)]
    pub remote_endpoints: usize,
    /// The networks.
    pub networks: Vec<NetworkStatus>,
    /// The last thing that went wrong, also if it is right again.
    pub last_error: Option<String>,
    /// When the agent was started.
    pub since: String,
}

/// What guards pods that are routed, and the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guards {
    /// BPF programs.
    Programs,
    /// Rules of nftables.
    #[default]
    Rules,
}

/// The store as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Which driver.
    pub kind: String,
    /// Whether it answers.
    pub connected: bool,
}

/// The uplink as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// The interface.
    pub interface: IfName,
    /// Its MTU in bytes.
    pub mtu: Mtu,
    /// The node's addresses on it.
    pub addresses: Vec<InterfaceAddress>,
}

/// How many peers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerCount {
    /// Peers whose rows are all in the kernel and that are not known to be dead: they answer, or were not asked yet and
    /// their agents live.
    pub up: usize,
    /// All peers.
    pub total: usize,
}

/// A network as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// Its name.
    pub name: NetworkName,
    /// How new pods are attached.
    pub attachment: Attachment,
    /// The pods' MTU in bytes.
    pub mtu: Option<Mtu>,
    /// The blocks that this node holds.
    pub blocks: Vec<Cidr>,
}

/// A row of `tartan nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Its name.
    pub name: NodeName,
    /// Its stable id.
    pub id: NodeId,
    /// Its underlay addresses.
    pub addresses: Vec<InterfaceAddress>,
    /// Whether its agent renews its lease.
    pub alive: bool,
    /// Whether it is the node that answers.
    pub this: bool,
    /// Its blocks.
    pub blocks: Vec<Cidr>,
}

/// A row of `tartan peers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    /// Its name.
    pub node: NodeName,
    /// The address in use: on the link where the path is direct, else the tunnel's other end.
    pub address: Option<std::net::IpAddr>,
    /// The path in use, where networks or families differ the worst of them; none if there is no way.
    pub path: Option<Path>,
    /// Whether traffic to it is encrypted.
    pub sealed: bool,
    /// The largest packet in bytes that the path carries.
    pub mtu: Option<Mtu>,
    /// Round trip in milliseconds; none while not measured.
    pub rtt_ms: Option<f64>,
    /// What probes tell of the ways to it: of the worst, if there are several.
    #[serde(default)]
    pub health: PeerHealth,
    /// What is wrong with them, in words.
    #[serde(default)]
    pub reason: Option<String>,
    /// Since when the path is in use.
    pub since: Option<String>,
    /// Why not a better path, or no path.
    pub blocked: Vec<Blocked>,
    /// Its blocks.
    pub blocks: Vec<Cidr>,
}

/// What probes tell of the way to a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerHealth {
    /// It answers.
    Works,
    /// It was not asked yet, or there is nothing to ask.
    #[default]
    Unknown,
    /// It answers small packets only.
    LargePacketsLost,
    /// It does not answer, while what it sends arrives.
    OneWay,
    /// It does not answer.
    Dead,
}

/// A row of `tartan check connectivity`: one way to a peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckRow {
    /// The peer.
    pub node: NodeName,
    /// The network.
    pub network: NetworkName,
    /// How its packets go.
    pub path: Path,
    /// This node's own address.
    pub local: std::net::IpAddr,
    /// The peer's, which its kernel answers at.
    pub remote: std::net::IpAddr,
    /// The largest packet in bytes that should pass.
    pub mtu: Mtu,
    /// Round trip of a small packet in milliseconds.
    pub small_ms: Option<f64>,
    /// Round trip of a packet of `mtu` bytes in milliseconds.
    pub full_ms: Option<f64>,
    /// Whether both passed.
    pub ok: bool,
    /// What is wrong.
    pub reason: Option<String>,
}

/// A path that is not in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// Which.
    pub path: Path,
    /// Why.
    pub reason: String,
}

/// A row of `tartan endpoints`: a pod's interface on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRow {
    /// The pod.
    pub pod: PodName,
    /// The network.
    pub network: NetworkName,
    /// Its addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// The pod's MAC address.
    pub mac: Mac,
    /// How it is attached.
    pub attachment: Attachment,
    /// The host's end.
    pub link: IfName,
    /// The container.
    pub container: ContainerId,
    /// The interface inside.
    pub interface: IfName,
    /// Whether everything of it is in the kernel, and it is not shut.
    pub ready: bool,
    /// Packets from it that were refused, by reason (see [`DeniedRow::reason`]).
    pub denied: BTreeMap<String, u64>,
}

/// A row of `tartan denied`: packets that the guards refused, by interface and reason, or that policies did, by connection.
/// The counter of a guard goes a day after its last packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeniedRow {
    /// The pod that sent them, or opened the connection; none if it was somebody else, or if the pod is gone.
    pub pod: Option<PodName>,
    /// The interface on the node that they came in by; of policies that of the pod that they are about or, if that is on
    /// another node, of the pod at the other end; none if it is gone.
    pub link: Option<IfName>,
    /// Why: `mac`, `ipv4`, `ipv6`, `arp`, `nd`, `ra`, `redirect`, `dhcp`, `tunnel`, `control` or `other`, and `policy`.
    pub reason: String,
    /// How many packets. Of what policies refuse not more are logged than 100 a second in each direction, of all
    /// connections together, after the first 100.
    pub packets: u64,
    /// How many bytes.
    pub bytes: u64,
    /// The connection, where policies refused it.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<DeniedConnection>,
}

/// A connection that policies refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeniedConnection {
    /// Whose policies: of the client for egress, of the server for ingress.
    pub direction: Side,
    /// The client.
    pub from: End,
    /// The server, behind all translation.
    pub to: End,
    /// The protocol: `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, or its number.
    pub protocol: String,
    /// The server's port; none where the protocol has no ports.
    pub port: Option<u16>,
    /// The type of an ICMP or ICMPv6 message.
    pub icmp_type: Option<u8>,
    /// The policy that refuses it, and its rule if one does; none if none does any more.
    pub policy: Option<RuleName>,
    /// Whether it is refused because no rule is about it.
    pub default: bool,
    /// When the first of these packets was refused.
    pub first: String,
    /// When the last was.
    pub last: String,
}

/// One end of a connection, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The pod that has the address now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// The node that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// The address.
    pub address: std::net::IpAddr,
}

/// A row of `tartan ipam`: a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamRow {
    /// The network.
    pub network: NetworkName,
    /// The pool that the block is from.
    pub pool: Cidr,
    /// The block.
    pub block: Cidr,
    /// The name of its owner, or its id if the node is not known.
    pub node: String,
    /// Addresses in use; known only for this node's blocks.
    pub used: Option<u64>,
    /// Addresses that pods can have, 2^64-1 at most.
    pub capacity: u64,
}

/// A row of `tartan routes`: one of our routes on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    /// The destination.
    pub dst: Cidr,
    /// The next hop.
    pub via: Option<std::net::IpAddr>,
    /// The link.
    pub dev: Option<IfName>,
    /// What it is for: `peer NODE`, `pod NAMESPACE/NAME` or `block`.
    pub purpose: String,
    /// Whether it is in the kernel.
    pub installed: bool,
}

/// `tartan plan`: what would be changed in this node's kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The steps in order, as `+ row`, `~ row -> row`, `- row`.
    pub steps: Vec<String>,
    /// What cannot be done, and why.
    pub notes: Vec<String>,
}

/// `tartan node leave`: what a node had and has no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The node, by its name, or by its id where no entry tells a name.
    pub node: String,
    /// The blocks that are free again.
    pub blocks: Vec<LeftBlock>,
    /// The pods whose interfaces were taken away.
    pub pods: Vec<PodName>,
    /// Why the store was not told; only where that was allowed.
    pub store: Option<String>,
    /// What could not be taken out of the node's kernel, and why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stays: Vec<String>,
}

/// A block that a node gave back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LeftBlock {
    /// The network.
    pub network: NetworkName,
    /// The block.
    pub block: Cidr,
}

/// `tartan uninstall --dry-run`: what would be done to this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UninstallPlan {
    /// What there is of an agent.
    pub agent: AgentState,
    /// The pods that lose their interface, as far as an agent tells.
    pub pods: Vec<String>,
    /// What is done in the store, or why nothing can be.
    pub store: Option<String>,
    /// What is taken out of the kernel, in this order; what goes with a link is not named.
    pub kernel: Vec<String>,
    /// Settings that are put back.
    pub settings: Vec<Setting>,
    /// Files that are removed.
    pub files: Vec<String>,
    /// What stays, and why.
    pub kept: Vec<String>,
}

impl UninstallPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.agent == AgentState::Stopped
            && self.kernel.is_empty()
            && self.settings.is_empty()
            && self.files.is_empty()
    }
}

/// What there is of an agent on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// It runs and answers: it will leave the cluster and end.
    Running,
    /// It runs and does not answer.
    Silent,
    /// None runs.
    Stopped,
}

/// A setting below `/proc/sys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its path there.
    pub key: String,
    /// Its value before.
    pub now: String,
    /// Its value afterwards: the one that it had before the first agent.
    pub then: String,
}

/// `tartan uninstall`: what was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uninstalled {
    /// What is gone.
    pub removed: Vec<String>,
    /// The blocks that are free again.
    pub blocks: Vec<LeftBlock>,
    /// Settings that have their old value.
    pub restored: Vec<Setting>,
    /// What stays, and why.
    pub kept: Vec<String>,
    /// What could not be done, and why not.
    pub failed: Vec<String>,
}

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
    /// What was done.
    pub action: Action,
}

/// What `apply` and `delete` do to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It was not there before.
    Created,
    /// It was there and different.
    Configured,
    /// It was there and the same.
    Unchanged,
    /// It is gone.
    Deleted,
}
