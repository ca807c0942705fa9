//! The lab's store: a file that its agents share, or etcd, which the lab runs beside the router of its wire.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tartan_kernel::netns::{self, NetnsId};
use tartan_model::Family;

use crate::down::remove_folder;
use crate::error::{Usage, gather, require_root};
use crate::names::{LabName, WIRE};
use crate::programs::spawn_in;
use crate::state::{self, State};
use crate::{process, wire};

/// The most members of a lab's etcd.
pub const MAX_MEMBERS: u32 = 5;
/// The first member's port for clients; each further member has its ports ten higher.
const PORT: u32 = 2379;
/// How long etcd may take to answer, and to end.
const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(5);
/// How long one question after its health may take.
const ASK: Duration = Duration::from_secs(1);

/// Where a lab's state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabStore {
    /// A file.
    #[default]
    Sqlite,
    /// etcd with so many members.
    Etcd(u32),
}

/// One member of a lab's etcd.
struct Member<'a> {
    lab: &'a LabName,
    number: u32,
    address: IpAddr,
}

impl LabStore {
    /// Whether it can be had on this machine.
    ///
    /// # Errors
    /// [`Usage`] when it cannot, and what to do.
    pub(crate) fn check(self) -> Result<()> {
        let LabStore::Etcd(members) = self else { return Ok(()) };
        if !(1..=MAX_MEMBERS).contains(&members) {
            bail!(Usage(format!("--etcd-members {members}: etcd has 1 to {MAX_MEMBERS} members in a lab")));
        }
        let folders = std::env::var_os("PATH").unwrap_or_default();
        if std::env::split_paths(&folders).any(|folder| folder.join("etcd").is_file()) {
            return Ok(());
        }
        bail!(Usage(
            "etcd is not installed here; install it (Debian: apt-get install etcd-server) or leave out --store etcd".into()
        ))
    }

    /// The agents' `store`.
    ///
    /// # Errors
    /// When the wire's network has no router.
    pub(crate) fn url(self, lab: &LabName, underlay: Family) -> Result<String> {
        let LabStore::Etcd(_) = self else {
            return Ok(format!("sqlite://{}", folder(lab).join("tartan.db").display()));
        };
        let hosts = self.members(lab, underlay)?;
        let hosts: Vec<String> = hosts.iter().map(|member| member.client().to_string()).collect();
        Ok(format!("etcd://{}", hosts.join(",")))
    }

    fn members<'a>(self, lab: &'a LabName, underlay: Family) -> Result<Vec<Member<'a>>> {
        let LabStore::Etcd(members) = self else { return Ok(Vec::new()) };
        let address = wire::Layout { underlay, links: 1 }.router(0)?.address();
        Ok((0..members).map(|number| Member { lab, number, address }).collect())
    }

    /// Starts the members that do not run, and waits until each answers.
    ///
    /// # Errors
    /// When one does not; with where its log is.
    pub(crate) fn start(self, lab: &LabName, underlay: Family) -> Result<()> {
        let members = self.members(lab, underlay)?;
        let all: Vec<String> =
            members.iter().map(|member| format!("{}={}", member.name(), url(member.peer()))).collect();
        for member in &members {
            member.start(&all.join(","))?;
        }
        members.iter().try_for_each(Member::wait)
    }
}

/// Ends the lab's etcd.
///
/// # Errors
/// [`Usage`] when the lab is on no etcd; when a member does not end.
pub fn stop(lab: &LabName) -> Result<()> {
    require_root()?;
    let state = state::load(lab)?;
    gather("etcd is not quite stopped", of_etcd(&state)?.iter().map(|member| member.end()))
}

/// Starts the lab's etcd.
///
/// # Errors
/// [`Usage`] when the lab is on no etcd; when a member does not answer.
pub fn start(lab: &LabName) -> Result<()> {
    require_root()?;
    let state = state::load(lab)?;
    of_etcd(&state)?;
    state.store.start(lab, state.underlay)
}

/// Takes away all that the lab's etcd has. Members that run are started anew.
///
/// # Errors
/// As [`stop`] and [`start`].
pub fn wipe(lab: &LabName) -> Result<()> {
    require_root()?;
    let state = state::load(lab)?;
    let members = of_etcd(&state)?;
    let ran = members.iter().any(|member| member.pid().is_some());
    gather(
        "etcd is not quite wiped",
        members.iter().map(|member| member.end().and_then(|()| remove_folder(&member.data()))),
    )?;
    if ran { state.store.start(lab, state.underlay) } else { Ok(()) }
}

fn of_etcd(state: &State) -> Result<Vec<Member<'_>>> {
    if state.store == LabStore::Sqlite {
        let name = &state.name;
        bail!(Usage(format!(
            "lab {name} keeps its state in a file; only a lab on etcd has a store to stop: tartan lab up --store etcd"
        )));
    }
    state.store.members(&state.name, state.underlay)
}

/// Where the store's files are.
pub(crate) fn folder(lab: &LabName) -> PathBuf {
    lab.directory().join("store")
}

impl Member<'_> {
    fn name(&self) -> String {
        format!("etcd-{}", self.number + 1)
    }

    fn port(&self, above: u32) -> SocketAddr {
        let port = u16::try_from(PORT + 10 * self.number + above).unwrap_or(u16::MAX);
        SocketAddr::new(self.address, port)
    }

    fn client(&self) -> SocketAddr {
        self.port(0)
    }

    fn peer(&self) -> SocketAddr {
        self.port(1)
    }

    fn data(&self) -> PathBuf {
        folder(self.lab).join(self.name())
    }

    fn pid_file(&self) -> PathBuf {
        self.data().with_extension("pid")
    }

    fn log(&self) -> PathBuf {
        self.data().with_extension("log")
    }

    fn start(&self, cluster: &str) -> Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        fs::create_dir_all(folder(self.lab))
            .with_context(|| format!("cannot create {}", folder(self.lab).display()))?;
        let log = OpenOptions::new().create(true).append(true).open(self.log());
        let log = log.with_context(|| format!("cannot open {}", self.log().display()))?;
        let (client, peer) = (url(self.client()), url(self.peer()));
        let mut command = Command::new("etcd");
        command.args(["--name", &self.name(), "--data-dir"]).arg(self.data());
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args([
            "--initial-cluster",
            cluster,
            "--initial-cluster-token",
            &format!("tartan-lab-{}", self.lab),
        ]);
        // A lab is not worth waiting for the disk; its members are on one machine and hear each other at once.
        command.args(["--unsafe-no-fsync", "--heartbeat-interval", "50", "--election-timeout", "500"]);
        command.current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let settings = std::env::vars_os().map(|(name, _)| name);
        for name in settings.filter(|name| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        let child = spawn_in(wire::open(&self.lab.netns(WIRE))?.as_fd(), &mut command)?;
        fs::write(self.pid_file(), format!("{}\n", child.id()))
            .with_context(|| format!("cannot write {}", self.pid_file().display()))
    }

    /// Waits until it serves.
    fn wait(&self) -> Result<()> {
        let serves = process::wait_until(START, || self.is_healthy().unwrap_or(false));
        if !serves {
            bail!(
                "{} does not serve after {} s; look at {}",
                self.name(),
                START.as_secs(),
                self.log().display()
            );
        }
        Ok(())
    }

    fn is_healthy(&self) -> Result<bool> {
        let namespace = wire::open(&self.lab.netns(WIRE))?;
        let mut stream =
            netns::run_in(namespace.as_fd(), || TcpStream::connect_timeout(&self.client(), ASK))??;
        stream.set_read_timeout(Some(ASK))?;
        stream.write_all(b"GET /health HTTP/1.0\r\nHost: etcd\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer)?;
        Ok(answer.contains(r#""health":"true""#))
    }

    fn end(&self) -> Result<()> {
        if let Some(pid) = self.pid()
            && !process::end(pid, self.namespace()?, Signal::SIGTERM, STOP)
        {
            bail!("{} (process {pid}) does not end, not even by SIGKILL", self.name());
        }
        match fs::remove_file(self.pid_file()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.pid_file().display()))
            }
            _ => Ok(()),
        }
    }

    /// The process, if it runs.
    fn pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.pid_file()).ok()?;
        let pid = Pid::from_raw(text.trim().parse().ok().filter(|pid| *pid > 1)?);
        process::is_in(pid, self.namespace().ok()?).then_some(pid)
    }

    fn namespace(&self) -> Result<NetnsId> {
        Ok(netns::id(wire::open(&self.lab.netns(WIRE))?.as_fd())?)
    }
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}
