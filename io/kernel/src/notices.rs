//! What the kernel tells of its own accord (rtnetlink(7), multicast groups).

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_REPLACE, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_sys::Socket;
use nix::sys::socket::{setsockopt, sockopt};
use tartan_host::{ForeignLink, Key, Notice, Route, Row, Sysctl, SysctlKey};
use tartan_model::{Cidr, Family, IfName};

use crate::KernelError;
use crate::marks::PROTOCOL;
use crate::read::{Known, Links, Seen, interface_address, route_key};
use crate::rtnl::{self, DATAGRAM, Message, Messages};

/// Room for notices that nobody has taken yet: about 10,000 routes.
const QUEUE: usize = 8 << 20;

/// RTNLGRP_LINK, NEIGH, TC, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE, IPV4_NETCONF, IPV6_NETCONF
/// (linux/rtnetlink.h).
const GROUPS: [u32; 9] = [1, 3, 4, 5, 7, 9, 11, 24, 25];
/// A setting of one link, or of all, changed (linux/rtnetlink.h).
const RTM_NEWNETCONF: u16 = 80;

/// What the kernel told since the last time, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notices {
    /// Changes of our rows, and of foreign links.
    pub rows: Vec<Notice>,
    /// Routes of ours may have gone without a word, with an address: the kernel flushes IPv4 routes in silence with
    /// their source or the last IPv4 address of their link (`fib_sync_down_addr`, `fib_disable_ip`), and takes the
    /// source from IPv6 routes. Read the routes anew. What goes with a link is among `rows`.
    pub routes_stale: bool,
    /// Somebody else changed our nftables: read the ruleset anew.
    pub ruleset_stale: bool,
    /// The same of the table of policies.
    pub policy_stale: bool,
    /// A link or an address that could be the uplink's, a default route, or one to where the uplink leads, changed: look at
    /// the uplink anew.
    pub underlay: bool,
    /// Some notices are missing: read everything anew.
    pub lost: bool,
}

/// The socket that notices come by; it never blocks.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Listener {
    pub(crate) fn open() -> Result<Listener, KernelError> {
        let socket = rtnl::socket().map_err(KernelError::Socket)?;
        setsockopt(&socket, sockopt::RcvBufForce, &QUEUE).map_err(|e| KernelError::Socket(e.into()))?;
        for group in GROUPS {
            socket.add_membership(group).map_err(KernelError::Socket)?;
        }
        Ok(Listener { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Hands over all that has come; false if something was lost (ENOBUFS, or a datagram that does not fit).
    pub(crate) fn drain(&mut self, mut each: impl FnMut(Message<'_>)) -> bool {
        let mut whole = true;
        loop {
            match rtnl::receive(&self.socket, &mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(()) => Messages(&self.buffer).for_each(&mut each),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return whole,
                Err(error) => {
                    whole = false;
                    // Any other error would come again, so it must not be waited out here.
                    if !matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EMSGSIZE)) {
                        return whole;
                    }
                }
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Destination and metric.
type RouteKey = (Cidr, u32);

/// What our routes stand on, as far as it was told: when it goes, they may go in silence.
#[derive(Debug, Default)]
pub(crate) struct Footing {
    routes: HashMap<RouteKey, (Option<IfName>, Option<IpAddr>)>,
    links: HashMap<IfName, BTreeSet<RouteKey>>,
    sources: HashMap<IpAddr, BTreeSet<RouteKey>>,
}

impl Footing {
    pub(crate) fn add(&mut self, route: &Route) {
        let key = (route.dst, route.metric);
        self.remove(key);
        if let Some(link) = route.link() {
            self.links.entry(link.clone()).or_default().insert(key);
        }
        if let Some(source) = route.source {
            self.sources.entry(source).or_default().insert(key);
        }
        self.routes.insert(key, (route.link().cloned(), route.source));
    }

    pub(crate) fn clear(&mut self) {
        *self = Footing::default();
    }

    fn remove(&mut self, key: RouteKey) {
        let Some((link, source)) = self.routes.remove(&key) else { return };
        if let Some(link) = link {
            take_out(&mut self.links, link, &key);
        }
        if let Some(source) = source {
            take_out(&mut self.sources, source, &key);
        }
    }

    /// Lets go of the routes on a link, and gives them back.
    fn take(&mut self, link: &IfName) -> BTreeSet<RouteKey> {
        let routes = self.links.get(link).cloned().unwrap_or_default();
        routes.iter().for_each(|key| self.remove(*key));
        routes
    }

    fn is_under(&self, link: &IfName, family: Option<Family>) -> bool {
        self.links.get(link).is_some_and(|routes| {
            routes.iter().any(|(dst, _)| family.is_none_or(|family| dst.family() == family))
        })
    }
}

/// Takes a route out of one of the sets, and the set out once it is empty.
fn take_out<K: Hash + Eq>(sets: &mut HashMap<K, BTreeSet<RouteKey>>, at: K, key: &RouteKey) {
    if let Entry::Occupied(mut set) = sets.entry(at) {
        set.get_mut().remove(key);
        if set.get().is_empty() {
            set.remove();
        }
    }
}

/// Understands one notice after the other.
pub(crate) struct Hearing<'a> {
    pub(crate) links: &'a mut Links,
    pub(crate) footing: &'a mut Footing,
    /// The uplink is where this address is reached.
    pub(crate) sought: Option<IpAddr>,
    /// The settings that are asked for.
    pub(crate) told: &'a mut BTreeSet<SysctlKey>,
    pub(crate) notices: &'a mut Notices,
    /// Settings among them whose files are those of another link now.
    pub(crate) other_files: Vec<SysctlKey>,
    /// Links, by index, that are new or gone, or whose classifiers somebody may have changed.
    pub(crate) classifiers: BTreeSet<u32>,
}

impl Hearing<'_> {
    /// Foreign routes and neighbours are told by a few bytes at fixed places, and not parsed.
    pub(crate) fn hear(&mut self, message: Message<'_>) {
        let understood = match message.kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => self.link(message),
            libc::RTM_NEWADDR | libc::RTM_DELADDR => self.address(message),
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => self.route(message),
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => self.neighbor(message),
            RTM_NEWNETCONF => self.setting(message),
            // struct tcmsg has the index behind the family (linux/rtnetlink.h).
            libc::RTM_DELQDISC | libc::RTM_NEWTFILTER | libc::RTM_DELTFILTER => {
                self.classifiers.insert(message.word(4));
                Some(())
            }
            _ => Some(()),
        };
        if understood.is_none() {
            tracing::debug!(kind = message.kind, "a notice of the kernel could not be read");
            self.notices.lost = true;
        }
    }

    fn is(&mut self, row: Row) {
        self.notices.rows.push(Notice::Is(row));
    }

    fn gone(&mut self, key: Key) {
        self.notices.rows.push(Notice::Gone(key));
    }

    fn link(&mut self, message: Message<'_>) -> Option<()> {
        // A bridge tells of its ports with this family, also that they left it (`br_ifinfo_notify`).
        if i32::from(message.byte(0)) != libc::AF_UNSPEC {
            return Some(());
        }
        let Ok(parsed) = message.parse() else {
            // Reading everything anew would not make a foreign link more readable.
            return self.links.ours(message.link_index()?).is_none().then_some(());
        };
        match parsed {
            RouteNetlinkMessage::NewLink(link) => {
                // A name that we cannot write down is no name of ours.
                if let Some(seen) = Seen::of(&link) {
                    self.link_is(&seen);
                }
            }
            RouteNetlinkMessage::DelLink(link) => self.link_gone(link.header.index),
            _ => {}
        }
        Some(())
    }

    fn link_is(&mut self, seen: &Seen) {
        let row = self.links.row(seen);
        let before = self.links.learn(seen);
        if let Some(before) = &before
            && (before.name != seen.name || before.ours && row.is_none())
        {
            // The routes stay, and may have to be told by another name.
            self.notices.routes_stale |= self.footing.is_under(&before.name, None);
            self.gone(Key::Link(before.name.clone()));
            // What is on it is known by its old name.
            self.notices.lost |= before.name != seen.name && row.is_some();
        }
        if !seen.up {
            self.flushed(&seen.name);
        }
        match row {
            Some(row) => {
                // It may come from another namespace, where nobody guards it.
                if before.is_none_or(|before| !before.ours) {
                    self.classifiers.insert(seen.index);
                }
                self.is(Row::Link(row));
            }
            None => {
                let now = Known { name: seen.name.clone(), ours: false, up: seen.up, mtu: seen.mtu };
                if before.as_ref() != Some(&now) {
                    if before.is_none_or(|before| before.name != now.name) {
                        let settings =
                            [SysctlKey::AcceptRa, SysctlKey::UplinkForward, SysctlKey::UplinkReverse];
                        let settings = settings.map(|setting| setting(now.name.clone()));
                        self.other_files.extend(settings.into_iter().filter(|key| self.told.contains(key)));
                    }
                    self.notices.underlay |= !self.links.is_our_name(&now.name);
                    self.notices.rows.push(Notice::Foreign(now.name, ForeignLink { up: now.up }));
                }
            }
        }
    }

    fn link_gone(&mut self, index: u32) {
        if let Some(before) = self.links.forget(index) {
            self.classifiers.insert(index);
            // Names are not used again, and nobody asks for their settings any more.
            self.told.remove(&SysctlKey::LinkForward(before.name.clone()));
            self.told.remove(&SysctlKey::LinkReverse(before.name.clone()));
            self.told.remove(&SysctlKey::NoIpv6(before.name.clone()));
            self.flushed(&before.name);
            self.notices.underlay |= !self.links.is_our_name(&before.name);
            self.gone(Key::Link(before.name));
        }
    }

    /// A link is down or gone, and with it the routes on it, those of IPv4 in silence (`fib_sync_down_dev`).
    fn flushed(&mut self, link: &IfName) {
        for (dst, metric) in self.footing.take(link) {
            self.gone(Key::Route(dst, metric));
        }
    }

    fn address(&mut self, message: Message<'_>) -> Option<()> {
        let index = message.word(4);
        let may_be_ours = self.links.ours(index).is_some() || self.links.is_loopback(index);
        if !may_be_ours && message.kind == libc::RTM_NEWADDR {
            self.notices.underlay |= self.links.is_underlay(index);
            return Some(());
        }
        let (RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address)) =
            message.parse().ok()?
        else {
            return None;
        };
        let row = self.links.address(&address);
        self.notices.underlay |= row.is_none() && self.links.is_underlay(index);
        let there = message.kind == libc::RTM_NEWADDR;
        if !there {
            self.address_lost(index, interface_address(&address)?.address());
        }
        match row {
            Some(row) if there => self.is(Row::Address(row)),
            Some(row) => self.gone(Key::Address(row.link, row.address)),
            // Somebody may have put another mark in the place of ours.
            None if self.links.is_loopback(index) => {
                let name = self.links.name(index)?.clone();
                self.gone(Key::Address(name, interface_address(&address)?));
            }
            None => {}
        }
        Some(())
    }

    /// Other links may have the same address, and this link others: only the kernel knows whether routes went.
    fn address_lost(&mut self, link: u32, address: IpAddr) {
        let family = Family::of(address);
        let link = self.links.name(link).filter(|_| family == Family::Ipv4);
        self.notices.routes_stale |= self.footing.sources.contains_key(&address)
            || link.is_some_and(|link| self.footing.is_under(link, Some(family)));
    }

    fn route(&mut self, message: Message<'_>) -> Option<()> {
        // struct rtmsg: destination length, table and protocol are bytes 1, 4 and 5; RTM_F_CLONED marks cached copies.
        const RTM_F_CLONED: u32 = 0x200;
        if message.byte(4) != libc::RT_TABLE_MAIN || message.word(8) & RTM_F_CLONED != 0 {
            return Some(());
        }
        let ours = message.byte(5) == PROTOCOL;
        let replaced = message.kind == libc::RTM_NEWROUTE && message.flags & NLM_F_REPLACE != 0;
        self.notices.underlay |= !ours && message.byte(1) == 0;
        if !ours && !replaced && self.sought.is_none() {
            return Some(());
        }
        let route = match message.parse() {
            Ok(RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route)) => route,
            // Reading everything anew would not make a foreign route more readable.
            _ => return (!ours && !replaced).then_some(()),
        };
        let leads_to = |sought: &IpAddr| route_key(&route).is_some_and(|(dst, _)| dst.contains(*sought));
        self.notices.underlay |= !ours && self.sought.as_ref().is_some_and(leads_to);
        if !ours && !replaced {
            return Some(());
        }
        let row = self.links.route(&route).filter(|_| message.kind == libc::RTM_NEWROUTE);
        match row {
            Some(row) => {
                self.footing.add(&row);
                self.is(Row::Route(row));
            }
            // Gone, or a foreign route was put in the place of one that may be ours, of which the kernel says no more.
            None => {
                let (dst, metric) = route_key(&route)?;
                self.footing.remove((dst, metric));
                self.gone(Key::Route(dst, metric));
            }
        }
        Some(())
    }

    /// struct netconfmsg is the family alone, which attributes follow (linux/netconf.h).
    fn setting(&mut self, message: Message<'_>) -> Option<()> {
        const NETCONFA_IFINDEX: u16 = 1;
        const NETCONFA_FORWARDING: u16 = 2;
        const NETCONFA_RP_FILTER: u16 = 3;
        const ALL: i32 = -1;
        let find = |kind: u16| {
            let mut attributes = NlasIterator::new(message.payload.get(4..)?).filter_map(Result::ok);
            let found = attributes.find(|attribute| attribute.kind() == kind)?;
            found.value().try_into().ok().map(i32::from_ne_bytes)
        };
        let value = |kind| find(kind).and_then(|value| u32::try_from(value).ok());
        let (family, index) = (i32::from(message.byte(0)), find(NETCONFA_IFINDEX)?);
        let of_link = |ours: fn(IfName) -> SysctlKey, other: fn(IfName) -> SysctlKey| {
            let index = index.cast_unsigned();
            let own = self.links.ours(index).cloned().map(ours);
            own.or_else(|| self.links.name(index).cloned().map(other)).filter(|_| family == libc::AF_INET)
        };
        let forwarding = match (family, index) {
            (libc::AF_INET, ALL) => Some(SysctlKey::Ipv4Forward),
            (libc::AF_INET6, ALL) => Some(SysctlKey::Ipv6Forward),
            _ => of_link(SysctlKey::LinkForward, SysctlKey::UplinkForward),
        };
        let reverse = of_link(SysctlKey::LinkReverse, SysctlKey::UplinkReverse);
        let told = [(forwarding, value(NETCONFA_FORWARDING)), (reverse, value(NETCONFA_RP_FILTER))];
        for (key, value) in told.into_iter().filter_map(|(key, value)| key.zip(value)) {
            if self.told.contains(&key) {
                self.is(Row::Sysctl(Sysctl { key, value }));
            }
        }
        Some(())
    }

    fn neighbor(&mut self, message: Message<'_>) -> Option<()> {
        // struct ndmsg: family and link are at 0 and 4.
        if self.links.ours(message.word(4)).is_none() {
            return Some(());
        }
        let there = message.kind == libc::RTM_NEWNEIGH;
        let (RouteNetlinkMessage::NewNeighbour(entry) | RouteNetlinkMessage::DelNeighbour(entry)) =
            message.parse().ok()?
        else {
            return None;
        };
        if i32::from(message.byte(0)) == libc::AF_BRIDGE {
            self.fdb(&entry, there);
        } else if let Some((key, row)) = self.links.neighbor(&entry) {
            match row.filter(|_| there) {
                Some(row) => self.is(Row::Neighbor(row)),
                None => self.gone(key),
            }
        }
        Some(())
    }

    fn fdb(&mut self, entry: &NeighbourMessage, there: bool) {
        match self.links.fdb(entry) {
            Some(row) if there => self.is(Row::Fdb(row)),
            Some(row) => self.gone(Key::Fdb(row.link, row.mac)),
            None => {}
        }
    }
}
