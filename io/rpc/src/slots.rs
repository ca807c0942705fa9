//! How many connections are served at once, and whether any are to be served at all.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A number of slots that connections take and give back.
#[derive(Debug)]
pub(crate) struct Slots {
    state: Mutex<State>,
    changed: Condvar,
    most: usize,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    closed: bool,
}

/// A slot; given back when dropped.
pub(crate) struct Slot(Arc<Slots>);

impl Slots {
    pub(crate) fn new(most: usize) -> Slots {
        Slots { state: Mutex::default(), changed: Condvar::new(), most }
    }

    /// Waits for a free slot; None once [`Slots::close`] was called.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        let full = |state: &mut State| !state.closed && state.taken >= self.most;
        let mut state = self.changed.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return None;
        }
        state.taken += 1;
        Some(Slot(self.clone()))
    }

    /// Gives no more slots.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until all slots are free, `longest` at most.
    pub(crate) fn drain(&self, longest: Duration) {
        let busy = |state: &mut State| state.taken > 0;
        drop(self.changed.wait_timeout_while(self.lock(), longest, busy));
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// A thread that panics elsewhere leaves the numbers right, so its poison says nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.lock().taken -= 1;
        self.0.changed.notify_all();
    }
}
