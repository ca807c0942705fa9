//! Disks that are full or read-only.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tartan_scenarios::{Container, Lab, Probe, Run};

use crate::harness::{Small, kernel, reasons, refused, value, wait_healthy};

/// Room for both databases and a little more.
const ROOM: &str = "640k";

fn lab_on_small_disks(name: &str) -> (Lab, [Small; 2]) {
    let lab =
        Lab::up(name, &["--nodes", "2", "--pods", "1", "--family", "dual", "--set", "attachment=routed"]);
    for node in ["n1", "n2"] {
        lab.end_agent(node, Signal::SIGTERM);
    }
    let disks = [lab.file("n1", "state"), lab.file("store", "")].map(|folder| Small::over(&folder, ROOM));
    for node in ["n1", "n2"] {
        lab.start_agent(node);
    }
    wait_healthy(&lab, "n1");
    wait_healthy(&lab, "n2");
    (lab, disks)
}

/// Calls the plugin for one container after the other until something more must be kept than there is room for: a
/// write-ahead log has some of its own.
fn until_refused<'a>(containers: &'a [Container], command: &str) -> (&'a Container, Run) {
    let mut runs = containers.iter().map(|container| (container, container.call(command).0));
    runs.find(|(_, run)| run.code != 0).expect("a disk that gets full")
}

/// Waits until a link is down or gone.
fn is_shut(lab: &Lab, link: &str) -> bool {
    let links = lab.on_node("n1", &["ip", "-o", "link"]);
    links.lines().filter(|line| line.contains(link)).all(|line| line.contains("state DOWN"))
}

fn link_of(lab: &Lab, container: &Value) -> String {
    let rows = lab.ask("n1", &["endpoints"]);
    let address = container["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap();
    let mine = |row: &&Value| row["addresses"][0] == address;
    rows.as_array().unwrap().iter().find(mine).unwrap()["link"].as_str().unwrap().into()
}

#[test]
fn a_full_disk_refuses_pods_keeps_traffic_and_heals_without_a_restart() {
    let (lab, disks) = lab_on_small_disks("t-full");
    let probe =
        Probe::start(&lab.netns("default_p1"), lab.addresses("default/p2")[1], Duration::from_millis(2));
    let there = Container::make(&lab, "n1", 0);
    let result = there.add();
    let link = link_of(&lab, &result);
    let pid = lab.agent("n1");

    let full = disks.each_ref().map(Small::fill);
    let containers: Vec<Container> = (1..=20).map(|n| Container::make(&lab, "n1", n)).collect();
    let (refused, run) = until_refused(&containers, "ADD");
    assert_eq!(run.json()["code"], 11, "{run:?}");
    assert!(run.stdout.contains("full"), "{run:?}");
    // Nothing of it is there: the same container has the same right as any other.
    let before = kernel(&lab, "n1");
    let (run, _) = refused.call("ADD");
    assert_eq!(run.json()["code"], 11, "{run:?}");
    assert_eq!(kernel(&lab, "n1"), before);
    let reason = reasons(&lab, "n1").join("; ");
    assert!(reason.contains("cannot keep a record") && reason.contains("full"), "{reason}");

    // A pod that its runtime is done with is shut, whether that can be written down or not.
    let (run, _) = there.call("DEL");
    assert_eq!(run.json()["code"], 11, "{run:?}");
    assert!(run.stdout.contains("it is shut, but"), "{run:?}");
    assert!(is_shut(&lab, &link));
    // Its address is not free: the next agent would bring it back with the record.
    let address = result["ips"][0]["address"].as_str().unwrap();
    assert!(lab.ask("n1", &["endpoints"]).to_string().contains(address.split('/').next().unwrap()));

    for file in full {
        std::fs::remove_file(file).unwrap();
    }
    wait_healthy(&lab, "n1");
    wait_healthy(&lab, "n2");
    // The agent has let it go by itself; a second DEL is welcome.
    assert!(!lab.ask("n1", &["endpoints"]).to_string().contains(&link));
    there.del();
    refused.add();
    for container in &containers {
        container.del();
    }
    assert_eq!(lab.agent("n1"), pid);
    assert_eq!(lab.ask("n1", &["endpoints"]).as_array().unwrap().len(), 1);
    let outcome = probe.finish();
    assert!(outcome.sent > 100 && outcome.lost.is_empty(), "{outcome:?}");
    lab.assert_full(2, &[]);
}

#[test]
fn what_was_let_go_without_a_record_goes_when_the_runtime_asks_the_next_agent_again() {
    let (lab, disks) = lab_on_small_disks("t-fullkill");
    let there = Container::make(&lab, "n1", 0);
    let link = link_of(&lab, &there.add());
    let full = disks[0].fill();
    let containers: Vec<Container> = (1..=20).map(|n| Container::make(&lab, "n1", n)).collect();
    until_refused(&containers, "ADD");
    assert_eq!(there.call("DEL").0.json()["code"], 11);
    lab.end_agent("n1", Signal::SIGKILL);
    std::fs::remove_file(full).unwrap();
    // The record is there and says that it is wanted; its runtime has not heard that it is gone, and asks again.
    lab.start_agent("n1");
    there.del();
    assert!(!lab.ask("n1", &["endpoints"]).to_string().contains(&link));
    for container in &containers {
        container.del();
    }
    wait_healthy(&lab, "n1");
}

#[test]
fn what_is_so_whether_it_can_be_written_down_or_not_is_written_down_later() {
    let (lab, disks) = lab_on_small_disks("t-fullbridge");
    let full = disks[0].fill();
    let file = disks[1].path().join("alpha.yaml");
    let network = "apiVersion: tartan.dev/v1alpha1\nkind: ClusterNetwork\nmetadata: {name: alpha}\n\
                   spec: {pools: [{cidr: 10.245.0.0/16}], vxlan: {vni: 2}}\n";
    std::fs::write(&file, network).unwrap();
    lab.verb("n1", &["apply", "--wait", "-f", file.to_str().unwrap()]).ok();
    let records = lab.file("n1", "state/records.db");
    assert!(reasons(&lab, "n1").join("; ").contains("cannot keep a record"));
    assert_eq!(value(&records, "bridge/alpha"), None);
    std::fs::remove_file(full).unwrap();
    wait_healthy(&lab, "n1");
    assert_eq!(value(&records, "bridge/alpha").as_deref(), Some("{\"number\":1}"));
}

#[test]
fn a_read_only_state_folder_is_refused_and_the_traffic_goes_on() {
    let (lab, disks) = lab_on_small_disks("t-readonly");
    // A kernel that has a file open for writing does not make its file system read-only (fs/super.c,
    // reconfigure_super): for a running agent this is the full disk of above.
    lab.end_agent("n1", Signal::SIGKILL);
    let before = kernel(&lab, "n1");
    disks[0].read_only(true);
    let begin = Instant::now();
    let run = refused(&lab, "n1");
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.stderr.contains("state/tartand.lock: Read-only file system"), "{run:?}");
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(kernel(&lab, "n1"), before);
    lab.assert_full(2, &[]);
    disks[0].read_only(false);
    lab.start_agent("n1");
    wait_healthy(&lab, "n1");
    assert_eq!(kernel(&lab, "n1"), before);
}
