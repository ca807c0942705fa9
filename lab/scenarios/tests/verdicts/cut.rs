//! A deny means dead: connections that live stop, others do not lose a packet.

use std::time::{Duration, Instant};

use tartan_scenarios::{Lab, Probe};

use crate::{add_pods, apply, lab, only_from};
use tartan_scenarios::streams::{Kind, Stream};

/// How long after `apply --wait` something may still come through: 50 ms is the aim.
const CEILING: Duration = Duration::from_millis(250);

/// How long policy changes without a pause.
const CHANGING: Duration = Duration::from_secs(2);

/// Streams of every kind from a pod to another, in both families.
fn streams(lab: &Lab, from: &str, to: &str, first_port: u16) -> Vec<Stream> {
    let (client, server) = (lab.netns(&format!("default_{from}")), lab.netns(&format!("default_{to}")));
    let addresses = lab.addresses(&format!("default/{to}"));
    let kinds = addresses.iter().flat_map(|address| Kind::ALL.map(|kind| (*address, kind)));
    let ports = first_port..;
    kinds
        .zip(ports)
        .map(|((address, kind), port)| Stream::start(kind, &client, &server, address, port))
        .collect()
}

fn denied_streams_stop(attachment: &str) {
    let lab = lab("t-cut", attachment);
    add_pods(&lab, &["server@n1", "near@n1", "far@n2", "friend@n2"]);
    let probes: Vec<Probe> = lab
        .addresses("default/server")
        .iter()
        .map(|address| Probe::start(&lab.netns("default_friend"), *address, Duration::from_millis(5)))
        .collect();
    // Begun without any policy, then judged by one that allows them.
    let all: Vec<Stream> = [streams(&lab, "near", "server", 9000), streams(&lab, "far", "server", 9100)]
        .into_iter()
        .flatten()
        .collect();
    let friends = streams(&lab, "friend", "server", 9200);
    assert!(all.iter().chain(&friends).all(Stream::lives));
    apply(&lab, &only_from("server", &["near", "far", "friend"]));
    assert!(all.iter().chain(&friends).all(Stream::lives), "allowed as before");

    let start = Instant::now();
    apply(&lab, &only_from("server", &["friend"]));
    let applied = Instant::now();
    std::thread::sleep(CEILING * 4);
    for stream in &all {
        let last = stream.last().expect("it lived");
        let late = last.saturating_duration_since(applied);
        println!(
            "{attachment} {:?}: last {:?} after the beginning, {late:?} after the end of apply",
            stream.kind(),
            last.saturating_duration_since(start)
        );
        assert!(late < CEILING, "{:?}: {late:?}", stream.kind());
    }
    assert!(friends.iter().all(Stream::lives), "still allowed");

    for probe in probes {
        let outcome = probe.finish();
        assert!(outcome.sent > 200 && outcome.lost.is_empty(), "lost while it was allowed: {outcome:?}");
    }

    // A label is as good as a policy.
    lab.lab(&["pod", "label", "friend", "app=foe"]).ok();
    apply(&lab, &only_from("server", &["friend"]));
    let applied = Instant::now();
    std::thread::sleep(CEILING * 4);
    for stream in &friends {
        assert!(stream.last().expect("it lived").saturating_duration_since(applied) < CEILING);
    }
}

#[test]
fn denied_streams_of_routed_pods_stop() {
    denied_streams_stop("routed");
}

#[test]
fn denied_streams_of_bridged_pods_stop() {
    denied_streams_stop("bridge");
}

#[test]
fn changes_of_policy_cost_an_allowed_stream_nothing() {
    let lab = lab("t-changes", "routed");
    add_pods(&lab, &["server@n1", "near@n1", "far@n2"]);
    apply(&lab, &only_from("server", &["near", "far"]));
    let addresses = lab.addresses("default/server");
    let pairs = ["near", "far"].into_iter().flat_map(|pod| addresses.iter().map(move |to| (pod, *to)));
    let probes: Vec<Probe> = pairs
        .map(|(pod, to)| Probe::start(&lab.netns(&format!("default_{pod}")), to, Duration::from_millis(1)))
        .collect();
    let (start, mut changes) = (Instant::now(), 0);
    while start.elapsed() < CHANGING {
        changes += 1;
        let more = format!("other{changes}");
        apply(&lab, &only_from("server", &["near", "far", &more]));
    }
    assert!(changes > 20, "{changes}");
    for probe in probes {
        let outcome = probe.finish();
        assert!(outcome.sent > 500, "{outcome:?}");
        assert!(outcome.lost.is_empty(), "{outcome:?}");
    }
}
