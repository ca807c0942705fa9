//! What can go wrong between the agent and those who ask it.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use tartan_api::rpc::MAX_MESSAGE;
use thiserror::Error;

/// Why the socket cannot be served or a call got no answer.
#[derive(Debug, Error)]
pub enum RpcError {
    /// Nobody takes the connection.
    #[error("cannot reach the agent at {}: {}; {}", path.display(), reason.desc(), advice(*reason))]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why not.
        reason: Errno,
    },
    /// The agent took the connection and gave no answer in time.
    #[error(
        "the agent at {} gave no answer within {seconds} s; look at its log with `journalctl -u tartand`",
        path.display()
    )]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// The connection ended before the answer did.
    #[error(
        "the agent at {} ended the connection before its answer ({}); look at its log with `journalctl -u tartand`",
        path.display(), reason.desc()
    )]
    Broken {
        /// The socket.
        path: PathBuf,
        /// How it ended.
        reason: Errno,
    },
    /// What came is no answer.
    #[error(
        "the agent at {} gave an answer that cannot be read; are it and this program of the same release?",
        path.display()
    )]
    Answer {
        /// The socket.
        path: PathBuf,
        /// Why it cannot be read.
        #[source]
        source: serde_json::Error,
    },
    /// The answer is longer than any may be.
    #[error("the agent at {} gave an answer of over {MAX_MESSAGE} bytes", path.display())]
    LongAnswer {
        /// The socket.
        path: PathBuf,
    },
    /// The request is longer than any may be.
    #[error("the request has {bytes} bytes, the agent takes {MAX_MESSAGE}; send it in parts")]
    LongRequest {
        /// How long it is.
        bytes: usize,
    },
    /// The request cannot be written as JSON.
    #[error("the request cannot be written as JSON")]
    Request {
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// Somebody answers at this socket already.
    #[error("another agent answers at {}; stop it first, or give this one a run_dir of its own", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket has the socket's name.
    #[error("{} is there and is not a socket; move it away", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The path has no folder or no file name.
    #[error("{:?} cannot be a socket: name a file in a folder", path.display())]
    Path {
        /// The path.
        path: PathBuf,
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
}

fn advice(reason: Errno) -> &'static str {
    match reason {
        Errno::EACCES | Errno::EPERM => "only root may ask it: try again with sudo",
        Errno::EAGAIN => "it is too busy to take a connection: try again in a moment",
        _ => "is tartand running? start it with `systemctl start tartand` or name its socket with --socket",
    }
}
