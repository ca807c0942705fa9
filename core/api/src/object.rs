//! Reading the objects that people write: YAML or JSON, one or several in a text, errors with line and column.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::network::{ClusterNetwork, NetworkError};

/// The largest text that is read: 1 MiB.
pub const MAX_TEXT: usize = 1 << 20;
/// The most objects in one text.
pub const MAX_OBJECTS: usize = 10_000;

/// An object that people write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Object {
    /// A network of the cluster.
    ClusterNetwork(ClusterNetwork),
}

/// The kinds of objects that people write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectKind {
    /// A network of the cluster.
    ClusterNetwork,
}

impl ObjectKind {
    /// The kind that a word on the command line means: its name, its plural, in any case.
    pub fn from_word(word: &str) -> Option<ObjectKind> {
        match word.to_ascii_lowercase().as_str() {
            "clusternetwork" | "clusternetworks" => Some(ObjectKind::ClusterNetwork),
            _ => None,
        }
    }
}

impl std::fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ObjectKind::ClusterNetwork => "ClusterNetwork",
        })
    }
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> ObjectKind {
        match self {
            Object::ClusterNetwork(_) => ObjectKind::ClusterNetwork,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Object::ClusterNetwork(network) => network.metadata.name.as_str(),
        }
    }
}

/// What is wrong with a text, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ObjectError {
    /// The text does not say what it should.
    #[error("{file}:{line}:{column}: {reason}")]
    Text {
        /// Where the text is from.
        file: String,
        /// The line, counted from 1.
        line: u64,
        /// The column, counted from 1.
        column: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The object is well written but cannot be served.
    #[error("{file}:{line}: {source}")]
    Network {
        /// Where the text is from.
        file: String,
        /// The line that the object begins at.
        line: u64,
        /// Why.
        source: NetworkError,
    },
    /// Too much text or too many objects.
    #[error("{file}: {what}")]
    TooMuch {
        /// Where the text is from.
        file: String,
        /// The limit that was met.
        what: &'static str,
    },
    /// Nothing in it.
    #[error("{file}: there is no object in it; write one with apiVersion, kind and metadata")]
    Empty {
        /// Where the text is from.
        file: String,
    },
}

/// Reads every object in a text. `file` is only named in errors.
///
/// # Errors
/// At the first thing that is wrong; nothing is taken from a text with an error in it.
pub fn parse(file: &str, text: &str) -> Result<Vec<Object>, ObjectError> {
    let too_much = |what| ObjectError::TooMuch { file: file.into(), what };
    if text.len() > MAX_TEXT {
        return Err(too_much("it is longer than 1 MiB"));
    }
    let documents = split(text);
    if documents.len() > MAX_OBJECTS {
        return Err(too_much("it holds more than 10000 objects"));
    }
    let objects: Vec<Object> =
        documents.iter().map(|document| document.object(file)).collect::<Result<_, _>>()?;
    if objects.is_empty() { Err(ObjectError::Empty { file: file.into() }) } else { Ok(objects) }
}

/// One YAML document and where it begins.
struct Document<'a> {
    /// The line of the text before its first, counted from 0.
    offset: u64,
    text: &'a str,
}

/// Just enough of an object to know what to read it as.
#[derive(Deserialize)]
struct Head {
    kind: String,
}

/// Cuts a text at its `---` lines; documents without any content are left out.
fn split(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut offset) = (0, 0);
    let mut position = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let end = position;
        position += line.len();
        if line.trim_end() == "---" {
            documents.push(Document { offset, text: text.get(start..end).unwrap_or_default() });
            (start, offset) = (position, number as u64 + 1);
        }
    }
    documents.push(Document { offset, text: text.get(start..).unwrap_or_default() });
    documents.retain(Document::has_content);
    documents
}

impl Document<'_> {
    fn has_content(&self) -> bool {
        self.text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    }

    fn object(&self, file: &str) -> Result<Object, ObjectError> {
        let head: Head = self.read(file)?;
        match ObjectKind::from_word(&head.kind).filter(|kind| kind.to_string() == head.kind) {
            Some(ObjectKind::ClusterNetwork) => {
                let network: ClusterNetwork = self.read(file)?;
                network.resolve().map_err(|source| ObjectError::Network {
                    file: file.into(),
                    line: self.first_line(),
                    source,
                })?;
                Ok(Object::ClusterNetwork(network))
            }
            None => Err(ObjectError::Text {
                file: file.into(),
                line: self.first_line(),
                column: 1,
                reason: format!("kind {:?} is not known; this release knows ClusterNetwork", head.kind),
            }),
        }
    }

    fn read<T: DeserializeOwned>(&self, file: &str) -> Result<T, ObjectError> {
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::from_str_with_options(self.text, options).map_err(|error| {
            let at = error.location();
            ObjectError::Text {
                file: file.into(),
                line: self.offset + at.map_or(1, |at| at.line()),
                column: at.map_or(1, |at| at.column()),
                reason: reason(&error.to_string()),
            }
        })
    }

    fn first_line(&self) -> u64 {
        let blank = self.text.lines().take_while(|l| l.trim().is_empty() || l.trim_start().starts_with('#'));
        self.offset + blank.count() as u64 + 1
    }
}

/// What the parser says in words of its own library, by how it begins, and what a person is told instead.
const REASONS: [(&str, &str); 11] = [
    ("expected mapping start", "expected `key: value`"),
    ("expected sequence start", "expected a list"),
    ("expected string scalar", "expected a word"),
    ("invalid boolean", "expected true or false"),
    ("invalid u8", "expected a number from 0 to 255"),
    ("invalid u16", "expected a number from 0 to 65535"),
    ("invalid u32", "expected a whole number, not negative"),
    ("invalid value: integer `0`, expected a nonzero u16", "expected a number from 1 to 65535"),
    ("multiple YAML documents", "another object begins here; write `---` on a line of its own before it"),
    ("budget breached", "too much to read: it repeats itself by aliases or is nested too deeply"),
    ("recursion limit", "too much to read: it is nested too deeply"),
];

/// The parser's message without the position that it repeats.
fn reason(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let first = first.split(" at line ").next().unwrap_or(first).trim_start_matches("error: ");
    let said = first.split(", set DuplicateKeyPolicy").next().unwrap_or(first);
    let known = REASONS.iter().find(|(begins, _)| said.starts_with(begins));
    known.map_or(said, |(_, instead)| instead).to_string()
}
