//! Drills: what people and programs do to a node, and that all is as before at once, while those whom it does not
//! concern notice nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

mod advertise;
mod pods;
mod rest;
mod scene;
mod table;
mod uplink;

use std::time::{Duration, Instant};

use scene::Scene;
use table::{DRILLS, Drill};
use tartan_scenarios::figures::quantile;

/// How long a repair may take where it is not measured: five times the goal.
const CEILING: Duration = Duration::from_secs(5);

fn drills(attachment: &str) -> impl Iterator<Item = &'static Drill> {
    let only = std::env::var("TARTAN_DRILL").unwrap_or_default();
    DRILLS.iter().filter(move |drill| drill.attachments.contains(&attachment) && drill.name.contains(&only))
}

/// Once with the agent held still, which proves that the damage is one, and once as it comes.
fn rehearse(scene: &mut Scene, drill: &Drill) -> Result<Duration, String> {
    let (probes, start) = (scene.probes(drill.bystanders), Instant::now());
    scene.frozen_trial(drill.damage, CEILING)?;
    drill.mend(scene);
    let first = scene.trial(drill.damage, CEILING);
    drill.mend(scene);
    let time = first.or_else(|_| {
        let second = scene.trial(drill.damage, CEILING);
        drill.mend(scene);
        second
    })?;
    scene.goes_on()?;
    // They send a packet each millisecond.
    let due = start.elapsed().as_millis();
    for probe in probes {
        let outcome = probe.finish();
        if !outcome.lost.is_empty() || u128::from(outcome.sent) < due / 2 {
            return Err(format!(
                "bystanders lost {} of {}, where {due} were due: {:?}",
                outcome.lost.len(),
                outcome.sent,
                outcome.lost
            ));
        }
    }
    Ok(time)
}

fn rehearse_all(attachment: &str) {
    let mut scene = Scene::new("t-drill", attachment);
    let foreign = scene.foreign();
    assert_eq!(
        foreign.iter().filter(|line| line.contains("203.0.113.0") || line.contains(".77 ")).count(),
        2
    );
    let mut wrong = String::new();
    for drill in drills(attachment) {
        match rehearse(&mut scene, drill) {
            Ok(time) => println!("{attachment}: {}: {:.1} ms", drill.name, time.as_secs_f64() * 1e3),
            Err(error) => wrong += &format!("{attachment}: {}:\n{error}\n", drill.name),
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(scene.foreign(), foreign, "others' things were touched");
    scene.lab.assert_full(9, &[]);
}

#[test]
fn what_is_damaged_on_a_node_with_routed_pods_comes_back() {
    rehearse_all("routed");
}

#[test]
fn what_is_damaged_on_a_node_with_bridged_pods_comes_back() {
    rehearse_all("bridge");
}

/// Damages in a row, and rows; `TARTAN_HAILS` sets how many of these.
const HAIL: (usize, u64) = (12, 12);

#[test]
fn a_hail_of_damages_is_weathered() {
    let hails = std::env::var("TARTAN_HAILS").map_or(HAIL.1, |text| text.parse().expect("a number"));
    for attachment in ["routed", "bridge"] {
        let mut scene = Scene::new("t-hail", attachment);
        // What only the one who did it can undo is left out.
        let damages: Vec<_> = drills(attachment).filter(|drill| drill.mend.is_none()).collect();
        for seed in 1..=hails {
            // An LCG (Knuth, MMIX): the same hail for the same seed.
            let mut state = seed;
            let mut roll = |sides: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % sides
            };
            let hail: Vec<_> = (0..HAIL.0)
                .map(|_| (damages[roll(damages.len() as u64) as usize], Duration::from_micros(roll(20_000))))
                .collect();
            let story: Vec<&str> = hail.iter().map(|(drill, _)| drill.name).collect();
            let hail = hail.iter().map(|(drill, pause)| (drill.damage, *pause));
            let weathered = scene.hail(hail, CEILING).and_then(|time| scene.goes_on().map(|()| time));
            let time =
                weathered.unwrap_or_else(|wrong| panic!("{attachment}, seed {seed}: {story:#?}\n{wrong}"));
            println!("{attachment}, seed {seed}: {:.1} ms", time.as_secs_f64() * 1e3);
        }
    }
}

/// How often each damage is done when it is measured.
const TRIALS: usize = 50;

#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn bench_drills() {
    println!("BENCH-BEGIN");
    println!("| damage, until the whole state is back ({TRIALS} trials) | p50 | p99 |\n|---|---|---|");
    for attachment in ["routed", "bridge"] {
        let mut scene = Scene::new("bench", attachment);
        for drill in drills(attachment) {
            let mut times: Vec<Duration> = (0..TRIALS).map(|_| measure(&mut scene, drill)).collect();
            let (p50, p99) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99));
            println!("| {attachment}: {} | {p50:.1} ms | {p99:.1} ms |", drill.name);
            assert!(p99 < 1000.0, "{attachment}: {}: {p99} ms", drill.name);
        }
    }
    rest::measure(Duration::from_secs(30));
    println!("BENCH-END");
}

/// One trial on a node that was calm for a while, as nodes are.
fn measure(scene: &mut Scene, drill: &Drill) -> Duration {
    std::thread::sleep(Duration::from_millis(150));
    let time = scene.trial(drill.damage, CEILING).unwrap_or_else(|wrong| panic!("{}: {wrong}", drill.name));
    drill.mend(scene);
    time
}
