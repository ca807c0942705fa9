//! What policy costs: connections under it, changes of it, and an agent that holds much of it. Run by
//! `cargo xtask bench`; the tables between the marks are what it keeps.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

mod changes;
#[path = "../../../../core/policy/tests/crowd/mod.rs"]
mod crowd;
mod cut;
mod engine;
mod flows;
mod state;

use state::Crowd;

/// How often something is done: less often to try it out.
fn times(usual: usize) -> usize {
    std::env::var("TARTAN_BENCH_SHARE")
        .map_or(usual, |share| (usual / share.parse::<usize>().unwrap()).max(2))
}

#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn connections_under_policies() {
    println!("BENCH-BEGIN");
    flows::compare();
    println!("BENCH-END");
}

#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn many_policies_and_endpoints() {
    println!("BENCH-BEGIN");
    println!("| policies | figure | aim |\n|---|---|---|");
    for crowd in [Crowd::Open, Crowd::Isolated] {
        let state = state::up(crowd);
        let _pods = state::pods(&state);
        state::remote_pods(&state);
        if crowd == Crowd::Open {
            changes::seen_by_packets(state.lab());
        }
        state::verification(&state);
        state.down();
    }
    cut::denied_streams();
    engine::many();
    println!("BENCH-END");
}
