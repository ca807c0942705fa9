//! Connections under none, one and many policies, beside each other.

use std::net::IpAddr;
use std::time::Duration;

use tartan_model::Family;
use tartan_scenarios::way::{Metric, Way};
use tartan_scenarios::{Lab, holds_within, lock, policies};

use crate::times;

/// Rounds, each of which measures everything once.
const ROUNDS: usize = 9;
/// How many policies select a server.
const SELECTING: [usize; 4] = [1, 100, 1_000, 10_000];
/// By how much two medians may differ and still be called equal, unless the noise is larger.
const EQUAL: f64 = 0.05;
/// The most that policy may cost a round trip, in microseconds.
const MOST: f64 = 1.5;
/// How long the agent may take for all of them.
const PATIENCE: Duration = Duration::from_secs(120);

struct Series {
    name: String,
    way: Way,
    /// Round trip and connect, in microseconds.
    rounds: Vec<[f64; 2]>,
}

pub(crate) fn compare() {
    let _lock = lock();
    let up = |name, policy: &str| {
        // Who masquerades tracks connections, which is measured by itself.
        let sets = [policy, "attachment=routed", "masquerade=false"];
        let mut args = vec!["--nodes", "1", "--pods", "0", "--family", "dual"];
        sets.iter().for_each(|set| args.extend(["--set", set]));
        Lab::beside(name, &args)
    };
    let (off, on, selected) =
        (up("bench-off", "policy=false"), up("bench-on", "policy=true"), up("bench-many", "policy=true"));
    for lab in [&off, &on] {
        policies::add_pods(lab, &["client@n1", "server@n1"]);
    }
    let counts = SELECTING.map(|count| if count == 1 { 1 } else { times(count) });
    select(&selected, &counts);
    let rounds = times(ROUNDS);
    for family in Family::ALL {
        let mut all = vec![
            series("without policy", way(&off, "server", family)),
            series("without policy, again", way(&off, "server", family)),
            series("`policy: true`, no policies", way(&on, "server", family)),
            series("1 policy, again", way(&selected, &server(counts[0]), family)),
        ];
        for count in counts {
            all.push(series(&named(count), way(&selected, &server(count), family)));
        }
        // The first does not count.
        for round in 0..=rounds {
            let number = all.len();
            for at in 0..number {
                // Each round begins with another, so that none is always first.
                let series = &mut all[(at + round) % number];
                let values = [series.way.round_trip(), series.way.connect()];
                if round > 0 {
                    series.rounds.push(values);
                }
            }
        }
        print(family, rounds, &counts, &all);
    }
}

fn series(name: &str, way: Way) -> Series {
    Series { name: name.into(), way, rounds: Vec::new() }
}

fn named(count: usize) -> String {
    if count == 1 { "1 policy".into() } else { format!("{count} policies") }
}

fn server(count: usize) -> String {
    format!("server-{count}")
}

/// Servers that so many policies select, each for pods of another label; only those of the last exist.
fn select(lab: &Lab, counts: &[usize]) {
    policies::add_pods(lab, &["client@n1"]);
    for count in counts {
        policies::add_pods(lab, &[&format!("{}@n1", server(*count))]);
        let entry = |number: usize| {
            let from = if number + 1 == *count { "app=client".into() } else { format!("app=other-{number}") };
            policies::entry(
                &format!("to-{count}-{number:05}"),
                &format!("app={}", server(*count)),
                Some(&from),
            )
        };
        lab.write_entries(&(0..*count).map(entry).collect::<Vec<_>>());
    }
    let is_open = |count: &usize| {
        let explained = lab.verb("n1", &["explain", "client", &format!("{}:80", server(*count))]);
        explained.code == 0
    };
    assert!(holds_within(PATIENCE, || counts.iter().all(is_open)), "the policies are not known");
    lab.wait_until_healthy(&["n1"]);
}

fn way(lab: &Lab, server: &str, family: Family) -> Way {
    let address = |pod: &str| -> IpAddr {
        let addresses = lab.addresses(&format!("default/{pod}"));
        addresses
            .into_iter()
            .find(|address| Family::of(*address) == family)
            .expect("an address of the family")
    };
    Way {
        from: lab.netns("default_client"),
        to: lab.netns(&format!("default_{server}")),
        address: address(server),
    }
}

fn print(family: Family, rounds: usize, counts: &[usize], all: &[Series]) {
    let median = |name: &str, at: usize| {
        let series = all.iter().find(|series| series.name == name).expect("a series");
        let mut values: Vec<f64> = series.rounds.iter().map(|round| round[at]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let head = ["without policy", "`policy: true`, no policies", "1 policy"];
    let others: Vec<String> = counts.iter().skip(1).map(|count| named(*count)).collect();
    println!(
        "| pod to pod of one node, routed, {family}, {rounds} rounds | {} | {} | A/A spread |",
        head.join(" | "),
        others.join(" | ")
    );
    println!("|---|{}", "---|".repeat(head.len() + others.len() + 1));
    for (at, metric) in [Metric::RoundTrip, Metric::Connect].into_iter().enumerate() {
        let apart = |a: f64, b: f64| (a - b).abs() / a.min(b);
        let one = median("1 policy", at);
        let spread = apart(one, median("1 policy, again", at))
            .max(apart(median("without policy", at), median("without policy, again", at)));
        let shown = head.map(|name| metric.shown(median(name, at)));
        let beside = others.iter().map(|name| {
            let ratio = median(name, at) / one;
            let is_equal = (ratio - 1.0).abs() <= EQUAL.max(2.0 * spread);
            format!(
                "{ratio:.2}, {}",
                if is_equal {
                    "equal"
                } else if ratio > 1.0 {
                    "more"
                } else {
                    "less"
                }
            )
        });
        let beside: Vec<String> = beside.collect();
        println!(
            "| {} | {} | {} | {:.1} % |",
            metric.name(),
            shown.join(" | "),
            beside.join(" | "),
            spread * 100.0
        );
    }
    let more = median("1 policy", 0) - median("without policy", 0);
    println!(
        "\nA round trip with policy costs {more:.1} µs more than without ({family}; aim: at most {MOST} µs).\n"
    );
}
