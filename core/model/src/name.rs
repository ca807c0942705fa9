//! Names: of nodes, networks, pods, containers and links.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Not an RFC 1123 label.
    #[error(
        "{text:?} is not a name: use at most 63 lower-case letters, digits and '-', beginning and ending with a letter or digit"
    )]
    Label {
        /// The refused text, shortened.
        text: String,
    },
    /// Not an RFC 1123 subdomain.
    #[error(
        "{text:?} is not a name: use at most 253 lower-case letters, digits, '-' and '.', each part beginning and ending with a letter or digit"
    )]
    Subdomain {
        /// The refused text, shortened.
        text: String,
    },
    /// Not a container id.
    #[error(
        "{text:?} is not a container id: use at most 256 letters, digits, '_', '.' and '-', beginning with a letter or digit"
    )]
    Container {
        /// The refused text, shortened.
        text: String,
    },
    /// Not a name of a runtime's network.
    #[error(
        "{text:?} is not a network's name: use at most 256 letters, digits, '_', '.' and '-', beginning with a letter or digit"
    )]
    List {
        /// The refused text, shortened.
        text: String,
    },
    /// Not an interface name.
    #[error("{text:?} is not an interface name: use 1 to 15 visible characters without '/', ':' and '%'")]
    Interface {
        /// The refused text, shortened.
        text: String,
    },
    /// Not a node id.
    #[error("{text:?} is not a node id: it has 32 hexadecimal digits")]
    Id {
        /// The refused text, shortened.
        text: String,
    },
    /// Not `namespace/name`.
    #[error("{text:?} is not a {what}: write NAMESPACE/NAME")]
    Namespaced {
        /// What it should be the name of.
        what: &'static str,
        /// The refused text, shortened.
        text: String,
    },
}

/// Gives a text newtype its parsing, printing and serde forms, all through one check.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text! {
    /// An RFC 1123 subdomain of at most 253 bytes: the name of a pod, a namespace or any other object.
    Name, subdomain
}
text! {
    /// A node's name: an RFC 1123 subdomain of at most 253 bytes, as in Kubernetes.
    NodeName, subdomain
}
text! {
    /// A network's name: an RFC 1123 label of at most 63 bytes.
    NetworkName, label
}
text! {
    /// A container id as the CNI specification allows it: a letter or digit, then letters, digits, `_`, `.` and `-`; at most 256 bytes.
    ContainerId, container
}
text! {
    /// What a container runtime calls a network: `name` of its configuration list. The CNI specification allows a
    /// letter or digit, then letters, digits, `_`, `.` and `-`; here at most 256 bytes.
    ListName, list
}
/// A network interface's name: 1 to 15 bytes that the kernel accepts (`dev_valid_name`), visible ASCII only.
///
/// It stands in most rows of a kernel, several times, so it is kept in place: behind its end come zeros.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName([u8; IfName::MAX]);

impl IfName {
    /// The longest name in bytes (IFNAMSIZ without the zero that ends it).
    pub const MAX: usize = 15;
    /// The link that every network namespace is made with (drivers/net/loopback.c).
    pub const LOOPBACK: IfName = IfName(*b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0");

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(IfName::MAX);
        self.0.get(..end).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl FromStr for IfName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        interface(text)?;
        let mut name = [0; IfName::MAX];
        name.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
        Ok(IfName(name))
    }
}

impl TryFrom<String> for IfName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> String {
        name.as_str().into()
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A node's stable identity: 128 random bits, kept on disk and never derived from an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId([u8; 16]);

impl NodeId {
    /// The id made of these random bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes of the id.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let refused = || NameError::Id { text: shorten(text) };
        let is_hex =
            text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
        if !is_hex {
            return Err(refused());
        }
        u128::from_str_radix(text, 16).map(|n| Self(n.to_be_bytes())).map_err(|_| refused())
    }
}

impl TryFrom<String> for NodeId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> String {
        id.to_string()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Gives a name within a namespace, written `namespace/name`, its parsing, printing and serde forms.
macro_rules! namespaced {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type {
            /// The namespace.
            pub namespace: Name,
            /// The name within the namespace.
            pub name: Name,
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let refused = || NameError::Namespaced { what: $what, text: shorten(text) };
                let (namespace, name) = text.split_once('/').ok_or_else(refused)?;
                Ok(Self { namespace: namespace.parse()?, name: name.parse()? })
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.to_string()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.namespace, self.name)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

namespaced! {
    /// A pod: its namespace and name, written `namespace/name`.
    PodName, "pod"
}
namespaced! {
    /// A policy: its namespace and name, written `namespace/name`.
    PolicyName, "policy"
}
namespaced! {
    /// A service account: its namespace and name, written `namespace/name`.
    ServiceAccountName, "service account"
}

fn label(text: &str) -> Result<(), NameError> {
    if text.len() <= 63 && is_part(text) { Ok(()) } else { Err(NameError::Label { text: shorten(text) }) }
}

fn subdomain(text: &str) -> Result<(), NameError> {
    let fits = text.len() <= 253 && text.split('.').all(is_part);
    if fits { Ok(()) } else { Err(NameError::Subdomain { text: shorten(text) }) }
}

/// What stands between dots. Kubernetes bounds only the whole name.
fn is_part(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn container(text: &str) -> Result<(), NameError> {
    if is_cni_name(text) { Ok(()) } else { Err(NameError::Container { text: shorten(text) }) }
}

fn list(text: &str) -> Result<(), NameError> {
    if is_cni_name(text) { Ok(()) } else { Err(NameError::List { text: shorten(text) }) }
}

/// Container ids and networks are named alike in the CNI specification, which sets no length.
fn is_cni_name(text: &str) -> bool {
    text.len() <= 256
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn interface(text: &str) -> Result<(), NameError> {
    let fits = (1..=IfName::MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'))
        && text != "."
        && text != "..";
    if fits { Ok(()) } else { Err(NameError::Interface { text: shorten(text) }) }
}

/// Refused text goes into messages and logs: enough of it to be recognised, never all of it.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(64).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
