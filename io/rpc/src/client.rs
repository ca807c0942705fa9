//! Asking the agent.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, connect, socket};
use tartan_api::rpc::{Answer, MAX_MESSAGE, Request};

use crate::wire::WireError;
use crate::{RpcError, address, wire};

/// Asks the agent and waits for its answer, `timeout` at most for everything. `netns` goes along with an ADD.
///
/// # Errors
/// When the agent cannot be reached or does not answer in time; a refusal by the agent is an [`Answer::Error`].
pub fn call(
    path: &Path,
    request: &Request,
    netns: Option<BorrowedFd<'_>>,
    timeout: Duration,
) -> Result<Answer, RpcError> {
    let line = line(request)?;
    let deadline = Instant::now() + timeout;
    let stream = open(path, timeout).map_err(|reason| RpcError::Unreachable { path: path.into(), reason })?;
    let sent = wire::send(&stream, &line, netns, deadline);
    // A server that refuses a request may close before it has read all of it; its answer still says why.
    let received = match sent {
        Ok(()) | Err(WireError::End) => wire::receive(&stream, deadline),
        Err(error) => Err(error),
    };
    let (answer, _) = received.map_err(|error| refused(path, timeout, error))?;
    serde_json::from_slice(&answer).map_err(|source| RpcError::Answer { path: path.into(), source })
}

fn line(request: &Request) -> Result<Vec<u8>, RpcError> {
    let mut line = serde_json::to_vec(request).map_err(|source| RpcError::Request { source })?;
    if line.len() > MAX_MESSAGE {
        return Err(RpcError::LongRequest { bytes: line.len() });
    }
    line.push(b'\n');
    Ok(line)
}

fn open(path: &Path, timeout: Duration) -> Result<UnixStream, Errno> {
    let (address, _folder) = address::of(path)?;
    let stream =
        UnixStream::from(socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?);
    // A full backlog makes connect wait as long as a send may (net/unix/af_unix.c, unix_stream_connect).
    stream
        .set_write_timeout(Some(timeout.max(Duration::from_millis(1))))
        .map_err(|error| error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw))?;
    connect(stream.as_raw_fd(), &address)?;
    Ok(stream)
}

fn refused(path: &Path, timeout: Duration, error: WireError) -> RpcError {
    let path = path.into();
    match error {
        WireError::Timeout => RpcError::Timeout { path, seconds: timeout.as_secs() },
        WireError::Long => RpcError::LongAnswer { path },
        WireError::End => RpcError::Broken { path, reason: Errno::ECONNRESET },
        WireError::System(reason) => RpcError::Broken { path, reason },
    }
}
