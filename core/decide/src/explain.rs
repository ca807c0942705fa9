//! Why a connection may be or may not, from what this node knows of the whole cluster.

use std::net::IpAddr;

use tartan_api::explain::{Explain, Explanation, Party, Place, RuleName, Step};
use tartan_model::{Direction, Family, Mtu, Node, NodeId, NodeName, Path, PodName, PolicyName, Verdict};
use tartan_policy::explain as walked;
use tartan_policy::form::{Action, Kind, PolicyId};
use thiserror::Error;

use crate::{Choice, Scope, World};

/// Why nothing can be said.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unexplained {
    /// There is no such pod in a network that policies speak of, nor such a node.
    #[error(
        "no pod {0} is known here; `tartan endpoints` on its node lists it, and its network needs `policy: true`"
    )]
    NoPod(PodName),
    /// There is no such node.
    #[error("there is no node {0}; `tartan nodes` lists them")]
    NoNode(NodeName),
    /// The two have no addresses of one family.
    #[error("{from} and {to} have no addresses of one family")]
    NoFamily {
        /// The client.
        from: Party,
        /// The server.
        to: Party,
    },
}

impl World {
    /// What becomes of a connection, and why.
    ///
    /// # Errors
    /// When one of its ends is not known.
    pub fn explain(&self, asked: &Explain) -> Result<Explanation, Unexplained> {
        let (sources, targets) = (self.addresses_by(&asked.source)?, self.addresses_by(&asked.destination)?);
        let families =
            Family::ALL.into_iter().filter(|family| asked.family.is_none_or(|only| only == *family));
        let pair = |family| {
            let of = |all: &[IpAddr]| all.iter().copied().find(|address| Family::of(*address) == family);
            of(&sources).zip(of(&targets))
        };
        let none = || Unexplained::NoFamily { from: asked.source.clone(), to: asked.destination.clone() };
        let (from, to) = families.into_iter().find_map(pair).ok_or_else(none)?;
        Ok(self.explain_addresses(asked, from, to))
    }

    fn explain_addresses(&self, asked: &Explain, from: IpAddr, to: IpAddr) -> Explanation {
        let flow = walked::Flow { client: from, server: to, protocol: asked.protocol.0, port: asked.port };
        let walk = match self.exemption(from, to) {
            Some(_) => walked::Explanation { verdict: Verdict::Allow, decisive: None, steps: Vec::new() },
            None => self.explain_policies(&flow),
        };
        let reason = self.reason(from, to, &walk);
        let (path, mtu) = self.way_between(from, to);
        let decisive = walk.decisive.map(|step| self.step(&step));
        Explanation {
            from,
            to,
            verdict: walk.verdict,
            direction: decisive.as_ref().map(|step| step.direction),
            rule: decisive.map(|step| step.rule),
            steps: walk.steps.iter().map(|step| self.step(step)).collect(),
            path,
            sealed: false,
            mtu: mtu.map(u32::from),
            reason,
        }
    }

    /// What no policy can forbid (Kubernetes, "Network Policies").
    fn exemption(&self, from: IpAddr, to: IpAddr) -> Option<&'static str> {
        if from == to {
            return Some("a pod always reaches itself");
        }
        let is_own = |pod: IpAddr, other: IpAddr| {
            let holder = self.node_of(pod);
            holder.is_some() && holder == self.node_at(other)
        };
        (is_own(from, to) || is_own(to, from)).then_some("a node and its own pods always reach each other")
    }

    fn reason(&self, from: IpAddr, to: IpAddr, walk: &walked::Explanation) -> String {
        if let Some(exemption) = self.exemption(from, to) {
            return exemption.into();
        }
        let Some(step) = &walk.decisive else { return "no policy is about either end".into() };
        let whose = match step.direction {
            Direction::Egress => "what the client may send",
            Direction::Ingress => "what the server may receive",
        };
        let policy = &step.policy;
        match (step.rule, walk.verdict) {
            (Some(rule), Verdict::Allow) => format!("{policy}, rule {rule}, allows it: {whose}"),
            (Some(rule), Verdict::Deny) => format!("{policy}, rule {rule}, denies it: {whose}"),
            (None, _) => format!("{policy} is about {whose}, and no rule allows it"),
        }
    }

    fn step(&self, step: &walked::Step) -> Step {
        Step {
            direction: step.direction,
            verdict: match step.action {
                Some(Action::Allow) => "allow",
                Some(Action::Deny) => "deny",
                Some(Action::Log) => "log",
                Some(Action::Pass) => "pass",
                None => "none",
            }
            .into(),
            rule: self.rule_name(&step.policy, step.rule),
        }
    }

    pub(crate) fn rule_name(&self, id: &PolicyId, index: Option<usize>) -> RuleName {
        let Kind::NetworkPolicy = id.kind;
        let name = id
            .namespace
            .as_ref()
            .map(|namespace| PolicyName { namespace: namespace.clone(), name: id.name.clone() });
        let policy = name.and_then(|name| self.policies.get(&name));
        let source = policy.and_then(|policy| policy.metadata.annotations.applied_from.as_ref());
        RuleName {
            kind: "NetworkPolicy".into(),
            namespace: id.namespace.clone(),
            name: id.name.clone(),
            index,
            source: source.map(Place::from),
        }
    }

    fn addresses_by(&self, party: &Party) -> Result<Vec<IpAddr>, Unexplained> {
        match party {
            Party::Address(address) => Ok(vec![*address]),
            Party::Node(name) => {
                let node = self.every_node().find(|node| node.name == *name);
                node.map(|node| node.all_addresses().collect())
                    .ok_or_else(|| Unexplained::NoNode(name.clone()))
            }
            Party::Pod(pod) => {
                let addresses = self.addresses_of_pod(pod);
                if addresses.is_empty() { Err(Unexplained::NoPod(pod.clone())) } else { Ok(addresses) }
            }
        }
    }

    fn addresses_of_pod(&self, pod: &PodName) -> Vec<IpAddr> {
        let own = self.endpoints.values().map(|attached| &attached.endpoint);
        let own = own.filter(|endpoint| endpoint.pod == *pod).flat_map(|endpoint| endpoint.addresses.clone());
        let others = self.remote_endpoints().filter(|remote| remote.pod == pod);
        own.chain(others.flat_map(|remote| remote.addresses)).collect()
    }

    pub(crate) fn every_node(&self) -> impl Iterator<Item = Node> {
        self.peers().cloned().chain(self.own_node())
    }

    /// The node that a pod's address belongs to.
    fn node_of(&self, address: IpAddr) -> Option<NodeId> {
        self.blocks().find(|(_, block, _)| block.contains(address)).map(|(_, _, node)| *node)
    }

    /// The node that has an address itself: on the underlay, or its own of a block.
    fn node_at(&self, address: IpAddr) -> Option<NodeId> {
        let outer = self.every_node().find(|node| node.all_addresses().any(|own| own == address));
        let inner = || {
            let is_own = |block: &tartan_model::Cidr| {
                [tartan_ipam::own_address(block), tartan_ipam::gateway(block)].contains(&address)
            };
            self.blocks().find(|(_, block, _)| is_own(block)).map(|(_, _, node)| *node)
        };
        outer.map(|node| node.id).or_else(inner)
    }

    /// How packets go that start on this node, and how large they may be.
    fn way_between(&self, from: IpAddr, to: IpAddr) -> (Option<Path>, Option<Mtu>) {
        if self.node_of(from).or_else(|| self.node_at(from)) != Some(self.this) {
            return (None, None);
        }
        let Some(peer) = self.node_of(to).filter(|peer| *peer != self.this) else {
            let network =
                self.networks().find(|network| network.pools.iter().any(|pool| pool.cidr().contains(from)));
            return (None, network.and_then(|network| self.pod_mtu(network)));
        };
        let Some(Choice::Peer(choice)) = self.decide(&Scope::Peer(peer)).choice else { return (None, None) };
        let is_it = |reach: &&crate::Reach| reach.blocks.iter().any(|(block, _)| block.contains(to));
        let Some(reach) = choice.reach.iter().find(is_it) else { return (None, None) };
        let network = self.networks().find(|network| network.vxlan.vni == reach.vni);
        let mtu = reach.mtu.or_else(|| network.and_then(|network| self.pod_mtu(network)));
        (Some(reach.reached.path), mtu)
    }
}
