//! Asking the agent, which may be restarting.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde_json::Value;
use tartan_api::rpc::{Answer, FailureCode, Request};
use tartan_fault::{Point, reach};
use tartan_rpc::RpcError;

use crate::failure::Failure;

/// How long an agent that is away is waited for: it is back within a second of a restart, and the shortest limit that
/// runtimes set is a minute.
const AWAY: Duration = Duration::from_secs(10);
/// The first and the longest pause between two tries. Nothing tells of an agent that comes back in every case: its
/// folder may be missing, and a socket that nobody listens on looks as one that somebody does.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// Asks; waits for an agent that is away.
pub(crate) fn patiently(
    socket: &str,
    request: &Request,
    netns: Option<BorrowedFd<'_>>,
    deadline: Instant,
) -> Result<Value, Failure> {
    reach(Point::PluginAsks);
    let until = deadline.min(Instant::now() + AWAY);
    let mut pause = PAUSES.0;
    loop {
        let outcome = call(socket, request, netns, deadline);
        if !is_away(&outcome, request) || Instant::now() + pause >= until {
            reach(Point::PluginAnswered);
            return value(outcome);
        }
        std::thread::sleep(pause);
        pause = PAUSES.1.min(pause * 2);
    }
}

/// Asks an agent that has to be there.
pub(crate) fn once(
    socket: &str,
    request: &Request,
    netns: Option<BorrowedFd<'_>>,
    deadline: Instant,
) -> Result<Value, Failure> {
    value(call(socket, request, netns, deadline))
}

fn call(
    socket: &str,
    request: &Request,
    netns: Option<BorrowedFd<'_>>,
    deadline: Instant,
) -> Result<Answer, RpcError> {
    tartan_rpc::call(Path::new(socket), request, netns, deadline.saturating_duration_since(Instant::now()))
}

/// Whether the request was not begun, or can be done twice. An ADD that was cut off may have been done: the runtime
/// is told to try again, and deletes first.
fn is_away(outcome: &Result<Answer, RpcError>, request: &Request) -> bool {
    match outcome {
        Ok(Answer::Error(failure)) => failure.code == FailureCode::Stopping,
        Err(RpcError::Unreachable { reason, .. }) => {
            matches!(reason, Errno::ENOENT | Errno::ECONNREFUSED | Errno::EAGAIN)
        }
        Err(RpcError::Broken { .. }) => !matches!(request, Request::Add(_)),
        _ => false,
    }
}

fn value(outcome: Result<Answer, RpcError>) -> Result<Value, Failure> {
    match outcome? {
        Answer::Ok(value) => Ok(value),
        Answer::Error(failure) => Err(failure.into()),
    }
}
