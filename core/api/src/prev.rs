//! The result of the plugins before this one in a chain, or of a whole chain.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tartan_model::{Cidr, IfName, InterfaceAddress, Mac, Mtu};
use thiserror::Error;

use crate::cni::Dns;

/// A result: passed on as it is, so looked into only where it is about our interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct PrevResult {
    /// Interfaces.
    #[serde(default)]
    pub interfaces: Option<Vec<Value>>,
    /// Addresses, which name interfaces by position.
    #[serde(default)]
    pub ips: Option<Vec<Value>>,
    /// Routes.
    #[serde(default)]
    pub routes: Option<Vec<Value>>,
    /// What names are resolved with.
    #[serde(default)]
    pub dns: Option<Dns>,
}

/// What a result says of one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Its MAC address.
    pub mac: Option<Mac>,
    /// Its MTU in bytes; results have it since version 1.1.0.
    pub mtu: Option<Mtu>,
    /// Its addresses.
    pub addresses: Vec<InterfaceAddress>,
    /// The container's routes, by whatever interface.
    pub routes: Vec<ListedRoute>,
}

/// A route of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRoute {
    /// The destination.
    pub dst: Cidr,
    /// The next hop.
    pub gw: Option<IpAddr>,
}

/// A result that does not tell what it must.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PrevError {
    /// The interface is not in it.
    #[error("prevResult lists no interface {0} of this container")]
    Missing(IfName),
    /// A part of it cannot be read.
    #[error("prevResult: {part}[{position}] cannot be read: {reason}")]
    Part {
        /// Which list.
        part: &'static str,
        /// The position in it.
        position: usize,
        /// Why not.
        reason: String,
    },
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Hardware {
    #[serde(default)]
    mac: String,
    #[serde(default)]
    mtu: Option<Mtu>,
}

#[derive(Deserialize)]
struct Ip {
    address: InterfaceAddress,
    #[serde(default)]
    interface: Option<usize>,
}

#[derive(Deserialize)]
struct Route {
    dst: String,
    #[serde(default)]
    gw: Option<IpAddr>,
}

impl PrevResult {
    /// The position of an interface of a container; None if it is not listed.
    pub fn position(&self, name: &IfName, sandbox: &str) -> Option<usize> {
        let is_it = |value: &Value| {
            Interface::deserialize(value)
                .is_ok_and(|found| found.name == name.as_str() && found.sandbox == sandbox)
        };
        self.interfaces.as_ref()?.iter().position(is_it)
    }

    /// What is said of an interface of a container.
    ///
    /// # Errors
    /// When it is not listed, or what is said of it cannot be read.
    pub fn listed(&self, name: &IfName, sandbox: &str) -> Result<Listed, PrevError> {
        let position = self.position(name, sandbox).ok_or_else(|| PrevError::Missing(name.clone()))?;
        let interface = self.interfaces.iter().flatten().nth(position);
        let hardware = interface.map(|value| read::<Hardware>("interfaces", position, value)).transpose()?;
        let ips = read_all::<Ip>("ips", &self.ips)?;
        let routes = read_all::<Route>("routes", &self.routes)?;
        let ours = |ip: &Ip| ip.interface == Some(position);
        Ok(Listed {
            mac: hardware.as_ref().and_then(|hardware| hardware.mac.parse().ok()),
            mtu: hardware.and_then(|hardware| hardware.mtu),
            addresses: ips.into_iter().filter(ours).map(|ip| ip.address).collect(),
            // A destination with bits behind its length is none of ours.
            routes: routes
                .into_iter()
                .filter_map(|route| Some(ListedRoute { dst: route.dst.parse().ok()?, gw: route.gw }))
                .collect(),
        })
    }
}

fn read_all<'a, T: Deserialize<'a>>(
    part: &'static str,
    values: &'a Option<Vec<Value>>,
) -> Result<Vec<T>, PrevError> {
    values.iter().flatten().enumerate().map(|(position, value)| read(part, position, value)).collect()
}

fn read<'a, T: Deserialize<'a>>(
    part: &'static str,
    position: usize,
    value: &'a Value,
) -> Result<T, PrevError> {
    T::deserialize(value).map_err(|error| PrevError::Part { part, position, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn result(value: Value) -> PrevResult {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_interface_is_known_by_name_and_sandbox() {
        let result = result(json!({
            "interfaces": [{"name": "eth0"}, {"name": "eth0", "sandbox": "/other"}, 7,
                {"name": "eth0", "sandbox": "/pod", "mac": "02:00:00:00:00:02", "mtu": 1450}],
            "ips": [{"address": "10.0.0.1/8", "interface": 0}, {"address": "10.244.0.5/32", "interface": 3},
                {"address": "192.0.2.1/24"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1", "priority": 5}, {"dst": "10.1.2.3/8"}],
        }));
        let listed = result.listed(&"eth0".parse().unwrap(), "/pod").unwrap();
        assert_eq!(listed.mac, Some("02:00:00:00:00:02".parse().unwrap()));
        assert_eq!(listed.mtu, Some(1450.try_into().unwrap()));
        assert_eq!(listed.addresses, ["10.244.0.5/32".parse().unwrap()]);
        let everything = ListedRoute { dst: "0.0.0.0/0".parse().unwrap(), gw: "169.254.1.1".parse().ok() };
        assert_eq!(listed.routes, [everything]);
        let missing = result.listed(&"net1".parse().unwrap(), "/pod").unwrap_err();
        assert_eq!(missing.to_string(), "prevResult lists no interface net1 of this container");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let eth0 = json!([{"name": "eth0", "sandbox": "/pod"}]);
        for (part, bad) in [("ips", json!([{"address": "10.0.0.300/8"}])), ("routes", json!([{"gw": "x"}]))] {
            let mut value = json!({"interfaces": eth0});
            value[part] = bad;
            let error = result(value).listed(&"eth0".parse().unwrap(), "/pod").unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("prevResult: {part}[0] cannot be read: ")),
                "{error}"
            );
        }
    }
}
