//! A set of positions, kept as ranges: as large as its gaps are many, however far it reaches.

use std::collections::BTreeMap;

/// Positions as disjoint ranges that never touch: first and last of each, both inside.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ranges(BTreeMap<u128, u128>);

impl Ranges {
    /// The positions from `first` to `last`, both inside; none if `first` is behind `last`.
    pub(crate) fn from_to(first: u128, last: u128) -> Ranges {
        Ranges((first <= last).then_some((first, last)).into_iter().collect())
    }

    pub(crate) fn contains(&self, position: u128) -> bool {
        self.around(position).is_some()
    }

    /// The lowest position that is not below `from`.
    pub(crate) fn lowest_from(&self, from: u128) -> Option<u128> {
        let next = || self.0.range(from..).next().map(|(first, _)| *first);
        if self.contains(from) { Some(from) } else { next() }
    }

    /// Takes a position out; false if it was not in.
    pub(crate) fn remove(&mut self, position: u128) -> bool {
        let Some((first, last)) = self.around(position) else { return false };
        self.0.remove(&first);
        if first < position {
            self.0.insert(first, position - 1);
        }
        if position < last {
            self.0.insert(position + 1, last);
        }
        true
    }

    /// Puts a position in, joining the ranges that it touches.
    pub(crate) fn insert(&mut self, position: u128) {
        if self.contains(position) {
            return;
        }
        let before = position.checked_sub(1).and_then(|before| self.around(before));
        let after = position.checked_add(1).and_then(|after| self.0.remove(&after));
        let first = before.map_or(position, |(first, _)| first);
        self.0.insert(first, after.unwrap_or(position));
    }

    /// The range that holds a position.
    fn around(&self, position: u128) -> Option<(u128, u128)> {
        let (first, last) = self.0.range(..=position).next_back()?;
        (position <= *last).then_some((*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_equal_a_plain_set(steps in prop::collection::vec((any::<bool>(), 0u128..40), 0..200)) {
            let mut ranges = Ranges::from_to(10, 29);
            let mut plain: BTreeSet<u128> = (10..30).collect();
            for (put, position) in steps {
                if put {
                    ranges.insert(position);
                    plain.insert(position);
                } else {
                    prop_assert_eq!(ranges.remove(position), plain.remove(&position));
                }
                for probe in 0..42 {
                    prop_assert_eq!(ranges.contains(probe), plain.contains(&probe));
                    prop_assert_eq!(ranges.lowest_from(probe), plain.range(probe..).next().copied());
                }
                let gaps = plain.iter().filter(|at| !plain.contains(&(*at + 1))).count();
                prop_assert_eq!(ranges.0.len(), gaps);
            }
        }
    }

    #[test]
    fn the_ends_of_the_numbers_do_not_overflow() {
        let mut ranges = Ranges::from_to(0, u128::MAX);
        assert!(ranges.remove(u128::MAX) && ranges.remove(0));
        ranges.insert(u128::MAX);
        ranges.insert(0);
        assert_eq!(ranges.0.len(), 1);
    }
}
