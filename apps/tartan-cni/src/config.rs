//! The network configuration on standard input.

use std::io::Read;

use serde::Deserialize;
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

fn from_json<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(text).map_err(|error| {
        let code = if error.classify() == Category::Data { code::CONFIG } else { code::DECODE };
        Failure::new(code, format!("network configuration: {error}"))
    })
}
