//! What every driver does, as tests. A driver's own tests take this folder in by `#[path]`, say how its store is opened,
//! and keep for themselves only what the others have not.

pub(crate) mod lease;
pub(crate) mod swap;
pub(crate) mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tartan_store::{Durability, Expect, Revision, Store, Watch};

/// How long it may take until something is so.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A store that is empty at first.
pub(crate) trait Shared: Sync {
    /// One more instance of it, as another agent would open it.
    fn instance(&self) -> Box<dyn Store>;

    /// The shortest term that a lease can have.
    fn brief(&self) -> Duration;
}

/// A test of each of the suite's cases, on a [`Shared`] store of its own.
macro_rules! every_driver {
    ($store:expr) => {
        $crate::suite::every_driver! { $store;
            lease::a_living_lease_keeps_others_out_until_released,
            lease::force_takes_it_and_the_old_holder_learns,
            lease::an_old_lease_is_over_and_may_be_taken_or_renewed,
            lease::renewing_keeps_it_alive_makes_no_revision_and_wakes_nobody,
            lease::one_of_many_takes_an_old_lease,
            lease::names_and_holders_are_bounded,
            swap::what_was_put_is_read_by_another_instance,
            swap::revisions_go_up_across_instances_and_deletions,
            swap::a_prefix_is_taken_literally_and_in_key_order,
            swap::a_failed_expectation_changes_nothing_and_says_what_is_there,
            swap::each_key_has_exactly_one_winner,
            swap::keys_and_values_out_of_bounds_are_refused_and_the_largest_are_kept,
            watch::another_instance_sees_the_last_state_of_each_key_in_order,
            watch::a_watch_sees_its_own_instance_and_only_its_prefix,
            watch::what_changes_nothing_wakes_nobody,
            watch::a_listing_and_a_watch_from_its_revision_miss_nothing,
            watch::a_sleeping_reader_is_woken_for_every_write,
            watch::a_revision_of_another_store_is_told_to_list_anew,
        }
    };
    ($store:expr; $($kind:ident::$case:ident,)*) => {
        $(#[test]
        fn $case() {
            $crate::suite::$kind::$case(&$store);
        })*
    };
}
pub(crate) use every_driver;

/// Tells so when it goes, also by a panic: else a scope waits for ever for a thread that was to be stopped.
pub(crate) struct Ended<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes whatever is there.
pub(crate) fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    store.put(key, value.as_bytes(), Expect::Any, Durability::Crash).unwrap()
}

/// Whether the watch's descriptor is readable within `timeout`.
pub(crate) fn woken(watch: &dyn Watch, timeout: Duration) -> bool {
    let mut descriptors = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
    poll(&mut descriptors, PollTimeout::try_from(timeout).unwrap()).unwrap() == 1
}

/// Looks until it holds; fails if that takes too long.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
