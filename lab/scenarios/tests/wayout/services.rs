//! Service addresses that somebody else translates, as kube-proxy does.

use std::net::IpAddr;

use tartan_scenarios::Lab;

use crate::harness::{PATIENCE, ask, netns, node, pods};

/// The Service addresses: of the pod that asks, of another on its node, and of one on another node.
const SERVICES: [&str; 3] = ["10.96.0.1", "10.96.0.2", "10.96.0.3"];

/// How addresses are translated.
#[derive(Debug, Clone, Copy)]
enum By {
    Nft,
    Iptables(&'static str),
}

impl By {
    /// As kube-proxy: to a pod's address, and where a pod reaches itself from the node's (KUBE-POSTROUTING).
    fn translate(self, lab: &Lab, targets: &[IpAddr; 3]) {
        match self {
            By::Nft => {
                node(lab, "n1", "nft add table ip kube-proxy");
                let chain = |name: &str, hook: &str| {
                    let text = format!("{{ type nat hook {hook} ; policy accept; }}");
                    lab.on_node("n1", &["nft", "add", "chain", "ip", "kube-proxy", name, &text]);
                };
                chain("services", "prerouting priority -100");
                chain("services-out", "output priority -100");
                chain("postrouting", "postrouting priority 100");
                for (service, target) in SERVICES.iter().zip(targets) {
                    for chain in ["services", "services-out"] {
                        let rule =
                            format!("nft add rule ip kube-proxy {chain} ip daddr {service} tcp dport 80");
                        node(lab, "n1", &format!("{rule} ip saddr {target} meta mark set 0x4000"));
                        node(lab, "n1", &format!("{rule} dnat to {target}:80"));
                    }
                }
                node(
                    lab,
                    "n1",
                    "nft add rule ip kube-proxy postrouting meta mark 0x4000 masquerade fully-random",
                );
            }
            By::Iptables(program) => {
                for (service, target) in SERVICES.iter().zip(targets) {
                    for chain in ["PREROUTING", "OUTPUT"] {
                        let rule = format!("{program} -t nat -A {chain} -d {service}/32 -p tcp --dport 80");
                        node(lab, "n1", &format!("{rule} -s {target} -j MARK --set-xmark 0x4000/0x4000"));
                        node(lab, "n1", &format!("{rule} -j DNAT --to-destination {target}:80"));
                    }
                }
                let masquerade = "-m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully";
                node(lab, "n1", &format!("{program} -t nat -A POSTROUTING {masquerade}"));
            }
        }
    }
}

fn services_work(attachment: &str, by: By) {
    let attachment = format!("attachment={attachment}");
    let lab = Lab::up("t-services", &["--nodes", "2", "--pods", "2", "--set", &attachment]);
    // A distribution may have switched it off for all bridges; ours have a setting of their own.
    for setting in ["iptables", "ip6tables"] {
        node(&lab, "n1", &format!("sysctl -qw net.bridge.bridge-nf-call-{setting}=0"));
    }
    let pods = pods(&lab);
    let on = |name: &'static str| pods.iter().filter(move |(_, on, _)| on == name).cloned();
    let near: Vec<_> = on("n1").collect();
    let far = on("n2").next().expect("a pod");
    let (asks, beside) = (&near[0], &near[1]);
    by.translate(&lab, &[asks.2, beside.2, far.2]);
    let from = netns(&lab, &asks.0);
    let service = |number: usize| SERVICES[number].parse::<IpAddr>().expect("an address");
    for (number, (target, ..)) in [(1, beside), (2, &far)] {
        let answer = ask(&from, service(number), PATIENCE);
        assert_eq!(answer, Some((target.clone(), asks.2)), "{by:?}: a Service of {target}");
    }
    let (name, caller) = ask(&from, service(0), PATIENCE).unwrap_or_else(|| panic!("{by:?}: not itself"));
    assert_eq!(name, asks.0);
    assert_ne!(caller, asks.2);
    // So do they from the node.
    for (number, (target, ..)) in [(0, asks), (1, beside), (2, &far)] {
        let answer = ask(&lab.netns("n1"), service(number), PATIENCE).map(|(name, _)| name);
        assert_eq!(answer.as_ref(), Some(target), "{by:?}: from the node");
    }
    lab.assert_full(4, &[]);
}

#[test]
fn services_by_nft_reach_bridged_pods_also_on_the_same_bridge_and_themselves() {
    services_work("bridge", By::Nft);
}

#[test]
fn services_by_iptables_nft_reach_bridged_pods_also_on_the_same_bridge_and_themselves() {
    services_work("bridge", By::Iptables("iptables-nft"));
}

#[test]
fn services_by_iptables_legacy_reach_bridged_pods_also_on_the_same_bridge_and_themselves() {
    services_work("bridge", By::Iptables("iptables-legacy"));
}

#[test]
fn services_by_nft_reach_routed_pods_and_themselves() {
    services_work("routed", By::Nft);
}

#[test]
fn services_by_iptables_reach_routed_pods_and_themselves() {
    services_work("routed", By::Iptables("iptables-nft"));
}

/// A frame for one pod may go back to it; one for all must not meet its sender.
#[test]
fn what_a_pod_sends_to_all_does_not_come_back_to_it() {
    use std::process::{Command, Stdio};
    let lab = Lab::up("t-services", &["--nodes", "1", "--pods", "2"]);
    let hairpin = node(&lab, "n1", "bridge -d link");
    assert_eq!(hairpin.matches("hairpin on").count(), 2, "{hairpin}");
    let heard = |pod: &str, last: u8| {
        let mut listener = Command::new("ip")
            .args(["netns", "exec", &format!("tartan-t-services_default_{pod}")])
            .args(["timeout", "1", "tcpdump", "-lnnQ", "in", "-i", "eth0", "arp", "and", "arp[6:2]==1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("tcpdump starts");
        std::thread::sleep(std::time::Duration::from_millis(400));
        // Nobody has this address, nor was it asked for before: it is asked for by broadcast.
        let block = lab.addresses("default/p1")[0].to_string();
        let nobody = format!("{}.{last}", block.rsplit_once('.').expect("IPv4").0);
        let _ = tartan_scenarios::run_command(Command::new("ip").args([
            "netns",
            "exec",
            "tartan-t-services_default_p1",
            "ping",
            "-c1",
            "-W1",
            &nobody,
        ]));
        let mut text = String::new();
        use std::io::Read;
        listener.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
        listener.wait().expect("tcpdump ends");
        text.matches("who-has").count()
    };
    assert!(heard("p2", 197) > 0, "others hear it");
    assert_eq!(heard("p1", 198), 0, "and its sender does not");
    // Without the rule it would.
    lab.lab(&["fault", "add", "kill", "n1"]).ok();
    node(&lab, "n1", "nft flush chain bridge tartan echo");
    assert!(heard("p1", 199) > 0, "the test can tell");
}
