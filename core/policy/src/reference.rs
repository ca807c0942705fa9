//! The reference evaluator of `networking.k8s.io/v1` NetworkPolicy: slow, and close to the words of its documentation.
//!
//! It is what verdicts computed in any other way are held against. So it is written from the Kubernetes documentation
//! alone ("Network Policies" among the concepts; NetworkPolicySpec, NetworkPolicyPeer, NetworkPolicyPort and IPBlock in
//! the API reference), keeps nothing between two questions, and reads the objects anew for each.
//!
//! It judges who may open a connection; what comes back on a connection that was allowed is allowed too.
//!
//! Where the documentation leaves a choice, this is taken:
//! - Addresses are those of the packet that the pod sends or gets, behind any translation for services.
//! - An `ipBlock` goes by the address alone, also where a pod has it (as in Calico). The other way round, selectors of
//!   pods and namespaces never mean an address that no pod has.
//! - A pod on its host's network is no pod here: at an address of a node there is the node. ("Network Policies" allows
//!   that for plugins that cannot tell them apart.)
//! - Protocols without ports, ICMP among them, are denied and allowed like others, but only by rules without ports.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use tartan_api::label::{LabelSelector, Operator, Requirement};
use tartan_api::policy::{Direction, IpBlock, NetworkPolicy, Peer, PolicyPort, Ports, Protocol};
use tartan_model::{Name, NodeName, PodName};

use crate::Labels;

/// The label that the API server gives each namespace by itself ("Automatic labelling" of namespaces).
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// All that a verdict depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The labels of each namespace that there is an object of. [`NAMESPACE_NAME`] need not be among them, and has no
    /// other value than the namespace's name whatever is written here.
    pub namespaces: BTreeMap<Name, BTreeMap<String, String>>,
    /// The addresses of each node.
    pub nodes: BTreeMap<NodeName, Vec<IpAddr>>,
    /// The pods that run. No two have an address in common.
    pub pods: Vec<Pod>,
    /// The policies, in any order. No two of a namespace have the same name.
    pub policies: Vec<NetworkPolicy>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace and name.
    pub name: PodName,
    /// Where it runs.
    pub node: NodeName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The ports of its containers that have names.
    pub ports: Vec<NamedPort>,
}

/// A port of a pod that policies can call by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPort {
    /// The name. Another port of the pod may have it too; then both are meant.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port, from 1.
    pub number: u16,
}

/// The first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Who opens it.
    pub from: IpAddr,
    /// To whom; of the same family.
    pub to: IpAddr,
    /// The protocol's number (IANA, "Assigned Internet Protocol Numbers").
    pub protocol: u8,
    /// The port at the other end; 0 where the protocol has none.
    pub port: u16,
}

/// What becomes of a flow, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What the policies of the pod that sends say.
    pub egress: Side,
    /// What the policies of the pod that receives say.
    pub ingress: Side,
}

/// What is said at one end of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// There is no pod at this end, or no policy isolates it in this direction.
    Open,
    /// No policy can forbid this.
    Exempt(Exemption),
    /// These rules allow it, at least one, in order.
    Allowed(Vec<Grant>),
    /// These policies isolate the pod, at least one, in order, and none allows it.
    Denied(Vec<PolicyName>),
}

/// Why no policy can forbid a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exemption {
    /// "A pod cannot block access to itself."
    Itself,
    /// "Traffic to and from the node where a Pod is running is always allowed, regardless of the IP address of the Pod or
    /// the node."
    OwnNode,
}

/// A rule that allows a flow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    /// The policy.
    pub policy: PolicyName,
    /// Which of its rules in the direction, counted from 0.
    pub rule: usize,
}

/// The namespace and name of a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName {
    /// The namespace.
    pub namespace: Name,
    /// The name within the namespace.
    pub name: Name,
}

/// What becomes of a flow in a cluster.
pub fn judge(cluster: &Cluster, flow: &Flow) -> Judgement {
    Judgement {
        egress: side(cluster, flow, Direction::Egress),
        ingress: side(cluster, flow, Direction::Ingress),
    }
}

impl Judgement {
    /// "For a connection from a source pod to a destination pod to be allowed, both the egress policy on the source pod
    /// and the ingress policy on the destination pod need to allow the connection."
    pub fn allowed(&self) -> bool {
        self.egress.allows() && self.ingress.allows()
    }
}

impl Side {
    /// Whether this end lets the flow pass.
    pub fn allows(&self) -> bool {
        !matches!(self, Side::Denied(_))
    }
}

impl PolicyName {
    /// What a policy is called.
    pub fn of(policy: &NetworkPolicy) -> PolicyName {
        PolicyName { namespace: policy.metadata.namespace.clone(), name: policy.metadata.name.clone() }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The number of a protocol (IANA, "Assigned Internet Protocol Numbers").
pub fn number_of(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn side(cluster: &Cluster, flow: &Flow, direction: Direction) -> Side {
    let (own, other) = match direction {
        Direction::Egress => (flow.from, flow.to),
        Direction::Ingress => (flow.to, flow.from),
    };
    let Some(pod) = cluster.pod_at(own) else { return Side::Open };
    if let Some(exemption) = cluster.exemption(pod, other) {
        return Side::Exempt(exemption);
    }
    let isolating = cluster.isolating(pod, direction);
    if isolating.is_empty() {
        return Side::Open;
    }
    let question = Question { cluster, flow, other };
    let grants: Vec<Grant> = isolating.iter().flat_map(|policy| question.grants(policy, direction)).collect();
    if grants.is_empty() {
        Side::Denied(isolating.into_iter().map(PolicyName::of).collect())
    } else {
        Side::Allowed(grants)
    }
}

impl Cluster {
    /// The pod that has an address; None if none has it, or if it is a node's.
    pub fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        let is_a_nodes = self.nodes.values().flatten().any(|of_node| *of_node == address);
        self.pods.iter().find(|pod| pod.addresses.contains(&address)).filter(|_| !is_a_nodes)
    }

    fn exemption(&self, pod: &Pod, other: IpAddr) -> Option<Exemption> {
        let is_own_node = self.nodes.get(&pod.node).is_some_and(|addresses| addresses.contains(&other));
        if pod.addresses.contains(&other) {
            Some(Exemption::Itself)
        } else {
            is_own_node.then_some(Exemption::OwnNode)
        }
    }

    /// "A pod is isolated for egress if there is any NetworkPolicy that both selects the pod and has "Egress" in its
    /// policyTypes"; likewise for ingress. In order of their names.
    fn isolating(&self, pod: &Pod, direction: Direction) -> Vec<&NetworkPolicy> {
        let isolates = |policy: &&NetworkPolicy| {
            policy.metadata.namespace == pod.name.namespace
                && selects(&policy.spec.pod_selector, &pod.labels)
                && policy.spec.policy_types.contains(&direction)
        };
        let mut isolating: Vec<&NetworkPolicy> = self.policies.iter().filter(isolates).collect();
        isolating.sort_by_key(|policy| PolicyName::of(policy));
        isolating
    }

    /// The labels of a namespace, which has its name as one even if there is no object of it.
    fn labels_of(&self, namespace: &Name) -> BTreeMap<String, String> {
        let mut labels = self.namespaces.get(namespace).cloned().unwrap_or_default();
        labels.insert(NAMESPACE_NAME.to_owned(), namespace.to_string());
        labels
    }
}

/// What one end of a flow asks the policies that isolate it.
struct Question<'a> {
    cluster: &'a Cluster,
    flow: &'a Flow,
    /// The address at the other end.
    other: IpAddr,
}

impl Question<'_> {
    fn grants(&self, policy: &NetworkPolicy, direction: Direction) -> Vec<Grant> {
        let allows = |(_, rule): &(usize, Rule<'_>)| self.allows(rule, &policy.metadata.namespace);
        let allowing = rules(policy, direction).into_iter().enumerate().filter(allows);
        allowing.map(|(rule, _)| Grant { policy: PolicyName::of(policy), rule }).collect()
    }

    /// "Each rule allows traffic which matches both the `from` and `ports` sections." Either "is empty or missing" to
    /// match everything.
    fn allows(&self, rule: &Rule<'_>, namespace: &Name) -> bool {
        let is_peer = rule.peers.is_empty() || rule.peers.iter().any(|peer| self.is_peer(peer, namespace));
        let is_port = rule.ports.is_empty() || rule.ports.iter().any(|port| self.is_port(port));
        is_peer && is_port
    }

    fn is_peer(&self, peer: &Peer, namespace: &Name) -> bool {
        match peer {
            Peer::Block(block) => is_in(block, self.other),
            Peer::Pods { namespaces, pods } => {
                self.is_selected(namespaces.as_ref(), pods.as_ref(), namespace)
            }
        }
    }

    /// Without a namespace selector those of the policy's namespace, without a pod selector all pods. The labels of a pod
    /// and those of its namespace are never looked at together, so that no pod can pass for one of another namespace.
    fn is_selected(
        &self,
        namespaces: Option<&LabelSelector>,
        pods: Option<&LabelSelector>,
        namespace: &Name,
    ) -> bool {
        let Some(pod) = self.cluster.pod_at(self.other) else { return false };
        let in_namespace = match namespaces {
            Some(selector) => selects(selector, &self.cluster.labels_of(&pod.name.namespace)),
            None => pod.name.namespace == *namespace,
        };
        in_namespace && pods.is_none_or(|selector| selects(selector, &pod.labels))
    }

    fn is_port(&self, port: &PolicyPort) -> bool {
        number_of(port.protocol) == self.flow.protocol
            && match &port.ports {
                Ports::All => true,
                Ports::Range(first, last) => (*first..=*last).contains(&self.flow.port),
                Ports::Named(name) => self.is_named(port.protocol, name),
            }
    }

    /// "A numerical or named port on a pod": the one that receives, in either direction. What is no pod names no ports.
    fn is_named(&self, protocol: Protocol, name: &str) -> bool {
        let named = |port: &NamedPort| {
            port.name == name && port.protocol == protocol && port.number == self.flow.port
        };
        self.cluster.pod_at(self.flow.to).is_some_and(|pod| pod.ports.iter().any(named))
    }
}

/// A rule of either direction.
struct Rule<'a> {
    peers: &'a [Peer],
    ports: &'a [PolicyPort],
}

fn rules(policy: &NetworkPolicy, direction: Direction) -> Vec<Rule<'_>> {
    let spec = &policy.spec;
    match direction {
        Direction::Ingress => {
            spec.ingress.iter().map(|rule| Rule { peers: &rule.from.0, ports: &rule.ports.0 }).collect()
        }
        Direction::Egress => {
            spec.egress.iter().map(|rule| Rule { peers: &rule.to.0, ports: &rule.ports.0 }).collect()
        }
    }
}

/// A range of one family holds no address of the other.
fn is_in(block: &IpBlock, address: IpAddr) -> bool {
    block.cidr.contains(address) && !block.except.iter().any(|except| except.contains(address))
}

/// "The result of matchLabels and matchExpressions are ANDed. An empty label selector matches all objects."
fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let has = |key: &str, value: &str| labels.label(key) == Some(value);
    selector.match_labels.iter().all(|(key, value)| has(key.as_str(), value.as_str()))
        && selector.match_expressions.iter().all(|requirement| holds(requirement, labels))
}

fn holds(requirement: &Requirement, labels: &BTreeMap<String, String>) -> bool {
    let found = labels.label(requirement.key.as_str());
    let is_one = || found.is_some_and(|found| requirement.values.iter().any(|value| value.as_str() == found));
    match requirement.operator {
        Operator::In => is_one(),
        Operator::NotIn => !is_one(),
        Operator::Exists => found.is_some(),
        Operator::DoesNotExist => found.is_none(),
    }
}
