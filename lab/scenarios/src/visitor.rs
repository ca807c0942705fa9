//! A node that Tartan comes to: the lab's `outside` host, which has none of it at first, and what can be seen of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tartan_netlab::down::remove_folder;
use tempfile::TempDir;

use crate::{Lab, Run, inside, programs, run, run_command, wait_until};

/// A node with folders of its own, beside a lab's.
pub struct Host<'a> {
    lab: &'a Lab,
    folder: TempDir,
    agent: Option<Child>,
}

/// What can be seen from outside of Tartan: the kernel as Debian's tools show it, its settings, and files.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    shown: BTreeMap<&'static str, String>,
    settings: BTreeMap<PathBuf, String>,
    files: Vec<PathBuf>,
}

/// What is shown does not change by itself: names and addresses, no counters, no ages.
const SHOWN: [&str; 12] = [
    "ip -o link",
    "ip -4 -o address",
    "ip -6 -o address",
    "ip -4 route show table all",
    "ip -6 route show table all",
    "ip -4 rule",
    "ip -6 rule",
    "ip neighbor show nud permanent",
    "bridge fdb",
    "nft list ruleset",
    "ip nexthop",
    "ip netconf",
];

impl<'a> Host<'a> {
    /// The host as it is, with the files that an agent and somebody else's network need.
    pub fn new(lab: &'a Lab) -> Host<'a> {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["etc", "net.d", "bin"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let host = Host { lab, folder, agent: None };
        // Until nobody is known to have its link-local address, which the kernel asks for two seconds.
        wait_until("the host's addresses are its own", Duration::from_secs(5), || {
            lab.on_node("outside", &["ip", "-6", "-o", "address", "show", "tentative"]).is_empty()
        });
        let text = format!(
            "node_name = \"visitor\"\nstore = \"sqlite://{}\"\nstate_dir = {:?}\nrun_dir = {:?}\n\
             metrics_listen = \"unix:{}\"\n",
            lab.file("store", "tartan.db").display(),
            host.path("state"),
            host.path("run"),
            host.path("etc/metrics.sock").display(),
        );
        fs::write(host.path("etc/tartand.toml"), text).expect("a file");
        // Somebody else's network.
        fs::write(host.path("net.d/20-other.conflist"), r#"{"name": "x", "plugins": [{"type": "bridge"}]}"#)
            .expect("a file");
        fs::write(host.path("bin/bridge"), "").expect("a file");
        host
    }

    /// The path of a file of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn netns(&self) -> PathBuf {
        self.lab.netns("outside")
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("tartan-{}_outside", self.lab.name())]).arg(program);
        command
    }

    /// What can be seen of it now.
    pub fn seen(&self) -> Seen {
        let show = |ask: &'static str| {
            let (program, args) = ask.split_once(' ').expect("a command");
            (ask, run_command(self.command(Path::new(program)).args(args.split(' '))).ok().stdout)
        };
        let settings = inside(&self.netns(), || {
            ["net/ipv4/conf", "net/ipv6/conf", "net/ipv4/ip_forward", "net/bridge"]
                .iter()
                .flat_map(|place| files(&Path::new("/proc/sys").join(place)))
                // The kernel tells this one only once: a secret that it makes itself.
                .filter(|path| !path.ends_with("stable_secret"))
                .filter_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?)))
                .collect()
        });
        Seen { shown: SHOWN.into_iter().map(show).collect(), settings, files: files(self.folder.path()) }
    }

    /// Installs what calls the plugin, and starts the agent; waits until it is healthy.
    #[track_caller]
    pub fn install(&mut self) {
        let list = r#"{"cniVersion": "1.0.0", "name": "tartan", "plugins": [{"type": "tartan-cni"}, {"type": "portmap"}]}"#;
        fs::write(self.path("net.d/10-tartan.conflist"), list).expect("a file");
        fs::write(self.path("bin/tartan-cni"), "").expect("a file");
        self.start();
    }

    /// Starts the agent and waits until it is healthy.
    #[track_caller]
    pub fn start(&mut self) {
        // Not by `ip netns exec`: what an agent mounts is the machine's, as its programs are to outlive it.
        let mut command = Command::new(programs().join("tartand"));
        command.arg("--config").arg(self.path("etc/tartand.toml")).stderr(Stdio::null());
        self.agent = Some(inside(&self.netns(), || command.spawn().expect("it starts")));
        wait_until("the visitor is healthy", Duration::from_secs(10), || {
            self.socket().exists() && self.verb(&["status"]).code == 0
        });
    }

    /// Where the agent answers.
    pub fn socket(&self) -> PathBuf {
        self.path("run/tartand.sock")
    }

    /// `tartan …` of its agent.
    pub fn verb(&self, args: &[&str]) -> Run {
        let socket = self.socket();
        run("tartan", [&["--socket", socket.to_str().expect("text")], args].concat())
    }

    /// `tartan uninstall …` on it.
    pub fn uninstall(&self, args: &[&str]) -> Run {
        run_command(&mut self.uninstalling(args))
    }

    /// The command of that, which is not started.
    pub fn uninstalling(&self, args: &[&str]) -> Command {
        let mut command = self.command(&programs().join("tartan"));
        command.arg("uninstall").arg("--config").arg(self.path("etc/tartand.toml"));
        command.arg("--cni-config").arg(self.path("net.d")).arg("--cni-plugins").arg(self.path("bin"));
        command.args(args);
        command
    }

    /// Kills the agent.
    pub fn kill(&mut self) {
        let mut agent = self.agent.take().expect("it runs");
        kill(Pid::from_raw(agent.id() as i32), Signal::SIGKILL).expect("it is there");
        agent.wait().expect("it ends");
    }

    /// The exit code of an agent that ends by itself.
    #[track_caller]
    pub fn ended(&mut self) -> Option<i32> {
        let mut agent = self.agent.take().expect("it was started");
        wait_until("the agent has ended", Duration::from_secs(5), || matches!(agent.try_wait(), Ok(Some(_))));
        agent.wait().expect("it ended").code()
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            // It may have ended by itself.
            let _ = agent.kill();
            let _ = agent.wait();
        }
        // Or the folder could not go.
        let _ = remove_folder(&self.path("run"));
    }
}

impl Seen {
    /// What is other than it was, as lines.
    pub fn difference(&self, now: &Seen) -> String {
        let mut text = String::new();
        for (ask, old) in &self.shown {
            for line in now.shown[ask].lines().filter(|line| !old.contains(line)) {
                text += &format!("{ask}: too much: {line}\n");
            }
            for line in old.lines().filter(|line| !now.shown[ask].contains(line)) {
                text += &format!("{ask}: missing: {line}\n");
            }
        }
        for (path, old) in &self.settings {
            let new = now.settings.get(path);
            if new != Some(old) {
                text += &format!("{}: {new:?}, was {old:?}\n", path.display());
            }
        }
        for path in now.settings.keys().filter(|path| !self.settings.contains_key(*path)) {
            text += &format!("{}: too much\n", path.display());
        }
        if self.files != now.files {
            text += &format!("files: {:?}, were {:?}\n", now.files, self.files);
        }
        text
    }
}

/// All files and folders below one.
fn files(place: &Path) -> Vec<PathBuf> {
    let mut found = vec![place.to_path_buf()];
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        found.extend(if path.is_dir() && !path.is_symlink() { files(&path) } else { vec![path] });
    }
    found.sort();
    found
}
