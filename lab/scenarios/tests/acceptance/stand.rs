//! Where the trials are made: three nodes with a pod each, both families.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tartan_scenarios::{Lab, Run, holds_within};

/// How long what was damaged may take to be right again: five times the goal.
const REPAIR: Duration = Duration::from_secs(5);

/// The lab of the trials. Each leaves it as it found it.
pub(crate) struct Stand {
    pub(crate) lab: Lab,
}

impl Stand {
    pub(crate) fn up() -> Stand {
        let args = ["--store", "etcd", "--nodes", "3", "--pods", "1", "--family", "dual"];
        Stand { lab: Lab::up("t-accept", &args) }
    }

    /// Every pod reaches every pod, every agent is healthy, and none has anything left to do.
    pub(crate) fn is_whole(&self, after: &str) {
        let full = self.lab.full_within(REPAIR);
        if full.is_none() {
            let nodes = ["n1", "n2", "n3"].map(|node| {
                ["status", "ipam", "routes"].map(|verb| self.lab.verb(node, &[verb]).stdout).join("\n")
            });
            panic!(
                "after {after}:\n{}\n{}",
                self.lab.lab(&["matrix"]).stdout + &self.lab.lab(&["status"]).stdout,
                nodes.join("\n")
            );
        }
        self.lab.wait_until_healthy(&["n1", "n2", "n3"]);
        for node in ["n1", "n2", "n3"] {
            let rests = || self.lab.ask(node, &["plan"])["steps"].as_array().is_some_and(Vec::is_empty);
            assert!(holds_within(REPAIR, rests), "after {after} {node} has something left to do");
        }
    }

    /// A command on a node, its words apart by spaces.
    pub(crate) fn node(&self, node: &str, command: &str) -> String {
        self.lab.on_node(node, &command.split(' ').collect::<Vec<_>>())
    }

    /// A command in a pod, which may fail.
    pub(crate) fn pod(&self, pod: &str, command: &str) -> Run {
        let words: Vec<&str> = command.split(' ').collect();
        self.lab.lab(&[&["exec", pod, "--"], words.as_slice()].concat())
    }

    /// Adds a fault, its words apart by spaces.
    pub(crate) fn fault(&self, fault: &str) {
        let words: Vec<&str> = fault.split(' ').collect();
        self.lab.lab(&[&["fault", "add"], words.as_slice()].concat()).ok();
    }

    /// Heals everything, and starts the agents that were ended.
    pub(crate) fn heal(&self) {
        self.lab.lab(&["fault", "clear"]).ok();
    }

    /// The blocks of a node, as one that has them says.
    pub(crate) fn blocks(&self, node: &str) -> Vec<String> {
        let mut blocks = self.lab.blocks(node, node);
        blocks.sort();
        blocks
    }

    /// The addresses of a pod of namespace `default`.
    pub(crate) fn addresses(&self, pod: &str) -> Vec<IpAddr> {
        self.lab.addresses(&format!("default/{pod}"))
    }

    /// The time until something holds again, which must be soon; as text.
    pub(crate) fn until(&self, what: &str, holds: impl FnMut() -> bool) -> String {
        let start = Instant::now();
        assert!(holds_within(REPAIR, holds), "not within {REPAIR:?}: {what}");
        format!("{} ms", start.elapsed().as_millis())
    }

    /// A node leaves the cluster, and goes.
    pub(crate) fn leave(&self, node: &str) {
        self.lab.verb(node, &["node", "leave"]).ok();
        self.lab.lab(&["node", "rm", node]).ok();
    }
}
