//! Other releases: what an earlier one left is taken over, what a later one left is let be.
//!
//! `release-0.1.0` is what two agents of that release left on disk after SIGKILL: two networks, two pods on n1, and one
//! pod that was deleted. A release that changes a format must still start on it (`docs/decisions`).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::{Value, json};
use tartan_scenarios::{Container, Lab, Probe, run_plugin};
use tartan_store::{Durability, Expect, Store};

use crate::harness::{kernel, reasons, refused, store, value, wait_healthy};

const WEB: &str = "7c3e358b2b663d4e61395e88bef7c04e";
const DB: &str = "04c495e48b3e450e7c0c8aa75b3defeb";
const N1: &str = "6c4d939f8b0ed3a13d35b78a389b143f";
const N2: &str = "fdd5fc4cf565dd01e989ac76464b96bf";

fn recorded(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/life/release-0.1.0").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn make_database(file: &Path, sql: &str) {
    Connection::open(file).expect("a database").execute_batch(sql).expect("SQL");
}

fn clear(folder: &Path) {
    fs::remove_dir_all(folder).expect("a folder");
    fs::create_dir(folder).expect("a folder");
}

/// A lab whose agents are stopped and have the recorded state; the pods' links are there, as after an upgrade.
fn lab_of_before() -> Lab {
    let lab =
        Lab::up("t-old", &["--nodes", "2", "--pods", "0", "--family", "dual", "--set", "attachment=routed"]);
    for node in ["n1", "n2"] {
        lab.end_agent(node, Signal::SIGKILL);
        let state = lab.file(node, "state");
        clear(&state);
        for file in ["node.json", "sysctls.json"] {
            fs::write(state.join(file), recorded(&format!("{node}/{file}"))).expect("a file");
        }
        make_database(&state.join("records.db"), &recorded(&format!("{node}/records.sql")));
    }
    clear(&lab.file("store", ""));
    make_database(&lab.file("store", "tartan.db"), &recorded("store.sql"));
    for (link, peer, pod) in
        [("tt830e38d0094d", "web", "default/web"), ("tt6fcef3c18f72", "db", "default/db")]
    {
        let on_node = |command: &[&str]| lab.on_node("n1", command);
        on_node(&["ip", "link", "add", link, "mtu", "1450", "type", "veth", "peer", "name", peer]);
        on_node(&["ip", "link", "set", link, "alias", &format!("tartan pod {pod}"), "up"]);
    }
    lab
}

fn records(lab: &Lab) -> PathBuf {
    lab.file("n1", "state/records.db")
}

/// What is known of the recorded pods and blocks.
#[track_caller]
fn assert_taken_over(lab: &Lab) {
    assert_eq!(lab.ask("n1", &["status"])["id"], N1);
    assert_eq!(lab.ask("n2", &["status"])["id"], N2);
    let rows = lab.ask("n1", &["endpoints"]);
    let pods: Vec<(&Value, &Value, &Value)> =
        rows.as_array().unwrap().iter().map(|row| (&row["pod"], &row["addresses"], &row["ready"])).collect();
    let yes = &json!(true);
    assert_eq!(
        pods,
        [
            (&json!("default/db"), &json!(["10.245.0.2", "fd00:10:245::2"]), yes),
            (&json!("default/web"), &json!(["10.244.1.3", "fd00:10:244::3"]), yes),
        ]
    );
    let rows = lab.ask("n1", &["ipam"]);
    let owned = |row: &Value| row["node"] == "n1";
    let blocks: Vec<&Value> =
        rows.as_array().unwrap().iter().filter(|row| owned(row)).map(|row| &row["block"]).collect();
    assert_eq!(blocks, ["10.245.0.0/24", "fd00:10:245::/64", "10.244.1.0/24", "fd00:10:244::/64"]);
    assert_eq!(rows.as_array().unwrap().len(), 8);
    // The networks were numbered in the order in which they came, not in that of their names.
    let bridges = lab.on_node("n1", &["ip", "-o", "link", "show", "type", "bridge"]);
    assert!(bridges.contains("tartan1:") && !bridges.contains("tartan0:"), "{bridges}");
    let port = lab.on_node("n1", &["ip", "-o", "link", "show", "tt6fcef3c18f72"]);
    assert!(port.contains("master tartan1"), "{port}");
    let route = lab.on_node("n1", &["ip", "route", "get", "10.244.1.3"]);
    assert!(route.contains("dev tt830e38d0094d"), "{route}");
}

#[test]
fn an_agent_takes_over_what_release_0_1_0_left() {
    let lab = lab_of_before();
    lab.lab(&["fault", "add", "kill", "n1"]).ok();
    lab.lab(&["fault", "add", "kill", "n2"]).ok();
    lab.lab(&["fault", "clear"]).ok();
    assert_taken_over(&lab);
    // The address of the pod that was deleted is given last, those of the others not at all.
    let container = Container::make(&lab, "n1", 1);
    assert_eq!(container.add()["ips"][0]["address"], "10.244.1.4/32");
    container.del();
    // Its runtime knows a pod by what the earlier release told it.
    let mut del = container.command("DEL");
    del.env("CNI_CONTAINERID", WEB).env("CNI_NETNS", "");
    run_plugin(&mut del, &container.conf()).0.ok();
    assert_eq!(lab.ask("n1", &["endpoints"]).as_array().unwrap().len(), 1);
    assert_eq!(value(&records(&lab), &format!("endpoint/{WEB}/eth0")), None);
}

#[test]
fn what_a_later_release_wrote_is_let_be() {
    let lab = lab_of_before();
    let shared = lab.file("store", "tartan.db");
    let change = |file: &Path, sql: &str| make_database(file, sql);
    // New fields in what is known, and new kinds of things.
    let with = |key: &str, field: &str| {
        format!(
            "UPDATE entry SET value = CAST('{{{field},' || substr(CAST(value AS TEXT), 2) AS BLOB) WHERE key = '{key}';
             INSERT INTO entry VALUES ('later/{key}', CAST('{{\"later\":true}}' AS BLOB), 1);"
        )
    };
    let field = "\"later\":{\"a\":[1]}";
    let web = format!("endpoint/{WEB}/eth0");
    for key in [web.as_str(), &format!("endpoint/{DB}/eth0"), "bridge/alpha"] {
        change(&records(&lab), &with(key, field));
    }
    for key in [format!("node/{N2}"), "block/default/10.244.1.0-24".into()] {
        change(&shared, &with(&key, field));
    }
    let node = lab.file("n1", "state/node.json");
    fs::write(&node, recorded("n1/node.json").replace('{', &format!("{{{field},"))).unwrap();
    let known = [fs::read_to_string(&node).unwrap(), value(&records(&lab), &web).unwrap()];
    lab.lab(&["fault", "add", "kill", "n1"]).ok();
    lab.lab(&["fault", "add", "kill", "n2"]).ok();
    lab.lab(&["fault", "clear"]).ok();
    assert_taken_over(&lab);
    assert_eq!([fs::read_to_string(&node).unwrap(), value(&records(&lab), &web).unwrap()], known);
    for (file, key) in
        [(&records(&lab), web), (&records(&lab), "bridge/alpha".into()), (&shared, format!("node/{N2}"))]
    {
        assert_eq!(value(file, &format!("later/{key}")).as_deref(), Some("{\"later\":true}"));
    }
}

#[test]
fn a_newer_schema_and_a_record_that_is_not_understood_are_refused_and_the_traffic_goes_on() {
    let lab = Lab::up("t-newer", &["--nodes", "2", "--pods", "1", "--family", "dual"]);
    let records = records(&lab);
    lab.end_agent("n1", Signal::SIGTERM);
    let before = kernel(&lab, "n1");
    for file in [records.clone(), lab.file("store", "tartan.db")] {
        make_database(&file, "PRAGMA user_version = 2");
        let run = refused(&lab, "n1");
        assert_eq!(run.code, 2, "{run:?}");
        let words =
            format!("{} has schema 2, this Tartan knows up to 1: run the newer Tartan", file.display());
        assert!(run.stderr.contains(&words), "{run:?}");
        make_database(&file, "PRAGMA user_version = 1");
    }
    let key = store(&records).list("endpoint/").unwrap().entries[0].key.clone();
    let whole = value(&records, &key).unwrap();
    let put =
        |value: &str| store(&records).put(&key, value.as_bytes(), Expect::Any, Durability::Crash).unwrap();
    put(&whole.replace("bridge", "netkit"));
    let run = refused(&lab, "n1");
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.stderr.contains(&format!("record {key} in records.db is not understood")), "{run:?}");
    assert_eq!(kernel(&lab, "n1"), before);
    lab.assert_full(2, &[]);
    put(&whole);
    lab.start_agent("n1");
    wait_healthy(&lab, "n1");
    assert_eq!(kernel(&lab, "n1"), before);
}

#[test]
fn a_network_that_is_not_understood_costs_no_running_pod_anything() {
    let lab = Lab::up("t-unread", &["--nodes", "2", "--pods", "1", "--set", "attachment=routed"]);
    let shared = lab.file("store", "tartan.db");
    let key = "network/default";
    let whole = value(&shared, key).unwrap();
    let put =
        |value: &str| store(&shared).put(key, value.as_bytes(), Expect::Any, Durability::Crash).unwrap();
    let probe =
        Probe::start(&lab.netns("default_p1"), lab.addresses("default/p2")[0], Duration::from_millis(2));
    put(&whole.replace("\"spec\":{", "\"spec\":{\"teleport\":true,"));
    let says_so = |node: &str| {
        let reasons = reasons(&lab, node);
        reasons.iter().any(|reason| reason.contains("network/default") && reason.contains("teleport"))
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while !says_so("n1") {
        assert!(std::time::Instant::now() < deadline, "{:?}", reasons(&lab, "n1"));
        std::thread::sleep(Duration::from_millis(10));
    }
    let before = kernel(&lab, "n1");
    // An agent that starts with it knows nothing of the network, and so takes nothing away.
    lab.end_agent("n1", Signal::SIGKILL);
    lab.start_agent("n1");
    assert!(says_so("n1"), "{:?}", reasons(&lab, "n1"));
    let container = Container::make(&lab, "n1", 1);
    let (run, _) = container.call("STATUS");
    assert_eq!(run.json()["code"], 50, "{run:?}");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(kernel(&lab, "n1"), before);
    put(&whole);
    wait_healthy(&lab, "n1");
    assert_eq!(kernel(&lab, "n1"), before);
    let outcome = probe.finish();
    assert!(outcome.sent > 150 && outcome.lost.is_empty(), "{outcome:?}");
    container.add();
    container.del();
}
