//! A stream of numbered packets between two pods, and how many came back.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::{Lab, inside};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of answers that wait until the stream has a turn: it may be kept from the processor for seconds, and that is
/// no loss.
const BACKLOG: usize = 8 << 20;

/// A running stream; it ends with this.
pub struct Probe {
    stop: Arc<AtomicBool>,
    /// Until it was waited for.
    thread: Option<JoinHandle<Outcome>>,
}

/// What became of a stream.
#[derive(Debug)]
pub struct Outcome {
    /// Packets sent.
    pub sent: u64,
    /// Those that no answer came to, by number.
    pub lost: Vec<u64>,
    /// When each of those was sent, after the beginning.
    pub lost_at: Vec<Duration>,
}

impl Probe {
    /// Sends a datagram to a pod's responder every `interval`, from within a network namespace. What could not be sent
    /// in time, as we had no turn, is sent at once afterwards.
    pub fn start(from: &Path, to: IpAddr, interval: Duration) -> Probe {
        let stop = Arc::new(AtomicBool::new(false));
        let any: IpAddr = if to.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() };
        let socket = inside(from, || UdpSocket::bind((any, 0))).expect("a socket");
        setsockopt(&socket, sockopt::RcvBufForce, &BACKLOG).expect("room for answers");
        socket.connect(SocketAddr::new(to, 80)).expect("to connect");
        socket.set_nonblocking(true).expect("a socket that does not wait");
        let flag = stop.clone();
        let thread = thread::spawn(move || stream(&socket, interval, &flag));
        Probe { stop, thread: Some(thread) }
    }

    /// Ends the stream, waits for the last answers and counts.
    pub fn finish(mut self) -> Outcome {
        self.end().expect("nobody has waited for it").expect("the stream did not panic")
    }

    fn end(&mut self) -> Option<thread::Result<Outcome>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        drop(self.end());
    }
}

/// Streams between pods of namespace `default`, each to each other, in every family that the other has.
pub struct Probes(Vec<Probe>);

impl Probes {
    /// Starts them, each as [`Probe::start`].
    #[track_caller]
    pub fn between_all(lab: &Lab, pods: &[&str], interval: Duration) -> Probes {
        let addresses: Vec<_> = pods.iter().map(|pod| lab.addresses(&format!("default/{pod}"))).collect();
        let pair = |from: usize, to: usize| {
            let netns = lab.netns(&format!("default_{}", pods[from]));
            addresses[to].iter().map(move |address| Probe::start(&netns, *address, interval))
        };
        let all = 0..pods.len();
        let pairs = all.clone().flat_map(|from| all.clone().map(move |to| (from, to)));
        Probes(pairs.filter(|(from, to)| from != to).flat_map(|(from, to)| pair(from, to)).collect())
    }

    /// How many streams there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Ends them; each must have sent so many packets and lost none. Says how many were sent in all.
    #[track_caller]
    pub fn assert_none_lost(self, at_least: u64) -> u64 {
        let mut sent = 0;
        for probe in self.0 {
            let outcome = probe.finish();
            assert!(outcome.sent >= at_least, "{} sent", outcome.sent);
            assert!(outcome.lost.is_empty(), "{outcome:?}");
            sent += outcome.sent;
        }
        sent
    }
}

fn stream(socket: &UdpSocket, interval: Duration, stop: &AtomicBool) -> Outcome {
    let mut waiting = BTreeMap::new();
    let mut sent = 0u64;
    let start = Instant::now();
    // Once at least: what nothing was sent to is no proof.
    while sent == 0 || !stop.load(Ordering::Relaxed) {
        send(socket, sent);
        waiting.insert(sent, start.elapsed());
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
    let (lost, lost_at) = waiting.into_iter().unzip();
    Outcome { sent, lost, lost_at }
}

/// A packet that the kernel refuses is a lost one; that its queue has no room for it is our haste.
fn send(socket: &UdpSocket, number: u64) {
    while let Err(error) = socket.send(number.to_string().as_bytes())
        && error.kind() == ErrorKind::WouldBlock
    {
        thread::sleep(Duration::from_micros(100));
    }
}

fn hear(socket: &UdpSocket, waiting: &mut BTreeMap<u64, Duration>) {
    let mut answer = [0; 512];
    while let Ok(length) = socket.recv(&mut answer) {
        let text = String::from_utf8_lossy(&answer[..length]);
        if let Some(number) = text.split_whitespace().last().and_then(|number| number.parse().ok()) {
            waiting.remove(&number);
        }
    }
}
