//! What runs in each pod of a lab: it answers on TCP and UDP ports 80 and 81 with `namespace/name CALLER-ADDRESS`.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use tartan_model::PodName;

/// The ports that every pod answers on.
pub const PORTS: [u16; 2] = [80, 81];
/// How much of a datagram comes back behind the answer, so that a stream of probes can be numbered.
pub const ECHO: usize = 64;
/// The most callers that are waited for; the oldest is dropped for a new one.
const MAX_CALLERS: usize = 512;
/// Bytes of datagrams that wait for their turn, with what the kernel needs for each.
const BACKLOG: usize = 4 << 20;
/// How long a caller may take to hang up after its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most datagrams or callers that are taken from one socket before the others have their turn.
const TURN: usize = 64;

/// Sockets that are bound and not served yet.
#[derive(Debug)]
pub struct Responder {
    name: PodName,
    listeners: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
    callers: VecDeque<Caller>,
}

/// A connection that has its answer, and that is kept until the caller hangs up: to close it before would make the
/// kernel reset it if the caller said something (RFC 1122, section 4.2.2.13).
#[derive(Debug)]
struct Caller {
    stream: TcpStream,
    until: Instant,
}

impl Responder {
    /// Listens in the calling thread's network namespace.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn bind(name: PodName) -> Result<Responder> {
        let mut responder =
            Responder { name, listeners: Vec::new(), datagrams: Vec::new(), callers: VecDeque::new() };
        for port in PORTS {
            // Of both families: IPv4 callers show up as mapped addresses (ipv6(7)).
            let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            let listener =
                TcpListener::bind(address).with_context(|| format!("cannot listen on {address}/tcp"))?;
            listener.set_nonblocking(true)?;
            let datagrams =
                UdpSocket::bind(address).with_context(|| format!("cannot listen on {address}/udp"))?;
            datagrams.set_nonblocking(true)?;
            // A responder that has no turn for a while loses nothing: 4 MiB are thousands of small datagrams.
            setsockopt(&datagrams, sockopt::RcvBufForce, &BACKLOG)?;
            responder.listeners.push(listener);
            responder.datagrams.push(datagrams);
        }
        Ok(responder)
    }

    /// Answers until the process ends.
    ///
    /// # Errors
    /// When the kernel cannot tell what is ready.
    pub fn serve(mut self) -> Result<()> {
        loop {
            self.wait()?;
            for socket in &self.datagrams {
                answer_datagrams(&self.name, socket);
            }
            let called = self.listeners.iter().flat_map(|listener| answer_callers(&self.name, listener));
            self.callers.extend(called.collect::<Vec<_>>());
            self.callers.retain_mut(Caller::stays);
            let over = self.callers.len().saturating_sub(MAX_CALLERS);
            self.callers.drain(..over);
        }
    }

    fn wait(&self) -> Result<()> {
        let listeners = self.listeners.iter().map(AsFd::as_fd);
        let datagrams = self.datagrams.iter().map(AsFd::as_fd);
        let callers = self.callers.iter().map(|caller| caller.stream.as_fd());
        let all = listeners.chain(datagrams).chain(callers);
        let mut ready: Vec<PollFd<'_>> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let timeout = match self.callers.front() {
            Some(oldest) => PollTimeout::try_from(oldest.until.saturating_duration_since(Instant::now()))
                .unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        match poll(&mut ready, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno).context("cannot wait for callers"),
        }
    }
}

impl Caller {
    /// Throws away what the caller says; false when it has hung up or had its time.
    fn stays(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(_) => Instant::now() < self.until,
            Err(error) => error.kind() == ErrorKind::WouldBlock && Instant::now() < self.until,
        }
    }
}

/// Becomes the responder of a pod: says `ready` on standard output, or what is wrong, and serves.
///
/// # Errors
/// When a port is taken or the process cannot be cut loose from its terminal.
pub fn run(name: PodName) -> Result<()> {
    // Fails only for the leader of a process group, which is loose already.
    nix::unistd::setsid().ok();
    let responder = match Responder::bind(name) {
        Ok(responder) => responder,
        Err(error) => {
            println!("{error:#}");
            return Err(error);
        }
    };
    println!("ready");
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    responder.serve()
}

fn answer(name: &PodName, caller: SocketAddr) -> String {
    format!("{name} {}\n", caller.ip().to_canonical())
}

fn answer_datagrams(name: &PodName, socket: &UdpSocket) {
    let mut payload = [0; ECHO];
    for _ in 0..TURN {
        let Ok((length, caller)) = socket.recv_from(&mut payload) else { return };
        let mut reply = answer(name, caller).into_bytes();
        reply.extend_from_slice(payload.get(..length).unwrap_or_default());
        // A caller that is gone is not our trouble.
        socket.send_to(&reply, caller).ok();
    }
}

fn answer_callers(name: &PodName, listener: &TcpListener) -> Vec<Caller> {
    let mut callers = Vec::new();
    for _ in 0..TURN {
        let Ok((mut stream, caller)) = listener.accept() else { break };
        let told = stream
            .set_nonblocking(true)
            .and_then(|()| stream.write_all(answer(name, caller).as_bytes()))
            .and_then(|()| stream.shutdown(Shutdown::Write));
        if told.is_ok() {
            callers.push(Caller { stream, until: Instant::now() + PATIENCE });
        }
    }
    callers
}
