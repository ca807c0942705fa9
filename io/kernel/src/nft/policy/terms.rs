//! Parts of rules about connections (linux/netfilter/nf_tables.h, `nft_ct_keys`).

use tartan_host::policy::Direction;
use tartan_model::Family;

use super::super::encode::{FIRST_REGISTER, expression};
use super::super::wire::Attributes;
use super::shape::Rule;

/// NFT_CT_MARK.
pub(super) const MARK: u32 = 3;
/// Directions of a connection (`IP_CT_DIR_ORIGINAL`, `IP_CT_DIR_REPLY`).
pub(super) const ORIGINAL: u8 = 0;
pub(super) const REPLY: u8 = 1;

/// In which direction's source the pod is.
pub(super) const fn own(direction: Direction) -> u8 {
    match direction {
        Direction::Ingress => REPLY,
        Direction::Egress => ORIGINAL,
    }
}

/// In which the other end is.
pub(super) const fn other(direction: Direction) -> u8 {
    match direction {
        Direction::Ingress => ORIGINAL,
        Direction::Egress => REPLY,
    }
}

/// The source of a direction of the connection (NFT_CT_SRC_IP, NFT_CT_SRC_IP6), to a register.
pub(super) fn end(direction: u8, family: Family, register: u32) -> Attributes {
    let key = match family {
        Family::Ipv4 => 19,
        Family::Ipv6 => 21,
    };
    tracked(key, Some(direction), register)
}

/// What is known of the connection, to a register.
pub(super) fn tracked(key: u32, direction: Option<u8>, register: u32) -> Attributes {
    let data = Attributes::default().number(1, FIRST_REGISTER + register).number(2, key);
    expression("ct", direction.into_iter().fold(data, |data, direction| data.bytes(3, &[direction])))
}

/// Bytes of the IP header, to the first register.
pub(super) fn of_header(offset: u32, length: u32) -> Attributes {
    let of = Attributes::default().number(1, FIRST_REGISTER).number(2, 1);
    expression("payload", of.number(3, offset).number(4, length))
}

/// Whether the registers from the first on are in a set.
pub(super) fn looked_up(set: &str) -> Attributes {
    lookup(set, 0)
}

/// Whether they are not.
pub(super) fn not_in(set: &str) -> Attributes {
    const INVERT: u32 = 1;
    lookup(set, INVERT)
}

fn lookup(set: &str, flags: u32) -> Attributes {
    let data = Attributes::default().text(1, set).number(2, FIRST_REGISTER);
    expression("lookup", data.number(5, flags))
}

/// The verdict that the registers from the first on lead to.
pub(super) fn mapped(map: &str) -> Attributes {
    let data = Attributes::default().text(1, map).number(2, FIRST_REGISTER).number(3, 0).number(5, 0);
    expression("lookup", data)
}

pub(super) fn rule(expressions: impl IntoIterator<Item = Attributes>) -> Rule {
    Rule { expressions: expressions.into_iter().collect(), about: String::new() }
}
