//! Steps one by one: what the kernel made of data does with them, each as seen on Linux 6.18 with iproute2, and why
//! the guard refuses some.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod rows;

use rows::{address, bare, fdb, ip, link, mac, name, neighbor, route, uplink, vxlan};
use tartan_host::*;
use tartan_model::Mtu;

const OWN: &str = "10.0.1.1/24";
const OWN_IPV6: &str = "fd00::1/64";

fn create(row: Row) -> Step {
    Step::Create { row }
}

fn change(host: &Host, to: Row) -> Step {
    Step::Change { from: host.rows.get(&to.key()).cloned().unwrap_or_else(|| to.clone()), to }
}

fn remove(row: Row) -> Step {
    Step::Remove { row }
}

fn bridge() -> Row {
    Row::Link(link("tartan0", LinkKind::Bridge))
}

fn other() -> Row {
    Row::Link(link("tartan1", LinkKind::Bridge))
}

fn over(text: &str) -> RouteKind {
    RouteKind::Link { link: name(text) }
}

fn global(link: &str, text: &str) -> Row {
    address(link, text, Scope::Global)
}

/// Routes on another link than their source is on.
fn sourced() -> [Row; 2] {
    [("10.3.0.0/24", "10.0.1.1"), ("fd03::/64", "fd00::1")]
        .map(|(dst, source)| Row::Route(route(dst, over("tartan1"), Some(ip(source)))))
}

/// Two bridges, the first with addresses, neighbours and routes, the second with routes from these addresses.
fn busy() -> Host {
    let mut rows = vec![bridge(), other(), global("tartan0", OWN), global("tartan0", OWN_IPV6)];
    rows.extend([neighbor("tartan0", "10.0.1.5", 5), neighbor("tartan0", "fd00::5", 5)]);
    rows.extend(["10.2.0.0/24", "fd02::/64"].map(|dst| Row::Route(route(dst, over("tartan0"), None))));
    rows.extend(sourced());
    host_with(rows)
}

fn host_with(rows: impl IntoIterator<Item = Row>) -> Host {
    let mut host = bare();
    for row in rows {
        host.act(&create(row)).unwrap();
    }
    host
}

fn texts(host: &Host) -> Vec<String> {
    host.rows.iter().filter(|row| !matches!(row, Row::Link(_))).map(Row::to_string).collect()
}

/// What is lost, and what is there in its place, by a step.
fn lost(step: impl Fn(&Host) -> Step) -> (Vec<String>, Vec<String>) {
    let mut host = busy();
    let before = texts(&host);
    host.act(&step(&host)).unwrap();
    let after = texts(&host);
    let missing = before.iter().filter(|row| !after.contains(row)).cloned().collect();
    (missing, after.into_iter().filter(|row| !before.contains(row)).collect())
}

#[test]
fn link_down_keeps_ipv4_addresses_and_routes_from_them() {
    let down = Row::Link(Link { up: false, ..link("tartan0", LinkKind::Bridge) });
    let (missing, _) = lost(|host| change(host, down.clone()));
    let expected = [
        "address fd00::1/64 dev tartan0",
        "neighbor 10.0.1.5 lladdr 02:00:00:00:00:05 dev tartan0",
        "neighbor fd00::5 lladdr 02:00:00:00:00:05 dev tartan0",
        "route 10.2.0.0/24 dev tartan0",
        "route fd02::/64 dev tartan0",
    ];
    assert_eq!(missing, expected);
}

#[test]
fn new_mac_address_flushes_neighbours() {
    let to = Row::Link(Link { mac: mac(2), ..link("tartan0", LinkKind::Bridge) });
    let (missing, _) = lost(|host| change(host, to.clone()));
    let flushed = ["10.0.1.5", "fd00::5"].map(|text| neighbor("tartan0", text, 5).to_string());
    assert_eq!(missing, flushed);
}

#[test]
fn small_mtu_ends_ipv6() {
    let mtu = Mtu::try_from(1279).unwrap();
    let to = Row::Link(Link { mtu, ..link("tartan0", LinkKind::Bridge) });
    let (missing, _) = lost(|host| change(host, to.clone()));
    assert!(missing.len() == 3 && missing.iter().all(|row| row.contains("fd0")), "{missing:?}");
    let mut host = host_with([to]);
    assert_eq!(host.act(&create(global("tartan0", OWN_IPV6))), Err(StepError::NoLink));
}

#[test]
fn last_ipv4_address_takes_ipv4_along() {
    let (missing, _) = lost(|_| remove(global("tartan0", OWN)));
    let expected = [
        "address 10.0.1.1/24 dev tartan0",
        "neighbor 10.0.1.5 lladdr 02:00:00:00:00:05 dev tartan0",
        "route 10.2.0.0/24 dev tartan0",
        "route 10.3.0.0/24 dev tartan1 src 10.0.1.1",
    ];
    assert_eq!(missing, expected);
}

#[test]
fn ipv6_address_takes_only_itself_out_of_routes() {
    let (missing, new) = lost(|_| remove(global("tartan0", OWN_IPV6)));
    assert_eq!(missing, ["address fd00::1/64 dev tartan0", "route fd03::/64 dev tartan1 src fd00::1"]);
    assert_eq!(new, ["route fd03::/64 dev tartan1"]);
}

#[test]
fn source_held_by_another_link_is_not_lost() {
    let mut host = busy();
    for text in ["10.0.1.1/32", "fd00::1/128"] {
        host.act(&create(global("tartan1", text))).unwrap();
    }
    host.act(&remove(bridge())).unwrap();
    assert!(sourced().iter().all(|route| host.rows.get(&route.key()) == Some(route)));
}

#[test]
fn link_takes_along_what_is_on_it_and_routes_from_its_ipv4_addresses() {
    let mut host = busy();
    host.act(&remove(bridge())).unwrap();
    assert_eq!(texts(&host), ["route fd03::/64 dev tartan1 src fd00::1"]);
}

#[test]
fn bridge_releases_its_ports() {
    let port = Link { master: Some(name("tartan0")), ..link("tt00000000000a", LinkKind::Veth) };
    let mut host = host_with([bridge(), Row::Link(port.clone())]);
    assert_eq!(host.rows.link(&port.name).unwrap().master, port.master);
    host.act(&remove(bridge())).unwrap();
    assert_eq!(host.rows.link(&port.name).unwrap().master, None);
}

#[test]
fn links_are_made_once_and_on_bridges_only() {
    let vx = |text, local, port| Row::Link(link(text, vxlan(1, local, port)));
    let mut host = host_with([bridge(), vx("tartan.1", "192.0.2.1", 8472)]);
    assert_eq!(host.act(&create(bridge())), Err(StepError::Exists));
    assert_eq!(host.act(&create(Row::Link(link("eth0", LinkKind::Bridge)))), Err(StepError::Exists));
    assert_eq!(host.act(&create(vx("tartan.1", "192.0.2.1", 8472))), Err(StepError::Exists));
    assert_eq!(host.act(&create(vx("tartan.2", "192.0.2.9", 8472))), Err(StepError::SameTunnel));
    assert_eq!(host.act(&create(vx("tartan.2", "192.0.2.9", 8479))), Ok(()));
    assert_eq!(host.act(&create(vx("tart6.1", "2001:db8::1", 8472))), Ok(()));
    let port = |master: &str| Link { master: Some(name(master)), ..link("tt00000000000a", LinkKind::Veth) };
    assert_eq!(host.act(&create(Row::Link(port("tartan9")))), Err(StepError::NoLink));
    assert_eq!(host.act(&create(Row::Link(port("tartan.1")))), Err(StepError::NoLink));
    assert_eq!(
        host.act(&create(Row::Link(Link { peer: None, ..port("tartan0") }))),
        Err(StepError::NoNamespace)
    );
    assert_eq!(host.act(&change(&host, Row::Link(port("tartan0")))), Err(StepError::Gone));
    let nested = Link { master: Some(name("tartan0")), ..link("tartan1", LinkKind::Bridge) };
    let refused = host.act(&create(Row::Link(nested)));
    assert!(matches!(refused, Err(StepError::Kernel { errno: 40, .. })), "{refused:?}");
}

#[test]
fn rows_want_their_link() {
    let mut host = bare();
    let rows = [global("tartan0", OWN), neighbor("tartan0", "10.0.1.5", 5), fdb("tartan0", "192.0.2.2")];
    for row in rows.into_iter().chain([Row::Route(route("10.2.0.0/24", over("tartan0"), None))]) {
        assert_eq!(host.act(&create(row.clone())), Err(StepError::NoLink));
        assert_eq!(host.act(&remove(row)), Ok(()));
    }
}

#[test]
fn link_that_is_down_takes_all_but_routes() {
    let down = Link { up: false, ..link("tartan.1", vxlan(1, "192.0.2.1", 8472)) };
    let on = ["10.0.1.5", "fd00::5"].map(|text| neighbor("tartan.1", text, 5));
    let rows = [
        Row::Link(down),
        global("tartan.1", OWN),
        global("tartan.1", OWN_IPV6),
        fdb("tartan.1", "192.0.2.2"),
    ];
    let mut host = host_with(rows.into_iter().chain(on));
    for dst in ["10.2.0.0/24", "fd02::/64"] {
        let route = route(dst, over("tartan.1"), None);
        assert_eq!(host.act(&create(Row::Route(route))), Err(StepError::NotReady));
    }
}

#[test]
fn routes_want_their_source_and_no_gateway_of_their_own() {
    let mut host = busy();
    let from = |dst, kind, source| create(Row::Route(route(dst, kind, Some(ip(source)))));
    assert_eq!(host.act(&from("10.4.0.0/24", over("tartan1"), "10.0.1.9")), Err(StepError::NotReady));
    assert_eq!(host.act(&from("fd04::/64", over("tartan1"), "fd00::9")), Err(StepError::NotReady));
    assert_eq!(host.act(&from("10.4.0.0/24", RouteKind::Blackhole, "10.0.1.9")), Ok(()));
    assert_eq!(host.act(&from("fd04::/64", RouteKind::Blackhole, "fd00::9")), Err(StepError::NotReady));
    host.act(&create(address("tartan0", "fe80::1/64", Scope::Link))).unwrap();
    let via = |dst, gateway| {
        create(Row::Route(route(dst, RouteKind::Via { gateway: ip(gateway), link: name("tartan1") }, None)))
    };
    assert_eq!(host.act(&via("10.5.0.0/24", "10.0.1.1")), Err(StepError::NotReady));
    assert_eq!(host.act(&via("fd05::/64", "fd00::1")), Err(StepError::NotReady));
    assert_eq!(host.act(&via("fd05::/64", "fe80::1")), Ok(()));
    // Both are reached by the other link, one by a route of ours, one by the kernel's.
    assert_eq!(host.act(&via("fd06::/64", "fd02::9")), Err(StepError::NotReady));
    assert_eq!(host.act(&via("fd06::/64", "fd00::9")), Err(StepError::NotReady));
    assert_eq!(host.act(&from("fd06::/64", over("tartan1"), "fe80::1")), Err(StepError::NotReady));
    assert_eq!(host.act(&via("fd06::/64", "fd03::9")), Ok(()));
}

#[test]
fn routes_are_made_once_and_changed_at_will() {
    let mut host = busy();
    for (dst, connected) in [("10.2.0.0/24", "10.0.1.0/24"), ("fd02::/64", "fd00::/64")] {
        let blackhole = |dst| Row::Route(route(dst, RouteKind::Blackhole, None));
        assert_eq!(host.act(&create(blackhole(dst))), Err(StepError::Exists));
        assert_eq!(host.act(&change(&host, blackhole(dst))), Ok(()));
        assert_eq!(host.rows.get(&blackhole(dst).key()), Some(&blackhole(dst)));
        // The kernel's own route to the network of an address has the metric of ours for IPv4 only.
        let free = if connected.contains(':') { Ok(()) } else { Err(StepError::Exists) };
        assert_eq!(host.act(&create(blackhole(connected))), free);
    }
    assert_eq!(host.act(&change(&host, Row::Route(route("10.9.0.0/24", over("tartan0"), None)))), Ok(()));
}

#[test]
fn ipv6_route_that_cannot_be_changed_is_gone() {
    let down = Link { up: false, ..link("tartan8", LinkKind::Bridge) };
    let cases = [("tartan9", StepError::NoLink, true), ("tartan8", StepError::NotReady, false)];
    for (on, error, stays_ipv6) in cases {
        for (dst, stays) in [("10.2.0.0/24", true), ("fd02::/64", stays_ipv6)] {
            let mut host = busy();
            host.act(&create(Row::Link(down.clone()))).unwrap();
            let to = Row::Route(route(dst, over(on), None));
            assert_eq!(host.act(&change(&host, to.clone())), Err(error.clone()));
            assert_eq!(host.rows.get(&to.key()).is_some(), stays);
        }
    }
}

#[test]
fn addresses_keep_scope_and_ipv6_length() {
    let mut host = busy();
    host.act(&create(address("tartan0", OWN, Scope::Link))).unwrap();
    host.act(&create(global("tartan0", "fd00::1/128"))).unwrap();
    assert_eq!(host, busy());
    host.act(&create(global("tartan0", "10.0.1.1/32"))).unwrap();
    assert_eq!(host.rows.len(), busy().rows.len() + 1);
}

#[test]
fn forwarding_entries_have_the_family_of_their_device() {
    let mut host = host_with([bridge(), Row::Link(link("tartan.1", vxlan(1, "192.0.2.1", 8472)))]);
    let refused = host.act(&create(fdb("tartan.1", "2001:db8::2")));
    assert!(matches!(refused, Err(StepError::Kernel { errno: 97, .. })), "{refused:?}");
    assert_eq!(host.act(&create(fdb("tartan0", "192.0.2.2"))), Ok(()));
    assert_eq!(texts(&host), [""; 0]);
}

#[test]
fn settings_of_a_link_want_the_link() {
    let set = |link: &str| create(Row::Sysctl(Sysctl { key: SysctlKey::AcceptRa(name(link)), value: 2 }));
    assert_eq!(bare().act(&set("eth9")), Err(StepError::NoLink));
    assert_eq!(bare().act(&set("eth0")), Ok(()));
}

#[test]
fn a_plan_reads_from_the_ground_up_and_from_the_roof_down() {
    let port = Link { master: Some(name("tartan0")), ..link("tt00000000000a", LinkKind::Veth) };
    let on = global("tartan0", "10.0.1.2/24");
    let routes = ["10.2.0.0/24", "10.6.0.0/24"].map(|dst| Row::Route(route(dst, over("tartan0"), None)));
    let want = Rows::from_iter(routes.into_iter().chain([Row::Link(port), on, bridge()]));
    let plan: Vec<String> = diff(&want, &busy()).iter().map(Step::to_string).collect();
    let expected = [
        "+ link tt00000000000a veth mac 02:00:00:00:00:01 mtu 1450 master tartan0 up",
        "+ address 10.0.1.2/24 dev tartan0",
        "+ route 10.6.0.0/24 dev tartan0",
        "- route fd02::/64 dev tartan0",
        "- neighbor fd00::5 lladdr 02:00:00:00:00:05 dev tartan0",
        "- neighbor 10.0.1.5 lladdr 02:00:00:00:00:05 dev tartan0",
        "- address fd00::1/64 dev tartan0",
        "- address 10.0.1.1/24 dev tartan0",
        "- link tartan1 bridge mac 02:00:00:00:00:01 mtu 1450 up",
    ];
    assert_eq!(plan, expected);
}

#[test]
fn a_device_of_another_name_makes_way() {
    let device = |name| Row::Link(link(name, vxlan(1, "192.0.2.1", 8472)));
    let route = |on| Row::Route(route("10.2.0.0/24", over(on), None));
    let host = host_with([device("zz0"), route("zz0")]);
    let want = Rows::from_iter([device("tartan.1"), route("tartan.1")]);
    let expected = [remove(device("zz0")), create(device("tartan.1")), create(route("tartan.1"))];
    assert_eq!(diff(&want, &host), expected);
}

#[test]
fn replaced_link_comes_back_with_everything_on_it() {
    let vx = |port| Row::Link(link("tartan.1", vxlan(1, "192.0.2.1", port)));
    let rows = || [fdb("tartan.1", "192.0.2.2"), Row::Route(route("10.2.0.0/24", over("tartan.1"), None))];
    let host = host_with([vx(8472), neighbor("tartan.1", "10.2.0.0", 7)].into_iter().chain(rows()));
    let want = Rows::from_iter(rows().into_iter().chain([vx(8479)]));
    let plan = diff_keys(&want, &host, &[vx(8479).key()].into());
    let [fdb, route] = rows();
    assert_eq!(plan, [remove(vx(8472)), create(vx(8479)), create(fdb), create(route)]);
}

#[test]
fn veth_without_its_other_end_is_left_out() {
    let end = Link { peer: None, ..link("tt00000000000a", LinkKind::Veth) };
    let want = Rows::from_iter([Row::Link(end), global("tt00000000000a", OWN)]);
    assert_eq!(diff(&want, &bare()), []);
}

/// The guard's answer to the last of these steps.
fn refusal(host: &Host, steps: &[Step]) -> String {
    let (_, refused) = guard(steps.to_vec(), host, &Realm::Node);
    let last = refused.last().filter(|refusal| Some(&refusal.step) == steps.last());
    last.map(|refusal| refusal.reason.to_string()).unwrap_or_default()
}

#[test]
fn refusals_say_why() {
    let host = busy();
    let made = |text: &str, alias: &str| {
        create(Row::Link(Link { alias: alias.into(), ..link(text, LinkKind::Bridge) }))
    };
    let taken = Host { foreign: [(name("tartan7"), ForeignLink { up: false })].into(), ..busy() };
    let cases = [
        (
            refusal(&host, &[remove(global("tartan0", "10.0.1.9/32"))]),
            "nothing that bears tartan's mark is there to be changed or removed",
        ),
        (
            refusal(&host, &[change(&host, Row::Link(link("tartan9", LinkKind::Bridge)))]),
            "nothing that bears tartan's mark is there to be changed or removed",
        ),
        (
            refusal(&taken, &[made("tartan7", "tartan")]),
            "interface tartan7 is there and is not tartan's: rename or remove it",
        ),
        (
            refusal(&taken, &[made("tartan7", "tartan"), create(global("tartan7", OWN))]),
            "interface tartan7 is not tartan's, nor made earlier in this plan",
        ),
        (
            refusal(&host, &[create(global("eth0", OWN))]),
            "interface eth0 is not tartan's, nor made earlier in this plan",
        ),
        (
            refusal(&host, &[create(Row::Route(route("::/0", over("tartan0"), None)))]),
            "the node's default route is not touched",
        ),
        (
            refusal(&host, &[made("br0", "tartan")]),
            "br0 is no name of tartan's interfaces: tartan.N, tart6.N, tartanN, or tt and 12 hexadecimal digits",
        ),
        (
            refusal(&host, &[made("tartan8", "mine")]),
            "the alias \"mine\" of interface tartan8 does not begin with tartan",
        ),
        (
            refusal(&host, &[remove(bridge()), made("tartan0", ""), create(global("tartan0", OWN))]),
            "interface tartan0 is not tartan's, nor made earlier in this plan",
        ),
        (refusal(&host, &[made("tartan8", "tartan"), create(global("tartan8", OWN))]), ""),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
    }
}

#[test]
fn a_port_of_a_foreign_bridge_is_refused() {
    let port = Link { master: Some(uplink()), ..link("tt00000000000a", LinkKind::Veth) };
    let expected = "interface eth0 is not tartan's, nor made earlier in this plan";
    assert_eq!(refusal(&bare(), &[create(Row::Link(port))]), expected);
}

#[test]
fn names_of_ours_pass_and_others_do_not() {
    for (text, ours) in [
        ("tartan.1", true),
        ("tartan.16777215", true),
        ("tart6.7", true),
        ("tartan0", true),
        ("tt0123456789ab", true),
        ("tartan", false),
        ("tartan.", false),
        ("tartan.x", false),
        ("tt0123456789a", false),
        ("tt0123456789xy", false),
        ("eth1", false),
    ] {
        let passes = refusal(&bare(), &[create(Row::Link(link(text, LinkKind::Bridge)))]).is_empty();
        assert_eq!(passes, ours, "{text}");
    }
}

#[test]
fn of_the_loopback_interface_own_addresses_and_ipv6_pass() {
    let up = Host { foreign: [(name("lo"), ForeignLink { up: true })].into(), ..bare() };
    let own = create(global("lo", "10.1.0.0/32"));
    assert_eq!(refusal(&up, std::slice::from_ref(&own)), "");
    let setting = |key, value| create(Row::Sysctl(Sysctl { key, value }));
    assert_eq!(refusal(&up, &[setting(SysctlKey::NoIpv6(name("lo")), 0)]), "");
    let others = [
        create(Row::Route(route("10.9.0.0/24", over("lo"), None))),
        create(global("lo", "10.1.0.0/24")),
        create(global("lo", "fd00::/64")),
        setting(SysctlKey::NoIpv6(name("lo")), 1),
        setting(SysctlKey::LinkReverse(name("lo")), 0),
    ];
    for step in others {
        assert_eq!(refusal(&up, &[step]), "interface lo is not tartan's, nor made earlier in this plan");
    }
    let (passed, _) = guard(vec![own], &up, &Realm::Pod);
    assert_eq!(passed, []);
}

#[test]
fn a_pod_has_its_own_names_and_its_default_route() {
    let end = Link { alias: Box::default(), ..link("net1", LinkKind::Veth) };
    let steps = vec![create(Row::Link(end)), create(Row::Route(route("0.0.0.0/0", over("net1"), None)))];
    assert_eq!(guard(steps.clone(), &bare(), &Realm::Pod), (steps, vec![]));
}

#[test]
fn settings_are_never_taken_back() {
    let setting = Row::Sysctl(Sysctl { key: SysctlKey::Ipv4Forward, value: 1 });
    assert_eq!(diff(&Rows::default(), &host_with([setting])), []);
}
