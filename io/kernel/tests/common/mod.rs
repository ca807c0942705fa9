//! Scratch namespaces, and short ways to write rows.
#![allow(dead_code, unreachable_pub, reason = "each test file uses some of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail here too")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use tartan_host::{
    Address, Fdb, Host, Link, LinkKind, Neighbor, NetnsToken, Peer, Route, RouteKind, Row, Scope, Step,
};
use tartan_kernel::{Kernel, Marks, Rtnl, netns};
use tartan_model::{Family, IfName};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A namespace that goes with its guard, also when a test panics.
pub struct Scratch {
    pub name: String,
    pub netns: OwnedFd,
}

impl Scratch {
    pub fn new() -> Scratch {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tartan-test-kernel-{}-{number}", std::process::id());
        let netns = netns::create(&name).expect("these tests make network namespaces: run them as root");
        let scratch = Scratch { name, netns };
        scratch.rtnl().set_up(&ifname("lo")).unwrap();
        scratch
    }

    pub fn kernel(&self) -> Kernel {
        Kernel::open_in(self.netns.as_fd(), Marks::Node).unwrap()
    }

    pub fn rtnl(&self) -> Rtnl {
        Rtnl::open_in(self.netns.as_fd()).unwrap()
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    pub fn clone_fd(&self) -> OwnedFd {
        self.netns.try_clone().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        netns::remove(&self.name).ok();
    }
}

/// What a command prints there; it must succeed.
pub fn on(scratch: &Scratch, command: &[&str]) -> String {
    let output = std::process::Command::new("ip")
        .args(["netns", "exec", &scratch.name])
        .args(command)
        .output()
        .expect("ip is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn ifname(name: &str) -> IfName {
    name.parse().unwrap()
}

pub fn vxlan(name: &str, vni: u32, local: &str) -> Link {
    let kind = LinkKind::Vxlan { vni: vni.try_into().unwrap(), local: local.parse().unwrap(), port: 8472 };
    link(name, kind)
}

pub fn bridge(name: &str) -> Link {
    link(name, LinkKind::Bridge)
}

pub fn veth(name: &str, netns: NetnsToken, peer: &str) -> Link {
    let peer = Peer { netns, name: ifname(peer), mac: "02:00:00:00:00:99".parse().unwrap() };
    Link { peer: Some(Box::new(peer)), ..link(name, LinkKind::Veth) }
}

fn link(name: &str, kind: LinkKind) -> Link {
    Link {
        name: ifname(name),
        kind,
        mac: "02:00:5e:10:00:01".parse().unwrap(),
        mtu: 1450.try_into().unwrap(),
        up: true,
        master: None,
        translated: false,
        alias: "tartan test".into(),
        peer: None,
    }
}

pub fn address(link: &str, address: &str, scope: Scope) -> Row {
    Row::Address(Address { link: ifname(link), address: address.parse().unwrap(), scope })
}

pub fn fdb(link: &str, mac: &str, dst: &str) -> Row {
    Row::Fdb(Fdb { link: ifname(link), mac: mac.parse().unwrap(), dst: dst.parse().unwrap() })
}

pub fn neighbor(link: &str, address: &str, mac: &str) -> Row {
    let address = address.parse().unwrap();
    Row::Neighbor(Neighbor { link: ifname(link), address, mac: mac.parse().unwrap() })
}

pub fn via(dst: &str, gateway: &str, link: &str) -> Route {
    route(dst, RouteKind::Via { gateway: gateway.parse().unwrap(), link: ifname(link) })
}

pub fn onto(dst: &str, link: &str) -> Route {
    route(dst, RouteKind::Link { link: ifname(link) })
}

pub fn blackhole(dst: &str) -> Route {
    route(dst, RouteKind::Blackhole)
}

fn route(dst: &str, kind: RouteKind) -> Route {
    let dst: tartan_model::Cidr = dst.parse().unwrap();
    Route { dst, metric: Route::usual_metric(Family::of(dst.first())), kind, source: None, mtu: None }
}

pub fn create(row: impl Into<Box<Row>>) -> Step {
    Step::Create { row: *row.into() }
}

pub fn remove(row: impl Into<Box<Row>>) -> Step {
    Step::Remove { row: *row.into() }
}

pub fn change(from: &Row, to: &Row) -> Step {
    Step::Change { from: from.clone(), to: to.clone() }
}

/// Takes steps, all of which must succeed.
pub fn done(kernel: &mut Kernel, steps: &[Step]) {
    for (step, answer) in steps.iter().zip(kernel.apply(steps)) {
        assert_eq!(answer, Ok(()), "{step}");
    }
}

pub fn rows(kernel: &mut Kernel) -> Vec<Row> {
    kernel.read(&[]).unwrap().rows.iter().cloned().collect()
}

/// The row as it is read back.
pub fn seen(row: &Row) -> Row {
    match row {
        Row::Link(link) => Row::Link(Link { peer: None, ..link.clone() }),
        other => other.clone(),
    }
}

/// The host as notices alone would have it.
pub fn follow(kernel: &mut Kernel, host: &mut Host) -> tartan_kernel::Notices {
    let notices = kernel.notices();
    for notice in notices.rows.clone() {
        host.learn(notice);
    }
    notices
}
