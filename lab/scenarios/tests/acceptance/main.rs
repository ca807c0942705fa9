//! What people try first on a network like flannel, and what became of it there: printed as a table, run here.
//!
//! What flannel does is from running its master of 2026-08-14 in the same kind of lab.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

mod damage;
mod life;
mod stand;
mod store;
mod world;

use stand::Stand;

/// One thing to try: its number, what it is, what flannel does, and the trial, which gives a figure or panics.
struct Trial {
    number: &'static str,
    what: &'static str,
    flannel: &'static str,
    run: fn(&Stand) -> String,
}

#[test]
fn everything_that_people_try_first() {
    let stand = Stand::up();
    let mut table = String::from("| | what | flannel | here |\n|---|---|---|---|\n");
    for Trial { number, what, flannel, run } in trials() {
        let figure = run(&stand);
        stand.is_whole(number);
        table += &format!("| {number} | {what} | {flannel} | {figure} |\n");
    }
    println!("{table}");
}

#[rustfmt::skip]
fn trials() -> Vec<Trial> {
    let trial = |number, what, flannel, run| Trial { number, what, flannel, run };
    vec![
        trial("A1", "a node joins: to the first answer of a pod on it", "0.95 to 1.34 s", life::a_node_joins),
        trial("A3", "agents ended and started, probes in both families", "0 lost (vxlan)", life::agents_end),
        trial("A4", "block kept over a restart and over loss of its entry", "kept", life::block_is_kept),
        trial("A5", "one route, neighbor, forwarding entry deleted", "never restored", damage::one_entry),
        trial("A6", "overlay device set down and up", "never restored", damage::device_down_and_up),
        trial("A7", "overlay device deleted", "traffic never comes back", damage::device_deleted),
        trial("A8", "a peer left while the agent was dead", "entries stay", life::a_peer_leaves),
        trial("A9", "a peer's MAC address changes", "an old entry leaks", life::a_peer_is_another),
        trial("A10", "a node's address changes, running and over a restart", "not noticed; another subnet", life::a_node_moves),
        trial("A11", "nodes that start at once, as many as blocks", "one exits in 3 of 10 rounds", store::few_blocks),
        trial("A12", "etcd away for 3 s (`--test etcd`: 20 s)", "0 lost", store::outage),
        trial("A13", "an agent starts while etcd is away", "says ready too early", store::outage_at_the_start),
        trial("A14", "etcd wiped", "never recovers", store::wiped),
        trial("A15", "own lease revoked", "exits, peers drop the route", store::leases_revoked),
        trial("A16", "a compaction behind the watch", "caught up", store::compacted),
        trial("A17", "MTU of each family, end to end", "1450 said, 1430 fits (IPv6)", damage::mtu_fits),
        trial("A18", "IPv6 only, with etcd", "two nodes have one lease", store::ipv6_only),
        trial("A19", "`public_address` that is not on the host", "nothing sent", world::behind_nat),
        trial("A20", "masquerade", "iptables and nftables differ", world::masquerade),
        trial("A21", "`nft flush ruleset`, with the agent dead", "never restored", damage::flushed),
        trial("A22", "uninstall", "everything stays", life::uninstalled),
        trial("A23", "a forged packet of one that is no node", "delivered", damage::forged),
        trial("A24", "all peers behind a cut wire: is it told?", "says ready", world::readiness),
        trial("A25", "start with 1,000 and 5,000 peers", "1.4 s, 6.2 s", life::many_peers),
        trial("A26", "1,000 peers added live: after the last", "30 ms", life::peers_that_come),
        trial("A27", "a block reserved for a node", "undone at once", world::reservation),
        trial("A28", "two networks on the same nodes", "works", world::two_networks),
        trial("A29", "at rest for 5 s: share of a core, programs started", "0.9 %, 4 a second", life::at_rest),
    ]
}
