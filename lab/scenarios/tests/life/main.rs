//! Long life: what an agent lives through in years. Other releases, full and lost disks, storms, limits, clocks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

mod clock;
mod disk;
mod harness;
mod limits;
mod lost;
mod storm;
mod upgrade;
