//! Packets are judged.

use tartan_host::Step;
use tartan_host::policy::Direction::{Egress, Ingress};

use crate::common::{change, done, remove};
use crate::world::{
    CLIENT, Flow, OTHER, SERVER, World, create_all, identity, is_refused, judge, judged, member, nft, own,
    passes, remotes,
};

/// The server takes what comes from the client on one port, and from the other nothing.
#[test]
fn a_server_is_reached_by_whom_it_may_be() {
    let world = World::new();
    let mut kernel = world.router.kernel();
    for (client, server) in CLIENT.iter().zip(SERVER) {
        [8080, 8081].iter().for_each(|port| world.serve(server, *port));
        assert!(passes(&world, client, server, 8080), "before");
    }
    let mut rows = vec![
        judge(0),
        remotes(1, Ingress, &[]),
        remotes(2, Ingress, &[]),
        identity(3, Ingress, &[(8080, 8080, 1)], 2),
    ];
    rows.extend(CLIENT.map(|client| member(1, client)));
    rows.extend(SERVER.map(|server| judged(Ingress, server, 3)));
    rows.extend(SERVER.map(own));
    done(&mut kernel, &create_all(&rows));
    for family in 0..2 {
        let (client, other, server) = (CLIENT[family], OTHER[family], SERVER[family]);
        assert!(passes(&world, client, server, 8080));
        assert!(is_refused(&world, client, server, 8081), "another port");
        assert!(is_refused(&world, other, server, 8080), "another client");
    }
    let (listed, text) = nft(&world.router, &["list", "chain", "inet", "tartan-policy", "deny_ingress"]);
    assert!(listed && text.contains("counter packets 4 "), "{text}");
}

/// The client opens connections to the server on one port, and to nobody else; answers come in any case.
#[test]
fn a_client_reaches_whom_it_may() {
    let world = World::new();
    let mut kernel = world.router.kernel();
    for server in SERVER {
        [8080, 8081].iter().for_each(|port| world.serve(server, *port));
    }
    let mut rows = vec![
        judge(0),
        remotes(1, Egress, &[("10.2.0.0", "10.2.0.255"), ("fd00:2::", "fd00:2::ffff")]),
        remotes(2, Egress, &[]),
        identity(3, Egress, &[(8080, 8080, 1)], 2),
        // What the client takes does not matter for answers.
        identity(4, Ingress, &[], 5),
        remotes(5, Ingress, &[]),
    ];
    rows.sort_by_key(|row| row.key());
    for client in CLIENT {
        rows.extend([judged(Egress, client, 3), judged(Ingress, client, 4), own(client)]);
    }
    done(&mut kernel, &create_all(&rows));
    for family in 0..2 {
        let (client, other, server) = (CLIENT[family], OTHER[family], SERVER[family]);
        assert!(passes(&world, client, server, 8080));
        assert!(is_refused(&world, client, server, 8081), "another port");
        assert!(passes(&world, other, server, 8081), "a client that nobody judges: {other}");
    }
}

/// One transaction takes a client's right, and with it the flow that it has; another flow goes on.
#[test]
fn a_flow_ends_with_its_right() {
    let world = World::new();
    let mut kernel = world.router.kernel();
    for family in 0..2 {
        let (client, other, server) = (CLIENT[family], OTHER[family], SERVER[family]);
        world.serve(server, 8080);
        let rows = [
            judge(0),
            remotes(1, Ingress, &[]),
            member(1, client),
            member(1, other),
            identity(3, Ingress, &[], 1),
            judged(Ingress, server, 3),
            own(server),
        ];
        done(&mut kernel, &create_all(&rows));
        let (mut stays, mut ends) =
            (Flow::new(&world, client, server, 8080), Flow::new(&world, other, server, 8080));
        assert!(stays.passes(), "{client}");
        assert!(ends.passes(), "{other}");
        done(&mut kernel, &[change(&judge(0), &judge(1)), remove(member(1, other))]);
        assert!(stays.passes() && ends.is_cut());
        // Without a new epoch a connection that was let through is not asked again.
        done(&mut kernel, &[remove(member(1, client))]);
        assert!(stays.passes());
        done(&mut kernel, &[change(&judge(1), &judge(2))]);
        assert!(stays.is_cut());
        done(&mut kernel, &create_all(&[member(1, client)]));
        assert!(stays.passes());
        done(&mut kernel, &[remove(judge(2))]);
        assert!(ends.passes(), "nothing is judged without the table");
    }
}

/// Who is reached by an address that somebody translates is judged by what it is behind that.
#[test]
fn a_translated_flow_is_judged_by_its_real_server() {
    let world = World::new();
    let mut kernel = world.router.kernel();
    let rules = [
        "add table ip nat",
        "add chain ip nat pre { type nat hook prerouting priority -100; }",
        "add rule ip nat pre ip daddr 10.9.9.9 udp dport 53 dnat to 10.2.0.2:8080",
        "add table ip6 nat",
        "add chain ip6 nat pre { type nat hook prerouting priority -100; }",
        "add rule ip6 nat pre ip6 daddr fd00:9::9 udp dport 53 dnat to [fd00:2::2]:8080",
    ];
    for rule in rules {
        let (done, text) = nft(&world.router, &rule.split(' ').collect::<Vec<_>>());
        assert!(done, "{rule}: {text}");
    }
    for ((client, server), service) in CLIENT.iter().zip(SERVER).zip(["10.9.9.9", "fd00:9::9"]) {
        world.serve(server, 8080);
        for (port, by, expected) in [(8080, server, true), (53, server, false), (8080, service, false)] {
            let rows = [
                judge(0),
                remotes(1, Egress, &[]),
                remotes(2, Egress, &[]),
                member(1, by),
                identity(3, Egress, &[(port, port, 1)], 2),
                judged(Egress, client, 3),
                own(client),
            ];
            done(&mut kernel, &create_all(&rows));
            let judged_right = || match expected {
                true => passes(&world, client, service, 53),
                false => is_refused(&world, client, service, 53),
            };
            assert!(judged_right(), "{port} {by}");
            // The server's own pod sees the real client.
            let rows = [
                remotes(4, Ingress, &[]),
                member(4, client),
                identity(5, Ingress, &[(8080, 8080, 4)], 4),
                judged(Ingress, server, 5),
            ];
            done(&mut kernel, &create_all(&rows));
            assert!(judged_right(), "{port} {by}");
            done(&mut kernel, &[Step::Remove { row: judge(0) }]);
        }
    }
}

/// What connection tracking does not see is not let through to a pod that is judged, nor from it.
#[test]
fn what_is_no_connection_does_not_pass() {
    let world = World::new();
    let mut kernel = world.router.kernel();
    let rules = [
        "add table inet raw",
        "add chain inet raw pre { type filter hook prerouting priority -300; }",
        "add rule inet raw pre udp dport 7 notrack",
        "add rule inet raw pre udp sport 7 notrack",
    ];
    for rule in rules {
        let (done, text) = nft(&world.router, &rule.split(' ').collect::<Vec<_>>());
        assert!(done, "{rule}: {text}");
    }
    done(&mut kernel, &create_all(&[judge(0)]));
    for family in 0..2 {
        let (client, other, server) = (CLIENT[family], OTHER[family], SERVER[family]);
        assert!(passes(&world, client, server, 7), "nobody is judged");
        done(&mut kernel, &create_all(&[own(client)]));
        assert!(is_refused(&world, client, server, 7));
        assert!(passes(&world, other, server, 7));
        done(&mut kernel, &[remove(own(client)), Step::Create { row: own(server) }]);
        assert!(is_refused(&world, client, server, 7));
    }
}

/// A pod reaches itself by an address that is translated, whatever else it may.
#[test]
fn a_pod_reaches_itself() {
    let world = World::new();
    let mut kernel = world.router.kernel();
    let rules = [
        "add table ip nat",
        "add chain ip nat pre { type nat hook prerouting priority -100; }",
        "add rule ip nat pre ip daddr 10.9.9.9 dnat to 10.2.0.2",
    ];
    for rule in rules {
        let (done, text) = nft(&world.router, &rule.split(' ').collect::<Vec<_>>());
        assert!(done, "{rule}: {text}");
    }
    // Packets that come back from outside have the server's own address for their source.
    world.let_own_in(&world.server);
    let mut rows = vec![
        judge(0),
        remotes(1, Ingress, &[]),
        remotes(2, Egress, &[]),
        identity(3, Ingress, &[], 1),
        identity(4, Egress, &[], 2),
        judged(Ingress, SERVER[0], 3),
        judged(Egress, SERVER[0], 4),
    ];
    done(&mut kernel, &create_all(&rows));
    let mut flow = Flow::of(&world.server, SERVER[0], "10.9.9.9", 7);
    assert!(flow.is_cut());
    rows = vec![own(SERVER[0])];
    done(&mut kernel, &create_all(&rows));
    assert!(flow.passes());
    assert!(is_refused(&world, CLIENT[0], SERVER[0], 7));
}
