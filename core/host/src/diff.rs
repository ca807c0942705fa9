//! The plan: what has to be done to a kernel so that it has what is wanted.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use tartan_model::{Family, IfName};

use crate::policy::PolicyKey;
use crate::{ForeignLink, Host, Key, LinkKind, Row, Rows, Step};

/// The key of the table of policies.
const JUDGE: Key = Key::Policy(PolicyKey::Judge);

/// What has to be done to `have` so that it has `want`: first built from the ground up, then cleared from the roof
/// down. Settings are set and never taken back; what stands on a link that goes is left to go with it.
/// A VXLAN device that is in the way of one that is to be made goes first, and so do ranges in our sets.
///
/// A veth whose other end is not known cannot be made; it and what stands on it are left out, and so are routes by
/// links of others that are down.
pub fn diff(want: &Rows, have: &Host) -> Vec<Step> {
    plan(want, have, want.keys().chain(have.rows.keys()).collect())
}

/// The same, compared only at `keys`, and at what stands on links that the plan makes anew or takes down. Costs by the
/// number of keys, but for such a link, which is searched for everything on it. Routes over a link that is made, and was
/// not there before, are compared only where they are among the keys.
pub fn diff_keys(want: &Rows, have: &Host, keys: &BTreeSet<Key>) -> Vec<Step> {
    plan(want, have, keys.iter().collect())
}

fn plan<'a>(want: &'a Rows, have: &'a Host, mut keys: BTreeSet<&'a Key>) -> Vec<Step> {
    let comparison = Comparison::new(want, have, &keys);
    comparison.add_dependents(&mut keys);
    let mut keys: Vec<&Key> = keys.into_iter().collect();
    keys.sort_by_key(|key| comparison.place(key));
    let mut steps: Vec<Step> = keys.iter().filter_map(|key| comparison.make_way(key)).collect();
    steps.extend(keys.iter().flat_map(|key| comparison.build(key)));
    steps.extend(keys.iter().rev().filter_map(|key| comparison.clear(key)));
    steps
}

/// Two sets of rows, and the links that do not outlast the plan.
struct Comparison<'a> {
    want: &'a Rows,
    have: &'a Rows,
    foreign: &'a BTreeMap<IfName, ForeignLink>,
    /// Links that are there and no longer wanted.
    removed: BTreeSet<&'a IfName>,
    /// Links that are there and have to be made anew, because something differs that cannot be changed, or be removed
    /// first, because one that is made cannot be beside them.
    replaced: BTreeSet<&'a IfName>,
    /// Links that are up and wanted down, which takes things along.
    lowered: BTreeSet<&'a IfName>,
    /// Links that are wanted and not there.
    created: BTreeSet<&'a IfName>,
}

impl<'a> Comparison<'a> {
    fn new(want: &'a Rows, have: &'a Host, keys: &BTreeSet<&'a Key>) -> Self {
        let mut this = Comparison {
            want,
            have: &have.rows,
            foreign: &have.foreign,
            removed: BTreeSet::new(),
            replaced: BTreeSet::new(),
            lowered: BTreeSet::new(),
            created: BTreeSet::new(),
        };
        for key in keys {
            if let Key::Link(name) = key {
                this.sort_link(name);
            }
        }
        let in_the_way: Vec<_> =
            this.removed.iter().copied().filter(|name| this.is_in_the_way(name)).collect();
        this.replaced.extend(in_the_way);
        this
    }

    /// No two VXLAN devices of a namespace have one VNI and port (`vxlan_vni_in_use`): somebody gave ours another name.
    fn is_in_the_way(&self, name: &IfName) -> bool {
        let kind = self.have.link(name).map(|link| &link.kind);
        let is_same = |created: &&IfName| self.want.link(created).map(|link| &link.kind) == kind;
        matches!(kind, Some(LinkKind::Vxlan { .. })) && self.created.iter().any(is_same)
    }

    fn sort_link(&mut self, name: &'a IfName) {
        match (self.want.link(name), self.have.link(name)) {
            (None, Some(_)) => self.removed.insert(name),
            (Some(want), None) => want.can_be_made() && self.created.insert(name),
            (Some(want), Some(have)) if want.kind != have.kind => {
                want.can_be_made() && self.replaced.insert(name)
            }
            (Some(want), Some(have)) => have.up && !want.up && self.lowered.insert(name),
            (None, None) => false,
        };
    }

    /// What stands on links that are made or taken down, and the ports of bridges that are made anew.
    fn add_dependents(&self, keys: &mut BTreeSet<&'a Key>) {
        if self.ruleset_created(keys) {
            keys.extend(self.want.element_keys());
        }
        self.add_policies(keys);
        keys.extend(self.created.iter().flat_map(|name| self.want.keys_on(name)));
        if !self.replaced.is_empty() || !self.lowered.is_empty() {
            let rests = |row: &Row| self.rests_on_replaced(row) || self.goes_with_lowered(row);
            let all = self.want.entries().chain(self.have.entries());
            keys.extend(all.filter(|(_, row)| rests(row)).map(|(key, _)| key));
        }
    }

    /// Nothing outlives the table of policies, and no member its remotes.
    fn add_policies(&self, keys: &mut BTreeSet<&'a Key>) {
        let is_created = |key: &Key| self.want.get(key).is_some() && self.have.get(key).is_none();
        if keys.contains(&JUDGE) && is_created(&JUDGE) {
            keys.extend(self.want.policy_keys());
        }
        let created = keys.range::<Key, _>(JUDGE..).filter_map(|key| match key {
            Key::Policy(PolicyKey::Remotes(id)) if is_created(key) => Some(*id),
            _ => None,
        });
        let members: Vec<&Key> = created.flat_map(|id| self.want.member_keys(id)).collect();
        keys.extend(members);
    }

    /// Elements do not outlive the ruleset.
    fn ruleset_created(&self, keys: &BTreeSet<&Key>) -> bool {
        keys.contains(&Key::Ruleset)
            && self.want.get(&Key::Ruleset).is_some()
            && self.have.get(&Key::Ruleset).is_none()
    }

    /// A link that is taken down loses its routes, its neighbours and its IPv6 addresses.
    fn goes_with_lowered(&self, row: &Row) -> bool {
        let goes = match row {
            Row::Address(address) => address.address.family() == Family::Ipv6,
            Row::Neighbor(_) | Row::Route(_) => true,
            Row::Ruleset(_)
            | Row::Element(_)
            | Row::Policy(_)
            | Row::Sysctl(_)
            | Row::Link(_)
            | Row::Fdb(_) => false,
        };
        goes && row.on().is_some_and(|link| self.lowered.contains(link))
    }

    fn rests_on_replaced(&self, row: &Row) -> bool {
        let master = if let Row::Link(link) = row { link.master.as_ref() } else { None };
        row.on().or(master).is_some_and(|link| self.replaced.contains(link))
    }

    /// The order of building: that of the keys, but a bridge before its ports, and a link before its settings.
    fn place(&self, key: &Key) -> u8 {
        let kind = |name| self.want.link(name).or_else(|| self.have.link(name)).map(|link| &link.kind);
        match key {
            Key::Ruleset => 0,
            Key::Element(_) => 1,
            Key::Policy(_) => 2,
            Key::Sysctl(key) if key.on().is_none() => 3,
            Key::Link(name) => match kind(name) {
                Some(LinkKind::Bridge) => 4,
                Some(LinkKind::Vxlan { .. }) => 5,
                Some(LinkKind::Veth) | None => 6,
            },
            Key::Sysctl(_) => 7,
            Key::Address(..) => 8,
            Key::Fdb(..) => 9,
            Key::Neighbor(..) => 10,
            Key::Route(..) => 11,
        }
    }

    fn make_way(&self, key: &Key) -> Option<Step> {
        let row = self.have.get(key)?;
        let goes = match row {
            Row::Link(link) => self.removed.contains(&link.name) && self.replaced.contains(&link.name),
            // The kernel refuses a range that shares something with one that is there.
            Row::Element(element) => {
                element.member.is_ranges() && self.want.get(key).is_none() && !self.ruleset_removed()
            }
            _ => false,
        };
        goes.then(|| Step::Remove { row: row.clone() })
    }

    fn build(&self, key: &Key) -> Vec<Step> {
        let Some(to) = self.want.get(key).filter(|row| self.is_possible(row)) else { return Vec::new() };
        let remove = |from: Cow<'_, Row>| Step::Remove { row: from.into_owned() };
        let create = || Step::Create { row: to.clone() };
        match (to, self.found(key)) {
            (_, None) => vec![create()],
            (_, Some(from)) if to.matches(&from) => Vec::new(),
            (Row::Link(link), Some(from)) if self.replaced.contains(&link.name) => {
                vec![remove(from), create()]
            }
            // The kernel replaces an address without taking over its scope (`inet_rtm_newaddr`).
            (Row::Address(_), Some(from)) => vec![remove(from), create()],
            (_, Some(from)) => vec![Step::Change { from: from.into_owned(), to: to.clone() }],
        }
    }

    fn clear(&self, key: &Key) -> Option<Step> {
        let row = self.have.get(key).filter(|_| self.want.get(key).is_none())?;
        let goes_along =
            row.on().is_some_and(|link| self.removed.contains(link) || self.replaced.contains(link));
        // What goes with its table, or with its remotes, need not be taken out before.
        let goes_along = goes_along
            || match key {
                Key::Element(_) => self.ruleset_removed(),
                Key::Policy(key) => self.goes_with_policy(*key),
                _ => false,
            };
        let stays = matches!(row, Row::Sysctl(_)) || goes_along || self.make_way(key).is_some();
        (!stays).then(|| Step::Remove { row: row.clone() })
    }

    fn ruleset_removed(&self) -> bool {
        self.want.get(&Key::Ruleset).is_none()
    }

    fn goes_with_policy(&self, key: PolicyKey) -> bool {
        let unwanted = |key: PolicyKey| self.want.policy(key).is_none();
        match key {
            PolicyKey::Judge => false,
            PolicyKey::Member(remotes, _) => {
                let remotes = PolicyKey::Remotes(remotes);
                unwanted(PolicyKey::Judge) || unwanted(remotes) && self.have.policy(remotes).is_some()
            }
            _ => unwanted(PolicyKey::Judge),
        }
    }

    /// The row as the kernel has it when its turn to be built comes: replaced links are gone by then, with what was
    /// on them, and their ports are free; what goes with a link that is taken down is gone, too.
    fn found(&self, key: &Key) -> Option<Cow<'a, Row>> {
        let row = self.have.get(key)?;
        match row {
            _ if self.goes_with_lowered(row) => None,
            _ if !self.rests_on_replaced(row) => Some(Cow::Borrowed(row)),
            Row::Link(port) => Some(Cow::Owned(Row::Link(port.released()))),
            _ => None,
        }
    }

    /// Whether the row stands on a link of others that is down.
    fn is_on_lame(&self, row: &Row) -> bool {
        let foreign = row.on().and_then(|name| self.foreign.get(name));
        foreign.is_some_and(|link| !link.up)
    }

    /// Whether the row, or the link that it stands on, is there or can be made.
    fn is_possible(&self, row: &Row) -> bool {
        let link = match row {
            Row::Link(link) => Some(link),
            Row::Route(_) if self.is_on_lame(row) => return false,
            _ => row.on().and_then(|name| self.want.link(name)),
        };
        link.is_none_or(|want| {
            want.can_be_made() || self.have.link(&want.name).is_some_and(|have| have.kind == want.kind)
        })
    }
}
