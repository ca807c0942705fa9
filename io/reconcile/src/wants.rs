//! What is wanted, by whom, and where.

use std::collections::{BTreeMap, BTreeSet};

use tartan_host::{Key, Keyed, Row, Rows};
use tartan_model::IfName;

/// The rows that scopes want, all together. Thousands of peers want tens of thousands, so that nothing is kept here that
/// can be found.
#[derive(Debug)]
pub(crate) struct Wants<S> {
    rows: Rows,
    /// The rows of each as it asked for them, in order; another may have asked otherwise since.
    scopes: BTreeMap<S, Box<[Keyed]>>,
    /// How many scopes want a row beside the first, where several do.
    shared: BTreeMap<Key, usize>,
    /// Routes and ports by their link: of other rows the keys begin with it.
    places: BTreeMap<IfName, BTreeSet<Keyed>>,
}

impl<S: Ord + Clone> Wants<S> {
    pub(crate) fn new() -> Self {
        Self {
            rows: Rows::default(),
            scopes: BTreeMap::new(),
            shared: BTreeMap::new(),
            places: BTreeMap::new(),
        }
    }

    /// All rows.
    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// The rows of a scope.
    pub(crate) fn of<'a>(&'a self, scope: &S) -> impl Iterator<Item = &'a Row> {
        self.scopes.get(scope).into_iter().flatten().filter_map(|row| self.rows.get(row.key()))
    }

    /// A scope that wants a row; takes a search through the scopes.
    pub(crate) fn owner(&self, key: &Key) -> Option<&S> {
        let has = |rows: &[Keyed]| rows.binary_search_by(|row| row.key().cmp(key)).is_ok();
        self.scopes.iter().find(|(_, rows)| has(rows)).map(|(scope, _)| scope)
    }

    /// The keys of what stands on a link or is a port of it.
    pub(crate) fn on<'a>(&'a self, link: &'a IfName) -> impl Iterator<Item = &'a Key> {
        self.rows.keys_on(link).chain(self.places.get(link).into_iter().flatten().map(Keyed::key))
    }

    /// Replaces what a scope wants; gives the keys that another row, or none, is wanted at now. A row that two scopes
    /// want is as the one that asked last wants it, and stays as long as one of them does. Rows that are there are kept
    /// together with those.
    pub(crate) fn replace(&mut self, scope: &S, rows: Vec<Row>, there: &Rows) -> Vec<Key> {
        let kept = |row| {
            let new = Keyed::new(row);
            self.rows.equal(&new).or_else(|| there.equal(&new)).cloned().unwrap_or(new)
        };
        let new: BTreeSet<Keyed> = rows.into_iter().map(kept).collect();
        let old = self.scopes.remove(scope).unwrap_or_default();
        let given_up = old.iter().filter(|row| !new.contains(*row) && self.give_up(row.key()));
        let mut changed: Vec<Key> = given_up.map(|row| row.key().clone()).collect();
        let is_new = |row: &&Keyed| old.binary_search(row).is_err();
        for row in new.iter().filter(is_new).filter(|row| self.rows.get(row.key()).is_some()) {
            *self.shared.entry(row.key().clone()).or_default() += 1;
        }
        for row in &new {
            if self.rows.get(row.key()) != Some(row) {
                self.put(row.clone());
                changed.push(row.key().clone());
            }
        }
        if !new.is_empty() {
            self.scopes.insert(scope.clone(), new.into_iter().collect());
        }
        changed
    }

    /// Nobody wants anything any more; gives the keys of what was wanted.
    pub(crate) fn clear(&mut self) -> Vec<Key> {
        std::mem::replace(self, Self::new()).rows.keys().cloned().collect()
    }

    /// One scope less wants a row; whether it was the last.
    fn give_up(&mut self, key: &Key) -> bool {
        match self.shared.get_mut(key) {
            Some(1) => drop(self.shared.remove(key)),
            Some(others) => *others -= 1,
            None => {
                if let Some(old) = self.rows.remove(key) {
                    self.forget_place(&old);
                }
                return true;
            }
        }
        false
    }

    fn put(&mut self, row: Keyed) {
        let place = place(&row).cloned();
        if let Some(link) = &place {
            self.places.entry(link.clone()).or_default().replace(row.clone());
        }
        if let Some(old) = self.rows.put(row).filter(|old| self::place(old) != place.as_ref()) {
            self.forget_place(&old);
        }
    }

    fn forget_place(&mut self, row: &Keyed) {
        let Some(link) = place(row) else { return };
        if let Some(rows) = self.places.get_mut(link) {
            rows.remove(row);
            if rows.is_empty() {
                self.places.remove(link);
            }
        }
    }
}

/// The link of a row whose key does not begin with it.
fn place(row: &Row) -> Option<&IfName> {
    match row {
        Row::Link(link) => link.master.as_ref(),
        Row::Route(route) => route.link(),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]
mod tests {
    use tartan_host::{Sysctl, SysctlKey};

    use super::*;

    #[test]
    fn a_row_that_is_there_or_wanted_already_is_kept_once() {
        let setting = |value| Row::Sysctl(Sysctl { key: SysctlKey::Ipv4Forward, value });
        let key = setting(1).key();
        let there = Rows::from_iter([setting(1)]);
        let mut wants = Wants::new();
        assert_eq!(wants.replace(&"a", vec![setting(1)], &there), std::slice::from_ref(&key));
        let first: *const Row = wants.rows().get(&key).unwrap();
        assert!(std::ptr::eq(first, there.get(&key).unwrap()));
        // Asked for again, and by another.
        assert!(wants.replace(&"a", vec![setting(1)], &Rows::default()).is_empty());
        assert!(wants.replace(&"b", vec![setting(1)], &Rows::default()).is_empty());
        assert!(std::ptr::eq(first, wants.rows().get(&key).unwrap()));
        assert_eq!(wants.replace(&"b", vec![setting(0)], &there), std::slice::from_ref(&key));
        assert_eq!(wants.of(&"a").collect::<Vec<_>>(), [&setting(0)], "as who asked last wants it");
        assert!(wants.replace(&"b", Vec::new(), &there).is_empty(), "another wants it yet");
        assert_eq!(wants.replace(&"a", Vec::new(), &there), [key]);
        assert!(wants.rows().is_empty());
    }
}
