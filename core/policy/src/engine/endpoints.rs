//! What the engine finds endpoints by.

use hashbrown::hash_map::Entry;

use super::{Changes, Engine, Key, Known};
use crate::form::Endpoint;
use crate::index::Slot;

impl<K: Key> Engine<K> {
    /// Whether a name for a port is new by it.
    pub(super) fn place(&mut self, slot: Slot, key: &K, endpoint: Endpoint) -> bool {
        let mut called = false;
        for port in &endpoint.ports {
            let ports = self.ports.0.entry((port.name.clone(), port.protocol)).or_default();
            let number = ports.entry(port.port).or_default();
            *number += 1;
            called |= *number == 1;
        }
        for address in &endpoint.addresses {
            let slots = self.by_address.entry(*address).or_insert_with(|| Vec::with_capacity(1));
            if let Err(at) = slots.binary_search(&slot) {
                slots.insert(at, slot);
            }
        }
        self.by_namespace.entry(endpoint.namespace.clone()).or_default().insert(slot);
        self.slots.insert(key.clone(), slot);
        self.endpoints.put(slot, Known { key: key.clone(), endpoint, identities: [None, None] });
        called
    }

    /// Whether nobody has a name for a port any more that it had.
    pub(super) fn forget(&mut self, slot: Slot, changes: &mut Changes<K>) -> bool {
        let Some(known) = self.endpoints.take(slot) else { return false };
        for id in known.identities.into_iter().flatten() {
            self.release_identity(id, changes);
        }
        let Endpoint { namespace, addresses, ports, .. } = known.endpoint;
        if let Some(slots) = self.by_namespace.get_mut(&namespace) {
            slots.remove(&slot);
            if slots.is_empty() {
                self.by_namespace.remove(&namespace);
            }
        }
        for address in addresses {
            if let Entry::Occupied(mut slots) = self.by_address.entry(address) {
                if let Ok(at) = slots.get().binary_search(&slot) {
                    slots.get_mut().remove(at);
                }
                if slots.get().is_empty() {
                    slots.remove();
                }
            }
        }
        let mut called = false;
        for port in ports {
            let name = (port.name, port.protocol);
            let Some(numbers) = self.ports.0.get_mut(&name) else { continue };
            let number = numbers.entry(port.port).or_default();
            *number = number.saturating_sub(1);
            if *number == 0 {
                numbers.remove(&port.port);
                called = true;
            }
            if numbers.is_empty() {
                self.ports.0.remove(&name);
            }
        }
        called
    }
}
