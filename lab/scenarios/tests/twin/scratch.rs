//! Network namespaces that go with their guard, and what two hosts are compared by.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use tartan_host::{Host, NetnsToken, Row, Rows};
use tartan_kernel::{Kernel, Marks, Rtnl, netns};

use crate::rows::{self, name};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A namespace that goes with its guard, also when a test panics.
pub(crate) struct Scratch {
    name: String,
    netns: OwnedFd,
}

impl Scratch {
    fn new() -> Scratch {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tartan-test-twin-{}-{number}", std::process::id());
        let netns = netns::create(&name).expect("this test makes network namespaces: run it as root");
        Scratch { name, netns }
    }

    pub(crate) fn rtnl(&self) -> Rtnl {
        Rtnl::open_in(self.netns.as_fd()).unwrap()
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    fn kernel(&self) -> Kernel {
        Kernel::open_in(self.netns.as_fd(), Marks::Node).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        netns::remove(&self.name).ok();
    }
}

/// A node whose loopback link is up, and a namespace for the other ends of its veths.
pub(crate) struct Node {
    pub(crate) netns: Scratch,
    pub(crate) pods: Scratch,
}

impl Node {
    pub(crate) fn new() -> Node {
        let node = Node { netns: Scratch::new(), pods: Scratch::new() };
        node.netns.rtnl().set_up(&name("lo")).unwrap();
        node
    }

    /// The hand, which can put the other ends of veths where the token says.
    pub(crate) fn hand(&self) -> (Kernel, NetnsToken) {
        let mut kernel = self.netns.kernel();
        let pods = kernel.adopt(self.pods.netns.try_clone().unwrap());
        (kernel, pods)
    }

    /// One that only looks, so that what it reads does not help the hand.
    pub(crate) fn witness(&self) -> Kernel {
        self.netns.kernel()
    }
}

/// Takes in what the kernel told since the last time, in the way of the reconciler.
pub(crate) fn follow(kernel: &mut Kernel, mirror: &mut Host) {
    let notices = kernel.notices();
    for notice in notices.rows {
        mirror.learn(notice);
    }
    if notices.ruleset_stale {
        mirror.rows.retain(|row| !matches!(row, Row::Ruleset(_) | Row::Element(_)));
        mirror.rows.extend(kernel.read_ruleset().unwrap());
    }
    if notices.policy_stale {
        mirror.rows.retain(|row| !matches!(row, Row::Policy(_)));
        mirror.rows.extend(kernel.read_policy().unwrap());
    }
    if notices.lost {
        *mirror = kernel.read(&rows::settings(&mirror.rows)).unwrap();
    } else if notices.routes_stale {
        let found = kernel.read_routes().unwrap();
        mirror.rows.retain(|row| !matches!(row, Row::Route(_)));
        mirror.rows.extend(found);
    }
}

/// What one has and the other has not; empty when they agree.
pub(crate) fn difference(left: (&str, &Rows), right: (&str, &Rows)) -> String {
    let only = |a: (&str, &Rows), b: &Rows| -> String {
        // Of a ruleset that another hand wrote a hand only knows that it is there.
        let same = |row: &Row, other: &Row| row.matches(other) || matches!(row, Row::Ruleset(_));
        let missing = a.1.iter().filter(|row| !b.get(&row.key()).is_some_and(|other| same(row, other)));
        missing.map(|row| format!("  only in {}: {row:?}\n", a.0)).collect()
    };
    only(left, right.1) + &only(right, left.1)
}
