//! A stream of numbered packets between two pods, and how many came back.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tartan_kernel::netns;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A running stream.
pub struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Outcome>,
}

/// What became of a stream.
#[derive(Debug)]
pub struct Outcome {
    /// Packets sent.
    pub sent: u64,
    /// Those that no answer came to, by number.
    pub lost: Vec<u64>,
}

impl Probe {
    /// Sends a datagram to a pod's responder every `interval`, from within a network namespace.
    pub fn start(from: &Path, to: IpAddr, interval: Duration) -> Probe {
        let stop = Arc::new(AtomicBool::new(false));
        let netns = netns::open(from).expect("the pod's namespace");
        let any: IpAddr = if to.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() };
        let socket = {
            use std::os::fd::AsFd;
            netns::run_in(netns.as_fd(), || UdpSocket::bind((any, 0))).expect("to enter").expect("a socket")
        };
        socket.connect(SocketAddr::new(to, 80)).expect("to connect");
        socket.set_nonblocking(true).expect("a socket that does not wait");
        let flag = stop.clone();
        let thread = thread::spawn(move || stream(&socket, interval, &flag));
        Probe { stop, thread }
    }

    /// Ends the stream, waits for the last answers and counts.
    pub fn finish(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the stream did not panic")
    }
}

fn stream(socket: &UdpSocket, interval: Duration, stop: &AtomicBool) -> Outcome {
    let mut waiting = BTreeSet::new();
    let mut sent = 0u64;
    let start = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        waiting.insert(sent);
        // A refused packet is a lost one.
        let _ = socket.send(sent.to_string().as_bytes());
        sent += 1;
        let next = start + interval * u32::try_from(sent).expect("a short stream");
        while Instant::now() < next {
            hear(socket, &mut waiting);
            thread::sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_micros(500)));
        }
    }
    let end = Instant::now() + PATIENCE;
    while !waiting.is_empty() && Instant::now() < end {
        hear(socket, &mut waiting);
        thread::sleep(Duration::from_millis(1));
    }
    Outcome { sent, lost: waiting.into_iter().collect() }
}

fn hear(socket: &UdpSocket, waiting: &mut BTreeSet<u64>) {
    let mut answer = [0; 512];
    while let Ok(length) = socket.recv(&mut answer) {
        let text = String::from_utf8_lossy(&answer[..length]);
        if let Some(number) = text.split_whitespace().last().and_then(|number| number.parse().ok()) {
            waiting.remove(&number);
        }
    }
}
