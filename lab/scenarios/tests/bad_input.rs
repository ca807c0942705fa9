//! Bad input gets a clear error and an exit code, and changes nothing. The texts are golden: `cargo xtask bless`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use insta::assert_snapshot;
use tartan_scenarios::{Lab, Run, programs};
use tartan_store::{Sqlite, Store};

/// What a node has, in its kernel, in the cluster's store and in its own records.
fn state(lab: &Lab) -> String {
    let kernel = ["-o link", "address", "-4 route", "-6 route", "neighbor show nud permanent"].map(|what| {
        let args: Vec<&str> = ["ip"].into_iter().chain(what.split(' ')).collect();
        lab.on_node("n1", &args)
    });
    let kept =
        [lab.file("store", "tartan.db"), lab.file("n1", "state/records.db")].map(|file| entries(&file));
    // Of an address that was just given, until its duplicate is looked for.
    let kernel = kernel.join("\n").replace(" tentative", "");
    format!("{kernel}\n{}", kept.join("\n"))
}

/// Everything in a store, asked of the file, so that no agent is needed.
fn entries(file: &Path) -> String {
    assert!(file.is_file(), "no {}", file.display());
    let store = Sqlite::open(file).expect("the store");
    let entries = store.list("").expect("its entries").entries;
    entries.iter().map(|entry| format!("{} {}\n", entry.key, entry.value.escape_ascii())).collect()
}

/// Adds a case to the golden text.
fn note(golden: &mut String, case: &str, run: &Run, folder: &Path) {
    let said = format!("{}{}", run.stdout, run.stderr).replace(&folder.display().to_string(), "FOLDER");
    writeln!(golden, "# {case}\nexit {}\n{}\n", run.code, said.trim_end()).expect("text");
}

#[test]
fn objects_that_cannot_be_applied() {
    let lab = Lab::up("t-bad", &["--nodes", "1", "--pods", "1", "--family", "dual"]);
    let folder = tempfile::tempdir().expect("a folder");
    let network = |name: &str, spec: &str| {
        format!(
            "apiVersion: tartan.dev/v1alpha1\nkind: ClusterNetwork\nmetadata: {{name: {name}}}\nspec:\n{spec}\n"
        )
    };
    let cases = [
        ("unknown key", network("default", "  attachement: routed")),
        ("wrong type", network("default", "  vxlan: {vni: one}")),
        ("number out of range", network("default", "  vxlan: {vni: 16777216}")),
        ("pool too small", network("default", "  pools: [{cidr: 10.9.0.0/30}]")),
        ("pool with host bits", network("default", "  pools: [{cidr: 10.9.0.1/16}]")),
        ("block size outside the pool", network("default", "  pools: [{cidr: 10.9.0.0/24, blockSize: 16}]")),
        ("pools that overlap", network("default", "  pools: [{cidr: 10.9.0.0/16}, {cidr: 10.9.128.0/17}]")),
        ("pool over the underlay", network("default", "  pools: [{cidr: 172.30.0.0/15}]")),
        (
            "pool over another network",
            network("other", "  pools: [{cidr: 10.244.8.0/21}]\n  vxlan: {vni: 2}"),
        ),
        ("the identifier of another network", network("other", "  pools: [{cidr: 10.9.0.0/16}]")),
        ("not served yet", network("default", "  encryption: required")),
        ("a preset not served yet", network("default", "  preset: calico")),
        ("unknown kind", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n".into()),
        ("not YAML", "apiVersion: [".into()),
        ("nothing", "# nothing here\n".into()),
        ("bad name", network("Not_A_Name", "  attachment: routed")),
    ];
    let before = state(&lab);
    let mut golden = String::new();
    for (case, text) in cases {
        let file = folder.path().join("network.yaml");
        fs::write(&file, text).expect("a file");
        let run = lab.verb("n1", &["apply", "-f", file.to_str().expect("text")]);
        assert_eq!(run.code, 2, "{case}: {run:?}");
        note(&mut golden, case, &run, folder.path());
        assert_eq!(state(&lab), before, "{case} changed something");
    }
    let run = lab.verb("n1", &["apply", "-f", "/nonexistent"]);
    note(&mut golden, "no such file", &run, folder.path());
    let run = lab.verb("n1", &["get", "clusternetwork", "nope"]);
    note(&mut golden, "no such object", &run, folder.path());
    let run = lab.verb("n1", &["delete", "clusternetwork", "nope"]);
    note(&mut golden, "nothing to delete", &run, folder.path());
    assert_eq!(state(&lab), before);
    assert_snapshot!(golden);
}

/// Runs the agent on a node of the lab, for as long as a refusal takes.
fn agent(lab: &Lab, args: &[&str]) -> Run {
    let program = programs().join("tartand");
    let program = program.to_str().expect("text");
    let command = [&["node", "exec", "n1", "--", "timeout", "5", program, "--log", "error"], args].concat();
    let mut run = lab.lab(&command);
    run.stderr = without_log(&run.stderr);
    run
}

/// The log says it again, with the time.
fn without_log(stderr: &str) -> String {
    stderr.lines().filter(|line| !line.contains(" ERROR ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn agents_that_must_not_start() {
    let lab = Lab::up("t-bad", &["--nodes", "1", "--pods", "1"]);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let before = state(&lab);
    let mut golden = String::new();
    let mut refuse = |case: &str, args: &[&str]| {
        let run = agent(&lab, args);
        assert_eq!(run.code, 2, "{case}: {run:?}");
        note(&mut golden, case, &run, folder.path());
        assert_eq!(state(&lab), before, "{case} changed something");
    };
    let places = ["--state-dir".to_string(), path("state"), "--run-dir".into(), path("run")];
    let places: Vec<&str> = places.iter().map(String::as_str).collect();

    fs::write(path("unknown.toml"), "node_name = \"n9\"\ninterfaces = \"eth0\"\n").expect("a file");
    refuse("unknown key", &["--config", &path("unknown.toml")]);
    fs::write(path("type.toml"), "node_name = 9\n").expect("a file");
    refuse("wrong type", &["--config", &path("type.toml")]);
    fs::write(path("value.toml"), "interface = \"no such/thing\"\n").expect("a file");
    refuse("wrong value", &["--config", &path("value.toml")]);
    fs::write(path("broken.toml"), "node_name = \n").expect("a file");
    refuse("broken file", &["--config", &path("broken.toml")]);
    refuse("no such file", &["--config", &path("none.toml")]);
    refuse("a store of another kind", &["--store", "redis://localhost"]);

    // A second agent on this node is refused by its network namespace, whatever its folders are.
    refuse("a second agent on the node", &[&["--node-name", "n1"], places.as_slice()].concat());

    lab.lab(&["fault", "add", "stop", "n1"]).ok();
    let before = state(&lab);
    let mut refuse = |case: &str, store: &str| {
        let store = format!("sqlite://{}", path(store));
        let run = agent(&lab, &[&["--node-name", "n9", "--store", &store], places.as_slice()].concat());
        assert_eq!(run.code, 2, "{case}: {run:?}");
        note(&mut golden, case, &run, folder.path());
        assert_eq!(state(&lab), before, "{case} changed something");
    };
    fs::create_dir(path("folder.db")).expect("a folder");
    refuse("a store that is a folder", "folder.db");
    fs::write(path("corrupt.db"), vec![b'x'; 8192]).expect("a file");
    refuse("a corrupt store", "corrupt.db");
    newer_store(Path::new(&path("newer.db")));
    refuse("a store of a newer version", "newer.db");
    assert_eq!(fs::read(path("corrupt.db")).expect("the file"), vec![b'x'; 8192]);
    lab.lab(&["fault", "clear"]).ok();
    assert_snapshot!(golden);
}

/// Makes a store as this version does, and then marks it as a later one's.
fn newer_store(path: &Path) {
    drop(Sqlite::open(path).expect("a store"));
    let mut bytes = fs::read(path).expect("the store");
    // The user version is a big-endian number at byte 60 of the header (sqlite.org/fileformat.html, 1.3).
    bytes[60..64].copy_from_slice(&999u32.to_be_bytes());
    fs::write(path, bytes).expect("the store");
}

#[test]
fn two_live_nodes_with_one_name() {
    let lab = Lab::up("t-bad", &["--nodes", "2", "--pods", "0"]);
    let folder = tempfile::tempdir().expect("a folder");
    // The second machine is the `outside` host: another network namespace, the same store.
    let store = format!("sqlite://{}", lab.file("store", "tartan.db").display());
    let program = programs().join("tartand");
    let state = folder.path().join("state");
    let command = ["node", "exec", "outside", "--", "timeout", "5", program.to_str().expect("text")];
    let args = ["--log", "error", "--node-name", "n1", "--store", &store, "--state-dir"];
    let run_dir = folder.path().join("run");
    let places = [state.to_str().expect("text"), "--run-dir", run_dir.to_str().expect("text")];
    let before = lab.ask("n2", &["nodes"]);
    let mut run = lab.lab(&[&command[..], &args, &places].concat());
    assert_eq!(run.code, 2, "{run:?}");
    let holder = before[0]["id"].as_str().expect("an id");
    run.stderr = without_log(&run.stderr);
    let said = run.stderr.replace(holder, "HOLDER");
    // How long the lease lasts is another number each time.
    let (before_time, rest) = said.split_once("for another ").expect("how long");
    let (_, after_time) = rest.split_once(" s").expect("seconds");
    assert_snapshot!(format!("{before_time}for another N s{after_time}"));
    assert_eq!(lab.ask("n2", &["nodes"]), before);
    assert_eq!(lab.ask("n1", &["status"])["healthy"], true);
}

#[test]
fn calls_of_the_plugin_that_must_fail() {
    let lab = Lab::up("t-bad", &["--nodes", "1", "--pods", "1"]);
    let folder = tempfile::tempdir().expect("a folder");
    let socket = lab.file("n1", "tartand.sock");
    let conf = format!(
        "{{\"cniVersion\":\"1.1.0\",\"name\":\"tartan\",\"type\":\"tartan-cni\",\"socket\":{:?}}}",
        socket.display().to_string()
    );
    let netns = lab.netns("default_p1").display().to_string();
    let no_netns = folder.path().join("file");
    fs::write(&no_netns, "").expect("a file");
    let long = format!("{{\"cniVersion\":\"1.1.0\",\"name\":\"{}\"}}", "x".repeat(10 << 20));
    let deep = "[".repeat(200_000);
    let file = no_netns.display().to_string();
    let cases: [(&str, &str, &str, &str); 8] = [
        ("garbage", "\u{1}\u{2}garbage", "c9", &netns),
        ("nothing", "", "c9", &netns),
        ("10 MB of JSON", &long, "c9", &netns),
        ("deep JSON", &deep, "c9", &netns),
        ("a path that is no network namespace", &conf, "c9", &file),
        ("a path that is not there", &conf, "c9", "/nonexistent"),
        ("a container id that is a path", &conf, "../../etc", &netns),
        ("no container id", &conf, "", &netns),
    ];
    let before = state(&lab);
    let mut golden = String::new();
    for (case, stdin, container, netns) in cases {
        let run =
            plugin(stdin, &[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", container), ("CNI_NETNS", netns)]);
        assert_eq!(run.code, 1, "{case}: {run:?}");
        note(&mut golden, case, &run, folder.path());
        assert_eq!(state(&lab), before, "{case} changed something");
    }
    assert_snapshot!(golden);
    for interface in ["lo", "all", "default"] {
        let add = [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c9"), ("CNI_NETNS", &netns)];
        let run = plugin(&conf, &[&add[..], &[("CNI_IFNAME", interface)]].concat());
        assert!(run.code == 1 && run.stdout.contains("CNI_IFNAME"), "{run:?}");
        assert_eq!(state(&lab), before, "{interface} changed something");
    }
}

fn plugin(stdin: &str, variables: &[(&str, &str)]) -> Run {
    let mut child = Command::new(programs().join("tartan-cni"))
        .env_clear()
        .env("CNI_IFNAME", "eth0")
        .envs(variables.iter().copied())
        .env("CNI_PATH", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the plugin starts");
    // It stops reading what is too long.
    let _ = child.stdin.take().expect("a pipe").write_all(stdin.as_bytes());
    let output = child.wait_with_output().expect("the plugin ends");
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
