//! Elements of the table of policies: from rows, and back.

use std::net::IpAddr;

use tartan_host::policy::{
    Direction, Epoch, Identity, IdentityId, Judged, Judgement, MARK_SHIFT, Member, Own, PortClass, Remotes,
    RemotesId,
};
use tartan_model::Family;

use super::super::elements::{address, octets};
use super::super::wire::{self, Attributes};
use super::shape::{
    Leads, NOW, deny, here_set, identity_chain, itself_set, judged_map, members_set, own_set, ports_map,
    ranges_map, remotes_chain,
};

const KEY: u16 = 1;
const DATA: u16 = 2;
const FLAGS: u16 = 3;
const COMMENT: u16 = 6;
const PAD: u16 = 8;
const KEY_END: u16 = 10;
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
/// The key is the first behind a range (NFT_SET_ELEM_INTERVAL_END).
const BEHIND: u32 = 1;

/// An element of one of the sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) set: String,
    pub(super) key: Vec<u8>,
    pub(super) end: Option<Vec<u8>>,
    pub(super) is_behind: bool,
    pub(super) leads: Option<Leads>,
    /// A word for people.
    pub(super) about: String,
}

impl Element {
    fn new(set: String, key: Vec<u8>, leads: Option<Leads>) -> Element {
        Element { set, key, end: None, is_behind: false, leads, about: String::new() }
    }

    /// All of it, or only what tells it from others.
    pub(super) fn encode(&self, whole: bool) -> Attributes {
        let value = |bytes: &[u8]| Attributes::default().bytes(VALUE, bytes);
        let mut all = Attributes::default().nested(KEY, value(&self.key));
        if self.is_behind {
            all = all.number(FLAGS, BEHIND);
        }
        if let Some(end) = &self.end {
            all = all.nested(KEY_END, value(end));
        }
        if let Some(leads) = self.leads.as_ref().filter(|_| whole) {
            all = all.nested(DATA, leads.encode());
        }
        if whole && !self.about.is_empty() {
            all = all.bytes(COMMENT, &comment(&self.about));
        }
        all
    }

    /// None if there is anything about it that no element of ours has.
    pub(super) fn decode(set: &str, bytes: &[u8]) -> Option<Element> {
        let mut element = Element::new(set.into(), Vec::new(), None);
        for (kind, value) in wire::attributes(bytes) {
            match kind {
                KEY => element.key = wire::find(value, VALUE)?.to_vec(),
                KEY_END => element.end = Some(wire::find(value, VALUE)?.to_vec()),
                DATA => element.leads = Some(leads(wire::find(value, VERDICT)?)?),
                FLAGS => match wire::short(value)? {
                    0 => {}
                    BEHIND => element.is_behind = true,
                    _ => return None,
                },
                COMMENT => element.about = uncomment(value)?,
                PAD => {}
                _ => return None,
            }
        }
        (!element.key.is_empty()).then_some(element)
    }
}

fn leads(verdict: &[u8]) -> Option<Leads> {
    let chain = || Some(wire::text(wire::find(verdict, 2)?)?.to_owned());
    match wire::short(wire::find(verdict, 1)?)? as i32 {
        -5 => Some(Leads::Return),
        -3 => chain().map(Leads::Jump),
        -4 => chain().map(Leads::Goto),
        _ => None,
    }
}

/// A comment as `nft` writes it: type 0, length, a text with its end (NFTNL_UDATA_RULE_COMMENT,
/// NFTNL_UDATA_SET_ELEM_COMMENT).
pub(super) fn comment(about: &str) -> Vec<u8> {
    let mut text = about.as_bytes().to_vec();
    // No row has as many, and a length is one byte.
    text.truncate(250);
    text.push(0);
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[0, length][..], &text].concat()
}

/// The text of a comment; None if the bytes say more, or something else.
pub(super) fn uncomment(bytes: &[u8]) -> Option<String> {
    let [0, length, text @ ..] = bytes else { return None };
    let text = text.strip_suffix(&[0])?;
    (text.len() + 1 == usize::from(*length)).then(|| String::from_utf8(text.to_vec()).ok()).flatten()
}

/// A mark is a number of the machine's own order.
pub(super) fn now(epoch: Epoch) -> Element {
    Element::new(NOW.into(), epoch.mark().to_ne_bytes().into(), None)
}

pub(super) fn judged(row: &Judged) -> Element {
    let leads = Leads::Jump(identity_chain(row.direction, row.identity));
    let set = judged_map(row.direction, Family::of(row.address));
    Element { about: row.about.clone(), ..Element::new(set, octets(row.address), Some(leads)) }
}

pub(super) fn own(row: &Own) -> Vec<Element> {
    let (family, key) = (Family::of(row.address), octets(row.address));
    let mut all = vec![Element::new(here_set(family), key.clone(), None)];
    if row.is_isolated {
        let twice = [&key[..], &key[..]].concat();
        all.push(Element::new(own_set(family), key, None));
        all.push(Element::new(itself_set(family), twice, None));
    }
    all
}

pub(super) fn member(row: &Member) -> Element {
    Element::new(members_set(row.remotes, row.judgement, Family::of(row.address)), octets(row.address), None)
}

/// A range is a first address, and the first that is not in it any more, if there is one.
pub(super) fn ranges(row: &Remotes) -> Vec<Element> {
    let mut all = Vec::new();
    for (first, last, judgement) in &row.ranges {
        let set = ranges_map(row.id, Family::of(*first));
        let leads = Leads::of(*judgement, row.direction);
        all.push(Element::new(set.clone(), octets(*first), Some(leads)));
        if let Some(behind) = after(*last) {
            all.push(Element { is_behind: true, ..Element::new(set, octets(behind), None) });
        }
    }
    all
}

pub(super) fn ports(row: &Identity) -> Vec<Element> {
    let class = |class: &PortClass| {
        let leads = Leads::Goto(remotes_chain(class.remotes));
        let key = port_key(class.protocol, class.first);
        let end = Some(port_key(class.protocol, class.last));
        Element { end, ..Element::new(ports_map(row.id), key, Some(leads)) }
    };
    row.ports.iter().map(class).collect()
}

fn port_key(protocol: u8, port: u16) -> Vec<u8> {
    [&[protocol, 0, 0, 0][..], &port.to_be_bytes(), &[0; 2]].concat()
}

/// The epoch of an element of the set of that of now.
pub(super) fn read_now(element: &Element) -> Option<Epoch> {
    let mark = u32::from_ne_bytes(element.key.as_slice().try_into().ok()?);
    let number = u64::from(mark >> MARK_SHIFT).checked_sub(1)?;
    Some(Epoch::of(number)).filter(|epoch| epoch.mark() == mark)
}

/// The row of an element of a map of addresses that are judged.
pub(super) fn read_judged(direction: Direction, element: &Element) -> Option<Judged> {
    let Some(Leads::Jump(chain)) = &element.leads else { return None };
    let (found, identity) = identity_of(chain)?;
    let (address, about) = (address(&element.key)?, element.about.clone());
    (found == direction).then_some(Judged { direction, address, identity, about })
}

/// The address of an element of a set of own ones.
pub(super) fn read_own(element: &Element) -> Option<IpAddr> {
    if element.leads.is_some() { None } else { address(&element.key) }
}

/// The address of an element of a set of own ones, twice.
pub(super) fn read_itself(element: &Element) -> Option<IpAddr> {
    let (one, other) = element.key.split_at(element.key.len() / 2);
    if element.leads.is_some() || one != other { None } else { address(one) }
}

/// The row of an element of a set of members.
pub(super) fn read_member(remotes: RemotesId, judgement: Judgement, element: &Element) -> Option<Member> {
    let address = address(&element.key).filter(|_| element.leads.is_none())?;
    Some(Member { remotes, address, judgement })
}

/// The ranges of one family, in order, of all elements of their map.
pub(super) fn read_ranges(
    direction: Direction,
    mut elements: Vec<Element>,
) -> Option<Vec<(IpAddr, IpAddr, Judgement)>> {
    // Where one range follows another, both have an element of this key.
    elements.sort_by(|a, b| (&a.key, !a.is_behind).cmp(&(&b.key, !b.is_behind)));
    let mut all = Vec::new();
    let mut elements = elements.iter().peekable();
    while let Some(start) = elements.next() {
        let judgement = judgement(start.leads.as_ref().filter(|_| !start.is_behind)?, direction)?;
        let first = address(&start.key)?;
        let last = match elements.next() {
            Some(end) if end.is_behind => before(address(&end.key)?)?,
            Some(_) => return None,
            None => last_of(Family::of(first)),
        };
        all.push((first, last, judgement));
    }
    Some(all)
}

/// A class of ports of an element of an identity's map.
pub(super) fn read_ports(element: &Element) -> Option<PortClass> {
    let Some(Leads::Goto(chain)) = &element.leads else { return None };
    let read = |key: &[u8]| match key {
        [protocol, 0, 0, 0, high, low, 0, 0] => Some((*protocol, u16::from_be_bytes([*high, *low]))),
        _ => None,
    };
    let (protocol, first) = read(&element.key)?;
    let (same, last) = read(element.end.as_ref()?)?;
    (protocol == same).then_some(PortClass { protocol, first, last, remotes: remotes_of(chain)? })
}

fn judgement(leads: &Leads, direction: Direction) -> Option<Judgement> {
    match leads {
        Leads::Return => Some(Judgement::Allow),
        Leads::Goto(chain) if chain == deny(direction) => Some(Judgement::Deny),
        _ => None,
    }
}

/// The remotes whose chain it is.
pub(super) fn remotes_of(chain: &str) -> Option<RemotesId> {
    number(chain.strip_prefix("r_")?).map(RemotesId)
}

/// The identity whose chain it is.
pub(super) fn identity_of(chain: &str) -> Option<(Direction, IdentityId)> {
    let of = |direction, prefix| Some((direction, IdentityId(number(chain.strip_prefix(prefix)?)?)));
    of(Direction::Ingress, "in_").or_else(|| of(Direction::Egress, "out_"))
}

/// As it is written: 16 hexadecimal digits, no capitals.
fn number(hex: &str) -> Option<u64> {
    let is_ours = hex.len() == 16 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_ours.then(|| u64::from_str_radix(hex, 16).ok()).flatten()
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|next| IpAddr::V6(next.into())),
    }
}

fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_sub(1).map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_sub(1).map(|next| IpAddr::V6(next.into())),
    }
}

fn last_of(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => IpAddr::V4(u32::MAX.into()),
        Family::Ipv6 => IpAddr::V6(u128::MAX.into()),
    }
}
