//! What a lab's things are called: its namespaces and its files. Everything is found again by these names alone.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tartan_model::{NodeName, PodName};
use thiserror::Error;

/// Where the files of all labs are.
pub const DIRECTORY: &str = "/run/tartan-lab";
/// Longest name of a lab or of a node in one, in bytes: the path of an agent's socket must fit 107 (unix(7)).
pub const MAX_LABEL: usize = 32;
/// Begins the name of every namespace of every lab.
const PREFIX: &str = "tartan-";
/// Words that are no nodes: the namespaces that every lab has, and the folder of its store.
const RESERVED: [&str; 3] = [WIRE, OUTSIDE, "store"];
/// The namespace that stands for the network between the nodes.
pub const WIRE: &str = "wire";
/// The namespace that stands for a host beyond the router.
pub const OUTSIDE: &str = "outside";

/// Why a text is no name of a lab or of a node in one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LabelError {
    /// Not a label.
    #[error(
        "{0:?} is not a name for a lab or node: use at most {MAX_LABEL} lower-case letters, digits and '-', \
         beginning and ending with a letter or digit"
    )]
    Label(String),
    /// A word with a meaning of its own.
    #[error("{0:?} cannot be a node: every lab has something else of that name; take another")]
    Reserved(String),
}

/// The name of a lab: a DNS label of at most [`MAX_LABEL`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

/// The name of a node in a lab: a DNS label of at most [`MAX_LABEL`] bytes that no lab has a meaning for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabNode(String);

/// What a namespace of a lab is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The network between the nodes, or the host beyond the router.
    Infrastructure,
    /// A node.
    Node(String),
    /// A pod.
    Pod(PodName),
}

impl LabName {
    /// The namespace of a node, or of [`WIRE`] or [`OUTSIDE`].
    pub fn netns(&self, node: &str) -> String {
        format!("{}{node}", self.netns_prefix())
    }

    /// The namespace of a pod.
    pub fn pod_netns(&self, pod: &PodName) -> String {
        format!("{}{}_{}", self.netns_prefix(), pod.namespace, pod.name)
    }

    /// What the namespace of this name is for; None if it is not this lab's.
    pub fn place(&self, netns: &str) -> Option<Place> {
        let rest = netns.strip_prefix(&self.netns_prefix())?;
        Some(match rest.split_once('_') {
            None if [WIRE, OUTSIDE].contains(&rest) => Place::Infrastructure,
            None => Place::Node(rest.into()),
            Some((namespace, name)) => {
                Place::Pod(PodName { namespace: namespace.parse().ok()?, name: name.parse().ok()? })
            }
        })
    }

    /// The lab that a namespace belongs to, by its name.
    pub fn of_netns(netns: &str) -> Option<LabName> {
        let (lab, _) = netns.strip_prefix(PREFIX)?.split_once('_')?;
        lab.parse().ok()
    }

    /// The folder of the lab's files.
    pub fn directory(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.0)
    }

    /// The files of a node.
    pub fn files(&self, node: &LabNode) -> NodeFiles {
        NodeFiles(self.directory().join(&node.0))
    }

    /// Labels have no underscore, so that lab `a` has no name in common with lab `a-b`.
    fn netns_prefix(&self) -> String {
        format!("{PREFIX}{}_", self.0)
    }
}

impl LabNode {
    /// The name that the lab itself gives: `n1`, `n2`, ….
    pub fn numbered(number: u32) -> LabNode {
        LabNode(format!("n{number}"))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as the agent has it.
    pub fn node_name(&self) -> Option<NodeName> {
        self.0.parse().ok()
    }
}

/// The files of a node.
#[derive(Debug, Clone)]
pub struct NodeFiles(PathBuf);

impl NodeFiles {
    /// The folder of all.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.0.join("tartand.sock")
    }

    /// The agent's configuration.
    pub fn config(&self) -> PathBuf {
        self.0.join("tartand.toml")
    }

    /// What the agent says.
    pub fn log(&self) -> PathBuf {
        self.0.join("tartand.log")
    }

    /// The agent's process id.
    pub fn pid(&self) -> PathBuf {
        self.0.join("tartand.pid")
    }

    /// What the agent keeps over restarts.
    pub fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// The CNI configuration.
    pub fn conflist(&self) -> PathBuf {
        self.0.join("cni/net.d/10-tartan.conflist")
    }

    /// The folder of CNI plugins.
    pub fn plugins(&self) -> PathBuf {
        self.0.join("cni/bin")
    }
}

/// Both kinds of labels have the same text forms.
macro_rules! label {
    ($($name:ident, $reserved:expr;)*) => {$(
        impl FromStr for $name {
            type Err = LabelError;
            fn from_str(text: &str) -> Result<Self, LabelError> {
                check(text)?;
                let reserved: &[&str] = &$reserved;
                if reserved.contains(&text) {
                    return Err(LabelError::Reserved(text.into()));
                }
                Ok(Self(text.into()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = LabelError;
            fn try_from(text: String) -> Result<Self, LabelError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    )*};
}
label! { LabName, []; LabNode, RESERVED; }

fn check(text: &str) -> Result<(), LabelError> {
    let fits = (1..=MAX_LABEL).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if fits { Ok(()) } else { Err(LabelError::Label(text.chars().take(64).collect())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab(name: &str) -> LabName {
        name.parse().unwrap()
    }

    #[test]
    fn a_lab_does_not_own_the_namespaces_of_one_whose_name_begins_alike() {
        assert_eq!(lab("a").place("tartan-a-b_n1"), None);
        assert_eq!(lab("a").place("tartan-a_n1"), Some(Place::Node("n1".into())));
        assert_eq!(LabName::of_netns("tartan-a-b_n1"), Some(lab("a-b")));
        assert_eq!(LabName::of_netns("tartan-host-try"), None);
    }

    #[test]
    fn namespaces_tell_what_they_are_for() {
        let pod: PodName = "default/p1".parse().unwrap();
        assert_eq!(lab("x").place(&lab("x").pod_netns(&pod)), Some(Place::Pod(pod)));
        assert_eq!(lab("x").place("tartan-x_wire"), Some(Place::Infrastructure));
    }

    #[test]
    fn names_that_cannot_stand_in_a_path_or_namespace_are_refused() {
        let long = "a".repeat(MAX_LABEL + 1);
        for text in ["", "a_b", "A", "-a", "a-", "a.b", "../x", &long] {
            assert!(text.parse::<LabName>().is_err(), "{text}");
        }
        assert_eq!("wire".parse::<LabNode>(), Err(LabelError::Reserved("wire".into())));
    }

    #[test]
    fn the_longest_names_leave_room_for_the_socket() {
        let long = "a".repeat(MAX_LABEL);
        let socket = lab(&long).files(&long.parse().unwrap()).socket();
        assert!(socket.as_os_str().len() <= 107);
    }
}
