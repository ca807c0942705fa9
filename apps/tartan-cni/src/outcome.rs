//! The result of an ADD in the form of the runtime's version.

use std::path::Path;

use serde_json::{Value, json};
use tartan_api::cni::{Added, AddedIp, Interface, NetConf, Version};
use tartan_model::Family;

/// What the runtime, or the next plugin of the chain, gets: the previous plugins' work and then ours.
pub(crate) fn result(conf: NetConf, added: &Added, sandbox: &Path) -> Value {
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
    json!({"cniVersion": version, "interfaces": interfaces, "ips": ips, "routes": routes, "dns": dns})
}

fn links(version: Version, added: &Added, sandbox: &Path) -> [Value; 2] {
    let link = |interface: &Interface| json!({"name": interface.name, "mac": interface.mac});
    let mut container = link(&added.container);
    container["sandbox"] = json!(sandbox);
    if version >= Version::V1_1_0 {
        container["mtu"] = json!(added.mtu);
    }
    [link(&added.host), container]
}

fn address(version: Version, ip: &AddedIp, interface: usize) -> Value {
    let mut address = json!({"address": ip.address, "gateway": ip.gateway, "interface": interface});
    if version < Version::V1_0_0 {
        address["version"] = match ip.address.family() {
            Family::Ipv4 => "4".into(),
            Family::Ipv6 => "6".into(),
        };
    }
    address
}
