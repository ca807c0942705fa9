//! NetworkPolicy as people write it: what is read, and what is refused with which words and where.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use tartan_api::policy::{Direction, NetworkPolicy, Peer, Ports, Protocol};

fn read(spec: &str) -> Result<NetworkPolicy, String> {
    read_with(&format!("spec: {spec}\n"))
}

fn read_with(rest: &str) -> Result<NetworkPolicy, String> {
    let text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, uid: 1, generation: 2}}\n{rest}"
    );
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(&text, options).map_err(|error| error.to_string())
}

#[test]
fn everything_that_a_policy_may_say() {
    let policy = read(
        "{podSelector: {matchLabels: {app: db}, matchExpressions: [{key: tier, operator: NotIn, values: [x, y]}]}, \
          policyTypes: [Egress, Ingress], \
          ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}, \
                            {namespaceSelector: {matchLabels: {team: a}}, podSelector: {}}, {podSelector: {}}], \
                     ports: [{port: 80}, {protocol: UDP, port: dns}, {protocol: SCTP, port: 100, endPort: 200}, {}]}], \
          egress: [{}, {to: null, ports: []}]}",
    )
    .unwrap();
    assert_eq!(policy.metadata.namespace.as_str(), "default");
    assert_eq!(policy.spec.policy_types, [Direction::Ingress, Direction::Egress]);
    let rule = policy.spec.ingress.first().unwrap();
    let kinds: Vec<_> = rule
        .from
        .0
        .iter()
        .map(|peer| match peer {
            Peer::Block(block) => (block.except.len(), false),
            Peer::Pods { namespaces, .. } => (0, namespaces.is_some()),
        })
        .collect();
    assert_eq!(kinds, [(1, false), (0, true), (0, false)]);
    let ports: Vec<_> = rule.ports.0.iter().map(|port| (port.protocol, port.ports.clone())).collect();
    assert_eq!(
        ports,
        [
            (Protocol::Tcp, Ports::Range(80, 80)),
            (Protocol::Udp, Ports::Named("dns".into())),
            (Protocol::Sctp, Ports::Range(100, 200)),
            (Protocol::Tcp, Ports::All),
        ]
    );
    assert!(policy.spec.egress.iter().all(|rule| rule.to.0.is_empty() && rule.ports.0.is_empty()));
    // What is written is read again.
    let text = serde_saphyr::to_string(&policy).unwrap();
    assert_eq!(serde_saphyr::from_str::<NetworkPolicy>(&text).unwrap(), policy, "{text}");
}

#[test]
fn types_that_are_not_given_follow_from_the_rules() {
    let types = |spec| read(spec).unwrap().spec.policy_types;
    // Nor need there be a spec.
    for nothing in ["", "spec:\n", "spec: null\n", "spec: {}\n"] {
        let policy = read_with(nothing).unwrap();
        assert_eq!(policy.spec.policy_types, [Direction::Ingress], "{nothing}");
        let stored = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<NetworkPolicy>(&stored).unwrap(), policy, "{stored}");
    }
    assert_eq!(types("{podSelector: {}}"), [Direction::Ingress]);
    assert_eq!(types("{podSelector: {}, ingress: [{}]}"), [Direction::Ingress]);
    assert_eq!(types("{podSelector: {}, egress: [{}]}"), [Direction::Ingress, Direction::Egress]);
    assert_eq!(types("{podSelector: {}, egress: []}"), [Direction::Ingress]);
    assert_eq!(types("{podSelector: {}, policyTypes: [Egress]}"), [Direction::Egress]);
}

#[test]
fn what_is_refused() {
    let many = |what: &str| format!("{{podSelector: {{}}, ingress: [{}]}}", vec![what; 1025].join(", "));
    let (rules, exceptions) = (many("{}"), vec!["10.1.0.0/16"; 1025].join(", "));
    let exceptions =
        format!("{{ingress: [{{from: [{{ipBlock: {{cidr: 10.0.0.0/8, except: [{exceptions}]}}}}]}}]}}");
    let cases = [
        ("{podSelectr: {}}", "podSelectr"),
        ("{ingress: [{from: [{}]}]}", "a peer is either ipBlock, or podSelector"),
        ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}", "a peer is either ipBlock"),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}",
            "except 11.0.0.0/16 is not within 10.0.0.0/8",
        ),
        ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}", "is not within"),
        ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [\"fd00::/64\"]}}]}]}", "is not within"),
        ("{ingress: [{ports: [{port: 0}]}]}", "0 is no port"),
        ("{ingress: [{ports: [{port: 65536}]}]}", "65536 is no port"),
        ("{ingress: [{ports: [{port: HTTP}]}]}", "\"HTTP\" is no port"),
        ("{ingress: [{ports: [{port: \"80\"}]}]}", "\"80\" is no port"),
        ("{ingress: [{ports: [{port: a--b}]}]}", "is no port"),
        ("{ingress: [{ports: [{port: sixteen-letters-}]}]}", "is no port"),
        ("{ingress: [{ports: [{endPort: 90}]}]}", "endPort wants a port that is a number"),
        ("{ingress: [{ports: [{port: http, endPort: 90}]}]}", "endPort wants a port that is a number"),
        ("{ingress: [{ports: [{port: 90, endPort: 80}]}]}", "endPort 80 is below port 90"),
        ("{ingress: [{ports: [{protocol: ICMP}]}]}", "ICMP"),
        ("{policyTypes: [Both]}", "Both"),
        ("{podSelector: {matchLabels: {\"-a\": b}}}", "\"-a\" is no label"),
        ("{podSelector: {matchLabels: {a: \"b c\"}}}", "\"b c\" is no label's value"),
        ("{podSelector: {matchExpressions: [{key: a, operator: In}]}}", "In wants at least one value"),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            "Exists takes no values",
        ),
        ("{podSelector: {matchExpressions: [{key: a, operator: Is}]}}", "Is"),
        (rules.as_str(), "at most 1024 rules in a direction"),
        (exceptions.as_str(), "at most 1024 exceptions of a range"),
    ];
    for (spec, words) in cases {
        let error = read(spec).unwrap_err();
        assert!(error.contains(words), "{}: {error}", spec.chars().take(80).collect::<String>());
        assert!(error.contains("line 4"), "{error}");
    }
}
