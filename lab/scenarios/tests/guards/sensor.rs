//! What came through.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike};
use tartan_kernel::{PacketSocket, netns};

const LOOK: Duration = Duration::from_millis(10);

/// Listens on a thread of its own, and keeps what it hears.
pub(crate) struct Sensor {
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sensor {
    /// Hears every frame on the interface of a pod.
    pub(crate) fn of_pod(pod: &Path) -> Sensor {
        let netns = netns::open(pod).expect("the pod's namespace");
        let socket = PacketSocket::open_in(netns.as_fd(), &"eth0".parse().unwrap()).expect("a packet socket");
        Sensor::start(move || socket.receive(LOOK).expect("a frame or none"))
    }

    /// Hears every packet of a protocol that is for a node, once it has passed all filters.
    pub(crate) fn of_node(node: &Path, family: AddressFamily, protocol: SockProtocol) -> Sensor {
        let netns = netns::open(node).expect("the node's namespace");
        let opened = netns::run_in(netns.as_fd(), || {
            socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).expect("a raw socket")
        });
        let socket = opened.expect("to enter");
        setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(10)).expect("a timeout");
        Sensor::start(move || {
            let mut packet = vec![0; 2048];
            let length = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()).ok()?;
            packet.truncate(length);
            Some(packet)
        })
    }

    fn start(mut next: impl FnMut() -> Option<Vec<u8>> + Send + 'static) -> Sensor {
        let (heard, stop) = (Arc::<Mutex<Vec<Vec<u8>>>>::default(), Arc::<AtomicBool>::default());
        let (kept, flag) = (heard.clone(), stop.clone());
        let thread = thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                kept.lock().unwrap().extend(next());
            }
        });
        Sensor { heard, stop, thread: Some(thread) }
    }

    /// Whether something with these bytes in it came.
    pub(crate) fn heard(&self, needle: &[u8]) -> bool {
        let heard = self.heard.lock().unwrap();
        heard.iter().any(|frame| frame.windows(needle.len()).any(|window| window == needle))
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the sensor did not panic");
        }
    }
}
