//! Rows in short words.

use std::net::IpAddr;

use tartan_host::*;
use tartan_model::{Cidr, IfName, Mac, Mtu};

pub(crate) fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn mac(last: u8) -> Mac {
    Mac::from_bytes([2, 0, 0, 0, 0, last])
}

/// A link that is not ours.
pub(crate) fn uplink() -> IfName {
    name("eth0")
}

/// A host with nothing of ours.
pub(crate) fn bare() -> Host {
    Host { rows: Rows::default(), foreign: [(uplink(), ForeignLink { up: true })].into() }
}

pub(crate) fn link(text: &str, kind: LinkKind) -> Link {
    let mtu = Mtu::try_from(1450).unwrap();
    let peer = (kind == LinkKind::Veth).then(|| Peer { netns: NetnsToken(1), name: uplink(), mac: mac(99) });
    Link {
        name: name(text),
        kind,
        mac: mac(1),
        mtu,
        up: true,
        master: None,
        translated: false,
        alias: "tartan test".into(),
        peer: peer.map(Box::new),
    }
}

pub(crate) fn vxlan(vni: u32, local: &str, port: u16) -> LinkKind {
    LinkKind::Vxlan { vni: vni.try_into().unwrap(), local: ip(local), port }
}

pub(crate) fn address(link: &str, text: &str, scope: Scope) -> Row {
    Row::Address(Address { link: name(link), address: text.parse().unwrap(), scope })
}

pub(crate) fn neighbor(link: &str, address: &str, last: u8) -> Row {
    Row::Neighbor(Neighbor { link: name(link), address: ip(address), mac: mac(last) })
}

pub(crate) fn fdb(link: &str, dst: &str) -> Row {
    Row::Fdb(Fdb { link: name(link), mac: mac(7), dst: ip(dst) })
}

pub(crate) fn route(dst: &str, kind: RouteKind, source: Option<IpAddr>) -> Route {
    let dst: Cidr = dst.parse().unwrap();
    Route { dst, metric: Route::usual_metric(dst.family()), kind, source, mtu: None }
}
