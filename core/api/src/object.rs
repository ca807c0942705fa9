//! Reading the objects that people write: YAML or JSON, one or several in a text, errors with line and column.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::kubernetes::{Namespace, Pod, ServiceAccount};
use crate::meta::{Annotations, Source};
use crate::network::{ClusterNetwork, NetworkError};
use crate::policy::NetworkPolicy;

/// The largest text that is read: 1 MiB.
pub const MAX_TEXT: usize = 1 << 20;
/// The most objects in one text.
pub const MAX_OBJECTS: usize = 10_000;
/// The largest object in bytes of JSON, which stores keep: 1000 KiB.
pub const MAX_OBJECT: usize = 1000 << 10;

/// An object that people write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Object {
    /// A network of the cluster.
    ClusterNetwork(ClusterNetwork),
    /// What pods of a namespace may receive and send.
    NetworkPolicy(NetworkPolicy),
    /// A namespace.
    Namespace(Namespace),
    /// A pod.
    Pod(Pod),
    /// A service account.
    ServiceAccount(ServiceAccount),
}

/// The kinds of objects that people write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectKind {
    /// A network of the cluster.
    ClusterNetwork,
    /// What pods of a namespace may receive and send.
    NetworkPolicy,
    /// A namespace.
    Namespace,
    /// A pod.
    Pod,
    /// A service account.
    ServiceAccount,
}

impl ObjectKind {
    /// Every kind.
    pub const ALL: [ObjectKind; 5] = [
        ObjectKind::ClusterNetwork,
        ObjectKind::NetworkPolicy,
        ObjectKind::Namespace,
        ObjectKind::Pod,
        ObjectKind::ServiceAccount,
    ];

    /// The kind that a word on the command line means: its name, its plural or what kubectl shortens it to, in any case.
    pub fn from_word(word: &str) -> Option<ObjectKind> {
        let word = word.to_ascii_lowercase();
        ObjectKind::ALL.into_iter().find(|kind| kind.words().contains(&word.as_str()))
    }

    /// The words for it on the command line, the usual one first.
    pub const fn words(self) -> &'static [&'static str] {
        match self {
            ObjectKind::ClusterNetwork => &["clusternetwork", "clusternetworks"],
            ObjectKind::NetworkPolicy => &["networkpolicy", "networkpolicies", "netpol"],
            ObjectKind::Namespace => &["namespace", "namespaces", "ns"],
            ObjectKind::Pod => &["pod", "pods", "po"],
            ObjectKind::ServiceAccount => &["serviceaccount", "serviceaccounts", "sa"],
        }
    }

    /// Whether objects of this kind live in namespaces.
    pub const fn is_namespaced(self) -> bool {
        match self {
            ObjectKind::ClusterNetwork | ObjectKind::Namespace => false,
            ObjectKind::NetworkPolicy | ObjectKind::Pod | ObjectKind::ServiceAccount => true,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            ObjectKind::ClusterNetwork => "ClusterNetwork",
            ObjectKind::NetworkPolicy => "NetworkPolicy",
            ObjectKind::Namespace => "Namespace",
            ObjectKind::Pod => "Pod",
            ObjectKind::ServiceAccount => "ServiceAccount",
        }
    }
}

impl std::fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> ObjectKind {
        match self {
            Object::ClusterNetwork(_) => ObjectKind::ClusterNetwork,
            Object::NetworkPolicy(_) => ObjectKind::NetworkPolicy,
            Object::Namespace(_) => ObjectKind::Namespace,
            Object::Pod(_) => ObjectKind::Pod,
            Object::ServiceAccount(_) => ObjectKind::ServiceAccount,
        }
    }

    /// Its name, behind its namespace and a slash if it lives in one.
    pub fn name(&self) -> String {
        match self {
            Object::ClusterNetwork(network) => network.metadata.name.to_string(),
            Object::NetworkPolicy(policy) => policy.metadata.full_name(),
            Object::Namespace(namespace) => namespace.metadata.name.to_string(),
            Object::Pod(pod) => pod.metadata.full_name(),
            Object::ServiceAccount(account) => account.metadata.full_name(),
        }
    }

    /// Where it was written; None if that is not known, as of every ClusterNetwork.
    pub fn source(&self) -> Option<&Source> {
        match self {
            Object::ClusterNetwork(_) => None,
            Object::NetworkPolicy(policy) => policy.metadata.annotations.applied_from.as_ref(),
            Object::Namespace(namespace) => namespace.metadata.annotations.applied_from.as_ref(),
            Object::Pod(pod) => pod.metadata.annotations.applied_from.as_ref(),
            Object::ServiceAccount(account) => account.metadata.annotations.applied_from.as_ref(),
        }
    }

    /// The same, written there.
    #[must_use]
    pub fn from_source(mut self, source: Option<Source>) -> Object {
        if let Some(annotations) = self.annotations() {
            annotations.applied_from = source;
        }
        self
    }

    fn annotations(&mut self) -> Option<&mut Annotations> {
        match self {
            Object::ClusterNetwork(_) => None,
            Object::NetworkPolicy(policy) => Some(&mut policy.metadata.annotations),
            Object::Namespace(namespace) => Some(&mut namespace.metadata.annotations),
            Object::Pod(pod) => Some(&mut pod.metadata.annotations),
            Object::ServiceAccount(account) => Some(&mut account.metadata.annotations),
        }
    }

    /// Whether it says the same as another, wherever the two were written.
    pub fn says_the_same(&self, other: &Object) -> bool {
        self == other || self.clone().from_source(None) == other.clone().from_source(None)
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
    /// The object is well written but larger than what is kept.
    #[error("{file}:{line}: the object is larger than {} KiB; make several of it", MAX_OBJECT >> 10)]
    TooLarge {
        /// Where the text is from.
        file: String,
        /// The line that the object begins at.
        line: u64,
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

/// Reads every object in a text. `file` is named in errors, and noted as where the objects were written.
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
        let kind = ObjectKind::from_word(&head.kind).filter(|kind| kind.name() == head.kind);
        let object = match kind.ok_or_else(|| self.unknown(file, &head.kind))? {
            ObjectKind::ClusterNetwork => Object::ClusterNetwork(self.network(file)?),
            ObjectKind::NetworkPolicy => Object::NetworkPolicy(self.read(file)?),
            ObjectKind::Namespace => Object::Namespace(self.read(file)?),
            ObjectKind::Pod => Object::Pod(self.read(file)?),
            ObjectKind::ServiceAccount => Object::ServiceAccount(self.read(file)?),
        };
        // A short text may stand for much: by aliases, and by what is filled in.
        if serde_json::to_vec(&object).is_ok_and(|json| json.len() > MAX_OBJECT) {
            return Err(ObjectError::TooLarge { file: file.into(), line: self.first_line() });
        }
        Ok(object.from_source(Some(Source::new(file, self.first_line()))))
    }

    fn network(&self, file: &str) -> Result<ClusterNetwork, ObjectError> {
        let network: ClusterNetwork = self.read(file)?;
        match network.resolve() {
            Ok(_) => Ok(network),
            Err(source) => Err(ObjectError::Network { file: file.into(), line: self.first_line(), source }),
        }
    }

    fn unknown(&self, file: &str, kind: &str) -> ObjectError {
        let known = ObjectKind::ALL.map(ObjectKind::name).join(", ");
        let kind: String = kind.chars().take(64).collect();
        ObjectError::Text {
            file: file.into(),
            line: self.first_line(),
            column: 1,
            reason: format!("kind {kind:?} is not known; this release knows {known}"),
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
