//! What a transaction costs. `cargo test -p tartan-kernel --test policy cost -- --ignored --nocapture` prints it.

use std::time::{Duration, Instant};

use tartan_host::policy::Direction::Ingress;
use tartan_host::{Row, Step};
use tartan_kernel::Kernel;

use crate::common::{Scratch, change, done, remove};
use crate::world::{create_all, identity, judge, judged, member, own, remotes};

fn address(number: u32) -> String {
    std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string()
}

/// Remotes with so many members, and pods that each of them may reach.
fn fill(kernel: &mut Kernel, members: u32, pods: u32) {
    let mut rows = vec![judge(0), remotes(1, Ingress, &[("192.168.0.0", "192.168.255.255")])];
    rows.extend((0..members).map(|number| member(1, &address(number))));
    rows.push(identity(3, Ingress, &[(80, 80, 1), (443, 443, 1)], 1));
    rows.extend((0..pods).map(|number| judged(Ingress, &address(1 << 20 | number), 3)));
    rows.extend((0..pods).map(|number| own(&address(1 << 20 | number))));
    let started = Instant::now();
    done(kernel, &create_all(&rows));
    println!("{members} members, {pods} pods: made in {:?}", started.elapsed());
}

/// Median and largest of some.
fn measure(mut each: impl FnMut(u64)) -> (Duration, Duration) {
    let mut times: Vec<Duration> = (0..41)
        .map(|round| {
            let started = Instant::now();
            each(round);
            started.elapsed()
        })
        .collect();
    times.sort();
    (times[times.len() / 2], times[times.len() - 1])
}

/// Replaces one member, with the next epoch.
fn replace(kernel: &mut Kernel, round: u64) {
    let number = |round: u64| address(u32::try_from(round).unwrap());
    let steps: Vec<Step> = vec![
        change(&judge(round), &judge(round + 1)),
        Step::Create { row: member(1, &number(500_000 + round)) },
        remove(member(1, &number(round))),
    ];
    done(kernel, &steps);
    kernel.notices();
}

#[test]
fn a_small_change_costs_little_with_ten_thousand_members() {
    let scratch = Scratch::new();
    let mut kernel = scratch.kernel();
    fill(&mut kernel, 10_000, 100);
    let (median, most) = measure(|round| replace(&mut kernel, round));
    println!("one member and the epoch: {median:?}, at most {most:?}");
    assert!(median < Duration::from_millis(50), "{median:?}");
}

#[test]
#[ignore = "takes long"]
fn costs_by_size() {
    for (members, pods) in
        [(100, 10), (1000, 100), (10_000, 100), (10_000, 1000), (100_000, 100), (100_000, 10_000)]
    {
        let scratch = Scratch::new();
        let mut kernel = scratch.kernel();
        fill(&mut kernel, members, pods);
        let (median, most) = measure(|round| replace(&mut kernel, round));
        println!("  one member and the epoch: {median:?}, at most {most:?}");
        let (median, most) =
            measure(|round| done(&mut kernel, &[change(&judge(41 + round), &judge(42 + round))]));
        println!("  the epoch: {median:?}, at most {most:?}");
        let put = |round: u64| member(1, &address(600_000 + round as u32));
        let (median, most) = measure(|round| done(&mut kernel, &[Step::Create { row: put(round) }]));
        println!("  one member: {median:?}, at most {most:?}");
        let pod = |round: u64| address(1 << 22 | round as u32);
        let (median, most) = measure(|round| {
            let rows: [Row; 2] = [judged(Ingress, &pod(round), 3), own(&pod(round))];
            done(&mut kernel, &create_all(&rows));
        });
        println!("  a pod: {median:?}, at most {most:?}");
        let started = Instant::now();
        let rows = kernel.read_policy().unwrap().len();
        println!("  {rows} rows read in {:?}", started.elapsed());
    }
}
