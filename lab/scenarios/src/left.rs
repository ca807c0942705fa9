//! What pods leave on a node.

use tartan_store::{Sqlite, Store};

use crate::Lab;

/// How many links, routes, FDB entries, endpoints, records and entries in the store pods have on a node.
#[track_caller]
pub fn left_of_pods(lab: &Lab, node: &str) -> [usize; 6] {
    let count = |command: &[&str], word: &str| {
        lab.on_node(node, command).lines().filter(|line| line.contains(word)).count()
    };
    let endpoints = lab.ask(node, &["endpoints"]).as_array().map_or(0, Vec::len);
    let [records, entries] =
        [lab.file(node, "state/records.db"), lab.file("store", "tartan.db")].map(|file| {
            assert!(file.is_file(), "no {}", file.display());
            let store = Sqlite::open(&file).expect("the store");
            store.list("endpoint/").expect("its entries").entries.len()
        });
    [
        count(&["ip", "-o", "link"], ": tt"),
        count(&["ip", "route"], " dev tt"),
        count(&["bridge", "fdb", "show"], " dev tt"),
        endpoints,
        records,
        entries,
    ]
}
