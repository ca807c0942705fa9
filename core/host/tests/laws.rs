//! The laws of plans, proven on the kernel made of data.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on stops")]

mod rows;
mod wants;

use std::collections::BTreeSet;

use proptest::prelude::*;
use rows::{bare, name, route, uplink};
use tartan_host::*;
use tartan_model::IfName;
use wants::{Dice, dice, wants};

/// One round of compare, guard and step. The dice decide which steps fail without having been taken.
fn round(host: &mut Host, want: &Rows, failures: Option<&mut Dice>) {
    let (steps, refused) = guard(diff(want, host), host, &Realm::Node);
    assert_eq!(refused, [], "what can be wanted is not refused");
    let mut failures = failures;
    for step in steps {
        if failures.as_mut().is_none_or(|dice| dice.roll(3) > 0) {
            // An error stays in the next diff by itself.
            let _ = host.act(&step);
            assert_routes_have_links(host);
        }
    }
}

fn settle(host: &mut Host, want: &Rows) {
    round(host, want, None);
    round(host, want, None);
}

/// A host that wanted this, and got some of it.
fn half_built(want: &Rows, dice: &mut Dice) -> Host {
    let mut host = bare();
    round(&mut host, want, None);
    round(&mut host, want, Some(dice));
    host
}

/// A host that wanted this, got some of it, and that others then took from: rows are gone, links up or down.
fn disturbed(want: &Rows, dice: &mut Dice) -> Host {
    let mut host = half_built(want, dice);
    let rows: Vec<Row> = host.rows.iter().cloned().collect();
    for _ in 0..dice.roll(6) {
        let step = match dice.pick(&rows) {
            Some(Row::Link(link)) if dice.is() => {
                let to = Link { up: !link.up, ..link.clone() };
                Step::Change { from: Row::Link(link), to: Row::Link(to) }
            }
            Some(row) => Step::Remove { row },
            None => break,
        };
        // What is gone already cannot be changed.
        let _ = host.act(&step);
    }
    host
}

fn assert_routes_have_links(host: &Host) {
    for row in host.rows.iter() {
        if let Some(link) = row.on() {
            let own = host.rows.link(link).map(|link| link.up);
            let up = own.or(host.foreign.get(link).map(|link| link.up));
            assert!(up.is_some(), "{row}: no such link");
            assert!(up == Some(true) || !matches!(row, Row::Route(_)), "{row}: link down");
        }
    }
}

fn plan(host: &Host, want: &Rows) -> Vec<String> {
    diff(want, host).iter().map(Step::to_string).collect()
}

fn keys_that_differ(want: &Rows, have: &Rows) -> BTreeSet<Key> {
    let same = |key: &&Key| match (want.get(key), have.get(key)) {
        (Some(want), Some(have)) => want.matches(have),
        _ => false,
    };
    want.keys().chain(have.keys()).filter(|key| !same(key)).cloned().collect()
}

/// Any step over the rows of two wants, some of them moved to links that are not ours.
fn random_steps(rows: &[Row], dice: &mut Dice) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..30 {
        let (Some(mut row), Some(other)) = (dice.pick(rows), dice.pick(rows)) else { continue };
        match dice.roll(5) {
            0 => row = moved(&row, &uplink()),
            1 => row = moved(&row, &name("tt0000000000ff")),
            2 => row = default_route(dice),
            _ => {}
        }
        steps.push(match dice.roll(3) {
            0 => Step::Create { row },
            1 => Step::Change { from: if dice.is() { other } else { row.clone() }, to: row },
            _ => Step::Remove { row },
        });
    }
    steps
}

fn default_route(dice: &mut Dice) -> Row {
    let dst = if dice.is() { "0.0.0.0/0" } else { "::/0" };
    Row::Route(route(dst, RouteKind::Link { link: name("tartan0") }, None))
}

/// The same row on another link.
fn moved(row: &Row, to: &IfName) -> Row {
    match row.clone() {
        Row::Address(row) => Row::Address(Address { link: to.clone(), ..row }),
        Row::Fdb(row) => Row::Fdb(Fdb { link: to.clone(), ..row }),
        Row::Neighbor(row) => Row::Neighbor(Neighbor { link: to.clone(), ..row }),
        Row::Route(row) => Row::Route(Route { kind: RouteKind::Link { link: to.clone() }, ..row }),
        Row::Link(row) => Row::Link(Link { name: to.clone(), ..row }),
        Row::Sysctl(Sysctl { key: SysctlKey::LinkForward(_), value }) => {
            Row::Sysctl(Sysctl { key: SysctlKey::LinkForward(to.clone()), value })
        }
        row @ (Row::Ruleset(_) | Row::Element(_) | Row::Policy(_) | Row::Sysctl(_)) => row,
    }
}

/// Where a step stands in a plan: the filter and the node's settings first, routes last.
fn storey(step: &Step) -> u8 {
    match step.key() {
        Key::Ruleset => 0,
        Key::Element(_) => 1,
        Key::Policy(_) => 2,
        Key::Sysctl(key) if key.on().is_none() => 3,
        Key::Link(_) => 4,
        Key::Sysctl(_) => 5,
        Key::Address(..) => 6,
        Key::Fdb(..) => 7,
        Key::Neighbor(..) => 8,
        Key::Route(..) => 9,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn diff_of_equal_is_empty(want in wants()) {
        let host = Host { rows: want.clone(), foreign: bare().foreign };
        prop_assert_eq!(plan(&host, &want), Vec::<String>::new());
    }

    #[test]
    fn any_host_reaches_any_want_in_at_most_two_rounds(old in wants(), want in wants(), mut dice in dice()) {
        let mut host = half_built(&old, &mut dice);
        for _ in 0..dice.roll(3) {
            round(&mut host, &want, Some(&mut dice));
        }
        settle(&mut host, &want);
        prop_assert_eq!(plan(&host, &want), Vec::<String>::new());
    }

    #[test]
    fn no_step_leaves_a_route_without_its_link(old in wants(), want in wants(), mut dice in dice()) {
        let mut host = disturbed(&old, &mut dice);
        for step in diff(&want, &host) {
            // The kernel refuses a route over a link that is not there or is down, so it must never be asked for one.
            prop_assert_eq!(host.act(&step), Ok(()), "{}", step);
            assert_routes_have_links(&host);
        }
    }

    #[test]
    fn detours_leave_no_trace(a in wants(), b in wants()) {
        let (mut straight, mut detour) = (bare(), bare());
        settle(&mut straight, &a);
        for want in [&a, &b, &a] {
            settle(&mut detour, want);
        }
        prop_assert_eq!(straight, detour);
    }

    #[test]
    fn foreign_things_are_never_touched(a in wants(), b in wants(), mut dice in dice()) {
        let mut host = half_built(&a, &mut dice);
        host.foreign.insert(name("tt0000000000ff"), ForeignLink { up: true });
        let before = host.foreign.clone();
        let rows: Vec<Row> = a.iter().chain(b.iter()).cloned().collect();
        let steps = random_steps(&rows, &mut dice);
        let (passed, refused) = guard(steps.clone(), &host, &Realm::Node);
        let parts: Vec<&Step> = passed.iter().chain(refused.iter().map(|refusal| &refusal.step)).collect();
        prop_assert!(parts.len() == steps.len() && steps.iter().all(|step| parts.contains(&step)));
        for step in &passed {
            let _ = host.act(step);
        }
        let strange = |row: &&Row| row.on().is_some_and(|link| before.contains_key(link));
        prop_assert_eq!(host.rows.iter().find(strange), None);
        prop_assert!(before.keys().all(|link| host.rows.link(link).is_none()));
        let default = |row: &Row| matches!(row, Row::Route(route) if route.dst.length() == 0);
        prop_assert!(!host.rows.iter().any(default));
        prop_assert_eq!(host.foreign, before);
    }

    #[test]
    fn diff_keys_equals_diff(old in wants(), want in wants(), mut dice in dice()) {
        let host = half_built(&old, &mut dice);
        let all: BTreeSet<Key> = want.keys().chain(host.rows.keys()).cloned().collect();
        let whole = diff(&want, &host);
        prop_assert_eq!(&diff_keys(&want, &host, &all), &whole);
        prop_assert_eq!(&diff_keys(&want, &host, &keys_that_differ(&want, &host.rows)), &whole);
    }

    #[test]
    fn plan_prints_and_is_ordered(old in wants(), want in wants(), mut dice in dice()) {
        let host = half_built(&old, &mut dice);
        let mut steps = diff(&want, &host);
        prop_assert!(steps.iter().all(|step| !step.to_string().contains('\n') && step.to_string().len() > 4));
        // Ranges that others may be in the way of go first.
        let is_range = |step: &Step| match step {
            Step::Remove { row: Row::Element(element) } => element.member.is_ranges(),
            _ => false,
        };
        let gone = steps.iter().filter(|step| is_range(step)).count();
        prop_assert!(want.get(&Key::Ruleset).is_none() || steps.iter().take(gone).all(is_range));
        steps.retain(|step| !is_range(step));
        let builds = |step: &&Step| want.get(&step.key()).is_some();
        let (built, cleared): (Vec<&Step>, Vec<&Step>) = steps.iter().partition(builds);
        prop_assert!(steps.iter().eq(built.iter().chain(&cleared).copied()), "clears before it is built");
        prop_assert!(built.iter().is_sorted_by_key(|step| storey(step)));
        prop_assert!(cleared.iter().rev().is_sorted_by_key(|step| storey(step)));
        // In the table of policies a row depends only on rows before.
        let policy = |step: &&&Step| if let Key::Policy(key) = step.key() { Some(key) } else { None };
        prop_assert!(built.iter().filter_map(|step| policy(&step)).is_sorted());
        prop_assert!(cleared.iter().rev().filter_map(|step| policy(&step)).is_sorted());
        let removes = |step: &&Step| matches!(step, Step::Remove { .. });
        prop_assert!(cleared.iter().all(removes));
        // On a bare host a plan needs no second round: nothing is built before what it stands on.
        let mut host = bare();
        for step in diff(&want, &host) {
            prop_assert_eq!(host.act(&step), Ok(()), "{}", step);
        }
    }
}
