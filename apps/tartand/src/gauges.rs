//! Metrics that are taken when somebody asks for them.

use std::collections::BTreeMap;
use std::fs;

use tartan_host::Reason;
use tartan_host::policy::Direction;
use tartan_model::{Family, IfName};
use tartan_probe::{Counters, Health};
use tartan_store::Lease;

use crate::metrics::{
    BlockLabels, DirectionLabels, FamilyLabels, KindLabels, PeerLabels, ReasonLabels, TableLabels, set,
};
use crate::ring::Ring;

/// What had been counted when it was last read: the kernel's counters go with what they count.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    /// By the guards, by interface and reason.
    guards: BTreeMap<(IfName, Reason), u64>,
    /// By policies.
    policies: BTreeMap<&'static str, u64>,
}

impl Ring {
    /// Brings every metric up to date that is not counted as it happens.
    pub(crate) fn gauge(&mut self, leases: Option<&[Lease]>) {
        let metrics = self.metrics.clone();
        let _whole = metrics.hold();
        metrics.healthy.set(i64::from(self.reasons(leases).is_empty()));
        metrics.ready.set(i64::from(self.unreadiness(leases).is_empty()));
        metrics.endpoints.set(count(self.world.endpoints().count()));
        let kind = KindLabels { kind: self.store_kind };
        metrics.store_connected.get_or_create(&kind).set(i64::from(self.store.is_ok() && leases.is_some()));
        self.gauge_peers();
        self.gauge_blocks();
        self.gauge_loop();
        self.gauge_denied();
        self.gauge_process();
    }

    fn gauge_peers(&self) {
        let metrics = &self.metrics;
        metrics.peers.clear();
        for peer in self.world.peers() {
            let mut lanes = self.probing.engine.report(&peer.id);
            let path = lanes.next().map_or_else(|| "none".into(), |lane| lane.path.to_string());
            let state = state(self.probing.engine.health(&peer.id));
            metrics.peers.get_or_create(&PeerLabels { state, path }).inc();
        }
        let Counters { sent, lost } = self.probing.engine.counters();
        for (place, family) in Family::ALL.into_iter().enumerate() {
            let labels = FamilyLabels { family: word(family) };
            let of = |counts: [u64; 2]| counts.get(place).copied().unwrap_or(0);
            set(&metrics.probes.get_or_create(&labels), of(sent));
            set(&metrics.probes_lost.get_or_create(&labels), of(lost));
        }
    }

    fn gauge_blocks(&self) {
        let metrics = &self.metrics;
        metrics.blocks.clear();
        metrics.addresses_used.clear();
        metrics.addresses_capacity.clear();
        for network in self.world.networks() {
            for block in self.world.blocks_of(&network.name, &self.world.this()) {
                let labels = BlockLabels { network: network.name.to_string(), family: word(block.family()) };
                metrics.blocks.get_or_create(&labels).inc();
                let used = self.world.used(&network.name, &block).unwrap_or(0);
                metrics.addresses_used.get_or_create(&labels).inc_by(count(used));
                let capacity = tartan_decide::capacity(&block) as f64;
                metrics.addresses_capacity.get_or_create(&labels).inc_by(capacity);
            }
        }
    }

    fn gauge_loop(&self) {
        let (metrics, tally) = (&self.metrics, self.loop_.tally());
        for (table, repairs) in &tally.repairs {
            set(&metrics.repairs.get_or_create(&TableLabels { table }), *repairs);
        }
        set(&metrics.kernel_errors, tally.errors);
        set(&metrics.notices, tally.notices);
        set(&metrics.notices_lost, tally.lost);
    }

    /// The kernel's counters go with their interfaces and with their table, ours only grow.
    fn gauge_denied(&mut self) {
        // What cannot be read is told as a kernel error elsewhere; what was counted stays.
        if let Ok(counted) = self.loop_.kernel().denied() {
            let mut now = BTreeMap::new();
            for denied in counted {
                let sum: &mut u64 = now.entry((denied.interface, denied.reason)).or_default();
                *sum = sum.saturating_add(denied.packets);
            }
            for ((interface, reason), packets) in &now {
                let before = self.counted.guards.get(&(interface.clone(), *reason));
                let labels = ReasonLabels { reason: reason.to_string() };
                self.metrics.denied.get_or_create(&labels).inc_by(grown(before, *packets));
            }
            self.counted.guards = now;
        }
        if let Ok(counted) = self.loop_.kernel().denied_by_policies() {
            for (direction, packets) in counted {
                let direction = direction_word(direction);
                let before = self.counted.policies.insert(direction, packets);
                let labels = DirectionLabels { direction };
                let counter = self.metrics.policy_denied.get_or_create(&labels).clone();
                counter.inc_by(grown(before.as_ref(), packets));
            }
        }
        set(&self.metrics.policy_log_lost, self.denial_log.lost());
    }

    fn gauge_process(&self) {
        let metrics = &self.metrics;
        if let Some((cpu, resident)) = process() {
            metrics.resident.set(resident);
            metrics.cpu.inner().store(cpu.to_bits(), std::sync::atomic::Ordering::Relaxed);
        }
        let descriptors = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        metrics.descriptors.set(count(descriptors));
        metrics.start_time.set(self.started_at());
    }
}

/// CPU time in seconds and resident memory in bytes, of this process (proc_pid_stat(5)).
fn process() -> Option<(f64, i64)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<i64>().ok();
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    // utime, stime and rss, counted from the field behind the name.
    Some(((number(11)? + number(12)?) as f64 / ticks as f64, number(21)? * page))
}

/// By how much a counter has grown, which may have been made anew.
fn grown(before: Option<&u64>, now: u64) -> u64 {
    now.checked_sub(before.copied().unwrap_or(0)).unwrap_or(now)
}

/// In which direction policies refuse; what is a part of no connection in none.
pub(crate) fn direction_word(direction: Option<Direction>) -> &'static str {
    match direction {
        Some(Direction::Ingress) => "ingress",
        Some(Direction::Egress) => "egress",
        None => "none",
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn word(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}

fn state(health: Health) -> &'static str {
    match health {
        Health::Works => "works",
        Health::Unknown => "unknown",
        Health::LargeLost => "large_packets_lost",
        Health::OneWay => "one_way",
        Health::Dead => "dead",
    }
}
