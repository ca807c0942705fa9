//! Serving the socket: one thread accepts, one thread a connection.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, bind, connect, getsockopt, listen, shutdown, socket,
};
use nix::unistd::geteuid;
use tartan_api::rpc::{Answer, Failure, FailureCode, MAX_MESSAGE, Request};

use crate::slots::{Slot, Slots};
use crate::wire::{self, WireError};
use crate::{RpcError, address};

/// The most connections that are served at once; further ones wait in the socket's backlog. With a low limit on
/// descriptors (RLIMIT_NOFILE) they are fewer.
pub const MAX_CONNECTIONS: usize = 256;
/// Descriptors that connections leave to the rest of the process.
const SPARE_DESCRIPTORS: u64 = 64;
/// How long a client may take to send its request, and to take its answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long [`Serving::shutdown`] waits for requests that are being served.
pub const DRAIN: Duration = Duration::from_secs(5);

/// The stack of a connection's thread, in bytes: requests nest at most 128 deep (serde_json's limit).
const STACK: usize = 1 << 20;
/// How long the loop rests when the process has no descriptors or threads left.
const REST: Duration = Duration::from_millis(50);

/// What the agent does with a request.
pub trait Handler: Send + Sync {
    /// Answers a request of `client`; `netns` is the descriptor that came along. Called from many threads at once.
    fn handle(&self, request: Request, netns: Option<OwnedFd>, client: Client) -> Answer;
}

/// Who asked.
#[derive(Debug, Clone)]
pub struct Client(Arc<UnixStream>);

impl Client {
    /// Whether it has hung up, as a process does that was killed: its answer would reach nobody.
    pub fn is_gone(&self) -> bool {
        // A client never closes its sending half alone, so this is the whole connection (net/unix/af_unix.c, unix_poll).
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        poll(&mut polled, PollTimeout::ZERO).is_ok()
            && polled.iter().any(|fd| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)))
    }
}

/// A socket that is bound and not yet served: clients wait in its backlog.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    name: SocketName,
}

/// A socket that is served until this is dropped or shut down.
#[derive(Debug)]
pub struct Serving {
    listener: Arc<UnixListener>,
    slots: Arc<Slots>,
    accepting: Option<JoinHandle<()>>,
    name: SocketName,
}

/// The socket's name in the file system, taken away when dropped.
#[derive(Debug)]
pub struct SocketName {
    path: PathBuf,
    /// Device and inode: whoever has the name later keeps it.
    file: (u64, u64),
}

impl Server {
    /// Binds the socket with mode 0600; makes its folder with mode 0755. A socket that nobody answers on is replaced.
    ///
    /// # Errors
    /// [`RpcError::InUse`] when somebody answers on it; otherwise when the file system refuses.
    pub fn bind(path: &Path) -> Result<Server, RpcError> {
        let invalid = || RpcError::Path { path: path.into() };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).ok_or_else(invalid)?;
        let name = path.file_name().ok_or_else(invalid)?;
        DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(file("create", folder))?;
        // Two agents that start at once must not both find a stale socket.
        let _lock = lock(folder)?;
        make_way(path)?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        bind_beside(path, &folder.join(hidden))
    }

    /// The bound socket, for a protocol other than ours, and its name, to be kept as long as it is served.
    pub fn into_parts(self) -> (UnixListener, SocketName) {
        (self.listener, self.name)
    }

    /// Serves until the answer is dropped or shut down.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn serve(self, handler: Arc<dyn Handler>) -> Result<Serving, RpcError> {
        let Server { listener, name } = self;
        let listener = Arc::new(listener);
        let slots = Arc::new(Slots::new(room()));
        let accepting = thread::Builder::new()
            .name("rpc".into())
            .spawn({
                let (listener, slots) = (listener.clone(), slots.clone());
                move || accept(&listener, &slots, &handler)
            })
            .map_err(file("start a thread for", &name.path))?;
        Ok(Serving { listener, slots, accepting: Some(accepting), name })
    }
}

impl Serving {
    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.name.path
    }

    /// Takes no more requests, unlinks the socket and waits [`DRAIN`] at most for those that are being served.
    pub fn shutdown(self) {
        let slots = self.slots.clone();
        drop(self);
        slots.drain(DRAIN);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.slots.close();
        // Wakes the accepting thread with EINVAL (net/unix/af_unix.c, unix_accept).
        let woken = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(thread) = self.accepting.take().filter(|_| woken.is_ok()) {
            thread.join().ok();
        }
    }
}

impl Drop for SocketName {
    fn drop(&mut self) {
        let ours = |found: fs::Metadata| (found.dev(), found.ino()) == self.file;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// How many connections there are descriptors for: each has one, and another one comes with an ADD.
fn room() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    let room = limit.saturating_sub(SPARE_DESCRIPTORS) / 2;
    usize::try_from(room).unwrap_or(MAX_CONNECTIONS).clamp(1, MAX_CONNECTIONS)
}

/// Locks a folder against others who bind in it, until dropped.
fn lock(folder: &Path) -> Result<Flock<File>, RpcError> {
    let opened = File::open(folder).map_err(file("open", folder))?;
    Flock::lock(opened, FlockArg::LockExclusive).map_err(|(_, errno)| file("lock", folder)(errno.into()))
}

/// Makes sure that the name is free, or a socket's that nobody answers on.
fn make_way(path: &Path) -> Result<(), RpcError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(file("look at", path)(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(RpcError::NotASocket { path: path.into() });
        }
        Ok(_) => {}
    }
    let probe = || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        let (address, _folder) = address::of(path)?;
        connect(probe.as_raw_fd(), &address)
    };
    match probe() {
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(()),
        // EAGAIN: its backlog is full, so somebody has it.
        Ok(()) | Err(Errno::EAGAIN) => Err(RpcError::InUse { path: path.into() }),
        Err(errno) => Err(file("ask at", path)(errno.into())),
    }
}

/// Binds in a folder that only we may enter, and renames: the socket has its mode from the moment it appears.
fn bind_beside(path: &Path, hidden: &Path) -> Result<Server, RpcError> {
    // Left by somebody who was stopped half way; we hold the lock.
    fs::remove_dir_all(hidden).or_else(absent).map_err(file("remove", hidden))?;
    DirBuilder::new().mode(0o700).create(hidden).map_err(file("create", hidden))?;
    let bound = bind_in(hidden, path);
    fs::remove_dir_all(hidden).or_else(absent).map_err(file("remove", hidden))?;
    bound
}

fn bind_in(hidden: &Path, path: &Path) -> Result<Server, RpcError> {
    let inside = hidden.join("s");
    let refused = |errno: Errno| file("bind", path)(errno.into());
    let socket =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(refused)?;
    let (address, _folder) = address::of(&inside).map_err(refused)?;
    bind(socket.as_raw_fd(), &address).map_err(refused)?;
    fs::set_permissions(&inside, Permissions::from_mode(0o600)).map_err(file("set the mode of", path))?;
    listen(&socket, Backlog::MAXCONN).map_err(refused)?;
    let found = fs::symlink_metadata(&inside).map_err(file("look at", path))?;
    fs::rename(&inside, path).map_err(file("put in place", path))?;
    let name = SocketName { path: path.into(), file: (found.dev(), found.ino()) };
    Ok(Server { listener: socket.into(), name })
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn accept(listener: &UnixListener, slots: &Arc<Slots>, handler: &Arc<dyn Handler>) {
    let mut said = false;
    while let Some(slot) = slots.take() {
        let started = listener.accept().and_then(|(stream, _)| start(stream, slot, handler.clone()));
        match started {
            Ok(()) => said = false,
            Err(_) if slots.is_closed() => return,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(%error, "a connection could not be served");
                }
                thread::sleep(REST);
            }
        }
    }
}

fn start(stream: UnixStream, slot: Slot, handler: Arc<dyn Handler>) -> io::Result<()> {
    let run = move || {
        let _slot = slot;
        serve(Client(Arc::new(stream)), handler.as_ref());
    };
    thread::Builder::new().name("rpc-request".into()).stack_size(STACK).spawn(run).map(drop)
}

fn serve(client: Client, handler: &dyn Handler) {
    let stream = client.0.as_ref();
    let answer = match request(stream) {
        Ok((request, netns)) => handler.handle(request, netns, client.clone()),
        Err(failure) => Answer::Error(failure),
    };
    let mut line = line(&answer);
    line.push(b'\n');
    if let Err(error) = wire::send(stream, &line, None, Instant::now() + REQUEST_TIMEOUT) {
        tracing::debug!(?error, "a client did not take its answer");
    }
}

/// The request, or what to tell the client.
fn request(stream: &UnixStream) -> Result<(Request, Option<OwnedFd>), Failure> {
    let peer = getsockopt(stream, PeerCredentials).map_err(|errno| refusal(errno.to_string()))?;
    if peer.uid() != 0 && peer.uid() != geteuid().as_raw() {
        return Err(refusal(format!("user {} may not ask the agent: only root may", peer.uid())));
    }
    let (line, netns) = wire::receive(stream, Instant::now() + REQUEST_TIMEOUT).map_err(complaint)?;
    let request = serde_json::from_slice(&line).map_err(|error| {
        refusal(format!("the request cannot be read: {error}; are both programs of the same release?"))
    })?;
    Ok((request, netns))
}

fn complaint(error: WireError) -> Failure {
    match error {
        WireError::Timeout => refusal(format!("no whole request within {} s", REQUEST_TIMEOUT.as_secs())),
        WireError::Long => {
            refusal(format!("the request is longer than {MAX_MESSAGE} bytes; send it in parts"))
        }
        WireError::End => refusal("the request ended before its line did".into()),
        WireError::System(Errno::EMFILE | Errno::ENFILE) => {
            let message = "the agent has no descriptors left; raise its limit (LimitNOFILE, ulimit -n)";
            Failure { code: FailureCode::TryAgain, message: message.into() }
        }
        WireError::System(errno) => refusal(errno.to_string()),
    }
}

fn line(answer: &Answer) -> Vec<u8> {
    let too_long = |line: &Vec<u8>| line.len() > MAX_MESSAGE;
    match serde_json::to_vec(answer) {
        Ok(line) if !too_long(&line) => line,
        // A map with keys that are not text, or more than a client takes; the failure itself is neither.
        _ => serde_json::to_vec(&invalid(format!("the answer does not fit {MAX_MESSAGE} bytes of JSON")))
            .unwrap_or_default(),
    }
}

fn invalid(message: String) -> Answer {
    Answer::Error(refusal(message))
}

fn refusal(message: String) -> Failure {
    Failure { code: FailureCode::Invalid, message }
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RpcError {
    move |source| RpcError::File { action, path: path.into(), source }
}
