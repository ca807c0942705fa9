//! The guard: what is not ours is not touched, whatever the plan says. It knows nothing of how plans are made.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tartan_model::{Cidr, IfName, InterfaceAddress};
use thiserror::Error;

use crate::{Address, Host, Link, Route, RouteKind, Row, Step, Sysctl, SysctlKey};

/// Where a plan is to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Realm {
    /// The node's own network namespace, shared with everything else on the node.
    Node,
    /// A pod's network namespace: its default route is ours to make, and its interfaces are named by the runtime.
    Pod,
}

/// A step that must not be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The step.
    pub step: Step,
    /// Why.
    pub reason: RefusalReason,
}

/// Why a step must not be taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RefusalReason {
    /// There is nothing of ours to change or remove.
    #[error("nothing that bears tartan's mark is there to be changed or removed")]
    NotOurs,
    /// The name of a link to be made is taken.
    #[error("interface {name} is there and is not tartan's: rename or remove it")]
    NameTaken {
        /// The name.
        name: IfName,
    },
    /// A row would stand on a link that is not ours, other than a route by a next hop and what the loopback interface needs
    /// to hold addresses, or a link become a port of one.
    #[error("interface {link} is not tartan's, nor made earlier in this plan")]
    ForeignLink {
        /// The link.
        link: IfName,
    },
    /// A route by a link that is not ours would lead its own next hop astray.
    #[error("a route to {dst} by {gateway} would carry the traffic of the nodes themselves")]
    OverNextHop {
        /// Its destination.
        dst: Cidr,
        /// Its next hop.
        gateway: IpAddr,
    },
    /// The node's default route is never ours.
    #[error("the node's default route is not touched")]
    DefaultRoute,
    /// A link of the node would not bear our mark.
    #[error(
        "{name} is no name of tartan's interfaces: tartan.N, tart6.N, tartanN, or tt and 12 hexadecimal digits"
    )]
    Name {
        /// The name.
        name: IfName,
    },
    /// A link of the node would not bear our mark.
    #[error("the alias {alias:?} of interface {name} does not begin with tartan")]
    Alias {
        /// The link.
        name: IfName,
        /// The alias.
        alias: String,
    },
}

/// Parts a plan into what may be done, in the same order, and what must not. A step that needs a refused one, such as
/// a route over a link that must not be made, is refused too.
pub fn guard(steps: Vec<Step>, have: &Host, realm: &Realm) -> (Vec<Step>, Vec<Refusal>) {
    let mut watch = Watch { have, realm: *realm, made: BTreeSet::new(), gone: BTreeSet::new() };
    let (mut passed, mut refused) = (Vec::new(), Vec::new());
    for step in steps {
        match watch.check(&step) {
            Ok(()) => passed.push(step),
            Err(reason) => refused.push(Refusal { step, reason }),
        }
    }
    (passed, refused)
}

struct Watch<'a> {
    have: &'a Host,
    realm: Realm,
    /// Links that the plan has made so far.
    made: BTreeSet<IfName>,
    /// Links that the plan has removed so far, and not made again.
    gone: BTreeSet<IfName>,
}

impl Watch<'_> {
    fn check(&mut self, step: &Step) -> Result<(), RefusalReason> {
        match step {
            Step::Create { row } => {
                self.check_row(row)?;
                if let Row::Link(link) = row {
                    self.check_free(&link.name)?;
                    self.gone.remove(&link.name);
                    self.made.insert(link.name.clone());
                }
                Ok(())
            }
            Step::Change { from, to } => {
                self.check_ours(from)?;
                if from.key() != to.key() {
                    return Err(RefusalReason::NotOurs);
                }
                self.check_row(to)
            }
            Step::Remove { row } => {
                self.check_route(row)?;
                self.check_ours(row)?;
                if let Row::Link(link) = row {
                    self.made.remove(&link.name);
                    self.gone.insert(link.name.clone());
                }
                Ok(())
            }
        }
    }

    fn check_ours(&self, row: &Row) -> Result<(), RefusalReason> {
        self.have.rows.get(&row.key()).map(|_| ()).ok_or(RefusalReason::NotOurs)
    }

    fn check_free(&self, name: &IfName) -> Result<(), RefusalReason> {
        if self.have.foreign.contains_key(name) {
            return Err(RefusalReason::NameTaken { name: name.clone() });
        }
        Ok(())
    }

    /// What holds for every row that will be there.
    fn check_row(&self, row: &Row) -> Result<(), RefusalReason> {
        self.check_route(row)?;
        if let Row::Link(link) = row {
            self.check_mark(link)?;
            return link.master.iter().try_for_each(|master| self.check_link(master));
        }
        match row {
            Row::Route(Route { dst, kind: RouteKind::Via { gateway, link }, .. })
                if self.realm == Realm::Node && self.have.foreign.contains_key(link) =>
            {
                check_by_foreign(*dst, *gateway)
            }
            Row::Address(Address { link, address, .. })
                if self.realm == Realm::Node && *link == IfName::LOOPBACK && is_host(*address) =>
            {
                Ok(())
            }
            Row::Sysctl(Sysctl { key: SysctlKey::NoIpv6(link), value: 0 })
                if self.realm == Realm::Node && *link == IfName::LOOPBACK =>
            {
                Ok(())
            }
            _ => row.on().into_iter().try_for_each(|link| self.check_link(link)),
        }
    }

    fn check_link(&self, name: &IfName) -> Result<(), RefusalReason> {
        let ours = self.have.rows.link(name).is_some() && !self.gone.contains(name);
        if ours || self.made.contains(name) {
            return Ok(());
        }
        Err(RefusalReason::ForeignLink { link: name.clone() })
    }

    fn check_route(&self, row: &Row) -> Result<(), RefusalReason> {
        match row {
            Row::Route(route) if self.realm == Realm::Node && route.dst.length() == 0 => {
                Err(RefusalReason::DefaultRoute)
            }
            _ => Ok(()),
        }
    }

    fn check_mark(&self, link: &Link) -> Result<(), RefusalReason> {
        let name = link.name.clone();
        if self.realm == Realm::Pod {
            Ok(())
        } else if !is_marked(name.as_str()) {
            Err(RefusalReason::Name { name })
        } else if !link.alias.starts_with("tartan") {
            Err(RefusalReason::Alias { name, alias: link.alias.to_string() })
        } else {
            Ok(())
        }
    }
}

/// A route by a next hop may stand on a link of others: the way to a peer's pods by the uplink.
fn check_by_foreign(dst: Cidr, gateway: IpAddr) -> Result<(), RefusalReason> {
    if dst.contains(gateway) { Err(RefusalReason::OverNextHop { dst, gateway }) } else { Ok(()) }
}

fn is_host(address: InterfaceAddress) -> bool {
    address == InterfaceAddress::host(address.address())
}

/// Whether a link of the node bears a name of ours.
fn is_marked(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbered =
        ["tartan.", "tart6.", "tartan"].iter().any(|prefix| name.strip_prefix(prefix).is_some_and(number));
    let pod = |hex: &str| hex.len() == 12 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    numbered || name.strip_prefix("tt").is_some_and(pod)
}
