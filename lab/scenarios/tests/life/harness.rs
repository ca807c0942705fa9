//! Agents that are started and ended by hand, and what is asked of them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tartan_scenarios::{Lab, Run, holds_within, programs};
use tartan_store::{Sqlite, Store};

/// How long an agent may take to come up, or to become what it is to be.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts an agent that must refuse to run: what it said.
#[track_caller]
pub(crate) fn refused(lab: &Lab, node: &str) -> Run {
    let (program, config) = (programs().join("tartand"), lab.file(node, "tartand.toml"));
    let (program, config) = (program.to_str().expect("text"), config.to_str().expect("text"));
    let run = lab.lab(&["node", "exec", node, "--", "timeout", "10", program, "--config", config]);
    assert_ne!(run.code, 124, "it runs: {run:?}");
    run
}

/// Why a node says that it is not healthy.
pub(crate) fn reasons(lab: &Lab, node: &str) -> Vec<String> {
    let status = lab.verb(node, &["status", "-o", "json"]).json();
    let reasons: Vec<String> = serde_json::from_value(status["reasons"].clone()).expect("a list");
    assert_eq!(status["healthy"], reasons.is_empty());
    reasons
}

/// Waits until a node is healthy.
#[track_caller]
pub(crate) fn wait_healthy(lab: &Lab, node: &str) {
    let is_healthy = holds_within(PATIENCE, || reasons(lab, node).is_empty());
    assert!(is_healthy, "{node}: {:?}", reasons(lab, node));
}

/// Our links, routes, neighbors and forwarding entries on a node.
pub(crate) fn kernel(lab: &Lab, node: &str) -> String {
    let asks = ["ip -o link", "ip -4 route", "ip -6 route", "ip neighbor show nud permanent"];
    let shown = asks.map(|ask| lab.on_node(node, &ask.split(' ').collect::<Vec<_>>()));
    shown.join("\n")
}

/// Waits until the kernel of the first node is as it was.
#[track_caller]
pub(crate) fn wait_for_kernel(lab: &Lab, before: &str) {
    let is_back = holds_within(Duration::from_secs(5), || kernel(lab, "n1") == before);
    assert!(is_back, "now:\n{}\nbefore:\n{before}", kernel(lab, "n1"));
}

/// What a database of the lab holds.
pub(crate) fn store(file: &Path) -> Sqlite {
    assert!(file.is_file(), "no {}", file.display());
    Sqlite::open(file).expect("the store")
}

/// The value of a key in a database of the lab.
pub(crate) fn value(file: &Path, key: &str) -> Option<String> {
    let entry = store(file).get(key).expect("the store answers");
    entry.map(|entry| String::from_utf8(entry.value).expect("text"))
}

/// A small file system over a folder, seen by this thread and what it starts only.
pub(crate) struct Small(PathBuf);

impl Small {
    /// Mounts it; what was in the folder is moved into it.
    pub(crate) fn over(folder: &Path, size: &str) -> Small {
        unshare(CloneFlags::CLONE_NEWNS).expect("root may make a mount namespace");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("a mount namespace of our own");
        let files: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.is_file())
            .map(|path| (path.clone(), fs::read(path).expect("a file")))
            .collect();
        let size = format!("size={size}");
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).expect("a tmpfs");
        for (path, bytes) in files {
            fs::write(path, bytes).expect("room");
        }
        Small(folder.into())
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Takes all the room there is.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.0.join("full");
        let mut size = 1 << 20;
        let mut file = File::create(&path).expect("a file");
        while size > 0 {
            use std::io::Write;
            // Smaller and smaller pieces, down to single bytes.
            if file.write(&vec![0; size]).is_err() {
                size /= 2;
            }
        }
        path
    }

    /// Forbids or allows writing.
    pub(crate) fn read_only(&self, yes: bool) {
        let flags = MsFlags::MS_REMOUNT | if yes { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        mount(None::<&str>, &self.0, None::<&str>, flags, None::<&str>)
            .expect("a file system that nobody writes to");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // A lab that could not be taken down still has files there; the mount goes with this thread then.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
