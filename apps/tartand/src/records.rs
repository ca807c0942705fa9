//! This node's own records: the choices that must outlive the agent. They survive kill -9 without an fsync.

use std::cell::Cell;
use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tartan_decide::{Fact, Record};
use tartan_model::{AttachmentKey, Cidr, Endpoint, NetworkName};
use tartan_store::{BlockKey, Durability, Entry, Expect, Sqlite, Store};
use tracing::warn;

const ENDPOINTS: &str = "endpoint/";
const RELEASED: &str = "released/";
const BRIDGES: &str = "bridge/";
/// Blocks that are this node's as far as it knows.
const HELD: &str = "held/";
/// The epoch that connections are judged in.
const EPOCH: &str = "epoch";
/// Written to see whether anything can be written.
const TRIED: &str = "tried";
/// How many released addresses are remembered over a restart.
const MAX_RELEASED: usize = 65_536;

/// After how many transactions the write-ahead log, some megabytes by then, is moved into the file.
const CHECKPOINT: u32 = 100;

/// The records.
pub(crate) struct Records {
    store: Sqlite,
    /// Transactions since the log was moved.
    written: Cell<u32>,
    /// Asks a thread of its own for that, as it waits for the disk and an ADD must not.
    full: Sender<()>,
}

/// The number of a network's bridge, as it is kept.
#[derive(Serialize, Deserialize)]
struct Number {
    number: u32,
}

/// A pod's interface, as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    endpoint: Endpoint,
    /// The runtime was not told of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    adding: bool,
}

impl Records {
    /// Opens the records of a state folder.
    pub(crate) fn open(state_dir: &Path) -> anyhow::Result<Records> {
        let path = state_dir.join("records.db");
        let open = || Sqlite::open(&path).context("the node's own records");
        let (store, other) = (open()?, open()?);
        store.leave_log()?;
        let (full, told) = channel();
        let mover = move || {
            while told.recv().is_ok() {
                if let Err(error) = other.checkpoint() {
                    warn!("the log of the records grows: {error}");
                }
            }
        };
        thread::Builder::new().name("records-log".into()).spawn(mover).context("cannot start a thread")?;
        Ok(Records { store, written: Cell::new(0), full })
    }

    /// Everything kept, as facts in the order in which they have to be learned.
    ///
    /// # Errors
    /// Also when a record is not understood: what it holds might be given away a second time, and a pod be cut off.
    pub(crate) fn facts(&self) -> anyhow::Result<Vec<Fact>> {
        let mut facts: Vec<Fact> = self.read(BRIDGES, bridge)?;
        facts.extend(self.read(HELD, held)?);
        let endpoints: Vec<Kept> = self.read(ENDPOINTS, |entry| serde_json::from_slice(&entry.value).ok())?;
        for Kept { endpoint, adding } in endpoints {
            let key = endpoint.key.clone();
            facts.push(Fact::Restored(endpoint));
            if adding {
                warn!("container {key}: its ADD was not finished by the last agent, and is taken back");
                facts.push(Fact::Detach(key));
            }
        }
        self.forget_old_releases()?;
        facts.extend(self.read(RELEASED, released)?);
        facts.extend(self.read(EPOCH, epoch)?);
        Ok(facts)
    }

    /// Keeps choices that belong together: all of them, or none.
    pub(crate) fn keep(&self, records: &[Record]) -> anyhow::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let writes: Vec<_> = records.iter().map(write).collect::<Result<_, _>>()?;
        self.store.write_all(&writes)?;
        self.written.set(self.written.get() + 1);
        if self.written.get() >= CHECKPOINT {
            self.written.set(0);
            // It ends with the agent only.
            let _ = self.full.send(());
        }
        Ok(())
    }

    /// Whether they are still there.
    pub(crate) fn look(&self) -> anyhow::Result<()> {
        Ok(self.store.get(TRIED).map(drop)?)
    }

    /// Keeps these and something more, so that it is known whether anything can be kept.
    pub(crate) fn try_out(&self, records: &[Record]) -> anyhow::Result<()> {
        self.keep(records)?;
        Ok(self.store.put(TRIED, b"", Expect::Any, Durability::Crash).map(drop)?)
    }

    /// What is kept below a prefix, the oldest first.
    fn read<T>(&self, prefix: &str, fact: impl Fn(&Entry) -> Option<T>) -> anyhow::Result<Vec<T>> {
        let mut entries = self.store.list(prefix)?.entries;
        entries.sort_by_key(|entry| entry.revision);
        entries.iter().map(|entry| fact(entry).with_context(|| misunderstood(&entry.key))).collect()
    }

    fn forget_old_releases(&self) -> anyhow::Result<()> {
        let mut entries = self.store.list(RELEASED)?.entries;
        entries.sort_by_key(|entry| entry.revision);
        let old = entries.into_iter().rev().skip(MAX_RELEASED).map(|entry| (entry.key, None));
        Ok(self.store.write_all(&old.collect::<Vec<_>>())?)
    }
}

fn misunderstood(key: &str) -> String {
    format!("record {key} in records.db is not understood: run the release that wrote it, or put back a copy")
}

/// The key and value that a record is kept as; no value takes it away.
fn write(record: &Record) -> anyhow::Result<(String, Option<Vec<u8>>)> {
    Ok(match record {
        Record::Adding(endpoint) => (endpoint_key(&endpoint.key), Some(kept(endpoint, true)?)),
        Record::Endpoint(endpoint) => (endpoint_key(&endpoint.key), Some(kept(endpoint, false)?)),
        Record::EndpointGone(key) => (endpoint_key(key), None),
        Record::Released(network, block, address) => {
            (released_key(network, block, *address), Some(b"null".to_vec()))
        }
        Record::Forgotten(network, block, address) => (released_key(network, block, *address), None),
        Record::Held(network, block) => (held_key(network, block), Some(b"null".to_vec())),
        Record::HeldNoMore(network, block) => (held_key(network, block), None),
        Record::Bridge(network, number) => {
            (format!("{BRIDGES}{network}"), Some(serde_json::to_vec(&Number { number: *number })?))
        }
        Record::Epoch(number) => (EPOCH.into(), Some(serde_json::to_vec(number)?)),
    })
}

fn kept(endpoint: &Endpoint, adding: bool) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Kept { endpoint: endpoint.clone(), adding })
}

fn endpoint_key(key: &AttachmentKey) -> String {
    format!("{ENDPOINTS}{}/{}", key.container, key.interface)
}

fn released_key(network: &NetworkName, block: &Cidr, address: IpAddr) -> String {
    format!("{RELEASED}{}/{address}", BlockKey { network: network.clone(), block: *block })
}

fn held_key(network: &NetworkName, block: &Cidr) -> String {
    format!("{HELD}{}", BlockKey { network: network.clone(), block: *block })
}

fn held(entry: &Entry) -> Option<Fact> {
    let BlockKey { network, block } = entry.key.strip_prefix(HELD)?.parse().ok()?;
    Some(Fact::Held(network, block))
}

fn bridge(entry: &Entry) -> Option<Fact> {
    let network: NetworkName = entry.key.strip_prefix(BRIDGES)?.parse().ok()?;
    let number: Number = serde_json::from_slice(&entry.value).ok()?;
    Some(Fact::Bridge(network, number.number))
}

fn epoch(entry: &Entry) -> Option<Fact> {
    serde_json::from_slice(&entry.value).ok().map(Fact::Epoch)
}

fn released(entry: &Entry) -> Option<Fact> {
    let (block, address) = entry.key.strip_prefix(RELEASED)?.rsplit_once('/')?;
    let BlockKey { network, block } = block.parse().ok()?;
    Some(Fact::Released(network, block, address.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"{"key": {"container": "c1", "interface": "eth0"}, "pod": "default/web", "network": "blue",
        "attachment": "routed", "addresses": ["10.0.0.2"], "blocks": ["10.0.0.0/24"], "mac": "02:00:00:00:00:01",
        "link": "tt0123456789ab", "netns": {"path": "/run/netns/x", "device": 4, "inode": 7}}"#;

    fn kept_as(text: &str) -> Vec<Fact> {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        records.store.write_all(&[("endpoint/c1/eth0".into(), Some(text.into()))]).unwrap();
        records.facts().unwrap()
    }

    #[test]
    fn a_record_of_before_is_of_no_list_and_leads_everywhere() {
        let facts = kept_as(OLD);
        let [Fact::Restored(endpoint)] = facts.as_slice() else { unreachable!("{facts:?}") };
        assert_eq!(endpoint.list, None);
        assert_eq!(
            endpoint.routes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["0.0.0.0/0", "::/0"]
        );
    }

    #[test]
    fn what_was_not_answered_is_taken_back() {
        let text = OLD.replacen('{', r#"{"adding": true, "#, 1);
        let facts = kept_as(&text);
        assert!(matches!(facts.as_slice(), [Fact::Restored(_), Fact::Detach(_)]), "{facts:?}");
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let facts = kept_as(OLD);
        let [Fact::Restored(endpoint)] = facts.as_slice() else { unreachable!("{facts:?}") };
        let mut endpoint = endpoint.clone();
        endpoint.list = "blue_1".parse().ok();
        endpoint.routes.truncate(1);
        let records = Records::open(folder.path()).unwrap();
        records.keep(&[Record::Adding(endpoint.clone())]).unwrap();
        assert_eq!(records.facts().unwrap().len(), 2);
        records.keep(&[Record::Endpoint(endpoint.clone())]).unwrap();
        assert_eq!(records.facts().unwrap(), [Fact::Restored(endpoint)]);
        let (network, block): (NetworkName, Cidr) = ("blue".parse().unwrap(), "10.0.0.0/24".parse().unwrap());
        records.keep(&[Record::Held(network.clone(), block)]).unwrap();
        assert_eq!(records.facts().unwrap().first(), Some(&Fact::Held(network.clone(), block)));
        records.keep(&[Record::HeldNoMore(network.clone(), block)]).unwrap();
        let address = "10.0.0.9".parse().unwrap();
        records.keep(&[Record::Released(network, block, address)]).unwrap();
        let facts = records.facts().unwrap();
        let [_, Fact::Released(network, block, address)] = facts.as_slice() else {
            unreachable!("{facts:?}")
        };
        records.keep(&[Record::Forgotten(network.clone(), *block, *address)]).unwrap();
        assert_eq!(records.facts().unwrap().len(), 1);
    }
}
