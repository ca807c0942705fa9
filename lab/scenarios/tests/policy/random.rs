//! Random policies: what becomes of packets is what the reference evaluator says, and what `tartan explain` says.
//!
//! Clusters and flows are drawn as for the laws of the core. The lab's pods take the labels and ports of those drawn, and
//! real addresses take the place of theirs, also in policies.

use std::collections::BTreeMap;
use std::env;
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::json;
use tartan_api::explain::{Explain, Explanation, Party, ProtocolNumber, Verdict};
use tartan_api::object::ObjectKind;
use tartan_api::policy::{IpBlock, NetworkPolicy, Peer, Protocol};
use tartan_api::rpc::Request;
use tartan_model::{Cidr, Family};
use tartan_policy::reference::{self, Cluster, Flow, judge, number_of};

use crate::cases::Probe;
use crate::cases::world::{NAMESPACES, NODES, node_of};
use crate::generate;
use crate::questions::{self, Question};
use crate::stage::{Labels, Place, Stage};

/// How many sets there are for both attachments together, unless the variable says otherwise.
const SETS: u64 = 20;
const SETS_VARIABLE: &str = "TARTAN_POLICY_SETS";
/// How many flows of a set are drawn. Some are between those that no policy is about, and are not tried.
const FLOWS: usize = 500;
/// Addresses that nobody has, among those of pods.
const NOBODY: [&str; 2] = ["10.244.0.200", "fd00:10:244::c8"];
/// How much longer than a range of 1, 2, 4, 8 and 16 drawn addresses the prefix of one address is. The widest has the pods
/// of both nodes.
const SPREADS: [[u8; 5]; 2] = [[0, 1, 2, 3, 9], [0, 1, 2, 3, 65]];

#[test]
fn packets_meet_what_the_reference_says_between_routed_pods() {
    packets_meet_what_the_reference_says("routed", 0);
}

#[test]
fn packets_meet_what_the_reference_says_between_bridged_pods() {
    packets_meet_what_the_reference_says("bridge", 1);
}

/// Of every second set.
fn packets_meet_what_the_reference_says(attachment: &str, first: u64) {
    let sets = env::var(SETS_VARIABLE).map_or(SETS, |text| text.parse().expect("a number of sets"));
    let mut stage = Stage::new(attachment);
    let mut wrong = Vec::new();
    for seed in (first..sets).step_by(2) {
        wrong.extend(differences(&mut stage, seed));
    }
    assert!(wrong.is_empty(), "{attachment}:\n{}", wrong.join("\n"));
}

fn draw(seed: u64) -> (Cluster, Vec<Flow>) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let both = (generate::cluster(), prop::collection::vec(generate::flow(), FLOWS));
    both.new_tree(&mut runner).expect("nothing is refused").current()
}

fn differences(stage: &mut Stage, seed: u64) -> Vec<String> {
    let (drawn, flows) = draw(seed);
    let cluster = Cast(stage).cluster(&drawn);
    play(stage, &cluster);
    let mut questions = Vec::new();
    let mut wrong = Vec::new();
    for drawn in &flows {
        let Some((flow, question)) = Cast(stage).question(drawn) else { continue };
        let expected = judge(&cluster, &flow).allowed();
        let question = Question { expected, about: format!("set {seed}"), ..question };
        let explained = explain(stage, &flow);
        if (explained.verdict == Verdict::Allow) != expected {
            wrong.push(format!("{question}: expected {expected}, explained {explained:?}"));
        }
        questions.push(question);
    }
    wrong.extend(questions::wrong(&questions));
    if !wrong.is_empty() {
        wrong.push(format!("set {seed}: {cluster:#?}"));
    }
    stage.delete_all();
    wrong
}

/// Has the lab be that cluster.
fn play(stage: &mut Stage, cluster: &Cluster) {
    let mut labels = Labels::of_the_world();
    for (name, namespace) in &mut labels.namespaces {
        let drawn = cluster.namespaces.get(&name.parse().unwrap());
        let metadata = json!({"name": name, "labels": drawn.cloned().unwrap_or_default()});
        *namespace = from_json(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
    }
    for pod in &cluster.pods {
        let port = |port: &reference::NamedPort| json!({"name": port.name, "protocol": port.protocol, "containerPort": port.number});
        let ports: Vec<_> = pod.ports.iter().map(port).collect();
        let (name, namespace) = (&pod.name.name, &pod.name.namespace);
        let metadata = json!({"name": name, "namespace": namespace, "labels": pod.labels});
        let spec = json!({"containers": [{"ports": ports}]});
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        labels.pods.insert(pod.name.to_string(), from_json(object));
    }
    stage.label(&labels);
    let is_drawn = |name: &&str| cluster.namespaces.contains_key(&name.parse().unwrap());
    for absent in NAMESPACES.iter().filter(|name| !is_drawn(name)) {
        stage.take_away(ObjectKind::Namespace, absent);
    }
    if !cluster.policies.is_empty() {
        stage.apply(&cluster.policies);
    }
    stage.wait();
}

fn from_json<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).expect("an object")
}

fn explain(stage: &Stage, flow: &Flow) -> Explanation {
    stage.ask(&Request::Explain(Explain {
        source: Party::Address(flow.from),
        destination: Party::Address(flow.to),
        port: flow.port,
        protocol: ProtocolNumber(flow.protocol),
        family: None,
    }))
}

/// Who plays whom.
struct Cast<'a>(&'a Stage);

impl<'a> Cast<'a> {
    /// The place of a drawn address, by the last byte.
    fn place(&self, at: u8) -> Option<&'a Place> {
        let name = match at {
            1..=9 => return self.0.places.iter().filter(|place| place.is_pod()).nth(usize::from(at) - 1),
            12 => format!("node:{}", NODES[0]),
            13 => format!("node:{}", NODES[1]),
            20 => crate::cases::world::OUTSIDE.to_owned(),
            _ => return None,
        };
        Some(self.0.place(&name))
    }

    fn cluster(&self, drawn: &Cluster) -> Cluster {
        let of_node = |name: &&str| {
            let place = self.0.place(&format!("node:{name}"));
            let addresses = Family::ALL.map(|family| [place.address(family), place.known_as(family)]);
            (name.parse().unwrap(), addresses.concat())
        };
        Cluster {
            namespaces: drawn.namespaces.clone(),
            nodes: NODES.iter().map(of_node).collect(),
            pods: (1..=9).map(|at| self.pod(drawn, at)).collect(),
            policies: drawn.policies.iter().map(|policy| self.policy(policy)).collect(),
        }
    }

    /// Who was not drawn is there without labels and ports.
    fn pod(&self, drawn: &Cluster, at: u8) -> reference::Pod {
        let place = self.place(at).expect("a pod");
        let is_it = |pod: &&reference::Pod| pod.name.name.as_str() == format!("p{at}");
        let (labels, ports) = match drawn.pods.iter().find(is_it) {
            Some(pod) => (pod.labels.clone(), pod.ports.clone()),
            None => (BTreeMap::new(), Vec::new()),
        };
        let name: tartan_model::PodName = place.name.parse().unwrap();
        let node = node_of(name.name.as_str()).parse().unwrap();
        let addresses = Family::ALL.map(|family| place.address(family)).to_vec();
        reference::Pod { name, node, labels, addresses, ports }
    }

    fn policy(&self, drawn: &NetworkPolicy) -> NetworkPolicy {
        let mut policy = drawn.clone();
        let from = policy.spec.ingress.iter_mut().flat_map(|rule| &mut rule.from.0);
        from.for_each(|peer| self.recast(peer, Place::known_as));
        let to = policy.spec.egress.iter_mut().flat_map(|rule| &mut rule.to.0);
        to.for_each(|peer| self.recast(peer, Place::address));
        policy
    }

    fn recast(&self, peer: &mut Peer, address: fn(&Place, Family) -> IpAddr) {
        if let Peer::Block(block) = peer {
            let cidr = self.cidr(block.cidr, address);
            let except = block.except.iter().map(|except| self.cidr(*except, address));
            let except = except.filter(|except| cidr.covers(except) && cidr != *except).collect();
            *block = IpBlock { cidr, except };
        }
    }

    /// A range about the first of those whom the drawn one is about.
    fn cidr(&self, drawn: Cidr, address: fn(&Place, Family) -> IpAddr) -> Cidr {
        let family = drawn.family();
        if drawn == Cidr::everything(family) {
            return drawn;
        }
        let is_ipv6 = usize::from(family == Family::Ipv6);
        let known = (1..=20).filter(|at| drawn.contains(generate::address(family, *at)));
        let known = known.filter_map(|at| self.place(at)).next();
        let at = known.map_or_else(|| NOBODY[is_ipv6].parse().unwrap(), |place| address(place, family));
        let most = [32, 128][is_ipv6];
        let spread = SPREADS[is_ipv6][usize::from(most - drawn.length())];
        Cidr::containing(at, most - spread).unwrap()
    }

    /// None for what nobody can send or hear, or what no policy can be about.
    fn question(&self, drawn: &Flow) -> Option<(Flow, Question<'a>)> {
        let (from, to) = (self.place(last_byte(drawn.from))?, self.place(last_byte(drawn.to))?);
        let family = Family::of(drawn.from);
        let port = |protocol| (Probe::Port(protocol, drawn.port), number_of(protocol));
        let (probe, protocol) = match drawn.protocol {
            6 => port(Protocol::Tcp),
            17 => port(Protocol::Udp),
            132 => port(Protocol::Sctp),
            // One protocol without ports is as good as another.
            _ => (Probe::Icmp, if family == Family::Ipv4 { 1 } else { 58 }),
        };
        let flow = Flow { from: from.known_as(family), to: to.address(family), protocol, port: drawn.port };
        let question = Question { from, to, family, probe, expected: true, about: String::new() };
        (from.is_pod() || to.is_pod()).then_some((flow, question))
    }
}

fn last_byte(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}
