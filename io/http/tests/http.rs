//! What a client may do, and what not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tartan_http::{Handler, Listen, MAX_CONNECTIONS, Reply, serve};

struct Echo;

impl Handler for Echo {
    fn handle(&self, path: &str, accept: &str) -> Reply {
        assert!(path != "/panic", "a handler that fails");
        Reply { status: 200, content_type: "text/plain; charset=utf-8", body: format!("{path} {accept}") }
    }
}

/// A port of loopback that nobody had a moment ago.
fn place() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn only_places_of_this_machine_are_taken() {
    for good in [
        "unix:/run/a.sock",
        "/run/a.sock",
        "127.0.0.1:9091",
        "127.8.8.8:1",
        "[::1]:9091",
        "[::ffff:127.0.0.1]:1",
    ] {
        let listen: Listen = good.parse().unwrap();
        assert_eq!(listen.to_string().parse::<Listen>().unwrap(), listen);
    }
    let bad = [
        "",
        "/",
        "unix:",
        "unix:a",
        "a.sock",
        "0.0.0.0:9091",
        "[::]:9091",
        "192.0.2.1:1",
        "127.0.0.1",
        "127.0.0.1:0",
        "localhost:1",
        ":9091",
    ];
    for bad in bad {
        assert!(bad.parse::<Listen>().is_err(), "{bad}");
    }
}

#[test]
fn a_get_is_answered_and_nothing_else() {
    let address = place();
    let serving = serve(&Listen::Loopback(address), Arc::new(Echo)).unwrap();
    let answer = ask(address, "GET /a?b HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n/a text/plain"), "{answer}");
    assert!(
        ask(address, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").starts_with("HTTP/1.1 405")
    );
    assert!(ask(address, "GET /panic HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 500"));
    assert!(ask(address, "no http\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert!(ask(address, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 200"));
    // What is taken is told; what ended is free.
    assert!(
        serve(&Listen::Loopback(address), Arc::new(Echo)).unwrap_err().to_string().contains("metrics_listen")
    );
    drop(serving);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn slow_clients_are_sent_away_and_more_than_there_is_room_for_wait() {
    let address = place();
    let _serving = serve(&Listen::Loopback(address), Arc::new(Echo)).unwrap();
    let slow = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        stream
    };
    let held: Vec<TcpStream> = (0..MAX_CONNECTIONS).map(slow).collect();
    let start = Instant::now();
    assert!(ask(address, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 200"));
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(1) && waited < Duration::from_secs(10), "{waited:?}");
    drop(held);
}

#[test]
fn a_unix_socket_goes_with_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.sock");
    let serving = serve(&Listen::Unix(path.clone()), Arc::new(Echo)).unwrap();
    assert!(serve(&Listen::Unix(path.clone()), Arc::new(Echo)).is_err());
    drop(serving);
    assert!(!path.exists());
}
