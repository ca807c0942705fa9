//! The parts of a lab that need no agent, in real network namespaces. Needs root.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails has to panic")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tartan_kernel::netns;
use tartan_model::{Family, PodName};
use tartan_netlab::down::{down, labs, namespaces};
use tartan_netlab::matrix::{self, Matrix, Protocol, Question, Subject};
use tartan_netlab::names::{LabName, OUTSIDE};
use tartan_netlab::programs::spawn_in;
use tartan_netlab::respond::Responder;
use tartan_netlab::wire::Layout;
use tartan_netlab::{status, wire};

/// A lab of this test's own, which is down when the test is over, whatever came of it.
struct Lab(LabName);

impl Lab {
    fn new(name: &str) -> Lab {
        Lab(format!("{name}-{}", std::process::id()).parse().unwrap())
    }

    fn with_nodes(name: &str, underlay: Family, nodes: u32) -> Lab {
        let lab = Lab::new(name);
        fs::create_dir_all(lab.0.directory()).unwrap();
        let layout = Layout { underlay, links: 1 };
        wire::create(&lab.0, layout).unwrap();
        for index in 0..nodes {
            wire::plug(&lab.0, &format!("n{}", index + 1), index, layout).unwrap();
        }
        lab
    }

    fn open(&self, node: &str) -> OwnedFd {
        wire::open(&self.0.netns(node)).unwrap()
    }

    fn subject(&self, node: &str, addresses: &[IpAddr]) -> Subject {
        let name: PodName = format!("x/{node}").parse().unwrap();
        let netns = self.open(node);
        respond(&netns, name.clone());
        Subject { name, netns, addresses: addresses.to_vec() }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        down(&self.0).unwrap();
    }
}

/// A responder on a thread, which ends with this process; it listens when this returns.
fn respond(netns: &OwnedFd, name: PodName) {
    let netns = netns.try_clone().unwrap();
    let (ready, listens) = mpsc::channel();
    thread::spawn(move || {
        netns::enter(netns.as_fd()).unwrap();
        let responder = Responder::bind(name).unwrap();
        ready.send(()).unwrap();
        responder.serve().unwrap();
    });
    listens.recv().unwrap();
}

fn question(protocol: Protocol, family: Option<Family>) -> Question {
    Question { protocol, port: 80, family, network: None }
}

fn assert_full(matrix: &Matrix, pairs: usize) {
    assert_eq!(
        (matrix.reached(), matrix.total()),
        (pairs, pairs),
        "{}",
        serde_json::to_string(matrix).unwrap()
    );
}

#[test]
fn wire_connects_nodes_and_outside() {
    for (underlay, outside) in [(Family::Ipv4, "192.0.2.2"), (Family::Ipv6, "2001:db8:ffff::2")] {
        let lab = Lab::with_nodes("wire", underlay, 3);
        let node = |index: u32| {
            let address = Layout { underlay, links: 1 }.node_address(index).unwrap().address();
            lab.subject(&format!("n{}", index + 1), &[address])
        };
        let mut subjects: Vec<Subject> = (0..3).map(node).collect();
        subjects.push(lab.subject(OUTSIDE, &[outside.parse().unwrap()]));
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp] {
            assert_full(&matrix::ask(&subjects, &question(protocol, None)).unwrap(), 16);
        }
    }
}

#[test]
fn the_matrix_tells_who_does_not_reach_whom() {
    let lab = Lab::with_nodes("partial", Family::Ipv4, 2);
    let first = lab.subject("n1", &["172.30.0.1".parse().unwrap()]);
    // An address that nobody has, and one where somebody else answers.
    let absent = lab.subject("n2", &["172.30.9.9".parse().unwrap()]);
    let other = Subject {
        name: "x/other".parse().unwrap(),
        netns: lab.open("n2"),
        addresses: vec!["172.30.0.1".parse().unwrap()],
    };
    let six = Subject {
        name: "x/six".parse().unwrap(),
        netns: lab.open("n2"),
        addresses: vec!["fd00:30::2".parse().unwrap()],
    };
    let matrix = matrix::ask(&[first, absent, other, six], &question(Protocol::Tcp, None)).unwrap();
    let json = serde_json::to_value(&matrix).unwrap();
    assert_eq!(
        json["x/n1"],
        serde_json::json!({"x/n1": true, "x/n2": false, "x/other": false, "x/six": false})
    );
    assert_eq!(json["x/other"]["x/n1"], true);
    assert!(!matrix.is_full());
}

#[test]
fn responder_answers() {
    let lab = Lab::with_nodes("respond", Family::Ipv4, 1);
    let netns = lab.open("n1");
    respond(&netns, "blue/a".parse().unwrap());
    let ask = || {
        for (host, caller) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("172.30.0.1", "172.30.0.1")] {
            for port in [80, 81] {
                let host: IpAddr = host.parse().unwrap();
                let expected = format!("blue/a {caller}\n");
                assert_eq!(by_tcp(host, port), expected);
                assert_eq!(by_udp(host, port, "42"), format!("{expected}42"));
            }
        }
        // More callers than it keeps, who neither speak nor hang up.
        let held: Vec<TcpStream> = (0..600).map(|_| TcpStream::connect("127.0.0.1:80").unwrap()).collect();
        assert_eq!(by_tcp("127.0.0.1".parse().unwrap(), 80), "blue/a 127.0.0.1\n");
        drop(held);
    };
    netns::run_in(netns.as_fd(), ask).unwrap();
}

fn by_tcp(host: IpAddr, port: u16) -> String {
    let mut stream = TcpStream::connect((host, port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // What a caller says must not cost it the answer.
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn by_udp(host: IpAddr, port: u16, payload: &str) -> String {
    let local = if host.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).unwrap();
    socket.connect((host, port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send(payload.as_bytes()).unwrap();
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[test]
fn down_removes_everything_even_without_files() {
    let lab = Lab::with_nodes("gone", Family::Ipv4, 2);
    let longer = Lab::with_nodes(&format!("{}-too", lab.0), Family::Ipv4, 1);
    let pod = lab.0.pod_netns(&"default/p1".parse().unwrap());
    wire::namespace(&pod).unwrap();
    let start = |netns: &OwnedFd, command: &[&str]| -> Child {
        spawn_in(netns.as_fd(), Command::new(command[0]).args(&command[1..])).unwrap()
    };
    let mut obedient = start(&lab.open("n1"), &["sleep", "1000"]);
    let mut stubborn = start(&lab.open("n2"), &["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]);
    let mut in_pod = start(&wire::open(&pod).unwrap(), &["sleep", "1000"]);
    let mut foreign = start(&longer.open("n1"), &["sleep", "1000"]);
    fs::remove_dir_all(lab.0.directory()).unwrap();

    assert!(labs().unwrap().contains(&lab.0));
    let row = status::list().unwrap().into_iter().find(|row| row.name == lab.0).unwrap();
    assert_eq!((row.nodes, row.pods), (2, 1));
    assert!(down(&lab.0).unwrap());

    for child in [&mut obedient, &mut stubborn, &mut in_pod] {
        assert!(child.try_wait().unwrap().is_some(), "a process is left");
    }
    assert_eq!(namespaces(&lab.0).unwrap(), Vec::<String>::new());
    assert!(!lab.0.directory().exists());
    assert!(!labs().unwrap().contains(&lab.0));
    assert!(foreign.try_wait().unwrap().is_none(), "a process of another lab was ended");
    assert_eq!(namespaces(&longer.0).unwrap().len(), 3);
    assert!(!down(&lab.0).unwrap(), "a lab that is not there was taken down");
    foreign.kill().unwrap();
    foreign.wait().unwrap();
}
