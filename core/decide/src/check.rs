//! What a CHECK finds: how the kernel differs from an interface that was added.

use tartan_api::cni::Listed;
use tartan_host::{Key, Link, Route, RouteKind, Row, Rows};

use crate::{Choice, EndpointChoice, inside, lower};

/// What the kernel has, on the node and in the pod's namespace.
#[derive(Debug, Clone, Copy)]
pub struct Sides<'a> {
    /// On the node.
    pub host: &'a Rows,
    /// In the pod's namespace, on its interface.
    pub inside: &'a Rows,
}

/// How the kernel differs from what an interface shall be, and from what the runtime was told of it (`listed`); one
/// sentence each, without the pod's name.
pub fn differences(choice: &EndpointChoice, sides: Sides<'_>, listed: &Listed) -> Vec<String> {
    let endpoint = &choice.endpoint;
    if !choice.open {
        return vec![format!("its interface is shut: network {} is gone or not served", endpoint.network)];
    }
    let outside = lower(&Choice::Endpoint(choice.clone()), None);
    let mut found = compare(outside.iter(), sides.host, "the node's interface", None);
    let (inside, name) = (inside(choice), &endpoint.key.interface);
    // A plugin behind this one may have changed the routes, and then lists others.
    let expected = inside.iter().filter(|row| is_expected(row, listed));
    found.extend(compare(expected, sides.inside, "interface", listed.mtu.map(u32::from)));
    if sides.inside.link(name).is_some() {
        found.extend(unkept(choice, sides.inside, listed));
    }
    found
}

/// Routes of ours that the result does not list any more may be gone.
fn is_expected(row: &Row, listed: &Listed) -> bool {
    let Row::Route(Route { dst, kind: RouteKind::Via { gateway, .. }, .. }) = row else { return true };
    listed.routes.iter().any(|route| route.dst == *dst && route.gw.is_none_or(|gw| gw == *gateway))
}

/// What the runtime was told, and is not so.
fn unkept(choice: &EndpointChoice, inside: &Rows, listed: &Listed) -> Vec<String> {
    let (name, mac) = (&choice.endpoint.key.interface, choice.endpoint.mac);
    let told = listed.mac.filter(|told| *told != mac);
    let told = told.map(|told| format!("prevResult lists {told} for {name}, which was added with {mac}"));
    // Its own addresses are compared already.
    let others = listed.addresses.iter().filter(|ip| !choice.endpoint.addresses.contains(&ip.address()));
    let missing = others.filter(|ip| inside.get(&Key::Address(name.clone(), **ip)).is_none());
    let missing = missing.map(|ip| format!("address {ip} on {name}, which prevResult lists, is missing"));
    told.into_iter().chain(missing).collect()
}

fn compare<'a>(
    wanted: impl Iterator<Item = &'a Row>,
    found: &Rows,
    what: &str,
    mtu: Option<u32>,
) -> Vec<String> {
    let gone = |row: &Row| row.on().is_some_and(|link| found.link(link).is_none());
    // What stands on a link is missing with it.
    wanted.filter(|row| !gone(row)).flat_map(|row| difference(row, found, what, mtu)).collect()
}

fn difference(want: &Row, found: &Rows, what: &str, mtu: Option<u32>) -> Vec<String> {
    match (want, found.get(&want.key())) {
        (Row::Link(want), Some(Row::Link(found))) => link_differences(want, found, what, mtu),
        (_, Some(found)) if want.matches(found) => Vec::new(),
        (_, Some(found)) => vec![format!("{} is there, not {}", describe(found), describe(want))],
        (Row::Link(link), None) => vec![format!("{what} {} is missing", link.name)],
        (_, None) => vec![format!("{} is missing", describe(want))],
    }
}

fn link_differences(want: &Link, found: &Link, what: &str, mtu: Option<u32>) -> Vec<String> {
    let name = &want.name;
    let mut all = Vec::new();
    if want.up != found.up {
        all.push(format!("{what} {name} is {}", if found.up { "up" } else { "down" }));
    }
    if want.mac != found.mac {
        all.push(format!("{what} {name} has MAC address {}, not {}", found.mac, want.mac));
    }
    if want.mtu != found.mtu && mtu != Some(found.mtu.into()) {
        all.push(format!("{what} {name} has MTU {}, not {}", found.mtu, want.mtu));
    }
    if want.master != found.master {
        let port = |link: &Link| link.master.as_ref().map_or("no bridge".into(), |master| master.to_string());
        all.push(format!("{what} {name} is a port of {}, not of {}", port(found), port(want)));
    }
    if want.kind != found.kind {
        all.push(format!("{what} {name} is of another kind"));
    }
    all
}

fn describe(row: &Row) -> String {
    match row {
        Row::Address(address) => format!("address {} on {}", address.address, address.link),
        Row::Neighbor(entry) => format!("neighbor {} at {} on {}", entry.address, entry.mac, entry.link),
        Row::Route(route) => match &route.kind {
            RouteKind::Via { gateway, link } => format!("route {} via {gateway} on {link}", route.dst),
            RouteKind::Link { link } => format!("route {} on {link}", route.dst),
            RouteKind::Blackhole => route.to_string(),
        },
        other => other.to_string(),
    }
}
