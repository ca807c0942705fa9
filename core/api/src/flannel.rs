//! Flannel's network configuration as a ClusterNetwork: `net-conf.json`, or what etcd has under `/coreos.com/network/config`.
//!
//! Facts about flannel are from its `pkg/subnet/config.go`, `pkg/backend/*` and `Documentation/backends.md`.

mod backend;
mod keys;

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;
use tartan_model::{Cidr, Family, Mtu, NetworkName, Pool, PoolError, Vni};
use thiserror::Error;

use crate::network::{API_VERSION, MtuChoice};
use backend::Backend;
use keys::Keys;

/// The longest text that is read: 64 KiB.
pub const MAX_CONF: usize = 64 << 10;

/// What came of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The network, as it is to be applied.
    pub network: Written,
    /// A word on every key that means something else here, has no counterpart, or was taken for granted.
    pub words: Vec<Word>,
}

/// A word on a key, and where that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The key, as in `Backend.Port`.
    pub key: &'static str,
    /// Line and column, both from 1; None for a key that is not there.
    pub at: Option<(usize, usize)>,
    /// What there is to say.
    pub says: String,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.says)
    }
}

/// A message with the place that it is about, as compilers write it.
pub fn within(file: &str, at: Option<(usize, usize)>, message: impl fmt::Display) -> String {
    match at {
        Some((line, column)) => format!("{file}:{line}:{column}: {message}"),
        None => format!("{file}: {message}"),
    }
}

/// A ClusterNetwork with every value that flannel's configuration decides, in the order in which people read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Written {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Metadata {
    name: NetworkName,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Spec {
    preset: &'static str,
    pools: Vec<Pool>,
    paths: Vec<&'static str>,
    vxlan: Numbers,
    masquerade: bool,
    mtu: MtuChoice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Numbers {
    vni: Vni,
    port: u16,
}

/// Why a configuration does not become a network.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FlannelError {
    /// Too long.
    #[error("it is longer than 64 KiB; this is no flannel configuration")]
    TooLong,
    /// Not what flannel would read.
    #[error("{reason}")]
    Text {
        /// Line and column, from 1.
        at: (usize, usize),
        /// What is wrong.
        reason: String,
    },
    /// A key that is not there, or what it would have to say.
    #[error("{0}")]
    Missing(&'static str),
    /// A backend without a counterpart.
    #[error("Backend.Type {kind:?}: {reason}")]
    Backend {
        /// Line and column, from 1.
        at: (usize, usize),
        /// The type as written.
        kind: String,
        /// Why it has none, and what can be done.
        reason: &'static str,
    },
}

impl FlannelError {
    /// Where it is: line and column, from 1.
    pub fn at(&self) -> Option<(usize, usize)> {
        match self {
            FlannelError::Text { at, .. } | FlannelError::Backend { at, .. } => Some(*at),
            FlannelError::TooLong | FlannelError::Missing(_) => None,
        }
    }
}

/// Makes a ClusterNetwork of this name of flannel's configuration.
///
/// # Errors
/// When flannel itself could not use it, or when what it says cannot be had here; nothing is left out in silence.
pub fn import(text: &str, name: &NetworkName) -> Result<Imported, FlannelError> {
    if text.len() > MAX_CONF {
        return Err(FlannelError::TooLong);
    }
    let mut keys = Keys::read(text)?;
    let mut words = Vec::new();
    let mut pools = Vec::new();
    for family in [V4, V6] {
        pools.extend(family.pool(&mut keys, &mut words)?);
    }
    if pools.is_empty() {
        return Err(FlannelError::Missing(
            "EnableIPv4 and EnableIPv6 are both false: there is nothing to import",
        ));
    }
    let nftables = keys.flag("EnableNFTables")?;
    if nftables.is_some() {
        keys.word(
            &mut words,
            "EnableNFTables",
            "not needed: rules are always nftables, by netlink and in tables of our own",
        );
    }
    let backend = Backend::take(&mut keys, &mut words)?;
    keys.unknown(&mut words);
    words.push(Word {
        key: "masquerade",
        at: None,
        says: "true, as with flanneld's --ip-masq, which its manifest sets; write false if yours runs without it".into(),
    });
    let spec = Spec {
        preset: "flannel",
        pools,
        paths: backend.paths,
        vxlan: Numbers { vni: backend.vni, port: backend.port },
        masquerade: true,
        mtu: backend.mtu.map_or(MtuChoice::Auto, MtuChoice::Bytes),
    };
    let metadata = Metadata { name: name.clone() };
    Ok(Imported {
        network: Written { api_version: API_VERSION, kind: "ClusterNetwork", metadata, spec },
        words,
    })
}

/// The keys of one family.
struct PoolKeys {
    family: Family,
    enable: &'static str,
    by_default: bool,
    network: &'static str,
    length: &'static str,
    min: &'static str,
    max: &'static str,
}

const V4: PoolKeys = PoolKeys {
    family: Family::Ipv4,
    enable: "EnableIPv4",
    by_default: true,
    network: "Network",
    length: "SubnetLen",
    min: "SubnetMin",
    max: "SubnetMax",
};

const V6: PoolKeys = PoolKeys {
    family: Family::Ipv6,
    enable: "EnableIPv6",
    by_default: false,
    network: "IPv6Network",
    length: "IPv6SubnetLen",
    min: "IPv6SubnetMin",
    max: "IPv6SubnetMax",
};

impl PoolKeys {
    fn pool(&self, keys: &mut Keys<'_>, words: &mut Vec<Word>) -> Result<Option<Pool>, FlannelError> {
        let enabled = keys.flag(self.enable)?;
        let texts = [self.network, self.min, self.max].map(|key| keys.text(key).map(|text| (key, text)));
        let [network, min, max] = texts;
        let (network, min, max) = (network?, min?, max?);
        let length = keys.number(self.length)?;
        if !enabled.unwrap_or(self.by_default) {
            if network.1.is_some() {
                let says = format!(
                    "left out, as flannel does while {} is not true; write that to have it",
                    self.enable
                );
                keys.word(words, self.network, says);
            }
            return Ok(None);
        }
        let Some(text) = network.1 else {
            return Err(FlannelError::Missing(match self.family {
                Family::Ipv4 => {
                    "there is no Network: flannel needs one, as in {\"Network\": \"10.244.0.0/16\"}"
                }
                Family::Ipv6 => "EnableIPv6 is true and there is no IPv6Network, which flannel needs",
            }));
        };
        let range = self.range(keys, words, &text)?;
        let length = length
            .filter(|length| *length > 0)
            .map(|length| u8::try_from(length).map_err(|_| keys.wrong(self.length, "it is no prefix length")))
            .transpose()?;
        let pool = Pool::new(range, length).and_then(Pool::usable).map_err(|error| match error {
            PoolError::TooSmall { .. } | PoolError::Special { .. } => keys.wrong(self.network, error),
            error => keys.wrong(self.length, error),
        })?;
        self.bounds(keys, words, pool, [min, max]).map(Some)
    }

    /// Flannel passes over what is behind the prefix.
    fn range(&self, keys: &Keys<'_>, words: &mut Vec<Word>, text: &str) -> Result<Cidr, FlannelError> {
        let wrong = || {
            keys.wrong(
                self.network,
                format!("{text:?} is no {} range in the form ADDRESS/LENGTH", self.family),
            )
        };
        let (address, length) = text.split_once('/').ok_or_else(wrong)?;
        let (address, length): (IpAddr, u8) =
            (address.parse().map_err(|_| wrong())?, length.parse().map_err(|_| wrong())?);
        let range = Cidr::containing(address, length).ok_or_else(wrong)?;
        if range.family() != self.family {
            return Err(wrong());
        }
        if range.first() != address {
            keys.word(
                words,
                self.network,
                format!("{text} is {range}: what is behind the prefix does not count"),
            );
        }
        Ok(range)
    }

    fn bounds(
        &self,
        keys: &Keys<'_>,
        words: &mut Vec<Word>,
        pool: Pool,
        written: [(&'static str, Option<String>); 2],
    ) -> Result<Pool, FlannelError> {
        let [(_, min), (_, max)] = &written;
        if min.as_deref().is_none_or(str::is_empty) {
            let says =
                "not there: flannel leaves the first block out, here it is given like any other".to_string();
            words.push(Word { key: self.min, at: None, says });
        }
        let mut bounds = [None, None];
        for (bound, (key, text)) in bounds.iter_mut().zip([(self.min, min), (self.max, max)]) {
            let Some(text) = text.as_deref().filter(|text| !text.is_empty()) else { continue };
            let address: IpAddr = text.parse().map_err(|_| {
                keys.wrong(key, format!("{text:?} is no address; write the first one of a block"))
            })?;
            let block = Cidr::containing(address, pool.block_size());
            let block = block.filter(|block| block.first() == address && pool.has_block(block));
            *bound = Some(block.ok_or_else(|| {
                let size = pool.block_size();
                keys.wrong(key, format!("{text} is not the first address of a /{size} in {}", pool.cidr()))
            })?);
        }
        let [first, last] = bounds;
        pool.between(first, last).map_err(|error| keys.wrong(self.min, error))
    }
}

/// A number of bytes as an MTU.
fn mtu(bytes: u64) -> Option<Mtu> {
    u32::try_from(bytes).ok().and_then(|bytes| Mtu::try_from(bytes).ok())
}

/// What kind of thing a value is, for a person.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
