//! What ADD and DEL change on a node, to be compared before and after.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tartan_store::{Sqlite, Store};

use crate::{Lab, holds_within};

/// The addresses in a result of the plugin.
pub fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().expect("ips");
    ips.iter().map(|ip| ip["address"].as_str().expect("text").to_string()).collect()
}

/// What ADD and DEL change on node `n1`, if its agent is there.
pub fn state(lab: &Lab) -> String {
    let kernel =
        ["-o link", "-o address", "-4 route", "-6 route", "neighbor show nud permanent"].map(|what| {
            let args: Vec<&str> = ["ip"].into_iter().chain(what.split(' ')).collect();
            lab.on_node("n1", &args)
        });
    let fdb = lab.on_node("n1", &["bridge", "fdb", "show"]);
    // Multicast groups that a device listens to are no forwarding entries.
    let is_group = |line: &str| line.starts_with("33:33:") || line.starts_with("01:00:5e:");
    let ours = |line: &&str| (line.contains(" dev tart") || line.contains(" dev tt")) && !is_group(line);
    let fdb: BTreeSet<&str> = fdb.lines().filter(ours).collect();
    // Of an address that was just given, until its duplicate is looked for.
    let kernel = kernel.join("\n").replace(" tentative", "");
    // Pods stand in the rules by their links.
    let rules = lab.on_node("n1", &["nft", "list", "ruleset"]);
    let is_pod = |word: &&str| word.starts_with("\"tt") && word.len() == 16;
    let rules: BTreeSet<&str> = rules.split([' ', ',', '\n', '\t']).filter(is_pod).collect();
    format!("{kernel}\n{fdb:#?}\n{rules:#?}\n{}", lab.ask("n1", &["endpoints"]))
}

/// The keys of the endpoints in the agent's records and in the cluster's store.
pub fn kept_endpoints(lab: &Lab) -> Vec<String> {
    let files = [lab.file("n1", "state/records.db"), lab.file("store", "tartan.db")];
    let kept = files.iter().flat_map(|file| {
        assert!(file.is_file(), "no {}", file.display());
        let store = Sqlite::open(file).expect("the store");
        store.list("endpoint/").expect("its entries").entries
    });
    kept.map(|entry| entry.key).collect()
}

/// Waits until a node that had no pods before is as it was.
#[track_caller]
pub fn assert_nothing_left(lab: &Lab, before: &str) {
    assert_back(lab, before);
    assert_eq!(kept_endpoints(lab), Vec::<String>::new());
}

/// Waits until a node is as it was before.
#[track_caller]
pub fn assert_back(lab: &Lab, before: &str) {
    let is_back = holds_within(Duration::from_secs(5), || state(lab) == before);
    assert!(is_back, "left:\n{}\nbefore:\n{before}", state(lab));
}
