//! Flannel's configurations, what becomes of them, and what is said about them: one golden text.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Write;

use insta::assert_snapshot;
use proptest::prelude::*;
use tartan_api::flannel::{MAX_CONF, import, within};
use tartan_api::object::parse;

/// What is printed for a configuration: the network on the standard output, words and errors on the other.
fn told(text: &str) -> String {
    let mut out = String::new();
    match import(text, &"default".parse().unwrap()) {
        Ok(imported) => {
            for word in &imported.words {
                writeln!(out, "! {}", within("net-conf.json", word.at, word)).unwrap();
            }
            let yaml = serde_saphyr::to_string(&imported.network).unwrap();
            let json = serde_json::to_string(&imported.network).unwrap();
            assert_eq!(parse("it", &json).unwrap(), parse("it", &yaml).unwrap());
            out + &yaml
        }
        Err(error) => format!("! error: {}\n", within("net-conf.json", error.at(), &error)),
    }
}

const CASES: [&str; 47] = [
    // As the manifest has it.
    "{\n  \"Network\": \"10.244.0.0/16\",\n  \"EnableNFTables\": false,\n  \"Backend\": {\n    \"Type\": \"vxlan\"\n  }\n}",
    // As the documentation has it.
    r#"{"Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0", "Backend": {"Type": "udp", "Port": 7890}}"#,
    r#"{"Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0", "Backend": {"Type": "vxlan", "VNI": 16777215, "Port": 4789, "DirectRouting": true}}"#,
    r#"{"EnableIPv6": true, "Network": "10.244.0.0/16", "IPv6Network": "fd00:77::/48", "IPv6SubnetLen": 64, "IPv6SubnetMin": "fd00:77:0:10::", "IPv6SubnetMax": "fd00:77:0:ff::", "Backend": {"Type": "vxlan"}}"#,
    r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:77::/62", "Backend": {"Type": "host-gw"}}"#,
    r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}}"#,
    r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "ipip", "DirectRouting": true}}"#,
    r#"{"Network": "10.244.0.0/16"}"#,
    r#"{"Network": "10.244.0.0/16", "Backend": {}}"#,
    r#"{"Network": "10.244.0.0/16", "Backend": {"VNI": 7}}"#,
    r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "Port": 0, "GBP": true, "Learning": true, "MTU": 9000, "MacPrefix": "0E-2A", "Name": "x"}}"#,
    r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "GBP": false, "Learning": false, "DirectRouting": false, "MTU": 0}}"#,
    r#"{"network": "10.244.7.9/16", "subnetlen": 26, "BACKEND": {"type": "vxlan", "vni": 3}}"#,
    r#"{"Network": "10.244.0.0/28", "Backend": {"Type": "vxlan"}}"#,
    r#"{"Network": "10.244.0.0/22", "SubnetLen": 0, "SubnetMin": "", "Backend": {"Type": "vxlan"}}"#,
    r#"{"Network": "10.244.0.0/23", "IPv6Network": "fd00::/48", "Backend": {"Type": "vxlan"}}"#,
    r#"{"Network": "10.244.0.0/16", "EnableIPv6": null, "Backend": null}"#,
    "{\"Network\": \"10.244.0.0/16\",\n \"SubnetLength\": 24,\n \"Backend\": {\"Type\": \"vxlan\",\n  \"Prot\": 8472}}",
    // What has no counterpart.
    r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "wireguard", "PSK": "secret", "ListenPort": 51820, "Mode": "auto"}}"#,
    r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "ipsec", "PSK": "secret", "UDPEncap": true}}"#,
    r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "extension", "SubnetAddCommand": "x"}}"#,
    r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "alloc"}}"#,
    r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "tencent-vpc", "AccessKeyID": "a", "AccessKeySecret": "b"}}"#,
    r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "aws-vpc"}}"#,
    r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "gce"}}"#,
    r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "ali-vpc"}}"#,
    r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "VXLAN"}}"#,
    // Mistakes.
    "",
    "{",
    "[]",
    "\"10.244.0.0/16\"",
    "{\"Network\": \"10.244.0.0/16\",\n\"Backend\": {\"Type\": \"vxlan\"},}",
    r#"{"Backend": {"Type": "vxlan"}}"#,
    r#"{"EnableIPv6": true, "Network": "10.244.0.0/16"}"#,
    r#"{"EnableIPv4": false}"#,
    r#"{"Network": "10.244.0.0"}"#,
    r#"{"Network": "10.244.0.0/33"}"#,
    r#"{"Network": "fd00::/48"}"#,
    r#"{"Network": "10.244.0.0/29"}"#,
    r#"{"Network": 10}"#,
    "{\"Network\": \"10.244.0.0/16\",\n  \"SubnetLen\": 31}",
    r#"{"Network": "10.244.0.0/16", "SubnetLen": -1}"#,
    r#"{"Network": "10.244.0.0/16", "SubnetLen": 24, "SubnetMin": "10.244.1.128"}"#,
    r#"{"Network": "10.244.0.0/16", "SubnetMin": "10.244.9.0", "SubnetMax": "10.244.8.0"}"#,
    "{\"Network\": \"10.244.0.0/16\", \"Backend\": {\"Type\": \"vxlan\",\n\"VNI\": 16777216}}",
    r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "Port": 65536}}"#,
    r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "MTU": 600}}"#,
];

#[test]
fn what_becomes_of_flannels_configurations() {
    let told = CASES.map(|text| format!("=== {text}\n{}", told(text)));
    assert_snapshot!("flannel", told.join("\n"));
}

#[test]
fn what_is_too_long_or_too_deep_is_refused() {
    assert!(told(&" ".repeat(MAX_CONF + 1)).contains("longer than 64 KiB"));
    assert!(told(&"[".repeat(MAX_CONF)).contains("recursion limit"));
    let names: Vec<String> = (0..2000).map(|n| format!("\"k{n}\": {n}")).collect();
    let told = told(&format!("{{\"Network\": \"10.0.0.0/8\", {}}}", names.join(", ")));
    assert_eq!(told.lines().filter(|line| line.contains("no key that flannel knows")).count(), 2000);
}

proptest! {
    #[test]
    fn whatever_is_read_nothing_panics(text in "[ -~\n]{0,200}", keys in prop::collection::vec(
        prop_oneof!["(Network|SubnetLen|SubnetMin|Backend|IPv6Network|EnableIPv6|EnableIPv4)", "[a-zA-Z\"\\\\é]{0,6}"], 0..6),
        values in prop::collection::vec(prop_oneof![
            Just("\"10.0.0.0/8\"".to_string()), Just("\"fd00::/48\"".into()), Just("true".into()), Just("99999999999999999999".into()),
            Just("{\"Type\": \"vxlan\", \"VNI\": 0}".into()), Just("[{}]".into()), Just("-1".into()), Just("\"é\"".into()),
        ], 6),
    ) {
        let _ = import(&text, &"x".parse().unwrap());
        let pairs: Vec<String> = keys.iter().zip(&values)
            .map(|(key, value)| format!("{}: {value}", serde_json::to_string(key).unwrap())).collect();
        let _ = import(&format!("{{{}}}", pairs.join(", ")), &"x".parse().unwrap());
    }
}
