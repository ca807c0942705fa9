//! The engine: who may talk to whom, kept up to date change by change. What it comes to depends only on what is known now.

mod endpoints;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use hashbrown::HashMap;
use tartan_model::Name;

use crate::Selector;
use crate::form::{Direction, Endpoint, NamedPort, Policy, PolicyId, Ports};
use crate::identity::{self, IdentityPart, PortNames, Whose};
use crate::index::{Index, SelectorId, Slot};
use crate::labels::EndpointLabels;
use crate::places::Places;
use crate::remotes::{Definition, Remotes};

/// The most policies that a word about an identity names.
const NAMED: usize = 3;
/// How many identities that were found are kept beside those in use.
const MOST_FOUND: usize = 1024;

/// Stands for remotes: a hash of all that they are.
pub type RemotesId = u64;
/// Stands for an identity: a hash of all that it is.
pub type IdentityId = u64;

/// Labels by name.
type LabelMap = BTreeMap<String, String>;

/// What has to be looked at anew after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes<K> {
    /// Endpoints of which some identity is another, or which are new or gone.
    pub endpoints: BTreeSet<K>,
    /// Identities that are new or gone.
    pub identities: BTreeSet<IdentityId>,
    /// Remotes that are new or gone.
    pub remotes: BTreeSet<RemotesId>,
    /// Addresses of remotes that may be judged otherwise.
    pub members: BTreeSet<(RemotesId, IpAddr)>,
    /// Addresses of endpoints of other nodes of which the identity may be another.
    pub far: BTreeSet<IpAddr>,
}

/// An identity: which remotes are asked for which ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The direction.
    pub direction: Direction,
    /// Protocol, first and last port, remotes; in order, no two share a port.
    pub classes: Vec<(u8, u16, u16, RemotesId)>,
    /// The remotes of everything else.
    pub otherwise: RemotesId,
    /// The policies, for people.
    pub about: String,
    /// It is of endpoints of other nodes: only what comes from endpoints of this one is judged by it.
    pub is_far: bool,
    /// Their rules stand for more than is told apart, and everything is denied.
    pub too_much: bool,
}

/// Everything that policies are made of, and what they come to. `K` tells endpoints apart.
#[derive(Debug, Clone)]
pub struct Engine<K> {
    namespaces: BTreeMap<Name, LabelMap>,
    accounts: BTreeMap<(Name, String), LabelMap>,
    policies: BTreeMap<PolicyId, Policy>,
    /// Who is about whom: the policies that use a selector.
    subjects: Places<BTreeSet<PolicyId>>,
    endpoints: Places<Known<K>>,
    slots: HashMap<K, Slot>,
    by_namespace: HashMap<Name, BTreeSet<Slot>>,
    /// In order, each once. Almost all have one.
    by_address: HashMap<IpAddr, Vec<Slot>>,
    ports: Called,
    index: Index,
    identities: BTreeMap<IdentityId, (Identity, usize)>,
    remotes: BTreeMap<RemotesId, Remotes>,
    /// The remotes that use a selector.
    users: Places<BTreeSet<RemotesId>>,
    /// Remotes that look at the names of ports of endpoints that no selector picks.
    by_name: BTreeSet<RemotesId>,
    /// Whose identities are found anew by [`Engine::settle`].
    waiting: BTreeSet<Slot>,
    /// Those that were found since policies or names of ports were others. Some may not be in use any more.
    found: Found,
}

/// Identities by all that tells them apart as long as policies and names of ports stay: direction, whether the endpoint is
/// on another node, the selectors of policies that pick it, and its names of ports.
type Found = HashMap<(Direction, bool, Vec<SelectorId>, Vec<NamedPort>), Option<IdentityId>>;

#[derive(Debug, Clone)]
struct Known<K> {
    key: K,
    endpoint: Endpoint,
    /// Its identities by direction; of an endpoint on another node only that for what it receives.
    identities: [Option<IdentityId>; 2],
}

/// What tells endpoints apart.
pub trait Key: Clone + Ord + Hash {}

impl<K: Clone + Ord + Hash> Key for K {}

impl<K> Changes<K> {
    fn none() -> Self {
        Changes {
            endpoints: BTreeSet::new(),
            identities: BTreeSet::new(),
            remotes: BTreeSet::new(),
            members: BTreeSet::new(),
            far: BTreeSet::new(),
        }
    }

    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && !self.is_about_verdicts()
    }

    /// Whether some connection may be judged otherwise than before.
    pub fn is_about_verdicts(&self) -> bool {
        !(self.identities.is_empty()
            && self.remotes.is_empty()
            && self.members.is_empty()
            && self.far.is_empty())
    }
}

impl<K> Default for Engine<K> {
    fn default() -> Self {
        Engine {
            namespaces: BTreeMap::new(),
            accounts: BTreeMap::new(),
            policies: BTreeMap::new(),
            subjects: Places::default(),
            endpoints: Places::default(),
            slots: HashMap::new(),
            by_namespace: HashMap::new(),
            by_address: HashMap::new(),
            ports: Called::default(),
            index: Index::default(),
            identities: BTreeMap::new(),
            remotes: BTreeMap::new(),
            users: Places::default(),
            by_name: BTreeSet::new(),
            waiting: BTreeSet::new(),
            found: Found::new(),
        }
    }
}

/// How many endpoints call a port so.
#[derive(Debug, Clone, Default)]
struct Called(BTreeMap<(String, u8), BTreeMap<u16, usize>>);

impl PortNames for Called {
    fn called(&self, name: &str, protocol: u8) -> Vec<u16> {
        let ports = self.0.get(&(name.to_owned(), protocol)).into_iter().flatten();
        ports.map(|(port, _)| *port).collect()
    }
}

impl<K: Key> Engine<K> {
    /// Learns a policy, or that there is none of this name any more.
    pub fn set_policy(&mut self, id: &PolicyId, policy: Option<Policy>) -> Changes<K> {
        self.put_policy(id, policy);
        self.settle()
    }

    /// The same, of which what it comes to waits for [`Engine::settle`]: an endpoint that many policies are about is looked
    /// at once for all of them.
    pub fn put_policy(&mut self, id: &PolicyId, policy: Option<Policy>) {
        if self.policies.get(id) == policy.as_ref() {
            return;
        }
        self.found.clear();
        if let Some(policy) = self.policies.remove(id)
            && let Some(selector) = self.index.find(&policy.selector)
        {
            self.waiting.extend(self.index.picked(selector));
            self.forget_subject(selector, id);
        }
        if let Some(policy) = policy {
            let selector = self.acquire(&policy.selector);
            self.waiting.extend(self.index.picked(selector));
            if let Some(policies) = self.subjects.or_default(selector) {
                policies.insert(id.clone());
            }
            self.policies.insert(id.clone(), policy);
        }
    }

    /// What policies come to that were put.
    pub fn settle(&mut self) -> Changes<K> {
        let mut changes = Changes::none();
        let waiting = std::mem::take(&mut self.waiting);
        self.identify(waiting, &mut changes);
        changes
    }

    /// Learns the labels of a namespace, or that there is no such object.
    pub fn set_namespace(&mut self, name: &Name, labels: Option<LabelMap>) -> Changes<K> {
        let before = match labels {
            Some(labels) => self.namespaces.insert(name.clone(), labels),
            None => self.namespaces.remove(name),
        };
        if before.as_ref() == self.namespaces.get(name) {
            return Changes::none();
        }
        let all = self.by_namespace.get(name).cloned().unwrap_or_default();
        self.look_again(all)
    }

    /// Learns the labels of a service account, or that there is no such object.
    pub fn set_account(&mut self, namespace: &Name, name: &str, labels: Option<LabelMap>) -> Changes<K> {
        let key = (namespace.clone(), name.to_owned());
        match labels {
            Some(labels) => self.accounts.insert(key, labels),
            None => self.accounts.remove(&key),
        };
        let all = self.by_namespace.get(namespace).into_iter().flatten().copied();
        let has = |slot: &Slot| {
            self.endpoints.get(*slot).is_some_and(|known| known.endpoint.account.as_deref() == Some(name))
        };
        let all = all.filter(has).collect();
        self.look_again(all)
    }

    /// Learns an endpoint, or that it is gone.
    pub fn set_endpoint(&mut self, key: &K, endpoint: Option<Endpoint>) -> Changes<K> {
        let before = self.endpoint(key);
        if before == endpoint.as_ref() {
            return Changes::none();
        }
        let mut changes = Changes { endpoints: BTreeSet::from([key.clone()]), ..Changes::none() };
        let mut called = false;
        let slot = self.slots.get(key).copied();
        let mut touched = BTreeSet::new();
        let same_ports = before.map(|known| &known.ports) == endpoint.as_ref().map(|new| &new.ports);
        let addresses = before.into_iter().chain(&endpoint).flat_map(|endpoint| &endpoint.addresses);
        let far: BTreeMap<IpAddr, Option<IdentityId>> =
            addresses.map(|address| (*address, self.far(*address))).collect();
        if let Some(slot) = slot {
            touched.extend(self.touched_at(slot));
            called |= self.forget(slot, &mut changes);
        }
        if let Some(endpoint) = endpoint {
            let slot = slot.unwrap_or_else(|| self.endpoints.reserve());
            called |= self.place(slot, key, endpoint);
            let known = self.endpoints.get(slot);
            let labels = known.map(|known| labels(&self.namespaces, &self.accounts, &known.endpoint));
            self.index.look(slot, labels);
            touched.extend(self.touched_at(slot));
            self.identify(BTreeSet::from([slot]), &mut changes);
        } else if let Some(slot) = slot {
            self.index.look(slot, None);
            self.waiting.remove(&slot);
            self.slots.remove(key);
            self.endpoints.release(slot);
        }
        changes.members.extend(touched);
        changes.far = far.into_iter().filter(|(at, was)| self.far(*at) != *was).map(|(at, _)| at).collect();
        if called && !same_ports {
            self.identify_all(&mut changes);
        }
        changes
    }

    /// Labels of what these endpoints belong to have changed.
    fn look_again(&mut self, slots: BTreeSet<Slot>) -> Changes<K> {
        let mut changes = Changes::none();
        let mut subjects = BTreeSet::new();
        for slot in slots {
            let Some(known) = self.endpoints.get(slot) else { continue };
            let labels = labels(&self.namespaces, &self.accounts, &known.endpoint);
            let changed = self.index.look(slot, Some(labels));
            let remotes = changed.iter().filter_map(|id| self.users.get(*id)).flatten().copied();
            let remotes: BTreeSet<RemotesId> = remotes.filter(|id| self.tells(*id, slot)).collect();
            let addresses = self.addresses(slot);
            for id in remotes {
                changes.members.extend(addresses.iter().map(|address| (id, *address)));
            }
            if changed.iter().any(|id| self.subjects.get(*id).is_some()) {
                subjects.insert(slot);
            }
        }
        self.identify(subjects, &mut changes);
        changes
    }

    fn addresses(&self, slot: Slot) -> Vec<IpAddr> {
        self.endpoints.get(slot).map(|known| known.endpoint.addresses.clone()).unwrap_or_default()
    }

    /// Whether remotes may judge an endpoint by more than its address.
    fn tells(&self, id: RemotesId, slot: Slot) -> bool {
        let both = self.remotes.get(&id).zip(self.endpoints.get(slot));
        both.is_some_and(|(remotes, known)| remotes.tells(&known.endpoint))
    }

    /// The endpoints that remotes may judge by more than their address.
    fn slots_of(&self, remotes: &Remotes) -> BTreeSet<Slot> {
        let mut slots: BTreeSet<Slot> = remotes.selectors().flat_map(|id| self.index.picked(id)).collect();
        if remotes.looks_at_names() {
            let named = self.endpoints.iter().filter(|(_, known)| !known.endpoint.ports.is_empty());
            slots.extend(named.map(|(slot, _)| slot));
        }
        slots.retain(|slot| self.endpoints.get(*slot).is_some_and(|known| remotes.tells(&known.endpoint)));
        slots
    }

    /// The same of all that have one of its addresses: what becomes of one depends on all who say that they have it.
    fn touched_at(&self, slot: Slot) -> BTreeSet<(RemotesId, IpAddr)> {
        let others = self.addresses(slot).into_iter().filter_map(|address| self.by_address.get(&address));
        let all: BTreeSet<Slot> = others.flatten().copied().chain([slot]).collect();
        all.into_iter().flat_map(|slot| self.touched_by(slot)).collect()
    }

    /// The remotes that may judge an endpoint by more than its address.
    fn touched_by(&self, slot: Slot) -> BTreeSet<(RemotesId, IpAddr)> {
        let by_selector = self.index.picked_by(slot).filter_map(|id| self.users.get(id)).flatten();
        let has_names = self.endpoints.get(slot).is_some_and(|known| !known.endpoint.ports.is_empty());
        let by_name = has_names.then_some(&self.by_name).into_iter().flatten();
        let addresses = self.addresses(slot);
        let told = by_selector.chain(by_name).filter(|id| self.tells(**id, slot));
        let pairs = told.flat_map(|id| addresses.iter().map(|address| (*id, *address)));
        pairs.collect()
    }

    /// A port has got its first name, or lost its last: who may send to ports by name is judged by all of them.
    fn identify_all(&mut self, changes: &mut Changes<K>) {
        self.found.clear();
        let by_name = |policy: &&Policy| {
            let ports = policy.egress.iter().flatten().filter_map(|rule| rule.ports.as_ref()).flatten();
            ports.clone().any(|port| matches!(port.ports, Ports::Named(_)))
        };
        let policies = self.policies.values().filter(by_name);
        let selectors = policies.filter_map(|policy| self.index.find(&policy.selector));
        let slots = selectors.flat_map(|id| self.index.picked(id)).collect();
        self.identify(slots, changes);
    }

    /// Finds the identities of endpoints anew. Of those on other nodes is judged what they receive from here: this node
    /// knows its own endpoints before those nodes do.
    fn identify(&mut self, slots: BTreeSet<Slot>, changes: &mut Changes<K>) {
        if self.found.len() > MOST_FOUND + 2 * self.identities.len() {
            self.found.clear();
        }
        for slot in slots {
            let Some(known) = self.endpoints.get(slot) else { continue };
            let before = known.identities;
            let (key, is_far) = (known.key.clone(), !known.endpoint.local);
            let now = Direction::ALL.map(|direction| {
                let judges = !is_far || direction == Direction::Ingress;
                judges.then(|| self.acquire_identity(slot, direction, changes)).flatten()
            });
            for id in before.into_iter().flatten() {
                self.release_identity(id, changes);
            }
            if let Some(known) = self.endpoints.get_mut(slot) {
                known.identities = now;
            }
            if before != now && is_far {
                changes.far.extend(self.addresses(slot));
            } else if before != now {
                changes.endpoints.insert(key);
            }
        }
    }

    fn acquire_identity(
        &mut self,
        slot: Slot,
        direction: Direction,
        changes: &mut Changes<K>,
    ) -> Option<IdentityId> {
        let selectors = self.index.picked_by(slot).filter(|id| self.subjects.get(*id).is_some());
        let selectors: Vec<SelectorId> = selectors.collect();
        if selectors.is_empty() {
            return None;
        }
        let endpoint = &self.endpoints.get(slot)?.endpoint;
        let (own, is_far) = (endpoint.ports.clone(), !endpoint.local);
        let told_by = (direction, is_far, selectors, own.clone());
        match self.found.get(&told_by) {
            Some(None) => return None,
            Some(Some(id)) if self.identities.contains_key(id) => {
                self.identities.entry(*id).and_modify(|(_, users)| *users += 1);
                return Some(*id);
            }
            _ => {}
        }
        let policies = self.policies_of(slot, direction);
        if policies.is_empty() {
            self.found.insert(told_by, None);
            return None;
        }
        let part = identity::identity(Whose { direction, ports: &own, is_far }, &policies, &self.ports);
        let about = about(&policies);
        let id = hash(&(direction, &part, &about));
        self.found.insert(told_by, Some(id));
        if let Some((_, users)) = self.identities.get_mut(&id) {
            *users += 1;
            return Some(id);
        }
        let IdentityPart { classes, otherwise, too_much } = part;
        let otherwise = self.acquire_remotes(otherwise, changes);
        let classes = classes.into_iter().map(|class| {
            let remotes = self.acquire_remotes(class.remotes, changes);
            (class.protocol, class.first, class.last, remotes)
        });
        let classes = classes.collect();
        self.identities.insert(id, (Identity { direction, classes, otherwise, about, is_far, too_much }, 1));
        changes.identities.insert(id);
        Some(id)
    }

    fn release_identity(&mut self, id: IdentityId, changes: &mut Changes<K>) {
        let Some((_, users)) = self.identities.get_mut(&id) else { return };
        *users -= 1;
        if *users > 0 {
            return;
        }
        let Some((identity, _)) = self.identities.remove(&id) else { return };
        changes.identities.insert(id);
        self.release_remotes(identity.otherwise, changes);
        for (.., remotes) in identity.classes {
            self.release_remotes(remotes, changes);
        }
    }

    fn acquire_remotes(&mut self, definition: Definition, changes: &mut Changes<K>) -> RemotesId {
        let id = hash(&definition);
        if let Some(remotes) = self.remotes.get_mut(&id) {
            remotes.users += 1;
            return id;
        }
        let (namespaces, accounts, endpoints) = (&self.namespaces, &self.accounts, &self.endpoints);
        let index = &mut self.index;
        let remotes = Remotes::new(definition, |selector| {
            index.acquire(selector, |slot| Some(labels(namespaces, accounts, &endpoints.get(slot)?.endpoint)))
        });
        for selector in remotes.selectors() {
            if let Some(users) = self.users.or_default(selector) {
                users.insert(id);
            }
        }
        if remotes.looks_at_names() {
            self.by_name.insert(id);
        }
        let slots = self.slots_of(&remotes);
        self.note_members(id, slots, changes);
        self.remotes.insert(id, remotes);
        changes.remotes.insert(id);
        id
    }

    fn release_remotes(&mut self, id: RemotesId, changes: &mut Changes<K>) {
        let Some(remotes) = self.remotes.get_mut(&id) else { return };
        remotes.users -= 1;
        if remotes.users > 0 {
            return;
        }
        let Some(remotes) = self.remotes.remove(&id) else { return };
        let slots = self.slots_of(&remotes);
        self.note_members(id, slots, changes);
        self.by_name.remove(&id);
        let selectors: Vec<SelectorId> = remotes.selectors().collect();
        for selector in &selectors {
            if let Some(users) = self.users.get_mut(*selector) {
                users.remove(&id);
                if users.is_empty() {
                    self.users.take(*selector);
                }
            }
        }
        for selector in selectors {
            self.index.release(selector);
        }
        changes.remotes.insert(id);
    }

    fn note_members(&self, id: RemotesId, slots: BTreeSet<Slot>, changes: &mut Changes<K>) {
        let addresses = slots.into_iter().flat_map(|slot| self.addresses(slot));
        changes.members.extend(addresses.map(|address| (id, address)));
    }

    fn acquire(&mut self, selector: &Selector) -> SelectorId {
        let (namespaces, accounts, endpoints) = (&self.namespaces, &self.accounts, &self.endpoints);
        self.index
            .acquire(selector, |slot| Some(labels(namespaces, accounts, &endpoints.get(slot)?.endpoint)))
    }

    fn forget_subject(&mut self, selector: SelectorId, id: &PolicyId) {
        if let Some(policies) = self.subjects.get_mut(selector) {
            policies.remove(id);
            if policies.is_empty() {
                self.subjects.take(selector);
            }
        }
        self.index.release(selector);
    }
}

fn labels<'a>(
    namespaces: &'a BTreeMap<Name, LabelMap>,
    accounts: &'a BTreeMap<(Name, String), LabelMap>,
    endpoint: &'a Endpoint,
) -> EndpointLabels<'a> {
    let account = endpoint.account.as_deref();
    EndpointLabels {
        own: &endpoint.labels,
        namespace: endpoint.namespace.as_str(),
        of_namespace: namespaces.get(&endpoint.namespace),
        account,
        of_account: account
            .and_then(|account| accounts.get(&(endpoint.namespace.clone(), account.to_owned()))),
    }
}

/// A word about an identity: some of its policies. At most 100 bytes.
fn about(policies: &[&Policy]) -> String {
    let names: Vec<String> = policies.iter().take(NAMED).map(|policy| policy.id.to_string()).collect();
    let more = policies.len().saturating_sub(NAMED);
    let text = names.join(", ");
    let text: String = text.chars().take(85).collect();
    if more > 0 { format!("{text} +{more}") } else { text }
}

fn hash(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}
