//! What a pod's interfaces are given, which of them a GC takes, and what a CHECK finds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tartan_api::cni::Listed;
use tartan_api::object::{Object, parse};
use tartan_api::prev::ListedRoute;
use tartan_decide::{
    Attach, Choice, EndpointChoice, Fact, Learned, Record, Refused, Scope, Sides, World, added, differences,
    inside, lower,
};
use tartan_host::{Key, Row, Rows};
use tartan_ipam::MAX_RELEASED;
use tartan_model::{AttachmentKey, Family, Mac, Mtu, NetnsPlace, NodeId, Uplink};

/// A node with two networks, a block of each family in both.
fn world() -> World {
    let id = NodeId::from_bytes([1; 16]);
    let mut world = World::new(id, "n1".parse().unwrap());
    let uplink = Uplink {
        name: "eth0".parse().unwrap(),
        mtu: Mtu::try_from(1500).unwrap(),
        addresses: vec!["172.30.0.1/16".parse().unwrap()],
        public_addresses: Vec::new(),
        accepts_routers: false,
        is_strict: false,
    };
    let mut facts = vec![Fact::Uplink(Ok(uplink)), Fact::InSync];
    for (at, name) in ["blue", "red"].into_iter().enumerate() {
        let text = format!(
            "{{apiVersion: tartan.dev/v1alpha1, kind: ClusterNetwork, metadata: {{name: {name}}}, spec: {{attachment: routed, \
             vxlan: {{vni: {}}}, pools: [{{cidr: 10.{at}.0.0/16, blockSize: 24}}, {{cidr: \"fd00:{at}::/56\", blockSize: 64}}]}}}}",
            at + 1
        );
        let Object::ClusterNetwork(object) = parse("test", &text).unwrap().remove(0) else { panic!() };
        let network = object.resolve().unwrap();
        facts.push(Fact::Network(network.name.clone(), Some(network)));
        for block in [format!("10.{at}.0.0/24"), format!("fd00:{at}::/64")] {
            facts.push(Fact::Block(name.parse().unwrap(), block.parse().unwrap(), Some(id)));
        }
    }
    facts.into_iter().for_each(|fact| drop(world.learn(fact).unwrap()));
    world
}

fn key(container: &str, interface: &str) -> AttachmentKey {
    AttachmentKey { container: container.parse().unwrap(), interface: interface.parse().unwrap() }
}

fn attach(key: &AttachmentKey, network: &str, default_routes: &[Family]) -> Attach {
    Attach {
        key: key.clone(),
        pod: "default/web".parse().unwrap(),
        network: network.parse().unwrap(),
        list: Some("tartan".parse().unwrap()),
        ips: Vec::new(),
        default_routes: default_routes.iter().copied().collect(),
        netns: NetnsPlace { path: "/run/netns/x".into(), device: 4, inode: 7 },
        labels: BTreeMap::new(),
        link: "tt0123456789ab".parse().unwrap(),
        mac: Mac::local([1, 2, 3, 4, 5, 6]),
    }
}

fn choice(world: &World, key: &AttachmentKey) -> EndpointChoice {
    match world.decide(&Scope::Endpoint(key.clone())).choice {
        Some(Choice::Endpoint(choice)) => choice,
        other => panic!("{other:?}"),
    }
}

/// Attaches, and says what the runtime is told of the routes.
fn routes(world: &mut World, attach: Attach) -> Vec<String> {
    let key = attach.key.clone();
    world.learn(Fact::Attach(attach)).unwrap();
    let choice = choice(world, &key);
    let told: Vec<String> = added(&choice).routes.iter().map(|route| route.dst.to_string()).collect();
    let kernel = inside(&choice);
    let kernel = kernel.iter().filter(|row| matches!(row, Row::Route(_))).count();
    assert_eq!(told.len(), kernel, "what is told is what there is");
    told
}

#[test]
fn the_default_route_belongs_to_the_first_interface() {
    let mut world = world();
    let first = attach(&key("c", "eth0"), "blue", &[]);
    assert_eq!(routes(&mut world, first), ["0.0.0.0/0", "::/0"]);
    let other = attach(&key("c", "net1"), "red", &Family::ALL);
    assert_eq!(routes(&mut world, other), ["10.1.0.0/16", "fd00:1::/56"]);
    let again = attach(&key("c", "net2"), "blue", &Family::ALL);
    assert_eq!(routes(&mut world, again), [""; 0], "the first interface leads there");
    // Each family for itself, and what another plugin made counts.
    let half = attach(&key("d", "eth1"), "blue", &[Family::Ipv4]);
    assert_eq!(routes(&mut world, half), ["10.0.0.0/16", "::/0"]);
}

fn ask(world: &mut World, container: &str, ips: &[&str]) -> Result<Vec<IpAddr>, Refused> {
    let key = key(container, "eth0");
    let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    world.learn(Fact::Attach(Attach { ips, ..attach(&key, "blue", &[]) }))?;
    Ok(world.endpoint(&key).unwrap().endpoint.addresses.clone())
}

#[test]
fn an_address_that_is_asked_for_is_given_if_it_is_free_and_held() {
    let mut world = world();
    let given: Vec<IpAddr> = vec!["10.0.0.9".parse().unwrap(), "fd00:0::9".parse().unwrap()];
    assert_eq!(ask(&mut world, "a", &["fd00:0::9", "10.0.0.9"]).unwrap(), given);
    let refused = |world: &mut World, ips: &[&str]| {
        let refused = ask(world, "b", ips).unwrap_err();
        assert!(!refused.is_temporary());
        refused.to_string()
    };
    assert_eq!(
        refused(&mut world, &["10.0.0.9"]),
        "an address is asked for that is not free: 10.0.0.9 is in use; release it first or take another"
    );
    assert!(refused(&mut world, &["10.0.0.1"]).contains("10.0.0.1 is reserved in 10.0.0.0/24"));
    assert!(refused(&mut world, &["10.0.7.9"]).contains("it holds 10.0.0.0/24: ask for an address of these"));
    assert!(refused(&mut world, &["10.0.0.8", "10.0.0.9"]).contains("10.0.0.8 and 10.0.0.9 are asked for"));
    // What was refused has taken nothing along, and a released address can be asked for again.
    world.learn(Fact::Detach(key("a", "eth0"))).unwrap();
    world.learn(Fact::Shut(key("a", "eth0"))).unwrap();
    assert_eq!(ask(&mut world, "b", &["10.0.0.9", "fd00:0::9"]).unwrap(), given);
    assert_eq!(ask(&mut world, "c", &["10.0.0.8"]).unwrap()[0].to_string(), "10.0.0.8");
}

#[test]
fn a_gc_is_for_the_interfaces_of_its_own_network_only() {
    let mut world = world();
    for (container, list) in [("a", Some("one")), ("b", Some("one")), ("c", Some("two")), ("d", None)] {
        let list = list.map(|list| list.parse().unwrap());
        world.learn(Fact::Attach(Attach { list, ..attach(&key(container, "eth0"), "blue", &[]) })).unwrap();
    }
    let one = "one".parse().unwrap();
    assert_eq!(world.stale(&one, &BTreeSet::from([key("a", "eth0")])), [key("b", "eth0")]);
    assert_eq!(world.stale(&one, &BTreeSet::new()), [key("a", "eth0"), key("b", "eth0")]);
    assert_eq!(world.stale(&"three".parse().unwrap(), &BTreeSet::new()), [] as [AttachmentKey; 0]);
}

#[test]
fn an_interface_is_recorded_as_unfinished_until_the_runtime_is_told() {
    let mut world = world();
    let key = key("a", "eth0");
    let Learned { records, .. } = world.learn(Fact::Attach(attach(&key, "blue", &[]))).unwrap();
    assert!(matches!(records.as_slice(), [Record::Adding(_)]), "{records:?}");
    let Learned { records, dirty } = world.learn(Fact::Added(key.clone())).unwrap();
    assert!(matches!(records.as_slice(), [Record::Endpoint(_)]) && dirty.is_empty(), "{records:?}");
    assert_eq!(world.learn(Fact::Added(key)).unwrap(), Learned::default());
}

#[test]
fn releases_are_recorded_only_as_long_as_they_are_remembered() {
    let mut world = world();
    let key = key("a", "eth0");
    let mut kept: BTreeSet<IpAddr> = BTreeSet::new();
    let mut most = 0;
    for _ in 0..MAX_RELEASED + 100 {
        world.learn(Fact::Attach(attach(&key, "blue", &[]))).unwrap();
        for record in world.learn(Fact::Shut(key.clone())).unwrap().records {
            match record {
                Record::Released(_, _, address) => kept.insert(address),
                Record::Forgotten(_, _, address) => kept.remove(&address),
                _ => continue,
            };
        }
        most = most.max(kept.iter().filter(|address| address.is_ipv6()).count());
    }
    assert_eq!(most, MAX_RELEASED);
}

/// What CHECK says when the kernel lacks this row, or has another in its place.
fn check(change: impl Fn(&mut Rows, &mut Rows), listed: &Listed) -> Vec<String> {
    let mut world = world();
    let key = key("c", "eth0");
    world.learn(Fact::Attach(attach(&key, "blue", &[]))).unwrap();
    let choice = choice(&world, &key);
    let mut host: Rows = lower(&Choice::Endpoint(choice.clone()), None).into_iter().collect();
    let mut pod = inside(&choice);
    change(&mut host, &mut pod);
    differences(&choice, Sides { host: &host, inside: &pod }, listed)
}

fn listed() -> Listed {
    let route = |dst: &str| ListedRoute { dst: dst.parse().unwrap(), gw: None };
    Listed { routes: vec![route("0.0.0.0/0"), route("::/0")], ..Listed::default() }
}

fn without(rows: &mut Rows, key: impl Fn(&Key) -> bool) {
    let keys: Vec<Key> = rows.keys().filter(|found| key(found)).cloned().collect();
    assert!(!keys.is_empty());
    keys.iter().for_each(|key| drop(rows.remove(key)));
}

#[test]
fn a_check_names_what_differs() {
    assert_eq!(check(|_, _| (), &listed()), [""; 0]);
    let v4 = |key: &Key| matches!(key, Key::Address(_, address) if address.family() == Family::Ipv4);
    assert_eq!(check(|_, pod| without(pod, v4), &listed()), ["address 10.0.0.2/32 on eth0 is missing"]);
    let default = |key: &Key| matches!(key, Key::Route(dst, _) if dst.to_string() == "::/0");
    assert_eq!(
        check(|_, pod| without(pod, default), &listed()),
        ["route ::/0 via fe80::1 on eth0 is missing"]
    );
    let entry = |key: &Key| matches!(key, Key::Neighbor(_, address) if address.to_string() == "169.254.1.1");
    let found = check(|_, pod| without(pod, entry), &listed());
    assert_eq!(found, ["neighbor 169.254.1.1 at 02:02:03:04:05:07 on eth0 is missing"]);
    let pod_route = |key: &Key| matches!(key, Key::Route(dst, _) if dst.to_string() == "10.0.0.2/32");
    let found = check(|host, _| without(host, pod_route), &listed());
    assert_eq!(found, ["route 10.0.0.2/32 on tt0123456789ab is missing"]);
    let link = |key: &Key| matches!(key, Key::Link(_));
    let found = check(|host, pod| (without(host, link), without(pod, link)).0, &listed());
    // What stands on it is not told one by one.
    assert_eq!(found, ["the node's interface tt0123456789ab is missing", "interface eth0 is missing"]);
    let mtu = |rows: &mut Rows, mtu: u32| {
        let mut link = rows.link(&"eth0".parse().unwrap()).unwrap().clone();
        link.mtu = mtu.try_into().unwrap();
        rows.insert(Row::Link(link));
    };
    let found = check(|_, pod| mtu(pod, 1300), &listed());
    assert_eq!(found, ["interface eth0 has MTU 1300, not 1450"]);
}

#[test]
fn a_check_allows_for_what_a_later_plugin_changed_and_told() {
    let mtu = |rows: &mut Rows| {
        let mut link = rows.link(&"eth0".parse().unwrap()).unwrap().clone();
        link.mtu = 1300.try_into().unwrap();
        rows.insert(Row::Link(link));
        without(rows, |key| matches!(key, Key::Route(..)));
    };
    let told = Listed { mtu: Some(1300.try_into().unwrap()), ..Listed::default() };
    assert_eq!(check(|_, pod| mtu(pod), &told), [""; 0]);
    let more = Listed {
        addresses: vec!["10.0.0.2/32".parse().unwrap(), "192.0.2.5/24".parse().unwrap()],
        mac: Some("02:00:00:00:00:99".parse().unwrap()),
        ..listed()
    };
    let found = check(|_, _| (), &more);
    assert_eq!(
        found,
        [
            "prevResult lists 02:00:00:00:00:99 for eth0, which was added with 02:02:03:04:05:06",
            "address 192.0.2.5/24 on eth0, which prevResult lists, is missing"
        ]
    );
}
