//! The hand that touches the kernel: rtnetlink, nftables, sysctl files and network namespaces.
//!
//! It makes no choices. It takes [`tartan_host::Step`]s, tells what the kernel has as [`tartan_host::Row`]s, and knows
//! ours from others by their [`Marks`]. It starts no program and needs no async runtime: all sockets block but those
//! that the kernel tells by.

mod apply;
mod conntrack;
mod denials;
mod echo;
mod kernel;
mod marks;
mod message;
pub mod netns;
pub mod nft;
mod notices;
mod packet;
mod plain;
mod programs;
mod read;
mod remains;
mod rtnl;
#[allow(unsafe_code, reason = "system calls that no library wraps")]
mod sys;
pub mod sysctl;
mod tables;
mod uplink;
mod usage;
mod write;

use std::io;

use thiserror::Error;

pub use denials::DenialLog;
pub use echo::{EchoSockets, Heard};
pub use kernel::Kernel;
pub use marks::{Marks, PROTOCOL, keeps_marks_of_addresses};
pub use netns::NetnsError;
pub use nft::{Batch, Nftables};
pub use notices::Notices;
pub use packet::PacketSocket;
pub use remains::{Remain, Remains};
pub use rtnl::{Dump, Message, Messages, Refused, Request, Rtnl};
pub use tartan_bpf::{BpfError, Denied, FOLDER as PROGRAMS};
pub use usage::Used;

/// Has all threads take memory from one arena, so that what one has freed another can use, and wait for each other where
/// several allocate at once. To be called before there are several. With another C library than glibc nothing changes.
pub fn use_one_arena() {
    sys::use_one_arena();
}

/// Gives memory that a burst has left free back to the kernel; takes some milliseconds.
pub fn give_back_memory() {
    sys::trim_memory();
}

/// Why the kernel could not be talked to or read. What it says to single steps is a [`tartan_host::StepError`].
#[derive(Debug, Error)]
pub enum KernelError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    /// Sending or receiving failed.
    #[error("cannot talk to the kernel by netlink")]
    Talk(#[source] io::Error),
    /// The kernel said no.
    #[error("the kernel refused to {action} {object}")]
    Refused {
        /// What was asked.
        action: &'static str,
        /// Of what.
        object: String,
        /// What it said.
        #[source]
        source: Refused,
    },
    /// A dump was interrupted by changes each time.
    #[error("the kernel's tables change too fast to be read")]
    Restless,
    /// The kernel's answer makes no sense.
    #[error("the kernel's answer about a {what} cannot be read")]
    Garbled {
        /// What it was about.
        what: &'static str,
    },
    /// A namespace cannot be had.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The guards' programs cannot be asked.
    #[error(transparent)]
    Programs(#[from] BpfError),
}
