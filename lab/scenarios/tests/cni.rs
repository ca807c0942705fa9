//! The whole of CNI: CHECK, GC, chains, several interfaces, addresses asked for, containers that come again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::collections::BTreeSet;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tartan_scenarios::before::{addresses, assert_back, assert_nothing_left, kept_endpoints, state};
use tartan_scenarios::{Container, Lab, Run, run_plugin, start_plugin, wait_until};

const CHECKED: &str = "1.1.0";

/// A refusal's code, message and details.
#[track_caller]
fn refusal(run: &Run) -> (u64, String) {
    assert_eq!(run.code, 1, "{run:?}");
    let error = run.json();
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_string();
    (error["code"].as_u64().expect("a code"), format!("{}\n{}", text("msg"), text("details")))
}

fn check(container: &Container, result: &Value) -> Run {
    container.call_with("CHECK", &[("prevResult", result.clone()), ("cniVersion", CHECKED.into())])
}

#[test]
fn a_check_finds_each_damage_and_mends_none() {
    for attachment in ["routed", "bridge"] {
        let set = format!("attachment={attachment}");
        let lab = Lab::up("t-cni", &["--nodes", "1", "--pods", "0", "--family", "dual", "--set", &set]);
        let container = Container::make(&lab, "n1", 1);
        let result = container.add();
        assert_eq!(check(&container, &result).code, 0);
        let ips = addresses(&result);
        let gateway = result["routes"][0]["gw"].as_str().expect("a next hop").to_string();
        let address = ips[0].clone();
        let pod = format!("pod default/{}", container.id());
        let mut damages = vec![
            (
                format!("address del {} dev eth0", ips[1]),
                format!("{pod}: address {} on eth0 is missing", ips[1]),
            ),
            (
                "-4 route del default".into(),
                format!("{pod}: route 0.0.0.0/0 via {gateway} on eth0 is missing"),
            ),
            ("link set eth0 mtu 1400".into(), format!("{pod}: interface eth0 has MTU 1400, not ")),
            (
                "link set eth0 address 02:00:00:00:00:99".into(),
                format!("{pod}: interface eth0 has MAC address 02:00:00:00:00:99, not "),
            ),
            ("link set eth0 down".into(), format!("{pod}: interface eth0 is down")),
            (
                format!("address del {address} dev eth0"),
                format!("{pod}: address {address} on eth0 is missing"),
            ),
            ("link set eth0 name eth7".into(), format!("{pod}: interface eth0 is missing")),
        ];
        if attachment == "routed" {
            let found = format!("{pod}: neighbor {gateway} at ");
            damages.insert(0, (format!("neighbor del {gateway} dev eth0"), found));
        }
        for (damage, expected) in damages {
            container.ip(&damage);
            let broken = container.ip("-d address") + &container.ip("route") + &container.ip("neighbor");
            let (code, said) = refusal(&check(&container, &result));
            assert!(code == 100 && said.contains(&expected), "{damage}: {said}");
            let after = container.ip("-d address") + &container.ip("route") + &container.ip("neighbor");
            assert_eq!(after, broken, "{damage}: CHECK changed something");
        }
        container.del();
    }
}

#[test]
fn a_check_knows_the_container_and_its_namespace() {
    let lab = Lab::up("t-cni", &["--nodes", "1", "--pods", "0"]);
    let [container, other] = [1, 2].map(|n| Container::make(&lab, "n1", n));
    let mut result = container.add();
    let run = container.call_with("CHECK", &[("prevResult", result.clone()), ("cniVersion", "0.3.1".into())]);
    assert_eq!(refusal(&run).0, 1);
    for version in ["0.4.0", "1.0.0"] {
        let run =
            container.call_with("CHECK", &[("prevResult", result.clone()), ("cniVersion", version.into())]);
        assert_eq!(run.code, 0, "{run:?}");
    }
    // The same interface in another place.
    result["interfaces"][1]["sandbox"] = other.netns().to_str().into();
    let mut conf = container.conf();
    conf["prevResult"] = result.clone();
    let (run, _) = run_plugin(container.command("CHECK").env("CNI_NETNS", other.netns()), &conf);
    let (code, said) = refusal(&run);
    assert!(code == 100 && said.contains("it was added in another network namespace"), "{said}");
    let (code, said) = refusal(&check(&other, &result));
    assert!(code == 3 && said.contains("no such interface was added here"), "{code} {said}");
    container.del();
}

#[test]
fn a_gc_takes_what_is_not_listed_of_its_own_network_and_nothing_else() {
    let lab = Lab::up("t-cni", &["--nodes", "1", "--pods", "1", "--family", "dual"]);
    let before = state(&lab);
    let made: Vec<Container> = (0..4).map(|n| Container::make(&lab, "n1", n)).collect();
    let lists = ["blue", "blue", "blue", "red"];
    let pods: Vec<Container> =
        made.iter().zip(lists).map(|(one, list)| one.beside("eth0", "default", list)).collect();
    let given: Vec<Vec<String>> = pods.iter().map(|pod| addresses(&pod.add())).collect();
    let listed = json!([{"containerID": pods[0].id(), "ifname": "eth0"}, {"containerID": pods[1].id(), "ifname": "net9"}]);
    // Without a list nothing is taken away.
    assert_eq!(refusal(&pods[0].call_with("GC", &[])).0, 7);
    assert_eq!(refusal(&pods[0].call_with("GC", &[("cniVersion", "1.0.0".into())])).0, 1);
    assert_eq!(kept_endpoints(&lab).len(), 5);
    let run = pods[0].call_with("GC", &[("cni.dev/valid-attachments", listed.clone())]);
    assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{run:?}");
    let stays: BTreeSet<String> = kept_endpoints(&lab).into_iter().collect();
    let expected = [&pods[0], &pods[3]].map(|pod| format!("endpoint/{}/eth0", pod.id()));
    assert!(expected.iter().all(|key| stays.contains(key)) && stays.len() == 3, "{stays:?}");
    // Those that stay still work, and those that went may come again.
    for pod in [&pods[0], &pods[3]] {
        assert!(
            pod.pings("eth0", "10.244.0.2"),
            "a pod that was listed, or is another network's, is cut off"
        );
    }
    assert!(!pods[1].pings("eth0", "10.244.0.2"));
    assert_eq!(pods[0].call_with("GC", &[("cni.dev/valid-attachments", listed)]).code, 0);
    let again = addresses(&pods[1].add());
    assert!(!given.contains(&again), "an address was given again while others are fresh: {again:?}");
    for pod in [&pods[0], &pods[3]] {
        assert_eq!(pod.call_with("GC", &[("cni.dev/valid-attachments", Value::Null)]).code, 0);
    }
    assert_back(&lab, &before);
    // The lab's own pod is of a network of the same runtime name as none of these.
    assert_eq!(kept_endpoints(&lab).len(), 1);
}

const OTHER: &str = "apiVersion: tartan.dev/v1alpha1\nkind: ClusterNetwork\nmetadata: {name: other}\n\
    spec: {attachment: routed, vxlan: {vni: 7}, pools: [{cidr: 10.77.0.0/16, blockSize: 24}, \
    {cidr: \"fd00:77::/56\", blockSize: 64}]}\n";

#[test]
fn status_tells_when_the_pods_of_a_network_are_shut() {
    let lab = Lab::up("t-cni", &["--nodes", "1", "--pods", "0"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("other.yaml");
    std::fs::write(&file, OTHER).expect("a file");
    lab.verb("n1", &["apply", "--wait", "-f", file.to_str().expect("text")]).ok();
    let container = Container::make(&lab, "n1", 1).into_network("other");
    // The block is claimed meanwhile, and the ADD waits for it.
    let result = container.add();
    assert_eq!(container.call("STATUS").0.code, 0);
    lab.verb("n1", &["delete", "clusternetwork", "other"]).ok();
    wait_until("the network is gone", Duration::from_secs(5), || container.call("STATUS").0.code != 0);
    assert_eq!(refusal(&container.call("STATUS").0).0, 51);
    let (code, said) = refusal(&check(&container, &result));
    assert!(
        code == 100 && said.contains("its interface is shut: network other is gone or not served"),
        "{said}"
    );
    container.del();
    assert_eq!(refusal(&container.call("STATUS").0).0, 50);
}

/// The routes of a result, without their next hops.
fn routes(result: &Value) -> Vec<String> {
    let routes = result["routes"].as_array().expect("routes");
    routes.iter().map(|route| route["dst"].as_str().expect("text").to_string()).collect()
}

#[test]
fn a_pod_has_several_interfaces_and_one_default_route() {
    several_interfaces("attachment=routed");
    several_interfaces("attachment=bridge");
}

fn several_interfaces(attachment: &str) {
    let lab = Lab::up("t-cni", &["--nodes", "2", "--pods", "1", "--family", "dual", "--set", attachment]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("other.yaml");
    std::fs::write(&file, OTHER).expect("a file");
    lab.verb("n1", &["apply", "--wait", "-f", file.to_str().expect("text")]).ok();
    let before = state(&lab);
    let first = Container::make(&lab, "n1", 1);
    let second = first.beside("net1", "other", "tartan-other");
    let third = first.beside("net2", "default", "tartan-again");
    let far = Container::make(&lab, "n2", 2);
    let far_second = far.beside("net1", "other", "tartan-other");
    assert_eq!(routes(&first.add()), ["0.0.0.0/0", "::/0"]);
    let result = second.add();
    assert_eq!(routes(&result), ["10.77.0.0/16", "fd00:77::/56"]);
    let further = third.add();
    assert_eq!(routes(&further), [""; 0]);
    far.add();
    let far_result = far_second.add();
    // The kernel agrees with what the runtime was told.
    for family in ["-4", "-6"] {
        let routes = first.ip(&format!("{family} route"));
        assert_eq!(routes.matches("default").count(), 1, "{routes}");
        assert!(
            routes.lines().any(|line| line.starts_with("default") && line.contains("dev eth0")),
            "{routes}"
        );
    }
    let reaches = || {
        let fars = addresses(&far_result);
        fars.iter().all(|far| second.pings("net1", far.split('/').next().expect("an address")))
            && lab.addresses("default/p2").iter().all(|pod| first.pings("eth0", &pod.to_string()))
    };
    assert!(reaches(), "both interfaces carry traffic between nodes");
    assert_eq!(check(&second, &result).code, 0);
    assert_eq!(check(&third, &further).code, 0);
    // One is deleted, the others stay; also over a restart of the agent.
    third.del();
    assert!(reaches());
    lab.lab(&["fault", "add", "kill", "n1"]).ok();
    lab.lab(&["fault", "clear"]).ok();
    assert!(reaches());
    first.del();
    let fars = addresses(&far_result);
    assert!(second.pings("net1", fars[0].split('/').next().expect("an address")));
    // Who comes now finds no default route.
    assert_eq!(routes(&third.add()), ["0.0.0.0/0", "::/0"]);
    second.del();
    third.del();
    assert_back(&lab, &before);
}

#[test]
fn a_default_route_of_others_is_neither_taken_nor_in_the_way() {
    for attachment in ["attachment=routed", "attachment=bridge"] {
        let lab = Lab::up("t-cni", &["--nodes", "1", "--pods", "1", "--set", attachment]);
        let container = Container::make(&lab, "n1", 1);
        container.ip("link add first type bridge");
        container.ip("address add 192.0.2.2/24 dev first");
        container.ip("link set first up");
        container.ip("route add default via 192.0.2.1");
        let result = container.add();
        assert_eq!(routes(&result), ["10.244.0.0/16"], "{attachment}");
        let found = container.ip("route");
        assert!(found.contains("default via 192.0.2.1 dev first"), "{found}");
        assert!(container.pings("eth0", &lab.addresses("default/p1")[0].to_string()), "{found}");
        assert_eq!(check(&container, &result).code, 0);
        container.del();
    }
}

#[test]
fn addresses_can_be_asked_for() {
    let lab = Lab::up("t-cni", &["--nodes", "1", "--pods", "0", "--family", "dual"]);
    let before = state(&lab);
    let ask = |container: &Container, key: &str, ips: Value| {
        let (key, value) = match key {
            "args" => ("args", json!({"cni": {"ips": ips}})),
            _ => ("runtimeConfig", json!({"ips": ips})),
        };
        container.call_with("ADD", &[(key, value)])
    };
    let containers: Vec<Container> = (0..4).map(|n| Container::make(&lab, "n1", n)).collect();
    let given = ask(&containers[0], "args", json!(["10.244.0.77", "FD00:10:244:0:0::4D"])).ok().json();
    assert_eq!(addresses(&given), ["10.244.0.77/24", "fd00:10:244::4d/64"]);
    let given = ask(&containers[1], "runtimeConfig", json!(["10.244.0.78/16"])).ok().json();
    assert_eq!(addresses(&given)[0], "10.244.0.78/24");
    for (ips, expected) in [
        (json!(["10.244.0.77"]), "10.244.0.77 is in use"),
        (json!(["10.244.0.1"]), "10.244.0.1 is reserved in 10.244.0.0/24"),
        (json!(["10.244.9.9"]), "it holds 10.244.0.0/24"),
        (json!(["10.244.0.80", "10.244.0.81"]), "one address of a family"),
        (json!(["nonsense"]), "is not an address"),
    ] {
        let (code, said) = refusal(&ask(&containers[2], "args", ips));
        assert!(code == 7 && said.contains(expected), "{code} {said}");
    }
    // It is kept like any other.
    lab.lab(&["fault", "add", "kill", "n1"]).ok();
    lab.lab(&["fault", "clear"]).ok();
    assert_eq!(refusal(&ask(&containers[2], "args", json!(["10.244.0.78"]))).0, 7);
    containers[0].del();
    let given = ask(&containers[3], "args", json!(["10.244.0.77"])).ok().json();
    assert_eq!(addresses(&given)[0], "10.244.0.77/24");
    containers[1].del();
    containers[3].del();
    assert_nothing_left(&lab, &before);
}

/// Runs a plugin of Debian's for a container, in the node's namespace.
fn other_plugin(lab: &Lab, container: &Container, command: &str, conf: &Value) -> Run {
    let ours = container.command(command);
    let node = format!("--net={}", lab.netns("n1").display());
    let mut theirs = Command::new("nsenter");
    theirs.arg(node).arg(format!("/usr/lib/cni/{}", conf["type"].as_str().expect("a type")));
    theirs.env_clear().envs(ours.get_envs().filter_map(|(key, value)| Some((key, value?))));
    theirs.env("CNI_PATH", "/usr/lib/cni");
    run_plugin(&mut theirs, conf).0
}

#[test]
fn it_works_before_and_behind_other_plugins() {
    let lab =
        Lab::up("t-cni", &["--nodes", "1", "--pods", "1", "--family", "dual", "--set", "attachment=routed"]);
    let before = state(&lab);
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let container = Container::make(&lab, "n1", 1);
        let version_key = ("cniVersion", json!(version));
        // Behind a plugin that makes an interface of another name.
        let conf = json!({"cniVersion": version, "name": "tartan", "type": "ptp",
            "ipam": {"type": "static", "addresses": [{"address": "192.0.2.2/24", "gateway": "192.0.2.1"}]}});
        let other = container.beside("ptp0", "default", "tartan");
        let before_us = other_plugin(&lab, &other, "ADD", &conf).ok().json();
        let ours =
            container.call_with("ADD", &[version_key.clone(), ("prevResult", before_us.clone())]).ok().json();
        let (theirs, links) = (&before_us["interfaces"], ours["interfaces"].as_array().expect("interfaces"));
        assert_eq!(&json!(links[..2]), theirs, "what was made before is passed on");
        let eth0 = links.iter().position(|link| link["name"] == "eth0").expect("our interface");
        assert_eq!(ours["ips"][0], before_us["ips"][0]);
        let of_ours: Vec<&Value> =
            ours["ips"].as_array().expect("ips").iter().filter(|ip| ip["interface"] == eth0).collect();
        assert_eq!(of_ours.len(), 2, "{ours}");
        assert_eq!(of_ours.iter().all(|ip| ip.get("version").is_some()), version < "1.0.0", "{ours}");
        // Before one that changes the interface.
        let tuning = json!({"cniVersion": version, "name": "tartan", "type": "tuning",
            "sysctl": {"net.core.somaxconn": "500"}, "prevResult": ours});
        let result = other_plugin(&lab, &container, "ADD", &tuning).ok().json();
        assert!(container.pings("eth0", &lab.addresses("default/p1")[0].to_string()));
        if version > "0.3.1" {
            let run = container.call_with("CHECK", &[version_key.clone(), ("prevResult", result.clone())]);
            assert_eq!(run.code, 0, "{run:?}");
            let mut tuning = tuning;
            tuning["prevResult"] = result.clone();
            other_plugin(&lab, &container, "CHECK", &tuning).ok();
        }
        // An interface that is there already is told from one that is not.
        let again = container.call_with("ADD", &[version_key.clone(), ("prevResult", result.clone())]);
        let (code, said) = refusal(&again);
        assert!(code == 7 && said.contains("has made eth0 in this container"), "{code} {said}");
        let run = container.call_with("DEL", &[version_key, ("prevResult", result)]);
        assert_eq!((run.code, run.stdout.as_str()), (0, ""));
        drop(container);
        assert_back(&lab, &before);
    }
}

#[test]
fn a_container_that_comes_again_in_another_namespace_is_added_anew() {
    for attachment in ["attachment=routed", "attachment=bridge"] {
        let lab = Lab::up("t-cni", &["--nodes", "1", "--pods", "1", "--set", attachment]);
        let before = state(&lab);
        let container = Container::make(&lab, "n1", 1);
        container.add();
        // Twice in one namespace is the runtime's mistake; the first stays.
        assert_eq!(refusal(&container.call("ADD").0).0, 7);
        // Its namespace vanished, nobody deleted it, and it is started again.
        container.renew();
        let second = container.add();
        assert!(container.pings("eth0", &lab.addresses("default/p1")[0].to_string()));
        // It is started again elsewhere, and the old namespace is still there: there can be but one.
        let elsewhere = Container::make(&lab, "n1", 2);
        let (run, _) =
            run_plugin(container.command("ADD").env("CNI_NETNS", elsewhere.netns()), &container.conf());
        let third = run.ok().json();
        assert_ne!(addresses(&second), addresses(&third));
        assert!(elsewhere.pings("eth0", &lab.addresses("default/p1")[0].to_string()));
        assert_eq!(kept_endpoints(&lab).len(), 2);
        container.del();
        assert_back(&lab, &before);
    }
}

#[test]
fn a_del_is_done_as_often_as_it_is_asked_for() {
    let lab = Lab::up("t-cni", &["--nodes", "1", "--pods", "0"]);
    let before = state(&lab);
    let [container, other, never] = [1, 2, 3].map(|n| Container::make(&lab, "n1", n));
    never.del();
    container.add();
    let given = addresses(&other.add());
    // With a namespace that is another's, with none, and all at once.
    let (run, _) = run_plugin(container.command("DEL").env("CNI_NETNS", other.netns()), &container.conf());
    run.ok();
    let (run, _) = run_plugin(container.command("DEL").env_remove("CNI_NETNS"), &container.conf());
    run.ok();
    assert_eq!(kept_endpoints(&lab), [format!("endpoint/{}/eth0", other.id())]);
    assert!(other.ip("-4 address").contains(&given[0]), "the other container is untouched");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| other.del());
        }
    });
    assert_nothing_left(&lab, &before);
}

#[test]
fn an_agent_that_restarts_is_waited_for() {
    let lab = Lab::up("t-cni", &["--nodes", "1", "--pods", "0"]);
    let before = state(&lab);
    let containers: Vec<Container> = (0..10).map(|n| Container::make(&lab, "n1", n)).collect();
    for (fault, command) in [("kill", "ADD"), ("stop", "DEL"), ("stop", "ADD"), ("kill", "DEL")] {
        lab.lab(&["fault", "add", fault, "n1"]).ok();
        std::thread::scope(|scope| {
            let calls: Vec<_> = containers.iter().map(|one| scope.spawn(|| one.call(command).0)).collect();
            std::thread::sleep(Duration::from_millis(300));
            lab.lab(&["fault", "clear"]).ok();
            calls.into_iter().for_each(|call| drop(call.join().expect("a call").ok()));
        });
    }
    assert_nothing_left(&lab, &before);
}

/// Whether a plugin is connected to the agent and sleeps until that answers.
fn has_asked(lab: &Lab, plugin: &Child) -> bool {
    let of_plugin = |file| std::fs::read_to_string(format!("/proc/{}/{file}", plugin.id())).expect("it runs");
    let folder = lab.file("n1", "").display().to_string();
    // The agent's end of a connection is in the network namespace of who asks (`unix_stream_connect`, net/unix/af_unix.c).
    of_plugin("net/unix").contains(&folder) && of_plugin("stat").contains(") S ")
}

#[test]
fn a_plugin_that_was_killed_gets_nothing() {
    let lab = Lab::up("t-cni", &["--nodes", "1", "--pods", "0"]);
    let before = state(&lab);
    let agent = nix::unistd::Pid::from_raw(lab.agent("n1"));
    let signal = |signal| nix::sys::signal::kill(agent, signal).expect("the agent is there");
    let container = Container::make(&lab, "n1", 1);
    // The agent sleeps while a runtime loses patience with an ADD, kills the plugin and deletes.
    signal(nix::sys::signal::Signal::SIGSTOP);
    let asked = |command| {
        let plugin = start_plugin(&mut container.command(command), &container.conf());
        wait_until("the plugin has asked", Duration::from_secs(5), || has_asked(&lab, &plugin));
        plugin
    };
    let mut add = asked("ADD");
    add.kill().expect("the plugin is there");
    add.wait().expect("it ends");
    let del = asked("DEL");
    signal(nix::sys::signal::Signal::SIGCONT);
    Run::from(del.wait_with_output().expect("it ends")).ok();
    std::thread::sleep(Duration::from_millis(300));
    assert_nothing_left(&lab, &before);
}

#[test]
fn two_hundred_pods_come_and_go() {
    let lab = Lab::up("t-cni", &["--nodes", "1", "--pods", "0", "--family", "dual"]);
    let before = state(&lab);
    let containers: Vec<Container> = (0..200).map(|n| Container::make(&lab, "n1", n)).collect();
    let each = |act: &(dyn Fn(&Container) -> Vec<String> + Sync)| -> Vec<String> {
        std::thread::scope(|scope| {
            let work = |part| {
                scope.spawn(move || -> Vec<String> {
                    let part: &[Container] = part;
                    part.iter().flat_map(act).collect()
                })
            };
            let threads: Vec<_> = containers.chunks(25).map(work).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("all succeed")).collect()
        })
    };
    let start = Instant::now();
    let given: BTreeSet<String> = each(&|one| addresses(&one.add())).into_iter().collect();
    println!("200 ADDs in {:?}", start.elapsed());
    assert_eq!(given.len(), 400);
    assert_eq!(kept_endpoints(&lab).len(), 200);
    let start = Instant::now();
    each(&|one| {
        one.del();
        Vec::new()
    });
    println!("200 DELs in {:?}", start.elapsed());
    assert_nothing_left(&lab, &before);
}
