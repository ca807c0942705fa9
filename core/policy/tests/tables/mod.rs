//! What an engine comes to, as the kernel's tables hold it, kept up to date only by what it says has changed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tartan_model::NodeName;

use tartan_api::endpoint::selectable;
use tartan_policy::form::{Direction, Endpoint, NamedPort, Verdict};
use tartan_policy::reference::{self, Cluster, Flow};
use tartan_policy::{Changes, Engine, Identity, IdentityId, JudgedRange, RemotesId, network_policy};

/// Pods are told apart by their place in the cluster.
pub(crate) type Pods = Engine<usize>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    judged: BTreeMap<(IpAddr, Direction), IdentityId>,
    far: BTreeMap<IpAddr, IdentityId>,
    by_pod: BTreeMap<usize, Vec<(IpAddr, Direction)>>,
    here: BTreeMap<usize, BTreeSet<IpAddr>>,
    identities: BTreeMap<IdentityId, Identity>,
    remotes: BTreeMap<RemotesId, (Direction, Vec<JudgedRange>, Verdict)>,
    members: BTreeMap<(RemotesId, IpAddr), Verdict>,
}

impl Tables {
    /// Of everything there is.
    pub(crate) fn of(engine: &Pods) -> Tables {
        let mut tables = Tables::default();
        tables.take(engine, &engine.everything());
        tables
    }

    /// Looks at what has changed, and at nothing else.
    pub(crate) fn take(&mut self, engine: &Pods, changes: &Changes<usize>) {
        for pod in &changes.endpoints {
            for key in self.by_pod.remove(pod).unwrap_or_default() {
                self.judged.remove(&key);
            }
            let endpoint = engine.endpoint(pod).filter(|endpoint| endpoint.local);
            let addresses = endpoint.map(|endpoint| endpoint.addresses.clone());
            put(&mut self.here, *pod, addresses.clone().map(BTreeSet::from_iter));
            let mut mine = Vec::new();
            for (direction, id) in Direction::ALL.into_iter().zip(engine.identities_of(pod)) {
                for address in addresses.iter().flatten() {
                    if let Some(id) = id {
                        self.judged.insert((*address, direction), id);
                        mine.push((*address, direction));
                    }
                }
            }
            if !mine.is_empty() {
                self.by_pod.insert(*pod, mine);
            }
        }
        for address in &changes.far {
            put(&mut self.far, *address, engine.far(*address));
        }
        for id in &changes.identities {
            put(&mut self.identities, *id, engine.identity(*id).cloned());
        }
        for id in &changes.remotes {
            let remotes = engine.remotes(*id);
            put(&mut self.remotes, *id, remotes.map(|(a, ranges, b)| (a, ranges.to_vec(), b)));
        }
        for (id, address) in &changes.members {
            put(&mut self.members, (*id, *address), engine.member(*id, *address));
        }
    }

    /// As the kernel judges.
    pub(crate) fn allows(&self, flow: &Flow) -> bool {
        flow.from == flow.to
            || self.side(Direction::Egress, flow.from, flow.to, flow)
                && self.side(Direction::Ingress, flow.to, flow.from, flow)
    }

    fn side(&self, direction: Direction, mine: IpAddr, other: IpAddr, flow: &Flow) -> bool {
        let far = self.far.get(&mine).filter(|_| direction == Direction::Ingress);
        let near = self.judged.get(&(mine, direction));
        assert!(near.is_none() || far.is_none(), "{mine} is here and elsewhere");
        let Some(id) = near.or(far) else { return true };
        let identity = self.identities.get(id).unwrap();
        assert_eq!(identity.is_far, far.is_some());
        if identity.is_far && !self.here.values().flatten().any(|here| *here == other) {
            return true;
        }
        let fits = |(protocol, first, last, _): &&(u8, u16, u16, RemotesId)| {
            *protocol == flow.protocol && (*first..=*last).contains(&flow.port)
        };
        let mut fitting = identity.classes.iter().filter(fits);
        let remotes = fitting.next().map_or(identity.otherwise, |(.., remotes)| *remotes);
        assert!(fitting.next().is_none(), "two classes share a port");
        let (of, ranges, otherwise) = self.remotes.get(&remotes).unwrap();
        assert_eq!((*of, identity.direction), (direction, direction));
        let within = |(first, last, _): &&JudgedRange| {
            first.is_ipv4() == other.is_ipv4() && *first <= other && other <= *last
        };
        let mut ranges = ranges.iter().filter(within);
        let by_range = ranges.next().map_or(*otherwise, |(.., verdict)| *verdict);
        assert!(ranges.next().is_none(), "two ranges share an address");
        *self.members.get(&(remotes, other)).unwrap_or(&by_range) == Verdict::Allow
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

/// A pod as the engine of a node takes it; none stands for one that all pods are on.
fn endpoint(pod: &reference::Pod, node: Option<&NodeName>) -> Endpoint {
    let ports = pod.ports.iter().map(|port| NamedPort {
        name: port.name.clone(),
        protocol: reference::number_of(port.protocol),
        port: port.number,
    });
    Endpoint {
        namespace: pod.name.namespace.clone(),
        name: pod.name.name.to_string(),
        labels: Arc::new(selectable(&pod.labels)),
        account: None,
        addresses: pod.addresses.clone(),
        ports: ports.collect(),
        local: node.is_none_or(|node| *node == pod.node),
    }
}

/// Something that is learned.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Namespace(usize, bool),
    Pod(usize, bool),
    Policy(usize, bool),
}

/// Everything in a cluster, to be learned.
pub(crate) fn changes_of(cluster: &Cluster) -> Vec<Change> {
    let namespaces = (0..cluster.namespaces.len()).map(|at| Change::Namespace(at, true));
    let pods = (0..cluster.pods.len()).map(|at| Change::Pod(at, true));
    let policies = (0..cluster.policies.len()).map(|at| Change::Policy(at, true));
    namespaces.chain(pods).chain(policies).collect()
}

pub(crate) fn learn(
    engine: &mut Pods,
    node: Option<&NodeName>,
    cluster: &Cluster,
    change: &Change,
) -> Changes<usize> {
    match change {
        Change::Namespace(at, there) => {
            let (name, labels) = cluster.namespaces.iter().nth(*at).unwrap();
            engine.set_namespace(name, there.then(|| labels.clone()))
        }
        Change::Pod(at, there) => {
            let pod = cluster.pods.get(*at).unwrap();
            engine.set_endpoint(at, there.then(|| endpoint(pod, node)))
        }
        Change::Policy(at, there) => {
            let policy = network_policy(cluster.policies.get(*at).unwrap());
            engine.set_policy(&policy.id.clone(), there.then_some(policy))
        }
    }
}

/// An engine of a node that has learned a whole cluster.
pub(crate) fn whole(cluster: &Cluster, node: Option<&NodeName>) -> Pods {
    let mut engine = Pods::default();
    for change in changes_of(cluster) {
        learn(&mut engine, node, cluster, &change);
    }
    engine
}
