//! What a container runtime does: it reads a node's configuration list and starts its plugins, one after the other
//! (https://www.cni.dev/docs/spec/, sections 2 to 4).

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tartan_kernel::netns;
use tartan_model::InterfaceAddress;

use crate::agent;
use crate::error::Unreachable;
use crate::names::{LabName, LabNode};
use crate::programs::{Programs, spawn_in};
use crate::state::PodState;
use crate::wire;

/// The pods' interface.
pub const INTERFACE: &str = "eth0";
/// The version of the specification that the list is written in.
const VERSION: &str = "1.1.0";
/// "Try again later" (section 5 of the specification).
const TRY_AGAIN: u64 = 11;

/// Writes a node's configuration list and puts the plugin where runtimes look for it.
///
/// # Errors
/// When a file cannot be written.
pub fn configure(lab: &LabName, node: &LabNode, programs: &Programs) -> Result<()> {
    let files = lab.files(node);
    let plugins = files.plugins();
    let conflist = files.conflist();
    let lists = conflist.parent().context("the configuration list is in no folder")?;
    for folder in [lists, &plugins] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let list = json!({"cniVersion": VERSION, "name": "tartan", "plugins": [
        {"type": "tartan-cni", "socket": files.socket(), "network": "default"},
    ]});
    fs::write(&conflist, format!("{list:#}\n"))
        .with_context(|| format!("cannot write {}", conflist.display()))?;
    let plugin = plugins.join("tartan-cni");
    match std::os::unix::fs::symlink(programs.plugin(), &plugin) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot create {}", plugin.display()))
        }
        _ => Ok(()),
    }
}

/// Gives a pod its interface, and says which addresses it has.
///
/// # Errors
/// When a plugin refuses; with its words.
pub fn add(lab: &LabName, pod: &PodState, labels: &BTreeMap<String, String>) -> Result<Vec<IpAddr>> {
    let list = List::read(lab, pod)?;
    let mut result = Value::Null;
    for plugin in &list.plugins {
        let mut config = list.config(plugin, pod, labels);
        if !result.is_null() {
            set(&mut config, "prevResult", result);
        }
        result = list.run("ADD", &config)?;
    }
    addresses(&result)
}

/// Takes a pod's interface away; does nothing if it has none.
///
/// # Errors
/// When a plugin refuses; with its words. The others have had their turn then.
pub fn del(lab: &LabName, pod: &PodState) -> Result<()> {
    let list = List::read(lab, pod)?;
    let plugins = list.plugins.iter().rev();
    let results: Vec<_> =
        plugins.map(|plugin| list.run("DEL", &list.config(plugin, pod, &BTreeMap::new()))).collect();
    results.into_iter().collect::<Result<Vec<_>>>().map(drop)
}

/// A node's configuration list, and the pod that it is used for.
struct List<'a> {
    lab: &'a LabName,
    pod: &'a PodState,
    name: Value,
    version: Value,
    plugins: Vec<Value>,
}

impl<'a> List<'a> {
    fn read(lab: &'a LabName, pod: &'a PodState) -> Result<List<'a>> {
        let path = lab.files(&pod.node).conflist();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut list: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let mut take = |key: &str| list.get_mut(key).map(Value::take).unwrap_or_default();
        let (name, version) = (take("name"), take("cniVersion"));
        let Value::Array(plugins) = take("plugins") else {
            bail!("{}: there are no plugins", path.display())
        };
        Ok(List { lab, pod, name, version, plugins })
    }

    /// What a plugin reads: its part of the list, with what the list says for all.
    fn config(&self, plugin: &Value, pod: &PodState, labels: &BTreeMap<String, String>) -> Value {
        let mut config = plugin.clone();
        set(&mut config, "name", self.name.clone());
        set(&mut config, "cniVersion", self.version.clone());
        if config.get("network").is_some() {
            set(&mut config, "network", json!(pod.network));
        }
        if !labels.is_empty() {
            let labels: Vec<Value> =
                labels.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
            set(&mut config, "args", json!({"cni": {"labels": labels}}));
        }
        config
    }

    /// Runs a plugin in the node's namespace; gives what it prints.
    fn run(&self, verb: &str, config: &Value) -> Result<Value> {
        let program = config.get("type").and_then(Value::as_str).unwrap_or_default();
        let mut command = Command::new(self.lab.files(&self.pod.node).plugins().join(program));
        agent::without_our_settings(&mut command);
        command.envs(self.variables(verb)).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let node = wire::open(&self.lab.netns(self.pod.node.as_str()))?;
        let mut child = spawn_in(node.as_fd(), &mut command)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that does not read it says why in its answer.
            stdin.write_all(config.to_string().as_bytes()).ok();
        }
        let output = child.wait_with_output()?;
        if output.status.success() {
            return if output.stdout.is_empty() {
                Ok(Value::Null)
            } else {
                Ok(serde_json::from_slice(&output.stdout)?)
            };
        }
        let what = format!("{program} {verb} of pod {} on node {}", self.pod.name, self.pod.node);
        Err(refusal(&what, &output.stdout, &output.stderr))
    }

    fn variables(&self, verb: &str) -> [(&'static str, String); 6] {
        let PodState { name, container, node, .. } = self.pod;
        let netns = Path::new(netns::DIRECTORY).join(self.lab.pod_netns(name));
        [
            ("CNI_COMMAND", verb.into()),
            ("CNI_CONTAINERID", container.to_string()),
            ("CNI_NETNS", netns.display().to_string()),
            ("CNI_IFNAME", INTERFACE.into()),
            ("CNI_PATH", self.lab.files(node).plugins().display().to_string()),
            (
                "CNI_ARGS",
                format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={}", name.namespace, name.name),
            ),
        ]
    }
}

/// What a plugin says when it fails is JSON on its standard output.
fn refusal(what: &str, stdout: &[u8], stderr: &[u8]) -> anyhow::Error {
    let Ok(error) = serde_json::from_slice::<Value>(stdout) else {
        let words = String::from_utf8_lossy(if stderr.is_empty() { stdout } else { stderr });
        return anyhow::anyhow!("{what}: {}", words.trim());
    };
    let text = |key: &str| error.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let words: Vec<&str> = ["msg", "details"].into_iter().filter_map(text).collect();
    let code = error.get("code").and_then(Value::as_u64).unwrap_or_default();
    let words = format!("{what}: {} (code {code})", words.join(": "));
    if code == TRY_AGAIN { Unreachable(words).into() } else { anyhow::anyhow!(words) }
}

fn addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let ips = result.get("ips").and_then(Value::as_array).context("the plugins gave no addresses")?;
    let address = |ip: &Value| {
        let text = ip.get("address").and_then(Value::as_str)?;
        Some(text.parse::<InterfaceAddress>().ok()?.address())
    };
    ips.iter()
        .map(|ip| address(ip).with_context(|| format!("the plugins gave {ip} for an address")))
        .collect()
}

fn set(config: &mut Value, key: &str, value: Value) {
    if let Some(object) = config.as_object_mut() {
        object.insert(key.into(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_pod_and_repeats_the_plugins_words() {
        let stdout = br#"{"cniVersion":"1.1.0","code":7,"msg":"no such network","details":"blue"}"#;
        let error = refusal("tartan-cni ADD of pod x/a on node n1", stdout, b"");
        assert_eq!(error.to_string(), "tartan-cni ADD of pod x/a on node n1: no such network: blue (code 7)");
        assert_eq!(refusal("ADD", b"", b"boom\n").to_string(), "ADD: boom");
        assert!(refusal("ADD", br#"{"code":11,"msg":"later"}"#, b"").is::<Unreachable>());
    }

    #[test]
    fn addresses_are_those_of_the_result() {
        let result = json!({"ips": [{"address": "10.244.0.2/32"}, {"address": "fd00::2/128"}]});
        let expected: Vec<IpAddr> = vec!["10.244.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(addresses(&result).unwrap(), expected);
        assert!(addresses(&json!({})).is_err());
    }
}
