//! Policies: labs that have them, pods that they tell apart by the label `app`, and objects as they are applied or written.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::{Lab, programs};

/// A lab with policy on two nodes, with no pods.
#[track_caller]
pub fn lab(name: &str, attachment: &str) -> Lab {
    let attachment = format!("attachment={attachment}");
    let args = ["--preset", "canal", "--nodes", "2", "--pods", "0", "--family", "dual", "--set", &attachment];
    Lab::up(name, &args)
}

/// Makes pods of namespace `default`, each `name@node` with the label `app` as its name.
#[track_caller]
pub fn add_pods(lab: &Lab, pods: &[&str]) {
    for pod in pods {
        let (name, node) = pod.split_once('@').expect("name@node");
        let label = format!("app={name}");
        lab.lab(&["pod", "add", name, "--node", node, "-l", &label]).ok();
    }
}

/// Applies objects, and waits until every agent has them in its kernel.
#[track_caller]
pub fn apply(lab: &Lab, objects: &str) {
    let mut tartan = Command::new(programs().join("tartan"));
    tartan.args(["--lab", lab.name(), "--node", "n1", "apply", "--wait", "-f", "-"]);
    let mut child = tartan.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it starts");
    child.stdin.take().expect("a pipe").write_all(objects.as_bytes()).expect("to write");
    assert!(child.wait().expect("it ends").success(), "{objects}");
}

/// A policy for what pods of an app receive: from pods of these apps only.
pub fn only_from(app: &str, from: &[&str]) -> String {
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

/// The same as an entry of the store: a policy of namespace `default` by which pods of a label, as in `app=web`, receive
/// from pods of another only; if there is none, from nobody.
pub fn entry(name: &str, to: &str, from: Option<&str>) -> (String, Option<Vec<u8>>) {
    let labels = |label: &str| {
        let (key, value) = label.split_once('=').expect("key=value");
        serde_json::json!({"matchLabels": {key: value}})
    };
    let rules: Vec<_> =
        from.iter().map(|from| serde_json::json!({"from": [{"podSelector": labels(from)}]})).collect();
    let policy = serde_json::json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"podSelector": labels(to), "policyTypes": ["Ingress"], "ingress": rules},
    });
    (format!("policy/default/{name}"), Some(policy.to_string().into_bytes()))
}
