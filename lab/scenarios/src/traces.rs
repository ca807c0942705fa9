//! What a lab may leave behind, to be compared before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tartan_kernel::netns;

use crate::run_command;

/// Everything on the machine that a lab could have made.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    namespaces: BTreeSet<String>,
    links: BTreeSet<String>,
    mounts: BTreeSet<String>,
    processes: BTreeSet<String>,
    files: BTreeSet<String>,
    tables: String,
}

impl Traces {
    /// What there is now.
    pub fn now() -> Traces {
        Traces {
            namespaces: netns::list().unwrap_or_default().into_iter().filter(|n| n.starts_with("tartan-")).collect(),
            links: links(),
            mounts: lines("/proc/self/mounts"),
            processes: processes(),
            files: files(Path::new("/run/tartan-lab")),
            tables: run_command(std::process::Command::new("nft").args(["list", "tables"])).stdout,
        }
    }
}

fn lines(path: &str) -> BTreeSet<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_string).collect()
}

/// Links of the host's own namespace.
fn links() -> BTreeSet<String> {
    let found = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    found.map(|link| link.file_name().to_string_lossy().into_owned()).collect()
}

/// Processes of our programs, by name and id.
fn processes() -> BTreeSet<String> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|process| {
        let comm = fs::read_to_string(process.path().join("comm")).ok()?;
        let ours = ["tartan", "tartand", "tartan-cni"].contains(&comm.trim());
        ours.then(|| format!("{} {}", process.file_name().to_string_lossy(), comm.trim()))
    })
    .collect()
}

fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.insert(entry.path().display().to_string());
        found.extend(files(&entry.path()));
    }
    found
}
