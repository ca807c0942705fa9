//! The addresses of one block: which are in use, which were, and which is next.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tartan_model::Cidr;
use thiserror::Error;

use crate::ranges::Ranges;

/// The most released addresses of a block whose order is remembered.
pub const MAX_RELEASED: usize = 4_096;

/// The first position that a pod can have: 0 is the node's own address, 1 is the gateway.
const FIRST: u128 = 2;

/// Why an address cannot be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IpamError {
    /// Someone has it.
    #[error("{0} is in use; release it first or take another")]
    InUse(IpAddr),
    /// It is kept for the node, the gateway, or is the block's last.
    #[error(
        "{address} is reserved in {block}: the first two addresses and the last one are never given to pods"
    )]
    Reserved {
        /// The address.
        address: IpAddr,
        /// The block.
        block: Cidr,
    },
    /// It is of another block.
    #[error("{address} is not in block {block}")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The block.
        block: Cidr,
    },
}

/// What giving an address back did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Released {
    /// Whether the address was in use; if not, nothing changed.
    pub was_used: bool,
    /// The address whose release is not remembered any more, for [`MAX_RELEASED`] others were released after it; a
    /// record of its release can go.
    pub forgotten: Option<IpAddr>,
}

/// The node's own address in a block that it owns: position 0.
pub fn own_address(block: &Cidr) -> IpAddr {
    block.first()
}

/// The gateway of bridged pods: position 1, or position 0 in a block of one address.
pub fn gateway(block: &Cidr) -> IpAddr {
    block.nth(1).unwrap_or(block.first())
}

/// How many pods a block has addresses for: all but the first two and the last.
pub fn capacity(block: &Cidr) -> u128 {
    block.size().saturating_sub(FIRST + 1)
}

/// The addresses of one block that this node owns.
///
/// Addresses are given in order, each position once; after that the one goes first that was released the longest
/// ago. The order of the last [`MAX_RELEASED`] releases is remembered; an address released before them is forgotten
/// and given again when there is neither a fresh nor a remembered one, so nothing is ever lost.
///
/// After a restart the block is built anew: every address in use is claimed, then every released one, the oldest
/// first, is claimed and released; one that is in use by then is left out. It gives the same next addresses as
/// before, but for those whose release was forgotten or not written down: it takes them for fresh, so they come
/// before the remembered ones, not after them.
///
/// Memory grows with the addresses that are in use or remembered, never with the block; each call takes O(log n).
#[derive(Debug, Clone)]
pub struct BlockAddresses {
    block: Cidr,
    /// Positions neither in use nor remembered as released. Every position is free, released or in use.
    free: Ranges,
    /// Free positions from here on are fresh; those before were given once and are forgotten.
    fresh: u128,
    released: Queue,
    used: usize,
}

impl BlockAddresses {
    /// A block that no address was ever given from.
    pub fn new(block: Cidr) -> BlockAddresses {
        let free = match capacity(&block) {
            0 => Ranges::default(),
            capacity => Ranges::from_to(FIRST, FIRST + capacity - 1),
        };
        BlockAddresses { block, free, fresh: FIRST, released: Queue::default(), used: 0 }
    }

    /// The next address: the lowest fresh one, else the one released the longest ago, else the lowest forgotten
    /// one; None only when all are in use.
    pub fn allocate(&mut self) -> Option<IpAddr> {
        let position = match self.free.lowest_from(self.fresh) {
            Some(fresh) => {
                self.fresh = fresh + 1;
                fresh
            }
            None => self.released.oldest().or_else(|| self.free.lowest_from(FIRST))?,
        };
        self.take(position);
        self.block.nth(position)
    }

    /// Takes this very address, as for a record found on disk.
    ///
    /// # Errors
    /// When it is in use, reserved, or not of this block.
    pub fn claim(&mut self, address: IpAddr) -> Result<(), IpamError> {
        let block = self.block;
        let position = block.position(address).ok_or(IpamError::Outside { address, block })?;
        if !self.is_for_pods(position) {
            Err(IpamError::Reserved { address, block })
        } else if self.take(position) {
            Ok(())
        } else {
            Err(IpamError::InUse(address))
        }
    }

    /// Gives an address back.
    pub fn release(&mut self, address: IpAddr) -> Released {
        let in_use = |position: &u128| {
            self.is_for_pods(*position)
                && !self.free.contains(*position)
                && !self.released.contains(*position)
        };
        let Some(position) = self.block.position(address).filter(in_use) else {
            return Released { was_used: false, forgotten: None };
        };
        self.used -= 1;
        let forgotten = self.released.push(position);
        if let Some(forgotten) = forgotten {
            self.free.insert(forgotten);
        }
        Released { was_used: true, forgotten: forgotten.and_then(|forgotten| self.block.nth(forgotten)) }
    }

    /// How many addresses are in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Puts a position in use; false if it is already.
    fn take(&mut self, position: u128) -> bool {
        let taken = self.free.remove(position) || self.released.remove(position);
        self.used += usize::from(taken);
        taken
    }

    /// Whether pods can have this position at all.
    fn is_for_pods(&self, position: u128) -> bool {
        (FIRST..FIRST + capacity(&self.block)).contains(&position)
    }
}

/// Released positions in the order of their release, [`MAX_RELEASED`] at most.
#[derive(Debug, Clone, Default)]
struct Queue {
    by_age: BTreeMap<u64, u128>,
    ages: BTreeMap<u128, u64>,
    next: u64,
}

impl Queue {
    fn contains(&self, position: u128) -> bool {
        self.ages.contains_key(&position)
    }

    fn oldest(&self) -> Option<u128> {
        self.by_age.values().next().copied()
    }

    /// Remembers a position, and returns the one that is forgotten for it.
    fn push(&mut self, position: u128) -> Option<u128> {
        self.by_age.insert(self.next, position);
        self.ages.insert(position, self.next);
        self.next += 1;
        let forgotten = self.oldest().filter(|_| self.by_age.len() > MAX_RELEASED)?;
        self.remove(forgotten);
        Some(forgotten)
    }

    fn remove(&mut self, position: u128) -> bool {
        match self.ages.remove(&position) {
            Some(age) => self.by_age.remove(&age).is_some(),
            None => false,
        }
    }
}
