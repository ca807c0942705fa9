//! What a fault is, in the words of the command line.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::error::Usage;
use crate::names::{LabNode, LabelError, OUTSIDE};
use crate::state::State;

/// The smallest MTU of a link that carries IPv4, in bytes (RFC 791, section 3.2).
const MIN_SIZE: u16 = 68;

/// A fault that was put in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Fault {
    /// Nothing passes between the two.
    Partition(Pair),
    /// No IP packet passes from the first to the second, but what finds neighbors (ARP, ND): the other way works on.
    OneWay(Pair),
    /// No UDP datagram to this port passes between the two, or between any two nodes.
    BlockUdp {
        /// The destination port, not 0.
        port: u16,
        /// Between whom only.
        #[serde(flatten)]
        pair: Option<Pair>,
    },
    /// No UDP datagram to this port passes from the first to the second.
    OneWayUdp {
        /// The destination port, not 0.
        port: u16,
        /// From whom to whom.
        #[serde(flatten)]
        pair: Pair,
    },
    /// IP packets that are larger vanish between the two, and nobody is told.
    Mtu {
        /// Between whom.
        #[serde(flatten)]
        pair: Pair,
        /// The largest IP packet that passes, in bytes: 68 or more.
        size: u16,
    },
    /// Some packets vanish between the two.
    Loss {
        /// Between whom.
        #[serde(flatten)]
        pair: Pair,
        /// How many of a hundred, by chance and in each direction: 1 to 100.
        percent: u8,
    },
    /// The node's agent was ended by SIGKILL.
    Kill {
        /// The node.
        node: LabNode,
    },
    /// The node's agent was ended by SIGTERM.
    Stop {
        /// The node.
        node: LabNode,
    },
}

/// Two ends of the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The first; of what has a direction, the sender.
    pub from: End,
    /// The second; of what has a direction, the receiver.
    pub to: End,
}

/// An end of the wire: a node, or the host beyond the router, with the router itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum End {
    /// A node.
    Node(LabNode),
    /// The host beyond the router.
    Outside,
}

impl Fault {
    /// The node whose agent it has ended.
    pub fn ended(&self) -> Option<&LabNode> {
        match self {
            Fault::Kill { node } | Fault::Stop { node } => Some(node),
            _ => None,
        }
    }

    /// The ends that it is between; none if it is about an agent, or about all nodes.
    pub fn pair(&self) -> Option<&Pair> {
        match self {
            Fault::Partition(pair) | Fault::OneWay(pair) => Some(pair),
            Fault::OneWayUdp { pair, .. } | Fault::Mtu { pair, .. } | Fault::Loss { pair, .. } => Some(pair),
            Fault::BlockUdp { pair, .. } => pair.as_ref(),
            Fault::Kill { .. } | Fault::Stop { .. } => None,
        }
    }

    /// Whether it names this node.
    pub fn concerns(&self, node: &LabNode) -> bool {
        let is_end = |pair: &Pair| [&pair.from, &pair.to].into_iter().any(|end| end.node() == Some(node));
        self.ended() == Some(node) || self.pair().is_some_and(is_end)
    }

    /// Whether two say the same: of what has no direction, the order of the ends does not matter.
    pub fn is_same(&self, other: &Fault) -> bool {
        self == other || self.has_no_direction() && self.turned() == *other
    }

    /// Whether it cannot stand beside another: they say the same, or end the same agent.
    pub fn clashes(&self, other: &Fault) -> bool {
        self.is_same(other) || self.ended().is_some() && self.ended() == other.ended()
    }

    /// Whether it fits the lab.
    ///
    /// # Errors
    /// [`Usage`] when a node is not there, both ends are one, or a number is out of its range.
    pub fn check(&self, state: &State) -> Result<()> {
        let ends = self.pair().into_iter().flat_map(|pair| [&pair.from, &pair.to]);
        for node in ends.filter_map(End::node).chain(self.ended()) {
            state.node(node)?;
        }
        let wrong = match self {
            _ if self.pair().is_some_and(|pair| pair.from == pair.to) => "both ends are the same; name two",
            Fault::BlockUdp { port: 0, .. } | Fault::OneWayUdp { port: 0, .. } => {
                "nothing is sent to port 0; ports are 1 to 65535"
            }
            Fault::Mtu { size, .. } if *size < MIN_SIZE => {
                "no IP network has packets that small; SIZE is 68 to 65535 bytes"
            }
            Fault::Loss { percent, .. } if !(1..=100).contains(percent) => "PERCENT is 1 to 100",
            _ => return Ok(()),
        };
        bail!(Usage(format!("fault {self}: {wrong}")))
    }

    fn has_no_direction(&self) -> bool {
        !matches!(self, Fault::OneWay(_) | Fault::OneWayUdp { .. })
    }

    fn turned(&self) -> Fault {
        let mut turned = self.clone();
        match &mut turned {
            Fault::Partition(pair) | Fault::OneWay(pair) => pair.turn(),
            Fault::OneWayUdp { pair, .. } | Fault::Mtu { pair, .. } | Fault::Loss { pair, .. } => pair.turn(),
            Fault::BlockUdp { pair: Some(pair), .. } => pair.turn(),
            Fault::BlockUdp { pair: None, .. } | Fault::Kill { .. } | Fault::Stop { .. } => {}
        }
        turned
    }
}

impl Pair {
    fn turn(&mut self) {
        std::mem::swap(&mut self.from, &mut self.to);
    }
}

impl End {
    /// The node, if it is one.
    pub fn node(&self) -> Option<&LabNode> {
        match self {
            End::Node(node) => Some(node),
            End::Outside => None,
        }
    }
}

/// As it is put in.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Partition(pair) => write!(f, "partition {pair}"),
            Fault::OneWay(pair) => write!(f, "one-way {pair}"),
            Fault::BlockUdp { port, pair: None } => write!(f, "block-udp {port}"),
            Fault::BlockUdp { port, pair: Some(pair) } => write!(f, "block-udp {port} {pair}"),
            Fault::OneWayUdp { port, pair } => write!(f, "one-way-udp {port} {pair}"),
            Fault::Mtu { pair, size } => write!(f, "mtu {pair} {size}"),
            Fault::Loss { pair, percent } => write!(f, "loss {pair} {percent}"),
            Fault::Kill { node } => write!(f, "kill {node}"),
            Fault::Stop { node } => write!(f, "stop {node}"),
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.from, self.to)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.node().map_or(OUTSIDE, LabNode::as_str))
    }
}

impl FromStr for End {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<End, LabelError> {
        if text == OUTSIDE { Ok(End::Outside) } else { text.parse().map(End::Node) }
    }
}

impl TryFrom<String> for End {
    type Error = LabelError;

    fn try_from(text: String) -> Result<End, LabelError> {
        text.parse()
    }
}

impl From<End> for String {
    fn from(end: End) -> String {
        end.to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pair(from: &str, to: &str) -> Pair {
        Pair { from: from.parse().unwrap(), to: to.parse().unwrap() }
    }

    #[test]
    fn faults_are_written_down_and_read_again() {
        let node: LabNode = "n3".parse().unwrap();
        let faults = [
            (Fault::Partition(pair("n1", "n2")), json!({"kind": "partition", "from": "n1", "to": "n2"})),
            (Fault::BlockUdp { port: 8472, pair: None }, json!({"kind": "block-udp", "port": 8472})),
            (
                Fault::BlockUdp { port: 8472, pair: Some(pair("n1", "outside")) },
                json!({"kind": "block-udp", "port": 8472, "from": "n1", "to": "outside"}),
            ),
            (
                Fault::Mtu { pair: pair("n1", "n2"), size: 1400 },
                json!({"kind": "mtu", "from": "n1", "to": "n2", "size": 1400}),
            ),
            (Fault::Kill { node }, json!({"kind": "kill", "node": "n3"})),
        ];
        for (fault, text) in faults {
            assert_eq!(serde_json::to_value(&fault).unwrap(), text);
            assert_eq!(serde_json::from_value::<Fault>(text).unwrap(), fault);
        }
    }

    #[test]
    fn the_order_of_ends_matters_only_to_what_has_a_direction() {
        let loss = |from, to| Fault::Loss { pair: pair(from, to), percent: 10 };
        assert!(loss("n1", "n2").is_same(&loss("n2", "n1")));
        assert!(!loss("n1", "n2").is_same(&loss("n1", "n3")));
        assert!(!Fault::OneWay(pair("n1", "n2")).is_same(&Fault::OneWay(pair("n2", "n1"))));
    }
}
