//! The network configuration on standard input.

use std::io::Read;

use serde::Deserialize;
use serde_json::Value;
use serde_json::error::Category;
use tartan_api::cni::{MAX_CONFIG, NetConf, Version};

use crate::failure::{Failure, code};

/// The part of a configuration that says how to read the rest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    cni_version: Option<String>,
}

#[derive(Deserialize)]
struct Socket {
    #[serde(default = "NetConf::usual_socket")]
    socket: String,
}

/// Reads all of the configuration, but not more than one may have.
pub(crate) fn read(input: impl Read) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    input
        .take(MAX_CONFIG as u64 + 1)
        .read_to_end(&mut text)
        .map_err(|error| Failure::new(code::IO, format!("cannot read the network configuration: {error}")))?;
    if text.len() > MAX_CONFIG {
        let msg = format!("the network configuration is longer than {MAX_CONFIG} bytes; make it shorter");
        return Err(Failure::new(code::DECODE, msg));
    }
    Ok(text)
}

/// The version as it is written, whether the plugin speaks it or not; None if there is none.
pub(crate) fn written_version(text: &[u8]) -> Result<Option<String>, Failure> {
    Ok(from_json::<Head>(text)?.cni_version)
}

/// The version that the runtime speaks.
pub(crate) fn version(text: &[u8]) -> Result<Version, Failure> {
    let spoken = Version::ALL.map(Version::as_str).join(", ");
    let refused = |what| Failure::new(code::VERSION, format!("{what}: this plugin speaks {spoken}"));
    let written = written_version(text)?
        .ok_or_else(|| refused("the network configuration has no cniVersion".to_string()))?;
    Version::from_text(&written).ok_or_else(|| {
        refused(format!("cniVersion {:?} is not supported", written.chars().take(64).collect::<String>()))
    })
}

/// The configuration; keys that are not ours are the runtime's or other plugins'.
pub(crate) fn parse(text: &[u8]) -> Result<NetConf, Failure> {
    version(text)?;
    from_json(text)
}

/// Refuses a command that came with a later version than the configuration's.
pub(crate) fn needs(command: &str, since: Version, text: &[u8]) -> Result<(), Failure> {
    let spoken = version(text)?;
    if spoken >= since {
        return Ok(());
    }
    let msg = format!(
        "{command} came with version {}, the configuration is of {}",
        since.as_str(),
        spoken.as_str()
    );
    Err(Failure::new(code::VERSION, msg))
}

/// The agent's socket, and no look at anything else.
pub(crate) fn socket(text: &[u8]) -> Result<String, Failure> {
    version(text)?;
    Ok(from_json::<Socket>(text)?.socket)
}

/// Refuses what would be done without: each is another plugin's, or the agent's, to decide.
pub(crate) fn supported(conf: &NetConf) -> Result<(), Failure> {
    let runtime = &conf.runtime_config;
    let keys = [
        ("ipam", &conf.ipam, "addresses are given by the agent, from the pools of the ClusterNetwork"),
        ("runtimeConfig.portMappings", &runtime.port_mappings, "put the plugin portmap behind this one"),
        ("runtimeConfig.bandwidth", &runtime.bandwidth, "put the plugin bandwidth behind this one"),
        ("runtimeConfig.mac", &runtime.mac, "the agent chooses it"),
        ("runtimeConfig.ipRanges", &runtime.ip_ranges, "write pools into the ClusterNetwork"),
    ];
    let set = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    };
    match keys.into_iter().find(|(_, value, _)| set(value)) {
        Some((key, value, advice)) => {
            let value: String = value.to_string().chars().take(128).collect();
            Err(Failure::new(code::UNSUPPORTED, format!("{key}: {value} is not supported: {advice}")))
        }
        None => Ok(()),
    }
}

pub(crate) fn from_json<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(text).map_err(|error| {
        let code = if error.classify() == Category::Data { code::CONFIG } else { code::DECODE };
        Failure::new(code, format!("network configuration: {error}"))
    })
}
