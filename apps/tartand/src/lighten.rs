//! When the guards of pods move to where they cost packets less.

use std::time::{Duration, Instant};

use crate::ring::Ring;

/// How long no pod came or went before that is done for those that are there.
const QUIET: Duration = Duration::from_secs(1);
/// How far apart it is done for one and another: whoever changes a link meanwhile waits.
const APART: Duration = Duration::from_millis(100);

impl Ring {
    /// Moves one guard, if it is time.
    pub(crate) fn lighten_guards(&mut self, is_quiet: bool) {
        let now = Instant::now();
        let is_due = is_quiet && self.lighten_at.is_some_and(|at| now >= at);
        if is_due {
            self.loop_.kernel().lighten_guard();
        }
        if is_due || !is_quiet || self.lighten_at.is_none() {
            let until = if is_due { APART } else { QUIET };
            self.lighten_at = self.loop_.kernel_ref().has_heavy_guards().then(|| now + until);
        }
    }
}
