//! Laws of probing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use proptest::prelude::*;
use tartan_model::{Family, NodeId, Path};
use tartan_probe::{EchoKind, Engine, Health, Lane, Moment, Probe, Reply, Survey, decode, encode};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0));
const FULL: u32 = 1450;

fn id(number: u32) -> NodeId {
    let [a, b, c, d] = number.to_be_bytes();
    NodeId::from_bytes([1, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

fn remote(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0a01_0000 + number))
}

fn lane(number: u32) -> Lane {
    Lane {
        network: "default".parse().unwrap(),
        path: Path::Vxlan,
        local: LOCAL,
        remote: remote(number),
        full: FULL.try_into().unwrap(),
    }
}

/// The same without a tunnel.
fn direct(number: u32) -> Lane {
    Lane { path: Path::Direct, ..lane(number) }
}

/// What the wire does to probes to a peer, and whether that peer's own probes arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Whole,
    Cut,
    OneWay,
    Narrow,
}

/// An engine on a wire made of data; every step is 10 ms.
struct World {
    engine: Engine,
    now: Moment,
    wires: BTreeMap<IpAddr, Wire>,
    delay: Duration,
    answers: Vec<(Moment, Reply)>,
    nonce: u64,
    sent: u64,
}

impl World {
    fn new(peers: u32) -> World {
        let mut engine = Engine::new();
        for number in 0..peers {
            engine.set(id(number), vec![lane(number)], Moment::ZERO);
        }
        let wires = (0..peers).map(|number| (remote(number), Wire::Whole)).collect();
        World {
            engine,
            now: Moment::ZERO,
            wires,
            delay: Duration::from_millis(1),
            answers: Vec::new(),
            nonce: 0,
            sent: 0,
        }
    }

    fn wire(&mut self, number: u32, wire: Wire) {
        self.wires.insert(remote(number), wire);
    }

    fn take(&mut self, probe: &Probe) {
        self.sent += 1;
        let passes = match self.wires[&probe.remote] {
            Wire::Whole => true,
            Wire::Narrow => probe.length.is_none(),
            Wire::Cut | Wire::OneWay => false,
        };
        if passes {
            let reply = Reply { from: probe.remote, nonce: probe.nonce };
            self.answers.push((self.now + self.delay, reply));
        }
    }

    /// Runs for so long, or until something holds; how long that was.
    fn run(&mut self, most: Duration, mut until: impl FnMut(&Engine) -> bool) -> Option<Duration> {
        let start = self.now;
        while self.now < start + most {
            self.now += Duration::from_millis(10);
            let now = self.now;
            let (come, rest) = self.answers.drain(..).partition(|(at, _)| *at <= now);
            self.answers = rest;
            let come: Vec<(Moment, Reply)> = come;
            come.into_iter().for_each(|(_, reply)| self.engine.answered(reply, now));
            // Peers probe each second, too.
            if now.as_millis() % 1000 == 500 {
                let heard: Vec<IpAddr> = self
                    .wires
                    .iter()
                    .filter(|(_, wire)| **wire != Wire::Cut)
                    .map(|(from, _)| *from)
                    .collect();
                heard.into_iter().for_each(|from| self.engine.heard(from, now));
            }
            if self.engine.due().is_some_and(|due| due <= now) {
                let nonce = &mut self.nonce;
                let probes = self.engine.tick(now, &mut || {
                    *nonce += 1;
                    *nonce
                });
                probes.iter().for_each(|probe| self.take(probe));
            }
            if until(&self.engine) {
                return Some(self.now - start);
            }
        }
        None
    }

    fn rest(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds), |_| false);
    }
}

const SOON: Duration = Duration::from_secs(3);

fn any_fault() -> impl Strategy<Value = (Wire, Health)> {
    prop_oneof![
        Just((Wire::Cut, Health::Dead)),
        Just((Wire::OneWay, Health::OneWay)),
        Just((Wire::Narrow, Health::LargeLost)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_breaks_is_told_within_three_seconds_and_what_heals_too(
        peers in 1u32..4, (wire, health) in any_fault(), phase in 0u64..100, delay in 1u64..300,
    ) {
        let mut world = World::new(peers);
        world.delay = Duration::from_millis(delay);
        world.rest(5);
        prop_assert_eq!(world.engine.health(&id(0)), Health::Works);
        world.run(Duration::from_millis(phase * 10), |_| false);
        world.wire(0, wire);
        let told = world.run(SOON, |engine| engine.health(&id(0)) == health);
        prop_assert!(told.is_some(), "{:?}", world.engine.health(&id(0)));
        world.rest(10);
        prop_assert_eq!(world.engine.health(&id(0)), health);
        for other in 1..peers {
            prop_assert_eq!(world.engine.health(&id(other)), Health::Works);
        }
        world.wire(0, Wire::Whole);
        prop_assert!(world.run(SOON, |engine| engine.health(&id(0)) == Health::Works).is_some());
    }

    #[test]
    fn a_peer_with_traffic_is_told_within_three_seconds_among_thousands(number in 0u32..3_000, phase in 0u64..100) {
        let mut world = World::new(3_000);
        world.rest(2);
        world.run(Duration::from_millis(phase * 10), |_| false);
        let now = world.now;
        // Whether this peer was probed just now is luck; traffic goes on.
        world.engine.used(id(number), now + Duration::from_millis(200), now + Duration::from_millis(200));
        world.rest(3);
        prop_assert_eq!(world.engine.health(&id(number)), Health::Works);
        world.wire(number, Wire::Cut);
        prop_assert!(world.run(SOON, |engine| engine.health(&id(number)) == Health::Dead).is_some());
    }

    #[test]
    fn a_peer_without_a_tunnel_is_told_within_three_seconds_among_as_many_as_are_asked_each_second(
        (wire, health) in any_fault(), number in 0u32..16, phase in 0u64..100, delay in 1u64..300,
    ) {
        let mut world = World::new(16);
        (0..16).for_each(|number| world.engine.set(id(number), vec![direct(number)], Moment::ZERO));
        world.delay = Duration::from_millis(delay);
        world.rest(5);
        world.run(Duration::from_millis(phase * 10), |_| false);
        world.wire(number, wire);
        let told = world.run(SOON, |engine| engine.health(&id(number)) == health);
        prop_assert!(told.is_some(), "{:?}", world.engine.health(&id(number)));
        world.wire(number, Wire::Whole);
        prop_assert!(world.run(SOON, |engine| engine.health(&id(number)) == Health::Works).is_some());
    }

    #[test]
    fn what_is_sent_has_a_bound_whatever_the_number_of_peers(
        dead in 0u32..3_000, busy in 0u32..3_000, without_tunnel: bool,
    ) {
        let mut world = World::new(3_000);
        if without_tunnel {
            (0..3_000).for_each(|number| world.engine.set(id(number), vec![direct(number)], Moment::ZERO));
        }
        let most = if without_tunnel { 16 } else { 0 };
        (0..dead).for_each(|number| world.wire(number, Wire::Cut));
        world.rest(1);
        let now = world.now + Duration::from_secs(5);
        (0..busy).for_each(|number| world.engine.used(id(number), now, now));
        world.sent = 0;
        world.rest(10);
        // Four kinds in a round, each twice, and those in question.
        prop_assert!(world.sent <= 10 * (2 * (27 + most) + 2 * 5 * 32), "{} probes", world.sent);
        if dead == 0 {
            prop_assert!(world.sent <= 10 * 2 * (19 + most) + 2 * (19 + most), "{} probes", world.sent);
        }
    }

    #[test]
    fn an_echo_is_read_as_it_was_written(sequence: u16, nonce: u64, number: u16, v6: bool, length in proptest::option::of(0u16..)) {
        let remote = if v6 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { LOCAL };
        let family = Family::of(remote);
        let probe = Probe { local: remote, remote, sequence, nonce, length };
        let message = encode(&probe, number);
        let echo = decode(family, &message).unwrap();
        prop_assert_eq!((echo.kind, echo.id, echo.sequence, echo.nonce), (EchoKind::Request, number, sequence, nonce));
        let header = if v6 { 40 } else { 20 };
        prop_assert_eq!(message.len() + header, usize::from(length.unwrap_or(0)).max(header + 24));
        if !v6 {
            let sum: u32 = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum();
            prop_assert_eq!((sum >> 16) + (sum & 0xffff), 0xffff);
        }
    }

    #[test]
    fn whatever_comes_in_is_read_without_a_panic(bytes: Vec<u8>, v6: bool) {
        let _ = decode(if v6 { Family::Ipv6 } else { Family::Ipv4 }, &bytes);
    }

    #[test]
    fn answers_to_nothing_change_nothing(nonce in 1_000_000u64.., number in 0u32..3) {
        let mut world = World::new(2);
        world.wire(0, Wire::Cut);
        world.wire(1, Wire::Cut);
        world.rest(5);
        for _ in 0..40 {
            let now = world.now;
            world.engine.answered(Reply { from: remote(number), nonce }, now);
            world.run(Duration::from_millis(100), |_| false);
        }
        prop_assert_eq!(world.engine.health(&id(0)), Health::Dead);
    }

    #[test]
    fn a_survey_asks_all_and_finds_what_there_is(wires in proptest::collection::vec(any_fault(), 0..40)) {
        let mut survey = Survey::new((0..wires.len() as u32).map(|number| (number, lane(number))));
        let (mut now, mut nonce, mut sent) = (Moment::ZERO, 0, 0);
        while !survey.is_done() {
            let probes = survey.tick(now, &mut || { nonce += 1; nonce });
            sent += probes.len();
            for probe in probes {
                let place = wires.iter().enumerate().position(|(number, _)| remote(number as u32) == probe.remote).unwrap();
                if wires[place].0 == Wire::Narrow && probe.length.is_none() {
                    survey.answered(Reply { from: probe.remote, nonce: probe.nonce }, now + Duration::from_millis(1));
                }
            }
            now = survey.due(now);
            prop_assert!(now < Duration::from_secs(10));
        }
        prop_assert!(sent <= 6 * wires.len());
        for row in survey.into_rows() {
            let narrow = wires[row.whose as usize].0 == Wire::Narrow;
            prop_assert!(row.asked && row.full.is_none() && row.small.is_some() == narrow);
        }
    }
}

#[test]
fn answers_are_told_apart_when_more_are_on_their_way_than_there_are_numbers() {
    const WAYS: u32 = 33_000;
    let mut survey = Survey::new((0..WAYS).map(|number| (number, lane(number))));
    let (mut now, mut nonce, mut probes) = (Moment::ZERO, 0, Vec::new());
    // All of them in less than the time that an answer may take.
    while probes.len() < 2 * WAYS as usize {
        probes.extend(survey.tick(now, &mut || {
            nonce += 1;
            nonce
        }));
        now += Duration::from_nanos(1);
    }
    for probe in probes {
        survey.answered(Reply { from: probe.remote, nonce: probe.nonce }, now);
    }
    assert!(survey.is_done());
    assert!(survey.into_rows().iter().all(|row| row.small.is_some() && row.full.is_some()));
}

#[test]
fn without_any_chance_no_two_probes_are_one() {
    let mut engine = Engine::new();
    (0..3).for_each(|number| engine.set(id(number), vec![lane(number)], Moment::ZERO));
    let nonces: Vec<u64> = engine.tick(Moment::ZERO, &mut || 0).iter().map(|probe| probe.nonce).collect();
    let different: std::collections::BTreeSet<&u64> = nonces.iter().collect();
    assert!(nonces.len() > 3 && different.len() == nonces.len(), "{nonces:?}");
}

#[test]
fn one_lost_probe_is_no_death() {
    let mut world = World::new(1);
    world.rest(4);
    world.wire(0, Wire::Cut);
    // Until one was lost.
    world.run(Duration::from_secs(2), |engine| engine.counters().lost[0] > 0).unwrap();
    world.wire(0, Wire::Whole);
    assert!(world.run(Duration::from_secs(10), |engine| engine.health(&id(0)) != Health::Works).is_none());
}

#[test]
fn a_way_that_dies_again_and_again_has_to_work_for_longer() {
    let mut world = World::new(1);
    let mut times = Vec::new();
    for _ in 0..4 {
        world.wire(0, Wire::Whole);
        times.push(
            world.run(Duration::from_secs(10), |engine| engine.health(&id(0)) == Health::Works).unwrap(),
        );
        world.wire(0, Wire::Cut);
        world.run(Duration::from_secs(10), |engine| engine.health(&id(0)) == Health::Dead).unwrap();
    }
    assert!(times[3] > times[1] + Duration::from_secs(1), "{times:?}");
}

#[test]
fn only_traffic_makes_it_worthwhile_to_look_whose_it_is() {
    let mut world = World::new(2);
    let mut packets = 0;
    assert!(!world.engine.moved(packets, world.now));
    for _ in 0..10 {
        let before = world.sent;
        world.rest(1);
        // Our probes, and the kernel's answers to the peers' own.
        packets += world.sent - before + 2;
        assert!(!world.engine.moved(packets, world.now));
    }
    world.rest(1);
    assert!(world.engine.moved(packets + 100, world.now));
}

#[test]
fn a_peer_that_is_gone_is_not_asked() {
    let mut world = World::new(1);
    world.rest(2);
    world.engine.set(id(0), Vec::new(), world.now);
    world.sent = 0;
    world.rest(5);
    assert_eq!((world.sent, world.engine.due()), (0, None));
    assert_eq!(world.engine.take_changes().len(), 1);
}
