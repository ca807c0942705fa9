//! Who may talk to whom: what is known of policies and pods goes to the engine, and what it comes to is decided scope by
//! scope.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tartan_api::kubernetes::NamedPort as WrittenPort;
use tartan_api::label::Labels;
use tartan_host::policy as rows;
use tartan_model::{AttachmentKey, Endpoint, NetworkName, NodeId, PodName, PolicyName};
use tartan_policy::form::{Direction, Endpoint as Known, Kind, NamedPort, PolicyId};
use tartan_policy::{Changes, Engine, network_policy, protocol_number};

use crate::{Learned, Note, Record, Scope, World};

/// A pod's interface somewhere in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Holder {
    node: NodeId,
    /// It is kept in several places.
    key: Arc<AttachmentKey>,
}

/// The engine, and who it has heard of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Judges {
    engine: Engine<Holder>,
    /// By their pod, which has few.
    by_pod: BTreeMap<PodName, Vec<Holder>>,
    /// The number of the epoch, from 0.
    epoch: u64,
    /// Something that was judged may be judged otherwise now.
    stale: bool,
}

impl World {
    /// Comes to what the policies learned before mean, and begins another epoch if some connection may be judged otherwise
    /// than in this one. Whoever learns facts says when it has learned all there are for now.
    pub(crate) fn turn(&mut self) -> Learned {
        let changes = self.judges.engine.settle();
        let mut dirty = self.note(changes);
        let mut records = Vec::new();
        if std::mem::take(&mut self.judges.stale) {
            self.judges.epoch += 1;
            records.push(Record::Epoch(self.judges.epoch));
            dirty.insert(Scope::Policy);
        }
        Learned { dirty, records }
    }

    /// The next epoch is another than that of a restart before.
    pub(crate) fn restore_epoch(&mut self, number: u64) -> Learned {
        self.judges.epoch = number;
        self.judges.stale = true;
        Learned::default()
    }

    /// The engine learns a policy as it is known by now. What it comes to is told by the next [`World::turn`]: a burst of
    /// policies about the same pods is one change.
    pub(crate) fn judge_policy(&mut self, name: &PolicyName) {
        let id = PolicyId {
            kind: Kind::NetworkPolicy,
            namespace: Some(name.namespace.clone()),
            name: name.name.clone(),
        };
        let policy = self.policies.get(name).map(|policy| network_policy(policy));
        self.judges.engine.put_policy(&id, policy);
    }

    /// The engine learns a namespace as it is known by now.
    pub(crate) fn judge_namespace(&mut self, name: &tartan_model::Name) -> BTreeSet<Scope> {
        let labels = self.namespaces.get(name).map(texts);
        let changes = self.judges.engine.set_namespace(name, labels);
        self.note(changes)
    }

    /// The same of a service account.
    pub(crate) fn judge_account(&mut self, name: &tartan_model::ServiceAccountName) -> BTreeSet<Scope> {
        let labels = self.service_accounts.get(name).map(texts);
        let changes = self.judges.engine.set_account(&name.namespace, name.name.as_str(), labels);
        self.note(changes)
    }

    /// The same of all interfaces of a pod.
    pub(crate) fn judge_pod(&mut self, pod: &PodName) -> BTreeSet<Scope> {
        let holders = self.judges.by_pod.get(pod).cloned().unwrap_or_default();
        holders.into_iter().flat_map(|holder| self.judge_holder(&holder)).collect()
    }

    /// The same of an interface on this node.
    pub(crate) fn judge_own(&mut self, key: &AttachmentKey) -> BTreeSet<Scope> {
        self.judge_holder(&Holder { node: self.this, key: Arc::new(key.clone()) })
    }

    /// The same of an interface on another node.
    pub(crate) fn judge_remote(&mut self, node: NodeId, key: &AttachmentKey) -> BTreeSet<Scope> {
        if node == self.this {
            BTreeSet::new()
        } else {
            self.judge_holder(&Holder { node, key: Arc::new(key.clone()) })
        }
    }

    /// The same of all interfaces on a node: which addresses it may speak for has changed.
    pub(crate) fn judge_node(&mut self, node: NodeId) -> BTreeSet<Scope> {
        let keys: Vec<AttachmentKey> = match node == self.this {
            true => self.endpoints.keys().cloned().collect(),
            false => self.published.get(&node).into_iter().flatten().map(|(key, _)| key.clone()).collect(),
        };
        keys.into_iter().flat_map(|key| self.judge_holder(&Holder { node, key: Arc::new(key) })).collect()
    }

    /// The same of all interfaces: networks have changed.
    pub(crate) fn judge_everybody(&mut self) -> BTreeSet<Scope> {
        let nodes: Vec<NodeId> = self.published.keys().copied().chain([self.this]).collect();
        nodes.into_iter().flat_map(|node| self.judge_node(node)).collect()
    }

    fn judge_holder(&mut self, holder: &Holder) -> BTreeSet<Scope> {
        let known = if holder.node == self.this { self.own(&holder.key) } else { self.other(holder) };
        self.note_pod(holder, known.as_ref().and_then(pod_of));
        let changes = self.judges.engine.set_endpoint(holder, known);
        self.note(changes)
    }

    fn note_pod(&mut self, holder: &Holder, pod: Option<PodName>) {
        let before = self.judges.engine.endpoint(holder).and_then(pod_of);
        if before == pod {
            return;
        }
        if let Some(before) = before
            && let Some(holders) = self.judges.by_pod.get_mut(&before)
        {
            holders.retain(|other| other != holder);
            if holders.is_empty() {
                self.judges.by_pod.remove(&before);
            }
        }
        if let Some(pod) = pod {
            // Almost all have one interface.
            let holders = self.judges.by_pod.entry(pod).or_insert_with(|| Vec::with_capacity(1));
            holders.push(holder.clone());
        }
    }

    /// A pod's interface on this node as policies see it, if they speak of its network.
    fn own(&self, key: &AttachmentKey) -> Option<Known> {
        let endpoint = &self.endpoints.get(key)?.endpoint;
        let labels = || self.own_labels(endpoint);
        self.has_policy(&endpoint.network)
            .then(|| self.known(&endpoint.pod, labels(), &endpoint.addresses, true))
    }

    /// The same on another node.
    fn other(&self, holder: &Holder) -> Option<Known> {
        let remote = self.remote_endpoint(holder.node, &holder.key)?;
        self.has_policy(remote.network)
            .then(|| self.known(remote.pod, remote.labels.clone(), &remote.addresses, false))
    }

    fn known(&self, pod: &PodName, labels: Arc<Labels>, addresses: &[IpAddr], local: bool) -> Known {
        let account = self.pods.get(pod).and_then(|pod| pod.service_account.as_ref());
        Known {
            namespace: pod.namespace.clone(),
            name: pod.name.to_string(),
            labels,
            account: account.map(ToString::to_string),
            addresses: addresses.to_vec(),
            ports: self.named_ports(pod).iter().map(named_port).collect(),
            local,
        }
    }

    fn has_policy(&self, network: &NetworkName) -> bool {
        self.networks.get(network).is_some_and(|network| network.policy)
    }

    /// The scopes that changes are about.
    fn note(&mut self, changes: Changes<Holder>) -> BTreeSet<Scope> {
        let verdicts = changes.is_about_verdicts();
        let endpoints = changes.endpoints.into_iter().filter(|holder| holder.node == self.this);
        let mut scopes: BTreeSet<Scope> =
            endpoints.map(|holder| Scope::Endpoint((*holder.key).clone())).collect();
        // Of pods elsewhere only verdicts are to be seen here.
        self.judges.stale |= verdicts || !scopes.is_empty();
        scopes.extend(changes.identities.into_iter().map(Scope::Identity));
        scopes.extend(changes.remotes.into_iter().map(Scope::Remotes));
        scopes.extend(changes.members.into_iter().map(|(id, address)| Scope::Member(id, address)));
        scopes.extend(changes.far.into_iter().map(Scope::Far));
        scopes
    }

    /// Every scope of policies.
    pub(crate) fn policy_scopes(&self) -> BTreeSet<Scope> {
        let all = self.judges.engine.everything();
        let mut scopes = BTreeSet::from([Scope::Policy]);
        scopes.extend(all.identities.into_iter().map(Scope::Identity));
        scopes.extend(all.remotes.into_iter().map(Scope::Remotes));
        scopes.extend(all.members.into_iter().map(|(id, address)| Scope::Member(id, address)));
        scopes.extend(all.far.into_iter().map(Scope::Far));
        scopes
    }

    /// How many policies are in force.
    pub fn policies_in_force(&self) -> usize {
        self.judges.engine.policies()
    }

    /// Why a connection may be or may not, as far as policies go.
    pub(crate) fn explain_policies(
        &self,
        flow: &tartan_policy::explain::Flow,
    ) -> tartan_policy::explain::Explanation {
        self.judges.engine.explain(flow)
    }

    /// Whether all that verdicts depend on is known. Before, what the kernel has is not taken away either.
    fn is_certain(&self) -> bool {
        self.in_sync && self.uplink.is_some()
    }

    /// The same of the policies of one side.
    pub(crate) fn explain_side(
        &self,
        flow: &tartan_policy::explain::Flow,
        direction: Direction,
    ) -> tartan_policy::explain::Explanation {
        self.judges.engine.explain_side(flow, direction)
    }

    /// The rows of a scope of policies. As long as not everything is known there are none, and what the kernel has stays.
    pub(crate) fn decide_policy(&self, scope: &Scope) -> Option<rows::PolicyRow> {
        if !self.is_certain() {
            return None;
        }
        match scope {
            Scope::Policy => self.networks.values().any(|network| network.policy).then(|| {
                let epoch = rows::Epoch::of(self.judges.epoch);
                rows::PolicyRow::Judge(rows::Judge { intact: true, epoch })
            }),
            Scope::Identity(id) => self.identity(*id).map(rows::PolicyRow::Identity),
            Scope::Remotes(id) => self.remotes(*id).map(rows::PolicyRow::Remotes),
            Scope::Member(id, address) => self.judges.engine.member(*id, *address).map(|verdict| {
                let (remotes, judgement) = (rows::RemotesId(*id), verdict);
                rows::PolicyRow::Member(rows::Member { remotes, address: *address, judgement })
            }),
            Scope::Far(address) => self.judges.engine.far(*address).map(|identity| {
                let (direction, address) = (Direction::Ingress, *address);
                let identity = rows::IdentityId(identity);
                rows::PolicyRow::Judged(rows::Judged { direction, address, identity, about: String::new() })
            }),
            Scope::Node | Scope::Network(_) | Scope::Peer(_) | Scope::Endpoint(_) => None,
        }
    }

    fn identity(&self, id: u64) -> Option<rows::Identity> {
        let identity = self.judges.engine.identity(id)?;
        let ports = identity.classes.iter().map(|(protocol, first, last, remotes)| rows::PortClass {
            protocol: *protocol,
            first: *first,
            last: *last,
            remotes: rows::RemotesId(*remotes),
        });
        Some(rows::Identity {
            id: rows::IdentityId(id),
            direction: identity.direction,
            ports: ports.collect(),
            otherwise: rows::RemotesId(identity.otherwise),
            about: identity.about.clone(),
            is_far: identity.is_far,
        })
    }

    fn remotes(&self, id: u64) -> Option<rows::Remotes> {
        let (of, ranges, otherwise) = self.judges.engine.remotes(id)?;
        let ranges = ranges.iter().map(|(first, last, verdict)| (*first, *last, *verdict));
        Some(rows::Remotes { id: rows::RemotesId(id), direction: of, ranges: ranges.collect(), otherwise })
    }

    /// A pod that is shut because its policies stand for too much.
    pub(crate) fn too_much_policy(&self, endpoint: &Endpoint) -> Option<Note> {
        let holder = Holder { node: self.this, key: Arc::new(endpoint.key.clone()) };
        let identities = self.judges.engine.identities_of(&holder).into_iter().flatten();
        let mut found = identities.filter_map(|id| self.judges.engine.identity(id));
        let about = found.find(|identity| identity.too_much)?.about.clone();
        Some(Note::TooMuchPolicy { pod: endpoint.pod.clone(), policies: about })
    }

    /// What is judged of a pod on this node.
    pub(crate) fn judged(&self, endpoint: &Endpoint) -> Vec<rows::PolicyRow> {
        if !self.is_certain() {
            return Vec::new();
        }
        let holder = Holder { node: self.this, key: Arc::new(endpoint.key.clone()) };
        if self.judges.engine.endpoint(&holder).is_none() {
            return Vec::new();
        }
        let identities = Direction::ALL.into_iter().zip(self.judges.engine.identities_of(&holder));
        let identities: Vec<(Direction, u64)> = identities.filter_map(|(of, id)| Some((of, id?))).collect();
        let about: String = endpoint.pod.to_string().chars().take(100).collect();
        let of_address = |address: &IpAddr| {
            let address = *address;
            let judged = identities.iter().map(move |(of, id)| (*of, rows::IdentityId(*id)));
            let about = about.clone();
            let judged = judged.map(move |(direction, identity)| {
                rows::PolicyRow::Judged(rows::Judged { direction, address, identity, about: about.clone() })
            });
            let own = rows::PolicyRow::Own(rows::Own { address, is_isolated: !identities.is_empty() });
            judged.chain([own]).collect::<Vec<_>>()
        };
        endpoint.addresses.iter().flat_map(of_address).collect()
    }
}

fn pod_of(known: &Known) -> Option<PodName> {
    Some(PodName { namespace: known.namespace.clone(), name: known.name.parse().ok()? })
}

fn texts(labels: &Labels) -> BTreeMap<String, String> {
    labels.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_str().to_owned())).collect()
}

fn named_port(port: &WrittenPort) -> NamedPort {
    NamedPort { name: port.name.clone(), protocol: protocol_number(port.protocol), port: port.port }
}
