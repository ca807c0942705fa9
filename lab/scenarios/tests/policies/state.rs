//! A node that holds much: 1,000 policies and 10,000 pods of other nodes.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde_json::json;
use tartan_host::Row;
use tartan_host::policy::PolicyRow;
use tartan_kernel::{Kernel, Marks, netns};
use tartan_scenarios::{CROWD_POOLS, Container, Lab, figures, holds_within, pod_of_peer, policies};

use crate::times;

const PEERS: usize = 100;
/// Pods of each peer.
const PODS: usize = 100;
const POLICIES: usize = 1_000;
/// Apps of pods of this node; each is selected by as many policies as the others.
const APPS: usize = 100;
/// Pods added in a row.
const ADDS: usize = 200;
/// Pods of other nodes written one after the other.
const REMOTE: usize = 200;
/// Readings of the table, and starts.
const READINGS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// A lab with that in its store.
pub(crate) struct State {
    lab: Lab,
    crowd: Crowd,
}

/// Whom policies are about beside this node's pods.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crowd {
    /// Nobody: the others are only let in.
    Open,
    /// All: this node judges what its own pods send to them, too.
    Isolated,
}

impl State {
    pub(crate) fn lab(&self) -> &Lab {
        &self.lab
    }

    pub(crate) fn down(self) {
        self.lab.down();
    }

    fn described(&self) -> String {
        let word = match self.crowd {
            Crowd::Open => "none of them isolated",
            Crowd::Isolated => "all of them isolated",
        };
        format!("{POLICIES} policies, {} pods of other nodes, {word}", times(PEERS) * PODS)
    }
}

/// Brings up one node, and waits until it has it all in its kernel.
pub(crate) fn up(crowd: Crowd) -> State {
    let dual = ["--nodes", "1", "--pods", "0", "--family", "dual"];
    let sets = ["--set", CROWD_POOLS, "--set", "attachment=routed", "--set", "policy=true"];
    let lab = Lab::up("bench-policies", &[&dual[..], &sets].concat());
    let peers = times(PEERS);
    lab.add_crowd(0..peers);
    let pod = |number: usize| {
        let labels = labels_of(number, crowd);
        pod_of_peer(number / PODS, number % PODS, Some(&labels))
    };
    let pods = (0..peers * PODS).map(pod);
    lab.write_entries(&pods.collect::<Vec<_>>());
    let policy =
        |number: usize| policies::entry(&format!("policy-{number}"), &app(number), Some(&role(number)));
    lab.write_entries(&(0..POLICIES).map(policy).collect::<Vec<_>>());
    lab.wait_for_routes("n1", peers, PATIENCE);
    lab.wait_until_healthy(&["n1"]);
    State { lab, crowd }
}

fn labels_of(number: usize, crowd: Crowd) -> String {
    match crowd {
        Crowd::Open => role(number),
        Crowd::Isolated => format!("{},{}", role(number), app(number)),
    }
}

fn role(number: usize) -> String {
    format!("role=r{}", number % POLICIES)
}

fn app(number: usize) -> String {
    format!("app=a{}", number % APPS)
}

/// Pods of this node, each of which policies select; they stay as long as what this gives.
pub(crate) fn pods(state: &State) -> Vec<Container> {
    let lab = state.lab();
    let containers: Vec<Container> =
        (0..times(ADDS)).map(|number| Container::make(lab, "n1", number)).collect();
    let mut kernel = kernel(lab);
    let mut add = |(number, container): (usize, &Container)| {
        let label = app(number);
        let (key, value) = label.split_once('=').unwrap();
        let args = json!({"cni": {"labels": [{"key": key, "value": value}]}});
        kernel.notices();
        let start = Instant::now();
        std::thread::scope(|scope| {
            let call = scope.spawn(|| {
                container.call_with("ADD", &[("args", args)]).ok();
                start.elapsed()
            });
            let judged = until_judged(&mut kernel, start);
            (judged, call.join().unwrap())
        })
    };
    let (judged, whole): (Vec<Duration>, Vec<Duration>) = containers.iter().enumerate().map(&mut add).unzip();
    let (count, described) = (whole.len(), state.described());
    figures::spread(
        &format!(
            "a pod is added -> its rules are in the kernel, {count} in a row, {described}; the plugin's process included"
        ),
        judged,
        "p50 < 5 ms, p99 < 20 ms",
    );
    figures::spread("the whole ADD of those", whole, "");
    containers
}

/// How long after its start something has changed in the table of policies: only ours is written to that of this lab.
fn until_judged(kernel: &mut Kernel, start: Instant) -> Duration {
    let patience = PollTimeout::try_from(PATIENCE).unwrap();
    loop {
        let mut fds: Vec<PollFd<'_>> =
            kernel.notices_fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        assert_ne!(poll(&mut fds, patience), Ok(0), "nothing has changed in the table");
        let heard = start.elapsed();
        if kernel.notices().policy_stale {
            return heard;
        }
    }
}

/// Pods of other nodes that come and go: from the store to the kernel.
pub(crate) fn remote_pods(state: &State) {
    let lab = state.lab();
    let mut kernel = kernel(lab);
    let members = |kernel: &mut Kernel| {
        let rows = kernel.read_policy().expect("to read");
        rows.iter().filter(|row| matches!(row, Row::Policy(PolicyRow::Member(_)))).count()
    };
    let before = members(&mut kernel);
    let mut taken = Vec::new();
    let remote = times(REMOTE);
    let store = lab.open_store();
    for number in 0..remote {
        kernel.notices();
        let labels = labels_of(number % times(ADDS).min(APPS), state.crowd);
        let written = [pod_of_peer(number % times(PEERS), PODS + number / times(PEERS), Some(&labels))];
        let start = Instant::now();
        store.write_all(&written).expect("to write");
        taken.push(until_judged(&mut kernel, start));
    }
    // Each has an address of each family, and one policy of one identity asks for it.
    let now = || members(&mut self::kernel(lab));
    assert_eq!(now() - before, 2 * remote, "members");
    figures::spread(
        &format!(
            "a pod of another node written into the store -> its elements are in the kernel, {remote} in a row, {before} elements there; {}",
            state.described()
        ),
        taken,
        "p50 < 5 ms, p99 < 20 ms",
    );
}

/// Reading it all, and an agent that starts over a kernel that has it all.
pub(crate) fn verification(state: &State) {
    let lab = state.lab();
    let came = figures::resident_kib(lab.agent("n1"));
    let described = state.described();
    figures::row(
        &format!("resident, of the agent that came to hold {described}"),
        &megabytes(came),
        "< 60 MB",
    );
    let mut kernel = kernel(lab);
    let mut rows = 0;
    let read = |_| {
        let start = Instant::now();
        rows = kernel.read_policy().expect("to read").len();
        start.elapsed()
    };
    let reads: Vec<Duration> = (0..READINGS).map(read).collect();
    figures::spread(
        &format!("reading the table of policies, {rows} rows, {READINGS} times; {described}"),
        reads,
        "",
    );
    let (mut starts, mut cpu, mut resident) = (Vec::new(), Vec::new(), 0);
    for _ in 0..READINGS {
        lab.end_agent("n1", Signal::SIGKILL);
        let start = Instant::now();
        lab.start_agent("n1");
        assert!(holds_within(PATIENCE, || lab.verb("n1", &["status"]).code == 0), "the agent is not healthy");
        starts.push(start.elapsed());
        let pid = lab.agent("n1");
        cpu.push(figures::cpu(pid));
        resident = resident.max(figures::resident_kib(pid));
        let plan = lab.ask("n1", &["plan"]);
        assert_eq!(plan["steps"].as_array().map(Vec::len), Some(0), "{plan}");
    }
    figures::spread(
        &format!(
            "an agent starts over a kernel that has it all, until it is healthy, {READINGS} times; {described}",
        ),
        starts,
        "< 1 s",
    );
    figures::spread(&format!("its CPU until then; {described}"), cpu, "");
    figures::row(
        &format!("resident once it is healthy, the most of those; {described}"),
        &megabytes(resident),
        "< 60 MB",
    );
}

fn megabytes(kib: u64) -> String {
    format!("{:.1} MB", kib as f64 * 1024.0 / 1e6)
}

fn kernel(lab: &Lab) -> Kernel {
    let node = netns::open(&lab.netns("n1")).expect("the node's namespace");
    Kernel::open_in(node.as_fd(), Marks::Node).expect("its kernel")
}
