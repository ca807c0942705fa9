//! Policies, from what people write to what packets meet: held against the truth tables of the stories, and against the
//! reference evaluator.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

#[path = "../../../../core/policy/tests/cases/mod.rs"]
mod cases;
#[expect(unused_imports, reason = "the laws of the core draw more from it")]
#[path = "../../../../core/policy/tests/generate/mod.rs"]
mod generate;
mod listeners;
mod messages;
mod objects;
mod questions;
mod random;
mod stage;
mod stories;
