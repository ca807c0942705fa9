//! Policies as packets meet them: held against the truth tables of the stories, and against the reference evaluator.
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
mod questions;
mod random;

mod stage;
mod stories;
