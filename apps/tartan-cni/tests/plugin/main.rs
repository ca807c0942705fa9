//! The plugin as a runtime starts it, against an agent that gives prepared answers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends at what it did not expect")]

mod harness;
mod verbs;

use std::time::Duration;

use serde_json::{Value, json};
use tartan_api::rpc::{Answer, FailureCode, Request};

use harness::{Agent, Call, Netns, added, conf};

fn add(version: &str) -> String {
    let (agent, netns) = (Agent::answering(added()), Netns::new());
    let ran = Call::new("ADD", &agent.conf(version)).with("CNI_NETNS", netns.text()).run();
    assert_eq!(ran.code, 0, "{}", ran.stdout);
    let asked = agent.asked();
    assert!(matches!(asked.as_slice(), [(Request::Add(_), Some(inode))] if *inode == netns.inode));
    ran.stdout.replace(netns.text(), "NETNS")
}

#[test]
fn add_in_version_0_3_1() {
    insta::assert_snapshot!(add("0.3.1"), @r#"
        {
          "cniVersion": "0.3.1",
          "dns": {},
          "interfaces": [
            {
              "mac": "02:00:00:00:00:01",
              "name": "tt0123456789ab"
            },
            {
              "mac": "02:00:00:00:00:02",
              "name": "eth0",
              "sandbox": "NETNS"
            }
          ],
          "ips": [
            {
              "address": "10.244.1.2/24",
              "gateway": "10.244.1.1",
              "interface": 1,
              "version": "4"
            },
            {
              "address": "fd00:10:244:1::2/64",
              "gateway": "fd00:10:244:1::1",
              "interface": 1,
              "version": "6"
            }
          ],
          "routes": [
            {
              "dst": "0.0.0.0/0",
              "gw": "10.244.1.1"
            },
            {
              "dst": "::/0",
              "gw": "fd00:10:244:1::1"
            }
          ]
        }
        "#);
}

#[test]
fn add_in_version_0_4_0_is_as_in_0_3_1() {
    assert_eq!(add("0.4.0"), add("0.3.1").replace("0.3.1", "0.4.0"));
}

#[test]
fn add_in_version_1_0_0() {
    insta::assert_snapshot!(add("1.0.0"), @r#"
        {
          "cniVersion": "1.0.0",
          "dns": {},
          "interfaces": [
            {
              "mac": "02:00:00:00:00:01",
              "name": "tt0123456789ab"
            },
            {
              "mac": "02:00:00:00:00:02",
              "name": "eth0",
              "sandbox": "NETNS"
            }
          ],
          "ips": [
            {
              "address": "10.244.1.2/24",
              "gateway": "10.244.1.1",
              "interface": 1
            },
            {
              "address": "fd00:10:244:1::2/64",
              "gateway": "fd00:10:244:1::1",
              "interface": 1
            }
          ],
          "routes": [
            {
              "dst": "0.0.0.0/0",
              "gw": "10.244.1.1"
            },
            {
              "dst": "::/0",
              "gw": "fd00:10:244:1::1"
            }
          ]
        }
        "#);
}

#[test]
fn add_in_version_1_1_0() {
    insta::assert_snapshot!(add("1.1.0"), @r#"
        {
          "cniVersion": "1.1.0",
          "dns": {},
          "interfaces": [
            {
              "mac": "02:00:00:00:00:01",
              "name": "tt0123456789ab"
            },
            {
              "mac": "02:00:00:00:00:02",
              "mtu": 1450,
              "name": "eth0",
              "sandbox": "NETNS"
            }
          ],
          "ips": [
            {
              "address": "10.244.1.2/24",
              "gateway": "10.244.1.1",
              "interface": 1
            },
            {
              "address": "fd00:10:244:1::2/64",
              "gateway": "fd00:10:244:1::1",
              "interface": 1
            }
          ],
          "routes": [
            {
              "dst": "0.0.0.0/0",
              "gw": "10.244.1.1"
            },
            {
              "dst": "::/0",
              "gw": "fd00:10:244:1::1"
            }
          ]
        }
        "#);
}

#[test]
fn add_behind_another_plugin_keeps_its_work_and_shifts_ours() {
    let (agent, netns) = (Agent::answering(added()), Netns::new());
    let mut conf = agent.conf("1.0.0");
    conf["dns"] = json!({"nameservers": ["10.96.0.10"], "search": ["cluster.local"]});
    conf["prevResult"] = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "lo", "sandbox": "/x", "pciID": "kept"}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}],
        "routes": [{"dst": "192.0.2.0/24"}],
        "dns": {"domain": "before"},
    });
    let ran = Call::new("ADD", &conf).with("CNI_NETNS", netns.text()).run();
    insta::assert_snapshot!(ran.stdout.replace(netns.text(), "NETNS"), @r#"
        {
          "cniVersion": "1.0.0",
          "dns": {
            "nameservers": [
              "10.96.0.10"
            ],
            "search": [
              "cluster.local"
            ]
          },
          "interfaces": [
            {
              "name": "lo",
              "pciID": "kept",
              "sandbox": "/x"
            },
            {
              "mac": "02:00:00:00:00:01",
              "name": "tt0123456789ab"
            },
            {
              "mac": "02:00:00:00:00:02",
              "name": "eth0",
              "sandbox": "NETNS"
            }
          ],
          "ips": [
            {
              "address": "127.0.0.1/8",
              "interface": 0
            },
            {
              "address": "10.244.1.2/24",
              "gateway": "10.244.1.1",
              "interface": 2
            },
            {
              "address": "fd00:10:244:1::2/64",
              "gateway": "fd00:10:244:1::1",
              "interface": 2
            }
          ],
          "routes": [
            {
              "dst": "192.0.2.0/24"
            },
            {
              "dst": "0.0.0.0/0",
              "gw": "10.244.1.1"
            },
            {
              "dst": "::/0",
              "gw": "fd00:10:244:1::1"
            }
          ]
        }
        "#);
}

#[test]
fn add_tells_the_agent_who_and_where() {
    let (agent, netns) = (Agent::answering(added()), Netns::new());
    let mut conf = agent.conf("1.0.0");
    conf["args"] = json!({"cni": {"labels": [{"key": "app", "value": "web"}]}});
    assert_eq!(Call::new("ADD", &conf).with("CNI_NETNS", netns.text()).run().code, 0);
    let asked = serde_json::to_value(&agent.asked()[0].0).unwrap();
    let expected = json!({"add": {"key": {"container": "c0ffee", "interface": "eth0"}, "pod": "team/web-0",
        "network": "blue", "netns": netns.text(), "labels": {"app": "web"}, "list": "tartan"}});
    assert_eq!(asked, expected);
    let id = "E3B0C442_98FC1C14";
    let call = Call::new("ADD", &conf).without("CNI_ARGS").with("CNI_CONTAINERID", id);
    assert_eq!(call.with("CNI_NETNS", netns.text()).run().code, 0);
    assert!(
        matches!(&agent.asked()[0].0, Request::Add(add) if add.pod.to_string() == "default/e3b0c442-98fc1c14")
    );
}

#[test]
fn del_says_nothing_and_needs_no_namespace() {
    let agent = Agent::answering(Answer::Ok(Value::Null));
    for netns in ["", "/run/netns/that-is-gone"] {
        let ran = Call::new("DEL", &agent.conf("0.4.0")).with("CNI_NETNS", netns).run();
        assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    }
    assert!(matches!(agent.asked().as_slice(), [(Request::Del(_), None), (Request::Del(_), None)]));
    let unknown = Agent::failing(FailureCode::NotFound, "no such endpoint");
    assert_eq!(Call::new("DEL", &unknown.conf("0.4.0")).run().code, 0);
}

#[test]
fn a_del_whose_pod_is_not_known_names_the_container() {
    let agent = Agent::failing(FailureCode::TryAgain, "not now");
    let (code, msg) = Call::new("DEL", &agent.conf("1.0.0")).with("CNI_ARGS", "garbage").run().error();
    assert_eq!(code, 11);
    assert!(msg.starts_with("container c0ffee/eth0: "), "{msg}");
}

#[test]
fn an_agent_that_cannot_serve_now_is_to_be_tried_again() {
    let (agent, netns) = (Agent::failing(FailureCode::TryAgain, "no block is held yet"), Netns::new());
    let ran = Call::new("ADD", &agent.conf("1.1.0")).with("CNI_NETNS", netns.text()).run();
    assert_eq!(ran.code, 1);
    insta::assert_snapshot!(ran.stdout, @r#"
        {
          "cniVersion": "1.1.0",
          "code": 11,
          "msg": "pod team/web-0: no block is held yet"
        }
        "#);
}

#[test]
fn the_agents_refusals_have_their_codes() {
    let netns = Netns::new();
    for (code, expected) in [(FailureCode::Invalid, 7), (FailureCode::Kernel, 101), (FailureCode::Store, 11)]
    {
        let agent = Agent::failing(code, "no");
        let ran = Call::new("ADD", &agent.conf("1.0.0")).with("CNI_NETNS", netns.text()).run();
        assert_eq!(ran.error(), (expected, "pod team/web-0: no".into()));
    }
    let strange = Agent::answering(Answer::Ok(json!("what")));
    let ran = Call::new("ADD", &strange.conf("1.0.0")).with("CNI_NETNS", netns.text()).run();
    assert_eq!(ran.error().0, 5);
}

#[test]
fn status_is_silent_or_says_why_not() {
    let ready = Agent::answering(Answer::Ok(Value::Null));
    let ran =
        Call::new("STATUS", &ready.conf("1.1.0")).without("CNI_CONTAINERID").without("CNI_IFNAME").run();
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    let waiting = Agent::failing(FailureCode::TryAgain, "the store was not read yet");
    let ran = Call::new("STATUS", &waiting.conf("1.1.0")).run();
    assert_eq!(ran.error(), (50, "network blue: the store was not read yet".into()));
    assert_eq!(Call::new("STATUS", &conf("1.1.0", "/nonexistent/s")).run().error().0, 50);
    assert_eq!(Call::new("STATUS", &ready.conf("1.0.0")).run().error().0, 1);
}

#[test]
fn version_lists_what_is_spoken() {
    let ran = Call::new("VERSION", &json!({"cniVersion": "0.2.0"})).without("CNI_CONTAINERID").run();
    assert_eq!(ran.code, 0);
    insta::assert_snapshot!(ran.stdout, @r#"
        {
          "cniVersion": "0.2.0",
          "supportedVersions": [
            "0.3.1",
            "0.4.0",
            "1.0.0",
            "1.1.0"
          ]
        }
        "#);
    assert!(Call::new("VERSION", &json!({})).input("").run().stdout.contains(r#""cniVersion": "1.1.0""#));
    assert_eq!(Call::new("VERSION", &json!({})).input("{").run().error().0, 6);
}

#[test]
fn versions_that_are_not_spoken_have_code_1() {
    for version in ["0.2.0", "2.0.0", "1.0", "", "banana"] {
        assert_eq!(Call::new("ADD", &conf(version, "/s")).run().error().0, 1, "{version}");
    }
    let (code, msg) = Call::new("DEL", &json!({"name": "x", "type": "tartan-cni"})).run().error();
    assert_eq!(code, 1);
    insta::assert_snapshot!(msg, @r#"the network configuration has no cniVersion: this plugin speaks 0.3.1, 0.4.0, 1.0.0, 1.1.0"#);
}

#[test]
fn input_that_is_no_configuration_is_refused() {
    let conf = conf("1.0.0", "/s");
    let run = |input: Vec<u8>| Call::new("ADD", &conf).input(input).run().error();
    for garbage in ["", "garbage", "{", "{\"cniVersion\":\"1.0.0\"", "\u{0}"] {
        assert_eq!(run(garbage.into()).0, 6, "{garbage:?}");
    }
    assert_eq!(run(vec![0xff; 100]).0, 6);
    assert_eq!(run(b"[".repeat(1 << 19)).0, 7);
    let deep = |key: &str| {
        let nested = "[".repeat(200_000) + &"]".repeat(200_000);
        format!("{{\"cniVersion\":\"1.0.0\",\"name\":\"x\",\"type\":\"y\",\"{key}\":{{\"ips\":{nested}}}}}")
    };
    assert_eq!(run(deep("prevResult").into()).0, 6);
    // What is not ours is skipped without recursion; the next complaint is that of a whole configuration.
    let (code, msg) = run(deep("other").into());
    assert!(code == 4 && msg.contains("CNI_NETNS"), "{code} {msg}");
    let (code, msg) = run(format!("{{\"x\":\"{}\"}}", "y".repeat(10 << 20)).into());
    assert_eq!(
        (code, msg.as_str()),
        (6, "the network configuration is longer than 1048576 bytes; make it shorter")
    );
}

#[test]
fn values_that_do_not_fit_have_code_7() {
    let changed = |key: &str, value: Value| {
        let mut conf = conf("1.0.0", "/s");
        conf[key] = value;
        Call::new("ADD", &conf).run().error()
    };
    for key in ["cniVersion", "name", "type", "socket", "network", "args", "prevResult", "dns"] {
        assert_eq!(changed(key, json!(7)).0, 7, "{key}");
    }
    let (code, msg) = changed("network", json!("../../etc"));
    assert!(code == 7 && msg.contains("\"../../etc\" is not a name"), "{code} {msg}");
    let netns = Netns::new();
    let labels = |labels: Vec<Value>| {
        let mut conf = conf("1.0.0", "/s");
        conf["args"] = json!({"cni": {"labels": labels}});
        Call::new("ADD", &conf).with("CNI_NETNS", netns.text()).run().error()
    };
    assert_eq!(labels((0..65).map(|n| json!({"key": format!("k{n}")})).collect()).0, 7);
    assert_eq!(labels(vec![json!({"key": ""})]).0, 7);
    assert_eq!(labels(vec![json!({"key": "k".repeat(318)})]).0, 7);
    assert_eq!(labels(vec![json!({"key": "k", "value": "v".repeat(64)})]).0, 7);
}

#[test]
fn variables_that_are_wrong_have_code_4() {
    let conf = conf("1.0.0", "/s");
    let add = || Call::new("ADD", &conf);
    let refused = |call: Call, expected: &str| {
        let (code, msg) = call.run().error();
        assert!(code == 4 && msg.contains(expected), "{code} {msg}");
    };
    refused(add().without("CNI_COMMAND"), "did not set CNI_COMMAND");
    refused(add().with("CNI_COMMAND", "UPDATE"), "\"UPDATE\" is not served");
    refused(add().without("CNI_CONTAINERID").without("CNI_IFNAME"), "CNI_CONTAINERID and CNI_IFNAME");
    refused(Call::new("DEL", &conf).with("CNI_CONTAINERID", ""), "did not set CNI_CONTAINERID");
    refused(add().with("CNI_CONTAINERID", "../../etc/passwd"), "is not a container id");
    refused(add().with("CNI_IFNAME", "../eth0"), "is not an interface name");
    refused(add().with("CNI_IFNAME", "sixteen-letters!"), "is not an interface name");
    refused(add(), "pod team/web-0: the runtime did not set CNI_NETNS");
    refused(add().with("CNI_ARGS", "K8S_POD_NAME"), "\"K8S_POD_NAME\" is not KEY=VALUE");
    refused(add().with("CNI_ARGS", "COLOUR=blue"), "\"COLOUR\" is not known");
    refused(add().with("CNI_ARGS", "K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=c"), "\"a/b\" is not a name");
}

#[test]
fn a_path_that_is_no_network_namespace_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let refused = |path: &str, expected: &str| {
        let ran = Call::new("ADD", &conf("1.0.0", "/s")).with("CNI_NETNS", path).run();
        let (code, msg) = ran.error();
        assert!(code == 4 && msg.contains(path) && msg.contains(expected), "{code} {msg}");
    };
    refused(file.path().to_str().unwrap(), "is not a network namespace");
    refused("/", "is not a network namespace");
    refused("/proc/self/ns/pid", "is not a network namespace");
    refused("/proc/self/ns/net", "is the host's own network namespace");
    refused("/nonexistent/netns", "cannot be opened (No such file or directory");
    let fifo = tempfile::tempdir().unwrap();
    let fifo = fifo.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    refused(fifo.to_str().unwrap(), "is not a network namespace");
}

#[test]
fn an_agent_that_hangs_up_is_to_be_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    std::thread::sleep(Duration::from_millis(10));
    let netns = Netns::new();
    let call = Call::new("ADD", &conf("1.0.0", socket.to_str().unwrap())).with("CNI_NETNS", netns.text());
    // It may have been done, so it is not asked for twice.
    let (code, msg) = call.run().error();
    assert!(code == 11 && msg.starts_with("pod team/web-0: the agent at "), "{code} {msg}");
}
