//! Deciding: from what is known to what shall be, for one scope at a time. Total and pure.

use std::net::IpAddr;

use tartan_api::network::Network;
use tartan_fabric::{Blocked, Reached, Reason, Way, vxlan_device};
use tartan_model::{
    Attachment, AttachmentKey, Cidr, Endpoint, Family, IfName, Mac, Mtu, NetworkName, Node, NodeId, Path,
    Pool,
};

use crate::{
    Announcement, Attached, Bridge, Choice, Claim, Decision, EndpointChoice, NetworkChoice, NodeChoice, Note,
    PeerChoice, Phase, Reach, Scope, World,
};

impl World {
    /// What shall be for this scope. A scope that there is nothing known of comes to nothing.
    pub fn decide(&self, scope: &Scope) -> Decision {
        match scope {
            Scope::Node => self.decide_node(),
            Scope::Network(name) => self.decide_network(name),
            Scope::Peer(id) => self.decide_peer(id),
            Scope::Endpoint(key) => {
                Decision { announce: self.decide_announcement(key), ..self.decide_endpoint(key) }
            }
            Scope::Policy | Scope::Remotes(_) | Scope::Member(..) | Scope::Identity(_) | Scope::Far(_) => {
                Decision { choice: self.decide_policy(scope).map(Choice::Policy), ..Decision::default() }
            }
        }
    }

    /// What the others are told of a pod's interface, if that is not what they shall know. Before the store has told
    /// everything, what it has may only not be known yet.
    fn decide_announcement(&self, key: &AttachmentKey) -> Option<Announcement> {
        let endpoint = self.to_publish(key);
        let differs = self.in_sync && endpoint.as_ref() != self.published(key);
        differs.then(|| Announcement { key: key.clone(), endpoint })
    }

    fn decide_node(&self) -> Decision {
        let own = self.own_node();
        let served: Vec<&Network> = match own {
            Some(_) => self.networks.values().collect(),
            None => Vec::new(),
        };
        let is_served = |family: &Family| served.iter().any(|network| self.carries(network, *family));
        let forward: Vec<Family> = Family::ALL.into_iter().filter(is_served).collect();
        // Forwarding turns a host into a router, which takes no route from advertisements unless told to
        // (ip-sysctl: accept_ra).
        let accepts = self.uplink.as_ref().filter(|uplink| uplink.accepts_routers);
        let accept_ra = accepts.filter(|_| forward.contains(&Family::Ipv6)).map(|uplink| uplink.name.clone());
        let is_direct = |network: &&&Network| network.paths.contains(&Path::Direct);
        let direct = served.iter().filter(is_direct).any(|network| self.carries(network, Family::Ipv4));
        let tunnelled = served.iter().filter(|network| network.paths.contains(&Path::Vxlan));
        let bare = |it: &&Network| !it.paths.contains(&Path::Vxlan) && it.attachment == Attachment::Routed;
        let on_loopback = served.iter().any(|it| bare(it) && self.carries(it, Family::Ipv6));
        let choice = NodeChoice {
            opens_loopback: on_loopback && self.marks_addresses,
            forward,
            accept_ra,
            forward_from: self.uplink.as_ref().filter(|_| direct).map(|uplink| uplink.name.clone()),
            loosen: self.uplink.as_ref().filter(|uplink| direct && uplink.is_strict).map(|u| u.name.clone()),
            addresses: own.iter().flat_map(Node::all_addresses).collect(),
            tunnels: tunnelled.map(|network| network.vxlan.port.get()).collect(),
            way_out: self.way_out(),
            judges_frames: served.iter().any(|it| it.policy && it.attachment == Attachment::Bridge),
        };
        let no_uplink = self.no_uplink.iter().cloned().map(Note::NoUplink);
        Decision {
            choice: Some(Choice::Node(choice)),
            publish: own,
            notes: no_uplink.chain(self.left_out()).chain(self.idle_policies()).collect(),
            ..Decision::default()
        }
    }

    fn decide_network(&self, name: &NetworkName) -> Decision {
        let Some(network) = self.networks.get(name) else {
            return Decision { returns: self.returns(name, &[]), ..Decision::default() };
        };
        let Some(own) = self.own_node() else { return Decision::default() };
        if let Some(conflict) = self.unserved(network) {
            let note = Note::Unserved { network: name.clone(), conflict };
            return Decision { notes: vec![note], ..Decision::default() };
        }
        let mut decision = Decision {
            choice: Some(Choice::Network(self.network_choice(network, &own))),
            returns: self.returns(name, &network.pools),
            ..Decision::default()
        };
        for family in Family::ALL {
            self.decide_block(network, family, &mut decision);
            decision.returns.extend(self.surplus(network, family).map(|block| (name.clone(), block)));
        }
        decision.notes.extend(self.reserved_elsewhere(network));
        if self.has_mixed_attachments(network) {
            decision.notes.push(Note::MixedAttachments { network: name.clone() });
        }
        let least = tartan_fabric::pod_mtu(&own, &network.paths, None);
        if self.carries(network, Family::Ipv6) && least < Mtu::IPV6_MIN {
            decision.notes.push(Note::SmallUnderlay { network: name.clone(), mtu: own.mtu });
        }
        decision
    }

    /// A pod on the bridge looks for the block's other addresses there, where a routed pod is not.
    fn has_mixed_attachments(&self, network: &Network) -> bool {
        let mut mine = self
            .endpoints
            .values()
            .map(|attached| &attached.endpoint)
            .filter(|one| one.network == network.name);
        let first = mine.next().map(|endpoint| endpoint.attachment);
        mine.any(|endpoint| Some(endpoint.attachment) != first)
    }

    fn network_choice(&self, network: &Network, own: &Node) -> NetworkChoice {
        let bridged = network.attachment == Attachment::Bridge
            || self.endpoints.values().any(|attached| {
                attached.endpoint.network == network.name
                    && attached.endpoint.attachment == Attachment::Bridge
            });
        let tunnelled = network.paths.contains(&Path::Vxlan);
        // Once a bridge is there, every packet that the namespace forwards pays for it (net/bridge/br_netfilter_hooks.c,
        // `ip_sabotage_in`).
        let needed = bridged || !tunnelled && !self.marks_addresses;
        let bridge = if needed { self.bridge(&network.name, bridged) } else { None };
        let locals: Vec<IpAddr> =
            own.addresses.iter().map(|address| address.address()).filter(|_| tunnelled).collect();
        let tunnel = locals.first().map(|local| vxlan_device(network.vxlan.vni, Family::of(*local)));
        let holder = tunnel.or_else(|| bridge.as_ref().map(|bridge| bridge.name.clone()));
        NetworkChoice {
            network: network.name.clone(),
            vni: network.vxlan.vni,
            port: network.vxlan.port.get(),
            mtu: self.pod_mtu(network).unwrap_or(own.mtu),
            mac: Mac::of_node(&self.this),
            holder: holder.or(self.marks_addresses.then_some(IfName::LOOPBACK)),
            locals,
            blocks: self.served_blocks(&network.name, &self.this).collect(),
            bridge,
            loose: network.paths.contains(&Path::Direct) && self.carries(network, Family::Ipv4),
            closed: self.in_sync,
        }
    }

    fn bridge(&self, network: &NetworkName, pods: bool) -> Option<Bridge> {
        let name = self.bridge_name(network)?;
        let mac = Mac::of_bridge(&self.name, *self.bridges.get(network)?);
        Some(Bridge { name, mac, pods })
    }

    fn bridge_name(&self, network: &NetworkName) -> Option<IfName> {
        format!("tartan{}", self.bridges.get(network)?).parse().ok()
    }

    /// Claims a block of a family, or says that there is none.
    fn decide_block(&self, network: &Network, family: Family, decision: &mut Decision) {
        let name = &network.name;
        if let Some(block) = self.in_sync.then(|| self.lost_block(network, family)).flatten() {
            decision.claims.push(Claim { network: name.clone(), block });
            return;
        }
        // Needed or not: whoever reserved it wants it there.
        if let Some(block) = self.in_sync.then(|| self.reserved_block(network, family)).flatten() {
            decision.claims.push(Claim { network: name.clone(), block });
            return;
        }
        if !self.needs_block(name, family) {
            return;
        }
        let mut pools = network.pools.iter().filter(|pool| pool.family() == family);
        let claim = self.in_sync.then(|| pools.find_map(|pool| self.choose_block(name, pool)));
        match claim {
            Some(Some(block)) => decision.claims.push(Claim { network: name.clone(), block }),
            Some(None) => decision.notes.push(Note::PoolExhausted { network: name.clone(), family }),
            None => {}
        }
        if self.usable_blocks(name, family).is_empty() && !matches!(claim, Some(None)) {
            decision.notes.push(Note::NoBlock { network: name.clone(), family });
        }
    }

    /// A block that is this node's and that nobody owns, as the store was wiped or somebody took the entry away: one that
    /// pods have addresses from, else one that pods may have addresses from.
    fn lost_block(&self, network: &Network, family: Family) -> Option<Cidr> {
        let used = self
            .addresses
            .iter()
            .filter(|((name, _), addresses)| *name == network.name && addresses.used() > 0)
            .map(|((_, block), _)| block);
        let serves = |block: &&Cidr| network.pools.iter().any(|pool| pool.serves(block, &self.name));
        let own = self.held.iter().filter(|(name, _)| *name == network.name).map(|(_, block)| block);
        // Mostly it is there as it was: among thousands the search is for others.
        let held = self.blocks.get(&network.name);
        let taken = |block: &Cidr| {
            held.is_some_and(|blocks| blocks.contains_key(block))
                || self.blocks.values().flat_map(|blocks| blocks.keys()).any(|other| other.overlaps(block))
        };
        used.chain(own.filter(serves)).copied().find(|block| block.family() == family && !taken(block))
    }

    /// A block that is reserved for this node and that nobody owns.
    fn reserved_block(&self, network: &Network, family: Family) -> Option<Cidr> {
        let mut pools = network.pools.iter().filter(|pool| pool.family() == family);
        let taken = self.blocks.values().flat_map(|blocks| blocks.keys());
        pools.find_map(|pool| tartan_ipam::reserved_block(pool, &self.name, taken.clone()))
    }

    /// Blocks that are reserved for this node, and that another one still has.
    fn reserved_elsewhere(&self, network: &Network) -> impl Iterator<Item = Note> {
        let own = network.pools.iter().flat_map(|pool| pool.reserved_for(&self.name));
        let held = own.filter_map(|block| {
            let owner = self.blocks.get(&network.name)?.get(block).filter(|owner| **owner != self.this)?;
            let holder =
                self.nodes.get(owner).map_or_else(|| owner.to_string(), |node| node.name.to_string());
            Some(Note::ReservedElsewhere { network: network.name.clone(), block: *block, holder })
        });
        held.collect::<Vec<_>>().into_iter()
    }

    fn choose_block(&self, network: &NetworkName, pool: &Pool) -> Option<Cidr> {
        let taken = self.blocks.values().flat_map(|blocks| blocks.keys()).copied().collect();
        let attempt = self.lost_claims.get(network).copied().unwrap_or(0);
        let [.., a, b, c, d, e, f, g, h] = *self.this.bytes();
        tartan_ipam::choose_block(pool, &taken, u64::from_be_bytes([a, b, c, d, e, f, g, h]), attempt)
    }

    /// An own block that nobody uses while the others have room for half a block of pods more. Half: who adds and removes
    /// one pod again and again must not claim and return a block each time.
    fn surplus(&self, network: &Network, family: Family) -> Option<Cidr> {
        if !self.in_sync {
            return None;
        }
        let blocks = self.usable_blocks(&network.name, family);
        let used = |block: &Cidr| self.used(&network.name, block).unwrap_or(0) as u128;
        let is_reserved = |block: &Cidr| network.pools.iter().any(|pool| pool.reserved(block).is_some());
        let empty = *blocks.iter().rev().find(|block| used(block) == 0 && !is_reserved(block))?;
        let others = blocks.iter().filter(|block| **block != empty);
        let room = others.map(|block| tartan_ipam::capacity(block).saturating_sub(used(block)));
        let room = room.fold(0, u128::saturating_add);
        (room >= tartan_ipam::capacity(&empty).div_ceil(2).max(1)).then_some(empty)
    }

    /// Own blocks that this node may not have by these pools and that nobody uses. A network that is not known may only not have been
    /// told yet, before the store is in sync.
    fn returns(&self, network: &NetworkName, pools: &[Pool]) -> Vec<(NetworkName, Cidr)> {
        if !self.in_sync {
            return Vec::new();
        }
        let mine = self.blocks_of(network, &self.this);
        let stale = mine.filter(|block| !pools.iter().any(|pool| pool.serves(block, &self.name)));
        let unused = stale.filter(|block| self.used(network, block).unwrap_or(0) == 0);
        let held = unused.map(|block| (network.clone(), block));
        held.filter(|held| !self.returning.contains(held)).collect()
    }

    fn decide_peer(&self, id: &NodeId) -> Decision {
        let (Some(peer), Some(own)) =
            (self.nodes.get(id).filter(|node| node.id != self.this), self.own_node())
        else {
            return Decision::default();
        };
        let mut decision = Decision::default();
        let mut reach: Vec<Reach> = Vec::new();
        for network in self.networks.values().filter(|network| self.unserved(network).is_none()) {
            let families = Family::ALL.into_iter().filter(|family| self.carries(network, *family));
            let mut ways: Vec<(Way, Vec<Family>)> = Vec::new();
            for family in families {
                let way = self.way(&own, peer, network, family);
                match ways.last_mut() {
                    Some((other, families)) if *other == way => families.push(family),
                    _ => ways.push((way, vec![family])),
                }
            }
            for (way, families) in ways {
                match way.reached {
                    Some(reached) => {
                        let reached = Way { reached: Some(reached), ..way };
                        reach.extend(self.reach(network, (&own, peer), reached, &families));
                    }
                    None => decision.notes.extend(way.blocked.into_iter().map(|blocked| Note::NoPath {
                        node: peer.name.clone(),
                        path: blocked.path,
                        reason: blocked.reason,
                    })),
                }
            }
        }
        // A pod's address is no node's, whatever somebody publishes.
        let of_pod =
            |address: &IpAddr| self.networks.values().any(|network| pool_over(network, *address).is_some());
        let addresses = peer.all_addresses().filter(|address| !of_pod(address)).collect();
        decision.choice = Some(Choice::Peer(PeerChoice { id: *id, addresses, reach }));
        decision
    }

    /// The way to a peer in a network for packets of a family, by what the two publish and what others do.
    fn way(&self, own: &Node, peer: &Node, network: &Network, family: Family) -> Way {
        let mut paths = network.paths.as_slice();
        let mut blocked = Vec::new();
        loop {
            let way = tartan_fabric::choose(own, peer, paths, family);
            blocked.extend(way.blocked);
            let Some(reached) = way.reached else { return Way { reached: None, blocked } };
            let Some(reason) = self.hindrance(peer, &reached) else {
                return Way { reached: Some(reached), blocked };
            };
            blocked.push(Blocked { path: reached.path, reason });
            let tried = paths.iter().position(|path| *path == reached.path).map_or(paths.len(), |at| at + 1);
            paths = paths.get(tried..).unwrap_or_default();
        }
    }

    /// What other nodes and pools have against a path.
    fn hindrance(&self, peer: &Node, reached: &Reached) -> Option<Reason> {
        let address = reached.underlay.remote;
        // Of any network: packets to it would go to that network's pods.
        let over = |network: &Network| pool_over(network, address).map(|pool| (pool, network.name.clone()));
        if let Some((pool, network)) = self.networks.values().find_map(over) {
            return Some(Reason::InPool { address, pool, network });
        }
        if peer.address(reached.underlay.family) == Some(address) {
            return None;
        }
        let mut others = self.public.get(&address).into_iter().flatten().filter(|id| **id != peer.id);
        let other = others.find_map(|id| self.nodes.get(id).filter(|node| node.id != self.this))?;
        Some(Reason::SharedAddress { peer: peer.name.clone(), other: other.name.clone(), address })
    }

    fn reach(
        &self,
        network: &Network,
        (own, peer): (&Node, &Node),
        way: Way,
        families: &[Family],
    ) -> Option<Reach> {
        let (reached, uplink) = way.reached.zip(self.uplink.as_ref())?;
        let blocks = self
            .served_blocks(&network.name, &peer.id)
            .filter(|block| families.contains(&block.family()))
            .map(|block| (block, self.source(&network.name, block.family())));
        let blocks: Vec<_> = blocks.collect();
        let path = tartan_fabric::path_mtu(own, peer, &reached);
        // IPv6 knows no less (RFC 8200, section 5).
        let path = if families.contains(&Family::Ipv6) { path.max(Mtu::IPV6_MIN) } else { path };
        let mtu = self.pod_mtu(network).and_then(|pods| {
            // Fragments that a bridge's netfilter has put together are cut again by the route's MTU alone
            // (net/bridge/br_netfilter_ipv6.c: what their sender's was is lost), so what pods may not send is said on the uplink, too.
            let carried = if reached.path == Path::Direct { own.mtu.max(pods) } else { pods };
            let least = path.min(pods);
            (least < carried).then_some(least)
        });
        (!blocks.is_empty()).then(|| Reach {
            vni: network.vxlan.vni,
            reached,
            uplink: uplink.name.clone(),
            mtu,
            blocks,
            blocked: way.blocked,
        })
    }

    fn decide_endpoint(&self, key: &AttachmentKey) -> Decision {
        let Some(Attached { endpoint, phase }) = self.endpoints.get(key) else { return Decision::default() };
        let served = self.networks.get(&endpoint.network).filter(|network| self.unserved(network).is_none());
        let leaving = *phase == Phase::Leaving;
        if !leaving && (self.uplink.is_none() || (served.is_none() && !self.in_sync)) {
            // What is not known yet may only not have been told yet: what is in the kernel stays as it is.
            let guard = Choice::Guard(endpoint.clone(), self.judged(endpoint));
            return Decision { choice: Some(guard), ..Decision::default() };
        }
        let mut notes = Vec::new();
        if served.is_none() && !leaving {
            notes.push(Note::NetworkGone { pod: endpoint.pod.clone(), network: endpoint.network.clone() });
        }
        notes.extend(self.taken_over(endpoint));
        notes.extend(self.too_much_policy(endpoint));
        let mtu = served.and_then(|network| self.pod_mtu(network));
        // A link that is shut carries nothing of any size.
        let choice =
            self.endpoint_choice(endpoint.clone(), mtu.unwrap_or(Mtu::IPV6_MIN), mtu.is_some() && !leaving);
        Decision { choice: Some(Choice::Endpoint(choice)), notes, ..Decision::default() }
    }

    /// Another node has the block of a pod's address: this one was taken out of the cluster while its pods lived on.
    fn taken_over(&self, endpoint: &Endpoint) -> Option<Note> {
        let held = self.blocks.get(&endpoint.network)?;
        let mut owners = endpoint.blocks.iter().filter_map(|block| Some((block, held.get(block)?)));
        let (block, owner) = owners.find(|(_, owner)| **owner != self.this)?;
        Some(Note::BlockTakenOver { pod: endpoint.pod.clone(), block: *block, owner: *owner })
    }

    fn endpoint_choice(&self, endpoint: Endpoint, mtu: Mtu, open: bool) -> EndpointChoice {
        let bridge = match endpoint.attachment {
            Attachment::Bridge => self.bridge_name(&endpoint.network),
            Attachment::Routed => None,
        };
        let sources =
            Family::ALL.into_iter().filter_map(|family| self.source(&endpoint.network, family)).collect();
        let judged = self.judged(&endpoint);
        EndpointChoice { endpoint, mtu, open, bridge, sources, judged }
    }
}

/// The pool of a network that an address is in.
fn pool_over(network: &Network, address: IpAddr) -> Option<Cidr> {
    network.pools.iter().map(Pool::cidr).find(|pool| pool.contains(address))
}
