//! HTTP for those who watch the agent: short texts, on a unix socket that only root may use, or on loopback.
//!
//! A thread of its own with a small runtime; nobody else of the agent waits for it. What a client may cost has a bound:
//! see the limits in `server.rs`.

mod listen;
mod server;

pub use listen::{Listen, NotLocal};
pub use server::{Handler, HttpError, MAX_CONNECTIONS, MAX_HEAD, Reply, Serving, serve};
