//! What people write and what they are told about it: golden texts of every sort of mistake, and the round trip.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use insta::assert_snapshot;
use proptest::prelude::*;
use tartan_api::network::{
    ApiVersion, ClusterNetwork, Encryption, Fabric, Kind, Metadata, MtuChoice, Preset, Spec, Vxlan,
};
use tartan_api::object::{MAX_OBJECTS, MAX_TEXT, Object, parse};
use tartan_model::{Attachment, Mtu, Path, Pool};

const HEAD: &str = "apiVersion: tartan.dev/v1alpha1\nkind: ClusterNetwork\nmetadata: {name: default}\n";

/// The error for a text.
fn refused(text: &str) -> String {
    parse("net.yaml", text).expect_err("a mistake").to_string()
}

/// The error for a `spec` whose first key stands in line 5.
fn refused_spec(spec: &str) -> String {
    refused(&format!("{HEAD}spec:\n{spec}\n"))
}

#[test]
fn keys_that_do_not_exist() {
    assert_snapshot!(refused_spec("  pool: []"), @"net.yaml:5:3: unknown field `pool`, expected one of preset, pools, fabric, paths, attachment, vxlan, masquerade, masqueradeExempt, mtu, policy, encryption");
    assert_snapshot!(refused_spec("  vxlan: {vni: 1, prot: 8472}"), @"net.yaml:5:19: unknown field `prot`, expected one of vni, port");
    assert_snapshot!(refused_spec("  preset: flannel\n  preset: flannel"), @"net.yaml:6:3: duplicate mapping key: preset");
}

#[test]
fn values_of_the_wrong_type() {
    assert_snapshot!(refused_spec("  vxlan: 7"), @"net.yaml:5:10: expected `key: value`");
    assert_snapshot!(refused_spec("  pools: 10.244.0.0/16"), @"net.yaml:5:10: expected a list");
    assert_snapshot!(refused_spec("  preset: [flannel]"), @"net.yaml:5:11: expected a word");
    assert_snapshot!(refused_spec("  policy: maybe"), @"net.yaml:5:11: expected true or false");
    assert_snapshot!(refused_spec("  mtu: big"), @"net.yaml:5:8: expected `auto` or a number of bytes");
    assert_snapshot!(refused_spec("  attachment: magic"), @"net.yaml:5:15: unknown variant `magic`, expected one of routed, bridge");
}

#[test]
fn numbers_out_of_range() {
    assert_snapshot!(refused_spec("  mtu: 99999"), @"net.yaml:5:8: 99999 is not an MTU: it is from 576 to 65535 bytes, and at least 1280 where IPv6 is used");
    assert_snapshot!(refused_spec("  vxlan: {vni: 0}"), @"net.yaml:5:16: 0 is not a VXLAN network identifier: it is from 1 to 16777215 (RFC 7348)");
    assert_snapshot!(refused_spec("  vxlan: {port: 0}"), @"net.yaml:5:11: expected a number from 1 to 65535");
    assert_snapshot!(refused_spec("  vxlan: {port: 70000}"), @"net.yaml:5:17: expected a number from 0 to 65535");
    assert_snapshot!(refused_spec("  mtu: 1000\n  pools:\n  - {cidr: \"fd00::/56\"}"), @"net.yaml:1: spec.mtu: 1000 bytes are too few for IPv6, which needs 1280 (RFC 8200); raise it or drop the IPv6 pool");
}

#[test]
fn pools_that_are_none() {
    assert_snapshot!(refused_spec("  pools:\n  - {cidr: ten}"), @r#"net.yaml:6:12: "ten" is not an address range: write ADDRESS/LENGTH, as in 10.244.0.0/16 or fd00:10:244::/56"#);
    assert_snapshot!(refused_spec("  pools:\n  - {cidr: 10.244.1.0/16}"), @"net.yaml:6:12: 10.244.1.0/16 has bits set behind its prefix: write 10.244.0.0/16");
    assert_snapshot!(refused_spec("  pools:\n  - {cidr: 10.244.0.0/29}"), @"net.yaml:6:5: pool 10.244.0.0/29 is too small: it has 8 addresses, a pool needs at least 16");
    assert_snapshot!(refused_spec("  pools:\n  - {cidr: 10.244.0.0/16, blockSize: 8}"), @"net.yaml:6:5: block size 8 does not fit pool 10.244.0.0/16: use a prefix length from 16 to 30");
    assert_snapshot!(refused_spec("  pools:\n  - {cidr: 10.244.0.0/16, blockSize: 300}"), @"net.yaml:6:38: expected a number from 0 to 255");
    assert_snapshot!(refused_spec("  pools:\n  - {blockSize: 24}"), @"net.yaml:6:6: missing field `cidr`");
    let many = vec!["10.0.0.0/8"; 65].join(", ");
    assert_snapshot!(refused_spec(&format!("  masqueradeExempt: [{many}]")), @"net.yaml:1: spec.masqueradeExempt: 65 ranges; give at most 64");
    assert_snapshot!(refused_spec("  pools: []"), @"net.yaml:1: spec.pools: 0 pools; give at least one and at most 64");
    assert_snapshot!(refused_spec("  pools:\n  - {cidr: 10.0.0.0/8}\n  - {cidr: 10.244.0.0/16}"), @"net.yaml:1: spec.pools: 10.0.0.0/8 and 10.244.0.0/16 overlap; give each pool a range of its own");
}

#[test]
fn what_a_later_release_serves() {
    assert_snapshot!(refused_spec("  preset: calico"), @"net.yaml:5:11: preset calico is not served by this release; it serves flannel and canal");
    assert_snapshot!(refused_spec("  preset: weave"), @"net.yaml:5:11: preset weave is not served by this release; it serves flannel and canal");
    assert_snapshot!(refused_spec("  fabric: routed"), @"net.yaml:5:11: fabric routed is not served by this release; it serves overlay");
    assert_snapshot!(refused_spec("  paths: [vxlan, sleeve]"), @"net.yaml:5:18: path sleeve is not served by this release; it serves direct and vxlan");
    assert_snapshot!(refused_spec("  paths: []"), @"net.yaml:1: spec.paths: no path is allowed; name at least one");
    assert_snapshot!(refused_spec("  encryption: required"), @"net.yaml:5:15: encryption required is not served by this release; it serves off");
}

#[test]
fn heads_that_are_none() {
    assert_snapshot!(refused("kind: Deployment\napiVersion: apps/v1\n"), @r#"net.yaml:1:1: kind "Deployment" is not known; this release knows ClusterNetwork, NetworkPolicy, Namespace, Pod, ServiceAccount"#);
    assert_snapshot!(refused("kind: clusternetwork\n"), @r#"net.yaml:1:1: kind "clusternetwork" is not known; this release knows ClusterNetwork, NetworkPolicy, Namespace, Pod, ServiceAccount"#);
    assert_snapshot!(refused("apiVersion: v1\n"), @"net.yaml:1:1: missing field `kind`");
    assert_snapshot!(refused(&HEAD.replace("tartan.dev/v1alpha1", "v2")), @"net.yaml:1:13: unknown variant `v2`, expected one of tartan.dev/v1alpha1");
    assert_snapshot!(refused(&HEAD.replace("default", "Default")), @r#"net.yaml:3:18: "Default" is not a name: use at most 63 lower-case letters, digits and '-', beginning and ending with a letter or digit"#);
    assert_snapshot!(refused(&HEAD.replace("name: default", "")), @"net.yaml:3:11: missing field `name`");
}

#[test]
fn lines_are_those_of_the_file() {
    let text = format!("# Two networks.\n---\n{HEAD}---\n# The second.\n{HEAD}spec:\n  mtu: big\n");
    assert_snapshot!(refused(&text), @"net.yaml:12:8: expected `auto` or a number of bytes");
    let text = format!("---\n{HEAD}---\n\n# The second.\n{HEAD}spec: {{paths: []}}\n");
    assert_snapshot!(refused(&text), @"net.yaml:8: spec.paths: no path is allowed; name at least one");
    assert_snapshot!(refused("--- {kind: X}\n--- {kind: Y}\n"), @"net.yaml:2:5: another object begins here; write `---` on a line of its own before it");
}

#[test]
fn texts_that_hold_no_object() {
    assert_snapshot!(refused(""), @"net.yaml: there is no object in it; write one with apiVersion, kind and metadata");
    assert_snapshot!(refused("# nothing\n---\n\n"), @"net.yaml: there is no object in it; write one with apiVersion, kind and metadata");
    assert_snapshot!(refused("just words"), @"net.yaml:1:1: expected `key: value`");
    assert_snapshot!(refused("{["), @"net.yaml:1:2: unclosed bracket '['");
    assert_snapshot!(refused("\0\u{1}binary"), @r"net.yaml:1:1: unexpected character: `\u{0}'");
    assert_snapshot!(refused("kind: ClusterNetwork\n  x: 1\n"), @"net.yaml:2:4: mapping values are not allowed in this context");
}

#[test]
fn texts_that_are_too_much() {
    assert_snapshot!(refused(&format!("{HEAD}{}", "#".repeat(MAX_TEXT))), @"net.yaml: it is longer than 1 MiB");
    assert_snapshot!(refused(&"---\nkind: X\n".repeat(MAX_OBJECTS + 1)), @"net.yaml: it holds more than 10000 objects");
    assert_snapshot!(refused(&format!("kind: X\na: {}", "[".repeat(100_000))), @"net.yaml:2:259: too much to read: it is nested too deeply");
    let tenfold = |key: char, of: &str| format!("{key}: &{key} [{}]\n", format!("{of},").repeat(10));
    let bomb = tenfold('a', "x")
        + &('b'..'k').zip('a'..).map(|(key, of)| tenfold(key, &format!("*{of}"))).collect::<String>();
    assert_snapshot!(refused(&format!("{bomb}kind: X\n")), @"net.yaml:6:11: too much to read: it repeats itself by aliases or is nested too deeply");
}

#[test]
fn a_full_object_is_read_as_it_says() {
    let text = r#"
apiVersion: tartan.dev/v1alpha1
kind: ClusterNetwork
metadata: {name: default}
spec:
  preset: flannel          # everything below is optional and overrides the preset
  pools:
  - {cidr: 10.244.0.0/16, blockSize: 24}
  - {cidr: "fd00:10:244::/56", blockSize: 64}
  fabric: overlay
  paths: [vxlan]           # allowed, best first
  attachment: routed       # or bridge
  vxlan: {vni: 1, port: 8472}
  masquerade: false
  masqueradeExempt: [192.0.2.0/24]
  mtu: auto
  policy: false
  encryption: "off"
"#;
    let objects = parse("net.yaml", text).unwrap();
    let [Object::ClusterNetwork(network)] = objects.as_slice() else { panic!("one network: {objects:?}") };
    assert_eq!(
        *network,
        ClusterNetwork {
            spec: Spec {
                preset: Some(Preset::Flannel),
                pools: Some(pools()),
                fabric: Some(Fabric::Overlay),
                paths: Some(vec![Path::Vxlan]),
                attachment: Some(Attachment::Routed),
                vxlan: Some(Vxlan::default()),
                masquerade: Some(false),
                masquerade_exempt: Some(vec!["192.0.2.0/24".parse().unwrap()]),
                mtu: Some(MtuChoice::Auto),
                policy: Some(false),
                encryption: Some(Encryption::Off),
            },
            ..cluster_network("default")
        }
    );
    assert_snapshot!(serde_json::to_string(&objects).unwrap(), @r#"[{"apiVersion":"tartan.dev/v1alpha1","kind":"ClusterNetwork","metadata":{"name":"default"},"spec":{"preset":"flannel","pools":[{"cidr":"10.244.0.0/16","blockSize":24},{"cidr":"fd00:10:244::/56","blockSize":64}],"fabric":"overlay","paths":["vxlan"],"attachment":"routed","vxlan":{"vni":1,"port":8472},"masquerade":false,"masqueradeExempt":["192.0.2.0/24"],"mtu":"auto","policy":false,"encryption":"off"}}]"#);
}

#[test]
fn an_empty_spec_is_the_presets() {
    let object = cluster_network("default");
    assert_eq!(parse("net.yaml", HEAD).unwrap(), [Object::ClusterNetwork(object.clone())]);
    let network = object.resolve().unwrap();
    assert_eq!(network.pools, [Pool::new("10.244.0.0/16".parse().unwrap(), Some(24)).unwrap()]);
    assert_eq!((network.attachment, network.mtu), (Attachment::Bridge, MtuChoice::Auto));
    assert_eq!((network.paths, network.vxlan), (vec![Path::Vxlan], Vxlan::default()));
    assert_eq!((network.masquerade, network.masquerade_exempt), (true, Vec::new()));
    assert!(!network.policy);
}

#[test]
fn canal_is_routed_and_has_policy_unless_it_says_otherwise() {
    let resolved = |spec: &str| {
        let objects = parse("net.yaml", &format!("{HEAD}spec: {spec}")).unwrap();
        let [Object::ClusterNetwork(network)] = objects.as_slice() else {
            panic!("one network: {objects:?}")
        };
        let network = network.resolve().unwrap();
        (network.attachment, network.policy, network.paths)
    };
    let vxlan = || vec![Path::Vxlan];
    assert_eq!(resolved("{preset: canal}"), (Attachment::Routed, true, vxlan()));
    assert_eq!(resolved("{preset: canal, attachment: bridge}"), (Attachment::Bridge, true, vxlan()));
    assert_eq!(resolved("{preset: canal, policy: false}"), (Attachment::Routed, false, vxlan()));
    assert_eq!(resolved("{preset: flannel, policy: true}"), (Attachment::Bridge, true, vxlan()));
}

fn cluster_network(name: &str) -> ClusterNetwork {
    ClusterNetwork {
        api_version: ApiVersion::V1alpha1,
        kind: Kind::ClusterNetwork,
        metadata: Metadata { name: name.parse().unwrap() },
        spec: Spec::default(),
    }
}

fn pools() -> Vec<Pool> {
    [("10.244.0.0/16", 24), ("fd00:10:244::/56", 64)]
        .map(|(cidr, size)| Pool::new(cidr.parse().unwrap(), Some(size)).unwrap())
        .to_vec()
}

fn any_pools() -> impl Strategy<Value = Vec<Pool>> {
    let v4 = (0u8..=255, 20u8..=28, 0u8..=2)
        .prop_map(|(second, length, more)| (format!("10.{second}.0.0/{length}"), length + more));
    let v6 = (0u16.., 40u8..=120, 0u8..=6)
        .prop_map(|(third, length, more)| (format!("fd00:10:{third:x}::/{length}"), length + more));
    prop::collection::vec(prop_oneof![v4, v6], 1..5).prop_filter_map("they overlap", |written| {
        let pools: Option<Vec<Pool>> =
            written.iter().map(|(cidr, size)| Pool::new(cidr.parse().ok()?, Some(*size)).ok()).collect();
        let spec = Spec { pools: pools.clone(), ..Spec::default() };
        ClusterNetwork { spec, ..cluster_network("x") }.resolve().is_ok().then_some(pools?)
    })
}

fn any_spec() -> impl Strategy<Value = Spec> {
    let vxlan = (1u32..1 << 24, 1u16..)
        .prop_map(|(vni, port)| Vxlan { vni: vni.try_into().unwrap(), port: port.try_into().unwrap() });
    let mtu = prop_oneof![
        Just(MtuChoice::Auto),
        (1280u32..=65_535).prop_map(|bytes| MtuChoice::Bytes(Mtu::try_from(bytes).unwrap())),
    ];
    let words = (
        prop::option::of(prop_oneof![Just(Preset::Flannel), Just(Preset::Canal)]),
        prop::option::of(Just(Fabric::Overlay)),
        prop::option::of(prop::collection::vec(Just(Path::Vxlan), 1..3)),
        prop::option::of(prop_oneof![Just(Attachment::Routed), Just(Attachment::Bridge)]),
        prop::option::of(Just(Encryption::Off)),
    );
    let rest = (
        prop::option::of(any_pools()),
        prop::option::of(vxlan),
        prop::option::of(mtu),
        prop::option::of(any::<bool>()),
        prop::option::of(any_pools().prop_map(|pools| pools.iter().map(Pool::cidr).collect())),
        prop::option::of(any::<bool>()),
    );
    (words, rest).prop_map(|(words, rest)| {
        let (preset, fabric, paths, attachment, encryption) = words;
        let (pools, vxlan, mtu, masquerade, masquerade_exempt, policy) = rest;
        Spec {
            preset,
            pools,
            fabric,
            paths,
            attachment,
            vxlan,
            masquerade,
            masquerade_exempt,
            mtu,
            policy,
            encryption,
        }
    })
}

proptest! {
    #[test]
    fn printed_objects_parse_to_themselves(specs in prop::collection::vec((any_spec(), "[a-z0-9]{1,63}"), 1..4)) {
        let objects: Vec<Object> = specs
            .into_iter()
            .map(|(spec, name)| Object::ClusterNetwork(ClusterNetwork { spec, ..cluster_network(&name) }))
            .collect();
        let json: Vec<String> = objects.iter().map(|object| serde_json::to_string_pretty(object).unwrap()).collect();
        prop_assert_eq!(&parse("net.json", &json.join("\n---\n")).unwrap(), &objects);
        let yaml: Vec<String> = objects.iter().map(|object| serde_saphyr::to_string(object).unwrap()).collect();
        prop_assert_eq!(&parse("net.yaml", &yaml.join("---\n")).unwrap(), &objects);
        let wire = serde_json::to_string(&objects).unwrap();
        prop_assert_eq!(serde_json::from_str::<Vec<Object>>(&wire).unwrap(), objects);
    }

    #[test]
    fn parse_never_panics(text in "(---\n|[a-z]{1,4}: |[-{}\\[\\]&*!|>'\"%@`,:#\n ]|.){0,60}") {
        if let Err(error) = parse("net.yaml", &text) {
            prop_assert!(error.to_string().starts_with("net.yaml:"));
        }
        let _ = parse("net.yaml", &format!("{HEAD}spec: {text}"));
    }
}
