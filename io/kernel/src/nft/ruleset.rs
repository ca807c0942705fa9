//! Our ruleset in the kernel: written, told from what somebody made of it, and its elements.
//!
//! Where the kernel can (since Linux 6.9), our tables are owned by the agent's socket, so that nobody else can change
//! them, and persistent, so that they outlive the agent and are taken over by the next (`NFT_TABLE_F_OWNER`,
//! `NFT_TABLE_F_PERSIST`).

use std::hash::{DefaultHasher, Hash, Hasher};

use tartan_host::nftables::{Holds, Table, TableFamily};
use tartan_host::{Element, ForeignChain, Parts, Row, Step, StepError, TABLE, parts_of, reasons, ruleset};

use super::socket::{Batch, Nftables};
use super::wire::{self, Attributes};
use super::{elements, foreign, kind};
use crate::{Denied, KernelError, Refused};

/// Owned and persistent.
pub(super) const OWNED: u32 = 0x2 | 0x4;

/// The hand that holds our ruleset.
#[derive(Debug)]
pub(crate) struct Ruleset {
    nft: Nftables,
    parts: Parts,
    /// Whether programs do what chains would do else.
    by_programs: bool,
    tables: [Table; 3],
    /// The flags of our tables, as far as the kernel takes them.
    flags: u32,
    /// What the kernel said of the ruleset after this hand wrote it.
    written: Option<u64>,
}

/// What was asked for with elements, and the answer to it.
type Answer = Result<(), StepError>;

impl Ruleset {
    pub(crate) fn open() -> Result<Ruleset, KernelError> {
        let parts = Parts::default();
        let tables = ruleset(parts, false);
        Ok(Ruleset { nft: Nftables::open()?, parts, by_programs: false, tables, flags: OWNED, written: None })
    }

    /// Has programs guard routed pods and the node, or chains again: the ruleset is to be written anew.
    pub(crate) fn leave_to_programs(&mut self, by_programs: bool) {
        self.by_programs = by_programs;
        self.tables = ruleset(self.parts, by_programs);
        self.written = None;
    }

    pub(crate) fn own_no_tables(&mut self) {
        self.flags = 0;
    }

    /// The address that notices of this hand's own changes bear.
    pub(crate) fn port(&self) -> u32 {
        self.nft.port()
    }

    /// The ruleset, if there is anything of it, and its elements.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub(crate) fn read(&mut self) -> Result<Vec<Row>, KernelError> {
        let Some(seen) = self.look()? else { return Ok(Vec::new()) };
        let intact = self.written == Some(seen);
        let parts = if intact { self.parts } else { self.found_parts()? };
        let ruleset = Row::Ruleset(tartan_host::Ruleset { intact, parts: Some(parts) });
        let elements = self.elements()?.into_iter().map(Row::Element);
        Ok([ruleset].into_iter().chain(elements).collect())
    }

    fn elements(&mut self) -> Result<Vec<Element>, KernelError> {
        let mut all = Vec::new();
        for (family, sets) in TableFamily::ALL.map(|family| (family, self.sets(family))) {
            for set in sets {
                let found = self.nft.dump(kind::GETSETELEM, family, &elements::of_set(set), |body| {
                    let (_, list) = elements::listed(body)?;
                    Some(list.filter_map(|bytes| elements::element(family, set, bytes)).collect::<Vec<_>>())
                })?;
                all.extend(found.into_iter().flatten());
            }
        }
        Ok(all)
    }

    /// What was refused, by interface and reason.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub(crate) fn denied(&mut self) -> Result<Vec<Denied>, KernelError> {
        let mut all = Vec::new();
        for family in TableFamily::ALL {
            for reason in reasons(family) {
                let lists =
                    self.nft.dump(kind::GETSETELEM, family, &elements::of_set(reason.set()), |body| {
                        let (_, list) = elements::listed(body)?;
                        Some(list.filter_map(elements::counted).collect::<Vec<_>>())
                    })?;
                all.extend(lists.into_iter().flatten().map(|(interface, packets, bytes)| Denied {
                    interface,
                    reason: *reason,
                    packets,
                    bytes,
                }));
            }
        }
        Ok(all)
    }

    /// What others have for forwarded packets.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub(crate) fn foreign(&mut self) -> Result<Vec<ForeignChain>, KernelError> {
        foreign::read(&mut self.nft)
    }

    /// Takes steps on the ruleset and its elements, in one transaction if the kernel takes them all.
    pub(crate) fn apply(&mut self, steps: &[Step]) -> Vec<Answer> {
        if steps.iter().any(|step| matches!(step, Step::Remove { row: Row::Ruleset(_) })) {
            // Elements go with it.
            return vec![self.remove(); steps.len()];
        }
        let wanted = steps.iter().find_map(written_ruleset);
        let writes = wanted.is_some();
        let mut batch = Batch::default();
        if let Some(ruleset) = wanted {
            if let Err(error) = self.choose(ruleset.parts) {
                return vec![Err(explain(garbled(&error))); steps.len()];
            }
            self.write_in(&mut batch, self.flags);
        }
        for put in [false, true] {
            let elements = steps.iter().filter_map(element_of).filter(|(puts, _)| *puts == put);
            elements::write(&mut batch, put, &elements.map(|(_, element)| element).collect::<Vec<_>>());
        }
        let whole = self.nft.commit(&batch);
        if whole.is_ok() && (!writes || self.take_note()) {
            return vec![Ok(()); steps.len()];
        }
        let ruleset = if writes { self.write() } else { Ok(()) };
        self.each_element(steps, &ruleset)
    }

    /// What is not said to be needed or not stays as it is.
    fn choose(&mut self, parts: Option<Parts>) -> Result<(), KernelError> {
        self.parts = parts.map_or_else(|| self.found_parts(), Ok)?;
        self.tables = ruleset(self.parts, self.by_programs);
        Ok(())
    }

    /// The parts that are in the kernel.
    fn found_parts(&mut self) -> Result<Parts, KernelError> {
        let chains = self.chains(TableFamily::Inet)?;
        Ok(parts_of(chains.iter().map(String::as_str)))
    }

    fn chains(&mut self, family: TableFamily) -> Result<Vec<String>, KernelError> {
        const NAME: u16 = 3;
        let name =
            |body: &[u8]| ours(body).and_then(|()| Some(wire::text(wire::find(body, NAME)?)?.to_owned()));
        self.nft.dump(kind::GETCHAIN, family, &in_table(), name)
    }

    fn remove(&mut self) -> Answer {
        let mut batch = Batch::default();
        for family in self.tables().map_err(|error| explain(garbled(&error)))? {
            batch.delete_table(family, TABLE);
        }
        self.written = None;
        self.nft.commit(&batch).map_err(|refused| refusal(first(refused)))
    }

    /// Messages that write the tables. Chains of parts that are not needed any more go.
    fn write_in(&mut self, batch: &mut Batch, flags: u32) {
        for family in TableFamily::ALL {
            // What cannot be told is found once it is written.
            let found = self.chains(family).unwrap_or_default();
            let Some(table) = self.tables.iter().find(|table| table.family == family) else { continue };
            batch.add_table(family, TABLE, flags);
            batch.clear_table(table);
            let is_wanted = |name: &&String| table.chains.iter().any(|chain| chain.name == name.as_str());
            let extra = found.iter().filter(|name| !is_wanted(name));
            extra.for_each(|name| batch.delete_chain(table, name));
            batch.fill_table(table);
        }
    }

    /// The same into tables that are made.
    fn write_anew_in(&self, batch: &mut Batch, flags: u32) {
        for table in &self.tables {
            batch.add_table(table.family, TABLE, flags);
            batch.fill_table(table);
        }
    }

    /// Writes the tables by themselves. Where they cannot be changed in place, or hold more than ours, they are made anew
    /// with the elements that they have; where they cannot be owned, which no kernel before 6.9 lets, they are ordinary.
    fn write(&mut self) -> Answer {
        let mut last = Refused::from_errno(libc::EBUSY);
        let most = self.flags;
        for flags in [OWNED, 0].into_iter().filter(|flags| flags & !most == 0) {
            for anew in [false, true] {
                match self.try_write(flags, anew) {
                    Ok(true) => {
                        if flags != most {
                            tracing::info!(
                                "this kernel does not let our nftables be owned; others can change them"
                            );
                        }
                        self.flags = flags;
                        return Ok(());
                    }
                    Ok(false) => {}
                    Err(refused) if is_about_the_tables(refused.errno) => last = refused,
                    Err(refused) => return Err(refusal(refused)),
                }
            }
        }
        Err(refusal(last))
    }

    /// False if there is more in the tables than what was written.
    fn try_write(&mut self, flags: u32, anew: bool) -> Result<bool, Refused> {
        let mut batch = Batch::default();
        let mut kept = Vec::new();
        if anew {
            kept = self.elements().map_err(|error| garbled(&error))?;
            for family in self.tables().map_err(|error| garbled(&error))? {
                batch.delete_table(family, TABLE);
            }
        }
        if anew {
            self.write_anew_in(&mut batch, flags);
        } else {
            self.write_in(&mut batch, flags);
        }
        elements::write(&mut batch, true, &kept.iter().collect::<Vec<_>>());
        self.nft.commit(&batch).map_err(first)?;
        Ok(self.take_note())
    }

    /// Keeps what the kernel says of the ruleset as it was just written; false if it holds more than that.
    fn take_note(&mut self) -> bool {
        let names = |table: &Table| (table.sets.len(), table.chains.len());
        let wanted: Vec<(usize, usize)> = self.tables.iter().map(names).collect();
        let found: Result<Vec<(usize, usize)>, KernelError> = TableFamily::ALL
            .into_iter()
            .map(|family| {
                let sets = self.nft.dump(kind::GETSET, family, &in_table(), ours)?.len();
                Ok((sets, self.nft.dump(kind::GETCHAIN, family, &in_table(), ours)?.len()))
            })
            .collect();
        self.written = self.look().ok().flatten();
        found.is_ok_and(|found| found == wanted) && self.written.is_some()
    }

    /// The elements without those that are refused, so that one does not stop the others.
    fn each_element(&mut self, steps: &[Step], ruleset: &Answer) -> Vec<Answer> {
        let mut answers: Vec<Answer> =
            steps.iter().map(|step| if writes_ruleset(step) { ruleset.clone() } else { Ok(()) }).collect();
        loop {
            let mut batch = Batch::default();
            let mut positions = Vec::new();
            for (number, step) in steps.iter().enumerate() {
                let Some((put, element)) = element_of(step) else { continue };
                if answers.get(number).is_some_and(Result::is_ok) {
                    positions.extend(elements::write_some(&mut batch, put, &[element]).map(|_| number));
                }
            }
            let Err(refused) = self.nft.commit(&batch) else { break };
            let mut dropped = 0;
            for (position, reason) in refused {
                let numbers = match positions.get(position) {
                    Some(number) => vec![*number],
                    None => positions.clone(),
                };
                for number in numbers {
                    if let Some(answer) = answers.get_mut(number).filter(|answer| answer.is_ok()) {
                        *answer = Err(explain(reason.clone()));
                        dropped += 1;
                    }
                }
            }
            if dropped == 0 {
                break;
            }
        }
        answers.into_iter().zip(steps).map(|(answer, step)| absent_is_gone(answer, step)).collect()
    }

    /// The families in which a table of our name is there.
    fn tables(&mut self) -> Result<Vec<TableFamily>, KernelError> {
        let mut there = Vec::new();
        for family in TableFamily::ALL {
            let found = self.nft.dump(kind::GETTABLE, family, &Attributes::default(), ours)?;
            there.extend((!found.is_empty()).then_some(family));
        }
        Ok(there)
    }

    /// A number for all that is constant in the tables as the kernel tells of it; None if there is no table of ours.
    fn look(&mut self) -> Result<Option<u64>, KernelError> {
        /// What is told of a thing beside what it is: its handle and how many use it.
        const CHAIN: [u16; 5] = [1, 3, 4, 5, 7];
        const RULE: [u16; 3] = [1, 2, 4];
        const SET: [u16; 5] = [2, 3, 4, 5, 11];
        const OF_TABLE: [u16; 3] = [1, 2, 7];
        let there = self.tables()?;
        if there.is_empty() {
            return Ok(None);
        }
        let mut hasher = DefaultHasher::new();
        for family in TableFamily::ALL {
            let parts: [(u8, &[u16], Attributes); 4] = [
                (kind::GETTABLE, &OF_TABLE, Attributes::default()),
                (kind::GETCHAIN, &CHAIN, in_table()),
                (kind::GETRULE, &RULE, in_table()),
                (kind::GETSET, &SET, in_table()),
            ];
            for (kind, attributes, table) in parts {
                let mut found = self
                    .nft
                    .dump(kind, family, &table, |body| ours(body).map(|_| essence(body, attributes)))?;
                // Rules are in their order; the kernel promises none for the others.
                if kind != kind::GETRULE {
                    found.sort();
                }
                found.hash(&mut hasher);
            }
        }
        Ok(Some(hasher.finish()))
    }

    /// The sets of a table that we put elements in.
    fn sets(&self, family: TableFamily) -> Vec<&'static str> {
        let tables = self.tables.iter().filter(|table| table.family == family);
        tables
            .flat_map(|table| &table.sets)
            .filter(|set| set.holds != Holds::Counters)
            .map(|set| set.name)
            .collect()
    }
}

fn in_table() -> Attributes {
    Attributes::default().text(1, TABLE)
}

fn ours(body: &[u8]) -> Option<()> {
    elements::is_ours(body).then_some(())
}

/// Some attributes of a message, one behind the other.
fn essence(body: &[u8], wanted: &[u16]) -> Vec<(u16, Vec<u8>)> {
    let wanted = wire::attributes(body).filter(|(kind, _)| wanted.contains(kind));
    wanted.map(|(kind, value)| (kind, value.to_vec())).collect()
}

fn writes_ruleset(step: &Step) -> bool {
    written_ruleset(step).is_some()
}

fn written_ruleset(step: &Step) -> Option<&tartan_host::Ruleset> {
    match step {
        Step::Create { row: Row::Ruleset(row) } | Step::Change { to: Row::Ruleset(row), .. } => Some(row),
        _ => None,
    }
}

/// The element that a step puts in or takes out.
fn element_of(step: &Step) -> Option<(bool, &Element)> {
    match step {
        Step::Create { row: Row::Element(element) } | Step::Change { to: Row::Element(element), .. } => {
            Some((true, element))
        }
        Step::Remove { row: Row::Element(element) } => Some((false, element)),
        _ => None,
    }
}

/// What is not there need not be taken away.
fn absent_is_gone(answer: Answer, step: &Step) -> Answer {
    match answer {
        Err(StepError::NoRuleset) if matches!(step, Step::Remove { .. }) => Ok(()),
        answer => answer,
    }
}

fn explain(refused: Refused) -> StepError {
    match refused.errno {
        libc::ENOENT => StepError::NoRuleset,
        errno => StepError::Kernel { errno, text: refused.text },
    }
}

/// The first of the refusals of a batch.
fn first(refused: Vec<(usize, Refused)>) -> Refused {
    refused.into_iter().next().map_or_else(|| Refused::from_errno(libc::EIO), |(_, reason)| reason)
}

/// Whether a refusal means that the tables as they are cannot become what they should be; others pass, or are somebody's
/// right.
pub(super) fn is_about_the_tables(errno: i32) -> bool {
    matches!(errno, libc::EEXIST | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT | libc::EBUSY)
}

fn refusal(refused: Refused) -> StepError {
    about_table(TABLE, refused)
}

/// Why a table cannot be written.
pub(super) fn about_table(table: &str, refused: Refused) -> StepError {
    let text = match refused.errno {
        libc::EPERM => format!("another process owns table {table}: is there a second agent?"),
        libc::EBUSY => format!("somebody else changes table {table} at the same time"),
        _ => format!("nftables: {}", refused.text),
    };
    StepError::Kernel { errno: refused.errno, text }
}

pub(super) fn garbled(error: &KernelError) -> Refused {
    Refused { errno: libc::EIO, text: error.to_string() }
}
