//! The plugin, called as a runtime calls it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde_json::{Value, json};
use tartan_kernel::netns;

use crate::{Lab, Run, interrupt, programs};

/// A container that the plugin is called for, with a network namespace of its own.
pub struct Container {
    id: String,
    name: String,
    socket: PathBuf,
}

impl Container {
    /// Makes the namespace of a container on a node of a lab.
    pub fn make(lab: &Lab, node: &str, number: usize) -> Container {
        let _going_on = interrupt::going_on();
        let name = format!("tartan-{}_test_c{number}", lab.name());
        netns::create(&name).expect("a namespace");
        let id = format!("c{number:04}-{}", Pid::this());
        Container { id, name, socket: lab.file(node, "tartand.sock") }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The path of the namespace.
    pub fn netns(&self) -> PathBuf {
        Path::new(netns::DIRECTORY).join(&self.name)
    }

    /// Calls the plugin, and says how long that took, its start included.
    pub fn call(&self, command: &str) -> (Run, Duration) {
        run_plugin(&mut self.command(command), &self.conf())
    }

    /// The plugin's command line and environment.
    pub fn command(&self, command: &str) -> Command {
        let mut plugin = Command::new(programs().join("tartan-cni"));
        plugin
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &self.id)
            .env("CNI_NETNS", self.netns())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/nonexistent");
        plugin
    }

    /// What the plugin gets on its standard input.
    pub fn conf(&self) -> Value {
        json!({"cniVersion": "1.1.0", "name": "tartan", "type": "tartan-cni", "socket": self.socket})
    }

    /// ADD, which must succeed: the result.
    #[track_caller]
    pub fn add(&self) -> Value {
        self.call("ADD").0.ok().json()
    }

    /// DEL, which must succeed.
    #[track_caller]
    pub fn del(&self) {
        self.call("DEL").0.ok();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // What is gone already need not be removed.
        let _ = netns::remove(&self.name);
    }
}

/// Runs a plugin's command with a configuration on its standard input.
pub fn run_plugin(command: &mut Command, conf: &Value) -> (Run, Duration) {
    let _going_on = interrupt::going_on();
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the plugin starts");
    // A plugin that stops reading says why.
    let _ = child.stdin.take().expect("a pipe").write_all(conf.to_string().as_bytes());
    let output = child.wait_with_output().expect("the plugin ends");
    let run = Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    (run, start.elapsed())
}
