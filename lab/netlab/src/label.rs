//! Labels of a lab's pods and namespaces: written as `v1` objects, through an agent, as `tartan apply` does it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tartan_api::endpoint::selectable;
use tartan_api::label::{LabelKey, LabelValue, Labels};
use tartan_api::object::{Object, ObjectKind};
use tartan_api::rpc::{Failure, FailureCode, Request};
use tartan_api::verb::Applied;
use tartan_model::{Name, PodName};
use thiserror::Error;

use crate::agent;
use crate::error::Unreachable;
use crate::names::{LabName, LabNode};
use crate::state::{self, State};

/// How long an agent may take to answer, its store included.
const PATIENCE: Duration = Duration::from_secs(10);

/// A label that is set or taken away, written `key=value` or `key-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelChange {
    key: LabelKey,
    value: Option<LabelValue>,
}

/// A text that is no change of a label.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoChange {
    /// Neither form.
    #[error("write KEY=VALUE to set a label, as in app=web, or KEY- to take it away")]
    Form,
    /// No label.
    #[error(transparent)]
    Label(#[from] tartan_api::label::LabelError),
}

impl FromStr for LabelChange {
    type Err = NoChange;
    fn from_str(text: &str) -> Result<LabelChange, NoChange> {
        if let Some((key, value)) = text.split_once('=') {
            let (key, value) = (key.to_owned().try_into()?, value.to_owned().try_into()?);
            return Ok(LabelChange { key, value: Some(value) });
        }
        let key = text.strip_suffix('-').ok_or(NoChange::Form)?;
        Ok(LabelChange { key: key.to_owned().try_into()?, value: None })
    }
}

impl fmt::Display for LabelChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={}", self.key.as_str(), value.as_str()),
            None => write!(f, "{}-", self.key.as_str()),
        }
    }
}

/// Changes labels of a pod, and gives all that it has then. What it was added with stays.
///
/// # Errors
/// When there is no such pod, or no agent takes the object.
pub fn pod(lab: &LabName, name: &PodName, changes: &[LabelChange]) -> Result<Labels> {
    let state = state::load(lab)?;
    let pod = state.pod(name)?;
    let new = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name.name, "namespace": name.namespace, "labels": selectable(&pod.labels)},
    });
    let asked = Asked { lab, node: node(&state, Some(&pod.node))? };
    let labels = asked.change(ObjectKind::Pod, &name.to_string(), new, changes)?;
    state::change(lab, |state| {
        state.pods.iter_mut().filter(|pod| pod.name == *name).for_each(|pod| pod.declared = true);
        Ok(())
    })?;
    Ok(labels)
}

/// Changes labels of a namespace, and gives all that it has then.
///
/// # Errors
/// When no agent takes the object.
pub fn namespace(lab: &LabName, name: &Name, changes: &[LabelChange]) -> Result<Labels> {
    let state = state::load(lab)?;
    let new = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let asked = Asked { lab, node: node(&state, None)? };
    asked.change(ObjectKind::Namespace, name.as_str(), new, changes)
}

/// Takes back what was written about a pod.
///
/// # Errors
/// When no agent can be asked.
pub(crate) fn forget(state: &State, name: &PodName) -> Result<()> {
    let request = Request::Delete { kind: ObjectKind::Pod, name: name.to_string() };
    match agent::ask::<Applied>(&state.name, node(state, None)?, &request, PATIENCE) {
        Err(error) if !is_not_there(&error) => Err(error),
        _ => Ok(()),
    }
}

/// A node whose agent nobody ended, this one if it is among them.
fn node<'a>(state: &'a State, wanted: Option<&LabNode>) -> Result<&'a LabNode> {
    let mut running: Vec<&LabNode> = state.running().map(|node| &node.name).collect();
    running.sort_by_key(|name| Some(*name) != wanted);
    let nobody = || Unreachable(format!("lab {}: no agent runs", state.name));
    running.into_iter().next().with_context(nobody)
}

fn is_not_there(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.code == FailureCode::NotFound)
}

/// The agent that is asked.
struct Asked<'a> {
    lab: &'a LabName,
    node: &'a LabNode,
}

impl Asked<'_> {
    fn change(&self, kind: ObjectKind, name: &str, new: Value, changes: &[LabelChange]) -> Result<Labels> {
        let object = match self.get(kind, name)? {
            Some(object) => object,
            None => serde_json::from_value(new)?,
        };
        let object = changed(object, changes)?;
        let labels = labels_of(&object).cloned().unwrap_or_default();
        let request = Request::Apply { objects: vec![object] };
        agent::ask::<Vec<Applied>>(self.lab, self.node, &request, PATIENCE)?;
        Ok(labels)
    }

    fn get(&self, kind: ObjectKind, name: &str) -> Result<Option<Object>> {
        let request = Request::Get { kind, name: Some(name.into()) };
        match agent::ask::<Vec<Object>>(self.lab, self.node, &request, PATIENCE) {
            Ok(objects) => Ok(objects.into_iter().next()),
            Err(error) if is_not_there(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn changed(mut object: Object, changes: &[LabelChange]) -> Result<Object> {
    let labels = match &mut object {
        Object::Namespace(namespace) => &mut namespace.metadata.labels,
        Object::Pod(pod) => &mut pod.metadata.labels,
        other => bail!("a {} has no labels here", other.kind()),
    };
    for LabelChange { key, value } in changes {
        match value {
            Some(value) => drop(labels.insert(key.clone(), value.clone())),
            None => drop(labels.remove(key)),
        }
    }
    // Nobody wrote it in a file, as it is now.
    Ok(object.from_source(None))
}

fn labels_of(object: &Object) -> Option<&Labels> {
    match object {
        Object::Namespace(namespace) => Some(&namespace.metadata.labels),
        Object::Pod(pod) => Some(&pod.metadata.labels),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_sets_a_label_or_takes_it_away() {
        for text in ["app=web", "app=", "example.com/tier-", "a-b-"] {
            assert_eq!(text.parse::<LabelChange>().unwrap().to_string(), text);
        }
        for text in ["app", "=web", "-", "app=a b", "-app=web", "app--"] {
            assert!(text.parse::<LabelChange>().is_err(), "{text}");
        }
    }

    #[test]
    fn other_labels_stay() {
        let object = r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": {"a": "1", "b": "2"}}}"#;
        let object: Object = serde_json::from_str(object).unwrap();
        let changes = ["a-", "c=3", "gone-"].map(|text| text.parse().unwrap());
        let labels = labels_of(&changed(object, &changes).unwrap()).cloned().unwrap();
        let texts: Vec<_> = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(texts, [("b", "2"), ("c", "3")]);
    }
}
