//! Faults: agents that end, and are started again when the fault is cleared.

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::error::require_root;
use crate::names::{LabName, LabNode};
use crate::programs::Programs;
use crate::state::{self, Fault};
use crate::{agent, node};

/// Puts a fault in; one that stands already on that node is replaced.
///
/// # Errors
/// When there is no such node, or its agent does not end.
pub fn add(lab: &LabName, fault: &Fault) -> Result<()> {
    require_root()?;
    state::change(lab, |state| {
        state.node(fault.node())?;
        state.faults.retain(|other| other.node() != fault.node());
        state.faults.push(fault.clone());
        Ok(())
    })?;
    match fault {
        Fault::Kill(node) => agent::end(lab, node, Signal::SIGKILL),
        Fault::Stop(node) => agent::end(lab, node, Signal::SIGTERM),
    }
}

/// Heals everything: starts the agents that faults have ended, and waits until all are healthy. Gives the nodes that
/// had a fault.
///
/// # Errors
/// When an agent does not come up; with the end of its log.
pub fn clear(lab: &LabName, programs: &Programs) -> Result<Vec<LabNode>> {
    require_root()?;
    let faults = state::change(lab, |state| Ok(std::mem::take(&mut state.faults)))?;
    let nodes: Vec<LabNode> = faults.iter().map(|fault| fault.node().clone()).collect();
    for name in nodes.iter().filter(|name| agent::pid(lab, name).is_none()) {
        agent::start(lab, name, programs).with_context(|| format!("node {name}"))?;
    }
    node::wait_for_all(&state::load(lab)?)?;
    Ok(nodes)
}
