//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tartan_api::explain::{Party, ProtocolNumber, Target};
use tartan_api::object::ObjectKind;
use tartan_model::{NetworkName, NodeName};
use thiserror::Error;

use crate::lab::{Lab, OneFamily};

/// The environment variable that names the agent's socket.
const SOCKET_VARIABLE: &str = "TARTAN_SOCKET";
/// Where the files of labs are.
const LABS: &str = "/run/tartan-lab";

/// Words that do not go together; told like any other wrong usage.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// See and change the container network of this node and its cluster.
#[derive(Debug, Parser)]
#[command(
    name = "tartan",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  tartan status                          # is this node healthy, and why not
  tartan peers                           # how the other nodes are reached
  tartan check connectivity              # do packets of every size come through
  tartan apply -f network.yaml           # write the cluster's configuration
  tartan --lab lab --node n2 endpoints   # ask an agent of a lab

Exit codes: 0 done, 1 the answer is no, 2 wrong usage or input, 3 the agent or the store cannot be reached."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) shared: Shared,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags that go with every verb, before or behind it.
#[derive(Debug, Args)]
pub(crate) struct Shared {
    /// How to show the answer; yaml is for `get` and `import` only
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) output: Output,
    /// The agent's socket [env: TARTAN_SOCKET] [default: /run/tartan/tartand.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Ask an agent of this lab; goes with --node
    #[arg(long, global = true, value_name = "LAB")]
    pub(crate) lab: Option<String>,
    /// The lab's node to ask
    #[arg(long, global = true, value_name = "NODE")]
    pub(crate) node: Option<String>,
}

/// Forms of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// For programs; the field names are a promise
    Json,
    /// Objects as `apply` reads them
    Yaml,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show whether this node is healthy, and why not; exit code 1 if it is not
    #[command(after_help = "Example:\n  tartan status && echo this node is healthy")]
    Status,
    /// List the nodes of the cluster
    #[command(after_help = "Example:\n  tartan nodes -o json")]
    Nodes,
    /// List the other nodes: the path in use, its MTU, and why not a better path
    #[command(after_help = "Example:\n  tartan peers")]
    Peers,
    /// List the pods' interfaces on this node
    #[command(after_help = "Example:\n  tartan endpoints -o json")]
    Endpoints,
    /// List the packets that were refused: who sent them, why, how many
    #[command(after_help = "\
Examples:
  tartan denied        # what guards counted, and what policies refused of late
  tartan denied -f     # what is refused from now on, as it comes
Reasons of guards: mac, ipv4, ipv6 (a source that is not the pod's), arp, nd (a claim for an address that is not the pod's),
ra, redirect, dhcp (what only routers and servers send), tunnel (VXLAN from a pod, or from one that is no node), control (a pod
calls an agent), other (neither IP nor ARP, or with a VLAN tag). A counter goes a day after its last packet.
What policies refuse is told from a sample: 100 packets a second in each direction, of all connections together; 4,096
connections are kept, 512 of one source, those of late. How many packets there were in all is told by the metric
tartan_policy_denied_packets_total. The policy is the one that refuses it now: by default means that no rule allows it.
What pods of this node send in vain to pods of others is refused, and told, here: ask the node of who sends, too.
`tartan explain` tells of every rule that was asked.")]
    Denied {
        /// Go on showing what is refused, once a second, until Ctrl-C
        #[arg(short, long)]
        follow: bool,
    },
    /// Show whether a connection is allowed, and the rule that decides; exit code 1 if it is denied, 2 if an end is not known
    #[command(after_help = "\
Examples:
  tartan explain web db:5432                       # pods of namespace default
  tartan explain shop/web shop/db:53 --protocol udp
  tartan explain 192.0.2.7 shop/web:80             # somebody outside
  tartan explain shop/web node:n2:22               # a node
  tartan explain web '[2001:db8::1]:443' -o json
The answer is what the policies say; a Service's address is that of the pod behind it.")]
    Explain {
        /// The client: [NAMESPACE/]POD, an address, or node:NAME
        #[arg(value_name = "SRC")]
        source: Party,
        /// The server, with its port: [NAMESPACE/]POD:PORT, ADDRESS:PORT, [ADDRESS]:PORT or node:NAME:PORT
        #[arg(value_name = "DST[:PORT]")]
        destination: Target,
        /// tcp, udp, sctp, icmp or a number
        #[arg(long, default_value = "tcp")]
        protocol: ProtocolNumber,
        /// ipv4 or ipv6 [default: the first that both have]
        #[arg(long, value_enum)]
        family: Option<OneFamily>,
    },
    /// List the blocks of addresses, their owners and how full they are
    #[command(after_help = "Example:\n  tartan ipam")]
    Ipam,
    /// List our routes on this node
    #[command(after_help = "Example:\n  tartan routes")]
    Routes,
    /// Show what would be changed in this node's kernel; nothing is changed
    #[command(after_help = "Example:\n  tartan plan -f network.yaml   # as if the file were applied")]
    Plan {
        /// Objects to assume: a file, a folder with .yaml, .yml and .json files, or - for standard input
        #[arg(short, long = "file", value_name = "FILE|DIR|-")]
        files: Vec<PathBuf>,
    },
    /// Write objects to the store; nothing is written if any file has an error
    #[command(
        after_help = "Examples:\n  tartan apply -f network.yaml\n  tartan apply -f networks/ -f extra.yaml\n  tartan get clusternetwork -o yaml | tartan apply -f -"
    )]
    Apply {
        /// A file, a folder with .yaml, .yml and .json files, or - for standard input; may be given again
        #[arg(short, long = "file", value_name = "FILE|DIR|-", required = true)]
        files: Vec<PathBuf>,
        /// Return when every live agent has this and every earlier write in its kernel, or say which has not and why
        #[arg(long)]
        wait: bool,
    },
    /// Show objects of the store
    #[command(after_help = "\
Examples:
  tartan get clusternetwork
  tartan get clusternetwork default -o yaml
  tartan get netpol                     # the NetworkPolicies of all namespaces
  tartan get netpol shop/web            # one; without a namespace it is of default")]
    Get {
        /// The kind: clusternetwork, networkpolicy (netpol), namespace (ns), pod (po), serviceaccount (sa)
        #[arg(value_parser = kind)]
        kind: ObjectKind,
        /// Only the object of this name
        #[arg(value_name = "[NAMESPACE/]NAME")]
        name: Option<String>,
    },
    /// Take an object out of the store
    #[command(after_help = "\
Examples:
  tartan delete clusternetwork default
  tartan delete netpol shop/web")]
    Delete {
        /// The kind: clusternetwork, networkpolicy (netpol), namespace (ns), pod (po), serviceaccount (sa)
        #[arg(value_parser = kind)]
        kind: ObjectKind,
        /// Its name; its namespace is default unless given
        #[arg(value_name = "[NAMESPACE/]NAME")]
        name: String,
    },
    /// Make objects of the configuration of another network; they are printed, to be applied
    #[command(after_help = "Example:\n  tartan import flannel net-conf.json")]
    Import {
        /// Whose configuration it is
        #[command(subcommand)]
        verb: ImportVerb,
    },
    /// Take nodes out of the cluster
    #[command(after_help = "Example:\n  tartan node leave")]
    Node {
        /// What to do with the node
        #[command(subcommand)]
        verb: NodeVerb,
    },
    /// Take everything of ours off this node; says first what it will do
    Uninstall(Uninstall),
    /// Check this node, or the ways to the others; exit code 1 with the reason if something is wrong
    #[command(after_help = "\
Examples:
  tartan check                       # what this node knows of itself
  tartan check connectivity          # probe every other node now: both families, small and full packets
  tartan check connectivity n2 n3    # only these")]
    Check {
        #[command(subcommand)]
        what: Option<Check>,
    },
    /// Write what a helper needs to see into an archive, without secrets
    #[command(after_help = "\
Examples:
  tartan bundle                      # tartan-bundle.tar.gz in this folder
  tartan bundle /tmp/n1.tar.gz       # works also when the agent does not
It holds names and addresses of nodes, pods and networks. Look at it before you give it away: tar xzOf FILE | less")]
    Bundle {
        /// The archive; must not be there yet
        #[arg(default_value = "tartan-bundle.tar.gz")]
        file: PathBuf,
        /// The agent's configuration
        #[arg(long, env = "TARTAN_CONFIG", default_value = "/etc/tartan/tartand.toml")]
        config: PathBuf,
        /// The agent's log, where it is in a file
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
    },
    /// Show the version of this program
    #[command(after_help = "Example:\n  tartan version -o json")]
    Version,
    /// Build a whole cluster on this machine, in network namespaces
    Lab(Lab),
}

/// What can be imported.
#[derive(Debug, Subcommand)]
pub(crate) enum ImportVerb {
    /// Flannel's net-conf.json, or what its etcd has under /coreos.com/network/config
    #[command(after_help = "\
Examples:
  tartan import flannel net-conf.json | tartan apply -f -
  kubectl -n kube-flannel get configmap kube-flannel-cfg -o jsonpath='{.data.net-conf\\.json}' | tartan import flannel
  etcdctl get --print-value-only /coreos.com/network/config | tartan import flannel
Keys that mean something else here, or nothing, are named on the standard error. docs/moving-from/flannel.md tells the rest.")]
    Flannel {
        /// A file, or - for standard input
        #[arg(value_name = "FILE|-", default_value = "-")]
        file: PathBuf,
        /// The name of the network
        #[arg(long, default_value = "default")]
        name: NetworkName,
    },
}

/// How to leave a node as it was.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tartan uninstall --dry-run   # what would be done
  tartan uninstall             # asks before it does it
  tartan uninstall --yes
An agent that answers leaves the cluster and ends; one that is dead is not needed. The configuration, the programs and the
unit of the agent stay: they are the package's, or yours.")]
pub(crate) struct Uninstall {
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// The agent's configuration [default: /etc/tartan/tartand.toml, if there]
    #[arg(long, env = "TARTAN_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The agent's state folder, if it is not in the configuration
    #[arg(long, env = "TARTAN_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// The folder of the agent's socket, if it is not in the configuration
    #[arg(long, env = "TARTAN_RUN_DIR", value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// The cluster's store, if it is not in the configuration
    #[arg(long, env = "TARTAN_STORE", value_name = "URL")]
    pub(crate) store: Option<String>,
    /// Where the container runtime has its network configuration [default: /etc/cni/net.d]
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_config: Option<PathBuf>,
    /// Where it has its network plugins [default: /opt/cni/bin]
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_plugins: Option<PathBuf>,
}

/// What can be done with a node.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// Give back the blocks, the entry and the name of a node; its agent takes everything of ours out of the kernel and
    /// ends. Started again, it joins anew
    #[command(after_help = "\
Examples:
  tartan node leave           # this node; refused while pods are on it
  tartan node leave --force   # takes away the interfaces of its pods first
  tartan node leave n3        # a node whose agent is dead, by its name or its id")]
    Leave {
        /// A node whose agent is dead [default: this node]
        #[arg(id = "leaving", value_name = "NODE")]
        name: Option<String>,
        /// Also while pods are there: their interfaces are taken away
        #[arg(long)]
        force: bool,
    },
}

/// What to check.
#[derive(Debug, Subcommand)]
pub(crate) enum Check {
    /// Probe the data path to the other nodes now: both families, small packets and the largest that should pass
    Connectivity {
        /// Only these nodes [default: all]
        #[arg(value_name = "NODE")]
        nodes: Vec<NodeName>,
    },
}

impl Shared {
    /// The socket of the agent that is meant.
    ///
    /// # Errors
    /// When the flags do not say one agent.
    pub(crate) fn socket(&self) -> Result<PathBuf, Usage> {
        let usage = |text: &str| Err(Usage(text.into()));
        match (&self.socket, &self.lab, &self.node) {
            (Some(_), Some(_), _) => {
                usage("--socket and --lab both say which agent to ask: give one of them")
            }
            (Some(socket), None, None) => Ok(socket.clone()),
            (None, Some(lab), Some(node)) => socket_in_lab(lab, node),
            (None, Some(_), None) => usage("--lab needs a node of the lab: add --node NODE"),
            (_, None, Some(_)) => usage("--node is a node of a lab: add --lab LAB"),
            (None, None, None) => Ok(usual_socket()),
        }
    }
}

fn usual_socket() -> PathBuf {
    let named = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty());
    named.map_or_else(|| tartan_api::rpc::SOCKET.into(), PathBuf::from)
}

fn socket_in_lab(lab: &str, node: &str) -> Result<PathBuf, Usage> {
    let part = |text: &str| text.parse::<NetworkName>().map_err(|error| Usage(error.to_string()));
    Ok([LABS, part(lab)?.as_str(), part(node)?.as_str(), "tartand.sock"].iter().collect())
}

fn kind(word: &str) -> Result<ObjectKind, String> {
    let known = || ObjectKind::ALL.map(|kind| kind.words().first().copied().unwrap_or_default()).join(", ");
    ObjectKind::from_word(word).ok_or_else(|| format!("this release knows {}", known()))
}
