//! An address that is given to another pod at once, while other nodes have not heard of it: it inherits no rights.

use std::net::IpAddr;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tartan_scenarios::{Container, Lab};

use crate::{add_pods, apply, connects, lab, on_node, only_from};

/// A pod of an app with these addresses, or with any.
fn pod(lab: &Lab, number: usize, app: &str, addresses: &[IpAddr]) -> (Container, Vec<IpAddr>) {
    let container = Container::make(lab, "n1", number);
    let mut args = json!({"cni": {"labels": [{"key": "app", "value": app}]}});
    if !addresses.is_empty() {
        args["cni"]["ips"] = json!(addresses);
    }
    let result = container.call_with("ADD", &[("args", args)]).ok().json();
    let given = result["ips"].as_array().expect("addresses").iter();
    let address = |ip: &serde_json::Value| ip["address"].as_str()?.split('/').next()?.parse().ok();
    let given = given.map(|ip| address(ip).expect("an address")).collect();
    (container, given)
}

fn reaches(container: &Container, server: &[IpAddr]) -> Vec<bool> {
    server.iter().map(|address| connects(&container.netns(), *address, 80)).collect()
}

#[test]
fn an_address_that_is_used_again_inherits_no_rights() {
    let lab = lab("t-reuse", "routed");
    add_pods(&lab, &["server@n2"]);
    apply(&lab, &only_from("server", &["friend"]));
    let server = lab.addresses("default/server");
    let (friend, addresses) = pod(&lab, 1, "friend", &[]);
    assert_eq!(reaches(&friend, &server), [true; 2]);
    // From now on the server's node hears of nothing.
    let slow = Pid::from_raw(lab.agent("n2"));
    kill(slow, Signal::SIGSTOP).expect("it runs");
    friend.del();
    let (foe, again) = pod(&lab, 2, "foe", &addresses);
    assert_eq!(again, addresses);
    assert_eq!(reaches(&foe, &server), [false; 2]);
    // And would let it in.
    lab.end_agent("n1", Signal::SIGKILL);
    for (family, address) in ["ipv4", "ipv6"].iter().zip(&server) {
        let element = format!("inet tartan-policy ingress_{family} '{{ {address} }}'");
        assert!(on_node(&lab, &format!("nft delete element {element}")), "{element}");
    }
    assert_eq!(reaches(&foe, &server), [true; 2]);
    kill(slow, Signal::SIGCONT).expect("it runs");
    lab.start_agent("n1");
    lab.wait_until_healthy(&["n1", "n2"]);
    assert_eq!(reaches(&foe, &server), [false; 2]);
    // Who is allowed does reach it, by both nodes' word.
    foe.del();
    let (friend, _) = pod(&lab, 3, "friend", &addresses);
    assert_eq!(reaches(&friend, &server), [true; 2]);
    friend.del();
}
