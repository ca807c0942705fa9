//! Things of others, made beforehand, that must be as they were afterwards.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::route::{RouteMessage, RouteProtocol};

use crate::rows::name;
use crate::scratch::Node;

/// The name of a pod's link, but not its alias.
const VETH: &str = "ttabcdef012345";
/// rtmsg's `rtm_protocol` (rtnetlink(7)).
const PROTOCOL: usize = 5;

/// What the kernel says of a foreign link, its addresses and its routes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Foreign {
    index: u32,
    addresses: Vec<Vec<u8>>,
    routes: Vec<Vec<u8>>,
}

impl Foreign {
    /// Makes a veth without our alias, with an address and a static route over it.
    pub(crate) fn make(node: &Node) -> Foreign {
        let mut rtnl = node.netns.rtnl();
        rtnl.add_veth(&name(VETH), 1450.try_into().unwrap(), &name("other"), node.pods.fd()).unwrap();
        rtnl.set_up(&name(VETH)).unwrap();
        rtnl.add_address(&name(VETH), "198.51.100.1/24".parse().unwrap()).unwrap();
        rtnl.add_route(Some("203.0.113.0/24".parse().unwrap()), "198.51.100.2".parse().unwrap()).unwrap();
        let made = Foreign::look(node);
        assert_eq!((made.addresses.len(), made.routes.len()), (1, 1));
        made
    }

    /// Compares with how it is now.
    pub(crate) fn check(&self, node: &Node) -> Result<(), String> {
        let now = Foreign::look(node);
        if *self == now { Ok(()) } else { Err(format!("foreign things were {self:?} and are {now:?}")) }
    }

    fn look(node: &Node) -> Foreign {
        let mut rtnl = node.netns.rtnl();
        let index = rtnl.index(&name(VETH)).unwrap();
        let mut dump = |message: RouteNetlinkMessage, keep: &dyn Fn(&[u8]) -> bool| -> Vec<Vec<u8>> {
            let dump = rtnl.dump(&message).unwrap();
            let kept = dump.messages().map(|message| message.payload).filter(|payload| keep(payload));
            kept.map(<[u8]>::to_vec).collect()
        };
        let on_it = |payload: &[u8]| payload.get(4..8) == Some(&index.to_ne_bytes());
        let is_static = |payload: &[u8]| payload.get(PROTOCOL) == Some(&RouteProtocol::Static.into());
        Foreign {
            index,
            addresses: dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), &on_it),
            routes: dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()), &is_static),
        }
    }
}
