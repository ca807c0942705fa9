//! Tables of the objects that people write.

use tartan_api::kubernetes::{Namespace, Pod, ServiceAccount};
use tartan_api::label::{LabelSelector, Labels, Operator, Requirement};
use tartan_api::meta::Annotations;
use tartan_api::network::{ClusterNetwork, MtuChoice};
use tartan_api::object::{Object, ObjectKind};
use tartan_api::policy::{Direction, NetworkPolicy};

use super::{Rows, attachment, list, render, some};

/// The objects of a kind that `get` found.
pub(crate) fn objects(kind: ObjectKind, objects: &[Object]) -> String {
    macro_rules! table {
        ($variant:ident) => {{
            let rows = objects.iter().filter_map(|object| match object {
                Object::$variant(object) => Some(object.clone()),
                _ => None,
            });
            render(&rows.collect::<Vec<_>>())
        }};
    }
    match kind {
        ObjectKind::ClusterNetwork => table!(ClusterNetwork),
        ObjectKind::NetworkPolicy => table!(NetworkPolicy),
        ObjectKind::Namespace => table!(Namespace),
        ObjectKind::Pod => table!(Pod),
        ObjectKind::ServiceAccount => table!(ServiceAccount),
    }
}

impl Rows for ClusterNetwork {
    const HEADER: &[&str] = &["NAME", "POOLS", "PATHS", "ATTACHMENT", "VNI", "MTU"];
    const PLURAL: &str = "ClusterNetworks";
    fn cells(&self) -> Vec<String> {
        let name = self.metadata.name.to_string();
        match self.resolve() {
            Ok(network) => vec![
                name,
                list(&network.pools),
                list(&network.paths),
                attachment(network.attachment).into(),
                u32::from(network.vxlan.vni).to_string(),
                match network.mtu {
                    MtuChoice::Auto => "auto".into(),
                    MtuChoice::Bytes(mtu) => mtu.to_string(),
                },
            ],
            Err(error) => vec![name, format!("cannot be served: {error}")],
        }
    }
}

impl Rows for NetworkPolicy {
    const HEADER: &[&str] = &["NAMESPACE", "NAME", "PODS", "INGRESS", "EGRESS", "FROM"];
    const PLURAL: &str = "NetworkPolicies";
    fn cells(&self) -> Vec<String> {
        let rules =
            |direction: Direction, count: usize| match (self.spec.policy_types.contains(&direction), count) {
                (false, _) => "-".into(),
                (true, 0) => "nothing".into(),
                (true, 1) => "1 rule".into(),
                (true, count) => format!("{count} rules"),
            };
        vec![
            self.metadata.namespace.to_string(),
            self.metadata.name.to_string(),
            selector(&self.spec.pod_selector),
            rules(Direction::Ingress, self.spec.ingress.len()),
            rules(Direction::Egress, self.spec.egress.len()),
            source(&self.metadata.annotations),
        ]
    }
}

impl Rows for Namespace {
    const HEADER: &[&str] = &["NAME", "LABELS", "FROM"];
    const PLURAL: &str = "Namespaces";
    fn cells(&self) -> Vec<String> {
        vec![
            self.metadata.name.to_string(),
            labels(&self.metadata.labels),
            source(&self.metadata.annotations),
        ]
    }
}

impl Rows for Pod {
    const HEADER: &[&str] = &["NAMESPACE", "NAME", "LABELS", "PORTS", "ACCOUNT", "FROM"];
    const PLURAL: &str = "Pods";
    fn cells(&self) -> Vec<String> {
        let ports = self.spec.containers.0.iter().flat_map(|container| &container.ports.0);
        let port = |port: &tartan_api::kubernetes::ContainerPort| {
            let name = port.name.as_ref().map(|name| format!("{name}=")).unwrap_or_default();
            format!("{name}{}/{}", port.container_port, port.protocol)
        };
        vec![
            self.metadata.namespace.to_string(),
            self.metadata.name.to_string(),
            labels(&self.metadata.labels),
            or_none(ports.map(port).collect()),
            some(self.spec.service_account_name.as_ref()),
            source(&self.metadata.annotations),
        ]
    }
}

impl Rows for ServiceAccount {
    const HEADER: &[&str] = &["NAMESPACE", "NAME", "LABELS", "FROM"];
    const PLURAL: &str = "ServiceAccounts";
    fn cells(&self) -> Vec<String> {
        vec![
            self.metadata.namespace.to_string(),
            self.metadata.name.to_string(),
            labels(&self.metadata.labels),
            source(&self.metadata.annotations),
        ]
    }
}

fn source(annotations: &Annotations) -> String {
    some(annotations.applied_from.as_ref())
}

fn labels(labels: &Labels) -> String {
    or_none(labels.iter().map(|(key, value)| format!("{}={}", key.as_str(), value.as_str())).collect())
}

/// As kubectl writes selectors: `app=web,tier in (a,b),!old`.
fn selector(selector: &LabelSelector) -> String {
    let equal =
        selector.match_labels.iter().map(|(key, value)| format!("{}={}", key.as_str(), value.as_str()));
    let parts: Vec<String> = equal.chain(selector.match_expressions.iter().map(requirement)).collect();
    if parts.is_empty() { "all".into() } else { parts.join(",") }
}

fn requirement(requirement: &Requirement) -> String {
    let key = requirement.key.as_str();
    let values = || requirement.values.iter().map(|value| value.as_str()).collect::<Vec<_>>().join(",");
    match requirement.operator {
        Operator::In => format!("{key} in ({})", values()),
        Operator::NotIn => format!("{key} notin ({})", values()),
        Operator::Exists => key.into(),
        Operator::DoesNotExist => format!("!{key}"),
    }
}

fn or_none(parts: Vec<String>) -> String {
    if parts.is_empty() { "-".into() } else { parts.join(",") }
}
