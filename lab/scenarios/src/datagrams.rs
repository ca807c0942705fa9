//! Datagrams that are asked for where they arrive, so that one direction says nothing of the other.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::{Lab, inside};

/// How long a datagram may take. What has not come by then does not come.
const PATIENCE: Duration = Duration::from_millis(300);
/// Bytes that wait at the receiver.
const BACKLOG: usize = 8 << 20;

/// A place that sends or receives: its network namespace and its address.
#[derive(Debug, Clone)]
pub struct Place {
    /// The namespace's file.
    pub netns: PathBuf,
    /// The address.
    pub address: IpAddr,
}

impl Place {
    /// A node, at its address on the wire.
    #[track_caller]
    pub fn node(lab: &Lab, name: &str) -> Place {
        let status = lab.lab(&["status", "-o", "json"]).ok().json();
        let nodes = status["nodes"].as_array().expect("a list of nodes").clone();
        let row = nodes.iter().find(|row| row["name"] == name).expect("the node");
        let address = row["address"].as_str().expect("text").parse().expect("an address");
        Place { netns: lab.netns(name), address }
    }

    /// A pod of namespace `default`, at its first address.
    #[track_caller]
    pub fn pod(lab: &Lab, name: &str) -> Place {
        let address = lab.addresses(&format!("default/{name}"))[0];
        Place { netns: lab.netns(&format!("default_{name}")), address }
    }

    /// Sends so many datagrams of `length` bytes to a port, and says how many arrive there.
    pub fn send(&self, to: &Place, port: u16, count: usize, length: usize) -> usize {
        let receiver = to.socket(port);
        let sender = self.socket(0);
        for _ in 0..count {
            // What is refused here does not arrive there.
            let _ = sender.send_to(&vec![0; length], SocketAddr::new(to.address, port));
        }
        let mut buffer = vec![0; length];
        let mut arrived = 0;
        let end = Instant::now() + PATIENCE;
        while arrived < count && Instant::now() < end {
            arrived += usize::from(receiver.recv(&mut buffer).is_ok());
        }
        arrived
    }

    /// Whether a datagram of a few bytes arrives at a port.
    pub fn reaches(&self, to: &Place, port: u16) -> bool {
        self.send(to, port, 1, 8) == 1
    }

    fn socket(&self, port: u16) -> UdpSocket {
        let socket = inside(&self.netns, || UdpSocket::bind((self.address, port))).expect("a socket");
        setsockopt(&socket, sockopt::RcvBufForce, &BACKLOG).expect("room for datagrams");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket that does not wait long");
        socket
    }
}
