//! Pods of a lab: a namespace, an interface made by the real plugin, and a responder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tartan_kernel::netns;
use tartan_model::{ContainerId, NetworkName, PodName};

use crate::down::end_processes;
use crate::error::{Usage, gather};
use crate::names::{LabName, LabNode};
use crate::programs::{Programs, spawn_in};
use crate::state::{self, MAX_PODS, PodState};
use crate::{agent, cni, label, wire};

/// The longest word of a responder about itself.
const MAX_WORD: u64 = 4096;

/// A pod to be made.
#[derive(Debug, Clone)]
pub struct NewPod {
    /// Its name.
    pub name: PodName,
    /// The node that it is to be on.
    pub node: LabNode,
    /// The network that it is to be in.
    pub network: NetworkName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Makes a pod; one that fails leaves nothing behind.
///
/// # Errors
/// When there is such a pod or no such node, or the plugin refuses.
pub fn add(lab: &LabName, new: &NewPod, programs: &Programs) -> Result<PodState> {
    let pod = claim(lab, new)?;
    match make(lab, &pod, programs) {
        Ok(pod) => Ok(pod),
        Err(error) => {
            // The first error is the one to tell; `down` finds what these may leave.
            cni::del(lab, &pod).ok();
            clear(lab, &pod.name).ok();
            forget(lab, &pod.name).ok();
            Err(error)
        }
    }
}

/// Takes a pod away, through the plugin, and what `lab pod label` wrote about it.
///
/// # Errors
/// When there is none, or the plugin refuses; the pod is as it was then. When no agent takes back what was written.
pub fn remove(lab: &LabName, name: &PodName) -> Result<()> {
    let state = state::load(lab)?;
    let pod = state.pod(name)?;
    cni::del(lab, pod)?;
    clear(lab, name)?;
    if pod.declared {
        label::forget(&state, name)
            .with_context(|| format!("pod {name} is gone, but not what was written about it"))?;
    }
    forget(lab, name)
}

/// Ends what runs in a pod and takes its namespace away.
///
/// # Errors
/// When something does not end.
pub fn clear(lab: &LabName, name: &PodName) -> Result<()> {
    let netns = lab.pod_netns(name);
    let ended = end_processes(std::slice::from_ref(&netns));
    gather(&format!("pod {name}"), [ended, netns::remove(&netns).map(drop).map_err(Into::into)])
}

/// Takes a pod out of the lab's file.
///
/// # Errors
/// When the file cannot be written.
pub fn forget(lab: &LabName, name: &PodName) -> Result<()> {
    state::change(lab, |state| {
        state.pods.retain(|pod| pod.name != *name);
        Ok(())
    })
}

/// Writes the pod down before it is made, so that the name is taken and its container id is never lost.
fn claim(lab: &LabName, new: &NewPod) -> Result<PodState> {
    let pod = PodState {
        name: new.name.clone(),
        node: new.node.clone(),
        container: container_id()?,
        network: new.network.clone(),
        addresses: Vec::new(),
        labels: new.labels.clone(),
        declared: false,
    };
    state::change(lab, |state| {
        state.node(&pod.node)?;
        if state.pods.iter().any(|other| other.name == pod.name) {
            bail!(Usage(format!("lab {lab}: there is a pod {} already; take another name", pod.name)));
        }
        if state.pods.len() >= MAX_PODS as usize {
            bail!(Usage(format!("lab {lab}: it has {MAX_PODS} pods, which is the most")));
        }
        state.pods.push(pod.clone());
        Ok(())
    })?;
    Ok(pod)
}

fn make(lab: &LabName, pod: &PodState, programs: &Programs) -> Result<PodState> {
    let netns = wire::namespace(&lab.pod_netns(&pod.name))?;
    let addresses = cni::add(lab, pod, &pod.labels)?;
    start_responder(netns.as_fd(), &pod.name, programs)?;
    state::change(lab, |state| {
        if let Some(pod) = state.pods.iter_mut().find(|other| other.name == pod.name) {
            pod.addresses.clone_from(&addresses);
        }
        Ok(())
    })?;
    Ok(PodState { addresses, ..pod.clone() })
}

/// Starts a pod's responder and waits until it listens.
fn start_responder(netns: BorrowedFd<'_>, name: &PodName, programs: &Programs) -> Result<()> {
    let mut command = Command::new(programs.tartan());
    agent::without_our_settings(&mut command);
    command.args(["lab", "respond", "--pod", &name.to_string()]).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = spawn_in(netns, &mut command)?;
    let stdout = child.stdout.take().context("the responder has no output")?;
    let mut word = String::new();
    BufReader::new(stdout.take(MAX_WORD)).read_line(&mut word)?;
    match word.trim() {
        "ready" => Ok(()),
        "" => bail!("pod {name}: the responder ended before it listened"),
        word => bail!("pod {name}: the responder says: {word}"),
    }
}

/// 32 random hexadecimal digits.
fn container_id() -> Result<ContainerId> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)).parse()?)
}
