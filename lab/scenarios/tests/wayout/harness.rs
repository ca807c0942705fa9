//! Who meets whom, and as whom.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use tartan_model::Family;
use tartan_scenarios::{Lab, inside};

/// How long an answer may take that comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
/// How long is waited for what must not come.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// The outside host.
pub(crate) fn outside(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => "192.0.2.2",
        Family::Ipv6 => "2001:db8:ffff::2",
    }
    .parse()
    .unwrap()
}

/// A family as `nft` calls it, in tables and headers.
pub(crate) fn nft_name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ip6",
    }
}

/// The address that a connection from one namespace to an address of another has there, and its port; None if it does
/// not come about. `port` is that of the caller, 0 for any.
pub(crate) fn tcp_source(from: &Path, port: u16, at: &Path, to: IpAddr) -> Option<SocketAddr> {
    let listener = inside(at, || TcpListener::bind((to, 0))).expect("to listen");
    listener.set_nonblocking(true).expect("a socket that does not wait");
    let address = listener.local_addr().expect("an address");
    let stream = inside(from, || connect(address, port, PATIENCE))?;
    let caller = listener.accept().expect("a caller").1;
    drop(stream);
    Some(caller)
}

/// The same of a single datagram, which needs no way back.
pub(crate) fn udp_source(from: &Path, at: &Path, to: IpAddr, patience: Duration) -> Option<IpAddr> {
    let receiver = inside(at, || UdpSocket::bind((to, 0))).expect("a socket");
    receiver.set_read_timeout(Some(patience)).expect("a timeout");
    let any: IpAddr = if to.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() };
    let sender = inside(from, || UdpSocket::bind((any, 0))).expect("a socket");
    // What is refused does not arrive.
    let _ = sender.send_to(b"x", receiver.local_addr().expect("an address"));
    receiver.recv_from(&mut [0; 8]).ok().map(|(_, caller)| caller.ip())
}

fn connect(to: SocketAddr, port: u16, patience: Duration) -> Option<TcpStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, socket};
    use std::os::fd::AsRawFd;
    if port == 0 {
        return TcpStream::connect_timeout(&to, patience).ok();
    }
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let any: IpAddr = if to.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() };
    let made = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(made.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, port))).expect("a free port");
    nix::sys::socket::connect(made.as_raw_fd(), &SockaddrStorage::from(to)).ok()?;
    Some(TcpStream::from(made))
}

/// What a responder answers to somebody in a namespace: its name, and the caller's address.
pub(crate) fn ask(from: &Path, to: IpAddr, patience: Duration) -> Option<(String, IpAddr)> {
    let mut stream = inside(from, || connect(SocketAddr::new(to, 80), 0, patience))?;
    stream.set_read_timeout(Some(patience)).expect("a timeout");
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (name, caller) = text.trim().split_once(' ')?;
    Some((name.into(), caller.parse().ok()?))
}

/// The pods of a lab: name, node, address of a family.
pub(crate) fn pods(lab: &Lab, family: Family) -> Vec<(String, String, IpAddr)> {
    let status = lab.lab(&["status", "-o", "json"]).ok().json();
    let pods = status["pods"].as_array().expect("a list").clone();
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let row = |pod: &serde_json::Value| {
        let all = pod["addresses"].as_array().expect("a list").iter();
        let mut all = all.map(|address| text(address).parse::<IpAddr>().expect("an address"));
        let address = all.find(|address| Family::of(*address) == family).expect("one of the family");
        (text(&pod["name"]), text(&pod["node"]), address)
    };
    pods.iter().map(row).collect()
}

/// A pod's namespace.
pub(crate) fn netns(lab: &Lab, pod: &str) -> std::path::PathBuf {
    lab.netns(&pod.replace('/', "_"))
}

/// Runs words on a node, which must succeed.
#[track_caller]
pub(crate) fn node(lab: &Lab, node: &str, words: &str) -> String {
    lab.on_node(node, &words.split(' ').collect::<Vec<_>>())
}
