//! `tartan denied` tells what policies refuse: who, whom, what for and by which policy.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tartan_scenarios::{Lab, inside, programs, wait_until};

/// How long it may take until a refusal is told: the goal is 0.1 s, the machine may be busy.
const TOLD: Duration = Duration::from_secs(3);

/// `db` on n1 takes nothing, `caller` on n2 sends nothing but to port 53.
const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out}
spec: {podSelector: {matchLabels: {app: caller}}, policyTypes: [Egress], egress: [{ports: [{port: 53}]}]}
";

struct Stage {
    lab: Lab,
    db: [IpAddr; 2],
    p2: [IpAddr; 2],
}

impl Stage {
    fn set(attachment: &str) -> Stage {
        let set = format!("attachment={attachment}");
        let args = ["--nodes", "2", "--pods", "1", "--family", "dual", "--set", "policy=true", "--set", &set];
        let lab = Lab::up("t-policy-denied", &args);
        lab.lab(&["pod", "add", "db", "--node", "n1", "-l", "app=db"]).ok();
        lab.lab(&["pod", "add", "quiet", "--node", "n1"]).ok();
        lab.lab(&["pod", "add", "caller", "--node", "n2", "-l", "app=caller"]).ok();
        let by_family = |pod: &str| {
            let mut addresses = lab.addresses(pod);
            addresses.sort();
            <[IpAddr; 2]>::try_from(addresses).expect("an address of each family")
        };
        let (db, p2) = (by_family("default/db"), by_family("default/p2"));
        Stage { db, p2, lab }
    }

    fn apply(&self) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("policies.yaml");
        fs::write(&file, POLICIES).expect("to write");
        let file = file.to_str().expect("text");
        let applied = self.lab.verb("n1", &["apply", "--wait", "-f", file]);
        assert_eq!(applied.code, 0, "{applied:?}");
    }

    /// What policies refused on a node.
    fn rows(&self, node: &str) -> Vec<Value> {
        let all = self.lab.ask(node, &["denied"]);
        all.as_array().expect("rows").iter().filter(|row| row["reason"] == "policy").cloned().collect()
    }

    /// The row of a connection, as soon as it is told.
    fn row(&self, node: &str, from: &str, to: IpAddr, protocol: &str, port: Option<u16>) -> Value {
        let find = || {
            let is_it = |row: &Value| {
                row["from"]["pod"] == from
                    && row["to"]["address"] == to.to_string()
                    && row["protocol"] == protocol
                    && row["port"] == json!(port)
            };
            self.rows(node).into_iter().find(is_it)
        };
        wait_until(&format!("{from} -> {to} {protocol} {port:?} is told"), TOLD, || find().is_some());
        find().expect("a row")
    }

    /// Whether a connection is made within a moment.
    fn connects(&self, pod: &str, to: IpAddr, port: u16) -> bool {
        let to = SocketAddr::new(to, port);
        inside(&self.lab.netns(&format!("default_{pod}")), move || {
            TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok()
        })
    }

    fn send(&self, pod: &str, to: IpAddr, ports: impl Iterator<Item = u16> + Send) {
        inside(&self.lab.netns(&format!("default_{pod}")), move || {
            let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
            let socket = UdpSocket::bind(any).expect("a socket");
            // What is refused is no error of the sender's.
            ports.for_each(|port| drop(socket.send_to(b"x", (to, port))));
        });
    }
}

fn scene(attachment: &str) {
    let stage = Stage::set(attachment);
    let Stage { lab, db, p2 } = &stage;
    for to in db {
        assert!(stage.connects("p1", *to, 80) && stage.connects("p2", *to, 80), "{to}");
    }
    assert_eq!((stage.rows("n1"), stage.rows("n2")), (vec![], vec![]), "nothing is refused");
    let status = lab.ask("n1", &["status"]);
    assert_eq!((&status["healthy"], &status["warnings"]), (&json!(true), &json!([])), "{status}");

    stage.apply();
    let link = |node: &str, pod: &str| {
        let rows = lab.ask(node, &["endpoints"]);
        let row = rows.as_array().expect("rows").iter().find(|row| row["pod"] == pod).cloned();
        row.expect("the pod")["link"].clone()
    };
    let closed = |row: &Value, node: &str, pod: &str| {
        assert_eq!(row["policy"]["kind"], "NetworkPolicy", "{row}");
        assert_eq!(
            (&row["policy"]["namespace"], &row["policy"]["name"]),
            (&json!("default"), &json!("closed"))
        );
        assert_eq!((&row["direction"], &row["default"]), (&json!("ingress"), &json!(true)), "{row}");
        assert_eq!((&row["to"]["pod"], &row["link"]), (&json!("default/db"), &link(node, pod)), "{row}");
        assert!(row["packets"].as_u64() > Some(0) && row["bytes"].as_u64() >= Some(28), "{row}");
        assert!(
            row["policy"]["source"]["line"] == 1 && row["first"].as_str() <= row["last"].as_str(),
            "{row}"
        );
    };
    for to in db {
        // From the same node, and from another, which refuses what its own pods send.
        for (pod, node, judged) in [("p1", "n1", "default/db"), ("p2", "n2", "default/p2")] {
            assert!(!stage.connects(pod, *to, 80));
            closed(&stage.row(node, &format!("default/{pod}"), *to, "tcp", Some(80)), node, judged);
        }
        stage.send("p1", *to, [81].into_iter());
        closed(&stage.row("n1", "default/p1", *to, "udp", Some(81)), "n1", "default/db");
        lab.lab(&["exec", "p1", "--", "ping", "-c", "1", "-W", "1", &to.to_string()]);
        let (protocol, kind) = if to.is_ipv6() { ("icmpv6", 128) } else { ("icmp", 8) };
        let row = stage.row("n1", "default/p1", *to, protocol, None);
        closed(&row, "n1", "default/db");
        assert_eq!(row["icmp_type"], kind, "{row}");
    }
    for to in p2 {
        assert!(!stage.connects("caller", *to, 80));
        let row = stage.row("n2", "default/caller", *to, "tcp", Some(80));
        assert_eq!((&row["policy"]["name"], &row["direction"]), (&json!("out"), &json!("egress")), "{row}");
        assert_eq!((&row["pod"], &row["link"]), (&json!("default/caller"), &link("n2", "default/caller")));
    }
    let text = lab.verb("n1", &["denied"]).ok().stdout;
    let line = format!("default/db ({})", db[0]);
    assert!(text.contains(&line) && text.contains("NetworkPolicy default/closed, by default"), "{text}");

    follows(&stage);
    floods(&stage);
    rests(lab);
}

/// A refusal that is new is shown while somebody looks, within two seconds where the machine is free.
fn follows(stage: &Stage) {
    let mut command = Command::new(programs().join("tartan"));
    command.args(["--lab", stage.lab.name(), "--node", "n1", "denied", "-f"]).stdout(Stdio::piped());
    let mut follower = command.spawn().expect("tartan");
    let (sender, shown) = mpsc::channel();
    let lines = BufReader::new(follower.stdout.take().expect("its output"));
    let reader = thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    // It shows nothing of before.
    let early = shown.recv_timeout(Duration::from_millis(1500));
    let start = Instant::now();
    stage.send("p1", stage.db[0], [4242].into_iter());
    let line = shown.recv_timeout(Duration::from_secs(5));
    let took = start.elapsed();
    follower.kill().expect("to end it");
    follower.wait().expect("its end");
    reader.join().expect("the reader");
    assert!(early.is_err(), "{early:?}");
    let line = line.expect("a line");
    assert!(line.contains("default/p1") && line.contains("udp 4242"), "{line}");
    assert!(took < Duration::from_secs(4), "{took:?}");
}

/// One who tries every port does not push out what others were refused.
fn floods(stage: &Stage) {
    assert!(!stage.connects("quiet", stage.db[0], 80));
    let before = stage.row("n1", "default/quiet", stage.db[0], "tcp", Some(80));
    for _ in 0..30 {
        for chunk in 0..20u16 {
            stage.send("p1", stage.db[0], (chunk * 100 + 1000)..(chunk * 100 + 1100));
        }
        thread::sleep(Duration::from_millis(250));
    }
    let rows = stage.rows("n1");
    let of = |pod: &str| rows.iter().filter(|row| row["from"]["pod"] == pod).count();
    assert!((100..=512).contains(&of("default/p1")), "{}", of("default/p1"));
    assert_eq!(stage.row("n1", "default/quiet", stage.db[0], "tcp", Some(80))["first"], before["first"]);
}

/// The agent sleeps when nothing is refused.
fn rests(lab: &Lab) {
    thread::sleep(Duration::from_secs(1));
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", lab.agent("n1"))).expect("the agent");
        let fields: Vec<i64> = stat
            .rsplit_once(')')
            .expect("a name")
            .1
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect();
        // utime and stime (proc_pid_stat(5)); the state is no number.
        fields[10] + fields[11]
    };
    let before = ticks();
    thread::sleep(Duration::from_secs(5));
    let used = ticks() - before;
    assert!(used <= 3, "{used} hundredths of a second in five");
}

#[test]
fn routed_pods_see_whom_policies_refuse() {
    scene("routed");
}

#[test]
fn bridged_pods_see_whom_policies_refuse() {
    scene("bridge");
}

#[test]
fn policies_that_stand_for_too_much_are_told() {
    let lab = Lab::up("t-policy-denied", &["--nodes", "1", "--pods", "1", "--set", "policy=true"]);
    // Each rule's ports are within those of the one before, so of each port all the rules around it count.
    let rules = (0..100u16).map(|number| {
        let nets: Vec<Value> =
            (0..64).map(|at| json!({"ipBlock": {"cidr": format!("10.{number}.{at}.0/24")}})).collect();
        json!({"from": nets, "ports": [{"port": 1 + number, "endPort": 65_000 - number}]})
    });
    let spec = json!({"podSelector": {}, "ingress": rules.collect::<Vec<_>>()});
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "large"}, "spec": spec
    });
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("policy.yaml");
    fs::write(&file, policy.to_string()).expect("a file");
    lab.verb("n1", &["apply", "-f", file.to_str().expect("text")]).ok();
    let status = || lab.verb("n1", &["status", "-o", "json"]);
    wait_until("it is told", TOLD, || {
        let told = status();
        told.code == 1 && told.stdout.contains("pod default/p1 reaches nobody in a direction")
    });
    lab.verb("n1", &["delete", "networkpolicy", "large"]).ok();
    wait_until("it is over", TOLD, || status().code == 0);
}
