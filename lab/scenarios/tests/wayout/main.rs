//! The way out of networks, and between them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

mod apart;
mod foreign;
mod harness;
mod leave;
mod services;
