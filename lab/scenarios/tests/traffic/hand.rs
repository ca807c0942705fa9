//! The same network made by hand: two hosts on a lab's wire without an agent, a pod on each, and nothing but the kernel
//! objects that an overlay or host routes need.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tartan_model::{Cidr, Family};
use tartan_netlab::names::LabName;
use tartan_netlab::wire::{self, Layout};
use tartan_scenarios::Lab;

use tartan_scenarios::way::Way;

/// The numbers of the hosts on the wire: behind all nodes.
const FIRST: u32 = 200;
/// Bytes of the largest packet on the wire.
const MTU: u32 = 1500;

/// One of the two hosts, with a pod.
struct Host {
    /// 1 or 2.
    number: u32,
    netns: String,
    pod: String,
    address: IpAddr,
}

/// Both hosts. Their pods have addresses of the underlay's family.
pub(crate) struct Hand {
    hosts: [Host; 2],
    family: Family,
}

impl Hand {
    /// Two hosts whose pods reach each other through VXLAN.
    pub(crate) fn overlay(lab: &Lab, family: Family) -> Hand {
        let hand = Hand::plug(lab, family, ["v1", "v2"], FIRST);
        let mtu = MTU - family.vxlan_overhead();
        for (host, peer) in hand.pairs() {
            hand.add_overlay(host, peer, mtu);
            hand.lead(host, &format!("via {} dev vx onlink", peer.next_hop(family)), peer, mtu);
        }
        hand
    }

    /// Two hosts whose pods reach each other over the wire as it is.
    pub(crate) fn direct(lab: &Lab, family: Family) -> Hand {
        let hand = Hand::plug(lab, family, ["h1", "h2"], FIRST + 2);
        for (host, peer) in hand.pairs() {
            hand.lead(host, &format!("via {} dev eth0", peer.address), peer, MTU);
        }
        hand
    }

    /// Plugs two hosts with a pod each into the wire of a lab, which takes them down with itself.
    fn plug(lab: &Lab, family: Family, names: [&str; 2], first: u32) -> Hand {
        let lab: LabName = lab.name().parse().expect("a lab's name");
        let layout = Layout { underlay: family, links: 1 };
        let hosts = [1, 2].map(|number| {
            let (node, index) = (names[number as usize - 1], first + number);
            let address = layout.node_address(index).expect("an address");
            wire::plug(&lab, node, index, layout).expect("a host on the wire");
            let pod = lab.netns(&format!("{node}-pod"));
            wire::namespace(&pod).expect("a namespace");
            Host { number, netns: lab.netns(node), pod, address: address.address() }
        });
        let hand = Hand { hosts, family };
        hand.hosts.iter().for_each(|host| hand.add_pod(host));
        hand
    }

    /// From host to host, on the wire itself.
    pub(crate) fn line(&self) -> Way {
        let [near, far] = &self.hosts;
        Way { from: path(&near.netns), to: path(&far.netns), address: far.address }
    }

    /// From pod to pod.
    pub(crate) fn pods(&self) -> Way {
        let [near, far] = &self.hosts;
        Way { from: path(&near.pod), to: path(&far.pod), address: far.nth(self.family, 2) }
    }

    fn lead(&self, host: &Host, way: &str, peer: &Host, mtu: u32) {
        let block = peer.block(self.family);
        ip(&host.netns, &format!("route replace {block} {way}\nlink set pod mtu {mtu}\n"));
        ip(&host.pod, &format!("link set eth0 mtu {mtu}\n"));
    }

    fn pairs(&self) -> [(&Host, &Host); 2] {
        let [a, b] = &self.hosts;
        [(a, b), (b, a)]
    }

    fn add_overlay(&self, host: &Host, peer: &Host, mtu: u32) {
        let (own, hop) = (host.nth(self.family, 0), peer.next_hop(self.family));
        ip(
            &host.netns,
            &format!(
                "link add vx type vxlan id 77 dstport 4790 local {} nolearning\n\
                 link set vx address {} mtu {} up\naddress add {own} dev vx\n\
                 neighbor replace {hop} lladdr {} dev vx nud permanent\n",
                host.address,
                host.mac(),
                mtu,
                peer.mac(),
            ),
        );
        let entry = format!("fdb replace {} dev vx dst {} self permanent", peer.mac(), peer.address);
        let words: Vec<&str> = ["bridge"].into_iter().chain(entry.split(' ')).collect();
        inside(&host.netns, &words, "");
    }

    /// A routed pod: one address, the gateway is the link's other end.
    fn add_pod(&self, host: &Host) {
        let pod = host.nth(self.family, 2);
        // Nobody waits until addresses are known to be nobody else's.
        let (gateway, at_once, setting) = match self.family {
            Family::Ipv4 => ("169.254.1.1", "", "net.ipv4.ip_forward=1"),
            Family::Ipv6 => ("fe80::1", "nodad", "net.ipv6.conf.all.forwarding=1"),
        };
        let on_host = format!(
            "link add pod type veth peer name eth0 netns {}\nlink set pod up\naddress add {gateway} dev pod {at_once}\n",
            host.pod
        );
        ip(&host.netns, &on_host);
        let inside_pod = format!(
            "link set eth0 up\naddress add {pod} dev eth0 {at_once}\nroute add {gateway} dev eth0\n\
             route add default via {gateway} dev eth0\n"
        );
        ip(&host.pod, &inside_pod);
        ip(&host.netns, &format!("route add {pod} dev pod\n"));
        inside(&host.netns, &["sysctl", "-qw", setting], "");
    }
}

impl Host {
    fn block(&self, family: Family) -> Cidr {
        let text = match family {
            Family::Ipv4 => format!("10.99.{}.0/24", self.number),
            Family::Ipv6 => format!("fd00:99:0:{}::/64", self.number),
        };
        text.parse().expect("a block")
    }

    /// For IPv6 a link-local address: the kernel refuses one to which another route leads by another link.
    fn next_hop(&self, family: Family) -> IpAddr {
        match family {
            Family::Ipv4 => self.nth(family, 0),
            Family::Ipv6 => format!("fe80::99:{}", self.number).parse().expect("an address"),
        }
    }

    fn nth(&self, family: Family, position: u128) -> IpAddr {
        self.block(family).nth(position).expect("an address")
    }

    fn mac(&self) -> String {
        format!("02:00:00:00:99:0{}", self.number)
    }
}

fn path(netns: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(netns)
}

fn ip(netns: &str, lines: &str) {
    inside(netns, &["ip", "-batch", "-"], lines);
}

fn inside(netns: &str, command: &[&str], input: &str) {
    let mut child = Command::new("ip")
        .args(["netns", "exec", netns])
        .args(command)
        .stdin(Stdio::piped())
        .spawn()
        .expect("iproute2 is there");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("to write");
    assert!(child.wait().expect("to wait").success(), "{command:?} in {netns}: {input}");
}
