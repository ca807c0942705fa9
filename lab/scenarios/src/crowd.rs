//! A crowd of peers: nodes that are only in the store, for a lab of one or two real ones.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tartan_host::Row;
use tartan_kernel::{Kernel, Marks, netns};
use tartan_store::Sqlite;

use crate::Lab;

/// The pools that a crowd's blocks are in: what the lab's network has to have, as a setting.
pub const CROWD_POOLS: &str =
    r#"pools=[{cidr: 10.0.0.0/8, blockSize: 24}, {cidr: "fd00:10::/40", blockSize: 64}]"#;

/// The most pods of a peer.
pub const PER_PEER: usize = 250;

/// How many entries are written at once.
const AT_ONCE: usize = 500;

impl Lab {
    /// Writes peers of these numbers into the lab's store, which is a file, each with a block of each family.
    #[track_caller]
    pub fn add_crowd(&self, peers: Range<usize>) {
        let entries: Vec<_> = peers.flat_map(peer).collect();
        self.write_entries(&entries);
    }

    /// The lab's store, which is a file. To open it takes some milliseconds, as it is looked through.
    #[track_caller]
    pub fn open_store(&self) -> Sqlite {
        Sqlite::open(&self.file("store", "tartan.db")).expect("the store")
    }

    /// Writes entries into the lab's store, which is a file, or takes them out of it.
    #[track_caller]
    pub fn write_entries(&self, entries: &[(String, Option<Vec<u8>>)]) {
        let store = self.open_store();
        for some in entries.chunks(AT_ONCE) {
            store.write_all(some).expect("to write");
        }
    }

    /// Takes from a node's kernel what its agent has put there for peers, as a reboot does.
    #[track_caller]
    pub fn forget_kernel(&self, node: &str) {
        self.on_node(node, &["ip", "link", "delete", "tartan.1"]);
        for family in ["bridge", "arp", "inet"] {
            self.on_node(node, &["nft", "delete", "table", family, "tartan"]);
        }
    }

    /// Waits until a route of each family to every peer is in a node's kernel, which must be so in time.
    #[track_caller]
    pub fn wait_for_routes(&self, node: &str, peers: usize, patience: Duration) {
        let netns = netns::open(&self.netns(node)).expect("the node's namespace");
        let mut kernel = Kernel::open_in(netns.as_fd(), Marks::Node).expect("its kernel");
        let deadline = Instant::now() + patience;
        loop {
            kernel.read(&[]).expect("to read");
            let to_peers = |row: &Row| matches!(row, Row::Route(route) if route.link().is_some());
            let routes = kernel.read_routes().expect("to read").into_iter().filter(to_peers).count();
            if routes >= 2 * peers {
                return;
            }
            assert!(Instant::now() < deadline, "{routes} of {} routes", 2 * peers);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The entry of a pod of a peer, by both their numbers, with an address of each family from the peer's blocks and with
/// labels, as in `role=r1,app=a1`; without labels there is none.
pub fn pod_of_peer(peer: usize, number: usize, labels: Option<&str>) -> (String, Option<Vec<u8>>) {
    assert!(number < PER_PEER, "a block has no room for {number}");
    let (block, host) = (peer + 256, number + 2);
    let published = labels.map(|labels| {
        let labels: BTreeMap<&str, &str> =
            labels.split(',').map(|label| label.split_once('=').expect("KEY=VALUE")).collect();
        let addresses =
            [format!("10.{}.{}.{host}", block / 256, block % 256), format!("fd00:10:0:{block:x}::{host:x}")];
        let pod = format!("default/peer-{peer}-{number}");
        let published =
            serde_json::json!({"pod": pod, "network": "default", "addresses": addresses, "labels": labels});
        published.to_string().into_bytes()
    });
    (format!("endpoint/{}/c{number}/eth0", id(peer)), published)
}

fn id(peer: usize) -> String {
    format!("{:032x}", peer + 1_000_000)
}

fn peer(number: usize) -> Vec<(String, Option<Vec<u8>>)> {
    let id = id(number);
    let address = format!("172.30.{}.{}", 8 + number / 250, 1 + number % 250);
    let node = format!(r#"{{"id":"{id}","name":"peer-{number}","addresses":["{address}/16"],"mtu":1500}}"#);
    let owner = format!(r#"{{"node":"{id}"}}"#).into_bytes();
    let block = number + 256;
    vec![
        (format!("node/{id}"), Some(node.into_bytes())),
        (format!("block/default/10.{}.{}.0-24", block / 256, block % 256), Some(owner.clone())),
        (format!("block/default/fd00:10:0:{block:x}::-64"), Some(owner)),
    ]
}
