//! Where a drill takes place: a lab, the node that is damaged, and the hand that damages it.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use netlink_packet_route::{AddressFamily, RouteNetlinkMessage, route::RouteHeader, route::RouteMessage};
use tartan_host::{Host, Link, Row, Step};
use tartan_kernel::{Kernel, Marks, Request, Rtnl, netns};
use tartan_model::{Cidr, IfName, Mtu};
use tartan_scenarios::{Lab, Probe, State, Witness, wait_until};

/// The node that is damaged, and the pod of it that is looked into.
const NODE: &str = "n1";
const POD: &str = "default_p1";
/// Pods that are sent to.
const PODS: [&str; 4] = ["default/p2", "default/p3", "default/p4", "default/p7"];

/// Two pods that a damage does not concern. Pods p1, p4 and p7 are on n1; p2 on n2, p3 on n3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pair {
    /// Two others on the node.
    Neighbors,
    /// Another on the node, and one on the third node.
    Across,
    /// On two other nodes.
    Elsewhere,
}

/// A lab that is up, and what there was before any damage.
pub(crate) struct Scene {
    pub(crate) lab: Lab,
    pub(crate) before: State,
    /// What the node had when the damage began.
    pub(crate) host: Host,
    /// The host's end of the pod.
    pub(crate) end: IfName,
    addresses: BTreeMap<&'static str, Vec<IpAddr>>,
    /// Whether a damage must find what it damages.
    strict: bool,
    witness: Witness,
    saboteur: Kernel,
    netns: OwnedFd,
}

/// What others have on the node beside what the lab gave it.
const FOREIGN: [&str; 5] = [
    "ip link add ttffffffffffff type veth peer name foreign",
    "ip link set ttffffffffffff up",
    "ip address add 198.51.100.1/24 dev ttffffffffffff",
    "ip route add 203.0.113.0/24 dev eth0 proto static",
    "ip neigh add 172.30.0.77 lladdr 02:00:00:00:00:77 dev eth0",
];

impl Scene {
    pub(crate) fn new(name: &str, attachment: &str) -> Scene {
        let set = format!("attachment={attachment}");
        let lab = Lab::up(name, &["--nodes", "3", "--pods", "3", "--family", "dual", "--set", &set]);
        for command in FOREIGN {
            lab.on_node(NODE, &command.split(' ').collect::<Vec<_>>());
        }
        let mut witness = Witness::new(&lab, NODE, POD);
        let before = witness.state();
        let end = before.node.rows.iter().find_map(|row| match row {
            Row::Link(link) if link.alias.ends_with("default/p1") => Some(link.name.clone()),
            _ => None,
        });
        let netns = netns::open(&lab.netns(NODE)).expect("the node");
        Scene {
            end: end.expect("the host's end of p1"),
            host: before.node.clone(),
            addresses: PODS.map(|pod| (pod, lab.addresses(pod))).into(),
            saboteur: Kernel::open_in(netns.as_fd(), Marks::Node).expect("its kernel"),
            strict: true,
            before,
            witness,
            netns,
            lab,
        }
    }

    /// Does the damage and waits until it is undone: the time, the kernel's own for the damage included.
    pub(crate) fn trial(&mut self, damage: fn(&mut Scene), patience: Duration) -> Result<Duration, String> {
        self.host = self.saboteur.read(&[]).expect("the node's kernel");
        let start = std::time::Instant::now();
        damage(self);
        self.witness.wait_for(&self.before, patience)?;
        Ok(start.elapsed())
    }

    /// The same with the agent held still until the damage was seen.
    pub(crate) fn frozen_trial(&mut self, damage: fn(&mut Scene), patience: Duration) -> Result<(), String> {
        self.host = self.saboteur.read(&[]).expect("the node's kernel");
        self.signal(nix::sys::signal::Signal::SIGSTOP);
        self.wait_until_stopped();
        damage(self);
        let harmless = self.witness.state() == self.before;
        self.signal(nix::sys::signal::Signal::SIGCONT);
        if harmless {
            return Err("the damage is none".into());
        }
        self.witness.wait_for(&self.before, patience).map(drop)
    }

    fn wait_until_stopped(&self) {
        let pid = self.lab.agent(NODE);
        let stopped = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).expect("the agent is there");
            stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        };
        let all = || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the agent is there");
            tasks.flatten().all(stopped)
        };
        wait_until("the agent is held still", Duration::from_secs(5), all);
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.lab.agent(NODE));
        nix::sys::signal::kill(pid, signal).expect("the agent is there");
    }

    /// Whether an address is that of the pod on the second node.
    pub(crate) fn is_remote(&self, range: &Cidr) -> bool {
        self.addresses["default/p2"].iter().any(|address| range.contains(*address))
    }

    /// Takes away every row of ours that the test accepts.
    pub(crate) fn remove(&mut self, test: impl Fn(&Scene, &Row) -> bool) {
        let rows: Vec<Row> = self.host.rows.iter().filter(|row| test(self, row)).cloned().collect();
        self.take(rows.into_iter().map(|row| Step::Remove { row }).collect());
    }

    /// Changes rows in place.
    pub(crate) fn change(&mut self, to: impl Fn(&Scene, &Row) -> Option<Row>) {
        let steps = self
            .host
            .rows
            .iter()
            .filter_map(|from| Some(Step::Change { from: from.clone(), to: to(self, from)? }));
        self.take(steps.collect());
    }

    /// Changes a link in place.
    pub(crate) fn change_link(&mut self, name: &str, to: impl Fn(&mut Link)) {
        let name: IfName = if name == "END" { self.end.clone() } else { name.parse().expect("a name") };
        self.change(|_, row| match row {
            Row::Link(link) if link.name == name => {
                let mut link = link.clone();
                to(&mut link);
                Some(Row::Link(link))
            }
            _ => None,
        });
    }

    fn take(&mut self, steps: Vec<Step>) {
        let outcomes = self.saboteur.apply(&steps);
        if self.strict {
            assert!(!steps.is_empty(), "there is nothing to damage");
            for (step, outcome) in steps.iter().zip(outcomes) {
                assert_eq!(outcome, Ok(()), "{step}");
            }
        }
    }

    /// One damage after the other, whether those before are repaired or not: the time from the last one on.
    pub(crate) fn hail(
        &mut self,
        damages: impl Iterator<Item = (fn(&mut Scene), Duration)>,
        patience: Duration,
    ) -> Result<Duration, String> {
        self.strict = false;
        for (damage, pause) in damages {
            self.host = self.saboteur.read(&[]).expect("the node's kernel");
            damage(self);
            std::thread::sleep(pause);
        }
        self.strict = true;
        self.witness.wait_for(&self.before, patience)
    }

    /// Writes a setting below /proc/sys/net; `END` stands for the host's end of the pod.
    pub(crate) fn write(&self, path: &str, value: &str) {
        let path = Path::new("/proc/sys/net").join(path.replace("END", self.end.as_str()));
        let written = netns::run_in(self.netns.as_fd(), || fs::write(&path, value)).expect("to enter");
        assert!(written.is_ok() || !self.strict, "{}: {written:?}", path.display());
    }

    /// Gives a link a name that is none of ours.
    pub(crate) fn rename(&mut self, name: &str) {
        let name = name.replace("END", self.end.as_str());
        let renamed = netns::run_in(self.netns.as_fd(), || {
            Command::new("ip").args(["link", "set", &name, "name", "zz0"]).output()
        });
        let output = renamed.expect("to enter").expect("ip");
        assert!(output.status.success() || !self.strict, "{name}: {output:?}");
    }

    /// Deletes every route of the main table, whosever it is, as `ip route flush table main` does.
    pub(crate) fn flush_routes(&mut self) {
        let mut rtnl = Rtnl::open_in(self.netns.as_fd()).expect("the node's kernel");
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut all = RouteMessage::default();
            all.header.address_family = family;
            all.header.table = RouteHeader::RT_TABLE_MAIN;
            let dump = rtnl.dump(&RouteNetlinkMessage::GetRoute(all)).expect("its routes");
            let routes = dump.messages().filter_map(|message| match message.parse() {
                Ok(RouteNetlinkMessage::NewRoute(route)) => {
                    Some(Request::new(RouteNetlinkMessage::DelRoute(route), 0))
                }
                _ => None,
            });
            // What goes with another need not be there any more.
            rtnl.request(routes.collect());
        }
    }

    /// Puts back the foreign routes that were flushed.
    pub(crate) fn restore_routes(&self) {
        for route in [
            "172.30.0.0/16 dev eth0 proto kernel scope link src 172.30.0.1",
            "198.51.100.0/24 dev ttffffffffffff proto kernel scope link src 198.51.100.1",
            "203.0.113.0/24 dev eth0 proto static scope link",
            "default via 172.30.255.254 proto static",
        ] {
            let words = route.split(' ');
            self.lab.on_node(NODE, &["ip", "route", "add"].into_iter().chain(words).collect::<Vec<_>>());
        }
        // The kernel's own for link-local addresses, which every link with IPv6 has.
        for link in ["eth0", "ttffffffffffff"] {
            self.lab.on_node(NODE, &["ip", "route", "replace", "fe80::/64", "dev", link, "proto", "kernel"]);
        }
    }

    /// What others have: addresses, neighbours and IPv4 routes that have nothing of us.
    pub(crate) fn foreign(&self) -> Vec<String> {
        let lists = ["-o -4 address", "-4 route", "neigh show nud permanent"].map(|what| {
            self.lab.on_node(NODE, &["ip"].into_iter().chain(what.split(' ')).collect::<Vec<_>>())
        });
        let ours = |line: &str| {
            line.contains("proto 116")
                || line.contains(" tartan")
                || line.contains(" tt") && !line.contains(" ttffff")
        };
        let lines = lists.iter().flat_map(|list| list.lines()).filter(|line| !ours(line));
        let mut lines: Vec<String> = lines.map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// A thousand packets a second in each family, between pods that the damage does not concern.
    pub(crate) fn probes(&self, pair: Pair) -> Vec<Probe> {
        let (from, to) = match pair {
            Pair::Neighbors => ("default_p4", "default/p7"),
            Pair::Across => ("default_p4", "default/p3"),
            Pair::Elsewhere => ("default_p2", "default/p3"),
        };
        let from = self.lab.netns(from);
        let start = |to: &IpAddr| Probe::start(&from, *to, Duration::from_millis(1));
        self.addresses[to].iter().map(start).collect()
    }

    /// Whether the pod whose node was damaged reaches others at once, on its node and beyond.
    pub(crate) fn goes_on(&self) -> Result<(), String> {
        let from = self.lab.netns(POD);
        let others = ["default/p4", "default/p2"].into_iter().flat_map(|pod| &self.addresses[pod]);
        let probes: Vec<_> =
            others.map(|to| (to, Probe::start(&from, *to, Duration::from_millis(1)))).collect();
        std::thread::sleep(Duration::from_millis(10));
        let lost = probes.into_iter().filter_map(|(to, probe)| {
            let outcome = probe.finish();
            (!outcome.lost.is_empty()).then(|| format!("the pod does not reach {to}: {outcome:?}\n"))
        });
        let lost: String = lost.collect();
        if lost.is_empty() { Ok(()) } else { Err(lost) }
    }
}

/// An MTU that is none of ours.
pub(crate) fn another_mtu() -> Mtu {
    1400.try_into().expect("an MTU")
}
