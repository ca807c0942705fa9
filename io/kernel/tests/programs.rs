//! Programs in the place of rules, in a real kernel.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

mod common;

use std::fs;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Scratch, create, ifname, on, remove, veth};
use libbpf_rs::query::{ProgInfoIter, ProgInfoQueryOptions};
use libbpf_rs::{MapCore, MapHandle};
use tartan_bpf::Guards;
use tartan_host::nftables::TableFamily;
use tartan_host::{Element, Link, Member, Parts, Protocol, Row, Ruleset, Step};
use tartan_kernel::{Kernel, PROGRAMS, PacketSocket, Rtnl, netns};
use tartan_model::Mac;

const LINK: &str = "tt0123456789ab";
/// The MAC address of the pod's end.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// What keeps programs, gone with its guard.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn pins(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path().join(PROGRAMS)).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("node_")).collect();
        names.sort();
        names
    }

    /// A map of the programs at the node's hook.
    fn map(&self, name: &str) -> MapHandle {
        let pin = self.0.path().join(PROGRAMS).join(&self.pins()[0]);
        let program = libbpf_rs::Link::open(pin).unwrap().info().unwrap().prog_id;
        let found = loaded().find(|info| info.id == program).unwrap();
        let mut maps = found.map_ids.into_iter().map(|id| MapHandle::from_map_id(id).unwrap());
        maps.find(|map| map.name() == name).unwrap()
    }

    /// The number of the program at pods' links that goes by the same map.
    fn at_links(&self) -> u32 {
        let nodes = self.map("nodes").info().unwrap().info.id;
        let mut all = loaded().filter(|info| info.map_ids.contains(&nodes));
        all.find(|info| info.name.to_str() == Some("tartan_pod")).unwrap().id
    }

    /// An agent's hand, in the namespace of the calling thread.
    fn hand(&self, scratch: &Scratch) -> Kernel {
        let mut kernel = scratch.kernel();
        kernel.use_programs(self.0.path().join(PROGRAMS)).unwrap();
        kernel
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = nix::mount::umount(&self.0.path().join(PROGRAMS));
    }
}

/// All programs that are loaded, with their maps.
fn loaded() -> ProgInfoIter {
    ProgInfoIter::with_query_opts(ProgInfoQueryOptions::default().include_map_ids(true))
}

/// The number of the program that guards the pod's link as a classifier.
fn classifier(scratch: &Scratch) -> Option<String> {
    let filters = on(scratch, &["tc", "filter", "show", "dev", LINK, "ingress"]);
    let id = filters.split(" id ").nth(1)?;
    Some(id.split_whitespace().next()?.to_owned())
}

fn ruleset() -> Row {
    Row::Ruleset(Ruleset { intact: true, parts: Some(Parts::default()) })
}

fn guard() -> [Row; 2] {
    let member = Member::Mac(ifname(LINK), Mac::from_bytes(MAC));
    [Row::Element(Element { table: TableFamily::Inet, member }), source("10.1.0.2")]
}

/// An address that the pod may send from.
fn source(address: &str) -> Row {
    let member = Member::Source(ifname(LINK), Mac::from_bytes(MAC), address.parse().unwrap());
    Row::Element(Element { table: TableFamily::Inet, member })
}

/// A frame with a datagram from an address (RFC 768).
fn datagram(mac: [u8; 6], from: &str) -> Vec<u8> {
    let (kind, packet) = match from.parse().unwrap() {
        IpAddr::V4(from) => {
            let head = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
            ([8, 0], [&head[..], &from.octets(), &[10, 1, 0, 9]].concat())
        }
        IpAddr::V6(from) => {
            let (head, to) = ([0x60, 0, 0, 0, 0, 8, 17, 64], Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9));
            ([0x86, 0xdd], [&head[..], &from.octets(), &to.octets()].concat())
        }
    };
    [&[2, 0, 0x5e, 0x10, 0, 1][..], &mac, &kind, &packet, &[0x27, 0x0f, 0x27, 0x0f, 0, 8, 0, 0]].concat()
}

/// A pod, and what makes its link, up, with the guard before it.
fn pod(kernel: &mut Kernel, scratch: &Scratch) -> (OwnedFd, Vec<Step>) {
    let inside = netns::create(&format!("{}-pod", scratch.name)).unwrap();
    let token = kernel.adopt(inside.try_clone().unwrap());
    netns::remove(&format!("{}-pod", scratch.name)).unwrap();
    let link = Link { up: true, ..veth(LINK, token, "eth0") };
    (inside, [ruleset()].into_iter().chain(guard()).chain([Row::Link(link)]).map(create).collect())
}

/// An agent's hand that has guarded a pod, and the pod.
fn guarding(scratch: &Scratch, folder: &Folder) -> (Kernel, OwnedFd) {
    let mut kernel = folder.hand(scratch);
    kernel.read(&[]).unwrap();
    let (inside, steps) = pod(&mut kernel, scratch);
    assert_eq!(kernel.apply(&steps), vec![Ok(()); steps.len()]);
    (kernel, inside)
}

/// Has rules guard from now on, and does something just before they are written.
fn turn_to_rules(scratch: &Scratch, folder: &Folder, before: impl FnOnce()) {
    let mut next = scratch.kernel();
    next.use_rules(folder.0.path().join(PROGRAMS));
    let host = next.read(&[]).unwrap();
    before();
    let found = host.rows.iter().find(|row| matches!(row, Row::Ruleset(_))).unwrap().clone();
    assert_eq!(next.apply(&[Step::Change { from: found, to: ruleset() }]), [Ok(())]);
}

/// Runs in the namespace of a scratch, as an agent does in its node's.
fn within(run: impl FnOnce(&Scratch, &Folder) + Send) {
    let (scratch, folder) = (Scratch::new(), Folder::new());
    netns::run_in(scratch.fd(), || run(&scratch, &folder)).unwrap();
}

#[test]
fn a_link_is_up_only_with_its_program_and_gets_it_back() {
    within(|scratch, folder| {
        let (mut kernel, _pod) = guarding(scratch, folder);
        let first = classifier(scratch).expect("a program at the link");
        assert!(on(scratch, &["ip", "link", "show", LINK]).contains(",UP"));
        // No chain is where a packet passes.
        let rules = on(scratch, &["nft", "list", "table", "inet", "tartan"]);
        assert!(!rules.contains("hook") && rules.contains("10.1.0.2"), "{rules}");
        for damage in [
            ["tc", "qdisc", "del", "dev", LINK, "ingress"].as_slice(),
            &["tc", "filter", "del", "dev", LINK, "ingress"],
        ] {
            on(scratch, damage);
            assert_eq!(classifier(scratch), None);
            kernel.notices();
            assert_eq!(classifier(scratch).as_ref(), Some(&first), "{damage:?}");
        }
        // As links have it that an earlier release made.
        on(scratch, &["tc", "qdisc", "del", "dev", LINK, "ingress"]);
        on(scratch, &["tc", "qdisc", "add", "dev", LINK, "clsact"]);
        assert_eq!(classifier(scratch), None);
        kernel.notices();
        assert_eq!(classifier(scratch), Some(first));
    });
}

/// The number of the link.
fn index(scratch: &Scratch) -> u32 {
    on(scratch, &["cat", &format!("/sys/class/net/{LINK}/ifindex")]).trim().parse().unwrap()
}

/// What the pod sends: from an address of its own, and from another's.
struct Sender(PacketSocket);

impl Sender {
    fn new(pod: &OwnedFd) -> Sender {
        // What it sends by itself would be counted too.
        let silent = || fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
        netns::run_in(pod.as_fd(), silent).unwrap().unwrap();
        let end = ifname("eth0");
        Rtnl::open_in(pod.as_fd()).unwrap().set_up(&end).unwrap();
        Sender(PacketSocket::open_in(pod.as_fd(), &end).unwrap())
    }

    /// How many of these are refused.
    fn refused(&self, kernel: &mut Kernel, frames: &[([u8; 6], &str)]) -> u64 {
        let sum = |kernel: &mut Kernel| kernel.denied().unwrap().iter().map(|d| d.packets).sum::<u64>();
        let before = sum(kernel);
        frames.iter().for_each(|(mac, from)| self.0.send(&datagram(*mac, from)).unwrap());
        std::thread::sleep(Duration::from_millis(100));
        sum(kernel) - before
    }

    /// Whether exactly what is not its own is refused, and counted once.
    fn is_guarded(&self, kernel: &mut Kernel) -> bool {
        self.refused(kernel, &[(MAC, "10.1.0.2")]) == 0 && self.refused(kernel, &[(MAC, "10.1.0.9")]) == 1
    }
}

#[test]
fn a_guard_is_moved_to_where_it_costs_less_and_stays_one() {
    within(|scratch, folder| {
        let (mut kernel, inside) = guarding(scratch, folder);
        let pod = Sender::new(&inside);
        assert!(kernel.has_heavy_guards() && classifier(scratch).is_some());
        kernel.notices();
        kernel.lighten_guard();
        assert!(!kernel.has_heavy_guards() && classifier(scratch).is_none());
        assert!(pod.is_guarded(&mut kernel));
        // Nobody is told that it is taken away.
        tartan_bpf::unguard(index(scratch));
        assert!(!pod.is_guarded(&mut kernel), "it would be refused by something else");
        kernel.notices();
        kernel.look_at_guards();
        assert!(kernel.has_heavy_guards() && classifier(scratch).is_some());
        assert!(pod.is_guarded(&mut kernel));
        kernel.lighten_guard();
        // The next agent has it at the same place at once, and what it knows counts.
        drop(kernel);
        let mut next = folder.hand(scratch);
        next.read(&[]).unwrap();
        assert!(!next.has_heavy_guards() && classifier(scratch).is_none());
        assert!(pod.is_guarded(&mut next));
        assert_eq!(next.apply(&[create(source("10.1.0.9"))]), [Ok(())]);
        assert_eq!(pod.refused(&mut next, &[(MAC, "10.1.0.2"), (MAC, "10.1.0.9")]), 0);
        // With rules it goes, and nothing else holds the program.
        let program = folder.at_links();
        drop(next);
        turn_to_rules(scratch, folder, || {
            assert!(loaded().any(|info| info.id == program), "the rules are not there yet");
        });
        let gone = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            !loaded().any(|info| info.id == program)
        });
        assert!(gone);
    });
}

#[test]
fn what_is_a_source_passes_as_long_as_it_is_one() {
    within(|scratch, folder| {
        let (mut kernel, inside) = guarding(scratch, folder);
        let sender = Sender::new(&inside);
        let refused = |kernel: &mut Kernel, frames: &[_]| sender.refused(kernel, frames);
        let nobody = [0; 6];
        let foreign = [
            (MAC, "10.1.0.3"),
            (MAC, "0.0.0.0"),
            (MAC, "::"),
            (MAC, "fd00::2"),
            (nobody, "10.1.0.2"),
            (nobody, "0.0.0.0"),
            (nobody, "::"),
        ];
        assert_eq!(refused(&mut kernel, &[(MAC, "10.1.0.2")]), 0);
        assert_eq!(refused(&mut kernel, &foreign), foreign.len() as u64);
        // Two of a family: one of them is not the usual one.
        assert_eq!(kernel.apply(&[create(source("10.1.0.3")), create(source("fd00::2"))]), [Ok(()), Ok(())]);
        let own = [(MAC, "10.1.0.2"), (MAC, "10.1.0.3"), (MAC, "fd00::2")];
        assert_eq!(refused(&mut kernel, &own), 0);
        assert_eq!(kernel.apply(&[remove(source("10.1.0.2"))]), [Ok(())]);
        assert_eq!(refused(&mut kernel, &own), 1);
        assert_eq!(refused(&mut kernel, &own[1..]), 0);
        assert_eq!(kernel.apply(&[remove(source("fd00::2")), create(source("10.1.0.2"))]), [Ok(()), Ok(())]);
        assert_eq!(refused(&mut kernel, &own), 1);
    });
}

#[test]
fn what_is_a_node_reaches_a_tunnel_as_long_as_it_is_one() {
    within(|scratch, folder| {
        let mut kernel = folder.hand(scratch);
        kernel.read(&[]).unwrap();
        let member = |member| Row::Element(Element { table: TableFamily::Inet, member });
        let node = |address: &str| member(Member::Node(address.parse().unwrap()));
        let tunnel = member(Member::Tunnel(Protocol::Udp, 9999));
        assert_eq!(kernel.apply(&[create(ruleset()), create(tunnel)]), [Ok(()), Ok(())]);
        let outside = Scratch::new();
        let peer = ["peer", "name", "eth0", "netns", &outside.name];
        on(scratch, &[&["ip", "link", "add", "out0", "type", "veth"], &peer[..]].concat());
        // Those of a family have all the same place in the array.
        let [one, same, near] = ["192.0.2.1", "192.0.18.1", "192.1.2.1"];
        let [one6, same6, near6] = ["fd00::201", "fd00::1:201", "fd00::1:0:0:201"];
        let all = [one, same, near, one6, same6, near6];
        for (at, link, addresses) in
            [(scratch, "out0", &["10.1.0.9", "fd00::9"][..]), (&outside, "eth0", &all)]
        {
            for address in addresses {
                on(at, &["ip", "address", "add", address, "dev", link, "nodad"]);
            }
            on(at, &["ip", "link", "set", link, "up"]);
        }
        for (at, link) in [(scratch, "out0"), (&outside, "eth0")] {
            on(at, &["ip", "route", "add", "default", "dev", link]);
            on(at, &["ip", "-6", "route", "add", "default", "dev", link]);
            // The kernel makes them usable from a work queue (net/ipv6/addrconf.c, `addrconf_dad_work`).
            let patience = Instant::now() + Duration::from_secs(5);
            while !on(at, &["ip", "-6", "address", "show", "tentative"]).is_empty() {
                assert!(Instant::now() < patience, "addresses stay tentative");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let arrive = || {
            let arrives = |from: &&str| {
                let from: IpAddr = from.parse().unwrap();
                let to: IpAddr = if from.is_ipv4() { "10.1.0.9" } else { "fd00::9" }.parse().unwrap();
                let receiver = UdpSocket::bind((to, 9999)).unwrap();
                receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                let sender = netns::run_in(outside.fd(), || UdpSocket::bind((from, 0))).unwrap().unwrap();
                sender.send_to(&[1], (to, 9999)).unwrap();
                receiver.recv(&mut [0]).is_ok()
            };
            all.into_iter().filter(|from| arrives(from)).collect::<Vec<_>>()
        };
        assert_eq!(arrive(), [""; 0]);
        let [add, take]: [fn(Row) -> Step; 2] = [create, remove];
        for (step, address, expected) in [
            (add, one, &[one][..]),
            (add, one6, &[one, one6]),
            (add, same, &[one, same, one6]),
            (add, same6, &[one, same, one6, same6]),
            (take, one, &[same, one6, same6]),
            (take, one6, &[same, same6]),
            (add, near, &[same, near, same6]),
            (add, near6, &[same, near, same6, near6]),
        ] {
            assert_eq!(kernel.apply(&[step(node(address))]), [Ok(())]);
            assert_eq!(arrive(), expected, "{address}");
        }
        assert_eq!(kernel.denied().unwrap().len(), 1);
        // Without what all are looked up in, those stay that came when the place was empty.
        let nodes = folder.map("nodes");
        nodes.keys().collect::<Vec<_>>().iter().for_each(|key| nodes.delete(key).unwrap());
        assert_eq!(arrive(), [near, near6]);
    });
}

#[test]
fn the_next_agent_takes_over() {
    within(|scratch, folder| {
        let (kernel, _pod) = guarding(scratch, folder);
        let before = (folder.pins(), classifier(scratch));
        assert_eq!(before.0.len(), 2);
        drop(kernel);
        assert_eq!((folder.pins(), classifier(scratch)), before);
        let mut next = folder.hand(scratch);
        next.read(&[]).unwrap();
        let after = (folder.pins(), classifier(scratch));
        assert_eq!(after.0.len(), 2);
        assert!(after.0.iter().all(|pin| !before.0.contains(pin)), "{before:?} {after:?}");
        assert!(after.1.is_some() && after.1 != before.1, "{before:?} {after:?}");
        // And once more: places at the hook are free again.
        drop(next);
        folder.hand(scratch).read(&[]).unwrap();
        assert_eq!(folder.pins().len(), 2);
    });
}

#[test]
fn rules_take_over_and_nothing_is_left() {
    within(|scratch, folder| {
        let (kernel, _pod) = guarding(scratch, folder);
        drop(kernel);
        turn_to_rules(scratch, folder, || {
            assert!(classifier(scratch).is_some(), "the rules are not there yet");
        });
        assert_eq!((folder.pins(), classifier(scratch)), (Vec::new(), None));
        assert!(!Path::new(&folder.0.path().join(PROGRAMS)).exists());
        let rules = on(scratch, &["nft", "list", "table", "inet", "tartan"]);
        assert!(rules.contains("hook prerouting") && rules.contains("10.1.0.2"), "{rules}");
    });
}

/// As somebody may do who moves a link to another namespace and back. A classifier falls off there, a program at tcx comes
/// along.
#[test]
fn a_link_that_comes_from_elsewhere_is_guarded() {
    for at_tcx in [false, true] {
        within(|scratch, folder| {
            let (mut kernel, inside) = guarding(scratch, folder);
            kernel.notices();
            if at_tcx {
                kernel.lighten_guard();
            }
            let pod = Sender::new(&inside);
            let elsewhere = Scratch::new();
            on(scratch, &["ip", "link", "set", LINK, "netns", &elsewhere.name]);
            kernel.notices();
            // Its number is taken, so that it gets another.
            let number = index(&elsewhere);
            on(scratch, &["ip", "link", "add", "taker", "index", &number.to_string(), "type", "bridge"]);
            on(&elsewhere, &["ip", "link", "set", LINK, "netns", &scratch.name]);
            assert_ne!(index(scratch), number);
            assert_eq!(tartan_bpf::has_program(index(scratch)), at_tcx);
            kernel.notices();
            on(scratch, &["ip", "link", "set", LINK, "up"]);
            assert!(pod.is_guarded(&mut kernel));
            // One that has the number of a pod's link is left alone.
            kernel.lighten_guard();
            assert!(!tartan_bpf::has_program(number) && pod.is_guarded(&mut kernel));
        });
    }
}

#[test]
fn nothing_is_left_of_an_agent_that_died_while_it_moved_a_guard() {
    within(|scratch, folder| {
        let (mut kernel, inside) = guarding(scratch, folder);
        let pod = Sender::new(&inside);
        // It knows no sources: whatever it judges is refused.
        let (link, dead) = (index(scratch), Guards::load(&folder.0.path().join(PROGRAMS)).unwrap());
        dead.lighten(link).unwrap();
        dead.guard(link).unwrap();
        assert!(!pod.is_guarded(&mut kernel));
        drop((dead, kernel));
        let mut next = folder.hand(scratch);
        next.read(&[]).unwrap();
        assert!(classifier(scratch).is_none() && pod.is_guarded(&mut next));
    });
}

#[test]
fn where_programs_cannot_be_kept_rules_guard() {
    within(|scratch, folder| {
        let file = folder.0.path().join("file");
        fs::write(&file, "").unwrap();
        let mut kernel = scratch.kernel();
        let refused = kernel.use_programs(file.join(PROGRAMS)).unwrap_err();
        assert!(refused.to_string().contains("cannot mount a BPF file system"), "{refused}");
        kernel.use_rules(file.join(PROGRAMS));
        assert!(!kernel.is_guarded_by_programs());
        kernel.read(&[]).unwrap();
        assert_eq!(kernel.apply(&[create(ruleset())]), [Ok(())]);
        assert!(on(scratch, &["nft", "list", "table", "inet", "tartan"]).contains("hook prerouting"));
    });
}

#[test]
fn a_ruleset_that_goes_takes_its_programs_along() {
    within(|scratch, folder| {
        let (mut kernel, _pod) = guarding(scratch, folder);
        assert_eq!(kernel.apply(&[Step::Remove { row: ruleset() }]), [Ok(())]);
        assert_eq!((folder.pins(), classifier(scratch)), (Vec::new(), None));
    });
}
