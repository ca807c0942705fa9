//! Plain links, addresses and routes without our mark, for those who build networks to try Tartan on.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo};
use netlink_packet_route::route::{RouteAttribute, RouteProtocol, RouteScope, RouteType};
use tartan_model::{Cidr, Family, IfName, InterfaceAddress, Mac, Mtu};

use crate::message::{self, link_by_name};
use crate::{KernelError, Request, Rtnl};

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

impl Rtnl {
    /// Makes a veth pair, one end here and one in another namespace; both are down.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn add_veth(
        &mut self,
        name: &IfName,
        mtu: Mtu,
        peer_name: &IfName,
        peer_netns: BorrowedFd<'_>,
    ) -> Result<(), KernelError> {
        let mut peer = link_by_name(peer_name);
        peer.attributes.push(LinkAttribute::Mtu(mtu.into()));
        peer.attributes.push(LinkAttribute::NetNsFd(peer_netns.as_raw_fd()));
        let mut link = link_by_name(name);
        link.attributes.push(LinkAttribute::Mtu(mtu.into()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.one("add veth", name, Request::new(RouteNetlinkMessage::NewLink(link), CREATE))
    }

    /// Makes a bridge, which is down.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn add_bridge(&mut self, name: &IfName, mtu: Mtu) -> Result<(), KernelError> {
        let mut link = link_by_name(name);
        link.attributes.push(LinkAttribute::Mtu(mtu.into()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.one("add bridge", name, Request::new(RouteNetlinkMessage::NewLink(link), CREATE))
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn set_up(&mut self, name: &IfName) -> Result<(), KernelError> {
        self.set_flags(name, LinkFlags::Up)
    }

    /// Sets a link down.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn set_down(&mut self, name: &IfName) -> Result<(), KernelError> {
        self.set_flags(name, LinkFlags::empty())
    }

    /// Makes a link a port of a bridge.
    ///
    /// # Errors
    /// When one of them is not there, or the second is no bridge.
    pub fn set_master(&mut self, name: &IfName, bridge: &IfName) -> Result<(), KernelError> {
        let master = self.index(bridge)?;
        self.set(name, LinkAttribute::Controller(master))
    }

    /// Sets a link's MTU.
    ///
    /// # Errors
    /// When there is no such link, or it cannot have that MTU.
    pub fn set_mtu(&mut self, name: &IfName, mtu: Mtu) -> Result<(), KernelError> {
        self.set(name, LinkAttribute::Mtu(mtu.into()))
    }

    /// Sets a link's MAC address. A bridge that was never given one takes the lowest of its ports', hence another as they
    /// come and go (net/bridge/br_stp_if.c, `br_stp_recalculate_bridge_id`).
    ///
    /// # Errors
    /// When there is no such link, or it cannot have that address.
    pub fn set_mac(&mut self, name: &IfName, mac: Mac) -> Result<(), KernelError> {
        self.set(name, LinkAttribute::Address(mac.bytes().to_vec()))
    }

    /// Sets how many segments a link takes as one packet at most. With 1 the kernel cuts every packet before the link
    /// sees it, in tunnels too (`gso_features_check`, net/core/dev.c).
    ///
    /// # Errors
    /// When there is no such link, or the number is over 65535.
    pub fn set_max_segments(&mut self, name: &IfName, segments: u32) -> Result<(), KernelError> {
        self.set(name, LinkAttribute::GsoMaxSegs(segments))
    }

    /// Puts an address on a link, without duplicate address detection.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn add_address(&mut self, name: &IfName, address: InterfaceAddress) -> Result<(), KernelError> {
        let message = message::address(self.index(name)?, address, false);
        let request = Request::new(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE);
        self.one("add address", &address, request)
    }

    /// Adds a route by a next hop; without a destination, the default route of the next hop's family.
    ///
    /// # Errors
    /// When the next hop is on no network of ours, or there is such a route.
    pub fn add_route(&mut self, dst: Option<Cidr>, via: IpAddr) -> Result<(), KernelError> {
        let dst = dst.unwrap_or(Cidr::everything(Family::of(via)));
        let mut route = message::route(&dst);
        route.header.protocol = RouteProtocol::Static;
        route.header.scope = RouteScope::Universe;
        route.header.kind = RouteType::Unicast;
        route.attributes.push(RouteAttribute::Gateway(via.into()));
        self.one("add route", &dst, Request::new(RouteNetlinkMessage::NewRoute(route), CREATE))
    }

    /// Deletes a link; false if there was none.
    ///
    /// # Errors
    /// When the link is of a kind that cannot be deleted.
    pub fn delete_link(&mut self, name: &IfName) -> Result<bool, KernelError> {
        let request = Request::new(RouteNetlinkMessage::DelLink(link_by_name(name)), 0);
        match self.one("delete link", name, request) {
            Ok(()) => Ok(true),
            Err(KernelError::Refused { source, .. }) if source.errno == libc::ENODEV => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Has the kernel take note of a link's carrier at once. It does so by itself too, but for most links only once a
    /// second for all together (net/core/link_watch.c); until then a link that came up before its other end drops
    /// everything, and a bridge does not forward to it. Asking for one link does it on the spot (`rtnl_getlink`, since
    /// Linux 6.8). A link that is not there needs nothing.
    pub fn sync_carrier(&mut self, name: &IfName) {
        let _ = self.index(name);
    }

    /// The index of a link.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn index(&mut self, name: &IfName) -> Result<u32, KernelError> {
        let mut index = None;
        let request = Request::new(RouteNetlinkMessage::GetLink(message::lookup(name)), 0);
        let mut results = self.exchange(vec![request], |_, reply| index = reply.link_index());
        match results.pop() {
            Some(Err(source)) => {
                Err(KernelError::Refused { action: "find link", object: name.to_string(), source })
            }
            _ => index.ok_or(KernelError::Garbled { what: "link" }),
        }
    }

    fn set_flags(&mut self, name: &IfName, flags: LinkFlags) -> Result<(), KernelError> {
        let mut link = link_by_name(name);
        link.header.flags = flags;
        link.header.change_mask = LinkFlags::Up;
        self.one("set link", name, Request::new(RouteNetlinkMessage::SetLink(link), 0))
    }

    fn set(&mut self, name: &IfName, attribute: LinkAttribute) -> Result<(), KernelError> {
        let mut link = link_by_name(name);
        link.attributes.push(attribute);
        self.one("set link", name, Request::new(RouteNetlinkMessage::SetLink(link), 0))
    }

    fn one(
        &mut self,
        action: &'static str,
        object: &dyn ToString,
        request: Request,
    ) -> Result<(), KernelError> {
        match self.request(vec![request]).pop() {
            Some(Err(source)) => Err(KernelError::Refused { action, object: object.to_string(), source }),
            _ => Ok(()),
        }
    }
}
