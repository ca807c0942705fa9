//! `tartan lab fault`, parsed.

use clap::{Args, Subcommand};
use tartan_netlab::fault::{End, Fault, Pair};
use tartan_netlab::names::LabNode;

pub(super) const EXAMPLES: &str = "\
Examples:
  tartan lab fault add partition n1 n2       nothing passes between the two
  tartan lab fault add one-way n1 n2         n2 hears nothing from n1, but n1 hears n2
  tartan lab fault add block-udp 8472        no VXLAN between any nodes
  tartan lab fault add mtu n1 n2 1400        what is larger vanishes, and nobody is told
  tartan lab fault add loss n1 outside 30    nodes and `outside`, the host beyond the router
  tartan lab fault add kill n3               several stand at once; `tartan lab status` shows them
  tartan lab fault rm partition n1 n2        one is healed
  tartan lab fault clear                     all are";

#[derive(Debug, Subcommand)]
pub(super) enum FaultVerb {
    /// Put a fault in
    #[command(subcommand, after_help = EXAMPLES)]
    Add(FaultKind),
    /// Heal a fault, written as it was put in
    #[command(subcommand, after_help = "Example: tartan lab fault rm partition n1 n2")]
    Rm(FaultKind),
    #[command(flatten)]
    Kind(FaultKind),
    /// Heal everything: the wire, and the agents that faults have ended
    #[command(after_help = "Example: tartan lab fault clear")]
    Clear,
}

#[derive(Debug, Subcommand)]
pub(super) enum FaultKind {
    /// Nothing passes between two ends
    #[command(after_help = "Example: tartan lab fault add partition n1 n2")]
    Partition(Ends),
    /// No IP packet passes from A to B; B still reaches A, one way
    #[command(after_help = "Example: tartan lab fault add one-way n1 n2")]
    OneWay(Ends),
    /// No UDP datagram to a port passes between two ends, or between any nodes
    #[command(after_help = "\
Examples:
  tartan lab fault add block-udp 8472
  tartan lab fault add block-udp 8472 n1 n2")]
    BlockUdp {
        /// The destination port
        port: u16,
        /// Between whom only
        #[arg(num_args = 2, value_names = ["A", "B"])]
        ends: Vec<End>,
    },
    /// No UDP datagram to a port passes from A to B
    #[command(after_help = "Example: tartan lab fault add one-way-udp 8472 n1 n2")]
    OneWayUdp {
        /// The destination port
        port: u16,
        #[command(flatten)]
        ends: Ends,
    },
    /// IP packets larger than SIZE vanish between two ends, and nobody is told
    #[command(after_help = "Example: tartan lab fault add mtu n1 n2 1400")]
    Mtu {
        #[command(flatten)]
        ends: Ends,
        /// The largest IP packet that passes, in bytes
        size: u16,
    },
    /// Packets vanish between two ends, by chance, in both directions
    #[command(after_help = "Example: tartan lab fault add loss n1 n2 30")]
    Loss {
        #[command(flatten)]
        ends: Ends,
        /// How many of a hundred: 1 to 100
        percent: u8,
    },
    /// End a node's agent by SIGKILL
    #[command(after_help = "Example: tartan lab fault add kill n2")]
    Kill {
        /// The node
        #[arg(id = "lab-node", value_name = "NODE")]
        node: LabNode,
    },
    /// End a node's agent by SIGTERM
    #[command(after_help = "Example: tartan lab fault add stop n2")]
    Stop {
        /// The node
        #[arg(id = "lab-node", value_name = "NODE")]
        node: LabNode,
    },
}

#[derive(Debug, Args)]
pub(super) struct Ends {
    /// A node, or `outside`
    #[arg(value_name = "A")]
    from: End,
    /// Another
    #[arg(value_name = "B")]
    to: End,
}

impl From<Ends> for Pair {
    fn from(Ends { from, to }: Ends) -> Pair {
        Pair { from, to }
    }
}

impl From<FaultKind> for Fault {
    fn from(kind: FaultKind) -> Fault {
        match kind {
            FaultKind::Partition(ends) => Fault::Partition(ends.into()),
            FaultKind::OneWay(ends) => Fault::OneWay(ends.into()),
            FaultKind::BlockUdp { port, ends } => {
                let mut ends = ends.into_iter();
                let pair = ends.next().zip(ends.next()).map(|(from, to)| Pair { from, to });
                Fault::BlockUdp { port, pair }
            }
            FaultKind::OneWayUdp { port, ends } => Fault::OneWayUdp { port, pair: ends.into() },
            FaultKind::Mtu { ends, size } => Fault::Mtu { pair: ends.into(), size },
            FaultKind::Loss { ends, percent } => Fault::Loss { pair: ends.into(), percent },
            FaultKind::Kill { node } => Fault::Kill { node },
            FaultKind::Stop { node } => Fault::Stop { node },
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Verb};
    use crate::lab;

    fn parse(line: &str) -> Result<FaultVerb, clap::Error> {
        let words = ["tartan", "lab", "fault"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words)?.verb {
            Verb::Lab(lab::Lab { verb: lab::Verb::Fault(verb), .. }) => Ok(verb),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn faults_are_put_in_with_and_without_add_in_their_own_words() {
        let words = [
            "partition n1 n2",
            "one-way n1 outside",
            "block-udp 8472",
            "block-udp 8472 n1 n2",
            "one-way-udp 8472 n2 n1",
            "mtu n1 n2 1400",
            "loss n1 n2 30",
            "kill n1",
            "stop n1",
        ];
        for fault in words {
            for add in ["add ", ""] {
                let (FaultVerb::Add(kind) | FaultVerb::Kind(kind)) = parse(&format!("{add}{fault}")).unwrap()
                else {
                    panic!("{fault}")
                };
                assert_eq!(Fault::from(kind).to_string(), fault);
            }
        }
        let wrong = [
            "block-udp 8472 n1",
            "block-udp 70000",
            "mtu n1 n2",
            "partition n1 wire",
            "loss n1 n2 -1",
            "sleep n1",
        ];
        for fault in wrong {
            assert_eq!(parse(&format!("add {fault}")).unwrap_err().exit_code(), 2, "{fault}");
        }
    }
}
