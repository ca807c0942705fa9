//! Network namespaces: made, opened, entered, found, removed.

mod common;

use std::os::fd::AsFd;
use std::path::Path;

use common::*;
use tartan_kernel::{NetnsError, netns};

#[test]
fn made_and_removed() {
    let scratch = Scratch::new();
    assert!(netns::list().unwrap().contains(&scratch.name));
    let path = Path::new(netns::DIRECTORY).join(&scratch.name);
    let again = netns::open(&path).unwrap();
    assert_eq!(netns::id(again.as_fd()).unwrap(), netns::id(scratch.fd()).unwrap());
    assert_ne!(netns::id(again.as_fd()).unwrap(), netns::id(netns::current().unwrap().as_fd()).unwrap());
    assert!(matches!(netns::create(&scratch.name), Err(NetnsError::File { .. })));
    assert!(netns::remove(&scratch.name).unwrap());
    assert!(!netns::remove(&scratch.name).unwrap());
    assert!(!path.exists());
}

#[test]
fn only_network_namespaces_are_opened() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [file.path(), Path::new("/proc/self/ns/mnt"), Path::new("/proc"), Path::new("/dev/null")] {
        let refused = netns::open(path);
        assert!(matches!(refused, Err(NetnsError::NotANamespace { .. })), "{}: {refused:?}", path.display());
    }
    assert!(matches!(netns::open(Path::new("/run/netns/tartan-none")), Err(NetnsError::File { .. })));
    for name in ["", ".", "..", "a/b"] {
        assert!(matches!(netns::create(name), Err(NetnsError::Name { .. })), "{name:?}");
    }
}

#[test]
fn processes_are_found_by_namespace() {
    let ours = netns::id(netns::current().unwrap().as_fd()).unwrap();
    assert!(netns::processes_in(&[ours]).contains(&nix::unistd::Pid::this()));
    let scratch = Scratch::new();
    let id = netns::id(scratch.fd()).unwrap();
    assert!(netns::processes_in(&[id]).is_empty());
    let mut child =
        netns::run_in(scratch.fd(), || std::process::Command::new("sleep").arg("60").spawn().unwrap())
            .unwrap();
    let found = netns::processes_in(&[id]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(found, [nix::unistd::Pid::from_raw(child.id().cast_signed())]);
}

#[test]
fn plain_links_carry_an_underlay() {
    let (a, wire) = (Scratch::new(), Scratch::new());
    let mut there = wire.rtnl();
    let (uplink, port, bridge) = (ifname("eth0"), ifname("p0"), ifname("br0"));
    there.add_bridge(&bridge, 1500.try_into().unwrap()).unwrap();
    there.add_veth(&port, 1500.try_into().unwrap(), &uplink, a.fd()).unwrap();
    let own = "02:ff:00:00:00:01";
    there.set_mac(&bridge, own.parse().unwrap()).unwrap();
    there.set_master(&port, &bridge).unwrap();
    there.set_mac(&port, "02:00:00:00:00:01".parse().unwrap()).unwrap();
    let shown = on(&wire, &["ip", "-brief", "link", "show", "br0"]);
    assert!(shown.contains(own), "a port's is lower, but it has its own: {shown}");
    there.set_mtu(&port, 1400.try_into().unwrap()).unwrap();
    there.set_up(&port).unwrap();
    there.set_down(&port).unwrap();
    let mut here = a.rtnl();
    here.set_up(&uplink).unwrap();
    here.add_address(&uplink, "192.0.2.1/24".parse().unwrap()).unwrap();
    here.add_address(&uplink, "2001:db8::1/64".parse().unwrap()).unwrap();
    here.add_route(None, "192.0.2.254".parse().unwrap()).unwrap();
    here.add_route(None, "2001:db8::ff".parse().unwrap()).unwrap();
    here.add_route(Some("10.0.0.0/8".parse().unwrap()), "192.0.2.253".parse().unwrap()).unwrap();
    assert!(here.delete_link(&uplink).unwrap());
    assert!(!there.delete_link(&port).unwrap(), "it went with its other end");
    assert!(there.set_up(&port).is_err());
}
