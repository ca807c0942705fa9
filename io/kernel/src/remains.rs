//! Everything of ours in a network namespace, whatever release made it: found by its marks alone, and taken away.
//!
//! This is for somebody who leaves. What an agent wants and has are rows; here nothing is wanted, and what this release
//! knows no rows for goes as well.

use std::fmt;
use std::path::PathBuf;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use tartan_host::nftables::TableFamily;
use tartan_model::{Family, IfName};

use crate::apply::free_group;
use crate::marks::{LOOPBACK, Marks, PROTOCOL};
use crate::message::{self, OURS, family as wire_family};
use crate::read::{Seen, interface_address};
use crate::{Batch, KernelError, Nftables, Refused, Request, Rtnl, tables, write};

/// The priorities of our rules, and the tables of our routes beside the main one.
const NUMBERS: std::ops::RangeInclusive<u32> = 8400..=8499;
/// What the names of our nftables begin with.
const TABLES: &str = "tartan";

/// Something of ours that is in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remain {
    what: String,
    taking: Taking,
}

/// How it is taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Taking {
    Request(Box<RouteNetlinkMessage>),
    Link(u32),
    Table(TableFamily, String),
    Programs,
}

impl fmt::Display for Remain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// Looks for what is ours in the network namespace that it was opened in.
#[derive(Debug)]
pub struct Remains {
    rtnl: Rtnl,
    /// None where the kernel has no nf_tables.
    nft: Option<Nftables>,
    /// Where programs are kept.
    programs: PathBuf,
}

impl Remains {
    /// Opens the kernel of the calling thread's network namespace. An agent keeps its programs in a folder.
    ///
    /// # Errors
    /// When there is no rtnetlink.
    pub fn open(programs: PathBuf) -> Result<Remains, KernelError> {
        let nft = match Nftables::open() {
            Err(KernelError::Socket(error)) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => None,
            other => Some(other?),
        };
        Ok(Remains { rtnl: Rtnl::open()?, nft, programs })
    }

    /// Everything, in the order in which it has to go: what guards goes last. What goes with a link is not named.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn find(&mut self) -> Result<Vec<Remain>, KernelError> {
        let (all, ours) = self.links()?;
        let mut found = Vec::new();
        for family in Family::ALL {
            found.extend(self.rules(family)?);
            found.extend(self.routes(family, &all)?);
            found.extend(self.neighbors(family, &ours)?);
            found.extend(self.addresses(family, &all)?);
        }
        found.extend(
            ours.iter()
                .map(|(index, name)| Remain { what: format!("link {name}"), taking: Taking::Link(*index) }),
        );
        found.extend(self.tables()?);
        if tartan_bpf::is_kept(&self.programs) {
            let what = format!("programs kept in {}", self.programs.display());
            found.push(Remain { what, taking: Taking::Programs });
        }
        Ok(found)
    }

    /// Takes these away, in their order; what is gone already counts as taken. An answer for each.
    pub fn take_away(&mut self, remains: &[Remain]) -> Vec<Result<(), Refused>> {
        let mut answers = Vec::with_capacity(remains.len());
        for run in remains.chunk_by(|a, b| a.is_link() == b.is_link()) {
            if run.first().is_some_and(Remain::is_link) {
                answers.extend(self.take_links(run));
            } else {
                answers.extend(run.iter().map(|remain| self.take_one(remain)));
            }
        }
        let is_absence = |refused: &Refused| {
            matches!(refused.errno, libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL)
        };
        let gone = |answer: Result<(), Refused>| match answer {
            Err(refused) if is_absence(&refused) => Ok(()),
            answer => answer,
        };
        answers.into_iter().map(gone).collect()
    }

    fn take_one(&mut self, remain: &Remain) -> Result<(), Refused> {
        match &remain.taking {
            Taking::Request(message) => self.ask(Request::new(message.as_ref().clone(), 0)),
            Taking::Link(index) => self.ask(write::remove_link(*index).request),
            Taking::Programs => tartan_bpf::remove(&self.programs).map_err(|error| Refused::from_io(&error)),
            Taking::Table(family, name) => {
                let Some(nft) = &mut self.nft else { return Ok(()) };
                let mut batch = Batch::default();
                batch.delete_table(*family, name);
                nft.commit(&batch).map_err(|refused| match refused.into_iter().next() {
                    Some((_, refused)) => refused,
                    None => Refused::from_errno(libc::EIO),
                })
            }
        }
    }

    /// As a group, which costs the kernel one wait instead of one each; those that are left, one by one.
    fn take_links(&mut self, links: &[Remain]) -> Vec<Result<(), Refused>> {
        let indexes = links.iter().filter_map(|link| match link.taking {
            Taking::Link(index) => Some(index),
            _ => None,
        });
        if let Some(group) = free_group(&mut self.rtnl).filter(|_| links.len() > 1) {
            let wishes =
                indexes.map(|index| write::group_link(index, group)).chain([write::remove_group(group)]);
            self.rtnl.request(wishes.map(|wish| wish.request).collect());
        }
        links.iter().map(|link| self.take_one(link)).collect()
    }

    fn ask(&mut self, request: Request) -> Result<(), Refused> {
        self.rtnl.request(vec![request]).pop().unwrap_or(Ok(()))
    }

    /// All links, and ours.
    fn links(&mut self) -> Result<(Named, Named), KernelError> {
        let dump = self.rtnl.dump(&tables::links())?;
        let (mut all, mut ours) = (Vec::new(), Vec::new());
        for seen in dump.messages().filter_map(|message| Seen::read(&message)) {
            if seen.is_marked(&Marks::Node) {
                ours.push((seen.index, seen.name.clone()));
            }
            all.push((seen.index, seen.name));
        }
        Ok((all, ours))
    }

    fn rules(&mut self, family: Family) -> Result<Vec<Remain>, KernelError> {
        let mut message = RuleMessage::default();
        message.header.family = wire_family(family);
        let dump = match self.rtnl.dump(&RouteNetlinkMessage::GetRule(message)) {
            // A kernel without policy routing has none.
            Err(KernelError::Refused { source, .. }) if source.errno == libc::EOPNOTSUPP => {
                return Ok(Vec::new());
            }
            other => other?,
        };
        let rule = |message| match message {
            RouteNetlinkMessage::NewRule(rule) => {
                let priority = rule.attributes.iter().find_map(|attribute| match attribute {
                    RuleAttribute::Priority(priority) => Some(*priority),
                    _ => None,
                })?;
                let taking = Taking::Request(Box::new(RouteNetlinkMessage::DelRule(rule)));
                NUMBERS
                    .contains(&priority)
                    .then(|| Remain { what: format!("{family} rule {priority}"), taking })
            }
            _ => None,
        };
        Ok(dump.messages().filter_map(|message| message.parse().ok()).filter_map(rule).collect())
    }

    /// Of all tables.
    fn routes(&mut self, family: Family, links: &Named) -> Result<Vec<Remain>, KernelError> {
        let mut message = RouteMessage::default();
        message.header.address_family = wire_family(family);
        message.header.protocol = RouteProtocol::Other(PROTOCOL);
        let dump = match self.rtnl.dump(&RouteNetlinkMessage::GetRoute(message)) {
            Err(KernelError::Refused { source, .. }) if source.errno == libc::ENOENT => return Ok(Vec::new()),
            other => other?,
        };
        let route = |message| match message {
            RouteNetlinkMessage::NewRoute(route)
                if route.header.protocol == RouteProtocol::Other(PROTOCOL) =>
            {
                Some(route_remain(route, links))
            }
            _ => None,
        };
        Ok(dump.messages().filter_map(|message| message.parse().ok()).filter_map(route).collect())
    }

    /// On links that are not ours.
    fn neighbors(&mut self, family: Family, ours: &Named) -> Result<Vec<Remain>, KernelError> {
        let dump = self.rtnl.dump(&tables::neighbors(family))?;
        let neighbor = |message| match message {
            RouteNetlinkMessage::NewNeighbour(entry)
                if !ours.iter().any(|(index, _)| *index == entry.header.ifindex) =>
            {
                let ours = NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL));
                entry.attributes.contains(&ours).then(|| neighbor_remain(entry))
            }
            _ => None,
        };
        Ok(dump.messages().filter_map(|message| message.parse().ok()).filter_map(neighbor).collect())
    }

    /// On the loopback interface.
    fn addresses(&mut self, family: Family, links: &Named) -> Result<Vec<Remain>, KernelError> {
        let dump = self.rtnl.dump(&tables::addresses(family))?;
        let address = |message| match message {
            RouteNetlinkMessage::NewAddress(found) if found.attributes.contains(&OURS) => {
                let is_on = |(index, _): &&(u32, IfName)| *index == found.header.index;
                let (index, link) = links.iter().find(is_on).filter(|(index, _)| *index == LOOPBACK)?;
                let address = interface_address(&found)?;
                let message = RouteNetlinkMessage::DelAddress(message::address(*index, address, false));
                let what = format!("address {address} dev {link}");
                Some(Remain { what, taking: Taking::Request(Box::new(message)) })
            }
            _ => None,
        };
        Ok(dump.messages().filter_map(|message| message.parse().ok()).filter_map(address).collect())
    }

    fn tables(&mut self) -> Result<Vec<Remain>, KernelError> {
        let Some(nft) = &mut self.nft else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for family in TableFamily::ALL {
            let names = nft.tables(family)?.into_iter().filter(|name| name.starts_with(TABLES));
            found.extend(names.map(|name| Remain {
                what: format!("table {} {name}", family.as_str()),
                taking: Taking::Table(family, name),
            }));
        }
        Ok(found)
    }
}

/// Links by index.
type Named = Vec<(u32, IfName)>;

impl Remain {
    fn is_link(&self) -> bool {
        matches!(self.taking, Taking::Link(_))
    }
}

/// What a route is told by is enough to take it away.
fn route_remain(route: RouteMessage, links: &Named) -> Remain {
    let mut message = RouteMessage::default();
    message.header = route.header.clone();
    // Set by the kernel (RTNH_F_, RTM_F_), and refused by it in a request.
    message.header.flags = Default::default();
    let (mut dst, mut dev) = (String::from("default"), String::new());
    for attribute in route.attributes {
        match &attribute {
            RouteAttribute::Destination(to) => {
                dst = format!("{}/{}", plain(to), route.header.destination_prefix_length);
            }
            RouteAttribute::Oif(index) => {
                let name = links.iter().find(|(other, _)| other == index).map(|(_, name)| name.to_string());
                dev = format!(" dev {}", name.unwrap_or_else(|| index.to_string()));
            }
            RouteAttribute::Table(_) | RouteAttribute::Priority(_) => {}
            _ => continue,
        }
        message.attributes.push(attribute);
    }
    let kind = format!("{:?}", route.header.kind).to_lowercase();
    let kind = if kind == "unicast" { String::new() } else { format!("{kind} ") };
    Remain {
        what: format!("route {kind}{dst}{dev}"),
        taking: Taking::Request(Box::new(RouteNetlinkMessage::DelRoute(message))),
    }
}

fn plain(address: &netlink_packet_route::route::RouteAddress) -> String {
    use netlink_packet_route::route::RouteAddress;
    match address {
        RouteAddress::Inet(address) => address.to_string(),
        RouteAddress::Inet6(address) => address.to_string(),
        other => format!("{other:?}"),
    }
}

fn neighbor_remain(entry: NeighbourMessage) -> Remain {
    use netlink_packet_route::neighbour::NeighbourAddress;
    let mut message = NeighbourMessage::default();
    message.header.family = entry.header.family;
    message.header.ifindex = entry.header.ifindex;
    let destination =
        entry.attributes.into_iter().find(|one| matches!(one, NeighbourAttribute::Destination(_)));
    let address = match &destination {
        Some(NeighbourAttribute::Destination(NeighbourAddress::Inet(address))) => address.to_string(),
        Some(NeighbourAttribute::Destination(NeighbourAddress::Inet6(address))) => address.to_string(),
        _ => "?".into(),
    };
    message.attributes.extend(destination);
    Remain {
        what: format!("neighbor {address}"),
        taking: Taking::Request(Box::new(RouteNetlinkMessage::DelNeighbour(message))),
    }
}
