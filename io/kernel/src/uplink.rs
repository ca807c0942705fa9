//! Which interface carries traffic between nodes, found in what the kernel has.

use std::net::IpAddr;
use std::os::fd::AsFd;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use tartan_host::{Sysctl, SysctlKey};
use tartan_model::{Cidr, Family, IfName, InterfaceAddress, NoUplink, Uplink, UplinkChoice};

use crate::kernel::Kernel;
use crate::marks::LOOPBACK;
use crate::read::{
    Links, Seen, address_flags, from_route, interface_address, is_router_advertised, oif, route_key,
};
use crate::{KernelError, Request, Rtnl, message, sysctl, tables};

impl Kernel {
    /// Looks for the uplink; or tells why no link is as chosen. From then on changes that the choice depends on are told
    /// of ([`crate::Notices::underlay`]). With `only`, nothing but this address of the link is taken.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn uplink(
        &mut self,
        choice: &UplinkChoice,
        only: Option<IpAddr>,
    ) -> Result<Result<Uplink, NoUplink>, KernelError> {
        self.sought = match choice {
            UplinkChoice::Reaching(address) => Some(*address),
            _ => None,
        };
        let view = View::read(&mut self.requests, &self.links)?;
        let found = match choice {
            UplinkChoice::DefaultRoute => view.of_default_route(),
            UplinkChoice::Named(name) => view.named(name, &self.links),
            UplinkChoice::Like(pattern) => {
                view.first(|link| pattern.fits(&link.name)).ok_or(NoUplink::Unlike(pattern.clone()))
            }
            UplinkChoice::Holding(range) => view
                .first(|link| view.in_range(link.index, range).next().is_some())
                .map(|found| Found { range: Some(*range), ..found })
                .ok_or(NoUplink::NotIn(*range)),
            UplinkChoice::Reaching(address) => {
                self.lookup(*address).and_then(|route| view.reaching(*address, &route))
            }
        };
        let found = found.and_then(|found| view.uplink(&found, only));
        Ok(found.map(|uplink| Uplink {
            accepts_routers: uplink.accepts_routers || self.accepts_routers(&uplink.name),
            is_strict: self.is_strict(&uplink.name),
            ..uplink
        }))
    }

    /// How the kernel would send to an address.
    fn lookup(&mut self, address: IpAddr) -> Result<RouteMessage, NoUplink> {
        let mut wanted = RouteMessage::default();
        let host = Cidr::host(address);
        wanted.header.address_family = message::family(host.family());
        wanted.header.destination_prefix_length = host.length();
        wanted.attributes.push(RouteAttribute::Destination(address.into()));
        let request = Request::new(RouteNetlinkMessage::GetRoute(wanted), 0);
        let mut route = None;
        self.requests.exchange(vec![request], |_, reply| {
            if let Ok(RouteNetlinkMessage::NewRoute(found)) = reply.parse() {
                route = Some(found);
            }
        });
        route.ok_or(NoUplink::Unreachable(address))
    }

    /// Whether a link takes default routes from advertisements, or did before this node forwarded, which ends it unless
    /// told otherwise (ip-sysctl: accept_ra).
    fn accepts_routers(&self, link: &IfName) -> bool {
        let netns = self.netns.as_ref().map(AsFd::as_fd);
        let keys = [SysctlKey::AcceptRa(link.clone()), SysctlKey::Ipv6Forward];
        let values = sysctl::read(netns, &keys).unwrap_or_default();
        let value = |key: &SysctlKey| values.iter().find(|found| found.key == *key).map(|found| found.value);
        let forwarded = self.settings.before(&SysctlKey::Ipv6Forward).or(value(&SysctlKey::Ipv6Forward));
        match value(&SysctlKey::AcceptRa(link.clone())) {
            Some(1) => forwarded == Some(0),
            Some(2) => true,
            _ => false,
        }
    }
}

impl Kernel {
    /// Whether the stricter of the settings for the link and for all, as they were before us, is the strict one.
    fn is_strict(&self, link: &IfName) -> bool {
        let keys =
            ["all".parse().ok(), Some(link.clone())].into_iter().flatten().map(SysctlKey::UplinkReverse);
        let keys: Vec<SysctlKey> = keys.collect();
        let netns = self.netns.as_ref().map(AsFd::as_fd);
        let values = sysctl::read(netns, &keys).unwrap_or_default();
        let before = |found: &Sysctl| self.settings.before(&found.key).unwrap_or(found.value);
        values.iter().map(before).max() == Some(1)
    }
}

/// A link, and which of its addresses to take.
#[derive(Debug, Clone, Copy)]
struct Found {
    link: u32,
    range: Option<Cidr>,
}

/// All that the choice depends on.
struct View {
    /// Those that are up and could be it: short names first, so that `eth2` is before `eth10`.
    links: Vec<Seen>,
    down: Vec<IfName>,
    addresses: Vec<Candidate>,
    defaults: Vec<DefaultRoute>,
}

struct Candidate {
    link: u32,
    address: InterfaceAddress,
    permanent: bool,
    secondary: bool,
}

struct DefaultRoute {
    family: Family,
    link: u32,
    metric: u32,
    advertised: bool,
}

impl View {
    fn read(rtnl: &mut Rtnl, ours: &Links) -> Result<View, KernelError> {
        let dump = rtnl.dump(&tables::links())?;
        let links = dump.messages().filter_map(|message| Seen::read(&message));
        let (mut links, down): (Vec<Seen>, Vec<Seen>) =
            links.filter(|link| !ours.is_our_name(&link.name)).partition(|link| link.up);
        links.sort_by_key(|link| (link.name.as_str().len(), link.name.clone()));
        let down = down.into_iter().map(|link| link.name).collect();
        let mut view = View { links, down, addresses: Vec::new(), defaults: Vec::new() };
        for family in Family::ALL {
            let addresses = rtnl.dump(&tables::addresses(family))?;
            view.addresses.extend(addresses.messages().filter_map(|message| match message.parse() {
                Ok(RouteNetlinkMessage::NewAddress(address)) => candidate(&address),
                _ => None,
            }));
            let routes = tables::dump_routes(rtnl, family, None)?;
            // Byte 1 is the length of the destination: all but default routes are passed over unparsed.
            let routes = routes.messages().filter(|message| message.byte(1) == 0);
            view.defaults.extend(routes.filter_map(|message| match message.parse() {
                Ok(RouteNetlinkMessage::NewRoute(route)) if route.header.kind == RouteType::Unicast => {
                    let (_, metric) = route_key(&route)?;
                    Some(DefaultRoute {
                        family,
                        link: oif(&route)?,
                        metric,
                        advertised: is_router_advertised(&route),
                    })
                }
                _ => None,
            }));
        }
        Ok(view)
    }

    fn of_default_route(&self) -> Result<Found, NoUplink> {
        let mut usable: Vec<&DefaultRoute> =
            self.defaults.iter().filter(|route| self.link(route.link).is_some()).collect();
        usable.sort_by_key(|route| (route.family, route.metric));
        usable.first().map(|route| Found::link(route.link)).ok_or(NoUplink::DefaultRoute)
    }

    fn named(&self, name: &IfName, ours: &Links) -> Result<Found, NoUplink> {
        match self.links.iter().find(|link| link.name == *name) {
            Some(link) => Ok(Found::link(link.index)),
            None if ours.is_our_name(name) => Err(NoUplink::Ours(name.clone())),
            None if self.down.contains(name) => Err(NoUplink::Down(name.clone())),
            None => Err(NoUplink::Absent(name.clone())),
        }
    }

    /// The first fitting link that has an address.
    fn first(&self, fits: impl Fn(&Seen) -> bool) -> Option<Found> {
        let has_address = |link: &Seen| self.addresses.iter().any(|address| address.link == link.index);
        let mut fitting = self.links.iter().filter(|link| has_address(link) && fits(link));
        fitting.next().map(|link| Found::link(link.index))
    }

    fn reaching(&self, address: IpAddr, route: &RouteMessage) -> Result<Found, NoUplink> {
        if route.header.kind == RouteType::Local {
            return Err(NoUplink::Own(address));
        }
        let link = oif(route).filter(|index| self.link(*index).is_some());
        let source = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(source) => from_route(source),
            _ => None,
        });
        let link = link.ok_or(NoUplink::Unreachable(address))?;
        let range = source.map(Cidr::host).filter(|range| self.in_range(link, range).next().is_some());
        Ok(Found { link, range })
    }

    fn link(&self, index: u32) -> Option<&Seen> {
        self.links.iter().find(|link| link.index == index)
    }

    fn in_range(&self, link: u32, range: &Cidr) -> impl Iterator<Item = &Candidate> {
        self.addresses.iter().filter(move |one| one.link == link && range.contains(one.address.address()))
    }

    fn uplink(&self, found: &Found, only: Option<IpAddr>) -> Result<Uplink, NoUplink> {
        // The kernel has no smaller links that carry IP than RFC 791 says.
        let unseen = || NoUplink::Unseen;
        let link = self.link(found.link).ok_or_else(unseen)?;
        let advertised = |route: &DefaultRoute| {
            route.link == link.index && route.family == Family::Ipv6 && route.advertised
        };
        let addresses: Vec<InterfaceAddress> = match only {
            Some(address) => {
                self.in_range(link.index, &Cidr::host(address)).map(|one| one.address).take(1).collect()
            }
            None => Family::ALL
                .iter()
                .filter_map(|family| self.best(link.index, *family, found.range.as_ref()))
                .collect(),
        };
        if addresses.is_empty() {
            let link = link.name.clone();
            return Err(match only {
                Some(address) => NoUplink::OtherAddress { link, address },
                None => NoUplink::NoAddress(link),
            });
        }
        Ok(Uplink {
            name: link.name.clone(),
            mtu: link.mtu.try_into().map_err(|_| unseen())?,
            addresses,
            public_addresses: Vec::new(),
            accepts_routers: self.defaults.iter().any(advertised),
            is_strict: false,
        })
    }

    /// Addresses that last come first, then primary ones; the rest is for the same answer each time: IPv4 in the
    /// kernel's order, which is that of their making, IPv6 by number.
    fn best(&self, link: u32, family: Family, range: Option<&Cidr>) -> Option<InterfaceAddress> {
        let rank = |one: &&Candidate| {
            let number = match one.address.address() {
                IpAddr::V4(_) => 0,
                IpAddr::V6(v6) => u128::from(v6),
            };
            (!one.permanent, one.secondary, number)
        };
        let wanted = Cidr::everything(family);
        let range = range.filter(|range| range.family() == family).unwrap_or(&wanted);
        self.in_range(link, range).min_by_key(rank).map(|one| one.address)
    }
}

impl Found {
    fn link(link: u32) -> Found {
        Found { link, range: None }
    }
}

/// An address that others may be told to send to: valid everywhere, in use, not about to be given up, and none of ours.
fn candidate(message: &AddressMessage) -> Option<Candidate> {
    let flags = address_flags(message);
    let address = interface_address(message)?;
    // For IPv6 this bit says that the address is temporary (IFA_F_TEMPORARY, RFC 8981).
    let secondary = flags.contains(AddressFlags::Secondary);
    let unfit = AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed;
    let temporary = secondary && address.family() == Family::Ipv6;
    let is_ours = message.header.index == LOOPBACK && message.attributes.contains(&message::OURS);
    if message.header.scope != AddressScope::Universe || flags.intersects(unfit) || temporary || is_ours {
        return None;
    }
    let permanent = flags.contains(AddressFlags::Permanent);
    Some(Candidate { link: message.header.index, address, permanent, secondary })
}
