//! What takes minutes: run by `cargo xtask soak`, which keeps the rows that begin with its mark.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tartan_scenarios::births::no_packet_escapes;
use tartan_scenarios::figures::quantile;
use tartan_scenarios::{Chance, Container, Lab, Probe, Probes, Story, holds_within, left_of_pods, policies};

/// Sequences of faults.
const STORIES: u64 = 100;
/// How long everything may take to work after the last healing.
const HEALED: Duration = Duration::from_secs(5);
/// Agents killed.
const KILLS: usize = 1000;
/// Pods made and removed, of each kind of attachment.
const PODS: usize = 5000;
/// The most pods that are made at once.
const AT_ONCE: u64 = 50;
/// How long etcd is away.
const AWAY: Duration = Duration::from_secs(600);
/// Makes that another number of seconds, for trying the part; its row tells how long it was.
const AWAY_SECONDS: &str = "TARTAN_SOAK_AWAY";
/// How often the probes around an absence are sent, in each direction and family.
const PROBED: Duration = Duration::from_millis(10);

/// Pods started under policies, of each kind of attachment.
const BIRTHS: usize = 5000;
/// How long policies change, how many in a second, and how many in one write.
const CHANGING: Duration = Duration::from_secs(60);
const CHANGES_A_SECOND: f64 = 1000.0;
const CHANGED_AT_ONCE: usize = 10;

/// A row of the table: what, figure, aim, how long it took.
fn row(what: &str, figure: &str, aim: &str, start: Instant) {
    println!("SOAK-ROW | {what} | {figure} | {aim} | {:.0} s |", start.elapsed().as_secs_f64());
}

#[test]
#[ignore = "minutes: cargo xtask soak"]
fn stories() {
    let start = Instant::now();
    let (mut times, mut faults, mut failed) = (Vec::new(), 0, Vec::new());
    for seed in 1..=STORIES {
        let underlay = if seed % 2 == 0 { "ipv4" } else { "ipv6" };
        let lab =
            Lab::up("t-soak", &["--nodes", "5", "--pods", "1", "--family", "dual", "--underlay", underlay]);
        let story = Story::new(seed, 5);
        story.play(&lab);
        faults += story.faults();
        let healing = Instant::now();
        lab.lab(&["fault", "clear"]).ok();
        match lab.full_within(HEALED.saturating_sub(healing.elapsed())) {
            Some(_) => times.push(healing.elapsed()),
            None => failed.push(seed),
        }
        println!(
            "seed {seed} of {STORIES}: {:.0} ms after the last healing",
            healing.elapsed().as_secs_f64() * 1e3
        );
        if failed.last() == Some(&seed) {
            println!("no full matrix within {HEALED:?}\n{story}");
        }
    }
    let worst = quantile(&mut times, 1.0);
    let (good, p50) = (times.len(), quantile(&mut times, 0.5));
    row(
        &format!(
            "{STORIES} seeded sequences of {faults} faults on 5 nodes, pods of both families, underlays of one or the other: last healing to full matrix"
        ),
        &format!("{good} of {STORIES} in time; p50 {p50:.0} ms, worst {worst:.0} ms"),
        "all < 5 s",
        start,
    );
    assert!(failed.is_empty(), "these seeds end badly: {failed:?}");
}

#[test]
#[ignore = "minutes: cargo xtask soak"]
fn kills() {
    let start = Instant::now();
    let lab = Lab::up("t-soak", &["--nodes", "2", "--pods", "1", "--family", "dual"]);
    let from = lab.netns("default_p1");
    let to = lab.addresses("default/p2");
    let probes: Vec<Probe> =
        to.iter().map(|address| Probe::start(&from, *address, Duration::from_millis(1))).collect();
    assert_eq!(probes.len(), 2);
    let (mut chance, mut cycles, mut killed) = (Chance::new(1), Vec::new(), 0);
    let all = Instant::now();
    while killed < KILLS {
        let node = ["n1", "n2"][cycles.len() % 2];
        let (cycle, before) = (Instant::now(), lab.agent(node));
        lab.lab(&["fault", "add", "kill", node]).ok();
        // Every other one dies once more, while it starts.
        killed += if cycles.len() % 4 < 2 { 1 } else { 1 + kill_while_starting(&lab, node, &mut chance) };
        lab.lab(&["fault", "clear"]).ok();
        assert_ne!(lab.agent(node), before, "another process");
        cycles.push(cycle.elapsed());
        if cycles.len() % 100 == 0 {
            println!("{killed} of {KILLS} agents killed");
        }
    }
    let all = all.elapsed();
    let outcomes: Vec<_> = probes.into_iter().map(Probe::finish).collect();
    let (sent, lost) =
        outcomes.iter().fold((0, 0), |(sent, lost), one| (sent + one.sent, lost + one.lost.len()));
    // Streams that had their turn: at 1 kHz, not at what was left of the processor.
    let rate = sent as f64 / 2.0 / all.as_secs_f64();
    row(
        &format!(
            "{killed} kill -9 of agents, at rest and while they start, under UDP probes at 1 kHz between pods of two nodes, IPv4 and IPv6"
        ),
        &format!(
            "{lost} of {sent} lost, {rate:.0} a second in each family; agent back and healthy: p50 {:.0} ms, p99 {:.0} ms",
            quantile(&mut cycles, 0.5),
            quantile(&mut cycles, 0.99)
        ),
        "0 lost",
        start,
    );
    assert!(rate > 900.0, "{rate} a second");
    assert_eq!(lost, 0, "{outcomes:?}");
}

/// Starts a node's agent and kills it within 20 ms; how many died.
fn kill_while_starting(lab: &Lab, node: &str, chance: &mut Chance) -> usize {
    let killed = std::thread::scope(|scope| {
        // Whether it notices in time that the agent is gone again is a matter of chance.
        scope.spawn(|| lab.lab(&["fault", "clear"]));
        let file = lab.file(node, "tartand.pid");
        let deadline = Instant::now() + Duration::from_secs(5);
        let pid = loop {
            let pid = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
            match pid {
                Some(pid) => break Pid::from_raw(pid),
                None => assert!(Instant::now() < deadline, "no agent starts"),
            }
        };
        std::thread::sleep(Duration::from_micros(chance.below(20_000)));
        kill(pid, Signal::SIGKILL).map_or(0, |()| 1)
    });
    // If it did not, there is no fault to be healed.
    let known = lab.lab(&["fault", "add", "kill", node]);
    assert!([0, 2].contains(&known.code), "{known:?}");
    killed
}

#[test]
#[ignore = "minutes: cargo xtask soak"]
fn pods() {
    for attachment in ["bridge", "routed"] {
        let start = Instant::now();
        let set = format!("attachment={attachment}");
        let lab = Lab::up("t-soak", &["--nodes", "2", "--pods", "0", "--family", "dual", "--set", &set]);
        let before = lab.on_node("n1", &["ip", "-o", "link"]).lines().count();
        let most = churn(&lab);
        let end = Instant::now() + Duration::from_secs(5);
        while lab.on_node("n1", &["ip", "-o", "link"]).lines().count() != before {
            assert!(Instant::now() < end, "links stay");
        }
        for node in ["n1", "n2"] {
            assert_eq!(
                left_of_pods(&lab, node),
                [0; 6],
                "{node}: links, routes, FDB entries, endpoints, records"
            );
            assert_eq!(lab.ask(node, &["plan"])["steps"].as_array().map(Vec::len), Some(0));
        }
        row(
            &format!(
                "{PODS} pods made and removed through the plugin, {attachment}, up to {AT_ONCE} at once"
            ),
            &format!("nothing left; {most} addresses in use at most, none twice"),
            "nothing left, none twice",
            start,
        );
    }
}

/// Makes and removes pods in batches: one is removed while the next is made. Says how many addresses were in use at
/// most.
fn churn(lab: &Lab) -> usize {
    let mut chance = Chance::new(1);
    let in_use = InUse::default();
    let (mut made, mut most) = (0, 0);
    let mut old: Vec<Container> = Vec::new();
    while made < PODS || !old.is_empty() {
        let count = (1 + chance.below(AT_ONCE) as usize).min(PODS - made);
        let node = |number: usize| ["n1", "n2"][number % 2];
        let new: Vec<Container> = (made..made + count).map(|n| Container::make(lab, node(n), n)).collect();
        std::thread::scope(|scope| {
            for container in &old {
                scope.spawn(|| remove(container, &in_use));
            }
            for container in &new {
                scope.spawn(|| make(container, &in_use));
            }
        });
        most = most.max(in_use.lock().expect("no panic").len());
        if made / 500 != (made + count) / 500 {
            println!("{} of {PODS} pods made", made + count);
        }
        (made, old) = (made + count, new);
    }
    assert!(in_use.into_inner().expect("no panic").is_empty());
    most
}

/// Who has an address.
type InUse = Mutex<BTreeMap<IpAddr, String>>;

fn make(container: &Container, in_use: &InUse) {
    for address in addresses(&container.add()) {
        let other = in_use.lock().expect("no panic").insert(address, container.id().to_owned());
        assert_eq!(other, None, "{address} is given twice, the second time to {}", container.id());
    }
}

/// An address is free as soon as its pod begins to go.
fn remove(container: &Container, in_use: &InUse) {
    in_use.lock().expect("no panic").retain(|_, owner| *owner != container.id());
    container.del();
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().expect("addresses");
    let addresses: Vec<IpAddr> =
        ips.iter().filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect();
    assert_eq!(addresses.len(), 2, "{result}");
    addresses
}

#[test]
#[ignore = "minutes: cargo xtask soak"]
fn births() {
    for attachment in ["routed", "bridge"] {
        let start = Instant::now();
        let sent = no_packet_escapes(attachment, BIRTHS);
        row(
            &format!(
                "{BIRTHS} pods started under policies, {attachment}: two of three shut and sending from their first moment on, the others allowed to reach a server"
            ),
            &format!("0 of {sent} packets escaped, every first connection opened"),
            "0 escaped",
            start,
        );
    }
}

#[test]
#[ignore = "minutes: cargo xtask soak"]
fn changes() {
    let start = Instant::now();
    let lab = policies::lab("t-soak", "routed");
    policies::add_pods(&lab, &["server@n1", "other@n1", "near@n1", "friend@n2", "foe@n2"]);
    policies::apply(&lab, &policies::only_from("server", &["near", "friend"]));
    let to = lab.addresses("default/server");
    let probes = |pods: &[&str]| -> Vec<Probe> {
        let from = pods.iter().map(|pod| lab.netns(&format!("default_{pod}")));
        from.flat_map(|from| to.iter().map(move |to| Probe::start(&from, *to, Duration::from_millis(1))))
            .collect()
    };
    let (open, shut) = (probes(&["near", "friend"]), probes(&["foe"]));
    let (mut changed, begun) = (0, Instant::now());
    while begun.elapsed() < CHANGING {
        // Of a hundred policies each is another than before.
        let entry = |number: usize| {
            let from = format!("app=other-{number}");
            policies::entry(&format!("busy-{}", number % 100), "app=other", Some(&from))
        };
        lab.write_entries(&(changed..changed + CHANGED_AT_ONCE).map(entry).collect::<Vec<_>>());
        changed += CHANGED_AT_ONCE;
        let due = Duration::from_secs_f64(changed as f64 / CHANGES_A_SECOND);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    let rate = changed as f64 / begun.elapsed().as_secs_f64();
    lab.wait_until_healthy(&["n1", "n2"]);
    let finish = |probes: Vec<Probe>| -> (u64, u64) {
        let outcomes = probes.into_iter().map(Probe::finish);
        outcomes.fold((0, 0), |(sent, lost), one| (sent + one.sent, lost + one.lost.len() as u64))
    };
    let ((sent, lost), (denied, not_through)) = (finish(open), finish(shut));
    row(
        &format!(
            "{changed} changes of policy, {rate:.0} a second, beside UDP at 1 kHz that they do not concern, one node and across, both families"
        ),
        &format!("{lost} of {sent} allowed lost, {} of {denied} denied came through", denied - not_through),
        "0 lost, 0 through",
        start,
    );
    assert_eq!((lost, denied - not_through), (0, 0));
}

#[test]
#[ignore = "minutes: cargo xtask soak"]
fn etcd_away() {
    etcd_away_and_back(false);
}

#[test]
#[ignore = "minutes: cargo xtask soak"]
fn etcd_wiped() {
    etcd_away_and_back(true);
}

/// etcd goes for minutes, and comes back with all that it had or with nothing. Meanwhile pods come and go, and if nothing
/// is lost an agent dies.
fn etcd_away_and_back(wiped: bool) {
    let start = Instant::now();
    let nodes = ["n1", "n2", "n3"];
    let lab = Lab::up("t-soak", &["--store", "etcd", "--nodes", "3", "--pods", "1", "--family", "dual"]);
    let state =
        || (nodes.map(|node| lab.ways(node)), nodes.map(|node| lab.blocks("n1", node)), lab.etcd_keys(""));
    let before = state();
    lab.lab(&["pod", "add", "old", "--node", "n2"]).ok();
    let probes = Probes::between_all(&lab, &["p1", "p2", "p3"], PROBED);
    let (streams, probing) = (probes.count(), Instant::now());

    lab.lab(&["store", "stop"]).ok();
    if wiped {
        lab.lab(&["store", "wipe"]).ok();
    }
    let (gone, away) = (Instant::now(), away());
    lab.lab(&["pod", "add", "new", "--node", "n1"]).ok();
    let mut pods = come_and_go(&lab, &nodes, gone + away / 2);
    // One that starts anew knows only what the store has: a limit that docs/stores.md tells of.
    if !wiped {
        lab.end_agent("n2", Signal::SIGKILL);
        lab.start_agent("n2");
    }
    lab.lab(&["pod", "rm", "old"]).ok();
    pods += come_and_go(&lab, &["n1", "n3"], gone + away);
    for node in nodes {
        assert_eq!(lab.verb(node, &["status"]).code, 1, "{node} has no store");
    }
    assert_eq!(nodes.map(|node| lab.ways(node)), before.0, "while it is away");

    lab.lab(&["store", "start"]).ok();
    let back = Instant::now();
    lab.wait_until_healthy(&nodes);
    let healthy = back.elapsed();
    if !holds_within(HEALED, || state() == before) {
        assert_eq!(state(), before, "after it is back");
    }
    lab.join("n4", "p4", 5);
    let probed = probing.elapsed();
    let sent = probes.assert_none_lost((away.as_secs_f64() / PROBED.as_secs_f64() * 0.9) as u64);
    let (how, also) =
        if wiped { ("and comes back empty", "") } else { ("and comes back", ", one agent killed") };
    row(
        &format!(
            "etcd is away for {} s {how}; 3 nodes of both families, {pods} pods made and removed meanwhile{also}; UDP probes between all pods",
            away.as_secs()
        ),
        &format!(
            "0 of {sent} lost, {:.0} a second in each of {streams} streams; kernel and store as before; all agents healthy {:.1} s after it is back; a node that joins is reached",
            sent as f64 / streams as f64 / probed.as_secs_f64(),
            healthy.as_secs_f64()
        ),
        "0 lost, all as before",
        start,
    );
}

fn away() -> Duration {
    std::env::var(AWAY_SECONDS).map_or(AWAY, |text| Duration::from_secs(text.parse().expect("seconds")))
}

/// Fails with what each look saw.
fn assert_full_within(lab: &Lab, patience: Duration) {
    let (start, mut seen) = (Instant::now(), Vec::new());
    while start.elapsed() < patience {
        let begin = start.elapsed();
        let matrix = lab.lab(&["matrix", "-o", "json"]);
        if matrix.code == 0 {
            return;
        }
        let rows = matrix.json();
        let rows = rows.as_object().expect("an object of rows").iter();
        let pairs = rows.flat_map(|(from, row)| {
            row.as_object()
                .expect("an object of answers")
                .iter()
                .map(move |(to, reached)| (from, to, reached))
        });
        let cut: Vec<String> = pairs
            .filter(|(.., reached)| **reached == Value::Bool(false))
            .map(|(from, to, _)| format!("{from} to {to}"))
            .collect();
        seen.push((begin, start.elapsed(), cut));
    }
    panic!("the new pod is not reached: {seen:?}");
}

/// Makes a pod on one node after the other, which reaches all others and is reached, and removes it; until then. Says how
/// many.
fn come_and_go(lab: &Lab, nodes: &[&str], until: Instant) -> usize {
    let mut pods = 0;
    while Instant::now() < until {
        lab.lab(&["pod", "add", "guest", "--node", nodes[pods % nodes.len()]]).ok();
        assert_full_within(lab, HEALED);
        lab.lab(&["pod", "rm", "guest"]).ok();
        pods += 1;
        std::thread::sleep(Duration::from_secs(5).min(until.saturating_duration_since(Instant::now())));
    }
    pods
}
