//! Who reaches whom: many questions at once, each by a socket of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, getsockopt, recv,
    send, socket, sockopt,
};
use tartan_api::policy::Protocol;
use tartan_kernel::netns;
use tartan_model::Family;

use crate::cases::Probe;
use crate::messages::{echo_request, init, is_echo_reply, is_init_ack, payload};
use crate::stage::Place;

/// How long is waited for what must not come.
const SHORT: Duration = Duration::from_millis(300);
/// How long what must come may take when it is asked for again: its packets may have been lost in the crowd.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many sockets are told of at once.
const EVENTS: usize = 256;

/// Whether something is reached.
pub(crate) struct Question<'a> {
    pub(crate) from: &'a Place,
    pub(crate) to: &'a Place,
    pub(crate) family: Family,
    pub(crate) probe: Probe,
    /// What has to come of it.
    pub(crate) expected: bool,
    /// What the answer is told with.
    pub(crate) about: String,
}

/// A question that is being asked.
struct Asked {
    socket: OwnedFd,
    /// What tells it from others of a protocol without connections.
    id: u16,
}

/// Asks all of them, and tells which were not answered as expected. Who reaches whom when it should is asked twice at
/// most.
pub(crate) fn wrong(questions: &[Question<'_>]) -> Vec<String> {
    let mut open: Vec<&Question<'_>> = questions.iter().collect();
    let mut wrong = Vec::new();
    for patience in [SHORT, PATIENCE] {
        let answered = ask(&open, patience);
        let tell = |question: &&Question<'_>| format!("{question} passes and should not");
        let (heard, silent): (Vec<_>, Vec<_>) =
            open.iter().zip(answered).partition(|(_, answered)| *answered);
        wrong.extend(
            heard.into_iter().map(|(question, _)| question).filter(|question| !question.expected).map(tell),
        );
        open =
            silent.into_iter().map(|(question, _)| *question).filter(|question| question.expected).collect();
    }
    wrong.extend(open.iter().map(|question| format!("{question} does not pass and should")));
    wrong
}

impl std::fmt::Display for Question<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Question { from, to, family, probe, about, .. } = self;
        write!(f, "{about}: {} -> {} ({}) by {family}, ", from.name, to.name, to.address(*family))?;
        match probe {
            Probe::Port(protocol, port) => write!(f, "{protocol:?} {port}"),
            Probe::Icmp => write!(f, "ICMP"),
        }
    }
}

/// Which of them are answered in time. What should not be is waited for all the while.
fn ask(questions: &[&Question<'_>], patience: Duration) -> Vec<bool> {
    let mut asked = open(questions);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
    for (at, asked) in asked.iter().enumerate() {
        if let Some(asked) = asked {
            let ready = if questions[at].is_tcp() { EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
            epoll.add(&asked.socket, EpollEvent::new(ready, at as u64)).expect("to listen");
        }
    }
    let mut answered = vec![false; questions.len()];
    let deadline = Instant::now() + patience;
    let mut events = [EpollEvent::empty(); EVENTS];
    while answered.contains(&false) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let timeout = EpollTimeout::try_from(left).expect("a short time");
        // An interrupted wait looks once too often.
        let count = epoll.wait(&mut events, timeout).unwrap_or_default();
        for at in events[..count].iter().map(|event| event.data() as usize) {
            if asked[at].as_ref().is_some_and(|asked| questions[at].is_answered(asked)) {
                // Closing a socket takes it out of the loop as well.
                (answered[at], asked[at]) = (true, None);
            }
        }
    }
    answered
}

/// A socket for each of them, made where it is asked; none where the kernel there knows no way.
fn open(questions: &[&Question<'_>]) -> Vec<Option<Asked>> {
    let mut by_place = BTreeMap::<&str, Vec<usize>>::new();
    for (at, question) in questions.iter().enumerate() {
        by_place.entry(&question.from.name).or_default().push(at);
    }
    let mut asked: Vec<Option<Asked>> = questions.iter().map(|_| None).collect();
    for all in by_place.values() {
        let of_place = || all.iter().map(|at| (*at, questions[*at].put())).collect::<Vec<_>>();
        let netns = questions[all[0]].from.netns.as_fd();
        for (at, put) in netns::run_in(netns, of_place).expect("to enter") {
            asked[at] = put;
        }
    }
    asked
}

impl Question<'_> {
    fn is_tcp(&self) -> bool {
        matches!(self.probe, Probe::Port(Protocol::Tcp, _))
    }

    /// Asks, in the calling thread's namespace.
    fn put(&self) -> Option<Asked> {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let (kind, protocol, port) = match (self.probe, self.family) {
            (Probe::Port(Protocol::Tcp, port), _) => (SockType::Stream, SockProtocol::Tcp, port),
            (Probe::Port(Protocol::Udp, port), _) => (SockType::Datagram, SockProtocol::Udp, port),
            (Probe::Port(Protocol::Sctp, _), _) => (SockType::Raw, SockProtocol::Sctp, 0),
            (Probe::Icmp, Family::Ipv4) => (SockType::Raw, SockProtocol::Icmp, 0),
            (Probe::Icmp, Family::Ipv6) => (SockType::Raw, SockProtocol::IcmpV6, 0),
        };
        let family = if self.family == Family::Ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(family, kind, flags, protocol).expect("a socket");
        let to = SocketAddr::new(self.to.address(self.family), port);
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(error) => panic!("{self}: {error}"),
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed).max(1);
        let words = match self.probe {
            Probe::Port(Protocol::Tcp, _) => Vec::new(),
            Probe::Port(Protocol::Udp, _) => b"?".to_vec(),
            Probe::Port(Protocol::Sctp, port) => init(id, port),
            Probe::Icmp => echo_request(self.family, id),
        };
        if !words.is_empty() {
            send(socket.as_raw_fd(), &words, MsgFlags::empty()).ok()?;
        }
        Some(Asked { socket, id })
    }

    /// Whether what has come is the answer.
    fn is_answered(&self, asked: &Asked) -> bool {
        if self.is_tcp() {
            return match getsockopt(&asked.socket, sockopt::SocketError).expect("a socket") {
                0 => true,
                error => panic!("{self}: {}", Errno::from_raw(error)),
            };
        }
        let mut buffer = [0; 2048];
        let packet = match recv(asked.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => &buffer[..length],
            Err(Errno::EAGAIN | Errno::EINTR) => return false,
            Err(error) => panic!("{self}: {error}"),
        };
        let message = payload(self.family == Family::Ipv4, packet);
        match self.probe {
            Probe::Port(Protocol::Sctp, port) => is_init_ack(message, asked.id, port),
            Probe::Port(..) => true,
            Probe::Icmp => is_echo_reply(self.family, message, asked.id),
        }
    }
}
