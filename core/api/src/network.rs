//! ClusterNetwork: one object that says what the network is, the same on every node.

use serde::{Deserialize, Serialize};
use tartan_model::{
    AddressError, Attachment, Cidr, Family, Mtu, NetworkName, NotServed, Path, Pool, Port, Vni,
};
use thiserror::Error;

/// The API version of the objects that Tartan defines.
pub const API_VERSION: &str = "tartan.dev/v1alpha1";
/// The port that VXLAN uses unless told otherwise: that of the Linux kernel and of flannel, not IANA's 4789.
pub const VXLAN_PORT: u16 = 8472;
/// The most pools a network may have.
pub const MAX_POOLS: usize = 64;
/// The most ranges that a network may except from masquerade.
pub const MAX_EXEMPT: usize = 64;

/// A ClusterNetwork as it is written: everything in `spec` is optional and overrides the preset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterNetwork {
    /// Always [`API_VERSION`].
    pub api_version: ApiVersion,
    /// Always `ClusterNetwork`.
    pub kind: Kind,
    /// The object's name.
    pub metadata: Metadata,
    /// What it says.
    #[serde(default)]
    pub spec: Spec,
}

/// The one API version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApiVersion {
    /// The first.
    #[serde(rename = "tartan.dev/v1alpha1")]
    V1alpha1,
}

/// The one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A network of the cluster.
    ClusterNetwork,
}

/// An object's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Its name.
    pub name: NetworkName,
}

/// The part of a ClusterNetwork that people vary. Keys that this release does not serve may be written with the
/// one value that it does serve, so that a file can say so plainly.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Whose defaults apply; `flannel` unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// The ranges that pods get addresses from; `10.244.0.0/16` unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pools: Option<Vec<Pool>>,
    /// How nodes reach each other's pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fabric: Option<Fabric>,
    /// The paths that may be used, best first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<Path>>,
    /// How pods are attached to their node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// VXLAN's numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vxlan: Option<Vxlan>,
    /// Whether traffic that leaves the cluster takes the node's address; it does unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<bool>,
    /// Destinations outside the cluster to which pods keep their own address all the same; none unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masquerade_exempt: Option<Vec<Cidr>>,
    /// The pods' MTU in bytes, or `auto`: the underlay's less the overhead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<MtuChoice>,
    /// Whether network policy is enforced for its pods; the preset says unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<bool>,
    /// Whether traffic between nodes is encrypted: not served yet, so only `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
}

/// A cluster configuration by a known name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum Preset {
    /// An L3 overlay, one block of addresses a node, bridged pods, no policy.
    Flannel,
    /// The same overlay with routed pods and policy.
    Canal,
}

impl Preset {
    const fn attachment(self) -> Attachment {
        match self {
            Preset::Flannel => Attachment::Bridge,
            Preset::Canal => Attachment::Routed,
        }
    }

    const fn policy(self) -> bool {
        match self {
            Preset::Flannel => false,
            Preset::Canal => true,
        }
    }
}

impl TryFrom<String> for Preset {
    type Error = NotServed;
    fn try_from(word: String) -> Result<Self, NotServed> {
        match word.as_str() {
            "flannel" => Ok(Preset::Flannel),
            "canal" => Ok(Preset::Canal),
            _ => Err(NotServed::new("preset", &word, "flannel and canal")),
        }
    }
}

/// How nodes reach each other's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum Fabric {
    /// Through tunnels between the nodes.
    Overlay,
}

impl TryFrom<String> for Fabric {
    type Error = NotServed;
    fn try_from(word: String) -> Result<Self, NotServed> {
        match word.as_str() {
            "overlay" => Ok(Fabric::Overlay),
            _ => Err(NotServed::new("fabric", &word, "overlay")),
        }
    }
}

/// Whether traffic between nodes is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum Encryption {
    /// It is not.
    Off,
}

impl TryFrom<String> for Encryption {
    type Error = NotServed;
    fn try_from(word: String) -> Result<Self, NotServed> {
        match word.as_str() {
            "off" => Ok(Encryption::Off),
            _ => Err(NotServed::new("encryption", &word, "off")),
        }
    }
}

/// VXLAN's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vxlan {
    /// The network identifier; 1 unless given.
    #[serde(default = "Vxlan::usual_vni")]
    pub vni: Vni,
    /// The UDP port; 8472 unless given.
    #[serde(default = "Vxlan::usual_port")]
    pub port: Port,
}

impl Vxlan {
    fn usual_vni() -> Vni {
        Vni::ONE
    }

    fn usual_port() -> Port {
        const { Port::new(VXLAN_PORT).unwrap() }
    }
}

impl Default for Vxlan {
    fn default() -> Self {
        Vxlan { vni: Self::usual_vni(), port: Self::usual_port() }
    }
}

/// The pods' MTU as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "MtuText", into = "MtuText")]
pub enum MtuChoice {
    /// The underlay's less the overhead of encapsulation, following it.
    Auto,
    /// This many bytes.
    Bytes(Mtu),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected `auto` or a number of bytes")]
enum MtuText {
    Bytes(u32),
    Word(String),
}

#[derive(Debug, Error)]
enum MtuError {
    #[error(transparent)]
    Bytes(#[from] AddressError),
    #[error("expected `auto` or a number of bytes")]
    Word,
}

impl TryFrom<MtuText> for MtuChoice {
    type Error = MtuError;
    fn try_from(text: MtuText) -> Result<Self, MtuError> {
        match text {
            MtuText::Bytes(bytes) => Ok(MtuChoice::Bytes(bytes.try_into()?)),
            MtuText::Word(word) if word == "auto" => Ok(MtuChoice::Auto),
            MtuText::Word(_) => Err(MtuError::Word),
        }
    }
}

impl From<MtuChoice> for MtuText {
    fn from(choice: MtuChoice) -> MtuText {
        match choice {
            MtuChoice::Auto => MtuText::Word("auto".into()),
            MtuChoice::Bytes(mtu) => MtuText::Bytes(mtu.into()),
        }
    }
}

/// A network with every default filled in and everything checked that can be checked without the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: NetworkName,
    /// The preset that the defaults are from.
    pub preset: Preset,
    /// Its address ranges; they do not overlap.
    pub pools: Vec<Pool>,
    /// How nodes reach each other's pods.
    pub fabric: Fabric,
    /// The paths that may be used, best first; at least one.
    pub paths: Vec<Path>,
    /// How new pods are attached.
    pub attachment: Attachment,
    /// VXLAN's numbers.
    pub vxlan: Vxlan,
    /// Whether traffic of its pods that leaves the cluster takes the node's address.
    pub masquerade: bool,
    /// Destinations to which it does not.
    pub masquerade_exempt: Vec<Cidr>,
    /// The pods' MTU.
    pub mtu: MtuChoice,
    /// Whether network policy is enforced for its pods.
    pub policy: bool,
}

/// Why a ClusterNetwork cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NetworkError {
    /// Two pools share addresses.
    #[error("spec.pools: {first} and {second} overlap; give each pool a range of its own")]
    Overlap {
        /// The range of one pool.
        first: Cidr,
        /// That of the other.
        second: Cidr,
    },
    /// No pool, or too many.
    #[error("spec.pools: {0} pools; give at least one and at most {MAX_POOLS}")]
    PoolCount(usize),
    /// Too many exceptions.
    #[error("spec.masqueradeExempt: {0} ranges; give at most {MAX_EXEMPT}")]
    ExemptCount(usize),
    /// No path.
    #[error("spec.paths: no path is allowed; name at least one")]
    NoPath,
    /// A fixed MTU that IPv6 cannot work with.
    #[error(
        "spec.mtu: {0} bytes are too few for IPv6, which needs 1280 (RFC 8200); raise it or drop the IPv6 pool"
    )]
    MtuTooSmall(Mtu),
}

impl ClusterNetwork {
    /// Fills in the preset's defaults and checks the whole.
    ///
    /// # Errors
    /// When the object cannot be served, whatever the cluster looks like.
    pub fn resolve(&self) -> Result<Network, NetworkError> {
        let spec = &self.spec;
        let preset = spec.preset.unwrap_or(Preset::Flannel);
        let network = Network {
            name: self.metadata.name.clone(),
            preset,
            pools: spec.pools.clone().unwrap_or_else(usual_pools),
            fabric: spec.fabric.unwrap_or(Fabric::Overlay),
            paths: spec.paths.clone().unwrap_or_else(|| vec![Path::Vxlan]),
            attachment: spec.attachment.unwrap_or(preset.attachment()),
            vxlan: spec.vxlan.unwrap_or_default(),
            // As flannel's manifest has it (`--ip-masq`).
            masquerade: spec.masquerade.unwrap_or(true),
            masquerade_exempt: spec.masquerade_exempt.clone().unwrap_or_default(),
            mtu: spec.mtu.unwrap_or(MtuChoice::Auto),
            policy: spec.policy.unwrap_or(preset.policy()),
        };
        network.check()?;
        Ok(network)
    }
}

impl Network {
    /// Whether any pool is of this family.
    pub fn has_family(&self, family: Family) -> bool {
        self.pools.iter().any(|pool| pool.family() == family)
    }

    fn check(&self) -> Result<(), NetworkError> {
        if self.pools.is_empty() || self.pools.len() > MAX_POOLS {
            return Err(NetworkError::PoolCount(self.pools.len()));
        }
        if self.masquerade_exempt.len() > MAX_EXEMPT {
            return Err(NetworkError::ExemptCount(self.masquerade_exempt.len()));
        }
        if self.paths.is_empty() {
            return Err(NetworkError::NoPath);
        }
        if let Some((first, second)) = overlapping(&self.pools) {
            return Err(NetworkError::Overlap { first, second });
        }
        match self.mtu {
            MtuChoice::Bytes(mtu) if mtu < Mtu::IPV6_MIN && self.has_family(Family::Ipv6) => {
                Err(NetworkError::MtuTooSmall(mtu))
            }
            _ => Ok(()),
        }
    }
}

/// The first two pools that share addresses.
fn overlapping(pools: &[Pool]) -> Option<(Cidr, Cidr)> {
    pools.iter().enumerate().find_map(|(at, first)| {
        let second = pools.iter().skip(at + 1).find(|other| first.cidr().overlaps(&other.cidr()))?;
        Some((first.cidr(), second.cidr()))
    })
}

fn usual_pools() -> Vec<Pool> {
    "10.244.0.0/16".parse().ok().and_then(|cidr| Pool::new(cidr, None).ok()).into_iter().collect()
}
