//! What our tunnel devices have sent, and when the way to each peer was last used.

use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::NeighbourAttribute;
use tartan_model::{IfName, Mac};

use crate::message::link_by_name;
use crate::nft::wire;
use crate::rtnl::Message;
use crate::{Kernel, KernelError, Request, tables};

/// Ticks of the clock in which the kernel tells ages to programs (USER_HZ), a second.
const TICKS: u32 = 100;

/// When the way to a MAC address was last used to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The inner destination.
    pub mac: Mac,
    /// How long ago.
    pub ago: Duration,
}

impl Kernel {
    /// How many packets these devices have sent in all; those that are not there have sent none. One question for each,
    /// no table is read.
    pub fn sent_packets<'a>(&mut self, devices: impl IntoIterator<Item = &'a IfName>) -> u64 {
        let request = |name| Request::new(RouteNetlinkMessage::GetLink(link_by_name(name)), 0);
        let requests: Vec<Request> = devices.into_iter().map(request).collect();
        let mut sent = 0u64;
        self.requests.exchange(requests, |_, message| {
            sent = sent.saturating_add(tx_packets(&message).unwrap_or(0));
        });
        sent
    }

    /// When the entries of a VXLAN device were last used. Reads the whole table of it.
    ///
    /// # Errors
    /// When the kernel does not answer, or there is no such device.
    pub fn last_used(&mut self, device: &IfName) -> Result<Vec<Used>, KernelError> {
        let index = self.requests.index(device)?;
        let dump = self.requests.dump(&tables::fdb(index))?;
        let used = dump.messages().filter_map(|message| match message.parse() {
            Ok(RouteNetlinkMessage::NewNeighbour(entry)) => used(&entry.attributes),
            _ => None,
        });
        Ok(used.collect())
    }
}

/// Of the fifty things that the kernel tells of a link, each second, this one is looked for (linux/if_link.h,
/// `struct rtnl_link_stats64`).
fn tx_packets(link: &Message<'_>) -> Option<u64> {
    const STATS64: u16 = 23;
    /// Behind `struct ifinfomsg`.
    const ATTRIBUTES: usize = 16;
    /// Behind `rx_packets`.
    const TX_PACKETS: usize = 8;
    let stats = wire::find(link.payload.get(ATTRIBUTES..)?, STATS64)?;
    stats.get(TX_PACKETS..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

fn used(attributes: &[NeighbourAttribute]) -> Option<Used> {
    let mut mac = None;
    let mut ticks = None;
    for attribute in attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.as_slice().try_into().ok().map(Mac::from_bytes)
            }
            NeighbourAttribute::CacheInfo(info) => ticks = Some(info.used),
            _ => {}
        }
    }
    Some(Used { mac: mac?, ago: Duration::from_secs(1) * ticks? / TICKS })
}
