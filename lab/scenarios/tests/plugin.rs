//! The plugin and the agent behind it, as a container runtime meets them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tartan_scenarios::before::{addresses, assert_nothing_left, kept_endpoints, state};
use tartan_scenarios::{Container, Lab, run_plugin, wait_until_traced};

#[test]
fn fifty_at_once_get_an_address_each_and_leave_nothing() {
    for attachment in ["attachment=routed", "attachment=bridge"] {
        let args = ["--nodes", "1", "--pods", "0", "--family", "dual", "--set", attachment];
        let lab = Lab::up("t-plugin", &args);
        let before = state(&lab);
        let containers: Vec<Container> = (0..50).map(|n| Container::make(&lab, "n1", n)).collect();
        let results: Vec<Value> = std::thread::scope(|scope| {
            let threads: Vec<_> = containers.iter().map(|c| scope.spawn(|| c.add())).collect();
            threads.into_iter().map(|thread| thread.join().expect("an ADD that succeeds")).collect()
        });
        let given: BTreeSet<String> = results.iter().flat_map(addresses).collect();
        assert_eq!(given.len(), 100, "{given:?}");
        assert_eq!(lab.ask("n1", &["endpoints"]).as_array().map(Vec::len), Some(50));
        assert_eq!(kept_endpoints(&lab).len(), 50);
        std::thread::scope(|scope| {
            containers.iter().for_each(|container| drop(scope.spawn(|| container.del())));
        });
        assert_nothing_left(&lab, &before);
        // A DEL of what is gone is no error, also when its namespace is gone.
        containers.iter().take(3).for_each(Container::del);
        drop(containers);
    }
}

#[test]
fn a_pod_whose_namespace_vanished_can_be_deleted() {
    let lab = Lab::up("t-plugin", &["--nodes", "1", "--pods", "0", "--set", "attachment=routed"]);
    let before = state(&lab);
    let container = Container::make(&lab, "n1", 1);
    container.add();
    let name = container.netns();
    let name = name.file_name().expect("a name").to_str().expect("text");
    tartan_kernel::netns::remove(name).expect("it is there");
    container.del();
    assert_nothing_left(&lab, &before);
}

#[test]
fn an_add_that_fails_takes_everything_back() {
    let lab = Lab::up("t-plugin", &["--nodes", "1", "--pods", "0", "--set", "attachment=routed"]);
    let before = state(&lab);
    let container = Container::make(&lab, "n1", 1);
    // The name that the pod's interface is to have is taken.
    let name = container.netns().file_name().expect("a name").to_str().expect("text").to_string();
    let made = Command::new("ip").args(["-n", &name, "link", "add", "eth0", "type", "bridge"]).status();
    assert!(made.expect("ip runs").success());
    let (run, _) = container.call("ADD");
    assert_eq!(run.code, 1, "{run:?}");
    assert_eq!(run.json()["code"], 101, "{run:?}");
    assert_nothing_left(&lab, &before);
    // The same container can be added once the place is free, and has the same right to an address as any.
    let removed = Command::new("ip").args(["-n", &name, "link", "delete", "eth0"]).status();
    assert!(removed.expect("ip runs").success());
    container.add();
    container.del();
}

#[test]
fn the_same_container_twice_is_refused_and_the_first_stays() {
    let lab = Lab::up("t-plugin", &["--nodes", "1", "--pods", "0"]);
    let container = Container::make(&lab, "n1", 1);
    container.add();
    let with_it = state(&lab);
    let (run, _) = container.call("ADD");
    assert_eq!((run.code, run.json()["code"].as_u64()), (1, Some(7)), "{run:?}");
    assert_eq!(state(&lab), with_it);
    container.del();
}

#[test]
fn the_same_container_twice_at_once_is_added_once() {
    let lab = Lab::up("t-plugin", &["--nodes", "1", "--pods", "0"]);
    let agent = nix::unistd::Pid::from_raw(lab.agent("n1"));
    let signal = |signal| nix::sys::signal::kill(agent, signal).expect("the agent is there");
    let container = Container::make(&lab, "n1", 1);
    // The agent sleeps until both have come, so that it takes them in one turn.
    signal(nix::sys::signal::Signal::SIGSTOP);
    let mut codes = std::thread::scope(|scope| {
        let adds = [(); 2].map(|()| scope.spawn(|| container.call("ADD").0));
        std::thread::sleep(Duration::from_millis(300));
        signal(nix::sys::signal::Signal::SIGCONT);
        adds.map(|add| add.join().expect("an ADD")).map(|run| (run.code, run.json()["code"].as_u64()))
    });
    codes.sort_unstable();
    assert_eq!(codes, [(0, None), (1, Some(7))]);
    assert!(container.ip("link show eth0").contains("UP"));
    container.del();
}

#[test]
fn status_tells_whether_an_add_could_be_served() {
    let lab = Lab::up("t-plugin", &["--nodes", "1", "--pods", "0"]);
    let container = Container::make(&lab, "n1", 1);
    let (run, _) = container.call("STATUS");
    assert_eq!(run.code, 0, "{run:?}");
    let mut conf = container.conf();
    conf["network"] = "nope".into();
    let (run, _) = run_plugin(&mut container.command("STATUS"), &conf);
    assert_eq!((run.code, run.json()["code"].as_u64()), (1, Some(50)), "{run:?}");
    let (run, _) = run_plugin(&mut container.command("ADD"), &conf);
    assert_eq!((run.code, run.json()["code"].as_u64()), (1, Some(11)), "{run:?}");
    lab.lab(&["fault", "add", "kill", "n1"]).ok();
    let (run, _) = container.call("STATUS");
    assert_eq!((run.code, run.json()["code"].as_u64()), (1, Some(50)), "{run:?}");
    let (run, _) = container.call("VERSION");
    let versions = run.ok().json()["supportedVersions"].clone();
    assert_eq!(versions, serde_json::json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    lab.lab(&["fault", "clear"]).ok();
    assert_eq!(container.call("STATUS").0.code, 0);
}

/// Programs that a traced process and its children started, the traced one itself left out.
fn programs_in(trace: &str) -> Vec<&str> {
    trace.lines().filter(|line| line.contains("execve(") && !line.contains("tartan-cni\"")).collect()
}

#[test]
fn neither_agent_nor_plugin_starts_a_program() {
    let lab = Lab::up("t-plugin", &["--nodes", "1", "--pods", "0", "--family", "dual"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let mut agent = Command::new("strace")
        .args([
            "-f",
            "-e",
            "trace=execve,fork,vfork",
            "-o",
            &file("agent"),
            "-p",
            &lab.agent("n1").to_string(),
        ])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace starts");
    wait_until_traced(lab.agent("n1"));
    let container = Container::make(&lab, "n1", 1);
    for command in ["ADD", "STATUS", "DEL"] {
        let plain = container.command(command);
        let mut traced = Command::new("strace");
        traced.args(["-f", "-e", "trace=execve,fork,vfork", "-o", &file(command)]).arg(plain.get_program());
        traced.env_clear().envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
        traced.env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
        let (run, _) = run_plugin(&mut traced, &container.conf());
        run.ok();
        let trace = std::fs::read_to_string(file(command)).expect("a trace");
        assert!(trace.contains("tartan-cni"), "strace saw nothing: {trace}");
        assert_eq!(programs_in(&trace), Vec::<&str>::new(), "{trace}");
    }
    std::thread::sleep(Duration::from_millis(300));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(agent.id() as i32), nix::sys::signal::Signal::SIGINT)
        .expect("strace is there");
    agent.wait().expect("strace ends");
    let trace = std::fs::read_to_string(file("agent")).expect("a trace");
    assert!(!trace.contains("execve(") && !trace.contains("fork("), "{trace}");
}

#[test]
fn an_address_is_used_again_only_when_there_is_no_fresh_one() {
    let args = ["--nodes", "1", "--pods", "0", "--set", "pools=[{cidr: 10.9.0.0/27, blockSize: 29}]"];
    let lab = Lab::up("t-plugin", &args);
    // A block of 8 has 5 addresses for pods, and the pool 4 blocks: the sixth pod is in a second block.
    let containers: Vec<Container> = (0..6).map(|n| Container::make(&lab, "n1", n)).collect();
    let given: Vec<String> = containers.iter().take(5).flat_map(|c| addresses(&c.add())).collect();
    assert_eq!(given, ["10.9.0.2/29", "10.9.0.3/29", "10.9.0.4/29", "10.9.0.5/29", "10.9.0.6/29"]);
    // The node claims another block, and the pod waits for that.
    let sixth = addresses(&containers[5].add());
    assert_eq!(sixth, ["10.9.0.10/29"]);
    containers[3].del();
    containers[1].del();
    containers[3].add();
    let again = addresses(&containers[1].add());
    // The block with a free address comes first, in it the longest released.
    assert_eq!(again, ["10.9.0.3/29"]);
    containers.iter().for_each(Container::del);
}
