//! What the ring answers to those who only want to know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tartan_api::VERSION;
use tartan_api::explain::Explain;
use tartan_api::object::Object;
use tartan_api::rpc::{Answer, FailureCode, Request};
use tartan_api::verb::{DeniedRow, EndpointRow, Guards, PeerCount, Plan, Status, StoreStatus};
use tartan_decide::{Fact, Note, Phase, Refused, Scope};
use tartan_host::{Row, obstacles};
use tartan_kernel::KernelError;
use tartan_model::{Cidr, Endpoint, NetworkName, Node, NodeId, PodName};
use tartan_probe::Health;
use tartan_reconcile::Unsettled;
use tartan_store::Lease;

use crate::entry::object_fact;
use crate::ring::Ring;
use crate::serve::{failure, ok};

/// How often rules of others are looked at for those who ask again and again.
const LOOK: Duration = Duration::from_secs(10);

impl Ring {
    pub(crate) fn answer_request(&self, request: Request, leases: Option<&[Lease]>) -> Answer {
        match request {
            Request::Status => ok(&self.status(leases)),
            Request::Nodes => ok(&self.world.report_nodes(|id| is_alive(leases, id))),
            Request::Peers => ok(&self.world.report_peers(|id| self.since(id), |peer| self.probed(peer))),
            Request::Explain(asked) => self.explain(&asked),
            Request::Ipam => ok(&self.world.report_ipam()),
            Request::Routes => ok(&self.world.report_routes(|row| self.is_installed(row))),
            Request::Plan { objects } => self.plan(&objects),
            Request::Ready { network } => self.ready(&network),
            _ => failure(FailureCode::Invalid, "this request is not for the ring"),
        }
    }

    fn explain(&self, asked: &Explain) -> Answer {
        if !self.world.in_sync() {
            return failure(FailureCode::TryAgain, "the store has not told everything yet");
        }
        match self.world.explain(asked) {
            Ok(explanation) => ok(&explanation),
            Err(unexplained) => failure(FailureCode::Invalid, unexplained.to_string()),
        }
    }

    pub(crate) fn endpoints(&self, denied: &[DeniedRow]) -> Vec<EndpointRow> {
        self.world.report_endpoints(denied, |Endpoint { key, link, .. }| {
            let is_open = self.loop_.mirror().rows.link(link).is_some_and(|link| link.up);
            is_open && self.is_settled(&Scope::Endpoint(key.clone()))
        })
    }

    fn status(&self, leases: Option<&[Lease]>) -> Status {
        let reasons = self.reasons(leases);
        Status {
            node: self.world.name().clone(),
            id: self.world.this(),
            version: VERSION.into(),
            healthy: reasons.is_empty(),
            reasons,
            warnings: self.warnings(),
            store: StoreStatus {
                kind: self.store_kind.into(),
                connected: self.store.is_ok() && leases.is_some(),
            },
            fabric: self.fabric(),
            uplink: self.world.report_uplink(),
            peers: self.count_peers(leases),
            endpoints: self.world.endpoints().count(),
            guards: if self.loop_.kernel_ref().is_guarded_by_programs() {
                Guards::Programs
            } else {
                Guards::Rules
            },
            policies: self.world.policies().count(),
            remote_endpoints: self.world.remote_endpoints().count(),
            networks: self.world.report_networks(),
            last_error: self.last_error.clone(),
            since: humantime::format_rfc3339_seconds(self.started).to_string(),
        }
    }

    /// Why this node is not healthy. That there is no way to some peer is not its doing; that shows with the peers.
    pub(crate) fn reasons(&self, leases: Option<&[Lease]>) -> Vec<String> {
        let mut reasons = self.own_unreadiness(leases);
        reasons.extend(self.remembered.clone());
        reasons.extend(self.obstacles.iter().cloned());
        let mut shut: BTreeMap<&NetworkName, BTreeSet<&PodName>> = BTreeMap::new();
        for (scope, notes) in &self.notes {
            for note in notes {
                match (scope, note) {
                    (_, Note::NetworkGone { pod, network }) => {
                        shut.entry(network).or_default().insert(pod);
                    }
                    (Scope::Endpoint(_), _) => reasons.push(note.to_string()),
                    (Scope::Peer(_), _) => {}
                    _ if note.is_unfinished() => {}
                    _ => reasons.push(note.to_string()),
                }
            }
        }
        reasons.extend(shut.into_iter().map(|(network, pods)| {
            format!(
                "network {network} is gone or not served, and its pods on this node are shut: {}",
                named(pods.into_iter())
            )
        }));
        let pods = self.world.endpoints().filter(|attached| attached.phase == Phase::Wanted);
        for Endpoint { key, pod, .. } in pods.map(|attached| &attached.endpoint) {
            if !self.is_settled(&Scope::Endpoint(key.clone())) {
                let known = self.broken.get(key).map(|broken| broken.reason.clone());
                reasons.push(known.unwrap_or_else(|| {
                    format!("pod {pod}: its interface on this node is gone or incomplete; delete and add it")
                }));
            }
        }
        reasons
    }

    /// Whether rules of others let pods' packets pass. Reading them takes its time where there are many.
    pub(crate) fn look_at_firewalls(&mut self, at_once: bool) {
        if !at_once && self.obstacles_at.is_some_and(|looked| looked.elapsed() < LOOK) {
            return;
        }
        self.obstacles_at = Some(Instant::now());
        let pools = self.world.networks().flat_map(|network| &network.pools);
        let ranges: Vec<Cidr> = pools.map(|pool| pool.cidr()).collect();
        let found = self.loop_.kernel().foreign_chains().map(|chains| obstacles(chains, &ranges));
        self.obstacles = match found {
            Ok(found) => found.iter().map(ToString::to_string).collect(),
            // Others change their rules all the time just now: what was found before stands until the next look.
            Err(KernelError::Restless) => return,
            Err(error) => vec![format!("cannot read whether other rules let pods' packets pass: {error}")],
        };
    }

    /// Why no pod should be sent here: as [`Ring::reasons`], without what concerns single pods or only wants a look.
    pub(crate) fn unreadiness(&self, leases: Option<&[Lease]>) -> Vec<String> {
        let mut reasons = self.own_unreadiness(leases);
        if leases.is_none() && self.store.is_ok() {
            reasons.push("the store: it does not answer".into());
        }
        reasons
    }

    fn own_unreadiness(&self, leases: Option<&[Lease]>) -> Vec<String> {
        let mut reasons = self.unfinished();
        if let Err(message) = &self.kept {
            reasons.push(format!("{message}; until it can be, no pod is added or removed"));
        }
        reasons.extend(self.loneliness(leases));
        reasons
    }

    /// What this node has not done yet of what it was told.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        let mut reasons: Vec<String> = Vec::new();
        if let Err(error) = &self.store {
            reasons.push(format!("the store: {error}"));
        }
        let newer = |reason: &String| format!("{reason}; run the release that wrote it, or apply it again");
        reasons.extend(self.misunderstood.iter().map(newer));
        if !self.world.in_sync() {
            reasons.push("the store has not told everything yet".into());
        } else if self.world.networks().next().is_none() {
            reasons.push(
                "there is no network; write a ClusterNetwork and apply it: tartan apply -f FILE".into(),
            );
        }
        let of_pod = |scope: &Scope| matches!(scope, Scope::Endpoint(_));
        let notes = self.notes.iter().filter(|(scope, _)| !of_pod(scope)).flat_map(|(_, notes)| notes);
        reasons.extend(notes.filter(|note| note.is_unfinished()).map(ToString::to_string));
        reasons.extend(self.missing());
        reasons.extend(self.loop_.failed_removals());
        reasons
    }

    /// What the kernel does not have of what is not a pod's. Of policies one thing stands for all: they are taken together.
    fn missing(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let mut policy = (0, None);
        for (scope, missing) in self.loop_.all_unsettled_of() {
            let told = |missing: Unsettled| {
                let reason = missing.reason.unwrap_or_else(|| "not there yet".into());
                format!("{}: {reason}", missing.row)
            };
            match (&missing.row, scope) {
                (Row::Policy(_), _) => {
                    policy.0 += 1;
                    policy.1.get_or_insert_with(|| told(missing));
                }
                (_, Scope::Endpoint(_)) => {}
                _ => reasons.push(told(missing)),
            }
        }
        if let (number, Some(first)) = policy {
            reasons.push(format!("policies are not in force as they should be ({number} rows): {first}"));
        }
        reasons
    }

    fn fabric(&self) -> String {
        let names: BTreeSet<String> = self
            .world
            .networks()
            .filter_map(|network| Some(serde_json::to_value(network.fabric).ok()?.as_str()?.to_string()))
            .collect();
        if names.is_empty() { "none".into() } else { names.into_iter().collect::<Vec<_>>().join(",") }
    }

    fn count_peers(&self, leases: Option<&[Lease]>) -> PeerCount {
        let lives = |peer: &&Node| match self.probing.engine.health(&peer.id) {
            Health::Works | Health::LargeLost => true,
            Health::Unknown => is_alive(leases, &peer.id),
            Health::OneWay | Health::Dead => false,
        };
        let up = self.world.peers().filter(lives).filter(|peer| self.is_reached(&peer.id));
        PeerCount { up: up.count(), total: self.world.peers().count() }
    }

    /// Whether there is a way to a peer's pods, and all of it is in the kernel.
    fn is_reached(&self, id: &NodeId) -> bool {
        let scope = Scope::Peer(*id);
        let has_way = self.ways.get(id).is_some_and(|(way, _)| way.is_some());
        has_way && !self.notes.contains_key(&scope) && self.is_settled(&scope)
    }

    fn since(&self, id: &NodeId) -> Option<String> {
        self.ways.get(id).map(|(_, since)| humantime::format_rfc3339_seconds(*since).to_string())
    }

    fn is_settled(&self, scope: &Scope) -> bool {
        let broken = matches!(scope, Scope::Endpoint(key) if self.broken.contains_key(key));
        !broken && self.loop_.unsettled(scope).is_empty()
    }

    fn is_installed(&self, row: &Row) -> bool {
        self.loop_.mirror().rows.get(&row.key()).is_some_and(|found| row.matches(found))
    }

    fn plan(&self, objects: &[Object]) -> Answer {
        let mut world = self.world.clone();
        for object in objects {
            match object_fact(object.clone()) {
                // Cannot be refused: only an attachment can.
                Ok(fact) => drop(world.learn(fact)),
                Err(error) => return failure(FailureCode::Invalid, error.to_string()),
            }
        }
        // What becomes of policies is found out once for all that was learned.
        drop(world.learn(Fact::Turn));
        let (rows, notes) = world.wanted();
        ok(&Plan { steps: self.loop_.plan(&rows).iter().map(ToString::to_string).collect(), notes })
    }

    /// Whether an ADD could be served now.
    fn ready(&self, network: &NetworkName) -> Answer {
        match self.world.admits(network) {
            Ok(()) => ok(&()),
            Err(refused) => failure(self.unready_code(network, &refused), refused.to_string()),
        }
    }
}

impl Ring {
    /// The pods of a network that is not served are shut.
    fn unready_code(&self, network: &NetworkName, refused: &Refused) -> FailureCode {
        let unserved = matches!(refused, Refused::NoNetwork(_) | Refused::NotServed { .. });
        let mut pods = self.world.endpoints().map(|attached| &attached.endpoint.network);
        let shut = self.world.in_sync() && unserved && pods.any(|other| other == network);
        if shut { FailureCode::Limited } else { FailureCode::TryAgain }
    }
}

/// Pods by their names, as far as they are few.
pub(crate) fn named<'a>(pods: impl ExactSizeIterator<Item = &'a PodName>) -> String {
    const NAMED: usize = 10;
    let more = pods.len().saturating_sub(NAMED);
    let mut names: Vec<String> = pods.take(NAMED).map(ToString::to_string).collect();
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    names.join(", ")
}

pub(crate) fn is_alive(leases: Option<&[Lease]>, id: &NodeId) -> bool {
    let id = id.to_string();
    leases.unwrap_or_default().iter().any(|lease| lease.holder == id && lease.expires_in.is_some())
}
