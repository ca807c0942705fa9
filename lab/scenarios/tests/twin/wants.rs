//! Random wants that a kernel can have: what `Host::act` takes when it is built from the ground up.

use tartan_host::*;
use tartan_model::Mtu;

use crate::rows::{self, Dice};

/// One row at most for each dozen of dice.
pub(crate) fn want(dice: &[[u8; 12]], pods: NetnsToken) -> Rows {
    let mut links: Vec<Link> = dice.iter().step_by(4).map(|thrown| link(thrown, pods)).collect();
    // A name of ours as a master is a bridge of ours, and stands before its ports.
    links.sort_by_key(|link| link.kind != LinkKind::Bridge);
    let mut host = Host::default();
    let mut want: Rows = links.into_iter().map(Row::Link).filter(|row| takes(&mut host, row)).collect();
    let names: Vec<_> = host.rows.iter().filter_map(rows::link_name).collect();
    let mut standing: Vec<Row> =
        dice.iter().map(|thrown| rows::standing(&mut Dice::new(thrown), &names)).collect();
    standing.retain(|row| !is_lone(row));
    standing.sort_by_key(Row::key);
    want.extend(standing.into_iter().filter(|row| takes(&mut host, row)));
    // The ruleset comes first, if it is wanted at all.
    let mut filter: Vec<Row> =
        dice.iter().skip(1).step_by(3).map(|thrown| rows::filter(&mut Dice::new(thrown))).collect();
    filter.sort_by_key(Row::key);
    want.extend(filter.into_iter().filter(|row| takes(&mut host, row)));
    // What is accepted and then not there as asked (an address that keeps its length, a forwarding entry on a bridge)
    // is nothing to want.
    want.retain(|row| host.rows.get(&row.key()).is_some_and(|found| row.matches(found)));
    want.retain(|row| !matches!(row, Row::Route(_)) || can_come_last(&host, row));
    want
}

/// A link that has IPv6 throughout: one that gets it back gets an address from the kernel, a while later.
fn link(thrown: &[u8], pods: NetnsToken) -> Link {
    let link = rows::link(&mut Dice::new(thrown), pods);
    Link { mtu: link.mtu.max(Mtu::IPV6_MIN), ..link }
}

/// IPv6 addresses are wanted with one length each: to take the place of another length, an address has to be made
/// again once that is gone, and until the kernel is read anew nobody asks for it.
fn is_lone(row: &Row) -> bool {
    matches!(row, Row::Address(row) if row.address.length() == 128)
}

/// A next hop may be refused for a route that is made later (`Host::act` knows when): that depends on the order.
fn can_come_last(host: &Host, route: &Row) -> bool {
    let mut host = host.clone();
    host.act(&Step::Remove { row: route.clone() }).is_ok() && takes(&mut host, route)
}

fn takes(host: &mut Host, row: &Row) -> bool {
    host.rows.get(&row.key()).is_none() && host.act(&Step::Create { row: row.clone() }).is_ok()
}
