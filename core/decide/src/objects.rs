//! What policies are made of: what people write, and the pods' interfaces of the other nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tartan_api::endpoint::{PublishedEndpoint, selectable};
use tartan_api::kubernetes::{NamedPort, PodObject};
use tartan_api::label::Labels;
use tartan_api::policy::NetworkPolicy;
use tartan_model::{
    AttachmentKey, Cidr, Endpoint, Name, NetworkName, NodeId, PodName, PolicyName, ServiceAccountName,
};

use crate::learn::dirty;
use crate::{Learned, Note, Phase, Scope, World};

/// The label of every namespace (Kubernetes, "Well-Known Labels").
const OWN_NAME: &str = "kubernetes.io/metadata.name";

/// A pod's interface on another node, as far as that node may speak of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteEndpoint<'a> {
    /// The node.
    pub node: NodeId,
    /// The runtime's name for it there.
    pub key: &'a AttachmentKey,
    /// The pod.
    pub pod: &'a PodName,
    /// The network that it is in.
    pub network: &'a NetworkName,
    /// Those of its addresses that are in blocks of that node in that network; at least one.
    pub addresses: Vec<IpAddr>,
    /// The pod's labels.
    pub labels: &'a Arc<Labels>,
}

impl World {
    /// Every NetworkPolicy, with where it was written in its annotations.
    pub fn policies(&self) -> impl Iterator<Item = (&PolicyName, &Arc<NetworkPolicy>)> {
        self.policies.iter()
    }

    /// The NetworkPolicy of this name.
    pub fn policy(&self, name: &PolicyName) -> Option<&Arc<NetworkPolicy>> {
        self.policies.get(name)
    }

    /// Every Namespace that somebody has written, with its labels.
    pub fn namespaces(&self) -> impl Iterator<Item = (&Name, &Labels)> {
        self.namespaces.iter()
    }

    /// The labels of a Namespace; None if nobody has written one.
    pub fn namespace(&self, name: &Name) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// The labels of a namespace as selectors see them: those that somebody has written, and the one that Kubernetes gives
    /// every namespace, its name.
    pub fn namespace_labels(&self, name: &Name) -> Labels {
        let mut labels = self.namespace(name).cloned().unwrap_or_default();
        let label = || Some((OWN_NAME.to_owned().try_into().ok()?, name.to_string().try_into().ok()?));
        labels.extend(label());
        labels
    }

    /// Every Pod that somebody has written; pods may be without.
    pub fn pods(&self) -> impl Iterator<Item = (&PodName, &PodObject)> {
        self.pods.iter()
    }

    /// What somebody has written about a pod.
    pub fn pod(&self, name: &PodName) -> Option<&PodObject> {
        self.pods.get(name)
    }

    /// Every ServiceAccount, with its labels.
    pub fn service_accounts(&self) -> impl Iterator<Item = (&ServiceAccountName, &Labels)> {
        self.service_accounts.iter()
    }

    /// The labels of a ServiceAccount.
    pub fn service_account(&self, name: &ServiceAccountName) -> Option<&Labels> {
        self.service_accounts.get(name)
    }

    /// The labels of a pod on this node: those of its Pod if somebody has written one, else those that the runtime gave.
    pub fn own_labels(&self, endpoint: &Endpoint) -> Arc<Labels> {
        match self.pods.get(&endpoint.pod) {
            Some(pod) => pod.labels.clone(),
            None => Arc::new(selectable(&endpoint.labels)),
        }
    }

    /// The ports of a pod that have names, on whatever node it is.
    pub fn named_ports(&self, pod: &PodName) -> &[NamedPort] {
        self.pods.get(pod).map(|pod| pod.ports.as_slice()).unwrap_or_default()
    }

    /// The pods' interfaces on the other nodes, as these publish them. A node speaks for its own blocks only: an address
    /// that it says a pod has is passed over as long as it is not known to have the block.
    pub fn remote_endpoints(&self) -> impl Iterator<Item = RemoteEndpoint<'_>> {
        let others = self.published.iter().filter(|(node, _)| **node != self.this);
        others.flat_map(move |(node, endpoints)| {
            let blocks = self.spoken_for(node);
            endpoints.iter().filter_map(move |(key, published)| self.remote(*node, &blocks, key, published))
        })
    }

    /// A pod's interface on another node, as far as that node may speak of it.
    pub(crate) fn remote_endpoint(&self, node: NodeId, key: &AttachmentKey) -> Option<RemoteEndpoint<'_>> {
        let (key, published) = self.published.get(&node)?.get_key_value(key)?;
        self.remote(node, &self.spoken_for(&node), key, published)
    }

    /// The blocks of a node but those that another network has a better right to.
    fn spoken_for(&self, node: &NodeId) -> Vec<&(NetworkName, Cidr)> {
        let owned = self.owned.get(node).into_iter().flatten();
        owned.filter(|(network, block)| !self.is_contested(network, block)).collect()
    }

    fn remote<'a>(
        &'a self,
        node: NodeId,
        blocks: &[&(NetworkName, Cidr)],
        key: &'a AttachmentKey,
        published: &'a PublishedEndpoint,
    ) -> Option<RemoteEndpoint<'a>> {
        let PublishedEndpoint { pod, network, addresses, labels } = published;
        let own = blocks.iter().filter(|(of, _)| of == network).map(|(_, block)| block);
        let is_own = |address: &&IpAddr| own.clone().any(|block| block.contains(**address));
        let addresses: Vec<IpAddr> = addresses.iter().filter(is_own).copied().collect();
        let labels = self.pods.get(pod).map_or(labels, |pod| &pod.labels);
        (!addresses.is_empty()).then_some(RemoteEndpoint { node, key, pod, network, addresses, labels })
    }

    /// What the store has of a pod's interface on this node.
    pub fn published(&self, key: &AttachmentKey) -> Option<&PublishedEndpoint> {
        self.published.get(&self.this)?.get(key)
    }

    /// What the others shall know of a pod's interface on this node: nothing, unless policies speak of its network.
    pub(crate) fn to_publish(&self, key: &AttachmentKey) -> Option<PublishedEndpoint> {
        let attached = self.endpoints.get(key).filter(|attached| attached.phase != Phase::Leaving)?;
        let endpoint = &attached.endpoint;
        self.networks.get(&endpoint.network).filter(|network| network.policy)?;
        Some(PublishedEndpoint {
            pod: endpoint.pod.clone(),
            network: endpoint.network.clone(),
            addresses: endpoint.addresses.clone(),
            labels: Arc::new(selectable(&endpoint.labels)),
        })
    }

    pub(crate) fn learn_policy(&mut self, name: PolicyName, policy: Option<Arc<NetworkPolicy>>) -> Learned {
        if put(&mut self.policies, name.clone(), policy) {
            self.judge_policy(&name);
        }
        // As long as they are enforced, the node does not say that they are not.
        if self.enforces() { Learned::default() } else { dirty([Scope::Node]) }
    }

    fn enforces(&self) -> bool {
        self.networks.values().any(|network| network.policy)
    }

    /// What there is to say of policies that nothing enforces.
    pub(crate) fn idle_policies(&self) -> Option<Note> {
        let count = self.policies.len();
        (self.in_sync && count > 0 && !self.networks.is_empty() && !self.enforces())
            .then_some(Note::IdlePolicies { count })
    }

    pub(crate) fn learn_namespace(&mut self, name: Name, labels: Option<Labels>) -> Learned {
        let changed = put(&mut self.namespaces, name.clone(), labels);
        if changed { dirty(self.judge_namespace(&name)) } else { Learned::default() }
    }

    pub(crate) fn learn_pod(&mut self, name: PodName, mut pod: Option<PodObject>) -> Learned {
        if let Some(pod) = &mut pod {
            self.labels.share(&mut pod.labels);
        }
        let changed = put(&mut self.pods, name.clone(), pod);
        if changed { dirty(self.judge_pod(&name)) } else { Learned::default() }
    }

    pub(crate) fn learn_service_account(
        &mut self,
        name: ServiceAccountName,
        labels: Option<Labels>,
    ) -> Learned {
        let changed = put(&mut self.service_accounts, name.clone(), labels);
        if changed { dirty(self.judge_account(&name)) } else { Learned::default() }
    }

    pub(crate) fn learn_published(
        &mut self,
        node: NodeId,
        key: AttachmentKey,
        mut published: Option<PublishedEndpoint>,
    ) -> Learned {
        if let Some(published) = &mut published {
            self.labels.share(&mut published.labels);
        }
        let endpoints = self.published.entry(node).or_default();
        let changed = put(endpoints, key.clone(), published);
        if endpoints.is_empty() {
            self.published.remove(&node);
        }
        match changed {
            true if node == self.this => dirty([Scope::Endpoint(key)]),
            true => dirty(self.judge_remote(node, &key)),
            false => Learned::default(),
        }
    }
}

/// Labels that many pods have, kept once.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedLabels {
    all: BTreeSet<Arc<Labels>>,
    /// How many there were when it was last looked who has them.
    looked: usize,
}

impl SharedLabels {
    /// Makes these the same as those of others, if some have such.
    fn share(&mut self, labels: &mut Arc<Labels>) {
        if let Some(same) = self.all.get(labels) {
            *labels = same.clone();
            return;
        }
        if self.all.len() > 2 * self.looked + 64 {
            self.all.retain(|labels| Arc::strong_count(labels) > 1);
            self.looked = self.all.len();
        }
        self.all.insert(labels.clone());
    }
}

/// Puts a value in or takes it away; whether anything changed.
fn put<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> bool {
    if map.get(&key) == value.as_ref() {
        return false;
    }
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
    true
}
