//! Asking every one of some ways at once, because somebody wants to know now.

use std::time::Duration;

use crate::{Flight, Flights, Lane, Moment, PATIENCE, Probe, Reply, Size, probe};

/// Probes for each way and size.
const TRIES: u8 = 3;
/// How many probes go out in one tick: a few hundred ways in a second do no harm.
const AT_ONCE: usize = 64;
/// How often a tick is due while there is something left to send.
const TICK: Duration = Duration::from_millis(50);

/// What was found of one way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surveyed<T> {
    /// Whose way it is.
    pub whose: T,
    /// The way.
    pub lane: Lane,
    /// The round trip of a small packet.
    pub small: Option<Duration>,
    /// That of a packet as large as should pass.
    pub full: Option<Duration>,
    /// Whether it was asked at all.
    pub asked: bool,
}

/// Ways that are asked.
#[derive(Debug)]
pub struct Survey<T> {
    rows: Vec<Surveyed<T>>,
    flights: Flights<(usize, u8)>,
    /// Rows and sizes to ask, and how often they were asked already.
    left: Vec<(usize, Size, u8)>,
}

impl<T> Survey<T> {
    /// A survey of these ways.
    pub fn new(lanes: impl IntoIterator<Item = (T, Lane)>) -> Survey<T> {
        let row = |(whose, lane)| Surveyed { whose, lane, small: None, full: None, asked: false };
        let rows: Vec<_> = lanes.into_iter().map(row).collect();
        let both = |place| [(place, Size::Small, 0), (place, Size::Full, 0)];
        // Taken from the end, so that the first row is asked first.
        let left = (0..rows.len()).rev().flat_map(both).collect();
        Survey { rows, flights: Flights::default(), left }
    }

    /// Whether every way has answered or been given up.
    pub fn is_done(&self) -> bool {
        self.left.is_empty() && self.flights.by_nonce.is_empty()
    }

    /// When the next tick is due.
    pub fn due(&self, now: Moment) -> Moment {
        if !self.left.is_empty() {
            return now + TICK;
        }
        self.flights.by_nonce.values().map(|flight| flight.sent + PATIENCE).min().unwrap_or(now)
    }

    /// The probes to send now.
    pub fn tick(&mut self, now: Moment, chance: &mut dyn FnMut() -> u64) -> Vec<Probe> {
        self.give_up(now);
        let mut probes = Vec::new();
        while probes.len() < AT_ONCE
            && let Some((place, size, tries)) = self.left.pop()
        {
            let Some(row) = self.rows.get_mut(place) else { continue };
            row.asked = true;
            let (whose, remote) = ((place, tries + 1), row.lane.remote);
            let flight = Flight { whose, size, remote, sent: now, lost: false };
            let (sequence, nonce) = self.flights.send(flight, chance());
            probes.push(probe(&row.lane, size, sequence, nonce));
        }
        probes
    }

    fn give_up(&mut self, now: Moment) {
        let late = |flight: &Flight<_>| flight.sent + PATIENCE <= now;
        let flights = &mut self.flights.by_nonce;
        let lost: Vec<u64> =
            flights.iter().filter(|(_, flight)| late(flight)).map(|(nonce, _)| *nonce).collect();
        for flight in lost.into_iter().filter_map(|nonce| flights.remove(&nonce)) {
            let (place, tries) = flight.whose;
            if tries < TRIES {
                self.left.push((place, flight.size, tries));
            }
        }
    }

    /// An answer came; one that is to nothing that was asked is passed over.
    pub fn answered(&mut self, reply: Reply, now: Moment) {
        let Some(Flight { whose: (place, _), size, sent, .. }) = self.flights.answered(&reply) else {
            return;
        };
        let Some(row) = self.rows.get_mut(place) else { return };
        let rtt = now.saturating_sub(sent);
        match size {
            Size::Small => row.small = Some(rtt),
            Size::Full => row.full = Some(rtt),
        }
    }

    /// What was found.
    pub fn into_rows(self) -> Vec<Surveyed<T>> {
        self.rows
    }
}
