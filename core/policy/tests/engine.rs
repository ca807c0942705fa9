//! What the engine comes to is what the reference evaluator says, however it was come by.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod generate;
mod tables;

use std::sync::Arc;

use generate::{cluster, flow};
use proptest::prelude::*;
use tables::{Change, Pods, Tables, changes_of, learn, whole};
use tartan_api::endpoint::selectable;
use tartan_model::NodeName;
use tartan_policy::form::{
    Action, Endpoint, Kind, Policy, PolicyId, PortMatch, Ports, Remote, Rule, Tier, Verdict,
};
use tartan_policy::reference::{Cluster, Exemption, Flow, Side, judge};
use tartan_policy::{Selector, explain, network_policy};

/// How many clusters each law is tried on: more of them with `TARTAN_POLICY_CASES=100000`, which is 10 million pairs.
fn cases() -> u32 {
    std::env::var("TARTAN_POLICY_CASES").map_or(1000, |cases| cases.parse().unwrap())
}

/// A node to its own pods is not asked about here: such packets are not forwarded.
fn is_judged(cluster: &Cluster, flow: &Flow) -> bool {
    let judgement = judge(cluster, flow);
    ![judgement.egress, judgement.ingress].contains(&Side::Exempt(Exemption::OwnNode))
}

fn asked(flow: &Flow) -> explain::Flow {
    explain::Flow { client: flow.from, server: flow.to, protocol: flow.protocol, port: flow.port }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn tables_and_explanations_say_what_the_reference_says(
        cluster in cluster(), flows in prop::collection::vec(flow(), 100),
    ) {
        let engine = whole(&cluster, None);
        let tables = Tables::of(&engine);
        for flow in flows.iter().filter(|flow| is_judged(&cluster, flow)) {
            let allowed = judge(&cluster, flow).allowed();
            prop_assert_eq!(tables.allows(flow), allowed, "{:?}", flow);
            let explanation = engine.explain(&asked(flow));
            prop_assert_eq!(explanation.verdict == Verdict::Allow, allowed, "{:?} {:?}", flow, explanation);
        }
    }
}

/// Of two nodes.
fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// A node judges both sides of what its own pods send, and of all else what its own receive.
    #[test]
    fn a_node_says_what_the_reference_says_of_its_own_pods(
        cluster in cluster(), flows in prop::collection::vec(flow(), 30),
    ) {
        let node = node("n1");
        let tables = Tables::of(&whole(&cluster, Some(&node)));
        let is_here = |address| cluster.pods.iter().any(|pod| pod.node == node && pod.addresses.contains(address));
        for flow in flows.iter().filter(|flow| is_judged(&cluster, flow)) {
            let judgement = judge(&cluster, flow);
            let receives = is_here(&flow.from) || is_here(&flow.to);
            let denied = is_here(&flow.from) && matches!(judgement.egress, Side::Denied(_))
                || receives && matches!(judgement.ingress, Side::Denied(_));
            prop_assert_eq!(tables.allows(flow), !denied, "{:?} {:?}", flow, judgement);
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
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn what_it_comes_to_does_not_depend_on_how_it_was_learned((cluster, history) in history()) {
        let one = node("n1");
        for node in [None, Some(&one)] {
            let (mut engine, mut tables) = (Pods::default(), Tables::default());
            for change in &history {
                let changes = learn(&mut engine, node, &cluster, change);
                tables.take(&engine, &changes);
            }
            prop_assert_eq!(&tables, &Tables::of(&engine));
            prop_assert_eq!(&tables, &Tables::of(&whole(&cluster, node)));
        }
    }

    #[test]
    fn everything_can_be_unlearned((cluster, history) in history()) {
        let mut engine = Pods::default();
        let node = node("n1");
        for change in &history {
            learn(&mut engine, Some(&node), &cluster, change);
        }
        let mut tables = Tables::of(&engine);
        for change in changes_of(&cluster) {
            let gone = match change {
                Change::Namespace(at, _) => Change::Namespace(at, false),
                Change::Pod(at, _) => Change::Pod(at, false),
                Change::Policy(at, _) => Change::Policy(at, false),
            };
            let changes = learn(&mut engine, Some(&node), &cluster, &gone);
            tables.take(&engine, &changes);
        }
        prop_assert_eq!(tables, Tables::default());
    }
}

/// One policy of rules that nest their ports and have remotes of their own stands for the square of what it says.
#[test]
fn what_stands_for_too_much_denies_everything() {
    let rule = |number: u16| {
        let nets = (0..64u8).map(|at| format!("10.{}.{at}.0/24", number % 250).parse().unwrap());
        let remotes = nets.map(|net| Remote { selector: None, nets: Some(vec![net]), not_nets: Vec::new() });
        Rule {
            action: Action::Allow,
            ports: Some(vec![PortMatch { protocol: 6, ports: Ports::Range(1 + number, 65_000 - number) }]),
            remotes: Some(remotes.collect()),
        }
    };
    let policy = |rules: u16| Policy {
        id: PolicyId { kind: Kind::NetworkPolicy, namespace: None, name: "p".parse().unwrap() },
        tier: Tier::default_tier(),
        order: 0,
        selector: Selector::All,
        ingress: Some((0..rules).map(rule).collect()),
        egress: None,
    };
    let pod = Endpoint {
        namespace: "x".parse().unwrap(),
        name: "a".into(),
        labels: Arc::default(),
        account: None,
        addresses: vec!["10.1.1.1".parse().unwrap()],
        ports: Vec::new(),
        local: true,
    };
    for (rules, too_much) in [(40, false), (1000, true)] {
        let mut engine = Pods::default();
        engine.set_endpoint(&0, Some(pod.clone()));
        let policy = policy(rules);
        engine.set_policy(&policy.id.clone(), Some(policy));
        let identity = engine.identity(engine.identities_of(&0)[0].unwrap()).unwrap();
        assert_eq!(identity.too_much, too_much, "{rules}");
        let from = Flow { from: "10.3.1.1".parse().unwrap(), to: pod.addresses[0], protocol: 6, port: 1000 };
        assert_eq!(Tables::of(&engine).allows(&from), !too_much, "{rules}");
    }
}

/// Who has an address is not certain if two say so: it is allowed what both are, whoever came first.
#[test]
fn two_at_one_address_are_allowed_what_both_are() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\nspec:\n  \
                  podSelector: {matchLabels: {app: server}}\n  ingress:\n  - from: [{podSelector: {matchLabels: {app: friend}}}]\n";
    let policy = network_policy(&serde_saphyr::from_str(policy).unwrap());
    let pod = |app: &str, address: &str, local| Endpoint {
        namespace: "x".parse().unwrap(),
        name: app.into(),
        labels: Arc::new(selectable(&[("app".to_owned(), app.to_owned())].into())),
        account: None,
        addresses: vec![address.parse().unwrap()],
        ports: Vec::new(),
        local,
    };
    let (mut engine, mut tables) = (Pods::default(), Tables::default());
    let flow =
        Flow { from: "10.0.0.2".parse().unwrap(), to: "10.0.0.1".parse().unwrap(), protocol: 6, port: 80 };
    let steps = [
        (0, Some(pod("server", "10.0.0.1", true)), false),
        (1, Some(pod("friend", "10.0.0.2", false)), true),
        (2, Some(pod("foe", "10.0.0.2", false)), false),
        (2, None, true),
        (2, Some(pod("friend", "10.0.0.2", false)), true),
        (1, Some(pod("foe", "10.0.0.2", false)), false),
    ];
    let changes = engine.set_policy(&policy.id.clone(), Some(policy.clone()));
    tables.take(&engine, &changes);
    for (key, endpoint, allowed) in steps {
        let changes = engine.set_endpoint(&key, endpoint);
        tables.take(&engine, &changes);
        assert_eq!(tables.allows(&flow), allowed, "{key}");
        assert_eq!(tables, Tables::of(&engine));
    }
}
