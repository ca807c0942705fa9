//! Whether what etcd tells goes on from what it told before, or is another store's, or an earlier state of the same.
//!
//! Four signs, none of which is enough by itself: a mark that the first agent leaves in an empty store (a wiped cluster that
//! is made with the same flags has the same cluster id), the cluster's id, and the revision and the term of its leader,
//! which never go back as long as the data is the same (a restored snapshot has the mark of before).

use serde::{Deserialize, Serialize};
use tartan_store::History;

use crate::fault::Fault;
use crate::wire::{Header, KeyValue};

/// The format of what we keep in etcd (decision 5).
pub(crate) const FORMAT: u32 = 1;

/// The mark of a store.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Marker {
    pub(crate) format: u32,
    pub(crate) id: String,
}

/// What was seen of a store's history.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    cluster: u64,
    term: u64,
    revision: i64,
    store: Option<String>,
    /// How often the history became another.
    pub(crate) epoch: u64,
}

/// What no later answer may fall below.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Floor {
    term: u64,
    revision: i64,
    epoch: u64,
}

impl Seen {
    /// What an answer to a question that is asked now must not fall below. Answers overtake each other, so it is taken
    /// before the question is sent.
    pub(crate) fn floor(&self) -> Floor {
        Floor { term: self.term, revision: self.revision, epoch: self.epoch }
    }

    /// Takes in the header of an answer from the majority.
    pub(crate) fn hear(&mut self, header: Header, floor: Floor) {
        // Asked before the change was seen, it may be an answer of either history.
        if floor.epoch != self.epoch {
            return;
        }
        let moved = self.cluster != 0 && self.cluster != header.cluster_id;
        if moved || header.revision < floor.revision || header.raft_term < floor.term {
            self.epoch += 1;
            self.revision = 0;
            self.term = 0;
        }
        self.cluster = header.cluster_id;
        self.revision = self.revision.max(header.revision);
        self.term = self.term.max(header.raft_term);
    }

    /// Takes in the mark that was found.
    pub(crate) fn find(&mut self, store: &str) {
        if self.store.as_deref().is_some_and(|known| known != store) {
            self.epoch += 1;
        }
        self.store = Some(store.to_owned());
    }

    /// Takes in that there is no mark.
    pub(crate) fn miss(&mut self) {
        if self.store.take().is_some() {
            self.epoch += 1;
        }
    }

    /// For those who list.
    pub(crate) fn history(&self) -> History {
        History { store: self.store.clone().unwrap_or_default(), epoch: self.epoch }
    }
}

/// Reads the mark; refuses what a later release wrote.
pub(crate) fn marker_of(entry: &KeyValue) -> Result<Marker, Fault> {
    let key = || String::from_utf8_lossy(&entry.key).into_owned();
    let marker: Marker = serde_json::from_slice(&entry.value)
        .map_err(|error| Fault::Spoilt { key: key(), reason: error.to_string() })?;
    if marker.format > FORMAT {
        return Err(Fault::Newer { found: marker.format, known: FORMAT });
    }
    Ok(marker)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(cluster_id: u64, revision: i64, raft_term: u64) -> Header {
        Header { cluster_id, revision, raft_term }
    }

    fn heard(seen: &mut Seen, header: Header) -> u64 {
        let floor = seen.floor();
        seen.hear(header, floor);
        seen.epoch
    }

    #[test]
    fn what_goes_on_is_one_history() {
        let mut seen = Seen::default();
        let headers = [header(1, 5, 2), header(1, 5, 2), header(1, 9, 3), header(1, 9, 4)];
        assert!(headers.into_iter().all(|header| heard(&mut seen, header) == 0));
    }

    #[test]
    fn answers_that_overtake_each_other_are_no_way_back() {
        let mut seen = Seen::default();
        let (first, second) = (seen.floor(), seen.floor());
        seen.hear(header(1, 8, 2), second);
        seen.hear(header(1, 7, 2), first);
        assert_eq!(seen.epoch, 0);
        assert_eq!(heard(&mut seen, header(1, 7, 2)), 1, "asked after 8 was told");
    }

    #[test]
    fn another_cluster_an_earlier_revision_an_earlier_term_and_another_mark_are_another_history() {
        for other in [header(2, 9, 3), header(1, 8, 3), header(1, 9, 2)] {
            let mut seen = Seen::default();
            heard(&mut seen, header(1, 9, 3));
            assert_eq!(heard(&mut seen, other), 1, "{other:?}");
            assert_eq!(heard(&mut seen, other), 1, "{other:?} is what there is from now on");
        }
        let mut seen = Seen::default();
        seen.find("a");
        seen.find("a");
        assert_eq!(seen.epoch, 0);
        seen.find("b");
        assert_eq!(seen.history(), History { store: "b".into(), epoch: 1 });
        seen.miss();
        seen.miss();
        seen.find("c");
        assert_eq!(seen.history(), History { store: "c".into(), epoch: 2 });
    }
}
