//! Why a connection may be or may not: the policies walked one by one, as they are written.

use std::net::IpAddr;

use serde::Serialize;

use crate::engine::{Engine, Key};
use crate::form::{
    Action, Direction, End, Endpoint, Policy, PolicyId, PortMatch, Ports, Remote, Rule, Verdict,
};
use crate::index::Slot;

/// A connection that is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The client.
    pub client: IpAddr,
    /// The server, behind all translation.
    pub server: IpAddr,
    /// The protocol above IP (IANA).
    pub protocol: u8,
    /// The server's port; 0 where there is none.
    pub port: u16,
}

/// Why it may be or may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What becomes of it.
    pub verdict: Verdict,
    /// The step that decides; None if nobody is isolated.
    pub decisive: Option<Step>,
    /// Every rule that was asked, in order.
    pub steps: Vec<Step>,
}

/// A rule that was asked, or the end of a tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Whose side: the client's egress or the server's ingress.
    pub direction: Direction,
    /// The policy; at the end of a tier the first of those that are about the endpoint.
    pub policy: PolicyId,
    /// The rule, counted from 0; None at the end of a tier.
    pub rule: Option<usize>,
    /// What it does; None if it is about something else.
    pub action: Option<Action>,
}

impl<K: Key> Engine<K> {
    /// Why a connection may be or may not. One end to itself always may.
    pub fn explain(&self, flow: &Flow) -> Explanation {
        self.walk(flow, &[Direction::Egress, Direction::Ingress])
    }

    /// The same by the policies of one side only.
    pub fn explain_side(&self, flow: &Flow, direction: Direction) -> Explanation {
        self.walk(flow, &[direction])
    }

    fn walk(&self, flow: &Flow, directions: &[Direction]) -> Explanation {
        let mut steps = Vec::new();
        let mut decisive = None;
        if flow.client == flow.server {
            return Explanation { verdict: Verdict::Allow, decisive, steps };
        }
        for &direction in directions {
            let (mine, other) = match direction {
                Direction::Egress => (flow.client, flow.server),
                Direction::Ingress => (flow.server, flow.client),
            };
            for (slot, endpoint) in self.at(mine) {
                let walk = Walk { engine: self, flow, direction, endpoint, other };
                let verdict = walk.all(&self.policies_of(slot, direction), &mut steps);
                let last = || steps.last().cloned();
                match verdict {
                    Some(Verdict::Deny) => {
                        return Explanation { verdict: Verdict::Deny, decisive: last(), steps };
                    }
                    Some(Verdict::Allow) => decisive = last(),
                    None => {}
                }
            }
        }
        Explanation { verdict: Verdict::Allow, decisive, steps }
    }
}

struct Walk<'a, K> {
    engine: &'a Engine<K>,
    flow: &'a Flow,
    direction: Direction,
    endpoint: &'a Endpoint,
    other: IpAddr,
}

impl<K: Key> Walk<'_, K> {
    /// What the policies about an endpoint say; None if there are none.
    fn all(&self, policies: &[&Policy], steps: &mut Vec<Step>) -> Option<Verdict> {
        let first = policies.first()?;
        let mut tier = first;
        let mut passed = false;
        for policy in policies {
            if policy.tier != tier.tier {
                if !passed && tier.tier.end == End::Deny {
                    return Some(self.end(tier, steps));
                }
                (tier, passed) = (policy, false);
            }
            if passed {
                continue;
            }
            match self.policy(policy, steps) {
                Some(Action::Allow) => return Some(Verdict::Allow),
                Some(Action::Deny) => return Some(Verdict::Deny),
                action => passed = action == Some(Action::Pass),
            }
        }
        if !passed && tier.tier.end == End::Deny { Some(self.end(tier, steps)) } else { Some(Verdict::Allow) }
    }

    fn end(&self, policy: &Policy, steps: &mut Vec<Step>) -> Verdict {
        steps.push(self.step(policy, None, Some(Action::Deny)));
        Verdict::Deny
    }

    fn policy(&self, policy: &Policy, steps: &mut Vec<Step>) -> Option<Action> {
        for (number, rule) in policy.rules(self.direction).unwrap_or_default().iter().enumerate() {
            let action = self.fits(rule).then_some(rule.action);
            steps.push(self.step(policy, Some(number), action));
            if action.is_some_and(|action| action != Action::Log) {
                return action;
            }
        }
        None
    }

    fn step(&self, policy: &Policy, rule: Option<usize>, action: Option<Action>) -> Step {
        Step { direction: self.direction, policy: policy.id.clone(), rule, action }
    }

    fn fits(&self, rule: &Rule) -> bool {
        let Some(ports) = &rule.ports else { return self.any_remote(rule, &|_| true) };
        ports.iter().filter(|port| port.protocol == self.flow.protocol).any(|port| match &port.ports {
            Ports::Range(first, last) => {
                (*first..=*last).contains(&self.flow.port) && self.any_remote(rule, &|_| true)
            }
            Ports::Named(name) => self.named(rule, port, name),
        })
    }

    /// The server's name for its port: the endpoint is one end, a remote the other.
    fn named(&self, rule: &Rule, port: &PortMatch, name: &str) -> bool {
        let calls = |endpoint: &Endpoint| {
            let ports = &endpoint.ports;
            let is_it = |own: &crate::form::NamedPort| {
                own.name == name && own.protocol == port.protocol && own.port == self.flow.port
            };
            ports.iter().any(is_it)
        };
        match self.direction {
            Direction::Ingress => calls(self.endpoint) && self.any_remote(rule, &|_| true),
            Direction::Egress => self.any_remote(rule, &|other| other.is_some_and(calls)),
        }
    }

    /// Whether the other end is one of the rule's. Who it is is certain only if all that say so are.
    fn any_remote(&self, rule: &Rule, also: &dyn Fn(Option<&Endpoint>) -> bool) -> bool {
        let others: Vec<(Slot, &Endpoint)> = self.engine.at(self.other).collect();
        let is = |other: Option<(Slot, &Endpoint)>| {
            let one = |remote: &Remote| self.is_remote(remote, other.map(|(slot, _)| slot));
            also(other.map(|(_, endpoint)| endpoint))
                && rule.remotes.as_ref().is_none_or(|remotes| remotes.iter().any(one))
        };
        if others.is_empty() { is(None) } else { others.into_iter().all(|other| is(Some(other))) }
    }

    fn is_remote(&self, remote: &Remote, other: Option<Slot>) -> bool {
        let labels = other.and_then(|slot| self.engine.labels_of(slot));
        let picked = match (&remote.selector, labels) {
            (None, _) => true,
            (Some(selector), Some(labels)) => selector.matches(&labels),
            (Some(_), None) => false,
        };
        let within = |nets: &[tartan_model::Cidr]| nets.iter().any(|net| net.contains(self.other));
        picked && remote.nets.as_deref().is_none_or(within) && !within(&remote.not_nets)
    }
}
