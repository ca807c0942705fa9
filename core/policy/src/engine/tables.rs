//! What the engine has come to, to be looked at.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Changes, Engine, Identity, IdentityId, Key, RemotesId, labels};
use crate::form::{Direction, Endpoint, Policy, Verdict};
use crate::index::Slot;
use crate::labels::EndpointLabels;
use crate::remotes::JudgedRange;

impl<K: Key> Engine<K> {
    /// The identities of an endpoint by direction; of one on another node only that for what it receives.
    pub fn identities_of(&self, key: &K) -> [Option<IdentityId>; 2] {
        let known = self.slots.get(key).and_then(|slot| self.endpoints.get(*slot));
        known.map_or([None, None], |known| known.identities)
    }

    /// The identity of an endpoint of another node by its address, for what it receives from endpoints of this one. If two
    /// say that they have it, it is that of one of them: the node where it is judges again.
    pub fn far(&self, address: IpAddr) -> Option<IdentityId> {
        let slots = self.by_address.get(&address)?;
        let known = slots.iter().filter_map(|slot| self.endpoints.get(*slot));
        if known.clone().any(|known| known.endpoint.local) {
            return None;
        }
        known.flat_map(|known| known.identities).flatten().min()
    }

    /// The endpoint.
    pub fn endpoint(&self, key: &K) -> Option<&Endpoint> {
        self.slots.get(key).and_then(|slot| self.endpoints.get(*slot)).map(|known| &known.endpoint)
    }

    /// An identity in use.
    pub fn identity(&self, id: IdentityId) -> Option<&Identity> {
        self.identities.get(&id).map(|(identity, _)| identity)
    }

    /// The direction of remotes in use, ranges of addresses with what becomes of them, and what becomes of all others.
    pub fn remotes(&self, id: RemotesId) -> Option<(Direction, &[JudgedRange], Verdict)> {
        let remotes = self.remotes.get(&id)?;
        Some((remotes.definition.direction, &remotes.ranges, remotes.otherwise))
    }

    /// What becomes of an address of remotes where that is another than its range says.
    pub fn member(&self, id: RemotesId, address: IpAddr) -> Option<Verdict> {
        let remotes = self.remotes.get(&id)?;
        let slots = self.by_address.get(&address).into_iter().flatten();
        let judged = slots.filter_map(|slot| {
            let known = self.endpoints.get(*slot).filter(|known| remotes.tells(&known.endpoint))?;
            Some(remotes.judge(&known.endpoint, address, self.index.picked_by(*slot)))
        });
        // Who has the address is not known for certain if two say so: it is allowed what both are.
        let verdict = judged.max()?;
        (verdict != remotes.judge_address(address)).then_some(verdict)
    }

    /// Everything there is to look at: what a first change would give.
    pub fn everything(&self) -> Changes<K> {
        let mut members = BTreeSet::new();
        for (id, remotes) in &self.remotes {
            let slots = self.slots_of(remotes);
            members.extend(
                slots.into_iter().flat_map(|slot| self.addresses(slot)).map(|address| (*id, address)),
            );
        }
        let far = self.endpoints.iter().map(|(_, known)| known).filter(|known| !known.endpoint.local);
        Changes {
            endpoints: self.slots.keys().cloned().collect(),
            far: far.flat_map(|known| known.endpoint.addresses.iter().copied()).collect(),
            identities: self.identities.keys().copied().collect(),
            remotes: self.remotes.keys().copied().collect(),
            members,
        }
    }

    /// How many policies there are.
    pub fn policies(&self) -> usize {
        self.policies.len()
    }

    /// The policies about an endpoint in a direction, in the order in which they are judged.
    pub(crate) fn policies_of(&self, slot: Slot, direction: Direction) -> Vec<&Policy> {
        let ids = self.index.picked_by(slot).filter_map(|id| self.subjects.get(id)).flatten();
        let about = ids.filter_map(|id| self.policies.get(id));
        let mut about: Vec<&Policy> = about.filter(|policy| policy.rules(direction).is_some()).collect();
        about.sort_by(|a, b| (&a.tier, a.order, &a.id).cmp(&(&b.tier, b.order, &b.id)));
        about
    }

    /// The endpoints that have an address.
    pub(crate) fn at(&self, address: IpAddr) -> impl Iterator<Item = (Slot, &Endpoint)> {
        let slots = self.by_address.get(&address).into_iter().flatten();
        slots.filter_map(|slot| Some((*slot, &self.endpoints.get(*slot)?.endpoint)))
    }

    /// All labels of an endpoint.
    pub(crate) fn labels_of(&self, slot: Slot) -> Option<EndpointLabels<'_>> {
        let known = self.endpoints.get(slot)?;
        Some(labels(&self.namespaces, &self.accounts, &known.endpoint))
    }
}
