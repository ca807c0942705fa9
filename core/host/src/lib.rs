//! The kernel as data.
//!
//! What we want in a kernel and what a kernel has are both sets of [`Row`]s. [`diff`] compares them and gives a
//! plan of [`Step`]s, [`guard`] refuses those that would touch what is not ours, and [`Host::act`] is a kernel made
//! of data that takes the same steps as the real one: the laws are proven on it, and the twin test holds it
//! against the real kernel.

mod act;
mod act_policy;
mod denial;
mod diff;
mod effect;
mod element;
mod firewall;
mod guard;
mod guards;
mod host;
pub mod nftables;
pub mod policy;
mod row;
mod rows;
mod step;
mod way_out;

pub use denial::Denial;
pub use diff::{diff, diff_keys};
pub use element::{Element, Member, Protocol};
pub use firewall::{ForeignChain, ForeignRule, Obstacle, Test, Verdict, obstacles};
pub use guard::{Realm, Refusal, RefusalReason, guard};
pub use guards::{PRIORITY, Parts, Reason, TABLE, parts_of, reasons, ruleset};
pub use host::{ForeignLink, Host, Notice};
pub use row::{
    Address, Fdb, Key, Link, LinkKind, Neighbor, NetnsToken, Peer, Route, RouteKind, Row, Ruleset, Scope,
    Sysctl, SysctlKey, TABLES,
};
pub use rows::{Keyed, Rows};
pub use step::{Step, StepError};
