//! Blocks of addresses: bounds, reservations, several on one node; and several networks on one underlay.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::fs;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use tartan_scenarios::{Lab, Probe, wait_until};

const PATIENCE: Duration = Duration::from_secs(5);

/// The lease of a node that is dead ends, as it would by time.
fn end_lease(lab: &Lab, node: &str) {
    let store = rusqlite::Connection::open(lab.file("store", "tartan.db")).unwrap();
    store.execute("UPDATE lease SET expires_ms = 1 WHERE name = ?1", [node]).unwrap();
}

#[test]
fn a_full_block_is_followed_by_another_and_an_empty_one_goes_back() {
    // Five pods have room in each block.
    let pools = "pools=[{cidr: 10.99.0.0/24, blockSize: 29}, {cidr: \"fd00:99::/112\", blockSize: 125}]";
    let lab = Lab::up("t-blocks", &["--nodes", "2", "--pods", "0", "--family", "dual", "--set", pools]);
    assert_eq!(lab.blocks("n2", "n1").len(), 2);
    lab.lab(&["pod", "add", "far", "--node", "n2"]).ok();
    for number in 1..=7 {
        lab.lab(&["pod", "add", &format!("a{number}"), "--node", "n1"]).ok();
    }
    assert_eq!(lab.blocks("n2", "n1").len(), 4, "two of each family");
    let address = |pod: &str| lab.addresses(pod)[0].to_string();
    assert_ne!(address("default/a1"), address("default/a6"));
    // Pods of both blocks reach everything, on the same bridge and from afar.
    lab.assert_full(8, &[]);
    for node in ["n1", "n2"] {
        let plan = lab.ask(node, &["plan"]);
        assert_eq!(plan["steps"].as_array().map(Vec::len), Some(0), "{plan}");
    }
    // Four are free in the second block, none in the first.
    for number in 6..=7 {
        lab.lab(&["pod", "rm", &format!("a{number}")]).ok();
    }
    for number in 4..=5 {
        assert_eq!(lab.blocks("n2", "n1").len(), 4, "one may come again");
        lab.lab(&["pod", "rm", &format!("a{number}")]).ok();
    }
    assert_eq!(lab.blocks("n2", "n1").len(), 4, "half a block is not free yet");
    lab.lab(&["pod", "rm", "a3"]).ok();
    wait_until("the empty blocks are back", PATIENCE, || lab.blocks("n2", "n1").len() == 2);
    lab.assert_full(3, &[]);
    for number in 3..=7 {
        lab.lab(&["pod", "add", &format!("a{number}"), "--node", "n1"]).ok();
    }
    lab.assert_full(8, &[]);
    assert_eq!(lab.blocks("n2", "n1").len(), 4);
}

#[test]
fn a_reserved_block_is_its_nodes_whatever_happens_to_it() {
    let pools = "{cidr: 10.99.0.0/16, blockSize: 24, firstBlock: 10.99.10.0/24, lastBlock: 10.99.12.0/24, reservations: \
                 [{node: n2, block: 10.99.200.0/24}, {node: n3, block: 10.99.10.0/24}]}";
    let lab = Lab::up("t-blocks", &["--nodes", "2", "--pods", "1", "--set", &format!("pools=[{pools}]")]);
    let given = lab.blocks("n1", "n1");
    assert!(["10.99.11.0/24", "10.99.12.0/24"].contains(&given[0].as_str()), "{given:?}");
    let kept = ["10.99.200.0/24".to_string()];
    assert_eq!(lab.blocks("n1", "n2"), kept);
    assert!(lab.addresses("default/p2")[0].to_string().starts_with("10.99.200."));
    lab.assert_full(2, &[]);

    // Over a restart, and over the loss of the lease.
    lab.end_agent("n2", Signal::SIGKILL);
    end_lease(&lab, "n2");
    lab.start_healthy("n2");
    assert_eq!(lab.blocks("n1", "n2"), kept);
    lab.assert_full(2, &[]);

    // Over the loss of the disk: another id has the name then.
    let id = lab.ask("n2", &["status"])["id"].clone();
    lab.end_agent("n2", Signal::SIGKILL);
    end_lease(&lab, "n2");
    fs::remove_dir_all(lab.file("n2", "state")).unwrap();
    lab.start_healthy("n2");
    assert_ne!(lab.ask("n2", &["status"])["id"], id);
    assert_eq!(lab.blocks("n1", "n2"), kept);

    // Over the node: taken out, and made anew when another one was there first.
    lab.lab(&["pod", "rm", "p2"]).ok();
    lab.verb("n2", &["node", "leave"]).ok();
    lab.lab(&["node", "rm", "n2"]).ok();
    lab.lab(&["node", "add", "n4"]).ok();
    lab.lab(&["node", "add", "n2"]).ok();
    assert_eq!(lab.blocks("n1", "n2"), kept);
    lab.lab(&["node", "add", "n3"]).ok();
    assert_eq!(lab.blocks("n1", "n3"), ["10.99.10.0/24"]);
    for (pod, node) in [("p2", "n2"), ("p3", "n3"), ("p4", "n4")] {
        lab.lab(&["pod", "add", pod, "--node", node]).ok();
    }
    lab.assert_full(4, &[]);
}

#[test]
fn a_node_takes_no_block_of_others_even_if_there_is_no_other() {
    let lab = Lab::up("t-blocks", &["--nodes", "1", "--pods", "0"]);
    let pool = "{cidr: 10.99.0.0/28, blockSize: 29, reservations: [{node: n8, block: 10.99.0.0/29}, \
                {node: n9, block: 10.99.0.8/29}]}";
    let refused = lab.apply("full", &format!("{{pools: [{pool}], vxlan: {{vni: 2}}}}"));
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("no free block for this node"), "{refused:?}");
    let one = pool.replace("n9", "n1");
    lab.apply("full", &format!("{{pools: [{one}], vxlan: {{vni: 2}}}}")).ok();
    assert!(lab.blocks("n1", "n1").contains(&"10.99.0.8/29".to_string()));
    let wrong = pool.replace("10.99.0.8/29", "10.99.0.0/29");
    let wrong = lab.apply("full", &format!("{{pools: [{wrong}], vxlan: {{vni: 2}}}}"));
    assert_eq!(wrong.code, 2, "{wrong:?}");
    assert!(
        wrong.stderr.contains(":4:") && wrong.stderr.contains("is reserved twice, for n8 and n9"),
        "{wrong:?}"
    );
}

#[test]
fn a_block_that_is_reserved_later_changes_hands_when_its_pods_are_gone() {
    let lab = Lab::up("t-blocks", &["--nodes", "2", "--pods", "1"]);
    let [first, second] = ["n1", "n2"].map(|node| lab.blocks("n1", node)[0].clone());
    let spec = format!(
        "{{pools: [{{cidr: 10.244.0.0/16, blockSize: 24, reservations: [{{node: n2, block: {first}}}, {{node: n1, block: {second}}}]}}]}}"
    );
    lab.apply("default", &spec).ok();
    let told = lab.verb("n2", &["status", "-o", "json"]).json();
    assert!(told["reasons"].to_string().contains("is reserved for this node and held by n1"), "{told}");
    lab.assert_full(2, &[]);
    for (pod, node) in [("p1", "n1"), ("p2", "n2")] {
        lab.lab(&["pod", "rm", pod]).ok();
        wait_until("the block changes hands", PATIENCE, || {
            let own = if node == "n1" { &first } else { &second };
            !lab.blocks("n1", node).contains(own)
        });
        // Not from the block that is another's.
        lab.lab(&["pod", "add", pod, "--node", node]).ok();
    }
    wait_until("both have what is reserved", PATIENCE, || {
        lab.blocks("n1", "n1").contains(&second) && lab.blocks("n1", "n2").contains(&first)
    });
    lab.assert_full(2, &[]);
}

#[test]
fn pods_keep_the_family_whose_pool_goes() {
    let pools = ["{cidr: 10.244.0.0/16}", "{cidr: \"fd00:10:244::/56\"}"];
    for (path, attachment) in [("vxlan", "bridge"), ("direct", "routed")] {
        let sets = [format!("paths=[{path}]"), format!("attachment={attachment}")];
        let args = ["--nodes", "2", "--pods", "1", "--family", "dual", "--underlay", "ipv6"];
        let lab = Lab::up("t-blocks", &[&args[..], &["--set", &sets[0], "--set", &sets[1]]].concat());
        let with = |pools: &str| format!("{{pools: [{pools}], paths: [{path}], attachment: {attachment}}}");
        let apply = |pools: &str| lab.apply("default", &with(pools)).ok();
        let all_blocks = || lab.blocks("n1", "n1").len() + lab.blocks("n1", "n2").len();
        let (from, to) = (lab.netns("default_p1"), lab.addresses("default/p2"));
        let every = Duration::from_millis(2);
        let probes: Vec<Probe> = to.iter().map(|to| Probe::start(&from, *to, every)).collect();
        for (left, gone) in [(pools[0], "ipv6"), (pools[1], "ipv4")] {
            apply(left);
            // The change has had the time to do harm.
            thread::sleep(Duration::from_millis(300));
            lab.assert_full(2, &["--family", gone]);
            lab.lab(&["pod", "add", "new", "--node", "n1"]).ok();
            assert!(lab.addresses("default/new").iter().all(|own| own.is_ipv4() == (gone == "ipv6")));
            lab.lab(&["pod", "rm", "new"]).ok();
            apply(&pools.join(", "));
        }
        for probe in probes {
            let outcome = probe.finish();
            assert!(outcome.lost.is_empty() && outcome.sent > 100, "{outcome:?}");
        }
        // It goes with the last pod.
        assert_eq!(all_blocks(), 4);
        apply(pools[0]);
        for pod in ["p1", "p2"] {
            lab.lab(&["pod", "rm", pod]).ok();
        }
        wait_until("the blocks of the other family are back", PATIENCE, || all_blocks() == 2);
        wait_until("nothing leads there", PATIENCE, || {
            !lab.on_node("n1", &["ip", "-6", "route", "show"]).contains("fd00:10:244:")
        });
    }
}

#[test]
fn a_node_whose_address_changes_while_its_agent_is_stopped_keeps_its_block() {
    let lab = Lab::up("t-blocks", &["--nodes", "2", "--pods", "1"]);
    let before = lab.blocks("n2", "n1");
    lab.end_agent("n1", Signal::SIGTERM);
    lab.on_node("n1", &["ip", "address", "delete", "172.30.0.1/16", "dev", "eth0"]);
    lab.on_node("n1", &["ip", "address", "add", "172.30.7.7/16", "dev", "eth0"]);
    lab.start_healthy("n1");
    wait_until("n2 reaches n1 by its new address", PATIENCE, || {
        lab.ask("n2", &["peers"])[0]["address"] == "172.30.7.7"
    });
    assert_eq!(lab.blocks("n2", "n1"), before);
    // The pod of before has its address still.
    lab.assert_full(2, &[]);
    let fdb = lab.on_node("n2", &["bridge", "fdb", "show", "dev", "tartan.1"]);
    assert!(fdb.contains("172.30.7.7") && !fdb.contains("172.30.0.1"), "{fdb}");
}

/// Two networks on the same three nodes, one of the largest identifier.
#[track_caller]
fn two_networks(first: &str, second: &str) {
    let set = format!("attachment={first}");
    let lab = Lab::up("t-nets", &["--nodes", "3", "--pods", "1", "--family", "dual", "--set", &set]);
    let blue = |vni: u32| {
        format!(
            "{{pools: [{{cidr: 10.99.0.0/16}}, {{cidr: \"fd00:99::/56\"}}], vxlan: {{vni: {vni}}}, attachment: {second}}}"
        )
    };
    lab.apply("blue", &blue(16_777_215)).ok();
    for number in 1..=3 {
        let (pod, node) = (format!("b{number}"), format!("n{number}"));
        lab.lab(&["pod", "add", &pod, "--node", &node, "--network", "blue"]).ok();
    }
    lab.assert_full(3, &["--network", "default"]);
    lab.assert_full(3, &["--network", "blue"]);
    let links = lab.on_node("n1", &["ip", "-d", "link", "show", "tartan.16777215"]);
    assert!(links.contains("vxlan id 16777215 "), "{links}");

    // What is another's is refused, and nothing changes.
    let wrong = [
        (
            "{pools: [{cidr: 10.98.0.0/16}], vxlan: {vni: 16777215}}",
            "VXLAN identifier 16777215 is that of network blue",
        ),
        ("{pools: [{cidr: 10.98.0.0/16}]}", "VXLAN identifier 1 is that of network default"),
        ("{pools: [{cidr: 10.99.7.0/24}], vxlan: {vni: 3}}", "overlaps pool 10.99.0.0/16 of network blue"),
        ("{pools: [{cidr: 10.0.0.0/8}], vxlan: {vni: 3}}", "overlaps pool"),
        (
            "{pools: [{cidr: \"fd00:99::/64\"}], vxlan: {vni: 3}}",
            "overlaps pool fd00:99::/56 of network blue",
        ),
        ("{pools: [{cidr: 10.98.0.0/16}], vxlan: {vni: 16777216}}", "16777215"),
    ];
    for (spec, says) in wrong {
        let refused = lab.apply("red", spec);
        assert_eq!(refused.code, 2, "{spec}: {refused:?}");
        assert!(refused.stderr.contains(says), "{spec}: {refused:?}");
    }

    // One of them goes while pods are in it, and comes again: the other one is not concerned.
    lab.verb("n1", &["delete", "clusternetwork", "blue"]).ok();
    let is_shut = || lab.lab(&["matrix", "--network", "blue", "-o", "json"]).code == 1;
    wait_until("its pods are shut", PATIENCE, is_shut);
    for node in ["n1", "n2", "n3"] {
        wait_until("its device is gone", PATIENCE, || {
            !lab.on_node(node, &["ip", "-o", "link"]).contains("tartan.16777215")
        });
    }
    lab.assert_full(3, &["--network", "default"]);
    let told = lab.verb("n1", &["status", "-o", "json"]);
    let words = "network blue is gone or not served, and its pods on this node are shut: default/";
    assert!(told.code == 1 && told.stdout.contains(words), "{told:?}");
    for row in lab.ask("n1", &["endpoints"]).as_array().expect("rows") {
        assert_eq!(row["ready"], row["network"] == "default", "{row}");
    }
    // Another kind, another identifier: nothing of before is left.
    lab.apply("blue", &blue(77)).ok();
    lab.assert_full(3, &["--network", "blue"]);
    lab.assert_full(3, &["--network", "default"]);
    for node in ["n1", "n2", "n3"] {
        let links = lab.on_node(node, &["ip", "-o", "link"]);
        assert!(links.contains("tartan.77") && !links.contains("tartan.16777215"), "{links}");
        let plan = lab.ask(node, &["plan"]);
        assert_eq!(plan["steps"].as_array().map(Vec::len), Some(0), "{plan}");
    }
}

#[test]
fn two_networks_on_the_same_nodes_bridged_and_routed() {
    two_networks("bridge", "routed");
}

#[test]
fn two_networks_on_the_same_nodes_both_bridged() {
    two_networks("bridge", "bridge");
}

#[test]
fn a_switch_of_kind_and_numbers_leaves_nothing_of_before() {
    let lab = Lab::up("t-blocks", &["--nodes", "2", "--pods", "1"]);
    lab.lab(&["pod", "rm", "p1"]).ok();
    lab.lab(&["pod", "rm", "p2"]).ok();
    lab.apply(
        "default",
        "{pools: [{cidr: 10.99.0.0/16, blockSize: 28}], vxlan: {vni: 9, port: 4789}, attachment: routed}",
    )
    .ok();
    for node in ["n1", "n2"] {
        let asks = ["ip -o -d link", "ip route", "ip neighbor", "bridge fdb", "nft list ruleset"];
        let shown = || asks.map(|ask| lab.on_node(node, &ask.split(' ').collect::<Vec<_>>())).join("\n");
        let old = ["tartan.1:", "tartan0:", "10.244.", "dstport 8472"];
        wait_until("nothing of before is left", PATIENCE, || {
            let shown = shown();
            !old.iter().any(|word| shown.contains(word))
        });
        assert!(shown().contains("tartan.9:"), "{}", shown());
    }
    for (pod, node) in [("p1", "n1"), ("p2", "n2")] {
        lab.lab(&["pod", "add", pod, "--node", node]).ok();
    }
    lab.assert_full(2, &[]);
}
