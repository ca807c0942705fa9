//! The reference evaluator against the truth tables of Kubernetes' end-to-end tests, and against single sentences of the
//! documentation.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod cases;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use cases::world::{self, NAMESPACES, NODES, OUTSIDE, SERVED};
use cases::{Case, Expectation, Labelled, Probe, Step};
use tartan_api::policy::{NetworkPolicy, Protocol};
use tartan_model::{Cidr, Family};
use tartan_policy::reference::{
    Cluster, Exemption, Flow, Grant, NAMESPACE_NAME, NamedPort, Pod, PolicyName, Side, judge, number_of,
};

#[test]
fn every_case_ends_as_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut wrong = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let cases = cases::load(&root, &|name| range(family, name));
        assert!(cases.len() >= 50, "{} cases", cases.len());
        wrong.extend(cases.iter().flat_map(|case| tell(case, family)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a case says of a family that is not so.
fn tell(case: &Case, family: Family) -> Vec<String> {
    let mut cluster = cluster(family);
    let mut wrong = Vec::new();
    for step in &case.steps {
        match step {
            Step::Expect(expectation) => {
                wrong.extend(
                    differences(&cluster, family, expectation).map(|cells| {
                        format!("{} by {family}, line {}:\n{cells}", case.name, expectation.line)
                    }),
                );
            }
            Step::Apply(policies) => policies.iter().for_each(|policy| apply(&mut cluster, policy)),
            Step::Delete { namespace, name } => {
                let before = cluster.policies.len();
                cluster
                    .policies
                    .retain(|policy| PolicyName::of(policy).to_string() != format!("{namespace}/{name}"));
                assert!(cluster.policies.len() < before, "{}: no policy {namespace}/{name}", case.name);
            }
            Step::Label { of, key, value } => relabel(&mut cluster, of, key, value.as_ref()),
        }
    }
    wrong
}

/// A table with a mark at each cell that is not as expected.
fn differences(cluster: &Cluster, family: Family, expectation: &Expectation) -> Option<String> {
    let passes = |from: &str, to: &str| judge(cluster, &flow(family, from, to, expectation.probe)).allowed();
    let mut table = String::new();
    let mut differ = false;
    for ((from, to), expected) in &expectation.cells {
        if passes(from, to) != *expected {
            differ = true;
            table += &format!("  {from} -> {to} should {}\n", if *expected { "pass" } else { "be denied" });
        }
    }
    differ.then_some(table)
}

fn apply(cluster: &mut Cluster, policy: &NetworkPolicy) {
    cluster.policies.retain(|old| PolicyName::of(old) != PolicyName::of(policy));
    cluster.policies.push(policy.clone());
}

fn relabel(cluster: &mut Cluster, of: &Labelled, key: &str, value: Option<&String>) {
    let labels = match of {
        Labelled::Pod(name) => {
            &mut cluster.pods.iter_mut().find(|pod| pod.name.to_string() == *name).unwrap().labels
        }
        Labelled::Namespace(name) => cluster.namespaces.get_mut(&name.parse().unwrap()).unwrap(),
    };
    match value {
        Some(value) => labels.insert(key.to_owned(), value.clone()),
        None => labels.remove(key),
    };
}

fn flow(family: Family, from: &str, to: &str, probe: Probe) -> Flow {
    let (protocol, port) = match probe {
        Probe::Port(protocol, port) => (number_of(protocol), port),
        Probe::Icmp => (if family == Family::Ipv4 { 1 } else { 58 }, 0),
    };
    Flow { from: address(family, from), to: address(family, to), protocol, port }
}

fn tcp(from: &str, to: &str, port: u16) -> Flow {
    flow(Family::Ipv4, from, to, Probe::Port(Protocol::Tcp, port))
}

/// Pods of namespace x are in 10.0.0.0/24 and so on, `x/a` is 10.0.0.1; nodes are in 192.0.2.0/24.
fn address(family: Family, place: &str) -> IpAddr {
    let known = world::places();
    let at = u16::try_from(known.iter().position(|one| one == place).unwrap()).unwrap();
    let (net, host) = if at < 9 { (at / 3, at % 3 + 1) } else { (99, at) };
    match (family, place) {
        (Family::Ipv4, OUTSIDE) => "203.0.113.7".parse().unwrap(),
        (Family::Ipv6, OUTSIDE) => "2001:db8::7".parse().unwrap(),
        (Family::Ipv4, _) if net == 99 => format!("192.0.2.{host}").parse().unwrap(),
        (Family::Ipv4, _) => format!("10.0.{net}.{host}").parse().unwrap(),
        (Family::Ipv6, _) => format!("fd00:{net}::{host}").parse().unwrap(),
    }
}

fn range(family: Family, name: &str) -> String {
    match (family, name) {
        (family, "everything") => Cidr::everything(family).to_string(),
        (Family::Ipv4, "pods") => "10.0.0.0/16".to_owned(),
        (Family::Ipv6, "pods") => "fd00::/28".to_owned(),
        (family, place) => Cidr::host(address(family, place)).to_string(),
    }
}

fn cluster(family: Family) -> Cluster {
    let label = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    Cluster {
        namespaces: NAMESPACES.iter().map(|name| (name.parse().unwrap(), label("ns", name))).collect(),
        nodes: NODES
            .iter()
            .map(|node| (node.parse().unwrap(), vec![address(family, &format!("node:{node}"))]))
            .collect(),
        pods: world::pods().map(|name| pod(family, &name)).collect(),
        policies: Vec::new(),
    }
}

fn pod(family: Family, name: &str) -> Pod {
    let (_, short) = name.split_once('/').unwrap();
    Pod {
        name: name.parse().unwrap(),
        node: world::node_of(short).parse().unwrap(),
        labels: BTreeMap::from([("pod".to_owned(), short.to_owned())]),
        addresses: vec![address(family, name)],
        ports: SERVED.iter().flat_map(|port| named(*port)).collect(),
    }
}

fn named(number: u16) -> [NamedPort; 3] {
    [(Protocol::Tcp, "tcp"), (Protocol::Udp, "udp"), (Protocol::Sctp, "sctp")]
        .map(|(protocol, word)| NamedPort { name: format!("serve-{number}-{word}"), protocol, number })
}

/// The cluster of the cases with policies `p0`, `p1` ... of namespace x.
fn with(specs: &[&str]) -> Cluster {
    let read = |(number, spec): (usize, &&str)| {
        let metadata = format!("{{name: p{number}, namespace: x}}");
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {metadata}\nspec: {spec}\n"
        );
        serde_saphyr::from_str::<NetworkPolicy>(&text).unwrap()
    };
    Cluster { policies: specs.iter().enumerate().map(read).collect(), ..cluster(Family::Ipv4) }
}

fn p(number: usize) -> PolicyName {
    PolicyName { namespace: "x".parse().unwrap(), name: format!("p{number}").parse().unwrap() }
}

#[test]
fn a_judgement_names_what_decided() {
    let mut cluster = with(&[
        "{podSelector: {}}",
        "{ingress: [{ports: [{port: 81}]}, {from: [{podSelector: {matchLabels: {pod: b}}}]}, {ports: [{port: 80}]}]}",
        "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress]}",
        "{podSelector: {matchLabels: {pod: nobody}}}",
    ]);
    cluster.policies.reverse();
    let grant = |rule| Grant { policy: p(1), rule };
    let judged = judge(&cluster, &tcp("x/b", "x/a", 80));
    assert_eq!((judged.egress, judged.ingress), (Side::Open, Side::Allowed(vec![grant(1), grant(2)])));
    let judged = judge(&cluster, &tcp("y/b", "x/a", 82));
    assert_eq!((judged.egress, judged.ingress), (Side::Open, Side::Denied(vec![p(0), p(1)])));
    let judged = judge(&cluster, &tcp("x/a", "y/b", 80));
    assert_eq!((judged.egress, judged.ingress), (Side::Denied(vec![p(2)]), Side::Open));
    let judged = judge(&cluster, &tcp("outside", "node:n1", 80));
    assert_eq!((judged.egress, judged.ingress), (Side::Open, Side::Open));
}

#[test]
fn what_no_policy_can_forbid_says_why() {
    let mut cluster = with(&["{policyTypes: [Ingress, Egress]}"]);
    let node = judge(&cluster, &tcp("node:n1", "x/a", 80));
    assert_eq!((node.egress, node.ingress), (Side::Open, Side::Exempt(Exemption::OwnNode)));
    let node = judge(&cluster, &tcp("x/a", "node:n1", 80));
    assert_eq!((node.egress, node.ingress), (Side::Exempt(Exemption::OwnNode), Side::Open));
    assert!(!judge(&cluster, &tcp("node:n2", "x/a", 80)).allowed());
    let itself = Side::Exempt(Exemption::Itself);
    let second: IpAddr = "10.0.7.7".parse().unwrap();
    cluster.pods[0].addresses.push(second);
    for to in [address(Family::Ipv4, "x/a"), second] {
        let judged = judge(&cluster, &Flow { to, ..tcp("x/a", "x/a", 80) });
        assert_eq!((judged.egress, judged.ingress), (itself.clone(), itself.clone()));
    }
}

#[test]
fn every_namespace_has_its_name_as_a_label() {
    let from = |spec: &str| format!("{{ingress: [{{from: [{{namespaceSelector: {spec}}}]}}]}}");
    let y = from(&format!("{{matchLabels: {{{NAMESPACE_NAME}: y}}}}"));
    let unlabelled = from("{matchExpressions: [{key: ns, operator: DoesNotExist}]}");
    let mut cluster = with(&[&y, &unlabelled]);
    assert!(judge(&cluster, &tcp("y/a", "x/a", 80)).allowed());
    assert!(!judge(&cluster, &tcp("z/a", "x/a", 80)).allowed());
    // An object that says otherwise says nothing.
    let lie =
        BTreeMap::from([(NAMESPACE_NAME.to_owned(), "y".to_owned()), ("ns".to_owned(), "z".to_owned())]);
    cluster.namespaces.insert("z".parse().unwrap(), lie);
    assert!(!judge(&cluster, &tcp("z/a", "x/a", 80)).allowed());
    // Without an object it has this label and no other.
    cluster.namespaces.clear();
    let rules = |from| match judge(&cluster, &tcp(from, "x/a", 80)).ingress {
        Side::Allowed(grants) => grants.into_iter().map(|grant| grant.policy).collect(),
        _ => Vec::new(),
    };
    assert_eq!(rules("y/a"), [p(0), p(1)]);
    assert_eq!(rules("z/a"), [p(1)]);
}

#[test]
fn a_range_goes_by_the_address_alone() {
    let passes = |block: &str, from: &str| {
        let cluster = with(&[&format!("{{ingress: [{{from: [{{ipBlock: {block}}}]}}]}}")]);
        judge(&cluster, &tcp(from, "x/a", 80)).allowed()
    };
    let apart = "{cidr: 10.0.0.0/8, except: [10.0.1.0/24, 10.0.1.2/32, 10.0.2.2/31]}";
    let expected =
        [("x/b", true), ("y/a", false), ("y/b", false), ("z/a", true), ("z/b", false), ("z/c", false)];
    for (from, expected) in expected {
        assert_eq!(passes(apart, from), expected, "{from}");
    }
    assert!(!passes(apart, "outside") && passes("{cidr: 203.0.113.0/24}", "outside"));
    assert!(!passes("{cidr: \"::/0\"}", "x/b"), "of the other family");
    assert!(!passes("{cidr: \"::ffff:0.0.0.0/96\"}", "x/b"), "of the other family");
    assert!(passes("{cidr: 192.0.2.0/24}", "node:n2"));
}

#[test]
fn who_has_no_pod_is_selected_by_nothing() {
    let mut cluster = with(&["{ingress: [{from: [{namespaceSelector: {}}, {podSelector: {}}]}]}"]);
    assert!(!judge(&cluster, &tcp("outside", "x/a", 80)).allowed());
    assert!(!judge(&cluster, &tcp("node:n2", "x/a", 80)).allowed());
    // A pod on the network of its host is the host.
    let node = address(Family::Ipv4, "node:n2");
    cluster.pods[1].addresses = vec![node];
    assert!(!judge(&cluster, &tcp("node:n2", "x/a", 80)).allowed());
    assert!(judge(&cluster, &tcp("y/a", "node:n2", 80)).allowed());
}

#[test]
fn names_of_ports_are_those_of_the_pod_that_receives() {
    let mut cluster = with(&[
        "{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: web}]}]}",
        "{podSelector: {matchLabels: {pod: b}}, policyTypes: [Egress], egress: [{ports: [{port: web}]}]}",
        "{podSelector: {matchLabels: {pod: c}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: web, protocol: UDP}]}]}",
    ]);
    let web = |protocol, number| NamedPort { name: "web".to_owned(), protocol, number };
    cluster.pods[0].ports = vec![web(Protocol::Tcp, 8080), web(Protocol::Udp, 81)];
    cluster.pods[3].ports = vec![web(Protocol::Tcp, 9090), web(Protocol::Udp, 80)];
    let passes = |from: &str, to: &str, port| judge(&cluster, &tcp(from, to, port)).allowed();
    assert!(passes("y/b", "x/a", 8080) && !passes("y/b", "x/a", 80));
    assert!(!passes("y/b", "x/a", 81), "that one is UDP");
    assert!(passes("x/b", "y/a", 9090) && !passes("x/b", "y/a", 8080), "not the number at this end");
    assert!(!passes("x/b", "y/b", 9090), "has no such port");
    assert!(!passes("x/b", "outside", 9090), "names nothing");
    let udp = |to| judge(&cluster, &flow(Family::Ipv4, "x/c", to, Probe::Port(Protocol::Udp, 80))).allowed();
    assert!(udp("y/a") && !udp("y/b") && !udp("outside") && !passes("x/c", "y/a", 80));
}

#[test]
fn ports_have_edges() {
    let cluster = with(&["{ingress: [{ports: [{port: 79, endPort: 81}, {port: 65535}, {protocol: SCTP}]}]}"]);
    let passes = |protocol, port| judge(&cluster, &Flow { protocol, port, ..tcp("y/a", "x/a", 0) }).allowed();
    for (port, expected) in
        [(0, false), (78, false), (79, true), (80, true), (81, true), (82, false), (65535, true)]
    {
        assert_eq!(passes(6, port), expected, "{port}");
        assert!(!passes(17, port), "{port}");
        assert!(passes(132, port), "{port}");
    }
    assert!([0, 1, 2, 47, 58, 255].iter().all(|protocol| !passes(*protocol, 0)), "only rules without ports");
}
