//! Probes of the data path: which peers are probed when, and what their answers, or their silence, tell.
//!
//! An engine: time, answers, what the peers send of their own and which of them have traffic come in; probes to send and
//! what is known of each way go out. It has no clock, no socket and no chance. What it costs does not grow with the
//! number of peers: see the limits in [`Engine`].

mod engine;
mod lane;
mod packet;
mod survey;

use std::collections::BTreeMap;
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
    /// Its number on the wire, for those who look at packets there; it wraps, and no answer is told by it.
    pub sequence: u16,
    /// What only an answer to it can hold, and no other probe that is on its way.
    pub nonce: u64,
    /// The length of the whole packet in bytes, its IP header included; None for as small as can be.
    pub length: Option<u16>,
}

/// An answer to a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Who answers.
    pub from: IpAddr,
    /// The probe's nonce.
    pub nonce: u64,
}

/// A probe that is on its way.
#[derive(Debug, Clone, Copy)]
struct Flight<T> {
    whose: T,
    size: Size,
    remote: IpAddr,
    sent: Moment,
    lost: bool,
}

/// Probes that are on their way, by their nonces: their numbers on the wire begin anew after 65,536, which is less than
/// what hundreds of ways in tens of networks have on its way at once.
#[derive(Debug)]
struct Flights<T> {
    by_nonce: BTreeMap<u64, Flight<T>>,
    sequence: u16,
}

impl<T> Default for Flights<T> {
    fn default() -> Flights<T> {
        Flights { by_nonce: BTreeMap::new(), sequence: 0 }
    }
}

impl<T> Flights<T> {
    /// Sends one more: its number, and its nonce by `chance`, which no other has.
    fn send(&mut self, flight: Flight<T>, chance: u64) -> (u16, u64) {
        let mut nonce = chance;
        while self.by_nonce.contains_key(&nonce) {
            nonce = nonce.wrapping_add(1);
        }
        self.by_nonce.insert(nonce, flight);
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        (sequence, nonce)
    }

    /// Takes out the one that this is an answer to.
    fn answered(&mut self, reply: &Reply) -> Option<Flight<T>> {
        self.by_nonce.get(&reply.nonce).filter(|flight| flight.remote == reply.from)?;
        self.by_nonce.remove(&reply.nonce)
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
