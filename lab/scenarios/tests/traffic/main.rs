//! What traffic between pods costs beside traffic between their nodes, and beside the same network made by hand. Run by
//! `cargo xtask bench`; the tables between the marks are what it keeps, and draws.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

mod hand;

use tartan_model::Family;
use tartan_scenarios::{Lab, Place, lock};

use hand::Hand;
use tartan_scenarios::way::{Metric, Way};

/// Rounds, each of which measures every metric of every way; and those before them that do not count.
const ROUNDS: usize = 21;
const WARM_UP: usize = 1;
/// By how much a median ratio may differ from 1 and still be called equal, unless the noise is larger.
const EQUAL: f64 = 0.05;

/// A series of measurements of one way.
struct Series {
    name: &'static str,
    way: Way,
    /// The values of each metric.
    values: [Vec<f64>; Metric::ALL.len()],
}

#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn traffic() {
    let _lock = lock();
    println!("BENCH-BEGIN");
    for (family, word) in [(Family::Ipv4, "ipv4"), (Family::Ipv6, "ipv6")] {
        compare(family, word);
    }
    println!("BENCH-END");
}

fn compare(family: Family, word: &str) {
    let up = |name, paths: &str| {
        // Who masquerades tracks connections, which is measured by itself.
        let sets = [paths, "attachment=routed", "masquerade=false"];
        let mut args = vec!["--nodes", "2", "--pods", "1", "--family", word];
        sets.iter().for_each(|set| args.extend(["--set", set]));
        Lab::beside(name, &args)
    };
    let vxlan = up("bench-vxlan", "paths=[vxlan]");
    let direct = up("bench-direct", "paths=[direct]");
    let (overlay, again) = (Hand::overlay(&vxlan, family), Hand::overlay(&direct, family));
    let routes = Hand::direct(&direct, family);
    let mut all = [
        series("line", overlay.line()),
        series("line again", again.line()),
        series("VXLAN by hand", overlay.pods()),
        series("VXLAN by hand again", again.pods()),
        series("vxlan", pods(&vxlan)),
        series("routes by hand", routes.pods()),
        series("direct", pods(&direct)),
    ];
    for round in 0..ROUNDS + WARM_UP {
        // One way right after the other, so that a machine that changes its pace does so for all; each round begins with
        // another, and every second goes the other way round.
        all.rotate_left(1);
        for (number, metric) in Metric::ALL.into_iter().enumerate() {
            for at in 0..all.len() {
                let last = all.len() - 1;
                let series = &mut all[if round % 2 == 0 { at } else { last - at }];
                let value = series.way.measure(metric);
                if round >= WARM_UP {
                    series.values[number].push(value);
                }
            }
        }
    }
    print(word, &all);
}

fn series(name: &'static str, way: Way) -> Series {
    Series { name, way, values: Default::default() }
}

/// From the pod of the first node to that of the second.
fn pods(lab: &Lab) -> Way {
    let [from, to] = ["p1", "p2"].map(|pod| Place::pod(lab, pod));
    Way { from: from.netns, to: to.netns, address: to.address }
}

fn print(word: &str, all: &[Series; 7]) {
    println!(
        "| pod to pod, {word}, {ROUNDS} rounds | the line | VXLAN by hand | vxlan | routes by hand | direct | A/A spread |\n\
         |---|---|---|---|---|---|---|"
    );
    for (at, metric) in Metric::ALL.into_iter().enumerate() {
        let values = |name: &str| {
            let series = all.iter().find(|series| series.name == name).expect("a series");
            series.values[at].clone()
        };
        // What was measured in the same round is compared.
        let beside = |name: &str, other: &str| {
            median(values(name).iter().zip(values(other)).map(|(value, other)| value / other).collect())
        };
        // The same made twice.
        let spread =
            apart(beside("line again", "line")).max(apart(beside("VXLAN by hand again", "VXLAN by hand")));
        let ratio = |name: &str| format!("{:.2}", beside(name, "line"));
        let judged = |name: &str, by_hand: &str| {
            format!("{}, {}", ratio(name), verdict(metric, beside(name, by_hand), spread))
        };
        println!(
            "| {} | {} | {} | {} | {} | {} | {:.1} % |",
            metric.name(),
            metric.shown(median(values("line"))),
            ratio("VXLAN by hand"),
            judged("vxlan", "VXLAN by hand"),
            ratio("routes by hand"),
            judged("direct", "routes by hand"),
            spread * 100.0,
        );
    }
    println!("\nPer cents are beside the same by hand: of rates more is better, of times less.\n");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How far a ratio is from 1, whichever is put beside the other.
fn apart(ratio: f64) -> f64 {
    ratio.max(1.0 / ratio) - 1.0
}

/// How a figure stands beside that of the network made by hand, by its ratio to it.
fn verdict(metric: Metric, ratio: f64, spread: f64) -> String {
    let apart = ratio - 1.0;
    if apart.abs() <= EQUAL.max(2.0 * spread) {
        return format!("equal ({:+.1} %)", apart * 100.0);
    }
    let better = (apart > 0.0) == metric.is_rate();
    format!("{} by {:.1} %", if better { "better" } else { "worse" }, apart.abs() * 100.0)
}
