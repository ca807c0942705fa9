//! What Linux takes along when a link or an address changes or goes.
//!
//! Seen on Linux 6.18; the kernel's functions are named beside each rule.

use std::net::IpAddr;

use tartan_model::{Family, IfName, Mtu};

use crate::{Address, Host, Key, Link, Route, Row};

impl Host {
    /// What a changed link takes along; the link itself is not touched.
    pub(crate) fn link_changed(&mut self, from: &Link, to: &Link) {
        if from.up && !to.up {
            self.link_down(&from.name);
        }
        // `neigh_changeaddr`: permanent neighbours of both families go too. So does any setting of the address, even
        // to what it is, which is why the hand sends it only where it differs.
        if from.mac != to.mac {
            self.forget(|row| matches!(row, Row::Neighbor(found) if found.link == from.name));
        }
        // `addrconf_notify`, NETDEV_CHANGEMTU: under 1280 bytes IPv6 leaves the link.
        if to.mtu < Mtu::IPV6_MIN {
            self.forget(|row| row.on() == Some(&from.name) && family_of(row) == Some(Family::Ipv6));
        }
    }

    /// Routes and neighbours of both families and IPv6 addresses go (`fib_disable_ip`, `addrconf_ifdown` without
    /// `keep_addr_on_down`, `neigh_ifdown`). IPv4 addresses and the permanent entries of a VXLAN device stay, and so do
    /// routes on other links that name a lost address as their source.
    fn link_down(&mut self, name: &IfName) {
        self.forget(|row| match row {
            Row::Address(found) => found.link == *name && found.address.family() == Family::Ipv6,
            Row::Neighbor(found) => found.link == *name,
            Row::Route(found) => found.link() == Some(name),
            Row::Ruleset(_)
            | Row::Element(_)
            | Row::Policy(_)
            | Row::Sysctl(_)
            | Row::Link(_)
            | Row::Fdb(_) => false,
        });
    }

    /// A link goes with everything on it; a bridge lets its ports go. Routes on other links lose an IPv4 source
    /// with it and keep an IPv6 one.
    pub(crate) fn drop_link(&mut self, name: &IfName) {
        let held: Vec<IpAddr> = self.addresses_on(name).map(|found| found.address.address()).collect();
        self.rows.remove(&Key::Link(name.clone()));
        self.forget_link(name);
        for source in held.into_iter().filter(|source| source.is_ipv4()) {
            self.source_lost(source);
        }
        self.release_ports(name);
    }

    fn release_ports(&mut self, master: &IfName) {
        let ports = self.links().filter(|link| link.master.as_ref() == Some(master));
        let free: Vec<Row> = ports.map(|port| Row::Link(port.released())).collect();
        self.rows.extend(free);
    }

    /// With the last IPv4 address of a link go its IPv4 routes and neighbours (`fib_inetaddr_event`, `fib_disable_ip`);
    /// IPv6 has no such rule.
    pub(crate) fn drop_address(&mut self, gone: &Address) {
        self.rows.remove(&Row::Address(gone.clone()).key());
        let ipv4 = |row: &Row| family_of(row) == Some(Family::Ipv4);
        let last = !self.addresses_on(&gone.link).any(|found| found.address.family() == Family::Ipv4);
        if gone.address.family() == Family::Ipv4 && last {
            self.forget(|row| row.on() == Some(&gone.link) && ipv4(row));
        }
        self.source_lost(gone.address.address());
    }

    /// Once no link has the address, IPv4 routes with it as their source go (`fib_sync_down_addr`), IPv6 routes
    /// stay without a source (`rt6_remove_prefsrc`).
    fn source_lost(&mut self, source: IpAddr) {
        let lost = |row: &&Row| match row {
            Row::Route(route) => route.source == Some(source) && !self.has_address(source, route.link()),
            _ => false,
        };
        let routes: Vec<Row> = self.rows.iter().filter(lost).cloned().collect();
        for route in &routes {
            self.rows.remove(&route.key());
        }
        self.rows.extend(routes.iter().filter_map(without_source));
    }

    fn forget(&mut self, lost: impl Fn(&Row) -> bool) {
        self.rows.retain(|row| !lost(row));
    }

    /// Our links.
    pub(crate) fn links(&self) -> impl Iterator<Item = &Link> {
        self.rows.iter().filter_map(|row| if let Row::Link(link) = row { Some(link) } else { None })
    }

    /// Our addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.rows.iter().filter_map(|row| if let Row::Address(address) = row { Some(address) } else { None })
    }

    /// Our routes.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Route> {
        self.rows.iter().filter_map(|row| if let Row::Route(route) = row { Some(route) } else { None })
    }

    fn addresses_on<'a>(&'a self, link: &'a IfName) -> impl Iterator<Item = &'a Address> {
        self.addresses().filter(move |found| found.link == *link)
    }

    /// Whether some link has this address, up or down; an IPv6 link-local one counts on that link only
    /// (`ipv6_chk_addr`).
    pub(crate) fn has_address(&self, address: IpAddr, on: Option<&IfName>) -> bool {
        let local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        self.addresses().any(|own| own.address.address() == address && (!local || Some(&own.link) == on))
    }
}

/// An IPv6 route as it is once its source is lost; None for IPv4, where the route goes.
fn without_source(row: &Row) -> Option<Row> {
    match row {
        Row::Route(route) if route.dst.family() == Family::Ipv6 => {
            Some(Row::Route(Route { source: None, ..route.clone() }))
        }
        _ => None,
    }
}

/// The address family of a row that lives by one; a forwarding entry belongs to Ethernet.
fn family_of(row: &Row) -> Option<Family> {
    match row {
        Row::Address(row) => Some(row.address.family()),
        Row::Neighbor(row) => Some(Family::of(row.address)),
        Row::Route(row) => Some(row.dst.family()),
        Row::Ruleset(_) | Row::Element(_) | Row::Policy(_) | Row::Sysctl(_) | Row::Link(_) | Row::Fdb(_) => {
            None
        }
    }
}
