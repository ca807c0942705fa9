//! The guards of routed pods as BPF programs: loaded, filled with what they go by, attached, and found again.
//!
//! They check what the rules of table inet check (`core/host/src/guards.rs`), at less cost for each packet. What pods send is
//! seen by a program at each pod's link, what is for the node by programs at netfilter's hook `input`. Pins in a folder of a
//! BPF file system keep the latter while there is no agent; the former live as long as their link.
//!
//! At a pod's link there are two places for it. A classifier (tc-bpf(8)) is there at once. tcx (Linux 6.6) costs packets less,
//! but whoever puts a program there waits for RCU, and with him everybody who changes a link.

mod keys;
#[allow(unsafe_code, reason = "system calls that no library wraps")]
mod sys;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libbpf_rs::{
    Link, MapCore, MapFlags, MapHandle, NetfilterOpts, ObjectBuilder, Program, ProgramMut, TC_INGRESS,
    TcHook, TcHookBuilder,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{FsType, statfs};
use nix::time::{ClockId, clock_gettime};
use tartan_host::{Member, Reason};
use tartan_model::{IfName, Mac};
use thiserror::Error;

use crate::keys::{Place, Set, Usual};

/// The name of the folder, among what an agent has while the machine runs, that programs are kept by.
pub const FOLDER: &str = "bpf";
/// What clang made of guard.bpf.c.
static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guard.bpf.o"));
/// The programs at netfilter's hook, and which family's packets they see.
const AT_INPUT: [(&str, i32); 2] =
    [("node_ipv4", libbpf_rs::NFPROTO_IPV4), ("node_ipv6", libbpf_rs::NFPROTO_IPV6)];
/// Only one program may have a place at a hook: the next agent's takes one behind, until the one before is gone.
const PLACES: i32 = 8;
const DENIED: &str = "denied";
const PORTS: &str = ".data.ports";
/// A counter goes this long after its last packet.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Where a classifier is among those of a link: the first.
const FIRST: u32 = 1;
/// What the program at pods' links is called, also that of an agent before; and what it was called as long as there were
/// classifiers only.
const AT_LINKS: &str = "tartan_pod";
const AT_LINKS_ONCE: &str = "pod";

/// Why the programs cannot guard.
#[derive(Debug, Error)]
pub enum BpfError {
    /// There is no folder for them.
    #[error("cannot mount a BPF file system at {folder}")]
    Folder {
        /// Where it was to be.
        folder: PathBuf,
        /// What was said.
        #[source]
        source: io::Error,
    },
    /// What is mounted, and with it the programs, would go with this process.
    #[error(
        "programs would not outlive this agent, as what it mounts is its own: run it in the machine's mount namespace"
    )]
    Private,
    /// The kernel, or the library, refused.
    #[error("cannot {action}")]
    Refused {
        /// What was asked.
        action: &'static str,
        /// What was said.
        #[source]
        source: libbpf_rs::Error,
    },
    /// The kernel has no tcx.
    #[error("the kernel has no tcx, which came with Linux 6.6")]
    NoTcx,
    /// Something is missing in what was compiled.
    #[error("the programs have no {0}")]
    Missing(&'static str),
}

/// Says what was asked when it was refused.
fn to<T>(action: &'static str, result: libbpf_rs::Result<T>) -> Result<T, BpfError> {
    result.map_err(|source| BpfError::Refused { action, source })
}

/// What was refused on an interface for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// The interface that it came in by.
    pub interface: IfName,
    /// Why it was refused.
    pub reason: Reason,
    /// How many packets since the counter was made.
    pub packets: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Programs that are loaded, and their maps.
#[derive(Debug)]
pub struct Guards {
    folder: PathBuf,
    /// At the links of pods.
    at_links: OwnedFd,
    at_links_id: u32,
    /// At the hook of the node. They end with this process unless they are pinned.
    at_input: Vec<(&'static str, Link)>,
    sets: Vec<MapHandle>,
    usuals: MapHandle,
    usual_nodes: MapHandle,
    ports: MapHandle,
    denied: MapHandle,
}

impl Guards {
    /// Loads programs for the calling thread's network namespace and has them see what is for the node. They know nothing yet:
    /// fill them, then [`Guards::take_over`]. Counters that are pinned in the folder go on.
    ///
    /// # Errors
    /// When the kernel has no BPF, or not all that is needed (programs at netfilter's hooks are there since Linux 6.4).
    pub fn load(folder: &Path) -> Result<Guards, BpfError> {
        quieten();
        hold_folder(folder)?;
        let denied = folder.join(DENIED);
        let object = match open(&denied) {
            // Counters of another release.
            Err(_) if denied.exists() => {
                let _ = fs::remove_file(&denied);
                open(&denied)?
            }
            other => other?,
        };
        let map = |name: &'static str| {
            let found = object.maps().find(|map| map.name().to_str().is_some_and(|found| found == name));
            to("keep a map", MapHandle::try_from(&found.ok_or(BpfError::Missing(name))?))
        };
        let program = |name: &'static str| {
            object.progs().find(|program| program.name() == name).ok_or(BpfError::Missing(name))
        };
        let at_links = program(AT_LINKS)?;
        let keep = |program: &Program<'_>| program.as_fd().try_clone_to_owned();
        let at_links = to("keep a program", keep(&at_links).map_err(libbpf_rs::Error::from))?;
        let at_links_id = to("tell a program", Program::id_from_fd(at_links.as_fd()))?;
        let mut guards = Guards {
            folder: folder.into(),
            at_links,
            at_links_id,
            at_input: Vec::new(),
            sets: Set::ALL.into_iter().map(|set| map(set.name())).collect::<Result<_, _>>()?,
            usuals: map("usuals")?,
            usual_nodes: map("usual_nodes")?,
            ports: map(PORTS)?,
            denied: map(DENIED)?,
        };
        for (name, family) in AT_INPUT {
            let program = object.progs_mut().find(|program| program.name() == name);
            let program = program.ok_or(BpfError::Missing(name))?;
            guards.at_input.push((name, attach(&program, family)?));
        }
        Ok(guards)
    }

    /// Puts an element in, or takes it out; `link` is the index of the pod's link that it names. The rules' elements that no
    /// program goes by are let be.
    ///
    /// # Errors
    /// When a map is full.
    pub fn put(&self, member: &Member, link: u32, there: bool) -> Result<(), BpfError> {
        if !there {
            self.put_usual(member, link, false)?;
            return self.put_key(member, link, false);
        }
        self.put_key(member, link, true)?;
        // What is not noted there is looked up.
        if let Err(error) = self.put_usual(member, link, true) {
            tracing::debug!("{member:?} is not among the usual ones: {error}");
        }
        Ok(())
    }

    fn put_key(&self, member: &Member, link: u32, there: bool) -> Result<(), BpfError> {
        match keys::place(member, link) {
            Some(Place::Key(set, key)) => {
                let Some(map) = self.sets.get(set as usize) else { return Ok(()) };
                if there {
                    return to("put something into a map", map.update(&key, &[1], MapFlags::ANY));
                }
                match map.delete(&key) {
                    Err(error) if error.kind() == libbpf_rs::ErrorKind::NotFound => Ok(()),
                    other => to("take something out of a map", other),
                }
            }
            Some(Place::Port(at, bit)) => self.put_port(at, bit, there),
            None => Ok(()),
        }
    }

    fn put_usual(&self, member: &Member, link: u32, there: bool) -> Result<(), BpfError> {
        match member {
            Member::Source(_, mac, of) => self.put_usual_source(link, *mac, *of, there),
            Member::Node(of) => self.put_usual_node(*of, there),
            _ => Ok(()),
        }
    }

    fn put_usual_node(&self, of: IpAddr, there: bool) -> Result<(), BpfError> {
        let (key, node) = keys::usual_node(of);
        let nobody = vec![0; node.len()];
        let (before, after) = if there { (nobody, node) } else { (node, nobody) };
        let found = to("read a usual node", self.usual_nodes.lookup(&key, MapFlags::ANY))?;
        if found.as_ref() != Some(&before) {
            return Ok(());
        }
        to("write a usual node", self.usual_nodes.update(&key, &after, MapFlags::ANY))
    }

    fn put_usual_source(&self, link: u32, mac: Mac, of: IpAddr, there: bool) -> Result<(), BpfError> {
        let key = keys::usual(link);
        let found = to("read a link's usual sources", self.usuals.lookup(&key, MapFlags::ANY))?;
        let mut usual =
            found.as_deref().and_then(Usual::read).ok_or(BpfError::Missing("place for usual sources"))?;
        if !usual.put(link, mac, of, there) {
            return Ok(());
        }
        to("write a link's usual sources", self.usuals.update(&key, &usual.bytes(), MapFlags::ANY))
    }

    fn put_port(&self, at: usize, bit: u8, there: bool) -> Result<(), BpfError> {
        let key = 0_u32.to_ne_bytes();
        let mut ports = to("read the ports", self.ports.lookup(&key, MapFlags::ANY))?.unwrap_or_default();
        let Some(port) = ports.get_mut(at) else { return Ok(()) };
        let before = *port;
        *port = if there { before | bit } else { before & !bit };
        if *port == before {
            return Ok(());
        }
        to("write the ports", self.ports.update(&key, &ports, MapFlags::ANY))
    }

    /// Has the program judge what comes in by a pod's link at once, as the first classifier of the ingress qdisc that the link
    /// must have (libbpf would make one of `clsact`).
    ///
    /// # Errors
    /// When the kernel refuses, also because the link is gone.
    pub fn guard(&self, link: u32) -> Result<(), BpfError> {
        to("put a pod's guard in its place", self.hook(link).attach()).map(drop)
    }

    /// The same at once at tcx, if it or that of an agent before is there; else it does nothing and says false.
    pub fn guard_at_tcx(&self, link: u32) -> bool {
        let is_there = self.is_light(link)
            || former(link).any(|program| {
                let replaced = sys::replace(self.at_links.as_fd(), link, program.as_fd());
                replaced.inspect_err(|error| tracing::warn!("a guard before stays: {error}")).is_ok()
            });
        if is_there {
            self.end_others(link);
        }
        is_there
    }

    /// Moves the program of a pod's link from the classifier to tcx. Whoever changes a link waits meanwhile, some 10 ms.
    ///
    /// # Errors
    /// When the kernel refuses, also because the link is gone, or because there is no tcx. Then the classifier stays.
    pub fn lighten(&self, link: u32) -> Result<(), BpfError> {
        match sys::put_first(self.at_links.as_fd(), link) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => return Err(BpfError::NoTcx),
            other => to("put a pod's guard at tcx", other.map_err(libbpf_rs::Error::from))?,
        }
        self.end_others(link);
        Ok(())
    }

    /// Ends all other programs of ours at a link, of whatever agent: no agent fills what they go by. An ingress qdisc without
    /// filters costs packets nothing; were it to go, packets to the pod would be lost for a moment (net/sched/sch_api.c,
    /// `qdisc_graft`).
    fn end_others(&self, link: u32) {
        for program in self.others(link) {
            if let Err(error) = sys::take(program.as_fd(), link) {
                tracing::warn!("a guard before stays: {error}");
            }
        }
        let mut hook = self.hook(link);
        let program = hook.query().and_then(Program::fd_from_id);
        let is_ours = |program: OwnedFd| {
            [AT_LINKS, AT_LINKS_ONCE].iter().any(|name| sys::is_called(program.as_fd(), name))
        };
        if program.is_ok_and(is_ours) {
            let _ = hook.detach();
        }
    }

    /// Those of agents before that are at tcx.
    fn others(&self, link: u32) -> impl Iterator<Item = OwnedFd> {
        former(link).filter(|program| Program::id_from_fd(program.as_fd()).ok() != Some(self.at_links_id))
    }

    /// Whether the program is where [`Guards::guard`] or [`Guards::lighten`] put it, and none of an agent before at tcx.
    pub fn is_guarded(&self, link: u32) -> bool {
        if self.others(link).next().is_some() {
            return false;
        }
        self.is_light(link) || self.hook(link).query().is_ok_and(|found| found == self.at_links_id)
    }

    /// Whether the program is where [`Guards::lighten`] put it.
    pub fn is_light(&self, link: u32) -> bool {
        sys::at(link).is_ok_and(|found| found.contains(&self.at_links_id))
    }

    fn hook(&self, link: u32) -> TcHook {
        first_place(self.at_links.as_fd(), link)
    }

    /// Keeps the programs at the node's hook beyond the end of this process, and ends those of an agent before.
    ///
    /// # Errors
    /// When they cannot be pinned. Then they end with this process, and the former ones stay.
    pub fn take_over(&mut self) -> Result<(), BpfError> {
        let id = |link: &Link| to("tell a program", link.info()).map(|info| info.id);
        let mut kept = vec![self.folder.join(DENIED)];
        for (name, link) in &mut self.at_input {
            let pin = self.folder.join(format!("{name}-{}", id(link)?));
            if !pin.exists() {
                to("pin a program", link.pin(&pin))?;
            }
            kept.push(pin);
        }
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if !kept.contains(&entry.path()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// What was refused since the counters were made. One whose last packet is a day old goes.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn denied(&self) -> Result<Vec<Denied>, BpfError> {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
        let mut all = Vec::new();
        for key in self.denied.keys().collect::<Vec<_>>() {
            let Some(value) = to("read a counter", self.denied.lookup(&key, MapFlags::ANY))? else {
                continue;
            };
            let Some([packets, bytes, last]) = keys::count(&value) else { continue };
            if now.saturating_sub(Duration::from_nanos(last)) > KEPT {
                let _ = self.denied.delete(&key);
            } else if let Some((interface, reason)) = keys::denial(&key) {
                all.push(Denied { interface, reason, packets, bytes });
            }
        }
        Ok(all)
    }
}

/// Has libbpf tell the log what it would tell standard error: that nothing is found where one asks whether there is anything.
fn quieten() {
    libbpf_rs::set_print(Some((libbpf_rs::PrintLevel::Warn, |_, text| {
        tracing::debug!("{}", text.trim_end());
    })));
}

/// Opens and loads what was compiled.
fn open(denied: &Path) -> Result<libbpf_rs::Object, BpfError> {
    let mut builder = ObjectBuilder::default();
    let mut object = to("read the programs", builder.open_memory(OBJECT))?;
    for mut map in object.maps_mut() {
        if map.name() == DENIED {
            to("choose where counters are kept", map.set_pin_path(denied))?;
        }
    }
    to("load the programs", object.load())
}

/// Attaches a program to the hook `input`, at the first place that is free.
fn attach(program: &ProgramMut<'_>, family: i32) -> Result<Link, BpfError> {
    let mut last = None;
    for place in 0..PLACES {
        let options = NetfilterOpts {
            protocol_family: family,
            hooknum: libbpf_rs::NF_INET_LOCAL_IN,
            priority: tartan_host::PRIORITY + place,
            ..NetfilterOpts::default()
        };
        match program.attach_netfilter_with_opts(options) {
            Ok(link) => return Ok(link),
            Err(error) => last = Some(error),
        }
    }
    last.map_or(Err(BpfError::Missing("place")), |error| {
        to("attach a program to netfilter's hook", Err(error))
    })
}

/// Makes a folder for pins.
fn hold_folder(folder: &Path) -> Result<(), BpfError> {
    let refused = |source| BpfError::Folder { folder: folder.into(), source };
    if !outlives_us() {
        return Err(BpfError::Private);
    }
    fs::create_dir_all(folder).map_err(refused)?;
    if is_mounted(folder) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), folder, Some("bpf"), flags, Some("mode=700")).map_err(|errno| refused(errno.into()))
}

/// Whether the mount namespace is another's too: the first process's, or that of who started us. It is ours alone where
/// a container's first process is the agent, behind `ip netns exec`, and in a service with mounts of its own. No two
/// namespaces have a mount's number in common (proc_pid_mountinfo(5)).
fn outlives_us() -> bool {
    let first_mount = |process: u32| {
        let mounts = fs::read_to_string(format!("/proc/{process}/mountinfo")).ok()?;
        mounts.split(' ').next().map(str::to_owned)
    };
    let this = std::process::id();
    let ours = first_mount(this);
    let others = [1, parent_id()].into_iter().filter(|other| *other != this);
    ours.is_some() && others.map(first_mount).any(|theirs| theirs == ours)
}

fn is_mounted(folder: &Path) -> bool {
    const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
    statfs(folder).is_ok_and(|found| found.filesystem_type() == FsType(BPF_FS_MAGIC.into()))
}

/// Whether there is a folder in which programs are kept, or were.
pub fn is_kept(folder: &Path) -> bool {
    folder.is_dir()
}

/// Ends the programs at the node's hook that are kept in a folder, and the folder. Those at pods' links stay as long as these.
///
/// # Errors
/// When the folder cannot be unmounted.
pub fn remove(folder: &Path) -> io::Result<()> {
    if is_mounted(folder) {
        for entry in fs::read_dir(folder)?.flatten() {
            let _ = fs::remove_file(entry.path());
        }
        umount2(folder, MntFlags::MNT_DETACH)?;
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Takes the program of whatever agent from a pod's link, where rules guard it.
pub fn unguard(link: u32) {
    for program in former(link) {
        if let Err(error) = sys::take(program.as_fd(), link) {
            tracing::warn!("a program stays at a link that rules guard: {error}");
        }
    }
    if let Some(mut hook) = first_classifier(link) {
        let _ = hook.detach();
    }
}

/// Whether a program of whatever agent is at a pod's link.
pub fn has_program(link: u32) -> bool {
    former(link).next().is_some() || first_classifier(link).is_some()
}

/// The first classifier of a link, if it has one there.
fn first_classifier(link: u32) -> Option<TcHook> {
    quieten();
    // To ask and to take away, no program is needed.
    let nothing = fs::File::open("/dev/null").ok()?;
    let mut hook = first_place(nothing.as_fd(), link);
    hook.query().is_ok().then_some(hook)
}

/// Where a program is as the first classifier of a link, or is to be, in the place of any other there.
fn first_place(program: BorrowedFd<'_>, link: u32) -> TcHook {
    let mut builder = TcHookBuilder::new(program);
    builder.ifindex(link.cast_signed()).replace(true).handle(FIRST).priority(FIRST);
    builder.hook(TC_INGRESS)
}

/// The programs of ours, of whatever agent, that are at tcx of a link.
fn former(link: u32) -> impl Iterator<Item = OwnedFd> {
    let found = sys::at(link).unwrap_or_default().into_iter();
    let programs = found.filter_map(|id| Program::fd_from_id(id).ok());
    programs.filter(|program| sys::is_called(program.as_fd(), AT_LINKS))
}
