//! Our nftables in a real kernel.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

mod common;

use common::{Scratch, ifname};
use tartan_host::nftables::TableFamily;
use tartan_host::{Element, Host, Key, Member, Parts, Protocol, Row, Ruleset, Step, diff};
use tartan_kernel::Kernel;
use tartan_model::{Cidr, Mac};

fn ruleset() -> Row {
    Row::Ruleset(Ruleset { intact: true, parts: Some(Parts::default()) })
}

fn elements() -> Vec<Row> {
    let link = ifname("tt0123456789ab");
    let member = |table, member| Row::Element(Element { table, member });
    let mac = Mac::from_bytes([2, 0, 0, 0, 0, 1]);
    let source = |address: &str| Member::Source(link.clone(), mac, address.parse().unwrap());
    let mut rows = Vec::new();
    for table in [TableFamily::Bridge, TableFamily::Inet] {
        rows.push(member(table, Member::Mac(link.clone(), mac)));
        rows.push(member(table, source("10.1.0.2")));
        rows.push(member(table, source("fd00::2")));
        rows.push(member(table, Member::Node("192.0.2.1".parse().unwrap())));
        rows.push(member(table, Member::Node("2001:db8::1".parse().unwrap())));
        rows.push(member(table, Member::Tunnel(Protocol::Udp, 8472)));
        rows.push(member(table, Member::Control(Protocol::Tcp, 8474)));
    }
    rows.push(member(TableFamily::Bridge, Member::Port(link.clone())));
    rows.push(member(TableFamily::Inet, Member::Vxlan(8472, 77.try_into().unwrap())));
    rows.extend(ranges());
    rows.push(member(TableFamily::Arp, source("10.1.0.2")));
    rows
}

/// Where connections take the node's address, and where not.
fn ranges() -> Vec<Row> {
    let range = |text: &str| text.parse::<Cidr>().unwrap();
    let members = [
        Member::Masquerade(range("10.1.0.0/16"), range("0.0.0.0/0")),
        Member::Masquerade(range("fd00:1::/48"), range("::/0")),
        Member::Kept(range("10.1.0.0/16"), range("10.1.0.0/16")),
        Member::Kept(range("10.1.0.0/16"), range("224.0.0.0/4")),
        Member::Kept(range("10.1.0.0/16"), range("255.255.255.255/32")),
        Member::Kept(range("fd00:1::/48"), range("fe80::/10")),
        Member::Across(range("10.1.0.0/16"), range("10.2.0.0/16")),
        Member::Across(range("fd00:1::/48"), range("fd00:2::/48")),
    ];
    members.map(|member| Row::Element(Element { table: TableFamily::Inet, member })).into()
}

fn with(masquerade: bool, apart: bool) -> Row {
    Row::Ruleset(Ruleset { intact: true, parts: Some(Parts { masquerade, apart, judged: apart }) })
}

fn create(rows: &[Row]) -> Vec<Step> {
    rows.iter().map(|row| Step::Create { row: row.clone() }).collect()
}

/// Takes in what the kernel told.
fn follow(kernel: &mut Kernel, host: &mut Host) {
    let notices = kernel.notices();
    for notice in notices.rows {
        host.learn(notice);
    }
    if notices.ruleset_stale {
        host.rows.retain(|row| !matches!(row, Row::Ruleset(_) | Row::Element(_)));
        host.rows.extend(kernel.read_ruleset().unwrap());
    }
}

fn filter_rows(host: &Host) -> Vec<Row> {
    let ours = |row: &&Row| matches!(row, Row::Ruleset(_) | Row::Element(_));
    host.rows.iter().filter(ours).cloned().collect()
}

fn nft(scratch: &Scratch, args: &[&str]) -> (bool, String) {
    let output = std::process::Command::new("ip")
        .args(["netns", "exec", &scratch.name, "nft"])
        .args(args)
        .output()
        .expect("ip and nft are installed");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Debian's `nft` can list all of it.
#[test]
fn the_ruleset_reads_as_its_golden_text() {
    let scratch = Scratch::new();
    let answers = scratch.kernel().apply(&create(&[ruleset()]));
    assert_eq!(answers, [Ok(())]);
    let (listed, text) = nft(&scratch, &["list", "ruleset"]);
    assert!(listed, "{text}");
    insta::assert_snapshot!(text);
}

/// Nor does it stumble over the parts that are there only where they are needed, and over ranges.
#[test]
fn the_way_out_reads_as_its_golden_text() {
    let scratch = Scratch::new();
    let answers = scratch.kernel().apply(&create(&[vec![with(true, true)], ranges()].concat()));
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    for object in [&["sets"][..], &["chains"]] {
        let (listed, text) = nft(&scratch, &[&["list"], object, &["inet"]].concat());
        assert!(listed, "{text}");
    }
    let mut text = String::new();
    for family in ["ipv4", "ipv6"] {
        for set in ["masquerade", "kept", "across"] {
            text += &nft(&scratch, &["list", "set", "inet", "tartan", &format!("{set}_{family}")]).1;
        }
    }
    for chain in ["way_out", "leave", "outer_in", "outer_out", "outer", "apart", "across", "node"] {
        text += &nft(&scratch, &["list", "chain", "inet", "tartan", chain]).1;
    }
    for (family, chain) in [("inet", "seen"), ("bridge", "frames"), ("bridge", "unjudged")] {
        text += &nft(&scratch, &["list", "chain", family, "tartan", chain]).1;
    }
    insta::assert_snapshot!(text);
}

/// Parts come and go in place: elements, and what was counted, stay.
#[test]
fn parts_of_the_ruleset_come_and_go() {
    let scratch = Scratch::new();
    let mut kernel = scratch.kernel();
    let mut host = kernel.read(&[]).unwrap();
    let mut all: Vec<Row> = [vec![ruleset()], elements()].concat();
    all.sort_by_key(Row::key);
    let chains = |scratch: &Scratch| {
        let (listed, text) = nft(scratch, &["list", "table", "inet", "tartan"]);
        assert!(listed, "{text}");
        [text.contains("chain way_out {"), text.contains("chain apart {")]
    };
    for (masquerade, apart) in [(false, false), (true, false), (true, true), (false, true), (false, false)] {
        all[0] = with(masquerade, apart);
        settle(&mut kernel, &mut host, &all);
        assert_eq!(filter_rows(&host), all);
        assert_eq!(chains(&scratch), [masquerade, apart]);
    }
    all[0] = with(true, true);
    settle(&mut kernel, &mut host, &all);
    drop(kernel);
    // The next hand leaves them as they are, as long as it does not know better.
    let mut next = scratch.kernel();
    let mut host = next.read(&[]).unwrap();
    let found = Ruleset { intact: false, parts: Some(Parts { masquerade: true, apart: true, judged: true }) };
    assert_eq!(host.rows.get(&Key::Ruleset), Some(&Row::Ruleset(found.clone())));
    let unknown = Row::Ruleset(Ruleset { intact: true, parts: None });
    let answers = next.apply(&[Step::Change { from: Row::Ruleset(found), to: unknown }]);
    assert_eq!(answers, [Ok(())]);
    follow(&mut next, &mut host);
    assert_eq!(filter_rows(&host), all);
}

/// A range takes the place of one that it shares addresses with, in one transaction.
#[test]
fn a_range_takes_the_place_of_one_inside_it() {
    let scratch = Scratch::new();
    let mut kernel = scratch.kernel();
    let mut host = kernel.read(&[]).unwrap();
    let kept = |to: &str| {
        let member = Member::Kept("10.1.0.0/16".parse().unwrap(), to.parse().unwrap());
        Row::Element(Element { table: TableFamily::Inet, member })
    };
    for to in ["192.168.0.0/24", "192.168.0.0/16", "192.168.0.0/24", "0.0.0.0/0"] {
        let all = vec![with(true, false), kept(to)];
        settle(&mut kernel, &mut host, &all);
        assert_eq!(filter_rows(&host), all);
        assert_eq!(filter_rows(&kernel.read(&[]).unwrap()), all);
    }
}

#[test]
fn the_ruleset_is_written_read_followed_and_owned() {
    let scratch = Scratch::new();
    let mut kernel = scratch.kernel();
    let mut host = kernel.read(&[]).unwrap();
    assert_eq!(filter_rows(&host), []);
    // An element without its set is refused, and nothing else.
    let answers = kernel.apply(&create(&elements()[..1]));
    assert_eq!(answers, [Err(tartan_host::StepError::NoRuleset)]);
    let all: Vec<Row> = [vec![ruleset()], elements()].concat();
    let answers = kernel.apply(&create(&all));
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    follow(&mut kernel, &mut host);
    let mut sorted = all.clone();
    sorted.sort_by_key(Row::key);
    assert_eq!(filter_rows(&host), sorted);
    assert_eq!(filter_rows(&kernel.read(&[]).unwrap()), sorted);
    let (listed, text) = nft(&scratch, &["list", "ruleset"]);
    assert!(listed, "{text}");
    // Nobody else can change it.
    let (done, text) = nft(&scratch, &["flush", "ruleset"]);
    assert_eq!(filter_rows(&kernel.read(&[]).unwrap()), sorted, "{done} {text}");
    let (done, text) = nft(&scratch, &["add", "element", "inet", "tartan", "nodes_ipv4", "{ 192.0.2.9 }"]);
    assert!(!done, "{text}");
    // The next hand takes it over: what it did not write itself it writes anew, and elements stay.
    drop(kernel);
    let mut next = scratch.kernel();
    let mut host = next.read(&[]).unwrap();
    assert_eq!(
        host.rows.get(&Key::Ruleset),
        Some(&Row::Ruleset(Ruleset { intact: false, parts: Some(Parts::default()) }))
    );
    assert_eq!(filter_rows(&host).len(), sorted.len());
    let found = host.rows.get(&Key::Ruleset).unwrap().clone();
    let answers = next.apply(&[Step::Change { from: found, to: ruleset() }]);
    assert_eq!(answers, [Ok(())]);
    follow(&mut next, &mut host);
    assert_eq!(filter_rows(&host), sorted);
    let removed: Vec<Step> = elements().into_iter().map(|row| Step::Remove { row }).collect();
    // Twice: what is gone need not be taken away.
    for _ in 0..2 {
        let answers = next.apply(&removed);
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
    follow(&mut next, &mut host);
    assert_eq!(filter_rows(&host), [ruleset()]);
}

/// On a kernel whose tables cannot be owned, what others do to them is told.
#[test]
fn what_others_do_to_tables_that_nobody_owns_is_seen_and_can_be_undone() {
    let scratch = Scratch::new();
    let mut kernel = scratch.kernel();
    kernel.own_no_tables();
    let mut host = kernel.read(&[]).unwrap();
    let mut all: Vec<Row> = [vec![ruleset()], elements()].concat();
    all.sort_by_key(Row::key);
    for damage in [
        "flush ruleset",
        "delete table inet tartan",
        "flush chain bridge tartan pods",
        "insert rule inet tartan pods accept",
        "add chain inet tartan mine { type filter hook prerouting priority -400; policy accept; }",
        "add set arp tartan mine { type ifname; }",
        "flush set inet tartan macs",
        "delete element bridge tartan nodes_ipv4 { 192.0.2.1 }",
        "add element bridge tartan nodes_ipv4 { 192.0.2.66 }",
    ] {
        settle(&mut kernel, &mut host, &all);
        assert_eq!(filter_rows(&host), all, "before {damage}");
        let (done, text) = nft(&scratch, &damage.split(' ').collect::<Vec<_>>());
        assert!(done, "{damage}: {text}");
        follow(&mut kernel, &mut host);
        assert_ne!(filter_rows(&host), all, "{damage} was not seen");
        settle(&mut kernel, &mut host, &all);
        assert_eq!(filter_rows(&host), all, "{damage} was not undone");
        assert_eq!(filter_rows(&kernel.read(&[]).unwrap()), all, "{damage} was not undone");
    }
}

/// Plans and takes steps until nothing is left to do.
fn settle(kernel: &mut Kernel, host: &mut Host, want: &[Row]) {
    for _ in 0..3 {
        let steps = diff(&want.iter().cloned().collect(), host);
        let steps: Vec<Step> = steps.into_iter().filter(|step| is_filter(&step.key())).collect();
        kernel.apply(&steps);
        follow(kernel, host);
    }
}

fn is_filter(key: &Key) -> bool {
    matches!(key, Key::Ruleset | Key::Element(_))
}

/// As at each restart on a kernel whose tables cannot be owned: elements that nobody asks for yet stay.
#[test]
fn elements_outlive_a_hand_also_where_the_tables_must_be_made_anew() {
    let scratch = Scratch::new();
    for damage in ["", "add chain inet tartan mine", "add set arp tartan mine { type ifname; }"] {
        let mut kernel = scratch.kernel();
        kernel.own_no_tables();
        let all: Vec<Row> = [vec![ruleset()], elements()].concat();
        assert!(kernel.apply(&create(&all)).iter().all(Result::is_ok));
        drop(kernel);
        if !damage.is_empty() {
            let (done, text) = nft(&scratch, &damage.split(' ').collect::<Vec<_>>());
            assert!(done, "{damage}: {text}");
        }
        let mut next = scratch.kernel();
        let mut host = next.read(&[]).unwrap();
        let found = host.rows.get(&Key::Ruleset).unwrap().clone();
        assert_eq!(next.apply(&[Step::Change { from: found, to: ruleset() }]), [Ok(())], "{damage}");
        follow(&mut next, &mut host);
        let mut sorted = all;
        sorted.sort_by_key(Row::key);
        assert_eq!(filter_rows(&host), sorted, "{damage}");
        let gone = host.rows.get(&Key::Ruleset).unwrap().clone();
        assert_eq!(next.apply(&[Step::Remove { row: gone }]), [Ok(())]);
    }
}

/// A pod's link that cannot be guarded is not opened.
#[test]
fn what_cannot_be_guarded_stays_shut() {
    let scratch = Scratch::new();
    let mut owner = scratch.kernel();
    assert_eq!(owner.apply(&create(&[ruleset()])), [Ok(())]);
    // Another hand owns the tables, so this one cannot put an element in.
    let mut kernel = scratch.kernel();
    let pods = Scratch::new();
    let token = kernel.adopt(pods.clone_fd());
    let link = Row::Link(common::veth("tt0123456789ab", token, "eth0"));
    let answers = kernel.apply(&create(&[elements()[0].clone(), link.clone()]));
    assert!(answers.iter().all(Result::is_err), "{answers:?}");
    assert_eq!(kernel.read(&[]).unwrap().rows.get(&link.key()), None);
    drop(owner);
    let answers = kernel.apply(&create(&[ruleset(), elements()[0].clone(), link.clone()]));
    assert_eq!(answers, [Ok(()), Ok(()), Ok(())]);
}
