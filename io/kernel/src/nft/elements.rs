//! Elements of our sets, and what packets were counted in them.

use std::net::IpAddr;

use netlink_packet_core::NLM_F_CREATE;
use tartan_host::nftables::TableFamily;
use tartan_host::{Element, Member, Protocol, TABLE};
use tartan_model::{Cidr, IfName, Mac, Vni};

use super::kind;
use super::socket::Batch;
use super::wire::{self, Attributes};

/// How many elements go into one message: its list must fit an attribute of 64 KiB.
const IN_A_MESSAGE: usize = 500;
const LIST: u16 = 1;
const KEY: u16 = 1;
const KEY_END: u16 = 10;
const VALUE: u16 = 1;
const TABLE_NAME: u16 = 1;
const SET_NAME: u16 = 2;
const ELEMENTS: u16 = 3;

/// Puts elements in or takes them out, those of one set that follow each other in one message.
pub(super) fn write(batch: &mut Batch, put: bool, elements: &[&Element]) {
    for run in elements.chunk_by(|a, b| (a.table, a.member.set()) == (b.table, b.member.set())) {
        for some in run.chunks(IN_A_MESSAGE) {
            write_some(batch, put, some);
        }
    }
}

/// The same for elements of one set; gives the position of the message.
pub(super) fn write_some(batch: &mut Batch, put: bool, elements: &[&Element]) -> Option<usize> {
    let first = elements.first()?;
    let list =
        elements.iter().fold(Attributes::default(), |list, element| list.nested(LIST, keys(&element.member)));
    let attributes = Attributes::default().text(TABLE_NAME, TABLE).text(SET_NAME, first.member.set());
    let (kind, flags) = if put { (kind::NEWSETELEM, NLM_F_CREATE) } else { (kind::DELSETELEM, 0) };
    Some(batch.push(kind, first.table, flags, attributes.nested(ELEMENTS, list)))
}

/// The key of an element, and where a range ends.
fn keys(member: &Member) -> Attributes {
    let value = |bytes: &[u8]| Attributes::default().bytes(VALUE, bytes);
    let key = |bytes: &[u8]| Attributes::default().nested(KEY, value(bytes));
    match member {
        Member::Masquerade(from, to) | Member::Kept(from, to) | Member::Across(from, to) => {
            let pair = |from, to| [octets(from), octets(to)].concat();
            key(&pair(from.first(), to.first())).nested(KEY_END, value(&pair(from.last(), to.last())))
        }
        _ => key(&encode(member)),
    }
}

/// The elements in a message, and the set's name.
pub(super) fn listed(body: &[u8]) -> Option<(&str, impl Iterator<Item = &[u8]>)> {
    let set = wire::text(wire::find(body, SET_NAME)?)?;
    let list = wire::find(body, ELEMENTS).unwrap_or_default();
    Some((set, wire::attributes(list).map(|(_, element)| element)))
}

/// What an element of a set of ours says.
pub(super) fn member(set: &str, element: &[u8]) -> Option<Member> {
    let key = wire::find(wire::find(element, KEY)?, VALUE)?;
    let link = || if_name(key.get(..16)?);
    let mac = || Some(Mac::from_bytes(*key.get(16..)?.first_chunk()?));
    Some(match set {
        "macs" => Member::Mac(link()?, mac()?),
        "sources_ipv4" | "sources_ipv6" => Member::Source(link()?, mac()?, address(key.get(24..)?)?),
        "nodes_ipv4" | "nodes_ipv6" => Member::Node(address(key)?),
        "tunnels" => Member::Tunnel(protocol(key)?, port(key.get(4..)?)?),
        "control" => Member::Control(protocol(key)?, port(key.get(4..)?)?),
        "vnis" => Member::Vxlan(port(key)?, vni(key.get(4..)?)?),
        "ports" => Member::Port(link()?),
        _ => return pair(set, key, wire::find(wire::find(element, KEY_END)?, VALUE)?),
    })
}

/// A pair of ranges, from its first and last key.
fn pair(set: &str, first: &[u8], last: &[u8]) -> Option<Member> {
    let range = |half: fn(&[u8]) -> Option<&[u8]>| {
        let (first, last) = (address(half(first)?)?, address(half(last)?)?);
        Cidr::between(first, last)
    };
    let from = range(|key| key.get(..key.len() / 2))?;
    let to = range(|key| key.get(key.len() / 2..))?;
    Some(match set {
        "masquerade_ipv4" | "masquerade_ipv6" => Member::Masquerade(from, to),
        "kept_ipv4" | "kept_ipv6" => Member::Kept(from, to),
        "across_ipv4" | "across_ipv6" => Member::Across(from, to),
        _ => return None,
    })
}

/// An interface, with the packets and bytes counted for it.
pub(super) fn counted(element: &[u8]) -> Option<(IfName, u64, u64)> {
    const EXPRESSION: u16 = 7;
    const DATA: u16 = 2;
    let key = wire::find(wire::find(element, KEY)?, VALUE)?;
    let counter = wire::find(wire::find(element, EXPRESSION)?, DATA)?;
    let number = |kind| wire::find(counter, kind).and_then(wire::long);
    Some((if_name(key)?, number(2)?, number(1)?))
}

fn encode(member: &Member) -> Vec<u8> {
    match member {
        Member::Mac(link, mac) => [padded(link.as_str(), 16), padded_mac(*mac)].concat(),
        Member::Source(link, mac, address) => {
            [padded(link.as_str(), 16), padded_mac(*mac), octets(*address)].concat()
        }
        Member::Node(address) => octets(*address),
        Member::Tunnel(protocol, port) | Member::Control(protocol, port) => {
            [&[protocol.number(), 0, 0, 0][..], &port.to_be_bytes(), &[0; 2]].concat()
        }
        Member::Vxlan(port, vni) => {
            let [_, vni @ ..] = u32::from(*vni).to_be_bytes();
            [&port.to_be_bytes()[..], &[0; 2], &vni, &[0]].concat()
        }
        Member::Port(link) => [padded(link.as_str(), 16), padded(link.as_str(), 16)].concat(),
        // A pair of ranges has two keys: see `keys`.
        Member::Masquerade(from, to) | Member::Kept(from, to) | Member::Across(from, to) => {
            [octets(from.first()), octets(to.first())].concat()
        }
    }
}

fn padded_mac(mac: Mac) -> Vec<u8> {
    [&mac.bytes()[..], &[0; 2]].concat()
}

fn padded(text: &str, length: usize) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(length, 0);
    bytes
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4().or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

fn if_name(bytes: &[u8]) -> Option<IfName> {
    wire::text(bytes)?.parse().ok()
}

fn protocol(key: &[u8]) -> Option<Protocol> {
    let number = key.first()?;
    [Protocol::Tcp, Protocol::Udp].into_iter().find(|protocol| protocol.number() == *number)
}

fn port(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|port| u16::from_be_bytes(*port))
}

fn vni(bytes: &[u8]) -> Option<Vni> {
    let [a, b, c] = *bytes.first_chunk()?;
    Vni::try_from(u32::from_be_bytes([0, a, b, c])).ok()
}

/// The table of elements of a set, to be dumped.
pub(super) fn of_set(set: &str) -> Attributes {
    Attributes::default().text(TABLE_NAME, TABLE).text(SET_NAME, set)
}

/// Whether a message is about a table of ours.
pub(super) fn is_ours(body: &[u8]) -> bool {
    wire::find(body, TABLE_NAME).and_then(wire::text) == Some(TABLE)
}

/// The element of a table.
pub(super) fn element(table: TableFamily, set: &str, bytes: &[u8]) -> Option<Element> {
    Some(Element { table, member: member(set, bytes)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mac = Mac::from_bytes([2, 1, 2, 3, 4, 5]);
        let source =
            |address: &str| Member::Source("tt0123456789ab".parse().unwrap(), mac, address.parse().unwrap());
        let members = [
            Member::Mac("tt0123456789ab".parse().unwrap(), mac),
            source("10.1.2.3"),
            source("fd00::1"),
            Member::Node("192.0.2.1".parse().unwrap()),
            Member::Node("2001:db8::1".parse().unwrap()),
            Member::Tunnel(Protocol::Udp, 8472),
            Member::Control(Protocol::Tcp, 8474),
            Member::Vxlan(8472, 16_777_215.try_into().unwrap()),
            Member::Port("tt0123456789ab".parse().unwrap()),
            Member::Masquerade("10.1.0.0/16".parse().unwrap(), "0.0.0.0/0".parse().unwrap()),
            Member::Kept("fd00:1::/48".parse().unwrap(), "fe80::/10".parse().unwrap()),
            Member::Across("10.1.0.0/16".parse().unwrap(), "10.2.3.4/32".parse().unwrap()),
        ];
        for member in members {
            let element = keys(&member);
            assert_eq!(super::member(member.set(), element.as_bytes()), Some(member.clone()), "{member:?}");
            // Whatever is cut off, nothing is made up.
            for end in 0..element.as_bytes().len() {
                let part = element.as_bytes().get(..end).unwrap();
                assert!(super::member(member.set(), part).is_none_or(|found| found == member));
            }
        }
    }
}
