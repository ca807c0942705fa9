//! What an agent tells of the ways to its peers and of itself, and when.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tartan_scenarios::{CROWD_POOLS, Lab, figures, holds_within, run_command, wait_until};

/// How long it may take until what is wrong is told, or what is right again: the goal is 3 s, the machine may be busy.
const TOLD: Duration = Duration::from_secs(6);
/// How long a node with peers may take to know them.
const KNOWN: Duration = Duration::from_secs(10);

/// How long a flood lasts that a stopped agent has no room for.
const FLOOD: Duration = Duration::from_secs(10);

/// A lab whose agents serve metrics.
fn lab(args: &[&str]) -> Lab {
    let lab = Lab::up("t-health", args);
    for node in nodes(&lab) {
        watch(&lab, &node);
    }
    lab
}

fn nodes(lab: &Lab) -> Vec<String> {
    let status = lab.lab(&["status", "-o", "json"]).ok().json();
    status["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .map(|node| node["name"].as_str().unwrap().into())
        .collect()
}

/// Has an agent started anew that serves metrics.
fn watch(lab: &Lab, node: &str) {
    let config = lab.file(node, "tartand.toml");
    let text = fs::read_to_string(&config).expect("a configuration");
    let socket = socket(lab, node);
    fs::write(&config, format!("{text}metrics_listen = \"unix:{}\"\n", socket.display())).expect("to write");
    lab.lab(&["fault", "add", "stop", node]).ok();
    lab.lab(&["fault", "clear"]).ok();
    let mode = fs::metadata(socket).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

fn socket(lab: &Lab, node: &str) -> PathBuf {
    lab.file(node, "metrics.sock")
}

/// The status and body of a page.
fn get(socket: &Path, path: &str, accept: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).expect("the socket");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("to set a limit");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("to ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).expect("a status").parse().expect("a number"), body.into())
}

fn page(lab: &Lab, node: &str, path: &str) -> (u16, String) {
    get(&socket(lab, node), path, "*/*")
}

/// Every sample of the metrics, by its name with its labels.
fn metrics(lab: &Lab, node: &str) -> BTreeMap<String, f64> {
    let (status, text) = page(lab, node, "/metrics");
    assert_eq!(status, 200);
    let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    samples.map(|(name, value)| (name.into(), value.parse().expect("a number"))).collect()
}

/// The sum over all labels.
fn sum(metrics: &BTreeMap<String, f64>, name: &str) -> f64 {
    let of = |key: &&String| key.as_str() == name || key.starts_with(&format!("{name}{{"));
    metrics.iter().filter(|(key, _)| of(key)).map(|(_, value)| value).sum()
}

fn fault(lab: &Lab, fault: &str) {
    lab.lab(&[&["fault", "add"], fault.split(' ').collect::<Vec<_>>().as_slice()].concat()).ok();
}

/// What an agent tells of a peer.
fn peer(lab: &Lab, node: &str, peer: &str) -> Value {
    let peers = lab.ask(node, &["peers"]);
    peers.as_array().expect("a list").iter().find(|row| row["node"] == peer).expect("the peer").clone()
}

fn is(lab: &Lab, node: &str, of: &str, health: &str) -> bool {
    peer(lab, node, of)["health"] == health
}

#[track_caller]
fn told(lab: &Lab, node: &str, of: &str, health: &str) {
    let told = holds_within(TOLD, || is(lab, node, of, health));
    assert!(told, "{node} should say {health}: {}", peer(lab, node, of));
}

fn all_work(lab: &Lab) {
    wait_until("every peer answers", KNOWN, || {
        nodes(lab).iter().all(|node| {
            let peers = lab.ask(node, &["peers"]);
            peers
                .as_array()
                .expect("a list")
                .iter()
                .all(|row| row["health"] == "works" && row["rtt_ms"].is_number())
        })
    });
}

fn heal(lab: &Lab) {
    lab.lab(&["fault", "clear"]).ok();
    wait_until("every peer answers again", TOLD, || {
        let all = nodes(lab);
        let pairs = all.iter().flat_map(|a| all.iter().map(move |b| (a, b)));
        pairs.filter(|(a, b)| a != b).all(|(a, b)| is(lab, a, b, "works"))
    });
}

#[test]
fn what_is_wrong_with_a_way_is_told_in_words_and_taken_back() {
    for underlay in ["ipv4", "ipv6"] {
        let lab =
            Lab::up("t-health", &["--nodes", "3", "--pods", "1", "--family", "dual", "--underlay", underlay]);
        all_work(&lab);

        fault(&lab, "partition n1 n2");
        told(&lab, "n1", "n2", "dead");
        told(&lab, "n2", "n1", "dead");
        let reason = peer(&lab, "n1", "n2")["reason"].to_string();
        assert!(reason.contains("no answer through vxlan for") && reason.contains("(last "), "{reason}");
        assert!(is(&lab, "n1", "n3", "works"));
        let status = lab.ask("n1", &["status"]);
        assert_eq!((&status["healthy"], &status["peers"]["up"]), (&true.into(), &1.into()), "{status}");
        assert!(status["warnings"].to_string().contains("peer n2: no answer"), "{status}");
        // Nothing was removed.
        assert_eq!(lab.ask("n1", &["plan"])["steps"], serde_json::json!([]));
        heal(&lab);
        assert_eq!(lab.ask("n1", &["status"])["warnings"], serde_json::json!([]));

        fault(&lab, "one-way n1 n2");
        told(&lab, "n1", "n2", "one-way");
        told(&lab, "n2", "n1", "dead");
        let reason = peer(&lab, "n1", "n2")["reason"].to_string();
        assert!(reason.contains("what it sends arrives") && reason.contains("one way"), "{reason}");
        heal(&lab);

        // What fits through the overlay and not through this is lost, small packets are not.
        fault(&lab, "mtu n1 n2 1400");
        told(&lab, "n1", "n2", "large-packets-lost");
        told(&lab, "n2", "n1", "large-packets-lost");
        assert!(peer(&lab, "n1", "n2")["reason"].to_string().contains("large packets are lost"));
        assert_eq!(lab.ask("n1", &["status"])["peers"]["up"], 2);
        let check = lab.verb("n1", &["check", "connectivity", "n2"]);
        assert!(check.code == 1 && check.stdout.contains("large packets are lost"), "{check:?}");
        assert_eq!(lab.verb("n1", &["check", "connectivity", "n3"]).code, 0);
        heal(&lab);
    }
}

#[test]
fn a_dead_agent_with_a_living_way_is_no_dead_peer() {
    let lab = Lab::up("t-health", &["--nodes", "2", "--pods", "1"]);
    all_work(&lab);
    fault(&lab, "kill n2");
    // Longer than it takes to tell a dead peer.
    let fell = holds_within(Duration::from_secs(4), || !is(&lab, "n1", "n2", "works"));
    assert!(!fell, "{}", peer(&lab, "n1", "n2"));
    assert_eq!(lab.ask("n1", &["status"])["peers"]["up"], 1);
    heal(&lab);
}

/// Nobody sends anything, and nothing would tell if somebody did.
#[test]
fn on_a_direct_path_each_of_many_peers_is_told_in_time() {
    let lab = Lab::up("t-health", &["--nodes", "12", "--pods", "0", "--set", "paths=[direct]"]);
    all_work(&lab);
    for last in ["n11", "n12"] {
        fault(&lab, &format!("partition n1 {last}"));
        let start = Instant::now();
        wait_until("it is told", TOLD, || is(&lab, "n1", last, "dead"));
        figures::row("a dead peer of 11 on path direct is told", &format!("{:.1?}", start.elapsed()), "3 s");
    }
}

#[test]
fn readiness_follows_the_ways_and_the_store() {
    let lab = lab(&["--nodes", "2", "--pods", "1"]);
    all_work(&lab);
    for (path, body) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        assert_eq!(page(&lab, "n1", path), (200, body.into()));
    }
    assert_eq!(page(&lab, "n1", "/secrets").0, 404);

    // All that there are do not answer.
    fault(&lab, "block-udp 8472");
    let unready = || page(&lab, "n1", "/readyz");
    wait_until("it is not ready", TOLD, || unready().0 == 503);
    assert!(unready().1.contains("no other node answers"), "{:?}", unready());
    assert_eq!(page(&lab, "n1", "/healthz").0, 200);
    assert!(lab.verb("n1", &["check"]).code == 1 && lab.verb("n1", &["check", "connectivity"]).code == 1);
    heal(&lab);
    wait_until("it is ready again", TOLD, || unready().0 == 200);
    assert!(lab.verb("n1", &["check"]).code == 0 && lab.verb("n1", &["check", "connectivity"]).code == 0);

    // A node whose peer is gone, agent and all, is as alone as it should be.
    let store = lab.file("store", "tartan.db");
    let away = store.with_extension("away");
    fs::rename(&store, &away).expect("to take the store away");
    wait_until("the lost store is told", Duration::from_secs(15), || unready().0 == 503);
    assert!(unready().1.contains("the store"), "{:?}", unready());
    fs::rename(&away, &store).expect("to bring it back");
    wait_until("it is ready again", Duration::from_secs(15), || unready().0 == 200);
}

#[test]
fn clients_that_take_their_time_hold_nobody_up() {
    let lab = lab(&["--nodes", "1", "--pods", "0"]);
    let socket = socket(&lab, "n1");
    let slow: Vec<UnixStream> = (0..12)
        .map(|_| {
            let mut stream = UnixStream::connect(&socket).expect("the socket");
            stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ").expect("to write");
            stream
        })
        .collect();
    assert_eq!(get(&socket, "/healthz", "*/*").0, 200);
    // Too long a head: refused, and what is left of it is not read.
    let mut long = UnixStream::connect(&socket).expect("the socket");
    let _ = long.write_all(format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000)).as_bytes());
    let mut answer = Vec::new();
    let _ = long.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    // They are sent away.
    let start = Instant::now();
    for mut stream in slow {
        stream.set_read_timeout(Some(Duration::from_secs(15))).expect("to set a limit");
        stream.read_to_end(&mut Vec::new()).ok();
    }
    assert!(start.elapsed() < Duration::from_secs(12));
    assert_eq!(get(&socket, "/readyz", "*/*"), (200, "ready\n".into()));
}

/// The metrics of the reference: name, type, labels.
fn reference() -> BTreeMap<String, String> {
    let page = fs::read_to_string(root().join("docs/reference/metrics.md")).expect("the reference");
    let cells = page.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let name = cells.next().expect("a name").trim_matches('`').to_owned();
        (name, cells.next().expect("a type").to_owned())
    };
    cells.map(row).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The metrics that an agent exposes, by name, with their types.
fn exposed(lab: &Lab) -> BTreeMap<String, String> {
    let (_, text) = page(lab, "n1", "/metrics");
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.into(), kind.into())).collect()
}

#[test]
fn every_metric_of_the_reference_is_exposed_and_moves() {
    let lab = lab(&["--nodes", "2", "--pods", "1", "--family", "dual", "--set", "policy=true"]);
    all_work(&lab);
    assert_eq!(exposed(&lab), reference());
    let open = get(&socket(&lab, "n1"), "/metrics", "application/openmetrics-text; version=1.0.0").1;
    assert!(open.ends_with("# EOF\n") && open.contains("# UNIT tartan_probe_rtt_seconds seconds"), "{open}");

    let before = metrics(&lab, "n1");
    lab.lab(&["pod", "add", "more", "--node", "n1", "-l", "run=more"]).ok();
    // What a policy refuses.
    close(&lab, "run: more");
    lab.lab(&[
        "exec",
        "p1",
        "--",
        "ping",
        "-c",
        "1",
        "-W",
        "1",
        &lab.addresses("default/more")[0].to_string(),
    ]);
    // A pod that claims an address that it has not.
    lab.in_pod("more", &["ip", "addr", "add", "10.99.0.1/32", "dev", "eth0"]);
    lab.lab(&["exec", "more", "--", "ping", "-c", "2", "-W", "1", "-I", "10.99.0.1", "10.244.1.1"]);
    // Somebody's damage, and what cannot be put right as the kernel refuses it.
    let route = lab
        .ask("n1", &["routes"])
        .as_array()
        .expect("a list")
        .iter()
        .find(|row| row["purpose"] == "peer n2")
        .expect("a route")["dst"]
        .clone();
    lab.on_node("n1", &["ip", "route", "del", route.as_str().expect("a destination")]);
    lab.on_node("n1", &["sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"]);
    wait_until("it is put right", TOLD, || sum(&metrics(&lab, "n1"), "tartan_repairs_total") >= 2.0);
    let moved = metrics(&lab, "n1");
    let grows = [
        "tartan_probe_rtt_seconds_count",
        "tartan_probes_total",
        "tartan_endpoints",
        "tartan_addresses_used",
        "tartan_cni_request_duration_seconds_count",
        "tartan_repairs_total",
        "tartan_kernel_notices_total",
        "tartan_ring_turn_duration_seconds_count",
        "tartan_store_operations_total",
        "tartan_denied_packets_total",
        "tartan_policy_denied_packets_total",
        "process_cpu_seconds_total",
    ];
    for name in grows {
        assert!(
            sum(&moved, name) > sum(&before, name),
            "{name}: {} then {}",
            sum(&before, name),
            sum(&moved, name)
        );
    }
    let positive = [
        "tartan_build_info",
        "tartan_healthy",
        "tartan_ready",
        "tartan_peers",
        "tartan_blocks",
        "tartan_addresses_capacity",
        "tartan_store_connected",
        "tartan_store_revision",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ];
    for name in positive {
        assert!(sum(&moved, name) > 0.0, "{name}");
    }
    assert_eq!(moved["tartan_peers{state=\"works\",path=\"vxlan\"}"], 1.0);

    // A name that somebody has taken: the kernel errs. A stopped agent that wakes to more notices than there is room for.
    while_it_sleeps(&lab, || {
        lab.on_node("n1", &["sh", "-c", "ip link del tartan.1; ip link add tartan.1 type bridge"]);
    });
    fault(&lab, "block-udp 8472");
    wait_until("it is told", TOLD + TOLD, || {
        let now = metrics(&lab, "n1");
        sum(&now, "tartan_kernel_errors_total") > sum(&before, "tartan_kernel_errors_total")
            && sum(&now, "tartan_probes_lost_total") > sum(&before, "tartan_probes_lost_total")
            && now["tartan_healthy"] == 0.0
            && now["tartan_ready"] == 0.0
    });
    lab.on_node("n1", &["ip", "link", "del", "tartan.1"]);
    heal(&lab);
    overflow(&lab);
    assert!(sum(&metrics(&lab, "n1"), "tartan_kernel_notices_lost_total") > 0.0);
    let more = lab.addresses("default/more")[0];
    while_it_sleeps(&lab, || flood(&lab, more));
    assert!(sum(&metrics(&lab, "n1"), "tartan_policy_log_lost_total") > 0.0);

    let named: BTreeSet<String> =
        grows.iter().chain(&positive).map(|name| name.trim_end_matches("_count").into()).collect();
    let rest = [
        "tartan_kernel_errors_total",
        "tartan_kernel_notices_lost_total",
        "tartan_probes_lost_total",
        "tartan_policy_log_lost_total",
    ];
    let tried: BTreeSet<String> = named.into_iter().chain(rest.map(Into::into)).collect();
    assert_eq!(tried, reference().into_keys().collect::<BTreeSet<_>>(), "every metric was seen to move");
}

/// Pods of default with this label take nothing any more.
fn close(lab: &Lab, label: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("closed.yaml");
    let text = format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: closed}}, \
         spec: {{podSelector: {{matchLabels: {{{label}}}}}, policyTypes: [Ingress]}}}}"
    );
    fs::write(&file, text).expect("to write");
    let file = file.to_str().expect("text");
    assert_eq!(lab.verb("n1", &["apply", "--wait", "-f", file]).code, 0);
}

/// More packets that a policy refuses than a stopped agent has room for: the kernel logs a hundred in a second.
fn flood(lab: &Lab, to: IpAddr) {
    tartan_scenarios::inside(&lab.netns("default_p1"), || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        let start = Instant::now();
        while start.elapsed() < FLOOD {
            socket.send_to(b"x", (to, 9)).ok();
            std::thread::sleep(Duration::from_millis(2));
        }
    });
}

/// More changes than a stopped agent has room for.
fn overflow(lab: &Lab) {
    let folder = tempfile::tempdir().expect("a folder");
    let batch = folder.path().join("batch");
    let changes: String = (0..8000).map(|n| format!("link set f txqueuelen {}\n", n + 1)).collect();
    fs::write(&batch, changes).expect("to write");
    lab.on_node("n1", &["ip", "link", "add", "f", "type", "veth", "peer", "name", "g"]);
    while_it_sleeps(lab, || {
        lab.on_node("n1", &["ip", "-batch", batch.to_str().expect("text")]);
    });
    lab.on_node("n1", &["ip", "link", "delete", "f"]);
}

/// Does something while the agent of n1 is held still.
fn while_it_sleeps(lab: &Lab, meanwhile: impl FnOnce()) {
    let agent = Pid::from_raw(lab.agent("n1"));
    kill(agent, Signal::SIGSTOP).expect("the agent");
    meanwhile();
    kill(agent, Signal::SIGCONT).expect("the agent");
}

/// Metrics by the names that their samples have.
fn sample_names(reference: &BTreeMap<String, String>) -> BTreeSet<String> {
    let of = |(name, kind): (&String, &String)| {
        let endings: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        endings.iter().map(move |ending| format!("{name}{ending}")).collect::<Vec<_>>()
    };
    reference.iter().flat_map(of).collect()
}

/// The words of a text that look like metrics of ours.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("tartan_") || word.starts_with("process_")).map(Into::into).collect()
}

#[test]
fn the_dashboard_and_the_alerts_use_metrics_that_there_are() {
    let names = sample_names(&reference());
    let text = fs::read_to_string(root().join("deploy/grafana/tartan.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let queries = panels.iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let used: BTreeSet<String> =
        queries.flat_map(|query| named(query["expr"].as_str().expect("a query"))).collect();
    assert!(used.len() >= 15, "{used:?}");
    assert_eq!(used.difference(&names).collect::<Vec<_>>(), Vec::<&String>::new());
    let page = fs::read_to_string(root().join("docs/health.md")).expect("the page");
    let alerts = page.split("```yaml").nth(1).and_then(|rest| rest.split("```").next()).expect("alerts");
    let expressions: String = alerts.lines().filter(|line| line.contains("expr:")).collect();
    assert!(!named(&expressions).is_empty());
    assert_eq!(named(&expressions).difference(&names).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn a_bundle_holds_what_helps_and_no_secret() {
    let lab = Lab::up("t-health", &["--nodes", "2", "--pods", "1"]);
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = |name: &str| {
        let file = folder.path().join(name);
        let mut command = Command::new(tartan_scenarios::programs().join("tartan"));
        command.args(["--lab", lab.name(), "--node", "n1", "bundle"]).arg(&file);
        let run = run_command(command.env("TARTAN_ETCD_PASSWORD", "planted-env"));
        assert_eq!(fs::metadata(&file).map_or(0, |file| file.permissions().mode()) & 0o777, 0o600, "{run:?}");
        let text = Command::new("tar").arg("-xzOf").arg(&file).output().expect("tar").stdout;
        (run, String::from_utf8(text).expect("text"))
    };
    let plant = |_: &str| {
        // Also where nobody looks for them.
        let log = lab.file("n1", "tartand.log");
        let mut text = fs::read_to_string(&log).expect("a log");
        text += "cannot reach etcd://user:planted-url@host:2379 (planted-file, planted-env)\n";
        fs::write(&log, text).expect("to write");
        let password = folder.path().join("password");
        fs::write(&password, "planted-file\n").expect("to write");
        let config = lab.file("n1", "tartand.toml");
        let text = fs::read_to_string(&config).expect("a configuration");
        let keys = format!("password_file = {password:?}\netcd_password = \"planted-key\"\n");
        fs::write(&config, text.clone() + &keys).expect("to write");
        (config, text)
    };
    let (config, text) = plant("n1");
    let (run, content) = bundle("a.tar.gz");
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stdout.contains("status.json") && run.stdout.contains("kernel/ours.json"), "{run:?}");
    assert!(
        !content.contains("planted"),
        "{}",
        content.lines().filter(|line| line.contains("planted")).collect::<String>()
    );
    for word in
        ["\"healthy\": true", "tartan.1", "10.244.", "node_name = \"n1\"", "is set; its value is left out"]
    {
        assert!(content.contains(word), "{word}");
    }
    // What is there is not written over.
    let again = lab.verb("n1", &["bundle", folder.path().join("a.tar.gz").to_str().expect("text")]);
    assert!(again.code == 1 && again.stderr.contains("a.tar.gz"), "{again:?}");
    // Without the agent the kernel and the log are there.
    fs::write(&config, text).expect("to write");
    lab.lab(&["fault", "add", "kill", "n1"]).ok();
    let (run, content) = bundle("b.tar.gz");
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stdout.contains("status.json.missing"), "{run:?}");
    assert!(
        content.contains("\"table\": \"route\"") && content.contains("cannot reach the agent"),
        "{content}"
    );
    lab.lab(&["fault", "clear"]).ok();
}

#[test]
fn thousands_of_peers_cost_what_a_few_do() {
    const PEERS: usize = 5_000;
    let lab = lab(&["--nodes", "2", "--pods", "1", "--family", "dual", "--set", CROWD_POOLS]);
    all_work(&lab);
    lab.add_crowd(0..PEERS);
    let programmed =
        || page(&lab, "n1", "/readyz").0 == 200 && sum(&metrics(&lab, "n1"), "tartan_peers") > PEERS as f64;
    wait_until("all are known and programmed", Duration::from_secs(60), programmed);
    std::thread::sleep(Duration::from_secs(3));
    let (agent, time) = (lab.agent("n1"), Duration::from_secs(5));
    let probes = || sum(&metrics(&lab, "n1"), "tartan_probes_total");
    let (sent, used) = (probes(), figures::cpu(agent));
    std::thread::sleep(time);
    let share = (figures::cpu(agent) - used).as_secs_f64() / time.as_secs_f64() * 100.0;
    let rate = (probes() - sent) / time.as_secs_f64();
    println!("{rate} probes a second, {share:.2} % of a core");
    // None of them answers, which is the worst: the limits hold all the same.
    assert!(rate > 5.0 && rate < 500.0, "{rate} probes a second");
    // A loose ceiling: what is promised are so few probes. A machine that is slow to come out of its rest takes ten times as
    // much as another for the same.
    assert!(share < 10.0, "{share} % of a core");
    // What they are told does not take this node out of service: nobody lives there. A real peer is still told of.
    assert_eq!(page(&lab, "n1", "/readyz").0, 200);
    assert!(is(&lab, "n1", "n2", "works"));
}
