//! What holds for every selector.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tartan_policy::{Labels, Selector};

fn label() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "role", "in", "contains", "projectcalico.org/name", "9"])
        .prop_map_into()
}

fn value() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "a", "b", "ab", "with \"quotes\"", "it's", "ünï", "a, b}"]).prop_map_into()
}

/// As the parser makes them: nothing is negated twice, and what is joined are two or more.
fn selector() -> impl Strategy<Value = Selector> {
    let set = || prop::collection::btree_set(value(), 0..4);
    let leaf = prop_oneof![
        Just(Selector::All),
        Just(Selector::Global),
        label().prop_map(Selector::Has),
        (label(), value()).prop_map(|(l, v)| Selector::Is(l, v)),
        (label(), value()).prop_map(|(l, v)| Selector::IsNot(l, v)),
        (label(), set()).prop_map(|(l, v)| Selector::In(l, v)),
        (label(), set()).prop_map(|(l, v)| Selector::NotIn(l, v)),
        (label(), value()).prop_map(|(l, v)| Selector::Contains(l, v)),
        (label(), value()).prop_map(|(l, v)| Selector::StartsWith(l, v)),
        (label(), value()).prop_map(|(l, v)| Selector::EndsWith(l, v)),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let several = || prop::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            inner.clone().prop_map(|one| match one {
                Selector::Not(one) => *one,
                one => Selector::Not(Box::new(one)),
            }),
            several().prop_map(Selector::And),
            several().prop_map(Selector::Or),
        ]
    })
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(label(), value(), 0..5)
}

/// The meaning, written a second time: a selector as the set of those of some endpoints that it picks.
fn picked(selector: &Selector, endpoints: &[BTreeMap<String, String>]) -> BTreeSet<usize> {
    let everyone: BTreeSet<usize> = (0..endpoints.len()).collect();
    let with = |label: &str, holds: &dyn Fn(&String) -> bool| {
        let has = |at: &usize| endpoints.get(*at).unwrap().get(label).is_some_and(holds);
        everyone.iter().copied().filter(has).collect::<BTreeSet<usize>>()
    };
    match selector {
        Selector::All => everyone,
        Selector::Global => BTreeSet::new(),
        Selector::Has(l) => with(l, &|_| true),
        Selector::Is(l, v) => with(l, &|found| found == v),
        Selector::IsNot(l, v) => &everyone - &with(l, &|found| found == v),
        Selector::In(l, vs) => vs.iter().flat_map(|v| with(l, &|found| found == v)).collect(),
        Selector::NotIn(l, vs) => {
            let any: BTreeSet<usize> = vs.iter().flat_map(|v| with(l, &|found| found == v)).collect();
            &everyone - &any
        }
        Selector::Contains(l, v) => with(l, &|found| found.contains(v.as_str())),
        Selector::StartsWith(l, v) => with(l, &|found| found.starts_with(v.as_str())),
        Selector::EndsWith(l, v) => with(l, &|found| found.ends_with(v.as_str())),
        Selector::Not(inner) => &everyone - &picked(inner, endpoints),
        Selector::And(all) => all.iter().fold(everyone, |left, one| &left & &picked(one, endpoints)),
        Selector::Or(any) => any.iter().flat_map(|one| picked(one, endpoints)).collect(),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(selector in selector()) {
        let text = selector.to_string();
        prop_assert_eq!(text.parse::<Selector>(), Ok(selector), "{}", text);
    }

    #[test]
    fn reading_never_panics_and_what_is_read_has_one_form(text in "[ \t!&|(){},='\"a-z0-9./_-]{0,40}|\\PC{0,40}") {
        if let Ok(selector) = text.parse::<Selector>() {
            let written = selector.to_string();
            prop_assert_eq!(written.parse::<Selector>().unwrap().to_string(), written);
        }
    }

    #[test]
    fn it_picks_what_sets_say(selector in selector(), endpoints in prop::collection::vec(labels(), 0..8)) {
        let found: BTreeSet<usize> = (0..endpoints.len()).filter(|at| {
            let labels = endpoints.get(*at).unwrap();
            selector.matches(&Seen(labels))
        }).collect();
        prop_assert_eq!(found, picked(&selector, &endpoints));
    }
}

/// Labels by another road than the map's own.
struct Seen<'a>(&'a BTreeMap<String, String>);

impl Labels for Seen<'_> {
    fn label(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(label, _)| *label == name).map(|(_, value)| value.as_str())
    }
}
