//! Laws of addresses and blocks, for both families alike.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::Index;
use tartan_ipam::{
    BlockAddresses, IpamError, MAX_RELEASED, Released, capacity, choose_block, gateway, own_address,
    reserved_block,
};
use tartan_model::{Cidr, NodeName, Pool, Reservation};

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn pool(text: &str, block_size: u8) -> Pool {
    Pool::new(cidr(text), Some(block_size)).unwrap()
}

#[derive(Debug, Clone)]
enum Op {
    Allocate,
    Claim(Index),
    Release(Index),
    Restart,
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Allocate),
        2 => any::<Index>().prop_map(Op::Claim),
        4 => any::<Index>().prop_map(Op::Release),
        1 => Just(Op::Restart),
    ]
}

fn any_block() -> impl Strategy<Value = Cidr> {
    let texts = ["10.244.7.16/28", "10.244.7.8/30", "10.244.7.64/27", "fd00:1::40/124", "fd00:1::/126"];
    prop::sample::select(texts.to_vec()).prop_map(cidr)
}

fn nth(block: &Cidr, index: &Index) -> IpAddr {
    block.nth(index.index(block.size() as usize) as u128).unwrap()
}

/// What the agent keeps of a block.
#[derive(Default)]
struct Records {
    used: BTreeSet<IpAddr>,
    /// Oldest first. A record stays when its address is given again.
    released: Vec<IpAddr>,
}

impl Records {
    fn release(&mut self, address: IpAddr, forgotten: Option<IpAddr>) {
        self.used.remove(&address);
        self.released.retain(|other| *other != address && Some(*other) != forgotten);
        self.released.push(address);
    }

    /// The block after a restart of the agent.
    fn rebuilt(&self, block: Cidr) -> BlockAddresses {
        let mut addresses = BlockAddresses::new(block);
        for address in &self.used {
            addresses.claim(*address).unwrap();
        }
        for address in &self.released {
            if addresses.claim(*address).is_ok() {
                addresses.release(*address);
            }
        }
        addresses
    }
}

/// What allocation has to do, said as plainly as can be: two lists of addresses.
struct Reference {
    /// Never given out, in order.
    fresh: Vec<IpAddr>,
    /// Released, oldest first.
    released: Vec<IpAddr>,
    used: BTreeSet<IpAddr>,
}

impl Reference {
    fn new(block: Cidr) -> Reference {
        let fresh = (2..block.size() - 1).filter_map(|position| block.nth(position)).collect();
        Reference { fresh, released: Vec::new(), used: BTreeSet::new() }
    }

    fn allocate(&mut self) -> Option<IpAddr> {
        let lists = [&mut self.fresh, &mut self.released];
        let address = lists.into_iter().find(|list| !list.is_empty())?.remove(0);
        self.used.insert(address);
        Some(address)
    }

    fn claim(&mut self, address: IpAddr) -> bool {
        let mut found = false;
        for list in [&mut self.fresh, &mut self.released] {
            found |= list.contains(&address);
            list.retain(|other| *other != address);
        }
        if found {
            self.used.insert(address);
        }
        found
    }

    fn release(&mut self, address: IpAddr) -> bool {
        let was_used = self.used.remove(&address);
        if was_used {
            self.released.push(address);
        }
        was_used
    }
}

proptest! {
    #[test]
    fn never_one_address_twice(block in any_block(), ops in prop::collection::vec(any_op(), 0..120)) {
        let mut addresses = BlockAddresses::new(block);
        let mut records = Records::default();
        let reserved = [own_address(&block), gateway(&block), block.nth(block.size() - 1).unwrap()];
        for op in ops {
            match op {
                Op::Allocate => {
                    if let Some(address) = addresses.allocate() {
                        prop_assert!(block.contains(address) && !reserved.contains(&address));
                        prop_assert!(records.used.insert(address), "{} twice", address);
                    }
                }
                Op::Claim(index) => {
                    let address = nth(&block, &index);
                    let expected = if reserved.contains(&address) {
                        Err(IpamError::Reserved { address, block })
                    } else if records.used.insert(address) {
                        Ok(())
                    } else {
                        Err(IpamError::InUse(address))
                    };
                    prop_assert_eq!(addresses.claim(address), expected);
                }
                Op::Release(index) => {
                    let address = nth(&block, &index);
                    let released = addresses.release(address);
                    let was_used = records.used.contains(&address);
                    prop_assert_eq!(released, Released { was_used, forgotten: None });
                    if was_used {
                        records.release(address, None);
                    }
                }
                Op::Restart => addresses = records.rebuilt(block),
            }
            prop_assert_eq!(addresses.used(), records.used.len());
        }
    }

    /// The reference does not restart: a block built anew from the records goes on as the one before.
    #[test]
    fn in_order_then_longest_released_first_also_over_restarts(
        block in any_block(), ops in prop::collection::vec(any_op(), 0..120),
    ) {
        let mut addresses = BlockAddresses::new(block);
        let mut records = Records::default();
        let mut reference = Reference::new(block);
        for op in ops {
            match op {
                Op::Allocate => {
                    let address = addresses.allocate();
                    prop_assert_eq!(address, reference.allocate());
                    records.used.extend(address);
                }
                Op::Claim(index) => {
                    let address = nth(&block, &index);
                    let claimed = addresses.claim(address).is_ok();
                    prop_assert_eq!(claimed, reference.claim(address));
                    records.used.extend(claimed.then_some(address));
                }
                Op::Release(index) => {
                    let address = nth(&block, &index);
                    let released = addresses.release(address);
                    prop_assert_eq!(released.was_used, reference.release(address));
                    if released.was_used {
                        records.release(address, released.forgotten);
                    }
                }
                Op::Restart => addresses = records.rebuilt(block),
            }
        }
        let mut rebuilt = records.rebuilt(block);
        for _ in 0..=capacity(&block) {
            let next = reference.allocate();
            prop_assert_eq!((addresses.allocate(), rebuilt.allocate()), (next, next));
        }
    }

    #[test]
    fn refused_only_when_full(block in any_block(), ops in prop::collection::vec(any_op(), 0..120)) {
        let mut addresses = BlockAddresses::new(block);
        let mut records = Records::default();
        for op in ops {
            match op {
                Op::Allocate => match addresses.allocate() {
                    Some(address) => { records.used.insert(address); }
                    None => prop_assert_eq!(records.used.len() as u128, capacity(&block)),
                },
                Op::Claim(index) => {
                    let address = nth(&block, &index);
                    if addresses.claim(address).is_ok() {
                        records.used.insert(address);
                    }
                }
                Op::Release(index) => {
                    let address = nth(&block, &index);
                    if addresses.release(address).was_used {
                        records.release(address, None);
                    }
                }
                Op::Restart => addresses = records.rebuilt(block),
            }
        }
        while let Some(address) = addresses.allocate() {
            records.used.insert(address);
        }
        prop_assert_eq!(records.used.len() as u128, capacity(&block));
    }
}

/// A node that wants a block: what it saw of the store, what it is about to claim, how often it lost.
struct Racer {
    seed: u64,
    lost: u32,
    about: Option<Cidr>,
    block: Option<Cidr>,
}

/// The store: a compare-and-swap on one block.
fn swap(store: &mut BTreeSet<Cidr>, block: Cidr) -> bool {
    store.insert(block)
}

fn step(racer: &mut Racer, pool: &Pool, store: &mut BTreeSet<Cidr>) {
    match racer.about.take() {
        _ if racer.block.is_some() => {}
        None => racer.about = choose_block(pool, store, racer.seed, racer.lost),
        Some(block) if swap(store, block) => racer.block = Some(block),
        Some(_) => racer.lost += 1,
    }
}

fn any_pool() -> impl Strategy<Value = Pool> {
    prop_oneof![
        Just(pool("10.244.0.0/24", 27)),
        Just(pool("10.244.0.0/16", 20)),
        Just(pool("fd00:10:244::/60", 64)),
        Just(pool("fd00:10:244::/56", 64)),
    ]
}

fn any_taken() -> impl Strategy<Value = BTreeSet<Cidr>> {
    let v4 = (any::<u16>(), 14u8..=32)
        .prop_map(|(low, length)| (IpAddr::from((0x0af4_0000 + u32::from(low)).to_be_bytes()), length));
    let v6 = (any::<u16>(), 50u8..=80)
        .prop_map(|(low, length)| (IpAddr::from([0xfd00, 0x10, 0x244, low & 0xff, low, 0, 0, 0]), length));
    let range = prop_oneof![v4, v6].prop_map(|(address, length)| Cidr::containing(address, length).unwrap());
    prop::collection::btree_set(range, 0..12)
}

proptest! {
    #[test]
    fn blocks_never_overlap(
        pool in any_pool(),
        share in 1u128..=100,
        seeds in prop::collection::vec(any::<u64>(), 256),
        schedule in prop::collection::vec(any::<Index>(), 0..600),
    ) {
        let count = (pool.blocks() * share / 100).max(1) as usize;
        let mut store = BTreeSet::new();
        let mut racers: Vec<Racer> =
            seeds.iter().take(count).map(|seed| Racer { seed: *seed, lost: 0, about: None, block: None }).collect();
        for index in schedule {
            step(index.get_mut(&mut racers), &pool, &mut store);
        }
        // Then all at once, round after round: the greatest race there is. Somebody wins in every second round.
        for _ in 0..2 * count {
            racers.iter_mut().for_each(|racer| step(racer, &pool, &mut store));
        }
        let won: BTreeMap<Cidr, u64> =
            racers.iter().filter_map(|racer| Some((racer.block?, racer.seed))).collect();
        prop_assert_eq!(won.len(), count);
        let blocks: Vec<Cidr> = won.into_keys().collect();
        prop_assert!(blocks.iter().all(|block| pool.has_block(block)));
        prop_assert!(blocks.windows(2).all(|pair| !pair[0].overlaps(&pair[1])));
    }

    #[test]
    fn the_chosen_block_is_one_of_the_lowest_free(
        pool in any_pool(), taken in any_taken(), seed in any::<u64>(), attempt in prop_oneof![0u32..6, any::<u32>()],
    ) {
        let parts = (0..pool.blocks()).map(|position| pool.cidr().part(pool.block_size(), position).unwrap());
        let free: Vec<Cidr> = parts.filter(|part| !taken.iter().any(|range| range.overlaps(part))).collect();
        let choices = (u64::from(attempt) * 2 + 1).min(free.len() as u64);
        let expected = seed.checked_rem(choices).map(|at| free[at as usize]);
        prop_assert_eq!(choose_block(&pool, &taken, seed, attempt), expected);
    }
}

/// A node by name that wants a block, its own first: what it is about to claim, how often it lost, what it has.
struct Named {
    name: NodeName,
    racer: Racer,
}

fn step_named(node: &mut Named, pool: &Pool, store: &mut BTreeSet<Cidr>) {
    let reserved = reserved_block(pool, &node.name, store.iter());
    match (node.racer.about, reserved) {
        (None, Some(block)) if node.racer.block.is_none() => node.racer.about = Some(block),
        _ => step(&mut node.racer, pool, store),
    }
}

proptest! {
    /// Reservations hold under any interleaving: whoever comes first, even when all come at once.
    #[test]
    fn a_reserved_block_goes_to_its_node_and_bounds_are_kept(
        seeds in prop::collection::vec(any::<u64>(), 6),
        reserved in prop::collection::vec((0usize..8, 0u128..16), 0..6),
        bounds in (0u128..16, 0u128..16),
        schedule in prop::collection::vec(any::<Index>(), 0..60),
    ) {
        let range = cidr("10.244.0.0/24");
        let block = |position: u128| range.part(28, position).unwrap();
        let name = |at: usize| format!("n{at}").parse::<NodeName>().unwrap();
        let reserved: BTreeMap<Cidr, usize> = reserved.into_iter().map(|(node, at)| (block(at), node)).collect();
        let list = reserved.iter().map(|(block, node)| Reservation { node: name(*node), block: *block }).collect();
        let (first, last) = (block(bounds.0.min(bounds.1)), block(bounds.0.max(bounds.1)));
        let pool = pool("10.244.0.0/24", 28).between(Some(first), Some(last)).unwrap().reserving(list).unwrap();
        let mut store = BTreeSet::new();
        let mut nodes: Vec<Named> = seeds.iter().enumerate().map(|(at, seed)| {
            Named { name: name(at), racer: Racer { seed: *seed, lost: 0, about: None, block: None } }
        }).collect();
        for index in schedule {
            step_named(index.get_mut(&mut nodes), &pool, &mut store);
        }
        for _ in 0..20 {
            nodes.iter_mut().for_each(|node| step_named(node, &pool, &mut store));
        }
        for (at, node) in nodes.iter().enumerate() {
            let own: Vec<&Cidr> = reserved.iter().filter(|(_, node)| **node == at).map(|(block, _)| block).collect();
            let Some(block) = node.racer.block else {
                prop_assert!(own.is_empty(), "{} has not what is reserved for it", node.name);
                continue;
            };
            prop_assert!(pool.serves(&block, &node.name), "{} has {block}", node.name);
            prop_assert!(own.is_empty() || own.contains(&&block), "{} has {block}, not its own", node.name);
        }
        // Who has none found none: all that is common is taken.
        let common = (0..16).map(block).filter(|block| *block >= first && *block <= last && !reserved.contains_key(block));
        if nodes.iter().any(|node| node.racer.block.is_none()) {
            prop_assert!(common.into_iter().all(|block| store.contains(&block)));
        }
    }
}

#[test]
fn the_first_blocks_and_addresses_are_those_that_people_expect() {
    let pool = pool("10.244.0.0/16", 24);
    let first = choose_block(&pool, &BTreeSet::new(), 99, 0).unwrap();
    let second = choose_block(&pool, &BTreeSet::from([first]), 99, 0).unwrap();
    assert_eq!((first, second), (cidr("10.244.0.0/24"), cidr("10.244.1.0/24")));
    let mut addresses = BlockAddresses::new(second);
    let given: Vec<String> = (0..2).filter_map(|_| addresses.allocate()).map(|a| a.to_string()).collect();
    assert_eq!(given, ["10.244.1.2", "10.244.1.3"]);
    assert_eq!(own_address(&second).to_string(), "10.244.1.0");
    assert_eq!(gateway(&second).to_string(), "10.244.1.1");
    assert_eq!(capacity(&second), 253);
}

#[test]
fn five_thousand_nodes_fill_the_front_of_a_pool_of_two_to_the_64_blocks() {
    let pool = pool("fd00:10:244::/48", 112);
    assert_eq!(pool.blocks(), 1 << 64);
    let mut taken = BTreeSet::new();
    for position in 0..5000 {
        let block = choose_block(&pool, &taken, u64::MAX, 0).unwrap();
        assert_eq!(Some(block), pool.cidr().part(112, position));
        taken.insert(block);
    }
    let far = choose_block(&pool, &taken, 6, 3).unwrap();
    assert_eq!(Some(far), pool.cidr().part(112, 5006));
}

#[test]
fn a_pool_that_is_covered_or_full_has_no_block() {
    let pool = pool("10.244.0.0/24", 26);
    assert_eq!(choose_block(&pool, &BTreeSet::from([cidr("10.0.0.0/8")]), 0, 0), None);
    let halves = BTreeSet::from([cidr("10.244.0.0/25"), cidr("10.244.0.128/25")]);
    assert_eq!(choose_block(&pool, &halves, 7, 9), None);
    let other_family = BTreeSet::from([Cidr::everything(tartan_model::Family::Ipv6)]);
    assert_eq!(choose_block(&pool, &other_family, 0, 0), Some(cidr("10.244.0.0/26")));
}

#[test]
fn the_widest_pool_is_one_block() {
    let pool = pool("::/0", 0);
    assert_eq!(choose_block(&pool, &BTreeSet::new(), 5, 5), Some(cidr("::/0")));
    assert_eq!(choose_block(&pool, &BTreeSet::from([cidr("8000::/1")]), 5, 5), None);
}

#[test]
fn blocks_too_small_for_a_pod_give_nothing() {
    for text in ["10.0.0.0/32", "10.0.0.0/31", "fd00::/127", "fd00::1/128"] {
        let block = cidr(text);
        let mut addresses = BlockAddresses::new(block);
        assert_eq!((addresses.allocate(), capacity(&block)), (None, 0), "{text}");
        assert!(matches!(addresses.claim(block.first()), Err(IpamError::Reserved { .. })));
        assert!(!addresses.release(block.first()).was_used);
    }
}

#[test]
fn an_address_of_another_block_is_refused() {
    let block = cidr("10.244.1.0/24");
    let mut addresses = BlockAddresses::new(block);
    for text in ["10.244.2.5", "fd00::5"] {
        let address: IpAddr = text.parse().unwrap();
        assert_eq!(addresses.claim(address), Err(IpamError::Outside { address, block }));
        assert!(!addresses.release(address).was_used);
    }
}

/// A block of which every address was given and released, highest first, with its addresses and its records.
fn all_released(block: Cidr) -> (BlockAddresses, Vec<IpAddr>, Records) {
    let mut addresses = BlockAddresses::new(block);
    let all: Vec<IpAddr> = std::iter::from_fn(|| addresses.allocate()).collect();
    assert_eq!(all.len() as u128, capacity(&block));
    let mut records = Records::default();
    let mut forgotten = Vec::new();
    for address in all.iter().rev() {
        let released = addresses.release(*address);
        assert!(released.was_used);
        forgotten.extend(released.forgotten);
        records.release(*address, released.forgotten);
    }
    assert!(forgotten.iter().eq(all[MAX_RELEASED..].iter().rev()), "the oldest goes first");
    (addresses, all, records)
}

#[test]
fn what_the_queue_forgets_is_given_again_last_of_all() {
    let (mut addresses, all, _) = all_released(cidr("10.240.0.0/19"));
    let again: Vec<IpAddr> = std::iter::from_fn(|| addresses.allocate()).collect();
    assert!(again[..MAX_RELEASED].iter().eq(all[..MAX_RELEASED].iter().rev()));
    assert_eq!(again[MAX_RELEASED..], all[MAX_RELEASED..]);
}

#[test]
fn what_the_queue_forgot_is_fresh_after_a_restart() {
    let block = cidr("10.240.0.0/19");
    let (_, all, records) = all_released(block);
    assert_eq!(records.released.len(), MAX_RELEASED);
    let mut rebuilt = records.rebuilt(block);
    let again: Vec<IpAddr> = std::iter::from_fn(|| rebuilt.allocate()).collect();
    let (fresh, remembered) = again.split_at(all.len() - MAX_RELEASED);
    assert_eq!(fresh, &all[MAX_RELEASED..]);
    assert!(remembered.iter().eq(all[..MAX_RELEASED].iter().rev()));
}

#[test]
fn the_largest_block_works_as_a_small_one_does() {
    let mut addresses = BlockAddresses::new(cidr("::/0"));
    assert_eq!(addresses.allocate(), Some("::2".parse().unwrap()));
    addresses.claim("8000::".parse().unwrap()).unwrap();
    assert_eq!(addresses.allocate(), Some("::3".parse().unwrap()));
    assert!(addresses.claim("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()).is_err());
}
