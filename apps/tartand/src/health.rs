//! What probes tell, in words, and what follows from it for this node's health.

use std::collections::BTreeSet;
use std::time::Duration;

use tartan_api::verb::PeerHealth;
use tartan_decide::{Note, Probed, Scope};
use tartan_model::{Family, Node, NodeId};
use tartan_probe::{Health, LaneReport};
use tartan_store::Lease;

use crate::ring::Ring;
use crate::status::is_alive;

/// Peers that are told of by name; of more the number.
const NAMED: usize = 20;

impl Ring {
    pub(crate) fn peer_name(&self, peer: &NodeId) -> String {
        self.world.node(peer).map_or_else(|| peer.to_string(), |node| node.name.to_string())
    }

    /// What probes tell of a peer.
    pub(crate) fn probed(&self, peer: &Node) -> Probed {
        let rtt = self.probing.engine.report(&peer.id).filter_map(|lane| lane.rtt).max();
        Probed {
            health: word(self.probing.engine.health(&peer.id)),
            rtt_ms: rtt.map(millis),
            reason: self.wrongs(&peer.id),
        }
    }

    /// What is wrong with the ways to a peer; the same is said once.
    fn wrongs(&self, peer: &NodeId) -> Option<String> {
        let lanes: Vec<LaneReport> = self.probing.engine.report(peer).collect();
        let of = |health| lanes.iter().filter(move |lane: &&LaneReport| lane.health == health);
        let mut texts = Vec::new();
        for health in [Health::Dead, Health::OneWay, Health::LargeLost] {
            let Some(first) = of(health).next() else { continue };
            let whole = of(health).count() == lanes.len();
            let which = if whole { String::new() } else { format!("{}: ", which(of(health), &lanes)) };
            texts.push(format!("{which}{}", self.wrong(first)));
        }
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    /// What is wrong with a way, in words.
    pub(crate) fn wrong(&self, lane: &LaneReport) -> String {
        let (path, full) = (lane.path, lane.full);
        let ago = |moment| seconds(self.probing.ago(moment));
        let at = |moment| self.clock(self.probing.ago(moment));
        let silence = match (lane.answered, lane.silent) {
            (Some(answered), _) => format!("for {} (last {})", ago(answered), at(answered)),
            (None, Some(silent)) => format!("for {} (never)", ago(silent)),
            (None, None) => "(never)".into(),
        };
        match lane.health {
            Health::Works | Health::Unknown => String::new(),
            Health::Dead => format!("no answer through {path} {silence}; nothing that it sends arrives"),
            Health::OneWay => format!(
                "no answer through {path} {silence}; what it sends arrives, what this node sends or it answers does not: one way"
            ),
            Health::LargeLost => format!(
                "large packets are lost through {path} for {}: {full} bytes get no answer, small ones do; look at the MTU of the links between",
                ago(lane.since)
            ),
        }
    }

    /// What a person should know of peers that are not reached.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let ill = self.probing.engine.ill();
        let barred = self.notes.keys().filter_map(|scope| match scope {
            Scope::Peer(peer) if self.bars(peer).is_some() => Some(*peer),
            _ => None,
        });
        let barred: Vec<NodeId> = barred.collect();
        let mut texts = self.told_of(&ill, |peer| self.wrongs(peer));
        texts.extend(self.told_of(&barred, |peer| self.bars(peer)));
        texts.extend(self.unheard());
        texts
    }

    /// What is to be said of each of these peers, by its name as far as they are few.
    fn told_of(&self, peers: &[NodeId], say: impl Fn(&NodeId) -> Option<String>) -> Vec<String> {
        let told = peers.iter().take(NAMED).filter_map(|peer| Some((peer, say(peer)?)));
        let mut texts: Vec<String> =
            told.map(|(peer, text)| format!("peer {}: {text}", self.peer_name(peer))).collect();
        if let Some(more @ 1..) = peers.len().checked_sub(NAMED) {
            texts.push(format!("and {more} more peers: tartan peers"));
        }
        texts
    }

    /// What stands in the way to a peer where a family has none; the same is said once.
    fn bars(&self, peer: &NodeId) -> Option<String> {
        let bars = self.notes.get(&Scope::Peer(*peer))?.iter().filter_map(|note| match note {
            Note::NoPath { path, reason, .. } => Some(format!("{path}: {reason}")),
            _ => None,
        });
        let bars: BTreeSet<String> = bars.collect();
        (!bars.is_empty()).then(|| format!("no path: {}", bars.into_iter().collect::<Vec<_>>().join("; ")))
    }

    /// Why this node cannot be said to be part of its cluster: nobody answers, although agents live that should. Of a
    /// peer whose agent does not live nothing is to be expected.
    pub(crate) fn loneliness(&self, leases: Option<&[Lease]>) -> Option<String> {
        if let Some(first) = self.first_without_way(leases) {
            return Some(format!(
                "there is no way to any other node ({first} among them); see why: tartan peers"
            ));
        }
        let engine = &self.probing.engine;
        let mut missing = engine.down().filter(|peer| is_alive(leases, peer));
        let first = missing.next().filter(|_| engine.is_alone(self.probing.now()))?;
        let count = 1 + missing.count();
        let name = self.peer_name(first);
        let who = if count == 1 { name } else { format!("{name} and {} more", count - 1) };
        Some(format!(
            "no other node answers through the overlay ({who}); look at the underlay between the nodes"
        ))
    }

    /// The first by name of the nodes whose agents live, if something stands in the way to each of them.
    fn first_without_way(&self, leases: Option<&[Lease]>) -> Option<String> {
        let living = || self.world.peers().filter(|peer| is_alive(leases, &peer.id));
        let is_barred = |peer: &Node| {
            let has_way = self.ways.get(&peer.id).is_some_and(|(way, _)| way.is_some());
            !has_way && self.notes.contains_key(&Scope::Peer(peer.id))
        };
        if !living().all(is_barred) {
            return None;
        }
        living().map(|peer| &peer.name).min().map(ToString::to_string)
    }
}

/// Which of the ways.
fn which<'a>(some: impl Iterator<Item = &'a LaneReport>, all: &[LaneReport]) -> String {
    let networks: BTreeSet<_> = all.iter().map(|lane| &lane.network).collect();
    let name = |lane: &LaneReport| {
        let family = match lane.family {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        };
        if networks.len() > 1 { format!("network {} {family}", lane.network) } else { family.into() }
    };
    some.map(name).collect::<Vec<String>>().join(", ")
}

fn word(health: Health) -> PeerHealth {
    match health {
        Health::Works => PeerHealth::Works,
        Health::Unknown => PeerHealth::Unknown,
        Health::LargeLost => PeerHealth::LargePacketsLost,
        Health::OneWay => PeerHealth::OneWay,
        Health::Dead => PeerHealth::Dead,
    }
}

fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(120) {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
    }
}

pub(crate) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
