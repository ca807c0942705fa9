//! A line over a stream, within a time and a length.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tartan_api::rpc::MAX_MESSAGE;

use crate::sys;

/// What is read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// Why a line did not come or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WireError {
    /// The time is over.
    Timeout,
    /// The line is longer than [`MAX_MESSAGE`].
    Long,
    /// The stream ended before the line.
    End,
    /// The kernel refused.
    System(Errno),
}

impl From<Errno> for WireError {
    fn from(errno: Errno) -> Self {
        match errno {
            // What a socket's timeout looks like (socket(7)).
            Errno::EAGAIN => WireError::Timeout,
            Errno::EPIPE | Errno::ECONNRESET => WireError::End,
            other => WireError::System(other),
        }
    }
}

/// Sends a line; the descriptor goes with its first byte.
pub(crate) fn send(
    stream: &UnixStream,
    line: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
    deadline: Instant,
) -> Result<(), WireError> {
    let mut rest = line;
    let raw: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let mut control: Vec<ControlMessage<'_>> = Vec::new();
    if !raw.is_empty() {
        control.push(ControlMessage::ScmRights(&raw));
    }
    while !rest.is_empty() {
        limit(stream, deadline)?;
        let slices = [IoSlice::new(rest)];
        match sendmsg::<()>(stream.as_raw_fd(), &slices, &control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(sent) => {
                rest = rest.get(sent..).unwrap_or_default();
                control.clear();
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Receives a line, without its end, and the first descriptor that came along; further ones are closed.
pub(crate) fn receive(
    stream: &UnixStream,
    deadline: Instant,
) -> Result<(Vec<u8>, Option<OwnedFd>), WireError> {
    let mut line = Vec::new();
    let mut descriptors = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        limit(stream, deadline)?;
        let read = match sys::receive(stream.as_fd(), &mut chunk, &mut descriptors) {
            Ok(0) => return Err(WireError::End),
            Ok(read) => chunk.get(..read).unwrap_or_default(),
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        descriptors.truncate(1);
        let end = read.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(read.get(..end.unwrap_or(read.len())).unwrap_or_default());
        if line.len() > MAX_MESSAGE {
            return Err(WireError::Long);
        }
        if end.is_some() {
            return Ok((line, descriptors.pop()));
        }
    }
}

/// Gives the stream what time is left.
fn limit(stream: &UnixStream, deadline: Instant) -> Result<(), WireError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(WireError::Timeout);
    }
    // Under a microsecond would be rounded to 0, which means forever.
    let left = Some(left.max(Duration::from_millis(1)));
    let set = stream.set_read_timeout(left).and_then(|()| stream.set_write_timeout(left));
    set.map_err(|error| WireError::System(Errno::from_raw(error.raw_os_error().unwrap_or(0))))
}
