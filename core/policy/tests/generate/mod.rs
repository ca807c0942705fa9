//! Random clusters and flows: few addresses, labels and ports, so that they meet.
//!
//! A cluster and a flow are drawn apart and fit each other always, so that one cluster can be asked many flows.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

pub(crate) mod spec;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use tartan_api::meta::{Annotations, ObjectMeta};
use tartan_api::policy::{NetworkPolicy, PolicyKind, PolicyVersion, Protocol};
use tartan_model::{Family, Name, NodeName};
use tartan_policy::reference::{Cluster, Flow, NAMESPACE_NAME, NamedPort, Pod};

pub(crate) const NAMESPACES: [&str; 3] = ["x", "y", "z"];
pub(crate) const NODES: [&str; 2] = ["n1", "n2"];
/// Labels of pods and of namespaces alike; one of them is what only namespaces should be known by.
pub(crate) const LABELS: [&str; 3] = ["app", "tier", NAMESPACE_NAME];
/// The same as namespaces are called, so that a pod can try to pass for one.
pub(crate) const VALUES: [&str; 3] = ["x", "y", "z"];
pub(crate) const PORT_NAMES: [&str; 2] = ["web", "dns"];
pub(crate) const PORTS: [u16; 6] = [1, 53, 80, 81, 82, 65535];
const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];
/// Pods are at 1 to 9 of a small range, nodes at 12 and 13 of it; 10 and 20 are nobody's, 20 outside of the range.
const PLACES: [u8; 13] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 20];
const MOST_POLICIES: u8 = 8;
/// At the upper end enough for all policies nearly always.
const DICE: std::ops::Range<usize> = 300..1000;

/// Dice thrown beforehand, so that a failing case shrinks; when they run out each shows 0.
#[derive(Debug, Clone)]
pub(crate) struct Dice(std::vec::IntoIter<u8>);

impl Dice {
    /// One of `sides` numbers from 0.
    pub(crate) fn roll(&mut self, sides: u8) -> u8 {
        self.0.next().unwrap_or(0) % sides
    }

    /// Once in so many times.
    pub(crate) fn is_one_in(&mut self, times: u8) -> bool {
        self.roll(times) == times - 1
    }

    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        let sides = u8::try_from(of.len()).unwrap();
        of.get(usize::from(self.roll(sides))).unwrap().clone()
    }

    /// Fewer than `end` of something.
    pub(crate) fn some<T>(&mut self, end: u8, mut one: impl FnMut(&mut Dice) -> T) -> Vec<T> {
        (0..self.roll(end)).map(|_| one(self)).collect()
    }
}

pub(crate) fn dice() -> impl Strategy<Value = Dice> {
    prop::collection::vec(any::<u8>(), DICE).prop_map(|rolls| Dice(rolls.into_iter()))
}

/// A cluster of at most nine pods on two nodes.
pub(crate) fn cluster() -> impl Strategy<Value = Cluster> {
    dice().prop_map(|mut dice| roll_cluster(&mut dice))
}

/// A flow between any two addresses of one family.
pub(crate) fn flow() -> impl Strategy<Value = Flow> {
    prop::collection::vec(any::<u8>(), 7).prop_map(|rolls| roll_flow(&mut Dice(rolls.into_iter())))
}

/// Policies come last: they are what too few dice should make fewer.
fn roll_cluster(dice: &mut Dice) -> Cluster {
    let (namespaces, pods) = (namespaces(dice), pods(dice));
    let most = dice.roll(MOST_POLICIES + 1).max(dice.roll(MOST_POLICIES + 1));
    let policies = (0..most).map(|number| policy(dice, number)).collect();
    Cluster { namespaces, nodes: nodes(), pods, policies }
}

/// There may be no object of a namespace, and an object may not tell the label that it has by itself, or lie about it.
fn namespaces(dice: &mut Dice) -> BTreeMap<Name, BTreeMap<String, String>> {
    let mut namespaces = BTreeMap::new();
    for namespace in NAMESPACES {
        let labels = labels(dice);
        if !dice.is_one_in(6) {
            namespaces.insert(namespace.parse().unwrap(), labels);
        }
    }
    namespaces
}

fn labels(dice: &mut Dice) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for label in LABELS {
        if dice.roll(2) == 1 {
            labels.insert(label.to_owned(), dice.pick(&VALUES).to_owned());
        }
    }
    labels
}

fn nodes() -> BTreeMap<NodeName, Vec<IpAddr>> {
    let of =
        |(node, at): (&str, u8)| (node.parse().unwrap(), FAMILIES.map(|family| address(family, at)).to_vec());
    NODES.into_iter().zip([12, 13]).map(of).collect()
}

fn pods(dice: &mut Dice) -> Vec<Pod> {
    let mut pods = Vec::new();
    for at in 1..=9 {
        let pod = pod(dice, at);
        if !dice.is_one_in(8) {
            pods.push(pod);
        }
    }
    pods
}

fn pod(dice: &mut Dice, at: u8) -> Pod {
    let families = match dice.roll(8) {
        6 => &FAMILIES[..1],
        7 => &FAMILIES[1..],
        _ => &FAMILIES[..],
    };
    Pod {
        name: format!("{}/p{at}", dice.pick(&NAMESPACES)).parse().unwrap(),
        node: dice.pick(&NODES).parse().unwrap(),
        labels: labels(dice),
        addresses: families.iter().map(|family| address(*family, at)).collect(),
        ports: dice.some(4, named_port),
    }
}

fn named_port(dice: &mut Dice) -> NamedPort {
    NamedPort { name: dice.pick(&PORT_NAMES).to_owned(), protocol: protocol(dice), number: dice.pick(&PORTS) }
}

/// TCP more often than others.
pub(crate) fn protocol(dice: &mut Dice) -> Protocol {
    dice.pick(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

/// 10.0.0.0/28 and fd00::/124 with something outside.
pub(crate) fn address(family: Family, at: u8) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(10, 0, 0, at).into(),
        Family::Ipv6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, at.into()).into(),
    }
}

/// A place that ranges begin at and flows come from and go to, mostly a pod.
pub(crate) fn place(dice: &mut Dice) -> u8 {
    if dice.is_one_in(3) { dice.pick(&PLACES) } else { 1 + dice.roll(9) }
}

fn roll_flow(dice: &mut Dice) -> Flow {
    let family = dice.pick(&FAMILIES);
    let (from, to) = (address(family, place(dice)), address(family, place(dice)));
    let protocol = dice.pick(&[6, 6, 6, 17, 17, 132, 1, 58, 47]);
    let has_ports = matches!(protocol, 6 | 17 | 132);
    let port = if has_ports { dice.pick(&PORTS) } else { 0 };
    Flow { from, to, protocol, port }
}

/// Two policies of a namespace never have a name in common, two of different namespaces may.
fn policy(dice: &mut Dice, number: u8) -> NetworkPolicy {
    let namespace = dice.pick(&NAMESPACES);
    let (namespace, name) = match NAMESPACES.get(usize::from(number)).filter(|_| dice.is_one_in(3)) {
        Some(own) => (*own, "shared".to_owned()),
        None => (namespace, format!("p{number}")),
    };
    NetworkPolicy {
        api_version: PolicyVersion::V1,
        kind: PolicyKind::NetworkPolicy,
        metadata: ObjectMeta {
            name: name.parse().unwrap(),
            namespace: namespace.parse().unwrap(),
            labels: BTreeMap::new(),
            annotations: Annotations::default(),
        },
        spec: spec::policy_spec(dice),
    }
}
