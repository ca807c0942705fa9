//! Verdicts over time: what lives when policy changes, when agents die, when pods come.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

mod births;
mod cut;
mod deaths;
mod streams;

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tartan_scenarios::{Lab, inside, programs};

/// A lab with policy on two nodes, with no pods.
fn lab(name: &str, attachment: &str) -> Lab {
    let attachment = format!("attachment={attachment}");
    let args = ["--preset", "canal", "--nodes", "2", "--pods", "0", "--family", "dual", "--set", &attachment];
    Lab::up(name, &args)
}

/// Makes pods of namespace `default`, each `name@node` with the label `app` as its name.
#[track_caller]
fn add_pods(lab: &Lab, pods: &[&str]) {
    for pod in pods {
        let (name, node) = pod.split_once('@').unwrap();
        let label = format!("app={name}");
        lab.lab(&["pod", "add", name, "--node", node, "-l", &label]).ok();
    }
}

/// Applies objects, and waits until every agent has them in its kernel.
#[track_caller]
fn apply(lab: &Lab, objects: &str) {
    let mut tartan = Command::new(programs().join("tartan"));
    tartan.args(["--lab", lab.name(), "--node", "n1", "apply", "--wait", "-f", "-"]);
    let mut child = tartan.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it starts");
    child.stdin.take().unwrap().write_all(objects.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{objects}");
}

/// A policy for what pods of an app receive: from pods of these apps only.
fn only_from(app: &str, from: &[&str]) -> String {
    let peers: Vec<String> =
        from.iter().map(|app| format!("{{podSelector: {{matchLabels: {{app: {app}}}}}}}")).collect();
    let rules = match peers.is_empty() {
        true => "[]".into(),
        false => format!("[{{from: [{}]}}]", peers.join(", ")),
    };
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: to-{app}}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: {app}}}}}\n  policyTypes: [Ingress]\n  ingress: {rules}\n"
    )
}

/// Whether a TCP connection opens from a namespace, within a second.
fn connects(from: &Path, to: IpAddr, port: u16) -> bool {
    let connect = || std::net::TcpStream::connect_timeout(&(to, port).into(), Duration::from_secs(1)).is_ok();
    inside(from, connect)
}
