//! Which block a node should try to claim.

use std::collections::BTreeSet;

use tartan_model::{Cidr, Pool};

/// The block of the pool that a node should try to claim: the lowest that shares no address with a `taken` range.
///
/// After each lost race a node looks further: of the first `2 * attempt + 1` free blocks, or of all if there are
/// fewer, it takes the one that its seed points at, so nodes that start at once soon part ways. Taken ranges may be
/// of any size, as they are after a change of the block size. None when no block is free.
/// Takes time in the number of taken ranges, never in that of blocks.
pub fn choose_block(pool: &Pool, taken: &BTreeSet<Cidr>, seed: u64, attempt: u32) -> Option<Cidr> {
    let gaps = free_blocks(pool, taken);
    // At most the blocks of a pool, of which Pool allows 2^126.
    let free: u128 = gaps.iter().map(|gap| gap.blocks).sum();
    let choices = (u128::from(attempt) * 2 + 1).min(free);
    let mut skip = u128::from(seed).checked_rem(choices)?;
    for gap in gaps {
        if skip < gap.blocks {
            return pool.cidr().part(pool.block_size(), gap.first + skip);
        }
        skip -= gap.blocks;
    }
    None
}

/// Free blocks that follow each other, at least one; counted in blocks from the pool's beginning.
struct Gap {
    first: u128,
    blocks: u128,
}

fn free_blocks(pool: &Pool, taken: &BTreeSet<Cidr>) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let mut next = 0;
    // The set is in the order of first addresses, and of two ranges that overlap the wider comes first.
    for (first, last) in taken.iter().filter_map(|range| blocks_touched(pool, range)) {
        if next < first {
            gaps.push(Gap { first: next, blocks: first - next });
        }
        next = next.max(last + 1);
    }
    if next < pool.blocks() {
        gaps.push(Gap { first: next, blocks: pool.blocks() - next });
    }
    gaps
}

/// The first and the last block of the pool that share an address with a range.
fn blocks_touched(pool: &Pool, range: &Cidr) -> Option<(u128, u128)> {
    let whole = pool.cidr();
    if range.covers(&whole) {
        return Some((0, pool.blocks() - 1));
    }
    let host_bits = u32::from(whole.family().bits() - pool.block_size());
    let block_at = |position: u128| position.checked_shr(host_bits).unwrap_or(0);
    let first = whole.position(range.first())?;
    Some((block_at(first), block_at(first + (range.size() - 1))))
}
