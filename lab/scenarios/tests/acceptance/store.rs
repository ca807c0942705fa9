//! What happens to etcd, and what follows.

use std::time::Duration;

use nix::sys::signal::Signal;
use tartan_scenarios::{Lab, Outcome, Probe, wait_until};

use crate::stand::Stand;

/// How long the store stays away.
const AWAY: Duration = Duration::from_secs(3);
/// How long it may take until agents and store are right again.
const PATIENCE: Duration = Duration::from_secs(20);

/// Probes in both families from the first pod to the second while something happens: none is lost.
fn under_probes(stand: &Stand, happens: impl FnOnce()) -> u64 {
    let from = stand.lab.netns("default_p1");
    let to = stand.addresses("p2");
    let probes: Vec<Probe> = to.iter().map(|to| Probe::start(&from, *to, Duration::from_millis(5))).collect();
    happens();
    let outcomes: Vec<Outcome> = probes.into_iter().map(Probe::finish).collect();
    assert!(outcomes.iter().all(|outcome| outcome.lost.is_empty()), "{outcomes:?}");
    outcomes.iter().map(|outcome| outcome.sent).sum()
}

/// The agents of the stand are healthy, or soon are.
fn all_healthy(stand: &Stand) {
    stand.lab.wait_until_healthy(&["n1", "n2", "n3"]);
}

fn store(stand: &Stand, what: &str) {
    stand.lab.lab(&["store", what]).ok();
}

/// Nodes that start at once, as many as there are blocks.
pub(crate) fn few_blocks(_: &Stand) -> String {
    let pools = "pools=[{cidr: 10.9.0.0/22, blockSize: 24}]";
    let args = ["--store", "etcd", "--nodes", "4", "--pods", "1", "--set", pools];
    let lab = Lab::beside("t-accept11", &args);
    let rows = lab.ask("n1", &["ipam"]);
    let mut owners: Vec<&str> =
        rows.as_array().unwrap().iter().map(|row| row["node"].as_str().unwrap()).collect();
    owners.sort_unstable();
    assert_eq!(owners, ["n1", "n2", "n3", "n4"]);
    lab.assert_full(4, &[]);
    "4 of 4 have one".into()
}

pub(crate) fn outage(stand: &Stand) -> String {
    let sent = under_probes(stand, || {
        store(stand, "stop");
        std::thread::sleep(AWAY);
        store(stand, "start");
    });
    all_healthy(stand);
    format!("0 of {sent} lost")
}

/// An agent that starts while etcd is away is not ready until it is back.
pub(crate) fn outage_at_the_start(stand: &Stand) -> String {
    store(stand, "stop");
    let sent = under_probes(stand, || {
        stand.lab.end_agent("n3", Signal::SIGKILL);
        stand.lab.start_agent("n3");
        std::thread::sleep(AWAY);
        assert_eq!(stand.lab.verb("n3", &["status"]).code, 1);
        store(stand, "start");
        all_healthy(stand);
    });
    format!("not ready until then, 0 of {sent} lost")
}

pub(crate) fn wiped(stand: &Stand) -> String {
    let blocks = ["n1", "n2", "n3"].map(|node| stand.blocks(node));
    let sent = under_probes(stand, || {
        store(stand, "wipe");
        wait_until("all is put back", PATIENCE, || {
            ["node/", "block/", "network/"].map(|kind| stand.lab.etcd_keys(kind).len()) == [3, 6, 1]
        });
    });
    all_healthy(stand);
    assert_eq!(["n1", "n2", "n3"].map(|node| stand.blocks(node)), blocks);
    format!("all put back, 0 of {sent} lost")
}

pub(crate) fn leases_revoked(stand: &Stand) -> String {
    let agents = || ["n1", "n2", "n3"].map(|node| stand.lab.agent(node));
    let before = agents();
    let sent = under_probes(stand, || {
        let leases = stand.lab.etcdctl(&["lease", "list"]);
        for lease in leases.lines().skip(1) {
            stand.lab.etcdctl(&["lease", "revoke", lease]);
        }
        let names = || stand.lab.etcdctl(&["lease", "list"]).lines().skip(1).count();
        wait_until("the names are taken again", PATIENCE, || names() == 3);
    });
    all_healthy(stand);
    assert_eq!(agents(), before);
    format!("taken again, 0 of {sent} lost")
}

/// What an agent could not hear of while it was held, and etcd does not know any more, is read anew.
pub(crate) fn compacted(stand: &Stand) -> String {
    let pid = nix::unistd::Pid::from_raw(stand.lab.agent("n2"));
    nix::sys::signal::kill(pid, Signal::SIGSTOP).unwrap();
    let text = stand.lab.etcdctl(&["put", "/somebody/else", "x", "-w", "json"]);
    let text: serde_json::Value = serde_json::from_str(&text).unwrap();
    stand.lab.etcdctl(&["compact", &text["header"]["revision"].to_string()]);
    nix::sys::signal::kill(pid, Signal::SIGCONT).unwrap();
    stand.lab.lab(&["node", "add", "n5"]).ok();
    let heard = || stand.lab.ask("n2", &["peers"]).to_string().contains("\"n5\"");
    let figure = stand.until("the held one hears of a new node", heard);
    stand.leave("n5");
    format!("caught up, {figure}")
}

/// Two nodes with IPv6 only, which have blocks of their own.
pub(crate) fn ipv6_only(_: &Stand) -> String {
    let args = ["--store", "etcd", "--nodes", "2", "--pods", "1", "--family", "ipv6", "--underlay", "ipv6"];
    let lab = Lab::beside("t-accept18", &args);
    let rows = lab.ask("n1", &["ipam"]);
    let blocks: Vec<&str> =
        rows.as_array().unwrap().iter().map(|row| row["block"].as_str().unwrap()).collect();
    assert_eq!(blocks.len(), 2);
    lab.assert_full(2, &[]);
    "two blocks, all reach all".into()
}
