//! Which store the configuration names, and opening it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use tartan_store::{Sqlite, Store, StoreError};
use tartan_store_etcd::{Etcd, EtcdFiles, EtcdUrl};

use crate::counted::Counted;
use crate::metrics::Metrics;

/// The store's URL: `sqlite:///PATH` or `etcd://HOST:PORT,…`.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum StoreUrl {
    /// A file of this machine.
    Sqlite(PathBuf),
    /// Servers across the network.
    Etcd(EtcdUrl),
}

/// What etcd is reached by, beside its URL.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct EtcdKeys {
    /// The authorities that etcd's certificates are of, in PEM form; with them the connection is encrypted
    #[arg(long, env = "TARTAN_ETCD_CA", value_name = "FILE")]
    pub(crate) etcd_ca: Option<PathBuf>,
    /// This node's certificate towards etcd
    #[arg(long, env = "TARTAN_ETCD_CERT", value_name = "FILE")]
    pub(crate) etcd_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, env = "TARTAN_ETCD_KEY", value_name = "FILE")]
    pub(crate) etcd_key: Option<PathBuf>,
    /// The user in etcd
    #[arg(long, env = "TARTAN_ETCD_USER", value_name = "NAME")]
    pub(crate) etcd_user: Option<String>,
    /// The file with that user's password
    #[arg(long, env = "TARTAN_ETCD_PASSWORD_FILE", value_name = "FILE")]
    pub(crate) etcd_password_file: Option<PathBuf>,
}

/// The store twice: a write that waits for another agent does not hold up what comes in.
pub(crate) struct Stores {
    /// For writing.
    pub(crate) store: Arc<dyn Store>,
    /// For listening.
    pub(crate) watched: Arc<dyn Store>,
}

impl Stores {
    fn new<S: Store + 'static>(store: S, watched: S, metrics: &Arc<Metrics>) -> Stores {
        let counted = |store| Arc::new(Counted::new(store, Arc::clone(metrics)));
        Stores { store: counted(store), watched: counted(watched) }
    }
}

impl StoreUrl {
    /// Opens it. Only with etcd a thread with a runtime is started.
    pub(crate) fn open(&self, keys: &EtcdKeys, metrics: &Arc<Metrics>) -> anyhow::Result<Stores> {
        Ok(match self {
            StoreUrl::Sqlite(path) => Stores::new(Sqlite::open(path)?, Sqlite::open(path)?, metrics),
            StoreUrl::Etcd(url) => {
                // One connection carries many calls at once.
                let etcd = Etcd::open(url.clone(), &keys.files())?;
                Stores::new(etcd.clone(), etcd, metrics)
            }
        })
    }

    /// Whether an agent that cannot reach the store is to go on and wait for it: what is across a network comes back,
    /// and pods are to be deleted meanwhile; a file that cannot be opened will not mend itself.
    pub(crate) fn is_waited_for(&self, error: &anyhow::Error) -> bool {
        let mut causes = error.chain();
        matches!(self, StoreUrl::Etcd(_))
            && causes.any(|cause| {
                matches!(cause.downcast_ref::<StoreError>(), Some(StoreError::Unavailable { .. }))
            })
    }
}

impl EtcdKeys {
    /// These, and the others where these say nothing.
    pub(crate) fn or(self, other: EtcdKeys) -> EtcdKeys {
        EtcdKeys {
            etcd_ca: self.etcd_ca.or(other.etcd_ca),
            etcd_cert: self.etcd_cert.or(other.etcd_cert),
            etcd_key: self.etcd_key.or(other.etcd_key),
            etcd_user: self.etcd_user.or(other.etcd_user),
            etcd_password_file: self.etcd_password_file.or(other.etcd_password_file),
        }
    }

    /// Whether they fit the store.
    pub(crate) fn check(&self, store: &StoreUrl) -> Result<(), String> {
        let any = self.etcd_ca.is_some()
            || self.etcd_cert.is_some()
            || self.etcd_key.is_some()
            || self.etcd_user.is_some()
            || self.etcd_password_file.is_some();
        match store {
            StoreUrl::Sqlite(_) if any => Err(format!(
                "store = \"{store}\" has no use for the keys etcd_…; leave them out, or name an etcd"
            )),
            _ => Ok(()),
        }
    }

    fn files(&self) -> EtcdFiles {
        EtcdFiles {
            ca: self.etcd_ca.clone(),
            cert: self.etcd_cert.clone(),
            key: self.etcd_key.clone(),
            user: self.etcd_user.clone(),
            password: self.etcd_password_file.clone(),
        }
    }
}

impl FromStr for StoreUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("etcd:") {
            return text
                .parse()
                .map(StoreUrl::Etcd)
                .map_err(|error: tartan_store_etcd::ConfigError| error.to_string());
        }
        match text.strip_prefix("sqlite://") {
            Some(path) if path.starts_with('/') && path.len() > 1 => Ok(StoreUrl::Sqlite(path.into())),
            _ => Err(format!(
                "{text:?} is no store that this release serves; write sqlite:///PATH or etcd://HOST:PORT"
            )),
        }
    }
}

impl TryFrom<String> for StoreUrl {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreUrl::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            StoreUrl::Etcd(url) => url.fmt(f),
        }
    }
}
