//! The node's configuration: a file, over it the environment, over that flags.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Parser, ValueEnum};
use serde::Deserialize;
use tartan_http::{Listen, NotLocal};
use tartan_model::{ChoiceError, NodeName, UplinkChoice};

use crate::WRONG;
use crate::store::{EtcdKeys, StoreUrl};

/// The configuration file that is read when none is named.
const USUAL_FILE: &str = "/etc/tartan/tartand.toml";
/// The longest configuration file: 64 KiB.
const MAX_FILE: u64 = 64 << 10;

/// The Tartan node agent.
///
/// It gives the pods of this node their addresses, links and routes, and keeps them so. It runs in the foreground
/// and logs to its standard error.
///
/// Example: tartand --node-name n1 --interface eth1
#[derive(Debug, Parser)]
#[command(name = "tartand", version, verbatim_doc_comment)]
struct Flags {
    /// The configuration file; its keys are the flags below with `_` for `-` [default: /etc/tartan/tartand.toml, if there]
    #[arg(long, env = "TARTAN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The node's name, unique in the cluster [default: the host name]
    #[arg(long, env = "TARTAN_NODE_NAME")]
    node_name: Option<NodeName>,
    /// Where the cluster's state is [default: sqlite:///var/lib/tartan/tartan.db]
    #[arg(long, env = "TARTAN_STORE", value_name = "URL")]
    store: Option<StoreUrl>,
    #[command(flatten)]
    etcd: EtcdKeys,
    /// The interface to the other nodes: its name, a pattern of names (en[op]*), a range that its address is in, or
    /// can-reach=ADDRESS [default: that of the default route]
    #[arg(long, env = "TARTAN_INTERFACE", value_name = "NAME|PATTERN|CIDR|can-reach=ADDRESS")]
    interface: Option<Interface>,
    /// The node's address to the other nodes [default: the best one of the interface]
    #[arg(long, env = "TARTAN_ADDRESS")]
    address: Option<IpAddr>,
    /// The address that the other nodes reach this one by where it is behind NAT; of each family one, with a comma between
    #[arg(long, env = "TARTAN_PUBLIC_ADDRESS", value_name = "ADDRESS[,ADDRESS]")]
    public_address: Option<PublicAddresses>,
    /// What must outlive a reboot: the node's id and its pods' records [default: /var/lib/tartan]
    #[arg(long, env = "TARTAN_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where the agent's socket, tartand.sock, is [default: /run/tartan]
    #[arg(long, env = "TARTAN_RUN_DIR", value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// What is logged: error, warn, info, debug or trace [default: info]
    #[arg(long, env = "TARTAN_LOG", value_name = "LEVEL")]
    log: Option<String>,
    /// Where metrics, /healthz and /readyz are served: unix:/PATH, 127.0.0.1:PORT or [::1]:PORT [default: nowhere]
    #[arg(long, env = "TARTAN_METRICS_LISTEN", value_name = "PLACE")]
    metrics_listen: Option<Listen>,
    /// Whether the ways to other nodes are probed, by ICMP echo between the nodes' own overlay addresses [default: true]
    #[arg(long, env = "TARTAN_PROBES", value_name = "BOOL", action = clap::ArgAction::Set)]
    probes: Option<bool>,
    /// What guards pods: BPF programs where the kernel has them (since Linux 6.4) and rules else, or rules only
    /// [default: programs]
    #[arg(long, env = "TARTAN_GUARDS", value_enum, value_name = "HAND")]
    guards: Option<Guards>,
    /// Take the node's name and blocks over from another node that still holds them
    #[arg(long)]
    take_over: bool,
}

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    node_name: Option<NodeName>,
    store: Option<StoreUrl>,
    etcd_ca: Option<PathBuf>,
    etcd_cert: Option<PathBuf>,
    etcd_key: Option<PathBuf>,
    etcd_user: Option<String>,
    etcd_password_file: Option<PathBuf>,
    interface: Option<Interface>,
    address: Option<IpAddr>,
    public_address: Option<PublicAddresses>,
    state_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    log: Option<String>,
    metrics_listen: Option<MetricsListen>,
    probes: Option<bool>,
    guards: Option<Guards>,
}

/// What guards pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Guards {
    /// Programs where the kernel has them, rules else.
    #[default]
    Programs,
    /// Rules.
    Rules,
}

/// What the agent goes by.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) node_name: NodeName,
    pub(crate) store: StoreUrl,
    pub(crate) etcd: EtcdKeys,
    pub(crate) interface: UplinkChoice,
    pub(crate) address: Option<IpAddr>,
    pub(crate) public_addresses: Vec<IpAddr>,
    pub(crate) state_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) log: String,
    pub(crate) metrics_listen: Option<Listen>,
    pub(crate) probes: bool,
    pub(crate) guards: Guards,
    pub(crate) take_over: bool,
}

/// Why there is no configuration.
pub(crate) enum Refused {
    /// The command line is wrong, or asked for help.
    Usage(clap::Error),
    /// The file or the place is wrong.
    Wrong(String),
}

impl Refused {
    pub(crate) fn exit(self) -> ExitCode {
        match self {
            Refused::Usage(error) => error.exit(),
            Refused::Wrong(message) => {
                eprintln!("tartand: {message}");
                ExitCode::from(WRONG)
            }
        }
    }
}

impl Config {
    /// Reads flags, environment and file.
    pub(crate) fn load() -> Result<Config, Refused> {
        let flags = Flags::try_parse().map_err(Refused::Usage)?;
        let usual = Path::new(USUAL_FILE);
        let file = match &flags.config {
            Some(path) => File::read(path).map_err(Refused::Wrong)?,
            None if usual.exists() => File::read(usual).map_err(Refused::Wrong)?,
            None => File::default(),
        };
        Config::merge(flags, file).map_err(Refused::Wrong)
    }

    /// Where the agent listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir.join("tartand.sock")
    }

    fn merge(flags: Flags, file: File) -> Result<Config, String> {
        let node_name = match flags.node_name.or(file.node_name) {
            Some(name) => name,
            None => host_name()?,
        };
        let log = flags.log.or(file.log).unwrap_or_else(|| "info".into());
        if !["error", "warn", "info", "debug", "trace"].contains(&log.as_str()) {
            return Err(format!("log = {log:?} is no level; use error, warn, info, debug or trace"));
        }
        let etcd = flags.etcd.or(EtcdKeys {
            etcd_ca: file.etcd_ca,
            etcd_cert: file.etcd_cert,
            etcd_key: file.etcd_key,
            etcd_user: file.etcd_user,
            etcd_password_file: file.etcd_password_file,
        });
        let store = flags.store.or(file.store);
        let store = store.unwrap_or_else(|| StoreUrl::Sqlite("/var/lib/tartan/tartan.db".into()));
        etcd.check(&store)?;
        Ok(Config {
            node_name,
            store,
            etcd,
            interface: flags.interface.or(file.interface).map_or(UplinkChoice::DefaultRoute, |i| i.0),
            address: flags.address.or(file.address),
            public_addresses: flags.public_address.or(file.public_address).map(|p| p.0).unwrap_or_default(),
            state_dir: flags.state_dir.or(file.state_dir).unwrap_or_else(|| "/var/lib/tartan".into()),
            run_dir: flags.run_dir.or(file.run_dir).unwrap_or_else(|| "/run/tartan".into()),
            log,
            metrics_listen: flags.metrics_listen.or(file.metrics_listen.map(|listen| listen.0)),
            probes: flags.probes.or(file.probes).unwrap_or(true),
            guards: flags.guards.or(file.guards).unwrap_or_default(),
            take_over: flags.take_over,
        })
    }
}

impl File {
    fn read(path: &Path) -> Result<File, String> {
        let cannot = |error: std::io::Error| {
            format!("cannot read {}: {error}; name another file with --config", path.display())
        };
        if std::fs::metadata(path).map_err(cannot)?.len() > MAX_FILE {
            return Err(format!(
                "{}: longer than {MAX_FILE} bytes; this is no configuration file",
                path.display()
            ));
        }
        let text = std::fs::read_to_string(path).map_err(cannot)?;
        toml::from_str(&text).map_err(|error| {
            let (line, column) = position(&text, error.span().map_or(0, |span| span.start));
            format!("{}:{line}:{column}: {}", path.display(), error.message().replace('\n', "; "))
        })
    }
}

/// Line and column, from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    (line, before.chars().rev().take_while(|c| *c != '\n').count() + 1)
}

fn host_name() -> Result<NodeName, String> {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    name.to_ascii_lowercase().parse().map_err(|error| format!("the host name: {error}; set node_name"))
}

/// What the others reach this node by: at most one address a family.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "OneOrMore")]
struct PublicAddresses(Vec<IpAddr>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected an address, or a list of one for each family")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl PublicAddresses {
    fn parse<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut found: Vec<IpAddr> = Vec::new();
        for text in texts {
            let address: IpAddr = text
                .trim()
                .parse()
                .map_err(|_| format!("{text:?} is no address; write it as in 203.0.113.5"))?;
            if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
                return Err(format!("{address} is no address that other nodes could send to"));
            }
            if let Some(other) = found.iter().find(|other| other.is_ipv4() == address.is_ipv4()) {
                return Err(format!("{other} and {address} are of one family; name one of each at most"));
            }
            found.push(address);
        }
        if found.is_empty() { Err("no address is named".into()) } else { Ok(PublicAddresses(found)) }
    }
}

impl FromStr for PublicAddresses {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        PublicAddresses::parse(text.split(','))
    }
}

impl TryFrom<OneOrMore> for PublicAddresses {
    type Error = String;
    fn try_from(written: OneOrMore) -> Result<Self, String> {
        match written {
            OneOrMore::One(text) => text.parse(),
            OneOrMore::More(texts) => PublicAddresses::parse(texts.iter().map(String::as_str)),
        }
    }
}

/// How the uplink is named.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct Interface(UplinkChoice);

impl FromStr for Interface {
    type Err = ChoiceError;
    fn from_str(text: &str) -> Result<Self, ChoiceError> {
        text.parse().map(Interface)
    }
}

impl TryFrom<String> for Interface {
    type Error = ChoiceError;
    fn try_from(text: String) -> Result<Self, ChoiceError> {
        text.parse()
    }
}

/// Where metrics are served.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct MetricsListen(Listen);

impl TryFrom<String> for MetricsListen {
    type Error = NotLocal;
    fn try_from(text: String) -> Result<Self, NotLocal> {
        text.parse().map(MetricsListen)
    }
}
