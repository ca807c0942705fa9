//! The CNI_* variables.

use std::collections::BTreeMap;
use std::ffi::OsString;

use tartan_model::{AttachmentKey, ContainerId, IfName};

use crate::failure::{Failure, code};

/// The variables that the runtime sets; an empty one counts as not set.
#[derive(Debug, Default)]
pub(crate) struct Environment(BTreeMap<&'static str, OsString>);

const COMMAND: &str = "CNI_COMMAND";
const CONTAINER: &str = "CNI_CONTAINERID";
const INTERFACE: &str = "CNI_IFNAME";
const NETNS: &str = "CNI_NETNS";
const ARGS: &str = "CNI_ARGS";

/// What CNI_ARGS says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PodArgs {
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
}

impl Environment {
    pub(crate) fn of_process() -> Environment {
        let names = [COMMAND, CONTAINER, INTERFACE, NETNS, ARGS];
        Environment(names.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))).collect())
    }

    pub(crate) fn command(&self) -> Result<&str, Failure> {
        self.needed(&[COMMAND])?;
        Ok(self.text(COMMAND)?.unwrap_or_default())
    }

    /// What the runtime calls the interface.
    pub(crate) fn key(&self) -> Result<AttachmentKey, Failure> {
        self.needed(&[CONTAINER, INTERFACE])?;
        let container: ContainerId = self.parsed(CONTAINER)?;
        let interface: IfName = self.parsed(INTERFACE)?;
        if let taken @ ("lo" | "all" | "default") = interface.as_str() {
            return Err(wrong(INTERFACE, format!("{taken:?} is a name of the kernel's own: use another")));
        }
        Ok(AttachmentKey { container, interface })
    }

    /// The path of the container's network namespace.
    pub(crate) fn netns(&self) -> Result<&str, Failure> {
        self.needed(&[NETNS])?;
        Ok(self.text(NETNS)?.unwrap_or_default())
    }

    /// `KEY=VALUE;KEY=VALUE`. Keys that nobody knows are refused unless `IgnoreUnknown` is set, as the reference
    /// plugins do.
    pub(crate) fn pod_args(&self) -> Result<PodArgs, Failure> {
        let mut args = PodArgs::default();
        let (mut ignore, mut unknown) = (false, None);
        for pair in self.text(ARGS)?.unwrap_or_default().split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                let pair: String = pair.chars().take(64).collect();
                wrong(ARGS, format!("{pair:?} is not KEY=VALUE"))
            })?;
            let value = value.to_string();
            match key {
                "K8S_POD_NAMESPACE" => args.namespace = Some(value).filter(|value| !value.is_empty()),
                "K8S_POD_NAME" => args.name = Some(value).filter(|value| !value.is_empty()),
                "K8S_POD_UID" | "K8S_POD_INFRA_CONTAINER_ID" => {}
                "IgnoreUnknown" => ignore = matches!(value.as_str(), "1" | "true" | "True" | "TRUE"),
                _ => unknown = Some(key),
            }
        }
        match unknown {
            Some(key) if !ignore => {
                let key: String = key.chars().take(64).collect();
                Err(wrong(ARGS, format!("{key:?} is not known; add IgnoreUnknown=1 to pass it over")))
            }
            _ => Ok(args),
        }
    }

    fn needed(&self, names: &[&'static str]) -> Result<(), Failure> {
        let missing = |name: &&&str| self.0.get(**name).is_none_or(|value| value.is_empty());
        let missing: Vec<&str> = names.iter().filter(missing).copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let msg = format!("the runtime did not set {}; the command needs it", missing.join(" and "));
        Err(Failure::new(code::ENVIRONMENT, msg))
    }

    fn text(&self, name: &'static str) -> Result<Option<&str>, Failure> {
        let read = |value: &'static str| wrong(name, value.into());
        self.0.get(name).map(|value| value.to_str().ok_or_else(|| read("it is not UTF-8"))).transpose()
    }

    fn parsed<T: std::str::FromStr<Err = tartan_model::NameError>>(
        &self,
        name: &'static str,
    ) -> Result<T, Failure> {
        self.text(name)?.unwrap_or_default().parse().map_err(|error: T::Err| wrong(name, error.to_string()))
    }
}

fn wrong(name: &str, reason: String) -> Failure {
    Failure::new(code::ENVIRONMENT, format!("{name}: {reason}"))
}
