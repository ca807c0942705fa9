//! Policies, from what people write to what becomes of packets, which is held against the truth tables of the core's
//! stories and against its reference evaluator.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

#[path = "../../../../core/policy/tests/cases/mod.rs"]
mod cases;
#[path = "../../../../core/policy/tests/generate/mod.rs"]
mod generate;
mod listeners;
mod messages;
mod objects;
mod questions;
mod random;
mod stage;
mod stories;
