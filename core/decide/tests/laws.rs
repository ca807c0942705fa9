//! Laws of the one decision.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

mod facts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use tartan_decide::{Announcement, Attached, Choice, Decision, Fact, Phase, Record, Scope, World, lower};
use tartan_host::{Element, Key, Member, Route, RouteKind, Row};
use tartan_model::{AttachmentKey, Endpoint, IfName, NetworkName};

use facts::*;

fn everything(world: &World) -> BTreeMap<Scope, Decision> {
    let all = world.scopes().into_iter().map(|scope| (scope.clone(), world.decide(&scope)));
    all.filter(|(_, decision)| *decision != Decision::default()).collect()
}

/// Addresses of all endpoints of a world, in whatever network.
fn given(world: &World) -> Vec<IpAddr> {
    world.endpoints().flat_map(|attached| attached.endpoint.addresses.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn deciding_what_is_dirty_equals_deciding_everything(facts in facts(40)) {
        let mut world = world();
        let mut kept: BTreeMap<Scope, Decision> = everything(&world);
        for fact in facts {
            let Ok(learned) = world.learn(fact) else { continue };
            for scope in learned.dirty {
                match world.decide(&scope) {
                    decision if decision == Decision::default() => { kept.remove(&scope); }
                    decision => { kept.insert(scope, decision); }
                }
            }
            prop_assert_eq!(&kept, &everything(&world));
        }
    }

    /// The kernel refuses two ranges of one set that share something.
    #[test]
    fn pairs_of_ranges_share_nothing(facts in facts(40)) {
        let mut world = world();
        for fact in facts {
            let _ = world.learn(fact);
            let Some(out) = way_out(&world) else { continue };
            prop_assert!([&out.masquerade, &out.kept, &out.across].iter().all(|pairs| share_nothing(pairs)), "{:?}", out);
        }
    }

    /// A pod that works leaves with the node's address if its network says so, reaches its own network with its own, and
    /// another network not at all.
    #[test]
    fn pods_have_the_way_out_that_their_network_says(facts in facts(60)) {
        let mut world = world();
        for fact in facts {
            let _ = world.learn(fact);
            let Some(out) = way_out(&world) else { continue };
            for one in world.endpoints() {
                let open = |attached: &Attached| matches!(
                    world.decide(&Scope::Endpoint(attached.endpoint.key.clone())).choice,
                    Some(Choice::Endpoint(choice)) if choice.open
                );
                let Some(network) = world.network(&one.endpoint.network).filter(|_| open(one)) else { continue };
                // The store does not keep a network from taking what another's pods still have.
                let disputed = |address: &IpAddr, of: &NetworkName| world.networks().any(|other| {
                    other.name != *of && other.pools.iter().any(|pool| pool.cidr().contains(*address))
                }) || world.blocks().any(|(name, block, _)| name != of && block.contains(*address));
                // Nor somebody from taking a block away, until it is claimed again.
                let held = |address: &IpAddr, of: &NetworkName| {
                    let pools = world.network(of).into_iter().flat_map(|network| &network.pools).map(|pool| pool.cidr());
                    let blocks = world.blocks().filter(|(name, ..)| *name == of).map(|(_, block, _)| *block);
                    pools.chain(blocks).any(|range| range.contains(*address))
                };
                let undisputed = |one: &Attached| {
                    let (all, of) = (one.endpoint.addresses.clone().into_iter(), &one.endpoint.network);
                    all.filter(|address| !disputed(address, of) && held(address, of)).collect::<Vec<_>>()
                };
                for from in &undisputed(one) {
                    let outside: IpAddr = if from.is_ipv4() { "203.0.113.9" } else { "2001:db8::9" }.parse().unwrap();
                    let group: IpAddr = if from.is_ipv4() { "224.0.0.251" } else { "ff02::fb" }.parse().unwrap();
                    let leaves = |to| has(&out.masquerade, *from, to) && !has(&out.kept, *from, to);
                    prop_assert_eq!(leaves(outside), network.masquerade);
                    prop_assert!(!leaves(group));
                    prop_assert!(network.masquerade_exempt.iter().all(|range| !leaves(range.first())));
                    for other in world.endpoints().filter(|other| open(other)) {
                        for to in undisputed(other).iter().filter(|to| to.is_ipv4() == from.is_ipv4()) {
                            let same = other.endpoint.network == one.endpoint.network;
                            prop_assert_eq!(has(&out.across, *from, *to), !same, "{} {}", from, to);
                            prop_assert!(!same || !leaves(*to));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_address_is_never_given_twice(facts in facts(80)) {
        let mut world = world();
        for fact in facts {
            let _ = world.learn(fact);
            let all = given(&world);
            let distinct: BTreeSet<_> = all.iter().cloned().collect();
            prop_assert_eq!(all.len(), distinct.len());
        }
    }

    #[test]
    fn no_pod_is_added_before_the_store_has_told_everything(facts in facts(40)) {
        let mut world = world();
        for fact in facts {
            let is_attach = matches!(fact, Fact::Attach(_));
            let added = world.learn(fact).is_ok() && is_attach;
            prop_assert!(world.in_sync() || !added);
        }
    }

    #[test]
    fn a_refused_attachment_changes_nothing(facts in facts(40)) {
        let mut world = world();
        for fact in facts {
            let before = everything(&world);
            let used = given(&world);
            if world.learn(fact).is_err() {
                prop_assert_eq!(&before, &everything(&world));
                prop_assert_eq!(used, given(&world));
            }
        }
    }

    #[test]
    fn a_detour_leaves_no_trace(facts in facts(25), n in 6u8..9, f in families()) {
        let mut straight = world();
        let mut detour = world();
        for fact in facts {
            let _ = straight.learn(fact.clone());
            let _ = detour.learn(fact);
            let _ = detour.learn(Fact::Node(id(n), Some(node(n, &f))));
            let _ = detour.learn(Fact::Block(name(0), block(0, 4, n), Some(id(n))));
            let _ = detour.learn(Fact::Block(name(0), block(0, 4, n), None));
            let _ = detour.learn(Fact::Node(id(n), None));
            let _ = detour.learn(Fact::Endpoint(id(n), key(9), Some(published_endpoint(9, 0, n))));
            let _ = detour.learn(Fact::Endpoint(id(THIS), key(9), Some(published_endpoint(9, 0, n))));
            let _ = detour.learn(Fact::Namespace("detour".parse().unwrap(), Some(labels("x"))));
            let _ = detour.learn(Fact::Endpoint(id(n), key(9), None));
            let _ = detour.learn(Fact::Endpoint(id(THIS), key(9), None));
            let _ = detour.learn(Fact::Namespace("detour".parse().unwrap(), None));
        }
        prop_assert_eq!(everything(&straight), everything(&detour));
    }

    /// Facts about different things may come in any order: what comes later about the same thing counts.
    #[test]
    fn what_is_known_of_others_does_not_depend_on_the_order(told in prop::collection::vec(shared(), 1..30), seed: u64) {
        let mut last: BTreeMap<String, Fact> = BTreeMap::new();
        for fact in told {
            last.insert(about(&fact), fact);
        }
        let mut facts: Vec<Fact> = last.into_values().collect();
        let mut first = world();
        facts.iter().for_each(|fact| { let _ = first.learn(fact.clone()); });
        // A shuffle that the seed decides.
        let length = facts.len();
        (1..length).rev().for_each(|at| facts.swap(at, (seed.rotate_left(at as u32) % (at as u64 + 1)) as usize));
        let mut second = world();
        facts.iter().for_each(|fact| { let _ = second.learn(fact.clone()); });
        [&mut first, &mut second].into_iter().for_each(|world| { let _ = world.learn(Fact::Turn); });
        prop_assert_eq!(first.remote_endpoints().collect::<Vec<_>>(), second.remote_endpoints().collect::<Vec<_>>());
        prop_assert!(first.policies().eq(second.policies()) && first.pods().eq(second.pods()));
        prop_assert!(first.namespaces().eq(second.namespaces()));
        prop_assert!(first.service_accounts().eq(second.service_accounts()));
        prop_assert_eq!(everything(&first), everything(&second));
    }

    /// Whatever a node publishes, it is believed of its own blocks only, and never of this node's.
    #[test]
    fn a_node_speaks_for_its_own_blocks_only(facts in facts(60)) {
        let mut world = world();
        for fact in facts {
            let _ = world.learn(fact);
            for remote in world.remote_endpoints() {
                prop_assert!(remote.node != id(THIS) && !remote.addresses.is_empty());
                for address in &remote.addresses {
                    let mut blocks = world.blocks();
                    let is_its = blocks.any(|(network, block, owner)|
                        network == remote.network && *owner == remote.node && block.contains(*address));
                    prop_assert!(is_its, "{} of {}", address, remote.node);
                }
            }
        }
    }

    /// Who does what is decided ends with exactly its pods in networks with policies published, and has no more to do.
    #[test]
    fn what_is_announced_is_what_the_others_shall_know(facts in facts(60)) {
        let mut world = world();
        for fact in facts {
            let _ = world.learn(fact);
        }
        let _ = world.learn(Fact::InSync);
        let announced = |world: &World| everything(world).into_values().filter_map(|decision| decision.announce).collect::<Vec<_>>();
        for Announcement { key, endpoint } in announced(&world) {
            let _ = world.learn(Fact::Endpoint(id(THIS), key, endpoint));
        }
        prop_assert_eq!(announced(&world), []);
        for n in 0..6 {
            let attached = world.endpoint(&key(n)).filter(|attached| attached.phase != Phase::Leaving);
            let shown = attached.filter(|attached| {
                world.network(&attached.endpoint.network).is_some_and(|network| network.policy)
            });
            let addresses = world.published(&key(n)).map(|published| &published.addresses);
            prop_assert_eq!(addresses, shown.map(|attached| &attached.endpoint.addresses));
        }
    }

    /// What was recorded is enough: the next agent gives every pod the same again and no address twice.
    #[test]
    fn a_restart_from_the_records_decides_the_same(facts in facts(60)) {
        let mut first = world();
        let mut told = Vec::new();
        let mut records = Vec::new();
        for fact in facts {
            let durable = !matches!(fact, Fact::Attach(_) | Fact::Detach(_) | Fact::Shut(_) | Fact::ClaimLost(_));
            if let Ok(learned) = first.learn(fact.clone()) {
                records.extend(learned.records);
                if durable { told.push(fact); }
            }
        }
        let leaving = first.endpoints().filter(|attached| attached.phase == Phase::Leaving).count();
        prop_assume!(leaving == 0);
        let mut second = world();
        restored(&records).into_iter().chain(told).for_each(|fact| { let _ = second.learn(fact); });
        [&mut first, &mut second].into_iter().for_each(|world| { let _ = world.learn(Fact::Turn); });
        // A restart is an epoch of its own.
        let choices = |world: &World| -> BTreeMap<Scope, _> {
            everything(world).into_iter().filter(|(scope, _)| !matches!(scope, Scope::Network(_) | Scope::Policy))
                .map(|(scope, decision)| (scope, decision.choice)).collect()
        };
        prop_assert_eq!(choices(&first), choices(&second));
        let _ = second.learn(attach(99, 0, 1));
        let all = given(&second);
        prop_assert_eq!(all.len(), all.iter().cloned().collect::<BTreeSet<_>>().len());
    }

    /// But what a node's own pods have addresses from, it takes again whenever nobody owns it.
    #[test]
    fn no_block_is_claimed_that_the_node_may_not_have(facts in facts(60)) {
        let mut world = world();
        for fact in facts {
            let _ = world.learn(fact);
            for claim in everything(&world).into_values().flat_map(|decision| decision.claims) {
                let mut pools = world.network(&claim.network).unwrap().pools.iter();
                let allowed = pools.any(|pool| pool.serves(&claim.block, world.name()));
                let lived_in = world.used(&claim.network, &claim.block).unwrap_or(0) > 0;
                prop_assert!(allowed || lived_in, "{claim:?}");
            }
        }
    }

    #[test]
    fn new_pods_have_addresses_only_from_blocks_that_the_node_may_have(facts in facts(60)) {
        let mut world = world();
        for fact in facts {
            let attached = match &fact { Fact::Attach(attach) => Some(attach.key.clone()), _ => None };
            let added = world.learn(fact).is_ok();
            let Some(attached) = attached.filter(|_| added).and_then(|key| world.endpoint(&key)) else { continue };
            let pools = &world.network(&attached.endpoint.network).unwrap().pools;
            for block in &attached.endpoint.blocks {
                prop_assert!(pools.iter().any(|pool| pool.serves(block, world.name())), "{block}");
            }
        }
    }

    /// A node takes again what it had and did not give back, before it looks for another block.
    #[test]
    fn a_block_that_the_store_lost_is_claimed_again_unless_it_is_anothers(facts in facts(40), n in 0u8..4, other: bool) {
        let mut world = world();
        for fact in facts { let _ = world.learn(fact); }
        let _ = world.learn(Fact::Uplink(Ok(uplink(&[4], 1500))));
        let _ = world.learn(Fact::Network(name(1), None));
        let _ = world.learn(Fact::Network(name(0), Some(networks(0, 0, "attachment: routed"))));
        let blocks: Vec<_> = world.blocks().map(|(network, block, _)| (network.clone(), *block)).collect();
        let _ = world.learn(Fact::Left);
        let _ = world.learn(Fact::Block(name(0), block(0, 4, n), None));
        let _ = world.learn(Fact::Block(name(0), block(0, 4, n), Some(id(THIS))));
        let _ = world.learn(Fact::InSync);
        // The store is wiped.
        for (network, block) in blocks { let _ = world.learn(Fact::Block(network, block, None)); }
        let _ = world.learn(Fact::Block(name(0), block(0, 4, n), other.then(|| id(3))));
        let lived_in = |claim: &tartan_decide::Claim| world.used(&claim.network, &claim.block).unwrap_or(0) > 0;
        let claims = world.decide(&Scope::Network(name(0))).claims;
        let claimed: Vec<_> = claims.iter().filter(|claim| !lived_in(claim)).map(|claim| claim.block).collect();
        if other {
            prop_assert!(!claimed.contains(&block(0, 4, n)));
        } else if claims.iter().all(|claim| !lived_in(claim)) {
            prop_assert_eq!(claimed, [block(0, 4, n)]);
        }
    }

    /// Returning a block never makes room scarce, so that it is not claimed again at once.
    #[test]
    fn what_is_returned_has_no_pods_and_is_not_claimed_again(facts in facts(60)) {
        let mut world = world();
        for fact in facts {
            let _ = world.learn(fact);
            let returns: Vec<_> = everything(&world).into_values().flat_map(|decision| decision.returns).collect();
            for (network, block) in returns {
                prop_assert_eq!(world.used(&network, &block).unwrap_or(0), 0);
                let mut after = world.clone();
                let _ = after.learn(Fact::Returning(network.clone(), block));
                // Whom the store told of first stays the owner.
                let mut quicker = after.clone();
                let _ = quicker.learn(Fact::Block(network.clone(), block, Some(id(4))));
                let told = quicker.clone();
                let _ = quicker.learn(Fact::Returned(network.clone(), block));
                prop_assert!(quicker.blocks().eq(told.blocks()), "{block} is forgotten");
                let _ = after.learn(Fact::Returned(network.clone(), block));
                prop_assert!(after.blocks().all(|(of, known, _)| (of, *known) != (&network, block)));
                let claims = after.decide(&Scope::Network(network.clone())).claims;
                prop_assert!(claims.iter().all(|claim| claim.block != block), "{block} is claimed again");
            }
        }
    }

    #[test]
    fn no_two_scopes_want_the_same_row(facts in facts(60)) {
        let mut world = world();
        facts.into_iter().for_each(|fact| { let _ = world.learn(fact); });
        let mut seen: BTreeMap<Key, Scope> = BTreeMap::new();
        for (scope, decision) in everything(&world) {
            for row in decision.choice.iter().flat_map(|choice| lower(choice, None)) {
                let other = seen.insert(row.key(), scope.clone());
                // Nodes behind one NAT have an address in common.
                let shared = matches!(&row, Row::Element(Element { member: Member::Node(_), .. }));
                prop_assert!(shared || other.is_none() || other == Some(scope.clone()), "{row}: {other:?} and {scope}");
            }
        }
    }

    #[test]
    fn rows_stand_only_on_links_that_are_wanted(facts in facts(60)) {
        let mut world = world();
        let marked = facts.contains(&Fact::MarksAddresses);
        facts.into_iter().for_each(|fact| { let _ = world.learn(fact); });
        let (rows, _) = world.wanted();
        for row in rows.iter() {
            // All that stands on links of others are routes by peers, and own addresses and what they need, where they can be told.
            let by_peer = matches!(row, Row::Route(Route { kind: RouteKind::Via { .. }, .. }));
            let is_own = marked && matches!(row, Row::Address(_) | Row::Sysctl(_));
            if let Some(link) = row.on() {
                let of_others = by_peer && link.as_str() == "eth0" || is_own && *link == IfName::LOOPBACK;
                prop_assert!(rows.link(link).is_some() || of_others, "{row} stands on nothing");
            }
            if let Row::Link(link) = row {
                prop_assert!(link.master.as_ref().is_none_or(|master| rows.link(master).is_some()), "{row}");
            }
        }
    }
}

/// Facts that the store tells and nobody here chooses.
fn shared() -> impl Strategy<Value = Fact> {
    prop_oneof![
        2 => objects(),
        4 => published().prop_filter("of others", |fact| !matches!(fact, Fact::Endpoint(node, ..) if *node == id(THIS))),
        4 => (0usize..2, 0u8..4, prop::option::of(2u8..5))
            .prop_map(|(at, n, owner)| Fact::Block(name(at), block(at, 4, n), owner.map(id))),
    ]
}

/// What a fact is about.
fn about(fact: &Fact) -> String {
    match fact {
        Fact::Policy(name, _) => format!("policy {name}"),
        Fact::Namespace(name, _) => format!("namespace {name}"),
        Fact::Pod(name, _) => format!("pod {name}"),
        Fact::ServiceAccount(name, _) => format!("account {name}"),
        Fact::Endpoint(node, key, _) => format!("endpoint {node} {key}"),
        Fact::Block(network, block, _) => format!("block {network} {block}"),
        _ => String::new(),
    }
}

/// What the records come to: the last word on each thing, releases in the order in which they were made.
fn restored(records: &[Record]) -> Vec<Fact> {
    let mut facts: Vec<Fact> = Vec::new();
    let mut endpoints: BTreeMap<AttachmentKey, Endpoint> = BTreeMap::new();
    let mut released = Vec::new();
    for record in records {
        match record.clone() {
            Record::Adding(endpoint) | Record::Endpoint(endpoint) => {
                endpoints.insert(endpoint.key.clone(), endpoint);
            }
            Record::EndpointGone(key) => {
                endpoints.remove(&key);
            }
            Record::Released(network, block, address) => {
                released.retain(|fact| *fact != Fact::Released(network.clone(), block, address));
                released.push(Fact::Released(network, block, address));
            }
            Record::Forgotten(network, block, address) => {
                released.retain(|fact| *fact != Fact::Released(network.clone(), block, address));
            }
            Record::Bridge(network, number) => facts.push(Fact::Bridge(network, number)),
            Record::Epoch(number) => facts.push(Fact::Epoch(number)),
            Record::Held(network, block) => facts.push(Fact::Held(network, block)),
            Record::HeldNoMore(network, block) => {
                facts.retain(|fact| *fact != Fact::Held(network.clone(), block))
            }
        }
    }
    facts.extend(endpoints.into_values().map(Fact::Restored));
    facts.extend(released);
    facts
}
