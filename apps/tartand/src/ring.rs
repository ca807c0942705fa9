//! The ring: facts are learned, what is dirty is decided, the kernel is brought there, and whoever asked is told.
//! One thread, one writer; it sleeps until something comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tartan_api::cni::{Del, Gc};
use tartan_api::endpoint::PublishedEndpoint;
use tartan_api::network::Network;
use tartan_api::rpc::{Answer, FailureCode, Request};
use tartan_decide::{Choice, Conflict, Decision, Fact, Note, Phase, Record, Scope, World, lower, worst};
use tartan_fault::{Point, reach};
use tartan_host::{NetnsToken, Realm};
use tartan_kernel::netns::{self, NetnsId};
use tartan_kernel::{Kernel, give_back_memory, keeps_marks_of_addresses};
use tartan_model::{AttachmentKey, Cidr, Family, NetworkName, Node, NodeId, Path, UplinkChoice};
use tartan_reconcile::{Reconciler, Sweep};
use tracing::{error, info};

use crate::adding::{PATIENCE, Waiting};
use crate::announce::knows;
use crate::cluster::{Cluster, Write};
use crate::config::Config;
use crate::denied::Listening;
use crate::departure::Departure;
use crate::entry::Heard;
use crate::gauges::Counted;
use crate::identity::Identity;
use crate::input::{Ask, Inbox, Input, Question};
use crate::metrics::Metrics;
use crate::pods::Deleting;
use crate::probing::Probing;
use crate::records::Records;
use crate::repair::Broken;
use crate::serve::{failure, ok};

/// How long removed links are gathered.
const GATHER: Duration = Duration::from_millis(100);
/// How long an agent that is waited for tries to settle.
const SETTLE: Duration = Duration::from_secs(10);
/// How long until what was changed while it was settled is settled again: somebody may be at work against us.
const AGAIN: Duration = Duration::from_millis(100);
/// How long until what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often the kernel is read anew although it told nothing: the net below its notifications.
const READ_ANEW: Duration = Duration::from_secs(600);

/// Everything the agent's one thread has in hand.
pub(crate) struct Ring {
    pub(crate) world: World,
    pub(crate) loop_: Reconciler<Scope, Kernel>,
    pub(crate) notes: BTreeMap<Scope, Vec<Note>>,
    pub(crate) store: Result<(), String>,
    /// What the store has lost and is known from memory only, in words.
    pub(crate) remembered: Option<String>,
    /// Since when.
    pub(crate) lost_at: Option<Instant>,
    pub(crate) last_error: Option<String>,
    pub(crate) started: SystemTime,
    /// The path and address by which each peer is reached, if it is, and since when.
    pub(crate) ways: BTreeMap<NodeId, (Option<(Path, IpAddr)>, SystemTime)>,
    /// Networks of the store that are not understood, and why not.
    pub(crate) misunderstood: Vec<String>,
    pub(crate) records: Records,
    /// Whether the last record could be kept, or why not.
    pub(crate) kept: Result<(), String>,
    /// Rules of others that do not let pods' packets pass, as they were when somebody last asked.
    pub(crate) obstacles: Vec<String>,
    pub(crate) obstacles_at: Option<Instant>,
    /// Records of what is so whether they can be kept or not.
    pub(crate) unkept: Vec<Record>,
    pub(crate) cluster: Cluster,
    /// This node is on its way out of the cluster.
    pub(crate) departure: Option<Departure>,
    /// It is out, and the agent ends.
    pub(crate) left_cluster: bool,
    pub(crate) inbox: Inbox,
    inputs: Receiver<Input>,
    pub(crate) interface: UplinkChoice,
    pub(crate) address: Option<IpAddr>,
    pub(crate) public_addresses: Vec<IpAddr>,
    /// What was asked to be published of pods' interfaces and is not known to be in the store yet.
    pub(crate) announcing: BTreeMap<AttachmentKey, Option<PublishedEndpoint>>,
    /// Claims under way, one for each network and family.
    claiming: BTreeSet<(NetworkName, Family)>,
    pub(crate) dirty: BTreeSet<Scope>,
    /// The node's own namespace.
    pub(crate) own_netns: NetnsId,
    /// Another node took this one's name.
    name_lost: Option<String>,
    /// Namespaces that pods left since the last sweep: their interfaces may still be there.
    pub(crate) left: BTreeSet<(u64, u64)>,
    /// Pods whose host's end is gone, and those whose interface could not be mended.
    pub(crate) orphans: BTreeSet<AttachmentKey>,
    pub(crate) broken: BTreeMap<AttachmentKey, Broken>,
    /// Whether links that the last agent left are gone.
    pub(crate) swept: bool,
    /// ADDs that are not begun.
    pub(crate) waiting: Vec<Waiting>,
    /// Interfaces to be taken away that nobody waits for.
    pub(crate) leaving: Vec<AttachmentKey>,
    /// Who waits for this agent, and how long at most.
    pub(crate) waits: BTreeMap<String, Instant>,
    pub(crate) sweep_at: Option<Instant>,
    pub(crate) retry_at: Option<Instant>,
    pub(crate) lighten_at: Option<Instant>,
    pub(crate) read_at: Instant,
    /// Probes of the ways to peers.
    pub(crate) probing: Probing,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) counted: Counted,
    /// What policies refused.
    pub(crate) denial_log: Listening,
    /// Which store, as its driver calls it.
    pub(crate) store_kind: &'static str,
    /// Everything was told, read or planned, which takes much more memory than knowing it.
    swollen: bool,
}

/// What came in at once and is answered when the kernel has settled.
#[derive(Default)]
struct Batch {
    deleting: Vec<Deleting>,
    asks: Vec<Ask>,
}

/// Blocks the signals that end the agent and gives the descriptor that tells of them.
pub(crate) fn block_signals() -> anyhow::Result<SignalFd> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block().context("cannot block signals")?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("cannot read signals")
}

impl Ring {
    #[allow(clippy::too_many_arguments, reason = "the agent is wired together in one place")]
    pub(crate) fn new(
        config: &Config,
        identity: &Identity,
        records: Records,
        kernel: Kernel,
        cluster: Cluster,
        inbox: Inbox,
        inputs: Receiver<Input>,
        metrics: Arc<Metrics>,
        store_kind: &'static str,
    ) -> anyhow::Result<Ring> {
        let mut ring = Ring {
            world: World::new(identity.id, identity.name.clone()),
            loop_: Reconciler::new(kernel, Realm::Node),
            notes: BTreeMap::new(),
            store: Err("not heard of yet".into()),
            remembered: None,
            lost_at: None,
            last_error: None,
            started: SystemTime::now(),
            ways: BTreeMap::new(),
            misunderstood: Vec::new(),
            records,
            kept: Ok(()),
            obstacles: Vec::new(),
            obstacles_at: None,
            unkept: Vec::new(),
            cluster,
            departure: None,
            left_cluster: false,
            inbox,
            inputs,
            interface: config.interface.clone(),
            address: config.address,
            public_addresses: config.public_addresses.clone(),
            announcing: BTreeMap::new(),
            claiming: BTreeSet::new(),
            dirty: BTreeSet::from([Scope::Node]),
            own_netns: netns::current().and_then(|own| netns::id(own.as_fd()))?,
            name_lost: None,
            left: BTreeSet::new(),
            orphans: BTreeSet::new(),
            broken: BTreeMap::new(),
            swept: false,
            waiting: Vec::new(),
            leaving: Vec::new(),
            waits: BTreeMap::new(),
            sweep_at: None,
            retry_at: None,
            lighten_at: None,
            read_at: Instant::now() + READ_ANEW,
            probing: Probing::new(config.probes),
            metrics,
            counted: Counted::default(),
            denial_log: Listening::start(),
            store_kind,
            swollen: false,
        };
        for fact in ring.records.facts()? {
            ring.learn(fact);
        }
        let leaving = ring.world.endpoints().filter(|attached| attached.phase == Phase::Leaving);
        ring.leaving = leaving.map(|attached| attached.endpoint.key.clone()).collect();
        if keeps_marks_of_addresses() {
            ring.learn(Fact::MarksAddresses);
        }
        ring.look_at_uplink();
        Ok(ring)
    }

    /// Runs until a signal ends it, or the node has left.
    pub(crate) fn run(&mut self, signals: &SignalFd) -> anyhow::Result<()> {
        loop {
            let woken = self.sleep(signals)?;
            if woken.stop {
                info!("stopping; what is in the kernel stays");
                return Ok(());
            }
            self.probe();
            self.denial_log.hear();
            if !woken.turn {
                continue;
            }
            self.inbox.hush();
            let start = Instant::now();
            self.turn();
            self.metrics.turns.observe(start.elapsed().as_secs_f64());
            if self.left_cluster {
                info!("this node has left the cluster; started again, it joins anew");
                return Ok(());
            }
            if let Some(reason) = self.name_lost.take() {
                bail!("this node's name was taken: {reason}; what is in the kernel stays");
            }
        }
    }

    /// One turn: everything that is in, once round.
    fn turn(&mut self) {
        let mut batch = self.take_inputs();
        if self.left_cluster {
            // Who asked meanwhile is told that the agent is stopping.
            return;
        }
        self.hear();
        self.swollen |= batch.asks.iter().any(Ask::is_for_a_plan);
        if batch.asks.iter().any(Ask::is_about_the_kernel) {
            self.loop_.look_at_settings();
            self.loop_.kernel().look_at_guards();
            self.look_at_firewalls(batch.asks.iter().any(Ask::is_by_a_person));
            self.look_at_records();
        }
        let adding = self.begin_adds();
        let is_quiet = adding.is_empty() && batch.deleting.iter().all(|deleting| deleting.keys.is_empty());
        let sweep = self.due();
        self.keep_again();
        self.decide();
        if !self.leaving.is_empty() {
            self.loop_.hurry();
        }
        self.settle(sweep);
        self.finish_adds(adding);
        batch.deleting.push(Deleting { keys: std::mem::take(&mut self.leaving), reply: None });
        self.finish_dels(batch.deleting);
        self.remake();
        for ask in batch.asks {
            self.answer(ask);
        }
        self.answer_waits();
        self.go_on_leaving();
        self.lighten_guards(is_quiet);
        self.set_timers();
        if std::mem::take(&mut self.swollen) {
            give_back_memory();
        }
    }

    fn take_inputs(&mut self) -> Batch {
        let mut batch = Batch::default();
        while let Ok(input) = self.inputs.try_recv() {
            match input {
                Input::Fact(fact) => {
                    self.swollen |= fact == Fact::InSync;
                    self.note_announced(&fact);
                    self.learn(fact);
                }
                Input::Claimed(claim) => {
                    self.claiming.remove(&(claim.network.clone(), claim.block.family()));
                    self.dirty.insert(Scope::Network(claim.network));
                }
                Input::Store(state) => {
                    if let Err(error) = &state {
                        self.last_error = Some(format!("the store: {error}"));
                    }
                    self.store = state;
                }
                Input::Kept(remembered) => {
                    if let Some(remembered) = &remembered {
                        self.last_error = Some(remembered.clone());
                    }
                    self.lost_at = remembered.is_some().then(|| self.lost_at.unwrap_or_else(Instant::now));
                    self.remembered = remembered;
                    self.announce_anew();
                }
                Input::Misunderstood(networks) => self.misunderstood = networks,
                Input::NameLost(reason) => self.name_lost = Some(reason),
                Input::Wait(wait) => {
                    self.waits.insert(wait, Instant::now() + SETTLE);
                }
                Input::Left(outcome) => self.note_left(outcome),
                Input::Ask(ask) => self.take_ask(ask, &mut batch),
            }
        }
        batch
    }

    fn take_ask(&mut self, ask: Ask, batch: &mut Batch) {
        let Ask { question, reply } = ask;
        match question {
            Question::Request { request: Request::Add(_), .. } if self.departure.is_some() => {
                give(&reply, failure(FailureCode::Stopping, "this node leaves the cluster"));
            }
            Question::Request { request: Request::Add(add), netns, client, .. } => {
                self.waiting.push(Waiting { add, netns, client, reply, until: Instant::now() + PATIENCE });
            }
            Question::Request { request: Request::Del(Del { key }), .. } => {
                batch.deleting.push(self.detach(vec![key], reply));
            }
            // Nothing that is being added is among them: that is begun later in this turn.
            Question::Request { request: Request::Gc(Gc { list, valid }), .. } => {
                let keys = self.world.stale(&list, &valid);
                batch.deleting.push(self.detach(keys, reply));
            }
            Question::Request { request: Request::Leave(leave), .. } => {
                batch.deleting.extend(self.depart(&leave, reply));
            }
            question => batch.asks.push(Ask { question, reply }),
        }
    }

    fn detach(&mut self, keys: Vec<AttachmentKey>, reply: SyncSender<Answer>) -> Deleting {
        reach(Point::DelTaken);
        Deleting { reply: Some(reply), ..self.detach_all(keys) }
    }

    /// The same where nobody waits for the outcome.
    pub(crate) fn detach_all(&mut self, keys: Vec<AttachmentKey>) -> Deleting {
        self.loop_.hurry();
        for key in &keys {
            self.cancel_adds(key);
            self.learn(Fact::Detach(key.clone()));
        }
        Deleting { keys, reply: None }
    }

    /// Learns what cannot be refused; true if all that must outlive the agent is kept.
    pub(crate) fn learn(&mut self, fact: Fact) -> bool {
        match self.world.learn(fact) {
            Ok(learned) => self.keep(learned),
            Err(refused) => {
                self.went_wrong(refused.to_string());
                false
            }
        }
    }

    fn hear(&mut self) {
        if let Err(error) = self.loop_.hear() {
            self.went_wrong(format!("cannot read the kernel: {error}"));
        }
        if self.loop_.take_underlay_changed() {
            self.look_at_uplink();
        }
    }

    /// What is due by time.
    fn due(&mut self) -> Sweep {
        let now = Instant::now();
        if now >= self.read_at {
            self.loop_.distrust();
            self.read_at = now + READ_ANEW;
            self.swollen = true;
        }
        if self.retry_at.is_some_and(|at| now >= at) {
            self.loop_.retry();
            self.retry_remake();
            self.retry_at = None;
        }
        match self.sweep_at {
            Some(at) if now >= at => {
                self.sweep_at = None;
                Sweep::Now
            }
            _ => Sweep::Later,
        }
    }

    /// Removes what is to be removed, now.
    pub(crate) fn sweep(&mut self) {
        self.sweep_at = None;
        self.loop_.hurry();
        self.decide();
        if self.settle(Sweep::Now) {
            self.swept |= self.world.in_sync();
        }
    }

    pub(crate) fn decide(&mut self) {
        self.learn(Fact::Turn);
        for scope in std::mem::take(&mut self.dirty) {
            let mut decision = self.world.decide(&scope);
            if let Some(Choice::Endpoint(choice)) = &mut decision.choice {
                self.refit(choice);
            }
            self.want(&scope, &decision, None);
            self.note_way(&scope, &decision);
            self.note_lanes(&scope, &decision);
            self.write_to_store(decision.claims, decision.returns, decision.publish);
            self.announce(&scope, decision.announce);
            self.notes.remove(&scope);
            if !decision.notes.is_empty() {
                self.notes.insert(scope, decision.notes);
            }
        }
        self.note_sizes();
    }

    pub(crate) fn want(&mut self, scope: &Scope, decision: &Decision, netns: Option<NetnsToken>) {
        let rows = decision.choice.as_ref().map(|choice| lower(choice, netns)).unwrap_or_default();
        self.loop_.want(scope, rows);
    }

    /// The time so long ago, as people are shown it.
    pub(crate) fn time(&self, ago: Duration) -> String {
        let then = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        humantime::format_rfc3339_seconds(then).to_string()
    }

    /// The time of day so long ago.
    pub(crate) fn clock(&self, ago: Duration) -> String {
        let text = self.time(ago);
        // Without the date, which is today's or tells itself by how long ago it was.
        text.get(11..19).unwrap_or_default().into()
    }

    /// When the agent started, in seconds since the epoch.
    pub(crate) fn started_at(&self) -> f64 {
        self.started.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
    }

    fn note_way(&mut self, scope: &Scope, decision: &Decision) {
        let Scope::Peer(id) = scope else { return };
        let Some(Choice::Peer(choice)) = &decision.choice else {
            self.ways.remove(id);
            return;
        };
        let way = worst(&choice.reach).map(|reach| (reach.reached.path, reach.reached.underlay.remote));
        if self.ways.get(id).is_none_or(|(old, _)| *old != way) {
            self.ways.insert(*id, (way, SystemTime::now()));
        }
    }

    fn write_to_store(
        &mut self,
        claims: Vec<tartan_decide::Claim>,
        returns: Vec<(NetworkName, Cidr)>,
        publish: Option<Node>,
    ) {
        if self.departure.is_some() || self.left_cluster {
            return;
        }
        for claim in claims {
            if self.claiming.insert((claim.network.clone(), claim.block.family())) {
                self.cluster.write(Write::Claim(claim));
            }
        }
        for (network, block) in returns {
            self.learn(Fact::Returning(network.clone(), block));
            self.cluster.write(Write::Return(network, block));
        }
        // Also when somebody took the entry away or changed it.
        if let Some(node) = publish.filter(|node| self.world.node(&node.id) != Some(node)) {
            self.cluster.write(Write::Publish(node));
        }
    }

    /// Brings the kernel to what is wanted; false if it could not be read, and what is known of it may be old.
    pub(crate) fn settle(&mut self, sweep: Sweep) -> bool {
        if self.world.in_sync() && self.world.own_node().is_some() {
            self.loop_.allow_removal();
        }
        let outcome = self.loop_.settle(sweep);
        let read = outcome.is_ok() && !self.loop_.is_in_doubt();
        if let Err(error) = outcome {
            self.went_wrong(format!("cannot read the kernel: {error}"));
        }
        if read && sweep == Sweep::Now {
            self.left.clear();
        }
        read
    }

    fn answer(&mut self, ask: Ask) {
        let answer = match ask.question {
            Question::Check(networks) => match self.conflict(&networks) {
                Some((network, conflict)) => {
                    failure(FailureCode::Invalid, format!("ClusterNetwork {network}: {conflict}"))
                }
                None => ok(&()),
            },
            Question::Alive => ok(&()),
            Question::Readiness(leases) => ok(&self.unreadiness(leases.as_deref())),
            Question::Gauges(leases) => {
                self.gauge(leases.as_deref());
                ok(&())
            }
            Question::Lanes(peers) => self.lanes(&peers),
            Question::Memories(called) => self.memories(&called),
            Question::Knows(object) => ok(&(self.remembered.is_some() && knows(&self.world, &object))),
            Question::Request { request: Request::Denied, .. } => {
                self.denied().map_or_else(Answer::Error, |rows| ok(&rows))
            }
            Question::Request { request: Request::Endpoints, .. } => {
                self.guarded().map_or_else(Answer::Error, |denied| ok(&self.endpoints(&denied)))
            }
            Question::Request { request: Request::Check(check), netns, .. } => {
                self.check(&check, netns.as_ref())
            }
            Question::Request { request, leases, .. } => self.answer_request(request, leases.as_deref()),
        };
        give(&ask.reply, answer);
    }

    /// The first network that could not be served if all of these were there.
    fn conflict(&self, networks: &[Network]) -> Option<(NetworkName, Conflict)> {
        networks.iter().find_map(|network| {
            let mut world = self.world.clone();
            for other in networks.iter().filter(|other| other.name != network.name) {
                // Cannot be refused: only an attachment can.
                let _ = world.learn(Fact::Network(other.name.clone(), Some(other.clone())));
            }
            Some((network.name.clone(), world.conflict(network)?))
        })
    }

    /// Answers those who wait when there is nothing left to do, or when it has taken too long.
    fn answer_waits(&mut self) {
        if self.waits.is_empty() {
            return;
        }
        let reasons = self.unfinished();
        let now = Instant::now();
        let (done, waits) = std::mem::take(&mut self.waits)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(_, until)| reasons.is_empty() || now >= *until);
        self.waits = waits;
        for wait in done.into_keys() {
            self.cluster.write(Write::Heard(wait, Heard { reasons: reasons.clone() }));
        }
    }

    fn set_timers(&mut self) {
        let now = Instant::now();
        if self.sweep_at.is_none() && self.loop_.has_leftovers() {
            self.sweep_at = Some(now + GATHER);
        }
        let unfinished = self.loop_.has_failed() || self.has_passing() || self.kept.is_err();
        if self.retry_at.is_none() && unfinished {
            self.retry_at = Some(now + RETRY);
        }
        if self.loop_.has_work() {
            self.retry_at = Some(self.retry_at.unwrap_or(now + AGAIN).min(now + AGAIN));
        }
        if !self.dirty.is_empty() || !self.orphans.is_empty() {
            // Something was learned while answering, or went while it was repaired.
            self.retry_at = Some(now);
        }
    }

    /// Ends what writes to the store.
    pub(crate) fn stop(self) {
        self.cluster.stop();
    }

    pub(crate) fn went_wrong(&mut self, message: String) {
        error!("{message}");
        self.last_error = Some(message);
    }
}

/// Whoever asked may have gone away, which is theirs to decide.
pub(crate) fn give(reply: &SyncSender<Answer>, answer: Answer) {
    let _ = reply.try_send(answer);
}
