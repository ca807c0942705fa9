//! The store on etcd: [`tartan_store::Store`] over the v3 API, by a thin client of our own (decision 8).
//!
//! Everything of ours is below one prefix: `entry/…` the entries, `holder/…` and `alive/…` the leases, `store` a mark that
//! tells this store from another. The trait is synchronous; a thread with a runtime of its own does the talking, so nobody
//! else needs one. Every call has a deadline and goes to the next endpoint when one does not answer.

mod client;
mod config;
mod fault;
mod history;
mod lease;
mod runtime;
mod store;
mod watch;
mod wire;

pub use config::{ConfigError, EtcdFiles, EtcdUrl};
pub use store::Etcd;
