//! What is there: labs, and one lab's nodes and pods.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tartan_api::rpc::Request;
use tartan_api::verb::{EndpointRow, Status};
use tartan_model::PodName;

use crate::agent;
use crate::down::{labs, namespaces};
use crate::fault::Fault;
use crate::names::{LabName, LabNode, Place};
use crate::state::{self, NodeState, State};

/// How long an agent may take to answer before it counts as one that does not.
const ANSWER: Duration = Duration::from_secs(2);

/// A row of `tartan lab list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabRow {
    /// The lab's name.
    pub name: LabName,
    /// How many nodes it has.
    pub nodes: usize,
    /// How many pods it has.
    pub pods: usize,
}

/// `tartan lab status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabStatus {
    /// The lab's name.
    pub name: LabName,
    /// Its nodes.
    pub nodes: Vec<NodeRow>,
    /// Its pods.
    pub pods: Vec<PodRow>,
    /// The faults that stand.
    pub faults: Vec<Fault>,
}

/// A node of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeRow {
    /// Its name.
    pub name: LabNode,
    /// Its address on the wire.
    pub address: IpAddr,
    /// Whether its agent answers and says that it is healthy.
    pub healthy: bool,
    /// Its agent's process; none if it does not run.
    pub pid: Option<i32>,
}

/// A pod of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodRow {
    /// Its name.
    pub name: PodName,
    /// Its node.
    pub node: LabNode,
    /// Its addresses: what the agent says, or what the plugin said if the agent does not answer.
    pub addresses: Vec<IpAddr>,
}

/// The labs that are up, or of which something is left.
///
/// # Errors
/// When the folders of labs or of namespaces cannot be read.
pub fn list() -> Result<Vec<LabRow>> {
    labs()?.into_iter().map(row).collect()
}

/// A lab's nodes and pods.
///
/// # Errors
/// When the lab is not up.
pub fn status(lab: &LabName) -> Result<LabStatus> {
    let state = state::load(lab)?;
    let answers = ask_all(&state);
    let known: BTreeMap<&PodName, &Vec<IpAddr>> =
        answers.iter().flat_map(|answer| &answer.endpoints).map(|row| (&row.pod, &row.addresses)).collect();
    let pods = state.pods.iter().map(|pod| PodRow {
        name: pod.name.clone(),
        node: pod.node.clone(),
        addresses: known.get(&pod.name).map_or(&pod.addresses, |addresses| addresses).clone(),
    });
    let mut pods: Vec<PodRow> = pods.collect();
    // p10 behind p9.
    pods.sort_by_key(|pod| (pod.name.namespace.clone(), pod.name.name.as_str().len(), pod.name.name.clone()));
    let nodes = state.nodes.iter().zip(&answers).map(|(node, answer)| NodeRow {
        name: node.name.clone(),
        address: node.address,
        healthy: answer.healthy,
        pid: agent::pid(lab, &node.name).map(nix::unistd::Pid::as_raw),
    });
    Ok(LabStatus { name: state.name.clone(), nodes: nodes.collect(), pods, faults: state.faults })
}

/// Counted by their namespaces, which are there also when the lab's file is gone.
fn row(name: LabName) -> Result<LabRow> {
    let places: Vec<Place> = namespaces(&name)?.iter().filter_map(|netns| name.place(netns)).collect();
    let nodes = places.iter().filter(|place| matches!(place, Place::Node(_))).count();
    let pods = places.iter().filter(|place| matches!(place, Place::Pod(_))).count();
    Ok(LabRow { name, nodes, pods })
}

/// What one agent says, as far as it answers.
#[derive(Default)]
struct Answers {
    healthy: bool,
    endpoints: Vec<EndpointRow>,
}

fn ask_all(state: &State) -> Vec<Answers> {
    let ask = |node: &NodeState| {
        let status: Result<Status> = agent::ask(&state.name, &node.name, &Request::Status, ANSWER);
        let Ok(status) = status else { return Answers::default() };
        let endpoints = agent::ask(&state.name, &node.name, &Request::Endpoints, ANSWER).unwrap_or_default();
        Answers { healthy: status.healthy, endpoints }
    };
    thread::scope(|scope| {
        let asked: Vec<_> = state.nodes.iter().map(|node| scope.spawn(move || ask(node))).collect();
        asked.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
    })
}
