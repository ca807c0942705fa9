//! Where things of ours are on this node: what the agent's configuration says, or what is usual.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use tartan_kernel::netns;
use tartan_store_etcd::EtcdFiles;

use crate::args::{Shared, Uninstall, Usage};

const CONFIG: &str = "/etc/tartan/tartand.toml";
const STATE: &str = "/var/lib/tartan";
const RUN: &str = "/run/tartan";
const CNI_CONFIG: &str = "/etc/cni/net.d";
const CNI_PLUGINS: &str = "/opt/cni/bin";
/// The longest configuration file that an agent reads.
const MAX_FILE: u64 = 64 << 10;

/// The keys of the agent's configuration that tell where something is; of others the agent judges.
#[derive(Debug, Default, Deserialize)]
struct Configured {
    store: Option<String>,
    state_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    etcd_ca: Option<PathBuf>,
    etcd_cert: Option<PathBuf>,
    etcd_key: Option<PathBuf>,
    etcd_user: Option<String>,
    etcd_password_file: Option<PathBuf>,
    metrics_listen: Option<String>,
}

/// Where things are.
#[derive(Debug)]
pub(crate) struct Places {
    /// The configuration, which stays.
    pub(crate) config: Option<PathBuf>,
    pub(crate) store: String,
    /// What etcd is reached by, if the store is one.
    pub(crate) etcd: EtcdFiles,
    pub(crate) state: PathBuf,
    pub(crate) run: PathBuf,
    /// The socket that metrics are served at, if it is one with a name.
    pub(crate) metrics: Option<PathBuf>,
    pub(crate) cni_config: PathBuf,
    pub(crate) cni_plugins: PathBuf,
    /// The namespace of a lab's node.
    netns: Option<PathBuf>,
}

impl Places {
    /// By flags, the environment and the file, in this order, as the agent does. What etcd is reached by and where metrics
    /// are served has no flags here: whoever gave the agent flags for it sets the variables that stand for them.
    pub(crate) fn find(shared: &Shared, args: &Uninstall) -> Result<Places> {
        if shared.socket.is_some() {
            let usage = "uninstall finds the agent by its configuration: give --config, not --socket";
            return Err(Usage(usage.into()).into());
        }
        // Refuses one without the other.
        shared.socket()?;
        let lab = shared.lab.as_ref().zip(shared.node.as_ref()).map(|(lab, node)| in_lab(lab, node));
        let lab = lab.transpose()?;
        let (folder, netns) = lab.map_or((None, None), |(folder, netns)| (Some(folder), Some(netns)));
        let of_lab = |name: &str| folder.as_ref().map(|folder| folder.join(name));
        let named = args.config.clone().or_else(|| of_lab("tartand.toml"));
        let config = named.clone().or_else(|| Some(CONFIG.into()).filter(|path: &PathBuf| path.exists()));
        let configured =
            config.as_deref().map_or(Ok(Configured::default()), |path| read(path, args.config.is_some()))?;
        let usual_store = |state: &Path| format!("sqlite://{}", state.join("tartan.db").display());
        let state = args.state_dir.clone().or(configured.state_dir).unwrap_or_else(|| STATE.into());
        Ok(Places {
            config: config.filter(|path| path.exists()),
            store: args.store.clone().or(configured.store).unwrap_or_else(|| usual_store(Path::new(STATE))),
            run: args.run_dir.clone().or(configured.run_dir).unwrap_or_else(|| RUN.into()),
            cni_config: args
                .cni_config
                .clone()
                .or_else(|| of_lab("cni/net.d"))
                .unwrap_or_else(|| CNI_CONFIG.into()),
            cni_plugins: args
                .cni_plugins
                .clone()
                .or_else(|| of_lab("cni/bin"))
                .unwrap_or_else(|| CNI_PLUGINS.into()),
            etcd: EtcdFiles {
                ca: path_in("TARTAN_ETCD_CA").or(configured.etcd_ca),
                cert: path_in("TARTAN_ETCD_CERT").or(configured.etcd_cert),
                key: path_in("TARTAN_ETCD_KEY").or(configured.etcd_key),
                user: text_in("TARTAN_ETCD_USER")?.or(configured.etcd_user),
                password: path_in("TARTAN_ETCD_PASSWORD_FILE").or(configured.etcd_password_file),
            },
            metrics: text_in("TARTAN_METRICS_LISTEN")?.or(configured.metrics_listen).and_then(unix_socket),
            state,
            netns,
        })
    }

    /// Everything from here on happens in the namespace of the node.
    pub(crate) fn enter(&self) -> Result<()> {
        let Some(path) = &self.netns else { return Ok(()) };
        let netns = netns::open(path).context("cannot find the lab's node")?;
        netns::enter(netns.as_fd()).context("cannot enter the lab's node")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.run.join("tartand.sock")
    }

    /// Where an agent's programs are kept.
    pub(crate) fn programs(&self) -> PathBuf {
        self.run.join(tartan_kernel::PROGRAMS)
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.state.join("tartand.lock")
    }

    pub(crate) fn id(&self) -> PathBuf {
        self.state.join("node.json")
    }

    pub(crate) fn saved_settings(&self) -> PathBuf {
        self.state.join("sysctls.json")
    }

    /// The file of an SQLite store.
    pub(crate) fn database(&self) -> Option<PathBuf> {
        self.store.strip_prefix("sqlite://").filter(|path| path.starts_with('/')).map(PathBuf::from)
    }
}

/// What a variable says; an empty one says nothing.
fn path_in(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn text_in(variable: &str) -> Result<Option<String>, Usage> {
    let text = |path: PathBuf| path.into_os_string().into_string();
    let wrong = |_| Usage(format!("{variable}: this is no UTF-8; nothing was changed"));
    path_in(variable).map(text).transpose().map_err(wrong)
}

/// The socket's name, where metrics are served at one: `unix:/PATH` or `/PATH`.
fn unix_socket(listen: String) -> Option<PathBuf> {
    let path = listen.strip_prefix("unix:").unwrap_or(&listen);
    path.starts_with('/').then(|| path.into())
}

fn in_lab(lab: &str, node: &str) -> Result<(PathBuf, PathBuf), Usage> {
    let usage = |error: &dyn std::fmt::Display| Usage(error.to_string());
    let lab: tartan_netlab::names::LabName = lab.parse().map_err(|error| usage(&error))?;
    let node: tartan_netlab::names::LabNode = node.parse().map_err(|error| usage(&error))?;
    let netns = Path::new(netns::DIRECTORY).join(lab.netns(node.as_str()));
    Ok((lab.files(&node).directory().to_path_buf(), netns))
}

/// A file that was named must be there.
fn read(path: &Path, must: bool) -> Result<Configured, Usage> {
    let wrong = |what: String| Usage(format!("{}: {what}; nothing was changed", path.display()));
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && !must => return Ok(Configured::default()),
        Err(error) => return Err(wrong(format!("cannot be read: {error}"))),
        Ok(file) if file.len() > MAX_FILE => {
            return Err(wrong(format!("longer than {MAX_FILE} bytes; this is no configuration file")));
        }
        Ok(_) => {}
    }
    let text = fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    toml::from_str(&text).map_err(|error| {
        let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Usage(format!(
            "{}:{line}: {}; nothing was changed",
            path.display(),
            error.message().replace('\n', "; ")
        ))
    })
}
