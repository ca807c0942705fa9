//! Which endpoints selectors pick, kept up to date from both sides.
//!
//! A selector is looked at only for endpoints that have one of the labels it cannot do without, of these the rarest: among
//! 10,000 selectors that share a common label one endpoint meets only those that it also fits otherwise.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::Selector;
use crate::labels::EndpointLabels;

/// An endpoint's place.
pub(crate) type Slot = u32;
/// A selector's place.
pub(crate) type SelectorId = u32;

/// A label, and its value if that matters.
type Need = (String, Option<String>);
type LabelId = u32;

/// Selectors in use, and what they pick.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    ids: BTreeMap<Selector, SelectorId>,
    selectors: HashMap<SelectorId, Entry>,
    free: Vec<SelectorId>,
    next: SelectorId,
    /// The selectors that cannot do without a label, each with all the labels of which it needs one.
    by_need: HashMap<Need, BTreeSet<SelectorId>>,
    /// Those that can do without any.
    anywhere: BTreeSet<SelectorId>,
    /// Endpoints by their labels, with value and without, each of which has a number.
    by_label: HashMap<Need, (LabelId, BTreeSet<Slot>)>,
    labels: HashMap<LabelId, Need>,
    next_label: LabelId,
    endpoints: HashMap<Slot, Found>,
}

#[derive(Debug, Clone)]
struct Entry {
    selector: Selector,
    users: usize,
    needs: Option<Vec<Need>>,
    picked: BTreeSet<Slot>,
}

/// An endpoint as it was last looked at.
#[derive(Debug, Clone, Default)]
struct Found {
    labels: Vec<LabelId>,
    /// In order.
    picked_by: Vec<SelectorId>,
}

impl Index {
    /// Uses a selector once more; `labels` tells those of an endpoint.
    pub(crate) fn acquire<'a>(
        &mut self,
        selector: &Selector,
        labels: impl Fn(Slot) -> Option<EndpointLabels<'a>>,
    ) -> SelectorId {
        if let Some(id) = self.ids.get(selector) {
            let id = *id;
            if let Some(entry) = self.selectors.get_mut(&id) {
                entry.users += 1;
            }
            return id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        self.ids.insert(selector.clone(), id);
        let needs = needs(selector, &|need| self.by_need.get(need).map_or(0, BTreeSet::len));
        self.register(id, needs.as_deref());
        let fits = |slot: &Slot| labels(*slot).is_some_and(|labels| selector.matches(&labels));
        let picked: BTreeSet<Slot> = self.candidates(selector).into_iter().filter(fits).collect();
        for slot in &picked {
            let picked_by = &mut self.endpoints.entry(*slot).or_default().picked_by;
            if let Err(at) = picked_by.binary_search(&id) {
                picked_by.insert(at, id);
            }
        }
        self.selectors.insert(id, Entry { selector: selector.clone(), users: 1, needs, picked });
        id
    }

    /// The place of a selector in use.
    pub(crate) fn find(&self, selector: &Selector) -> Option<SelectorId> {
        self.ids.get(selector).copied()
    }

    /// Uses a selector once less.
    pub(crate) fn release(&mut self, id: SelectorId) {
        let Some(entry) = self.selectors.get_mut(&id) else { return };
        entry.users -= 1;
        if entry.users > 0 {
            return;
        }
        let Some(entry) = self.selectors.remove(&id) else { return };
        self.ids.remove(&entry.selector);
        for slot in entry.picked {
            if let Some(found) = self.endpoints.get_mut(&slot) {
                found.picked_by.retain(|other| *other != id);
            }
        }
        for need in entry.needs.into_iter().flatten() {
            let left = self.by_need.get_mut(&need).map(|ids| {
                ids.remove(&id);
                ids.len()
            });
            if left == Some(0) {
                self.by_need.remove(&need);
            }
        }
        self.anywhere.remove(&id);
        self.free.push(id);
    }

    /// Looks at an endpoint anew, or forgets it; gives the selectors that pick it now and did not before, or the other way.
    pub(crate) fn look(&mut self, slot: Slot, labels: Option<EndpointLabels<'_>>) -> Vec<SelectorId> {
        let before = self.endpoints.remove(&slot).unwrap_or_default();
        for label in before.labels {
            self.unlabel(slot, label);
        }
        let Some(labels) = labels else { return self.note(slot, &before.picked_by, &[]) };
        let mut needs = Vec::new();
        labels.each(|name, value| {
            needs.push((name.to_owned(), Some(value.to_owned())));
            needs.push((name.to_owned(), None));
        });
        let needing = needs.iter().filter_map(|label| self.by_need.get(label)).flatten();
        let fits =
            |id: &&SelectorId| self.selectors.get(id).is_some_and(|entry| entry.selector.matches(&labels));
        let mut picked: Vec<SelectorId> = needing.chain(&self.anywhere).filter(fits).copied().collect();
        picked.sort_unstable();
        picked.dedup();
        let changed = self.note(slot, &before.picked_by, &picked);
        let labels = needs.into_iter().map(|need| self.label(slot, need)).collect();
        self.endpoints.insert(slot, Found { labels, picked_by: picked });
        changed
    }

    fn label(&mut self, slot: Slot, need: Need) -> LabelId {
        if let Some((id, slots)) = self.by_label.get_mut(&need) {
            slots.insert(slot);
            return *id;
        }
        self.next_label += 1;
        let id = self.next_label;
        self.labels.insert(id, need.clone());
        self.by_label.insert(need, (id, BTreeSet::from([slot])));
        id
    }

    fn unlabel(&mut self, slot: Slot, label: LabelId) {
        let Some(need) = self.labels.get(&label) else { return };
        let Some((_, slots)) = self.by_label.get_mut(need) else { return };
        slots.remove(&slot);
        if slots.is_empty() {
            self.by_label.remove(need);
            self.labels.remove(&label);
        }
    }

    /// The selectors that pick an endpoint, in the order of their places.
    pub(crate) fn picked_by(&self, slot: Slot) -> impl Iterator<Item = SelectorId> + use<'_> {
        self.endpoints.get(&slot).into_iter().flat_map(|found| found.picked_by.iter().copied())
    }

    /// The endpoints that a selector picks.
    pub(crate) fn picked(&self, id: SelectorId) -> impl Iterator<Item = Slot> + use<'_> {
        self.selectors.get(&id).into_iter().flat_map(|entry| entry.picked.iter().copied())
    }

    fn note(&mut self, slot: Slot, before: &[SelectorId], now: &[SelectorId]) -> Vec<SelectorId> {
        let lost = before.iter().filter(|id| now.binary_search(id).is_err());
        let won = now.iter().filter(|id| before.binary_search(id).is_err());
        let changed: Vec<SelectorId> = lost.chain(won).copied().collect();
        for id in &changed {
            let Some(entry) = self.selectors.get_mut(id) else { continue };
            if now.binary_search(id).is_ok() {
                entry.picked.insert(slot);
            } else {
                entry.picked.remove(&slot);
            }
        }
        changed
    }

    fn register(&mut self, id: SelectorId, needs: Option<&[Need]>) {
        let Some(needs) = needs else {
            self.anywhere.insert(id);
            return;
        };
        for need in needs {
            self.by_need.entry(need.clone()).or_default().insert(id);
        }
    }

    /// The endpoints that a selector may pick.
    fn candidates(&self, selector: &Selector) -> BTreeSet<Slot> {
        let count = |need: &Need| self.by_label.get(need).map_or(0, |(_, slots)| slots.len());
        match needs(selector, &count) {
            Some(needs) => {
                let found = needs.iter().filter_map(|need| self.by_label.get(need));
                found.flat_map(|(_, slots)| slots).copied().collect()
            }
            None => self.endpoints.keys().copied().collect(),
        }
    }
}

/// Labels of which an endpoint has to have one to be picked, the fewest by `count`; None if it may have none.
fn needs(selector: &Selector, count: &impl Fn(&Need) -> usize) -> Option<Vec<Need>> {
    match selector {
        Selector::Has(label)
        | Selector::Contains(label, _)
        | Selector::StartsWith(label, _)
        | Selector::EndsWith(label, _) => Some(vec![(label.clone(), None)]),
        Selector::Is(label, value) => Some(vec![(label.clone(), Some(value.clone()))]),
        Selector::In(label, values) => {
            Some(values.iter().map(|value| (label.clone(), Some(value.clone()))).collect())
        }
        Selector::And(parts) => {
            let all = parts.iter().filter_map(|part| needs(part, count));
            all.min_by_key(|needs| needs.iter().map(count).sum::<usize>())
        }
        Selector::Or(parts) => {
            let all: Option<Vec<Vec<Need>>> = parts.iter().map(|part| needs(part, count)).collect();
            all.map(|needs| needs.concat())
        }
        Selector::Global => Some(Vec::new()),
        Selector::All | Selector::IsNot(..) | Selector::NotIn(..) | Selector::Not(_) => None,
    }
}
