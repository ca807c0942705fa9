//! Deny on connections that live: when their last packet comes through.

use std::time::{Duration, Instant};

use tartan_scenarios::policies::{add_pods, apply, lab, only_from};
use tartan_scenarios::streams::{Kind, Stream};
use tartan_scenarios::{Probe, figures};

use crate::times;

const DENIES: usize = 20;
/// How long a packet is waited for after a deny.
const LATE: Duration = Duration::from_millis(300);

pub(crate) fn denied_streams() {
    let lab = lab("bench-cut", "routed");
    add_pods(&lab, &["server@n1", "near@n1", "far@n2", "friend@n2"]);
    let place = |pod: &str| lab.netns(&format!("default_{pod}"));
    let server = lab.addresses("default/server");
    let friend = |to: &_| Probe::start(&place("friend"), *to, Duration::from_millis(1));
    let probes: Vec<Probe> = server.iter().map(friend).collect();
    let pairs = ["near", "far"].into_iter().flat_map(|from| server.iter().map(move |to| (from, *to)));
    let streams: Vec<Stream> = pairs
        .flat_map(|(from, to)| Kind::ALL.map(|kind| (from, to, kind)))
        .zip(9000..)
        .map(|((from, to, kind), port)| Stream::start(kind, &place(from), &place("server"), to, port))
        .collect();
    let denies = times(DENIES);
    // By kind: after the beginning of apply, and after its end.
    let mut last = Kind::ALL.map(|kind| (kind, Vec::new(), Vec::new()));
    let mut applies = Vec::new();
    for _ in 0..denies {
        apply(&lab, &only_from("server", &["near", "far", "friend"]));
        assert!(streams.iter().all(Stream::lives), "allowed again");
        let start = Instant::now();
        apply(&lab, &only_from("server", &["friend"]));
        let applied = Instant::now();
        applies.push(applied - start);
        std::thread::sleep(LATE);
        for (kind, whole, late) in &mut last {
            let ends = streams.iter().filter(|stream| stream.kind() == *kind).filter_map(Stream::last);
            let end = ends.max().expect("it lived");
            whole.push(end.saturating_duration_since(start));
            late.push(end.saturating_duration_since(applied));
        }
    }
    for (kind, mut whole, mut late) in last {
        let what = match kind {
            Kind::Push => "TCP pushed by the server",
            Kind::Ask => "TCP request and response",
            Kind::OneWay => "one-way UDP",
        };
        let shown = |times: &mut [Duration]| {
            format!(
                "p50 {:.1} ms, worst {:.1} ms",
                figures::quantile(times, 0.5),
                figures::quantile(times, 1.0)
            )
        };
        figures::row(
            &format!(
                "deny on {what}, one node and across, both families, {denies} times: last packet after the start of `apply --wait`"
            ),
            &shown(&mut whole),
            "",
        );
        figures::row("the same after its end", &shown(&mut late), "< 50 ms");
    }
    figures::spread("`apply --wait` of those denies, two nodes", applies, "");
    let outcomes: Vec<_> = probes.into_iter().map(Probe::finish).collect();
    let (sent, lost) =
        outcomes.iter().fold((0, 0), |(sent, lost), one| (sent + one.sent, lost + one.lost.len()));
    figures::row(
        "an allowed UDP flow at 1 kHz beside it, both families",
        &format!("{lost} of {sent} lost"),
        "0",
    );
}
