//! The metadata of Kubernetes objects, as far as it matters here; the rest of what a server puts there is passed over.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use tartan_model::{Name, NetworkName};
use thiserror::Error;

use crate::label::{LabelError, Labels, MAX_LABELS};

/// The longest name of a file that is remembered, in bytes; of a longer one the end is.
const MAX_FILE: usize = 1024;

/// The metadata of an object that lives in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// Its name.
    pub name: Name,
    /// Its namespace; `default` unless given.
    #[serde(default = "default_namespace", deserialize_with = "namespace")]
    pub namespace: Name,
    /// Its labels.
    #[serde(default, deserialize_with = "labels", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// What programs have noted about it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Annotations::is_empty")]
    pub annotations: Annotations,
}

/// The metadata of a Namespace, which lives in none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceMeta {
    /// Its name, an RFC 1123 label as Kubernetes wants it of namespaces.
    #[serde(deserialize_with = "label")]
    pub name: Name,
    /// Its labels.
    #[serde(default, deserialize_with = "labels", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// What programs have noted about it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Annotations::is_empty")]
    pub annotations: Annotations,
}

/// Annotations that are ours; those of others are passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Annotations {
    /// Where the object was written when it was applied.
    #[serde(
        rename = "tartan.dev/applied-from",
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub applied_from: Option<Source>,
}

/// A place in a file: where an object begins. Written `FILE:LINE`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Source {
    /// The file, as it was given.
    pub file: String,
    /// The line, counted from 1.
    pub line: u64,
}

/// A text that is no place in a file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("write FILE:LINE")]
pub struct NoSource;

impl Source {
    /// A line of a file; of a very long name only the end is kept.
    pub fn new(file: &str, line: u64) -> Source {
        let mut start = file.len().saturating_sub(MAX_FILE);
        while !file.is_char_boundary(start) {
            start += 1;
        }
        Source { file: file.get(start..).unwrap_or_default().into(), line }
    }
}

impl FromStr for Source {
    type Err = NoSource;
    fn from_str(text: &str) -> Result<Source, NoSource> {
        let (file, line) = text.rsplit_once(':').ok_or(NoSource)?;
        Ok(Source::new(file, line.parse().map_err(|_| NoSource)?))
    }
}

impl TryFrom<String> for Source {
    type Error = NoSource;
    fn try_from(text: String) -> Result<Source, NoSource> {
        text.parse()
    }
}

impl From<Source> for String {
    fn from(source: Source) -> String {
        source.to_string()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl ObjectMeta {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl Annotations {
    fn is_empty(&self) -> bool {
        self.applied_from.is_none()
    }
}

/// The namespace of what does not say another.
pub fn default_namespace() -> Name {
    const DEFAULT: &str = "default";
    match DEFAULT.parse() {
        Ok(name) => name,
        Err(_) => unreachable!("a name"),
    }
}

/// Namespaces are RFC 1123 labels (Kubernetes, "Object Names and IDs"); none said, or an empty one, is the default.
fn namespace<'de, D: Deserializer<'de>>(from: D) -> Result<Name, D::Error> {
    let text: Option<String> = Option::deserialize(from)?;
    match text.filter(|text| !text.is_empty()) {
        Some(text) => checked_label(&text),
        None => Ok(default_namespace()),
    }
}

fn label<'de, D: Deserializer<'de>>(from: D) -> Result<Name, D::Error> {
    checked_label(&String::deserialize(from)?)
}

fn checked_label<E: serde::de::Error>(text: &str) -> Result<Name, E> {
    let label: NetworkName = text.parse().map_err(E::custom)?;
    label.as_str().parse().map_err(E::custom)
}

fn labels<'de, D: Deserializer<'de>>(from: D) -> Result<Labels, D::Error> {
    let labels: Labels = nullable(from)?;
    if labels.len() > MAX_LABELS { Err(serde::de::Error::custom(LabelError::Count)) } else { Ok(labels) }
}

/// `null` says as much as nothing.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// What is no place is somebody else's note, and no reason to refuse the object.
fn lenient<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Source>, D::Error> {
    let text: Option<String> = Option::deserialize(from)?;
    Ok(text.and_then(|text| text.parse().ok()))
}
