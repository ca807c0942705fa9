//! State that is lost or spoilt.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tartan_scenarios::{Container, Lab, Probe, wait_until};

use crate::harness::{kernel, reasons, refused, wait_healthy};

fn lab(name: &str, pods: &str) -> Lab {
    Lab::up(name, &["--nodes", "2", "--pods", pods, "--family", "dual", "--set", "attachment=routed"])
}

/// The namespaces of these pods that have this address, on an interface that leads anywhere.
fn holders(lab: &Lab, pods: &[&str], address: IpAddr) -> usize {
    let has = |pod: &&&str| lab.in_pod(pod, &["ip", "-o", "address"]).contains(&format!(" {address}/"));
    pods.iter().filter(has).count()
}

#[test]
fn a_state_folder_that_is_lost_while_the_agent_runs_costs_no_traffic_and_gives_nothing_twice() {
    let lab = lab("t-lost", "1");
    let there = Container::make(&lab, "n1", 0);
    there.add();
    let probe =
        Probe::start(&lab.netns("default_p1"), lab.addresses("default/p2")[0], Duration::from_millis(2));
    fs::remove_dir_all(lab.file("n1", "state")).unwrap();
    let reason = reasons(&lab, "n1").join("; ");
    assert!(reason.contains("removed or replaced while it was open; restart the agent"), "{reason}");
    let container = Container::make(&lab, "n1", 1);
    let (run, _) = container.call("ADD");
    assert_eq!(run.json()["code"], 11, "{run:?}");
    let (run, _) = there.call("DEL");
    assert_eq!(run.json()["code"], 11, "{run:?}");
    assert!(run.stdout.contains("it is shut, but"), "{run:?}");
    lab.assert_full(2, &[]);
    let outcome = probe.finish();
    assert!(outcome.sent > 0 && outcome.lost.is_empty(), "{outcome:?}");

    // The next agent is a new node under the old name. It knows no pod, so it cuts off those that are there, before
    // it gives their addresses to others.
    let old = lab.addresses("default/p1");
    let status = lab.verb("n1", &["status", "-o", "json"]).json();
    let blocks = status["networks"][0]["blocks"].clone();
    lab.end_agent("n1", Signal::SIGTERM);
    lab.start_agent("n1");
    let now = lab.ask("n1", &["status"]);
    assert_ne!(now["id"], status["id"]);
    lab.lab(&["pod", "add", "new", "--node", "n1"]).ok();
    let new = lab.addresses("default/new");
    assert_eq!(new, old, "it has the first address of the block again");
    for address in new {
        assert_eq!(holders(&lab, &["p1", "p2", "new"], address), 1);
    }
    wait_healthy(&lab, "n1");
    assert_eq!(lab.ask("n1", &["status"])["networks"][0]["blocks"], blocks);
    assert_eq!(lab.ask("n2", &["nodes"]).as_array().unwrap().len(), 2);
    // What the runtime then deletes is gone already.
    lab.lab(&["pod", "rm", "p1"]).ok();
    there.del();
    container.add();
    container.del();
    lab.assert_full(2, &[]);
}

#[test]
fn with_state_and_store_gone_the_cluster_begins_anew_and_nothing_of_before_is_left() {
    let lab = lab("t-lostall", "1");
    let network = lab.verb("n1", &["get", "clusternetwork", "default", "-o", "json"]).ok().json()[0].clone();
    for place in ["n1/state", "n2/state", "store"] {
        let (node, name) = place.split_once('/').unwrap_or((place, ""));
        fs::remove_dir_all(lab.file(node, name)).unwrap();
    }
    for node in ["n1", "n2"] {
        let reason = reasons(&lab, node).join("; ");
        assert!(reason.contains("removed or replaced while it was open"), "{reason}");
    }
    lab.assert_full(2, &[]);
    for node in ["n1", "n2"] {
        lab.end_agent(node, Signal::SIGTERM);
        lab.start_agent(node);
        assert!(reasons(&lab, node).join("; ").contains("there is no network"));
        wait_until("our links are gone", Duration::from_secs(5), || {
            let links = lab.on_node(node, &["ip", "-o", "link"]);
            !links.contains(": tartan") && !links.contains(": tt")
        });
    }
    let file = lab.file("n1", "network.yaml");
    fs::write(&file, network.to_string()).unwrap();
    lab.verb("n1", &["apply", "--wait", "-f", file.to_str().unwrap()]).ok();
    for (pod, node) in [("p1", "n1"), ("p2", "n2")] {
        lab.lab(&["pod", "rm", pod]).ok();
        lab.lab(&["pod", "add", pod, "--node", node]).ok();
    }
    lab.assert_full(2, &[]);
}

#[test]
fn a_name_whose_node_lost_its_id_is_free_when_its_lease_is_over() {
    let lab = lab("t-lostname", "0");
    lab.end_agent("n1", Signal::SIGKILL);
    fs::remove_dir_all(lab.file("n1", "state")).unwrap();
    let run = refused(&lab, "n1");
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.stderr.contains("the name n1 is held by the live node"), "{run:?}");
    // As time would.
    let store = rusqlite::Connection::open(lab.file("store", "tartan.db")).unwrap();
    store.execute("UPDATE lease SET expires_ms = 1 WHERE name = 'n1'", []).unwrap();
    drop(store);
    lab.start_agent("n1");
    wait_healthy(&lab, "n1");
    assert_eq!(lab.ask("n2", &["nodes"]).as_array().unwrap().len(), 2);
}

#[test]
fn a_spoilt_file_is_refused_by_name_and_the_traffic_goes_on() {
    let lab = lab("t-spoilt", "1");
    lab.end_agent("n1", Signal::SIGTERM);
    lab.end_agent("n2", Signal::SIGTERM);
    let before = kernel(&lab, "n1");
    let probe =
        Probe::start(&lab.netns("default_p1"), lab.addresses("default/p2")[1], Duration::from_millis(2));
    let files = ["n1/state/node.json", "n1/state/records.db", "store/tartan.db"];
    for (place, name) in files.map(|file| file.split_once('/').unwrap()) {
        let file = lab.file(place, name);
        if name.ends_with(".db") {
            // What is still in the log beside it would make up for the damage.
            let move_log = "PRAGMA wal_checkpoint(TRUNCATE)";
            rusqlite::Connection::open(&file).unwrap().query_row(move_log, [], |_| Ok(())).unwrap();
        }
        let whole = fs::read(&file).unwrap();
        let noise = |byte: &u8| byte ^ 0x5a;
        for spoilt in [whole[..whole.len() / 2].to_vec(), whole.iter().map(noise).collect()] {
            fs::write(&file, spoilt).unwrap();
            let run = refused(&lab, "n1");
            assert_eq!(run.code, 2, "{run:?}");
            assert!(run.stderr.contains(name) && run.stderr.contains("move"), "{run:?}");
        }
        fs::write(&file, whole).unwrap();
    }
    assert_eq!(kernel(&lab, "n1"), before);
    lab.start_agent("n1");
    lab.start_agent("n2");
    wait_healthy(&lab, "n1");
    assert_eq!(kernel(&lab, "n1"), before);
    let outcome = probe.finish();
    assert!(outcome.sent > 10 && outcome.lost.is_empty(), "{outcome:?}");
}

#[test]
fn records_that_are_lost_while_the_id_is_kept_cut_off_what_they_do_not_know() {
    let lab = lab("t-norecords", "1");
    let old = lab.addresses("default/p1");
    let id = lab.ask("n1", &["status"])["id"].clone();
    lab.end_agent("n1", Signal::SIGKILL);
    for file in ["records.db", "records.db-wal", "records.db-shm"] {
        fs::remove_file(lab.file("n1", &format!("state/{file}"))).unwrap();
    }
    // An ADD that waits for the agent is served in its first turns.
    let container = Container::make(&lab, "n1", 1);
    let result = std::thread::scope(|scope| {
        let adding = scope.spawn(|| {
            let deadline = Instant::now() + Duration::from_secs(5);
            loop {
                let (run, _) = container.call("ADD");
                if run.code == 0 {
                    return run.json();
                }
                assert!(Instant::now() < deadline, "{run:?}");
            }
        });
        lab.start_agent("n1");
        adding.join().unwrap()
    });
    assert_eq!(lab.ask("n1", &["status"])["id"], id);
    let given: Vec<IpAddr> = result["ips"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(given, old);
    for address in old {
        assert_eq!(holders(&lab, &["p1", "p2"], address), 0, "two pods have {address}");
    }
    container.del();
}
