//! What is known of one way to a peer, and how that changes.

use std::time::Duration;

use tartan_model::{Family, Mtu, NetworkName, Path};

use crate::{Lane, Moment, Size};

/// Full probes lost in a row until a way is not taken to work any more.
const LOST: u8 = 4;
/// Answers in a row until a way is taken to work again.
const GOOD: u8 = 2;
/// A way that dies again within this time has to work for longer the next time.
const CALM: Duration = Duration::from_secs(60);
/// The most answers in a row that are asked for.
const MOST_GOOD: u8 = 16;
/// How fresh a peer's own probe has to be to tell that what it sends arrives: peers with a silent peer send each second.
const FRESH: Duration = Duration::from_millis(1600);

/// What is known of a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// It answers.
    Works,
    /// Nothing yet.
    Unknown,
    /// It answers small packets only.
    LargeLost,
    /// It does not answer, while what the peer sends arrives.
    OneWay,
    /// It does not answer, and nothing of the peer arrives.
    Dead,
}

impl Health {
    /// All of them.
    pub const ALL: [Health; 5] =
        [Health::Works, Health::Unknown, Health::LargeLost, Health::OneWay, Health::Dead];

    /// Whether the way is known not to carry traffic.
    pub const fn is_down(self) -> bool {
        matches!(self, Health::OneWay | Health::Dead)
    }
}

/// What is known of a way, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneReport {
    /// The network.
    pub network: NetworkName,
    /// How its packets go.
    pub path: Path,
    /// The family.
    pub family: Family,
    /// The largest packet in bytes that should pass.
    pub full: Mtu,
    /// What is known.
    pub health: Health,
    /// Since when.
    pub since: Moment,
    /// When the last answer came.
    pub answered: Option<Moment>,
    /// When the first probe went out that has no answer since.
    pub silent: Option<Moment>,
    /// The usual round trip.
    pub rtt: Option<Duration>,
}

/// A way with what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Track {
    pub(crate) lane: Lane,
    pub(crate) health: Health,
    since: Moment,
    answered: Option<Moment>,
    silent: Option<Moment>,
    pub(crate) heard: Option<Moment>,
    rtt: Option<Duration>,
    /// In a row, each ended by its opposite.
    lost_full: u8,
    lost_small: u8,
    good_full: u8,
    good_small: u8,
    /// Deaths within [`CALM`] of each other, and the last.
    deaths: u8,
    died: Option<Moment>,
}

impl Track {
    pub(crate) fn new(lane: Lane, now: Moment) -> Track {
        Track {
            lane,
            health: Health::Unknown,
            since: now,
            answered: None,
            silent: None,
            heard: None,
            rtt: None,
            lost_full: 0,
            lost_small: 0,
            good_full: 0,
            good_small: 0,
            deaths: 0,
            died: None,
        }
    }

    pub(crate) fn report(&self) -> LaneReport {
        LaneReport {
            network: self.lane.network.clone(),
            path: self.lane.path,
            family: self.lane.family(),
            full: self.lane.full,
            health: self.health,
            since: self.since,
            answered: self.answered,
            silent: self.silent,
            rtt: self.rtt,
        }
    }

    /// A way that works is asked with a full probe only: its answer tells of small ones, too.
    /// Whether its probes go through a tunnel, as a number to count them by.
    pub(crate) fn in_tunnel(&self) -> u64 {
        u64::from(self.lane.path == Path::Vxlan)
    }

    pub(crate) fn sizes(&self) -> &'static [Size] {
        if self.health == Health::Works && self.lost_full == 0 {
            &[Size::Full]
        } else {
            &[Size::Full, Size::Small]
        }
    }

    /// Whether its state is about to change, so that it is worth asking often.
    pub(crate) fn is_in_question(&self) -> bool {
        match self.health {
            Health::Works => self.lost_full > 0,
            Health::Unknown => self.lost_full > 0 || self.good_small > 0,
            Health::LargeLost => self.good_full > 0 || self.lost_small > 0,
            Health::OneWay | Health::Dead => self.good_full > 0 || self.good_small > 0,
        }
    }

    pub(crate) fn on_sent(&mut self, now: Moment) {
        self.silent.get_or_insert(now);
    }

    pub(crate) fn on_answer(&mut self, size: Size, rtt: Duration, now: Moment) {
        self.answered = Some(now);
        self.silent = None;
        // As TCP smooths it (RFC 6298, section 2).
        self.rtt = Some(self.rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
        self.lost_small = 0;
        match size {
            Size::Full => {
                self.lost_full = 0;
                self.good_full = self.good_full.saturating_add(1);
            }
            Size::Small => self.good_small = self.good_small.saturating_add(1),
        }
        self.judge(now);
    }

    pub(crate) fn on_loss(&mut self, size: Size, now: Moment) {
        match size {
            Size::Full => {
                self.good_full = 0;
                self.lost_full = self.lost_full.saturating_add(1);
            }
            Size::Small => {
                self.good_small = 0;
                self.lost_small = self.lost_small.saturating_add(1);
            }
        }
        self.judge(now);
    }

    pub(crate) fn on_heard(&mut self, now: Moment) {
        self.heard = Some(now);
        self.judge(now);
    }

    /// Takes the state that follows from what was counted.
    pub(crate) fn judge(&mut self, now: Moment) {
        let next = self.next(now);
        if next == self.health {
            return;
        }
        if next.is_down() && !self.health.is_down() {
            let again = self.died.is_some_and(|died| now.saturating_sub(died) < CALM);
            self.deaths = if again { self.deaths.saturating_add(1) } else { 1 };
            self.died = Some(now);
        }
        let only_the_manner = next.is_down() && self.health.is_down();
        if !only_the_manner {
            self.since = now;
            self.good_full = 0;
            self.good_small = 0;
        }
        self.health = next;
    }

    fn next(&self, now: Moment) -> Health {
        let silent = self.lost_full >= LOST && self.lost_small >= LOST - 1;
        let only_small = self.lost_full >= LOST && self.lost_small == 0;
        match self.health {
            Health::Unknown if self.good_full > 0 => Health::Works,
            Health::LargeLost | Health::OneWay | Health::Dead if self.good_full >= self.needed() => {
                Health::Works
            }
            Health::OneWay | Health::Dead if self.good_small >= self.needed() && only_small => {
                Health::LargeLost
            }
            Health::Works | Health::Unknown if only_small && self.good_small >= GOOD => Health::LargeLost,
            Health::OneWay | Health::Dead => self.down(now),
            _ if silent => self.down(now),
            same => same,
        }
    }

    fn down(&self, now: Moment) -> Health {
        let fresh = self.heard.is_some_and(|heard| now.saturating_sub(heard) <= FRESH);
        if fresh { Health::OneWay } else { Health::Dead }
    }

    fn needed(&self) -> u8 {
        GOOD.checked_shl(u32::from(self.deaths.saturating_sub(1)))
            .filter(|needed| *needed > 0)
            .map_or(MOST_GOOD, |needed| needed.min(MOST_GOOD))
    }
}
