//! Rows in short words, and a router between a client and a server.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tartan_host::policy::{
    Direction, Epoch, Identity, IdentityId, Judge, Judged, Judgement, Member, Own, PolicyRow, PortClass,
    Remotes, RemotesId,
};
use tartan_host::{Row, Step};
use tartan_kernel::netns;

use crate::common::Scratch;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn judge(epoch: u64) -> Row {
    Row::Policy(PolicyRow::Judge(Judge { intact: true, epoch: Epoch::of(epoch) }))
}

/// Remotes that deny all but their members and ranges.
pub(crate) fn remotes(id: u64, direction: Direction, allowed: &[(&str, &str)]) -> Row {
    let range = |(first, last): &(&str, &str)| (ip(first), ip(last), Judgement::Allow);
    let ranges = allowed.iter().map(range).collect();
    let row = Remotes { id: RemotesId(id), direction, ranges, otherwise: Judgement::Deny };
    Row::Policy(PolicyRow::Remotes(row))
}

pub(crate) fn member(remotes: u64, address: &str) -> Row {
    let judgement = Judgement::Allow;
    Row::Policy(PolicyRow::Member(Member { remotes: RemotesId(remotes), address: ip(address), judgement }))
}

/// Ports of TCP and UDP lead to remotes, all else to others.
pub(crate) fn identity(id: u64, direction: Direction, ports: &[(u16, u16, u64)], otherwise: u64) -> Row {
    let class = |protocol| {
        move |(first, last, remotes): &(u16, u16, u64)| PortClass {
            protocol,
            first: *first,
            last: *last,
            remotes: RemotesId(*remotes),
        }
    };
    let ports = ports.iter().map(class(6)).chain(ports.iter().map(class(17))).collect();
    let (id, otherwise) = (IdentityId(id), RemotesId(otherwise));
    Row::Policy(PolicyRow::Identity(Identity {
        id,
        direction,
        ports,
        otherwise,
        about: "shop/web".into(),
        is_far: false,
    }))
}

pub(crate) fn judged(direction: Direction, address: &str, identity: u64) -> Row {
    let (address, identity) = (ip(address), IdentityId(identity));
    let about = "shop/web-0".into();
    Row::Policy(PolicyRow::Judged(Judged { direction, address, identity, about }))
}

pub(crate) fn own(address: &str) -> Row {
    Row::Policy(PolicyRow::Own(Own { address: ip(address), is_isolated: true }))
}

pub(crate) fn create_all(rows: &[Row]) -> Vec<Step> {
    rows.iter().map(|row| Step::Create { row: row.clone() }).collect()
}

pub(crate) fn nft(scratch: &Scratch, args: &[&str]) -> (bool, String) {
    let mut command = Command::new("ip");
    let output = command.args(["netns", "exec", &scratch.name, "nft"]).args(args).output();
    let output = output.expect("ip and nft are installed");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn set(scratch: &Scratch, path: &str, value: &str) {
    netns::run_in(scratch.fd(), || std::fs::write(format!("/proc/sys/{path}"), value)).unwrap().unwrap();
}

/// Three namespaces: a client with two addresses of each family, a router, and a server.
pub(crate) struct World {
    pub(crate) client: Scratch,
    pub(crate) router: Scratch,
    pub(crate) server: Scratch,
}

pub(crate) const CLIENT: [&str; 2] = ["10.1.0.2", "fd00:1::2"];
pub(crate) const OTHER: [&str; 2] = ["10.1.0.3", "fd00:1::3"];
pub(crate) const SERVER: [&str; 2] = ["10.2.0.2", "fd00:2::2"];

impl World {
    pub(crate) fn new() -> World {
        let world = World { client: Scratch::new(), router: Scratch::new(), server: Scratch::new() };
        for scratch in [&world.client, &world.router, &world.server] {
            // Detection of duplicates takes seconds.
            set(scratch, "net/ipv6/conf/default/accept_dad", "0");
        }
        let (client, router, server) = (&world.client.name, &world.router.name, &world.server.name);
        let mut lines = vec![
            format!("-n {router} link add c type veth peer name eth0 netns {client}"),
            format!("-n {router} link add s type veth peer name eth0 netns {server}"),
        ];
        let mut address = |of: &str, address: &str, link: &str| {
            lines.push(format!("-n {of} address add {address} dev {link} nodad"));
        };
        address(router, "10.1.0.1/24", "c");
        address(router, "fd00:1::1/64", "c");
        address(router, "10.2.0.1/24", "s");
        address(router, "fd00:2::1/64", "s");
        for (v4, v6) in [(CLIENT[0], CLIENT[1]), (OTHER[0], OTHER[1])] {
            address(client, &format!("{v4}/24"), "eth0");
            address(client, &format!("{v6}/64"), "eth0");
        }
        address(server, &format!("{}/24", SERVER[0]), "eth0");
        address(server, &format!("{}/64", SERVER[1]), "eth0");
        for (of, link) in [(router, "c"), (router, "s"), (client, "eth0"), (server, "eth0")] {
            lines.push(format!("-n {of} link set {link} up"));
        }
        for (of, net) in [(client, 1), (server, 2)] {
            lines.push(format!("-n {of} route add default via 10.{net}.0.1"));
            lines.push(format!("-n {of} route add default via fd00:{net}::1"));
        }
        for line in lines {
            let output = Command::new("ip").args(line.split(' ')).output().unwrap();
            assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
        }
        set(&world.router, "net/ipv4/ip_forward", "1");
        set(&world.router, "net/ipv6/conf/all/forwarding", "1");
        world.settle();
        world
    }

    /// Waits until neighbours find each other.
    fn settle(&self) {
        for family in 0..2 {
            self.serve(SERVER[family], 7);
            for client in [CLIENT[family], OTHER[family]] {
                assert!(passes(self, client, SERVER[family], 7), "{client} does not find the server");
            }
        }
    }

    /// Packets with an address of its own for their source come in (`accept_local`).
    pub(crate) fn let_own_in(&self, scratch: &Scratch) {
        set(scratch, "net/ipv4/conf/all/accept_local", "1");
        set(scratch, "net/ipv4/conf/all/rp_filter", "0");
    }

    /// A server that sends everything back, until the world's end.
    pub(crate) fn serve(&self, address: &str, port: u16) {
        let socket = socket(&self.server, address, port);
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(&buffer[..length], from).ok();
            }
        });
    }
}

pub(crate) fn socket(scratch: &Scratch, address: &str, port: u16) -> UdpSocket {
    let bind = || UdpSocket::bind(SocketAddr::new(ip(address), port)).unwrap();
    netns::run_in(scratch.netns.as_fd(), bind).unwrap()
}

/// A client's end of a flow.
pub(crate) struct Flow {
    socket: UdpSocket,
    to: SocketAddr,
    number: u32,
}

impl Flow {
    pub(crate) fn new(world: &World, from: &str, to: &str, port: u16) -> Flow {
        Flow::of(&world.client, from, to, port)
    }

    pub(crate) fn of(scratch: &Scratch, from: &str, to: &str, port: u16) -> Flow {
        let socket = socket(scratch, from, 0);
        Flow { socket, to: SocketAddr::new(ip(to), port), number: 0 }
    }

    /// Whether an answer comes to one of several packets: a machine that is busy may take its time.
    pub(crate) fn passes(&mut self) -> bool {
        (0..20).any(|_| self.is_answered())
    }

    /// Whether none comes to a packet.
    pub(crate) fn is_cut(&mut self) -> bool {
        !self.is_answered()
    }

    fn is_answered(&mut self) -> bool {
        self.number += 1;
        self.socket.send_to(&self.number.to_be_bytes(), self.to).ok();
        let end = Instant::now() + Duration::from_millis(250);
        let mut buffer = [0; 64];
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.socket.set_read_timeout(Some(left)).unwrap();
            // What is no answer may be a message of ICMP.
            if let Ok(4) = self.socket.recv(&mut buffer)
                && buffer[..4] == self.number.to_be_bytes()
            {
                return true;
            }
        }
        false
    }
}

/// Whether a new flow passes.
pub(crate) fn passes(world: &World, from: &str, to: &str, port: u16) -> bool {
    Flow::new(world, from, to, port).passes()
}

/// Whether a new flow does not.
pub(crate) fn is_refused(world: &World, from: &str, to: &str, port: u16) -> bool {
    Flow::new(world, from, to, port).is_cut()
}
