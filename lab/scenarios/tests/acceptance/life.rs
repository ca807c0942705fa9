//! Nodes and agents that come, go and change.

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tartan_scenarios::{CROWD_POOLS, Host, Lab, Probe, figures, inside};

use crate::stand::Stand;

/// How long an agent stays away.
const AWAY: Duration = Duration::from_secs(1);
/// How long an agent is watched at rest.
const REST: Duration = Duration::from_secs(5);
/// How long a crowd of peers may take to be in the kernel: five times the goal.
const PROGRAMMED: Duration = Duration::from_secs(10);

pub(crate) fn a_node_joins(stand: &Stand) -> String {
    let start = Instant::now();
    stand.lab.lab(&["node", "add", "n4"]).ok();
    stand.lab.lab(&["pod", "add", "p4", "--node", "n4"]).ok();
    for address in stand.addresses("p4") {
        let answer = inside(&stand.lab.netns("default_p1"), || TcpStream::connect((address, 80)));
        answer.expect("the first question is answered");
    }
    let time = start.elapsed();
    stand.lab.lab(&["pod", "rm", "p4"]).ok();
    format!("{} ms", time.as_millis())
}

pub(crate) fn agents_end(stand: &Stand) -> String {
    let from = stand.lab.netns("default_p1");
    let to = stand.addresses("p2");
    let probes: Vec<Probe> = to.iter().map(|to| Probe::start(&from, *to, Duration::from_millis(5))).collect();
    for end in ["stop", "kill"] {
        stand.fault(&format!("{end} n1"));
        stand.fault(&format!("{end} n2"));
        std::thread::sleep(AWAY);
        stand.heal();
    }
    let outcomes: Vec<_> = probes.into_iter().map(Probe::finish).collect();
    for outcome in &outcomes {
        assert!(outcome.lost.is_empty(), "{outcome:?}");
    }
    format!("0 of {} lost", outcomes.iter().map(|outcome| outcome.sent).sum::<u64>())
}

pub(crate) fn block_is_kept(stand: &Stand) -> String {
    let before = stand.blocks("n1");
    assert_eq!(before.len(), 2, "{before:?}");
    stand.fault("kill n1");
    for block in &before {
        stand.lab.etcd_forget(&format!("block/default/{}", block.replace('/', "-")));
    }
    stand.heal();
    let figure = stand.until("the blocks are back", || stand.blocks("n1") == before);
    format!("the same, {figure}")
}

/// The node that joined leaves the cluster while the first agent is dead.
pub(crate) fn a_peer_leaves(stand: &Stand) -> String {
    let block = stand.blocks("n4").into_iter().find(|block| block.contains('.')).expect("a block");
    let mac = stand.node("n4", "cat /sys/class/net/tartan.1/address");
    let traces = || {
        let routes = stand.node("n1", "ip route").contains(&block);
        let entries = stand.node("n1", "bridge fdb show dev tartan.1").contains(mac.trim());
        let neighbors = stand.node("n1", "ip neigh show dev tartan.1").contains(mac.trim());
        [routes, entries, neighbors]
    };
    assert_eq!(traces(), [true; 3]);
    stand.fault("kill n1");
    stand.leave("n4");
    assert_eq!(traces(), [true; 3], "the dead agent's entries stay");
    stand.heal();
    stand.until("nothing of it is left", || traces() == [false; 3]);
    "gone with the start".into()
}

/// A node whose disk was lost comes back with another id, hence another MAC address.
pub(crate) fn a_peer_is_another(stand: &Stand) -> String {
    let mac = || stand.node("n3", "cat /sys/class/net/tartan.1/address").trim().to_owned();
    let entries = |mac: &str| {
        let text = stand.node("n1", "bridge fdb show dev tartan.1");
        (text.lines().filter(|line| line.contains("permanent")).count(), text.contains(mac))
    };
    let (old, blocks) = (mac(), stand.blocks("n3"));
    assert_eq!(entries(&old), (2, true));
    stand.fault("stop n3");
    fs::remove_file(stand.lab.file("n3", "state/node.json")).expect("the node's id");
    stand.heal();
    assert_ne!(mac(), old);
    let figure = stand.until("the old one is gone", || entries(&old) == (2, false) && entries(&mac()).1);
    assert_eq!(stand.blocks("n3"), blocks);
    format!("nothing leaks, {figure}")
}

pub(crate) fn a_node_moves(stand: &Stand) -> String {
    let blocks = stand.blocks("n2");
    let told = |address: &str| {
        let peers = stand.lab.ask("n1", &["peers"]);
        let mut rows = peers.as_array().expect("a list").iter();
        rows.any(|row| row["node"] == "n2" && row["address"] == address)
    };
    // What depends on an address goes with it.
    let address = |from: &str, to: &str| {
        stand.node("n2", &format!("ip address del {from}/16 dev eth0"));
        stand.node("n2", &format!("ip address add {to}/16 dev eth0"));
        stand.node("n2", "ip route replace default via 172.30.255.254");
    };
    address("172.30.0.2", "172.30.9.9");
    let running = stand.until("the others follow", || told("172.30.9.9"));
    stand.lab.full_within(AWAY * 5).expect("a full matrix");
    stand.fault("kill n2");
    address("172.30.9.9", "172.30.0.2");
    stand.heal();
    let restarted = stand.until("the others follow", || told("172.30.0.2"));
    assert_eq!(stand.blocks("n2"), blocks);
    format!("same block; followed after {running} and {restarted}")
}

pub(crate) fn at_rest(stand: &Stand) -> String {
    let pid = stand.lab.agent("n1");
    std::thread::sleep(AWAY);
    let before = figures::cpu(pid);
    std::thread::sleep(REST);
    let share = (figures::cpu(pid) - before).as_secs_f64() / REST.as_secs_f64() * 100.0;
    // A loose ceiling: five times the promise.
    assert!(share < 1.0, "{share} % of a core");
    assert!(
        !fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).is_ok_and(|c| !c.trim().is_empty())
    );
    format!("{share:.2} %, none")
}

/// A lab of one node, for a crowd of peers.
fn lab_for_crowd() -> Lab {
    let dual = ["--nodes", "1", "--pods", "0", "--family", "dual"];
    Lab::beside("t-accept25", &[&dual[..], &["--set", CROWD_POOLS]].concat())
}

/// From the start of the agent, over a kernel that has nothing, until the last of its peers has its routes.
pub(crate) fn many_peers(_: &Stand) -> String {
    let lab = lab_for_crowd();
    let times = [(0, 1_000), (1_000, 5_000)].map(|(before, peers)| {
        lab.add_crowd(before..peers);
        lab.end_agent("n1", Signal::SIGKILL);
        lab.forget_kernel("n1");
        let start = Instant::now();
        lab.start_agent("n1");
        lab.wait_for_routes("n1", peers, PROGRAMMED);
        format!("{:.2} s", start.elapsed().as_secs_f64())
    });
    times.join(", ")
}

/// Peers that come while the agent lives, from the last of them until all have their routes.
pub(crate) fn peers_that_come(_: &Stand) -> String {
    let lab = lab_for_crowd();
    lab.add_crowd(0..1_000);
    let start = Instant::now();
    lab.wait_for_routes("n1", 1_000, PROGRAMMED);
    format!("{} ms", start.elapsed().as_millis())
}

/// A node that Tartan came to is as it was before.
pub(crate) fn uninstalled(_: &Stand) -> String {
    let lab = Lab::beside("t-accept22", &["--nodes", "1", "--pods", "1", "--family", "dual"]);
    let mut host = Host::new(&lab);
    let before = host.seen();
    host.install();
    assert_ne!(before.difference(&host.seen()), "", "an agent leaves traces");
    host.uninstall(&["--yes"]).ok();
    assert_eq!(host.ended(), Some(0));
    assert_eq!(before.difference(&host.seen()), "");
    "nothing stays".into()
}
