//! Rules of others that drop what is forwarded: told with the words that a person needs, and only as long as they do.

use std::time::Duration;

use tartan_model::Family;
use tartan_scenarios::{Lab, wait_until};

use crate::harness::{PATIENCE, SHORT, ask, netns, node, pods};

fn reasons(lab: &Lab) -> Vec<String> {
    // The answer is no while there are reasons, so the exit code is 1.
    let status = lab.verb("n1", &["status", "-o", "json"]).json();
    let reasons = status["reasons"].as_array().expect("a list").clone();
    assert_eq!(status["healthy"], reasons.is_empty());
    reasons.iter().map(|reason| reason.as_str().expect("text").to_owned()).collect()
}

/// Does what a reason says is to be done.
fn follow(lab: &Lab, reason: &str) {
    let (_, advice) = reason.rsplit_once("let it pass: ").expect("advice");
    advice.split("; ").for_each(|command| drop(node(lab, "n1", command)));
}

/// A chain that drops by its policy, and one that drops by its last rule.
const BY_NFT: [&[&str]; 2] = [
    &[
        "nft",
        "add",
        "chain",
        "inet",
        "theirs",
        "forward",
        "{ type filter hook forward priority 0; policy drop; }",
    ],
    &[
        "nft",
        "add",
        "chain",
        "inet",
        "theirs",
        "forward",
        "{ type filter hook forward priority 0; policy accept; }",
    ],
];

fn drops_and_is_told(lab: &Lab, chain: &str) {
    let pods = pods(lab, Family::Ipv4);
    let of = |on: &str| pods.iter().find(|(_, node, _)| node == on).expect("a pod");
    let (from, to) = (netns(lab, &of("n1").0), of("n2").2);
    assert_eq!(ask(&from, to, SHORT), None, "{chain} drops");
    let told = reasons(lab);
    assert!(told.len() == 1 && told[0].contains(chain) && told[0].contains("10.244.0.0/16"), "{told:?}");
    assert_eq!(lab.verb("n1", &["status"]).stdout.matches("let it pass").count(), 1);
    follow(lab, &told[0]);
    assert_eq!(reasons(lab), Vec::<String>::new());
    assert!(ask(&from, to, PATIENCE).is_some(), "after what was advised");
}

#[test]
fn chains_that_drop_are_told_with_what_to_do_until_they_let_pods_pass() {
    let lab = Lab::up("t-foreign", &["--nodes", "2", "--pods", "1"]);
    let n1 = |words: &str| node(&lab, "n1", words);
    assert_eq!(reasons(&lab), Vec::<String>::new());
    // As docker has it.
    n1("iptables-nft -P FORWARD DROP");
    drops_and_is_told(&lab, "chain FORWARD of table ip filter");
    n1("iptables-nft -F FORWARD");
    assert_eq!(reasons(&lab).len(), 1, "told again");
    n1("iptables-nft -N DOCKER-USER");
    n1("iptables-nft -A FORWARD -j DOCKER-USER");
    drops_and_is_told(&lab, "chain DOCKER-USER of table ip filter");
    n1("iptables-nft -P FORWARD ACCEPT");
    n1("iptables-nft -F DOCKER-USER");
    assert_eq!(reasons(&lab), Vec::<String>::new());
    // By policy, and by a last rule, as firewalld has it.
    for (number, chain) in BY_NFT.into_iter().enumerate() {
        n1("nft add table inet theirs");
        lab.on_node("n1", chain);
        n1("nft add rule inet theirs forward ct state established,related accept");
        n1("nft add rule inet theirs forward ip saddr 192.0.2.0/24 accept");
        if number == 1 {
            n1("nft add rule inet theirs forward tcp dport 9999 drop");
            n1("nft add rule inet theirs forward reject with icmpx type admin-prohibited");
        }
        drops_and_is_told(&lab, "chain forward of table inet theirs");
        n1("nft delete table inet theirs");
        assert_eq!(reasons(&lab), Vec::<String>::new());
    }
    // What lets our interfaces pass, or looks at sets that may be about pods, is not blamed.
    for accept in ["iifname \"tartan*\" accept", "ip saddr { 10.244.0.0/17, 10.244.128.0/17 } accept"] {
        n1("nft add table inet theirs");
        lab.on_node("n1", BY_NFT[0]);
        let rule: Vec<&str> =
            ["nft", "add", "rule", "inet", "theirs", "forward"].into_iter().chain([accept]).collect();
        lab.on_node("n1", &rule);
        assert_eq!(reasons(&lab), Vec::<String>::new(), "{accept}");
        n1("nft delete table inet theirs");
    }
    // Only what leaves is dropped.
    n1("nft add table inet theirs");
    lab.on_node("n1", BY_NFT[0]);
    n1("nft add rule inet theirs forward ip daddr 10.244.0.0/16 accept");
    let told = reasons(&lab);
    assert!(told.len() == 1 && told[0].contains("to somebody outside"), "{told:?}");
    n1("nft delete table inet theirs");
    n1("nft add table inet firewalld");
    let zone = "{ type filter hook forward priority 10; policy drop; }";
    lab.on_node("n1", &["nft", "add", "chain", "inet", "firewalld", "filter_FORWARD", zone]);
    assert!(reasons(&lab)[0].contains("firewall-cmd --permanent --zone=trusted --add-source=10.244.0.0/16"));
    n1("nft delete table inet firewalld");
    wait_until("healthy", Duration::from_secs(1), || reasons(&lab).is_empty());
}
