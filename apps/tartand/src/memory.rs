//! What the store told, and what of it still holds when the store is not what it was: wiped, replaced, or put back to an
//! earlier state. Then nothing is forgotten. What this node owns it puts back, and the networks, which all share, with it;
//! what others own stays known until they put it back. What else people write, policies and what these speak of, nobody puts
//! back: it stays in force until somebody applies or deletes it. Where the store has an earlier state of it, that counts
//! after a while, as of everything that nobody writes over.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::time::{Duration, Instant};

use tartan_model::NodeId;
use tartan_store::{
    BLOCKS, Change, DELETED, ENDPOINTS, Entry, EntryKey, Expect, History, Listing, NAMESPACES, NETWORKS,
    NODES, ObjectKey, Owner, PODS, POLICIES, Revision, SERVICE_ACCOUNTS,
};

use crate::entry::WAITS;

/// How long others have to put back what they own over older states of it; then the store is believed again.
const OVERWRITING: Duration = Duration::from_secs(60);

/// Something to be put back, unless somebody was quicker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PutBack {
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
    pub(crate) expect: Expect,
    /// The store's revision that it is known by; a deletion after it holds.
    pub(crate) known: Revision,
}

/// What a listing comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) changes: Vec<Change>,
    pub(crate) put_back: Vec<PutBack>,
    /// The store is not what it was.
    pub(crate) other: bool,
}

/// Entries that were told as facts; those of other kinds, of which there may be many, are passed over.
pub(crate) struct Memory {
    me: NodeId,
    known: BTreeMap<Box<str>, Known>,
    history: Option<History>,
    /// Those that the store has not, or has in an older state, of that revision.
    kept: BTreeMap<Box<str>, Option<Revision>>,
    /// When the store became another.
    since: Option<Instant>,
}

struct Known {
    revision: Revision,
    /// Tells whether a value is the one that is known.
    digest: u64,
    /// Of what this node may have to put back.
    value: Option<Box<[u8]>>,
    /// Of a block, and of a pod's interface.
    owner: Option<NodeId>,
}

impl Memory {
    pub(crate) fn new(me: NodeId) -> Memory {
        Memory { me, known: BTreeMap::new(), history: None, kept: BTreeMap::new(), since: None }
    }

    /// Takes in everything that the store has.
    pub(crate) fn list(&mut self, listing: Listing, now: Instant) -> Taken {
        let before = self.history.replace(listing.history.clone());
        let other = before.as_ref().is_some_and(|before| *before != listing.history);
        let same_store = before.is_some_and(|before| before.store == listing.history.store);
        let (deleted, entries): (Vec<Entry>, Vec<Entry>) =
            listing.entries.into_iter().partition(|entry| entry.key.starts_with(DELETED));
        // Who waited before this gap has given up, or will.
        let entries = entries.into_iter().filter(|entry| !entry.key.starts_with(WAITS));
        let mut taken = Taken { other, ..Taken::default() };
        let mut missing: BTreeSet<Box<str>> = self.known.keys().cloned().collect();
        if other {
            self.since = Some(now);
        }
        for entry in entries {
            missing.remove(entry.key.as_str());
            if self.is_older(&entry, other, same_store) {
                self.keep(&entry.key, Some(entry.revision), &mut taken);
            } else {
                taken.changes.push(Change::Put(entry));
            }
        }
        if other && !same_store {
            // Of another store no revision compares: what it tells of a deletion came after all that is known.
            self.known.values_mut().for_each(|known| known.revision = Revision(0));
        }
        for key in missing {
            let was_deleted = self.was_deleted(&key, &deleted);
            if was_deleted {
                taken.changes.push(Change::Delete { key: key.into(), revision: Revision(0) });
            } else if other || self.kept.get(&key) == Some(&None) {
                self.keep(&key, None, &mut taken);
            } else {
                taken.changes.push(Change::Delete { key: key.into(), revision: Revision(0) });
            }
        }
        taken
    }

    /// Notes a change that is told; false if it is of a kind that is passed over.
    pub(crate) fn note(&mut self, change: &Change) -> bool {
        let key = change.key();
        let Some(parsed) = EntryKey::parse(key).filter(|parsed| !matches!(parsed, EntryKey::Deleted(_)))
        else {
            return false;
        };
        self.kept.remove(key);
        match change {
            Change::Put(entry) => {
                let value = self.is_ours(&parsed, &entry.value).then(|| entry.value.as_slice().into());
                let owner = match parsed {
                    EntryKey::Block(_) => Owner::read(&entry.value),
                    EntryKey::Endpoint(node, _) => Some(node),
                    _ => None,
                };
                let digest = digest(&entry.value);
                self.known.insert(key.into(), Known { revision: entry.revision, digest, value, owner });
            }
            Change::Delete { .. } => drop(self.known.remove(key)),
        }
        true
    }

    /// What follows for what is known from memory only: that a node is gone for what only that node said, and the word that
    /// something was deleted for that.
    pub(crate) fn consequences(&self, change: &Change) -> Vec<Change> {
        let is_put = matches!(change, Change::Put(_));
        let gone = match EntryKey::parse(change.key()) {
            Some(EntryKey::Node(id)) if !is_put => EntryKey::endpoints_of(id),
            Some(EntryKey::Deleted(object)) if is_put => EntryKey::Object(object).to_string(),
            _ => return Vec::new(),
        };
        let is_meant = |key: &str| if is_put { key == gone } else { key.starts_with(&gone) };
        let lost = self.kept.iter().filter(|(key, older)| older.is_none() && is_meant(key));
        lost.map(|(key, _)| Change::Delete { key: key.to_string(), revision: Revision(0) }).collect()
    }

    /// Whether it is time to believe the store in what nobody has overwritten; then list anew. `living` tells the ids of
    /// the nodes that live, or None if the store cannot say.
    pub(crate) fn believe(
        &mut self,
        now: Instant,
        living: impl FnOnce() -> Option<BTreeSet<String>>,
    ) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) < OVERWRITING) {
            return false;
        }
        let Some(living) = living() else { return false };
        self.since = None;
        let is_believed =
            |key: &str, older: Option<Revision>| older.is_some() || self.is_given_back(key, &living);
        let believed = self.kept.iter().filter(|(key, older)| is_believed(key, **older));
        let believed: BTreeSet<Box<str>> = believed.map(|(key, _)| key.clone()).collect();
        self.kept.retain(|key, _| !believed.contains(key));
        !believed.is_empty()
    }

    /// Whether this is a block or a pod's interface whose owner lives and is in the store, and has not put it back. One that
    /// is away will.
    fn is_given_back(&self, key: &str, living: &BTreeSet<String>) -> bool {
        let owner = self.known.get(key).and_then(|known| known.owner);
        owner.is_some_and(|owner| {
            let node = EntryKey::Node(owner).to_string();
            let in_store = self.known.contains_key(node.as_str()) && !self.kept.contains_key(node.as_str());
            in_store && living.contains(&owner.to_string())
        })
    }

    /// What is known from memory only, in words.
    pub(crate) fn kept(&self) -> Option<String> {
        const OWNED: [(&str, &str, &str); 4] = [
            (NETWORKS, "network", "networks"),
            (NODES, "node", "nodes"),
            (BLOCKS, "block", "blocks"),
            (ENDPOINTS, "pod interface", "pod interfaces"),
        ];
        const WRITTEN: [(&str, &str, &str); 4] = [
            (POLICIES, "NetworkPolicy", "NetworkPolicies"),
            (NAMESPACES, "Namespace", "Namespaces"),
            (PODS, "Pod", "Pods"),
            (SERVICE_ACCOUNTS, "ServiceAccount", "ServiceAccounts"),
        ];
        let (owned, written) = (self.count(&OWNED), self.count(&WRITTEN));
        let kept: Vec<String> = [
            owned.map(|owned| {
                format!(
                    "from memory only, until the owner puts it back: {owned}. No traffic is dropped; an owner that will \
                     not come back is forgotten when this agent is restarted"
                )
            }),
            written.map(|written| {
                format!(
                    "from memory only, and in force until somebody applies or deletes it, or this agent is restarted: \
                     {written}"
                )
            }),
        ]
        .into_iter()
        .flatten()
        .collect();
        (!kept.is_empty()).then(|| {
            format!("the store was wiped, replaced or put back to an earlier state; {}", kept.join("; "))
        })
    }

    /// How many there are of each kind, in words; None if of none.
    fn count(&self, kinds: &[(&str, &str, &str)]) -> Option<String> {
        let counted = kinds.iter().filter_map(|(prefix, one, many)| {
            match self.kept.keys().filter(|key| key.starts_with(prefix)).count() {
                0 => None,
                1 => Some(format!("1 {one}")),
                count => Some(format!("{count} {many}")),
            }
        });
        Some(counted.collect::<Vec<_>>().join(", ")).filter(|text| !text.is_empty())
    }

    /// Whether what is known of an entry is newer than what the store has.
    fn is_older(&self, entry: &Entry, other: bool, same_store: bool) -> bool {
        let key = entry.key.as_str();
        if !other {
            return self.kept.get(key) == Some(&Some(entry.revision));
        }
        let Some(known) = self.known.get(key) else { return false };
        // Its owner was quicker than this listing, and what it put back has another revision.
        if known.digest == digest(&entry.value) {
            return false;
        }
        if same_store && entry.revision < known.revision {
            return true;
        }
        // Of another store no revision compares. What is this node's it knows best, unless a node that came since, and
        // could not know, has taken it.
        if known.value.is_none() {
            return false;
        }
        match EntryKey::parse(key) {
            Some(EntryKey::Node(_) | EntryKey::Endpoint(..)) => true,
            Some(EntryKey::Block(_)) => Owner::read(&entry.value)
                .is_none_or(|owner| self.known.contains_key(EntryKey::Node(owner).to_string().as_str())),
            _ => false,
        }
    }

    /// Whether the store says that an object was deleted after the state that is known of it.
    fn was_deleted(&self, key: &str, deleted: &[Entry]) -> bool {
        let Some(EntryKey::Object(object)) = EntryKey::parse(key) else { return false };
        let word = EntryKey::Deleted(object).to_string();
        let known = self.known.get(key).map_or(Revision(0), |known| known.revision);
        deleted.iter().any(|entry| entry.key == word && entry.revision > known)
    }

    fn keep(&mut self, key: &str, found: Option<Revision>, taken: &mut Taken) {
        let Some(known) = self.known.get(key) else { return };
        if taken.other
            && let Some(value) = &known.value
        {
            let expect = found.map_or(Expect::Absent, Expect::Revision);
            taken.put_back.push(PutBack {
                key: key.into(),
                value: value.to_vec(),
                expect,
                known: known.revision,
            });
        }
        self.kept.insert(key.into(), found);
    }

    fn is_ours(&self, key: &EntryKey, value: &[u8]) -> bool {
        match key {
            EntryKey::Object(ObjectKey::Network(_)) => true,
            EntryKey::Object(_) | EntryKey::Deleted(_) => false,
            EntryKey::Node(id) | EntryKey::Endpoint(id, _) => *id == self.me,
            EntryKey::Block(_) => Owner::read(value) == Some(self.me),
        }
    }
}

fn digest(value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(value);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId::from_bytes([1; 16]);
    const PEER: NodeId = NodeId::from_bytes([2; 16]);
    const NEW: NodeId = NodeId::from_bytes([3; 16]);
    const BLOCK: &str = "block/default/10.244.0.0-24";
    const OTHERS: &str = "block/default/10.244.1.0-24";

    fn node(id: NodeId) -> String {
        EntryKey::Node(id).to_string()
    }

    fn entry(key: &str, value: &[u8], revision: u64) -> Entry {
        Entry { key: key.into(), value: value.into(), revision: Revision(revision) }
    }

    fn listing(store: &str, epoch: u64, entries: Vec<Entry>) -> Listing {
        Listing { entries, revision: Revision(99), history: History { store: store.into(), epoch } }
    }

    fn before() -> Vec<Entry> {
        vec![
            entry("network/default", b"net", 10),
            entry(&node(ME), b"me", 11),
            entry(&node(PEER), b"peer", 12),
            entry(BLOCK, &Owner::text(ME), 13),
            entry(OTHERS, &Owner::text(PEER), 14),
        ]
    }

    /// Lists, and notes what is told.
    fn take(memory: &mut Memory, listing: Listing) -> Taken {
        let taken = memory.list(listing, Instant::now());
        for change in &taken.changes {
            memory.note(change);
        }
        taken
    }

    fn agent() -> Memory {
        let mut memory = Memory::new(ME);
        let taken = take(&mut memory, listing("a", 0, before()));
        assert_eq!((taken.changes.len(), taken.put_back.len(), taken.other), (5, 0, false));
        memory
    }

    fn put_back(taken: &Taken) -> Vec<(&str, Expect)> {
        let mut all: Vec<_> = taken.put_back.iter().map(|back| (back.key.as_str(), back.expect)).collect();
        all.sort_by_key(|(key, _)| *key);
        all
    }

    #[test]
    fn what_is_gone_from_the_same_history_is_gone() {
        let mut memory = agent();
        let taken = take(&mut memory, listing("a", 0, before()[..2].to_vec()));
        assert_eq!(taken.changes.len(), 5);
        assert_eq!(memory.kept(), None);
    }

    #[test]
    fn of_a_wiped_store_nothing_is_forgotten_and_what_is_ours_is_put_back() {
        let mut memory = agent();
        let taken = take(&mut memory, listing("b", 1, vec![]));
        assert_eq!(taken.changes, []);
        let me = node(ME);
        let mut wanted =
            vec![(BLOCK, Expect::Absent), ("network/default", Expect::Absent), (&me, Expect::Absent)];
        wanted.sort_by_key(|(key, _)| *key);
        assert_eq!(put_back(&taken), wanted);
        let told = memory.kept().unwrap();
        assert!(told.contains(": 1 network, 2 nodes, 2 blocks."), "{told}");
        // The list of the same store again, as after another gap, takes nothing away either.
        assert_eq!(take(&mut memory, listing("b", 1, vec![])), Taken::default());
        // Everybody has put back.
        let again: Vec<Entry> =
            before().into_iter().map(|old| Entry { revision: Revision(old.revision.0 - 8), ..old }).collect();
        for entry in again {
            memory.note(&Change::Put(entry));
        }
        assert_eq!(memory.kept(), None);
        assert_eq!(take(&mut memory, listing("b", 1, vec![])).changes.len(), 5, "now they would be gone");
    }

    #[test]
    fn what_others_put_back_before_this_node_lists_is_theirs_again() {
        let mut memory = agent();
        let again = before().into_iter().map(|old| Entry { revision: Revision(old.revision.0 - 8), ..old });
        let taken = take(&mut memory, listing("a", 1, again.collect()));
        assert_eq!((taken.changes.len(), taken.put_back.len(), memory.kept()), (5, 0, None));
    }

    #[test]
    fn of_an_owner_that_is_back_what_it_does_not_put_back_is_not_its_after_a_while() {
        let mut memory = agent();
        take(&mut memory, listing("b", 1, vec![entry(&node(PEER), b"peer", 3)]));
        memory.note(&Change::Put(entry(&node(ME), b"me", 4)));
        memory.note(&Change::Put(entry(BLOCK, &Owner::text(ME), 5)));
        assert!(memory.kept().unwrap().contains(": 1 network, 1 block."));
        let later = || Instant::now() + OVERWRITING;
        let nobody = BTreeSet::new();
        assert!(!memory.believe(later(), || None), "the store is away");
        let mut away = memory;
        away.since = Some(Instant::now());
        assert!(!away.believe(later(), || Some(nobody)), "it may come back with it");
        let mut memory = agent();
        take(&mut memory, listing("b", 1, vec![entry(&node(PEER), b"peer", 3)]));
        memory.note(&Change::Put(entry(&node(ME), b"me", 4)));
        memory.note(&Change::Put(entry(BLOCK, &Owner::text(ME), 5)));
        assert!(memory.believe(later(), || Some(BTreeSet::from([PEER.to_string()]))));
        let now = vec![
            entry(&node(PEER), b"peer", 3),
            entry(&node(ME), b"me", 4),
            entry(BLOCK, &Owner::text(ME), 5),
        ];
        let taken = take(&mut memory, listing("b", 1, now));
        let gone = Change::Delete { key: OTHERS.into(), revision: Revision(0) };
        assert!(taken.changes.contains(&gone), "{:?}", taken.changes);
        assert!(memory.kept().unwrap().contains(": 1 network."), "that somebody has to put back");
    }

    #[test]
    fn policies_of_a_wiped_store_stay_until_somebody_deletes_them_and_nobody_puts_them_back() {
        let mut memory = agent();
        let policies = ["policy/shop/web", "policy/shop/db", "namespace/shop"];
        let entries = policies.iter().zip(20..).map(|(key, revision)| entry(key, b"p", revision));
        for entry in entries {
            memory.note(&Change::Put(entry));
        }
        let taken = take(&mut memory, listing("b", 1, vec![]));
        assert_eq!(taken.changes, []);
        assert!(taken.put_back.iter().all(|back| !policies.contains(&back.key.as_str())));
        let told = memory.kept().unwrap();
        assert!(told.ends_with(": 2 NetworkPolicies, 1 Namespace"), "{told}");
        assert!(!memory.believe(Instant::now() + OVERWRITING, || Some(BTreeSet::new())));
        // The word of it comes by the watch, or in a listing after a gap.
        let word = Change::Put(entry("deleted/policy/shop/web", b"null", 2));
        let gone = |key: &str| Change::Delete { key: key.into(), revision: Revision(0) };
        assert_eq!(memory.consequences(&word), [gone("policy/shop/web")]);
        memory.note(&gone("policy/shop/web"));
        assert_eq!(memory.consequences(&word), []);
        let taken = take(&mut memory, listing("b", 1, vec![entry("deleted/policy/shop/db", b"null", 3)]));
        assert_eq!(taken.changes, [gone("policy/shop/db")]);
    }

    #[test]
    fn of_a_node_that_is_taken_out_the_pods_are_forgotten_with_it_and_own_pods_are_put_back() {
        let mut memory = agent();
        let key = |id: NodeId| format!("{}c1/eth0", EntryKey::endpoints_of(id));
        memory.note(&Change::Put(entry(&key(ME), b"mine", 20)));
        memory.note(&Change::Put(entry(&key(PEER), b"theirs", 21)));
        let taken = take(&mut memory, listing("b", 1, vec![]));
        let back = put_back(&taken);
        assert!(
            back.contains(&(&key(ME), Expect::Absent)) && !back.iter().any(|(back, _)| *back == key(PEER))
        );
        assert!(memory.kept().unwrap().contains("2 blocks, 2 pod interfaces."));
        let gone = Change::Delete { key: node(PEER), revision: Revision(30) };
        assert_eq!(memory.consequences(&gone), [Change::Delete { key: key(PEER), revision: Revision(0) }]);
    }

    #[test]
    fn a_network_that_was_deleted_since_the_wipe_stays_deleted() {
        let mut memory = agent();
        // The word of another store's revision 2 is newer than all that is known of revision 10 of this one.
        let word = entry("deleted/default", b"", 2);
        let taken = take(&mut memory, listing("b", 1, vec![word.clone()]));
        assert_eq!(taken.changes.iter().map(Change::key).collect::<Vec<_>>(), ["network/default"]);
        assert!(put_back(&taken).iter().all(|(key, _)| !key.starts_with(NETWORKS)));
        // Who waits for it to be put back by others sees it in a later listing, too.
        let mut memory = agent();
        take(&mut memory, listing("b", 1, vec![]));
        let taken = take(&mut memory, listing("b", 1, vec![word]));
        assert_eq!(taken.changes.iter().map(Change::key).collect::<Vec<_>>(), ["network/default"]);
    }

    #[test]
    fn a_deletion_of_before_does_not_hold_for_a_network_that_was_made_anew() {
        let mut memory = agent();
        let taken = take(&mut memory, listing("a", 1, vec![entry("deleted/default", b"", 9)]));
        assert!(put_back(&taken).contains(&("network/default", Expect::Absent)));
        let mut memory = agent();
        let taken = take(&mut memory, listing("a", 1, vec![entry("deleted/default", b"", 11)]));
        assert!(put_back(&taken).iter().all(|(key, _)| !key.starts_with(NETWORKS)));
    }

    #[test]
    fn of_an_earlier_state_what_is_known_to_be_newer_holds_and_ours_goes_over_it() {
        let mut memory = agent();
        let older = vec![
            entry("network/default", b"old net", 3),
            entry(&node(ME), b"me", 11),
            entry(&node(PEER), b"old peer", 4),
            entry(BLOCK, &Owner::text(PEER), 5),
            entry("block/default/10.244.9.0-24", &Owner::text(PEER), 6),
        ];
        let taken = take(&mut memory, listing("a", 1, older.clone()));
        let told: Vec<&str> = taken.changes.iter().map(Change::key).collect();
        assert_eq!(told, [node(ME).as_str(), "block/default/10.244.9.0-24"]);
        assert_eq!(
            put_back(&taken),
            [(BLOCK, Expect::Revision(Revision(5))), ("network/default", Expect::Revision(Revision(3)))]
        );
        // Nobody else put anything back: after a while the store is believed, but what it lacks stays known.
        assert!(!memory.believe(Instant::now(), || unreachable!("it is too early")));
        assert!(memory.believe(Instant::now() + OVERWRITING, || Some(BTreeSet::new())));
        let told = take(&mut memory, listing("a", 1, older)).changes;
        assert!(told.iter().any(|change| change.key() == node(PEER)));
        assert!(memory.kept().unwrap().contains(": 1 block."));
    }

    #[test]
    fn a_block_that_a_node_of_before_seems_to_have_is_ours_and_one_of_a_new_node_is_its() {
        for (other, ours) in [(PEER, true), (NEW, false)] {
            let mut memory = agent();
            let taken = take(&mut memory, listing("b", 1, vec![entry(BLOCK, &Owner::text(other), 2)]));
            let over = taken.put_back.iter().any(|back| back.key == BLOCK);
            assert_eq!((over, taken.changes.is_empty()), (ours, ours));
        }
    }
}
