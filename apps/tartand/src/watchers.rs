//! What those who watch the agent ask over HTTP: `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use tartan_api::rpc::Answer;
use tartan_http::{Handler, Reply};
use tartan_store::Store;

use crate::input::{Inbox, Question};
use crate::metrics::Metrics;

/// How long the ring may take to show that it turns.
const TURN: Duration = Duration::from_secs(1);
const TEXT: &str = "text/plain; charset=utf-8";

/// Answers them.
pub(crate) struct Watchers {
    pub(crate) inbox: Inbox,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Handler for Watchers {
    fn handle(&self, path: &str, accept: &str) -> Reply {
        match path {
            "/healthz" => self.health(),
            "/readyz" => self.readiness(),
            "/metrics" => self.metrics(accept),
            _ => text(404, "ask for /metrics, /healthz or /readyz\n".into()),
        }
    }
}

impl Watchers {
    fn health(&self) -> Reply {
        match self.inbox.ask(Question::Alive, TURN) {
            Answer::Ok(_) => text(200, "ok\n".into()),
            Answer::Error(failure) => text(503, format!("{failure}\n")),
        }
    }

    /// One reason a line.
    fn readiness(&self) -> Reply {
        let leases = self.store.leases().ok();
        let reasons = match self.inbox.ask(Question::Readiness(leases), TURN) {
            Answer::Ok(reasons) => serde_json::from_value(reasons).unwrap_or_default(),
            Answer::Error(failure) => vec![failure.message],
        };
        if reasons.is_empty() {
            return text(200, "ready\n".into());
        }
        text(503, reasons.iter().map(|reason| reason.replace('\n', " ") + "\n").collect())
    }

    fn metrics(&self, accept: &str) -> Reply {
        let leases = self.store.leases().ok();
        if let Answer::Error(_) = self.inbox.ask(Question::Gauges(leases), TURN) {
            // What was measured before may not be so any more; counters stay right.
            self.metrics.healthy.set(0);
            self.metrics.ready.set(0);
        }
        let (content_type, body) = self.metrics.text(accept);
        Reply { status: 200, content_type, body }
    }
}

fn text(status: u16, body: String) -> Reply {
    Reply { status, content_type: TEXT, body }
}
