//! A kernel's state, as far as Tartan looks at it.

use std::collections::BTreeMap;

use tartan_model::IfName;

use crate::policy::PolicyKey;
use crate::{Key, Row, Rows};

/// What a kernel has: our rows, and the names that others have taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// The rows that bear our mark.
    pub rows: Rows,
    /// Links that are not ours.
    pub foreign: BTreeMap<IfName, ForeignLink>,
}

/// A link that is not ours: all that is of interest is whether it can carry something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignLink {
    /// Whether it is administratively up.
    pub up: bool,
}

/// One thing that a kernel told of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A row of ours is there, new or changed.
    Is(Row),
    /// Nothing of ours has this key, any more or at all; what had it may have been somebody else's.
    Gone(Key),
    /// A link that is not ours is there.
    Foreign(IfName, ForeignLink),
}

impl Notice {
    /// What the notice is about.
    pub fn key(&self) -> Key {
        match self {
            Notice::Is(row) => row.key(),
            Notice::Gone(key) => key.clone(),
            Notice::Foreign(name, _) => Key::Link(name.clone()),
        }
    }
}

impl Host {
    /// Takes in what the kernel told; gives back whether our rows changed by it.
    pub fn learn(&mut self, notice: Notice) -> bool {
        match notice {
            Notice::Is(row) => {
                if let Row::Link(link) = &row {
                    self.foreign.remove(&link.name);
                }
                let is_new = self.rows.get(&row.key()) != Some(&row);
                if is_new {
                    self.rows.insert(row);
                }
                is_new
            }
            Notice::Gone(key) => {
                if let Key::Link(name) = &key {
                    self.foreign.remove(name);
                    self.forget_link(name);
                }
                let there = self.rows.get(&key).is_some();
                match &key {
                    Key::Ruleset => self.forget_ruleset(),
                    Key::Policy(key) => self.forget_with(*key),
                    _ => {}
                }
                self.rows.remove(&key);
                there
            }
            Notice::Foreign(name, link) => {
                self.foreign.insert(name, link);
                false
            }
        }
    }

    /// Elements go with the ruleset.
    pub(crate) fn forget_ruleset(&mut self) {
        self.rows.retain(|row| !matches!(row, Row::Ruleset(_) | Row::Element(_)));
    }

    /// What goes with a row of the table of policies: all others with the table, members with their remotes.
    pub(crate) fn forget_with(&mut self, key: PolicyKey) {
        let gone: Vec<Key> = match key {
            PolicyKey::Judge => self.rows.policy_keys().cloned().collect(),
            PolicyKey::Remotes(remotes) => self.rows.member_keys(remotes).cloned().collect(),
            _ => Vec::new(),
        };
        for key in &gone {
            self.rows.remove(key);
        }
    }

    /// A link takes along everything that stands on it.
    pub(crate) fn forget_link(&mut self, name: &IfName) {
        let on = self.rows.keys_on(name).chain(self.rows.route_keys_on(name));
        for key in on.cloned().collect::<Vec<_>>() {
            self.rows.remove(&key);
        }
    }
}
