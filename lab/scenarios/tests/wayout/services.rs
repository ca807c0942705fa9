//! Service addresses that somebody else translates, as kube-proxy does.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use tartan_model::Family;
use tartan_scenarios::Lab;

use crate::harness::{PATIENCE, ask, netns, nft_name, node, pods};

/// The Service addresses: of the pod that asks, of another on its node, and of one on another node.
fn services(family: Family) -> [IpAddr; 3] {
    [1, 2, 3].map(|last| match family {
        Family::Ipv4 => [10, 96, 0, last].into(),
        Family::Ipv6 => [0xfd00, 0x96, 0, 0, 0, 0, 0, u16::from(last)].into(),
    })
}

/// How addresses are translated.
#[derive(Debug, Clone, Copy)]
enum By {
    Nft,
    /// The programs of each family.
    Iptables([&'static str; 2]),
}

const IPTABLES_NFT: By = By::Iptables(["iptables-nft", "ip6tables-nft"]);
const IPTABLES_LEGACY: By = By::Iptables(["iptables-legacy", "ip6tables-legacy"]);

impl By {
    /// As kube-proxy: to a pod's address, and where a pod reaches itself from the node's (KUBE-POSTROUTING).
    fn translate(self, lab: &Lab, family: Family, targets: &[IpAddr; 3]) {
        let pairs = services(family).into_iter().zip(targets);
        match self {
            By::Nft => {
                let ip = nft_name(family);
                node(lab, "n1", &format!("nft add table {ip} kube-proxy"));
                let chain = |name: &str, hook: &str| {
                    let text = format!("{{ type nat hook {hook} ; policy accept; }}");
                    lab.on_node("n1", &["nft", "add", "chain", ip, "kube-proxy", name, &text]);
                };
                chain("services", "prerouting priority -100");
                chain("services-out", "output priority -100");
                chain("postrouting", "postrouting priority 100");
                let rule = |chain: &str, rule: &str| {
                    node(lab, "n1", &format!("nft add rule {ip} kube-proxy {chain} {rule}"));
                };
                for (service, target) in pairs {
                    let to = SocketAddr::new(*target, 80);
                    for chain in ["services", "services-out"] {
                        let asked = format!("{ip} daddr {service} tcp dport 80");
                        rule(chain, &format!("{asked} {ip} saddr {target} meta mark set 0x4000"));
                        rule(chain, &format!("{asked} dnat to {to}"));
                    }
                }
                rule("postrouting", "meta mark 0x4000 masquerade fully-random");
            }
            By::Iptables(programs) => {
                let program = programs[usize::from(family == Family::Ipv6)];
                for (service, target) in pairs {
                    let to = SocketAddr::new(*target, 80);
                    for chain in ["PREROUTING", "OUTPUT"] {
                        let rule = format!("{program} -t nat -A {chain} -d {service} -p tcp --dport 80");
                        node(lab, "n1", &format!("{rule} -s {target} -j MARK --set-xmark 0x4000/0x4000"));
                        node(lab, "n1", &format!("{rule} -j DNAT --to-destination {to}"));
                    }
                }
                let masquerade = "-m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully";
                node(lab, "n1", &format!("{program} -t nat -A POSTROUTING {masquerade}"));
            }
        }
    }
}

fn services_work(attachment: &str, by: By) {
    for family in Family::ALL {
        services_of_one_family_work(attachment, by, family);
    }
}

fn services_of_one_family_work(attachment: &str, by: By, family: Family) {
    let (attachment, of) = (format!("attachment={attachment}"), family.to_string());
    let lab = Lab::up("t-services", &["--nodes", "2", "--pods", "2", "--family", &of, "--set", &attachment]);
    // A distribution may have switched it off for all bridges; ours have a setting of their own.
    for setting in ["iptables", "ip6tables"] {
        node(&lab, "n1", &format!("sysctl -qw net.bridge.bridge-nf-call-{setting}=0"));
    }
    let pods = pods(&lab, family);
    let on = |name: &'static str| pods.iter().filter(move |(_, on, _)| on == name).cloned();
    let near: Vec<_> = on("n1").collect();
    let far = on("n2").next().expect("a pod");
    let (asks, beside) = (&near[0], &near[1]);
    by.translate(&lab, family, &[asks.2, beside.2, far.2]);
    let (from, [itself, near_by, afar]) = (netns(&lab, &asks.0), services(family));
    for (service, (target, ..)) in [(near_by, beside), (afar, &far)] {
        let answer = ask(&from, service, PATIENCE);
        assert_eq!(answer, Some((target.clone(), asks.2)), "{by:?} {family}: a Service of {target}");
    }
    let answer = ask(&from, itself, PATIENCE);
    let (name, caller) = answer.unwrap_or_else(|| panic!("{by:?} {family}: not itself"));
    assert_eq!(name, asks.0);
    assert_ne!(caller, asks.2);
    // So do they from the node.
    for (service, (target, ..)) in [(itself, asks), (near_by, beside), (afar, &far)] {
        let answer = ask(&lab.netns("n1"), service, PATIENCE).map(|(name, _)| name);
        assert_eq!(answer.as_ref(), Some(target), "{by:?} {family}: from the node");
    }
    lab.assert_full(4, &[]);
}

#[test]
fn services_by_nft_reach_bridged_pods_also_on_the_same_bridge_and_themselves() {
    services_work("bridge", By::Nft);
}

#[test]
fn services_by_iptables_nft_reach_bridged_pods_also_on_the_same_bridge_and_themselves() {
    services_work("bridge", IPTABLES_NFT);
}

#[test]
fn services_by_iptables_legacy_reach_bridged_pods_also_on_the_same_bridge_and_themselves() {
    services_work("bridge", IPTABLES_LEGACY);
}

#[test]
fn services_by_nft_reach_routed_pods_and_themselves() {
    services_work("routed", By::Nft);
}

#[test]
fn services_by_iptables_reach_routed_pods_and_themselves() {
    services_work("routed", IPTABLES_NFT);
}

/// A frame for one pod may go back to it; one for all must not meet its sender.
#[test]
fn what_a_pod_sends_to_all_does_not_come_back_to_it() {
    let lab = Lab::up("t-services", &["--nodes", "1", "--pods", "2", "--family", "dual"]);
    let hairpin = node(&lab, "n1", "bridge -d link");
    assert_eq!(hairpin.matches("hairpin on").count(), 2, "{hairpin}");
    for family in Family::ALL {
        assert!(hears(&lab, "p2", nobody(&lab, family, 197)), "others hear it");
        assert!(!hears(&lab, "p1", nobody(&lab, family, 198)), "and its sender does not");
    }
    // Without the rule it would.
    lab.lab(&["fault", "add", "kill", "n1"]).ok();
    node(&lab, "n1", "nft flush chain bridge tartan echo");
    for family in Family::ALL {
        assert!(hears(&lab, "p1", nobody(&lab, family, 199)), "the test can tell");
    }
}

/// An address on the first pod's link that nobody has.
fn nobody(lab: &Lab, family: Family, last: u8) -> IpAddr {
    let own = pods(lab, family)[0].2;
    match own {
        IpAddr::V4(own) => {
            let [a, b, c, _] = own.octets();
            [a, b, c, last].into()
        }
        IpAddr::V6(own) => {
            let [a, b, c, d, ..] = own.segments();
            [a, b, c, d, 0, 0, 0, u16::from(last)].into()
        }
    }
}

/// Whether a pod hears how the first one asks for an address, which it does by a frame for all: broadcast of ARP, or
/// multicast of neighbor discovery.
fn hears(lab: &Lab, pod: &str, address: IpAddr) -> bool {
    let filter = if address.is_ipv4() { "arp[6:2] == 1" } else { "icmp6 and ip6[40] == 135" };
    let mut listener = Command::new("ip")
        .args(["netns", "exec", &format!("tartan-{}_default_{pod}", lab.name())])
        .args(["timeout", "1", "tcpdump", "-lnnQ", "in", "-i", "eth0", filter])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tcpdump starts");
    std::thread::sleep(Duration::from_millis(400));
    // Nobody answers.
    lab.lab(&["exec", "p1", "--", "ping", "-c1", "-W1", &address.to_string()]);
    let mut text = String::new();
    listener.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
    listener.wait().expect("tcpdump ends");
    text.replace("who-has", "who has").contains(&format!("who has {address}"))
}
