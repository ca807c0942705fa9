//! The labels of an endpoint: its own, its namespace's and its service account's, in Calico's words for them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use tartan_api::label;

use crate::Labels;

/// What the labels of a namespace are called by.
pub(crate) const NAMESPACE_PREFIX: &str = "pcns.";
/// What the labels of a service account are called by.
const ACCOUNT_PREFIX: &str = "pcsa.";
/// The label that tells an endpoint's namespace.
pub(crate) const NAMESPACE: &str = "projectcalico.org/namespace";
/// The label that tells its service account.
const ACCOUNT: &str = "projectcalico.org/serviceaccount";
/// Stands before labels of the endpoint itself that are called as one of these: no label has it in its name.
const OWN: char = '=';
/// The label that every namespace has by itself (Kubernetes, "Automatic labelling").
const NAME: &str = "kubernetes.io/metadata.name";

/// Labels of all that an endpoint belongs to. What is said of its namespace or service account cannot be said by the
/// endpoint itself, whatever its own labels are called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndpointLabels<'a> {
    /// Its own.
    pub(crate) own: &'a label::Labels,
    /// Its namespace.
    pub(crate) namespace: &'a str,
    /// The labels of its namespace.
    pub(crate) of_namespace: Option<&'a BTreeMap<String, String>>,
    /// Its service account.
    pub(crate) account: Option<&'a str>,
    /// The labels of its service account.
    pub(crate) of_account: Option<&'a BTreeMap<String, String>>,
}

impl Labels for EndpointLabels<'_> {
    fn label(&self, name: &str) -> Option<&str> {
        if let Some(name) = name.strip_prefix(OWN) {
            return self.own_value(name);
        }
        if let Some(name) = name.strip_prefix(NAMESPACE_PREFIX) {
            return if name == NAME { Some(self.namespace) } else { get(self.of_namespace, name) };
        }
        if let Some(name) = name.strip_prefix(ACCOUNT_PREFIX) {
            return get(self.of_account, name);
        }
        match name {
            NAMESPACE => Some(self.namespace),
            ACCOUNT => self.account,
            _ => self.own_value(name),
        }
    }
}

impl EndpointLabels<'_> {
    fn own_value(&self, name: &str) -> Option<&str> {
        self.own.get(name).map(label::LabelValue::as_str)
    }

    /// Every label with its value; `to` hears each once.
    pub(crate) fn each(&self, mut to: impl FnMut(&str, &str)) {
        for (name, value) in self.own {
            to(&own_label(name.as_str()), value.as_str());
        }
        to(NAMESPACE, self.namespace);
        to(&format!("{NAMESPACE_PREFIX}{NAME}"), self.namespace);
        for (name, value) in self.of_namespace.into_iter().flatten().filter(|(name, _)| *name != NAME) {
            to(&format!("{NAMESPACE_PREFIX}{name}"), value);
        }
        if let Some(account) = self.account {
            to(ACCOUNT, account);
        }
        for (name, value) in self.of_account.into_iter().flatten() {
            to(&format!("{ACCOUNT_PREFIX}{name}"), value);
        }
    }
}

/// What an endpoint's own label is called among all its labels.
pub(crate) fn own_label(name: &str) -> Cow<'_, str> {
    let reserved = name.starts_with(NAMESPACE_PREFIX)
        || name.starts_with(ACCOUNT_PREFIX)
        || [NAMESPACE, ACCOUNT].contains(&name);
    if reserved { Cow::Owned(format!("{OWN}{name}")) } else { Cow::Borrowed(name) }
}

fn get<'a>(labels: Option<&'a BTreeMap<String, String>>, name: &str) -> Option<&'a str> {
    labels?.get(name).map(String::as_str)
}
