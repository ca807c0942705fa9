//! What this node tells the others of its pods' interfaces: asked of the store's writer, and forgotten when the store tells
//! that it has it. Nobody waits for it.

use tartan_decide::{Announcement, Fact, Scope, World};
use tartan_store::ObjectKey;

use crate::cluster::Write;
use crate::ring::Ring;

impl Ring {
    /// Has published what was decided to be, unless that is under way.
    pub(crate) fn announce(&mut self, scope: &Scope, announcement: Option<Announcement>) {
        let Scope::Endpoint(key) = scope else { return };
        if self.departure.is_some() || self.left_cluster {
            return;
        }
        let known = self.world.published(key);
        let asked = self.announcing.get(key);
        let wanted = announcement.map_or_else(|| known.cloned(), |announcement| announcement.endpoint);
        if asked.map_or(known, |asked| asked.as_ref()) == wanted.as_ref() {
            return;
        }
        self.announcing.insert(key.clone(), wanted.clone());
        self.cluster.write(Write::Announce(Announcement { key: key.clone(), endpoint: wanted }));
    }

    /// The store has what was asked for.
    pub(crate) fn note_announced(&mut self, fact: &Fact) {
        if let Fact::Endpoint(node, key, published) = fact
            && *node == self.world.this()
            && self.announcing.get(key) == Some(published)
        {
            self.announcing.remove(key);
        }
    }

    /// The store has told everything anew, and what was under way may be lost.
    pub(crate) fn announce_anew(&mut self) {
        let lost = std::mem::take(&mut self.announcing);
        self.dirty.extend(lost.into_keys().map(Scope::Endpoint));
    }
}

/// Whether the world has an object that policies are made of.
pub(crate) fn knows(world: &World, object: &ObjectKey) -> bool {
    match object {
        ObjectKey::Network(name) => world.network(name).is_some(),
        ObjectKey::Policy(name) => world.policy(name).is_some(),
        ObjectKey::Namespace(name) => world.namespace(name).is_some(),
        ObjectKey::Pod(name) => world.pod(name).is_some(),
        ObjectKey::ServiceAccount(name) => world.service_account(name).is_some(),
    }
}
