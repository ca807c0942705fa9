//! The interface to the other nodes, as the configuration names it.

use tartan_decide::Fact;
use tartan_model::Uplink;

use crate::ring::Ring;

impl Ring {
    /// Looks which interface it is now.
    pub(crate) fn look_at_uplink(&mut self) {
        let choice = self.interface.clone();
        match self.loop_.kernel().uplink(&choice, self.address) {
            Ok(uplink) => {
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
