//! Agent and plugin die at every step of ADD and DEL: what comes next clears all that is left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tartan_fault::{Point, VARIABLE};
use tartan_scenarios::before::{addresses, assert_back, kept_endpoints, state};
use tartan_scenarios::{Container, Lab, Run, holds_within, programs, run_plugin, start_plugin, wait_until};

/// How long it may take until a point is reached, or what is known is written down.
const PATIENCE: Duration = Duration::from_secs(20);

/// What comes after the death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Del,
    Gc,
    Restart,
}

/// Which program dies, on which command, and whether the interface is then one that the runtime may rightly think is
/// there, so that a start leaves it.
fn fate(point: Point) -> Vec<(&'static str, &'static str, bool)> {
    match point {
        Point::PluginAsks => vec![("tartan-cni", "ADD", false), ("tartan-cni", "DEL", true)],
        Point::PluginAnswered => vec![("tartan-cni", "ADD", true), ("tartan-cni", "DEL", false)],
        Point::AddTaken | Point::AddRecorded | Point::AddHost | Point::AddInside => {
            vec![("tartand", "ADD", false)]
        }
        Point::AddKept => vec![("tartand", "ADD", true)],
        // That a pod is shut is not written down: nobody was told.
        Point::DelTaken | Point::DelShut => vec![("tartand", "DEL", true), ("tartand", "GC", true)],
        Point::DelReleased | Point::DelAnswered => {
            vec![("tartand", "DEL", false), ("tartand", "GC", false)]
        }
    }
}

struct Stage<'a> {
    lab: &'a Lab,
    before: String,
    kept: Vec<String>,
    /// Addresses of pods that live through everything.
    living: BTreeSet<String>,
}

impl Stage<'_> {
    fn kill_agent(&self) {
        self.lab.lab(&["fault", "add", "kill", "n1"]).ok();
    }

    fn start_agent(&self) {
        self.lab.lab(&["fault", "clear"]).ok();
    }

    /// An agent in the place of the lab's own, which dies at a point.
    fn mortal_agent(&self, point: Point) -> Child {
        self.kill_agent();
        let mut agent = Command::new(programs().join("tartan"));
        agent.args(["lab", "--name", self.lab.name(), "node", "exec", "n1", "--"]);
        agent.arg(programs().join("tartand")).arg("--config").arg(self.lab.file("n1", "tartand.toml"));
        agent.env(VARIABLE, point.name()).stderr(Stdio::piped());
        agent.spawn().expect("the agent starts")
    }

    /// The command during which the agent dies; the lab's own agent is back at its end. A plugin that lives asks that
    /// one again where it can.
    fn with_dying_agent(
        &self,
        point: Point,
        container: &Container,
        command: &str,
        plugin_lives: bool,
    ) -> Run {
        let agent = self.mortal_agent(point);
        let mut plugin = start_plugin(&mut container.command(command), &conf(container));
        assert_dies(agent, point);
        if !plugin_lives {
            plugin.kill().expect("nobody has waited for it");
        }
        self.start_agent();
        plugin.wait_with_output().expect("the plugin ends").into()
    }

    fn with_dying_plugin(&self, point: Point, container: &Container, command: &str) -> Run {
        let mut plugin = container.command(command);
        let (run, _) = run_plugin(plugin.env(VARIABLE, point.name()), &container.conf());
        assert_eq!((run.code, run.stdout.as_str()), (-1, ""), "{}: it died there", point.name());
        run
    }

    fn clear(&self, container: &Container, next: Next, stays: bool) {
        match next {
            Next::Del => container.del(),
            Next::Gc => drop(run_plugin(&mut container.command("GC"), &conf(container)).0.ok()),
            Next::Restart => {
                self.kill_agent();
                self.start_agent();
                if stays {
                    let key = format!("endpoint/{}/eth0", container.id());
                    assert!(kept_endpoints(self.lab).contains(&key));
                    container.del();
                }
            }
        }
    }

    #[track_caller]
    fn assert_nothing_left(&self, container: &Container) {
        assert_back(self.lab, &self.before);
        wait_until("no endpoint is kept", PATIENCE, || kept_endpoints(self.lab) == self.kept);
        let inside = container.ip("-o link");
        assert_eq!(inside.lines().count(), 1, "the pod has more than its loopback: {inside}");
    }

    /// The same container can be added, and gets what nobody has.
    #[track_caller]
    fn assert_addable(&self, container: &Container) {
        let given = addresses(&container.add());
        assert!(given.iter().all(|address| !self.living.contains(address)), "given twice: {given:?}");
        container.del();
    }
}

/// What the plugin gets: a GC is about all of the runtime's network.
fn conf(container: &Container) -> Value {
    let mut conf = container.conf();
    conf["cni.dev/valid-attachments"] = json!([]);
    conf
}

#[track_caller]
fn assert_dies(mut agent: Child, point: Point) {
    let died = holds_within(PATIENCE, || agent.try_wait().expect("a child").is_some());
    if !died {
        agent.kill().expect("nobody has waited for it");
    }
    let end = agent.wait_with_output().expect("it ends");
    let log = String::from_utf8_lossy(&end.stderr);
    assert!(died && end.status.signal() == Some(Signal::SIGKILL as i32), "{}: it lived: {log}", point.name());
}

#[test]
fn whoever_dies_at_whatever_point_leaves_nothing_that_the_next_step_does_not_clear() {
    // What comes next does the same for a pod on a bridge, except for what a start finds in the kernel.
    let runs = [
        ("attachment=routed", &[Next::Del, Next::Gc, Next::Restart][..]),
        ("attachment=bridge", &[Next::Restart]),
    ];
    for (attachment, nexts) in runs {
        let args = ["--nodes", "1", "--pods", "0", "--family", "dual", "--set", attachment];
        let lab = Lab::up("t-fault", &args);
        // Of another network by the runtime's name, so that no GC is about them.
        let living: Vec<Container> = (0..2).map(|n| Container::make(&lab, "n1", n)).collect();
        let pods: Vec<Container> = living.iter().map(|one| one.beside("eth0", "default", "living")).collect();
        let given = pods.iter().flat_map(|pod| addresses(&pod.add())).collect();
        let stage = Stage { before: state(&lab), kept: kept_endpoints(&lab), living: given, lab: &lab };
        die_everywhere(&stage, attachment, nexts);
        assert!(pods[0].pings("eth0", pods_address(&stage, 1)), "the living live");
    }
}

fn die_everywhere(stage: &Stage<'_>, attachment: &str, nexts: &[Next]) {
    let mut number = 10;
    for point in Point::ALL.iter().copied() {
        for (program, command, stays) in fate(point) {
            for next in nexts.iter().copied() {
                number += 1;
                println!("{attachment} {} {command} {next:?}", point.name());
                let container = Container::make(stage.lab, "n1", number);
                if command != "ADD" {
                    container.add();
                }
                match program {
                    "tartand" => drop(stage.with_dying_agent(point, &container, command, command == "ADD")),
                    _ => drop(stage.with_dying_plugin(point, &container, command)),
                }
                stage.clear(&container, next, stays);
                stage.assert_nothing_left(&container);
                stage.assert_addable(&container);
            }
        }
    }
}

/// The IPv4 address of the living pod with this number.
fn pods_address<'a>(stage: &'a Stage<'_>, number: usize) -> &'a str {
    let mut v4 = stage.living.iter().filter(|address| address.contains('.'));
    v4.nth(number).and_then(|address| address.split('/').next()).expect("an address")
}

#[test]
fn an_agent_that_dies_in_an_add_has_the_runtime_try_again() {
    let lab = Lab::up("t-fault", &["--nodes", "1", "--pods", "0"]);
    let stage = Stage { before: state(&lab), kept: Vec::new(), living: BTreeSet::new(), lab: &lab };
    let container = Container::make(&lab, "n1", 1);
    let run = stage.with_dying_agent(Point::AddHost, &container, "ADD", true);
    assert_eq!((run.code, run.json()["code"].as_u64()), (1, Some(11)), "{run:?}");
    // A DEL is idempotent, so the plugin itself asks the next agent.
    container.del();
    container.add();
    let run = stage.with_dying_agent(Point::DelShut, &container, "DEL", true);
    assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{run:?}");
    stage.assert_nothing_left(&container);
}
