//! What drives traffic between two network namespaces, and what is read off it.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::figures::quantile;
use crate::inside;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

/// How long each measurement of a rate takes.
const TIME: Duration = Duration::from_millis(200);
/// How long it takes to see what CPU is used: the kernel counts in steps of 10 ms.
const CPU_TIME: Duration = Duration::from_millis(500);
/// How long the last datagrams are waited for.
const LAST: Duration = Duration::from_millis(100);
/// Bytes of a write, and of a read.
const CHUNK: usize = 128 << 10;
/// Bytes of a small datagram's payload.
const SMALL: usize = 64;
/// How many round trips, and how many connections.
const ROUND_TRIPS: usize = 4000;
const CONNECTIONS: usize = 400;
/// The core of a flow that is alone.
const CORE: usize = 0;
/// The core of who receives datagrams.
const RECEIVER: usize = 1;
/// Bytes that wait at the receiver of datagrams.
const BACKLOG: usize = 8 << 20;
/// Ticks of the kernel's accounting in a second (`USER_HZ`, proc_stat(5)).
const TICKS: f64 = 100.0;

/// A way from one namespace to an address in another.
#[derive(Debug, Clone)]
pub struct Way {
    /// The namespace that it begins in.
    pub from: PathBuf,
    /// The namespace that it leads to.
    pub to: PathBuf,
    /// The address there.
    pub address: IpAddr,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Gigabits in a second by one TCP stream on one core.
    OneStream,
    /// The same by four, each on one core.
    FourStreams,
    /// Seconds of CPU for a gigabyte by one stream: beside its rate it shows what is done on other cores.
    Cpu,
    /// Thousands of small datagrams received in a second, from another core, without sleep.
    Datagrams,
    /// Microseconds of a round trip of one byte on one core.
    RoundTrip,
    /// Microseconds until a connection is there, on one core.
    Connect,
}

impl Metric {
    /// All of them.
    pub const ALL: [Metric; 6] = [
        Metric::OneStream,
        Metric::FourStreams,
        Metric::Cpu,
        Metric::Datagrams,
        Metric::RoundTrip,
        Metric::Connect,
    ];

    /// What it is, for people.
    pub fn name(self) -> &'static str {
        match self {
            Metric::OneStream => "TCP, one stream on one core",
            Metric::FourStreams => "TCP, four streams, each on one core",
            Metric::Cpu => "CPU of the machine for a gigabyte by one stream",
            Metric::Datagrams => "UDP, 64 bytes, received by polling",
            Metric::RoundTrip => "TCP round trip on one core, median",
            Metric::Connect => "TCP connect on one core, median",
        }
    }

    /// A value with its unit.
    pub fn shown(self, value: f64) -> String {
        match self {
            Metric::OneStream | Metric::FourStreams => format!("{value:.1} Gbit/s"),
            Metric::Cpu => format!("{value:.2} s"),
            Metric::Datagrams => format!("{value:.0} k/s"),
            Metric::RoundTrip | Metric::Connect => format!("{value:.1} µs"),
        }
    }

    /// Whether more is better.
    pub fn is_rate(self) -> bool {
        matches!(self, Metric::OneStream | Metric::FourStreams | Metric::Datagrams)
    }
}

impl Way {
    /// One value of a metric.
    pub fn measure(&self, metric: Metric) -> f64 {
        match metric {
            Metric::OneStream => self.stream(1, TIME).0,
            Metric::FourStreams => self.stream(4, TIME).0,
            Metric::Cpu => self.stream(1, CPU_TIME).1,
            Metric::Datagrams => self.datagrams(),
            Metric::RoundTrip => self.round_trip(),
            Metric::Connect => self.connect(),
        }
    }

    /// Gigabits in a second through so many streams, and the seconds of CPU that a gigabyte took.
    fn stream(&self, streams: usize, time: Duration) -> (f64, f64) {
        let (listener, to) = self.listen();
        let ends: Vec<_> = (0..streams).map(|_| self.connected(&listener, to)).collect();
        let busy = busy();
        let start = Instant::now();
        let both = |(core, (near, far))| (send(core, near, start + time), drain(core, far));
        let (senders, readers): (Vec<_>, Vec<_>) = ends.into_iter().enumerate().map(both).unzip();
        for sender in senders {
            sender.join().expect("a sender");
        }
        let bytes: usize = readers.into_iter().map(|reader| reader.join().expect("a reader")).sum();
        let seconds = start.elapsed().as_secs_f64();
        (bytes as f64 * 8e-9 / seconds, (self::busy() - busy) / (bytes as f64 * 1e-9))
    }

    /// Thousands of small datagrams that arrive in a second, as fast as one sender goes. The receiver has a core of its own, as
    /// what it does is none of the way's cost, and never sleeps: the sender's core would have to wake it, the more often the slower
    /// datagrams come.
    fn datagrams(&self) -> f64 {
        let receiver = inside(&self.to, || UdpSocket::bind((self.address, 0))).expect("a socket");
        setsockopt(&receiver, sockopt::RcvBufForce, &BACKLOG).expect("room for datagrams");
        receiver.set_nonblocking(true).expect("a socket that does not wait");
        let to = receiver.local_addr().expect("an address");
        let sender = inside(&self.from, || UdpSocket::bind((any(self.address), 0))).expect("a socket");
        sender.connect(to).expect("to connect");
        let start = Instant::now();
        let sending = on_core(CORE, move || {
            while start.elapsed() < TIME {
                // What the queue has no room for is not sent.
                let _ = sender.send(&[0; SMALL]);
            }
        });
        let receiving = on_core(RECEIVER, move || {
            let (mut received, mut last) = (0, start);
            let mut buffer = [0; SMALL];
            loop {
                let late = last.elapsed() > LAST;
                if receiver.recv(&mut buffer).is_ok() {
                    received += 1;
                    last = Instant::now();
                } else if late {
                    return (received, last);
                }
            }
        });
        sending.join().expect("a sender");
        let (received, last) = receiving.join().expect("a receiver");
        f64::from(received) / 1e3 / (last - start).as_secs_f64().max(TIME.as_secs_f64())
    }

    /// Microseconds of a round trip of one byte.
    pub fn round_trip(&self) -> f64 {
        let (listener, to) = self.listen();
        let (mut near, mut far) = self.connected(&listener, to);
        near.set_nodelay(true).expect("no delay");
        far.set_nodelay(true).expect("no delay");
        let echo = on_core(CORE, move || {
            let mut byte = [0];
            while far.read_exact(&mut byte).is_ok() && far.write_all(&byte).is_ok() {}
        });
        let times = on_core(CORE, move || {
            let mut byte = [0];
            let timed = |_| {
                let start = Instant::now();
                near.write_all(&byte).expect("to write");
                near.read_exact(&mut byte).expect("to read");
                start.elapsed()
            };
            (0..ROUND_TRIPS).map(timed).collect()
        });
        let mut times: Vec<Duration> = times.join().expect("round trips");
        echo.join().expect("an echo");
        quantile(&mut times, 0.5) * 1e3
    }

    /// Microseconds until a connection is there.
    pub fn connect(&self) -> f64 {
        let (listener, to) = self.listen();
        let accepting = on_core(CORE, move || {
            for _ in 0..CONNECTIONS {
                // The other side ends it, and by a reset.
                let _ = listener.accept().expect("a connection").0.read(&mut [0]);
            }
        });
        let from = self.from.clone();
        let times = on_core(CORE, move || {
            let timed = |_| {
                let start = Instant::now();
                let stream = TcpStream::connect(to).expect("to connect");
                let time = start.elapsed();
                reset_at_close(&stream);
                time
            };
            inside(&from, || (0..CONNECTIONS).map(timed).collect())
        });
        let mut times: Vec<Duration> = times.join().expect("connections");
        accepting.join().expect("a listener");
        quantile(&mut times, 0.5) * 1e3
    }

    fn listen(&self) -> (TcpListener, SocketAddr) {
        let listener = inside(&self.to, || TcpListener::bind((self.address, 0))).expect("a listener");
        let to = listener.local_addr().expect("an address");
        (listener, to)
    }

    /// Both ends of a connection: the one that it begins at, and the listener's.
    fn connected(&self, listener: &TcpListener, to: SocketAddr) -> (TcpStream, TcpStream) {
        let near = inside(&self.from, || TcpStream::connect(to)).expect("to connect");
        (near, listener.accept().expect("a connection").0)
    }
}

/// Runs on one core; numbers past the last core begin anew. Both ends of a stream are on the same: then it is what the way
/// costs, not how soon another core wakes, and no stream overtakes itself: what an acknowledgement lets go is sent by the core
/// that sees it, past what another core has queued.
fn on_core<T: Send + 'static>(core: usize, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::spawn(move || {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let mut only = CpuSet::new();
        only.set(core % cores).expect("a core");
        sched_setaffinity(Pid::from_raw(0), &only).expect("to stay on it");
        work()
    })
}

/// Sends from this core until the time is over.
fn send(core: usize, mut stream: TcpStream, end: Instant) -> JoinHandle<()> {
    on_core(core, move || {
        let chunk = vec![0; CHUNK];
        while Instant::now() < end {
            stream.write_all(&chunk).expect("to write");
        }
    })
}

/// Reads to the end on this core, and says how much that was.
fn drain(core: usize, mut stream: TcpStream) -> JoinHandle<usize> {
    on_core(core, move || {
        let mut buffer = vec![0; CHUNK];
        let mut bytes = 0;
        loop {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return bytes,
                Ok(read) => bytes += read,
            }
        }
    })
}

/// No connection is left behind in TIME_WAIT.
fn reset_at_close(stream: &TcpStream) {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(stream, sockopt::Linger, &at_once).expect("to say how it closes");
}

fn any(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() }
}

/// Seconds that all cores were busy since boot (proc_stat(5)): all but idle, waiting for a disk, and taken by other machines.
fn busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").expect("the kernel's accounting");
    let line = text.lines().next().expect("a line for all cores");
    let ticks: Vec<f64> = line.split_whitespace().skip(1).take(7).filter_map(|n| n.parse().ok()).collect();
    (ticks.iter().sum::<f64>() - ticks[3] - ticks[4]) / TICKS
}
