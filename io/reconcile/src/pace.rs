//! How often what is in doubt may be read.

use std::time::{Duration, Instant};

/// However much the kernel tells, in the long run it is read once in this time.
const EVERY: Duration = Duration::from_millis(100);
/// How long after a reading that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// Whether something is in doubt, and when it may be read: at once if it was not read of late.
#[derive(Debug)]
pub(crate) struct Pace {
    doubt: bool,
    /// How far readings that came sooner may be ahead of their time.
    ahead: Duration,
    /// The time of the next reading, had all kept the interval.
    next: Option<Instant>,
}

impl Pace {
    /// So many readings may follow each other at once after a calm.
    pub(crate) fn with_burst(readings: u32) -> Pace {
        Pace { doubt: false, ahead: EVERY * readings.saturating_sub(1), next: None }
    }

    pub(crate) fn doubt_if(&mut self, doubt: bool) {
        self.doubt |= doubt;
    }

    /// Whether it is to be read now; it counts as read then.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let may = self.doubt && self.at().is_none_or(|at| now >= at);
        if may {
            self.doubt = false;
            self.next = Some(self.next.map_or(now, |next| next.max(now)) + EVERY);
        }
        may
    }

    /// It could not be read.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.doubt = true;
        self.next = Some(now + AGAIN + self.ahead);
    }

    /// It was read with something else.
    pub(crate) fn settled(&mut self) {
        self.doubt = false;
    }

    /// It may be read at once.
    pub(crate) fn hurry(&mut self) {
        self.next = None;
    }

    /// When it may be read; None if nothing is in doubt.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.doubt.then(|| self.at().unwrap_or_else(Instant::now))
    }

    fn at(&self) -> Option<Instant> {
        self.next.map(|next| next.checked_sub(self.ahead).unwrap_or(next))
    }
}
