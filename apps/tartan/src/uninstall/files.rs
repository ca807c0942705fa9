//! Files of ours: known by their names in our own folders, and the runtime's configuration that calls our plugin.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tartan_api::verb::Uninstalled;

use super::places::Places;
use super::store;

/// The plugin.
const PLUGIN: &str = "tartan-cni";
/// The longest file of the runtime's configuration that is looked at.
const MAX_CONFIG: u64 = 1 << 20;
/// What the agent keeps in its state folder, beside databases.
const STATE: [&str; 5] = ["node.json", "node.new", "sysctls.json", "sysctls.new", "tartand.lock"];
const RECORDS: &str = "records.db";
/// What SQLite and the store's watchers keep beside a database.
const BESIDE: [&str; 4] = ["", "-wal", "-shm", ".watch"];

/// What there is of ours, and what stays and why.
pub(crate) struct Files {
    pub(crate) ours: Vec<PathBuf>,
    pub(crate) kept: Vec<String>,
}

impl Files {
    pub(crate) fn find(places: &Places) -> Files {
        let mut files = Files { ours: of_runtime(places), kept: Vec::new() };
        files.ours.extend(sockets(places));
        files.ours.extend(database(&places.state.join(RECORDS)));
        files.take_database(places);
        files.ours.extend(STATE.iter().map(|name| places.state.join(name)).filter(|path| is_there(path)));
        let config = places.config.iter().map(|path| format!("{}: written by a person", path.display()));
        files.kept.extend(config);
        files
    }

    /// Only the configuration that calls the plugin, and the plugin.
    pub(crate) fn of_runtime(&self, places: &Places) -> Vec<PathBuf> {
        let dirs = [&places.cni_config, &places.cni_plugins];
        self.ours.iter().filter(|path| dirs.iter().any(|dir| path.starts_with(dir))).cloned().collect()
    }

    /// What tells the next try what there is to do stays.
    pub(crate) fn keep_memory(&mut self, places: &Places) {
        let memory = [places.saved_settings(), places.id()];
        self.ours.retain(|path| !memory.contains(path));
    }

    /// The cluster's own database goes with the last node, if it is in this node's folder.
    fn take_database(&mut self, places: &Places) {
        let Some(path) = places.database().filter(|path| is_there(path)) else { return };
        let mut keep = |why: &str| self.kept.push(format!("{}: {why}", path.display()));
        if path.parent() != Some(places.state.as_path()) {
            return keep("the cluster's store, which is not in this node's folder");
        }
        match store::others(places) {
            Some(0) => self.ours.extend(database(&path)),
            Some(_) => keep("the cluster's store, and other nodes are in it"),
            None => keep("the cluster's store, and it cannot be read"),
        }
    }
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn database(path: &Path) -> Vec<PathBuf> {
    let beside = |end: &&str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    BESIDE.iter().map(beside).filter(|path| is_there(path)).collect()
}

/// The agent's sockets by their names, for others may have theirs in the same folder; and the folders that they are made in,
/// if an agent was stopped while it did that.
fn sockets(places: &Places) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for socket in [Some(places.socket()), places.metrics.clone()].into_iter().flatten() {
        let kind = |path: &Path| path.symlink_metadata().ok().map(|file| file.file_type());
        found.extend(made_in(&socket).filter(|path| kind(path).is_some_and(|kind| kind.is_dir())));
        found.extend(Some(socket).filter(|path| kind(path).is_some_and(|kind| kind.is_socket())));
    }
    found
}

/// Where the agent makes a socket before it gives it its name.
fn made_in(socket: &Path) -> Option<PathBuf> {
    let mut name = OsString::from(".");
    name.push(socket.file_name()?);
    Some(socket.with_file_name(name))
}

/// Configurations that call our plugin, and the plugin.
fn of_runtime(places: &Places) -> Vec<PathBuf> {
    let entries = fs::read_dir(&places.cni_config).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| calls_us(path)).collect();
    found.sort();
    found.extend(Some(places.cni_plugins.join(PLUGIN)).filter(|path| is_there(path)));
    found
}

fn calls_us(path: &Path) -> bool {
    let known = path.extension().is_some_and(|end| end == "conflist" || end == "conf" || end == "json");
    let is_file = path.symlink_metadata().is_ok_and(|file| file.is_file() && file.len() <= MAX_CONFIG);
    if !known || !is_file {
        return false;
    }
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_CONFIG).read_to_end(&mut text));
    let Ok(Value::Object(config)) =
        read.map_err(drop).and_then(|_| serde_json::from_slice(&text).map_err(drop))
    else {
        return false;
    };
    let is_ours = |config: &Value| config.get("type").and_then(Value::as_str) == Some(PLUGIN);
    let plugins = config.get("plugins").and_then(Value::as_array);
    config.get("type").and_then(Value::as_str) == Some(PLUGIN)
        || plugins.is_some_and(|plugins| plugins.iter().any(is_ours))
}

/// Removes these; what is gone already is no failure.
pub(crate) fn remove_all(paths: &[PathBuf], outcome: &mut Uninstalled) {
    for path in paths {
        let is_folder = path.symlink_metadata().is_ok_and(|file| file.is_dir());
        let gone = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        match gone {
            Ok(()) => outcome.removed.push(format!("file {}", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => outcome.failed.push(format!("file {}: {error}", path.display())),
        }
    }
}

/// Removes our folders if nothing is left in them.
pub(crate) fn remove_folders(places: &Places, outcome: &mut Uninstalled) {
    for folder in [&places.run, &places.state] {
        match fs::remove_dir(folder) {
            Ok(()) => outcome.removed.push(format!("folder {}", folder.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
                outcome.kept.push(format!("{}: there is more in it than ours", folder.display()));
            }
            Err(error) => outcome.failed.push(format!("folder {}: {error}", folder.display())),
        }
    }
}
