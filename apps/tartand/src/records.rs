//! This node's own records: the choices that must outlive the agent. They survive kill -9 without an fsync.

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tartan_decide::{Fact, Record};
use tartan_model::{AttachmentKey, Cidr, Endpoint, NetworkName};
use tartan_store::{Entry, Sqlite, Store};
use tracing::warn;

const ENDPOINTS: &str = "endpoint/";
const RELEASED: &str = "released/";
const BRIDGES: &str = "bridge/";
/// How many released addresses are remembered over a restart.
const MAX_RELEASED: usize = 65_536;

/// The records.
pub(crate) struct Records {
    store: Sqlite,
}

/// The number of a network's bridge, as it is kept.
#[derive(Serialize, Deserialize)]
struct Number {
    number: u32,
}

impl Records {
    /// Opens the records of a state folder.
    pub(crate) fn open(state_dir: &Path) -> anyhow::Result<Records> {
        let path = state_dir.join("records.db");
        Ok(Records { store: Sqlite::open(&path).context("the node's own records")? })
    }

    /// Everything kept, as facts in the order in which they have to be learned.
    pub(crate) fn facts(&self) -> anyhow::Result<Vec<Fact>> {
        let mut facts: Vec<Fact> = self.read(BRIDGES, bridge)?;
        facts.extend(self.read(ENDPOINTS, |entry| {
            serde_json::from_slice::<Endpoint>(&entry.value).ok().map(Fact::Restored)
        })?);
        self.forget_old_releases()?;
        facts.extend(self.read(RELEASED, released)?);
        Ok(facts)
    }

    /// Keeps choices that belong together: all of them, or none.
    pub(crate) fn keep(&self, records: &[Record]) -> anyhow::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let writes: Vec<_> = records.iter().map(write).collect::<Result<_, _>>()?;
        Ok(self.store.write_all(&writes)?)
    }

    /// The facts below a prefix, the oldest first.
    fn read(&self, prefix: &str, fact: impl Fn(&Entry) -> Option<Fact>) -> anyhow::Result<Vec<Fact>> {
        let mut entries = self.store.list(prefix)?.entries;
        entries.sort_by_key(|entry| entry.revision);
        let understood = entries.iter().filter_map(|entry| {
            let found = fact(entry);
            if found.is_none() {
                warn!("record {} is not understood and left alone", entry.key);
            }
            found
        });
        Ok(understood.collect())
    }

    fn forget_old_releases(&self) -> anyhow::Result<()> {
        let mut entries = self.store.list(RELEASED)?.entries;
        entries.sort_by_key(|entry| entry.revision);
        let old = entries.into_iter().rev().skip(MAX_RELEASED).map(|entry| (entry.key, None));
        Ok(self.store.write_all(&old.collect::<Vec<_>>())?)
    }
}

/// The key and value that a record is kept as; no value takes it away.
fn write(record: &Record) -> anyhow::Result<(String, Option<Vec<u8>>)> {
    Ok(match record {
        Record::Endpoint(endpoint) => (endpoint_key(&endpoint.key), Some(serde_json::to_vec(endpoint)?)),
        Record::EndpointGone(key) => (endpoint_key(key), None),
        Record::Released(network, block, address) => {
            let block = format!("{}-{}", block.first(), block.length());
            (format!("{RELEASED}{network}/{block}/{address}"), Some(b"null".to_vec()))
        }
        Record::Bridge(network, number) => {
            (format!("{BRIDGES}{network}"), Some(serde_json::to_vec(&Number { number: *number })?))
        }
    })
}

fn endpoint_key(key: &AttachmentKey) -> String {
    format!("{ENDPOINTS}{}/{}", key.container, key.interface)
}

fn bridge(entry: &Entry) -> Option<Fact> {
    let network: NetworkName = entry.key.strip_prefix(BRIDGES)?.parse().ok()?;
    let number: Number = serde_json::from_slice(&entry.value).ok()?;
    Some(Fact::Bridge(network, number.number))
}

fn released(entry: &Entry) -> Option<Fact> {
    let mut parts = entry.key.strip_prefix(RELEASED)?.splitn(3, '/');
    let network: NetworkName = parts.next()?.parse().ok()?;
    let (first, length) = parts.next()?.rsplit_once('-')?;
    let block: Cidr = format!("{first}/{length}").parse().ok()?;
    Some(Fact::Released(network, block, parts.next()?.parse().ok()?))
}
