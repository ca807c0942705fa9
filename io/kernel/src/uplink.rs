//! Which interface carries traffic between nodes, found in what the kernel has.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::route::RouteType;
use tartan_model::{Cidr, Family, IfName, InterfaceAddress, Uplink};

use crate::kernel::Kernel;
use crate::read::{Links, Seen, address_flags, interface_address, is_router_advertised, oif, route_key};
use crate::{KernelError, Rtnl, tables};

/// How the uplink is chosen. A link with a name of ours is never it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkChoice {
    /// The link of the default route with the lowest metric, of IPv4 if there is one, else of IPv6.
    DefaultRoute,
    /// The link of this name.
    Named(IfName),
    /// The first link by name that has an address in this range; that address is taken for its family.
    Holding(Cidr),
}

impl Kernel {
    /// Looks for the uplink; None if no link is as chosen.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn uplink(&mut self, choice: &UplinkChoice) -> Result<Option<Uplink>, KernelError> {
        let view = View::read(&mut self.requests, &self.links)?;
        let index = match choice {
            UplinkChoice::DefaultRoute => view.of_default_route(),
            UplinkChoice::Named(name) => view.find(|link| link.name == *name),
            UplinkChoice::Holding(range) => {
                view.find(|link| view.in_range(link.index, range).next().is_some())
            }
        };
        let range = match choice {
            UplinkChoice::Holding(range) => Some(range),
            _ => None,
        };
        Ok(index.and_then(|index| view.uplink(index, range)))
    }
}

/// All that the choice depends on.
struct View {
    links: Vec<Seen>,
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
        let links =
            rtnl.dump(&tables::links())?.messages().filter_map(|m| Seen::read(&m)).collect::<Vec<_>>();
        let mut links: Vec<Seen> =
            links.into_iter().filter(|link| link.up && !ours.is_our_name(&link.name)).collect();
        links.sort_by(|a, b| a.name.cmp(&b.name));
        let mut view = View { links, addresses: Vec::new(), defaults: Vec::new() };
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

    fn of_default_route(&self) -> Option<u32> {
        self.defaults
            .iter()
            .filter(|route| self.links.iter().any(|link| link.index == route.link))
            .min_by_key(|route| (route.family, route.metric))
            .map(|route| route.link)
    }

    fn find(&self, test: impl Fn(&Seen) -> bool) -> Option<u32> {
        self.links.iter().find(|link| test(link)).map(|link| link.index)
    }

    fn in_range(&self, link: u32, range: &Cidr) -> impl Iterator<Item = &Candidate> {
        self.addresses.iter().filter(move |one| one.link == link && range.contains(one.address.address()))
    }

    fn uplink(&self, index: u32, range: Option<&Cidr>) -> Option<Uplink> {
        let link = self.links.iter().find(|link| link.index == index)?;
        let advertised =
            |route: &DefaultRoute| route.link == index && route.family == Family::Ipv6 && route.advertised;
        Some(Uplink {
            name: link.name.clone(),
            mtu: link.mtu.try_into().ok()?,
            addresses: Family::ALL.iter().filter_map(|family| self.best(index, *family, range)).collect(),
            router_advertised: self.defaults.iter().any(advertised),
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

/// An address that others may be told to send to: valid everywhere, in use, and not about to be given up.
fn candidate(message: &AddressMessage) -> Option<Candidate> {
    let flags = address_flags(message);
    let address = interface_address(message)?;
    // For IPv6 this bit says that the address is temporary (IFA_F_TEMPORARY, RFC 8981).
    let secondary = flags.contains(AddressFlags::Secondary);
    let unfit = AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed;
    let temporary = secondary && address.family() == Family::Ipv6;
    if message.header.scope != AddressScope::Universe || flags.intersects(unfit) || temporary {
        return None;
    }
    let permanent = flags.contains(AddressFlags::Permanent);
    Some(Candidate { link: message.header.index, address, permanent, secondary })
}
