//! Whom to probe when.
//!
//! Each second: up to [`BUSY`] peers with traffic, up to [`DIRECT`] of those whose traffic cannot be seen, up to [`DOWN`]
//! of those that do not answer, and [`OTHERS`] of the rest, each kind in turn. What is in question is asked more often, [`QUESTIONS`] peers at most. So the cost has a bound
//! whatever the number of peers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::ops::Bound;
use std::time::Duration;

use tartan_model::{Family, Path};

use crate::lane::Track;
use crate::{Flight, Flights, Health, Lane, LaneReport, Moment, PATIENCE, Peer, Probe, Reply, probe};

/// How often a round of probes goes out.
const ROUND: Duration = Duration::from_secs(1);
/// How often what is in question is asked.
const OFTEN: Duration = Duration::from_millis(200);
/// Peers with traffic in a round.
const BUSY: usize = 16;
/// Peers that are reached without a tunnel in a round: no counter tells which of them have traffic, so as many are asked
/// as may have it. A probe and its answer, and the peer's own, cost 25 to 50 us, so these cost half a thousandth of a
/// core or one; an idle agent may take two.
const DIRECT: usize = 16;
/// Peers that do not answer in a round.
const DOWN: usize = 8;
/// Other peers in a round.
const OTHERS: usize = 3;
/// Peers in question at once; more wait for their turn.
const QUESTIONS: usize = 32;
/// Peers that are known to have traffic.
const KNOWN_BUSY: usize = 256;
/// How long a peer counts as one with traffic.
const BUSY_FOR: Duration = Duration::from_secs(20);
/// Packets in a second that are no traffic: what the kernel sends of its own.
const NO_TRAFFIC: u64 = 4;
/// How long the trace of a probe in a way's counter of use is told apart from traffic's.
const TRACE: Duration = Duration::from_millis(100);
/// How long a late answer still counts.
const LATE: Duration = Duration::from_secs(3);
/// How long nobody has to be silent until a node is taken to be alone.
const ALONE: Duration = Duration::from_millis(2200);
/// How many peers are looked at, at most, to find [`OTHERS`].
const SEARCH: usize = 64;

/// A way's health changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The peer.
    pub peer: Peer,
    /// What was known before.
    pub before: Health,
    /// What is known now.
    pub now: LaneReport,
}

/// What was done since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Probes sent, IPv4 and IPv6.
    pub sent: [u64; 2],
    /// Probes without an answer in time, IPv4 and IPv6.
    pub lost: [u64; 2],
}

#[derive(Debug, Default)]
struct Turns {
    busy: Option<Peer>,
    direct: Option<Peer>,
    down: Option<Peer>,
    others: Option<Peer>,
}

#[derive(Debug)]
struct Ways {
    tracks: Box<[Track]>,
    /// When it was last sent a probe, or sent one.
    touched: Moment,
}

impl Ways {
    fn is_in_question(&self) -> bool {
        self.tracks.iter().any(Track::is_in_question)
    }

    fn is_down(&self) -> bool {
        self.tracks.iter().any(|track| track.health.is_down())
    }

    fn is_direct(&self) -> bool {
        self.tracks.iter().any(|track| track.lane.path == Path::Direct)
    }
}

/// The peers, what is known of the ways to them, and what is on its way.
#[derive(Debug, Default)]
pub struct Engine {
    peers: BTreeMap<Peer, Ways>,
    remotes: BTreeMap<IpAddr, Peer>,
    flights: Flights<Peer>,
    /// Their nonces in the order of their sending, as they time out.
    waiting: VecDeque<(Moment, u64)>,
    /// Those in question, and when they are asked again.
    questions: BTreeMap<Peer, Moment>,
    busy: BTreeMap<Peer, Moment>,
    down: BTreeMap<Peer, ()>,
    /// Reached without a tunnel, in any network.
    direct: BTreeMap<Peer, ()>,
    /// Never asked.
    fresh: BTreeMap<Peer, ()>,
    /// The last of each kind that was asked.
    turns: Turns,
    round_at: Moment,
    changes: Vec<Change>,
    samples: Vec<Duration>,
    counters: Counters,
    /// Packets that were sent since the last look at the devices' counters, by us and in answer to peers.
    own: u64,
    seen: Option<u64>,
    look_at: Moment,
    /// When anybody answered last.
    answered: Option<Moment>,
}

impl Engine {
    /// An engine that knows no peer.
    pub fn new() -> Engine {
        Engine::default()
    }

    /// The ways to a peer, none if it is gone. What is known of those that stay is kept.
    pub fn set(&mut self, peer: Peer, lanes: Vec<Lane>, now: Moment) {
        let old = self.peers.remove(&peer);
        let touched = old.as_ref().map_or(Moment::ZERO, |ways| ways.touched);
        let mut old = old.map_or(Vec::new(), |ways| ways.tracks.into_vec());
        for track in &old {
            self.remotes.remove(&track.lane.remote);
        }
        if lanes.is_empty() {
            self.forget(&peer);
            return;
        }
        let mut tracks = Vec::with_capacity(lanes.len());
        for lane in lanes {
            match old.iter().position(|track| track.lane == lane) {
                Some(place) => tracks.push(old.swap_remove(place)),
                None => {
                    self.fresh.insert(peer, ());
                    tracks.push(Track::new(lane, now));
                }
            }
        }
        self.remotes.extend(tracks.iter().map(|track: &Track| (track.lane.remote, peer)));
        self.peers.insert(peer, Ways { tracks: tracks.into(), touched });
        self.file(&peer, now);
    }

    fn forget(&mut self, peer: &Peer) {
        self.questions.remove(peer);
        self.busy.remove(peer);
        self.down.remove(peer);
        self.direct.remove(peer);
        self.fresh.remove(peer);
    }

    /// When [`Engine::tick`] is due.
    pub fn due(&self) -> Option<Moment> {
        if self.peers.is_empty() {
            return None;
        }
        let mut awaited = self.waiting.iter().filter(|(_, nonce)| self.is_awaited(nonce));
        let lost = awaited.next().map(|(sent, _)| *sent + PATIENCE);
        let question = self.questions.values().min().copied();
        Some([lost, question].into_iter().flatten().fold(self.round_at, Moment::min))
    }

    fn is_awaited(&self, nonce: &u64) -> bool {
        self.flights.by_nonce.get(nonce).is_some_and(|flight| !flight.lost)
    }

    /// What is due: counts what is lost, and gives the probes to send, in this order. `chance` makes nonces.
    pub fn tick(&mut self, now: Moment, chance: &mut dyn FnMut() -> u64) -> Vec<Probe> {
        self.count_losses(now);
        let mut chosen = BTreeSet::new();
        if now >= self.round_at {
            // After a long sleep rounds are not made up for.
            self.round_at = now + ROUND;
            chosen.extend(self.round(now));
        }
        chosen.extend(self.questions.iter().filter(|(_, at)| **at <= now).map(|(peer, _)| *peer));
        chosen.into_iter().flat_map(|peer| self.ask(peer, now, chance)).collect()
    }

    /// The peers of a round.
    fn round(&mut self, now: Moment) -> Vec<Peer> {
        self.busy.retain(|_, until| *until > now);
        let mut chosen: Vec<Peer> = turn(&self.busy, self.turns.busy).take(BUSY).collect();
        self.turns.busy = chosen.last().copied().or(self.turns.busy);
        let direct: Vec<Peer> = turn(&self.direct, self.turns.direct).take(DIRECT).collect();
        self.turns.direct = direct.last().copied().or(self.turns.direct);
        chosen.extend(direct);
        let down: Vec<Peer> = turn(&self.down, self.turns.down).take(DOWN).collect();
        self.turns.down = down.last().copied().or(self.turns.down);
        chosen.extend(down);
        let fresh: Vec<Peer> = self.fresh.keys().take(OTHERS).copied().collect();
        for peer in &fresh {
            self.fresh.remove(peer);
        }
        let left = OTHERS.saturating_sub(fresh.len());
        chosen.extend(fresh);
        let others = self.others(&chosen, left);
        chosen.extend(others);
        chosen
    }

    /// The next of those that nothing is known against.
    fn others(&mut self, chosen: &[Peer], most: usize) -> Vec<Peer> {
        let mut others = Vec::new();
        for peer in turn(&self.peers, self.turns.others).take(SEARCH) {
            if others.len() == most {
                break;
            }
            self.turns.others = Some(peer);
            if !chosen.contains(&peer)
                && !self.down.contains_key(&peer)
                && !self.questions.contains_key(&peer)
            {
                others.push(peer);
            }
        }
        others
    }

    fn ask(&mut self, peer: Peer, now: Moment, chance: &mut dyn FnMut() -> u64) -> Vec<Probe> {
        let Some(ways) = self.peers.get_mut(&peer) else { return Vec::new() };
        ways.touched = now;
        let mut probes = Vec::new();
        for track in &mut ways.tracks {
            self.own += track.in_tunnel() * track.sizes().len() as u64;
            for size in track.sizes() {
                let remote = track.lane.remote;
                let flight = Flight { whose: peer, size: *size, remote, sent: now, lost: false };
                let (sequence, nonce) = self.flights.send(flight, chance());
                self.waiting.push_back((now, nonce));
                probes.push(probe(&track.lane, *size, sequence, nonce));
                count(&mut self.counters.sent, track.lane.family());
            }
            track.on_sent(now);
        }
        if let Some(at) = self.questions.get_mut(&peer) {
            *at = now + OFTEN;
        }
        probes
    }

    /// An answer came; one that is to nothing that was asked is passed over.
    pub fn answered(&mut self, reply: Reply, now: Moment) {
        let Some(Flight { whose: peer, size, sent, .. }) = self.flights.answered(&reply) else { return };
        let rtt = now.saturating_sub(sent);
        self.samples.push(rtt);
        self.answered = Some(now);
        self.change(peer, reply.from, now, |track| track.on_answer(size, rtt, now));
    }

    /// A probe of another node's came in from this address.
    pub fn heard(&mut self, from: IpAddr, now: Moment) {
        let Some(peer) = self.remotes.get(&from).copied() else { return };
        if let Some(ways) = self.peers.get_mut(&peer) {
            ways.touched = now;
            // The kernel has answered it.
            let by = ways.tracks.iter().find(|track| track.lane.remote == from);
            self.own += by.map_or(0, Track::in_tunnel);
        }
        self.change(peer, from, now, |track| track.on_heard(now));
    }

    fn count_losses(&mut self, now: Moment) {
        let mut lost = Vec::new();
        for (sent, nonce) in &self.waiting {
            if *sent + PATIENCE > now {
                break;
            }
            if let Some(flight) = self.flights.by_nonce.get_mut(nonce).filter(|flight| !flight.lost) {
                flight.lost = true;
                lost.push((flight.whose, flight.remote, flight.size));
            }
        }
        for (peer, remote, size) in lost {
            count(&mut self.counters.lost, Family::of(remote));
            self.change(peer, remote, now, |track| track.on_loss(size, now));
        }
        while let Some((_, nonce)) = self.waiting.front().filter(|(sent, _)| *sent + LATE <= now).copied() {
            self.waiting.pop_front();
            self.flights.by_nonce.remove(&nonce);
        }
    }

    fn change(&mut self, peer: Peer, remote: IpAddr, now: Moment, change: impl FnOnce(&mut Track)) {
        let ways = self.peers.get_mut(&peer);
        let Some(track) =
            ways.and_then(|ways| ways.tracks.iter_mut().find(|track| track.lane.remote == remote))
        else {
            return;
        };
        let before = track.health;
        change(track);
        if track.health != before {
            self.changes.push(Change { peer, before, now: track.report() });
        }
        self.file(&peer, now);
    }

    /// Puts a peer among those that are asked often, or that do not answer, as it is now.
    fn file(&mut self, peer: &Peer, now: Moment) {
        let Some(ways) = self.peers.get(peer) else { return };
        for (kind, is_one) in [(&mut self.down, ways.is_down()), (&mut self.direct, ways.is_direct())] {
            if is_one {
                kind.insert(*peer, ());
            } else {
                kind.remove(peer);
            }
        }
        if !ways.is_in_question() {
            self.questions.remove(peer);
        } else if self.questions.len() < QUESTIONS {
            self.questions.entry(*peer).or_insert(now);
        }
    }

    /// What the devices have sent in all, at each round: whether it is worth looking at which peers have traffic. More
    /// peers are looked at less often.
    pub fn moved(&mut self, packets: u64, now: Moment) -> bool {
        let own = std::mem::take(&mut self.own);
        let sent = self.seen.replace(packets).map_or(0, |seen| packets.saturating_sub(seen));
        let traffic = sent > own + NO_TRAFFIC;
        let look = traffic && now >= self.look_at;
        if look {
            self.look_at = now + 2 * ROUND + Duration::from_millis(self.peers.len() as u64);
        }
        look
    }

    /// Whether [`Engine::moved`] is to be told, before the tick.
    pub fn is_round_due(&self, now: Moment) -> bool {
        now >= self.round_at && !self.peers.is_empty()
    }

    /// The way to this peer was last used at `at`: traffic, unless that was a probe.
    pub fn used(&mut self, peer: Peer, at: Moment, now: Moment) {
        let Some(ways) = self.peers.get(&peer) else { return };
        let is_traffic = at > ways.touched + TRACE && now.saturating_sub(at) < BUSY_FOR;
        if is_traffic && (self.busy.len() < KNOWN_BUSY || self.busy.contains_key(&peer)) {
            self.busy.insert(peer, now + BUSY_FOR);
        }
    }

    /// What changed since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Round trips since the last call.
    pub fn take_samples(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.samples)
    }

    /// What was done since the beginning.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What is known of the ways to a peer; nothing of a peer that there is no way to.
    pub fn report(&self, peer: &Peer) -> impl Iterator<Item = LaneReport> + '_ {
        self.peers.get(peer).into_iter().flat_map(|ways| &ways.tracks).map(Track::report)
    }

    /// The health of a peer: that of its worst way.
    pub fn health(&self, peer: &Peer) -> Health {
        let tracks = self.peers.get(peer).into_iter().flat_map(|ways| &ways.tracks);
        tracks.map(|track| track.health).max().unwrap_or(Health::Unknown)
    }

    /// The peers, each with the health of its worst way.
    pub fn all(&self) -> impl Iterator<Item = (&Peer, Health)> {
        self.peers.keys().map(|peer| (peer, self.health(peer)))
    }

    /// Whether nobody answers: somebody does not, and of the others nothing came for some rounds. Among many peers most
    /// are not asked for a while, so what was known of them says nothing.
    pub fn is_alone(&self, now: Moment) -> bool {
        let lately = self.answered.is_some_and(|answered| now.saturating_sub(answered) < ALONE);
        !self.down.is_empty() && !lately
    }

    /// The peers that something is wrong with.
    pub fn ill(&self) -> Vec<Peer> {
        let is_ill = |health| !matches!(health, Health::Works | Health::Unknown);
        self.all().filter(|(_, health)| is_ill(*health)).map(|(peer, _)| *peer).collect()
    }

    /// The peers that do not answer.
    pub fn down(&self) -> impl Iterator<Item = &Peer> {
        self.down.keys()
    }

    /// Every way, to be asked all at once.
    pub fn lanes(&self) -> impl Iterator<Item = (&Peer, &Lane)> {
        self.peers.iter().flat_map(|(peer, ways)| ways.tracks.iter().map(move |track| (peer, &track.lane)))
    }
}

/// Everybody once, beginning behind the one that was last.
fn turn<V>(map: &BTreeMap<Peer, V>, last: Option<Peer>) -> impl Iterator<Item = Peer> {
    let from = last.map_or(Bound::Unbounded, Bound::Excluded);
    let rest = last.map_or(Bound::Excluded(Peer::from_bytes([0; 16])), Bound::Included);
    let (before, behind) = (map.range((Bound::Unbounded, rest)), map.range((from, Bound::Unbounded)));
    behind.chain(before).map(|(peer, _)| *peer)
}

fn count(of: &mut [u64; 2], family: Family) {
    let [ipv4, ipv6] = of;
    *match family {
        Family::Ipv4 => ipv4,
        Family::Ipv6 => ipv6,
    } += 1;
}
