//! What a GC says: which interfaces of a network are still in use.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer};
use tartan_api::cni::NetConf;
use tartan_model::{AttachmentKey, ContainerId, IfName, ListName};

use crate::config;
use crate::failure::{Failure, code};

/// The configuration of a GC. Its size is limited with that of every configuration.
#[derive(Deserialize)]
pub(crate) struct GcConf {
    /// The runtime's network: others have GCs of their own.
    pub(crate) name: ListName,
    #[serde(default = "NetConf::usual_socket")]
    pub(crate) socket: String,
    #[serde(default, rename = "cni.dev/valid-attachments", deserialize_with = "said")]
    valid: Option<Vec<Attachment>>,
    /// The same: the text of the specification once called it so, and the reference library sends both.
    #[serde(default, rename = "cni.dev/attachments", deserialize_with = "said")]
    attachments: Option<Vec<Attachment>>,
}

#[derive(Deserialize)]
struct Attachment {
    #[serde(rename = "containerID")]
    container: ContainerId,
    ifname: IfName,
}

pub(crate) fn parse(text: &[u8]) -> Result<GcConf, Failure> {
    config::version(text)?;
    config::from_json(text)
}

impl GcConf {
    /// The interfaces that stay. A list that is not there would mean that none do: the specification has the runtime
    /// give one, so this is a mistake that must not cost every pod its network. `null` is an empty list: the reference
    /// library writes one so (Go's nil slice).
    pub(crate) fn valid(&self) -> Result<BTreeSet<AttachmentKey>, Failure> {
        let missing = || {
            let msg = "the configuration of a GC has no \"cni.dev/valid-attachments\"; give the list of those in use, [] for none";
            Failure::new(code::CONFIG, msg)
        };
        let listed = self.valid.as_ref().or(self.attachments.as_ref()).ok_or_else(missing)?;
        let key = |one: &Attachment| AttachmentKey {
            container: one.container.clone(),
            interface: one.ifname.clone(),
        };
        Ok(listed.iter().map(key).collect())
    }
}

fn said<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Attachment>>, D::Error> {
    Ok(Some(Option::deserialize(deserializer)?.unwrap_or_default()))
}
