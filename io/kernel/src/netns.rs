//! Network namespaces: made, found and entered, in the way of `ip netns`.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::fstat;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use nix::unistd::Pid;
use thiserror::Error;

/// Where named namespaces are bind-mounted (ip-netns(8)).
pub const DIRECTORY: &str = "/run/netns";

/// What tells a namespace from all others: device and inode number of its file (namespaces(7)).
pub type NetnsId = (u64, u64);

/// Why a network namespace cannot be had.
#[derive(Debug, Error)]
pub enum NetnsError {
    /// The file is there, and is something else.
    #[error("{} is not a network namespace", path.display())]
    NotANamespace {
        /// The file.
        path: PathBuf,
    },
    /// Not a name for a file in `/run/netns`.
    #[error("{name:?} is not a name for a network namespace: use at most 255 bytes without '/'")]
    Name {
        /// The refused name.
        name: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The namespace cannot be made, looked at or entered.
    #[error("cannot {action} the network namespace")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Makes a namespace and gives it a name, as `ip netns add` does; its loopback link is down.
///
/// # Errors
/// When the name is taken or not a file name, or without CAP_SYS_ADMIN.
pub fn create(name: &str) -> Result<OwnedFd, NetnsError> {
    let path = path_of(name)?;
    share_directory()?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(&path)
        .map_err(file("create", &path))?;
    match on_a_thread(|| make_at(&path)) {
        Ok(Ok(())) => open(&path),
        Ok(Err(error)) | Err(error) => {
            // The empty file must not stay behind as a name without a namespace; the first error is the one to tell.
            fs::remove_file(&path).ok();
            Err(error)
        }
    }
}

/// Takes the name of a namespace away, as `ip netns delete` does; false if there was none. The namespace itself goes
/// with its last process and descriptor.
///
/// # Errors
/// When the name is not a file name, or the mount cannot be released.
pub fn remove(name: &str) -> Result<bool, NetnsError> {
    let path = path_of(name)?;
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: a plain file, left by somebody who was stopped half way.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(file("unmount", &path)(errno.into())),
    }
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(file("remove", &path)(error)),
    }
}

/// Opens a namespace by the path of its file, as in `/run/netns/NAME` or `/proc/PID/ns/net`.
///
/// # Errors
/// [`NetnsError::NotANamespace`] when the file is something else; [`NetnsError::File`] when it cannot be opened.
pub fn open(path: &Path) -> Result<OwnedFd, NetnsError> {
    // A FIFO in its place must not block us.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let netns = OwnedFd::from(opened.map_err(file("open", path))?);
    let not_a_namespace = || NetnsError::NotANamespace { path: path.into() };
    let stat = fstatfs(&netns).map_err(|errno| file("look at", path)(errno.into()))?;
    if stat.filesystem_type() != NSFS_MAGIC {
        return Err(not_a_namespace());
    }
    // Another kind of namespace is refused with EINVAL (setns(2)).
    match run_in(netns.as_fd(), || ()) {
        Ok(()) => Ok(netns),
        Err(NetnsError::System { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
            Err(not_a_namespace())
        }
        Err(error) => Err(error),
    }
}

/// The namespace of the calling thread.
///
/// # Errors
/// When /proc is not mounted.
pub fn current() -> Result<OwnedFd, NetnsError> {
    let path = Path::new("/proc/thread-self/ns/net");
    Ok(File::open(path).map_err(file("open", path))?.into())
}

/// The names in `/run/netns`, sorted.
///
/// # Errors
/// When the folder cannot be read; a missing one is empty.
pub fn list() -> Result<Vec<String>, NetnsError> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file("read", Path::new(DIRECTORY))(error)),
    };
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// Runs a function on a thread of its own inside a namespace, and waits for it. A panic in it goes on in the caller.
///
/// # Errors
/// When the namespace cannot be entered; the function was not run then.
pub fn run_in<T: Send>(netns: BorrowedFd<'_>, run: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    on_a_thread(|| enter(netns).map(|()| run()))?
}

/// Moves the calling thread into a namespace, for good.
///
/// # Errors
/// When it is no network namespace, or without CAP_SYS_ADMIN.
pub fn enter(netns: BorrowedFd<'_>) -> Result<(), NetnsError> {
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(system("enter"))
}

/// The identity of a namespace.
///
/// # Errors
/// When the descriptor cannot be asked.
pub fn id(netns: BorrowedFd<'_>) -> Result<NetnsId, NetnsError> {
    fstat(netns).map(|stat| (stat.st_dev, stat.st_ino)).map_err(system("look at"))
}

/// All processes whose main thread is in one of these namespaces. Those that end meanwhile, or that we may not look at,
/// are left out.
pub fn processes_in(ids: &[NetnsId]) -> Vec<Pid> {
    let wanted: BTreeSet<NetnsId> = ids.iter().copied().collect();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|file| wanted.contains(&(file.dev(), file.ino())))
        })
        .map(Pid::from_raw)
        .collect()
}

fn path_of(name: &str) -> Result<PathBuf, NetnsError> {
    let fits = (1..=255).contains(&name.len()) && !name.contains(['/', '\0']) && name != "." && name != "..";
    if fits {
        Ok(Path::new(DIRECTORY).join(name))
    } else {
        Err(NetnsError::Name { name: name.chars().take(255).collect() })
    }
}

/// Makes `/run/netns` a mount point that passes mounts on to other mount namespaces, so that a name that is removed
/// here is not kept busy there (iproute2, `ip/ipnetns.c`).
fn share_directory() -> Result<(), NetnsError> {
    let path = Path::new(DIRECTORY);
    DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(file("create", path))?;
    // Two that make it one at the same time would hide each other's names.
    let opened = File::open(path).map_err(file("open", path))?;
    let locked = Flock::lock(opened, FlockArg::LockExclusive);
    let _held = locked.map_err(|(_, errno)| file("lock", path)(errno.into()))?;
    let share =
        || mount(None::<&str>, path, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    let shared = match share() {
        Err(Errno::EINVAL) => {
            mount(Some(path), path, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
                .and_then(|()| share())
        }
        other => other,
    };
    shared.map_err(|errno| file("share", path)(errno.into()))
}

fn make_at(path: &Path) -> Result<(), NetnsError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(system("make"))?;
    mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|errno| file("mount the namespace at", path)(errno.into()))
}

fn on_a_thread<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, run)
            .map_err(|source| NetnsError::System { action: "start a thread for", source })?;
        thread.join().map_or_else(|panic| std::panic::resume_unwind(panic), Ok)
    })
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetnsError {
    move |source| NetnsError::File { action, path: path.into(), source }
}

fn system(action: &'static str) -> impl FnOnce(Errno) -> NetnsError {
    move |errno| NetnsError::System { action, source: errno.into() }
}
