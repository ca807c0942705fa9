//! What is refused is told by the packet log, and counted.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tartan_host::policy::Direction::{self, Egress, Ingress};
use tartan_host::{Denial, Row};
use tartan_kernel::{DenialLog, Kernel, netns};

use crate::common::{change, done, remove};
use crate::world::{
    CLIENT, Flow, OTHER, SERVER, World, create_all, identity, ip, judge, judged, member, own, passes, remotes,
};

/// How long the kernel may keep what it logs: the goal is 100 ms, the machine may be busy.
const TOLD: Duration = Duration::from_millis(500);

/// How long a flood lasts that there is no room for.
const TOO_LONG: Duration = Duration::from_secs(9);

/// What is told until one fits; the descriptor tells when to look.
fn told(log: &mut DenialLog, fits: impl Fn(&Denial) -> bool) -> Option<Denial> {
    let end = Instant::now() + TOLD;
    loop {
        let mut found = None;
        log.drain(|denial| found = found.or(Some(denial).filter(&fits)));
        let left = end.saturating_duration_since(Instant::now());
        if found.is_some() || left.is_zero() {
            return found;
        }
        let mut fds = [PollFd::new(log.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::try_from(left).unwrap()).unwrap();
    }
}

fn counted(kernel: &mut Kernel, of: Option<Direction>) -> u64 {
    let all = kernel.denied_by_policies().unwrap();
    all.into_iter().find(|(direction, _)| *direction == of).map_or(0, |(_, packets)| packets)
}

/// The server takes nothing.
fn closed() -> Vec<Row> {
    let mut rows = vec![judge(0), remotes(1, Ingress, &[]), identity(3, Ingress, &[], 1)];
    rows.extend(SERVER.map(|server| judged(Ingress, server, 3)));
    rows.extend(SERVER.map(own));
    rows
}

#[test]
fn what_is_refused_is_told_at_once() {
    let world = World::new();
    let mut kernel = world.router.kernel();
    assert_eq!(kernel.denied_by_policies().unwrap(), [(Some(Ingress), 0), (Some(Egress), 0), (None, 0)]);
    let mut log = DenialLog::open_in(world.router.fd()).unwrap();
    assert!(DenialLog::open_in(world.router.fd()).is_err(), "one listens");
    done(&mut kernel, &create_all(&closed()));
    for (family, header) in [(0, 20), (1, 40)] {
        let (client, server) = (ip(CLIENT[family]), ip(SERVER[family]));
        let denial = Denial {
            direction: Ingress,
            source: client,
            destination: server,
            protocol: 17,
            source_port: None,
            destination_port: Some(8080),
            icmp_type: None,
            length: header + 8 + 4,
        };
        let is_of = |protocol| move |told: &Denial| told.protocol == protocol && told.source == client;
        assert!(!passes(&world, CLIENT[family], SERVER[family], 8080));
        let udp = told(&mut log, is_of(17)).expect("UDP");
        assert!(udp.source_port.is_some());
        assert_eq!(Denial { source_port: None, ..udp }, denial);

        let to = SocketAddr::new(server, 443);
        let connect = || TcpStream::connect_timeout(&to, Duration::from_millis(50)).is_err();
        assert!(netns::run_in(world.client.fd(), connect).unwrap());
        let tcp = told(&mut log, |told| told.protocol == 6).expect("TCP");
        assert_eq!((tcp.destination, tcp.destination_port, tcp.icmp_type), (server, Some(443), None));

        let ping = ["netns", "exec", &world.client.name, "ping", "-c", "1", "-W", "1", SERVER[family]];
        assert!(!Command::new("ip").args(ping).output().unwrap().status.success());
        let (protocol, kind) = [(1, 8), (58, 128)][family];
        let icmp = told(&mut log, |told| told.protocol == protocol).expect("ICMP");
        assert_eq!((icmp.source_port, icmp.destination_port, icmp.icmp_type), (None, None, Some(kind)));
    }
    // What does not pass is tried more than once.
    assert!(counted(&mut kernel, Some(Ingress)) >= 6);
    assert_eq!((counted(&mut kernel, Some(Egress)), counted(&mut kernel, None)), (0, 0));
    assert_eq!(log.lost(), 0);
}

/// A packet of a flow that was cut goes by its own addresses and ports, whatever way it goes.
#[test]
fn answers_of_a_flow_that_was_cut_are_told_as_they_are() {
    let world = World::new();
    let mut kernel = world.router.kernel();
    let mut log = DenialLog::open_in(world.router.fd()).unwrap();
    let (client, server) = (CLIENT[0], SERVER[0]);
    let to_server = crate::world::socket(&world.server, server, 9000);
    let rows =
        [judge(0), remotes(1, Egress, &[]), member(1, server), identity(3, Egress, &[], 1), own(client)];
    done(&mut kernel, &create_all(&rows));
    done(&mut kernel, &create_all(&[judged(Egress, client, 3)]));
    let mut flow = Flow::new(&world, client, server, 9000);
    flow.passes();
    let mut buffer = [0; 64];
    let (_, from) = to_server.recv_from(&mut buffer).unwrap();
    assert!(told(&mut log, |_| true).is_none(), "nothing is refused");
    done(&mut kernel, &[change(&judge(0), &judge(1)), remove(member(1, server))]);
    to_server.send_to(b"late", from).unwrap();
    let late = told(&mut log, |told| told.source == ip(server)).expect("the answer");
    assert_eq!((late.direction, late.destination), (Egress, from.ip()));
    assert_eq!((late.source_port, late.destination_port), (Some(9000), Some(from.port())));
}

/// A flood is cut to what the kernel logs, all of it is counted, and who does not listen loses only that.
#[test]
fn a_flood_is_counted_whole_and_told_in_part() {
    let world = World::new();
    let mut kernel = world.router.kernel();
    let mut log = DenialLog::open_in(world.router.fd()).unwrap();
    done(&mut kernel, &create_all(&closed()));
    let socket = crate::world::socket(&world.client, OTHER[0], 0);
    for port in 1..=5000u16 {
        socket.send_to(b"flood", (SERVER[0], port)).unwrap();
    }
    std::thread::sleep(TOLD);
    let mut count = 0;
    log.drain(|_| count += 1);
    assert!((100..1000).contains(&count), "{count}");
    assert_eq!(log.lost(), 0);
    assert_eq!(counted(&mut kernel, Some(Ingress)), 5000);
    // Nobody takes what is logged for a while; then it goes on.
    let start = Instant::now();
    while start.elapsed() < TOO_LONG {
        socket.send_to(b"flood", (SERVER[0], 1)).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    log.drain(|_| ());
    assert!(log.lost() > 0);
    std::thread::sleep(TOLD);
    socket.send_to(b"again", (SERVER[0], 2)).unwrap();
    assert!(told(&mut log, |told| told.destination_port == Some(2)).is_some());
}
