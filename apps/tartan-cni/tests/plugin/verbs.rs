//! CHECK, GC, what an ADD may ask for, and an agent that is away.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tartan_api::rpc::{Answer, FailureCode, Request};

use crate::harness::{Agent, Call, Netns, added, conf};

fn result(netns: &Netns) -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "tt0123456789ab", "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "mac": "02:00:00:00:00:02", "mtu": 1450, "sandbox": netns.text()}],
        "ips": [{"address": "10.244.1.2/32", "gateway": "169.254.1.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
    })
}

fn ok() -> Agent {
    Agent::answering(Answer::Ok(Value::Null))
}

#[test]
fn check_tells_the_agent_what_the_runtime_was_told() {
    let (agent, netns) = (ok(), Netns::new());
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let mut conf = agent.conf(version);
        conf["prevResult"] = result(&netns);
        let ran = Call::new("CHECK", &conf).with("CNI_NETNS", netns.text()).run();
        assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
        let asked = agent.asked();
        assert_eq!(asked[0].1, Some(netns.inode));
        let expected = json!({"check": {"key": {"container": "c0ffee", "interface": "eth0"}, "listed": {
            "mac": "02:00:00:00:00:02", "mtu": 1450, "addresses": ["10.244.1.2/32"],
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]}}});
        assert_eq!(serde_json::to_value(&asked[0].0).unwrap(), expected);
    }
}

#[test]
fn check_needs_version_0_4_0_and_a_result_that_lists_the_interface() {
    let (agent, netns) = (ok(), Netns::new());
    let check = |version: &str, result: Value| {
        let mut conf = agent.conf(version);
        conf["prevResult"] = result;
        Call::new("CHECK", &conf).with("CNI_NETNS", netns.text()).run().error()
    };
    insta::assert_snapshot!(format!("{:?}", check("0.3.1", result(&netns))), @r#"(1, "CHECK came with version 0.4.0, the configuration is of 0.3.1")"#);
    insta::assert_snapshot!(format!("{:?}", check("1.0.0", Value::Null)), @r#"(7, "pod team/web-0: a CHECK needs prevResult, the result of the ADD")"#);
    insta::assert_snapshot!(format!("{:?}", check("1.0.0", json!({}))), @r#"(7, "pod team/web-0: prevResult lists no interface eth0 of this container")"#);
    let mut wrong = result(&netns);
    wrong["ips"][0]["address"] = "10.244.1.300/32".into();
    let (code, msg) = check("1.0.0", wrong);
    assert!(
        code == 7 && msg.starts_with("pod team/web-0: prevResult: ips[0] cannot be read: "),
        "{code} {msg}"
    );
    assert!(agent.asked().is_empty());
}

#[test]
fn check_says_what_differs_and_the_rest_in_details() {
    let netns = Netns::new();
    let agent = Agent::failing(
        FailureCode::Differs,
        "pod team/web-0: address 10.244.1.2/32 on eth0 is missing\npod team/web-0: interface eth0 has MTU 1400, not 1450",
    );
    let mut conf = agent.conf("1.1.0");
    conf["prevResult"] = result(&netns);
    let ran = Call::new("CHECK", &conf).with("CNI_NETNS", netns.text()).run();
    insta::assert_snapshot!(ran.stdout, @r#"
        {
          "cniVersion": "1.1.0",
          "code": 100,
          "details": "pod team/web-0: interface eth0 has MTU 1400, not 1450",
          "msg": "pod team/web-0: address 10.244.1.2/32 on eth0 is missing"
        }
        "#);
    let agent =
        Agent::failing(FailureCode::NotFound, "container c0ffee/eth0: no such interface was added here");
    let mut conf = agent.conf("1.1.0");
    conf["prevResult"] = result(&netns);
    let ran = Call::new("CHECK", &conf).with("CNI_NETNS", netns.text()).run();
    assert_eq!(ran.error().0, 3);
}

#[test]
fn gc_tells_the_agent_what_stays() {
    let agent = ok();
    let gc = |key: &str, list: Value| {
        let mut conf = agent.conf("1.1.0");
        conf[key] = list;
        let ran =
            Call::new("GC", &conf).without("CNI_CONTAINERID").without("CNI_IFNAME").without("CNI_ARGS").run();
        assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
        serde_json::to_value(&agent.asked()[0].0).unwrap()
    };
    let list = json!([{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c1", "ifname": "net1"}]);
    let valid = json!([{"container": "c1", "interface": "eth0"}, {"container": "c1", "interface": "net1"}]);
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        assert_eq!(gc(key, list.clone()), json!({"gc": {"list": "tartan", "valid": valid}}));
    }
    for none in [json!([]), Value::Null] {
        assert_eq!(gc("cni.dev/valid-attachments", none), json!({"gc": {"list": "tartan", "valid": []}}));
    }
}

#[test]
fn gc_without_a_list_or_with_a_wrong_one_takes_nothing_away() {
    let agent = ok();
    let gc = |version: &str, list: Option<Value>| {
        let mut conf = agent.conf(version);
        list.into_iter().for_each(|list| conf["cni.dev/valid-attachments"] = list);
        Call::new("GC", &conf).run().error()
    };
    assert_eq!(gc("1.0.0", Some(json!([]))).0, 1);
    insta::assert_snapshot!(format!("{:?}", gc("1.1.0", None)), @r#"(7, "the configuration of a GC has no \"cni.dev/valid-attachments\"; give the list of those in use, [] for none")"#);
    for wrong in [
        json!(7),
        json!([7]),
        json!([{"containerID": "c1"}]),
        json!([{"containerID": "../x", "ifname": "eth0"}]),
    ] {
        assert_eq!(gc("1.1.0", Some(wrong.clone())).0, 7, "{wrong}");
    }
    let many: Vec<Value> =
        (0..20_000).map(|n| json!({"containerID": format!("{n:064}"), "ifname": "eth0"})).collect();
    assert_eq!(gc("1.1.0", Some(json!(many))).0, 6);
    assert!(agent.asked().is_empty());
}

#[test]
fn addresses_that_are_asked_for_reach_the_agent() {
    let (agent, netns) = (Agent::answering(added()), Netns::new());
    let add = |args: Value, runtime: Value| {
        let mut conf = agent.conf("1.0.0");
        conf["args"] = json!({"cni": {"ips": args}});
        conf["runtimeConfig"] = json!({"ips": runtime});
        Call::new("ADD", &conf).with("CNI_NETNS", netns.text()).run()
    };
    let asked = |args: Value, runtime: Value| {
        assert_eq!(add(args, runtime).code, 0);
        serde_json::to_value(&agent.asked()[0].0).unwrap()["add"]["ips"].clone()
    };
    let both = json!(["10.244.0.9", "fd00::9"]);
    assert_eq!(asked(both.clone(), json!([])), both);
    assert_eq!(asked(json!([]), json!(["10.244.0.9/24", "FD00:0:0:0::9/64"])), both);
    assert_eq!(asked(json!(["10.244.0.9"]), both.clone()), both);
    let refused = |args: Value, expected: &str| {
        let (code, msg) = add(args, json!([])).error();
        assert!(code == 7 && msg.contains(expected), "{code} {msg}");
    };
    refused(json!(["10.244.0.9", "10.244.0.10"]), "ips: 10.244.0.9 and 10.244.0.10 are asked for");
    refused(json!(["10.244.0.9/33"]), "ips: \"10.244.0.9/33\" is not an address");
    refused(json!(["web"]), "ips: \"web\" is not an address");
    refused(json!([7]), "invalid type");
    assert!(agent.asked().is_empty());
}

#[test]
fn what_is_not_supported_is_refused_by_key_and_value() {
    let (agent, netns) = (Agent::answering(added()), Netns::new());
    let add = |key: &str, value: Value| {
        let mut conf = agent.conf("1.0.0");
        conf[key] = value;
        Call::new("ADD", &conf).with("CNI_NETNS", netns.text()).run()
    };
    let (code, msg) = add("ipam", json!({"type": "host-local"})).error();
    assert_eq!(code, 2);
    insta::assert_snapshot!(msg, @r#"pod team/web-0: ipam: {"type":"host-local"} is not supported: addresses are given by the agent, from the pools of the ClusterNetwork"#);
    let (code, msg) = add("runtimeConfig", json!({"portMappings": [{"hostPort": 80}]})).error();
    assert!(code == 2 && msg.contains(r#"runtimeConfig.portMappings: [{"hostPort":80}]"#), "{code} {msg}");
    assert!(agent.asked().is_empty());
    assert_eq!(add("ipam", json!({})).code, 0);
    assert_eq!(add("runtimeConfig", json!({"portMappings": [], "other": 7})).code, 0);
}

#[test]
fn an_interface_of_a_plugin_before_is_not_made_again() {
    let (agent, netns) = (Agent::answering(added()), Netns::new());
    let mut conf = agent.conf("1.0.0");
    conf["prevResult"] = result(&netns);
    let (code, msg) = Call::new("ADD", &conf).with("CNI_NETNS", netns.text()).run().error();
    assert_eq!(code, 7);
    insta::assert_snapshot!(msg, @"pod team/web-0: prevResult: interfaces[1]: a plugin before this one has made eth0 in this container; leave one of the two out of the list");
    assert!(agent.asked().is_empty());
    // Another container's interface of that name is no matter.
    conf["prevResult"]["interfaces"][1]["sandbox"] = "/run/netns/other".into();
    assert_eq!(Call::new("ADD", &conf).with("CNI_NETNS", netns.text()).run().code, 0);
}

#[test]
fn a_del_is_done_whatever_else_the_configuration_says() {
    let agent = ok();
    for (key, value) in
        [("prevResult", json!(7)), ("args", json!("x")), ("network", json!("../..")), ("name", json!(1))]
    {
        let mut conf = agent.conf("1.0.0");
        conf[key] = value;
        assert_eq!(Call::new("DEL", &conf).run().code, 0, "{key}");
    }
    assert_eq!(agent.asked().len(), 4);
}

#[test]
fn an_agent_that_restarts_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    // Not even its folder is there.
    let socket = folder.path().join("run/tartand.sock");
    let conf = conf("1.1.0", socket.to_str().unwrap());
    let netns = Netns::new();
    let calls = [("ADD", 0), ("DEL", 0), ("GC", 0)].map(|(command, code)| {
        let mut conf = conf.clone();
        conf["cni.dev/valid-attachments"] = json!([]);
        let call = Call::new(command, &conf).with("CNI_NETNS", netns.text());
        (std::thread::spawn(move || call.run()), code)
    });
    std::thread::sleep(Duration::from_millis(700));
    let agent = Agent::answering_at(added(), &socket);
    for (call, code) in calls {
        let ran = call.join().unwrap();
        assert_eq!(ran.code, code, "{}", ran.stdout);
    }
    assert_eq!(agent.asked().len(), 3);
}

#[test]
fn an_agent_that_stays_away_is_not_waited_for_for_ever() {
    let conf = conf("1.1.0", "/nonexistent/s");
    let start = Instant::now();
    assert_eq!(Call::new("STATUS", &conf).run().error().0, 50);
    assert_eq!(Call::new("VERSION", &conf).run().code, 0);
    assert!(start.elapsed() < Duration::from_secs(5), "these do not wait");
    let start = Instant::now();
    let (code, msg) = Call::new("DEL", &conf).run().error();
    let took = start.elapsed();
    assert!(took > Duration::from_secs(9) && took < Duration::from_secs(20), "{took:?}");
    assert_eq!(code, 11);
    insta::assert_snapshot!(msg, @r#"pod team/web-0: cannot reach the agent at /nonexistent/s: No such file or directory; is tartand running? start it with `systemctl start tartand` or correct "socket" in the network configuration"#);
}

#[test]
fn an_agent_that_is_stopping_is_asked_again() {
    let stopping = Agent::failing(FailureCode::Stopping, "stopping");
    let netns = Netns::new();
    let call = Call::new("ADD", &stopping.conf("1.0.0")).with("CNI_NETNS", netns.text());
    assert_eq!(call.run().error().0, 11);
    let asked = stopping.asked();
    let adds = asked.iter().filter(|(request, _)| matches!(request, Request::Add(_))).count();
    assert!(adds > 10 && adds == asked.len(), "{adds} of {}", asked.len());
}
