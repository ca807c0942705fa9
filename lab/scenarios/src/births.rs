//! A pod's rules are there before its first packet.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::policies::{add_pods, apply, lab};
use crate::{Container, Lab, inside};

/// A port at which only the test listens.
const PORT: u16 = 9999;
/// A connection within this took one SYN, or two.
const TWO_SYNS: Duration = Duration::from_millis(1900);

const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut}
spec:
  podSelector: {matchLabels: {kind: shut}}
  policyTypes: [Ingress, Egress]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open}
spec:
  podSelector: {matchLabels: {kind: open}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: server}}}]
";

/// Sends from the first moment on at which there is an address to send from.
struct Restless {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Restless {
    fn start(netns: PathBuf, to: Vec<IpAddr>) -> Restless {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let sockets = inside(&netns, || {
            let any: [IpAddr; 2] = [[0u8; 4].into(), [0u8; 16].into()];
            any.map(|address| UdpSocket::bind((address, 0)).expect("a socket"))
        });
        let thread = thread::spawn(move || {
            let mut sent = 0;
            while !flag.load(Ordering::Relaxed) {
                for address in &to {
                    let socket = &sockets[usize::from(address.is_ipv6())];
                    sent += u64::from(socket.send_to(b"out", SocketAddr::new(*address, PORT)).is_ok());
                }
                thread::sleep(Duration::from_micros(100));
            }
            sent
        });
        Restless { stop, thread: Some(thread) }
    }

    fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it runs").join().expect("it did not panic")
    }
}

/// Whatever arrives at a pod, at the test's port.
fn receiver(lab: &Lab, pod: &str, address: IpAddr) -> UdpSocket {
    let netns = lab.netns(&format!("default_{pod}"));
    let socket = inside(&netns, || UdpSocket::bind((address, PORT))).expect("a socket");
    socket.set_nonblocking(true).expect("a socket that does not wait");
    socket
}

fn arrived(sockets: &[UdpSocket]) -> usize {
    sockets.iter().map(|socket| std::iter::from_fn(|| socket.recv(&mut [0; 16]).ok()).count()).sum()
}

/// Starts so many pods under policies that are there, two of three of them shut, the others allowed to reach a server: no
/// packet of the first arrives anywhere, the first connection of the others opens. Says how many packets the shut ones sent.
#[track_caller]
pub fn no_packet_escapes(attachment: &str, starts: usize) -> u64 {
    let lab = lab("t-births", attachment);
    add_pods(&lab, &["server@n2", "near@n1"]);
    apply(&lab, POLICY);
    let all: Vec<IpAddr> =
        ["server", "near"].iter().flat_map(|pod| lab.addresses(&format!("default/{pod}"))).collect();
    let server = lab.addresses("default/server");
    let sockets: Vec<UdpSocket> = ["server", "near"]
        .iter()
        .flat_map(|pod| lab.addresses(&format!("default/{pod}")).into_iter().map(move |a| (*pod, a)))
        .map(|(pod, address)| receiver(&lab, pod, address))
        .collect();
    let mut sent = 0;
    for number in 0..starts {
        let container = Container::make(&lab, "n1", number);
        let kind = if number % 3 == 2 { "open" } else { "shut" };
        let labels = json!({"cni": {"labels": [{"key": "kind", "value": kind}]}});
        let restless = (kind == "shut").then(|| Restless::start(container.netns(), all.clone()));
        container.call_with("ADD", &[("args", labels)]).ok();
        if let Some(restless) = restless {
            thread::sleep(Duration::from_millis(5));
            sent += restless.finish();
            assert_eq!(arrived(&sockets), 0, "start {number}: packets of a pod that is shut");
        } else {
            for address in &server {
                let begin = Instant::now();
                let to = SocketAddr::new(*address, 80);
                let connected = inside(&container.netns(), || TcpStream::connect_timeout(&to, TWO_SYNS));
                assert!(connected.is_ok(), "start {number}: {connected:?} after {:?}", begin.elapsed());
            }
        }
        container.del();
    }
    // They had their chance.
    assert!(sent > starts as u64, "{sent}");
    sent
}
