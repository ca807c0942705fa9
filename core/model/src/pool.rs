//! Pools: the ranges that pods get addresses from.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

use crate::{Cidr, Family, NodeName};

/// The fewest addresses a block may have: its network, gateway and last address are never given to a pod.
pub const MIN_BLOCK_ADDRESSES: u128 = 4;
/// The fewest addresses a pool may have.
pub const MIN_POOL_ADDRESSES: u128 = 16;
/// The most reservations a pool may have.
pub const MAX_RESERVATIONS: usize = 5_000;

/// Why a range and a block size are not a pool.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PoolError {
    /// The range has too few addresses.
    #[error("pool {cidr} is too small: it has {have} addresses, a pool needs at least {MIN_POOL_ADDRESSES}")]
    TooSmall {
        /// The range.
        cidr: Cidr,
        /// Its addresses.
        have: u128,
    },
    /// No pod can have addresses there.
    #[error("pool {cidr} holds addresses of {special}, which are {what}; take another range")]
    Special {
        /// The range.
        cidr: Cidr,
        /// The range with a meaning of its own.
        special: &'static str,
        /// Which.
        what: &'static str,
    },
    /// A block would be larger than the pool, or too small to hold a pod.
    #[error("block size {block_size} does not fit pool {cidr}: use a prefix length from {min} to {max}")]
    BlockSize {
        /// The range.
        cidr: Cidr,
        /// The refused prefix length.
        block_size: u8,
        /// Shortest prefix allowed.
        min: u8,
        /// Longest prefix allowed.
        max: u8,
    },
    /// A range is named as a block, and is none of the pool's.
    #[error("{key} {block} is no block of pool {cidr}: write a /{block_size} in it, such as {cidr_first}")]
    NoBlock {
        /// Where it is written.
        key: &'static str,
        /// What is written.
        block: Cidr,
        /// The pool.
        cidr: Cidr,
        /// The prefix length of its blocks.
        block_size: u8,
        /// Its first block.
        cidr_first: Cidr,
    },
    /// The first block is behind the last.
    #[error("firstBlock {first} is behind lastBlock {last}; exchange them")]
    Backwards {
        /// The first.
        first: Cidr,
        /// The last.
        last: Cidr,
    },
    /// Two nodes for one block.
    #[error("block {block} is reserved twice, for {one} and {other}; leave one out")]
    ReservedTwice {
        /// The block.
        block: Cidr,
        /// One node.
        one: NodeName,
        /// The other, or the same again.
        other: NodeName,
    },
    /// Too many reservations.
    #[error("{0} reservations; a pool has at most {MAX_RESERVATIONS}")]
    TooManyReservations(usize),
}

/// A block that only one node may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// The node, by name: whoever has that name, whatever its id.
    pub node: NodeName,
    /// The block.
    pub block: Cidr,
}

/// Ranges of which no pod can have an address (RFC 6890).
const SPECIAL: [(&str, &str); 7] = [
    ("0.0.0.0/8", "no host's"),
    ("127.0.0.0/8", "each host's own"),
    ("169.254.0.0/16", "for one link only"),
    ("224.0.0.0/4", "for groups"),
    ("::/8", "no host's"),
    ("fe80::/10", "for one link only"),
    ("ff00::/8", "for groups"),
];

/// A range that pods get addresses from, cut into blocks of one size.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    cidr: Cidr,
    block_size: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_block: Option<Cidr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_block: Option<Cidr>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "as_list")]
    reservations: BTreeMap<Cidr, NodeName>,
    /// The same the other way round: thousands of nodes may have one each, and are looked for one by one.
    #[serde(skip)]
    reserved_for: BTreeMap<NodeName, BTreeSet<Cidr>>,
}

impl Pool {
    /// The pool of this range, cut into blocks with a prefix of `block_size` bits; unless given /24 or /64,
    /// or two bits more than the range where that is longer.
    ///
    /// # Errors
    /// When the range has under [`MIN_POOL_ADDRESSES`] or a block does not fit into it.
    pub fn new(cidr: Cidr, block_size: Option<u8>) -> Result<Pool, PoolError> {
        if cidr.size() < MIN_POOL_ADDRESSES {
            return Err(PoolError::TooSmall { cidr, have: cidr.size() });
        }
        let (usual, max) = match cidr.family() {
            Family::Ipv4 => (24, 30),
            Family::Ipv6 => (64, 126),
        };
        let block_size = block_size.unwrap_or_else(|| usual.max(cidr.length() + 2).min(max));
        if (cidr.length()..=max).contains(&block_size) {
            let (reservations, reserved_for) = (BTreeMap::new(), BTreeMap::new());
            Ok(Pool { cidr, block_size, first_block: None, last_block: None, reservations, reserved_for })
        } else {
            Err(PoolError::BlockSize { cidr, block_size, min: cidr.length(), max })
        }
    }

    /// The same, if pods can have its addresses.
    ///
    /// # Errors
    /// When some of them mean something else.
    pub fn usable(self) -> Result<Pool, PoolError> {
        let cidr = self.cidr;
        let is_in = |special: &str| special.parse().is_ok_and(|special: Cidr| special.overlaps(&cidr));
        match SPECIAL.into_iter().find(|(special, _)| is_in(special)) {
            Some((special, what)) => Err(PoolError::Special { cidr, special, what }),
            None => Ok(self),
        }
    }

    /// The same, of which nodes are only given the blocks from the first to the last, both of them too. Reserved blocks
    /// may lie outside.
    ///
    /// # Errors
    /// When one is no block of the pool, or the first is behind the last.
    pub fn between(self, first: Option<Cidr>, last: Option<Cidr>) -> Result<Pool, PoolError> {
        for (key, block) in [("firstBlock", first), ("lastBlock", last)] {
            block.map_or(Ok(()), |block| self.check_block(key, block))?;
        }
        if let (Some(first), Some(last)) = (first, last)
            && first > last
        {
            return Err(PoolError::Backwards { first, last });
        }
        Ok(Pool { first_block: first, last_block: last, ..self })
    }

    /// The same with blocks that only one node each may have.
    ///
    /// # Errors
    /// When one is no block of the pool, when one is reserved twice, or when there are over [`MAX_RESERVATIONS`].
    pub fn reserving(mut self, reservations: Vec<Reservation>) -> Result<Pool, PoolError> {
        if reservations.len() > MAX_RESERVATIONS {
            return Err(PoolError::TooManyReservations(reservations.len()));
        }
        for Reservation { node, block } in reservations {
            self.check_block("reservation", block)?;
            if let Some(one) = self.reservations.insert(block, node.clone()) {
                return Err(PoolError::ReservedTwice { block, one, other: node });
            }
            self.reserved_for.entry(node).or_default().insert(block);
        }
        Ok(self)
    }

    fn check_block(&self, key: &'static str, block: Cidr) -> Result<(), PoolError> {
        if self.has_block(&block) {
            return Ok(());
        }
        let (cidr, block_size) = (self.cidr, self.block_size);
        let cidr_first = cidr.part(block_size, 0).unwrap_or(cidr);
        Err(PoolError::NoBlock { key, block, cidr, block_size, cidr_first })
    }

    /// The whole range.
    pub fn cidr(&self) -> Cidr {
        self.cidr
    }

    /// The prefix length of a block in bits.
    pub fn block_size(&self) -> u8 {
        self.block_size
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.cidr.family()
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> u128 {
        self.cidr.parts(self.block_size)
    }

    /// Whether the range is one of this pool's blocks.
    pub fn has_block(&self, block: &Cidr) -> bool {
        self.cidr.covers(block) && block.length() == self.block_size
    }

    /// The first and the last block that nodes are given without a reservation, counted from the pool's beginning.
    pub fn common(&self) -> (u128, u128) {
        let at = |block: &Cidr| self.at(block.first());
        (self.first_block.as_ref().map_or(0, at), self.last_block.as_ref().map_or(self.blocks() - 1, at))
    }

    /// The block that an address is in, counted from the pool's beginning; 0 if it is in none.
    fn at(&self, address: std::net::IpAddr) -> u128 {
        let host_bits = u32::from(self.family().bits() - self.block_size);
        self.cidr.position(address).and_then(|position| position.checked_shr(host_bits)).unwrap_or(0)
    }

    /// The reserved blocks, in order, each with its node.
    pub fn reservations(&self) -> impl Iterator<Item = (&Cidr, &NodeName)> {
        self.reservations.iter()
    }

    /// The blocks that are reserved for a node, in order.
    pub fn reserved_for(&self, node: &NodeName) -> impl Iterator<Item = &Cidr> {
        self.reserved_for.get(node).into_iter().flatten()
    }

    /// The node that a block is reserved for.
    pub fn reserved(&self, block: &Cidr) -> Option<&NodeName> {
        self.reservations.get(block)
    }

    /// Whether a node may have a block of this pool: it is reserved for that node, or for nobody and within the bounds.
    pub fn serves(&self, block: &Cidr, node: &NodeName) -> bool {
        let is_common = || {
            let (first, last) = self.common();
            (first..=last).contains(&self.at(block.first()))
        };
        self.has_block(block) && self.reserved(block).map_or_else(is_common, |reserved| reserved == node)
    }
}

/// As people write it.
fn as_list<S: Serializer>(reservations: &BTreeMap<Cidr, NodeName>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(reservations.iter().map(|(block, node)| Reservation { node: node.clone(), block: *block }))
}

impl<'de> Deserialize<'de> for Pool {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Written {
            cidr: Cidr,
            #[serde(default)]
            block_size: Option<u8>,
            #[serde(default)]
            first_block: Option<Cidr>,
            #[serde(default)]
            last_block: Option<Cidr>,
            #[serde(default)]
            reservations: Vec<Reservation>,
        }
        let written = Written::deserialize(from)?;
        Pool::new(written.cidr, written.block_size)
            .and_then(Pool::usable)
            .and_then(|pool| pool.between(written.first_block, written.last_block))
            .and_then(|pool| pool.reserving(written.reservations))
            .map_err(serde::de::Error::custom)
    }
}

impl std::fmt::Display for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.cidr)
    }
}
