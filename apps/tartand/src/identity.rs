//! Who this node is: an id kept on disk, a name held in the store, and a lock so that it is that only once.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, UnixCredentials, bind, connect, getsockopt, listen,
    socket,
};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use tartan_model::{Node, NodeId, NodeName};
use tartan_store::{Durability, EntryKey, Expect, NODES, Owner, Store, StoreError};
use thiserror::Error;
use tracing::{info, warn};

use crate::config::Config;
use crate::entry::{HEARD, WAITS};

/// How long a node is thought alive after its last renewal.
pub(crate) const LEASE: Duration = Duration::from_secs(15);

/// How long a killed agent may still hold its locks: until the last of its threads is gone, which is after its first.
const DYING: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// This node's id and name.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) id: NodeId,
    pub(crate) name: NodeName,
}

/// The name is another live node's.
#[derive(Debug, Error)]
#[error(
    "the name {name} is held by the live node {holder} for another {} s; choose another node_name, or take it over with --take-over",
    left.as_secs()
)]
pub(crate) struct NameHeld {
    name: NodeName,
    holder: String,
    left: Duration,
}

/// As long as this lives, no second agent runs on this node.
pub(crate) struct Lock {
    _state: Flock<File>,
    _namespace: Option<OwnedFd>,
}

impl Lock {
    /// Locks the state folder and, by a name in the abstract socket space, the network namespace.
    pub(crate) fn take(config: &Config) -> anyhow::Result<Lock> {
        let taken = |what: String| {
            anyhow!(
                "another tartand runs on this node: it holds {what}; stop it first, or look at it: tartan status"
            )
        };
        fs::create_dir_all(&config.state_dir)
            .with_context(|| format!("cannot make the state folder {}", config.state_dir.display()))?;
        let path = config.state_dir.join("tartand.lock");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let until = Instant::now() + DYING;
        let state = lock_file(file, until).map_err(|_| taken(path.display().to_string()))?;
        loop {
            if let Some(namespace) = claim_namespace()? {
                return Ok(Lock { _state: state, _namespace: Some(namespace) });
            }
            if Instant::now() >= until {
                break;
            }
            sleep(PAUSE);
        }
        match holder_of_namespace()? {
            Some(holder) if holder.uid() != geteuid().as_raw() => {
                warn!(
                    "process {} of another user holds this namespace's lock; going on without",
                    holder.pid()
                );
                Ok(Lock { _state: state, _namespace: None })
            }
            _ => Err(taken("this network namespace".into())),
        }
    }
}

fn lock_file(mut file: File, until: Instant) -> nix::Result<Flock<File>> {
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, error)) if Instant::now() >= until => return Err(error),
            Err((back, _)) => file = back,
        }
        sleep(PAUSE);
    }
}

/// The name of the lock of a network namespace: each has one of that name (unix(7), abstract sockets).
const NAMESPACE: &[u8] = b"tartand";

/// Listens under the name; None if somebody does already.
fn claim_namespace() -> anyhow::Result<Option<OwnedFd>> {
    let own = open_namespace()?;
    if bind(own.as_raw_fd(), &UnixAddr::new_abstract(NAMESPACE)?).is_err() {
        return Ok(None);
    }
    listen(&own, Backlog::MAXCONN)?;
    Ok(Some(own))
}

/// Who listens under the name; None if that cannot be told. Anybody may take such a name, so one that is not of our user's
/// only costs us this lock. Nobody accepts, so each question stays in its queue: asked once a start, and never waited for.
fn holder_of_namespace() -> anyhow::Result<Option<UnixCredentials>> {
    let other = open_namespace()?;
    let name = UnixAddr::new_abstract(NAMESPACE)?;
    let holder = connect(other.as_raw_fd(), &name).and_then(|()| getsockopt(&other, PeerCredentials));
    Ok(holder.ok())
}

fn open_namespace() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

/// The id as it is kept; what a later release writes beside it is passed over.
#[derive(Serialize, Deserialize)]
struct Kept {
    id: NodeId,
}

impl Identity {
    /// The id on disk, or a new one that is on disk before it is used.
    pub(crate) fn load_or_make(config: &Config) -> anyhow::Result<Identity> {
        let path = config.state_dir.join("node.json");
        let id = match fs::read(&path) {
            Ok(text) => {
                let kept: Kept = serde_json::from_slice(&text).with_context(|| {
                    format!("{}: not a node id; move the file away to become a new node", path.display())
                })?;
                kept.id
            }
            Err(error) if error.kind() == ErrorKind::NotFound => make(&path)?,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        Ok(Identity { id, name: config.node_name.clone() })
    }

    /// Takes the name's lease; what a node of that name with another id left is taken over.
    pub(crate) fn register(&self, store: &dyn Store, force: bool) -> anyhow::Result<()> {
        let holder = self.id.to_string();
        match store.take_lease(self.name.as_str(), &holder, LEASE, force) {
            Ok(()) => {}
            Err(StoreError::Held { holder, expires_in: left, .. }) => {
                return Err(NameHeld { name: self.name.clone(), holder, left }.into());
            }
            Err(error) => return Err(error).context("cannot take the node's name in the store"),
        }
        self.forget_waits(store).context("cannot take back what an earlier run waited for")?;
        self.inherit(store).context("cannot take over what the node of this name had")
    }

    /// Nobody waits any more for what an agent of before was asked.
    fn forget_waits(&self, store: &dyn Store) -> Result<(), StoreError> {
        for prefix in [WAITS, HEARD] {
            for entry in store.list(&format!("{prefix}{}-", self.id))?.entries {
                store.delete(&entry.key, Expect::Any)?;
            }
        }
        Ok(())
    }

    /// Blocks of the nodes that had this name before become this node's; their entries go.
    fn inherit(&self, store: &dyn Store) -> anyhow::Result<()> {
        for entry in store.list(NODES)?.entries {
            let Ok(node) = serde_json::from_slice::<Node>(&entry.value) else { continue };
            if node.name != self.name || node.id == self.id {
                continue;
            }
            info!("taking over from node {} of the same name", node.id);
            // Its pods are gone, or this node tells of them.
            tartan_store::forget_endpoints(store, node.id)?;
            self.inherit_blocks(store, node.id)?;
            store.delete(&EntryKey::Node(node.id).to_string(), Expect::Any)?;
        }
        Ok(())
    }

    fn inherit_blocks(&self, store: &dyn Store, from: NodeId) -> anyhow::Result<()> {
        let mine = Owner::text(self.id);
        for entry in tartan_store::blocks_of(store, from)? {
            store.put(&entry.key, &mine, Expect::Revision(entry.revision), Durability::Power)?;
        }
        Ok(())
    }
}

fn make(path: &Path) -> anyhow::Result<NodeId> {
    let mut bytes = [0; 16];
    random(&mut bytes)?;
    let kept = Kept { id: NodeId::from_bytes(bytes) };
    write_durably(path, &serde_json::to_vec(&kept)?)
        .with_context(|| format!("cannot keep the node's id in {}", path.display()))?;
    Ok(kept.id)
}

/// Fills the bytes with chance.
pub(crate) fn random(bytes: &mut [u8]) -> anyhow::Result<()> {
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(bytes)).context("cannot read /dev/urandom")
}

/// Writes a file so that after a loss of power it is there whole or not at all.
fn write_durably(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let Some(folder) = path.parent() else { bail!("{} is no file", path.display()) };
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()?;
    Ok(())
}
