//! The uplink changes, goes and comes back: the node keeps its block and id, and the peers follow.

use std::fs;
use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::Value;
use tartan_kernel::{Rtnl, netns};
use tartan_scenarios::{Lab, Probe, wait_until};

fn node(lab: &Lab, commands: &[&str]) {
    for command in commands {
        lab.on_node("n1", &command.split(' ').collect::<Vec<_>>());
    }
}

/// The id and the blocks of the node, as another node knows it, and where that reaches it.
fn known(lab: &Lab) -> (Value, Value, String) {
    let peers = lab.ask("n2", &["peers"]);
    let row = peers.as_array().expect("a list").iter().find(|row| row["node"] == "n1").expect("n1");
    let id = status(lab)["id"].clone();
    (id, row["blocks"].clone(), row["address"].as_str().unwrap_or_default().to_owned())
}

/// A node that is not healthy says so by its exit code, too.
fn status(lab: &Lab) -> Value {
    lab.verb("n1", &["status", "-o", "json"]).json()
}

#[track_caller]
fn wait_for(what: &str, holds: impl FnMut() -> bool) {
    wait_until(what, Duration::from_secs(5), holds);
}

#[track_caller]
fn wait_until_healthy(lab: &Lab, healthy: bool) {
    wait_for("the node's health", || status(lab)["healthy"] == healthy);
}

/// The peers' ways to the node are in their kernels.
fn assert_settled(lab: &Lab) {
    wait_for("nothing is left to do", || {
        ["n1", "n2", "n3"].iter().all(|node| lab.ask(node, &["plan"])["steps"] == serde_json::json!([]))
    });
    lab.assert_full(6, &[]);
}

#[test]
fn the_uplink_changes_and_goes_and_comes_back() {
    let lab = Lab::up("t-uplink", &["--nodes", "3", "--pods", "2", "--family", "dual"]);
    find_uplink_by_route(&lab);
    let from = lab.netns("default_p2");
    let to = lab.addresses("default/p3");
    let probes: Vec<Probe> = to.iter().map(|to| Probe::start(&from, *to, Duration::from_millis(1))).collect();
    let (id, blocks, address) = known(&lab);
    assert_eq!(address, "172.30.0.1");
    let with = |address: &str| (id.clone(), blocks.clone(), address.to_owned());

    // Another address, as of a new lease.
    node(
        &lab,
        &[
            "ip address del 172.30.0.1/16 dev eth0",
            "ip address add 172.30.0.101/16 dev eth0",
            "ip route add default via 172.30.255.254",
        ],
    );
    wait_for("the peers follow", || known(&lab) == with("172.30.0.101"));
    assert_settled(&lab);

    // The new one first, as people do it.
    node(&lab, &["ip address add 172.30.0.1/16 dev eth0", "ip address del 172.30.0.101/16 dev eth0"]);
    node(&lab, &["ip address replace 172.30.0.1/16 dev eth0", "ip route replace default via 172.30.255.254"]);
    wait_for("the peers follow back", || known(&lab) == with("172.30.0.1"));
    assert_settled(&lab);

    // Another name.
    node(&lab, &["ip link set eth0 down", "ip link set eth0 name up0"]);
    wait_until_healthy(&lab, false);
    assert_eq!(known(&lab), with("172.30.0.1"), "an uplink that is down for a while keeps its place");
    node(&lab, &["ip link set up0 up", "ip route add default via 172.30.255.254"]);
    wait_until_healthy(&lab, true);
    assert_eq!(status(&lab)["uplink"]["interface"], "up0");
    assert_settled(&lab);

    // Gone, and there again.
    node(&lab, &["ip link delete up0"]);
    wait_until_healthy(&lab, false);
    assert_eq!(known(&lab), with("172.30.0.1"));
    plug(&lab);
    wait_until_healthy(&lab, true);
    assert_eq!(known(&lab), with("172.30.0.1"));
    assert_settled(&lab);

    for probe in probes {
        let outcome = probe.finish();
        assert!(outcome.lost.is_empty() && outcome.sent > 500, "{outcome:?}");
    }
}

/// The lab names the interface; here the node shall find it by itself.
fn find_uplink_by_route(lab: &Lab) {
    lab.lab(&["fault", "add", "stop", "n1"]).ok();
    let file = lab.file("n1", "tartand.toml");
    let text = fs::read_to_string(&file).expect("a configuration");
    assert!(text.contains("interface = "), "{text}");
    fs::write(&file, text.replace("interface = ", "# interface = ")).expect("to write");
    lab.lab(&["fault", "clear"]).ok();
}

/// A new link from the node to the wire, with the old address.
fn plug(lab: &Lab) {
    let (wire, place) = (netns::open(&lab.netns("wire")).unwrap(), netns::open(&lab.netns("n1")).unwrap());
    let [port, bridge, uplink] = ["port0", "wire", "eth0"].map(|name| name.parse().expect("a name"));
    let mut there = Rtnl::open_in(wire.as_fd()).unwrap();
    there.add_veth(&port, 1500.try_into().unwrap(), &uplink, place.as_fd()).unwrap();
    there.set_master(&port, &bridge).unwrap();
    there.set_up(&port).unwrap();
    let mut here = Rtnl::open_in(place.as_fd()).unwrap();
    here.set_up(&uplink).unwrap();
    there.sync_carrier(&port);
    here.add_address(&uplink, "172.30.0.1/16".parse().unwrap()).unwrap();
    here.add_route(None, "172.30.255.254".parse().unwrap()).unwrap();
}
