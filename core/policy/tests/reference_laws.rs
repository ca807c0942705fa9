//! What holds for every judgement of the reference evaluator.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod generate;

use std::collections::{BTreeMap, BTreeSet};

use generate::spec::{egress_rule, ingress_rule};
use generate::{cluster, flow};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tartan_api::policy::{Direction, NetworkPolicy};
use tartan_policy::reference::{Cluster, Flow, Judgement, PolicyName, Side, judge};

fn flows() -> impl Strategy<Value = Vec<Flow>> {
    prop::collection::vec(flow(), 32)
}

fn side(judgement: &Judgement, direction: Direction) -> &Side {
    match direction {
        Direction::Ingress => &judgement.ingress,
        Direction::Egress => &judgement.egress,
    }
}

fn without(cluster: &Cluster, leaves: impl Fn(&NetworkPolicy) -> bool) -> Cluster {
    let mut cluster = cluster.clone();
    cluster.policies.retain(|policy| !leaves(policy));
    cluster
}

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

proptest! {
    #[test]
    fn without_policies_everything_is_allowed(cluster in cluster(), flows in flows()) {
        let free = without(&cluster, |_| true);
        prop_assert!(flows.iter().all(|flow| judge(&free, flow).allowed()));
    }

    #[test]
    fn the_order_of_policies_tells_nothing(
        (cluster, policies) in cluster().prop_flat_map(|cluster| {
            let policies = Just(cluster.policies.clone()).prop_shuffle();
            (Just(cluster), policies)
        }),
        flows in flows(),
    ) {
        let other = Cluster { policies, ..cluster.clone() };
        for flow in &flows {
            prop_assert_eq!(judge(&cluster, flow), judge(&other, flow));
        }
    }

    #[test]
    fn another_rule_never_forbids(
        cluster in cluster(), at in any::<prop::sample::Index>(),
        ingress in ingress_rule(), egress in egress_rule(), flows in flows(),
    ) {
        prop_assume!(!cluster.policies.is_empty());
        let mut more = cluster.clone();
        let policy = at.get_mut(&mut more.policies);
        policy.spec.ingress.push(ingress);
        policy.spec.egress.push(egress);
        for flow in &flows {
            prop_assert!(judge(&more, flow).allowed() >= judge(&cluster, flow).allowed(), "{:?}", flow);
        }
    }

    #[test]
    fn a_policy_without_rules_never_allows(cluster in cluster(), at in any::<prop::sample::Index>(), flows in flows()) {
        prop_assume!(!cluster.policies.is_empty());
        let mut strict = cluster.clone();
        let spec = &mut at.get_mut(&mut strict.policies).spec;
        (spec.ingress, spec.egress) = (Vec::new(), Vec::new());
        for flow in &flows {
            prop_assert!(judge(&strict, flow).allowed() <= judge(&cluster, flow).allowed(), "{:?}", flow);
        }
    }

    #[test]
    fn a_direction_that_is_not_named_is_left_alone(cluster in cluster(), flows in flows()) {
        for direction in DIRECTIONS {
            let named = without(&cluster, |policy| !policy.spec.policy_types.contains(&direction));
            for flow in &flows {
                let (all, named) = (judge(&cluster, flow), judge(&named, flow));
                prop_assert_eq!(side(&all, direction), side(&named, direction));
            }
        }
    }

    #[test]
    fn only_what_is_named_decides(cluster in cluster(), flows in flows()) {
        for (flow, direction) in flows.iter().flat_map(|flow| DIRECTIONS.map(|direction| (flow, direction))) {
            let judged = judge(&cluster, flow);
            let said = side(&judged, direction);
            let named: BTreeSet<&PolicyName> = match said {
                Side::Denied(policies) => policies.iter().collect(),
                Side::Allowed(grants) => grants.iter().map(|grant| &grant.policy).collect(),
                Side::Open | Side::Exempt(_) => BTreeSet::new(),
            };
            let alone = judge(&without(&cluster, |policy| !named.contains(&PolicyName::of(policy))), flow);
            prop_assert_eq!(side(&alone, direction), said);
        }
    }

    #[test]
    fn the_other_namespaces_policies_tell_nothing(cluster in cluster(), flows in flows()) {
        for flow in &flows {
            let Some(pod) = cluster.pod_at(flow.to) else { continue };
            let own = without(&cluster, |policy| policy.metadata.namespace != pod.name.namespace);
            prop_assert_eq!(judge(&own, flow).ingress, judge(&cluster, flow).ingress);
        }
    }

    #[test]
    fn pods_with_all_in_common_are_treated_alike(cluster in cluster(), flows in flows()) {
        let mut twins = cluster.clone();
        let blocks = |policy: &NetworkPolicy| format!("{policy:?}").contains("Block");
        twins.policies.retain(|policy| !blocks(policy));
        for flow in &flows {
            let (Some(from), Some(_)) = (cluster.pod_at(flow.from), cluster.pod_at(flow.to)) else { continue };
            let mut twin = from.clone();
            let address = generate::address(tartan_model::Family::of(flow.from), 200);
            twin.name.name = "twin".parse().unwrap();
            twin.addresses = vec![address];
            twins.pods.push(twin);
            if flow.from != flow.to {
                let of_twin = judge(&twins, &Flow { from: address, ..*flow });
                prop_assert_eq!(of_twin, judge(&twins, flow));
            }
            twins.pods.pop();
        }
    }

    #[test]
    fn what_is_generated_can_be_written(cluster in cluster()) {
        for policy in &cluster.policies {
            let text = serde_saphyr::to_string(policy).unwrap();
            prop_assert_eq!(&serde_saphyr::from_str::<NetworkPolicy>(&text).unwrap(), policy, "{}", text);
        }
        let names: BTreeSet<PolicyName> = cluster.policies.iter().map(PolicyName::of).collect();
        prop_assert_eq!(names.len(), cluster.policies.len());
    }
}

/// Laws over random clusters say little if nearly all flows end alike.
#[test]
fn random_flows_end_in_every_way() {
    let mut runner = TestRunner::deterministic();
    let mut ends: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for _ in 0..300 {
        let cluster = cluster().new_tree(&mut runner).unwrap().current();
        for flow in flows().new_tree(&mut runner).unwrap().current() {
            let judged = judge(&cluster, &flow);
            *ends.entry((word(&judged.egress), word(&judged.ingress))).or_default() += 1;
        }
    }
    for word in ["open", "exempt", "allowed", "denied"] {
        let with_it = ends.iter().filter(|((egress, ingress), _)| *egress == word || *ingress == word);
        let count: u32 = with_it.map(|(_, count)| count).sum();
        assert!(count > 300, "{word}: {ends:?}");
    }
    for pair in [("allowed", "allowed"), ("allowed", "denied"), ("denied", "allowed"), ("denied", "denied")] {
        assert!(ends.get(&pair).is_some_and(|count| *count > 50), "{pair:?}: {ends:?}");
    }
}

fn word(side: &Side) -> &'static str {
    match side {
        Side::Open => "open",
        Side::Exempt(_) => "exempt",
        Side::Allowed(_) => "allowed",
        Side::Denied(_) => "denied",
    }
}
