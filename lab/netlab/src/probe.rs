//! Many questions to responders at once: sockets that do not block, and one loop over all of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, socket};
use tartan_kernel::netns;

use crate::matrix::Protocol;

/// How often a question is asked.
pub(crate) const TRIES: usize = 2;
/// How long each try waits for answers.
const TRY: Duration = Duration::from_millis(450);
/// The longest answer that is read.
const MAX_ANSWER: usize = 512;
/// How many sockets are told of at once.
const EVENTS: usize = 256;
/// ICMP message types (RFC 792, RFC 4443).
const ECHO_REQUEST: [u8; 2] = [8, 128];
const ECHO_REPLY: [u8; 2] = [0, 129];

/// One question: does this address answer, and in this name?
pub(crate) struct Probe<'a> {
    /// The namespace that the question is asked from, as a key and as itself.
    pub(crate) source: usize,
    pub(crate) netns: BorrowedFd<'a>,
    /// Who is asked.
    pub(crate) address: SocketAddr,
    /// What the answer has to begin with.
    pub(crate) name: String,
    /// Whether it was answered.
    pub(crate) answered: bool,
    attempts: [Option<Attempt>; TRIES],
}

struct Attempt {
    socket: File,
    received: Vec<u8>,
}

impl<'a> Probe<'a> {
    pub(crate) fn new(source: usize, netns: BorrowedFd<'a>, address: SocketAddr, name: String) -> Probe<'a> {
        Probe { source, netns, address, name, answered: false, attempts: [const { None }; TRIES] }
    }

    fn send(&mut self, number: usize, socket: OwnedFd, protocol: Protocol) {
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(self.address)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(_) => return,
        }
        let mut attempt = Attempt { socket: File::from(socket), received: Vec::new() };
        let sent = match protocol {
            // The responder speaks first.
            Protocol::Tcp => Ok(0),
            Protocol::Udp => attempt.socket.write(b"?"),
            Protocol::Icmp => {
                let request = echo_request(self.address.ip(), sequence(&attempt.socket));
                attempt.socket.write(&request)
            }
        };
        if let (Ok(_), Some(slot)) = (sent, self.attempts.get_mut(number)) {
            *slot = Some(attempt);
        }
    }

    /// Reads what has come; an attempt that failed is given up.
    fn receive(&mut self, number: usize, protocol: Protocol) {
        let Some(slot) = self.attempts.get_mut(number) else { return };
        let Some(attempt) = slot else { return };
        let mut buffer = [0; MAX_ANSWER];
        match attempt.socket.read(&mut buffer) {
            Ok(length) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                let answered = match protocol {
                    Protocol::Tcp => names(attempt.append(bytes), &self.name),
                    Protocol::Udp => names(bytes, &self.name),
                    Protocol::Icmp => is_echo_reply(self.address.ip(), bytes, sequence(&attempt.socket)),
                };
                self.answered |= answered;
                let is_over =
                    protocol == Protocol::Tcp && (length == 0 || attempt.received.len() > MAX_ANSWER);
                if answered || is_over {
                    *slot = None;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => *slot = None,
        }
    }
}

impl Attempt {
    fn append(&mut self, bytes: &[u8]) -> &[u8] {
        self.received.extend_from_slice(bytes);
        &self.received
    }
}

/// Asks all questions at once, each twice at most, and waits for the answers: 0.9 s and the time to send.
///
/// # Errors
/// When a namespace cannot be entered, or there are too few descriptors for all the sockets.
pub(crate) fn ask(probes: &mut [Probe<'_>], protocol: Protocol) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for number in 0..TRIES {
        send(probes, number, protocol, &epoll)?;
        listen(probes, protocol, &epoll)?;
    }
    // The sockets make room for the next questions.
    probes.iter_mut().for_each(|probe| probe.attempts = [const { None }; TRIES]);
    Ok(())
}

fn send(probes: &mut [Probe<'_>], number: usize, protocol: Protocol, epoll: &Epoll) -> Result<()> {
    for (position, socket) in sockets(probes, protocol)? {
        let Some(probe) = probes.get_mut(position) else { continue };
        probe.send(number, socket, protocol);
        if let Some(Some(attempt)) = probe.attempts.get(number) {
            let key = (position * TRIES + number) as u64;
            epoll.add(&attempt.socket, EpollEvent::new(EpollFlags::EPOLLIN, key))?;
        }
    }
    Ok(())
}

fn listen(probes: &mut [Probe<'_>], protocol: Protocol, epoll: &Epoll) -> Result<()> {
    let deadline = Instant::now() + TRY;
    let mut events = [EpollEvent::empty(); EVENTS];
    while probes.iter().any(|probe| !probe.answered) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let count = match epoll.wait(&mut events, EpollTimeout::try_from(left)?) {
            Err(Errno::EINTR) => 0,
            other => other.context("cannot wait for answers")?,
        };
        for event in events.iter().take(count) {
            let key = event.data() as usize;
            if let Some(probe) = probes.get_mut(key / TRIES) {
                // Closing a socket takes it out of the loop as well.
                probe.receive(key % TRIES, protocol);
            }
        }
    }
    Ok(())
}

/// A socket for each question that is not answered, with its position, made in the namespace that it is asked from.
fn sockets(probes: &[Probe<'_>], protocol: Protocol) -> Result<Vec<(usize, OwnedFd)>> {
    let mut sources: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (position, probe) in probes.iter().enumerate().filter(|(_, probe)| !probe.answered) {
        sources.entry(probe.source).or_default().push(position);
    }
    let mut sockets = Vec::new();
    for positions in sources.values() {
        let Some(first) = positions.first().and_then(|first| probes.get(*first)) else { continue };
        let make = || -> io::Result<Vec<(usize, OwnedFd)>> {
            let asked = positions.iter().filter_map(|position| Some((*position, probes.get(*position)?)));
            asked.map(|(position, probe)| Ok((position, open(probe.address.ip(), protocol)?))).collect()
        };
        sockets
            .extend(netns::run_in(first.netns, make)?.context("cannot make a socket in a pod's namespace")?);
    }
    Ok(sockets)
}

fn open(address: IpAddr, protocol: Protocol) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, protocol) = match (protocol, address) {
        (Protocol::Tcp, _) => (SockType::Stream, SockProtocol::Tcp),
        (Protocol::Udp, _) => (SockType::Datagram, SockProtocol::Udp),
        (Protocol::Icmp, IpAddr::V4(_)) => (SockType::Raw, SockProtocol::Icmp),
        (Protocol::Icmp, IpAddr::V6(_)) => (SockType::Raw, SockProtocol::IcmpV6),
    };
    Ok(socket(family, kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, protocol)?)
}

/// Whether an answer is whole and in this name.
fn names(answer: &[u8], name: &str) -> bool {
    let line = answer.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
    line.ends_with(b"\n") && line.split(|byte| *byte == b' ').next() == Some(name.as_bytes())
}

fn echo_request(address: IpAddr, [high, low]: [u8; 2]) -> [u8; 8] {
    let [kind_v4, kind_v6] = ECHO_REQUEST;
    let kind = if address.is_ipv4() { kind_v4 } else { kind_v6 };
    let [id_high, id_low] = identifier();
    // The kernel fills in the checksum of ICMPv6 (RFC 3542, section 3.1), not that of ICMP (RFC 1071).
    let words = [[kind, 0], [id_high, id_low], [high, low]].map(u16::from_be_bytes);
    let sum: u32 = words.into_iter().map(u32::from).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let [sum_high, sum_low] = (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes();
    [kind, 0, sum_high, sum_low, id_high, id_low, high, low]
}

/// What a raw socket of IPv4 receives begins with the IP header (raw(7)).
fn is_echo_reply(address: IpAddr, packet: &[u8], sequence: [u8; 2]) -> bool {
    let [kind_v4, kind_v6] = ECHO_REPLY;
    let (message, kind) = match (address, packet.first()) {
        (IpAddr::V4(_), Some(first)) => (packet.get(usize::from(first & 0x0f) * 4..), kind_v4),
        _ => (Some(packet), kind_v6),
    };
    let [high, low] = identifier();
    let Some([found, 0, _, _, id_high, id_low, sequence_high, sequence_low, ..]) = message else {
        return false;
    };
    *found == kind && [*id_high, *id_low] == [high, low] && [*sequence_high, *sequence_low] == sequence
}

/// Tells our echo requests from those of others.
/// Tells the probes of this process apart: before it is connected, a raw socket hears the answers to all of them.
fn sequence(socket: &File) -> [u8; 2] {
    (socket.as_raw_fd() as u16).to_be_bytes()
}

fn identifier() -> [u8; 2] {
    (std::process::id() as u16).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_when_it_is_whole_and_in_the_right_name() {
        assert!(names(b"default/p1 10.244.0.2\n?", "default/p1"));
        assert!(!names(b"default/p1 10.244.0.2", "default/p1"));
        assert!(!names(b"default/p11 10.244.0.2\n", "default/p1"));
        assert!(!names(b"", "default/p1"));
    }

    #[test]
    fn the_checksum_of_an_echo_request_makes_its_sum_all_ones() {
        for sequence in 0..=u16::MAX {
            let request = echo_request("10.0.0.1".parse().unwrap(), sequence.to_be_bytes());
            let words = request.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
            let sum: u32 = words.sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "{sequence}");
        }
    }

    #[test]
    fn only_the_answer_to_its_own_request_counts() {
        let [high, low] = identifier();
        let reply = [129, 0, 0, 0, high, low, 1, 2];
        let address = "fd00::1".parse().unwrap();
        assert!(is_echo_reply(address, &reply, [1, 2]));
        assert!(!is_echo_reply(address, &reply, [1, 3]));
        assert!(!is_echo_reply(address, &[128, 0, 0, 0, high, low, 1, 2], [1, 2]));
    }
}
