//! The network under a lab: links (bridges) with one router on all of them, the nodes' uplinks, and a host beyond the
//! router.
//!
//! All of it is in namespaces of the lab's own, so that labs side by side may use the same addresses.

use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use tartan_kernel::{Rtnl, netns};
use tartan_model::{Cidr, Family, IfName, InterfaceAddress, Mac, Mtu};

use crate::names::{LabName, OUTSIDE, WIRE};
use crate::shared;

/// Bytes of the largest packet between nodes.
const MTU: u32 = 1500;
/// The nodes' interface on the wire, and the outside host's.
pub const INTERFACE: &str = "eth0";
/// The networks between the router and the outside host.
const OUTSIDE_NETWORKS: [&str; 2] = ["192.0.2.0/24", "2001:db8:ffff::/64"];
/// Frames on the wire's bridge are not the business of its host's firewall (br_netfilter).
const BRIDGE_SETTINGS: [&str; 3] =
    ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables", "bridge/bridge-nf-call-arptables"];
const FORWARDING: [&str; 2] = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];

/// The most links of a wire.
pub const MAX_LINKS: u8 = 8;

/// What a wire is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The family that nodes talk in.
    pub underlay: Family,
    /// How many links there are, 1 to [`MAX_LINKS`]: nodes are spread over them in turn.
    pub links: u8,
}

impl Layout {
    /// The link of a node by its number, both counted from 0.
    pub fn link_of(self, index: u32) -> u8 {
        u8::try_from(index % u32::from(self.links.max(1))).unwrap_or(0)
    }

    /// The address of a node by its number, counted from 0, on its own link.
    ///
    /// # Errors
    /// When the network has no address for it.
    pub fn node_address(self, index: u32) -> Result<InterfaceAddress> {
        self.address_on(self.link_of(index), index)
    }

    /// The address that a node would have on a link.
    ///
    /// # Errors
    /// When the network has no address for it.
    pub fn address_on(self, link: u8, index: u32) -> Result<InterfaceAddress> {
        let position = match self.underlay {
            Family::Ipv4 => u128::from(index / 250) * 256 + u128::from(index % 250) + 1,
            Family::Ipv6 => u128::from(index) + 1,
        };
        interface_address(self.network(link)?, position)
    }

    /// The router's address on a link: the last of the network but one, far from those of the nodes.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn router(self, link: u8) -> Result<InterfaceAddress> {
        let network = self.network(link)?;
        interface_address(network, network.size() - 2)
    }

    fn network(self, link: u8) -> Result<Cidr> {
        Ok(match self.underlay {
            Family::Ipv4 => format!("172.{}.0.0/16", 30 - link.min(MAX_LINKS)),
            Family::Ipv6 => format!("fd00:30:0:{link}::/64"),
        }
        .parse()?)
    }
}

/// The name of a link's bridge in the wire's namespace.
pub fn bridge(link: u8) -> String {
    if link == 0 { WIRE.into() } else { format!("{WIRE}{}", link + 1) }
}

/// Makes the wire and the outside host of a lab.
///
/// # Errors
/// When a namespace of that name is there already, or the kernel refuses.
pub fn create(lab: &LabName, layout: Layout) -> Result<()> {
    shared::share_namespaces().context("cannot prepare the folder of network namespaces")?;
    let wire = namespace(&lab.netns(WIRE))?;
    let outside = namespace(&lab.netns(OUTSIDE))?;
    netns::run_in(wire.as_fd(), forward)??;
    for link in 0..layout.links {
        add_bridge(wire.as_fd(), link, layout.router(link)?)?;
    }
    add_outside(wire.as_fd(), outside.as_fd())
}

/// Makes the namespace of a node and plugs it into the wire.
///
/// # Errors
/// When the node's namespace is there already, or the kernel refuses.
pub fn plug(lab: &LabName, node: &str, index: u32, layout: Layout) -> Result<()> {
    let wire = open(&lab.netns(WIRE))?;
    let node = namespace(&lab.netns(node))?;
    let bridge = link(&bridge(layout.link_of(index)))?;
    let (port, uplink) = (link(&port(index))?, link(INTERFACE)?);
    let mut on_wire = Rtnl::open_in(wire.as_fd())?;
    on_wire.add_veth(&port, mtu()?, &uplink, node.as_fd())?;
    on_wire.set_master(&port, &bridge)?;
    on_wire.set_up(&port)?;
    let mut on_node = Rtnl::open_in(node.as_fd())?;
    netns::run_in(node.as_fd(), || skip_dad(&uplink))??;
    on_node.set_up(&uplink)?;
    on_wire.sync_carrier(&port);
    on_wire.sync_carrier(&bridge);
    on_node.add_address(&uplink, layout.node_address(index)?)?;
    on_node.add_route(None, layout.router(layout.link_of(index))?.address())?;
    Ok(())
}

/// The name of a node's port on the wire, by its number.
pub(crate) fn port(index: u32) -> String {
    format!("port{index}")
}

/// Makes a namespace whose loopback link is up.
///
/// # Errors
/// When the name is taken.
pub fn namespace(name: &str) -> Result<OwnedFd> {
    let made = netns::create(name).with_context(|| format!("cannot make the network namespace {name}"))?;
    Rtnl::open_in(made.as_fd())?.set_up(&link("lo")?)?;
    Ok(made)
}

/// Opens a namespace by its name.
///
/// # Errors
/// When there is none.
pub fn open(name: &str) -> Result<OwnedFd> {
    Ok(netns::open(&Path::new(netns::DIRECTORY).join(name))?)
}

fn add_bridge(wire: BorrowedFd<'_>, number: u8, router: InterfaceAddress) -> Result<()> {
    let bridge = link(&bridge(number))?;
    let mut on_wire = Rtnl::open_in(wire)?;
    on_wire.add_bridge(&bridge, mtu()?)?;
    // The router's for good: nodes keep it as their neighbor's while others join and go. It ends like the router's address.
    on_wire.set_mac(&bridge, Mac::local([0, 0, 0, 0xff, 0xfe, number]))?;
    netns::run_in(wire, || skip_dad(&bridge))??;
    on_wire.set_up(&bridge)?;
    on_wire.add_address(&bridge, router)?;
    Ok(())
}

fn add_outside(wire: BorrowedFd<'_>, outside: BorrowedFd<'_>) -> Result<()> {
    let (near, far) = (link(OUTSIDE)?, link(INTERFACE)?);
    let mut on_wire = Rtnl::open_in(wire)?;
    on_wire.add_veth(&near, mtu()?, &far, outside)?;
    netns::run_in(wire, || skip_dad(&near))??;
    on_wire.set_up(&near)?;
    let mut on_outside = Rtnl::open_in(outside)?;
    netns::run_in(outside, || skip_dad(&far))??;
    on_outside.set_up(&far)?;
    on_wire.sync_carrier(&near);
    for network in OUTSIDE_NETWORKS {
        let network = network.parse()?;
        let router = interface_address(network, 1)?;
        on_wire.add_address(&near, router)?;
        on_outside.add_address(&far, interface_address(network, 2)?)?;
        on_outside.add_route(None, router.address())?;
    }
    Ok(())
}

/// Makes the calling thread's namespace a router whose bridges are plain wires.
fn forward() -> Result<()> {
    let settings =
        FORWARDING.map(|name| (name, "1")).into_iter().chain(BRIDGE_SETTINGS.map(|name| (name, "0")));
    for (name, value) in settings {
        let path = Path::new("/proc/sys/net").join(name);
        // Without br_netfilter there is nothing to switch off.
        if path.exists() {
            fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

/// Nobody else has these addresses. Until the link-local one is known to be its own, nearly two seconds, a node or router asks
/// for no neighbor for what it forwards (net/ipv6/ndisc.c, `ndisc_send_ns`).
fn skip_dad(link: &IfName) -> Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{link}/accept_dad");
    // Without IPv6 there is nothing to skip.
    if Path::new(&path).exists() {
        fs::write(&path, "0").with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

fn interface_address(network: Cidr, position: u128) -> Result<InterfaceAddress> {
    let address: Option<IpAddr> = network.nth(position);
    address
        .and_then(|address| InterfaceAddress::new(address, network.length()))
        .with_context(|| format!("{network} has no address number {position}"))
}

fn mtu() -> Result<Mtu> {
    Ok(MTU.try_into()?)
}

fn link(name: &str) -> Result<IfName> {
    Ok(name.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_addresses_that_tell_their_number() {
        let address = |underlay, index| one(underlay).node_address(index).unwrap().to_string();
        assert_eq!(address(Family::Ipv4, 0), "172.30.0.1/16");
        assert_eq!(address(Family::Ipv4, 251), "172.30.1.2/16");
        assert_eq!(address(Family::Ipv6, 19), "fd00:30::14/64");
    }

    fn one(underlay: Family) -> Layout {
        Layout { underlay, links: 1 }
    }

    #[test]
    fn nodes_are_spread_over_the_links() {
        for (underlay, expected) in [
            (Family::Ipv4, ["172.30.0.1/16", "172.29.0.2/16", "172.30.0.3/16"]),
            (Family::Ipv6, ["fd00:30::1/64", "fd00:30:0:1::2/64", "fd00:30::3/64"]),
        ] {
            let two = Layout { underlay, links: 2 };
            assert_eq!([0, 1, 2].map(|index| two.node_address(index).unwrap().to_string()), expected);
        }
        assert_eq!([0, 1, 7].map(bridge), ["wire", "wire2", "wire8"]);
    }

    #[test]
    fn the_router_is_at_the_top() {
        assert_eq!(one(Family::Ipv4).router(0).unwrap().to_string(), "172.30.255.254/16");
        assert_eq!(one(Family::Ipv6).router(0).unwrap().to_string(), "fd00:30::ffff:ffff:ffff:fffe/64");
    }
}
