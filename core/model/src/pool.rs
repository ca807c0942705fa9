//! Pools: the ranges that pods get addresses from.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Cidr, Family};

/// The fewest addresses a block may have: its network, gateway and last address are never given to a pod.
pub const MIN_BLOCK_ADDRESSES: u128 = 4;
/// The fewest addresses a pool may have.
pub const MIN_POOL_ADDRESSES: u128 = 16;

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
}

/// A range that pods get addresses from, cut into blocks of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    cidr: Cidr,
    block_size: u8,
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
            Ok(Pool { cidr, block_size })
        } else {
            Err(PoolError::BlockSize { cidr, block_size, min: cidr.length(), max })
        }
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
}

impl<'de> Deserialize<'de> for Pool {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Written {
            cidr: Cidr,
            #[serde(default)]
            block_size: Option<u8>,
        }
        let written = Written::deserialize(from)?;
        Pool::new(written.cidr, written.block_size).map_err(serde::de::Error::custom)
    }
}

impl std::fmt::Display for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.cidr)
    }
}
