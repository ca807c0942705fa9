//! Starts the command line against an agent with prepared answers, one for each verb.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tartan_api::object::ObjectKind;
use tartan_api::rpc::{Answer, Failure, FailureCode, Request};
use tartan_rpc::{Client, Handler, Server, Serving};
use tempfile::TempDir;

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Starts the program with these words and nothing on standard input.
pub(crate) fn tartan(words: &[&str]) -> Ran {
    run(Command::new(env!("CARGO_BIN_EXE_tartan")).args(words), "")
}

/// Starts a program; `TARTAN_SOCKET` is only what the command sets.
pub(crate) fn run(command: &mut Command, input: &str) -> Ran {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// An agent, and a folder to put files into.
pub(crate) struct Agent {
    folder: TempDir,
    handler: Arc<Prepared>,
    _serving: Serving,
}

#[derive(Default)]
struct Prepared {
    failure: Option<Failure>,
    empty: bool,
    unhealthy: bool,
    asked: Mutex<Vec<Request>>,
}

impl Handler for Prepared {
    fn handle(&self, request: Request, _: Option<OwnedFd>, _: Client) -> Answer {
        let answer = match &self.failure {
            Some(failure) => Answer::Error(failure.clone()),
            None if self.empty => Answer::Ok(json!([])),
            None => Answer::Ok(answer(&request, !self.unhealthy)),
        };
        self.asked.lock().unwrap().push(request);
        answer
    }
}

impl Agent {
    pub(crate) fn new() -> Agent {
        Agent::serving(Prepared::default())
    }

    pub(crate) fn empty() -> Agent {
        Agent::serving(Prepared { empty: true, ..Prepared::default() })
    }

    pub(crate) fn unhealthy() -> Agent {
        Agent::serving(Prepared { unhealthy: true, ..Prepared::default() })
    }

    pub(crate) fn failing(code: FailureCode, message: &str) -> Agent {
        let failure = Some(Failure { code, message: message.into() });
        Agent::serving(Prepared { failure, ..Prepared::default() })
    }

    fn serving(prepared: Prepared) -> Agent {
        let folder = tempfile::tempdir().unwrap();
        let handler = Arc::new(prepared);
        let server = Server::bind(&folder.path().join("tartand.sock")).unwrap();
        Agent { folder, handler: handler.clone(), _serving: server.serve(handler).unwrap() }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("tartand.sock")
    }

    pub(crate) fn tartan(&self, words: &[&str]) -> Ran {
        self.tartan_reading(words, "")
    }

    pub(crate) fn tartan_reading(&self, words: &[&str], input: &str) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tartan"));
        run(command.args(words).env("TARTAN_SOCKET", self.socket()).current_dir(&self.folder), input)
    }

    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What it was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<Value> {
        let asked = std::mem::take(&mut *self.handler.asked.lock().unwrap());
        asked.iter().map(|request| serde_json::to_value(request).unwrap()).collect()
    }
}

/// A ClusterNetwork that `name` is filled into.
pub(crate) fn network(name: &str) -> String {
    format!(
        "apiVersion: tartan.dev/v1alpha1\nkind: ClusterNetwork\nmetadata: {{name: {name}}}\nspec: {{encryption: \"off\"}}\n"
    )
}

fn answer(request: &Request, healthy: bool) -> Value {
    match request {
        Request::Status => json!({
            "node": "n1", "id": "0123456789abcdef0123456789abcdef", "version": "0.1.0", "healthy": healthy,
            "reasons": if healthy { vec![] } else { vec!["2 rows are not in the kernel", "the store is away"] },
            "warnings": ["peer n3: no answer through vxlan"], "store": {"kind": "sqlite", "connected": true}, "fabric": "overlay",
            "uplink": {"interface": "eth0", "mtu": 1500, "addresses": ["192.0.2.1/24"]},
            "peers": {"up": 1, "total": 2}, "endpoints": 2, "guards": "programs", "policies": 0,
            "networks": [
                {"name": "default", "attachment": "bridge", "mtu": 1450, "blocks": ["10.244.1.0/24"]},
                {"name": "blue", "attachment": "routed", "mtu": null, "blocks": []},
            ],
            "last_error": "the store\ndid not answer", "since": "2026-11-23T22:59:32Z",
        }),
        Request::Nodes => json!([
            {"name": "n1", "id": "0123456789abcdef0123456789abcdef", "addresses": ["192.0.2.1/24", "fd00::1/64"],
             "alive": true, "this": true, "blocks": ["10.244.1.0/24"]},
            {"name": "node-2.example", "id": "1123456789abcdef0123456789abcdef", "addresses": ["192.0.2.2/24"],
             "alive": false, "this": false, "blocks": []},
        ]),
        Request::Peers => json!([
            {"node": "n2", "address": "192.0.2.2", "path": "vxlan", "sealed": false, "mtu": 1450, "rtt_ms": 0.4321, "health": "works",
             "since": "2026-11-23T23:00:00Z", "blocked": [], "blocks": ["10.244.2.0/24", "fd00:10:244:2::/64"]},
            {"node": "n3", "address": null, "path": null, "sealed": false, "mtu": null, "rtt_ms": null, "since": null,
             "blocked": [{"path": "vxlan", "reason": "its lease is over"}], "blocks": []},
        ]),
        Request::Probe { peers } => {
            let row = |node: &str, ok: bool| {
                json!({"node": node, "network": "default", "path": "vxlan", "local": "10.244.1.0",
                "remote": "10.244.2.0", "mtu": 1450, "small_ms": 0.25, "full_ms": ok.then_some(0.5), "ok": ok,
                "reason": (!ok).then_some("large packets are lost: 1450 bytes get no answer, small ones do")})
            };
            let all = [row("n2", true), row("n3", false)];
            let is_wanted =
                |row: &&Value| peers.is_empty() || peers.iter().any(|name| row["node"] == name.as_str());
            all.iter().filter(is_wanted).cloned().collect()
        }
        Request::Endpoints => json!([
            {"pod": "default/p1", "network": "default", "addresses": ["10.244.1.2", "fd00:10:244:1::2"],
             "mac": "02:00:00:00:00:02", "attachment": "bridge", "link": "tt0123456789ab",
             "container": "c0ffee00c0ffee00c0ffee00", "interface": "eth0", "ready": true, "denied": {"ipv4": 3}},
        ]),
        Request::Denied => json!([
            {"pod": "default/p1", "link": "tt0123456789ab", "reason": "ipv4", "packets": 3, "bytes": 252},
            {"pod": null, "link": "eth0", "reason": "tunnel", "packets": 1, "bytes": 120},
            {"pod": "default/p1", "link": "ttfedcba987654", "reason": "policy", "packets": 5, "bytes": 300,
             "direction": "ingress", "from": {"pod": "default/p1", "address": "10.244.1.2"},
             "to": {"pod": "shop/db", "address": "10.244.1.3"}, "protocol": "tcp", "port": 5432, "icmp_type": null,
             "policy": {"kind": "NetworkPolicy", "namespace": "shop", "name": "closed", "index": null, "source": null},
             "default": true, "first": "2026-01-02T03:04:05Z", "last": "2026-01-02T03:04:06Z"},
            {"pod": null, "link": null, "reason": "policy", "packets": 1, "bytes": 104, "direction": "egress",
             "from": {"node": "n2", "address": "fd00::2"}, "to": {"address": "2001:db8::7"}, "protocol": "icmpv6",
             "port": null, "icmp_type": 128, "policy": null, "default": false, "first": "2026-01-02T03:04:05Z",
             "last": "2026-01-02T03:04:05Z"},
        ]),
        Request::Ipam => json!([
            {"network": "default", "pool": "10.244.0.0/16", "block": "10.244.1.0/24", "node": "n1", "used": 2,
             "capacity": 253},
            {"network": "default", "pool": "10.244.0.0/16", "block": "10.244.2.0/24", "node": "n2", "used": null,
             "capacity": 253},
        ]),
        Request::Routes => json!([
            {"dst": "10.244.2.0/24", "via": "10.244.2.0", "dev": "tartan.1", "purpose": "peer n2", "installed": true},
            {"dst": "10.244.1.0/24", "via": null, "dev": null, "purpose": "block", "installed": false},
        ]),
        Request::Plan { objects } if objects.is_empty() => json!({"steps": [], "notes": []}),
        Request::Plan { .. } => json!({"steps": ["+ link tartan.1", "- route 10.9.0.0/16"],
            "notes": ["peer n3: no underlay address of this family"]}),
        Request::Apply { objects } => objects
            .iter()
            .map(|object| json!({"kind": object.kind(), "name": object.name(), "action": "created"}))
            .collect(),
        Request::Get { kind: ObjectKind::NetworkPolicy, .. } => json!([
            {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
             "metadata": {"name": "web", "namespace": "shop", "annotations": {"tartan.dev/applied-from": "shop.yaml:3"}},
             "spec": {"podSelector": {"matchLabels": {"app": "web"}, "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"}]},
                "policyTypes": ["Ingress", "Egress"], "ingress": [{}, {}]}},
            {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny", "namespace": "default"},
             "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}},
        ]),
        Request::Get { kind: ObjectKind::Pod, .. } => json!([
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-0", "namespace": "shop", "labels": {"app": "web"}},
             "spec": {"serviceAccountName": "robot", "containers": [{"ports": [
                {"name": "http", "containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]}]}},
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}},
        ]),
        Request::Get { kind: ObjectKind::Namespace, .. } => json!([
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "blue", "x/y": ""}}},
        ]),
        Request::Get { kind: ObjectKind::ServiceAccount, .. } => json!([]),
        Request::Get { name, .. } => [name.as_deref().unwrap_or("default"), "blue"]
            .iter()
            .take(if name.is_some() { 1 } else { 2 })
            .map(|name| {
                json!({"apiVersion": "tartan.dev/v1alpha1", "kind": "ClusterNetwork",
                "metadata": {"name": name}, "spec": {"pools": [{"cidr": "10.244.0.0/16", "blockSize": 24}],
                "masquerade": false, "encryption": "off"}})
            })
            .collect(),
        Request::Leave(leave) if leave.force => json!({"node": "n1", "blocks": [], "pods": [], "store": null,
            "stays": ["link tartan.1: Operation not permitted"]}),
        Request::Leave(_) => json!({"node": "n1", "pods": [], "store": null,
            "blocks": [{"network": "default", "block": "10.244.1.0/24"}]}),
        Request::Delete { kind, name } => json!({"kind": kind, "name": name, "action": "deleted"}),
        other => json!({"not prepared": other}),
    }
}
