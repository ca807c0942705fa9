//! What the engine comes to is what the reference evaluator says, however it was come by.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod generate;
mod tables;

use generate::{cluster, flow};
use proptest::prelude::*;
use tables::{Change, Pods, Tables, changes_of, learn, whole};
use tartan_policy::explain;
use tartan_policy::form::Verdict;
use tartan_policy::reference::{Cluster, Exemption, Flow, Side, judge};

/// A node to its own pods is not asked about here: such packets are not forwarded.
fn is_judged(cluster: &Cluster, flow: &Flow) -> bool {
    let judgement = judge(cluster, flow);
    ![judgement.egress, judgement.ingress].contains(&Side::Exempt(Exemption::OwnNode))
}

fn asked(flow: &Flow) -> explain::Flow {
    explain::Flow { client: flow.from, server: flow.to, protocol: flow.protocol, port: flow.port }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn tables_and_explanations_say_what_the_reference_says(
        cluster in cluster(), flows in prop::collection::vec(flow(), 100),
    ) {
        let engine = whole(&cluster);
        let tables = Tables::of(&engine);
        for flow in flows.iter().filter(|flow| is_judged(&cluster, flow)) {
            let allowed = judge(&cluster, flow).allowed();
            prop_assert_eq!(tables.allows(flow), allowed, "{:?}", flow);
            let explanation = engine.explain(&asked(flow));
            prop_assert_eq!(explanation.verdict == Verdict::Allow, allowed, "{:?} {:?}", flow, explanation);
        }
    }
}

/// A cluster, and things that come and go, which at the end are all there.
fn history() -> impl Strategy<Value = (Cluster, Vec<Change>)> {
    cluster().prop_flat_map(|cluster| {
        let all = changes_of(&cluster);
        let gone = |change: Change| match change {
            Change::Namespace(at, _) => Change::Namespace(at, false),
            Change::Pod(at, _) => Change::Pod(at, false),
            Change::Policy(at, _) => Change::Policy(at, false),
        };
        let before = prop::collection::vec(prop::sample::select(all.clone()), 0..20);
        let before = (before, any::<u32>()).prop_map(move |(before, goes)| {
            let turned = before.into_iter().enumerate();
            turned
                .map(|(at, change)| if goes >> (at % 32) & 1 == 1 { gone(change) } else { change })
                .collect::<Vec<_>>()
        });
        (Just(cluster), before, Just(all).prop_shuffle())
            .prop_map(|(cluster, before, all)| (cluster, [before, all].concat()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_it_comes_to_does_not_depend_on_how_it_was_learned((cluster, history) in history()) {
        let (mut engine, mut tables) = (Pods::default(), Tables::default());
        for change in &history {
            let changes = learn(&mut engine, &cluster, change);
            tables.take(&engine, &changes);
        }
        prop_assert_eq!(&tables, &Tables::of(&engine));
        prop_assert_eq!(&tables, &Tables::of(&whole(&cluster)));
    }

    #[test]
    fn everything_can_be_unlearned((cluster, history) in history()) {
        let mut engine = Pods::default();
        for change in &history {
            learn(&mut engine, &cluster, change);
        }
        let mut tables = Tables::of(&engine);
        for change in changes_of(&cluster) {
            let gone = match change {
                Change::Namespace(at, _) => Change::Namespace(at, false),
                Change::Pod(at, _) => Change::Pod(at, false),
                Change::Policy(at, _) => Change::Policy(at, false),
            };
            let changes = learn(&mut engine, &cluster, &gone);
            tables.take(&engine, &changes);
        }
        prop_assert_eq!(tables, Tables::default());
    }
}
