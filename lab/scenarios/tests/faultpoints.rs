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

use nix::sys::signal::Signal;
use serde_json::json;
use tartan_fault::{Point, VARIABLE};
use tartan_scenarios::before::{addresses, assert_back, kept_endpoints, state};
use tartan_scenarios::{Container, Lab, Run, programs, run_plugin};

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
        // The plugin asks the next agent again, so the DEL itself is done in the end.
        Point::DelTaken | Point::DelShut | Point::DelReleased | Point::DelAnswered => {
            vec![("tartand", "DEL", false)]
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

    /// The command during which the agent dies; the lab's own agent is back at its end.
    fn with_dying_agent(&self, point: Point, container: &Container, command: &str) -> Run {
        let agent = self.mortal_agent(point);
        std::thread::scope(|scope| {
            let call = scope.spawn(|| container.call(command).0);
            let end = agent.wait_with_output().expect("it ends");
            let log = String::from_utf8_lossy(&end.stderr);
            assert_eq!(
                end.status.signal(),
                Some(Signal::SIGKILL as i32),
                "{}: it lived: {log}",
                point.name()
            );
            self.start_agent();
            call.join().expect("a call")
        })
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
            Next::Gc => {
                let valid = ("cni.dev/valid-attachments", json!([]));
                container.call_with("GC", &[valid]).ok();
            }
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
        assert_eq!(kept_endpoints(self.lab), self.kept);
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

#[test]
fn whoever_dies_at_whatever_point_leaves_nothing_that_the_next_step_does_not_clear() {
    let args = ["--nodes", "1", "--pods", "0", "--family", "dual", "--set", "attachment=routed"];
    let lab = Lab::up("t-fault", &args);
    // Of another network by the runtime's name, so that no GC is about them.
    let living: Vec<Container> = (0..2).map(|n| Container::make(&lab, "n1", n)).collect();
    let pods: Vec<Container> = living.iter().map(|one| one.beside("eth0", "default", "living")).collect();
    let given = pods.iter().flat_map(|pod| addresses(&pod.add())).collect();
    let stage = Stage { before: state(&lab), kept: kept_endpoints(&lab), living: given, lab: &lab };
    let mut number = 10;
    for point in Point::ALL.iter().copied() {
        for (program, command, stays) in fate(point) {
            for next in [Next::Del, Next::Gc, Next::Restart] {
                number += 1;
                println!("{} {command} {next:?}", point.name());
                let container = Container::make(&lab, "n1", number);
                if command == "DEL" {
                    container.add();
                }
                match program {
                    "tartand" => drop(stage.with_dying_agent(point, &container, command)),
                    _ => drop(stage.with_dying_plugin(point, &container, command)),
                }
                stage.clear(&container, next, stays);
                stage.assert_nothing_left(&container);
                stage.assert_addable(&container);
            }
        }
    }
    assert!(pods[0].pings("eth0", pods_address(&stage, 1)), "the living live");
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
    let run = stage.with_dying_agent(Point::AddHost, &container, "ADD");
    assert_eq!((run.code, run.json()["code"].as_u64()), (1, Some(11)), "{run:?}");
    // A DEL is idempotent, so the plugin itself asks the next agent.
    container.del();
    container.add();
    let run = stage.with_dying_agent(Point::DelShut, &container, "DEL");
    assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{run:?}");
    stage.assert_nothing_left(&container);
}
