//! What `tartan denied` tells of packets that policies refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use tartan_api::object::{Object, parse};
use tartan_api::verb::DeniedRow;
use tartan_decide::{Attach, Denials, Fact, MOST_DENIALS, MOST_DENIALS_OF_ONE, World};
use tartan_host::Denial;
use tartan_host::policy::Direction;
use tartan_model::{AttachmentKey, Mac, NetnsPlace, NodeId, Uplink};

const WEB: &str = "10.244.1.10";
const DB: &str = "10.244.1.11";
const OUTSIDE: &str = "192.0.2.7";

/// Pods default/web and shop/db, each with a policy of its namespace: web may send nothing but to port 80, db takes nothing.
fn world() -> World {
    let id = NodeId::from_bytes([1; 16]);
    let mut world = World::new(id, "n1".parse().unwrap());
    let text = "{apiVersion: tartan.dev/v1alpha1, kind: ClusterNetwork, metadata: {name: default}, \
                spec: {policy: true, pools: [{cidr: 10.244.0.0/16}]}}";
    let Object::ClusterNetwork(object) = parse("test", text).unwrap().remove(0) else { panic!() };
    let network = object.resolve().unwrap();
    let uplink = Uplink {
        name: "eth0".parse().unwrap(),
        mtu: 1500.try_into().unwrap(),
        addresses: vec!["172.30.0.1/16".parse().unwrap()],
        public_addresses: Vec::new(),
        accepts_routers: false,
        is_strict: false,
    };
    let mut facts = vec![
        Fact::Uplink(Ok(uplink)),
        Fact::Network(network.name.clone(), Some(network)),
        Fact::Block("default".parse().unwrap(), "10.244.1.0/24".parse().unwrap(), Some(id)),
        Fact::InSync,
    ];
    for (pod, address, link) in [("default/web", WEB, "tt000000000001"), ("shop/db", DB, "tt000000000002")] {
        facts.push(Fact::Attach(Attach {
            key: AttachmentKey { container: link.parse().unwrap(), interface: "eth0".parse().unwrap() },
            pod: pod.parse().unwrap(),
            network: "default".parse().unwrap(),
            list: None,
            ips: vec![address.parse().unwrap()],
            default_routes: BTreeSet::new(),
            netns: NetnsPlace { path: "/run/netns/x".into(), device: 4, inode: 7 },
            labels: BTreeMap::new(),
            link: link.parse().unwrap(),
            mac: Mac::local([1, 2, 3, 4, 5, 6]),
        }));
    }
    facts.push(policy("default/out", "policyTypes: [Egress], egress: [{ports: [{port: 80}]}]"));
    facts.push(policy("shop/closed", "policyTypes: [Ingress]"));
    facts.into_iter().for_each(|fact| drop(world.learn(fact).unwrap()));
    world
}

fn policy(of: &str, spec: &str) -> Fact {
    let (namespace, name) = of.split_once('/').unwrap();
    let text = format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{namespace: {namespace}, name: {name}}}, \
         spec: {{podSelector: {{}}, {spec}}}}}"
    );
    let Object::NetworkPolicy(policy) = parse("test", &text).unwrap().remove(0) else { panic!() };
    Fact::Policy(of.parse().unwrap(), Some(Arc::new(policy)))
}

fn denial(direction: Direction, (source, from): (&str, u16), (destination, to): (&str, u16)) -> Denial {
    Denial {
        direction,
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: 6,
        source_port: Some(from),
        destination_port: Some(to),
        icmp_type: None,
        length: 60,
    }
}

fn report(world: &World, denials: &[Denial]) -> Vec<DeniedRow> {
    let mut all = Denials::default();
    for (second, denial) in (1..).zip(denials) {
        all.note(denial, Duration::from_secs(second));
    }
    world.report_denials(&all, |time| format!("t{}", time.as_secs()))
}

/// A row in one line.
fn line(row: &DeniedRow) -> String {
    let of = row.connection.as_ref().unwrap();
    let end =
        |end: &tartan_api::verb::End| end.pod.as_ref().map_or(end.address.to_string(), ToString::to_string);
    let policy = of.policy.as_ref().map(|rule| format!("{}/{}", rule.namespace.as_ref().unwrap(), rule.name));
    format!(
        "{:?} {} -> {} {} {:?} {:?}, {} default {}, {} of {} bytes {}..{}, link {}",
        of.direction,
        end(&of.from),
        end(&of.to),
        of.protocol,
        of.port,
        of.icmp_type,
        policy.unwrap_or("nobody".into()),
        of.default,
        row.packets,
        row.bytes,
        of.first,
        of.last,
        row.link.as_ref().map_or("-".into(), ToString::to_string),
    )
}

fn lines(world: &World, denials: &[Denial]) -> Vec<String> {
    report(world, denials).iter().map(line).collect()
}

#[test]
fn a_row_names_the_pods_and_the_policy() {
    let world = world();
    let denials = [
        denial(Direction::Ingress, (WEB, 40_000), (DB, 80)),
        denial(Direction::Egress, (WEB, 40_001), (OUTSIDE, 443)),
        denial(Direction::Ingress, (OUTSIDE, 50_000), (DB, 5432)),
        // The same again from another port.
        denial(Direction::Ingress, (WEB, 40_002), (DB, 80)),
    ];
    assert_eq!(
        lines(&world, &denials),
        [
            "Ingress default/web -> shop/db tcp Some(80) None, shop/closed default true, 2 of 120 bytes t1..t4, link tt000000000002",
            "Ingress 192.0.2.7 -> shop/db tcp Some(5432) None, shop/closed default true, 1 of 60 bytes t3..t3, link tt000000000002",
            "Egress default/web -> 192.0.2.7 tcp Some(443) None, default/out default true, 1 of 60 bytes t2..t2, link tt000000000001",
        ]
    );
    assert_eq!(lines(&world, &[]), [""; 0]);
}

/// Two connections were cut, and both ends send on.
#[test]
fn answers_are_told_as_their_connection() {
    let world = world();
    let denials = [
        denial(Direction::Ingress, (DB, 80), (WEB, 40_000)),
        denial(Direction::Ingress, (DB, 80), (WEB, 40_001)),
        denial(Direction::Ingress, (WEB, 40_000), (DB, 80)),
    ];
    let expected = "Ingress default/web -> shop/db tcp Some(80) None, shop/closed default true, 3 of 180 bytes t1..t3, \
                    link tt000000000002";
    assert_eq!(lines(&world, &denials), [expected]);
    let echo = |(source, destination), kind| Denial {
        protocol: 1,
        icmp_type: Some(kind),
        source_port: None,
        destination_port: None,
        ..denial(Direction::Ingress, (source, 0), (destination, 0))
    };
    let denials = [echo((DB, WEB), 0), echo((WEB, DB), 8)];
    let expected = "Ingress default/web -> shop/db icmp None Some(8), shop/closed default true, 2 of 120 bytes t1..t2, \
                    link tt000000000002";
    assert_eq!(lines(&world, &denials), [expected]);
}

#[test]
fn what_is_allowed_by_now_names_no_policy() {
    let mut world = world();
    world.learn(Fact::Policy("shop/closed".parse().unwrap(), None)).unwrap();
    let row = &report(&world, &[denial(Direction::Ingress, (WEB, 40_000), (DB, 80))])[0];
    let of = row.connection.as_ref().unwrap();
    assert_eq!((of.policy.as_ref(), of.default, of.port), (None, false, Some(80)));
    // Another policy of another side does not count: it was ingress that refused.
    let text = line(&report(&world, &[denial(Direction::Ingress, (WEB, 40_000), (DB, 81))])[0]);
    assert!(text.contains("nobody"), "{text}");
}

/// Rows of guards have no fields of connections, and both come back as they were.
#[test]
fn rows_are_json_of_one_level() {
    let world = world();
    let row = report(&world, &[denial(Direction::Egress, (WEB, 40_001), (OUTSIDE, 443))]).remove(0);
    let json = serde_json::to_value(&row).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "pod": "default/web", "link": "tt000000000001", "reason": "policy", "packets": 1, "bytes": 60,
            "direction": "egress", "from": {"pod": "default/web", "address": WEB}, "to": {"address": OUTSIDE},
            "protocol": "tcp", "port": 443, "icmp_type": null,
            "policy": {"kind": "NetworkPolicy", "namespace": "default", "name": "out", "index": null, "source": {"file": "test", "line": 1}},
            "default": true, "first": "t1", "last": "t1",
        })
    );
    assert_eq!(serde_json::from_value::<DeniedRow>(json).unwrap(), row);
    let guard = DeniedRow { reason: "mac".into(), connection: None, ..row };
    let json = serde_json::to_value(&guard).unwrap();
    assert_eq!(json.as_object().unwrap().len(), 5);
    assert_eq!(serde_json::from_value::<DeniedRow>(json).unwrap(), guard);
}

#[test]
fn one_who_tries_every_port_leaves_the_others_theirs() {
    let mut all = Denials::default();
    let quiet = denial(Direction::Ingress, (OUTSIDE, 50_000), (DB, 5432));
    all.note(&quiet, Duration::ZERO);
    for port in 1..=10_000 {
        all.note(&denial(Direction::Ingress, (WEB, 40_000), (DB, port)), Duration::from_secs(port.into()));
    }
    assert_eq!(all.len(), MOST_DENIALS_OF_ONE + 1);
    let world = world();
    let rows = |all: &Denials| world.report_denials(all, |_| String::new());
    let has = |rows: &[DeniedRow], client: &str, port: u16| {
        let is_it = |row: &DeniedRow| {
            let of = row.connection.as_ref().unwrap();
            (of.from.address, of.port) == (client.parse().unwrap(), Some(port))
        };
        rows.iter().any(is_it)
    };
    let told = rows(&all);
    assert!(has(&told, OUTSIDE, 5432) && has(&told, WEB, 10_000) && !has(&told, WEB, 1));
    // From everywhere: the oldest go.
    for host in 0..u32::try_from(MOST_DENIALS).unwrap() + 10 {
        let source = IpAddr::from(Ipv4Addr::from(0x0b00_0000 + host));
        all.note(&Denial { source, ..quiet }, Duration::from_secs(20_000));
    }
    assert_eq!(all.len(), MOST_DENIALS);
    assert!(!has(&rows(&all), OUTSIDE, 5432));
    // The kept ones are counted on.
    let last = Denial { source: IpAddr::from(Ipv4Addr::from(0x0b00_0000 + 4000)), ..quiet };
    all.note(&last, Duration::from_secs(30_000));
    assert_eq!(all.len(), MOST_DENIALS);
    assert!(rows(&all).iter().any(|row| row.packets == 2));
}
