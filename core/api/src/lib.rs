//! What outsiders see of Tartan: the objects that people write, the CNI exchange, the requests and answers of the
//! agent's socket, and the JSON of every verb. Field names here are a promise.

pub mod cni;
pub mod endpoint;
pub mod explain;
pub mod flannel;
pub mod kubernetes;
pub mod label;
pub mod meta;
pub mod network;
pub mod object;
pub mod policy;
pub mod prev;
pub mod rpc;
pub mod verb;

/// The version that every program of this release reports.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
