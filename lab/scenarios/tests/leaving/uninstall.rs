//! `tartan uninstall` leaves the node as it was.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};
use tartan_kernel::{Rtnl, netns};
use tartan_netlab::down::remove_folder;
use tartan_scenarios::{Host, Lab, Seen, holds_within, programs, run_command, run_plugin};

use crate::AT_ONCE;

/// A pod of the visiting node; its namespace goes with this.
struct Pod(String);

impl Pod {
    #[track_caller]
    fn add(host: &Host<'_>, number: usize) -> Pod {
        let pod = Pod(format!("tartan-t-uninstall_test_v{number}"));
        let made = netns::create(&pod.0).expect("a namespace");
        Rtnl::open_in(made.as_fd()).expect("it").set_up(&"lo".parse().expect("a name")).expect("up");
        let conf: Value = json!({"cniVersion": "1.1.0", "name": "tartan", "type": "tartan-cni",
            "socket": host.socket(), "network": "default"});
        let mut plugin = Command::new(programs().join("tartan-cni"));
        plugin
            .env_clear()
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", &pod.0)
            .env("CNI_NETNS", PathBuf::from(netns::DIRECTORY).join(&pod.0))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/nonexistent");
        run_plugin(&mut plugin, &conf).0.ok();
        pod
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // What is gone already need not be removed.
        let _ = netns::remove(&self.0);
    }
}

fn lab(attachment: &str) -> Lab {
    Lab::up(
        "t-uninstall",
        &["--nodes", "1", "--pods", "1", "--family", "dual", "--set", &format!("attachment={attachment}")],
    )
}

#[track_caller]
fn assert_as_it_was(before: &Seen, host: &Host<'_>) {
    // A pod's namespace ends a moment after its last name.
    let mut difference = String::new();
    let same = holds_within(Duration::from_secs(2), || {
        difference = before.difference(&host.seen());
        difference.is_empty()
    });
    assert!(same, "{difference}");
}

fn nodes(lab: &Lab) -> usize {
    lab.ask("n1", &["nodes"]).as_array().map_or(0, Vec::len)
}

#[test]
fn with_the_agent_alive_and_pods_there() {
    let lab = lab("bridge");
    let mut host = Host::new(&lab);
    let before = host.seen();
    let nothing = host.uninstall(&["--yes"]);
    assert!(nothing.code == 0 && nothing.stdout.contains("nothing of ours"), "{nothing:?}");
    assert_as_it_was(&before, &host);

    host.install();
    let pods = [Pod::add(&host, 1), Pod::add(&host, 2)];
    assert_ne!(before.difference(&host.seen()), "", "an agent leaves traces");
    let there = host.seen();
    let plan = host.uninstall(&["--dry-run", "-o", "json"]).ok().json();
    assert_eq!(plan["agent"], "running");
    assert_eq!(plan["pods"].as_array().map(Vec::len), Some(2), "{plan}");
    assert!(plan["kernel"].to_string().contains("link tartan.1"), "{plan}");
    assert!(plan["settings"].to_string().contains("net/ipv4/ip_forward"), "{plan}");
    assert!(plan["files"].to_string().contains("10-tartan.conflist"), "{plan}");
    assert!(!plan["files"].to_string().contains("20-other.conflist"), "{plan}");
    let unconfirmed = host.uninstall(&[]);
    assert_eq!(unconfirmed.code, 2, "{unconfirmed:?}");
    assert!(unconfirmed.stderr.contains("--yes"), "{unconfirmed:?}");
    assert_eq!(there.difference(&host.seen()), "", "nothing was confirmed");
    assert_eq!(nodes(&lab), 2);

    let done = host.uninstall(&["--yes", "-o", "json"]).ok().json();
    assert_eq!(done["failed"], json!([]), "{done}");
    assert_eq!(done["blocks"].as_array().map(Vec::len), Some(2), "{done}");
    assert!(holds_within(AT_ONCE, || nodes(&lab) == 1), "n1 has forgotten it");
    drop(pods);
    assert_eq!(host.ended(), Some(0));
    assert_as_it_was(&before, &host);
    let again = host.uninstall(&["--yes"]);
    assert!(again.code == 0 && again.stdout.contains("nothing of ours"), "{again:?}");
    assert_as_it_was(&before, &host);
}

#[test]
fn with_the_agent_dead_and_pods_there() {
    let lab = lab("routed");
    let mut host = Host::new(&lab);
    // Somebody else's socket where the agent's will be, and settings that its switches change along.
    fs::create_dir(host.path("run")).unwrap();
    let _others = UnixListener::bind(host.path("run/others.sock")).unwrap();
    for setting in [
        "net.ipv4.conf.all.accept_redirects=0",
        "net.ipv4.conf.lo.forwarding=1",
        "net.ipv4.conf.default.forwarding=1",
        "net.ipv6.conf.lo.forwarding=1",
        "net.ipv6.conf.lo.disable_ipv6=1",
    ] {
        lab.on_node("outside", &["sysctl", "-qw", setting]);
    }
    let before = host.seen();
    host.install();
    let pods = [Pod::add(&host, 1), Pod::add(&host, 2)];
    // Without a tunnel the node's own addresses are on a link that is not ours.
    let pools = "pools: [{cidr: 10.244.0.0/16}, {cidr: \"fd00:10:244::/56\"}]";
    lab.apply("default", &format!("{{{pools}, paths: [direct], attachment: routed}}")).ok();
    assert!(holds_within(AT_ONCE, || {
        let all = lab.on_node("outside", &["ip", "-o", "address", "show", "dev", "lo"]);
        all.contains(" 10.244.") && all.contains(" fd00:10:244:")
    }));
    host.kill();
    assert!(host.path("etc/metrics.sock").exists() && host.socket().exists(), "it was killed");
    fs::create_dir(host.path("run/.tartand.sock")).unwrap();
    let plan = host.uninstall(&["--dry-run", "-o", "json"]).ok().json();
    assert_eq!(plan["agent"], "stopped");
    assert!(plan["kernel"].to_string().contains("/128 dev lo"), "{plan}");
    let done = host.uninstall(&["--yes", "-o", "json"]).ok().json();
    assert_eq!(done["failed"], json!([]), "{done}");
    assert_eq!(done["blocks"].as_array().map(Vec::len), Some(2), "{done}");
    assert!(holds_within(AT_ONCE, || nodes(&lab) == 1), "n1 has forgotten it");
    assert_as_it_was(&before, &host);
    drop(pods);
    let again = host.uninstall(&["--yes"]);
    assert!(again.code == 0 && again.stdout.contains("nothing of ours"), "{again:?}");
}

#[test]
fn with_half_of_it_missing() {
    let lab = lab("bridge");
    let mut host = Host::new(&lab);
    let before = host.seen();
    host.install();
    let pod = Pod::add(&host, 1);
    host.kill();
    // The folders, the configuration and part of the kernel are gone; somebody else's is to stay.
    fs::remove_dir_all(host.path("state")).unwrap();
    remove_folder(&host.path("run")).unwrap();
    lab.on_node("outside", &["nft", "delete", "table", "bridge", "tartan"]);
    lab.on_node("outside", &["ip", "link", "delete", "tartan.1"]);
    lab.on_node("outside", &["ip", "route", "add", "10.9.0.0/16", "dev", "lo", "proto", "116"]);
    lab.on_node(
        "outside",
        &["ip", "route", "add", "10.8.0.0/16", "dev", "lo", "table", "8400", "proto", "116"],
    );
    lab.on_node(
        "outside",
        &["ip", "rule", "add", "priority", "8450", "from", "10.9.0.0/16", "lookup", "8400"],
    );
    lab.on_node(
        "outside",
        &["ip", "-6", "rule", "add", "priority", "8499", "from", "fd09::/64", "lookup", "8400"],
    );
    lab.on_node("outside", &["ip", "route", "add", "10.7.0.0/16", "dev", "lo"]);
    lab.on_node("outside", &["ip", "rule", "add", "priority", "8500", "lookup", "8400"]);
    lab.on_node("outside", &["nft", "add", "table", "inet", "others"]);
    lab.on_node("outside", &["nft", "add", "table", "inet", "tartan-of-tomorrow"]);
    let done = host.uninstall(&["--yes", "-o", "json"]).ok().json();
    assert_eq!(done["failed"], json!([]), "{done}");
    let now = host.seen();
    let difference = before.difference(&now);
    for foreign in ["10.7.0.0/16", "8500:", "table inet others"] {
        assert!(difference.contains(foreign), "{foreign} is gone: {difference}");
    }
    lab.on_node("outside", &["ip", "route", "delete", "10.7.0.0/16", "dev", "lo"]);
    lab.on_node("outside", &["ip", "rule", "delete", "priority", "8500"]);
    lab.on_node("outside", &["nft", "delete", "table", "inet", "others"]);
    // What the settings were is not known any more: that is left to whoever lost the file.
    for setting in
        ["net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0", "net.ipv6.conf.eth0.accept_ra=1"]
    {
        lab.on_node("outside", &["sysctl", "-qw", setting]);
    }
    assert_as_it_was(&before, &host);
    drop(pod);
    // The entry in the store is left to the others, who may take it out when its lease is over.
    assert_eq!(nodes(&lab), 2);
}

#[test]
fn with_the_store_gone_and_the_agent_alive() {
    let lab = lab("routed");
    let mut host = Host::new(&lab);
    let before = host.seen();
    host.install();
    let pod = Pod::add(&host, 1);
    let id: Value = serde_json::from_slice(&fs::read(host.path("state/node.json")).unwrap()).unwrap();
    let id = id["id"].as_str().unwrap();
    let away = lab.file("store", "").with_extension("away");
    fs::rename(lab.file("store", ""), &away).unwrap();
    let done = host.uninstall(&["--yes", "-o", "json"]).ok().json();
    assert_eq!(done["failed"], json!([]), "{done}");
    assert!(done["kept"].to_string().contains(&format!("tartan node leave {id}")), "{done}");
    fs::rename(&away, lab.file("store", "")).unwrap();
    assert_eq!(host.ended(), Some(0));
    drop(pod);
    assert_as_it_was(&before, &host);
}

/// Etcd is named by the environment, with keys that are not in the file.
#[test]
fn with_etcd_gone_and_the_agent_dead() {
    let lab = lab("routed");
    let mut host = Host::new(&lab);
    let before = host.seen();
    host.install();
    host.kill();
    let id: Value = serde_json::from_slice(&fs::read(host.path("state/node.json")).unwrap()).unwrap();
    let leave = format!("tartan node leave {}", id["id"].as_str().unwrap());
    let no_file = host.path("no-ca.pem");
    let plan = |environment: &[(&str, &str)]| {
        let mut command = host.uninstalling(&["--dry-run", "-o", "json"]);
        let plan = run_command(command.envs(environment.iter().copied())).ok().json();
        plan["store"].as_str().map(String::from).unwrap_or_default()
    };
    let etcd = ("TARTAN_STORE", "etcd://127.0.0.1:9");
    let silent = plan(&[etcd]);
    assert!(silent.contains("127.0.0.1:9") && silent.contains(&leave), "{silent}");
    let keyless = plan(&[etcd, ("TARTAN_ETCD_CA", no_file.to_str().unwrap())]);
    assert!(keyless.contains("no-ca.pem") && keyless.contains(&leave), "{keyless}");
    let mut command = host.uninstalling(&["--yes", "-o", "json"]);
    let done = run_command(command.envs([etcd])).ok().json();
    assert!(done["kept"].to_string().contains(&leave), "{done}");
    assert_as_it_was(&before, &host);
}

#[test]
fn what_was_done_is_told_when_the_agent_runs_again() {
    let lab = lab("routed");
    let mut host = Host::new(&lab);
    host.install();
    // As its supervisor's next one would, and before anybody else can.
    let path = host.path("state/tartand.lock");
    fs::remove_file(&path).unwrap();
    let next = Flock::lock(File::create(&path).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
    let refused = host.uninstall(&["--yes", "-o", "json"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert_eq!(host.ended(), Some(0));
    let told = refused.json();
    assert_eq!(told["blocks"].as_array().map(Vec::len), Some(2), "{told}");
    assert!(told["failed"].to_string().contains("runs again"), "{told}");
    assert!(host.path("net.d/10-tartan.conflist").exists(), "that agent is still to be called");
    assert!(host.path("bin/tartan-cni").exists(), "that agent is still to be called");
    drop(next);
    host.uninstall(&["--yes"]).ok();
    assert!(!host.path("net.d/10-tartan.conflist").exists());
}

#[test]
fn an_agent_that_does_not_answer_is_in_the_way() {
    let lab = lab("routed");
    let mut host = Host::new(&lab);
    host.install();
    let there = host.seen();
    fs::rename(host.socket(), host.path("etc/away.sock")).unwrap();
    let refused = host.uninstall(&["--yes"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.stderr.contains("stop it first"), "{refused:?}");
    fs::rename(host.path("etc/away.sock"), host.socket()).unwrap();
    assert_eq!(there.difference(&host.seen()), "");
    host.kill();
    host.uninstall(&["--yes"]).ok();
}
