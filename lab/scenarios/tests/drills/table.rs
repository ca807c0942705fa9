//! The damages. Each is something that people, or other programs, do to a node; afterwards all has to be as before.

use tartan_host::{Fdb, LinkKind, Neighbor, Route, RouteKind, Row};
use tartan_model::Mac;

use crate::scene::{Pair, Scene, another_mtu};

/// A damage, and who is not concerned by it.
pub(crate) struct Drill {
    pub(crate) name: &'static str,
    /// The attachments that it is another damage with.
    pub(crate) attachments: &'static [&'static str],
    /// Two pods whose packets it must not cost.
    pub(crate) bystanders: Pair,
    pub(crate) damage: fn(&mut Scene),
    /// What only the one who did it can undo.
    pub(crate) mend: Option<fn(&Scene)>,
}

impl Drill {
    /// Undoes what the agent must not.
    pub(crate) fn mend(&self, scene: &Scene) {
        if let Some(mend) = self.mend {
            mend(scene);
        }
    }
}

const BOTH: &[&str] = &["routed", "bridge"];
const ROUTED: &[&str] = &["routed"];
const BRIDGE: &[&str] = &["bridge"];

const fn drill(
    name: &'static str,
    attachments: &'static [&'static str],
    bystanders: Pair,
    damage: fn(&mut Scene),
) -> Drill {
    Drill { name, attachments, bystanders, damage, mend: None }
}

pub(crate) const DRILLS: &[Drill] = &[
    drill("routes to a peer deleted", ROUTED, Pair::Across, |scene| scene.remove(leads_to_remote)),
    drill("routes to a peer led into nothing", ROUTED, Pair::Across, |scene| {
        scene.change(|scene, row| match row {
            Row::Route(route) if leads_to_remote(scene, row) => {
                Some(Row::Route(Route { kind: RouteKind::Blackhole, ..route.clone() }))
            }
            _ => None,
        })
    }),
    drill("neighbours on the overlay deleted", ROUTED, Pair::Neighbors, |scene| {
        scene.remove(|_, row| matches!(row, Row::Neighbor(row) if row.link.as_str() == "tartan.1"))
    }),
    drill("neighbours on the overlay given another MAC", ROUTED, Pair::Neighbors, |scene| {
        scene.change(|_, row| match row {
            Row::Neighbor(row) if row.link.as_str() == "tartan.1" => {
                Some(Row::Neighbor(Neighbor { mac: another_mac(), ..row.clone() }))
            }
            _ => None,
        })
    }),
    drill("forwarding entries deleted", ROUTED, Pair::Neighbors, |scene| {
        scene.remove(|_, row| matches!(row, Row::Fdb(_)))
    }),
    drill("forwarding entries led elsewhere", ROUTED, Pair::Neighbors, |scene| {
        scene.change(|_, row| match row {
            Row::Fdb(row) => Some(Row::Fdb(Fdb { dst: [172, 30, 9, 9].into(), ..row.clone() })),
            _ => None,
        })
    }),
    drill("the node's overlay addresses deleted", ROUTED, Pair::Elsewhere, |scene| {
        scene.remove(|_, row| matches!(row, Row::Address(row) if row.link.as_str() == "tartan.1"))
    }),
    drill("the routes that catch unused addresses deleted", ROUTED, Pair::Neighbors, |scene| {
        scene.remove(|_, row| matches!(row, Row::Route(route) if route.kind == RouteKind::Blackhole))
    }),
    drill("VXLAN device set down", BOTH, Pair::Neighbors, |scene| {
        scene.change_link("tartan.1", |link| link.up = false)
    }),
    drill("VXLAN device given another MTU", ROUTED, Pair::Neighbors, |scene| {
        scene.change_link("tartan.1", |link| link.mtu = another_mtu())
    }),
    drill("VXLAN device given another MAC", ROUTED, Pair::Neighbors, |scene| {
        scene.change_link("tartan.1", |link| link.mac = another_mac())
    }),
    drill("VXLAN device deleted", BOTH, Pair::Elsewhere, |scene| {
        scene.remove(|_, row| matches!(row, Row::Link(link) if link.name.as_str() == "tartan.1"))
    }),
    drill("VXLAN device given another name", BOTH, Pair::Elsewhere, |scene| scene.rename("tartan.1")),
    drill("bridge set down", BRIDGE, Pair::Elsewhere, |scene| {
        scene.change_link("tartan0", |link| link.up = false)
    }),
    drill("bridge given another MTU", BRIDGE, Pair::Neighbors, |scene| {
        scene.change_link("tartan0", |link| link.mtu = another_mtu())
    }),
    drill("bridge given another MAC", BRIDGE, Pair::Neighbors, |scene| {
        scene.change_link("tartan0", |link| link.mac = another_mac())
    }),
    drill("bridge's addresses deleted", BRIDGE, Pair::Neighbors, |scene| {
        scene.remove(|_, row| matches!(row, Row::Address(row) if row.link.as_str() == "tartan0"))
    }),
    drill("bridge deleted", BRIDGE, Pair::Elsewhere, |scene| {
        scene.remove(|_, row| matches!(row, Row::Link(link) if link.kind == LinkKind::Bridge))
    }),
    drill("bridge given another name", BRIDGE, Pair::Elsewhere, |scene| scene.rename("tartan0")),
    drill("pod's port taken off the bridge", BRIDGE, Pair::Neighbors, |scene| {
        scene.change_link("END", |link| link.master = None)
    }),
    drill("pod's link set down", BOTH, Pair::Across, |scene| {
        scene.change_link("END", |link| link.up = false)
    }),
    drill("pod's link given another MTU", BOTH, Pair::Across, |scene| {
        scene.change_link("END", |link| link.mtu = another_mtu())
    }),
    drill("pod's link given another MAC", BOTH, Pair::Across, |scene| {
        scene.change_link("END", |link| link.mac = another_mac())
    }),
    drill("pod's gateway addresses deleted", ROUTED, Pair::Across, |scene| {
        scene.remove(|scene, row| matches!(row, Row::Address(row) if row.link == scene.end))
    }),
    drill("pod's neighbours deleted", ROUTED, Pair::Across, |scene| {
        scene.remove(|scene, row| matches!(row, Row::Neighbor(row) if row.link == scene.end))
    }),
    drill("pod's routes deleted", ROUTED, Pair::Across, |scene| {
        scene.remove(|scene, row| matches!(row, Row::Route(_)) && row.on() == Some(&scene.end))
    }),
    drill("pod's link deleted", BOTH, Pair::Across, |scene| {
        scene.remove(|scene, row| matches!(row, Row::Link(link) if link.name == scene.end))
    }),
    drill("pod's link given another name", BOTH, Pair::Across, |scene| scene.rename("END")),
    drill("all our links deleted", BOTH, Pair::Elsewhere, |scene| {
        scene.remove(|_, row| matches!(row, Row::Link(_)))
    }),
    drill("all our routes flushed", BOTH, Pair::Elsewhere, |scene| {
        scene.remove(|_, row| matches!(row, Row::Route(_)))
    }),
    Drill {
        name: "the whole main table flushed",
        attachments: BOTH,
        bystanders: Pair::Elsewhere,
        damage: Scene::flush_routes,
        mend: Some(Scene::restore_routes),
    },
    drill("net.ipv4.ip_forward = 0", BOTH, Pair::Elsewhere, |scene| scene.write("ipv4/ip_forward", "0")),
    drill("net.ipv6.conf.all.forwarding = 0", BOTH, Pair::Elsewhere, |scene| {
        scene.write("ipv6/conf/all/forwarding", "0")
    }),
    drill("net.ipv4.conf.LINK.forwarding = 0, overlay", ROUTED, Pair::Neighbors, |scene| {
        scene.write("ipv4/conf/tartan.1/forwarding", "0")
    }),
    drill("net.ipv4.conf.LINK.forwarding = 0, pod", ROUTED, Pair::Across, |scene| {
        scene.write("ipv4/conf/END/forwarding", "0")
    }),
    drill("net.ipv4.conf.LINK.forwarding = 0, bridge", BRIDGE, Pair::Neighbors, |scene| {
        scene.write("ipv4/conf/tartan0/forwarding", "0")
    }),
    Drill {
        name: "net.ipv6.conf.all.disable_ipv6 = 1",
        attachments: BOTH,
        bystanders: Pair::Elsewhere,
        damage: |scene| scene.write("ipv6/conf/all/disable_ipv6", "1"),
        mend: Some(|scene| scene.write("ipv6/conf/all/disable_ipv6", "0")),
    },
];

fn leads_to_remote(scene: &Scene, row: &Row) -> bool {
    matches!(row, Row::Route(route) if scene.is_remote(&route.dst))
}

fn another_mac() -> Mac {
    Mac::from_bytes([2, 0, 0, 0, 0x99, 0x99])
}
