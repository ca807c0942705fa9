//! An engine with many policies and endpoints. What the benchmark of policies measures is made by this too.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use tartan_api::endpoint::selectable;
use tartan_policy::form::{Action, Endpoint, Kind, Policy, PolicyId, PortMatch, Ports, Remote, Rule, Tier};
use tartan_policy::{Engine, Selector};

const NAMESPACES: u32 = 100;

/// An endpoint of this number.
pub(crate) fn endpoint(number: u32, local: bool) -> Endpoint {
    let labels = [("app", format!("a{}", number % 997)), ("role", format!("r{}", number % 10_007))];
    let v4 = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + number);
    let v6 = Ipv6Addr::from(u128::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0)) + u128::from(number));
    Endpoint {
        namespace: format!("ns{}", number % NAMESPACES).parse().unwrap(),
        name: format!("p{number}"),
        labels: Arc::new(selectable(&labels.map(|(name, value)| (name.to_owned(), value)).into())),
        account: None,
        addresses: vec![IpAddr::V4(v4), IpAddr::V6(v6)],
        ports: Vec::new(),
        local,
    }
}

/// Pods of an app of a namespace may be reached by those of a role in all namespaces that share a common label.
pub(crate) fn policy(number: u32) -> Policy {
    let namespace = format!("ns{}", number % NAMESPACES);
    let subject = format!("projectcalico.org/namespace == '{namespace}' && app == 'a{}'", number % 997);
    let from = format!("pcns.shared == 'yes' && role == 'r{}'", number % 10_007);
    Policy {
        id: PolicyId {
            kind: Kind::NetworkPolicy,
            namespace: Some(namespace.parse().unwrap()),
            name: format!("policy{number}").parse().unwrap(),
        },
        tier: Tier::default_tier(),
        order: 1000,
        selector: subject.parse().unwrap(),
        ingress: Some(vec![Rule {
            action: Action::Allow,
            ports: Some(vec![PortMatch { protocol: 6, ports: Ports::Range(80, 80) }]),
            remotes: Some(vec![Remote {
                selector: Some(from.parse::<Selector>().unwrap()),
                nets: None,
                not_nets: Vec::new(),
            }]),
        }]),
        egress: None,
    }
}

/// An engine that knows so many of both; 100 of the endpoints are local.
pub(crate) fn filled(endpoints: u32, policies: u32) -> Engine<u32> {
    let mut engine = Engine::default();
    let shared: BTreeMap<_, _> = [("shared".to_owned(), "yes".to_owned())].into();
    for number in 0..NAMESPACES {
        engine.set_namespace(&format!("ns{number}").parse().unwrap(), Some(shared.clone()));
    }
    for number in 0..policies {
        let policy = policy(number);
        engine.set_policy(&policy.id.clone(), Some(policy));
    }
    for number in 0..endpoints {
        // 100 of them on this node.
        engine.set_endpoint(&number, Some(endpoint(number, number % (endpoints / 100).max(1) == 0)));
    }
    engine
}
