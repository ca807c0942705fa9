//! `tartan explain`: what is asked, and the answer.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
pub use tartan_model::{Direction as Side, Verdict};
use tartan_model::{Family, Name, NodeName, Path, PodName};
use thiserror::Error;

use crate::meta::{Source, default_namespace};

/// A text that names nobody.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PartyError {
    /// Neither a name nor an address.
    #[error("{text:?} is neither an address, nor a pod as [NAMESPACE/]POD, nor a node as node:NAME")]
    Nobody {
        /// What was given.
        text: String,
    },
    /// A port that there is not.
    #[error("{text:?} is no port: give 1 to 65535 behind the colon")]
    Port {
        /// What was given.
        text: String,
    },
    /// A protocol that there is not.
    #[error("{text:?} is no protocol: give tcp, udp, sctp, icmp or a number from 0 to 255")]
    Protocol {
        /// What was given.
        text: String,
    },
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Party {
    /// Whoever has this address.
    Address(IpAddr),
    /// A node.
    Node(NodeName),
    /// A pod.
    Pod(PodName),
}

/// The server's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Who it is.
    pub party: Party,
    /// Its port.
    pub port: Option<u16>,
}

/// A protocol above IP, by its name or number (IANA).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolNumber(pub u8);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explain {
    /// The client.
    pub source: Party,
    /// The server.
    pub destination: Party,
    /// The server's port; 0 where there is none.
    pub port: u16,
    /// The protocol.
    pub protocol: ProtocolNumber,
    /// The family of addresses; the first that both have, unless given.
    pub family: Option<Family>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The client's address.
    pub from: IpAddr,
    /// The server's address.
    pub to: IpAddr,
    /// What becomes of the connection.
    pub verdict: Verdict,
    /// Whose side decides; None if no policy is about either.
    pub direction: Option<Side>,
    /// The rule that decides.
    pub rule: Option<RuleName>,
    /// Every rule that was asked, in order.
    pub steps: Vec<Step>,
    /// How the packets go from the node that was asked; None if they do not leave it, or do not start there.
    pub path: Option<Path>,
    /// Whether they are encrypted on the way.
    pub sealed: bool,
    /// The largest packet in bytes; None if that is not known here.
    pub mtu: Option<u32>,
    /// All of it in words.
    pub reason: String,
}

/// A rule of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleName {
    /// The object's kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: Option<Name>,
    /// Its name.
    pub name: Name,
    /// The rule among those of its direction, counted from 0; None where no rule is about the connection and it is denied
    /// because of that.
    pub index: Option<usize>,
    /// Where the object was written, if that is known.
    pub source: Option<Place>,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file, as it was given.
    pub file: String,
    /// The line that the object begins at, counted from 1.
    pub line: u64,
}

/// A rule that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Whose side.
    pub direction: Side,
    /// `allow`, `deny`, `log` or `pass`; `none` where the rule is about something else.
    pub verdict: String,
    /// The rule.
    pub rule: RuleName,
}

impl From<&Source> for Place {
    fn from(source: &Source) -> Place {
        Place { file: source.file.clone(), line: source.line }
    }
}

impl FromStr for Party {
    type Err = PartyError;
    fn from_str(text: &str) -> Result<Party, PartyError> {
        if let Ok(address) = text.parse() {
            return Ok(Party::Address(address));
        }
        let nobody = || PartyError::Nobody { text: text.chars().take(80).collect() };
        if let Some(node) = text.strip_prefix("node:") {
            return node.parse().map(Party::Node).map_err(|_| nobody());
        }
        if let Ok(pod) = text.parse() {
            return Ok(Party::Pod(pod));
        }
        let name = text.parse().map_err(|_| nobody())?;
        Ok(Party::Pod(PodName { namespace: default_namespace(), name }))
    }
}

impl FromStr for Target {
    type Err = PartyError;
    fn from_str(text: &str) -> Result<Target, PartyError> {
        if let Ok(address) = text.parse() {
            return Ok(Target { party: Party::Address(address), port: None });
        }
        let number = |port: &str| {
            let number = port.parse().ok().filter(|port| *port != 0);
            number.ok_or_else(|| PartyError::Port { text: port.chars().take(80).collect() })
        };
        if let Some((address, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            let port = rest.strip_prefix(':').map(number).transpose()?;
            return Ok(Target { party: address.parse()?, port });
        }
        match text.rsplit_once(':') {
            Some((party, port)) if !(party.is_empty() || party == "node") => {
                Ok(Target { party: party.parse()?, port: Some(number(port)?) })
            }
            _ => Ok(Target { party: text.parse()?, port: None }),
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Party::Address(address) => address.fmt(f),
            Party::Node(node) => write!(f, "node {node}"),
            Party::Pod(pod) => write!(f, "pod {pod}"),
        }
    }
}

const PROTOCOLS: [(&str, u8); 5] = [("tcp", 6), ("udp", 17), ("sctp", 132), ("icmp", 1), ("icmpv6", 58)];

impl FromStr for ProtocolNumber {
    type Err = PartyError;
    fn from_str(text: &str) -> Result<ProtocolNumber, PartyError> {
        let named = PROTOCOLS.iter().find(|(name, _)| text.eq_ignore_ascii_case(name));
        let number = named.map(|(_, number)| *number).or_else(|| text.parse().ok());
        number
            .map(ProtocolNumber)
            .ok_or_else(|| PartyError::Protocol { text: text.chars().take(80).collect() })
    }
}

impl ProtocolNumber {
    /// Its name, or else its number.
    pub fn word(self) -> String {
        let named = PROTOCOLS.iter().find(|(_, number)| *number == self.0);
        named.map_or_else(|| self.0.to_string(), |(name, _)| (*name).into())
    }

    /// Whether its packets have ports.
    pub fn has_ports(self) -> bool {
        [6, 17, 132].contains(&self.0)
    }
}

impl fmt::Display for ProtocolNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOLS.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "protocol {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_read_as_people_write_them() {
        let party = |text: &str| text.parse::<Party>().unwrap().to_string();
        assert_eq!(party("web"), "pod default/web");
        assert_eq!(party("shop/web"), "pod shop/web");
        assert_eq!(party("node:n1"), "node n1");
        assert_eq!(party("fd00::1"), "fd00::1");
        let target = |text: &str| {
            let target = text.parse::<Target>().unwrap();
            (target.party.to_string(), target.port)
        };
        assert_eq!(target("shop/web:80"), ("pod shop/web".into(), Some(80)));
        assert_eq!(target("node:n1"), ("node n1".into(), None));
        assert_eq!(target("node:n1:22"), ("node n1".into(), Some(22)));
        assert_eq!(target("10.0.0.1:443"), ("10.0.0.1".into(), Some(443)));
        assert_eq!(target("[fd00::1]:443"), ("fd00::1".into(), Some(443)));
        assert_eq!(target("fd00::1"), ("fd00::1".into(), None));
        for wrong in ["", "web:", "web:0", "web:65536", "a/b/c", "UPPER", "[fd00::1", "x y"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
