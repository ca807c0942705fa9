//! What a test does with a lab's agents: it ends and starts them, waits for them, and asks what they have.

use std::time::Duration;

use nix::sys::signal::Signal;
use tartan_netlab::agent;
use tartan_netlab::names::{LabName, LabNode};
use tartan_netlab::programs::Programs;

use crate::{Lab, Run, holds_within, programs};

/// How long agents may take to be well.
const PATIENCE: Duration = Duration::from_secs(30);

impl Lab {
    /// Ends a node's agent by a signal; returns when it has ended.
    #[track_caller]
    pub fn end_agent(&self, node: &str, signal: Signal) {
        let (lab, node) = self.names(node);
        agent::end(&lab, &node, signal).expect("an agent that ends");
    }

    /// Starts a node's agent and waits until it answers, whether it is healthy or not.
    #[track_caller]
    pub fn start_agent(&self, node: &str) {
        let (lab, node) = self.names(node);
        let programs = Programs::within(programs()).expect("all programs");
        agent::start(&lab, &node, &programs).expect("it starts");
        agent::wait_for_answer(&lab, &node, PATIENCE, &|| Ok(())).expect("it answers");
    }

    /// Starts a node's agent and waits until it is healthy.
    #[track_caller]
    pub fn start_healthy(&self, node: &str) {
        self.start_agent(node);
        self.wait_until_healthy(&[node]);
    }

    /// Starts a node's agent anew with a line of its configuration put in, or put in place of that of the same key.
    #[track_caller]
    pub fn configure(&self, node: &str, line: &str) {
        self.lab(&["fault", "add", "stop", node]).ok();
        let file = self.file(node, "tartand.toml");
        let text = std::fs::read_to_string(&file).expect("a configuration");
        let key = line.split(' ').next().expect("a key");
        let others: Vec<&str> = text.lines().filter(|other| !other.starts_with(&format!("{key} "))).collect();
        std::fs::write(&file, format!("{}\n{line}\n", others.join("\n"))).expect("to write");
        self.lab(&["fault", "rm", "stop", node]).ok();
    }

    /// Waits until these agents are healthy, which they must be in time.
    #[track_caller]
    pub fn wait_until_healthy(&self, nodes: &[&str]) {
        for node in nodes {
            let is_healthy = holds_within(PATIENCE, || self.verb(node, &["status"]).code == 0);
            assert!(is_healthy, "{node} is not healthy: {}", self.verb(node, &["status"]).stdout);
        }
    }

    /// A node and a pod that come now are reached by all, and reach all.
    #[track_caller]
    pub fn join(&self, node: &str, pod: &str, pods: usize) {
        self.lab(&["node", "add", node]).ok();
        self.lab(&["pod", "add", pod, "--node", node]).ok();
        assert!(self.full_within(PATIENCE).is_some(), "{pod} on {node} is not reached");
        self.assert_full(pods, &[]);
    }

    /// The blocks that a node has, in order, as another one knows them.
    #[track_caller]
    pub fn blocks(&self, asked: &str, node: &str) -> Vec<String> {
        let rows = self.ask(asked, &["ipam"]);
        let mine = rows.as_array().expect("a list").iter().filter(|row| row["node"] == node);
        mine.map(|row| row["block"].as_str().expect("text").to_owned()).collect()
    }

    /// What a node's kernel has of its peers: routes, neighbors and forwarding entries.
    #[track_caller]
    pub fn ways(&self, node: &str) -> String {
        let commands: [&[&str]; 4] = [
            &["ip", "route"],
            &["ip", "-6", "route"],
            &["ip", "neigh", "show", "nud", "permanent"],
            &["bridge", "fdb", "show", "dev", "tartan.1"],
        ];
        // The kernel lists neighbors as its hash table has them, which grows with those of all namespaces.
        let sorted = |command| {
            let text = self.on_node(node, command);
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            lines.join("\n")
        };
        commands.map(sorted).join("\n\n")
    }

    /// Applies a ClusterNetwork by the first node's agent, and waits until every agent has it.
    pub fn apply(&self, name: &str, spec: &str) -> Run {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("network.yaml");
        let text = format!(
            "apiVersion: tartan.dev/v1alpha1\nkind: ClusterNetwork\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        );
        std::fs::write(&file, text).expect("a file");
        self.verb("n1", &["apply", "--wait", "-f", file.to_str().expect("text")])
    }

    fn names(&self, node: &str) -> (LabName, LabNode) {
        (self.name().parse().expect("a lab's name"), node.parse().expect("a node's name"))
    }
}
