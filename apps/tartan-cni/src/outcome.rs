//! The result of an ADD in the form of the runtime's version.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Value, json};
use tartan_api::cni::{Added, AddedIp, NetConf, Version};
use tartan_model::{Family, IfName, InterfaceAddress, Mac, Mtu};

use crate::failure::{Failure, code};

/// Refuses to be put behind a plugin that has made an interface of this name.
pub(crate) fn has_room(conf: &NetConf, interface: &IfName, sandbox: &str) -> Result<(), Failure> {
    let before = conf.prev_result.as_ref().and_then(|result| result.position(interface, sandbox));
    match before {
        None => Ok(()),
        Some(position) => {
            let msg = format!(
                "prevResult: interfaces[{position}]: a plugin before this one has made {interface} in this container; leave one of the two out of the list"
            );
            Err(Failure::new(code::CONFIG, msg))
        }
    }
}

/// What the runtime, or the next plugin of the chain, gets: the previous plugins' work and then ours.
pub(crate) fn result(conf: NetConf, added: &Added, sandbox: &str) -> Value {
    let version = conf.cni_version;
    let before = conf.prev_result.unwrap_or_default();
    let mut interfaces = before.interfaces.unwrap_or_default();
    // Addresses name their interface by its position.
    let container = interfaces.len() + 1;
    interfaces.extend(links(version, added, sandbox));
    let mut ips = before.ips.unwrap_or_default();
    ips.extend(added.ips.iter().map(|ip| address(version, ip, container)));
    let mut routes = before.routes.unwrap_or_default();
    routes.extend(added.routes.iter().map(|route| json!(route)));
    let dns = conf.dns.filter(|dns| *dns != Default::default()).or(before.dns).unwrap_or_default();
    json!({"cniVersion": version, "dns": dns, "interfaces": interfaces, "ips": ips, "routes": routes})
}

/// A link of the result.
#[derive(Serialize)]
struct Link<'a> {
    mac: Mac,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<Mtu>,
    name: &'a IfName,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<&'a str>,
}

/// An address of the result.
#[derive(Serialize)]
struct Address {
    address: InterfaceAddress,
    gateway: IpAddr,
    interface: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
}

fn links(version: Version, added: &Added, sandbox: &str) -> [Value; 2] {
    let mtu = Some(added.mtu).filter(|_| version >= Version::V1_1_0);
    let host = Link { mac: added.host.mac, mtu: None, name: &added.host.name, sandbox: None };
    let container =
        Link { mac: added.container.mac, mtu, name: &added.container.name, sandbox: Some(sandbox) };
    [json!(host), json!(container)]
}

fn address(version: Version, ip: &AddedIp, interface: usize) -> Value {
    let family = match ip.address.family() {
        Family::Ipv4 => "4",
        Family::Ipv6 => "6",
    };
    let version = Some(family).filter(|_| version < Version::V1_0_0);
    json!(Address { address: ip.address, gateway: ip.gateway, interface, version })
}
