//! The internal form: what every kind of policy becomes before it is compiled.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use tartan_api::label::Labels;
use tartan_model::{Cidr, Name};
pub use tartan_model::{Direction, Verdict};

use crate::Selector;

/// What an object of policy is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PolicyId {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; None for those of the whole cluster.
    pub namespace: Option<Name>,
    /// Its name.
    pub name: Name,
}

/// The kinds of objects that are policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// Policies that are judged together. Tiers are judged by order, then by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tier {
    /// The lower, the earlier.
    pub order: u64,
    /// Its name.
    pub name: String,
    /// What becomes of an endpoint's connection that policies of this tier are about and no rule of theirs.
    pub end: End,
}

/// What becomes of what no rule of a tier is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// It may not be.
    Deny,
    /// The next tier judges.
    Pass,
}

impl Tier {
    /// The tier of Kubernetes' own policies, and of those that name none.
    pub fn default_tier() -> Tier {
        Tier { order: 1_000_000, name: "default".into(), end: End::Deny }
    }
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What it is called.
    pub id: PolicyId,
    /// The policies it is judged with.
    pub tier: Tier,
    /// When among those: the lower, the earlier, then by what it is called.
    pub order: u64,
    /// The endpoints that it is about.
    pub selector: Selector,
    /// What it says of connections to them; None if nothing.
    pub ingress: Option<Vec<Rule>>,
    /// What it says of connections that they open; None if nothing.
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    /// The rules of a direction; None if it says nothing of it.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// A rule, which holds if one of its ports and one of its remotes does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What then becomes of the connection.
    pub action: Action,
    /// Ports of the server; None is all, and every protocol.
    pub ports: Option<Vec<PortMatch>>,
    /// Other ends; None is everybody.
    pub remotes: Option<Vec<Remote>>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The connection may be.
    Allow,
    /// It may not.
    Deny,
    /// It is told of, and the next rule judges.
    Log,
    /// The next tier judges.
    Pass,
}

/// Ports of a protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMatch {
    /// The protocol above IP (IANA).
    pub protocol: u8,
    /// Which of its ports.
    pub ports: Ports,
}

/// Which ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// From one to another, both meant.
    Range(u16, u16),
    /// That which the server calls so.
    Named(String),
}

/// Other ends: those for which all that is said holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Remote {
    /// They are endpoints with these labels.
    pub selector: Option<Selector>,
    /// Their address is in one of these ranges; None is anywhere.
    pub nets: Option<Vec<Cidr>>,
    /// Their address is in none of these.
    pub not_nets: Vec<Cidr>,
}

/// An endpoint as policies see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its namespace.
    pub namespace: Name,
    /// Its name in there.
    pub name: String,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// Its service account.
    pub account: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Names of its ports.
    pub ports: Vec<NamedPort>,
    /// Whether it is to be judged here.
    pub local: bool,
}

/// A name for a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// The name.
    pub name: String,
    /// The protocol above IP (IANA).
    pub protocol: u8,
    /// The port.
    pub port: u16,
}
