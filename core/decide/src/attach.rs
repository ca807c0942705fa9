//! What a new interface of a pod is given: addresses and routes.

use std::net::IpAddr;

use tartan_api::network::Network;
use tartan_model::{AttachmentKey, Cidr, Endpoint, Family, NetworkName};

use crate::learn::dirty;
use crate::{Attach, Attached, Learned, Phase, Record, Refused, Scope, World};

impl World {
    pub(crate) fn attach(&mut self, attach: Attach) -> Result<Learned, Refused> {
        let network = self.admit(&attach)?;
        let families: Vec<Family> = Family::ALL.into_iter().filter(|f| network.has_family(*f)).collect();
        let attachment = network.attachment;
        let routes = self.routes(&attach, network, &families);
        let given = self.allocate(&attach, &families)?;
        let (addresses, blocks) = given.into_iter().unzip();
        let endpoint = Endpoint {
            key: attach.key.clone(),
            pod: attach.pod,
            network: attach.network.clone(),
            list: attach.list,
            attachment,
            addresses,
            blocks,
            routes,
            mac: attach.mac,
            link: attach.link,
            netns: attach.netns,
            labels: attach.labels,
        };
        self.endpoints
            .insert(attach.key.clone(), Attached { endpoint: endpoint.clone(), phase: Phase::Adding });
        let mut learned = dirty([Scope::Endpoint(attach.key.clone())]);
        learned.dirty.extend(self.judge_own(&attach.key));
        learned.dirty.insert(Scope::Network(attach.network.clone()));
        if self.has_other(&attach.network) {
            learned.dirty.extend(self.concerned(&attach.network));
        }
        learned.records.push(Record::Adding(endpoint));
        Ok(learned)
    }

    pub(crate) fn added(&mut self, key: &AttachmentKey) -> Learned {
        match self.endpoints.get_mut(key).filter(|attached| attached.phase == Phase::Adding) {
            Some(attached) => {
                attached.phase = Phase::Wanted;
                Learned { records: vec![Record::Endpoint(attached.endpoint.clone())], ..Learned::default() }
            }
            None => Learned::default(),
        }
    }

    fn admit(&self, attach: &Attach) -> Result<&Network, Refused> {
        if self.endpoints.contains_key(&attach.key) {
            return Err(Refused::Exists { key: attach.key.clone() });
        }
        let network = self.served(&attach.network)?;
        for (position, address) in attach.ips.iter().enumerate() {
            let family = Family::of(*address);
            if !network.has_family(family) {
                return Err(Refused::NoPool { address: *address, network: network.name.clone() });
            }
            let mut before = attach.ips.iter().take(position);
            if let Some(other) = before.find(|other| Family::of(**other) == family) {
                return Err(Refused::TwoAddresses(*other, *address));
            }
        }
        Ok(network)
    }

    /// Everything, where the pod has no default route yet; a further interface leads to its network's pools only, and
    /// to nothing that another interface in the same network leads to.
    fn routes(&self, attach: &Attach, network: &Network, families: &[Family]) -> Vec<Cidr> {
        let mut others = self.endpoints.values().map(|attached| &attached.endpoint);
        let again = others
            .any(|other| other.key.container == attach.key.container && other.network == attach.network);
        let pools = |family: Family| {
            let pools = network.pools.iter().map(|pool| pool.cidr());
            pools.filter(move |pool| !again && pool.family() == family).collect::<Vec<_>>()
        };
        let of = |family: &Family| match attach.default_routes.contains(family) {
            false => vec![Cidr::everything(*family)],
            true => pools(*family),
        };
        families.iter().flat_map(of).collect()
    }

    /// An address of each family from this node's own blocks, or none at all.
    fn allocate(&mut self, attach: &Attach, families: &[Family]) -> Result<Vec<(IpAddr, Cidr)>, Refused> {
        let mut given = Vec::new();
        for family in families {
            let asked = attach.ips.iter().find(|address| Family::of(**address) == *family);
            let outcome = match asked {
                Some(address) => self.claim(&attach.network, *address),
                None => self.allocate_one(&attach.network, *family),
            };
            match outcome {
                Ok(address) => given.push(address),
                Err(refused) => {
                    for (address, block) in given {
                        self.addresses_of(&attach.network, block).release(address);
                    }
                    return Err(refused);
                }
            }
        }
        Ok(given)
    }

    fn allocate_one(&mut self, network: &NetworkName, family: Family) -> Result<(IpAddr, Cidr), Refused> {
        let blocks = self.usable_blocks(network, family);
        let given =
            blocks.into_iter().find_map(|block| Some((self.addresses_of(network, block).allocate()?, block)));
        given.ok_or_else(|| Refused::NoAddress { network: network.clone(), family })
    }

    fn claim(&mut self, network: &NetworkName, address: IpAddr) -> Result<(IpAddr, Cidr), Refused> {
        let held = self.usable_blocks(network, Family::of(address));
        let Some(block) = held.iter().copied().find(|block| block.contains(address)) else {
            return Err(Refused::NotHeld { address, network: network.clone(), held });
        };
        self.addresses_of(network, block).claim(address).map_err(Refused::NotFree)?;
        Ok((address, block))
    }
}
