//! The lab in which stories are played: the cluster that they begin with, everybody listening.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::json;
use tartan_api::kubernetes::{Namespace, Pod};
use tartan_api::object::{Object, ObjectKind};
use tartan_api::policy::NetworkPolicy;
use tartan_api::rpc::Request;
use tartan_api::verb::Applied;
use tartan_kernel::netns;
use tartan_model::{Family, PolicyName};
use tartan_netlab::agent;
use tartan_scenarios::{Lab, run_command};

use crate::cases::world::{self, NAMESPACES, NODES, OUTSIDE, SERVED};
use crate::listeners::Listeners;

/// How long an agent may take to answer, and all of them to have something in their kernels.
const PATIENCE: Duration = Duration::from_secs(30);
/// Ranges of the lab's pods. The nodes' ends of the tunnel are in them too; no story has a node in a range of pods and
/// expects it to be elsewhere.
const PODS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/56"];
/// The wire's IPv6, which the lab gives only to nodes that talk in it.
const WIRE: &str = "fd00:30::";

/// A place that asks and answers.
pub(crate) struct Place {
    /// As stories call it.
    pub(crate) name: String,
    pub(crate) netns: OwnedFd,
    /// Where it is asked, by family.
    addresses: [IpAddr; 2],
    /// As whom pods of other nodes see it. A node asks by the address of its end of the tunnel.
    known_as: [IpAddr; 2],
}

/// Labels of everybody, as objects.
#[derive(Debug, Clone)]
pub(crate) struct Labels {
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    pub(crate) pods: BTreeMap<String, Pod>,
}

/// The lab.
pub(crate) struct Stage {
    lab: Lab,
    pub(crate) places: Vec<Place>,
    policies: BTreeSet<PolicyName>,
    _listeners: Listeners,
}

impl Place {
    pub(crate) fn address(&self, family: Family) -> IpAddr {
        self.addresses[usize::from(family == Family::Ipv6)]
    }

    pub(crate) fn known_as(&self, family: Family) -> IpAddr {
        self.known_as[usize::from(family == Family::Ipv6)]
    }

    pub(crate) fn is_pod(&self) -> bool {
        self.name.contains('/')
    }
}

impl Stage {
    /// Two nodes of both families with everybody of [`world`] on them.
    pub(crate) fn new(attachment: &str) -> Stage {
        let attachment = format!("attachment={attachment}");
        let nodes = NODES.len().to_string();
        let args = ["--nodes", &nodes, "--pods", "0", "--family", "dual", "--set", "policy=true", "--set"];
        let lab = Lab::up("t-policy", &[&args[..], &[&attachment]].concat());
        for name in world::pods() {
            let (namespace, pod) = name.split_once('/').unwrap();
            let label = format!("pod={pod}");
            lab.lab(&["pod", "add", pod, "-n", namespace, "--node", world::node_of(pod), "-l", &label]).ok();
        }
        lead_ipv6_out(&lab);
        lead_the_outside_in(&lab);
        let places = places(&lab);
        let listeners = Listeners::at(&places);
        lab.wait_until_healthy(&NODES);
        let stage = Stage { lab, places, policies: BTreeSet::new(), _listeners: listeners };
        stage.label(&Labels::of_the_world());
        stage.wait();
        stage
    }

    pub(crate) fn place(&self, name: &str) -> &Place {
        self.places.iter().find(|place| place.name == name).unwrap_or_else(|| panic!("no place {name}"))
    }

    /// What stands for a name in the policies of stories.
    pub(crate) fn range(&self, family: Family, name: &str) -> String {
        match name {
            "everything" => tartan_model::Cidr::everything(family).to_string(),
            "pods" => PODS[usize::from(family == Family::Ipv6)].to_owned(),
            name => tartan_model::Cidr::host(self.place(name).known_as(family)).to_string(),
        }
    }

    pub(crate) fn apply(&mut self, policies: &[NetworkPolicy]) {
        self.policies.extend(policies.iter().map(name_of));
        self.write(policies.iter().cloned().map(Object::NetworkPolicy).collect());
    }

    pub(crate) fn label(&self, labels: &Labels) {
        let namespaces = labels.namespaces.values().cloned().map(Object::Namespace);
        self.write(namespaces.chain(labels.pods.values().cloned().map(Object::Pod)).collect());
    }

    pub(crate) fn delete(&mut self, name: &PolicyName) {
        assert!(self.policies.remove(name), "there is no policy {name}");
        self.take_away(ObjectKind::NetworkPolicy, &name.to_string());
    }

    pub(crate) fn delete_all(&mut self) {
        self.policies.clone().iter().for_each(|name| self.delete(name));
    }

    pub(crate) fn take_away(&self, kind: ObjectKind, name: &str) {
        self.ask::<Applied>(&Request::Delete { kind, name: name.to_owned() });
    }

    /// Waits until every agent has all that was written in its kernel, as `tartan apply --wait` does.
    pub(crate) fn wait(&self) {
        self.ask::<()>(&Request::Wait);
    }

    pub(crate) fn ask<T: DeserializeOwned>(&self, request: &Request) -> T {
        let (lab, node) = (self.lab.name().parse().unwrap(), NODES[0].parse().unwrap());
        agent::ask(&lab, &node, request, PATIENCE).unwrap_or_else(|error| panic!("{request:?}: {error:#}"))
    }

    fn write(&self, objects: Vec<Object>) {
        self.ask::<Vec<Applied>>(&Request::Apply { objects });
    }
}

impl Labels {
    /// Those that each story begins with.
    pub(crate) fn of_the_world() -> Labels {
        let namespace = |name: &&str| {
            let metadata = json!({"name": name, "labels": {"ns": name}});
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
            (name.to_string(), serde_json::from_value(object).unwrap())
        };
        let named = SERVED.iter().flat_map(|port| {
            ["TCP", "UDP", "SCTP"].map(|protocol| {
                let name = format!("serve-{port}-{}", protocol.to_lowercase());
                json!({"name": name, "protocol": protocol, "containerPort": port})
            })
        });
        let ports: Vec<_> = named.collect();
        let pod = |name: String| {
            let (namespace, short) = name.split_once('/').unwrap();
            let metadata = json!({"name": short, "namespace": namespace, "labels": {"pod": short}});
            let spec = json!({"containers": [{"ports": ports}]});
            let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
            let pod = serde_json::from_value(object).unwrap();
            (name, pod)
        };
        Labels {
            namespaces: NAMESPACES.iter().map(namespace).collect(),
            pods: world::pods().map(pod).collect(),
        }
    }
}

fn name_of(policy: &NetworkPolicy) -> PolicyName {
    policy.metadata.full_name().parse().unwrap()
}

/// Has nodes that talk in IPv4 meet the outside in IPv6 as well.
fn lead_ipv6_out(lab: &Lab) {
    let router = format!("{WIRE}ffff");
    in_wire(lab, &["address", "add", &format!("{router}/64"), "dev", "wire", "nodad"]);
    for (number, node) in (1..).zip(NODES) {
        let address = format!("{WIRE}{number}/64");
        lab.on_node(node, &["ip", "address", "add", &address, "dev", "eth0", "nodad"]);
        lab.on_node(node, &["ip", "route", "add", "default", "via", &router]);
    }
}

/// Has the router send what is for pods to their nodes.
fn lead_the_outside_in(lab: &Lab) {
    for row in lab.ask("n1", &["ipam"]).as_array().expect("a list") {
        let [block, node] = ["block", "node"].map(|key| row[key].as_str().expect("text"));
        let number = NODES.iter().position(|one| *one == node).expect("one of them") + 1;
        let via = if block.contains(':') { format!("{WIRE}{number}") } else { format!("172.30.0.{number}") };
        in_wire(lab, &["route", "add", block, "via", &via]);
    }
}

fn in_wire(lab: &Lab, words: &[&str]) {
    run_command(Command::new("ip").arg("-n").arg(format!("tartan-{}_wire", lab.name())).args(words)).ok();
}

fn places(lab: &Lab) -> Vec<Place> {
    let open = |place: &str| netns::open(&lab.netns(place)).expect("a namespace");
    let pod = |name: String| {
        let addresses: [IpAddr; 2] = lab.addresses(&name).try_into().expect("one of each family");
        let netns = open(&name.replace('/', "_"));
        Place { name, netns, addresses, known_as: addresses }
    };
    let mut places: Vec<Place> = world::pods().map(pod).collect();
    for (number, node) in (1..).zip(NODES) {
        let netns = open(node);
        let afar = places.iter().find(|place| world::node_of(place.name.split_once('/').unwrap().1) != node);
        let afar = afar.expect("somebody on another node").addresses;
        places.push(Place {
            name: format!("node:{node}"),
            addresses: [format!("172.30.0.{number}"), format!("{WIRE}{number}")]
                .map(|at| at.parse().unwrap()),
            known_as: afar.map(|to| netns::run_in(netns.as_fd(), || source(to)).expect("to enter")),
            netns,
        });
    }
    let addresses = ["192.0.2.2", "2001:db8:ffff::2"].map(|address| address.parse().unwrap());
    places.push(Place { name: OUTSIDE.to_owned(), netns: open("outside"), addresses, known_as: addresses });
    places
}

/// The address that is spoken from to another, by the routes of the calling thread's namespace.
fn source(to: IpAddr) -> IpAddr {
    let any: IpAddr = if to.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() };
    let socket = UdpSocket::bind((any, 0)).expect("a socket");
    socket.connect(SocketAddr::new(to, 9)).expect("a route");
    socket.local_addr().expect("an address").ip()
}
