//! The table of policies in the kernel made of data: what refers to something needs it, and keeps it from going.

use crate::policy::{Direction, Identity, PolicyKey, PolicyRow, RemotesId};
use crate::{Host, Key, Row, StepError};

/// `EBUSY` (errno(3)).
const BUSY: i32 = 16;

impl Host {
    /// A verdict names its chain, a rule its map (net/netfilter/nf_tables_api.c, `nft_verdict_init`; ENOENT).
    pub(crate) fn put_policy(&mut self, row: &PolicyRow) -> Result<(), StepError> {
        let needs = match row {
            PolicyRow::Judge(judge) => {
                let row = PolicyRow::Judge(crate::policy::Judge { intact: true, ..judge.clone() });
                self.rows.insert(Row::Policy(row));
                return Ok(());
            }
            PolicyRow::Remotes(_) | PolicyRow::Own(_) => Vec::new(),
            PolicyRow::Member(member) => vec![PolicyKey::Remotes(member.remotes)],
            PolicyRow::Identity(identity) => remotes_of(identity).map(PolicyKey::Remotes).collect(),
            PolicyRow::Judged(judged) => {
                // The chain that is jumped to bears the direction in its name.
                if self.direction_of(PolicyKey::Identity(judged.identity)) != Some(judged.direction) {
                    return Err(StepError::NoRuleset);
                }
                Vec::new()
            }
        };
        let there = |key: &PolicyKey| self.rows.policy(*key).is_some();
        if !there(&PolicyKey::Judge) || !needs.iter().all(there) {
            return Err(StepError::NoRuleset);
        }
        if let PolicyRow::Identity(identity) = row
            && self.direction_of(row.key()).is_some_and(|was| was != identity.direction)
        {
            self.refuse_if_used(row.key())?;
        }
        self.rows.insert(Row::Policy(row.clone()));
        Ok(())
    }

    /// A chain that something leads to stays (`nf_tables_delchain`); maps go with what is in them.
    pub(crate) fn remove_policy(&mut self, key: PolicyKey) -> Result<(), StepError> {
        if key != PolicyKey::Judge {
            self.refuse_if_used(key)?;
        }
        self.forget_with(key);
        self.rows.remove(&Key::Policy(key));
        Ok(())
    }

    fn direction_of(&self, identity: PolicyKey) -> Option<Direction> {
        match self.rows.policy(identity) {
            Some(PolicyRow::Identity(identity)) => Some(identity.direction),
            _ => None,
        }
    }

    fn refuse_if_used(&self, key: PolicyKey) -> Result<(), StepError> {
        let uses = |row: &PolicyRow| match (row, key) {
            (PolicyRow::Identity(identity), PolicyKey::Remotes(id)) => {
                remotes_of(identity).any(|remotes| remotes == id)
            }
            (PolicyRow::Judged(judged), PolicyKey::Identity(id)) => judged.identity == id,
            _ => false,
        };
        if self.rows.policies().any(uses) {
            return Err(StepError::Kernel { errno: BUSY, text: "Device or resource busy".into() });
        }
        Ok(())
    }
}

fn remotes_of(identity: &Identity) -> impl Iterator<Item = RemotesId> + '_ {
    identity.ports.iter().map(|class| class.remotes).chain([identity.otherwise])
}
