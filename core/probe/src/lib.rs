//! Probes of the data path: which peers are probed when, and what their answers, or their silence, tell.
//!
//! An engine: time, answers, what the peers send of their own and which of them have traffic come in; probes to send and
//! what is known of each way go out. It has no clock, no socket and no chance. What it costs does not grow with the
//! number of peers: see the limits in [`Engine`].

mod engine;
mod lane;
mod packet;
mod survey;

use std::net::IpAddr;
use std::time::Duration;

use tartan_model::{Family, Mtu, NetworkName, NodeId, Path};

pub use engine::{Change, Counters, Engine};
pub use lane::{Health, LaneReport};
pub use packet::{Echo, EchoKind, decode, encode};
pub use survey::{Survey, Surveyed};

/// How long an answer may take until its probe counts as lost. One that comes later still counts.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// A moment: the time since a fixed one before everything else.
pub type Moment = Duration;

/// One way to a peer: through one network, in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// The network.
    pub network: NetworkName,
    /// How its packets go.
    pub path: Path,
    /// This node's own address in it.
    pub local: IpAddr,
    /// The peer's own address in it: its kernel answers there.
    pub remote: IpAddr,
    /// The largest packet in bytes that should pass.
    pub full: Mtu,
}

impl Lane {
    /// The family of its packets.
    pub fn family(&self) -> Family {
        Family::of(self.remote)
    }
}

/// How large a probe is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// As small as can be.
    Small,
    /// As large as should pass.
    Full,
}

/// A probe to send: an echo request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Where from.
    pub local: IpAddr,
    /// Where to.
    pub remote: IpAddr,
    /// Its number.
    pub sequence: u16,
    /// What only an answer to it can hold.
    pub nonce: u64,
    /// The length of the whole packet in bytes, its IP header included; None for as small as can be.
    pub length: Option<u16>,
}

/// An answer to a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Who answers.
    pub from: IpAddr,
    /// The probe's number.
    pub sequence: u16,
    /// The probe's nonce.
    pub nonce: u64,
}

/// A probe that is on its way.
#[derive(Debug, Clone, Copy)]
struct Flight<T> {
    whose: T,
    size: Size,
    remote: IpAddr,
    nonce: u64,
    sent: Moment,
    lost: bool,
}

impl<T> Flight<T> {
    /// Whether an answer is to this probe.
    fn is_answered_by(&self, reply: &Reply) -> bool {
        (self.remote, self.nonce) == (reply.from, reply.nonce)
    }
}

fn probe(lane: &Lane, size: Size, sequence: u16, nonce: u64) -> Probe {
    let length = match size {
        Size::Small => None,
        Size::Full => Some(u16::try_from(u32::from(lane.full)).unwrap_or(u16::MAX)),
    };
    Probe { local: lane.local, remote: lane.remote, sequence, nonce, length }
}

/// A peer, as far as probes go.
type Peer = NodeId;
