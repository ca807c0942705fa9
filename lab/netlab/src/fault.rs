//! Faults: what the wire between two ends does not carry, and agents that end.
//!
//! `lab.json` says which faults stand. Those of the wire are written to the kernel all together from it, under its lock,
//! so that to add, to remove and to write again is one path.

mod bar;
mod kind;
mod rules;

use anyhow::{Context, Error, Result, bail};
use nix::sys::signal::Signal;

use crate::error::{Usage, gather, require_root};
use crate::names::{LabName, LabNode};
use crate::programs::Programs;
use crate::state::{self, State};
use crate::{agent, node, up};

pub use kind::{End, Fault, Pair};

/// Puts a fault in.
///
/// # Errors
/// [`Usage`] when it does not fit the lab or stands already; or when the kernel refuses, or an agent does not end.
pub fn add(lab: &LabName, fault: &Fault) -> Result<()> {
    require_root()?;
    state::change(lab, |state| {
        fault.check(state)?;
        refuse_across(state, fault)?;
        refuse_twice(state, fault)?;
        change_faults(state, |faults| faults.push(fault.clone()))?;
        // Before the fault can be read: whoever heals it finds an agent that has ended.
        match fault {
            Fault::Kill { node } => agent::end(lab, node, Signal::SIGKILL),
            Fault::Stop { node } => agent::end(lab, node, Signal::SIGTERM),
            _ => Ok(()),
        }
    })
}

/// Heals one fault; an agent that it ended is started, and answers.
///
/// # Errors
/// [`Usage`] when it does not stand; or when the kernel refuses, or the agent does not come up: it still stands then.
pub fn remove(lab: &LabName, fault: &Fault, programs: &Programs) -> Result<()> {
    require_root()?;
    let state = state::load(lab)?;
    if !state.faults.iter().any(|other| other.is_same(fault)) {
        bail!(Usage(format!(
            "lab {lab}: the fault `{fault}` does not stand; `tartan lab status --name {lab}` shows which do"
        )));
    }
    if let Some(name) = fault.ended() {
        revive(lab, &state, &[name], programs)?;
    }
    forget(lab, |other| other.is_same(fault))
}

/// Heals everything: the wire at once, then the agents that faults have ended, and waits until all are healthy. Gives
/// the faults that stood. Of an agent that does not come up the fault still stands.
///
/// # Errors
/// When an agent does not come up; with the end of its log.
pub fn clear(lab: &LabName, programs: &Programs) -> Result<Vec<Fault>> {
    require_root()?;
    let state = state::load(lab)?;
    forget(lab, |fault| fault.ended().is_none())?;
    let ended: Vec<&LabNode> = state.faults.iter().filter_map(Fault::ended).collect();
    revive(lab, &state, &ended, programs)?;
    node::wait_for_all(&state::load(lab)?)?;
    Ok(state.faults)
}

/// Takes the faults of a node that is gone along.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn forget_node(lab: &LabName, name: &LabNode) -> Result<()> {
    forget(lab, |fault| fault.concerns(name))
}

/// Faults of the wire are made where frames pass from port to port, and between links no frame does.
fn refuse_across(state: &State, fault: &Fault) -> Result<()> {
    let layout = state.layout();
    if layout.links == 1 || fault.ended().is_some() {
        return Ok(());
    }
    let link = |end: &End| match end {
        End::Node(node) => state.node(node).map(|node| Some(layout.link_of(node.index))),
        End::Outside => Ok(None),
    };
    let ends = fault.pair().map(|pair| Ok::<_, Error>((link(&pair.from)?, link(&pair.to)?))).transpose()?;
    match ends {
        Some((Some(a), Some(b))) if a != b => bail!(Usage(format!(
            "{fault}: the two are on links of their own with a router between; name nodes of one link"
        ))),
        None => {
            bail!(Usage(format!("{fault}: this lab has {} links; name two nodes of one link", layout.links)))
        }
        _ => Ok(()),
    }
}

fn refuse_twice(state: &State, fault: &Fault) -> Result<()> {
    if let Some(other) = state.faults.iter().find(|other| other.clashes(fault)) {
        bail!(Usage(format!(
            "lab {0}: the fault `{other}` stands already; heal it: tartan lab fault rm {other} --name {0}",
            state.name
        )));
    }
    Ok(())
}

fn forget(lab: &LabName, is_healed: impl Fn(&Fault) -> bool) -> Result<()> {
    state::change(lab, |state| change_faults(state, |faults| faults.retain(|fault| !is_healed(fault))))
}

/// Changes which faults stand, and the wire with them.
fn change_faults(state: &mut State, change: impl FnOnce(&mut Vec<Fault>)) -> Result<()> {
    let before = state.faults.clone();
    change(&mut state.faults);
    rules::write(state, &before)
}

/// Starts the agents of these nodes, all before the first is waited for. Each that answers has no fault any more.
fn revive(lab: &LabName, state: &State, nodes: &[&LabNode], programs: &Programs) -> Result<()> {
    let start = |name: &&LabNode| match agent::pid(lab, name) {
        Some(_) => Ok(()),
        // One that somebody else killed may not have let go of its files yet.
        None => agent::end(lab, name, Signal::SIGKILL)
            .and_then(|()| agent::start(lab, name, programs))
            .with_context(|| format!("node {name}")),
    };
    let started: Vec<Result<()>> = nodes.iter().map(start).collect();
    let patience = up::patience(state.nodes.len());
    let answered = nodes.iter().zip(started).map(|(name, started)| {
        started?;
        agent::wait_for_answer(lab, name, patience, &|| Ok(()))?;
        forget(lab, |fault| fault.ended() == Some(name))
    });
    gather("not every agent is up again; its fault still stands", answered)
}
