//! `tartan lab`: a cluster on this machine. Here it is only parsed; [`tartan_netlab`] does it.

mod fault;
mod run;
mod show;

use std::ffi::OsString;

use clap::{Args, Subcommand, ValueEnum};
use tartan_model::{Family, Name, NetworkName, PodName};
use tartan_netlab::label::LabelChange;
use tartan_netlab::matrix::Protocol;
use tartan_netlab::names::{LabName, LabNode, LabelError};

use fault::FaultVerb;
pub(crate) use run::run;

const EXAMPLES: &str = "\
Examples:
  tartan lab up                              three nodes with two pods each
  tartan lab matrix                          who reaches whom
  tartan lab exec p1 -- ip address           a command in a pod
  tartan lab node exec n1 -- ip route        a command on a node
  tartan --lab lab --node n1 peers           what the agent of a node says
  tartan lab up --name blue --nodes 5        a second lab beside the first
  tartan lab down --all                      nothing is left";

/// A cluster on this machine: real agents and pods in network namespaces, no Kubernetes
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Lab {
    /// Which lab
    #[arg(long, global = true, value_name = "LAB", default_value = "lab")]
    name: LabName,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring a lab up, and wait until it works
    #[command(after_help = "\
Examples:
  tartan lab up --nodes 5 --pods 1 --family dual
  tartan lab up --store etcd --etcd-members 3
  tartan lab up --set attachment=routed --set vxlan.port=4789
  tartan lab up --name small --set 'pools=[{cidr: 10.9.0.0/16, blockSize: 28}]'")]
    Up(Up),
    /// Take a lab down; nothing of it is left
    #[command(after_help = "\
Examples:
  tartan lab down --name blue
  tartan lab down --all")]
    Down {
        /// Every lab of this machine
        #[arg(long)]
        all: bool,
    },
    /// Labs of this machine
    #[command(after_help = "Example: tartan lab list -o json")]
    List,
    /// Nodes and pods of a lab, with their addresses and the agents' health
    #[command(after_help = "Example: tartan lab status --name blue")]
    Status,
    /// Add or remove a node, or run a command on one
    #[command(subcommand, after_help = "Example: tartan lab node add n4")]
    Node(NodeVerb),
    /// Add, label or remove a pod
    #[command(subcommand, after_help = "Example: tartan lab pod add web --node n2 -n shop -l app=web")]
    Pod(PodVerb),
    /// Label a namespace of pods
    #[command(subcommand, after_help = "Example: tartan lab namespace label shop team=blue")]
    Namespace(NamespaceVerb),
    /// Become a command in a pod's network namespace
    #[command(after_help = "\
Examples:
  tartan lab exec p1 -- ip address
  tartan lab exec -n shop web -- sh")]
    Exec {
        /// The pod, as NAME or NAMESPACE/NAME
        pod: String,
        /// The pod's namespace [default: default]
        #[arg(short, long)]
        namespace: Option<Name>,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Who reaches whom, itself included; exit code 1 unless all do
    #[command(after_help = "\
Examples:
  tartan lab matrix
  tartan lab matrix --protocol udp --port 81 --family ipv6
  tartan lab matrix -o json | jq '.\"default/p1\"'")]
    Matrix(MatrixFlags),
    /// Break the wire between nodes or end agents, and heal it again
    #[command(subcommand, after_help = fault::EXAMPLES)]
    Fault(FaultVerb),
    /// Stop, start or wipe the lab's etcd
    #[command(
        subcommand,
        after_help = "\
Examples:
  tartan lab up --store etcd
  tartan lab store stop
  tartan lab store start
  tartan lab store wipe"
    )]
    Store(StoreVerb),
    /// The responder of a pod
    #[command(hide = true)]
    Respond {
        /// The pod
        #[arg(long)]
        pod: PodName,
    },
}

#[derive(Debug, Args)]
struct Up {
    /// The network's defaults
    #[arg(long, default_value = "flannel")]
    preset: String,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_name = "N")]
    nodes: u32,
    /// How many links the nodes are spread over in turn, joined by a router
    #[arg(long, default_value_t = 1, value_name = "N")]
    links: u8,
    /// How many pods on each node
    #[arg(long, default_value_t = 2, value_name = "N")]
    pods: u32,
    /// The families of the pods' addresses
    #[arg(long, value_enum, default_value_t = Families::Ipv4)]
    family: Families,
    /// The family that the nodes talk in [default: that of the pods, ipv4 for dual]
    #[arg(long, value_enum)]
    underlay: Option<OneFamily>,
    /// Where the cluster's state is
    #[arg(long, value_enum, default_value_t = Store::Sqlite)]
    store: Store,
    /// How many members etcd has, 1 to 5; for `--store etcd` [default: 1]
    #[arg(long, value_name = "N")]
    etcd_members: Option<u32>,
    /// Sets a path under `spec` of the ClusterNetwork; the value is YAML
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Leave a lab that fails as it is
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Families {
    Ipv4,
    Ipv6,
    Dual,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum OneFamily {
    Ipv4,
    Ipv6,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Store {
    Sqlite,
    Etcd,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum StoreVerb {
    /// End etcd; what it has stays
    #[command(after_help = "Example: tartan lab store stop")]
    Stop,
    /// Start etcd, and wait until it answers
    #[command(after_help = "Example: tartan lab store start")]
    Start,
    /// Take away all that etcd has; if it runs, it is started anew, empty
    #[command(after_help = "Example: tartan lab store wipe")]
    Wipe,
}

#[derive(Debug, Subcommand)]
enum NodeVerb {
    /// Add a node, and wait until all have found each other
    #[command(after_help = "Example: tartan lab node add n4")]
    Add {
        /// Its name
        #[arg(id = "lab-node", value_name = "NODE")]
        node: LabNode,
    },
    /// Remove a node with its pods
    #[command(after_help = "Example: tartan lab node rm n4")]
    Rm {
        /// Its name
        #[arg(id = "lab-node", value_name = "NODE")]
        node: LabNode,
    },
    /// Become a command in a node's network namespace; `outside` is a host beyond the router
    #[command(after_help = "\
Examples:
  tartan lab node exec n1 -- ip route
  tartan lab node exec outside -- sh")]
    Exec {
        /// Its name
        #[arg(id = "lab-node", value_name = "NODE")]
        node: String,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(Debug, Subcommand)]
enum PodVerb {
    /// Add a pod through the plugin
    #[command(after_help = "Example: tartan lab pod add web --node n2 -n shop -l app=web")]
    Add {
        /// Its name
        pod: Name,
        /// Its node
        // Of the same name and type as the flag of every other verb, which clap takes for the same.
        #[arg(long, value_parser = node)]
        node: String,
        /// Its namespace
        #[arg(short, long, default_value = "default")]
        namespace: Name,
        /// A label
        #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
        /// Its ClusterNetwork
        #[arg(long, default_value = "default")]
        network: NetworkName,
    },
    /// Change a pod's labels: writes a Pod object as `tartan apply` does; other labels stay
    #[command(after_help = "\
Examples:
  tartan lab pod label web -n shop app=web tier=front
  tartan lab pod label shop/web tier-")]
    Label {
        /// The pod, as NAME or NAMESPACE/NAME
        pod: String,
        /// Its namespace [default: default]
        #[arg(short, long)]
        namespace: Option<Name>,
        /// What to set, or to take away
        #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
        changes: Vec<LabelChange>,
    },
    /// Remove a pod through the plugin
    #[command(after_help = "Example: tartan lab pod rm web -n shop")]
    Rm {
        /// The pod, as NAME or NAMESPACE/NAME
        pod: String,
        /// Its namespace [default: default]
        #[arg(short, long)]
        namespace: Option<Name>,
    },
}

#[derive(Debug, Subcommand)]
enum NamespaceVerb {
    /// Change a namespace's labels: writes a Namespace object as `tartan apply` does; other labels stay
    #[command(after_help = "\
Examples:
  tartan lab namespace label shop team=blue
  tartan lab namespace label shop team-")]
    Label {
        /// The namespace
        // Not `name`, which is the lab's.
        #[arg(id = "labelled", value_name = "NAMESPACE")]
        namespace: Name,
        /// What to set, or to take away
        #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
        changes: Vec<LabelChange>,
    },
}

#[derive(Debug, Args)]
struct MatrixFlags {
    /// The responders' port: 80 or 81
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// How to ask
    #[arg(long, value_enum, default_value_t = Ask::Tcp)]
    protocol: Ask,
    /// Ask by this family only [default: every family that both pods have must answer]
    #[arg(long, value_enum)]
    family: Option<OneFamily>,
    /// Only pods of this ClusterNetwork
    #[arg(long)]
    network: Option<NetworkName>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Ask {
    Tcp,
    Udp,
    Icmp,
}

impl Families {
    fn list(self) -> Vec<Family> {
        match self {
            Families::Ipv4 => vec![Family::Ipv4],
            Families::Ipv6 => vec![Family::Ipv6],
            Families::Dual => Family::ALL.to_vec(),
        }
    }

    /// The underlay that goes with these pods.
    fn underlay(self) -> Family {
        match self {
            Families::Ipv4 | Families::Dual => Family::Ipv4,
            Families::Ipv6 => Family::Ipv6,
        }
    }
}

impl From<OneFamily> for Family {
    fn from(family: OneFamily) -> Family {
        match family {
            OneFamily::Ipv4 => Family::Ipv4,
            OneFamily::Ipv6 => Family::Ipv6,
        }
    }
}

impl From<Ask> for Protocol {
    fn from(ask: Ask) -> Protocol {
        match ask {
            Ask::Tcp => Protocol::Tcp,
            Ask::Udp => Protocol::Udp,
            Ask::Icmp => Protocol::Icmp,
        }
    }
}

fn node(text: &str) -> Result<String, LabelError> {
    text.parse::<LabNode>().map(String::from)
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("write KEY=VALUE, as in app=web".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::args::{self, Cli, Output};

    fn parse(line: &str) -> (Lab, Output) {
        let words = ["tartan", "lab"].into_iter().chain(line.split_whitespace());
        let Cli { shared, verb: args::Verb::Lab(lab) } = Cli::try_parse_from(words).unwrap() else {
            panic!()
        };
        (lab, shared.output)
    }

    #[test]
    fn the_labs_name_and_the_format_go_anywhere_before_the_command() {
        let lines = [
            "--name x -o json exec p1 -- ls",
            "exec --name x -o json p1 -- ls",
            "exec p1 -o json --name x -- ls",
        ];
        for line in lines {
            let (lab, output) = parse(line);
            assert_eq!((lab.name.to_string(), output), ("x".into(), Output::Json), "{line}");
        }
        let Verb::Exec { command, .. } = parse("exec p1 -- ls --name y -o json").0.verb else { panic!() };
        assert_eq!(command, ["ls", "--name", "y", "-o", "json"]);
    }

    #[test]
    fn a_pods_node_is_no_agent_to_ask() {
        let (lab, _) = parse("pod add web --node n2 -n shop -l app=web -l tier=");
        let Verb::Pod(PodVerb::Add { node, labels, .. }) = lab.verb else { panic!() };
        assert_eq!(node, "n2");
        assert_eq!(labels, [("app".into(), "web".into()), ("tier".into(), String::new())]);
    }

    #[test]
    fn labels_are_changed_of_pods_and_of_namespaces() {
        let (lab, _) = parse("namespace label --name x shop team=blue old-");
        let Verb::Namespace(NamespaceVerb::Label { namespace, changes }) = lab.verb else { panic!() };
        assert_eq!((lab.name.to_string().as_str(), namespace.as_str(), changes.len()), ("x", "shop", 2));
        let (lab, _) = parse("pod label web -n shop team=blue");
        let Verb::Pod(PodVerb::Label { pod, namespace, changes }) = lab.verb else { panic!() };
        assert_eq!((pod.as_str(), namespace.unwrap().as_str(), changes.len()), ("web", "shop", 1));
    }

    #[test]
    fn every_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
