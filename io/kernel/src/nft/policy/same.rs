//! Whether what the kernel tells of a set, chain or rule is what is written for it.

use super::super::wire::{self, Attributes};
use super::draft::{encode_chain, encode_rule};
use super::shape::{Chain, Rule, Set};

pub(super) fn is_set(set: &Set, body: &[u8]) -> bool {
    let number = |kind| wire::find(body, kind).and_then(wire::short).unwrap_or(0);
    // Flags, type and length of the key, type of the values.
    let wanted = [set.flags, set.key_type(), set.key_length(), set.data_type().unwrap_or(0)];
    [3, 4, 5, 6].map(number) == wanted
}

/// A chain and its rules, in order.
pub(super) fn is_chain(chain: &Chain, body: &[u8], rules: &[Vec<u8>]) -> bool {
    /// Where packets enter by themselves, what becomes of those that pass, what the chain may do.
    const BASE: [u16; 3] = [4, 5, 7];
    let wanted = encode_chain(&chain.name);
    let base = |body| BASE.map(|kind| wire::marked(body).find(|(found, ..)| *found == kind));
    let same = base(wanted.as_bytes()).into_iter().zip(base(body)).all(|pair| match pair {
        (Some((_, holds, wanted)), Some((_, _, found))) => is_within(holds, wanted, found),
        (None, None) => true,
        _ => false,
    });
    same && rules.len() == chain.rules.len()
        && chain.rules.iter().zip(rules).all(|(wanted, found)| is_rule(wanted, found))
}

fn is_rule(rule: &Rule, body: &[u8]) -> bool {
    const EXPRESSIONS: u16 = 4;
    const COMMENT: u16 = 7;
    let wanted = encode_rule(Attributes::default(), rule);
    let [ours, found] = [wanted.as_bytes(), body].map(|body| {
        let list = wire::find(body, EXPRESSIONS).unwrap_or_default();
        wire::attributes(list).map(|(_, expression)| expression).collect::<Vec<_>>()
    });
    wire::find(wanted.as_bytes(), COMMENT) == wire::find(body, COMMENT)
        && ours.len() == found.len()
        && ours.iter().zip(found).all(|(wanted, found)| is_expression(wanted, found))
}

/// The kernel may tell more of an expression than was asked for: it is what is usual then.
fn is_expression(wanted: &[u8], found: &[u8]) -> bool {
    let [(name, wanted), (same_name, found)] = [wanted, found].map(|bytes| {
        let name = wire::find(bytes, 1).and_then(wire::text).unwrap_or_default();
        (name, wire::find(bytes, 2).unwrap_or_default())
    });
    let registers = registers(name);
    // What was counted is not what was written.
    name == same_name
        && (name == "counter"
            || wire::marked(wanted).all(|(kind, holds, wanted)| {
                let Some(found) = wire::find(found, kind) else { return false };
                if registers.contains(&kind) {
                    return register(wanted) == register(found);
                }
                is_within(holds, wanted, found)
            }))
}

/// Whether all attributes are among those found, or the bytes are the same.
fn is_within(holds: bool, wanted: &[u8], found: &[u8]) -> bool {
    if !holds {
        return wanted == found;
    }
    wire::marked(wanted).all(|(kind, holds, wanted)| {
        wire::find(found, kind).is_some_and(|found| is_within(holds, wanted, found))
    })
}

/// Which attributes of an expression are registers.
fn registers(name: &str) -> &'static [u16] {
    match name {
        "ct" => &[1, 4],
        "bitwise" => &[1, 2],
        "lookup" => &[2, 3],
        "meta" | "payload" | "cmp" | "immediate" => &[1],
        _ => &[],
    }
}

/// A register of 16 bytes is four of 4 bytes, and the kernel tells of it by the larger one's number where it can
/// (net/netfilter/nf_tables_api.c, `nft_dump_register`).
fn register(value: &[u8]) -> Option<u32> {
    const FIRST_SMALL: u32 = 8;
    wire::short(value).map(|number| match number {
        1..=4 => FIRST_SMALL + (number - 1) * 4,
        number => number,
    })
}
