//! Taking a node out of the cluster whose agent is dead: `tartan node leave NODE`.
//!
//! What there is of it may be anywhere: its entry and blocks in the store, its name's lease, and, where the store was
//! wiped since it died, the memories of the agents that go on.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tartan_api::rpc::{Answer, Failure, FailureCode};
use tartan_api::verb::{Left, LeftBlock};
use tartan_model::{Node, NodeId};
use tartan_store::{BlockKey, Durability, EntryKey, Expect, NODES, Owner, StoreError, blocks_of, withdraw};
use tracing::info;

use crate::identity::LEASE;
use crate::input::Question;
use crate::ring::Ring;
use crate::serve::{Service, ok, store};

/// Why a node is not taken out from here.
pub(crate) enum Removal {
    /// It is this one.
    This,
    /// It may not be.
    Refused(Failure),
}

impl From<StoreError> for Removal {
    fn from(error: StoreError) -> Removal {
        Removal::Refused(store(error))
    }
}

/// What this agent knows of a node, whether the store has it or not.
#[derive(Default, Serialize, Deserialize)]
struct Known {
    node: Option<Node>,
    blocks: Vec<LeftBlock>,
}

/// What this agent knows of the nodes that a name or an id stands for.
#[derive(Default, Serialize, Deserialize)]
struct Memories {
    nodes: BTreeMap<NodeId, Known>,
    /// How long ago the store was found to have lost something, as long as something of it is missing.
    lost: Option<Duration>,
}

/// A node to be taken out.
struct Found {
    name: String,
    in_store: bool,
    known: Known,
}

impl Ring {
    /// What is known of the nodes of this name or id.
    pub(crate) fn memories(&self, called: &str) -> Answer {
        let nodes = self.world.nodes().filter(|node| is_called(node, called));
        let mut found: BTreeMap<NodeId, Known> =
            nodes.map(|node| (node.id, Known { node: Some(node.clone()), ..Known::default() })).collect();
        if let Ok(id) = called.parse() {
            found.entry(id).or_default();
        }
        for (network, block, owner) in self.world.blocks() {
            if let Some(known) = found.get_mut(owner) {
                known.blocks.push(LeftBlock { network: network.clone(), block: *block });
            }
        }
        found.retain(|_, known| known.node.is_some() || !known.blocks.is_empty());
        ok(&Memories { nodes: found, lost: self.lost_at.map(|at| at.elapsed()) })
    }
}

fn is_called(node: &Node, called: &str) -> bool {
    node.name.as_str() == called || node.id.to_string() == called
}

impl Service {
    /// Takes out a node by its name, or by its id.
    pub(crate) fn remove_node(&self, node: &str) -> Result<Left, Removal> {
        if node == self.id.to_string() {
            return Err(Removal::This);
        }
        let memories = self.remember(node);
        let found = self.find(node, memories.nodes)?;
        if found.contains_key(&self.id) {
            return Err(Removal::This);
        }
        if found.is_empty() {
            return Err(Removal::Refused(Failure {
                code: FailureCode::NotFound,
                message: format!("there is no node {node:?}; see those there are: tartan nodes"),
            }));
        }
        let mut left =
            Left { node: node.into(), blocks: Vec::new(), pods: Vec::new(), store: None, stays: Vec::new() };
        for (id, found) in found {
            // One that lives holds no lease either until it has seen that the store is another.
            if let Some(lost) = memories.lost.filter(|lost| !found.in_store && *lost < LEASE) {
                return Err(may_live(&found.name, LEASE.saturating_sub(lost)));
            }
            left.node.clone_from(&found.name);
            left.blocks.extend(self.remove_one(id, &found)?);
        }
        Ok(left)
    }

    /// What the ring knows; if it cannot say, the store's word is enough.
    fn remember(&self, node: &str) -> Memories {
        match self.ask(Question::Memories(node.into())) {
            Answer::Ok(told) => serde_json::from_value(told).unwrap_or_default(),
            Answer::Error(_) => Memories::default(),
        }
    }

    /// Everything that goes by this name or id, wherever it is.
    fn find(
        &self,
        called: &str,
        memories: BTreeMap<NodeId, Known>,
    ) -> Result<BTreeMap<NodeId, Found>, StoreError> {
        let mut found = BTreeMap::new();
        for entry in self.store.list(NODES)?.entries {
            let Ok(node) = serde_json::from_slice::<Node>(&entry.value) else { continue };
            if is_called(&node, called) {
                found.insert(node.id, Found::new(node.name.as_str(), true));
            }
        }
        let leases = self.store.leases()?;
        let lives =
            |holder: &str| leases.iter().find(|lease| lease.holder == holder && lease.expires_in.is_some());
        for lease in &leases {
            // What holds a name for a moment only is no node, and a name that a living node had before is not its.
            let Ok(id) = lease.holder.parse() else { continue };
            let is_former = lease.expires_in.is_none() && (id == self.id || lives(&lease.holder).is_some());
            if !is_former && (lease.name == called || lease.holder == called) {
                found.entry(id).or_insert_with(|| Found::new(&lease.name, true));
            }
        }
        // Somebody took away its entry; its blocks tell its id.
        if let Ok(id) = called.parse()
            && !found.contains_key(&id)
            && !blocks_of(self.store.as_ref(), id)?.is_empty()
        {
            found.insert(id, Found::new(called, true));
        }
        for (id, known) in memories {
            let name = known.node.as_ref().map_or(called, |node| node.name.as_str());
            let found = found.entry(id).or_insert_with(|| Found::new(name, false));
            found.known = known;
        }
        // By the name that it lives under it is told to be alive.
        for (id, found) in &mut found {
            if let Some(lease) = lives(&id.to_string()) {
                found.name.clone_from(&lease.name);
            }
        }
        Ok(found)
    }

    /// Holds the name meanwhile: its agent cannot come back while half of it is gone.
    fn remove_one(&self, id: NodeId, found: &Found) -> Result<Vec<LeftBlock>, Removal> {
        let (holder, name) = (format!("leaving:{}", self.id), found.name.as_str());
        match self.store.take_lease(name, &holder, LEASE, false) {
            Ok(()) => {}
            Err(StoreError::Held { expires_in, .. }) => return Err(is_alive(name, expires_in)),
            Err(error) => return Err(error.into()),
        }
        let freed = self.put_before(id, &found.known).and_then(|()| withdraw(self.store.as_ref(), id));
        // If it cannot be given back, it is over soon.
        let _ = self.store.release_lease(name, &holder);
        let freed = freed?;
        info!("took node {name} ({id}) out of the cluster, with {} blocks", freed.len());
        let block = |BlockKey { network, block }| LeftBlock { network, block };
        Ok(freed.into_iter().map(block).collect())
    }

    /// Puts into the store what only memory has of a node: that it then goes from there is told to every agent that
    /// remembers it.
    fn put_before(&self, id: NodeId, known: &Known) -> Result<(), StoreError> {
        let node =
            known.node.iter().filter_map(|node| Some((EntryKey::Node(id), serde_json::to_vec(node).ok()?)));
        let block =
            |LeftBlock { network, block }: &LeftBlock| (EntryKey::block(network, *block), Owner::text(id));
        for (key, value) in node.chain(known.blocks.iter().map(block)) {
            match self.store.put(&key.to_string(), &value, Expect::Absent, Durability::Crash) {
                // What is there is taken out if it is this node's, and another's if not.
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Found {
    fn new(name: &str, in_store: bool) -> Found {
        Found { name: name.into(), in_store, known: Known::default() }
    }
}

fn is_alive(name: &str, left: Duration) -> Removal {
    let seconds = left.as_secs() + 1;
    Removal::Refused(Failure {
        code: FailureCode::InUse,
        message: format!(
            "node {name} is alive: its agent holds the name for another {seconds} s; nothing was changed: run \
             `tartan node leave` on it, or stop its agent and wait"
        ),
    })
}

fn may_live(name: &str, left: Duration) -> Removal {
    let seconds = left.as_secs() + 1;
    Removal::Refused(Failure {
        code: FailureCode::InUse,
        message: format!(
            "the store has just lost node {name}, which may be alive and about to put itself back; nothing was changed: \
             try again in {seconds} s"
        ),
    })
}
