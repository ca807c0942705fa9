//! Somebody who answers wherever a story may knock, beside the responders of the lab's pods.

use std::collections::HashMap;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, SockaddrStorage, bind, recvfrom,
    sendto, socket,
};
use tartan_kernel::netns;
use tartan_model::Family;

use crate::cases::world::SERVED;
use crate::messages::{init_ack, payload};
use crate::stage::Place;

/// The ports that somebody is to answer on, by TCP and UDP; by SCTP it is on all.
pub(crate) const PORTS: [u16; 9] = [1, 53, 79, 80, 81, 82, 90, 91, 65_535];
/// How many sockets are told of at once.
const EVENTS: usize = 64;
/// How often it is looked whether all is over, in milliseconds.
const LOOK: u8 = 50;

/// They answer as long as this lives.
pub(crate) struct Listeners {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

enum Ear {
    Tcp(TcpListener),
    Udp(UdpSocket),
    Sctp(OwnedFd),
}

impl Listeners {
    pub(crate) fn at(places: &[Place]) -> Listeners {
        let ears: Vec<Ear> = places.iter().flat_map(ears).collect();
        let stop = Arc::<AtomicBool>::default();
        let flag = stop.clone();
        let thread = thread::spawn(move || listen(&ears, &flag));
        Listeners { stop, thread: Some(thread) }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it panicked with was told already.
            let _ = thread.join();
        }
    }
}

/// Each answers by the address that it was asked at.
fn ears(place: &Place) -> Vec<Ear> {
    let open = || {
        let addresses = Family::ALL.map(|family| place.address(family));
        let ports = PORTS.iter().filter(|port| !(place.is_pod() && SERVED.contains(*port)));
        let mut ears: Vec<Ear> =
            ports.flat_map(|port| addresses.map(|at| [tcp(at, *port), udp(at, *port)])).flatten().collect();
        ears.extend(addresses.map(sctp));
        ears
    };
    netns::run_in(place.netns.as_fd(), open).expect("to enter")
}

fn tcp(at: IpAddr, port: u16) -> Ear {
    let listener = TcpListener::bind((at, port)).unwrap_or_else(|error| panic!("{at} {port}: {error}"));
    listener.set_nonblocking(true).expect("a socket that does not wait");
    Ear::Tcp(listener)
}

fn udp(at: IpAddr, port: u16) -> Ear {
    let socket = UdpSocket::bind((at, port)).unwrap_or_else(|error| panic!("{at} {port}: {error}"));
    socket.set_nonblocking(true).expect("a socket that does not wait");
    Ear::Udp(socket)
}

fn sctp(at: IpAddr) -> Ear {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(family, SockType::Raw, flags, SockProtocol::Sctp).expect("a raw socket");
    bind(made.as_raw_fd(), &SockaddrStorage::from(std::net::SocketAddr::new(at, 0))).expect("its address");
    Ear::Sctp(made)
}

fn listen(ears: &[Ear], stop: &AtomicBool) {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
    let mut by_key = HashMap::new();
    for (key, ear) in (0..).zip(ears) {
        let fd = match ear {
            Ear::Tcp(listener) => listener.as_fd(),
            Ear::Udp(socket) => socket.as_fd(),
            Ear::Sctp(socket) => socket.as_fd(),
        };
        epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, key)).expect("to listen");
        by_key.insert(key, ear);
    }
    let mut events = [EpollEvent::empty(); EVENTS];
    while !stop.load(Ordering::Relaxed) {
        // An interrupted wait looks once too often.
        let count = epoll.wait(&mut events, EpollTimeout::from(LOOK)).unwrap_or_default();
        events[..count].iter().for_each(|event| answer(by_key[&event.data()]));
    }
}

/// Who does not hear the answer is not our trouble.
fn answer(ear: &Ear) {
    let mut buffer = [0; 2048];
    match ear {
        Ear::Tcp(listener) => while listener.accept().is_ok() {},
        Ear::Udp(socket) => {
            while let Ok((length, caller)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], caller);
            }
        }
        Ear::Sctp(socket) => {
            while let Ok((length, Some(caller))) =
                recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut buffer)
            {
                let from_ipv4 = caller.family() == Some(AddressFamily::Inet);
                if let Some(answer) = init_ack(payload(from_ipv4, &buffer[..length])) {
                    let _ = sendto(socket.as_raw_fd(), &answer, &caller, MsgFlags::empty());
                }
            }
        }
    }
}
