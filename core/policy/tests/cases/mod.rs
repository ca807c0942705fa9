//! Stories about policies, each a folder beside this file, for whatever enforces policies to be held against.
//!
//! `expected.txt` tells the story, a step a line; the YAML beside it is what the steps apply. The cluster of [`world`] is
//! there at the beginning, without policies.
//!
//! ```text
//! # a comment
//! apply policies.yaml                 policies, separated by ---; one of a known name takes its place
//! delete x/deny-all                   a policy
//! label pod x/b tier=web              or tier- to take a label away, as kubectl has it
//! label namespace y team=a
//! expect tcp 80                       now everything is reached on this port (tcp, udp, sctp; icmp has none) ...
//!   deny * -> x/*                     ... but this; later lines override
//!   allow x/b -> x/a
//! ```
//!
//! `*` are all pods, `x/*` those of a namespace, `*/a` those of a name. What is no pod is expected only where a line names
//! it: `node:n1`, and `outside`, an address of nobody. A pod always reaches itself, whatever the lines say.
//!
//! Addresses are not known beforehand. In YAML `$x/a`, `$node:n1` and `$outside` stand for the range of that one address,
//! `$pods` for a range with all pods and nothing else that has a name, `$everything` for all addresses of the family.
//!
//! Pods serve [`world::SERVED`]; a few cases try ports beside these, where a pod has to listen for as long.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a case that cannot be read stops the test")]

pub(crate) mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tartan_api::policy::{NetworkPolicy, Protocol};

/// A story.
#[derive(Debug)]
pub(crate) struct Case {
    /// Its folder.
    pub(crate) name: String,
    /// What happens, in order.
    pub(crate) steps: Vec<Step>,
}

/// Something that happens, or has to hold by then.
#[derive(Debug)]
pub(crate) enum Step {
    /// Policies come, or change.
    Apply(Vec<NetworkPolicy>),
    /// A policy goes: its namespace and name.
    Delete { namespace: String, name: String },
    /// A label of a pod, `x/a`, or of a namespace is set, or goes.
    Label { of: Labelled, key: String, value: Option<String> },
    /// Who reaches whom now.
    Expect(Expectation),
}

/// What has labels.
#[derive(Debug)]
pub(crate) enum Labelled {
    Pod(String),
    Namespace(String),
}

/// Who reaches whom.
#[derive(Debug)]
pub(crate) struct Expectation {
    /// Where it stands in `expected.txt`, from 1.
    pub(crate) line: usize,
    /// How it is tried.
    pub(crate) probe: Probe,
    /// From where, to where, and whether it passes. Places are those of [`world::places`].
    pub(crate) cells: BTreeMap<(String, String), bool>,
}

/// How it is tried whether something is reached.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Probe {
    Port(Protocol, u16),
    /// Echo requests.
    Icmp,
}

/// All cases below a folder, by name. `range` says what stands for `pods`, `x/a` and so on in YAML.
pub(crate) fn load(root: &Path, range: &dyn Fn(&str) -> String) -> Vec<Case> {
    let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders.iter().map(|folder| case(folder, range)).collect()
}

fn case(folder: &Path, range: &dyn Fn(&str) -> String) -> Case {
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let text = fs::read_to_string(folder.join("expected.txt")).unwrap();
    let mut steps = Vec::new();
    for (line, words) in (1..).zip(text.lines().map(words)) {
        let at = || format!("{name}/expected.txt, line {line}: {words:?}");
        match words[..] {
            [] => {}
            ["apply", file] => steps.push(Step::Apply(policies(&folder.join(file), range))),
            ["delete", policy] => steps.push(delete(policy).unwrap_or_else(|| panic!("{}", at()))),
            ["label", kind, of, label] => {
                steps.push(relabel(kind, of, label).unwrap_or_else(|| panic!("{}", at())));
            }
            ["expect", protocol, ..] => {
                let probe = probe(protocol, words.get(2).copied()).unwrap_or_else(|| panic!("{}", at()));
                steps.push(Step::Expect(Expectation { line, probe, cells: all_reached() }));
            }
            [verdict @ ("allow" | "deny"), from, "->", to] => match steps.last_mut() {
                Some(Step::Expect(expectation)) => expectation.mark(from, to, verdict == "allow", &at()),
                _ => panic!("{}", at()),
            },
            _ => panic!("{}", at()),
        }
    }
    Case { name, steps }
}

fn words(line: &str) -> Vec<&str> {
    line.split('#').next().unwrap_or_default().split_whitespace().collect()
}

fn policies(file: &Path, range: &dyn Fn(&str) -> String) -> Vec<NetworkPolicy> {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let text = with_ranges(&text, range);
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn with_ranges(text: &str, range: &dyn Fn(&str) -> String) -> String {
    let mut parts = text.split('$');
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | ':');
        let end = part.find(|c| !is_name(c)).unwrap_or(part.len());
        let (name, rest) = part.split_at(end);
        whole += &range(name);
        whole += rest;
    }
    whole
}

fn delete(policy: &str) -> Option<Step> {
    let (namespace, name) = policy.split_once('/')?;
    Some(Step::Delete { namespace: namespace.to_owned(), name: name.to_owned() })
}

fn relabel(kind: &str, of: &str, label: &str) -> Option<Step> {
    let of = match kind {
        "pod" => Labelled::Pod(of.to_owned()),
        "namespace" => Labelled::Namespace(of.to_owned()),
        _ => return None,
    };
    let (key, value) = match label.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (label.strip_suffix('-')?, None),
    };
    Some(Step::Label { of, key: key.to_owned(), value })
}

fn probe(protocol: &str, port: Option<&str>) -> Option<Probe> {
    let protocol = match (protocol, port) {
        ("icmp", None) => return Some(Probe::Icmp),
        ("tcp", _) => Protocol::Tcp,
        ("udp", _) => Protocol::Udp,
        ("sctp", _) => Protocol::Sctp,
        _ => return None,
    };
    Some(Probe::Port(protocol, port?.parse().ok()?))
}

fn all_reached() -> BTreeMap<(String, String), bool> {
    let pairs = world::pods().flat_map(|from| world::pods().map(move |to| (from.clone(), to)));
    pairs.map(|pair| (pair, true)).collect()
}

impl Expectation {
    fn mark(&mut self, from: &str, to: &str, passes: bool, at: &str) {
        let (from, to) = (meant(from, at), meant(to, at));
        for pair in from.iter().flat_map(|from| to.iter().map(move |to| (from.clone(), to.clone()))) {
            let passes = passes || pair.0 == pair.1;
            self.cells.insert(pair, passes);
        }
    }
}

fn meant(pattern: &str, at: &str) -> Vec<String> {
    let fits = |place: &String| match (pattern.split_once('/'), place.split_once('/')) {
        (None, pod) => pattern == place || (pattern == "*" && pod.is_some()),
        (Some((namespaces, pods)), Some((namespace, pod))) => {
            ["*", namespace].contains(&namespaces) && ["*", pod].contains(&pods)
        }
        (Some(_), None) => false,
    };
    let places: Vec<String> = world::places().into_iter().filter(fits).collect();
    assert!(!places.is_empty(), "{at}: {pattern} is nothing");
    places
}
