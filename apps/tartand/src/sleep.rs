//! What the ring sleeps on, and what it wakes for.

use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;

use crate::ring::Ring;

/// What ended a sleep.
pub(crate) struct Woken {
    pub(crate) stop: bool,
    /// There is more to do than to send and hear probes, and to hear what was refused.
    pub(crate) turn: bool,
}

impl Ring {
    /// Sleeps until something comes in or is due.
    pub(crate) fn sleep(&mut self, signals: &SignalFd) -> anyhow::Result<Woken> {
        let wait_at = self.waits.values().min().copied();
        let add_at = self.waiting.iter().map(|waiting| waiting.until).min();
        let (rows_at, departs_at) = (self.loop_.due(), self.departs_by());
        let due =
            [self.sweep_at, self.retry_at, self.lighten_at, wait_at, add_at, rows_at, departs_at].into_iter();
        let turn_at = due.flatten().fold(self.read_at, Instant::min);
        let wake_at = self.probing.due().map_or(turn_at, |at| at.min(turn_at));
        let left = wake_at.saturating_duration_since(Instant::now());
        // Rounded up, so as not to wake just before.
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        let mut fds = vec![signals.as_fd(), self.inbox.bell()];
        fds.extend(self.loop_.kernel_ref().notices_fds());
        let of_turns = fds.len();
        // An answer to a probe is heard without a whole turn, and so is what policies refused.
        fds.extend(self.probing.fds());
        fds.extend(self.denial_log.fd());
        let mut fds: Vec<PollFd<'_>> = fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait"),
        }
        let mut ready = fds.iter().take(of_turns).map(|fd| fd.any() == Some(true));
        let stop = ready.next() == Some(true);
        Ok(Woken { stop, turn: ready.any(|ready| ready) || Instant::now() >= turn_at })
    }
}
