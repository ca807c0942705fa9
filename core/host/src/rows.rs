//! Rows by key, in the order of building.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::{Bound, Deref};
use std::sync::Arc;

use tartan_model::{Cidr, Family, IfName, InterfaceAddress, Mac};

use crate::policy::{PolicyKey, PolicyRow, RemotesId};
use crate::{Key, Link, Row, SysctlKey};

/// Rows by key: what is wanted, or what there is.
///
/// Thousands of peers make tens of thousands of rows, and almost all that are wanted are there: such a row is kept once
/// ([`Rows::share`]).
#[derive(Debug, Clone, Default)]
pub struct Rows(BTreeSet<Keyed>);

/// A row together with its key, kept once for all who have it. Two compare as their keys do, whatever else differs, so that
/// sets find rows by key.
#[derive(Debug, Clone)]
pub struct Keyed(Arc<(Key, Row)>);

impl Keyed {
    /// A row that nobody else has yet.
    pub fn new(row: Row) -> Keyed {
        Keyed(Arc::new((row.key(), row)))
    }

    /// The row's key.
    pub fn key(&self) -> &Key {
        &self.0.0
    }

    fn entry(&self) -> (&Key, &Row) {
        (&self.0.0, &self.0.1)
    }
}

impl Deref for Keyed {
    type Target = Row;

    fn deref(&self) -> &Row {
        &self.0.1
    }
}

impl Borrow<Key> for Keyed {
    fn borrow(&self) -> &Key {
        self.key()
    }
}

impl PartialEq for Keyed {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Keyed {}

impl PartialOrd for Keyed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Keyed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(other.key())
    }
}

impl Rows {
    /// Puts a row in, and gives back the one it replaces.
    pub fn insert(&mut self, row: Row) -> Option<Keyed> {
        self.put(Keyed::new(row))
    }

    /// Puts a row in that others may have too, and gives back the one it replaces.
    pub fn put(&mut self, row: Keyed) -> Option<Keyed> {
        self.0.replace(row)
    }

    /// Takes a row out.
    pub fn remove(&mut self, key: &Key) -> Option<Keyed> {
        self.0.take(key)
    }

    /// The row with this key.
    pub fn get(&self, key: &Key) -> Option<&Row> {
        self.0.get(key).map(Deref::deref)
    }

    /// The row of this key that is equal in all else, too.
    pub fn equal(&self, row: &Keyed) -> Option<&Keyed> {
        self.0.get(row.key()).filter(|here| ***here == **row)
    }

    /// Keeps the row of this key together with others, if theirs is equal.
    pub fn share(&mut self, key: &Key, others: &Rows) {
        let Some((own, other)) = self.0.get(key).zip(others.0.get(key)) else { return };
        if !Arc::ptr_eq(&own.0, &other.0) && **own == **other {
            self.put(other.clone());
        }
    }

    /// The link of this name.
    pub fn link(&self, name: &IfName) -> Option<&Link> {
        match self.get(&Key::Link(name.clone())) {
            Some(Row::Link(link)) => Some(link),
            _ => None,
        }
    }

    /// All rows in the order of their keys, which is the order of building.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Row> {
        self.0.iter().map(Deref::deref)
    }

    /// All keys in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &Key> {
        self.0.iter().map(Keyed::key)
    }

    /// All rows with their keys, in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&Key, &Row)> {
        self.0.iter().map(Keyed::entry)
    }

    /// The same from this key on.
    fn entries_from(&self, first: Key) -> impl Iterator<Item = (&Key, &Row)> {
        self.0.range::<Key, _>(first..).map(Keyed::entry)
    }

    /// The rows that are not among others as they are here, in order. Both are walked through once.
    pub fn missing_from<'a>(&'a self, others: &'a Rows) -> impl Iterator<Item = &'a Row> {
        let mut others = others.entries().peekable();
        self.entries().filter_map(move |(key, row)| {
            while others.next_if(|(other, _)| *other < key).is_some() {}
            let is_there =
                others.next_if(|(other, _)| *other == key).is_some_and(|(_, found)| row.matches(found));
            (!is_there).then_some(row)
        })
    }

    /// The keys of the settings, addresses, forwarding entries and neighbours on a link, without a search through all
    /// rows.
    pub fn keys_on<'a>(&'a self, link: &'a IfName) -> impl Iterator<Item = &'a Key> {
        let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let starts = [
            InterfaceAddress::new(nowhere, 0).map(|least| Key::Address(link.clone(), least)),
            Some(Key::Fdb(link.clone(), Mac::from_bytes([0; 6]))),
            Some(Key::Neighbor(link.clone(), nowhere)),
        ];
        let settings = [SysctlKey::LinkForward, SysctlKey::NoIpv6, SysctlKey::LinkReverse];
        let settings = settings
            .into_iter()
            .filter_map(|setting| self.0.get(&Key::Sysctl(setting(link.clone()))))
            .map(Keyed::key);
        let others = starts.into_iter().flatten().flat_map(move |start| {
            let table = std::mem::discriminant(&start);
            let rows = self.entries_from(start);
            rows.take_while(move |(key, row)| std::mem::discriminant(*key) == table && row.on() == Some(link))
        });
        settings.chain(others.map(|(key, _)| key))
    }

    /// The keys of the routes over a link; takes a search through all routes.
    pub(crate) fn route_keys_on<'a>(&'a self, link: &'a IfName) -> impl Iterator<Item = &'a Key> {
        let first = Cidr::everything(Family::Ipv4);
        let routes = self.entries_from(Key::Route(first, 0)).filter(move |(_, row)| row.on() == Some(link));
        routes.map(|(key, _)| key)
    }

    /// The keys of all elements, without a search through all rows.
    pub(crate) fn element_keys(&self) -> impl Iterator<Item = &Key> {
        let rows = self.0.range::<Key, _>((Bound::Excluded(Key::Ruleset), Bound::Unbounded));
        rows.map(Keyed::key).take_while(|key| matches!(key, Key::Element(_)))
    }

    /// The keys of the whole table of policies, in order.
    pub fn policy_keys(&self) -> impl Iterator<Item = &Key> {
        let rows = self.entries_from(Key::Policy(PolicyKey::Judge));
        rows.map(|(key, _)| key).take_while(|key| matches!(key, Key::Policy(_)))
    }

    /// The keys of the members of remotes.
    pub fn member_keys(&self, remotes: RemotesId) -> impl Iterator<Item = &Key> {
        let least = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let rows = self.entries_from(Key::Policy(PolicyKey::Member(remotes, least)));
        rows.map(|(key, _)| key)
            .take_while(move |key| matches!(key, Key::Policy(PolicyKey::Member(of, _)) if *of == remotes))
    }

    /// The row of the table of policies with this key.
    pub fn policy(&self, key: PolicyKey) -> Option<&PolicyRow> {
        match self.get(&Key::Policy(key)) {
            Some(Row::Policy(row)) => Some(row),
            _ => None,
        }
    }

    /// All rows of the table of policies, in order.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyRow> {
        let rows = self.entries_from(Key::Policy(PolicyKey::Judge));
        rows.map_while(|(_, row)| if let Row::Policy(row) = row { Some(row) } else { None })
    }

    /// Keeps the rows that the test accepts.
    pub fn retain(&mut self, mut keep: impl FnMut(&Row) -> bool) {
        self.0.retain(|row| keep(row));
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq for Rows {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Rows {}

impl FromIterator<Row> for Rows {
    fn from_iter<I: IntoIterator<Item = Row>>(rows: I) -> Self {
        Rows(rows.into_iter().map(Keyed::new).collect())
    }
}

impl Extend<Row> for Rows {
    fn extend<I: IntoIterator<Item = Row>>(&mut self, rows: I) {
        for row in rows {
            self.insert(row);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]
mod tests {
    use super::*;
    use crate::{Fdb, Sysctl};

    fn fdb(dst: &str) -> Row {
        let link = "tartan.1".parse().unwrap();
        Row::Fdb(Fdb { link, mac: Mac::from_bytes([2, 0, 0, 0, 0, 1]), dst: dst.parse().unwrap() })
    }

    #[test]
    fn a_row_that_two_have_just_so_is_kept_once() {
        let want = Rows::from_iter([fdb("192.0.2.1")]);
        let key = fdb("192.0.2.1").key();
        let is_shared = |have: &Rows| std::ptr::eq(want.get(&key).unwrap(), have.get(&key).unwrap());
        let mut have = Rows::from_iter([fdb("192.0.2.1")]);
        assert!(!is_shared(&have));
        have.share(&key, &want);
        assert!(is_shared(&have));
        let mut other = Rows::from_iter([fdb("192.0.2.2")]);
        other.share(&key, &want);
        assert_eq!(other.get(&key), Some(&fdb("192.0.2.2")));
        let mut none = Rows::default();
        none.share(&key, &want);
        assert!(none.is_empty());
    }

    #[test]
    fn a_row_replaces_the_one_with_its_key() {
        let setting = |value| Row::Sysctl(Sysctl { key: SysctlKey::Ipv4Forward, value });
        let mut rows = Rows::from_iter([setting(0), setting(1)]);
        assert_eq!(rows.insert(setting(2)).as_deref(), Some(&setting(1)));
        rows.extend([setting(3)]);
        assert_eq!(rows.iter().collect::<Vec<_>>(), [&setting(3)]);
        assert_ne!(rows, Rows::from_iter([setting(4)]));
    }
}
