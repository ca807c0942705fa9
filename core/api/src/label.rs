//! Labels and label selectors as Kubernetes has them.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most labels of an object.
pub const MAX_LABELS: usize = 256;
/// The most requirements of a label selector.
pub const MAX_REQUIREMENTS: usize = 256;

/// What is wrong with a label or a label selector.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LabelError {
    /// Not a label's name.
    #[error(
        "{text:?} is no label: a label is 1 to 63 letters, digits, `-`, `_` and `.`, with a letter or digit first and last, and may have a DNS name and a slash before it"
    )]
    Key {
        /// What was given.
        text: String,
    },
    /// Not a label's value.
    #[error(
        "{text:?} is no label's value: at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit first and last"
    )]
    Value {
        /// What was given.
        text: String,
    },
    /// Too many labels.
    #[error("an object has at most {MAX_LABELS} labels")]
    Count,
    /// An operator with the wrong number of values.
    #[error("{operator} {wants}")]
    Values {
        /// The operator.
        operator: Operator,
        /// What it wants.
        wants: &'static str,
    },
    /// Too many requirements.
    #[error("a label selector has at most 256 requirements")]
    Requirements,
}

/// A label's name (Kubernetes, "Labels and Selectors": a qualified name).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelKey(String);

/// A label's value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelValue(String);

/// Labels by name.
pub type Labels = BTreeMap<LabelKey, LabelValue>;

impl Borrow<str> for LabelKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl LabelKey {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl LabelValue {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LabelKey {
    type Error = LabelError;
    fn try_from(text: String) -> Result<Self, LabelError> {
        let (prefix, name) = text.split_once('/').map_or((None, text.as_str()), |(a, b)| (Some(a), b));
        let prefixed = prefix.is_none_or(|prefix| prefix.parse::<tartan_model::Name>().is_ok());
        if prefixed && !name.is_empty() && is_value(name) {
            return Ok(LabelKey(text));
        }
        Err(LabelError::Key { text: shorten(&text) })
    }
}

impl TryFrom<String> for LabelValue {
    type Error = LabelError;
    fn try_from(text: String) -> Result<Self, LabelError> {
        if is_value(&text) { Ok(LabelValue(text)) } else { Err(LabelError::Value { text: shorten(&text) }) }
    }
}

impl From<LabelKey> for String {
    fn from(key: LabelKey) -> String {
        key.0
    }
}

impl From<LabelValue> for String {
    fn from(value: LabelValue) -> String {
        value.0
    }
}

fn is_value(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && edge(text.chars().next())
        && edge(text.chars().next_back())
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A label selector: all of it has to hold; an empty one selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, try_from = "WrittenSelector")]
pub struct LabelSelector {
    /// Labels with these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: Labels,
    /// Requirements.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// Something that a label has to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, try_from = "WrittenRequirement")]
pub struct Requirement {
    /// The label.
    pub key: LabelKey,
    /// How it is asked for.
    pub operator: Operator,
    /// The values of `In` and `NotIn`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<LabelValue>,
}

/// How a label is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    /// It has one of the values.
    In,
    /// It is absent or has none of them.
    NotIn,
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operator::In => "In",
            Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenSelector {
    match_labels: Option<Labels>,
    match_expressions: Option<Vec<Requirement>>,
}

impl TryFrom<WrittenSelector> for LabelSelector {
    type Error = LabelError;
    fn try_from(written: WrittenSelector) -> Result<Self, LabelError> {
        let match_labels = written.match_labels.unwrap_or_default();
        let match_expressions = written.match_expressions.unwrap_or_default();
        if match_labels.len() + match_expressions.len() > MAX_REQUIREMENTS {
            return Err(LabelError::Requirements);
        }
        Ok(LabelSelector { match_labels, match_expressions })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRequirement {
    key: LabelKey,
    operator: Operator,
    values: Option<Vec<LabelValue>>,
}

impl TryFrom<WrittenRequirement> for Requirement {
    type Error = LabelError;
    fn try_from(written: WrittenRequirement) -> Result<Self, LabelError> {
        let WrittenRequirement { key, operator, values } = written;
        let values = values.unwrap_or_default();
        let wrong = |wants| Err(LabelError::Values { operator, wants });
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => wrong("wants at least one value"),
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => wrong("takes no values"),
            _ => Ok(Requirement { key, operator, values }),
        }
    }
}
