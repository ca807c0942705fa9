//! Servers that die, hang, and lose their leader.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::server::Cluster;
use crate::suite::{put, wait_until, woken};
use nix::sys::signal::Signal;
use tartan_store::{Change, Durability, Expect, Store, StoreError, Watch};
use tartan_store_etcd::{Etcd, EtcdFiles};

/// A ceiling of a call: its deadline, and a busy machine.
const CEILING: Duration = Duration::from_secs(10);

fn saw(watch: &mut dyn Watch, key: &str) -> bool {
    watch.changes().is_ok_and(|changes| changes.iter().any(|change| change.key() == key))
}

#[test]
fn without_a_server_every_call_fails_in_time_and_says_so() {
    let mut cluster = Cluster::start(1);
    let store = cluster.open();
    put(&store, "a", "1");
    for hang in [true, false] {
        if hang {
            cluster.signal(0, Signal::SIGSTOP);
        } else {
            cluster.stop(0);
        }
        let begin = Instant::now();
        let error = store.get("a").unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        let told = if hang { "does not answer within" } else { "cannot be reached" };
        assert!(source.contains(told), "{source}");
        assert!(begin.elapsed() < CEILING, "{:?}", begin.elapsed());
        assert!(store.leases().is_err());
        if hang {
            cluster.signal(0, Signal::SIGCONT);
            wait_until("it serves again", || store.get("a").is_ok());
        }
    }
}

/// What accepts every connection and says nothing; its port.
fn mute() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn connecting_is_within_the_deadline_of_whoever_asks() {
    let (one, other) = (mute(), mute());
    let url = format!("etcd://127.0.0.1:{},127.0.0.1:{}", one.1, other.1);
    let store = Etcd::open(url.parse().unwrap(), &EtcdFiles::default()).unwrap();
    let begin = Instant::now();
    // It has three seconds; that each of two gets two of them is more than that.
    store.leases().unwrap_err();
    assert!(begin.elapsed() < Duration::from_millis(3500), "{:?}", begin.elapsed());
}

/// A line to a server by which 16 KiB come each 64 ms; its port.
fn narrow(server: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let pump = |mut from: TcpStream, mut to: TcpStream, pause: Duration| {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer)
            && to.write_all(&buffer[..read]).is_ok()
        {
            thread::sleep(pause);
        }
        let _ = to.shutdown(Shutdown::Both);
    };
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", server)).unwrap());
            let (up, down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || pump(up, down, Duration::ZERO));
            thread::spawn(move || pump(server, client, Duration::from_millis(64)));
        }
    });
    port
}

#[test]
fn a_page_that_takes_longer_than_one_attempt_is_listed_all_the_same() {
    let cluster = Cluster::start(1);
    let value = "x".repeat(8 << 10);
    let writer = cluster.open();
    for number in 0..100 {
        put(&writer, &format!("k/{number:03}"), &value);
    }
    let url = format!("etcd://127.0.0.1:{}", narrow(cluster.members[0].port));
    let store = Etcd::open(url.parse().unwrap(), &EtcdFiles::default()).unwrap();
    let begin = Instant::now();
    assert_eq!(store.list("k/").unwrap().entries.len(), 100);
    assert!(begin.elapsed() > Duration::from_secs(3), "it is not narrow: {:?}", begin.elapsed());
}

#[test]
fn a_watch_goes_on_after_a_restart_and_misses_nothing() {
    let mut cluster = Cluster::start(1);
    let (writer, reader) = (cluster.open(), cluster.open());
    let mut watch = reader.watch("", reader.list("").unwrap().revision).unwrap();
    assert_eq!(watch.changes().unwrap(), []);
    cluster.stop(0);
    assert!(woken(&*watch, CEILING), "that it broke is told");
    assert!(matches!(watch.changes(), Err(StoreError::Unavailable { .. })));
    assert!(matches!(watch.changes(), Err(StoreError::Unavailable { .. })), "as long as it is broken");
    cluster.start_all();
    // Written before the watch is back, or after.
    wait_until("it is written", || writer.put("a", b"1", Expect::Any, Durability::Crash).is_ok());
    wait_until("it is seen", || saw(&mut *watch, "a"));
    put(&writer, "b", "1");
    wait_until("it is seen", || saw(&mut *watch, "b"));
}

#[test]
fn a_watch_on_a_server_that_hangs_goes_on_at_another() {
    let cluster = Cluster::start(3);
    let (writer, reader) = (cluster.open(), cluster.open());
    wait_until("it is written", || writer.put("a", b"1", Expect::Any, Durability::Crash).is_ok());
    // Both use the first endpoint.
    let mut watch = reader.watch("", reader.list("").unwrap().revision).unwrap();
    cluster.signal(0, Signal::SIGSTOP);
    wait_until("it is written", || writer.put("b", b"1", Expect::Any, Durability::Crash).is_ok());
    let begin = Instant::now();
    wait_until("it is seen", || saw(&mut *watch, "b"));
    eprintln!("seen after {:?}", begin.elapsed());
    cluster.signal(0, Signal::SIGCONT);
}

#[test]
fn three_members_that_lose_one_after_the_other_serve_and_keep_leases() {
    let mut cluster = Cluster::start(3);
    let store = cluster.open();
    let mut watch = store.watch("", store.list("").unwrap().revision).unwrap();
    store.take_lease("n1", "id-1", Duration::from_secs(15), false).unwrap();
    for number in 0..3 {
        cluster.stop(number);
        let key = format!("k{number}");
        wait_until("it is written", || store.put(&key, b"", Expect::Any, Durability::Crash).is_ok());
        wait_until("it is seen", || saw(&mut *watch, &key));
        wait_until("it is renewed", || store.renew_lease("n1", "id-1", Duration::from_secs(15)).is_ok());
        cluster.start_one(number);
        wait_until("the member is back", || {
            let endpoint = format!("http://127.0.0.1:{}", cluster.members[number].port);
            std::process::Command::new("etcdctl")
                .env("ETCDCTL_API", "3")
                .args(["--endpoints", &endpoint, "get", &format!("/tartan/entry/{key}")])
                .output()
                .is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
        });
    }
    assert_eq!(store.list("k").unwrap().entries.len(), 3);
}

/// A member without the others tells nothing, and says so.
#[test]
fn a_member_that_is_cut_off_from_the_majority_is_no_store() {
    let mut cluster = Cluster::start(3);
    let store = cluster.open();
    let mut watch = store.watch("", store.list("").unwrap().revision).unwrap();
    assert!(watch.changes().is_ok());
    cluster.stop(1);
    cluster.stop(2);
    wait_until("the watch says so", || matches!(watch.changes(), Err(StoreError::Unavailable { .. })));
    assert!(store.get("a").is_err(), "no old state is told");
    cluster.start_one(1);
    wait_until("two of three serve", || store.put("a", b"1", Expect::Any, Durability::Crash).is_ok());
    wait_until("it is seen", || saw(&mut *watch, "a"));
}

#[test]
fn a_swap_whose_answer_was_lost_is_told_as_done_once() {
    let cluster = Cluster::start(1);
    let store = cluster.open();
    // The answers of some are lost in the hanging, and what was asked twice must not be told as lost to ourselves.
    thread::scope(|scope| {
        let hang = scope.spawn(|| {
            for _ in 0..3 {
                thread::sleep(Duration::from_millis(300));
                cluster.signal(0, Signal::SIGSTOP);
                thread::sleep(Duration::from_millis(2500));
                cluster.signal(0, Signal::SIGCONT);
            }
        });
        let mut number = 0;
        while !hang.is_finished() {
            let key = format!("k/{number}");
            match store.put(&key, b"mine", Expect::Absent, Durability::Power) {
                Ok(_) => number += 1,
                Err(StoreError::Unavailable { .. }) => number += 1,
                Err(error) => panic!("{key}: {error:?}"),
            }
        }
        let changes = store.list("k/").unwrap().entries;
        assert!(changes.len() > 10, "{}", changes.len());
        let revisions: Vec<_> = changes.iter().map(|entry| Change::Put(entry.clone()).revision()).collect();
        assert!(!revisions.is_empty());
    });
}
