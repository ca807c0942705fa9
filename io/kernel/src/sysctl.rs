//! Kernel settings under `/proc/sys`, and the file that keeps their old values.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use tartan_host::{Sysctl, SysctlKey};

use crate::{NetnsError, Refused, netns};

/// The settings of one network namespace.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    file: Option<PathBuf>,
}

impl Settings {
    /// From now on, the old value of a setting is kept in this file before it is first changed.
    pub(crate) fn save_in(&mut self, file: PathBuf) {
        self.file = Some(file);
    }

    /// Writes one setting, unless it has that value already.
    pub(crate) fn set(&self, netns: Option<BorrowedFd<'_>>, wanted: &Sysctl) -> Result<(), Refused> {
        inside(netns, || self.set_here(wanted).map_err(|error| Refused::from_io(&error)))
            .unwrap_or_else(|error| Err(from_netns(&error)))
    }

    fn set_here(&self, wanted: &Sysctl) -> io::Result<()> {
        let path = path(&wanted.key);
        let old = fs::read_to_string(&path)?;
        let value = wanted.value.to_string();
        if old.trim() == value {
            return Ok(());
        }
        if let Some(file) = &self.file {
            save(file, wanted.key.path(), old.trim())?;
        }
        fs::write(&path, value)
    }
}

/// Reads settings; those that the kernel does not have are left out.
pub(crate) fn read(netns: Option<BorrowedFd<'_>>, keys: &[SysctlKey]) -> Result<Vec<Sysctl>, NetnsError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    inside(netns, || keys.iter().filter_map(read_here).collect())
}

fn read_here(key: &SysctlKey) -> Option<Sysctl> {
    let value = fs::read_to_string(path(key)).ok()?.trim().parse().ok()?;
    Some(Sysctl { key: key.clone(), value })
}

/// Files under /proc/sys/net are those of the namespace that the calling thread is in (proc_sys(5)).
fn inside<T: Send>(netns: Option<BorrowedFd<'_>>, run: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    match netns {
        Some(netns) => netns::run_in(netns, run),
        None => Ok(run()),
    }
}

fn path(key: &SysctlKey) -> PathBuf {
    Path::new("/proc/sys").join(key.path())
}

/// Adds an old value to the file, if that setting has none there: the first one is what was before us.
fn save(file: &Path, key: String, old: &str) -> io::Result<()> {
    let mut saved: BTreeMap<String, String> = match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => return Err(error),
    };
    if saved.contains_key(&key) {
        return Ok(());
    }
    saved.insert(key, old.into());
    let new = file.with_extension("new");
    let mut writer = File::create(&new)?;
    writer.write_all(&serde_json::to_vec_pretty(&saved)?)?;
    writer.sync_all()?;
    fs::rename(&new, file)
}

fn from_netns(error: &NetnsError) -> Refused {
    match error {
        NetnsError::System { source, .. } | NetnsError::File { source, .. } => Refused::from_io(source),
        NetnsError::NotANamespace { .. } | NetnsError::Name { .. } => Refused::from_errno(libc::EINVAL),
    }
}
