//! `tartan apply --wait`: asks every live agent, through the store, whether its kernel has everything.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tartan_api::rpc::{Answer, Failure, FailureCode};
use tartan_store::{Change, Durability, Expect, StoreError, Watch};

use crate::entry::{HEARD, Heard, WAITS};
use crate::serve::{Service, ok, store};

/// How long the agents may take: longer than each of them tries to settle.
const PATIENCE: Duration = Duration::from_secs(15);

/// What each agent answered, by its node's id.
type Answers = BTreeMap<String, Heard>;

impl Service {
    /// Waits until every live agent has in its kernel what is in the store.
    pub(crate) fn wait(&self) -> Result<Answer, Failure> {
        let number = self.waits.fetch_add(1, Ordering::Relaxed);
        let wait = format!("{}-{number}", self.id);
        let outcome = self.ask_all(&wait);
        self.forget(&wait).map_err(store)?;
        let (names, answers) = outcome.map_err(store)?;
        let late: Vec<String> =
            names.iter().filter_map(|(id, name)| complaint(name, answers.get(id))).collect();
        if late.is_empty() {
            return Ok(ok(&()));
        }
        Err(Failure {
            code: FailureCode::NotSettled,
            message: format!("it is in the store, but not everywhere in the kernel: {}", late.join("; ")),
        })
    }

    /// The live agents' names by id, and what they answered.
    fn ask_all(&self, wait: &str) -> Result<(BTreeMap<String, String>, Answers), StoreError> {
        let prefix = format!("{HEARD}{wait}/");
        let mut watch = self.store.watch(&prefix, self.store.list(&prefix)?.revision)?;
        let live = self.store.leases()?.into_iter().filter(|lease| lease.expires_in.is_some());
        let names: BTreeMap<String, String> = live.map(|lease| (lease.holder, lease.name)).collect();
        self.store.put(&format!("{WAITS}{wait}"), b"", Expect::Absent, Durability::Crash)?;
        let deadline = Instant::now() + PATIENCE;
        let mut answers = Answers::new();
        while !names.keys().all(|id| answers.contains_key(id)) && Instant::now() < deadline {
            sleep_until_told(watch.as_ref(), deadline);
            for change in watch.changes()? {
                answers.extend(heard(&prefix, &change));
            }
        }
        Ok((names, answers))
    }

    fn forget(&self, wait: &str) -> Result<(), StoreError> {
        self.store.delete(&format!("{WAITS}{wait}"), Expect::Any)?;
        for entry in self.store.list(&format!("{HEARD}{wait}/"))?.entries {
            self.store.delete(&entry.key, Expect::Any)?;
        }
        Ok(())
    }
}

fn sleep_until_told(watch: &dyn Watch, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
    // An interrupted wait looks once too often, which is harmless.
    let _ = poll(&mut [PollFd::new(watch.as_fd(), PollFlags::POLLIN)], timeout);
}

fn heard(prefix: &str, change: &Change) -> Option<(String, Heard)> {
    let Change::Put(entry) = change else { return None };
    let id = entry.key.strip_prefix(prefix)?;
    Some((id.into(), serde_json::from_slice(&entry.value).ok()?))
}

fn complaint(name: &str, answer: Option<&Heard>) -> Option<String> {
    match answer {
        Some(Heard { reasons }) if reasons.is_empty() => None,
        Some(Heard { reasons }) => Some(format!("{name}: {}", reasons.join(", "))),
        None => Some(format!("{name}: it has not answered within {} s", PATIENCE.as_secs())),
    }
}
