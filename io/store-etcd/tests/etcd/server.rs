//! An etcd of its own for each test: one member or three, on ports that were free.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use crate::suite::{Shared, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tartan_store::Store;
use tartan_store_etcd::{Etcd, EtcdFiles, EtcdUrl};

/// A cluster of etcd.
pub(crate) struct Cluster {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) members: Vec<Member>,
    /// Flags of every member beside the usual ones.
    flags: Vec<String>,
    tls: bool,
}

/// One server.
pub(crate) struct Member {
    name: String,
    pub(crate) port: u16,
    peer: u16,
    child: Option<Child>,
}

impl Cluster {
    /// A cluster without secrets that runs.
    pub(crate) fn start(members: usize) -> Cluster {
        let mut cluster = Cluster::new(members, &[], false);
        cluster.start_all();
        cluster.open().list("").unwrap();
        cluster
    }

    /// One with flags of its own that is not started yet.
    pub(crate) fn new(members: usize, flags: &[String], tls: bool) -> Cluster {
        let member = |number: usize| Member {
            name: format!("m{number}"),
            port: free_port(),
            peer: free_port(),
            child: None,
        };
        Cluster {
            folder: tempfile::tempdir().unwrap(),
            members: (0..members).map(member).collect(),
            flags: flags.to_vec(),
            tls,
        }
    }

    pub(crate) fn start_all(&mut self) {
        for number in 0..self.members.len() {
            self.start_one(number);
        }
        for member in &self.members {
            wait_until("etcd listens", || TcpStream::connect(("127.0.0.1", member.port)).is_ok());
        }
    }

    pub(crate) fn start_one(&mut self, number: usize) {
        let peers: Vec<String> = self.members.iter().map(Member::peer_url).collect();
        let scheme = if self.tls { "https" } else { "http" };
        let data = self.data(number);
        let log = File::options().create(true).append(true).open(data.with_extension("log")).unwrap();
        let member = &mut self.members[number];
        let client = format!("{scheme}://127.0.0.1:{}", member.port);
        let peer = format!("http://127.0.0.1:{}", member.peer);
        // The server dies with the test, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "etcd", "--name", &member.name, "--data-dir"]).arg(&data);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &peers.join(",")]);
        command.args(["--unsafe-no-fsync", "--heartbeat-interval", "50", "--election-timeout", "500"]);
        command.args(&self.flags).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.process_group(0);
        member.child = Some(command.spawn().expect("etcd is installed (Debian: etcd-server)"));
    }

    /// Where a member keeps its data.
    pub(crate) fn data(&self, number: usize) -> PathBuf {
        self.folder.path().join(&self.members[number].name)
    }

    pub(crate) fn signal(&self, number: usize, signal: Signal) {
        let child = self.members[number].child.as_ref().unwrap();
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        // Its threads hear of it one by one.
        std::thread::sleep(Duration::from_millis(50));
    }

    /// Kills a member, if it runs.
    pub(crate) fn stop(&mut self, number: usize) {
        if let Some(mut child) = self.members[number].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Kills all and takes away what they kept.
    pub(crate) fn wipe(&mut self) {
        for number in 0..self.members.len() {
            self.stop(number);
            fs::remove_dir_all(self.data(number)).unwrap();
        }
    }

    /// Puts the state of a snapshot where the first member will look for its data.
    pub(crate) fn restore(&self, snapshot: &Path) {
        let member = &self.members[0];
        let (data, peer) = (self.data(0), format!("http://127.0.0.1:{}", member.peer));
        let (snapshot, data) = (snapshot.to_str().unwrap(), data.to_str().unwrap());
        let cluster = format!("{}={peer}", member.name);
        let place = ["--name", &member.name, "--data-dir", data, "--initial-cluster", &cluster];
        let args =
            [&["snapshot", "restore", snapshot][..], &place, &["--initial-advertise-peer-urls", &peer]];
        self.ctl(&args.concat());
    }

    pub(crate) fn url(&self) -> EtcdUrl {
        let hosts: Vec<String> =
            self.members.iter().map(|member| format!("127.0.0.1:{}", member.port)).collect();
        format!("etcd://{}", hosts.join(",")).parse().unwrap()
    }

    /// One more client, as another agent would be.
    pub(crate) fn open(&self) -> Etcd {
        self.open_by(&EtcdFiles::default())
    }

    pub(crate) fn open_by(&self, files: &EtcdFiles) -> Etcd {
        Etcd::open(self.url(), files).unwrap()
    }

    /// Runs etcdctl, which must succeed, and gives its output.
    pub(crate) fn ctl(&self, args: &[&str]) -> String {
        etcdctl(&format!("http://127.0.0.1:{}", self.members[0].port), args)
    }
}

impl Shared for Cluster {
    fn instance(&self) -> Box<dyn Store> {
        Box::new(self.open())
    }

    /// etcd's terms are whole seconds, and its shortest is two.
    fn brief(&self) -> Duration {
        Duration::from_secs(2)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for number in 0..self.members.len() {
            self.stop(number);
        }
    }
}

impl Member {
    fn peer_url(&self) -> String {
        format!("{}=http://127.0.0.1:{}", self.name, self.peer)
    }
}

pub(crate) fn etcdctl(endpoint: &str, args: &[&str]) -> String {
    let output =
        Command::new("etcdctl").env("ETCDCTL_API", "3").args(["--endpoints", endpoint]).args(args).output();
    let output = output.expect("etcdctl is installed (Debian: etcd-client)");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A port that nobody has now and no connection or other test takes before its server has it: each is given once,
/// and all are below those that the kernel gives (32768 and on, `ip_local_port_range`).
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    // Where this process begins is not where another does.
    let begin = (std::process::id() % u32::from(COUNT)) as u16;
    let given = std::iter::repeat_with(|| FIRST + (begin + NEXT.fetch_add(1, Relaxed)) % COUNT);
    given.take(COUNT.into()).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}
