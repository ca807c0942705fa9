//! Kubernetes' NetworkPolicy in the internal form (Kubernetes API reference, NetworkPolicySpec).

use std::collections::BTreeSet;

use tartan_api::label::{LabelSelector, Operator, Requirement};
use tartan_api::policy::{
    Direction as Type, NetworkPolicy, Peer, PolicyPort, Ports as WrittenPorts, Protocol,
};
use tartan_model::Name;

use crate::Selector;
use crate::form::{Action, Kind, Policy, PolicyId, PortMatch, Ports, Remote, Rule, Tier};
use crate::labels::{NAMESPACE, NAMESPACE_PREFIX, own_label};

/// Where Kubernetes' own policies stand in their tier, among those of other kinds.
const ORDER: u64 = 1000;

/// A NetworkPolicy in the internal form.
pub fn network_policy(object: &NetworkPolicy) -> Policy {
    let namespace = &object.metadata.namespace;
    let spec = &object.spec;
    let rules = |direction, rules: Vec<Rule>| spec.policy_types.contains(&direction).then_some(rules);
    let ingress = spec.ingress.iter().map(|rule| allow(namespace, &rule.from.0, &rule.ports.0)).collect();
    let egress = spec.egress.iter().map(|rule| allow(namespace, &rule.to.0, &rule.ports.0)).collect();
    Policy {
        id: PolicyId {
            kind: Kind::NetworkPolicy,
            namespace: Some(namespace.clone()),
            name: object.metadata.name.clone(),
        },
        tier: Tier::default_tier(),
        order: ORDER,
        selector: within(namespace, pods(&spec.pod_selector)),
        ingress: rules(Type::Ingress, ingress),
        egress: rules(Type::Egress, egress),
    }
}

fn allow(namespace: &Name, peers: &[Peer], ports: &[PolicyPort]) -> Rule {
    let all = |number: usize| number == 0;
    Rule {
        action: Action::Allow,
        ports: (!all(ports.len())).then(|| ports.iter().map(port).collect()),
        remotes: (!all(peers.len())).then(|| peers.iter().map(|peer| remote(namespace, peer)).collect()),
    }
}

fn port(port: &PolicyPort) -> PortMatch {
    let ports = match &port.ports {
        WrittenPorts::All => Ports::Range(0, u16::MAX),
        WrittenPorts::Range(first, last) => Ports::Range(*first, *last),
        WrittenPorts::Named(name) => Ports::Named(name.clone()),
    };
    PortMatch { protocol: number(port.protocol), ports }
}

/// The protocol's number (IANA).
pub fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn remote(namespace: &Name, peer: &Peer) -> Remote {
    match peer {
        Peer::Block(block) => {
            Remote { selector: None, nets: Some(vec![block.cidr]), not_nets: block.except.clone() }
        }
        Peer::Pods { namespaces, pods: asked_pods } => {
            let pods = asked_pods.as_ref().map_or(Selector::All, pods);
            let selector = match namespaces {
                None => within(namespace, pods),
                Some(namespaces) => both(selector(namespaces, of_namespace), pods),
            };
            Remote { selector: Some(selector), nets: None, not_nets: Vec::new() }
        }
    }
}

fn within(namespace: &Name, selector: Selector) -> Selector {
    both(Selector::Is(NAMESPACE.into(), namespace.to_string()), selector)
}

fn both(first: Selector, second: Selector) -> Selector {
    match (first, second) {
        (Selector::All, only) | (only, Selector::All) => only,
        (Selector::And(mut parts), Selector::And(more)) => {
            parts.extend(more);
            Selector::And(parts)
        }
        (Selector::And(mut parts), one) => {
            parts.push(one);
            Selector::And(parts)
        }
        (one, Selector::And(parts)) => Selector::And([one].into_iter().chain(parts).collect()),
        (first, second) => Selector::And(vec![first, second]),
    }
}

fn pods(written: &LabelSelector) -> Selector {
    selector(written, |label| own_label(label).into_owned())
}

fn of_namespace(label: &str) -> String {
    format!("{NAMESPACE_PREFIX}{label}")
}

/// A label selector, with what its labels are called here.
fn selector(written: &LabelSelector, called: impl Fn(&str) -> String) -> Selector {
    let is = written
        .match_labels
        .iter()
        .map(|(label, value)| Selector::Is(called(label.as_str()), value.as_str().to_owned()));
    let asks = written.match_expressions.iter().map(|asked| expression(called(asked.key.as_str()), asked));
    is.chain(asks).fold(Selector::All, both)
}

fn expression(label: String, asked: &Requirement) -> Selector {
    let values =
        || -> BTreeSet<String> { asked.values.iter().map(|value| value.as_str().to_owned()).collect() };
    match asked.operator {
        Operator::In => Selector::In(label, values()),
        Operator::NotIn => Selector::NotIn(label, values()),
        Operator::Exists => Selector::Has(label),
        Operator::DoesNotExist => Selector::Not(Box::new(Selector::Has(label))),
    }
}
