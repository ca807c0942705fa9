//! The agent of this node: asked to leave if it answers; kept from starting while things go.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, socket,
};
use nix::unistd::geteuid;
use tartan_api::rpc::{Leave, Request};
use tartan_api::verb::{AgentState, EndpointRow, Left, Uninstalled};

use super::{in_the_way, places::Places};
use crate::ask;

/// How long an agent that has left may take to end.
const END: Duration = Duration::from_secs(10);
/// How long an agent that was killed may still hold its locks: until the last of its threads is gone.
const DYING: Duration = Duration::from_secs(1);
/// How long to wait before the locks are tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// What there is of an agent.
pub(crate) enum Agent {
    /// It answers, and has these pods.
    Answers(Vec<String>),
    /// It runs, and does not answer.
    Silent(String),
    /// None runs.
    Dead,
}

/// As long as this lives no agent starts on this node.
pub(crate) struct Lock {
    _state: Option<Flock<File>>,
    _namespace: Option<OwnedFd>,
}

impl Lock {
    /// What an agent takes when it starts; says what is taken already.
    fn take(places: &Places) -> Result<Result<Lock, String>> {
        let path = places.lock();
        let state = match File::options().write(true).open(&path) {
            Ok(file) => match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => Some(lock),
                Err(_) => return Ok(Err(path.display().to_string())),
            },
            // Without a state folder there is none to lock.
            Err(_) => None,
        };
        let name = UnixAddr::new_abstract(b"tartand")?;
        // Nobody accepts: a question that finds the queue full must not wait.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let open = || socket(AddressFamily::Unix, SockType::Stream, flags, None);
        let own = open()?;
        if bind(own.as_raw_fd(), &name).is_ok() {
            listen(&own, Backlog::MAXCONN)?;
            return Ok(Ok(Lock { _state: state, _namespace: Some(own) }));
        }
        let other = open()?;
        let holder = connect(other.as_raw_fd(), &name).and_then(|()| getsockopt(&other, PeerCredentials));
        match holder {
            // Anybody can take the name: one that is not of our user keeps nobody from anything.
            Ok(holder) if holder.uid() != geteuid().as_raw() => {
                Ok(Ok(Lock { _state: state, _namespace: None }))
            }
            _ => Ok(Err("this network namespace".into())),
        }
    }
}

impl Agent {
    /// What there is; with the lock if there is none.
    pub(crate) fn look(places: &Places) -> Result<(Agent, Option<Lock>)> {
        let until = Instant::now() + DYING;
        loop {
            let held = match Lock::take(places).context("cannot look for the agent")? {
                Ok(lock) => return Ok((Agent::Dead, Some(lock))),
                Err(held) => held,
            };
            let asked = ask::Agent { socket: places.socket() }.ask::<Vec<EndpointRow>>(&Request::Endpoints);
            if let Ok(rows) = asked {
                let mut pods: Vec<String> = rows.iter().map(|row| row.pod.to_string()).collect();
                pods.dedup();
                return Ok((Agent::Answers(pods), None));
            }
            if Instant::now() >= until {
                return Ok((Agent::Silent(held), None));
            }
            sleep(PAUSE);
        }
    }

    pub(crate) fn state(&self) -> AgentState {
        match self {
            Agent::Answers(_) => AgentState::Running,
            Agent::Silent(_) => AgentState::Silent,
            Agent::Dead => AgentState::Stopped,
        }
    }

    pub(crate) fn pods(&self) -> Vec<String> {
        match self {
            Agent::Answers(pods) => pods.clone(),
            Agent::Silent(_) | Agent::Dead => Vec::new(),
        }
    }

    /// Nothing is begun while one runs that cannot be asked.
    ///
    /// # Errors
    /// When there is one.
    pub(crate) fn must_answer(&self, places: &Places) -> Result<()> {
        match self {
            Agent::Answers(_) | Agent::Dead => Ok(()),
            Agent::Silent(held) => Err(in_the_way(format!(
                "tartand runs on this node (it holds {held}) and does not answer at {}; nothing was changed: stop it first",
                places.socket().display()
            ))
            .into()),
        }
    }

    /// Has it leave and end; gives the lock.
    ///
    /// # Errors
    /// When it goes on running.
    pub(crate) fn end(&self, places: &Places, lock: Option<Lock>, outcome: &mut Uninstalled) -> Result<Lock> {
        if let Some(lock) = lock {
            return Ok(lock);
        }
        let leave = Leave { node: None, force: true, without_store: true };
        let left: Left = ask::Agent { socket: places.socket() }.ask(&Request::Leave(leave))?;
        outcome.blocks = left.blocks;
        outcome.removed.extend(left.pods.iter().map(|pod| format!("interface of pod {pod}")));
        let deadline = Instant::now() + END;
        loop {
            match Lock::take(places)? {
                Ok(lock) => return Ok(lock),
                Err(_) if Instant::now() < deadline => sleep(LOOK),
                Err(held) => {
                    return Err(in_the_way(format!(
                        "tartand has left the cluster, and runs again (it holds {held}): have its supervisor stop it, then \
                         run this once more"
                    ))
                    .into());
                }
            }
        }
    }
}
