//! Who may talk to whom, as rows: what the table of policies holds beside what is constant in it.
//!
//! A connection is judged where it is forwarded, by what its ends are and not by which way a packet goes: its client is
//! the source of its first packet, its server the source of the answers, whatever addresses were translated between. A
//! pod's address leads to its identity, there the server's port leads to remotes, and there the other end's address leads
//! to a verdict. What local pods send to those of other nodes is judged here by the policies of those, too: this node knows
//! who has an address of its own before the others do. What was allowed bears the epoch in its conntrack mark and is not
//! asked again until the epoch changes.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;
use tartan_model::Family;
pub use tartan_model::{Direction, Verdict as Judgement};

/// The name of the table, of family inet.
pub const TABLE: &str = "tartan-policy";

/// The bits of a conntrack mark that are ours.
pub const MARK_MASK: u32 = 0x7fff_0000;
/// The lowest of them.
pub const MARK_SHIFT: u32 = 16;

/// The number that a judged connection bears in its conntrack mark: 1 to 32767. A connection without a number, or with
/// another than that of now, is judged by its next packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Epoch(u16);

impl Epoch {
    /// The last.
    pub const LAST: Epoch = Epoch(0x7fff);
    /// The first of the upper half.
    const MIDDLE: u16 = 0x4000;

    /// The epoch of this number, from 0: numbers come round again.
    pub const fn of(number: u64) -> Epoch {
        // The rest is below 0x7fff.
        Epoch((number % Epoch::LAST.0 as u64) as u16 + 1)
    }

    /// The number, 1 to 32767.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The conntrack mark that it is.
    pub const fn mark(self) -> u32 {
        (self.0 as u32) << MARK_SHIFT
    }

    /// Whether it is in the upper half of the numbers. Who enters a half takes its marks off all connections before:
    /// they are of long ago.
    pub const fn is_upper(self) -> bool {
        self.0 >= Epoch::MIDDLE
    }
}

/// Stands for remotes of one kind: a hash of all that they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RemotesId(pub u64);

/// Stands for an identity of one kind: a hash of all that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct IdentityId(pub u64);

impl fmt::Display for RemotesId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for IdentityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A row of the table of policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyRow {
    /// The table with all that is constant in it, and the epoch of now.
    Judge(Judge),
    /// Other ends that are told apart by their address.
    Remotes(Remotes),
    /// An other end that the ranges of its remotes do not tell.
    Member(Member),
    /// Pods that no policy tells apart, in one direction.
    Identity(Identity),
    /// An address that is judged in one direction: of a local pod, or of one elsewhere that receives from local pods.
    Judged(Judged),
    /// An address of a local pod.
    Own(Own),
}

/// The table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judge {
    /// Whether what is constant is as it was written (see [`crate::Ruleset::intact`]).
    pub intact: bool,
    /// The epoch of now.
    pub epoch: Epoch,
}

/// Other ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remotes {
    /// Their kind.
    pub id: RemotesId,
    /// Whose other ends they are.
    pub direction: Direction,
    /// Ranges of addresses, first and last, of one family each, in order; no two share an address.
    pub ranges: Vec<(IpAddr, IpAddr, Judgement)>,
    /// What becomes of all others.
    pub otherwise: Judgement,
}

/// An other end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Its remotes.
    pub remotes: RemotesId,
    /// Its address.
    pub address: IpAddr,
    /// What becomes of it.
    pub judgement: Judgement,
}

/// An identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Its kind.
    pub id: IdentityId,
    /// The direction.
    pub direction: Direction,
    /// The server's ports, in order; no two share a port of a protocol.
    pub ports: Vec<PortClass>,
    /// The remotes for all other ports and protocols.
    pub otherwise: RemotesId,
    /// A word for people: the policies. At most 100 bytes.
    pub about: String,
    /// It is of pods of other nodes: only what comes from local pods is judged by it.
    pub is_far: bool,
}

/// Ports that a policy does not tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PortClass {
    /// The protocol above IP (IANA protocol numbers).
    pub protocol: u8,
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
    /// Who is there to be judged.
    pub remotes: RemotesId,
}

/// An address that is judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// The direction.
    pub direction: Direction,
    /// The address.
    pub address: IpAddr,
    /// Its identity.
    pub identity: IdentityId,
    /// A word for people: the pod. At most 100 bytes.
    pub about: String,
}

/// An address of a local pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Own {
    /// The address.
    pub address: IpAddr,
    /// It is judged in some direction: what conntrack takes for no connection is not let through, and what it sends itself
    /// is.
    pub is_isolated: bool,
}

/// What tells a row of the table of policies from others. The order is that of building: a row depends only on rows before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyKey {
    /// There is one table.
    Judge,
    /// By their kind.
    Remotes(RemotesId),
    /// By remotes and address.
    Member(RemotesId, IpAddr),
    /// By its kind.
    Identity(IdentityId),
    /// By address and direction.
    Judged(IpAddr, Direction),
    /// By address.
    Own(IpAddr),
}

impl PolicyRow {
    /// Its key.
    pub fn key(&self) -> PolicyKey {
        match self {
            PolicyRow::Judge(_) => PolicyKey::Judge,
            PolicyRow::Remotes(row) => PolicyKey::Remotes(row.id),
            PolicyRow::Member(row) => PolicyKey::Member(row.remotes, row.address),
            PolicyRow::Identity(row) => PolicyKey::Identity(row.id),
            PolicyRow::Judged(row) => PolicyKey::Judged(row.address, row.direction),
            PolicyRow::Own(row) => PolicyKey::Own(row.address),
        }
    }
}

impl Remotes {
    /// What becomes of an address that is no member.
    pub fn judge(&self, address: IpAddr) -> Judgement {
        let within = |(first, last, _): &&(IpAddr, IpAddr, Judgement)| {
            Family::of(*first) == Family::of(address) && *first <= address && address <= *last
        };
        self.ranges.iter().find(within).map_or(self.otherwise, |(_, _, judgement)| *judgement)
    }
}

impl fmt::Display for PolicyRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyRow::Judge(row) => {
                write!(f, "policy epoch {}", row.epoch.number())?;
                write!(f, "{}", if row.intact { "" } else { " of somebody else's making" })
            }
            PolicyRow::Remotes(row) => row.fmt(f),
            PolicyRow::Member(row) => {
                write!(f, "policy remotes {} {} {}", row.remotes, row.judgement, row.address)
            }
            PolicyRow::Identity(row) => row.fmt(f),
            PolicyRow::Judged(row) => {
                write!(f, "policy {} {} as {}{}", row.direction, row.address, row.identity, by(&row.about))
            }
            PolicyRow::Own(row) => {
                write!(f, "policy own {}{}", row.address, if row.is_isolated { " isolated" } else { "" })
            }
        }
    }
}

impl fmt::Display for Remotes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy remotes {} {}", self.id, self.direction)?;
        for (first, last, judgement) in &self.ranges {
            write!(f, " {judgement} {first}")?;
            if first != last {
                write!(f, "-{last}")?;
            }
        }
        write!(f, " else {}", self.otherwise)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy identity {} {}", self.id, self.direction)?;
        for class in &self.ports {
            write!(f, " {}/{}-{} by {}", class.protocol, class.first, class.last, class.remotes)?;
        }
        write!(f, " else by {}{}", self.otherwise, by(&self.about))?;
        write!(f, "{}", if self.is_far { " of pods elsewhere" } else { "" })
    }
}

/// A word for people behind a row, if there is one.
fn by(about: &str) -> String {
    if about.is_empty() { String::new() } else { format!(" ({about})") }
}
