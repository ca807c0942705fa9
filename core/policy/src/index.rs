//! Which endpoints selectors pick, kept up to date from both sides.
//!
//! A selector is looked at only for endpoints that have one of the labels it cannot do without, of these the rarest: among
//! 10,000 selectors that share a common label one endpoint meets only those that it also fits otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::RandomState;

use hashbrown::HashMap;

use crate::Selector;
use crate::labels::EndpointLabels;
use crate::places::Places;

/// An endpoint's place.
pub(crate) type Slot = u32;
/// A selector's place.
pub(crate) type SelectorId = u32;

/// A label, and its value if that matters.
type Need = (String, Option<String>);
type LabelId = u32;
/// By texts that others write, whom the hash must not serve to make them collide.
type Texts<T> = HashMap<String, T, RandomState>;

/// Selectors in use, and what they pick.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    ids: BTreeMap<Selector, SelectorId>,
    selectors: Places<Entry>,
    /// Selectors that can do without any label.
    anywhere: BTreeSet<SelectorId>,
    by_label: Texts<Named>,
    /// Each label that somebody has or needs.
    labels: Places<Need>,
    endpoints: Places<Found>,
}

/// A label by its name.
#[derive(Debug, Clone, Default)]
struct Named {
    any: Posting,
    by_value: Texts<Posting>,
}

/// A label, with a value or with any.
#[derive(Debug, Clone, Default)]
struct Posting {
    id: Option<LabelId>,
    /// Who has it.
    slots: BTreeSet<Slot>,
    /// Selectors that cannot do without it, or without another of some.
    selectors: BTreeSet<SelectorId>,
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
    labels: Box<[LabelId]>,
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
            if let Some(entry) = self.selectors.get_mut(id) {
                entry.users += 1;
            }
            return id;
        }
        let id = self.selectors.reserve();
        self.ids.insert(selector.clone(), id);
        let needs = needs(selector, &|need| self.posting(need).map_or(0, |posting| posting.selectors.len()));
        self.register(id, needs.as_deref());
        let fits = |slot: &Slot| labels(*slot).is_some_and(|labels| selector.matches(&labels));
        let picked: BTreeSet<Slot> = self.candidates(selector).into_iter().filter(fits).collect();
        for slot in &picked {
            if let Some(found) = self.endpoints.or_default(*slot)
                && let Err(at) = found.picked_by.binary_search(&id)
            {
                found.picked_by.insert(at, id);
            }
        }
        self.selectors.put(id, Entry { selector: selector.clone(), users: 1, needs, picked });
        id
    }

    /// The place of a selector in use.
    pub(crate) fn find(&self, selector: &Selector) -> Option<SelectorId> {
        self.ids.get(selector).copied()
    }

    /// Uses a selector once less.
    pub(crate) fn release(&mut self, id: SelectorId) {
        let Some(entry) = self.selectors.get_mut(id) else { return };
        entry.users -= 1;
        if entry.users > 0 {
            return;
        }
        let Some(entry) = self.selectors.release(id) else { return };
        self.ids.remove(&entry.selector);
        for slot in entry.picked {
            if let Some(found) = self.endpoints.get_mut(slot) {
                found.picked_by.retain(|other| *other != id);
            }
        }
        for need in entry.needs.into_iter().flatten() {
            self.change(&need, |posting| posting.selectors.remove(&id));
        }
        self.anywhere.remove(&id);
    }

    /// Looks at an endpoint anew, or forgets it; gives the selectors that pick it now and did not before, or the other way.
    pub(crate) fn look(&mut self, slot: Slot, labels: Option<EndpointLabels<'_>>) -> Vec<SelectorId> {
        let before = self.endpoints.take(slot).unwrap_or_default();
        for label in before.labels {
            if let Some(need) = self.labels.get(label).cloned() {
                self.change(&need, |posting| posting.slots.remove(&slot));
            }
        }
        let Some(labels) = labels else { return self.note(slot, &before.picked_by, &[]) };
        let mut had = Vec::new();
        let mut asked: Vec<SelectorId> = self.anywhere.iter().copied().collect();
        labels.each(|name, value| {
            for value in [Some(value), None] {
                let posting = posting_of(&mut self.by_label, &mut self.labels, name, value);
                posting.slots.insert(slot);
                had.extend(posting.id);
                asked.extend(&posting.selectors);
            }
        });
        let fits =
            |id: &SelectorId| self.selectors.get(*id).is_some_and(|entry| entry.selector.matches(&labels));
        asked.retain(fits);
        asked.sort_unstable();
        asked.dedup();
        let changed = self.note(slot, &before.picked_by, &asked);
        self.endpoints.put(slot, Found { labels: had.into(), picked_by: asked });
        changed
    }

    fn posting(&self, (name, value): &Need) -> Option<&Posting> {
        let named = self.by_label.get(name)?;
        match value {
            Some(value) => named.by_value.get(value),
            None => Some(&named.any),
        }
    }

    /// Changes a posting, which goes if nothing is left of it.
    fn change(&mut self, (name, value): &Need, change: impl FnOnce(&mut Posting) -> bool) {
        let Some(named) = self.by_label.get_mut(name) else { return };
        let posting = match value {
            Some(value) => named.by_value.get_mut(value),
            None => Some(&mut named.any),
        };
        let Some(posting) = posting else { return };
        change(posting);
        if !posting.slots.is_empty() || !posting.selectors.is_empty() {
            return;
        }
        if let Some(id) = posting.id.take() {
            self.labels.release(id);
        }
        if let Some(value) = value {
            named.by_value.remove(value);
        }
        if named.by_value.is_empty() && named.any.id.is_none() {
            self.by_label.remove(name);
        }
    }

    /// The selectors that pick an endpoint, in the order of their places.
    pub(crate) fn picked_by(&self, slot: Slot) -> impl Iterator<Item = SelectorId> + use<'_> {
        self.endpoints.get(slot).into_iter().flat_map(|found| found.picked_by.iter().copied())
    }

    /// The endpoints that a selector picks.
    pub(crate) fn picked(&self, id: SelectorId) -> impl Iterator<Item = Slot> + use<'_> {
        self.selectors.get(id).into_iter().flat_map(|entry| entry.picked.iter().copied())
    }

    fn note(&mut self, slot: Slot, before: &[SelectorId], now: &[SelectorId]) -> Vec<SelectorId> {
        let lost = before.iter().filter(|id| now.binary_search(id).is_err());
        let won = now.iter().filter(|id| before.binary_search(id).is_err());
        let changed: Vec<SelectorId> = lost.chain(won).copied().collect();
        for id in &changed {
            let Some(entry) = self.selectors.get_mut(*id) else { continue };
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
        for (name, value) in needs {
            let posting = posting_of(&mut self.by_label, &mut self.labels, name, value.as_deref());
            posting.selectors.insert(id);
        }
    }

    /// The endpoints that a selector may pick.
    fn candidates(&self, selector: &Selector) -> BTreeSet<Slot> {
        let count = |need: &Need| self.posting(need).map_or(0, |posting| posting.slots.len());
        match needs(selector, &count) {
            Some(needs) => {
                let found = needs.iter().filter_map(|need| self.posting(need));
                found.flat_map(|posting| &posting.slots).copied().collect()
            }
            None => self.endpoints.iter().map(|(slot, _)| slot).collect(),
        }
    }
}

/// The posting of a label, made if there is none; nothing is copied if there is one.
fn posting_of<'a>(
    by_label: &'a mut Texts<Named>,
    labels: &mut Places<Need>,
    name: &str,
    value: Option<&str>,
) -> &'a mut Posting {
    let named = by_label.entry_ref(name).or_default();
    let posting = match value {
        Some(value) => named.by_value.entry_ref(value).or_default(),
        None => &mut named.any,
    };
    posting.id.get_or_insert_with(|| {
        let id = labels.reserve();
        labels.put(id, (name.to_owned(), value.map(str::to_owned)));
        id
    });
    posting
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
