//! What random policies say. Only what reading YAML could give as well.
#![allow(dead_code, reason = "not every test draws a rule alone")]

use proptest::prelude::*;
use tartan_api::label::{LabelKey, LabelSelector, LabelValue, Operator, Requirement};
use tartan_api::policy::{
    Direction, EgressRule, IngressRule, IpBlock, Parts, Peer, PolicyPort, PolicySpec, Ports,
};
use tartan_model::{Cidr, Family};

use super::{Dice, FAMILIES, LABELS, PORT_NAMES, PORTS, VALUES, address, dice, place, protocol};

/// A rule for what pods receive.
pub(crate) fn ingress_rule() -> impl Strategy<Value = IngressRule> {
    dice().prop_map(|mut dice| ingress(&mut dice))
}

/// A rule for what pods send.
pub(crate) fn egress_rule() -> impl Strategy<Value = EgressRule> {
    dice().prop_map(|mut dice| egress(&mut dice))
}

/// Rules may be there for a direction that is not meant.
pub(super) fn policy_spec(dice: &mut Dice) -> PolicySpec {
    let policy_types = match dice.roll(4) {
        0 => vec![Direction::Ingress],
        1 => vec![Direction::Egress],
        _ => vec![Direction::Ingress, Direction::Egress],
    };
    let pod_selector = if dice.roll(2) == 1 { LabelSelector::default() } else { selector(dice) };
    PolicySpec { pod_selector, policy_types, ingress: dice.some(4, ingress), egress: dice.some(4, egress) }
}

fn ingress(dice: &mut Dice) -> IngressRule {
    IngressRule { from: peers(dice), ports: ports(dice) }
}

fn egress(dice: &mut Dice) -> EgressRule {
    EgressRule { to: peers(dice), ports: ports(dice) }
}

fn peers(dice: &mut Dice) -> Parts<Peer> {
    Parts(dice.some(4, peer))
}

fn ports(dice: &mut Dice) -> Parts<PolicyPort> {
    Parts(dice.some(3, port))
}

/// At most two conditions, so that it selects something often enough.
fn selector(dice: &mut Dice) -> LabelSelector {
    let match_labels = dice.some(2, |dice| (key(dice), value(dice))).into_iter().collect();
    LabelSelector { match_labels, match_expressions: dice.some(2, requirement) }
}

fn requirement(dice: &mut Dice) -> Requirement {
    let operator = dice.pick(&[Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist]);
    let values = match operator {
        Operator::In | Operator::NotIn => (0..=dice.roll(2)).map(|_| value(dice)).collect(),
        Operator::Exists | Operator::DoesNotExist => Vec::new(),
    };
    Requirement { key: key(dice), operator, values }
}

fn key(dice: &mut Dice) -> LabelKey {
    dice.pick(&LABELS).to_owned().try_into().unwrap()
}

fn value(dice: &mut Dice) -> LabelValue {
    dice.pick(&VALUES).to_owned().try_into().unwrap()
}

fn peer(dice: &mut Dice) -> Peer {
    match dice.roll(5) {
        0 => Peer::Pods { namespaces: None, pods: Some(selector(dice)) },
        1 => Peer::Pods { namespaces: Some(selector(dice)), pods: None },
        2 => Peer::Pods { namespaces: Some(selector(dice)), pods: Some(selector(dice)) },
        _ => Peer::Block(block(dice)),
    }
}

fn block(dice: &mut Dice) -> IpBlock {
    let family = dice.pick(&FAMILIES);
    let cidr = if dice.is_one_in(6) { Cidr::everything(family) } else { cidr(dice, family) };
    let except = dice.some(4, |dice| self::cidr(dice, family)).into_iter();
    IpBlock { cidr, except: except.filter(|except| cidr.covers(except) && cidr != *except).collect() }
}

/// Of one address to sixteen.
fn cidr(dice: &mut Dice, family: Family) -> Cidr {
    let bits = Cidr::everything(family).first();
    let most = if bits.is_ipv4() { 32 } else { 128 };
    Cidr::containing(address(family, place(dice)), most - dice.roll(5)).unwrap()
}

fn port(dice: &mut Dice) -> PolicyPort {
    let ports = match dice.roll(6) {
        0 => Ports::All,
        1 | 2 => Ports::Named(dice.pick(&PORT_NAMES).to_owned()),
        3 => Ports::Range(1, dice.pick(&PORTS)),
        4 => Ports::Range(dice.pick(&PORTS), u16::MAX),
        _ => {
            let port = dice.pick(&PORTS);
            Ports::Range(port, port)
        }
    };
    PolicyPort { protocol: protocol(dice), ports }
}
