//! The plugin, called as a runtime calls it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
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
    interface: String,
    /// The network by the runtime's name.
    list: String,
    network: String,
    /// Whether the namespace goes with this.
    first: bool,
}

impl Container {
    /// Makes the namespace of a container on a node of a lab.
    pub fn make(lab: &Lab, node: &str, number: usize) -> Container {
        let _going_on = interrupt::going_on();
        let name = format!("tartan-{}_test_c{number}", lab.name());
        netns::create(&name).expect("a namespace");
        let id = format!("c{number:04}-{}", Pid::this());
        let [interface, list, network] = ["eth0", "tartan", "default"].map(String::from);
        Container { id, name, socket: lab.file(node, "tartand.sock"), interface, list, network, first: true }
    }

    /// Another interface of the same container, in a network by our and the runtime's name.
    pub fn beside(&self, interface: &str, network: &str, list: &str) -> Container {
        let (id, name, socket) = (self.id.clone(), self.name.clone(), self.socket.clone());
        let [interface, network, list] = [interface, network, list].map(String::from);
        Container { id, name, socket, interface, list, network, first: false }
    }

    /// The same container, for another network.
    pub fn into_network(mut self, network: &str) -> Container {
        self.network = network.into();
        self
    }

    /// Runs `ip` in the namespace, which must succeed.
    #[track_caller]
    pub fn ip(&self, args: &str) -> String {
        let mut command = Command::new("ip");
        crate::run_command(command.args(["-n", &self.name]).args(args.split(' '))).ok().stdout
    }

    /// Whether an address answers to a ping from the namespace, within a second, sent from `source`.
    pub fn pings(&self, source: &str, address: &str) -> bool {
        let mut command = Command::new("ip");
        let ping = ["ping", "-n", "-q", "-c", "1", "-W", "1", "-I", source, address];
        crate::run_command(command.args(["netns", "exec", &self.name]).args(ping)).code == 0
    }

    /// Takes the namespace away and makes a new one by the same name.
    pub fn renew(&self) {
        netns::remove(&self.name).expect("it is there");
        netns::create(&self.name).expect("a namespace");
    }

    /// Calls the plugin with more in its configuration.
    pub fn call_with(&self, command: &str, more: &[(&str, Value)]) -> Run {
        let mut conf = self.conf();
        more.iter().for_each(|(key, value)| conf[*key] = value.clone());
        run_plugin(&mut self.command(command), &conf).0
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
            .env("CNI_IFNAME", &self.interface)
            .env("CNI_PATH", "/nonexistent");
        plugin
    }

    /// What the plugin gets on its standard input.
    pub fn conf(&self) -> Value {
        json!({"cniVersion": "1.1.0", "name": self.list, "type": "tartan-cni", "socket": self.socket,
            "network": self.network})
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
        if self.first {
            // What is gone already need not be removed.
            let _ = netns::remove(&self.name);
        }
    }
}

/// Runs a plugin's command with a configuration on its standard input.
pub fn run_plugin(command: &mut Command, conf: &Value) -> (Run, Duration) {
    let _going_on = interrupt::going_on();
    let start = Instant::now();
    let output = start_plugin(command, conf).wait_with_output().expect("the plugin ends");
    (output.into(), start.elapsed())
}

/// Starts a plugin's command with a configuration on its standard input.
pub fn start_plugin(command: &mut Command, conf: &Value) -> Child {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the plugin starts");
    // A plugin that stops reading says why.
    let _ = child.stdin.take().expect("a pipe").write_all(conf.to_string().as_bytes());
    child
}
