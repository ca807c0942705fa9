//! Streams that tell when the last of them came through.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::inside;

/// How often something is sent.
const BEAT: Duration = Duration::from_millis(1);

/// What a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A TCP connection on which the server sends, and the client only listens.
    Push,
    /// A TCP connection on which the client asks and the server answers.
    Ask,
    /// Datagrams from client to server, which answers none.
    OneWay,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Push, Kind::Ask, Kind::OneWay];
}

/// A running stream; it ends with this.
pub struct Stream {
    kind: Kind,
    stop: Arc<AtomicBool>,
    last: Arc<Mutex<Option<Instant>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    /// Opens it from one namespace to another, at a port of its own.
    #[track_caller]
    pub fn start(kind: Kind, from: &Path, to: &Path, address: IpAddr, port: u16) -> Stream {
        let (stop, last) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let at = SocketAddr::new(address, port);
        let (ends, heard) = (stop.clone(), last.clone());
        let threads = match kind {
            Kind::OneWay => {
                let server = inside(to, || UdpSocket::bind(at)).expect("a socket");
                server.set_read_timeout(Some(BEAT)).expect("to set, or a lock");
                let any: IpAddr = if address.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() };
                let client = inside(from, || UdpSocket::bind((any, 0))).expect("a socket");
                let (sends, receives) = (ends.clone(), ends);
                vec![
                    thread::spawn(move || {
                        while !sends.load(Ordering::Relaxed) {
                            // What is refused on the way does not arrive.
                            let _ = client.send_to(b"x", at);
                            thread::sleep(BEAT);
                        }
                    }),
                    thread::spawn(move || {
                        while !receives.load(Ordering::Relaxed) {
                            if server.recv(&mut [0; 8]).is_ok() {
                                *heard.lock().expect("to set, or a lock") = Some(Instant::now());
                            }
                        }
                    }),
                ]
            }
            Kind::Push | Kind::Ask => {
                let listener = inside(to, || TcpListener::bind(at)).expect("a socket");
                let client = inside(from, || TcpStream::connect_timeout(&at, Duration::from_secs(5)));
                let client = client.expect("a connection");
                let (server, _) = listener.accept().expect("a connection");
                for end in [&client, &server] {
                    end.set_nodelay(true).expect("to set, or a lock");
                    end.set_read_timeout(Some(BEAT)).expect("to set, or a lock");
                    end.set_nonblocking(true).expect("to set, or a lock");
                }
                let (writer, reader) = if kind == Kind::Push { (server, client) } else { (client, server) };
                let answers = kind == Kind::Ask;
                vec![thread::spawn(move || relay(writer, reader, answers, &ends, &heard))]
            }
        };
        Stream { kind, stop, last, threads }
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// When something came through last.
    pub fn last(&self) -> Option<Instant> {
        *self.last.lock().expect("to set, or a lock")
    }

    /// Whether something comes through from now on.
    pub fn lives(&self) -> bool {
        let now = Instant::now();
        crate::holds_within(Duration::from_secs(2), || self.last().is_some_and(|last| last > now))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One end writes at each beat, the other reads, and answers if it shall; what the first reads counts then.
fn relay(
    mut writer: TcpStream,
    mut reader: TcpStream,
    answers: bool,
    stop: &AtomicBool,
    last: &Mutex<Option<Instant>>,
) {
    let mut buffer = [0; 64 << 10];
    while !stop.load(Ordering::Relaxed) {
        let _ = writer.write(b"12345678");
        let read = matches!(reader.read(&mut buffer), Ok(length) if length > 0);
        if read && answers {
            let _ = reader.write(b"87654321");
        }
        let answered = answers && matches!(writer.read(&mut buffer), Ok(length) if length > 0);
        if answered || read && !answers {
            *last.lock().expect("to set, or a lock") = Some(Instant::now());
        }
        thread::sleep(BEAT);
    }
}
