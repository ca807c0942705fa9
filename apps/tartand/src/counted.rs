//! A store whose operations are counted.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use tartan_store::{Change, Durability, Entry, Expect, Lease, Listing, Revision, Store, StoreError, Watch};

use crate::metrics::{Metrics, StoreLabels};

/// A store, and where its operations are counted.
pub(crate) struct Counted<S> {
    store: S,
    metrics: Arc<Metrics>,
}

impl<S> Counted<S> {
    pub(crate) fn new(store: S, metrics: Arc<Metrics>) -> Counted<S> {
        Counted { store, metrics }
    }

    fn count<T>(&self, operation: &'static str, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        count(&self.metrics, operation, &outcome);
        outcome
    }
}

/// Answers such as "somebody else was first" are no errors.
fn count<T>(metrics: &Metrics, operation: &'static str, outcome: &Result<T, StoreError>) {
    let outcome = if matches!(outcome, Err(StoreError::Unavailable { .. })) { "error" } else { "ok" };
    metrics.store_operations.get_or_create(&StoreLabels { operation, outcome }).inc();
}

fn see(metrics: &Metrics, revision: Revision) {
    metrics.store_revision.set(i64::try_from(revision.0).unwrap_or(i64::MAX));
}

impl<S: Store> Store for Counted<S> {
    fn kind(&self) -> &'static str {
        self.store.kind()
    }

    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.count("get", self.store.get(key))
    }

    fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let listing = self.count("list", self.store.list(prefix))?;
        see(&self.metrics, listing.revision);
        Ok(listing)
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        let watch = self.count("watch", self.store.watch(prefix, after))?;
        Ok(Box::new(CountedWatch { watch, metrics: self.metrics.clone() }))
    }

    fn put(
        &self,
        key: &str,
        value: &[u8],
        expect: Expect,
        durability: Durability,
    ) -> Result<Revision, StoreError> {
        self.count("put", self.store.put(key, value, expect, durability))
    }

    fn delete(&self, key: &str, expect: Expect) -> Result<Option<Revision>, StoreError> {
        self.count("delete", self.store.delete(key, expect))
    }

    fn take_lease(&self, name: &str, holder: &str, ttl: Duration, force: bool) -> Result<(), StoreError> {
        self.count("take_lease", self.store.take_lease(name, holder, ttl, force))
    }

    fn renew_lease(&self, name: &str, holder: &str, ttl: Duration) -> Result<(), StoreError> {
        self.count("renew_lease", self.store.renew_lease(name, holder, ttl))
    }

    fn release_lease(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        self.count("release_lease", self.store.release_lease(name, holder))
    }

    fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.count("leases", self.store.leases())
    }
}

struct CountedWatch {
    watch: Box<dyn Watch>,
    metrics: Arc<Metrics>,
}

impl Watch for CountedWatch {
    fn changes(&mut self) -> Result<Vec<Change>, StoreError> {
        let changes = self.watch.changes();
        count(&self.metrics, "changes", &changes);
        if let Some(last) = changes.iter().flatten().last() {
            see(&self.metrics, last.revision());
        }
        changes
    }
}

impl AsFd for CountedWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}
