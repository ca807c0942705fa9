//! What is wanted, by whom, and where.

use std::collections::{BTreeMap, BTreeSet};

use tartan_host::{Key, Row, Rows};
use tartan_model::IfName;

/// The rows that scopes want, all together. Thousands of peers want tens of thousands, so that nothing is kept here that
/// can be found.
#[derive(Debug)]
pub(crate) struct Wants<S> {
    rows: Rows,
    /// Each in order.
    scopes: BTreeMap<S, Box<[Key]>>,
    /// How many scopes want a row beside the first, where several do.
    shared: BTreeMap<Key, usize>,
    /// Routes and ports by their link: of other rows the keys begin with it.
    places: BTreeMap<IfName, BTreeSet<Key>>,
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
        self.scopes.get(scope).into_iter().flatten().filter_map(|key| self.rows.get(key))
    }

    /// A scope that wants a row; takes a search through the scopes.
    pub(crate) fn owner(&self, key: &Key) -> Option<&S> {
        self.scopes.iter().find(|(_, keys)| keys.binary_search(key).is_ok()).map(|(scope, _)| scope)
    }

    /// The keys of what stands on a link or is a port of it.
    pub(crate) fn on<'a>(&'a self, link: &'a IfName) -> impl Iterator<Item = &'a Key> {
        self.rows.keys_on(link).chain(self.places.get(link).into_iter().flatten())
    }

    /// Replaces what a scope wants; gives the keys that another row, or none, is wanted at now. A row that two scopes
    /// want is as the one that asked last wants it, and stays as long as one of them does.
    pub(crate) fn replace(&mut self, scope: &S, rows: Vec<Row>) -> Vec<Key> {
        let new: BTreeSet<Key> = rows.iter().map(Row::key).collect();
        let old = self.scopes.remove(scope).unwrap_or_default();
        let given_up = old.iter().filter(|key| !new.contains(key) && self.give_up(key));
        let mut changed: Vec<Key> = given_up.cloned().collect();
        let is_new = |key: &&Key| old.binary_search(key).is_err();
        for key in new.iter().filter(is_new).filter(|key| self.rows.get(key).is_some()) {
            *self.shared.entry(key.clone()).or_default() += 1;
        }
        for row in rows {
            let key = row.key();
            if self.rows.get(&key) != Some(&row) {
                self.put(row);
                changed.push(key);
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
                    self.forget_place(&old, key);
                }
                return true;
            }
        }
        false
    }

    fn put(&mut self, row: Row) {
        let key = row.key();
        let place = place(&row).cloned();
        if let Some(link) = &place {
            self.places.entry(link.clone()).or_default().insert(key.clone());
        }
        if let Some(old) = self.rows.insert(row).filter(|old| self::place(old) != place.as_ref()) {
            self.forget_place(&old, &key);
        }
    }

    fn forget_place(&mut self, row: &Row, key: &Key) {
        let Some(link) = place(row) else { return };
        if let Some(keys) = self.places.get_mut(link) {
            keys.remove(key);
            if keys.is_empty() {
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
