//! Flannel's backends, and which paths they are here.

use tartan_model::{Mtu, Vni};

use super::keys::Keys;
use super::{FlannelError, Word, mtu};
use crate::network::VXLAN_PORT;

/// What VXLAN takes of each packet in flannel, whatever the family.
const OVERHEAD: u64 = 50;

/// What a backend comes to.
pub(super) struct Backend {
    pub(super) paths: Vec<&'static str>,
    pub(super) vni: Vni,
    pub(super) port: u16,
    pub(super) mtu: Option<Mtu>,
}

/// Backends without a counterpart, and why. What encrypts, or carries packets where VXLAN may not pass, is not replaced by
/// something that does less.
const REFUSED: [(&str, &str); 9] = [
    (
        "udp",
        "its counterpart is the path sleeve, which this release does not serve; write \"vxlan\" if the nodes can send each other UDP to port 8472, as almost all can",
    ),
    (
        "wireguard",
        "it encrypts, and this release does not; write \"vxlan\" only if traffic between the nodes may be read on the way",
    ),
    (
        "ipsec",
        "it encrypts, and this release does not; write \"vxlan\" only if traffic between the nodes may be read on the way",
    ),
    (
        "extension",
        "commands that people write have no counterpart; write \"host-gw\" or \"vxlan\", whichever they come to",
    ),
    (
        "alloc",
        "it gives out blocks and carries nothing; a network here always carries its pods' traffic: write \"host-gw\" or \"vxlan\"",
    ),
    (
        "tencent-vpc",
        "routes in a cloud's table have no counterpart; write \"vxlan\", or \"host-gw\" where all nodes are on one link",
    ),
    (
        "aws-vpc",
        "flannel itself has it no more; write \"vxlan\", or \"host-gw\" where all nodes are on one link",
    ),
    ("gce", "flannel itself has it no more; write \"vxlan\", or \"host-gw\" where all nodes are on one link"),
    (
        "ali-vpc",
        "flannel itself has it no more; write \"vxlan\", or \"host-gw\" where all nodes are on one link",
    ),
];

impl Backend {
    pub(super) fn take(keys: &mut Keys<'_>, words: &mut Vec<Word>) -> Result<Backend, FlannelError> {
        let Some(mut own) = keys.object("Backend")? else {
            let says = "not there: flannel's documentation says vxlan, its code takes udp; taken for vxlan";
            words.push(Word { key: "Backend", at: None, says: says.into() });
            return Ok(Backend::usual(vec!["vxlan"]));
        };
        let backend = match own.text("Type")?.as_deref() {
            Some("vxlan") => Self::vxlan(&mut own, words)?,
            Some("host-gw") => {
                let says = "path direct: nodes on one link route to each other. Another path as second best, as in [direct, vxlan], also reaches nodes behind a router";
                own.word(words, "Type", says);
                Self::usual(vec!["direct"])
            }
            Some("ipip") => {
                own.word(words, "Type", "there is no IPIP here: VXLAN carries the same between the same nodes, with 30 bytes more a packet");
                Self::usual(direct_if(own.flag("DirectRouting")?, "vxlan"))
            }
            None | Some("") => {
                own.word(words, "Backend", "without a Type flannel does not start; taken for vxlan");
                Self::vxlan(&mut own, words)?
            }
            Some(other) => return Err(refused(&own, other)),
        };
        own.unknown(words);
        Ok(backend)
    }

    fn usual(paths: Vec<&'static str>) -> Backend {
        Backend { paths, vni: Vni::ONE, port: VXLAN_PORT, mtu: None }
    }

    fn vxlan(own: &mut Keys<'_>, words: &mut Vec<Word>) -> Result<Backend, FlannelError> {
        let mut backend = Self::usual(direct_if(own.flag("DirectRouting")?, "vxlan"));
        if let Some(vni) = own.number("VNI")? {
            let vni = u32::try_from(vni).ok().and_then(|vni| Vni::try_from(vni).ok());
            let range = "a VXLAN network identifier is from 1 to 16777215 here";
            backend.vni = vni.ok_or_else(|| own.wrong("VNI", range))?;
        }
        match own.number("Port")? {
            None => {}
            Some(0) => own.word(words, "Port", "0 is the kernel's own port, 8472"),
            Some(port) => {
                let port = u16::try_from(port).map_err(|_| own.wrong("Port", "a port is from 1 to 65535"))?;
                backend.port = port;
            }
        }
        if own.flag("GBP")? == Some(true) {
            own.word(
                words,
                "GBP",
                "left out: there are no group policy bits in our VXLAN, and nothing reads them",
            );
        }
        if own.flag("Learning")? == Some(true) {
            own.word(
                words,
                "Learning",
                "left out: every forwarding entry is written by the agent, nothing has to be learned",
            );
        }
        if let Some(bytes) = own.number("MTU")?.filter(|bytes| *bytes > 0) {
            let inner = bytes.checked_sub(OVERHEAD).and_then(mtu);
            let inner = inner
                .ok_or_else(|| own.wrong("MTU", "it leaves pods less than 576 bytes, or is over 65535"))?;
            let says = format!(
                "flannel's is that of the underlay; ours is that of the pods: {inner}. `auto` follows the underlay by itself"
            );
            own.word(words, "MTU", says);
            backend.mtu = Some(inner);
        }
        for key in ["MacPrefix", "Name"] {
            if own.has(key) {
                own.word(words, key, "left out: it is for Windows only, where we do not run");
            }
        }
        Ok(backend)
    }
}

fn direct_if(direct: Option<bool>, or: &'static str) -> Vec<&'static str> {
    if direct == Some(true) { vec!["direct", or] } else { vec![or] }
}

fn refused(own: &Keys<'_>, kind: &str) -> FlannelError {
    let known = REFUSED.iter().find(|(name, _)| *name == kind).map(|(_, reason)| *reason);
    let reason = known.unwrap_or("flannel has no such backend; write \"vxlan\" or \"host-gw\"");
    FlannelError::Backend { at: own.at("Type"), kind: kind.chars().take(40).collect(), reason }
}
