//! What the agent counts and measures. Names are a promise: `docs/reference/metrics.md` lists them, and a test compares.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tartan_api::VERSION;
use tartan_host::TABLES;
use tartan_host::policy::Direction;

use crate::gauges::direction_word;

/// Seconds: from a tenth of a millisecond to some seconds.
const TIMES: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

type Float = Gauge<f64, AtomicU64>;
type Seconds = Counter<f64, AtomicU64>;

/// Peers by what probes tell and how they are reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PeerLabels {
    pub(crate) state: &'static str,
    pub(crate) path: String,
}

/// A family of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FamilyLabels {
    pub(crate) family: &'static str,
}

/// A family of a network.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct BlockLabels {
    pub(crate) network: String,
    pub(crate) family: &'static str,
}

/// A request of a container runtime, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CniLabels {
    pub(crate) verb: &'static str,
    pub(crate) outcome: &'static str,
}

/// A kind of kernel objects.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct TableLabels {
    pub(crate) table: &'static str,
}

/// An operation on the store, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StoreLabels {
    pub(crate) operation: &'static str,
    pub(crate) outcome: &'static str,
}

/// A store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct KindLabels {
    pub(crate) kind: &'static str,
}

/// Why packets were refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabels {
    pub(crate) reason: String,
}

/// In which direction policies refused packets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DirectionLabels {
    pub(crate) direction: &'static str,
}

#[derive(Clone)]
pub(crate) struct Times;

impl MetricConstructor<Histogram> for Times {
    fn new_metric(&self) -> Histogram {
        Histogram::new(TIMES)
    }
}

/// All of them; each may be used from any thread.
pub(crate) struct Metrics {
    pub(crate) healthy: Gauge,
    pub(crate) ready: Gauge,
    pub(crate) peers: Family<PeerLabels, Gauge>,
    pub(crate) probe_rtt: Histogram,
    pub(crate) probes: Family<FamilyLabels, Counter>,
    pub(crate) probes_lost: Family<FamilyLabels, Counter>,
    pub(crate) endpoints: Gauge,
    pub(crate) blocks: Family<BlockLabels, Gauge>,
    pub(crate) addresses_used: Family<BlockLabels, Gauge>,
    pub(crate) addresses_capacity: Family<BlockLabels, Float>,
    pub(crate) cni: Family<CniLabels, Histogram, Times>,
    pub(crate) repairs: Family<TableLabels, Counter>,
    pub(crate) kernel_errors: Counter,
    pub(crate) notices: Counter,
    pub(crate) notices_lost: Counter,
    pub(crate) turns: Histogram,
    pub(crate) store_connected: Family<KindLabels, Gauge>,
    pub(crate) store_operations: Family<StoreLabels, Counter>,
    pub(crate) store_revision: Gauge,
    pub(crate) denied: Family<ReasonLabels, Counter>,
    pub(crate) policy_denied: Family<DirectionLabels, Counter>,
    pub(crate) policy_log_lost: Counter,
    pub(crate) resident: Gauge,
    pub(crate) cpu: Seconds,
    pub(crate) descriptors: Gauge,
    pub(crate) start_time: Float,
    /// Held while they are brought up to date, and while they are written as text.
    whole: Mutex<()>,
    registry: Registry,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let mut metrics = Metrics {
            healthy: Gauge::default(),
            ready: Gauge::default(),
            peers: Family::default(),
            probe_rtt: Histogram::new(TIMES),
            probes: Family::default(),
            probes_lost: Family::default(),
            endpoints: Gauge::default(),
            blocks: Family::default(),
            addresses_used: Family::default(),
            addresses_capacity: Family::default(),
            cni: Family::new_with_constructor(Times),
            repairs: Family::default(),
            kernel_errors: Counter::default(),
            notices: Counter::default(),
            notices_lost: Counter::default(),
            turns: Histogram::new(TIMES),
            store_connected: Family::default(),
            store_operations: Family::default(),
            store_revision: Gauge::default(),
            denied: Family::default(),
            policy_denied: Family::default(),
            policy_log_lost: Counter::default(),
            resident: Gauge::default(),
            cpu: Seconds::default(),
            descriptors: Gauge::default(),
            start_time: Float::default(),
            whole: Mutex::default(),
            registry: Registry::default(),
        };
        metrics.register();
        metrics.begin();
        metrics
    }

    /// What may happen is 0 before it does, so that its first time is seen as a growth.
    fn begin(&self) {
        for (verb, outcome) in ["add", "del"].into_iter().flat_map(|verb| ["ok", "error"].map(|o| (verb, o)))
        {
            drop(self.cni.get_or_create(&CniLabels { verb, outcome }));
        }
        for table in TABLES {
            drop(self.repairs.get_or_create(&TableLabels { table }));
        }
        for reason in tartan_host::Reason::ALL {
            drop(self.denied.get_or_create(&ReasonLabels { reason: reason.to_string() }));
        }
        for direction in [Some(Direction::Ingress), Some(Direction::Egress), None].map(direction_word) {
            drop(self.policy_denied.get_or_create(&DirectionLabels { direction }));
        }
    }

    fn register(&mut self) {
        let of = self.registry.sub_registry_with_prefix("tartan");
        of.register("build", "The agent's version", Info::new([("version", VERSION)]));
        of.register("healthy", "1 if tartan status calls this node healthy", self.healthy.clone());
        of.register("ready", "1 if /readyz answers 200", self.ready.clone());
        of.register("peers", "Other nodes by what probes tell and the path in use", self.peers.clone());
        let (rtt, seconds) = (self.probe_rtt.clone(), || Unit::Seconds);
        of.register_with_unit("probe_rtt", "Round trips of probes to peers", seconds(), rtt);
        of.register("probes", "Probes sent", self.probes.clone());
        of.register("probes_lost", "Probes without an answer within half a second", self.probes_lost.clone());
        of.register("endpoints", "Pods' interfaces on this node", self.endpoints.clone());
        of.register("blocks", "Blocks that this node holds", self.blocks.clone());
        of.register("addresses_used", "Pods' addresses in use in them", self.addresses_used.clone());
        let capacity = self.addresses_capacity.clone();
        of.register("addresses_capacity", "Pods' addresses in them in all", capacity);
        let cni = self.cni.clone();
        of.register_with_unit("cni_request_duration", "Container runtimes' requests", seconds(), cni);
        of.register("repairs", "Kernel objects put right after somebody changed them", self.repairs.clone());
        of.register("kernel_errors", "What the kernel refused or failed to do", self.kernel_errors.clone());
        of.register("kernel_notices", "Changes that the kernel told of", self.notices.clone());
        let lost = self.notices_lost.clone();
        of.register("kernel_notices_lost", "Times that the kernel could not tell of all changes", lost);
        of.register_with_unit(
            "ring_turn_duration",
            "Turns of the agent's ring",
            seconds(),
            self.turns.clone(),
        );
        of.register("store_connected", "1 if the store answers", self.store_connected.clone());
        of.register("store_operations", "Operations on the store", self.store_operations.clone());
        of.register("store_revision", "The store's revision that was seen last", self.store_revision.clone());
        of.register("denied_packets", "Packets that the guards refused", self.denied.clone());
        of.register("policy_denied_packets", "Packets that policies refused", self.policy_denied.clone());
        let lost = self.policy_log_lost.clone();
        of.register("policy_log_lost", "Times that the kernel could not tell of all packets it logged", lost);
        let of = self.registry.sub_registry_with_prefix("process");
        of.register_with_unit("resident_memory", "Resident memory", Unit::Bytes, self.resident.clone());
        of.register_with_unit("cpu", "CPU time in all", seconds(), self.cpu.clone());
        of.register("open_fds", "Open descriptors", self.descriptors.clone());
        let start = self.start_time.clone();
        of.register_with_unit("start_time", "Start of the process since the epoch", seconds(), start);
    }

    /// Keeps others from reading what is half brought up to date.
    pub(crate) fn hold(&self) -> MutexGuard<'_, ()> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them as text, and the type of that text: OpenMetrics for those who can read it.
    pub(crate) fn text(&self, accept: &str) -> (&'static str, String) {
        let _whole = self.hold();
        let mut text = String::new();
        // Writing to a string cannot fail.
        if accept.contains("application/openmetrics-text") {
            let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", text)
        } else {
            let _ = prometheus_client::encoding::prometheus_text::encode(&mut text, &self.registry);
            ("text/plain; version=0.0.4; charset=utf-8", text)
        }
    }
}

/// Sets a counter whose count is kept elsewhere.
pub(crate) fn set(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}
