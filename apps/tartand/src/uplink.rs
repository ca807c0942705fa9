//! The interface to the other nodes, as the configuration names it.

use std::net::IpAddr;

use tartan_decide::Fact;
use tartan_model::{NoUplink, Uplink};

use crate::ring::Ring;

impl Ring {
    /// Looks which interface it is now.
    pub(crate) fn look_at_uplink(&mut self) {
        let choice = self.interface.clone();
        match self.loop_.kernel().uplink(&choice) {
            Ok(uplink) => {
                let uplink = uplink.and_then(|uplink| narrow(uplink, self.address));
                let public_addresses = self.public_addresses.clone();
                let uplink = uplink.map(|uplink| Uplink { public_addresses, ..uplink });
                self.learn(Fact::Uplink(uplink));
            }
            Err(error) => {
                self.went_wrong(format!("cannot find the uplink: {error}"));
                self.loop_.doubt_underlay();
            }
        }
    }
}

/// The uplink with only the address that the configuration names.
fn narrow(mut uplink: Uplink, address: Option<IpAddr>) -> Result<Uplink, NoUplink> {
    if let Some(address) = address {
        uplink.addresses.retain(|candidate| candidate.address() == address);
        if uplink.addresses.is_empty() {
            return Err(NoUplink::OtherAddress { link: uplink.name, address });
        }
    }
    Ok(uplink)
}
