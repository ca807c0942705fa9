//! What a node tells the others of its pods' interfaces, so that their policies know whom an address belongs to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tartan_model::{NetworkName, PodName};
use thiserror::Error;

use crate::cni::MAX_LABELS;
use crate::label::{LabelKey, LabelValue, Labels};

/// The most addresses of an interface: one a family.
pub const MAX_ADDRESSES: usize = 2;

/// A pod's interface as its node publishes it. Later releases may say more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct PublishedEndpoint {
    /// The pod.
    pub pod: PodName,
    /// The network that it is in.
    pub network: NetworkName,
    /// Its addresses, at most [`MAX_ADDRESSES`].
    pub addresses: Vec<IpAddr>,
    /// The labels that the container runtime gave it, at most [`MAX_LABELS`].
    #[serde(skip_serializing_if = "has_none")]
    pub labels: Arc<Labels>,
}

fn has_none(labels: &Labels) -> bool {
    labels.is_empty()
}

/// A pod's interface with more of something than any has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "it has {addresses} addresses and {labels} labels, at most {MAX_ADDRESSES} and {MAX_LABELS} are taken"
)]
pub struct TooMuch {
    addresses: usize,
    labels: usize,
}

#[derive(Deserialize)]
struct Written {
    pod: PodName,
    network: NetworkName,
    addresses: Vec<IpAddr>,
    #[serde(default)]
    labels: Labels,
}

impl TryFrom<Written> for PublishedEndpoint {
    type Error = TooMuch;
    fn try_from(written: Written) -> Result<Self, TooMuch> {
        let Written { pod, network, mut addresses, labels } = written;
        if addresses.len() > MAX_ADDRESSES || labels.len() > MAX_LABELS {
            return Err(TooMuch { addresses: addresses.len(), labels: labels.len() });
        }
        // There are tens of thousands.
        addresses.shrink_to_fit();
        Ok(PublishedEndpoint { pod, network, addresses, labels: Arc::new(labels) })
    }
}

/// A container runtime's labels as policies know labels: what is none of Kubernetes' no selector can ask for.
pub fn selectable(labels: &BTreeMap<String, String>) -> Labels {
    let label = |(key, value): (&String, &String)| {
        Some((LabelKey::try_from(key.clone()).ok()?, LabelValue::try_from(value.clone()).ok()?))
    };
    labels.iter().filter_map(label).collect()
}
