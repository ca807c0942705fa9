//! Rows are written and read.

use tartan_host::policy::Direction::{Egress, Ingress};
use tartan_host::policy::{
    Direction, Epoch, Identity, IdentityId, Judge, Judgement, Member, PolicyKey, PolicyRow, PortClass,
    Remotes, RemotesId,
};
use tartan_host::{Host, Key, Row, Step, StepError, diff};
use tartan_kernel::Kernel;

use crate::common::{Scratch, change, done, remove};
use crate::world::{create_all, identity, ip, judge, judged, member, nft, own, remotes};

/// A row of each kind, and the ends of what rows can say.
fn all() -> Vec<Row> {
    let range = |first, last, judgement| (ip(first), ip(last), judgement);
    let (allow, deny) = (Judgement::Allow, Judgement::Deny);
    let everything = [
        range("0.0.0.0", "255.255.255.255", allow),
        range("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", deny),
    ];
    let parts = [
        range("0.0.0.0", "9.255.255.255", allow),
        range("10.0.0.0", "10.0.0.0", deny),
        range("10.0.0.1", "10.255.255.255", allow),
        range("255.255.255.255", "255.255.255.255", deny),
        range("fd00::", "fd00::ffff", allow),
        range("fd00::1:0", "fd00::1:0", deny),
    ];
    let others = |id, direction, ranges: &[_], otherwise| {
        let ranges = ranges.to_vec();
        Row::Policy(PolicyRow::Remotes(Remotes { id: RemotesId(id), direction, ranges, otherwise }))
    };
    let denied = |remotes, address| {
        let (remotes, address) = (RemotesId(remotes), ip(address));
        Row::Policy(PolicyRow::Member(Member { remotes, address, judgement: deny }))
    };
    let class =
        |protocol, first, last, remotes| PortClass { protocol, first, last, remotes: RemotesId(remotes) };
    let ports = vec![
        class(0, 0, 0, 1),
        class(1, 0, 65535, 2),
        class(6, 0, 79, 1),
        class(6, 80, 80, 2),
        class(255, 1, 65535, 2),
    ];
    let silent = Identity {
        id: IdentityId(u64::MAX),
        direction: Egress,
        ports,
        otherwise: RemotesId(3),
        about: String::new(),
        is_far: false,
    };
    let mut rows = vec![
        judge(0),
        remotes(1, Ingress, &[]),
        others(2, Ingress, &parts, allow),
        others(3, Egress, &everything, deny),
        member(1, "10.1.0.1"),
        member(1, "fd00::1"),
        denied(2, "0.0.0.0"),
        denied(3, "255.255.255.255"),
        denied(3, "::"),
        identity(7, Ingress, &[(80, 80, 1), (8000, 9000, 2)], 1),
        far(identity(8, Ingress, &[(80, 80, 1)], 2)),
        Row::Policy(PolicyRow::Identity(silent)),
        judged(Ingress, "10.2.0.5", 8),
        judged(Ingress, "10.1.0.5", 7),
        judged(Egress, "10.1.0.5", u64::MAX),
        judged(Ingress, "fd00::5", 7),
        judged(Egress, "fd00::5", u64::MAX),
        own("10.1.0.5"),
        own("fd00::5"),
    ];
    rows.sort_by_key(Row::key);
    rows
}

/// The same identity, but of pods of other nodes.
fn far(mut row: Row) -> Row {
    if let Row::Policy(PolicyRow::Identity(identity)) = &mut row {
        identity.is_far = true;
    }
    row
}

/// Takes in what the kernel told.
fn follow(kernel: &mut Kernel, host: &mut Host) -> bool {
    let notices = kernel.notices();
    for notice in notices.rows {
        host.learn(notice);
    }
    if notices.policy_stale {
        host.rows.retain(|row| !matches!(row, Row::Policy(_)));
        host.rows.extend(kernel.read_policy().unwrap());
    }
    notices.policy_stale
}

fn policies(host: &Host) -> Vec<Row> {
    host.rows.policies().cloned().map(Row::Policy).collect()
}

fn read(kernel: &mut Kernel) -> Vec<Row> {
    let mut rows = kernel.read_policy().unwrap();
    rows.sort_by_key(Row::key);
    rows
}

/// Plans and takes steps until nothing is left to do.
fn settle(kernel: &mut Kernel, host: &mut Host, want: &[Row]) {
    for _ in 0..3 {
        let steps = diff(&want.iter().cloned().collect(), host);
        let steps: Vec<Step> =
            steps.into_iter().filter(|step| matches!(step.key(), Key::Policy(_))).collect();
        kernel.apply(&steps);
        follow(kernel, host);
    }
}

#[test]
fn rows_are_read_as_they_were_written() {
    let scratch = Scratch::new();
    let mut kernel = scratch.kernel();
    let mut host = kernel.read(&[]).unwrap();
    assert_eq!(policies(&host), []);
    done(&mut kernel, &create_all(&all()));
    assert_eq!(read(&mut kernel), all());
    // What the hand wrote it tells by itself.
    assert!(!follow(&mut kernel, &mut host));
    assert_eq!(policies(&host), all());
    let (listed, text) = nft(&scratch, &["list", "ruleset"]);
    assert!(listed, "{text}");
    // One by one they go, and nothing else with them.
    let mut left = all();
    while let Some(row) = left.pop() {
        done(&mut kernel, &[remove(row)]);
        assert_eq!(read(&mut kernel), left);
        follow(&mut kernel, &mut host);
        assert_eq!(policies(&host), left);
    }
    let (_, text) = nft(&scratch, &["list", "ruleset"]);
    assert_eq!(text, "");
}

/// Debian's `nft` can list all of it.
#[test]
fn the_table_reads_as_its_golden_text() {
    let scratch = Scratch::new();
    let rows = [
        judge(0),
        remotes(1, Ingress, &[("10.0.0.0", "10.0.255.255")]),
        member(1, "10.1.0.1"),
        remotes(2, Egress, &[("10.0.0.0", "10.0.255.255"), ("fd00::", "fd00::ffff")]),
        member(2, "fd00:1::1"),
        identity(3, Ingress, &[(80, 80, 1), (8000, 8999, 1)], 1),
        identity(4, Egress, &[], 2),
        far(identity(5, Ingress, &[(80, 80, 1)], 1)),
        judged(Ingress, "10.2.0.5", 5),
        judged(Ingress, "10.1.0.5", 3),
        judged(Egress, "10.1.0.5", 4),
        judged(Ingress, "fd00:1::5", 3),
        own("10.1.0.5"),
        own("fd00:1::5"),
    ];
    done(&mut scratch.kernel(), &create_all(&rows));
    let (listed, text) = nft(&scratch, &["list", "table", "inet", "tartan-policy"]);
    assert!(listed, "{text}");
    insta::assert_snapshot!(text);
}

/// Each row becomes what another want says, in place.
#[test]
fn rows_change_in_place_together() {
    let scratch = Scratch::new();
    let mut kernel = scratch.kernel();
    let mut host = kernel.read(&[]).unwrap();
    settle(&mut kernel, &mut host, &all());
    let mut others = all();
    for row in &mut others {
        let Row::Policy(row) = row else { continue };
        match row {
            PolicyRow::Judge(row) => row.epoch = Epoch::of(9),
            PolicyRow::Remotes(row) => row.ranges.truncate(1),
            PolicyRow::Member(row) => {
                row.judgement = match row.judgement {
                    Judgement::Allow => Judgement::Deny,
                    Judgement::Deny => Judgement::Allow,
                }
            }
            PolicyRow::Identity(row) => {
                row.ports.pop();
                row.about += "changed";
                row.is_far = row.direction == Ingress && !row.is_far;
            }
            PolicyRow::Judged(row) => row.about += " changed",
            PolicyRow::Own(row) => row.is_isolated = false,
        }
    }
    for want in [&others, &all(), &all()[..9].to_vec(), &others] {
        settle(&mut kernel, &mut host, want);
        assert_eq!(&policies(&host), want);
        assert_eq!(&read(&mut kernel), want);
    }
    // A table that goes takes everything along.
    settle(&mut kernel, &mut host, &[]);
    assert_eq!((policies(&host), read(&mut kernel)), (Vec::new(), Vec::new()));
}

/// Nothing is changed if one step is refused; each says why, and no pod is let in.
#[test]
fn a_transaction_is_taken_whole_or_not_at_all() {
    let scratch = Scratch::new();
    let mut kernel = scratch.kernel();
    let mut host = kernel.read(&[]).unwrap();
    settle(&mut kernel, &mut host, &all());
    let pods = Scratch::new();
    let token = kernel.adopt(pods.clone_fd());
    let link = Row::Link(crate::common::veth("tt0123456789ab", token, "eth0"));
    let steps = [
        change(&judge(0), &judge(1)),
        remove(member(1, "10.1.0.1")),
        Step::Create { row: judged(Ingress, "10.1.0.6", 99) },
        Step::Create { row: own("10.1.0.6") },
        Step::Create { row: link.clone() },
    ];
    let answers = kernel.apply(&steps);
    assert_eq!(answers[2], Err(StepError::NoRuleset), "no such identity");
    for answer in [&answers[0], &answers[1], &answers[3]] {
        let Err(StepError::Kernel { text, .. }) = answer else { panic!("{answer:?}") };
        assert!(text.contains(&steps[2].to_string()), "{text}");
    }
    assert!(answers[4].is_err(), "{:?}", answers[4]);
    assert_eq!(read(&mut kernel), all());
    assert_eq!(kernel.read(&[]).unwrap().rows.get(&link.key()), None);
    // The model refuses that one, too.
    assert_eq!(host.act(&steps[2]), Err(StepError::NoRuleset));
    // What something leads to stays, in both.
    for row in [remotes(1, Ingress, &[]), identity(7, Ingress, &[], 1)] {
        let step = remove(row);
        assert!(matches!(host.act(&step), Err(StepError::Kernel { errno: libc::EBUSY, .. })));
        assert!(matches!(kernel.apply(&[step])[..], [Err(StepError::Kernel { errno: libc::EBUSY, .. })]));
    }
    // What is gone already need not be taken away.
    done(
        &mut kernel,
        &[remove(member(1, "10.1.0.1")), remove(member(1, "10.1.0.99")), remove(own("fd00::99"))],
    );
    assert!(!read(&mut kernel).contains(&member(1, "10.1.0.1")));
}

/// The next hand takes it over: what it did not write itself it writes anew, and elements stay.
#[test]
fn the_table_is_owned_and_taken_over() {
    let scratch = Scratch::new();
    let mut kernel = scratch.kernel();
    done(&mut kernel, &create_all(&all()));
    for attempt in [
        &["flush", "ruleset"][..],
        &["delete", "table", "inet", "tartan-policy"],
        &["add", "element", "inet", "tartan-policy", "own_ipv4", "{ 192.0.2.9 }"],
    ] {
        nft(&scratch, attempt);
        assert_eq!(read(&mut kernel), all(), "{attempt:?}");
    }
    // Another hand cannot write it meanwhile.
    let mut second = scratch.kernel();
    let mut found = read(&mut second);
    assert_eq!(found[0], Row::Policy(PolicyRow::Judge(Judge { intact: false, epoch: Epoch::of(0) })));
    let step = change(&found[0], &judge(1));
    assert!(matches!(second.apply(&[step])[..], [Err(StepError::Kernel { errno: libc::EPERM, .. })]));
    assert_eq!(read(&mut kernel), all());
    drop(kernel);
    let mut host = second.read(&[]).unwrap();
    found.splice(..1, [judge(1)]);
    settle(&mut second, &mut host, &found);
    assert_eq!((policies(&host), read(&mut second)), (found.clone(), found));
}

/// On a kernel whose tables cannot be owned, what others do to them is told, and undone.
#[test]
fn what_others_do_is_seen_and_undone() {
    let scratch = Scratch::new();
    let mut kernel = scratch.kernel();
    kernel.own_no_tables();
    let mut host = kernel.read(&[]).unwrap();
    let table = "inet tartan-policy";
    for damage in [
        "flush ruleset".to_owned(),
        format!("delete table {table}"),
        format!("flush chain {table} forward"),
        format!("flush set {table} now"),
        format!("add element {table} now {{ 0x77770000 }}"),
        format!("flush chain {table} deny_ingress"),
        format!("insert rule {table} forward accept"),
        format!("insert rule {table} r_0000000000000001 accept"),
        format!("flush chain {table} in_0000000000000007"),
        format!("add chain {table} mine"),
        format!("add chain {table} r_mine"),
        format!("add set {table} mine {{ type ipv4_addr; }}"),
        format!("flush set {table} own_ipv4"),
        format!("flush set {table} h4_0000000000000001"),
        format!("delete element {table} itself_ipv4 {{ 10.1.0.5 . 10.1.0.5 }}"),
        format!("add element {table} own_ipv4 {{ 10.1.0.77 }}"),
        format!("add element {table} h4_0000000000000001 {{ 10.1.0.77 }}"),
        format!("add element {table} n4_0000000000000001 {{ 10.1.0.0/24 : return }}"),
        format!("flush map {table} ingress_ipv4"),
    ] {
        settle(&mut kernel, &mut host, &all());
        assert_eq!(policies(&host), all(), "before {damage}");
        let (done, text) = nft(&scratch, &damage.split(' ').collect::<Vec<_>>());
        assert!(done, "{damage}: {text}");
        assert!(follow(&mut kernel, &mut host), "{damage} was not told");
        assert_ne!(policies(&host), all(), "{damage} was not seen");
        settle(&mut kernel, &mut host, &all());
        assert_eq!(policies(&host), all(), "{damage} was not undone");
        assert_eq!(read(&mut kernel), all(), "{damage} was not undone");
        let (_, text) = nft(&scratch, &["list", "ruleset"]);
        assert!(!text.contains("mine") && !text.contains("10.1.0.77"), "{damage}: {text}");
    }
}

/// Where rows are damaged that nobody asks for yet, what leads to them denies all.
#[test]
fn what_is_damaged_stays_shut() {
    let scratch = Scratch::new();
    let mut kernel = scratch.kernel();
    kernel.own_no_tables();
    let mut host = kernel.read(&[]).unwrap();
    settle(&mut kernel, &mut host, &all());
    for damage in [
        "flush chain inet tartan-policy r_0000000000000001",
        "insert rule inet tartan-policy in_0000000000000007 accept",
    ] {
        let (done, text) = nft(&scratch, &damage.split(' ').collect::<Vec<_>>());
        assert!(done, "{damage}: {text}");
    }
    follow(&mut kernel, &mut host);
    let found = host.rows.policy(PolicyKey::Judge).unwrap().clone();
    done(&mut kernel, &[change(&Row::Policy(found), &judge(1))]);
    follow(&mut kernel, &mut host);
    for id in [1, 7] {
        let Some(PolicyRow::Remotes(row)) = host.rows.policy(PolicyKey::Remotes(RemotesId(id))) else {
            panic!("{id}: {:?}", policies(&host));
        };
        assert_eq!((row.ranges.len(), row.otherwise), (0, Judgement::Deny));
    }
    let judged = |direction: Direction| host.rows.policy(PolicyKey::Judged(ip("10.1.0.5"), direction));
    assert!(Direction::ALL.iter().all(|direction| judged(*direction).is_some()));
    settle(&mut kernel, &mut host, &all());
    assert_eq!(read(&mut kernel), all());
}
