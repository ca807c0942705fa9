//! Real containers, started by Debian's podman on Tartan's configuration list; `docs/containers.md` says it to people.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tartan_kernel::netns;
use tartan_scenarios::{Lab, Probe, Run, holds_within, lock, run_command};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Gives this thread, and what it starts, an empty /run and /var/lib, and control groups of which nothing is left out:
/// podman and CNI's library write to places of the machine that no setting moves.
fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("root may make a mount namespace");
    let set = |what: Option<&str>, at: &str, flags| {
        mount(what, at, what, flags, None::<&str>).unwrap_or_else(|error| panic!("{at}: {error}"));
    };
    set(None, "/", MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    set(Some("tmpfs"), "/run", MsFlags::empty());
    set(Some("tmpfs"), "/var/lib", MsFlags::empty());
    // crun refuses a machine that has both versions of control groups.
    set(Some("cgroup2"), "/sys/fs/cgroup", MsFlags::empty());
    fs::create_dir("/run/lock").expect("a new /run is empty");
}

/// Podman on a node of a lab, with folders of its own.
struct Podman<'a> {
    lab: &'a Lab,
    node: &'static str,
    folder: PathBuf,
}

impl<'a> Podman<'a> {
    fn set_up(lab: &'a Lab, node: &'static str, place: &Path) -> Podman<'a> {
        let folder = place.join(node);
        fs::create_dir_all(folder.join("net.d")).expect("a folder");
        let podman = Podman { lab, node, folder };
        let text = fs::read_to_string(lab.file(node, "cni/net.d/10-tartan.conflist")).expect("the list");
        let mut list: Value = serde_json::from_str(&text).expect("JSON");
        // What Debian 12's podman and portmap speak.
        list["cniVersion"] = "1.0.0".into();
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        list["plugins"].as_array_mut().expect("a list").push(portmap);
        podman.write("net.d/10-tartan.conflist", &list.to_string());
        podman.write(
            "containers.conf",
            &format!(
                "[network]\nnetwork_backend = \"cni\"\ndefault_network = \"tartan\"\n\
                 cni_plugin_dirs = [{:?}, \"/usr/lib/cni\"]\nnetwork_config_dir = {:?}\n\
                 [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\ntmp_dir = {:?}\n\
                 [containers]\ncgroups = \"disabled\"\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n",
                lab.file(node, "cni/bin"),
                podman.folder.join("net.d"),
                podman.folder.join("tmp"),
            ),
        );
        podman.write(
            "storage.conf",
            &format!(
                "[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n",
                podman.folder.join("root"),
                podman.folder.join("run")
            ),
        );
        podman
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).expect("a file");
    }

    /// `podman …` on the node. It stays in our mount namespace, where its containers are.
    fn podman(&self, args: &[&str]) -> Run {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.lab.netns(self.node).display())).arg("podman").args(args);
        command.env("CONTAINERS_CONF", self.folder.join("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", self.folder.join("storage.conf"));
        run_command(&mut command)
    }

    /// Starts a container with a web server that answers with its pod's name.
    #[track_caller]
    fn run(&self, name: &str, options: &[&str]) {
        let root = self.make_root(name);
        let root = root.to_str().expect("text");
        let (before, after) = (["run", "-d", "--name", name], ["--rootfs", root, "httpd", "-f", "-p", "80"]);
        self.podman(&[&before, options, &after].concat()).ok();
    }

    /// A root file system made on the spot: no registry is asked.
    fn make_root(&self, name: &str) -> PathBuf {
        let root = self.folder.join(format!("{name}.root"));
        for folder in ["bin", "dev", "etc", "proc", "run", "sys", "tmp"] {
            fs::create_dir_all(root.join(folder)).expect("a folder");
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("Debian's busybox-static");
        for applet in ["httpd", "nc"] {
            symlink("busybox", root.join("bin").join(applet)).expect("a link");
        }
        fs::write(root.join("index.html"), format!("default/{name}\n")).expect("a file");
        root
    }

    /// What podman says of a container's network.
    #[track_caller]
    fn network(&self, name: &str) -> Value {
        self.podman(&["inspect", name, "--format", "{{json .NetworkSettings}}"]).ok().json()
    }

    #[track_caller]
    fn container(&self, name: &'static str) -> Place {
        let network = self.network(name);
        let address = |key: &str| network[key].as_str().expect("text").parse().expect("an address");
        Place {
            name: format!("default/{name}"),
            netns: network["SandboxKey"].as_str().expect("a path").into(),
            addresses: ["IPAddress", "GlobalIPv6Address"].map(address).to_vec(),
        }
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let gone = self.podman(&["rm", "-f", "-a", "-t", "0"]);
        if gone.code != 0 {
            eprintln!("cannot remove the containers of {}: {gone:?}", self.node);
        }
    }
}

/// A pod or container, as others meet it.
struct Place {
    name: String,
    netns: PathBuf,
    addresses: Vec<IpAddr>,
}

impl Place {
    #[track_caller]
    fn pod(lab: &Lab, name: &str) -> Place {
        Place {
            name: format!("default/{name}"),
            netns: lab.netns(&format!("default_{name}")),
            addresses: lab.addresses(&format!("default/{name}")),
        }
    }
}

/// What answers on TCP at an address, asked from within a namespace: a web server, or a responder of the lab.
#[track_caller]
fn ask(from: &Path, to: SocketAddr) -> String {
    let netns = netns::open(from).expect("a namespace");
    let stream = netns::run_in(netns.as_fd(), || TcpStream::connect_timeout(&to, PATIENCE));
    let mut stream =
        stream.expect("to enter").unwrap_or_else(|error| panic!("{} to {to}: {error}", from.display()));
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("to ask");
    let mut answer = String::new();
    // A web server's last word may be a reset; what it said before counts.
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[track_caller]
fn assert_all_reach_all(places: &[Place]) {
    for (from, to) in places.iter().flat_map(|from| places.iter().map(move |to| (from, to))) {
        assert_eq!(to.addresses.len(), 2);
        for address in &to.addresses {
            let answer = ask(&from.netns, SocketAddr::new(*address, 80));
            assert!(answer.contains(&to.name), "{} to {} at {address}: {answer:?}", from.name, to.name);
        }
    }
}

/// The pods that a node's agent knows, each with its addresses.
fn endpoints(lab: &Lab, node: &str) -> Vec<(String, Vec<IpAddr>)> {
    let rows = lab.ask(node, &["endpoints"]);
    let row = |row: &Value| {
        assert_eq!(row["ready"], true, "{row}");
        let pod = row["pod"].as_str().expect("text").to_string();
        (pod, serde_json::from_value(row["addresses"].clone()).expect("addresses"))
    };
    rows.as_array().expect("a list").iter().map(row).collect()
}

#[track_caller]
fn assert_in_blocks(lab: &Lab, node: &str, place: &Place) {
    let rows = lab.ask(node, &["ipam"]);
    let blocks: Vec<tartan_model::Cidr> = rows
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| row["block"].as_str().expect("text").parse().expect("a range"))
        .collect();
    for address in &place.addresses {
        assert!(blocks.iter().any(|block| block.contains(*address)), "{address}: {rows}");
    }
}

/// What containers must give back.
fn state(lab: &Lab, node: &str) -> (Value, String, usize) {
    let namespaces = fs::read_dir("/run/netns").expect("namespaces").count();
    // The uplink's own address is being checked for a second twin at first.
    let addresses = lab.on_node(node, &["ip", "-o", "address"]).replace(" tentative", "");
    (lab.ask(node, &["ipam"]), addresses, namespaces)
}

#[test]
fn containers_reach_pods_and_each_other_through_restarts_and_leave_nothing() {
    let _lock = lock();
    own_mounts();
    for attachment in ["attachment=bridge", "attachment=routed"] {
        let folder = tempfile::tempdir().expect("a folder");
        let lab = Lab::beside(
            "t-podman",
            &["--nodes", "2", "--pods", "1", "--family", "dual", "--set", attachment],
        );
        let nodes = ["n1", "n2"];
        let before = nodes.map(|node| state(&lab, node));
        let [first, second] = nodes.map(|node| Podman::set_up(&lab, node, folder.path()));
        first.run("web", &["-p", "8080:80"]);
        second.run("db", &[]);
        let mut places = vec![first.container("web"), second.container("db")];
        places.extend(["p1", "p2"].map(|pod| Place::pod(&lab, pod)));
        assert_all_reach_all(&places);
        for (node, place) in nodes.iter().zip(&places) {
            assert_in_blocks(&lab, node, place);
            assert!(endpoints(&lab, node).contains(&(place.name.clone(), place.addresses.clone())));
        }
        let target = places[3].addresses[0].to_string();
        let said = first.podman(&["exec", "web", "nc", &target, "80"]).ok().stdout;
        assert_eq!(said, format!("default/p2 {}\n", places[0].addresses[0]));
        // The plugin behind ours in the list: the node's port leads to the container, also from beyond the router.
        let node: IpAddr = lab.lab(&["status", "-o", "json"]).ok().json()["nodes"][0]["address"]
            .as_str()
            .expect("text")
            .parse()
            .expect("an address");
        assert!(ask(&lab.netns("outside"), SocketAddr::new(node, 8080)).contains("default/web"));

        let probes = places[3]
            .addresses
            .iter()
            .map(|address| Probe::start(&places[0].netns, *address, Duration::from_millis(2)));
        let probes: Vec<Probe> = probes.collect();
        nodes.iter().for_each(|node| drop(lab.lab(&["fault", "add", "kill", node]).ok()));
        assert_all_reach_all(&places);
        // Traffic as it goes without an agent.
        std::thread::sleep(Duration::from_millis(300));
        lab.lab(&["fault", "clear"]).ok();
        for probe in probes {
            let outcome = probe.finish();
            assert!(outcome.sent > 100 && outcome.lost.is_empty(), "{outcome:?}");
        }

        second.podman(&["restart", "-t", "0", "db"]).ok();
        places[1] = second.container("db");
        assert_all_reach_all(&places);
        assert_eq!(endpoints(&lab, "n2").len(), 2);

        first.podman(&["rm", "-f", "-t", "0", "web"]).ok();
        second.podman(&["rm", "-f", "-t", "0", "db"]).ok();
        let after = nodes.map(|node| {
            // Links go together, soon after: `tartan plan` is empty then.
            wait_for_no_plan(&lab, node);
            state(&lab, node)
        });
        assert_eq!(after, before);
    }
}

/// Waits until nothing is left to do on a node.
#[track_caller]
fn wait_for_no_plan(lab: &Lab, node: &str) {
    let plan = || lab.ask(node, &["plan"]);
    let is_done = holds_within(Duration::from_secs(5), || plan()["steps"] == json!([]));
    assert!(is_done, "{}", plan());
}
