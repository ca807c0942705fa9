//! nftables in-process (netlink, NETLINK_NETFILTER): transactions, dumps and notices. `nft` is never started.
//!
//! The numbers are those of linux/netfilter/nf_tables.h and linux/netfilter/nfnetlink.h.

mod elements;
mod encode;
mod foreign;
mod listen;
mod policy;
mod ruleset;
mod socket;
pub(crate) mod wire;

pub(crate) use listen::{Heard, Listener, Ports};
pub(crate) use policy::{LOG_GROUP, Policy, log_prefix};
pub(crate) use ruleset::Ruleset;
pub(crate) use socket::socket as netfilter_socket;
pub use socket::{Batch, Nftables};

/// Messages of nf_tables.
mod kind {
    pub(super) const NEWTABLE: u8 = 0;
    pub(super) const GETTABLE: u8 = 1;
    pub(super) const DELTABLE: u8 = 2;
    pub(super) const NEWCHAIN: u8 = 3;
    pub(super) const GETCHAIN: u8 = 4;
    pub(super) const DELCHAIN: u8 = 5;
    pub(super) const NEWRULE: u8 = 6;
    pub(super) const GETRULE: u8 = 7;
    pub(super) const DELRULE: u8 = 8;
    pub(super) const NEWSET: u8 = 9;
    pub(super) const GETSET: u8 = 10;
    pub(super) const DELSET: u8 = 11;
    pub(super) const NEWSETELEM: u8 = 12;
    pub(super) const GETSETELEM: u8 = 13;
    pub(super) const DELSETELEM: u8 = 14;
    pub(super) const NEWGEN: u8 = 15;
}
