//! Taking a node out of the cluster whose agent is dead: `tartan node leave NODE`.

use tartan_api::rpc::{Failure, FailureCode};
use tartan_api::verb::{Left, LeftBlock};
use tartan_model::Node;
use tartan_store::{StoreError, blocks_of, withdraw};
use tracing::info;

use crate::entry::{EntryKey, NODES};
use crate::identity::LEASE;
use crate::serve::{Service, store};

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

impl Service {
    /// Takes out a node by its name, or by its id.
    pub(crate) fn remove_node(&self, node: &str) -> Result<Left, Removal> {
        let own = self.id.to_string();
        if node == own {
            return Err(Removal::This);
        }
        let mut found: Vec<(String, String)> = self.nodes_called(node)?;
        if found.iter().any(|(id, _)| *id == own) {
            return Err(Removal::This);
        }
        if found.is_empty() && !blocks_of(self.store.as_ref(), node)?.is_empty() {
            // Somebody took away its entry; its blocks tell its id.
            found.push((node.into(), node.into()));
        }
        if found.is_empty() {
            return Err(Removal::Refused(Failure {
                code: FailureCode::NotFound,
                message: format!("there is no node {node:?}; see those there are: tartan nodes"),
            }));
        }
        let mut left =
            Left { node: node.into(), blocks: Vec::new(), pods: Vec::new(), store: None, stays: Vec::new() };
        for (id, name) in found {
            left.node.clone_from(&name);
            left.blocks.extend(self.remove_one(&id, &name)?);
        }
        Ok(left)
    }

    /// The ids and names of the nodes that have this name or id.
    fn nodes_called(&self, node: &str) -> Result<Vec<(String, String)>, StoreError> {
        let entries = self.store.list(NODES)?.entries.into_iter();
        let nodes = entries.filter_map(|entry| serde_json::from_slice::<Node>(&entry.value).ok());
        let called = nodes.map(|node| (node.id.to_string(), node.name.to_string()));
        Ok(called.filter(|(id, name)| id == node || name == node).collect())
    }

    /// Holds the name meanwhile: its agent cannot come back while half of it is gone.
    fn remove_one(&self, id: &str, name: &str) -> Result<Vec<LeftBlock>, Removal> {
        let holder = format!("leaving:{}", self.id);
        match self.store.take_lease(name, &holder, LEASE, false) {
            Ok(()) => {}
            Err(StoreError::Held { expires_in, .. }) => {
                let seconds = expires_in.as_secs() + 1;
                return Err(Removal::Refused(Failure {
                    code: FailureCode::InUse,
                    message: format!(
                        "node {name} is alive: its agent holds the name for another {seconds} s; nothing was changed: run \
                         `tartan node leave` on it, or stop its agent and wait"
                    ),
                }));
            }
            Err(error) => return Err(error.into()),
        }
        let freed = withdraw(self.store.as_ref(), id);
        // If it cannot be given back, it is over soon.
        let _ = self.store.release_lease(name, &holder);
        let freed = freed?;
        info!("took node {name} ({id}) out of the cluster, with {} blocks", freed.len());
        let block = |key: String| match EntryKey::parse(&key) {
            Some(EntryKey::Block(network, block)) => Some(LeftBlock { network, block }),
            _ => None,
        };
        Ok(freed.into_iter().filter_map(block).collect())
    }
}
