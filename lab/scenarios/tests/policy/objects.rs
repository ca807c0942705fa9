//! The objects that policies are made of, from `tartan apply` to every agent, and what the nodes tell each other of their
//! pods.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tartan_scenarios::{Lab, Run, wait_until};
use tartan_store::{Sqlite, Store};

/// How long an agent may take to hear of something.
const SOON: Duration = Duration::from_secs(1);
/// How long it may take after a restart.
const LATER: Duration = Duration::from_secs(10);

const ALL: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{ipBlock: {cidr: 10.9.1.1/8}}]}]
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: blue}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
spec: {containers: [{name: web, image: x, ports: [{name: http, containerPort: 80}]}]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot}
";

/// Applies a text by the first node's agent, and waits until every agent has it.
fn apply(lab: &Lab, text: &str) -> Run {
    let file = lab.file("n1", "objects.yaml");
    fs::write(&file, text).unwrap();
    lab.verb("n1", &["apply", "--wait", "-f", file.to_str().unwrap()])
}

fn count(lab: &Lab, node: &str, key: &str) -> u64 {
    lab.verb(node, &["status", "-o", "json"]).json()[key].as_u64().unwrap()
}

/// What the nodes have published of their pods, by key: the revision and the value.
fn published(lab: &Lab) -> BTreeMap<String, (u64, Value)> {
    let store = Sqlite::open(&lab.file("store", "tartan.db")).unwrap();
    let entries = store.list("endpoint/").unwrap().entries;
    let read = |value: &[u8]| serde_json::from_slice(value).unwrap();
    entries.into_iter().map(|entry| (entry.key, (entry.revision.0, read(&entry.value)))).collect()
}

fn pods(lab: &Lab) -> Vec<String> {
    let mut pods: Vec<String> =
        published(lab).into_values().map(|(_, value)| value["pod"].as_str().unwrap().into()).collect();
    pods.sort();
    pods
}

#[test]
fn objects_are_applied_shown_and_deleted_in_every_store() {
    for store in ["sqlite", "etcd"] {
        let lab =
            Lab::up("t-objects", &["--nodes", "2", "--pods", "0", "--preset", "canal", "--store", store]);
        let words = "networkpolicy/shop/web created\nnamespace/shop created\npod/shop/web-0 created\n\
                     serviceaccount/default/robot created\n";
        assert_eq!(apply(&lab, ALL).ok().stdout, words);
        assert_eq!(apply(&lab, ALL).ok().stdout, words.replace("created", "unchanged"));
        let moved = apply(&lab, &format!("# A line more.\n{}", ALL.replace("blue", "red"))).ok().stdout;
        assert_eq!(moved, words.replace("created", "unchanged").replace("shop unchanged", "shop configured"));
        for node in ["n1", "n2"] {
            assert_eq!(count(&lab, node, "policies"), 1);
        }
        let policy = lab.ask("n2", &["get", "netpol", "shop/web"]);
        let source = policy[0]["metadata"]["annotations"]["tartan.dev/applied-from"].as_str().unwrap();
        assert!(source.ends_with("/n1/objects.yaml:2"), "{source}");
        assert_eq!(policy[0]["spec"]["ingress"][0]["from"][0]["ipBlock"]["cidr"], "10.0.0.0/8");
        assert_eq!(lab.ask("n2", &["get", "ns", "shop"])[0]["metadata"]["labels"], json!({"team": "red"}));
        assert!(lab.verb("n2", &["get", "sa"]).ok().stdout.contains("robot"));
        // What is shown is what can be applied.
        let yaml = lab.verb("n2", &["get", "pods", "-o", "yaml"]).ok().stdout;
        assert_eq!(apply(&lab, &yaml).ok().stdout, "pod/shop/web-0 unchanged\n");
        for (kind, name) in [("netpol", "shop/web"), ("ns", "shop"), ("po", "shop/web-0"), ("sa", "robot")] {
            assert_eq!(lab.verb("n2", &["delete", kind, name]).code, 0, "{kind}");
            assert_eq!(lab.verb("n1", &["delete", kind, name]).code, 1, "{kind}");
            assert_eq!(lab.verb("n1", &["get", kind, name]).code, 1, "{kind}");
            assert_eq!(lab.ask("n1", &["get", kind]), json!([]));
        }
        for node in ["n1", "n2"] {
            wait_until("the policy is gone", SOON, || count(&lab, node, "policies") == 0);
        }
        let bad = ALL.replace("podSelector", "podSelectr");
        let run = apply(&lab, &bad);
        assert!(run.code == 2 && run.stderr.contains("objects.yaml:5:3: unknown field"), "{run:?}");
    }
}

#[test]
fn a_plan_tells_what_a_policy_would_change() {
    for policy in ["true", "false"] {
        let set = format!("policy={policy}");
        let lab = Lab::up("t-objects", &["--nodes", "1", "--pods", "1", "--preset", "canal", "--set", &set]);
        let file = lab.file("n1", "deny.yaml");
        fs::write(
            &file,
            ALL.split("---").next().unwrap().replace("shop", "default").replace("{app: web}", "{}"),
        )
        .unwrap();
        let file = file.to_str().unwrap();
        let plan = || lab.ask("n1", &["plan", "-f", file]);
        let steps = || plan()["steps"].as_array().unwrap().len();
        // The table, what is judged by it, and the pod's addresses in it.
        assert_eq!(steps() > 4, policy == "true", "{}", plan());
        assert_eq!(count(&lab, "n1", "policies"), 0);
        let run = lab.verb("n1", &["apply", "--wait", "-f", file]).ok();
        assert_eq!(run.stderr.contains("not enforced"), policy == "false", "{run:?}");
        assert_eq!(steps(), 0, "{}", plan());
    }
}

#[test]
fn nodes_tell_each_other_of_their_pods_in_networks_with_policy() {
    let lab = Lab::up("t-publish", &["--nodes", "2", "--pods", "1", "--preset", "canal", "--family", "dual"]);
    for node in ["n1", "n2"] {
        wait_until("the other's pod is known", SOON, || count(&lab, node, "remote_endpoints") == 1);
    }
    lab.lab(&["pod", "add", "web", "-n", "shop", "--node", "n1", "-l", "app=web"]).ok();
    wait_until("it is known", SOON, || count(&lab, "n2", "remote_endpoints") == 2);
    assert_eq!(pods(&lab), ["default/p1", "default/p2", "shop/web"]);
    let told = published(&lab);
    let web = told.values().find(|(_, value)| value["pod"] == "shop/web").unwrap();
    let addresses: Vec<String> = lab.addresses("shop/web").iter().map(ToString::to_string).collect();
    assert_eq!(
        web.1,
        json!({"pod": "shop/web", "network": "default", "addresses": addresses, "labels": {"app": "web"}})
    );

    // An agent that comes back writes nothing anew.
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        lab.end_agent("n1", signal);
        lab.start_healthy("n1");
        wait_until("the other's pod is known", LATER, || count(&lab, "n1", "remote_endpoints") == 1);
        assert_eq!(published(&lab), told);
    }

    // What somebody took away is there again, and what is none of a node's pods is gone.
    let store = Sqlite::open(&lab.file("store", "tartan.db")).unwrap();
    let mine = told.iter().find(|(_, (_, value))| value["pod"] == "default/p1").unwrap().0.clone();
    store.delete(&mine, tartan_store::Expect::Any).unwrap();
    let stale = format!("{}/gone/eth0", mine.rsplitn(3, '/').last().unwrap());
    let value = br#"{"pod":"default/gone","network":"default","addresses":["10.244.0.99"]}"#;
    store.put(&stale, value, tartan_store::Expect::Any, tartan_store::Durability::Crash).unwrap();
    wait_until("all is as it was", SOON, || pods(&lab) == ["default/p1", "default/p2", "shop/web"]);

    lab.lab(&["pod", "rm", "web", "-n", "shop"]).ok();
    wait_until("it is gone", SOON, || count(&lab, "n2", "remote_endpoints") == 1);
    assert_eq!(pods(&lab), ["default/p1", "default/p2"]);

    // Where there is no policy, nobody is told.
    lab.apply(
        "default",
        "{preset: flannel, attachment: routed, pools: [{cidr: 10.244.0.0/16}, {cidr: \"fd00:10:244::/56\"}]}",
    )
    .ok();
    wait_until("all is taken away", SOON, || pods(&lab).is_empty());
    lab.apply("default", "{preset: flannel, attachment: routed, policy: true, pools: [{cidr: 10.244.0.0/16}, {cidr: \"fd00:10:244::/56\"}]}").ok();
    wait_until("they are told again", SOON, || pods(&lab) == ["default/p1", "default/p2"]);

    lab.verb("n1", &["node", "leave", "--force"]).ok();
    assert_eq!(pods(&lab), ["default/p2"]);
    wait_until("the pods of a node that left are forgotten", SOON, || {
        count(&lab, "n2", "remote_endpoints") == 0
    });
}

#[test]
fn labels_are_objects_and_go_with_the_pod() {
    let lab = Lab::up("t-labels", &["--nodes", "1", "--pods", "0", "--set", "policy=true"]);
    lab.lab(&["pod", "add", "web", "-n", "shop", "--node", "n1", "-l", "app=web"]).ok();
    assert_eq!(lab.ask("n1", &["get", "pods"]), json!([]));
    let labels = |run: Run| run.ok().json()["labels"].clone();
    let set = lab.lab(&["pod", "label", "web", "-n", "shop", "tier=front", "-o", "json"]);
    assert_eq!(labels(set), json!({"app": "web", "tier": "front"}));
    let set = lab.lab(&["pod", "label", "shop/web", "app-", "x=y", "-o", "json"]);
    assert_eq!(labels(set), json!({"tier": "front", "x": "y"}));
    let pod = lab.ask("n1", &["get", "pod", "shop/web"]);
    assert_eq!(pod[0]["metadata"]["labels"], json!({"tier": "front", "x": "y"}));
    lab.lab(&["namespace", "label", "shop", "team=blue"]).ok();
    let set = lab.lab(&["namespace", "label", "shop", "a=b", "team-", "-o", "json"]);
    assert_eq!(labels(set), json!({"a": "b"}));
    assert_eq!(lab.ask("n1", &["get", "ns", "shop"])[0]["metadata"]["labels"], json!({"a": "b"}));
    for wrong in [
        &["pod", "label", "none", "a=b"][..],
        &["pod", "label", "web", "-n", "shop", "a b=c"],
        &["pod", "label", "web", "-n", "shop"],
        &["namespace", "label", "Shop", "a=b"],
        &["namespace", "label", "shop", "a"],
    ] {
        assert_eq!(lab.lab(wrong).code, 2, "{wrong:?}");
    }
    lab.lab(&["pod", "rm", "web", "-n", "shop"]).ok();
    assert_eq!(lab.ask("n1", &["get", "pods"]), json!([]));
}

#[test]
fn what_a_wiped_store_has_lost_stays_in_force_until_somebody_deletes_it() {
    let lab =
        Lab::up("t-policywipe", &["--nodes", "2", "--pods", "1", "--preset", "canal", "--store", "etcd"]);
    apply(&lab, ALL).ok();
    lab.lab(&["store", "wipe"]).ok();
    wait_until("the nodes have told anew of their pods", LATER, || lab.etcd_keys("endpoint/").len() == 2);
    let reasons = |node: &str| lab.verb(node, &["status"]).stdout;
    for node in ["n1", "n2"] {
        wait_until("it says what is from memory", LATER, || {
            reasons(node).contains("1 NetworkPolicy, 1 Namespace, 1 Pod, 1 ServiceAccount")
        });
        assert_eq!((count(&lab, node, "policies"), count(&lab, node, "remote_endpoints")), (1, 1));
    }
    assert_eq!(lab.etcd_keys("policy/"), [""; 0]);
    // Some are deleted although the store has them no more, and some applied again.
    for (kind, name) in [("netpol", "shop/web"), ("sa", "robot")] {
        assert_eq!(lab.verb("n2", &["delete", kind, name]).code, 0);
        assert_eq!(lab.verb("n2", &["delete", "netpol", "shop/other"]).code, 1);
    }
    wait_until("the policy is gone", SOON, || {
        ["n1", "n2"].iter().all(|node| count(&lab, node, "policies") == 0)
    });
    let rest: Vec<&str> = ALL.split("---\n").skip(1).take(2).collect();
    apply(&lab, &rest.join("---\n")).ok();
    lab.wait_until_healthy(&["n1", "n2"]);
    assert_eq!(count(&lab, "n1", "remote_endpoints"), 1);
    lab.assert_full(2, &[]);
}
