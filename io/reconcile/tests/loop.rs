//! The loop, on a kernel made of data.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tartan_host::policy::{Direction, Epoch, Judge, Judgement, Member, PolicyRow, Remotes, RemotesId};
use tartan_host::{
    Address, Host, Key, Link, LinkKind, NetnsToken, Notice, Peer, Realm, Route, RouteKind, Row, Scope, Step,
    StepError, Sysctl, SysctlKey,
};
use tartan_kernel::{KernelError, Notices};
use tartan_model::{Cidr, IfName, Mac, Mtu};
use tartan_reconcile::{Dataplane, Reconciler, Sweep};

/// A kernel that tells what changed by comparing, and refuses what it is told to.
#[derive(Default)]
struct Fake {
    host: Host,
    told: Host,
    refuse: BTreeSet<Key>,
    /// What is refused when it is half made, and taken back.
    half_made: BTreeSet<Key>,
    /// What it tells besides.
    besides: Vec<Notice>,
    lose: bool,
    /// What is taken away when notices were asked for so many times more.
    sabotage: Option<(usize, Key)>,
    reads: usize,
    taken: Vec<String>,
}

impl Dataplane for Fake {
    fn read(&mut self, _: &[SysctlKey]) -> Result<Host, KernelError> {
        self.reads += 1;
        self.lose = false;
        self.told = self.host.clone();
        Ok(self.host.clone())
    }

    fn read_routes(&mut self) -> Result<Vec<Row>, KernelError> {
        Ok(self.host.rows.iter().filter(|row| matches!(row, Row::Route(_))).cloned().collect())
    }

    fn read_ruleset(&mut self) -> Result<Vec<Row>, KernelError> {
        let ours = |row: &&Row| matches!(row, Row::Ruleset(_) | Row::Element(_));
        Ok(self.host.rows.iter().filter(ours).cloned().collect())
    }

    fn read_policy(&mut self) -> Result<Vec<Row>, KernelError> {
        Ok(self.host.rows.policies().cloned().map(Row::Policy).collect())
    }

    fn read_sysctl(&mut self, key: &SysctlKey) -> Option<Row> {
        self.host.rows.get(&Key::Sysctl(key.clone())).cloned()
    }

    fn apply(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        let mut take = |step: &Step| {
            self.taken.push(step.to_string());
            if self.half_made.contains(&step.key()) {
                self.besides.push(Notice::Gone(step.key()));
                return Err(StepError::Exists);
            }
            if self.refuse.contains(&step.key()) {
                return Err(StepError::Kernel { errno: 1, text: "not permitted".into() });
            }
            self.host.act(step)
        };
        steps.iter().map(&mut take).collect()
    }

    fn notices(&mut self) -> Notices {
        self.sabotage = match self.sabotage.take() {
            Some((0, key)) => {
                self.host.rows.remove(&key);
                None
            }
            later => later.map(|(times, key)| (times - 1, key)),
        };
        let is = self.host.rows.iter().filter(|row| self.told.rows.get(&row.key()) != Some(row));
        let gone = self.told.rows.keys().filter(|key| self.host.rows.get(key).is_none());
        let changes = is.cloned().map(Notice::Is).chain(gone.cloned().map(Notice::Gone));
        let rows = changes.chain(self.besides.drain(..)).collect();
        self.told = self.host.clone();
        Notices { rows, lost: self.lose, ..Notices::default() }
    }
}

type Loop = Reconciler<&'static str, Fake>;

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

/// The host's end of pod 1, and a route onto it.
fn pod() -> Row {
    Row::Link(Link {
        name: name("tt000000000001"),
        kind: LinkKind::Veth,
        mac: Mac::local([1; 6]),
        mtu: Mtu::try_from(1450).unwrap(),
        up: true,
        master: None,
        translated: false,
        alias: "tartan pod x/y".into(),
        peer: Some(Box::new(Peer { netns: NetnsToken(1), name: name("eth0"), mac: Mac::local([2; 6]) })),
    })
}

fn route(dst: &str) -> Row {
    let dst: Cidr = dst.parse().unwrap();
    let kind = RouteKind::Link { link: name("tt000000000001") };
    Row::Route(Route { dst, metric: 0, kind, source: None, mtu: None })
}

fn pod_with_route() -> Vec<Row> {
    vec![pod(), route("10.0.0.1/32")]
}

fn start(fake: Fake) -> Loop {
    let mut it = Reconciler::new(fake, Realm::Node);
    it.settle(Sweep::Now).unwrap();
    it
}

fn want(it: &mut Loop, scope: &'static str, rows: Vec<Row>) {
    it.want(&scope, rows);
    it.settle(Sweep::Later).unwrap();
}

#[test]
fn what_is_wanted_comes_to_be_and_nothing_is_done_twice() {
    let mut it = start(Fake::default());
    want(&mut it, "a", pod_with_route());
    assert!(it.unsettled(&"a").is_empty());
    assert_eq!(it.kernel().taken.len(), 2);
    want(&mut it, "a", pod_with_route());
    assert_eq!(it.kernel().taken.len(), 2);
}

#[test]
fn nothing_is_removed_before_it_is_allowed() {
    let mut fake = Fake::default();
    fake.host.rows.extend(pod_with_route());
    let mut it = start(fake);
    it.settle(Sweep::Now).unwrap();
    assert_eq!(it.mirror().rows.len(), 2);
    it.allow_removal();
    it.settle(Sweep::Now).unwrap();
    assert!(it.mirror().rows.is_empty());
}

#[test]
fn links_of_pods_wait_for_the_sweep_and_routes_do_not() {
    let mut it = start(Fake::default());
    it.allow_removal();
    want(&mut it, "a", pod_with_route());
    want(&mut it, "a", vec![pod()]);
    assert_eq!(it.mirror().rows.len(), 1);
    want(&mut it, "a", Vec::new());
    assert!(it.has_leftovers());
    assert_eq!(it.mirror().rows.len(), 1);
    it.settle(Sweep::Now).unwrap();
    assert!(!it.has_leftovers() && it.mirror().rows.is_empty());
}

#[test]
fn what_failed_says_why_and_is_tried_again() {
    let mut fake = Fake::default();
    fake.refuse.insert(route("10.0.0.1/32").key());
    let mut it = start(fake);
    it.want(&"a", vec![pod()]);
    want(&mut it, "b", vec![route("10.0.0.1/32")]);
    assert!(it.unsettled(&"a").is_empty(), "one that fails does not hold up another");
    let left = it.unsettled(&"b");
    assert_eq!(left[0].reason.as_deref(), Some("the kernel refused: not permitted (errno 1)"));
    it.kernel().refuse.clear();
    it.settle(Sweep::Later).unwrap();
    assert!(it.has_failed(), "only a retry tries again");
    it.retry();
    it.settle(Sweep::Later).unwrap();
    assert!(!it.has_failed() && it.unsettled(&"b").is_empty());
}

/// An address, too, that has another length; not a route, of which no notice tells.
#[test]
fn what_was_in_the_way_and_went_makes_room_at_once() {
    let on_pod = |text: &str| {
        let address = text.parse().unwrap();
        Address { link: name("tt000000000001"), address, scope: Scope::Global }
    };
    let ours = Row::Address(on_pod("fd00::1/128"));
    let Row::Link(pods) = pod() else { unreachable!() };
    let bridge = Row::Link(Link { name: name("tartan0"), kind: LinkKind::Bridge, peer: None, ..pods });
    let mut it = start(Fake::default());
    it.kernel().refuse.extend([ours.key(), bridge.key(), route("10.0.0.1/32").key()]);
    want(&mut it, "a", [pod_with_route(), vec![ours, bridge.clone()]].concat());
    it.kernel().refuse.clear();
    for (gone, settled) in [
        (Row::Address(on_pod("fd00::2/64")).key(), false),
        (Row::Address(on_pod("fd00::1/64")).key(), true),
        (bridge.key(), true),
        (route("10.0.0.1/32").key(), false),
    ] {
        let before = it.unsettled(&"a").len();
        it.kernel().besides.push(Notice::Gone(gone));
        it.settle(Sweep::Later).unwrap();
        assert_eq!(it.unsettled(&"a").len(), before - usize::from(settled));
    }
}

/// Else it would be made and taken back for ever.
#[test]
fn what_is_half_made_and_taken_back_makes_no_room() {
    let mut it = start(Fake::default());
    it.kernel().half_made.insert(route("10.0.0.1/32").key());
    want(&mut it, "a", pod_with_route());
    let taken = it.kernel().taken.clone();
    for _ in 0..3 {
        it.hear().unwrap();
        it.settle(Sweep::Later).unwrap();
    }
    assert_eq!(it.kernel().taken, taken);
    assert!(it.has_failed() && !it.has_work());
}

#[test]
fn what_somebody_takes_away_comes_back() {
    let mut it = start(Fake::default());
    want(&mut it, "a", pod_with_route());
    let wanted = it.mirror().clone();
    it.kernel().host.rows.remove(&route("10.0.0.1/32").key());
    it.settle(Sweep::Later).unwrap();
    assert_eq!(*it.mirror(), wanted);
    it.kernel().host = Host::default();
    it.settle(Sweep::Later).unwrap();
    assert_eq!(*it.mirror(), wanted);
}

#[test]
fn lost_notices_cost_one_read_in_a_while() {
    let mut it = start(Fake::default());
    let begin = Instant::now();
    want(&mut it, "a", vec![pod()]);
    let reads = it.kernel().reads;
    // As in a storm: whenever the loop looks, something was lost.
    while begin.elapsed() < Duration::from_millis(250) {
        it.kernel().lose = true;
        it.settle(Sweep::Later).unwrap();
        assert!(it.due().is_some_and(|at| at <= Instant::now() + Duration::from_millis(100)));
    }
    assert!((2..=3).contains(&(it.kernel().reads - reads)), "{}", it.kernel().reads - reads);
    it.kernel().host = Host::default();
    for _ in 0..2 {
        it.kernel().lose = true;
        it.settle(Sweep::Later).unwrap();
    }
    assert!(it.is_in_doubt(), "not read a second time so soon");
    it.hurry();
    let reads = it.kernel().reads;
    it.settle(Sweep::Later).unwrap();
    assert_eq!(it.kernel().reads, reads + 1, "who waits is not kept waiting");
    assert!(it.unsettled(&"a").is_empty() && it.take_underlay_changed() && it.due().is_none());
    assert!(!it.is_in_doubt());
}

#[test]
fn a_link_that_cannot_be_made_without_its_other_end_is_told_of() {
    let mut it = start(Fake::default());
    want(&mut it, "a", vec![pod()]);
    let Row::Link(end) = pod() else { panic!("it is a link") };
    want(&mut it, "a", vec![Row::Link(Link { peer: None, ..end })]);
    assert_eq!(it.take_orphans(), Vec::<&str>::new());
    it.kernel().host = Host::default();
    it.settle(Sweep::Later).unwrap();
    assert_eq!(it.take_orphans(), ["a"]);
    assert_eq!(it.take_orphans(), Vec::<&str>::new());
    want(&mut it, "a", vec![pod()]);
    assert!(it.unsettled(&"a").is_empty());
}

#[test]
fn a_row_that_two_want_stays_until_both_give_it_up() {
    let mut it = start(Fake::default());
    it.allow_removal();
    want(&mut it, "a", pod_with_route());
    want(&mut it, "b", vec![pod()]);
    want(&mut it, "a", vec![]);
    assert!(it.mirror().rows.get(&pod().key()).is_some());
    assert!(it.mirror().rows.get(&route("10.0.0.1/32").key()).is_none());
    // Asking twice is asking once.
    want(&mut it, "b", vec![pod()]);
    want(&mut it, "b", vec![]);
    it.settle(Sweep::Now).unwrap();
    assert!(it.mirror().rows.get(&pod().key()).is_none());
}

#[test]
fn nothing_is_heard_that_is_not_acted_upon() {
    for when in 0..2 {
        let mut it = start(Fake::default());
        want(&mut it, "a", pod_with_route());
        it.allow_removal();
        it.settle(Sweep::Later).unwrap();
        it.kernel().sabotage = Some((when, route("10.0.0.1/32").key()));
        it.settle(Sweep::Later).unwrap();
        // What was not heard yet will wake the caller.
        assert!(!it.has_work(), "the {when}. look");
    }
}

#[test]
fn a_row_that_moves_to_another_scope_stays() {
    let mut it = start(Fake::default());
    it.allow_removal();
    want(&mut it, "a", vec![pod()]);
    it.want(&"b", vec![pod()]);
    it.want(&"a", Vec::new());
    it.settle(Sweep::Now).unwrap();
    assert_eq!(it.mirror().rows.len(), 1);
    it.want(&"b", Vec::new());
    it.settle(Sweep::Now).unwrap();
    assert!(it.mirror().rows.is_empty());
}

#[test]
fn a_step_that_is_refused_is_not_taken_and_named() {
    let mut it = start(Fake::default());
    want(&mut it, "a", vec![pod(), route("0.0.0.0/0")]);
    assert_eq!(it.kernel().taken.len(), 1);
    let left = it.unsettled(&"a");
    assert_eq!(left.len(), 1);
    assert!(left[0].reason.is_some());
}

#[test]
fn settings_are_read_back() {
    let mut it = start(Fake::default());
    let forward = Row::Sysctl(Sysctl { key: SysctlKey::Ipv4Forward, value: 1 });
    want(&mut it, "node", vec![forward.clone()]);
    assert!(it.unsettled(&"node").is_empty());
    assert_eq!(it.mirror().rows.get(&forward.key()), Some(&forward));
}

/// A table of policies with one member of one kind of remotes.
fn policies(epoch: u64) -> Vec<Row> {
    let id = RemotesId(1);
    let (direction, otherwise) = (Direction::Ingress, Judgement::Deny);
    let (address, judgement) = ("10.0.0.1".parse().unwrap(), Judgement::Allow);
    let rows = [
        PolicyRow::Judge(Judge { intact: true, epoch: Epoch::of(epoch) }),
        PolicyRow::Remotes(Remotes { id, direction, ranges: Vec::new(), otherwise }),
        PolicyRow::Member(Member { remotes: id, address, judgement }),
    ];
    rows.map(Row::Policy).into()
}

#[test]
fn the_table_of_policies_comes_back_whole() {
    let mut it = start(Fake::default());
    want(&mut it, "policy", policies(0));
    for gone in [0, 1, 2] {
        let step = Step::Remove { row: policies(0)[gone].clone() };
        it.kernel().host.act(&step).unwrap();
        it.settle(Sweep::Later).unwrap();
        assert!(it.unsettled(&"policy").is_empty(), "{step}");
        assert_eq!(it.kernel().host.rows.policies().count(), 3, "{step}");
    }
}

#[test]
fn what_was_refused_of_policies_is_tried_again_with_the_next_epoch() {
    let mut it = start(Fake::default());
    let member = policies(0)[2].clone();
    it.kernel().refuse.insert(member.key());
    want(&mut it, "policy", policies(0));
    assert_eq!(it.unsettled(&"policy").len(), 1);
    it.kernel().refuse.clear();
    want(&mut it, "policy", policies(1));
    assert!(it.unsettled(&"policy").is_empty());
}
