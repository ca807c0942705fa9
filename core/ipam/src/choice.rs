//! Which block a node should try to claim.

use std::collections::BTreeSet;

use tartan_model::{Cidr, NodeName, Pool};

/// A block that is reserved for a node and shares no address with a `taken` range.
pub fn reserved_block<'a>(
    pool: &Pool,
    node: &NodeName,
    taken: impl Iterator<Item = &'a Cidr> + Clone,
) -> Option<Cidr> {
    let mut own = pool.reserved_for(node).copied();
    own.find(|block| !taken.clone().any(|range| range.overlaps(block)))
}

/// The block of the pool that a node should try to claim: the lowest that shares no address with a `taken` range, is
/// reserved for nobody, and lies within the pool's bounds. What is reserved for the node itself is told by
/// [`reserved_block`].
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
    let (mut next, last_of_all) = pool.common();
    let end = last_of_all + 1;
    // In the order of their first blocks.
    let mut touched: Vec<(u128, u128)> = taken
        .iter()
        .chain(pool.reservations().map(|(block, _)| block))
        .filter_map(|range| blocks_touched(pool, range))
        .collect();
    touched.sort_unstable();
    for (first, last) in touched {
        let first = first.min(end);
        if next < first {
            gaps.push(Gap { first: next, blocks: first - next });
        }
        next = next.max(last + 1);
    }
    if next < end {
        gaps.push(Gap { first: next, blocks: end - next });
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
