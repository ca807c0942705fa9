//! What a lab remembers of itself, in `lab.json`: what it was asked for and what it made.
//!
//! Every change reads the file anew under a lock and replaces it whole, so that verbs may run at the same time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tartan_model::{ContainerId, Family, NetworkName, PodName};

use crate::error::Usage;
use crate::fault::Fault;
use crate::names::{LabName, LabNode};
use crate::store::LabStore;
use crate::wire::Layout;

/// The most nodes of a lab: a bridge has at most 1023 ports.
pub const MAX_NODES: u32 = 500;
/// The most pods of a lab.
pub const MAX_PODS: u32 = 5000;
/// The longest file that is read: 16 MiB.
const MAX_FILE: u64 = 16 << 20;

/// A lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Its name.
    pub name: LabName,
    /// The preset that it was made from.
    pub preset: String,
    /// The families that its pods have.
    pub families: Vec<Family>,
    /// The family that its nodes talk in.
    pub underlay: Family,
    /// Where its state is.
    #[serde(default)]
    pub store: LabStore,
    /// How many links join them.
    #[serde(default = "one")]
    pub links: u8,
    /// What `--set` changed, as it was written.
    pub settings: Vec<String>,
    /// The number of the next node; numbers are not used twice, as other nodes may remember an address.
    pub next_index: u32,
    /// Its nodes.
    pub nodes: Vec<NodeState>,
    /// Its pods.
    pub pods: Vec<PodState>,
    /// The faults that stand.
    pub faults: Vec<Fault>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeState {
    /// Its name.
    pub name: LabNode,
    /// Its number, counted from 0; its address follows from it.
    pub index: u32,
    /// Its address on the wire.
    pub address: IpAddr,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodState {
    /// Its name.
    pub name: PodName,
    /// The node that it is on.
    pub node: LabNode,
    /// The id that the plugin knows it by.
    pub container: ContainerId,
    /// The network that it is in.
    pub network: NetworkName,
    /// The addresses that the plugin gave it; none until then.
    pub addresses: Vec<IpAddr>,
    /// The labels that the plugin was told.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether `lab pod label` has written an object about it, which goes with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub declared: bool,
}

/// Labs of before there could be more have one link.
fn one() -> u8 {
    1
}

impl State {
    /// What its wire is like.
    pub fn layout(&self) -> Layout {
        Layout { underlay: self.underlay, links: self.links }
    }

    /// A node by its name.
    ///
    /// # Errors
    /// When there is none; says which there are.
    pub fn node(&self, name: &LabNode) -> Result<&NodeState> {
        let found = self.nodes.iter().find(|node| node.name == *name);
        found.with_context(|| {
            Usage(format!("lab {}: there is no node {name}; there are {}", self.name, self.node_list()))
        })
    }

    /// A pod by its name.
    ///
    /// # Errors
    /// When there is none.
    pub fn pod(&self, name: &PodName) -> Result<&PodState> {
        let found = self.pods.iter().find(|pod| pod.name == *name);
        found.with_context(|| {
            Usage(format!(
                "lab {}: there is no pod {name}; `tartan lab status` shows which there are",
                self.name
            ))
        })
    }

    /// The nodes whose agents nobody ended.
    pub fn running(&self) -> impl Iterator<Item = &NodeState> {
        let was_ended = |name| self.faults.iter().any(|fault| fault.ended() == Some(name));
        self.nodes.iter().filter(move |node| !was_ended(&node.name))
    }

    fn node_list(&self) -> String {
        let names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        names.join(", ")
    }
}

/// Whether there is such a file.
pub fn exists(lab: &LabName) -> bool {
    path(lab).exists()
}

/// Reads a lab's file.
///
/// # Errors
/// When the lab is not up, or its file is gone or unreadable.
pub fn load(lab: &LabName) -> Result<State> {
    let path = path(lab);
    let too_long = fs::metadata(&path).is_ok_and(|file| file.len() > MAX_FILE);
    if too_long {
        bail!("{}: longer than 16 MiB; take the lab down: tartan lab down --name {lab}", path.display());
    }
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!(Usage(format!("lab {lab} is not up; bring it up: tartan lab up --name {lab}")))
        }
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    serde_json::from_str(&text)
        .with_context(|| format!("{}: take the lab down: tartan lab down --name {lab}", path.display()))
}

/// Writes the file of a new lab.
///
/// # Errors
/// When the file cannot be written.
pub fn create(state: &State) -> Result<()> {
    let directory = state.name.directory();
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    write(state)
}

/// Changes a lab's file; nothing is written when the change fails.
///
/// # Errors
/// When the lab is not up, the change fails, or the file cannot be written.
pub fn change<T>(lab: &LabName, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
    let directory = lab.directory();
    let locked = File::open(&directory).ok().and_then(|file| Flock::lock(file, FlockArg::LockExclusive).ok());
    let mut state = load(lab)?;
    let result = change(&mut state)?;
    write(&state)?;
    drop(locked);
    Ok(result)
}

fn write(state: &State) -> Result<()> {
    let path = path(&state.name);
    let new = path.with_extension("json.new");
    let text = serde_json::to_string_pretty(state)?;
    File::create(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&new, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn path(lab: &LabName) -> PathBuf {
    lab.directory().join("lab.json")
}
