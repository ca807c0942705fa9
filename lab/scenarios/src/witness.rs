//! Somebody who only looks: at a node's kernel, and at the inside of one of its pods.

use std::fmt::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tartan_host::{Host, LinkKind, Row, Rows, SysctlKey};
use tartan_kernel::{Kernel, Marks, netns};

use crate::Lab;

/// How long the witness sleeps when the kernel tells nothing: settings are read, not told.
const LOOK: Duration = Duration::from_millis(1);

/// What a node has of ours, what others have there, and what is inside the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The node.
    pub node: Host,
    /// The pod.
    pub inside: Rows,
}

/// One who looks at a node and a pod of it, by sockets of its own.
pub struct Witness {
    node: Kernel,
    pod: Kernel,
    settings: Vec<SysctlKey>,
}

impl Witness {
    /// A witness of node and pod, as [`Lab::netns`] knows them.
    pub fn new(lab: &Lab, node: &str, pod: &str) -> Witness {
        let open = |place: &str, marks| {
            let netns = netns::open(&lab.netns(place)).expect("the namespace");
            Kernel::open_in(netns.as_fd(), marks).expect("its kernel")
        };
        let inside = Marks::Pod("eth0".parse().expect("a name"));
        let mut witness =
            Witness { node: open(node, Marks::Node), pod: open(pod, inside), settings: Vec::new() };
        witness.settings = settings(&witness.state().node);
        witness
    }

    /// What there is now.
    pub fn state(&mut self) -> State {
        let node = self.node.read(&self.settings).expect("the node's kernel");
        let inside = self.pod.read(&[]).expect("the pod's kernel").rows;
        State { node, inside }
    }

    /// Waits until all is as it was; the time that it took, or what is missing or too much after `patience`.
    ///
    /// # Errors
    /// The difference, when all is not as it was in time.
    pub fn wait_for(&mut self, before: &State, patience: Duration) -> Result<Duration, String> {
        let start = Instant::now();
        loop {
            let now = self.state();
            if now == *before {
                return Ok(start.elapsed());
            }
            if start.elapsed() > patience {
                return Err(difference(before, &now));
            }
            let fds = self.node.notices_fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let mut fds: Vec<PollFd<'_>> = fds.collect();
            // An interrupted wait looks once too often.
            let _ = poll(&mut fds, PollTimeout::try_from(LOOK.as_millis()).unwrap_or(PollTimeout::MAX));
        }
    }
}

/// Every setting that could keep our links from carrying something.
fn settings(host: &Host) -> Vec<SysctlKey> {
    let mut keys = vec![SysctlKey::Ipv4Forward, SysctlKey::Ipv6Forward];
    for row in host.rows.iter() {
        let Row::Link(link) = row else { continue };
        let is_port = link.kind == LinkKind::Veth && link.master.is_some();
        if !is_port {
            keys.extend([SysctlKey::LinkForward(link.name.clone()), SysctlKey::NoIpv6(link.name.clone())]);
        }
    }
    keys
}

/// What is missing and what is too much.
fn difference(before: &State, now: &State) -> String {
    let mut text = String::new();
    let pairs = [(&before.node.rows, &now.node.rows), (&before.inside, &now.inside)];
    for ((old, new), place) in pairs.into_iter().zip(["node", "pod"]) {
        for row in old.iter().filter(|row| new.get(&row.key()) != Some(row)) {
            let _ = writeln!(text, "{place}: missing {row}");
        }
        for row in new.iter().filter(|row| old.get(&row.key()) != Some(row)) {
            let _ = writeln!(text, "{place}: too much {row}");
        }
    }
    if before.node.foreign != now.node.foreign {
        let _ = writeln!(text, "foreign links: {:?}, before {:?}", now.node.foreign, before.node.foreign);
    }
    text
}
