//! A lab as a test holds it: made by the real command line, taken down when the test ends, however it ends.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Lock, interrupt, lock};

/// What a program did.
#[derive(Debug)]
pub struct Run {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Run {
    /// The output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The same run, which must have succeeded.
    #[track_caller]
    pub fn ok(self) -> Run {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Run {
        Run {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The folder of the programs under test: that of this test, without `deps`.
pub fn programs() -> PathBuf {
    let test = std::env::current_exe().expect("this program has a path");
    test.parent().and_then(|deps| deps.parent()).expect("tests are in target/PROFILE/deps").to_path_buf()
}

/// Runs one of our programs to its end.
pub fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Run {
    run_command(Command::new(programs().join(program)).args(args))
}

/// Runs any command to its end.
pub fn run_command(command: &mut Command) -> Run {
    let _going_on = interrupt::going_on();
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    output.into()
}

/// A lab that is up.
pub struct Lab {
    name: String,
    held: Option<Lock>,
}

impl Lab {
    /// Brings up a lab of this name; waits for other tests to end first.
    #[track_caller]
    pub fn up(name: &str, args: &[&str]) -> Lab {
        let lock = lock();
        let mut lab = Lab::beside(name, args);
        lab.held = Some(lock);
        lab
    }

    /// Brings up a lab beside one that this test has already.
    #[track_caller]
    pub fn beside(name: &str, args: &[&str]) -> Lab {
        interrupt::take_along(name);
        run("tartan", ["lab", "down", "--name", name]).ok();
        let lab = Lab { name: name.into(), held: None };
        lab.lab(&[&["up"], args].concat()).ok();
        lab
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `tartan lab …` on this lab.
    pub fn lab(&self, args: &[&str]) -> Run {
        run("tartan", ["lab", "--name", &self.name].iter().chain(args))
    }

    /// `tartan …` of a node's agent.
    pub fn verb(&self, node: &str, args: &[&str]) -> Run {
        run("tartan", ["--lab", &self.name, "--node", node].iter().chain(args))
    }

    /// The JSON of a verb that must succeed.
    #[track_caller]
    pub fn ask(&self, node: &str, args: &[&str]) -> Value {
        self.verb(node, &[args, &["-o", "json"]].concat()).ok().json()
    }

    /// Runs a command on a node, which must succeed, and gives its output.
    #[track_caller]
    pub fn on_node(&self, node: &str, command: &[&str]) -> String {
        self.lab(&[&["node", "exec", node, "--"], command].concat()).ok().stdout
    }

    /// Runs a command in a pod, which must succeed, and gives its output.
    #[track_caller]
    pub fn in_pod(&self, pod: &str, command: &[&str]) -> String {
        self.lab(&[&["exec", pod, "--"], command].concat()).ok().stdout
    }

    /// The addresses of a pod.
    #[track_caller]
    pub fn addresses(&self, pod: &str) -> Vec<std::net::IpAddr> {
        let status = self.lab(&["status", "-o", "json"]).ok().json();
        let pods = status["pods"].as_array().expect("a list of pods").clone();
        let pod =
            pods.iter().find(|row| row["name"] == pod).unwrap_or_else(|| panic!("no {pod} in {status}"));
        let texts = pod["addresses"].as_array().expect("a list of addresses").clone();
        texts.iter().map(|text| text.as_str().expect("text").parse().expect("an address")).collect()
    }

    /// Asserts that every one of `pods` pods reaches every one, itself included.
    #[track_caller]
    pub fn assert_full(&self, pods: usize, args: &[&str]) {
        let matrix = self.lab(&[&["matrix", "-o", "json"], args].concat());
        let rows = matrix.json();
        let rows = rows.as_object().expect("an object of rows");
        assert_eq!(rows.len(), pods, "{matrix:?}");
        for (from, row) in rows {
            let row = row.as_object().expect("an object of answers");
            assert_eq!(row.len(), pods, "row of {from}: {matrix:?}");
            for (to, reached) in row {
                assert_eq!(*reached, Value::Bool(true), "{from} does not reach {to} {args:?}");
            }
        }
        assert_eq!(matrix.code, 0);
    }

    /// Waits until every pod reaches every one, and says how long that took; None if it is not so in time.
    pub fn full_within(&self, patience: Duration) -> Option<Duration> {
        let start = Instant::now();
        while start.elapsed() < patience {
            let matrix = self.lab(&["matrix", "-o", "json"]);
            if matrix.code == 0 && start.elapsed() < patience {
                return Some(start.elapsed());
            }
        }
        None
    }

    /// Asserts that every pod reaches every one but these, in both directions.
    #[track_caller]
    pub fn assert_cut(&self, cut: &[(&str, &str)], args: &[&str]) {
        let matrix = self.lab(&[&["matrix", "-o", "json"], args].concat());
        let rows = matrix.json();
        for (from, row) in rows.as_object().expect("an object of rows") {
            for (to, reached) in row.as_object().expect("an object of answers") {
                let is_cut = cut.iter().any(|(a, b)| {
                    [(a, b), (b, a)].iter().any(|(a, b)| from.ends_with(**a) && to.ends_with(**b))
                });
                assert_eq!(*reached, Value::Bool(!is_cut), "{from} to {to} {args:?}: {matrix:?}");
            }
        }
        assert_eq!(matrix.code, i32::from(!cut.is_empty()));
    }

    /// The path of a file of a node.
    pub fn file(&self, node: &str, name: &str) -> PathBuf {
        PathBuf::from("/run/tartan-lab").join(&self.name).join(node).join(name)
    }

    /// The process id of a node's agent.
    pub fn agent(&self, node: &str) -> i32 {
        let text = std::fs::read_to_string(self.file(node, "tartand.pid")).expect("a pid file");
        text.trim().parse().expect("a pid")
    }

    /// The network namespace of a node or pod, as in `n1` or `default_p1`.
    pub fn netns(&self, place: &str) -> PathBuf {
        PathBuf::from(format!("/run/netns/tartan-{}_{place}", self.name))
    }

    /// Takes the lab down, which must succeed.
    #[track_caller]
    pub fn down(self) {
        self.lab(&["down"]).ok();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (node, log) in logs(&self.name) {
                eprintln!("--- the end of the log of {node}:\n{log}");
            }
        }
        let down = self.lab(&["down"]);
        if down.code != 0 {
            eprintln!("cannot take the lab down: {down:?}");
        }
    }
}

/// The last lines of every agent's log.
fn logs(lab: &str) -> Vec<(String, String)> {
    let nodes = std::fs::read_dir(format!("/run/tartan-lab/{lab}")).into_iter().flatten().flatten();
    nodes
        .filter_map(|node| {
            let log = std::fs::read_to_string(node.path().join("tartand.log")).ok()?;
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(15)..].join("\n");
            Some((node.file_name().to_string_lossy().into_owned(), end))
        })
        .collect()
}
