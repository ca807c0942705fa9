//! Marks of long ago are taken off connections.

use std::fs;

use tartan_host::policy::Direction::Ingress;
use tartan_host::policy::Epoch;
use tartan_kernel::netns;

use crate::common::{change, done, remove};
use crate::world::{
    CLIENT, Flow, SERVER, World, create_all, identity, judge, judged, member, nft, own, remotes,
};

/// The marks of all connections, by their ports, as far as they have any.
fn marks(world: &World) -> Vec<u32> {
    let read = || fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
    let text = netns::run_in(world.router.fd(), read).unwrap();
    let mark = |line: &str| {
        let mark = line.split(' ').find_map(|word| word.strip_prefix("mark="))?;
        line.contains(" udp ").then(|| mark.parse().unwrap())
    };
    text.lines().filter_map(mark).collect()
}

fn rows(epoch: u64) -> Vec<tartan_host::Row> {
    let mut rows = vec![judge(epoch), remotes(1, Ingress, &[]), identity(3, Ingress, &[], 1)];
    rows.extend(CLIENT.map(|client| member(1, client)));
    rows.extend(SERVER.map(|server| judged(Ingress, server, 3)));
    rows.extend(SERVER.map(own));
    rows.sort_by_key(|row| row.key());
    rows
}

#[test]
fn marks_of_a_half_go_before_it_is_entered() {
    let world = World::new();
    let mut kernel = world.router.kernel();
    done(&mut kernel, &create_all(&rows(0)));
    // Somebody else's bits stay.
    let (added, text) = nft(&world.router, &["add", "table", "inet", "others"]);
    assert!(added, "{text}");
    let chain = "add chain inet others post { type filter hook postrouting priority 0; }";
    let rule = "add rule inet others post meta l4proto udp ct mark set ct mark or 0x80000005";
    for line in [chain, rule] {
        let (added, text) = nft(&world.router, &line.split(' ').collect::<Vec<_>>());
        assert!(added, "{text}");
    }
    let flows = |count: usize| -> Vec<Flow> {
        (0..count)
            .map(|number| {
                let family = number % 2;
                let mut flow = Flow::new(&world, CLIENT[family], SERVER[family], 7);
                assert!(flow.passes());
                flow
            })
            .collect()
    };
    let first = Epoch::of(0).mark() | 0x8000_0005;
    let mut before = flows(4);
    let bears = |mark: u32| marks(&world).iter().filter(|found| **found == mark).count();
    assert_eq!(bears(first), 4, "{:x?}", marks(&world));
    // The lower half is left: what is in it stays until it is entered again.
    let (upper, lower) = (0x4000, 5);
    done(&mut kernel, &[change(&judge(0), &judge(upper))]);
    let after = flows(2);
    assert_eq!(bears(Epoch::of(upper).mark() | 0x8000_0005), 2);
    assert_eq!(bears(first), 4);
    done(&mut kernel, &[change(&judge(upper), &judge(upper + 1))]);
    assert_eq!(bears(first), 4);
    done(&mut kernel, &[change(&judge(upper + 1), &judge(lower))]);
    assert_eq!(bears(first), 0);
    assert_eq!(bears(0x8000_0005), 4, "{:x?}", marks(&world));
    assert_eq!(bears(Epoch::of(upper).mark() | 0x8000_0005), 2);
    // They are judged by the epoch of now.
    assert!(before.iter_mut().all(Flow::passes));
    assert_eq!(bears(Epoch::of(lower).mark() | 0x8000_0005), 4);
    // A table that is made anew knows nothing of what was before.
    done(&mut kernel, &[remove(judge(lower))]);
    let without: Vec<_> = rows(upper).into_iter().filter(|row| *row != member(1, CLIENT[0])).collect();
    done(&mut kernel, &create_all(&without));
    assert!(marks(&world).iter().all(|mark| mark & 0x7fff_0000 == 0), "{:x?}", marks(&world));
    drop(after);
    for (number, flow) in before.iter_mut().enumerate() {
        assert!(if number % 2 == 0 { flow.is_cut() } else { flow.passes() });
    }
}
