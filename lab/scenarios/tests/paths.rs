//! The way from node to node: routes through the peer on the same link, tunnels to the rest, nodes behind NAT.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tartan_kernel::{Rtnl, netns};
use tartan_scenarios::{Lab, Probe, programs, run_command, wait_until};

/// A loose ceiling for what must happen "at once".
const SOON: Duration = Duration::from_secs(5);
/// A packet passes the square of so many rules, which takes about two milliseconds.
const RULES: usize = 500;
const IPV4_POOL: &str = "pools: [{cidr: 10.244.0.0/16}]";
const POOLS: &str = "pools: [{cidr: 10.244.0.0/16}, {cidr: \"fd00:10:244::/56\"}]";

fn set(what: &str) -> [&str; 2] {
    ["--set", what]
}

fn peer(lab: &Lab, node: &str, name: &str) -> Value {
    let rows = lab.ask(node, &["peers"]);
    rows.as_array().expect("a list").iter().find(|row| row["node"] == name).expect("the peer").clone()
}

fn path(lab: &Lab, node: &str, name: &str) -> String {
    peer(lab, node, name)["path"].as_str().unwrap_or("none").into()
}

/// A node's routes to the pods of others, both families.
fn routes(lab: &Lab, node: &str) -> Vec<String> {
    let lists =
        ["-4", "-6"].map(|family| lab.on_node(node, &["ip", family, "route", "show", "proto", "116"]));
    let lines = lists.iter().flat_map(|list| list.lines()).filter(|line| line.contains(" via "));
    lines.map(str::to_owned).collect()
}

#[track_caller]
fn assert_at_rest(lab: &Lab, nodes: usize) {
    for n in 1..=nodes {
        let node = format!("n{n}");
        let status = lab.ask(&node, &["status"]);
        assert_eq!(
            (&status["healthy"], &status["peers"]["up"]),
            (&true.into(), &(nodes - 1).into()),
            "{status}"
        );
        let plan = lab.ask(&node, &["plan"]);
        assert_eq!(plan["steps"], Value::Array(Vec::new()), "{plan}");
    }
}

/// Whether a packet of so many bytes, which must not be cut, comes from one pod to another and back.
fn carries(lab: &Lab, to: &str, bytes: u32) -> bool {
    let address = lab.addresses(to)[0];
    let payload = bytes - if address.is_ipv4() { 28 } else { 48 };
    let ping = ["ping", "-c", "1", "-W", "1", "-M", "do", "-s", &payload.to_string(), &address.to_string()];
    lab.lab(&[&["exec", "p1", "--"], &ping[..]].concat()).code == 0
}

fn host_gateway(family: &str, underlay: &str, attachment: &str) {
    let attachment = format!("attachment={attachment}");
    let args = ["--nodes", "3", "--pods", "2", "--family", family, "--underlay", underlay];
    let lab = Lab::up("t-paths", &[&args[..], &set("paths=[direct]"), &set(&attachment)].concat());
    let families: &[&str] = if family == "dual" { &["ipv4", "ipv6"] } else { &[family] };
    for family in families {
        lab.assert_full(6, &["--family", family]);
        lab.assert_full(6, &["--family", family, "--protocol", "udp", "--port", "81"]);
    }
    assert_at_rest(&lab, 3);
    assert_eq!(lab.on_node("n1", &["ip", "-o", "link", "show", "type", "vxlan"]), "", "there is no tunnel");
    let bridges = lab.on_node("n1", &["ip", "-o", "link", "show", "type", "bridge"]);
    assert_eq!(bridges.is_empty(), attachment.ends_with("routed"), "{bridges}");
    let routes = routes(&lab, "n1");
    assert!(
        routes.len() == 2 * families.len() && routes.iter().all(|route| route.contains("dev eth0")),
        "{routes:?}"
    );
    let row = peer(&lab, "n1", "n2");
    assert_eq!(
        (&row["path"], &row["mtu"], &row["blocked"]),
        (&"direct".into(), &1500.into(), &serde_json::json!([]))
    );
    assert!(carries(&lab, "default/p2", 1500), "pods have the underlay's whole MTU, end to end");
    assert!(!carries(&lab, "default/p2", 1501));
}

#[test]
fn host_gateway_ipv4_bridged() {
    host_gateway("ipv4", "ipv4", "bridge");
}

#[test]
fn host_gateway_ipv6_routed() {
    host_gateway("ipv6", "ipv6", "routed");
}

/// IPv4 goes by next hops of IPv6.
#[test]
fn host_gateway_dual_over_ipv6_bridged() {
    host_gateway("dual", "ipv6", "bridge");
}

#[test]
fn host_gateway_dual_over_ipv6_routed() {
    host_gateway("dual", "ipv6", "routed");
}

/// Three nodes on two links: n1 and n3, n2 alone.
#[test]
fn where_no_allowed_path_works_it_is_said() {
    let lab = Lab::up(
        "t-paths",
        &[&["--nodes", "3", "--links", "2", "--pods", "0"][..], &set("paths=[direct, vxlan]")].concat(),
    );
    lab.apply("default", "{paths: [direct]}").ok();
    let row = peer(&lab, "n1", "n2");
    assert_eq!((&row["path"], &row["address"]), (&Value::Null, &Value::Null));
    let reason = "n2 is not on this node's link: its address 172.29.0.2 is not in 172.30.0.0/16";
    assert_eq!(row["blocked"], serde_json::json!([{"path": "direct", "reason": reason}]));
    let told = lab.verb("n1", &["status", "-o", "json"]);
    let status = told.json();
    assert_eq!((told.code, &status["healthy"], &status["peers"]["up"]), (0, &true.into(), &1.into()));
    assert_eq!(status["warnings"], serde_json::json!([format!("peer n2: no path: direct: {reason}")]));
    let told = lab.verb("n2", &["status", "-o", "json"]);
    let status = told.json();
    assert_eq!((told.code, &status["healthy"], &status["peers"]["up"]), (1, &false.into(), &0.into()));
    assert!(
        status["reasons"].to_string().contains("there is no way to any other node (n1 among them)"),
        "{status}"
    );
    lab.apply("default", "{paths: [direct, vxlan]}").ok();
    lab.wait_until_healthy(&["n1", "n2", "n3"]);
    assert_eq!(lab.ask("n1", &["status"])["warnings"], serde_json::json!([]));
    let told = lab.verb("n1", &["check", "connectivity", "-o", "json"]);
    assert!(told.code == 0 && told.stderr.is_empty(), "{told:?}");

    // Over IPv4 alone pods' IPv6 has the tunnel and nothing else.
    let dual = |paths: &str| format!("{{{POOLS}, paths: [{paths}]}}");
    lab.apply("default", &dual("direct, vxlan")).ok();
    wait_until("both families have ways", SOON, || {
        let told = lab.verb("n1", &["check", "connectivity", "n3", "-o", "json"]);
        told.code == 0 && told.json().as_array().map(Vec::len) == Some(2)
    });
    lab.apply("default", &dual("direct")).ok();
    let told = lab.verb("n1", &["check", "connectivity", "n3", "-o", "json"]);
    assert_eq!((told.code, told.json().as_array().map(Vec::len)), (1, Some(1)), "{told:?}");
    assert!(told.stderr.contains("no way to the ipv6 pods of node n3"), "{told:?}");
    let told = lab.verb("n1", &["check", "connectivity", "n2", "-o", "json"]);
    assert!(told.code == 1 && told.stderr.contains("no way to node n2"), "{told:?}");
}

/// Four nodes on two links: n1 and n3, n2 and n4.
#[test]
fn direct_on_the_link_and_a_tunnel_to_the_rest() {
    for (family, underlay) in [("ipv4", "ipv4"), ("dual", "ipv6")] {
        let args =
            ["--nodes", "4", "--links", "2", "--pods", "1", "--family", family, "--underlay", underlay];
        let lab = Lab::up("t-paths", &[&args[..], &set("paths=[direct, vxlan]")].concat());
        let families: &[&str] = if family == "dual" { &["ipv4", "ipv6"] } else { &[family] };
        for family in families {
            lab.assert_full(4, &["--family", family]);
        }
        assert_at_rest(&lab, 4);
        for (node, near, far) in [("n1", "n3", ["n2", "n4"]), ("n2", "n4", ["n1", "n3"])] {
            assert_eq!(path(&lab, node, near), "direct");
            for other in far {
                let row = peer(&lab, node, other);
                assert_eq!(row["path"], "vxlan", "{row}");
                assert!(row["blocked"][0]["reason"].to_string().contains("not on this node's link"), "{row}");
            }
            let routes = routes(&lab, node);
            let direct = routes.iter().filter(|route| route.contains("dev eth0")).count();
            let tunnelled = routes.iter().filter(|route| route.contains("dev tart")).count();
            assert_eq!((direct, tunnelled), (families.len(), 2 * families.len()), "{routes:?}");
        }
        let mtu = if underlay == "ipv4" { 1450 } else { 1430 };
        assert_eq!(lab.ask("n1", &["status"])["networks"][0]["mtu"], mtu);
        // What pods send in fragments arrives, also where the whole fits what the uplink takes.
        for address in lab.addresses("default/p3") {
            let head = if address.is_ipv4() { 28 } else { 48 };
            for bytes in [mtu + 1, 1499, 1500, 1501, 4000] {
                let (size, to) = ((bytes - head).to_string(), address.to_string());
                lab.in_pod("p1", &["ping", "-c", "1", "-W", "1", "-s", &size, &to]);
            }
        }
        if family == "ipv4" {
            a_node_moves(&lab);
        }
    }
}

/// A node is plugged into the other link, with an address there.
fn a_node_moves(lab: &Lab) {
    let wire = netns::open(&lab.netns("wire")).unwrap();
    let mut wire = Rtnl::open_in(wire.as_fd()).unwrap();
    let id = lab.ask("n3", &["status"])["id"].clone();
    let [port, other] = ["port2", "wire2"].map(|name| name.parse().expect("a name"));
    wire.set_master(&port, &other).unwrap();
    let moved = "ip address del 172.30.0.3/16 dev eth0 && ip address add 172.29.0.3/16 dev eth0 && ip route add default via 172.29.255.254";
    let start = Instant::now();
    lab.on_node("n3", &["sh", "-c", moved]);
    wait_until("the paths are chosen anew", Duration::from_secs(1), || {
        routes(lab, "n1").iter().all(|route| route.contains("dev tartan.1"))
            && routes(lab, "n2").iter().filter(|route| route.contains("dev eth0")).count() == 2
            && routes(lab, "n3").iter().filter(|route| route.contains("dev eth0")).count() == 2
    });
    eprintln!("a node on another link: after {:?}", start.elapsed());
    assert_eq!(["n1", "n2", "n4"].map(|node| path(lab, node, "n3")), ["vxlan", "direct", "direct"]);
    lab.assert_full(4, &[]);
    assert_eq!(lab.ask("n3", &["status"])["id"], id);
    assert_at_rest(lab, 4);
}

/// Nothing is lost while the best path changes: each side takes what the other sends on either.
fn paths_change(underlay: &str, pools: &str, prepare: fn(&Lab)) -> Lab {
    let family = if underlay == "ipv6" { "dual" } else { "ipv4" };
    let lab =
        Lab::up("t-paths", &["--nodes", "2", "--pods", "1", "--family", family, "--underlay", underlay]);
    prepare(&lab);
    lab.assert_full(2, &[]);
    let from = lab.netns("default_p1");
    let to = lab.addresses("default/p2");
    let probes: Vec<Probe> = to.iter().map(|to| Probe::start(&from, *to, Duration::from_millis(1))).collect();
    for _ in 0..30 {
        lab.apply("default", &format!("{{{pools}, paths: [direct, vxlan]}}")).ok();
        assert_eq!(path(&lab, "n1", "n2"), "direct");
        lab.apply("default", &format!("{{{pools}, paths: [vxlan]}}")).ok();
        assert_eq!(path(&lab, "n1", "n2"), "vxlan");
    }
    for probe in probes {
        let outcome = probe.finish();
        let is_whole = outcome.lost.is_empty() && outcome.sent > 300;
        assert!(is_whole, "{outcome:?}{}", ["n1", "n2"].map(|node| counters(&lab, node)).concat());
    }
    lab
}

/// Where a node's kernel may have dropped packets.
fn counters(lab: &Lab, node: &str) -> String {
    let files = "/proc/net/netstat /proc/net/snmp /proc/net/stat/arp_cache /proc/net/stat/rt_cache";
    let asked = lab.on_node(node, &["sh", "-c", &format!("cat {files}; ip -s -s link; ip neighbor")]);
    format!("\n{node}:\n{asked}")
}

#[test]
fn paths_change_under_traffic() {
    let lab = paths_change("ipv6", POOLS, |_| ());
    // And with no tunnel at all.
    lab.apply("default", &format!("{{{POOLS}, paths: [direct, vxlan]}}")).ok();
    lab.apply("default", &format!("{{{POOLS}, paths: [direct]}}")).ok();
    lab.assert_full(2, &["--family", "ipv4"]);
    lab.assert_full(2, &["--family", "ipv6"]);
    assert!(carries(&lab, "default/p2", 1500), "the pods' MTU has grown");
    assert_at_rest(&lab, 2);
}

/// As RHEL sets it. What is loosened is told apart from what was loose already.
#[test]
fn paths_change_where_reverse_paths_are_filtered() {
    let lab = paths_change("ipv4", IPV4_POOL, |lab| {
        for node in ["n1", "n2"] {
            lab.on_node(node, &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter"]);
            // It is looked at with the uplink.
            lab.on_node(node, &["ip", "route", "add", "default", "via", "172.30.255.253", "metric", "9"]);
        }
        // The first time the filter still drops what comes in before this node has heard, too.
        for paths in ["[direct, vxlan]", "[vxlan]"] {
            lab.apply("default", &format!("{{{IPV4_POOL}, paths: {paths}}}")).ok();
        }
    });
    let value = lab.on_node("n1", &["cat", "/proc/sys/net/ipv4/conf/eth0/rp_filter"]);
    assert_eq!(value.trim(), "2");
    let kept = fs::read_to_string(lab.file("n1", "state/sysctls.json")).expect("old values");
    assert!(kept.contains("net/ipv4/conf/eth0/rp_filter"), "{kept}");
}

/// What found its route before the change still needs the tunnel. Rules of others keep packets between the two for some
/// milliseconds.
#[test]
fn packets_on_their_way_outlive_their_path() {
    let args = ["--nodes", "2", "--pods", "1", "--family", "dual", "--underlay", "ipv6"];
    let lab = Lab::up("t-paths", &args);
    for node in ["n1", "n2"] {
        let file = lab.file(node, "slow.nft");
        let [inner, outer] = ["meta mark 0xf00 accept\n", "jump slow\n"].map(|rule| rule.repeat(RULES));
        let hook = "type filter hook forward priority 0; policy accept;";
        let table = format!(
            "table inet slow {{\nchain slow {{\n{inner}}}\nchain forward {{\n{hook}\n{outer}}}\n}}\n"
        );
        fs::write(&file, table).unwrap();
        lab.on_node(node, &["nft", "-f", file.to_str().unwrap()]);
    }
    let from = lab.netns("default_p1");
    let to = lab.addresses("default/p2");
    for _ in 0..10 {
        lab.apply("default", &format!("{{{POOLS}, paths: [vxlan]}}")).ok();
        assert_eq!(path(&lab, "n1", "n2"), "vxlan");
        let start = |to: &IpAddr| Probe::start(&from, *to, Duration::from_millis(10));
        let probes: Vec<Probe> = to.iter().map(start).collect();
        thread::sleep(Duration::from_millis(150));
        lab.apply("default", &format!("{{{POOLS}, paths: [direct, vxlan]}}")).ok();
        assert_eq!(path(&lab, "n1", "n2"), "direct");
        for outcome in probes.into_iter().map(Probe::finish) {
            assert!(outcome.lost.is_empty() && outcome.sent > 4, "{outcome:?}");
        }
    }
}

/// Without a tunnel they have no link of ours, and no bridge is made for them: it would cost every packet something.
#[test]
fn own_addresses_on_the_loopback_interface() {
    let args = ["--nodes", "2", "--pods", "1", "--family", "dual", "--underlay", "ipv6"];
    let sets = [set("paths=[direct]"), set("attachment=routed")].concat();
    let lab = Lab::up("t-paths", &[&args[..], &sets].concat());
    let blocks = lab.ask("n1", &["status"])["networks"][0]["blocks"].clone();
    let first = |at: usize| {
        blocks[at].as_str().and_then(|block| block.split('/').next()).expect("a block").to_owned()
    };
    let (ipv4, ipv6) = (first(0) + "/32", first(1) + "/128");
    let before = routes(&lab, "n1");
    let are_on = |link: &str| {
        let all = lab.on_node("n1", &["ip", "-o", "address", "show", "dev", link]);
        let there = [&ipv4, &ipv6].into_iter().all(|own| all.contains(&format!(" {own} ")));
        there && routes(&lab, "n1") == before
    };
    assert!(are_on("lo"));
    let deleted = format!("ip address del {ipv4} dev lo; ip address del {ipv6} dev lo");
    for damage in
        [&deleted, "sysctl -qw net.ipv6.conf.lo.disable_ipv6=1", "ip link set lo down; ip link set lo up"]
    {
        let start = Instant::now();
        lab.on_node("n1", &["sh", "-c", damage]);
        wait_until(damage, SOON, || are_on("lo"));
        eprintln!("mended after {:?}: {damage}", start.elapsed());
        lab.assert_full(2, &["--family", "ipv4"]);
        lab.assert_full(2, &["--family", "ipv6"]);
    }
    // An address of somebody else's stays his, also of another length, and it is told. When it goes, ours is made at once,
    // not when what failed is tried again.
    let theirs = ipv6.replace("/128", "/64");
    let mended = |own: &str, other: &str| {
        let taken = format!("ip address del {own} dev lo; ip address add {other} dev lo");
        lab.lab(&["fault", "add", "stop", "n1"]).ok();
        lab.on_node("n1", &["sh", "-c", &taken]);
        lab.lab(&["fault", "rm", "stop", "n1"]).ok();
        wait_until("it is told", SOON, || {
            lab.verb("n1", &["status", "-o", "json"]).stdout.contains(&format!("address {own} dev lo"))
        });
        lab.on_node("n1", &["ip", "address", "del", other, "dev", "lo"]);
        let start = Instant::now();
        wait_until("it is made", SOON, || are_on("lo"));
        let took = start.elapsed();
        assert_at_rest(&lab, 2);
        took
    };
    let at_once = Duration::from_millis(300);
    for (own, other) in [(&ipv4, &ipv4), (&ipv6, &theirs)] {
        assert!(mended(own, other) < at_once || mended(own, other) < at_once, "{own}");
    }

    // They go to a bridge when pods need one, come back, and come from the one that a release before made for them.
    let from = lab.netns("default_p1");
    let to = lab.addresses("default/p2");
    let probes: Vec<Probe> = to.iter().map(|to| Probe::start(&from, *to, Duration::from_millis(1))).collect();
    for (attachment, link) in [("bridge", "tartan0"), ("routed", "lo")] {
        lab.apply("default", &format!("{{{POOLS}, paths: [direct], attachment: {attachment}}}")).ok();
        wait_until("they are moved", SOON, || are_on(link));
    }
    lab.lab(&["fault", "add", "kill", "n1"]).ok();
    let as_before = format!(
        "ip link add tartan0 up type bridge && ip link set tartan0 alias 'tartan network default' &&
         for own in {ipv4} {ipv6}; do ip address add $own dev tartan0; ip address del $own dev lo; done"
    );
    lab.on_node("n1", &["sh", "-c", &as_before]);
    lab.lab(&["fault", "rm", "kill", "n1"]).ok();
    wait_until("they are moved", SOON, || are_on("lo"));
    wait_until("the bridge is gone", SOON, || {
        lab.on_node("n1", &["ip", "-o", "link", "show", "type", "bridge"]).is_empty()
    });
    for probe in probes {
        let outcome = probe.finish();
        assert!(outcome.lost.is_empty() && outcome.sent > 100, "{outcome:?}");
    }
    assert_at_rest(&lab, 2);
}

/// A kernel that keeps no marks of addresses tells agents so by its release (personality(2), UNAME26): a bridge holds them then.
#[test]
fn own_addresses_on_an_older_kernel() {
    let args = ["--nodes", "2", "--pods", "2", "--family", "dual", "--underlay", "ipv6"];
    let sets = [set("paths=[direct]"), set("attachment=routed")].concat();
    let lab = Lab::up("t-paths", &[&args[..], &sets].concat());
    let holders = |node: &str| {
        let all = lab.on_node(node, &["ip", "-o", "address", "show", "to", "10.244.0.0/16"])
            + &lab.on_node(node, &["ip", "-o", "address", "show", "to", "fd00:10:244::/48"]);
        let holder = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
        all.lines().filter_map(holder).collect::<Vec<_>>()
    };
    let before = routes(&lab, "n1");
    for (older, link) in [(true, "tartan0"), (false, "lo")] {
        for node in ["n1", "n2"] {
            lab.lab(&["fault", "add", "kill", node]).ok();
            let mut start = Command::new(if older { "setarch" } else { "env" });
            start.args(older.then_some("--uname-2.6")).arg(programs().join("tartan"));
            run_command(start.args(["lab", "--name", lab.name(), "fault", "rm", "kill", node])).ok();
            wait_until("they are moved", SOON, || holders(node) == [link, link]);
        }
        lab.assert_full(4, &["--family", "ipv4"]);
        lab.assert_full(4, &["--family", "ipv6"]);
        assert_eq!(routes(&lab, "n1"), before);
        assert_at_rest(&lab, 2);
    }
}

/// What flannel's host-gw puts back after 8.2 s at most.
#[test]
fn direct_routes_come_back() {
    let args = ["--nodes", "2", "--pods", "1", "--family", "dual", "--underlay", "ipv6"];
    let sets = [set("paths=[direct]"), set("attachment=routed")].concat();
    let lab = Lab::up("t-paths", &[&args[..], &sets].concat());
    let before = routes(&lab, "n1");
    assert_eq!(before.len(), 2);
    let back = |lab: &Lab| routes(lab, "n1") == before;
    let start = Instant::now();
    lab.on_node("n1", &["sh", "-c", "ip -4 route flush proto 116; ip -6 route flush proto 116"]);
    wait_until("deleted routes come back", SOON, || back(&lab));
    eprintln!("deleted routes are back after {:?}", start.elapsed());
    lab.assert_full(2, &["--family", "ipv6"]);
    // The uplink goes down; with it go its IPv6 addresses.
    lab.on_node("n1", &["ip", "link", "set", "eth0", "down"]);
    wait_until("the routes go", SOON, || routes(&lab, "n1").is_empty());
    let status = lab.verb("n1", &["status", "-o", "json"]);
    assert_eq!(status.code, 1, "{status:?}");
    assert!(status.stdout.contains("interface eth0 is down"), "{status:?}");
    let up = "ip link set eth0 up && ip address add fd00:30::1/64 dev eth0 nodad && ip -6 route add default via fd00:30::ffff:ffff:ffff:fffe";
    let start = Instant::now();
    lab.on_node("n1", &["sh", "-c", up]);
    wait_until("the routes come back with the uplink", SOON, || back(&lab));
    eprintln!("routes are back with the uplink after {:?}", start.elapsed());
    lab.assert_full(2, &["--family", "ipv4"]);
    lab.assert_full(2, &["--family", "ipv6"]);
    assert_at_rest(&lab, 2);
    // Somebody else's route is left alone, and told of.
    let dst = before[0].split(' ').next().expect("a destination");
    lab.lab(&["fault", "add", "stop", "n1"]).ok();
    lab.on_node(
        "n1",
        &[
            "sh",
            "-c",
            &format!(
                "ip route del {dst} proto 116; ip route add {dst} via inet6 fd00:30::77 dev eth0 proto static"
            ),
        ],
    );
    let cleared = lab.lab(&["node", "exec", "n1", "--", "true"]);
    assert_eq!(cleared.code, 0);
    lab.lab(&["fault", "rm", "stop", "n1"]).ok();
    wait_until("it is told", SOON, || {
        lab.verb("n1", &["status", "-o", "json"]).stdout.contains(&format!("route {dst} via"))
    });
    let foreign = lab.on_node("n1", &["ip", "route", "show", dst]);
    assert!(foreign.contains("fd00:30::77") && foreign.contains("proto static"), "{foreign}");
}

#[test]
fn the_uplink_is_chosen_by_every_way_to_name_it() {
    let lab = Lab::up("t-paths", &["--nodes", "2", "--pods", "1"]);
    // A second interface, which the default route does not leave by.
    for command in [
        "ip link add eth9 type veth peer name far9",
        "ip link set far9 up",
        "ip link set eth9 up",
        "ip address add 198.51.100.1/24 dev eth9",
        "ip address add 2001:db8:9::1/64 dev eth9 nodad",
        "ip address add fd00:77::1/64 dev eth0 nodad",
    ] {
        lab.on_node("n1", &command.split(' ').collect::<Vec<_>>());
    }
    let uplink = |lab: &Lab| {
        let status = lab.verb("n1", &["status", "-o", "json"]).json();
        status["uplink"]["interface"].as_str().unwrap_or_default().to_owned()
    };
    for (way, expected) in [
        ("eth9", "eth9"),
        ("eth[1-9]", "eth9"),
        ("eth*", "eth0"),
        ("198.51.100.0/24", "eth9"),
        ("fd00:77::/64", "eth0"),
        ("2001:db8:9::/48", "eth9"),
        ("can-reach=192.0.2.2", "eth0"),
        ("can-reach=198.51.100.77", "eth9"),
        ("can-reach=2001:db8:9::77", "eth9"),
        ("can-reach=fd00:77::77", "eth0"),
    ] {
        lab.configure("n1", &format!("interface = {way:?}"));
        wait_until(way, SOON, || uplink(&lab) == expected);
    }
    lab.assert_full(2, &[]);
    // What is not found is named.
    for (way, named) in [
        ("nope", "there is no interface nope"),
        ("en[op]*", "named like en[op]*"),
        ("10.99.0.0/16", "has an address in 10.99.0.0/16"),
        ("can-reach=172.30.0.1", "172.30.0.1 is this node's own address"),
    ] {
        lab.configure("n1", &format!("interface = {way:?}"));
        wait_until(way, SOON, || lab.verb("n1", &["status", "-o", "json"]).stdout.contains(named));
    }
    // The way to an address changes while the agent runs: id and blocks stay, and the peer follows.
    lab.configure("n1", "interface = \"can-reach=203.0.113.9\"");
    wait_until("the way out", SOON, || uplink(&lab) == "eth0");
    let before = (lab.ask("n1", &["status"])["id"].clone(), peer(&lab, "n2", "n1")["blocks"].clone());
    lab.on_node("n1", &["ip", "route", "add", "203.0.113.0/24", "dev", "eth9"]);
    wait_until("the uplink follows the route", SOON, || uplink(&lab) == "eth9");
    wait_until("the peer follows", SOON, || peer(&lab, "n2", "n1")["address"] == "198.51.100.1");
    lab.on_node("n1", &["ip", "route", "del", "203.0.113.0/24", "dev", "eth9"]);
    wait_until("and back", SOON, || {
        uplink(&lab) == "eth0" && peer(&lab, "n2", "n1")["address"] == "172.30.0.1"
    });
    let after = (lab.ask("n1", &["status"])["id"].clone(), peer(&lab, "n2", "n1")["blocks"].clone());
    assert_eq!(after, before);
    lab.assert_full(2, &[]);
    // Of two addresses in one network the second, which by itself is never the one.
    lab.on_node("n1", &["ip", "address", "add", "172.30.0.99/16", "dev", "eth0"]);
    lab.configure("n1", "address = \"172.30.0.99\"");
    wait_until("the peer sends to it", SOON, || peer(&lab, "n2", "n1")["address"] == "172.30.0.99");
    lab.assert_full(2, &[]);
}

#[test]
fn a_node_behind_nat_is_reached_by_its_public_address() {
    let lab = Lab::up("t-paths", &["--nodes", "3", "--pods", "1"]);
    lab.put_behind_nat("n3", "172.30.9.9");
    lab.configure("n3", "public_address = \"172.30.9.9\"");
    wait_until("the peers know", SOON, || {
        ["n1", "n2"].iter().all(|node| peer(&lab, node, "n3")["address"] == "172.30.9.9")
    });
    assert_eq!(lab.ask("n3", &["status"])["uplink"]["addresses"], serde_json::json!(["10.77.0.2/24"]));
    lab.assert_full(3, &[]);
    lab.assert_full(3, &["--protocol", "udp"]);
    assert_at_rest(&lab, 3);
    let fdb = lab.on_node("n1", &["bridge", "fdb", "show", "dev", "tartan.1"]);
    assert!(fdb.contains("dst 172.30.9.9") && !fdb.contains("10.77.0.2"), "{fdb}");
    // Another node that says so, too.
    lab.configure("n2", "public_address = \"172.30.9.9\"");
    wait_until("it is told", SOON, || {
        peer(&lab, "n1", "n3")["blocked"]
            .to_string()
            .contains("n3 and n2 both have the public address 172.30.9.9")
            && peer(&lab, "n2", "n3")["blocked"]
                .to_string()
                .contains("names this node's own address 172.30.9.9")
    });
}
