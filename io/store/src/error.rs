//! Why a store did not do what it was asked.

use std::error::Error;
use std::time::Duration;

use crate::{KEY_MAX, Revision, VALUE_MAX};

/// Why a store did not do what it was asked; the same for every driver.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else changed the key first.
    #[error("{key} {}; read it again and decide anew", found_text(*.found))]
    Conflict {
        /// The key.
        key: String,
        /// The revision found there; `None`: it is not there.
        found: Option<Revision>,
    },

    /// Another holder's lease lives.
    #[error("{name} is held by {holder} for {} more; wait, stop that holder, or take over", seconds(*.expires_in))]
    Held {
        /// The lease.
        name: String,
        /// Who holds it.
        holder: String,
        /// How long it will live unless renewed.
        expires_in: Duration,
    },

    /// The lease was released, or somebody else took it.
    #[error("{holder} no longer holds {name}; stop acting in that name")]
    LeaseLost {
        /// The lease.
        name: String,
        /// Who wanted to renew it.
        holder: String,
    },

    /// The watch is further behind than the store remembers.
    #[error("the store no longer knows all changes since the last look; list anew")]
    Compacted,

    /// The key, prefix, lease name or holder is out of bounds.
    #[error("{key:?} is not a key: use 1 to {KEY_MAX} bytes of printable ASCII")]
    BadKey {
        /// Its first 64 characters.
        key: String,
    },

    /// The value is out of bounds.
    #[error("the value of {key} has {size} bytes; at most {VALUE_MAX} are stored")]
    TooLarge {
        /// The key.
        key: String,
        /// The value's size in bytes.
        size: usize,
    },

    /// The store cannot be reached, or its machinery failed.
    #[error("the store {store} cannot be used: mend the cause, then try again")]
    Unavailable {
        /// Which store, as a URL.
        store: String,
        /// What failed underneath.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

fn found_text(found: Option<Revision>) -> String {
    match found {
        Some(revision) => format!("is there, last changed by revision {revision}"),
        None => "is not there".to_owned(),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
