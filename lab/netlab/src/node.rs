//! Nodes that come and go while a lab is up.

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use tartan_kernel::netns;

use crate::down::{end_processes, remove_folder};
use crate::error::{Usage, gather, require_root};
use crate::names::{LabName, LabNode};
use crate::programs::Programs;
use crate::state::{self, MAX_NODES, NodeState, State};
use crate::{agent, cni, fault, pod, up};

/// Adds a node, and waits until it and the others have found each other.
///
/// # Errors
/// When the name is taken, or the agent does not come up; nothing of the node is left then.
pub fn add(lab: &LabName, name: &LabNode, programs: &Programs) -> Result<()> {
    require_root()?;
    let node = claim(lab, name)?;
    let state = state::load(lab)?;
    let url = state.store.url(lab, state.underlay)?;
    let made = up::prepare(lab, &node, state.layout(), &url, programs)
        .and_then(|()| agent::start(lab, name, programs))
        .with_context(|| format!("node {name}"))
        .and_then(|()| wait_for_all(&state));
    if made.is_err() {
        // The first error is the one to tell; `down` finds what this may leave.
        clear(lab, name).ok();
    }
    made
}

/// Removes a node: its pods through the plugin, its agent, its namespace. The store keeps its record until its lease
/// ends.
///
/// # Errors
/// When there is no such node, or something of it cannot be taken away.
pub fn remove(lab: &LabName, name: &LabNode) -> Result<()> {
    require_root()?;
    let state = state::load(lab)?;
    state.node(name)?;
    let agent_runs = agent::pid(lab, name).is_some();
    let mut results = Vec::new();
    for pod in state.pods.iter().filter(|pod| pod.node == *name) {
        if agent_runs {
            results.push(cni::del(lab, pod));
        }
        results.extend([pod::clear(lab, &pod.name), pod::forget(lab, &pod.name)]);
    }
    results.push(clear(lab, name));
    gather(&format!("node {name} is gone, but not without trouble"), results)
}

/// Waits until every agent that nobody ended is healthy and has all others up.
///
/// # Errors
/// When one has ended or is not in time; with the end of its log.
pub fn wait_for_all(state: &State) -> Result<()> {
    let running: Vec<&NodeState> = state.running().collect();
    let all_run = || {
        let ended = running.iter().find(|node| agent::pid(&state.name, &node.name).is_none());
        ended.map_or(Ok(()), |NodeState { name, .. }| {
            let error = anyhow!(
                "its agent has ended, and no fault ended it: it left the cluster, was uninstalled, or died; \
                 `tartan lab node rm {name} --name {}` takes the node away",
                state.name
            );
            Err(agent::with_log(&state.name, name, &error))
        })
    };
    let peers = running.len().saturating_sub(1);
    for node in &running {
        agent::wait_until_healthy(&state.name, &node.name, peers, up::patience(running.len()), &all_run)?;
    }
    Ok(())
}

fn claim(lab: &LabName, name: &LabNode) -> Result<NodeState> {
    state::change(lab, |state| {
        if state.nodes.iter().any(|node| node.name == *name) {
            bail!(Usage(format!("lab {lab}: there is a node {name} already; take another name")));
        }
        if state.next_index >= MAX_NODES {
            bail!(Usage(format!("lab {lab}: it has had {MAX_NODES} nodes, which is the most")));
        }
        let index = state.next_index;
        let address = state.layout().node_address(index)?.address();
        let node = NodeState { name: name.clone(), index, address };
        state.next_index += 1;
        state.nodes.push(node.clone());
        Ok(node)
    })
}

/// Ends a node's agent and whatever else runs there, and takes away its namespace and its files.
fn clear(lab: &LabName, name: &LabNode) -> Result<()> {
    let netns = lab.netns(name.as_str());
    let results = [
        agent::end(lab, name, Signal::SIGTERM),
        end_processes(std::slice::from_ref(&netns)),
        netns::remove(&netns).map(drop).map_err(Into::into),
        remove_folder(lab.files(name).directory()),
        state::change(lab, |state| {
            state.nodes.retain(|node| node.name != *name);
            Ok(())
        }),
        fault::forget_node(lab, name),
    ];
    gather("cannot clear it away", results)
}
