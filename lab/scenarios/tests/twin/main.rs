//! The twin: `Host::act`, on which the laws of plans are proven, and the kernel must agree, step by step; and plans
//! must lead the kernel where they lead the model.
//!
//! `TARTAN_TWIN_CASES` sets how many random cases are tried, `PROPTEST_RNG_SEED` which.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on stops"
)]

mod foreign;
mod rows;
mod scratch;
mod wants;

use std::env;

use foreign::Foreign;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use rows::{Dice, FOREIGN, name};
use scratch::{Node, difference, follow};
use tartan_host::*;
use tartan_kernel::Kernel;
use tartan_model::{IfName, Mtu};
use tartan_reconcile::{Reconciler, Sweep};
use tartan_scenarios::lock;

type Dozen = [u8; 12];

/// Runs a law on random dice: each dozen of them makes one row or step.
fn for_all(cases: u32, lengths: std::ops::Range<usize>, law: impl Fn(&[Dozen]) -> Result<(), String>) {
    let mut config = Config { failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    config.cases =
        env::var("TARTAN_TWIN_CASES").map_or(cases, |text| text.parse().expect("a number of cases"));
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(116);
    }
    let dice = prop::collection::vec(any::<Dozen>(), lengths);
    let outcome = TestRunner::new(config).run(&dice, |dice| law(&dice).map_err(TestCaseError::fail));
    match outcome {
        Err(TestError::Fail(reason, _)) => panic!("{reason}"),
        other => other.unwrap(),
    }
}

/// The three that must agree.
struct Twins {
    model: Host,
    kernel: Kernel,
    /// Fed by notices alone.
    mirror: Host,
    witness: Kernel,
}

impl Twins {
    fn new(node: &Node) -> (Twins, NetnsToken) {
        node.netns.rtnl().add_bridge(&name(FOREIGN), 1450.try_into().unwrap()).unwrap();
        let (mut kernel, pods) = node.hand();
        let mirror = kernel.read(&[]).unwrap();
        (Twins { model: mirror.clone(), kernel, mirror, witness: node.witness() }, pods)
    }

    fn take(&mut self, step: &Step) -> Result<(), String> {
        let modelled = self.model.act(step);
        let done = self.kernel.apply(std::slice::from_ref(step)).pop().unwrap();
        follow(&mut self.kernel, &mut self.mirror);
        if let Key::Sysctl(key) = step.key()
            && done.is_ok()
            && !matches!(step, Step::Remove { .. })
        {
            // From now on the kernel tells of it.
            self.mirror.rows.extend(self.kernel.read_sysctl(&key));
        }
        let read = self.witness.read(&rows::settings(&self.model.rows)).unwrap();
        let states = || {
            [("act", &self.model), ("the mirror", &self.mirror), ("the kernel", &read)].map(listed).concat()
        };
        let mut wrong = difference(("act", &self.model.rows), ("the kernel", &read.rows));
        wrong += &difference(("the mirror", &self.mirror.rows), ("the kernel", &read.rows));
        if !is_same(&modelled, &done) {
            wrong += &format!("  act answers {modelled:?}, the kernel {done:?}\n");
        }
        if self.mirror.foreign != read.foreign {
            wrong += &format!("  foreign links: {:?} and {:?}\n", self.mirror.foreign, read.foreign);
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong + &states()) }
    }
}

fn listed((who, host): (&str, &Host)) -> String {
    host.rows.iter().fold(format!("{who} has\n"), |text, row| text + &format!("  {row}\n"))
}

/// The texts of other answers than the known ones are the kernel's own.
fn is_same(a: &Result<(), StepError>, b: &Result<(), StepError>) -> bool {
    match (a, b) {
        (Err(StepError::Kernel { errno: a, .. }), Err(StepError::Kernel { errno: b, .. })) => a == b,
        _ => a == b,
    }
}

/// A step in right or wrong order; what it changes or removes is there as it says, or not at all.
fn step(dice: &mut Dice<'_>, host: &Host, pods: NetnsToken) -> Step {
    let what = dice.roll(8);
    let there: Vec<IfName> = host.rows.iter().filter_map(rows::link_name).collect();
    let links = if dice.roll(8) == 7 { &[][..] } else { &there };
    let row = rows::row(dice, links, pods);
    let found = host.rows.get(&row.key()).cloned();
    match (what, found) {
        (0..4, _) => Step::Create { row },
        (4..6, Some(from)) => Step::Change { to: keep_without_ipv6(&from, row), from },
        (4..6, None) => Step::Change { from: row.clone(), to: row },
        (_, Some(row)) => Step::Remove { row },
        (6, None) if !host.rows.is_empty() => {
            Step::Remove { row: dice.pick(&Vec::from_iter(host.rows.iter().cloned())).unwrap_or(row) }
        }
        (_, None) => {
            let row = with_a_metric(row);
            Step::Remove { row: host.rows.get(&row.key()).cloned().unwrap_or(row) }
        }
    }
}

/// For the kernel, no metric is any metric when an IPv4 route that is not there is removed.
fn with_a_metric(row: Row) -> Row {
    match row {
        Row::Route(route) => Row::Route(Route { metric: 8400, ..route }),
        row => row,
    }
}

/// A link on which IPv6 starts anew gets an address from the kernel, which is not modelled.
fn keep_without_ipv6(from: &Row, to: Row) -> Row {
    match (from, to) {
        (Row::Link(from), Row::Link(to)) if from.mtu < Mtu::IPV6_MIN => {
            Row::Link(Link { mtu: from.mtu, ..to })
        }
        (_, to) => to,
    }
}

#[test]
fn model_and_kernel_agree_step_by_step() {
    let _lock = lock();
    for_all(60, 1..26, |dice| {
        let node = Node::new();
        let (mut twins, pods) = Twins::new(&node);
        let mut story = String::new();
        for thrown in dice {
            let step = step(&mut Dice::new(thrown), &twins.model, pods);
            story += &format!("{step}\n");
            twins
                .take(&step)
                .map_err(|wrong| format!("after the steps\n{story}the last as\n  {step:?}\n{wrong}"))?;
        }
        Ok(())
    });
}

/// The reconciler has done all that is wanted, and the kernel says so to a witness.
fn check_settled(
    reconciler: &Reconciler<u8, Kernel>,
    witness: &mut Kernel,
    want: &Rows,
) -> Result<(), String> {
    let unsettled: String =
        reconciler.all_unsettled().map(|left| format!("  unsettled: {left:?}\n")).collect();
    let read = witness.read(&rows::settings(want)).unwrap();
    let wrong = unsettled + &difference(("the want", want), ("the kernel", &read.rows));
    if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong}{}", listed(("the kernel", &read)))) }
}

#[test]
fn plans_settle_on_the_real_kernel() {
    let _lock = lock();
    for_all(25, 8..48, |dice| {
        let node = Node::new();
        let foreign = Foreign::make(&node);
        let (kernel, pods) = node.hand();
        let mut witness = node.witness();
        let mut reconciler = Reconciler::new(kernel, Realm::Node);
        reconciler.allow_removal();
        let mut story = String::new();
        let (a, b) = dice.split_at(dice.len() / 2);
        for want in [a, b, a].map(|dice| wants::want(dice, pods)) {
            let rows: Vec<Row> = want.iter().cloned().collect();
            story += &rows.iter().fold("wanted\n".into(), |text: String, row| text + &format!("  {row}\n"));
            reconciler.want(&0, rows);
            reconciler.settle(Sweep::Now).unwrap();
            // What waits for something to be cleared away is tried again, as the agent does.
            reconciler.retry();
            reconciler.settle(Sweep::Now).unwrap();
            check_settled(&reconciler, &mut witness, &want).map_err(|wrong| format!("{story}{wrong}"))?;
            foreign.check(&node).map_err(|wrong| format!("{story}{wrong}"))?;
        }
        Ok(())
    });
}
