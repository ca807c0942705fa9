//! Sockets for echo requests of our own, their answers, and the requests of others (raw(7), ipv6(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6,
    SockaddrStorage, recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use tartan_model::Family;

use crate::{KernelError, netns, sys};

/// Room for answers that nobody has taken yet: a few hundred of the longest.
const QUEUE: usize = 1 << 20;
/// Room for requests of others: more of them say nothing more.
const HEARD: usize = 128 << 10;
/// What is read of a message: the headers, and what our probes carry behind them.
const READ: usize = 128;
/// How many messages are taken at most in one go.
const AT_ONCE: usize = 512;

/// An ICMP message that came in: from whom, and its first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Who sent it.
    pub from: IpAddr,
    /// The message from its ICMP header on, as far as it was read.
    pub message: Vec<u8>,
}

/// The sockets of one family.
#[derive(Debug)]
struct Pair {
    family: Family,
    answers: OwnedFd,
    requests: OwnedFd,
}

/// Sends echo requests, and hears the answers to them and the requests of others. Never waits.
#[derive(Debug)]
pub struct EchoSockets {
    pairs: Vec<Pair>,
}

impl EchoSockets {
    /// Opens sockets in the calling thread's network namespace. The kernel passes on only answers with this id: those to
    /// other programs wake nobody.
    ///
    /// # Errors
    /// Without CAP_NET_RAW.
    pub fn open(id: u16) -> Result<EchoSockets, KernelError> {
        let mut pairs = Vec::new();
        for family in Family::ALL {
            match open_pair(family, id) {
                Ok(pair) => pairs.push(pair),
                // A kernel without IPv6.
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
                Err(error) => return Err(KernelError::Socket(error)),
            }
        }
        Ok(EchoSockets { pairs })
    }

    /// Opens sockets in another network namespace, for use by any thread.
    ///
    /// # Errors
    /// As [`EchoSockets::open`], and when the namespace cannot be entered.
    pub fn open_in(netns: BorrowedFd<'_>, id: u16) -> Result<EchoSockets, KernelError> {
        netns::run_in(netns, || EchoSockets::open(id))?
    }

    /// Sends an ICMP message from one of this node's addresses, unfragmented whatever is known of the way's MTU
    /// (IP_PMTUDISC_PROBE).
    ///
    /// # Errors
    /// When there is no route, or it does not fit the first link.
    pub fn send(&self, local: IpAddr, remote: IpAddr, message: &[u8]) -> io::Result<()> {
        let pair = self.pairs.iter().find(|pair| pair.family == Family::of(remote));
        let socket = pair.ok_or_else(|| io::Error::from(Errno::EAFNOSUPPORT))?.answers.as_raw_fd();
        let parts = [IoSlice::new(message)];
        let sent = match (local, remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                let source = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(local.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let to = SockaddrIn::from(SocketAddrV4::new(remote, 0));
                sendmsg(
                    socket,
                    &parts,
                    &[ControlMessage::Ipv4PacketInfo(&source)],
                    MsgFlags::MSG_DONTWAIT,
                    Some(&to),
                )
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                let source = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: local.octets() },
                    ipi6_ifindex: 0,
                };
                let to = SockaddrIn6::from(SocketAddrV6::new(remote, 0, 0, 0));
                sendmsg(
                    socket,
                    &parts,
                    &[ControlMessage::Ipv6PacketInfo(&source)],
                    MsgFlags::MSG_DONTWAIT,
                    Some(&to),
                )
            }
            _ => Err(Errno::EAFNOSUPPORT),
        };
        sent.map(drop).map_err(Into::into)
    }

    /// Descriptors of which one is readable when an answer came.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pairs.iter().map(|pair| pair.answers.as_fd())
    }

    /// The answers that came since the last call.
    pub fn answers(&self) -> Vec<(Family, Heard)> {
        self.pairs.iter().flat_map(|pair| drain(pair.family, &pair.answers)).collect()
    }

    /// Echo requests that came since the last call; no descriptor tells of them, so that nobody can wake us by them.
    pub fn requests(&self) -> Vec<(Family, Heard)> {
        self.pairs.iter().flat_map(|pair| drain(pair.family, &pair.requests)).collect()
    }
}

fn open_pair(family: Family, id: u16) -> io::Result<Pair> {
    let answers = raw(family, QUEUE)?;
    let requests = raw(family, HEARD)?;
    let (request, reply) = match family {
        Family::Ipv4 => (8, 0),
        Family::Ipv6 => (128, 129),
    };
    sys::attach_filter(answers.as_fd(), &only(family, reply, Some(id)))?;
    sys::attach_filter(requests.as_fd(), &only(family, request, None))?;
    match family {
        Family::Ipv4 => {
            sys::set_int(answers.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?
        }
        Family::Ipv6 => {
            sys::set_int(
                answers.as_fd(),
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IP_PMTUDISC_PROBE,
            )?;
            sys::set_int(answers.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)?;
        }
    }
    Ok(Pair { family, answers, requests })
}

fn raw(family: Family, room: usize) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = match family {
        Family::Ipv4 => socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp),
        Family::Ipv6 => socket(AddressFamily::Inet6, SockType::Raw, flags, SockProtocol::IcmpV6),
    }?;
    setsockopt(&socket, sockopt::RcvBuf, &room)?;
    Ok(socket)
}

/// A filter for one type, and one id if one is given (Documentation/networking/filter.rst). What it sees begins with
/// the IP header in IPv4 (net/ipv4/raw.c, `raw_rcv`) and with the ICMP header in IPv6 (net/ipv6/raw.c, `rawv6_rcv`).
fn only(family: Family, kind: u32, id: Option<u16>) -> Vec<libc::sock_filter> {
    const LDXB_MSH: u16 = 0xb1;
    const LDX_IMM: u16 = 0x01;
    const LDB_IND: u16 = 0x50;
    const LDH_IND: u16 = 0x48;
    const JEQ: u16 = 0x15;
    const RET: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let header = match family {
        Family::Ipv4 => step(LDXB_MSH, 0, 0, 0),
        Family::Ipv6 => step(LDX_IMM, 0, 0, 0),
    };
    let mut steps = vec![header, step(LDB_IND, 0, 0, 0)];
    match id {
        Some(id) => {
            steps.extend([step(JEQ, 0, 3, kind), step(LDH_IND, 0, 0, 4), step(JEQ, 0, 1, id.into())]);
        }
        None => steps.push(step(JEQ, 0, 1, kind)),
    }
    // All of the packet, or nothing.
    steps.extend([step(RET, 0, 0, u32::MAX), step(RET, 0, 0, 0)]);
    steps
}

fn drain(family: Family, socket: &OwnedFd) -> Vec<(Family, Heard)> {
    let mut heard = Vec::new();
    for _ in 0..AT_ONCE {
        match receive(family, socket) {
            Ok(Some(one)) => heard.push((family, one)),
            Ok(None) | Err(Errno::EINTR) => {}
            // Nothing left; any other error is told once and then gone.
            Err(Errno::EAGAIN) => break,
            Err(_) => {}
        }
    }
    heard
}

/// None for what is too short to be anything.
fn receive(family: Family, socket: &OwnedFd) -> nix::Result<Option<Heard>> {
    let mut buffer = [0; READ];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let got = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, None, MsgFlags::MSG_DONTWAIT)?;
    let (length, address) = (got.bytes, got.address);
    let read = buffer.get(..length.min(READ)).unwrap_or_default();
    let message = match family {
        Family::Ipv4 => read.get(usize::from(read.first().copied().unwrap_or(0) & 0xf) * 4..),
        Family::Ipv6 => Some(read),
    };
    let Some(address) = address else { return Ok(None) };
    let from = address
        .as_sockaddr_in()
        .map(|from| IpAddr::V4(from.ip()))
        .or_else(|| address.as_sockaddr_in6().map(|from| IpAddr::V6(from.ip())));
    Ok(from.zip(message).map(|(from, message)| Heard { from, message: message.into() }))
}
