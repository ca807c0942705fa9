//! The etcd of a lab whose nodes talk in IPv4, asked past the agents.

use crate::Lab;

/// Where its first member answers, and what the keys of the store's entries begin with.
const ENDPOINT: &str = "http://172.30.255.254:2379";
const ENTRIES: &str = "/tartan/entry/";

impl Lab {
    /// Runs `etcdctl`, which must succeed, and gives its output.
    #[track_caller]
    pub fn etcdctl(&self, args: &[&str]) -> String {
        let command = ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", ENDPOINT];
        self.on_node("n1", &[&command, args].concat())
    }

    /// The keys of the entries that begin so, as in `node/`.
    #[track_caller]
    pub fn etcd_keys(&self, prefix: &str) -> Vec<String> {
        let keys = self.etcdctl(&["get", &format!("{ENTRIES}{prefix}"), "--prefix", "--keys-only"]);
        keys.lines().filter_map(|line| line.strip_prefix(ENTRIES)).map(str::to_owned).collect()
    }

    /// Takes an entry out of the store.
    #[track_caller]
    pub fn etcd_forget(&self, key: &str) {
        self.etcdctl(&["del", &format!("{ENTRIES}{key}")]);
    }
}
