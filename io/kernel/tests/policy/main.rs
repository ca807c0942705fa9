//! The table of policies in a real kernel.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

#[path = "../common/mod.rs"]
mod common;
mod cost;
mod denials;
mod marks;
mod packets;
mod rows;
mod world;
