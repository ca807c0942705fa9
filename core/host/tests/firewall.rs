//! Rules of others, as far as they are understood.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use tartan_host::{ForeignChain, ForeignRule, Test, Verdict, obstacles};
use tartan_model::{Cidr, Family};

fn range(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn rule(tests: &[Test], verdict: Verdict) -> ForeignRule {
    ForeignRule { tests: tests.to_vec(), verdict: Some(verdict) }
}

fn chain(name: &str, entry: Option<bool>, rules: &[ForeignRule]) -> ForeignChain {
    let (table, name) = ("filter".into(), name.into());
    ForeignChain { family: "ip", table, name, entry, rules: rules.to_vec() }
}

/// Whom chains stand in the way of, of pods in 10.1.0.0/16: each other, those outside, or nobody.
fn told(chains: &[ForeignChain]) -> Option<&'static str> {
    let found = obstacles(chains, &[range("10.1.0.0/16"), range("fd00:1::/48")]);
    assert!(found.len() < 2, "{found:?}");
    let text = found.first()?.to_string();
    Some(if text.contains("each other") { "pods" } else { "outside" })
}

fn source(text: &str) -> Test {
    Test::Source(range(text), true)
}

fn destination(text: &str) -> Test {
    Test::Destination(range(text), true)
}

#[test]
fn what_is_dropped_by_policy_is_told_unless_a_rule_lets_it_pass() {
    let policy = |rules: &[ForeignRule]| told(&[chain("FORWARD", Some(true), rules)]);
    let accept = |tests: &[Test]| rule(tests, Verdict::Accept);
    assert_eq!(policy(&[]), Some("pods"));
    assert_eq!(policy(&[accept(&[])]), None);
    assert_eq!(policy(&[accept(&[source("10.1.0.0/16")])]), None);
    assert_eq!(policy(&[accept(&[source("10.0.0.0/8")])]), None);
    assert_eq!(policy(&[accept(&[source("10.2.0.0/16")])]), Some("pods"));
    assert_eq!(policy(&[accept(&[destination("10.1.0.0/16")])]), Some("outside"));
    assert_eq!(policy(&[accept(&[Test::Source(range("10.1.0.0/16"), false)])]), Some("pods"));
    assert_eq!(policy(&[accept(&[Test::Unknown])]), Some("pods"), "established ones, say");
    assert_eq!(policy(&[accept(&[source("10.1.0.0/16"), Test::Unknown])]), Some("pods"));
    assert_eq!(policy(&[accept(&[Test::Among])]), None, "it may be about pods");
    assert_eq!(policy(&[accept(&[Test::Iifname(b"tartan".to_vec(), true)])]), None);
    assert_eq!(policy(&[accept(&[Test::Iifname(b"docker0".to_vec(), true)])]), Some("pods"));
    assert_eq!(policy(&[accept(&[Test::Family(Family::Ipv6)])]), Some("pods"));
}

#[test]
fn what_a_rule_drops_is_told_only_if_that_is_certain() {
    let open = |rules: &[ForeignRule]| told(&[chain("FORWARD", Some(false), rules)]);
    let drop = |tests: &[Test]| rule(tests, Verdict::Drop);
    assert_eq!(open(&[]), None);
    assert_eq!(open(&[drop(&[])]), Some("pods"));
    assert_eq!(open(&[drop(&[source("10.1.0.0/16")])]), Some("pods"));
    assert_eq!(open(&[drop(&[source("10.1.7.0/24")])]), None, "some pods, and somebody meant it");
    assert_eq!(open(&[drop(&[Test::Unknown])]), None);
    assert_eq!(open(&[drop(&[Test::Among])]), None);
    assert_eq!(open(&[rule(&[source("10.1.0.0/16")], Verdict::Accept), drop(&[])]), None);
    assert_eq!(open(&[rule(&[], Verdict::Return), drop(&[])]), None);
}

#[test]
fn chains_are_followed_where_rules_jump() {
    let jump = || rule(&[], Verdict::Jump("zone".into()));
    let zone = |rules: &[ForeignRule]| chain("zone", None, rules);
    let accept = rule(&[source("10.1.0.0/16")], Verdict::Accept);
    let entry = || chain("FORWARD", Some(true), &[jump()]);
    assert_eq!(told(&[entry(), zone(std::slice::from_ref(&accept))]), None);
    assert_eq!(told(&[entry(), zone(&[])]), Some("pods"));
    // Nobody enters it.
    assert_eq!(told(&[chain("FORWARD", Some(true), &[]), zone(&[accept])]), Some("pods"));
    // A circle, which no kernel takes, ends all the same.
    assert_eq!(told(&[entry(), zone(&[jump()])]), Some("pods"));
    // A chain of the same name in another table is another.
    let other = ForeignChain { table: "other".into(), ..zone(&[rule(&[], Verdict::Accept)]) };
    assert_eq!(told(&[entry(), other]), Some("pods"));
}

#[test]
fn where_docker_keeps_a_chain_for_people_that_is_named() {
    let chains = [chain("FORWARD", Some(true), &[]), chain("DOCKER-USER", None, &[])];
    let text = obstacles(&chains, &[range("10.1.0.0/16")]).first().unwrap().to_string();
    assert!(text.contains("iptables -I DOCKER-USER -s 10.1.0.0/16 -j ACCEPT"), "{text}");
}
