//! The agent's unix socket: a server for the agent and a call for everybody who asks it.
//!
//! One request and one answer a connection, each a line of JSON ([`tartan_api::rpc`]); at most one descriptor goes
//! along with a request. Blocking, with plain threads: the CNI plugin links this, and it has to start fast.

mod address;
mod client;
mod error;
mod server;
mod slots;
#[allow(unsafe_code, reason = "descriptors arrive as plain numbers")]
mod sys;
mod wire;

pub use client::call;
pub use error::RpcError;
pub use server::{Client, DRAIN, Handler, MAX_CONNECTIONS, REQUEST_TIMEOUT, Server, Serving, SocketName};
