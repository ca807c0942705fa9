//! What the engine costs with many policies and endpoints; `cargo xtask bench` measures it with more.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod crowd;

use std::time::{Duration, Instant};

use crowd::{endpoint, filled};

#[test]
fn one_endpoint_meets_few_selectors_among_thousands_that_share_a_label() {
    let mut engine = filled(1000, 5000);
    let start = Instant::now();
    for number in 1000..1100 {
        engine.set_endpoint(&number, Some(endpoint(number, false)));
    }
    let each = start.elapsed() / 100;
    // Looking at all of them takes some milliseconds.
    assert!(each < Duration::from_millis(1), "{each:?}");
}
