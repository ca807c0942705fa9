//! `networking.k8s.io/v1` NetworkPolicy as people write it (Kubernetes API reference, NetworkPolicySpec).

use std::fmt;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use tartan_model::{AddressError, Cidr, InterfaceAddress};
use thiserror::Error;

use crate::label::LabelSelector;
use crate::meta::ObjectMeta;

/// The most rules of a policy in one direction.
pub const MAX_RULES: usize = 1024;
/// The most peers, and the most ports, of a rule.
pub const MAX_PARTS: usize = 1024;

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// A peer that says nothing, or too much.
    #[error("a peer is either ipBlock, or podSelector, namespaceSelector or both")]
    Peer,
    /// An exception that is not within.
    #[error("except {except} is not within {cidr}")]
    Except {
        /// The range.
        cidr: Cidr,
        /// The exception.
        except: Cidr,
    },
    /// A port that there is not.
    #[error(
        "{text} is no port: give 1 to 65535, or a name of at most 15 lowercase letters, digits and single `-`"
    )]
    Port {
        /// What was given.
        text: String,
    },
    /// A range without a first port.
    #[error("endPort wants a port that is a number")]
    EndWithoutPort,
    /// A range backwards.
    #[error("endPort {end} is below port {port}")]
    Backwards {
        /// The first.
        port: u16,
        /// The last.
        end: u16,
    },
    /// Too much of something.
    #[error("at most 1024 {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
    },
}

impl PolicyError {
    /// The error for a text that names no port.
    pub(crate) fn port(text: &str) -> PolicyError {
        PolicyError::Port { text: format!("{:?}", text.chars().take(64).collect::<String>()) }
    }
}

/// A NetworkPolicy: what the pods of a namespace may receive and send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "WrittenPolicy")]
pub struct NetworkPolicy {
    /// Always `networking.k8s.io/v1`.
    pub api_version: PolicyVersion,
    /// Always `NetworkPolicy`.
    pub kind: PolicyKind,
    /// Its name, namespace and labels.
    pub metadata: ObjectMeta,
    /// What it says.
    pub spec: PolicySpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenPolicy {
    api_version: PolicyVersion,
    kind: PolicyKind,
    metadata: ObjectMeta,
    spec: Option<PolicySpec>,
    /// What servers of before 1.28 put there.
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
}

impl From<WrittenPolicy> for NetworkPolicy {
    fn from(written: WrittenPolicy) -> NetworkPolicy {
        let WrittenPolicy { api_version, kind, metadata, spec, .. } = written;
        NetworkPolicy { api_version, kind, metadata, spec: spec.unwrap_or_default() }
    }
}

/// The one API version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyVersion {
    /// The first.
    #[serde(rename = "networking.k8s.io/v1")]
    V1,
}

/// The one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyKind {
    /// A policy of Kubernetes.
    NetworkPolicy,
}

/// What a policy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, try_from = "WrittenSpec")]
pub struct PolicySpec {
    /// The pods of its namespace that it is about.
    pub pod_selector: LabelSelector,
    /// In which directions it isolates them.
    pub policy_types: Vec<Direction>,
    /// What they may receive.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<IngressRule>,
    /// What they may send.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<EgressRule>,
}

impl Default for PolicySpec {
    /// In which nothing is written: it isolates all pods of its namespace in what they receive.
    fn default() -> Self {
        let pod_selector = LabelSelector::default();
        PolicySpec {
            pod_selector,
            policy_types: types_by_rules(&[]),
            ingress: Vec::new(),
            egress: Vec::new(),
        }
    }
}

/// Without types a policy is for what pods receive, and for what they send if it has rules for that.
fn types_by_rules(egress: &[EgressRule]) -> Vec<Direction> {
    let sends = (!egress.is_empty()).then_some(Direction::Egress);
    [Direction::Ingress].into_iter().chain(sends).collect()
}

/// A direction, as seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// Connections to it.
    Ingress,
    /// Connections that it opens.
    Egress,
}

/// What pods may receive: from any of the peers, to any of the ports. No peers are all peers, no ports all ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IngressRule {
    /// From whom.
    #[serde(default, skip_serializing_if = "Parts::is_empty")]
    pub from: Parts<Peer>,
    /// To which ports of theirs.
    #[serde(default, skip_serializing_if = "Parts::is_empty")]
    pub ports: Parts<PolicyPort>,
}

/// What pods may send: to any of the peers, to any of the ports. No peers are all peers, no ports all ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressRule {
    /// To whom.
    #[serde(default, skip_serializing_if = "Parts::is_empty")]
    pub to: Parts<Peer>,
    /// To which ports of theirs.
    #[serde(default, skip_serializing_if = "Parts::is_empty")]
    pub ports: Parts<PolicyPort>,
}

/// A list of a rule; `null` is an empty one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Option<Vec<T>>", bound(deserialize = "T: Deserialize<'de>"))]
pub struct Parts<T>(pub Vec<T>);

impl<T> Parts<T> {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for Parts<T> {
    fn default() -> Self {
        Parts(Vec::new())
    }
}

impl<T> TryFrom<Option<Vec<T>>> for Parts<T> {
    type Error = PolicyError;
    fn try_from(list: Option<Vec<T>>) -> Result<Self, PolicyError> {
        bounded(list, MAX_PARTS, "peers, ports or containers in a list").map(Parts)
    }
}

fn bounded<T>(list: Option<Vec<T>>, most: usize, what: &'static str) -> Result<Vec<T>, PolicyError> {
    let list = list.unwrap_or_default();
    if list.len() > most { Err(PolicyError::TooMany { what }) } else { Ok(list) }
}

/// Whom a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "WrittenPeer", into = "WrittenPeer")]
pub enum Peer {
    /// Addresses.
    Block(IpBlock),
    /// Pods: without a namespace selector of the policy's own namespace, without a pod selector all of them.
    Pods {
        /// In which namespaces.
        namespaces: Option<LabelSelector>,
        /// Which pods.
        pods: Option<LabelSelector>,
    },
}

/// A range of addresses without some. As in Kubernetes, bits behind the prefix may be written; they say nothing:
/// `10.1.2.3/8` is kept, and shown, as `10.0.0.0/8`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "WrittenBlock")]
pub struct IpBlock {
    /// The range.
    pub cidr: Cidr,
    /// What is not meant of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<Cidr>,
}

/// Ports of a protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "WrittenPort", into = "WrittenPort")]
pub struct PolicyPort {
    /// The protocol.
    pub protocol: Protocol,
    /// Which ports.
    pub ports: Ports,
}

/// A protocol with ports that policies speak of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP, unless another is given.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

/// Which ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// All.
    All,
    /// From one to another, both meant.
    Range(u16, u16),
    /// That which the pod at the other end calls so.
    Named(String),
}

/// A number or a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum NumberOrName {
    Number(i64),
    Name(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenSpec {
    #[serde(default)]
    pod_selector: Option<LabelSelector>,
    policy_types: Option<Vec<Direction>>,
    ingress: Option<Vec<IngressRule>>,
    egress: Option<Vec<EgressRule>>,
}

impl TryFrom<WrittenSpec> for PolicySpec {
    type Error = PolicyError;
    fn try_from(written: WrittenSpec) -> Result<Self, PolicyError> {
        let ingress = bounded(written.ingress, MAX_RULES, "rules in a direction")?;
        let egress = bounded(written.egress, MAX_RULES, "rules in a direction")?;
        let written_types = written.policy_types.filter(|types| !types.is_empty());
        let mut policy_types = written_types.unwrap_or_else(|| types_by_rules(&egress));
        policy_types.sort_unstable();
        policy_types.dedup();
        let pod_selector = written.pod_selector.unwrap_or_default();
        Ok(PolicySpec { pod_selector, policy_types, ingress, egress })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenPeer {
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_block: Option<IpBlock>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace_selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_selector: Option<LabelSelector>,
}

impl TryFrom<WrittenPeer> for Peer {
    type Error = PolicyError;
    fn try_from(written: WrittenPeer) -> Result<Self, PolicyError> {
        match (written.ip_block, written.namespace_selector, written.pod_selector) {
            (Some(block), None, None) => Ok(Peer::Block(block)),
            (Some(_), ..) | (None, None, None) => Err(PolicyError::Peer),
            (None, namespaces, pods) => Ok(Peer::Pods { namespaces, pods }),
        }
    }
}

impl From<Peer> for WrittenPeer {
    fn from(peer: Peer) -> WrittenPeer {
        let (ip_block, namespace_selector, pod_selector) = match peer {
            Peer::Block(block) => (Some(block), None, None),
            Peer::Pods { namespaces, pods } => (None, namespaces, pods),
        };
        WrittenPeer { ip_block, namespace_selector, pod_selector }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenBlock {
    cidr: Masked,
    except: Option<Vec<Masked>>,
}

/// A range whose bits behind the prefix are dropped.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Masked(Cidr);

impl TryFrom<String> for Masked {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        Ok(Masked(text.parse::<InterfaceAddress>()?.network()))
    }
}

impl TryFrom<WrittenBlock> for IpBlock {
    type Error = PolicyError;
    fn try_from(written: WrittenBlock) -> Result<Self, PolicyError> {
        let Masked(cidr) = written.cidr;
        let except = bounded(written.except, MAX_PARTS, "exceptions of a range")?;
        let except: Vec<Cidr> = except.into_iter().map(|Masked(except)| except).collect();
        match except.iter().find(|except| !cidr.covers(except) || **except == cidr) {
            Some(except) => Err(PolicyError::Except { cidr, except: *except }),
            None => Ok(IpBlock { cidr, except }),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenPort {
    protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<NumberOrName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_port: Option<i64>,
}

impl TryFrom<WrittenPort> for PolicyPort {
    type Error = PolicyError;
    fn try_from(written: WrittenPort) -> Result<Self, PolicyError> {
        let ports = match (written.port, written.end_port) {
            (None, None) => Ports::All,
            (None | Some(NumberOrName::Name(_)), Some(_)) => return Err(PolicyError::EndWithoutPort),
            (Some(NumberOrName::Name(name)), None) if is_port_name(&name) => Ports::Named(name),
            (Some(NumberOrName::Name(name)), None) => return Err(PolicyError::port(&name)),
            (Some(NumberOrName::Number(port)), end) => {
                let (port, end) = (port_number(port)?, port_number(end.unwrap_or(port))?);
                if end < port {
                    return Err(PolicyError::Backwards { port, end });
                }
                Ports::Range(port, end)
            }
        };
        Ok(PolicyPort { protocol: written.protocol.unwrap_or_default(), ports })
    }
}

impl From<PolicyPort> for WrittenPort {
    fn from(port: PolicyPort) -> WrittenPort {
        let (first, end_port) = match port.ports {
            Ports::All => (None, None),
            Ports::Named(name) => (Some(NumberOrName::Name(name)), None),
            Ports::Range(first, last) => {
                (Some(NumberOrName::Number(first.into())), (first != last).then_some(last.into()))
            }
        };
        WrittenPort { protocol: Some(port.protocol), port: first, end_port }
    }
}

/// A port by its number.
pub(crate) fn port_number(port: i64) -> Result<u16, PolicyError> {
    let fits = u16::try_from(port).ok().filter(|port| *port > 0);
    fits.ok_or_else(|| PolicyError::Port { text: port.to_string() })
}

/// A service name (RFC 6335, section 5.1): 1 to 15 letters, digits and `-`, with a letter, and no `-` at an edge or beside
/// another. Kubernetes wants lowercase.
pub(crate) fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}
