//! The way out of the networks that are served here, and what keeps them apart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tartan_api::network::Network;
use tartan_model::{Cidr, Family};

use crate::{Note, World};

/// How many ranges of a network that no pool covers any more are taken for its own. Behind a pool of thousands of blocks
/// that was taken away they would make millions of pairs.
const MOST_STALE: usize = 256;

/// What connections of pods become once they are routed: pairs of ranges, from one to another. No two pairs of one kind
/// share a pair of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WayOut {
    /// From the first to the second a connection takes the node's address.
    pub masquerade: Vec<(Cidr, Cidr)>,
    /// But not from the first to the second of these.
    pub kept: Vec<(Cidr, Cidr)>,
    /// The first is of one network, the second of another.
    pub across: Vec<(Cidr, Cidr)>,
}

/// A network and all that is its own.
struct Own<'a> {
    network: &'a Network,
    ranges: Vec<Cidr>,
    /// How many more there are.
    left_out: usize,
}

impl World {
    /// None as long as not all networks are known, or none can be served: what the kernel has then stays.
    pub(crate) fn way_out(&self) -> Option<WayOut> {
        self.own_node().filter(|_| self.in_sync)?;
        let all = self.own_ranges();
        let mut out = WayOut::default();
        for own in &all {
            out.across.extend(across(own, &all));
            if own.network.masquerade {
                let from = || own.ranges.iter();
                out.masquerade.extend(from().map(|from| (*from, Cidr::everything(from.family()))));
                out.kept.extend(from().flat_map(|from| kept(own, from.family()).map(move |to| (*from, to))));
            }
        }
        Some(out)
    }

    /// Networks with more ranges behind than are looked after.
    pub(crate) fn left_out(&self) -> impl Iterator<Item = Note> {
        let of_own = |own: &Own<'_>| {
            let network = own.network.name.clone();
            (own.left_out > 0).then_some(Note::TooManyRanges { network, ranges: own.left_out })
        };
        self.own_ranges().iter().filter_map(of_own).collect::<Vec<_>>().into_iter()
    }

    /// Beside a network's pools that is what its pods may still have addresses from.
    fn own_ranges(&self) -> Vec<Own<'_>> {
        let served = || self.networks.values().filter(|network| self.unserved(network).is_none());
        let mut taken: Vec<Cidr> = served().flat_map(pools).collect();
        let mut all = Vec::new();
        for network in served() {
            let blocks = self.blocks.get(&network.name).into_iter().flat_map(|blocks| blocks.keys());
            let free = blocks.filter(|block| !taken.iter().any(|other| other.overlaps(block)));
            let mut stale = Cidr::aggregate(free.copied());
            let left_out = stale.len().saturating_sub(MOST_STALE);
            stale.truncate(MOST_STALE);
            taken.extend(&stale);
            all.push(Own { network, ranges: Cidr::aggregate(pools(network).chain(stale)), left_out });
        }
        all
    }
}

/// Destinations of a family to which a network's pods keep their own address. Groups are no host that could be told an
/// address; flannel excepts them, too.
fn kept(own: &Own<'_>, family: Family) -> impl Iterator<Item = Cidr> {
    let groups = match family {
        Family::Ipv4 => Cidr::containing(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4),
        Family::Ipv6 => Cidr::containing(IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
    };
    let all = own.ranges.iter().chain(&own.network.masquerade_exempt).copied().chain(groups);
    Cidr::aggregate(all.filter(move |range| range.family() == family)).into_iter()
}

fn across<'a>(own: &'a Own<'_>, all: &'a [Own<'_>]) -> impl Iterator<Item = (Cidr, Cidr)> + use<'a> {
    let others = all.iter().filter(|other| other.network.name != own.network.name);
    let to = others.flat_map(|other| &other.ranges);
    to.flat_map(|to| own.ranges.iter().map(move |from| (*from, *to)))
        .filter(|(from, to)| from.family() == to.family())
}

fn pools(network: &Network) -> impl Iterator<Item = Cidr> + use<'_> {
    network.pools.iter().map(|pool| pool.cidr())
}
