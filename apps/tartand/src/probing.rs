//! Probes of the data path: the ring sends what the engine of `core/probe` wants, and hears what comes back.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use tartan_decide::{Decision, Scope};
use tartan_kernel::EchoSockets;
use tartan_model::{Family, Mac, Mtu, NodeId};
use tartan_probe::{Change, Echo, EchoKind, Engine, Health, Moment, Probe, Reply, decode, encode};
use tracing::{debug, info, warn};

use crate::identity::random;
use crate::ring::Ring;

/// What the ring has in hand for probes.
pub(crate) struct Probing {
    pub(crate) engine: Engine,
    /// None where there are none to be had, or none are wanted.
    sockets: Option<EchoSockets>,
    id: u16,
    start: Instant,
    /// The largest packets by network, when the ways were last told to the engine.
    sizes: Vec<Option<Mtu>>,
}

impl Probing {
    /// Probing in the calling thread's network namespace.
    pub(crate) fn new(wanted: bool) -> Probing {
        let id = u16::try_from(chance() & 0xffff).unwrap_or(0);
        let sockets = wanted.then(|| EchoSockets::open(id)).transpose();
        let sockets = sockets.unwrap_or_else(|error| {
            warn!("the ways to other nodes are not probed: {error}; tartand needs CAP_NET_RAW");
            None
        });
        Probing { engine: Engine::new(), sockets, id, start: Instant::now(), sizes: Vec::new() }
    }

    /// Readable when an answer came.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().flat_map(EchoSockets::fds)
    }

    /// When [`Ring::probe`] is to be called although nothing came.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.sockets.as_ref().and_then(|_| Some(self.start + self.engine.due()?))
    }

    pub(crate) fn now(&self) -> Moment {
        self.start.elapsed()
    }

    /// How long ago a moment was.
    pub(crate) fn ago(&self, moment: Moment) -> Duration {
        self.now().saturating_sub(moment)
    }

    fn hear_answers(&mut self) {
        let Some(sockets) = &self.sockets else { return };
        let answers = sockets.answers();
        let now = self.start.elapsed();
        for (family, heard) in answers {
            if let Some(Echo { kind: EchoKind::Reply, nonce, .. }) = decode(family, &heard.message) {
                self.engine.answered(Reply { from: heard.from, nonce }, now);
            }
        }
    }

    fn hear_requests(&mut self) {
        let Some(sockets) = &self.sockets else { return };
        for (family, heard) in sockets.requests() {
            if decode(family, &heard.message).is_some() {
                self.engine.heard(heard.from, self.start.elapsed());
            }
        }
    }

    fn send(&self, probe: &Probe) {
        let Some(sockets) = &self.sockets else { return };
        // One that cannot be sent is lost like one that gets lost on the way.
        if let Err(error) = sockets.send(probe.local, probe.remote, &encode(probe, self.id)) {
            debug!("cannot send a probe to {}: {error}", probe.remote);
        }
    }
}

impl Ring {
    /// Hears what came, and sends what is due.
    pub(crate) fn probe(&mut self) {
        // First, so that what came while the ring was busy does not count as lost.
        self.probing.hear_answers();
        if self.probing.due().is_some_and(|due| due <= Instant::now()) {
            self.probing.hear_requests();
            self.look_for_traffic();
            let now = self.probing.now();
            let probes = self.probing.engine.tick(now, &mut chance);
            probes.iter().for_each(|probe| self.probing.send(probe));
        }
        for rtt in self.probing.engine.take_samples() {
            self.metrics.probe_rtt.observe(rtt.as_secs_f64());
        }
        for change in self.probing.engine.take_changes() {
            self.say(&change);
        }
    }

    /// Which peers have traffic: looked up only when the devices sent more than our own probes.
    fn look_for_traffic(&mut self) {
        let now = self.probing.now();
        if !self.probing.engine.is_round_due(now) {
            return;
        }
        let devices = self.world.tunnel_devices();
        let sent = self.loop_.kernel().sent_packets(&devices);
        if !self.probing.engine.moved(sent, now) {
            return;
        }
        let peers: HashMap<Mac, NodeId> =
            self.world.peers().map(|peer| (Mac::of_node(&peer.id), peer.id)).collect();
        for device in devices {
            // A device that is not there, or not yet, has no traffic.
            for used in self.loop_.kernel().last_used(&device).unwrap_or_default() {
                if let Some(peer) = peers.get(&used.mac) {
                    self.probing.engine.used(*peer, now.saturating_sub(used.ago), now);
                }
            }
        }
    }

    /// Tells the engine of the ways that a decision comes to.
    pub(crate) fn note_lanes(&mut self, scope: &Scope, decision: &Decision) {
        let Scope::Peer(id) = scope else { return };
        let lanes = self.world.node(id).map(|peer| self.world.lanes(peer, decision)).unwrap_or_default();
        let now = self.probing.now();
        self.probing.engine.set(*id, lanes, now);
    }

    /// How large packets may be is no part of a peer's decision.
    pub(crate) fn note_sizes(&mut self) {
        let sizes = self.world.sizes();
        if sizes == self.probing.sizes {
            return;
        }
        self.probing.sizes = sizes;
        let peers: Vec<NodeId> = self.world.peers().map(|peer| peer.id).collect();
        for scope in peers.into_iter().map(Scope::Peer) {
            let decision = self.world.decide(&scope);
            self.note_lanes(&scope, &decision);
        }
    }

    fn say(&self, change: &Change) {
        let Change { peer, before, now } = change;
        let name = self.peer_name(peer);
        let family = match now.family {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        };
        match now.health {
            Health::Works if *before == Health::Unknown => debug!("peer {name}: {family} answers"),
            Health::Works => info!("peer {name}: {family} answers again"),
            Health::Unknown => {}
            Health::LargeLost | Health::OneWay | Health::Dead => {
                warn!("peer {name}: {family}: {}", self.wrong(now));
            }
        }
    }
}

/// Eight bytes of chance. Without any, nonces can be guessed, and are still told apart.
pub(crate) fn chance() -> u64 {
    let mut bytes = [0; 8];
    if let Err(error) = random(&mut bytes) {
        debug!("{error:#}");
    }
    u64::from_ne_bytes(bytes)
}
