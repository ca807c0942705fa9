//! A transaction on the table of policies, with the step that each of its messages is for.

use std::collections::BTreeMap;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use tartan_host::nftables::TableFamily;
use tartan_host::policy::TABLE;

use super::super::kind;
use super::super::socket::Batch;
use super::super::wire::Attributes;
use super::elements::{Element, comment};
use super::shape::{Chain, FORWARD, Rule, Set};

/// Bytes of elements in one message: their list must fit an attribute of 64 KiB.
const IN_A_MESSAGE: usize = 60_000;

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// The table itself.
    Table,
    /// A row that is in it already.
    Kept,
    /// The step of this number, or several from it on.
    Step(usize),
}

/// A transaction that is being written.
#[derive(Debug)]
pub(super) struct Draft {
    batch: Batch,
    reasons: Vec<For>,
    now: For,
    /// Elements that one message may have.
    together: usize,
    /// Elements that are not in a message yet, by their set, and whether they are put in.
    waiting: BTreeMap<String, (For, Vec<Element>)>,
    puts: bool,
}

impl Draft {
    /// Each step by itself, so that it is known which one is refused, or elements together.
    pub(super) fn new(each: bool) -> Draft {
        Draft {
            batch: Batch::default(),
            reasons: Vec::new(),
            now: For::Table,
            together: if each { 1 } else { usize::MAX },
            waiting: BTreeMap::new(),
            puts: true,
        }
    }

    /// What comes is for this.
    pub(super) fn begin(&mut self, reason: For) {
        self.flush();
        self.now = reason;
    }

    /// The messages, and what each is for.
    pub(super) fn finish(mut self) -> (Batch, Vec<For>) {
        self.flush();
        (self.batch, self.reasons)
    }

    pub(super) fn table(&mut self, flags: u32) {
        self.push(kind::NEWTABLE, NLM_F_CREATE, in_table().number(2, flags));
    }

    pub(super) fn delete_table(&mut self) {
        self.push(kind::DELTABLE, 0, in_table());
    }

    pub(super) fn set(&mut self, set: &Set) {
        let attributes = in_table()
            .text(2, &set.name)
            .number(3, set.flags)
            .number(4, set.key_type())
            .number(5, set.key_length());
        let attributes = set.data_type().into_iter().fold(attributes, |all, kind| all.number(6, kind));
        let attributes = set.description().into_iter().fold(attributes, |all, one| all.nested(9, one));
        let attributes = set.notes().into_iter().fold(attributes, |all, notes| all.bytes(13, &notes));
        // The kernel wants a number that is the set's only one in the batch.
        self.push(kind::NEWSET, NLM_F_CREATE, attributes.number(10, 1));
    }

    pub(super) fn empty_set(&mut self, name: &str) {
        self.push(kind::DELSETELEM, 0, in_table().text(2, name));
    }

    pub(super) fn delete_set(&mut self, name: &str) {
        self.push(kind::DELSET, 0, in_table().text(2, name));
    }

    /// Makes a chain without rules, or takes its rules out.
    pub(super) fn empty_chain(&mut self, name: &str) {
        self.push(kind::NEWCHAIN, NLM_F_CREATE, encode_chain(name));
        self.push(kind::DELRULE, 0, in_table().text(2, name));
    }

    pub(super) fn fill_chain(&mut self, chain: &Chain) {
        for rule in &chain.rules {
            let attributes = in_table().text(2, &chain.name);
            self.push(kind::NEWRULE, NLM_F_CREATE | NLM_F_APPEND, encode_rule(attributes, rule));
        }
    }

    /// Takes a chain away with its rules.
    pub(super) fn delete_chain(&mut self, name: &str) {
        self.push(kind::DELCHAIN, 0, in_table().text(3, name));
    }

    /// Puts an element in, or takes it out.
    pub(super) fn element(&mut self, reason: For, puts: bool, element: Element) {
        let is_full = self.waiting.get(&element.set).is_some_and(|(_, some)| some.len() >= self.together);
        if is_full || self.puts != puts {
            self.flush();
        }
        self.puts = puts;
        let (_, waiting) = self.waiting.entry(element.set.clone()).or_insert_with(|| (reason, Vec::new()));
        waiting.push(element);
    }

    fn flush(&mut self) {
        for (set, (reason, elements)) in std::mem::take(&mut self.waiting) {
            let mut list = Attributes::default();
            for element in &elements {
                list = list.nested(1, element.encode(self.puts));
                if list.len() > IN_A_MESSAGE {
                    self.list(reason, &set, std::mem::take(&mut list));
                }
            }
            if list.len() > 0 {
                self.list(reason, &set, list);
            }
        }
    }

    fn list(&mut self, reason: For, set: &str, list: Attributes) {
        let attributes = in_table().text(2, set).nested(3, list);
        let (kind, flags) = if self.puts { (kind::NEWSETELEM, NLM_F_CREATE) } else { (kind::DELSETELEM, 0) };
        self.add(reason, kind, flags, attributes);
    }

    fn push(&mut self, kind: u8, flags: u16, attributes: Attributes) {
        self.flush();
        self.add(self.now, kind, flags, attributes);
    }

    fn add(&mut self, reason: For, kind: u8, flags: u16, attributes: Attributes) {
        self.batch.push(kind, TableFamily::Inet, flags, attributes);
        self.reasons.push(reason);
    }
}

/// What begins every message.
pub(super) fn in_table() -> Attributes {
    Attributes::default().text(1, TABLE)
}

/// The chain as the kernel is asked for it, and tells of it.
pub(super) fn encode_chain(name: &str) -> Attributes {
    /// NF_INET_FORWARD, NF_ACCEPT.
    const FORWARDED: u32 = 2;
    const ACCEPT: u32 = 1;
    let attributes = in_table().text(3, name);
    if name != FORWARD {
        return attributes;
    }
    let hook = Attributes::default().number(1, FORWARDED).number(2, 0);
    attributes.nested(4, hook).number(5, ACCEPT).text(7, "filter")
}

/// A rule behind what is said of it beside.
pub(super) fn encode_rule(attributes: Attributes, rule: &Rule) -> Attributes {
    let list = Attributes::default();
    let list = rule.expressions.iter().fold(list, |list, one| list.nested(1, one.clone()));
    let attributes = attributes.nested(4, list);
    if rule.about.is_empty() { attributes } else { attributes.bytes(7, &comment(&rule.about)) }
}
