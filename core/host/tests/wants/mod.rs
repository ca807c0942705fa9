//! Random wants that a kernel can have: everything stands on a wanted link, routes on links that are up.

use std::net::IpAddr;

use proptest::prelude::*;
use tartan_host::nftables::TableFamily;
use tartan_host::policy::{
    Direction, Epoch, Identity, IdentityId, Judge, Judged, Judgement, Member as Remote, Own, PolicyRow,
    PortClass, Remotes, RemotesId,
};
use tartan_host::*;
use tartan_model::{Family, IfName, Mtu};

use crate::rows::{address, fdb, ip, link, mac, neighbor, route, uplink, vxlan};

/// Dice thrown beforehand, so that a failing case shrinks; when they run out each shows 0.
#[derive(Debug, Clone)]
pub(crate) struct Dice(std::vec::IntoIter<u8>);

impl Dice {
    /// One of `sides` numbers from 0.
    pub(crate) fn roll(&mut self, sides: u8) -> u8 {
        self.0.next().unwrap_or(0) % sides
    }

    pub(crate) fn is(&mut self) -> bool {
        self.roll(2) == 1
    }

    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        let sides = u8::try_from(of.len()).unwrap();
        (sides > 0).then(|| of[usize::from(self.roll(sides))].clone())
    }
}

pub(crate) fn dice() -> impl Strategy<Value = Dice> {
    prop::collection::vec(any::<u8>(), 0..300).prop_map(|rolls| Dice(rolls.into_iter()))
}

pub(crate) fn wants() -> impl Strategy<Value = Rows> {
    dice().prop_map(|mut dice| want(&mut dice))
}

fn want(dice: &mut Dice) -> Rows {
    let links = want_links(dice);
    let mut rows: Rows = want_sysctls(dice).into_iter().chain(links.iter().cloned().map(Row::Link)).collect();
    rows.extend(want_filter(dice));
    rows.extend(want_policy(dice).into_iter().map(Row::Policy));
    for link in &links {
        rows.extend(want_on(dice, link));
    }
    let sources: Vec<IpAddr> = rows.iter().filter_map(held).collect();
    let up: Vec<IfName> = links.iter().filter(|link| link.up).map(|link| link.name.clone()).collect();
    rows.extend(want_routes(dice, &up, &sources));
    rows
}

fn held(row: &Row) -> Option<IpAddr> {
    if let Row::Address(row) = row { Some(row.address.address()) } else { None }
}

fn want_sysctls(dice: &mut Dice) -> Vec<Row> {
    [SysctlKey::AcceptRa(uplink()), SysctlKey::Ipv4Forward, SysctlKey::Ipv6Forward]
        .map(|key| Row::Sysctl(Sysctl { key, value: dice.roll(3).into() }))
        .to_vec()
}

/// No ruleset at times, and then no elements.
fn want_filter(dice: &mut Dice) -> Vec<Row> {
    let mut rows = Vec::new();
    if dice.is() {
        let parts = Parts { masquerade: dice.is(), apart: dice.is(), judged: dice.is() };
        rows.push(Row::Ruleset(Ruleset { intact: true, parts: Some(parts) }));
        rows.extend(want_ranges(dice));
        let pod = "tt00000000000a".parse().unwrap();
        let members =
            [Member::Mac(pod, mac(1)), Member::Node(ip("192.0.2.2")), Member::Node(ip("2001:db8::2"))];
        for table in [TableFamily::Bridge, TableFamily::Inet] {
            let some = members.iter().filter(|_| dice.is()).cloned();
            rows.extend(some.map(|member| Row::Element(Element { table, member })));
        }
    }
    rows
}

/// No table of policies at times; in it, all refers to what is wanted too.
fn want_policy(dice: &mut Dice) -> Vec<PolicyRow> {
    if !dice.is() {
        return Vec::new();
    }
    let epoch = Epoch::of(dice.roll(3).into());
    let mut rows = vec![PolicyRow::Judge(Judge { intact: true, epoch })];
    let remotes: Vec<RemotesId> = (0..4).filter(|_| dice.is()).map(RemotesId).collect();
    for id in &remotes {
        rows.extend(want_remotes(dice, *id));
    }
    let identities: Vec<IdentityId> = (0..4).filter(|_| dice.is()).map(IdentityId).collect();
    for id in identities {
        // What an identity is like is in its number, but its ports may have been changed by somebody.
        let Some(otherwise) = dice.pick(&remotes) else { break };
        let class = |remotes| PortClass { protocol: 6, first: 80, last: 90, remotes };
        let ports = dice.pick(&remotes).filter(|_| dice.is()).map(class).into_iter().collect();
        let (direction, about) = (direction_of(id.0), format!("policy {}", dice.roll(2)));
        let is_far = direction == Direction::Ingress && dice.is();
        rows.push(PolicyRow::Identity(Identity { id, direction, ports, otherwise, about, is_far }));
        for address in some(dice, &["10.0.1.5", "fd00::5"]) {
            let about = format!("pod {}", dice.roll(2));
            rows.push(PolicyRow::Judged(Judged { direction, address, identity: id, about }));
            rows.push(PolicyRow::Own(Own { address, is_isolated: dice.is() }));
        }
    }
    rows
}

fn want_remotes(dice: &mut Dice, id: RemotesId) -> Vec<PolicyRow> {
    let range = (ip("10.3.0.0"), ip("10.3.0.255"), judgement(dice));
    let ranges = if dice.is() { vec![range] } else { Vec::new() };
    let row = Remotes { id, direction: direction_of(id.0), ranges, otherwise: judgement(dice) };
    let mut rows = vec![PolicyRow::Remotes(row)];
    for address in some(dice, &["10.0.1.6", "10.0.1.7", "fd00::6"]) {
        rows.push(PolicyRow::Member(Remote { remotes: id, address, judgement: judgement(dice) }));
    }
    rows
}

fn some(dice: &mut Dice, addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().filter(|_| dice.is()).map(|address| ip(address)).collect()
}

fn direction_of(id: u64) -> Direction {
    if id.is_multiple_of(2) { Direction::Ingress } else { Direction::Egress }
}

fn judgement(dice: &mut Dice) -> Judgement {
    if dice.is() { Judgement::Allow } else { Judgement::Deny }
}

/// What one want has of these may share addresses with what another has.
fn want_ranges(dice: &mut Dice) -> Option<Row> {
    let to = dice.pick(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24"].map(|range| range.parse().unwrap()));
    let member = Member::Kept("10.244.0.0/16".parse().unwrap(), to?);
    dice.is().then_some(Row::Element(Element { table: TableFamily::Inet, member }))
}

fn want_links(dice: &mut Dice) -> Vec<Link> {
    // `tartan1` is a bridge at times and at times not, so that a bridge with ports has to be made anew.
    let second = if dice.is() { vxlan_kind(dice, 9, "192.0.2.1") } else { LinkKind::Bridge };
    let mut kinds = vec![("tartan0", LinkKind::Bridge), ("tartan1", second)];
    kinds.push(("tartan.1", vxlan_kind(dice, 1, "192.0.2.1")));
    kinds.push(("tart6.1", vxlan_kind(dice, 1, "2001:db8::1")));
    let pods = ["tt00000000000a", "tt00000000000b", "tt00000000000c", "tt00000000000d"];
    kinds.extend(pods.map(|pod| (pod, LinkKind::Veth)));
    kinds.retain(|_| dice.is());
    let bridge = |(name, kind): &(&str, LinkKind)| (*kind == LinkKind::Bridge).then(|| name.parse().unwrap());
    let bridges: Vec<IfName> = kinds.iter().filter_map(bridge).collect();
    kinds.into_iter().map(|(name, kind)| want_link(dice, name, kind, &bridges)).collect()
}

fn vxlan_kind(dice: &mut Dice, vni: u32, local: &str) -> LinkKind {
    vxlan(vni, local, if dice.roll(4) == 3 { 8479 } else { 8472 })
}

fn want_link(dice: &mut Dice, name: &str, kind: LinkKind, bridges: &[IfName]) -> Link {
    let master = dice.pick(bridges).filter(|_| kind != LinkKind::Bridge && dice.is());
    let mtu = Mtu::try_from(1400 + u32::from(dice.roll(2))).unwrap();
    let alias = format!("tartan test {}", dice.roll(2));
    Link {
        translated: (master.is_some() || kind == LinkKind::Bridge) && dice.is(),
        mac: mac(dice.roll(2)),
        mtu,
        up: dice.roll(4) < 3,
        master,
        alias: alias.into(),
        ..link(name, kind)
    }
}

fn want_on(dice: &mut Dice, link: &Link) -> Vec<Row> {
    let on = link.name.as_str();
    let gateway = [None, None, Some(Scope::Link), Some(Scope::Global)];
    let own = [None, Some("10.0.1.1/24"), Some("10.0.1.1/32")];
    let own_ipv6 = [None, Some("fd00::1/64"), Some("fd00::1/128")];
    // Settings are never taken back, so they are the same kinds in every want.
    let settings = [SysctlKey::LinkForward(link.name.clone()), SysctlKey::NoIpv6(link.name.clone())];
    let mut rows: Vec<Row> =
        settings.map(|key| Row::Sysctl(Sysctl { key, value: dice.roll(2).into() })).into();
    rows.extend(dice.pick(&gateway).flatten().map(|scope| address(on, "169.254.1.1/32", scope)));
    rows.extend(dice.pick(&own).flatten().map(|text| address(on, text, Scope::Global)));
    rows.extend(dice.pick(&own_ipv6).flatten().map(|text| address(on, text, Scope::Global)));
    for text in ["10.0.1.5", "fd00::5"] {
        let last = dice.roll(3);
        rows.extend((last > 0).then(|| neighbor(on, text, last)));
    }
    if let LinkKind::Vxlan { local, .. } = &link.kind {
        let remotes =
            if local.is_ipv4() { ["192.0.2.2", "192.0.2.3"] } else { ["2001:db8::2", "2001:db8::3"] };
        rows.extend(dice.pick(&remotes).filter(|_| dice.is()).map(|dst| fdb(on, dst)));
    }
    rows
}

fn want_routes(dice: &mut Dice, up: &[IfName], sources: &[IpAddr]) -> Vec<Row> {
    let destinations =
        ["10.2.0.0/24", "10.2.1.0/24", "10.2.2.5/32", "fd02::/64", "fd02:1::/64", "fd02:2::5/128"];
    destinations.iter().filter_map(|dst| want_route(dice, dst, up, sources)).map(Row::Route).collect()
}

fn want_route(dice: &mut Dice, dst: &str, up: &[IfName], sources: &[IpAddr]) -> Option<Route> {
    // No route of these leads to the IPv6 next hop by another link, which would forbid it.
    let gateway = ip(if dst.contains(':') { "fd09::9" } else { "10.2.0.9" });
    let kind = match (dice.roll(4), dice.pick(up)) {
        (0, _) => return None,
        (1, Some(link)) => RouteKind::Link { link },
        (2, Some(link)) => RouteKind::Via { gateway, link },
        _ => RouteKind::Blackhole,
    };
    let family = Family::of(gateway);
    let ours: Vec<IpAddr> = sources.iter().copied().filter(|source| Family::of(*source) == family).collect();
    let source = dice.pick(&ours).filter(|_| dice.is());
    let metric = if dice.roll(4) == 3 { 8400 } else { Route::usual_metric(family) };
    Some(Route { metric, ..route(dst, kind, source) })
}
