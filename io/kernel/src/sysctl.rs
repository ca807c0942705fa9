//! Kernel settings under `/proc/sys`, and the file that keeps their old values.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tartan_host::{Sysctl, SysctlKey};
use tartan_model::IfName;

use crate::{NetnsError, Refused, netns};

/// The settings of one network namespace.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    file: Option<PathBuf>,
    /// Those that were put into it.
    kept: BTreeSet<SysctlKey>,
}

impl Settings {
    /// From now on, the old value of a setting is kept in this file before it is first changed.
    pub(crate) fn save_in(&mut self, file: PathBuf) {
        self.file = Some(file);
        self.kept.clear();
    }

    /// The value that a setting had before us, if we changed it.
    pub(crate) fn before(&self, key: &SysctlKey) -> Option<u32> {
        let saved = old_values(self.file.as_deref()?).ok()?;
        saved.get(&key.path())?.parse().ok()
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
        // A link of ours had no settings before us; the loopback interface is none of ours.
        let was_there = wanted.key.on().is_none() || is_of_loopback(&wanted.key);
        if let Some(file) = self.file.as_ref().filter(|_| was_there) {
            save(file, wanted.key.path(), old.trim(), &along(&wanted.key, old.trim())?)?;
        }
        fs::write(&path, value)
    }

    /// Keeps what the settings of the loopback interface were when they were first asked for, also where that is what we
    /// want: else what somebody writes later, and we undo, would be kept as the value before us.
    pub(crate) fn keep(&mut self, found: &[Sysctl]) {
        let Some(file) = &self.file else { return };
        for Sysctl { key, value } in found.iter().filter(|found| is_of_loopback(&found.key)) {
            if self.kept.contains(key) {
                continue;
            }
            match save(file, key.path(), &value.to_string(), &[]) {
                Ok(()) => drop(self.kept.insert(key.clone())),
                Err(error) => tracing::debug!("cannot keep {}: {error}", key.path()),
            }
        }
    }
}

fn is_of_loopback(key: &SysctlKey) -> bool {
    key.on().is_some_and(|link| *link == IfName::LOOPBACK)
}

/// A setting that we changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Its path below `/proc/sys`.
    pub key: String,
    /// What it was before.
    pub old: String,
    /// What it is now; None if it is not there any more.
    pub now: Option<String>,
}

/// The settings that an agent changed, by the file that it kept their old values in; none without such a file. In the
/// order in which they are to be given back: the switches first, because they change others along with them.
///
/// # Errors
/// When the file cannot be read or makes no sense.
pub fn saved(file: &Path) -> io::Result<Vec<Saved>> {
    let with_now = |(key, old): (String, String)| {
        let path = path_of(&key).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{key:?} is no setting of a network namespace"),
            )
        })?;
        let now = fs::read_to_string(path).ok().map(|now| now.trim().to_owned());
        Ok(Saved { key, old, now })
    };
    let mut saved: Vec<Saved> = old_values(file)?.into_iter().map(with_now).collect::<io::Result<_>>()?;
    let is_switch = |key: &str| SWITCHES.iter().any(|switch| switch.path() == key);
    saved.sort_by_key(|saved| !is_switch(&saved.key));
    Ok(saved)
}

/// Gives a setting of the calling thread's network namespace its old value. Tells what it was until now; None where it has
/// that value already or is gone with its link.
///
/// # Errors
/// When the kernel refuses.
pub fn give_back(saved: &Saved) -> io::Result<Option<String>> {
    let Some(path) = path_of(&saved.key) else { return Err(io::ErrorKind::InvalidInput.into()) };
    // Not `saved.now`: a switch that was given back since may have changed it.
    let now = match fs::read_to_string(&path) {
        Ok(now) => now.trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if now == saved.old {
        return Ok(None);
    }
    fs::write(path, &saved.old)?;
    Ok(Some(now))
}

/// Writing one of these changes other settings along with it.
const SWITCHES: [SysctlKey; 2] = [SysctlKey::Ipv4Forward, SysctlKey::Ipv6Forward];

/// The settings of the calling thread's namespace that would not be what they are if a switch were thrown and then set
/// back to its old value. The kernel sets the forwarding of every link and of links to come to the value of the switch
/// (net/ipv6/addrconf.c, `addrconf_fixup_forwarding`), and for IPv4 has all links accept redirects only while nothing is
/// forwarded (net/ipv4/devinet.c, `inet_forward_change`).
fn along(switch: &SysctlKey, old: &str) -> io::Result<Vec<(String, String)>> {
    let links = match switch {
        SysctlKey::Ipv4Forward => "net/ipv4/conf",
        SysctlKey::Ipv6Forward => "net/ipv6/conf",
        _ => return Ok(Vec::new()),
    };
    let mut settings = Vec::new();
    for link in fs::read_dir(Path::new("/proc/sys").join(links))? {
        // That of all links is the switch itself.
        if let Some(link) = link?.file_name().to_str().filter(|link| *link != "all") {
            settings.push((format!("{links}/{link}/forwarding"), old));
        }
    }
    if *switch == SysctlKey::Ipv4Forward {
        settings.push((format!("{links}/all/accept_redirects"), if old == "0" { "1" } else { "0" }));
    }
    let now = |key: &str| Some(fs::read_to_string(Path::new("/proc/sys").join(key)).ok()?.trim().to_owned());
    let others = settings.into_iter().filter_map(|(key, then)| now(&key).map(|now| (key, now, then)));
    Ok(others.filter(|(_, now, then)| now != then).map(|(key, now, _)| (key, now)).collect())
}

/// The file of a setting; None for what is none of a network namespace.
fn path_of(key: &str) -> Option<PathBuf> {
    let mut parts = key.split('/');
    let whole = parts.next() == Some("net") && parts.all(|part| !matches!(part, "" | "." | ".."));
    whole.then(|| Path::new("/proc/sys").join(key))
}

/// Tells when somebody writes to the file of a setting (inotify(7)). It does not see writes through another mount of
/// /proc, and only few settings need it: of the others the kernel tells by netconf notices.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    inotify: Option<Inotify>,
    /// The files are held open: the kernel may forget a name that nobody uses, and the watch with it
    /// (fs/proc/proc_sysctl.c, `proc_sys_make_inode`).
    files: BTreeMap<SysctlKey, (WatchDescriptor, File)>,
}

impl Watch {
    /// Watches a setting from now on; without effect on one that is watched already.
    pub(crate) fn add(&mut self, netns: Option<BorrowedFd<'_>>, key: &SysctlKey) {
        if self.files.contains_key(key) {
            return;
        }
        match inside(netns, || self.add_here(key)) {
            Ok(Ok(())) => {}
            // An account has 128 instances; the slow read is the net below.
            Ok(Err(error)) => tracing::debug!("cannot watch {}: {error}", key.path()),
            Err(error) => tracing::debug!("cannot watch {}: {error}", key.path()),
        }
    }

    fn add_here(&mut self, key: &SysctlKey) -> io::Result<()> {
        let path = path(key);
        let file = File::open(&path)?;
        let inotify = match self.inotify.take() {
            Some(inotify) => inotify,
            None => Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?,
        };
        let watch = inotify.add_watch(&path, AddWatchFlags::IN_MODIFY);
        self.inotify = Some(inotify);
        self.files.insert(key.clone(), (watch?, file));
        Ok(())
    }

    /// Lets go of a setting whose file is another one now.
    pub(crate) fn forget(&mut self, key: &SysctlKey) {
        if let (Some((watch, _)), Some(inotify)) = (self.files.remove(key), &self.inotify) {
            // The kernel may have let go of it itself.
            let _ = inotify.rm_watch(watch);
        }
    }

    /// The settings that were written to since the last time, all where the kernel lost count; never waits.
    pub(crate) fn drain(&self) -> Vec<SysctlKey> {
        let Some(inotify) = &self.inotify else { return Vec::new() };
        let mut written = Vec::new();
        while let Ok(events) = inotify.read_events() {
            let lost = events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW));
            let files = self
                .files
                .iter()
                .filter(|(_, (watch, _))| lost || events.iter().any(|event| event.wd == *watch));
            written.extend(files.map(|(key, _)| key.clone()));
        }
        written
    }

    /// Readable when a setting was written to.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
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

/// Adds an old value to the file, and those that change along with it, if that setting has none there: the first one is
/// what was before us.
fn save(file: &Path, key: String, old: &str, along: &[(String, String)]) -> io::Result<()> {
    let mut saved = old_values(file)?;
    if saved.contains_key(&key) {
        return Ok(());
    }
    for (key, old) in along {
        saved.entry(key.clone()).or_insert_with(|| old.clone());
    }
    saved.insert(key, old.into());
    let new = file.with_extension("new");
    let mut writer = File::create(&new)?;
    writer.write_all(&serde_json::to_vec_pretty(&saved)?)?;
    writer.sync_all()?;
    fs::rename(&new, file)
}

fn old_values(file: &Path) -> io::Result<BTreeMap<String, String>> {
    match fs::read(file) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

fn from_netns(error: &NetnsError) -> Refused {
    match error {
        NetnsError::System { source, .. } | NetnsError::File { source, .. } => Refused::from_io(source),
        NetnsError::NotANamespace { .. } | NetnsError::Name { .. } => Refused::from_errno(libc::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_of_a_network_namespace_are_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sysctls.json");
        assert_eq!(saved(&file).unwrap(), []);
        for key in [
            "kernel/core_pattern",
            "net/../kernel/core_pattern",
            "../etc/passwd",
            "/net/x",
            "net//x",
            "net/./x",
            "",
        ] {
            fs::write(&file, serde_json::json!({key: "1"}).to_string()).unwrap();
            assert!(saved(&file).is_err(), "{key}");
            assert!(give_back(&Saved { key: key.into(), old: "1".into(), now: None }).is_err(), "{key}");
        }
        fs::write(&file, r#"{"net/ipv4/ip_forward": "0", "net/ipv4/conf/gone-1/forwarding": "1"}"#).unwrap();
        let found = saved(&file).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found.iter().any(|saved| saved.key.contains("gone-1") && saved.now.is_none()));
        fs::write(&file, "[1]").unwrap();
        assert!(saved(&file).is_err());
    }
}
