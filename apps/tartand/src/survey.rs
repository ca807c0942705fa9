//! `tartan check connectivity`: every way to the peers is probed at once, beside the ring.

use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tartan_api::rpc::{Answer, Failure, FailureCode};
use tartan_api::verb::CheckRow;
use tartan_kernel::EchoSockets;
use tartan_model::NodeName;
use tartan_probe::{EchoKind, Lane, Moment, Reply, Survey, Surveyed, decode, encode};

use crate::health::millis;
use crate::probing::chance;
use crate::ring::Ring;
use crate::serve::{Service, failure, ok};

/// How long a survey may take: less than who asks waits.
const PATIENCE: Duration = Duration::from_secs(20);

impl Ring {
    /// The ways to these peers, or to all, not yet asked.
    pub(crate) fn lanes(&self, peers: &[NodeName]) -> Answer {
        let known = |name: &&NodeName| self.world.peers().any(|peer| peer.name == **name);
        if let Some(unknown) = peers.iter().find(|name| !known(name)) {
            let message = format!("there is no other node {unknown}; see those there are: tartan nodes");
            return failure(FailureCode::NotFound, message);
        }
        let mut rows = Vec::new();
        for peer in self.world.peers().filter(|peer| peers.is_empty() || peers.contains(&peer.name)) {
            let decision = self.world.decide(&tartan_decide::Scope::Peer(peer.id));
            let lanes = self.world.lanes(peer, &decision);
            rows.extend(lanes.into_iter().map(|lane| unasked(peer.name.clone(), lane)));
        }
        ok(&rows)
    }
}

impl Service {
    /// Probes, and waits for the answers.
    pub(crate) fn survey(&self, peers: Vec<NodeName>) -> Result<Answer, Failure> {
        let rows: Vec<CheckRow> = match self.ask(crate::input::Question::Lanes(peers)) {
            Answer::Ok(rows) => serde_json::from_value(rows).map_err(|error| wrong(error.to_string()))?,
            Answer::Error(failure) => return Err(failure),
        };
        let id = u16::try_from(chance() & 0xffff).unwrap_or(0);
        let sockets = EchoSockets::open(id)
            .map_err(|error| wrong(format!("cannot probe: {error}; tartand needs CAP_NET_RAW")))?;
        let mut survey = Survey::new(rows.into_iter().map(asked));
        run(&mut survey, &sockets, id);
        let rows: Vec<CheckRow> = survey.into_rows().into_iter().map(answered).collect();
        Ok(ok(&rows))
    }
}

fn run(survey: &mut Survey<NodeName>, sockets: &EchoSockets, id: u16) {
    let start = Instant::now();
    while !survey.is_done() && start.elapsed() < PATIENCE {
        for probe in survey.tick(start.elapsed(), &mut chance) {
            // One that cannot be sent gets no answer.
            let _ = sockets.send(probe.local, probe.remote, &encode(&probe, id));
        }
        wait_for_answers(survey, sockets, start);
    }
}

/// Takes answers until the next probes are due.
fn wait_for_answers(survey: &mut Survey<NodeName>, sockets: &EchoSockets, start: Instant) {
    let due = survey.due(start.elapsed());
    loop {
        let left = due.saturating_sub(start.elapsed());
        if left.is_zero() || survey.is_done() {
            return;
        }
        let mut fds: Vec<PollFd<'_>> = sockets.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // An interrupted wait looks once too often, which is harmless.
        let _ = poll(&mut fds, PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX));
        let now: Moment = start.elapsed();
        for (family, heard) in sockets.answers() {
            if let Some(echo) = decode(family, &heard.message).filter(|echo| echo.kind == EchoKind::Reply) {
                survey.answered(Reply { from: heard.from, nonce: echo.nonce }, now);
            }
        }
    }
}

fn unasked(node: NodeName, lane: Lane) -> CheckRow {
    CheckRow {
        node,
        network: lane.network,
        path: lane.path,
        local: lane.local,
        remote: lane.remote,
        mtu: lane.full,
        small_ms: None,
        full_ms: None,
        ok: false,
        reason: None,
    }
}

fn asked(row: CheckRow) -> (NodeName, Lane) {
    let CheckRow { node, network, path, local, remote, mtu, .. } = row;
    (node, Lane { network, path, local, remote, full: mtu })
}

fn answered(found: Surveyed<NodeName>) -> CheckRow {
    let Surveyed { whose, lane, small, full, asked } = found;
    let mtu = lane.full;
    let reason = match (small, full) {
        (Some(_), Some(_)) => None,
        (Some(_), None) => Some(format!("large packets are lost: {mtu} bytes get no answer, small ones do")),
        (None, Some(_)) => Some("small packets are lost, large ones get an answer".into()),
        (None, None) if asked => Some("no answer".into()),
        (None, None) => Some("not asked: there are too many; name some".into()),
    };
    CheckRow {
        small_ms: small.map(millis),
        full_ms: full.map(millis),
        ok: reason.is_none(),
        reason,
        ..unasked(whose, lane)
    }
}

fn wrong(message: String) -> Failure {
    Failure { code: FailureCode::Kernel, message }
}
