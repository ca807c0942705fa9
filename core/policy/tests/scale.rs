//! What the engine costs with many policies and endpoints. Measured by `cargo xtask bench`; here it only has to work.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use tartan_policy::form::{Action, Endpoint, Kind, Policy, PolicyId, PortMatch, Ports, Remote, Rule, Tier};
use tartan_policy::{Engine, Selector};

const NAMESPACES: u32 = 100;

fn endpoint(number: u32, local: bool) -> Endpoint {
    let labels = [("app", format!("a{}", number % 997)), ("role", format!("r{}", number % 10_007))];
    let v4 = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + number);
    let v6 = Ipv6Addr::from(u128::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0)) + u128::from(number));
    Endpoint {
        namespace: format!("ns{}", number % NAMESPACES).parse().unwrap(),
        name: format!("p{number}"),
        labels: labels.map(|(name, value)| (name.to_owned(), value)).into(),
        account: None,
        addresses: vec![IpAddr::V4(v4), IpAddr::V6(v6)],
        ports: Vec::new(),
        local,
    }
}

/// Pods of an app of a namespace may be reached by those of a role in all namespaces that share a common label.
fn policy(number: u32) -> Policy {
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

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    println!("{what}: {:?}", start.elapsed());
    (result, start.elapsed())
}

/// How much is in memory, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn filled(endpoints: u32, policies: u32) -> Engine<u32> {
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

#[test]
#[ignore = "measures"]
fn many() {
    let before = resident();
    let (mut engine, _) = timed("10,000 policies, 250,000 endpoints", || filled(250_000, 10_000));
    println!("resident: {} MiB", (resident() - before) >> 10);
    let (changes, _) = timed("an endpoint that fits selectors", || {
        engine.set_endpoint(&1_000_000, Some(endpoint(1_000_000, false)))
    });
    println!("{} members", changes.members.len());
    timed("a local endpoint", || engine.set_endpoint(&1_000_001, Some(endpoint(1_000_001, true))));
    timed("a policy", || {
        let policy = policy(10_001);
        engine.set_policy(&policy.id.clone(), Some(policy))
    });
}

#[test]
fn one_endpoint_meets_few_selectors_among_thousands_that_share_a_label() {
    let mut engine = filled(1000, 5000);
    let start = Instant::now();
    for number in 1000..1100 {
        engine.set_endpoint(&number, Some(endpoint(number, false)));
    }
    let each = start.elapsed() / 100;
    // Looking at all of them takes some milliseconds.
    assert!(each < Duration::from_millis(1), "{each:?}");
}
