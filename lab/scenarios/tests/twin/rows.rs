//! Dice into rows: few names and addresses, so that rows meet each other often.

use std::net::IpAddr;

use tartan_host::nftables::TableFamily;
use tartan_host::*;
use tartan_model::{Cidr, IfName, Mac, Mtu};

/// A bridge that is not ours.
pub(crate) const FOREIGN: &str = "tartan7";

/// Dice thrown beforehand, so that a failing case shrinks; when they run out each shows 0.
#[derive(Debug, Clone)]
pub(crate) struct Dice<'a>(&'a [u8]);

impl<'a> Dice<'a> {
    pub(crate) fn new(thrown: &'a [u8]) -> Self {
        Dice(thrown)
    }

    /// One of `sides` numbers from 0.
    pub(crate) fn roll(&mut self, sides: u8) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first % sides
    }

    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        let sides = u8::try_from(of.len()).unwrap();
        (sides > 0).then(|| of[usize::from(self.roll(sides))].clone())
    }

    fn word<'w>(&mut self, of: &[&'w str]) -> &'w str {
        self.pick(of).unwrap()
    }
}

pub(crate) fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn mac(last: u8) -> Mac {
    Mac::from_bytes([2, 0, 0, 0, 0, last])
}

/// A row of any table; what is not a link stands on one of `links`. The other ends of veths go to `pods`.
pub(crate) fn row(dice: &mut Dice<'_>, links: &[IfName], pods: NetnsToken) -> Row {
    match dice.roll(5) {
        0 => Row::Link(link(dice, pods)),
        1 => filter(dice),
        _ => standing(dice, links),
    }
}

/// The ruleset, or an element that needs it.
pub(crate) fn filter(dice: &mut Dice<'_>) -> Row {
    let pod = name("tt00000000000a");
    let table = dice.pick(&TableFamily::ALL).unwrap();
    let member = match dice.roll(6) {
        0 => return Row::Ruleset(Ruleset { intact: true, parts: Some(Parts::default()) }),
        1 => Member::Source(pod, mac(1 + dice.roll(2)), ip(dice.word(&["10.0.1.5", "10.0.1.6"]))),
        // A table for ARP knows of nothing else.
        _ if table == TableFamily::Arp => Member::Source(pod, mac(3), ip("10.0.1.7")),
        2 => Member::Mac(pod, mac(1 + dice.roll(2))),
        3 => Member::Source(pod, mac(1), ip(dice.word(&["fd00::5", "fe80::5"]))),
        4 => Member::Tunnel(Protocol::Udp, 8472 + u16::from(dice.roll(2))),
        _ => Member::Node(ip(dice.word(&["192.0.2.2", "2001:db8::2"]))),
    };
    Row::Element(Element { table, member })
}

/// A row that stands on one of these links, or on any if there are none.
pub(crate) fn standing(dice: &mut Dice<'_>, links: &[IfName]) -> Row {
    let table = dice.roll(10);
    let on = dice.pick(links).unwrap_or_else(|| any_name(dice));
    match table {
        0..2 => Row::Address(address(dice, on)),
        2 => Row::Fdb(fdb(dice, on)),
        3 => Row::Neighbor(neighbor(dice, on)),
        4 => Row::Sysctl(sysctl(dice, on)),
        _ => Row::Route(route(dice, on)),
    }
}

/// A setting of the node or of a link. IPv6 stays on: what goes with it is not modelled.
fn sysctl(dice: &mut Dice<'_>, on: IfName) -> Sysctl {
    match dice.roll(4) {
        0 => Sysctl { key: SysctlKey::Ipv4Forward, value: dice.roll(2).into() },
        1 => Sysctl { key: SysctlKey::NoIpv6(on), value: 0 },
        _ => Sysctl { key: SysctlKey::LinkForward(on), value: dice.roll(2).into() },
    }
}

/// The settings among these rows.
pub(crate) fn settings(rows: &Rows) -> Vec<SysctlKey> {
    let key = |row: &Row| if let Row::Sysctl(row) = row { Some(row.key.clone()) } else { None };
    rows.iter().filter_map(key).collect()
}

/// The name of a row that is a link.
pub(crate) fn link_name(row: &Row) -> Option<IfName> {
    if let Row::Link(link) = row { Some(link.name.clone()) } else { None }
}

/// The name of a link that may be there or not.
pub(crate) fn any_name(dice: &mut Dice<'_>) -> IfName {
    name(dice.word(&[
        "tartan0",
        "tartan1",
        "tartan.1",
        "tart6.1",
        "tartan.2",
        "tt00000000000a",
        "tt00000000000b",
    ]))
}

pub(crate) fn link(dice: &mut Dice<'_>, pods: NetnsToken) -> Link {
    let name = any_name(dice);
    let kind = kind(dice, name.as_str());
    let other_end =
        Peer { netns: pods, name: self::name(name.as_str().trim_start_matches("tt0000")), mac: mac(99) };
    let master = master(dice, &kind);
    Link {
        translated: (master.is_some() || kind == LinkKind::Bridge) && dice.roll(4) > 0,
        master,
        mac: mac(1 + dice.roll(2)),
        mtu: Mtu::try_from([1450, 1449, 1279][usize::from(dice.roll(5) / 2)]).unwrap(),
        up: dice.roll(4) < 3,
        alias: format!("tartan test {}", dice.roll(2)).into(),
        peer: (kind == LinkKind::Veth && dice.roll(8) < 7).then(|| Box::new(other_end)),
        name,
        kind,
    }
}

/// Two names share a network id and port at times, and `tartan1` is a bridge at times and at times not.
fn kind(dice: &mut Dice<'_>, name: &str) -> LinkKind {
    let port = if dice.roll(4) == 3 { 8479 } else { 8472 };
    let vxlan = |vni: u32, local| LinkKind::Vxlan { vni: vni.try_into().unwrap(), local: ip(local), port };
    match name {
        "tartan1" if dice.roll(3) == 2 => vxlan(9, "192.0.2.1"),
        "tartan.1" => vxlan(1, "192.0.2.1"),
        "tartan.2" => vxlan(1 + u32::from(dice.roll(2)), "192.0.2.1"),
        "tart6.1" => vxlan(1, "2001:db8::1"),
        _ if name.starts_with("tt") => LinkKind::Veth,
        _ => LinkKind::Bridge,
    }
}

fn master(dice: &mut Dice<'_>, kind: &LinkKind) -> Option<IfName> {
    match (dice.roll(16), kind) {
        (0..2, LinkKind::Bridge) | (0, _) => Some(any_name(dice)),
        // Of a foreign master the model does not know that it is a bridge, and takes no other bridge.
        (1, LinkKind::Veth) => Some(name(FOREIGN)),
        (2..8, LinkKind::Veth | LinkKind::Vxlan { .. }) => Some(name("tartan0")),
        _ => None,
    }
}

/// No two IPv4 addresses of one network on one link: which of them is the primary one is not modelled.
pub(crate) fn address(dice: &mut Dice<'_>, on: IfName) -> Address {
    let v4 = ["10.0.1.1/24", "10.0.1.1/24", "10.0.1.1/32", "10.0.2.1/24", "169.254.1.1/32"];
    let v6 = ["fd00::1/64", "fd00::1/64", "fd00::1/128", "fd00:2::1/64", "fe80::1/64"];
    let text = if dice.roll(2) == 0 { dice.word(&v4) } else { dice.word(&v6) };
    let narrow = text.starts_with("fe80") || !text.contains(':') && dice.roll(4) == 3;
    let scope = if narrow { Scope::Link } else { Scope::Global };
    Address { link: on, address: text.parse().unwrap(), scope }
}

pub(crate) fn fdb(dice: &mut Dice<'_>, on: IfName) -> Fdb {
    let v6 = if on.as_str().starts_with("tart6") { dice.roll(5) < 4 } else { dice.roll(5) == 4 };
    let dst = dice.word(if v6 { &["2001:db8::2", "2001:db8::3"] } else { &["192.0.2.2", "192.0.2.3"] });
    Fdb { link: on, mac: mac(7 + dice.roll(2)), dst: ip(dst) }
}

pub(crate) fn neighbor(dice: &mut Dice<'_>, on: IfName) -> Neighbor {
    let address = ip(dice.word(&["10.0.1.5", "fd00::5", "10.2.0.9"]));
    Neighbor { link: on, address, mac: mac(5 + dice.roll(2)) }
}

/// Some gateways and sources are addresses of links, some are not.
pub(crate) fn route(dice: &mut Dice<'_>, on: IfName) -> Route {
    let v6 = dice.roll(2) == 1;
    let destinations = if v6 {
        ["fd02::/64", "fd02::5/128", "fd00::/64", "fd02:1::/64"]
    } else {
        ["10.2.0.0/24", "10.2.1.5/32", "10.0.1.0/24", "10.2.2.0/24"]
    };
    let gateways = if v6 {
        ["fd02::9", "fd00::1", "fe80::9", "fe80::1"]
    } else {
        ["10.2.0.9", "10.0.1.1", "10.2.0.8", "169.254.1.1"]
    };
    let sources =
        if v6 { ["fd00::1", "fd00:2::1", "fe80::1"] } else { ["10.0.1.1", "10.0.2.1", "169.254.1.1"] };
    let dst: Cidr = dice.word(&destinations).parse().unwrap();
    let kind = match dice.roll(5) {
        0..2 => RouteKind::Link { link: on },
        2..4 => RouteKind::Via { gateway: ip(dice.word(&gateways)), link: on },
        _ => RouteKind::Blackhole,
    };
    let source = (dice.roll(5) < 2).then(|| ip(dice.word(&sources)));
    let metric = if dice.roll(4) == 3 { 8400 } else { Route::usual_metric(dst.family()) };
    let mtu = (kind != RouteKind::Blackhole && dice.roll(4) == 3).then(|| Mtu::try_from(1300).unwrap());
    Route { dst, metric, kind, source, mtu }
}
