//! Who may talk to whom: policies over labelled endpoints become verdicts.
//!
//! Every kind of policy becomes the internal [`form`]. The [`Engine`] keeps what it comes to up to date: each local
//! endpoint has an identity in each direction, an identity tells remotes by port, and remotes judge addresses.

mod engine;
pub mod explain;
pub mod form;
mod identity;
mod index;
mod kubernetes;
mod labels;
mod number;
mod parse;
mod places;
pub mod reference;
mod remotes;
mod selector;

pub use engine::{Changes, Engine, Identity, IdentityId, Key, RemotesId};
pub use kubernetes::{network_policy, number as protocol_number};
pub use parse::{MAX_LENGTH, SelectorError};
pub use remotes::JudgedRange;
pub use selector::{Labels, Selector};
