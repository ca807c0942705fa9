//! Learning: the one writer of the [`World`]. Choices that need memory are made here.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tartan_api::network::Network;
use tartan_ipam::BlockAddresses;
use tartan_model::{AttachmentKey, Cidr, Endpoint, Family, NetworkName, NoUplink, Node, NodeId, Uplink};

use crate::{Attached, Fact, Learned, Phase, Record, Refused, Scope, World};

impl World {
    /// Takes in a fact, and tells what has to be decided anew and what must be kept.
    ///
    /// # Errors
    /// Only an [`Fact::Attach`] can be refused; the world is then as it was.
    pub fn learn(&mut self, fact: Fact) -> Result<Learned, Refused> {
        Ok(match fact {
            Fact::Attach(attach) => return self.attach(attach),
            Fact::MarksAddresses => {
                let changed = !std::mem::replace(&mut self.marks_addresses, true);
                self.everything_if(changed)
            }
            Fact::Uplink(uplink) => self.learn_uplink(uplink),
            Fact::Node(id, node) => self.learn_node(id, node),
            Fact::Network(name, network) => self.learn_network(name, network),
            Fact::Policy(name, policy) => self.learn_policy(name, policy),
            Fact::Namespace(name, labels) => self.learn_namespace(name, labels),
            Fact::Pod(name, pod) => self.learn_pod(name, pod),
            Fact::ServiceAccount(name, labels) => self.learn_service_account(name, labels),
            Fact::Endpoint(node, key, published) => self.learn_published(node, key, published),
            Fact::Block(network, block, owner) => self.learn_block(network, block, owner),
            Fact::ClaimLost(network) => {
                *self.lost_claims.entry(network.clone()).or_default() += 1;
                dirty([Scope::Network(network)])
            }
            Fact::Returning(network, block) => {
                self.returning.insert((network.clone(), block));
                dirty([Scope::Network(network)])
            }
            Fact::Returned(network, block) if self.is_own(&network, &block) => {
                self.learn_block(network, block, None)
            }
            Fact::Returned(network, block) | Fact::NotReturned(network, block) => {
                self.returning.remove(&(network.clone(), block));
                dirty([Scope::Network(network)])
            }
            Fact::Held(network, block) => {
                self.held.insert((network.clone(), block));
                dirty([Scope::Network(network)])
            }
            Fact::Left => {
                let gone = std::mem::take(&mut self.held).into_iter();
                let records = gone.map(|(network, block)| Record::HeldNoMore(network, block)).collect();
                Learned { dirty: self.scopes(), records }
            }
            Fact::InSync => {
                let changed = !self.in_sync;
                self.in_sync = true;
                self.everything_if(changed)
            }
            Fact::Restored(endpoint) => self.restore(endpoint),
            Fact::Released(network, block, address) => self.restore_released(network, block, address),
            Fact::Bridge(network, number) => {
                self.bridges.insert(network.clone(), number);
                self.network_and_endpoints(&network)
            }
            Fact::Epoch(number) => self.restore_epoch(number),
            Fact::Turn => self.turn(),
            Fact::Added(key) => self.added(&key),
            Fact::Detach(key) => self.detach(key),
            Fact::Shut(key) => self.shut(key),
        })
    }

    /// An uplink that is gone for a while keeps its place: what stands on it is not torn down.
    fn learn_uplink(&mut self, uplink: Result<Uplink, NoUplink>) -> Learned {
        let (found, missing) = match uplink {
            Ok(uplink) if uplink.addresses.is_empty() => (None, Some(NoUplink::NoAddress(uplink.name))),
            Ok(uplink) => (Some(uplink), None),
            Err(missing) => (None, Some(missing)),
        };
        let before = std::mem::replace(&mut self.no_uplink, missing);
        let changed = before != self.no_uplink || (found.is_some() && found != self.uplink);
        if found.is_some() {
            self.uplink = found;
        }
        self.everything_if(changed)
    }

    fn everything_if(&self, changed: bool) -> Learned {
        if changed { Learned { dirty: self.scopes(), ..Learned::default() } } else { Learned::default() }
    }

    fn learn_node(&mut self, id: NodeId, node: Option<Node>) -> Learned {
        let old = match node.clone() {
            Some(node) => self.nodes.insert(id, node),
            None => self.nodes.remove(&id),
        };
        if old == node {
            return Learned::default();
        }
        let addresses: BTreeSet<IpAddr> = [&old, &node].into_iter().flatten().flat_map(publics).collect();
        let mut scopes = BTreeSet::from([if id == self.this { Scope::Node } else { Scope::Peer(id) }]);
        for address in addresses {
            let named = node.as_ref().is_some_and(|node| publics(node).any(|other| other == address));
            scopes.extend(self.index_public(address, id, named).into_iter().map(Scope::Peer));
        }
        // Whoever has what is reserved for this node is told by name.
        let reserving = self.networks.values().filter(|network| {
            network.pools.iter().any(|pool| pool.reserved_for(&self.name).next().is_some())
        });
        scopes.extend(reserving.map(|network| Scope::Network(network.name.clone())));
        dirty(scopes)
    }

    /// Notes whether a node has a public address, and gives the other peers that have it, too.
    fn index_public(&mut self, address: IpAddr, id: NodeId, named: bool) -> Vec<NodeId> {
        let nodes = self.public.entry(address).or_default();
        let others = nodes.iter().copied().filter(|other| *other != id && *other != self.this).collect();
        if named {
            nodes.insert(id);
        } else {
            nodes.remove(&id);
        }
        if nodes.is_empty() {
            self.public.remove(&address);
        }
        others
    }

    fn learn_network(&mut self, name: NetworkName, network: Option<Network>) -> Learned {
        let old = match network.clone() {
            Some(network) => self.networks.insert(name.clone(), network),
            None => self.networks.remove(&name),
        };
        if old == network {
            return Learned::default();
        }
        // What one network may use depends on the others, and every peer is reached in it.
        let judged = self.judge_everybody();
        let mut learned = self.everything_if(true);
        learned.dirty.extend(judged);
        learned.dirty.insert(Scope::Network(name.clone()));
        if network.is_some() {
            self.number_bridge(name, &mut learned);
        }
        learned
    }

    /// Gives a network's bridge the lowest free number, once.
    fn number_bridge(&mut self, name: NetworkName, learned: &mut Learned) {
        if self.bridges.contains_key(&name) {
            return;
        }
        let taken: BTreeSet<u32> = self.bridges.values().copied().collect();
        if let Some(number) = (0..).find(|number| !taken.contains(number)) {
            self.bridges.insert(name.clone(), number);
            learned.records.push(Record::Bridge(name, number));
        }
    }

    fn is_own(&self, network: &NetworkName, block: &Cidr) -> bool {
        self.blocks.get(network).and_then(|blocks| blocks.get(block)) == Some(&self.this)
    }

    fn learn_block(&mut self, network: NetworkName, block: Cidr, owner: Option<NodeId>) -> Learned {
        let blocks = self.blocks.entry(network.clone()).or_default();
        let old = match owner {
            Some(id) => blocks.insert(block, id),
            None => blocks.remove(&block),
        };
        if old == owner {
            return Learned::default();
        }
        self.index(&network, block, old, owner);
        let records = self.learn_held(&network, block, owner);
        let mut scopes: BTreeSet<Scope> = old.iter().chain(&owner).map(|id| Scope::Peer(*id)).collect();
        scopes.insert(Scope::Network(network.clone()));
        // Whose addresses a node may speak for is another now.
        let this = self.this;
        if self.has_other(&network) {
            scopes.extend(self.judge_everybody());
        } else {
            for id in old.into_iter().chain(owner).filter(|id| *id != this) {
                scopes.extend(self.judge_node(id));
            }
        }
        if owner == Some(self.this) {
            self.lost_claims.remove(&network);
            self.addresses_of(&network, block);
        }
        // What no pool covers is on the way out by itself.
        let covers = |spec: &Network| spec.pools.iter().any(|pool| pool.cidr().covers(&block));
        if !self.networks.get(&network).is_some_and(covers) {
            scopes.insert(Scope::Node);
        }
        if self.used(&network, &block).is_some_and(|used| used > 0) {
            let has_it = |attached: &&Attached| attached.endpoint.blocks.contains(&block);
            let pods = self.endpoints.values().filter(has_it);
            scopes.extend(pods.map(|attached| Scope::Endpoint(attached.endpoint.key.clone())));
        }
        // This node's source address in every route may be another now, and a block of one network may make room for,
        // or stand in the way of, that of another.
        if old == Some(self.this) || owner == Some(self.this) || self.has_other(&network) {
            scopes.extend(self.scopes());
        }
        Learned { dirty: scopes, records }
    }

    /// Notes whether a block is this node's to go back to. That nobody owns it any more does not end that, unless this
    /// node gave it back: the store was wiped, or somebody took the entry away.
    fn learn_held(&mut self, network: &NetworkName, block: Cidr, owner: Option<NodeId>) -> Vec<Record> {
        let key = (network.clone(), block);
        let gave_back = self.returning.remove(&key);
        if owner == Some(self.this) {
            let is_new = self.held.insert(key);
            return is_new.then(|| Record::Held(network.clone(), block)).into_iter().collect();
        }
        let ends = (owner.is_some() || gave_back) && self.held.remove(&key);
        ends.then(|| Record::HeldNoMore(network.clone(), block)).into_iter().collect()
    }

    /// Whether there is anything of another network.
    pub(crate) fn has_other(&self, network: &NetworkName) -> bool {
        self.networks.keys().chain(self.blocks.keys()).any(|name| name != network)
    }

    /// What depends on which addresses of a network are in use: its own blocks, and whether others may use theirs.
    pub(crate) fn concerned(&self, network: &NetworkName) -> impl Iterator<Item = Scope> {
        let others = self.networks.keys().filter(|name| *name != network);
        others.chain([network]).cloned().map(Scope::Network).collect::<Vec<_>>().into_iter()
    }

    fn index(&mut self, network: &NetworkName, block: Cidr, old: Option<NodeId>, new: Option<NodeId>) {
        let entry = (network.clone(), block);
        if let Some(blocks) = old.and_then(|id| self.owned.get_mut(&id)) {
            blocks.retain(|other| *other != entry);
        }
        if let Some(id) = new {
            let blocks = self.owned.entry(id).or_default();
            blocks.insert(blocks.partition_point(|other| *other < entry), entry);
        }
    }

    pub(crate) fn addresses_of(&mut self, network: &NetworkName, block: Cidr) -> &mut BlockAddresses {
        self.addresses.entry((network.clone(), block)).or_insert_with(|| BlockAddresses::new(block))
    }

    fn restore(&mut self, endpoint: Endpoint) -> Learned {
        for (address, block) in endpoint.addresses.iter().zip(&endpoint.blocks) {
            // A record twice would be the same record: the key is the same.
            let _ = self.addresses_of(&endpoint.network, *block).claim(*address);
        }
        let mut scopes: Vec<Scope> = self.concerned(&endpoint.network).collect();
        let key = endpoint.key.clone();
        scopes.push(Scope::Endpoint(key.clone()));
        self.endpoints.insert(key.clone(), Attached { endpoint, phase: Phase::Wanted });
        scopes.extend(self.judge_own(&key));
        dirty(scopes)
    }

    fn restore_released(&mut self, network: NetworkName, block: Cidr, address: IpAddr) -> Learned {
        let addresses = self.addresses_of(&network, block);
        if addresses.claim(address).is_ok() {
            addresses.release(address);
        }
        Learned::default()
    }

    fn network_and_endpoints(&self, network: &NetworkName) -> Learned {
        let mine = self.endpoints.values().filter(|attached| attached.endpoint.network == *network);
        let mut scopes: BTreeSet<Scope> =
            mine.map(|attached| Scope::Endpoint(attached.endpoint.key.clone())).collect();
        scopes.insert(Scope::Network(network.clone()));
        dirty(scopes)
    }

    /// Whether a pod could be attached to a network now.
    ///
    /// # Errors
    /// When it could not.
    pub fn admits(&self, network: &NetworkName) -> Result<(), Refused> {
        let served = self.served(network)?;
        let mut families = Family::ALL.into_iter().filter(|family| served.has_family(*family));
        match families.find(|family| self.needs_block(network, *family)) {
            Some(family) => Err(Refused::NoAddress { network: network.clone(), family }),
            None => Ok(()),
        }
    }

    pub(crate) fn served(&self, name: &NetworkName) -> Result<&Network, Refused> {
        if !self.in_sync {
            return Err(Refused::NotInSync);
        }
        if self.uplink.is_none() {
            return Err(Refused::NoUplink(self.no_uplink.clone().unwrap_or(NoUplink::Unseen)));
        }
        let network = self.networks.get(name).ok_or_else(|| Refused::NoNetwork(name.clone()))?;
        match self.unserved(network) {
            Some(reason) => Err(Refused::NotServed { network: name.clone(), reason }),
            None => Ok(network),
        }
    }

    /// This node's blocks that new pods may have addresses from, those that are reserved for it first.
    pub(crate) fn usable_blocks(&self, network: &NetworkName, family: Family) -> Vec<Cidr> {
        let Some(spec) = self.networks.get(network) else { return Vec::new() };
        let own = self.blocks_of(network, &self.this).filter(|block| block.family() == family);
        let usable = own
            .filter(|block| spec.pools.iter().any(|pool| pool.serves(block, &self.name)))
            .filter(|block| !self.returning.contains(&(network.clone(), *block)))
            .filter(|block| !self.is_contested(network, block) && !self.is_occupied(network, block));
        let is_reserved = |block: &Cidr| spec.pools.iter().any(|pool| pool.reserved(block).is_some());
        let (mut reserved, others): (Vec<Cidr>, Vec<Cidr>) = usable.partition(is_reserved);
        reserved.extend(others);
        reserved
    }

    /// Whether pods of another network on this node have addresses in this block.
    fn is_occupied(&self, network: &NetworkName, block: &Cidr) -> bool {
        let mut others = self.addresses.iter().filter(|((name, _), _)| name != network);
        others.any(|((_, other), addresses)| other.overlaps(block) && addresses.used() > 0)
    }

    /// Whether a network before this one by name has a block that shares addresses with this: the store does not keep
    /// two agents from writing that down, so the later one does not use it.
    pub(crate) fn is_contested(&self, network: &NetworkName, block: &Cidr) -> bool {
        let before = self.blocks.range(..network.clone()).flat_map(|(_, blocks)| blocks.keys());
        before.into_iter().any(|other| other.overlaps(block))
    }

    /// Whether pods of this family cannot be added for want of a block with a free address.
    pub(crate) fn needs_block(&self, network: &NetworkName, family: Family) -> bool {
        let wanted = self.networks.get(network).is_some_and(|spec| spec.has_family(family));
        wanted && !self.usable_blocks(network, family).iter().any(|block| self.has_free(network, block))
    }

    fn has_free(&self, network: &NetworkName, block: &Cidr) -> bool {
        let used = self.used(network, block).unwrap_or(0);
        (used as u128) < tartan_ipam::capacity(block)
    }

    fn detach(&mut self, key: AttachmentKey) -> Learned {
        match self.endpoints.get_mut(&key) {
            Some(attached) => {
                attached.phase = Phase::Leaving;
                dirty([Scope::Endpoint(key)])
            }
            None => Learned::default(),
        }
    }

    fn shut(&mut self, key: AttachmentKey) -> Learned {
        let Some(Attached { endpoint, .. }) = self.endpoints.remove(&key) else { return Learned::default() };
        let mut learned = dirty([Scope::Endpoint(key.clone())]);
        learned.dirty.extend(self.judge_own(&key));
        learned.dirty.extend(self.concerned(&endpoint.network));
        learned.records.push(Record::EndpointGone(key));
        for (address, block) in endpoint.addresses.iter().zip(&endpoint.blocks) {
            let forgotten = self.addresses_of(&endpoint.network, *block).release(*address).forgotten;
            let forgotten = forgotten.map(|old| Record::Forgotten(endpoint.network.clone(), *block, old));
            learned.records.push(Record::Released(endpoint.network.clone(), *block, *address));
            learned.records.extend(forgotten);
        }
        learned
    }
}

fn publics(node: &Node) -> impl Iterator<Item = IpAddr> + use<'_> {
    node.public_addresses.iter().copied()
}

pub(crate) fn dirty(scopes: impl IntoIterator<Item = Scope>) -> Learned {
    Learned { dirty: scopes.into_iter().collect(), records: Vec::new() }
}
