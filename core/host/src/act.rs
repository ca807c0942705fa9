//! A kernel made of data: it takes the same steps as Linux, with the same side effects and the same errors.
//!
//! Every rule here was seen on Linux 6.18 with iproute2 in a scratch namespace; the functions of the kernel's source
//! that make it so are named beside it. The order of checks is the kernel's: link, link up, gateway, source, exists.
//!
//! Left out, so plans that lean on it are not judged: which of two IPv4 addresses in one network of one link is the
//! primary one (removing it removes the others unless `promote_secondaries` is set), a bridge whose MTU follows its
//! ports until it is set apart from them, what the other end of a veth has in its namespace, a link that has IPv6
//! switched off by its setting, the link-local address of
//! a link whose MTU comes back over the minimum of IPv6, and the removal of an IPv4 route of metric 0 that is not
//! there: the kernel takes that for any metric (`fib_nh_match`), and removes the next of ours.

use std::cmp::Reverse;
use std::net::IpAddr;

use tartan_model::{Cidr, Family, IfName, Mtu};

use crate::{
    Address, Element, Fdb, Host, Key, Link, LinkKind, Neighbor, Route, RouteKind, Row, Ruleset, Step,
    StepError, Sysctl, SysctlKey,
};

/// `EAFNOSUPPORT` (errno(3)).
const ADDRESS_FAMILY: i32 = 97;
/// `ELOOP` (errno(3)).
const LOOP: i32 = 40;

impl Host {
    /// Takes one step, with everything that Linux does along with it.
    ///
    /// # Errors
    /// As Linux does; the host is then as before, but for two: an IPv6 route that was to be changed and whose new link is
    /// there is gone, and of a link that was to be changed only the master is not as it was to be.
    pub fn act(&mut self, step: &Step) -> Result<(), StepError> {
        match step {
            Step::Create { row: Row::Route(route) } => self.create_route(route),
            Step::Create { row: Row::Link(link) } => self.create_link(link),
            Step::Change { from, to: Row::Route(route) } => self.change_route(&from.key(), route),
            Step::Change { to: Row::Link(link), .. } => self.change_link(link),
            Step::Create { row } | Step::Change { to: row, .. } => self.put(row),
            Step::Remove { row: Row::Policy(row) } => self.remove_policy(row.key()),
            Step::Remove { row } => {
                self.take_away(&row.key());
                Ok(())
            }
        }
    }

    /// The tables whose entries are made and replaced in one way (NLM_F_CREATE | NLM_F_REPLACE).
    fn put(&mut self, row: &Row) -> Result<(), StepError> {
        match row {
            Row::Ruleset(ruleset) => {
                self.put_ruleset(ruleset);
                Ok(())
            }
            Row::Element(element) => self.put_element(element),
            Row::Policy(row) => self.put_policy(row),
            Row::Sysctl(sysctl) => self.set(sysctl),
            Row::Address(address) => self.put_address(address),
            Row::Fdb(fdb) => self.put_fdb(fdb),
            Row::Neighbor(neighbor) => self.put_neighbor(neighbor),
            Row::Link(link) => self.create_link(link),
            Row::Route(route) => self.create_route(route),
        }
    }

    /// What is not known to be needed or not stays as it is.
    fn put_ruleset(&mut self, ruleset: &Ruleset) {
        let had = match self.rows.get(&Key::Ruleset) {
            Some(Row::Ruleset(had)) => had.parts,
            _ => None,
        };
        let parts = ruleset.parts.or(had).unwrap_or_default();
        self.rows.insert(Row::Ruleset(Ruleset { intact: true, parts: Some(parts) }));
    }

    /// A setting of a link is a file that comes and goes with the link.
    fn set(&mut self, sysctl: &Sysctl) -> Result<(), StepError> {
        sysctl.key.link().map(|link| self.link_up(link)).transpose()?;
        self.rows.insert(Row::Sysctl(sysctl.clone()));
        if sysctl.key == SysctlKey::Ipv4Forward {
            self.forward_all(sysctl.value);
        }
        Ok(())
    }

    fn put_element(&mut self, element: &Element) -> Result<(), StepError> {
        if self.rows.get(&Key::Ruleset).is_none() {
            return Err(StepError::NoRuleset);
        }
        // Ranges of one set share nothing (net/netfilter/nft_set_pipapo.c, `nft_pipapo_insert`).
        let meets = |row: &Row| match row {
            Row::Element(other) => {
                *other != *element && other.table == element.table && overlap(element, other)
            }
            _ => false,
        };
        if self.rows.iter().any(meets) {
            return Err(StepError::Exists);
        }
        self.rows.insert(Row::Element(element.clone()));
        Ok(())
    }

    /// The switch for all links sets each of them (net/ipv4/devinet.c, `inet_forward_change`).
    fn forward_all(&mut self, value: u32) {
        let each = self.rows.iter().filter_map(|row| match row {
            Row::Sysctl(Sysctl { key, .. })
                if matches!(key, SysctlKey::LinkForward(_) | SysctlKey::UplinkForward(_)) =>
            {
                Some(key.clone())
            }
            _ => None,
        });
        let set: Vec<Row> = each.map(|key| Row::Sysctl(Sysctl { key, value })).collect();
        self.rows.extend(set);
    }

    fn create_link(&mut self, link: &Link) -> Result<(), StepError> {
        let taken = self.rows.link(&link.name).is_some() || self.foreign.contains_key(&link.name);
        if taken {
            return Err(StepError::Exists);
        }
        if link.kind == LinkKind::Veth && link.peer.is_none() {
            return Err(StepError::NoNamespace);
        }
        // The hand looks for the master before it begins; the kernel makes the link before it looks at what that is.
        link.master.as_ref().map(|master| self.link_up(master)).transpose()?;
        if self.has_vxlan_like(&link.kind) {
            return Err(StepError::SameTunnel);
        }
        self.check_master(link)?;
        self.rows.insert(Row::Link(Link { peer: None, ..link.clone() }));
        Ok(())
    }

    /// One network id, port and underlay family belong to one device, whatever its local address (`vxlan_config_validate`).
    fn has_vxlan_like(&self, kind: &LinkKind) -> bool {
        let LinkKind::Vxlan { vni, local, port } = kind else { return false };
        self.links().any(|other| match &other.kind {
            LinkKind::Vxlan { vni: v, local: l, port: p } => {
                (v, p, Family::of(*l)) == (vni, port, Family::of(*local))
            }
            _ => false,
        })
    }

    /// Only a bridge takes ports, and no bridge as a port (`do_set_master`, `br_add_if`). What a foreign link is, is
    /// not known.
    fn check_master(&self, link: &Link) -> Result<(), StepError> {
        let Some(master) = &link.master else { return Ok(()) };
        match self.rows.link(master).map(|master| &master.kind) {
            Some(LinkKind::Bridge) if link.kind == LinkKind::Bridge => {
                Err(StepError::Kernel { errno: LOOP, text: "Can not enslave a bridge to a bridge".into() })
            }
            Some(LinkKind::Bridge) => Ok(()),
            None if self.foreign.contains_key(master) => Ok(()),
            _ => Err(StepError::NoLink),
        }
    }

    /// What a link is cannot be changed, so it stays. The kernel turns to the master last, and lets go of the old one
    /// before it looks at the new one (`do_setlink`, `do_set_master`).
    fn change_link(&mut self, to: &Link) -> Result<(), StepError> {
        let from = self.rows.link(&to.name).ok_or(StepError::Gone)?.clone();
        to.master.as_ref().map(|master| self.link_up(master)).transpose()?;
        let mut to = Link { kind: from.kind.clone(), peer: None, ..to.clone() };
        let mastered = self.check_master(&to);
        if mastered.is_err() {
            to.master = None;
        }
        to.translated &= to.kind == LinkKind::Bridge || to.master.is_some();
        self.link_changed(&from, &to);
        self.rows.insert(Row::Link(to));
        mastered
    }

    /// An address that is there already keeps its scope, and an IPv6 address its length: a replacement only changes
    /// lifetimes, flags and metric (`inet_rtm_newaddr`, `inet6_addr_modify`).
    fn put_address(&mut self, address: &Address) -> Result<(), StepError> {
        let family = address.address.family();
        self.link_up_for(&address.link, family)?;
        let same = |found: &Address| {
            found.link == address.link
                && found.address.address() == address.address.address()
                && (family == Family::Ipv6 || found.address == address.address)
        };
        let there = self.addresses().any(same);
        // Where others have theirs none is replaced.
        if there && address.link == IfName::LOOPBACK {
            return Err(StepError::Exists);
        }
        if !there {
            self.rows.insert(Row::Address(address.clone()));
        }
        Ok(())
    }

    /// On what is not a VXLAN device the kernel takes the entry, but without a destination (`ndo_dflt_fdb_add`): no
    /// row of ours.
    fn put_fdb(&mut self, fdb: &Fdb) -> Result<(), StepError> {
        self.link_up(&fdb.link)?;
        match self.rows.link(&fdb.link).map(|link| &link.kind) {
            Some(LinkKind::Vxlan { local, .. }) if Family::of(*local) != Family::of(fdb.dst) => {
                Err(StepError::Kernel {
                    errno: ADDRESS_FAMILY,
                    text: "Address family not supported by protocol".into(),
                })
            }
            Some(LinkKind::Vxlan { .. }) => {
                self.rows.insert(Row::Fdb(fdb.clone()));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A permanent neighbour may be made on a link that is down.
    fn put_neighbor(&mut self, neighbor: &Neighbor) -> Result<(), StepError> {
        self.link_up_for(&neighbor.link, Family::of(neighbor.address))?;
        self.rows.insert(Row::Neighbor(neighbor.clone()));
        Ok(())
    }

    fn create_route(&mut self, route: &Route) -> Result<(), StepError> {
        self.check_route(route)?;
        if self.rows.get(&Key::Route(route.dst, route.metric)).is_some() || self.is_connected(route) {
            return Err(StepError::Exists);
        }
        self.rows.insert(Row::Route(route.clone()));
        Ok(())
    }

    /// IPv4 replaces in one, or makes what is not there; for IPv6 a replacement could take over a foreign route of
    /// the same key, so the hand removes and makes, unless the link is not there.
    fn change_route(&mut self, from: &Key, to: &Route) -> Result<(), StepError> {
        to.link().map(|link| self.link_up(link)).transpose()?;
        if to.dst.family() == Family::Ipv6 {
            self.rows.remove(from);
            return self.create_route(to);
        }
        self.check_route(to)?;
        self.rows.insert(Row::Route(to.clone()));
        Ok(())
    }

    /// `fib_check_nh` and `fib_create_info` for IPv4, `ip6_route_info_create` for IPv6.
    fn check_route(&self, route: &Route) -> Result<(), StepError> {
        let family = route.dst.family();
        if let Some(link) = route.link()
            && !self.link_up_for(link, family)?
        {
            return Err(StepError::NotReady);
        }
        // An address of this host is no gateway. What addresses foreign links have is not known.
        if let RouteKind::Via { gateway, link } = &route.kind
            && (self.has_address(*gateway, Some(link)) || self.leads_elsewhere(*gateway, link))
        {
            return Err(StepError::NotReady);
        }
        // The kernel does not look at the source of an IPv4 blackhole.
        let unseen = family == Family::Ipv4 && route.kind == RouteKind::Blackhole;
        match route.source {
            Some(source) if !unseen && !self.has_address(source, route.link()) => Err(StepError::NotReady),
            _ => Ok(()),
        }
    }

    /// An IPv6 next hop must not be reached by another link, even if it is said to be on this one, but by a default
    /// route or a blackhole (`ip6_route_check_nh_onlink`); the kernel's own routes have metric 256.
    fn leads_elsewhere(&self, gateway: IpAddr, link: &IfName) -> bool {
        if !matches!(gateway, IpAddr::V6(address) if !address.is_unicast_link_local()) {
            return false;
        }
        let connected = self.addresses().filter(|own| self.link_up(&own.link) == Ok(true));
        let connected = connected.map(|own| (own.address.network(), 256, Some(&own.link)));
        let ways: Vec<_> = self
            .routes()
            .map(|route| (route.dst, route.metric, route.link()))
            .chain(connected)
            .filter(|(dst, ..)| dst.length() > 0 && dst.contains(gateway))
            .collect();
        let rank = |(dst, metric, _): &(Cidr, u32, Option<&IfName>)| (dst.length(), Reverse(*metric));
        let Some(best) = ways.iter().map(rank).max() else { return false };
        ways.iter().filter(|way| rank(way) == best).all(|(.., over)| over.is_some_and(|over| over != link))
    }

    /// The kernel's own route to the network of an IPv4 address has metric 0 and is no row (`fib_add_ifaddr`). That
    /// of an IPv6 address has metric 256.
    fn is_connected(&self, route: &Route) -> bool {
        route.metric == 0
            && route.dst.length() < 32
            && self
                .addresses()
                .any(|own| own.address.network() == route.dst && self.link_up(&own.link) == Ok(true))
    }

    fn take_away(&mut self, key: &Key) {
        match (key, self.rows.get(key).cloned()) {
            // A setting always has a value.
            (Key::Sysctl(_), _) | (_, None) => {}
            (Key::Link(name), _) => self.drop_link(name),
            (Key::Ruleset, _) => self.forget_ruleset(),
            (_, Some(Row::Address(address))) => self.drop_address(&address),
            _ => {
                self.rows.remove(key);
            }
        }
    }

    /// Whether the link is up.
    fn link_up(&self, name: &IfName) -> Result<bool, StepError> {
        let own = self.rows.link(name).map(|link| link.up);
        own.or_else(|| self.foreign.get(name).map(|link| link.up)).ok_or(StepError::NoLink)
    }

    /// Below its minimum MTU a link has no IPv6: EINVAL for addresses and neighbours, ENODEV for routes.
    fn link_up_for(&self, name: &IfName, family: Family) -> Result<bool, StepError> {
        match self.rows.link(name) {
            Some(link) if family == Family::Ipv6 && link.mtu < Mtu::IPV6_MIN => Err(StepError::NoLink),
            _ => self.link_up(name),
        }
    }
}

/// Whether two pairs of ranges of one set share a pair of addresses.
fn overlap(one: &Element, other: &Element) -> bool {
    use crate::Member::{Across, Kept, Masquerade};
    match (&one.member, &other.member) {
        (Masquerade(a, b), Masquerade(c, d)) | (Kept(a, b), Kept(c, d)) | (Across(a, b), Across(c, d)) => {
            a.overlaps(c) && b.overlaps(d)
        }
        _ => false,
    }
}
