//! What a lab may leave behind, to be compared before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tartan_kernel::netns;

use crate::run_command;

/// Everything on the machine that a lab could have made, each with a word for what it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces(BTreeSet<(&'static str, String)>);

impl Traces {
    /// What there is now.
    pub fn now() -> Traces {
        let namespaces =
            netns::list().unwrap_or_default().into_iter().filter(|name| name.starts_with("tartan-"));
        let tables = run_command(std::process::Command::new("nft").args(["list", "tables"])).stdout;
        let mut all: BTreeSet<_> = namespaces.map(|name| ("namespace", name)).collect();
        all.extend(links().map(|link| ("link", link)));
        all.extend(lines("/proc/self/mounts").map(|mount| ("mount", mount)));
        all.extend(processes().map(|process| ("process", process)));
        all.extend(files(Path::new("/run/tartan-lab")).into_iter().map(|file| ("file", file)));
        all.extend(tables.lines().map(|table| ("table", table.to_string())));
        Traces(all)
    }

    /// Asserts that there is now what there was before, no more and no less.
    #[track_caller]
    pub fn assert_unchanged(&self) {
        let now = Traces::now();
        let more: Vec<_> = now.0.difference(&self.0).collect();
        let less: Vec<_> = self.0.difference(&now.0).collect();
        assert!(more.is_empty() && less.is_empty(), "left behind: {more:#?}\nmissing: {less:#?}");
    }
}

fn lines(path: &str) -> impl Iterator<Item = String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_string).collect::<Vec<_>>().into_iter()
}

/// Links of the host's own namespace.
fn links() -> impl Iterator<Item = String> {
    let found = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    found.map(|link| link.file_name().to_string_lossy().into_owned())
}

/// Processes of our programs, by id and name. A dead one that waits for its parent to take note is gone.
fn processes() -> impl Iterator<Item = String> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|process| {
        let stat = fs::read_to_string(process.path().join("stat")).ok()?;
        let (id, rest) = stat.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let ours = ["tartan", "tartand", "tartan-cni"].contains(&name) && !rest.starts_with('Z');
        ours.then(|| format!("{id} {name}"))
    })
}

fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.insert(entry.path().display().to_string());
        found.extend(files(&entry.path()));
    }
    found
}
