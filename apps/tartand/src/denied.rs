//! `tartan denied`: what the guards refused by the kernel's counters, and what policies did by its packet log.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use tartan_api::rpc::{Failure, FailureCode};
use tartan_api::verb::DeniedRow;
use tartan_decide::Denials;
use tartan_host::Reason;
use tartan_kernel::DenialLog;
use tartan_model::IfName;

use crate::ring::Ring;

/// The packet log, and what was heard of it.
pub(crate) struct Listening {
    /// None where it cannot be had, with why not.
    log: Result<DenialLog, String>,
    /// By how long after this.
    heard: Denials,
    since: Instant,
}

impl Listening {
    /// Listens in the calling thread's network namespace.
    pub(crate) fn start() -> Listening {
        Listening { log: open(), heard: Denials::default(), since: Instant::now() }
    }

    /// Readable when something was refused.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.log.as_ref().ok().map(AsFd::as_fd)
    }

    /// Hears what was refused since the last time. Never waits.
    pub(crate) fn hear(&mut self) {
        let Ok(log) = &mut self.log else { return };
        let now = self.since.elapsed();
        log.drain(|denial| self.heard.note(&denial, now));
    }

    /// How often not all could be heard.
    pub(crate) fn lost(&self) -> u64 {
        self.log.as_ref().map_or(0, DenialLog::lost)
    }

    /// Listens if somebody else did before.
    fn listen_again(&mut self) {
        if self.log.is_err() {
            self.log = open();
        }
    }
}

fn open() -> Result<DenialLog, String> {
    DenialLog::open().map_err(|error| format!("{:#}", anyhow::Error::new(error)))
}

impl Ring {
    /// What the guards and policies refused.
    pub(crate) fn denied(&mut self) -> Result<Vec<DeniedRow>, Failure> {
        self.denial_log.listen_again();
        self.denial_log.hear();
        let mut rows = self.guarded()?;
        let now = self.denial_log.since.elapsed();
        let told = self.world.report_denials(&self.denial_log.heard, |at| self.time(now.saturating_sub(at)));
        rows.extend(told);
        Ok(rows)
    }

    /// What the guards refused, by pod and reason; the counters of one interface in several tables make one row.
    pub(crate) fn guarded(&mut self) -> Result<Vec<DeniedRow>, Failure> {
        let counted = self.loop_.kernel().denied().map_err(|error| Failure {
            code: FailureCode::Kernel,
            message: format!("cannot read what was refused: {error}"),
        })?;
        let mut rows: BTreeMap<(IfName, Reason), (u64, u64)> = BTreeMap::new();
        for denied in counted {
            let (packets, bytes) = rows.entry((denied.interface, denied.reason)).or_default();
            *packets = packets.saturating_add(denied.packets);
            *bytes = bytes.saturating_add(denied.bytes);
        }
        let row = |((link, reason), (packets, bytes)): ((IfName, Reason), (u64, u64))| DeniedRow {
            pod: self.world.pod_of(&link).cloned(),
            link: Some(link),
            reason: reason.to_string(),
            packets,
            bytes,
            connection: None,
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// Why `tartan denied` does not tell what policies refuse.
    pub(crate) fn unheard(&self) -> Option<String> {
        let reason = self.denial_log.log.as_ref().err()?;
        let has_policies = self.world.networks().any(|network| network.policy);
        has_policies.then(|| {
            format!(
                "tartan denied cannot tell what policies refuse: {reason}; end whoever else listens, then ask it again"
            )
        })
    }
}
