//! What pods and strangers forge does not arrive, and is counted; without the guards the same frames do arrive.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

mod frames;
mod sensor;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use frames::{
    ALL_NODES, ALL_NODES_MAC, EVERYBODY, MacBytes, Way, arp, behind_options, in_fragments, unknown, vxlan,
};
use nix::sys::socket::{AddressFamily, SockProtocol};
use sensor::Sensor;
use tartan_kernel::{PacketSocket, netns};
use tartan_model::Mac;
use tartan_scenarios::{Lab, inside, wait_until};

/// How often each is sent.
const TIMES: u64 = 3;
/// How long what was sent may take.
const FLIGHT: Duration = Duration::from_millis(300);
/// The same where it must arrive.
const ARRIVAL: Duration = Duration::from_secs(5);

/// Who tells whether something arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ear {
    /// The pod that it is meant for.
    Victim,
    /// The pod that sent it: the node answers.
    Sender,
    /// The node's ICMPv6.
    NodeIcmpv6,
    /// The node's UDP.
    NodeUdp,
    /// The node's TCP.
    NodeTcp,
    /// UDP of the host outside.
    Outside,
}

/// How it is sent.
#[derive(Debug, Clone)]
enum Shot {
    /// As a frame.
    Raw(Vec<u8>),
    /// By a plain socket of the pod.
    Plain(IpAddr, u16, Vec<u8>),
    /// By a plain socket of a host that is no node.
    Outside(IpAddr, u16, Vec<u8>),
    /// As frames of such a host.
    OutsideRaw([Vec<u8>; 2]),
}

/// Something forged.
#[derive(Debug, Clone)]
struct Forgery {
    name: &'static str,
    /// What it is counted as.
    reason: &'static str,
    shot: Shot,
    ear: Ear,
    /// What tells it from everything else.
    needle: Vec<u8>,
}

/// Who is who in a lab of two nodes: p1 and p3 are on n1.
struct Cast {
    lab: Lab,
    sender: MacBytes,
    gateway: MacBytes,
    victim_mac: MacBytes,
    tunnel: MacBytes,
    own: BTreeMap<bool, IpAddr>,
    victim: BTreeMap<bool, IpAddr>,
    /// On the underlay.
    node: IpAddr,
    /// The other node, by IPv4. An address of its own host no kernel takes as a source.
    peer: IpAddr,
    outside: IpAddr,
    /// Its own and its router's.
    outside_macs: [MacBytes; 2],
    routed: bool,
}

impl Cast {
    fn new(attachment: &str, underlay: &str) -> Cast {
        let set = format!("attachment={attachment}");
        let args = ["--nodes", "2", "--pods", "2", "--family", "dual", "--underlay", underlay, "--set", &set];
        let lab = Lab::up("t-guards", &args);
        let by_family = |pod: &str| lab.addresses(pod).into_iter().map(|a| (a.is_ipv6(), a)).collect();
        let mac_in = |pod: &str| mac(&lab.in_pod(pod, &["ip", "-o", "link", "show", "eth0"]));
        let device = |name: &str| mac(&lab.on_node("n1", &["ip", "-o", "link", "show", name]));
        let sender = mac_in("p1");
        let routed = attachment == "routed";
        let node = if underlay == "ipv6" { "fd00:30::1" } else { "172.30.0.1" };
        // The router asks for nobody before its own address has been looked for, which takes a second or two.
        lab.on_node("outside", &["ping", "-c", "1", "-w", "10", node]);
        let neighbors = lab.on_node("outside", &["ip", "neigh", "show"]);
        let router = mac(&neighbors.replace("lladdr", "link/ether"));
        let [a, b, c, d, e, f] = sender;
        Cast {
            sender,
            gateway: if routed { [a, b, c, d, e, f ^ 1] } else { device("tartan0") },
            outside_macs: [mac(&lab.on_node("outside", &["ip", "-o", "link", "show", "eth0"])), router],
            victim_mac: mac_in("p3"),
            tunnel: device(if underlay == "ipv6" { "tart6.1" } else { "tartan.1" }),
            own: by_family("default/p1"),
            victim: by_family("default/p3"),
            node: node.parse().unwrap(),
            peer: "172.30.0.2".parse().unwrap(),
            outside: if underlay == "ipv6" { "2001:db8:ffff::2" } else { "192.0.2.2" }.parse().unwrap(),
            routed,
            lab,
        }
    }

    /// From the sender to the victim, as an honest packet would go.
    fn way(&self, ipv6: bool) -> Way {
        let to = if self.routed { self.gateway } else { self.victim_mac };
        Way { from: self.sender, to, source: self.own[&ipv6], destination: self.victim[&ipv6] }
    }

    /// From the sender's link-local address to the node's, or to everybody on the link.
    fn nd_way(&self) -> Way {
        let [a, b, c, d, e, f] = self.sender;
        let source = Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        let (to, destination) =
            if self.routed { (self.gateway, "fe80::1".parse().unwrap()) } else { (ALL_NODES_MAC, ALL_NODES) };
        Way { from: self.sender, to, source: source.into(), destination: destination.into() }
    }

    /// A frame inside a tunnel packet, for the victim from a pod of another node.
    fn tunnelled(&self, magic: &[u8]) -> Vec<u8> {
        let source = Ipv4Addr::new(10, 244, 77, 7).into();
        let inner =
            Way { from: [2, 0, 0, 0, 0, 9], to: self.tunnel, source, destination: self.victim[&false] };
        vxlan(&inner.udp(1000, 2000, magic))
    }

    fn forgeries(&self) -> Vec<Forgery> {
        let mut all = Vec::new();
        let mut add = |name, reason, ear, shot: &dyn Fn(&[u8]) -> Shot| {
            let needle = format!("tartan-{name:->24}").into_bytes();
            all.push(Forgery { name, reason, ear, shot: shot(&needle), needle });
        };
        let raw = Shot::Raw;
        let (v4, v6, nd) = (self.way(false), self.way(true), self.nd_way());
        let others: [IpAddr; 2] = ["10.244.0.99".parse().unwrap(), "fd00:10:244::99".parse().unwrap()];
        let nd_ear = if self.routed { Ear::NodeIcmpv6 } else { Ear::Victim };
        add("ipv4-of-a-stranger", "ipv4", Ear::Victim, &|m| {
            raw(Way { source: others[0], ..v4 }.udp(1000, 2000, m))
        });
        add(
            "ipv4-of-the-victim",
            "ipv4",
            Ear::Victim,
            &|m| raw(Way { source: v4.destination, ..v4 }.bare(m)),
        );
        add("ipv4-of-a-node", "ipv4", Ear::Victim, &|m| {
            raw(Way { source: self.peer, ..v4 }.icmp(8, [0; 4], m))
        });
        add("ipv6-of-a-stranger", "ipv6", Ear::Victim, &|m| {
            raw(Way { source: others[1], ..v6 }.udp(1000, 2000, m))
        });
        add(
            "ipv6-of-the-victim",
            "ipv6",
            Ear::Victim,
            &|m| raw(Way { source: v6.destination, ..v6 }.bare(m)),
        );
        add(
            "mac",
            "mac",
            Ear::Victim,
            &|m| raw(Way { from: [2, 0, 0, 0, 0, 0x66], ..v4 }.udp(1000, 2000, m)),
        );
        add("mac-over-ipv6", "mac", Ear::Victim, &|m| {
            raw(Way { from: [2, 0, 0, 0, 0, 0x66], ..v6 }.udp(1000, 2000, m))
        });
        // A connection's first packet, of which the shortest way through a program has to tell who sent it.
        for (names, way) in
            [(["mac-of-tcp", "ipv4-of-tcp"], v4), (["mac-of-tcp-over-ipv6", "ipv6-of-tcp"], v6)]
        {
            let strange = Way { from: [2, 0, 0, 0, 0, 0x66], ..way };
            add(names[0], "mac", Ear::Victim, &|m| raw(strange.tcp(1000, 2000, m)));
            let (reason, source) =
                if way.source.is_ipv4() { ("ipv4", others[0]) } else { ("ipv6", others[1]) };
            add(names[1], reason, Ear::Victim, &|m| raw(Way { source, ..way }.tcp(1000, 2000, m)));
        }
        add("redirect-ipv4", "redirect", Ear::Victim, &|m| raw(v4.icmp(5, [10, 244, 0, 2], m)));
        add("redirect-ipv6", "redirect", nd_ear, &|m| raw(nd.icmp(137, [0; 4], &[&[0; 32][..], m].concat())));
        add("na", "nd", nd_ear, &|m| {
            let IpAddr::V6(target) = self.victim[&true] else { panic!("an IPv6 address") };
            raw(nd.icmp(136, [0x20, 0, 0, 0], &[&target.octets()[..], m].concat()))
        });
        add("ra", "ra", nd_ear, &|m| raw(nd.icmp(134, [64, 0, 7, 8], &[&[0; 8][..], m].concat())));
        add("dhcp-answer", "dhcp", Ear::Victim, &|m| raw(v4.udp(67, 68, m)));
        add("dhcp-from-any-port", "dhcp", Ear::Victim, &|m| raw(v4.udp(5000, 68, m)));
        add("dhcp-behind-options", "dhcp", Ear::Victim, &|m| raw(behind_options(&v4.udp(67, 68, m))));
        add("dhcpv6-answer", "dhcp", Ear::Victim, &|m| raw(v6.udp(547, 546, m)));
        add("dhcpv6-behind-options", "dhcp", Ear::Victim, &|m| raw(behind_options(&v6.udp(547, 546, m))));
        add("dhcpv6-from-any-port", "dhcp", Ear::Victim, &|m| raw(v6.udp(5000, 546, m)));
        let to_node = Way { to: self.gateway, destination: self.node, ..self.way(self.node.is_ipv6()) };
        add("tunnel-raw", "tunnel", Ear::Victim, &|m| raw(to_node.udp(1000, 8472, &self.tunnelled(m))));
        add("tunnel-plain", "tunnel", Ear::Victim, &|m| Shot::Plain(self.node, 8472, self.tunnelled(m)));
        add("tunnel-behind-options", "tunnel", Ear::Victim, &|m| {
            raw(behind_options(&to_node.udp(1000, 8472, &self.tunnelled(m))))
        });
        // A tunnel listens in the family of its underlay.
        if self.node.is_ipv4() {
            add("tunnel-to-the-gateway", "tunnel", Ear::Victim, &|m| {
                Shot::Plain(self.pods_gateway().into(), 8472, self.tunnelled(m))
            });
            add("control-at-the-gateway", "control", Ear::NodeUdp, &|m| {
                Shot::Plain(self.pods_gateway().into(), 8474, m.to_vec())
            });
        }
        add("tunnel-to-an-address-that-nobody-knows", "tunnel", Ear::Outside, &|m| {
            Shot::Plain(self.outside, 8472, self.tunnelled(m))
        });
        add("tunnel-outside", "tunnel", Ear::Victim, &|m| Shot::Outside(self.node, 8472, self.tunnelled(m)));
        if self.node.is_ipv6() {
            let [from, to] = self.outside_macs;
            let way = Way { from, to, source: self.outside, destination: self.node };
            add("tunnel-in-fragments", "tunnel", Ear::Victim, &|m| {
                Shot::OutsideRaw(in_fragments(&way.udp(1000, 8472, &self.tunnelled(m)), 8))
            });
        }
        add("control-sleeve", "control", Ear::NodeUdp, &|m| Shot::Plain(self.node, 8473, m.to_vec()));
        add("control-mesh", "control", Ear::NodeUdp, &|m| Shot::Plain(self.node, 8474, m.to_vec()));
        add("control-tcp", "control", Ear::NodeTcp, &|m| raw(to_node.tcp(1000, 8474, m)));
        add("dad-for-the-victim", "ipv6", nd_ear, &|m| {
            let IpAddr::V6(target) = self.victim[&true] else { panic!("an IPv6 address") };
            let nobody = Way { source: Ipv6Addr::UNSPECIFIED.into(), ..nd };
            raw(nobody.icmp(135, [0; 4], &[&target.octets()[..], m].concat()))
        });
        if self.routed {
            let IpAddr::V4(claimed) = self.victim[&false] else { panic!("an IPv4 address") };
            let gateway = self.pods_gateway();
            // The node answers whoever asks: its answer is what must not come.
            let answer =
                [&[0, 2][..], &self.gateway, &gateway.octets(), &self.sender, &claimed.octets()].concat();
            let shot = Shot::Raw(arp(self.sender, claimed, gateway, &[]));
            all.push(Forgery { name: "arp", reason: "arp", shot, ear: Ear::Sender, needle: answer });
        } else {
            let IpAddr::V4(asks) = self.victim[&false] else { panic!("an IPv4 address") };
            let gateway = self.pods_gateway();
            add("arp-for-the-gateway", "arp", Ear::Victim, &|m| raw(arp(self.sender, gateway, asks, m)));
            add("arp-for-the-victim", "arp", Ear::Victim, &|m| raw(arp(self.sender, asks, gateway, m)));
            add("a-tagged-frame", "other", Ear::Victim, &|m| {
                raw(Way { source: others[0], ..v4 }.tagged_udp(m))
            });
            add("an-unknown-frame", "other", Ear::Victim, &|m| raw(unknown(self.sender, EVERYBODY, m)));
        }
        all
    }

    fn pods_gateway(&self) -> Ipv4Addr {
        let IpAddr::V4(own) = self.own[&false] else { panic!("an IPv4 address") };
        let [a, b, c, _] = own.octets();
        if self.routed { Ipv4Addr::new(169, 254, 1, 1) } else { Ipv4Addr::new(a, b, c, 1) }
    }

    /// The pod or interface that a forgery is counted for. A bridge's own address is reached by the bridge, behind which
    /// the pod is not seen any more.
    fn culprit(&self, forgery: &Forgery) -> &'static str {
        match forgery.shot {
            Shot::Outside(..) | Shot::OutsideRaw(_) => "eth0",
            Shot::Plain(to, ..)
                if !self.routed && (to == IpAddr::from(self.pods_gateway()) || to == self.outside) =>
            {
                "tartan0"
            }
            _ => "default/p1",
        }
    }

    /// Sends all of them, and tells which arrived by then, or that all have.
    fn fire(&self, forgeries: &[Forgery], patience: Duration) -> BTreeMap<&'static str, bool> {
        let pod = |name: &str| self.lab.netns(&format!("default_{name}"));
        let node = self.lab.netns("n1");
        let family = if self.node.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let ears = BTreeMap::from([
            (Ear::Victim, Sensor::of_pod(&pod("p3"))),
            (Ear::Sender, Sensor::of_pod(&pod("p1"))),
            (Ear::NodeIcmpv6, Sensor::of_node(&node, AddressFamily::Inet6, SockProtocol::IcmpV6)),
            (Ear::NodeUdp, Sensor::of_node(&node, family, SockProtocol::Udp)),
            (Ear::Outside, Sensor::of_node(&self.lab.netns("outside"), family, SockProtocol::Udp)),
            (Ear::NodeTcp, Sensor::of_node(&node, family, SockProtocol::Tcp)),
        ]);
        let inside = netns::open(&pod("p1")).expect("the sender's namespace");
        let outside = netns::open(&self.lab.netns("outside")).expect("the outside host's namespace");
        let frames =
            PacketSocket::open_in(inside.as_fd(), &"eth0".parse().unwrap()).expect("a packet socket");
        let bind = |source: IpAddr| UdpSocket::bind((source, 0)).expect("a socket");
        let plain = [false, true]
            .map(|ipv6| netns::run_in(inside.as_fd(), || bind(self.own[&ipv6])).expect("to enter"));
        let strange_frames =
            PacketSocket::open_in(outside.as_fd(), &"eth0".parse().unwrap()).expect("a packet socket");
        let stranger = netns::run_in(outside.as_fd(), || bind(self.outside)).expect("to enter");
        for forgery in forgeries.iter().flat_map(|forgery| (0..TIMES).map(move |_| forgery)) {
            match &forgery.shot {
                Shot::Raw(frame) => frames.send(frame).expect("the link takes it"),
                Shot::Plain(to, port, payload) => {
                    plain[usize::from(to.is_ipv6())]
                        .send_to(payload, (*to, *port))
                        .map(drop)
                        .expect("to send");
                }
                Shot::OutsideRaw(pieces) => {
                    pieces.iter().for_each(|frame| strange_frames.send(frame).expect("the link takes it"));
                }
                Shot::Outside(to, port, payload) => {
                    stranger.send_to(payload, (*to, *port)).map(drop).expect("to send");
                }
            }
        }
        let arrived =
            || forgeries.iter().map(|f| (f.name, ears[&f.ear].heard(&f.needle))).collect::<BTreeMap<_, _>>();
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline && arrived().values().any(|arrived| !arrived) {
            std::thread::sleep(Duration::from_millis(10));
        }
        arrived()
    }

    /// What was counted, by who sent it and why.
    fn denied(&self) -> BTreeMap<(String, String), u64> {
        let rows = self.lab.ask("n1", &["denied"]);
        let rows = rows.as_array().expect("a list").iter();
        rows.map(|row| {
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_string();
            let who = if row["pod"].is_null() { text("link") } else { text("pod") };
            ((who, text("reason")), row["packets"].as_u64().expect("a number"))
        })
        .collect()
    }

    /// The programs that are kept at n1's own hook.
    fn pins(&self) -> Vec<PathBuf> {
        let folder = std::fs::read_dir(self.lab.file("n1", "bpf")).into_iter().flatten();
        let paths = folder.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.to_string_lossy().contains("node_ipv")).collect()
    }

    /// The links of n1's pods by index.
    fn pod_links(&self) -> BTreeMap<u32, String> {
        let links = self.lab.on_node("n1", &["ip", "-o", "link", "show", "type", "veth"]);
        let numbered = links.lines().filter_map(|line| line.split_once(": "));
        let pods = numbered.filter(|(_, rest)| rest.starts_with("tt"));
        let name = |rest: &str| rest.split(['@', ':']).next().expect("a name").to_owned();
        pods.map(|(index, rest)| (index.parse().expect("a number"), name(rest))).collect()
    }

    /// Whether a program guards them.
    fn guarded(&self) -> BTreeMap<u32, bool> {
        let has_program = |index: u32| (index, tartan_bpf::has_program(index));
        inside(&self.node_path(), || self.pod_links().into_keys().map(has_program).collect())
    }

    /// Whether it is a classifier at any of them.
    fn has_classifiers(&self) -> bool {
        self.pod_links().values().any(|link| {
            let filters = self.lab.on_node("n1", &["tc", "filter", "show", "dev", link, "ingress"]);
            filters.contains("direct-action")
        })
    }

    fn node_path(&self) -> PathBuf {
        Path::new("/run/netns").join(self.lab.netns("n1"))
    }

    /// Takes away what guards n1, as somebody might whose agent there is dead.
    fn take_guards_away(&self) {
        for family in ["bridge", "arp", "inet"] {
            self.lab.on_node("n1", &["nft", "delete", "table", family, "tartan"]);
        }
        let guarded = self.guarded();
        assert!(guarded.values().all(|is| *is) && !guarded.is_empty(), "{guarded:?}");
        inside(&self.node_path(), || guarded.into_keys().for_each(tartan_bpf::unguard));
        let pins = self.pins();
        assert_eq!(pins.len(), 2, "{pins:?}");
        for pin in pins {
            std::fs::remove_file(pin).expect("it goes");
        }
    }

    /// Nothing arrives, and each is counted under its name.
    fn assert_guarded(&self, forgeries: &[Forgery]) {
        let before = self.denied();
        let arrived = self.fire(forgeries, FLIGHT);
        assert!(arrived.values().all(|arrived| !arrived), "arrived although guarded: {arrived:#?}");
        let mut expected: BTreeMap<(String, String), u64> = BTreeMap::new();
        for forgery in forgeries {
            *expected.entry((self.culprit(forgery).into(), forgery.reason.into())).or_default() += TIMES;
        }
        let counted = || {
            let after = self.denied();
            let count = |rows: &BTreeMap<_, u64>, key: &_| rows.get(key).copied().unwrap_or(0);
            let more = |key: &(String, String)| count(&after, key) - count(&before, key);
            expected.keys().map(|key| (key.clone(), more(key))).collect::<BTreeMap<_, _>>()
        };
        // The last of them may still wait for a neighbor's answer.
        let deadline = Instant::now() + ARRIVAL;
        while Instant::now() < deadline && counted() != expected {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(counted(), expected, "before: {before:?}");
    }
}

/// The MAC address in a line of `ip link`.
fn mac(line: &str) -> MacBytes {
    let text =
        line.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("a MAC address");
    text.parse::<Mac>().expect("a MAC address").bytes()
}

fn forged_by(attachment: &str, underlay: &str) {
    let cast = Cast::new(attachment, underlay);
    let forgeries = cast.forgeries();
    // Where it is quiet they leave the classifier's place for tcx; the new ones below begin as classifiers.
    wait_until("guards cost less", ARRIVAL, || !cast.has_classifiers());
    cast.assert_guarded(&forgeries);
    let endpoints = cast.lab.ask("n1", &["endpoints"]);
    let sender = endpoints.as_array().unwrap().iter().find(|row| row["pod"] == "default/p1").unwrap();
    assert!(sender["denied"]["ipv4"].as_u64() >= Some(TIMES), "{endpoints}");
    // The positive control: without the guards the same frames do what they are made for.
    cast.lab.lab(&["fault", "add", "kill", "n1"]).ok();
    cast.take_guards_away();
    let arrived = cast.fire(&forgeries, ARRIVAL);
    assert!(arrived.values().all(|arrived| *arrived), "does not arrive without guards: {arrived:#?}");
    // What somebody took away while the agent was dead is back before it serves.
    cast.lab.lab(&["fault", "clear"]).ok();
    // What was believed meanwhile is forgotten; the bridge sent the forger its own claims back.
    for pod in ["p1", "p3"] {
        cast.lab.in_pod(pod, &["ip", "neigh", "flush", "all"]);
    }
    cast.assert_guarded(&forgeries);
    cast.lab.assert_full(4, &[]);
    // One hand takes over from the other.
    for (hand, has_programs) in [("rules", false), ("programs", true)] {
        cast.lab.configure("n1", &format!("guards = {hand:?}"));
        cast.lab.wait_until_healthy(&["n1"]);
        assert_eq!(cast.pins().is_empty(), !has_programs, "{hand}");
        assert!(cast.guarded().values().all(|is| *is == has_programs), "{hand}: {:?}", cast.guarded());
        let rules = cast.lab.on_node("n1", &["nft", "list", "table", "inet", "tartan"]);
        assert_eq!(rules.contains("chain pods"), !has_programs, "{rules}");
        cast.assert_guarded(&forgeries);
        cast.lab.assert_full(4, &[]);
    }
}

#[test]
fn what_a_bridged_pod_forges_does_not_arrive() {
    forged_by("bridge", "ipv4");
}

#[test]
fn what_a_bridged_pod_forges_over_ipv6_does_not_arrive() {
    forged_by("bridge", "ipv6");
}

#[test]
fn what_a_routed_pod_forges_does_not_arrive() {
    forged_by("routed", "ipv4");
}

#[test]
fn what_a_routed_pod_forges_over_ipv6_does_not_arrive() {
    forged_by("routed", "ipv6");
}

/// Frames to a bridge's own group address pass no filter; what a bridge learned from them would lead others' traffic away.
#[test]
fn a_bridge_learns_nothing_from_frames_that_pass_no_filter() {
    let cast = Cast::new("bridge", "ipv4");
    let group = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
    let netns = netns::open(&cast.lab.netns("default_p1")).expect("the sender's namespace");
    let frames = PacketSocket::open_in(netns.as_fd(), &"eth0".parse().unwrap()).expect("a packet socket");
    let forged = [2, 0, 0, 0, 0, 0x77];
    let learned = || cast.lab.on_node("n1", &["bridge", "fdb", "show"]).contains("02:00:00:00:00:77");
    frames.send(&unknown(forged, group, &[0; 46])).expect("the link takes it");
    std::thread::sleep(FLIGHT);
    assert!(!learned());
    // The positive control.
    let learn = ["ip", "link", "set", "tartan0", "type", "bridge", "no_linklocal_learn", "0"];
    cast.lab.on_node("n1", &learn);
    frames.send(&unknown(forged, group, &[0; 46])).expect("the link takes it");
    std::thread::sleep(FLIGHT);
    assert!(learned());
}

#[test]
fn honest_packets_are_not_counted() {
    for attachment in ["bridge", "routed"] {
        let cast = Cast::new(attachment, "ipv4");
        for protocol in ["tcp", "udp", "icmp"] {
            cast.lab.assert_full(4, &["--protocol", protocol]);
        }
        // A probe for one's own address, as some do before they use it.
        if let IpAddr::V4(own) = cast.own[&false] {
            let netns = netns::open(&cast.lab.netns("default_p1")).expect("the sender's namespace");
            let frames = PacketSocket::open_in(netns.as_fd(), &"eth0".parse().unwrap()).expect("a socket");
            let nobody = Ipv4Addr::UNSPECIFIED;
            frames.send(&arp(cast.sender, nobody, own, &[])).expect("the link takes it");
        }
        std::thread::sleep(FLIGHT);
        assert_eq!(cast.denied(), BTreeMap::new());
    }
}
