//! The objects that policies are made of: what is read of them, what is passed over, and golden texts of what is refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use insta::assert_snapshot;
use proptest::prelude::*;
use tartan_api::endpoint::PublishedEndpoint;
use tartan_api::kubernetes::PodObject;
use tartan_api::object::{MAX_OBJECT, MAX_TEXT, Object, ObjectKind, parse};

const POLICY: &str =
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\n";

fn refused(text: &str) -> String {
    parse("p.yaml", text).expect_err("a mistake").to_string()
}

/// The error for a policy's `spec` whose first key stands in line 5.
fn refused_policy(spec: &str) -> String {
    refused(&format!("{POLICY}spec:\n{spec}\n"))
}

fn one(text: &str) -> Object {
    let mut objects = parse("p.yaml", text).unwrap();
    assert_eq!(objects.len(), 1);
    objects.remove(0)
}

#[test]
fn selectors_that_are_none() {
    assert_snapshot!(refused_policy("  podSelector:\n    matchLabels:\n      app: [web]"), @"p.yaml:7:12: expected a word");
    assert_snapshot!(refused_policy("  podSelector:\n    matchLabels:\n      -app: web"), @r#"p.yaml:7:7: "-app" is no label: a label is 1 to 63 letters, digits, `-`, `_` and `.`, with a letter or digit first and last, and may have a DNS name and a slash before it"#);
    assert_snapshot!(refused_policy("  podSelector:\n    matchLabels:\n      app: w b"), @r#"p.yaml:7:12: "w b" is no label's value: at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit first and last"#);
    assert_snapshot!(refused_policy("  podSelector:\n    matchExpression: []"), @"p.yaml:6:5: unknown field `matchExpression`, expected one of matchLabels, matchExpressions");
    assert_snapshot!(refused_policy("  podSelector:\n    matchExpressions:\n    - {key: app, operator: Is}"), @"p.yaml:7:28: unknown variant `Is`, expected one of In, NotIn, Exists, DoesNotExist");
    assert_snapshot!(refused_policy("  podSelector:\n    matchExpressions:\n    - {key: app, operator: In}"), @"p.yaml:7:7: In wants at least one value");
    assert_snapshot!(refused_policy("  podSelector:\n    matchExpressions:\n    - {key: app, operator: Exists, values: [a]}"), @"p.yaml:7:7: Exists takes no values");
}

#[test]
fn policies_that_are_none() {
    assert_snapshot!(refused_policy("  podSelectr: {}"), @"p.yaml:5:3: unknown field `podSelectr`, expected one of podSelector, policyTypes, ingress, egress");
    assert_snapshot!(refused_policy("  ingress:\n  - form: []"), @"p.yaml:6:5: unknown field `form`, expected one of from, ports");
    assert_snapshot!(refused_policy("  ingress:\n  - from:\n    - {}"), @"p.yaml:7:7: a peer is either ipBlock, or podSelector, namespaceSelector or both");
    assert_snapshot!(refused_policy("  ingress:\n  - ports:\n    - {port: 90, endPort: 80}"), @"p.yaml:7:7: endPort 80 is below port 90");
    assert_snapshot!(refused_policy("  ingress:\n  - ports:\n    - {port: 70000}"), @"p.yaml:7:7: 70000 is no port: give 1 to 65535, or a name of at most 15 lowercase letters, digits and single `-`");
    assert_snapshot!(refused_policy("  ingress:\n  - ports:\n    - {port: 80, protocol: ICMP}"), @"p.yaml:7:28: unknown variant `ICMP`, expected one of TCP, UDP, SCTP");
    assert_snapshot!(refused_policy("  egress:\n  - to:\n    - ipBlock: {cidr: 10.0.0.0/8, except: [\"fd00::/64\"]}"), @"p.yaml:7:16: except fd00::/64 is not within 10.0.0.0/8");
    assert_snapshot!(refused_policy("  egress:\n  - to:\n    - ipBlock: {cidr: 10.0.0.0/33}"), @r#"p.yaml:7:23: "10.0.0.0/33" is not an address range: write ADDRESS/LENGTH, as in 10.244.0.0/16 or fd00:10:244::/56"#);
    assert_snapshot!(refused_policy("  policyTypes: [Both]"), @"p.yaml:5:17: unknown variant `Both`, expected one of Ingress, Egress");
    assert_snapshot!(refused(&format!("{POLICY}spce: {{}}\n")), @"p.yaml:4:1: unknown field `spce`, expected one of apiVersion, kind, metadata, spec, status");
    assert_snapshot!(refused(&POLICY.replace("networking.k8s.io/v1", "projectcalico.org/v3")), @"p.yaml:1:13: unknown variant `projectcalico.org/v3`, expected one of networking.k8s.io/v1");
    assert_snapshot!(refused(&POLICY.replace("name: web, ", "")), @"p.yaml:3:12: missing field `name`");
    assert_snapshot!(refused(&POLICY.replace("shop", "my.shop")), @r#"p.yaml:3:34: "my.shop" is not a name: use at most 63 lower-case letters, digits and '-', beginning and ending with a letter or digit"#);
    assert_snapshot!(refused(&POLICY.replace("web", "Web")), @r#"p.yaml:3:18: "Web" is not a name: use at most 253 lower-case letters, digits, '-' and '.', each part beginning and ending with a letter or digit"#);
    assert_snapshot!(refused(&POLICY.replace("web", &"a".repeat(254))), @r#"p.yaml:3:18: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…" is not a name: use at most 253 lower-case letters, digits, '-' and '.', each part beginning and ending with a letter or digit"#);
}

#[test]
fn policies_that_are_too_much() {
    let rules = |count: usize| format!("  ingress:\n{}", "  - {}\n".repeat(count));
    assert!(parse("p.yaml", &format!("{POLICY}spec:\n{}", rules(1024))).is_ok());
    assert_snapshot!(refused_policy(&rules(10_000)), @"p.yaml:5:3: at most 1024 rules in a direction");
    let peers = |count: usize| format!("  ingress:\n  - from:\n{}", "    - podSelector: {}\n".repeat(count));
    assert_snapshot!(refused_policy(&peers(1025)), @"p.yaml:7:7: at most 1024 peers, ports or containers in a list");
    let full = "#".repeat(MAX_TEXT + 1 - POLICY.len());
    assert_snapshot!(refused(&format!("{POLICY}{full}")), @"p.yaml: it is longer than 1 MiB");
    assert!(parse("p.yaml", &format!("{POLICY}{}", &full[1..])).is_ok());
    // What is filled in makes it larger than the text.
    let rule = format!("  - ports: [{}]\n", vec!["{}"; 1000].join(","));
    let text = format!("{POLICY}spec:\n  ingress:\n{}", rule.repeat(60));
    assert!(text.len() < MAX_OBJECT);
    assert_snapshot!(refused(&text), @"p.yaml:1: the object is larger than 1000 KiB; make several of it");
    let labels: String = (0..257).map(|number| format!("    l{number}: x\n")).collect();
    assert_snapshot!(refused(&format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: x\n  labels:\n{labels}")), @"p.yaml:6:5: an object has at most 256 labels");
}

#[test]
fn core_objects_that_are_none() {
    let object = |kind: &str, rest: &str| format!("apiVersion: v1\nkind: {kind}\n{rest}");
    assert_snapshot!(refused(&object("Pod", "")), @"p.yaml:2:1: missing field `metadata`");
    assert_snapshot!(refused(&object("Pod", "metadata: {labels: {a: b}}")), @"p.yaml:3:12: missing field `name`");
    assert_snapshot!(refused(&object("Pod", "metadata: {name: x, labels: {a: b c}}")), @r#"p.yaml:3:33: "b c" is no label's value: at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit first and last"#);
    assert_snapshot!(refused(&object("Pod", "metadata: {name: x}\nspec:\n  containers:\n  - ports:\n    - containerPort: 0")), @"p.yaml:7:7: 0 is no port: give 1 to 65535, or a name of at most 15 lowercase letters, digits and single `-`");
    assert_snapshot!(refused(&object("Pod", "metadata: {name: x}\nspec:\n  containers:\n  - ports:\n    - {name: HTTP, containerPort: 80}")), @r#"p.yaml:7:7: "HTTP" is no port: give 1 to 65535, or a name of at most 15 lowercase letters, digits and single `-`"#);
    assert_snapshot!(refused(&object("Namespace", "metadata: {name: a.b}")), @r#"p.yaml:3:18: "a.b" is not a name: use at most 63 lower-case letters, digits and '-', beginning and ending with a letter or digit"#);
    assert_snapshot!(refused(&object("ServiceAccount", "metadata: {name: Robot}")), @r#"p.yaml:3:18: "Robot" is not a name: use at most 253 lower-case letters, digits, '-' and '.', each part beginning and ending with a letter or digit"#);
    assert_snapshot!(refused(&object("Namespace", "metadata: {name: x}").replace("v1", "v2")), @"p.yaml:1:13: unknown variant `v2`, expected one of v1");
}

#[test]
fn whole_objects_of_a_server_are_taken() {
    let text = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {"kind": "NetworkPolicy"}
    tartan.dev/applied-from: somewhere else
  creationTimestamp: "2026-01-01T00:00:00Z"
  generation: 2
  managedFields: [{manager: kubectl, operation: Update}]
  name: web
  namespace: shop
  resourceVersion: "12"
  uid: 1-2-3
spec:
  podSelector: {}
status: {}
---
apiVersion: v1
kind: Pod
metadata:
  name: web-0
  labels: {app: web}
  ownerReferences: [{kind: ReplicaSet, name: web}]
spec:
  nodeName: n1
  serviceAccountName: robot
  containers:
  - name: web
    image: web:1
    ports:
    - {name: http, containerPort: 8080, protocol: TCP}
    - {containerPort: 9090, hostPort: 9090}
  - name: dns
    ports: [{name: dns, containerPort: 53, protocol: UDP}]
  - name: helper
    ports: null
status: {phase: Running}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: null, annotations: null}
spec: {finalizers: [kubernetes]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot, namespace: ""}
secrets: [{name: token}]
"#;
    let objects = parse("dir/all.yaml", text).unwrap();
    let names: Vec<_> = objects.iter().map(|object| format!("{} {}", object.kind(), object.name())).collect();
    assert_eq!(
        names,
        ["NetworkPolicy shop/web", "Pod default/web-0", "Namespace shop", "ServiceAccount default/robot"]
    );
    let sources: Vec<_> = objects.iter().map(|object| object.source().unwrap().to_string()).collect();
    assert_eq!(sources, ["dir/all.yaml:2", "dir/all.yaml:20", "dir/all.yaml:41", "dir/all.yaml:46"]);
    let Object::Pod(pod) = &objects[1] else { panic!() };
    let pod = PodObject::from(pod.clone());
    let ports: Vec<_> =
        pod.ports.iter().map(|port| format!("{}={}/{}", port.name, port.port, port.protocol)).collect();
    assert_eq!(ports, ["http=8080/TCP", "dns=53/UDP"]);
    assert_eq!(pod.service_account.unwrap().as_str(), "robot");
    assert_snapshot!(serde_json::to_string(&objects[1]).unwrap(), @r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web-0","namespace":"default","labels":{"app":"web"},"annotations":{"tartan.dev/applied-from":"dir/all.yaml:20"}},"spec":{"containers":[{"ports":[{"name":"http","containerPort":8080,"protocol":"TCP"},{"containerPort":9090,"protocol":"TCP"}]},{"ports":[{"name":"dns","containerPort":53,"protocol":"UDP"}]},{}],"serviceAccountName":"robot"}}"#);
}

#[test]
fn host_bits_of_a_range_are_dropped() {
    let object = one(&format!(
        "{POLICY}spec:\n  ingress: [{{from: [{{ipBlock: {{cidr: 10.1.2.3/8, except: [10.9.9.9/16, 10.7.0.0/16]}}}}]}}]"
    ));
    let json = serde_json::to_string(&object).unwrap();
    assert!(json.contains(r#"{"cidr":"10.0.0.0/8","except":["10.9.0.0/16","10.7.0.0/16"]}"#), "{json}");
}

#[test]
fn an_object_says_the_same_wherever_it_is_written() {
    let (first, second) = (one(POLICY), one(&format!("# moved\n{POLICY}")));
    assert!(first != second && first.says_the_same(&second));
    assert!(!first.says_the_same(&one(&POLICY.replace("web", "db"))));
}

#[test]
fn kinds_have_kubectls_words() {
    for (word, kind) in [
        ("netpol", ObjectKind::NetworkPolicy),
        ("NetworkPolicies", ObjectKind::NetworkPolicy),
        ("ns", ObjectKind::Namespace),
        ("po", ObjectKind::Pod),
        ("pods", ObjectKind::Pod),
        ("sa", ObjectKind::ServiceAccount),
        ("clusternetwork", ObjectKind::ClusterNetwork),
    ] {
        assert_eq!(ObjectKind::from_word(word), Some(kind), "{word}");
    }
    assert_eq!(ObjectKind::from_word("deployment"), None);
}

#[test]
fn what_is_published_is_bounded() {
    let read =
        |text: &str| serde_json::from_str::<PublishedEndpoint>(text).map_err(|error| error.to_string());
    let text = r#"{"pod":"default/p1","network":"default","addresses":["10.0.0.2","fd00::2"],"labels":{"app":"web"}}"#;
    assert_eq!(serde_json::to_string(&read(text).unwrap()).unwrap(), text);
    assert!(
        read(&text.replace("\"fd00::2\"", "\"fd00::2\",\"fd00::3\"")).unwrap_err().contains("3 addresses")
    );
    assert!(read(&text.replace('{', "{\"later\":1,").replacen("{\"later\":1,\"app", "{\"app", 1)).is_ok());
}

/// Policies as people may write them.
fn any_object() -> impl Strategy<Value = Object> {
    let selector = prop_oneof![
        Just("{}".to_owned()),
        "[a-z]{1,5}".prop_map(|value| format!("{{matchLabels: {{app: {value}}}}}").replace("null", "nil")),
        Just("{matchExpressions: [{key: tier, operator: NotIn, values: [a, b]}]}".to_owned()),
    ];
    let port = prop_oneof![
        Just("{port: 80}"),
        Just("{port: dns, protocol: UDP}"),
        Just("{port: 1, endPort: 9}"),
        Just("{}")
    ];
    let policy = (selector, prop::collection::vec(port, 0..3), "[a-w]{1,8}").prop_map(|(selector, ports, name)| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: x{name}}}\nspec: {{podSelector: {selector}, \
             ingress: [{{from: [{{podSelector: {selector}}}], ports: [{}]}}], egress: [{{to: [{{ipBlock: {{cidr: 10.0.0.0/8}}}}]}}]}}",
            ports.join(", ")
        )
    });
    let core = ("[a-w]{1,8}", 1u16.., prop::sample::select(vec!["Namespace", "Pod", "ServiceAccount"])).prop_map(|(name, port, kind)| {
        let spec = if kind == "Pod" {
            format!("spec: {{serviceAccountName: x{name}, containers: [{{ports: [{{name: http, containerPort: {port}}}]}}]}}")
        } else {
            String::new()
        };
        format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: x{name}, labels: {{app: x{name}}}}}\n{spec}")
    });
    prop_oneof![policy, core].prop_map(|text| one(&text))
}

proptest! {
    #[test]
    fn printed_objects_parse_to_themselves(objects in prop::collection::vec(any_object(), 1..4)) {
        let bare: Vec<Object> = objects.iter().map(|object| object.clone().from_source(None)).collect();
        let parsed = |name: &str, texts: Vec<String>, between: &str| -> Vec<Object> {
            let objects = parse(name, &texts.join(between)).unwrap();
            objects.into_iter().map(|object| object.from_source(None)).collect()
        };
        let json = objects.iter().map(|object| serde_json::to_string_pretty(object).unwrap()).collect();
        prop_assert_eq!(&parsed("p.json", json, "\n---\n"), &bare);
        let yaml = objects.iter().map(|object| serde_saphyr::to_string(object).unwrap()).collect();
        prop_assert_eq!(&parsed("p.yaml", yaml, "---\n"), &bare);
        let wire = serde_json::to_string(&objects).unwrap();
        prop_assert_eq!(serde_json::from_str::<Vec<Object>>(&wire).unwrap(), objects);
    }
}
