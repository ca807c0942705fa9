//! Every fault that a lab can have does what it says, and nothing else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tartan_scenarios::{Lab, Place, Story, Traces, inside, lock, run_command, wait_until};

/// How long everything may take to work again: five times the goal.
const HEALED: Duration = Duration::from_secs(25);
const UNDERLAYS: [&str; 2] = ["ipv4", "ipv6"];
/// A port on the nodes that nobody else has.
const PORT: u16 = 9000;

fn lab(underlay: &str) -> Lab {
    Lab::up("t-fault", &["--nodes", "3", "--pods", "1", "--family", "dual", "--underlay", underlay])
}

fn add(lab: &Lab, fault: &str) {
    lab.lab(&[&["fault", "add"], fault.split(' ').collect::<Vec<_>>().as_slice()].concat()).ok();
}

/// Heals everything, after which everything must work.
fn clear(lab: &Lab) {
    lab.lab(&["fault", "clear"]).ok();
    assert!(lab.full_within(HEALED).is_some());
    assert_eq!(faults(lab), json!([]));
    assert_eq!(tables(lab), "");
}

fn faults(lab: &Lab) -> Value {
    lab.lab(&["status", "-o", "json"]).ok().json()["faults"].clone()
}

/// The nftables on the wire.
fn tables(lab: &Lab) -> String {
    let wire = format!("tartan-{}_wire", lab.name());
    run_command(Command::new("ip").args(["netns", "exec", &wire, "nft", "list", "tables"])).ok().stdout
}

fn nodes(lab: &Lab) -> [Place; 3] {
    ["n1", "n2", "n3"].map(|name| Place::node(lab, name))
}

#[test]
fn partitions_cut_exactly_their_pairs_in_both_families() {
    for underlay in UNDERLAYS {
        let lab = lab(underlay);
        add(&lab, "partition n1 n2");
        for family in ["ipv4", "ipv6"] {
            lab.assert_cut(&[("p1", "p2")], &["--family", family]);
        }
        // Two at once.
        add(&lab, "partition n3 n2");
        lab.assert_cut(&[("p1", "p2"), ("p2", "p3")], &[]);
        lab.lab(&["fault", "rm", "partition", "n2", "n1"]).ok();
        assert_eq!(faults(&lab), json!([{"kind": "partition", "from": "n3", "to": "n2"}]));
        lab.assert_cut(&[("p2", "p3")], &[]);
        clear(&lab);
    }
}

#[test]
fn what_is_one_way_passes_the_other_way() {
    for underlay in UNDERLAYS {
        let lab = lab(underlay);
        let [n1, n2, n3] = nodes(&lab);
        add(&lab, "one-way n1 n2");
        // Also when neighbors have to be found anew.
        lab.on_node("n2", &["ip", "neigh", "flush", "dev", "eth0"]);
        assert!(!n1.reaches(&n2, PORT));
        assert!(n2.reaches(&n1, PORT));
        assert!(n1.reaches(&n3, PORT) && n3.reaches(&n2, PORT));
        lab.assert_cut(&[("p1", "p2")], &[]);
        clear(&lab);
        add(&lab, &format!("one-way-udp {PORT} n1 n2"));
        assert!(!n1.reaches(&n2, PORT));
        assert!(n2.reaches(&n1, PORT) && n1.reaches(&n2, PORT + 1) && n1.reaches(&n3, PORT));
        lab.assert_full(3, &[]);
        clear(&lab);
        add(&lab, "one-way-udp 8472 n1 n2");
        let [p1, p2] = ["p1", "p2"].map(|name| Place::pod(&lab, name));
        assert!(p2.reaches(&p1, PORT) && !p1.reaches(&p2, PORT));
        clear(&lab);
    }
}

#[test]
fn a_blocked_port_takes_the_overlay_and_leaves_the_rest_of_the_wire() {
    for underlay in UNDERLAYS {
        let lab = lab(underlay);
        let [n1, n2, n3] = nodes(&lab);
        add(&lab, "block-udp 8472");
        lab.assert_cut(&[("p1", "p2"), ("p1", "p3"), ("p2", "p3")], &[]);
        assert!(n1.reaches(&n2, PORT) && n2.reaches(&n3, PORT));
        lab.lab(&["fault", "rm", "block-udp", "8472"]).ok();
        add(&lab, "block-udp 8472 n1 n2");
        assert!(lab.lab(&["matrix", "-o", "json"]).code == 1);
        lab.assert_cut(&[("p1", "p2")], &[]);
        clear(&lab);
    }
}

/// Sends 300 kB by TCP and waits until the other end has read them; false if nothing comes for a while.
fn bulk(from: &Place, to: &Place) -> bool {
    const BYTES: usize = 300_000;
    let patience = Some(Duration::from_millis(600));
    let listener = inside(&to.netns, || TcpListener::bind((to.address, PORT))).expect("a listener");
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("somebody calls");
            stream.set_read_timeout(patience).expect("a socket that does not wait long");
            let mut read = 0;
            let mut buffer = [0; 16384];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                read += length;
            }
            read == BYTES
        });
        // A handshake is of small packets.
        let mut stream = inside(&from.netns, || TcpStream::connect((to.address, PORT))).expect("to connect");
        stream.set_write_timeout(patience).expect("a socket that does not wait long");
        // What cannot be written is not read either.
        stream.write_all(&vec![0; BYTES]).ok();
        drop(stream);
        receiver.join().expect("it does not panic")
    })
}

/// As [`bulk`], tried once more: the machine may have had no turn for us.
fn flows(from: &Place, to: &Place) -> bool {
    bulk(from, to) || bulk(from, to)
}

#[test]
fn large_packets_vanish_and_small_ones_pass() {
    for underlay in UNDERLAYS {
        let lab = lab(underlay);
        let [n1, n2, n3] = nodes(&lab);
        let [p1, p2] = ["p1", "p2"].map(|name| Place::pod(&lab, name));
        let segments =
            |node: &str| lab.on_node(node, &["ip", "-d", "link", "show", "eth0"]).contains("gso_max_segs 1 ");
        assert!(flows(&p1, &p2) && flows(&n1, &n2));
        add(&lab, "mtu n1 n2 1000");
        let headers = if underlay == "ipv4" { 28 } else { 48 };
        for (from, to) in [(&n1, &n2), (&n2, &n1)] {
            assert_eq!(from.send(to, PORT, 10, 1000 - headers), 10);
            assert_eq!(from.send(to, PORT, 10, 1001 - headers), 0);
        }
        assert_eq!(p1.send(&p2, PORT, 10, 800), 10);
        assert_eq!(p1.send(&p2, PORT, 10, 1200), 0);
        assert!(!bulk(&p1, &p2) && !bulk(&n1, &n2) && flows(&n1, &n3));
        lab.assert_full(3, &[]);
        assert!(segments("n1") && segments("n2") && !segments("n3"));
        clear(&lab);
        assert!(flows(&p1, &p2) && flows(&n1, &n2));
        assert!(!segments("n1") && !segments("n2"));
        // Packets of many segments are cut before they are measured: what fits the wire passes.
        add(&lab, "mtu n1 n2 1500");
        assert!(flows(&p1, &p2) && flows(&n1, &n2));
        clear(&lab);
    }
}

#[test]
fn half_of_the_packets_vanish_by_chance() {
    let lab = lab("ipv4");
    let [n1, n2, n3] = nodes(&lab);
    assert_eq!(n1.send(&n2, PORT, 1000, 8), 1000);
    add(&lab, "loss n1 n2 50");
    for (from, to) in [(&n1, &n2), (&n2, &n1)] {
        let arrived = from.send(to, PORT, 1000, 8);
        assert!((200..=800).contains(&arrived), "{arrived} of 1000");
    }
    assert_eq!(n1.send(&n3, PORT, 1000, 8), 1000);
    clear(&lab);
    assert_eq!(n1.send(&n2, PORT, 1000, 8), 1000);
}

#[test]
fn the_outside_is_an_end_like_others() {
    let lab = lab("ipv4");
    let [n1, n2, _] = nodes(&lab);
    let outside = Place { netns: lab.netns("outside"), address: "192.0.2.2".parse().unwrap() };
    let both = |a: &Place, b: &Place| (a.reaches(b, PORT), b.reaches(a, PORT));
    assert_eq!(both(&n1, &outside), (true, true));
    add(&lab, "one-way n1 outside");
    assert_eq!(both(&n1, &outside), (false, true));
    assert_eq!(both(&n2, &outside), (true, true));
    clear(&lab);
    add(&lab, "partition outside n1");
    assert_eq!(both(&n1, &outside), (false, false));
    assert_eq!(both(&n2, &outside), (true, true));
    lab.assert_full(3, &[]);
    clear(&lab);
    add(&lab, "mtu outside n1 1000");
    for (from, to) in [(&n1, &outside), (&outside, &n1)] {
        assert_eq!(from.send(to, PORT, 5, 972), 5);
        assert_eq!(from.send(to, PORT, 5, 973), 0);
        assert!(!bulk(from, to));
    }
    add(&lab, &format!("block-udp {PORT} n2 outside"));
    assert_eq!(both(&n2, &outside), (false, false));
    assert!(n2.reaches(&outside, PORT + 1));
    clear(&lab);
    assert_eq!(both(&n2, &outside), (true, true));
}

#[test]
fn agents_end_and_come_back_behind_a_partition() {
    let lab = lab("ipv4");
    add(&lab, "partition n1 n2");
    add(&lab, "kill n1");
    add(&lab, "stop n3");
    lab.assert_cut(&[("p1", "p2")], &[]);
    let node = |name: &str| {
        let status = lab.lab(&["status", "-o", "json"]).ok().json();
        status["nodes"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|row| row["name"] == name)
            .expect("it")
            .clone()
    };
    assert_eq!((&node("n1")["healthy"], &node("n1")["pid"]), (&json!(false), &Value::Null));
    assert_eq!(lab.lab(&["fault", "add", "stop", "n1"]).code, 2, "its agent has ended already");
    lab.lab(&["fault", "rm", "kill", "n1"]).ok();
    assert!(node("n1")["pid"].is_number());
    lab.assert_cut(&[("p1", "p2")], &[]);
    assert_eq!(
        faults(&lab),
        json!([{"kind": "partition", "from": "n1", "to": "n2"}, {"kind": "stop", "node": "n3"}])
    );
    let cleared = lab.lab(&["fault", "clear", "-o", "json"]).ok().json();
    assert_eq!(cleared["cleared"].as_array().map(Vec::len), Some(2), "{cleared}");
    assert_eq!(node("n3")["healthy"], json!(true));
    clear(&lab);
}

#[test]
fn a_fault_whose_agent_does_not_come_up_still_stands() {
    let lab = Lab::up("t-fault", &["--nodes", "2", "--pods", "0"]);
    add(&lab, "kill n1");
    add(&lab, "partition n1 n2");
    let config = lab.file("n1", "tartand.toml");
    let text = std::fs::read_to_string(&config).expect("a configuration");
    std::fs::write(&config, "no_such_key = 1\n").expect("to write");
    let failed = lab.lab(&["fault", "clear"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.stderr.contains("n1") && failed.stderr.contains("no_such_key"), "{failed:?}");
    // The wire is healed all the same.
    assert_eq!(faults(&lab), json!([{"kind": "kill", "node": "n1"}]));
    std::fs::write(&config, text).expect("to write");
    lab.lab(&["fault", "clear"]).ok();
    assert_eq!(faults(&lab), json!([]));
    assert_eq!(lab.ask("n2", &["status"])["peers"]["up"], 1);
}

#[test]
fn faults_that_cannot_be_are_refused() {
    let lab = Lab::up("t-fault", &["--nodes", "2", "--pods", "0"]);
    add(&lab, "partition n1 n2");
    add(&lab, "loss n1 n2 10");
    let wrong = [
        ("partition n1 n9", "there is no node n9"),
        ("kill n9", "there is no node n9"),
        ("one-way n1 n1", "both ends are the same"),
        ("partition n2 n1", "stands already"),
        ("loss n1 n2 10", "stands already"),
        ("loss n1 n2 0", "1 to 100"),
        ("loss n1 n2 101", "1 to 100"),
        ("mtu n1 n2 67", "68 to 65535"),
        ("mtu n1 n2 65536", "65536"),
        ("block-udp 0", "1 to 65535"),
        ("block-udp 8472 n1", "2 values"),
        ("one-way-udp 65536 n1 n2", "65536"),
        ("partition n1 wire", "cannot be a node"),
        ("frost n1 n2", "frost"),
    ];
    for (fault, words) in wrong {
        let run = lab.lab(&[&["fault", "add"], fault.split(' ').collect::<Vec<_>>().as_slice()].concat());
        assert_eq!(run.code, 2, "{fault}: {run:?}");
        assert!(run.stderr.contains(words), "{fault}: {run:?}");
    }
    let run = lab.lab(&["fault", "rm", "one-way", "n1", "n2"]);
    assert!(run.code == 2 && run.stderr.contains("does not stand"), "{run:?}");
    assert_eq!(faults(&lab).as_array().map(Vec::len), Some(2));
}

#[test]
fn a_fault_that_the_kernel_refuses_changes_nothing() {
    let lab = Lab::up("t-fault", &["--nodes", "2", "--pods", "0"]);
    let links = || ["n1", "n2"].map(|node| lab.on_node(node, &["ip", "-d", "-o", "link", "show", "eth0"]));
    let before = links();
    // A table that a process owns can be changed by that process only, and goes with it.
    let wire = format!("tartan-{}_wire", lab.name());
    let mut nft =
        Command::new("ip").args(["netns", "exec", &wire, "nft", "-i"]).stdin(Stdio::piped()).spawn();
    let owner = nft.as_mut().expect("nft starts");
    let input = owner.stdin.as_mut().expect("a pipe");
    input.write_all(b"add table bridge tartan-lab { flags owner; }\n").expect("to ask");
    wait_until("the table is there", Duration::from_secs(5), || tables(&lab).contains("tartan-lab"));
    let run = lab.lab(&["fault", "add", "mtu", "n1", "n2", "1000"]);
    assert!(run.code == 1 && run.stderr.contains("the kernel refused the faults"), "{run:?}");
    assert_eq!(faults(&lab), json!([]));
    assert_eq!(links(), before);
    drop(owner.stdin.take());
    owner.wait().expect("nft ends");
    add(&lab, "mtu n1 n2 1000");
    assert_ne!(links(), before);
    clear(&lab);
}

#[test]
fn a_nodes_faults_go_with_it_and_a_labs_with_the_lab() {
    let _lock = lock();
    let before = Traces::now();
    let lab = Lab::beside("t-fault", &["--nodes", "3", "--pods", "0"]);
    for fault in ["partition n1 n2", "mtu n1 n3 1000", "kill n1", "loss n2 n3 10"] {
        add(&lab, fault);
    }
    lab.lab(&["node", "rm", "n1"]).ok();
    assert_eq!(faults(&lab), json!([{"kind": "loss", "from": "n2", "to": "n3", "percent": 10}]));
    assert!(tables(&lab).contains("table bridge tartan-lab"));
    assert!(!lab.on_node("n3", &["ip", "-d", "link", "show", "eth0"]).contains("gso_max_segs 1 "));
    lab.down();
    before.assert_unchanged();
}

#[test]
fn any_story_of_faults_ends_well() {
    for (seed, underlay) in [(4, "ipv4"), (2026, "ipv6")] {
        let lab =
            Lab::up("t-story", &["--nodes", "5", "--pods", "1", "--family", "dual", "--underlay", underlay]);
        let story = Story::new(seed, 5);
        story.play(&lab);
        let healing = Instant::now();
        lab.lab(&["fault", "clear"]).ok();
        let full = lab.full_within(HEALED.saturating_sub(healing.elapsed()));
        assert!(full.is_some(), "no full matrix within {HEALED:?} of the last healing\n{story}");
    }
}
