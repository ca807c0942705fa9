//! The command line as people and scripts start it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends at what it did not expect")]

mod called;
mod check;
mod harness;
mod objects;

use serde_json::{Value, json};
use tartan_api::rpc::FailureCode;

use harness::{Agent, network, tartan};

/// What a verb prints.
fn shown(words: &[&str]) -> String {
    let ran = Agent::new().tartan(words);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{}", ran.stdout);
    ran.stdout
}

#[test]
fn status_as_text() {
    insta::assert_snapshot!(shown(&["status"]), @r#"
        node         n1 (0123456789abcdef0123456789abcdef)
        health       healthy
        warning      peer n3: no answer through vxlan
        agent        0.1.0, since 2026-11-23T22:59:32Z
        store        sqlite, connected
        fabric       overlay
        uplink       eth0, MTU 1500, 192.0.2.1/24
        networks     default: bridge, MTU 1450, blocks 10.244.1.0/24
                     blue: routed, MTU -, blocks -
        peers        1 of 2 up
        pods         2, guarded by programs
        policies     0
        last error   the store did not answer
        "#);
}

#[test]
fn status_as_json() {
    insta::assert_snapshot!(shown(&["status", "-o", "json"]), @r#"
        {
          "node": "n1",
          "id": "0123456789abcdef0123456789abcdef",
          "version": "0.1.0",
          "healthy": true,
          "reasons": [],
          "warnings": [
            "peer n3: no answer through vxlan"
          ],
          "store": {
            "kind": "sqlite",
            "connected": true
          },
          "fabric": "overlay",
          "uplink": {
            "interface": "eth0",
            "mtu": 1500,
            "addresses": [
              "192.0.2.1/24"
            ]
          },
          "peers": {
            "up": 1,
            "total": 2
          },
          "endpoints": 2,
          "guards": "programs",
          "policies": 0,
          "remote_endpoints": 0,
          "networks": [
            {
              "name": "default",
              "attachment": "bridge",
              "mtu": 1450,
              "blocks": [
                "10.244.1.0/24"
              ]
            },
            {
              "name": "blue",
              "attachment": "routed",
              "mtu": null,
              "blocks": []
            }
          ],
          "last_error": "the store\ndid not answer",
          "since": "2026-11-23T22:59:32Z"
        }
        "#);
}

#[test]
fn status_of_a_node_that_is_not_healthy_is_a_no() {
    let ran = Agent::unhealthy().tartan(&["status"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (1, ""));
    let lines: Vec<&str> = ran.stdout.lines().skip(1).take(3).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
        health       not healthy
                     2 rows are not in the kernel
                     the store is away
        "#);
    assert_eq!(Agent::unhealthy().tartan(&["status", "-o", "json"]).code, 1);
}

#[test]
fn nodes_as_a_table() {
    insta::assert_snapshot!(shown(&["nodes"]), @r#"
        NAME             ALIVE   THIS   ADDRESSES                 BLOCKS          ID
        n1               yes     *      192.0.2.1/24,fd00::1/64   10.244.1.0/24   0123456789abcdef0123456789abcdef
        node-2.example   no             192.0.2.2/24              -               1123456789abcdef0123456789abcdef
        "#);
}

#[test]
fn peers_as_a_table() {
    insta::assert_snapshot!(shown(&["peers"]), @r#"
        NODE   ADDRESS     PATH    HEALTH   SEALED   MTU    RTT       SINCE                  BLOCKS                             BLOCKED
        n2     192.0.2.2   vxlan   works    no       1450   0.43 ms   2026-11-23T23:00:00Z   10.244.2.0/24,fd00:10:244:2::/64   -
        n3     -           -       -        no       -      -         -                      -                                  vxlan: its lease is over
        "#);
}

#[test]
fn peers_as_json() {
    insta::assert_snapshot!(shown(&["peers", "-o", "json"]), @r#"
        [
          {
            "node": "n2",
            "address": "192.0.2.2",
            "path": "vxlan",
            "sealed": false,
            "mtu": 1450,
            "rtt_ms": 0.4321,
            "health": "works",
            "reason": null,
            "since": "2026-11-23T23:00:00Z",
            "blocked": [],
            "blocks": [
              "10.244.2.0/24",
              "fd00:10:244:2::/64"
            ]
          },
          {
            "node": "n3",
            "address": null,
            "path": null,
            "sealed": false,
            "mtu": null,
            "rtt_ms": null,
            "health": "unknown",
            "reason": null,
            "since": null,
            "blocked": [
              {
                "path": "vxlan",
                "reason": "its lease is over"
              }
            ],
            "blocks": []
          }
        ]
        "#);
}

#[test]
fn endpoints_as_a_table() {
    insta::assert_snapshot!(shown(&["endpoints"]), @r#"
        POD          NETWORK   ADDRESSES                     READY   DENIED   ATTACHMENT   LINK             MAC                 CONTAINER      INTERFACE
        default/p1   default   10.244.1.2,fd00:10:244:1::2   yes     ipv4:3   bridge       tt0123456789ab   02:00:00:00:00:02   c0ffee00c0ff   eth0
        "#);
}

#[test]
fn denied_as_a_table() {
    insta::assert_snapshot!(shown(&["denied"]), @r#"
        POD          LINK             REASON   PACKETS   BYTES
        default/p1   tt0123456789ab   ipv4     3         252
        -            eth0             tunnel   1         120

        FROM                      TO                     PORT              DIRECTION   POLICY                                  PACKETS   BYTES   LAST
        default/p1 (10.244.1.2)   shop/db (10.244.1.3)   tcp 5432          ingress     NetworkPolicy shop/closed, by default   5         300     2026-01-02T03:04:06Z
        node n2 (fd00::2)         2001:db8::7            icmpv6 type 128   egress      none any more                           1         104     2026-01-02T03:04:05Z
        "#);
}

#[test]
fn ipam_as_a_table() {
    insta::assert_snapshot!(shown(&["ipam"]), @r#"
        NETWORK   POOL            BLOCK           NODE   USED   CAPACITY
        default   10.244.0.0/16   10.244.1.0/24   n1     2      253
        default   10.244.0.0/16   10.244.2.0/24   n2     -      253
        "#);
}

#[test]
fn routes_as_a_table() {
    insta::assert_snapshot!(shown(&["routes"]), @r#"
        DESTINATION     VIA          DEV        FOR       INSTALLED
        10.244.2.0/24   10.244.2.0   tartan.1   peer n2   yes
        10.244.1.0/24   -            -          block     no
        "#);
}

#[test]
fn objects_as_a_table_and_as_yaml() {
    insta::assert_snapshot!(shown(&["get", "clusternetworks"]), @r#"
        NAME      POOLS           PATHS   ATTACHMENT   VNI   MTU
        default   10.244.0.0/16   vxlan   bridge       1     auto
        blue      10.244.0.0/16   vxlan   bridge       1     auto
        "#);
    insta::assert_snapshot!(shown(&["get", "ClusterNetwork", "-o", "yaml"]), @r#"
        apiVersion: tartan.dev/v1alpha1
        kind: ClusterNetwork
        metadata:
          name: default
        spec:
          pools:
          - cidr: 10.244.0.0/16
            blockSize: 24
          masquerade: false
          encryption: "off"
        ---
        apiVersion: tartan.dev/v1alpha1
        kind: ClusterNetwork
        metadata:
          name: blue
        spec:
          pools:
          - cidr: 10.244.0.0/16
            blockSize: 24
          masquerade: false
          encryption: "off"
        "#);
}

#[test]
fn every_verb_has_json_of_its_fields() {
    let fields = |verb: &str| -> Vec<String> {
        let answer: Value = serde_json::from_str(&shown(&["-o", "json", verb])).unwrap();
        answer[0].as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(fields("nodes"), ["addresses", "alive", "blocks", "id", "name", "this"]);
    assert_eq!(
        fields("endpoints"),
        [
            "addresses",
            "attachment",
            "container",
            "denied",
            "interface",
            "link",
            "mac",
            "network",
            "pod",
            "ready"
        ]
    );
    assert_eq!(fields("denied"), ["bytes", "link", "packets", "pod", "reason"]);
    assert_eq!(fields("ipam"), ["block", "capacity", "network", "node", "pool", "used"]);
    assert_eq!(fields("routes"), ["dev", "dst", "installed", "purpose", "via"]);
    let parse = |words: &[&str]| -> Value { serde_json::from_str(&shown(words)).unwrap() };
    assert_eq!(parse(&["plan", "-o", "json"]), json!({"steps": [], "notes": []}));
    assert_eq!(parse(&["version", "-ojson"]), json!({"version": "0.1.0"}));
    assert_eq!(
        parse(&["delete", "clusternetwork", "blue", "-ojson"]),
        json!({"kind": "ClusterNetwork", "name": "blue", "action": "deleted"})
    );
    assert_eq!(parse(&["get", "clusternetwork", "blue", "-ojson"])[0]["metadata"], json!({"name": "blue"}));
}

#[test]
fn plan_shows_steps_and_notes() {
    assert_eq!(shown(&["plan"]), "nothing to change\n");
    let agent = Agent::new();
    agent.write("network.yaml", network("default"));
    let ran = agent.tartan(&["plan", "-f", "network.yaml"]);
    insta::assert_snapshot!(ran.stdout, @r#"
        + link tartan.1
        - route 10.9.0.0/16
        note: peer n3: no underlay address of this family
        "#);
}

#[test]
fn apply_reads_files_folders_and_standard_input_in_order() {
    let agent = Agent::new();
    agent.write("one.yaml", network("one") + "---\n" + &network("two"));
    agent.write("d/b.yml", network("b"));
    agent.write(
        "d/a.json",
        r#"{"apiVersion":"tartan.dev/v1alpha1","kind":"ClusterNetwork","metadata":{"name":"a"}}"#,
    );
    agent.write("d/notes.txt", "not read");
    agent.write("d/deeper/c.yaml", "not read either");
    let words = ["apply", "-f", "one.yaml", "-f", "d", "-f", "-"];
    let ran = agent.tartan_reading(&words, &network("input"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    insta::assert_snapshot!(ran.stdout, @r#"
        clusternetwork/one created
        clusternetwork/two created
        clusternetwork/a created
        clusternetwork/b created
        clusternetwork/input created
        "#);
}

#[test]
fn what_get_writes_apply_reads() {
    let agent = Agent::new();
    let yaml = agent.tartan(&["get", "clusternetwork", "-o", "yaml"]).stdout;
    let ran = agent.tartan_reading(&["apply", "-f", "-"], &yaml);
    assert_eq!(ran.stdout, "clusternetwork/default created\nclusternetwork/blue created\n", "{}", ran.stderr);
}

#[test]
fn nothing_is_sent_when_any_file_has_an_error() {
    let agent = Agent::new();
    agent.write("good.yaml", network("good"));
    agent.write("bad/1.yaml", network("x").replace("{encryption: \"off\"}", "\n  mtu: 1500\n  colour: blue"));
    agent.write("bad/2.yaml", network("x") + "---\n# more\nkind: Banana\n");
    agent.write("bad/3.yaml", "kind: [\n");
    agent.write("bad/4.json", [b"\n\n\xff".as_slice(), b"x"].concat());
    agent.write("bad/5.yaml", "x".repeat((1 << 20) + 1));
    agent.write("bad/6.yaml", "# nothing\n");
    agent.write("none/readme.txt", "");
    let words = ["apply", "-f", "good.yaml", "-f", "bad", "-f", "none", "-f", "missing.yaml"];
    let ran = agent.tartan(&words);
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
    insta::assert_snapshot!(ran.stderr, @r#"
        error: bad/1.yaml:6:3: unknown field `colour`, expected one of preset, pools, fabric, paths, attachment, vxlan, masquerade, masqueradeExempt, mtu, policy, encryption
        bad/2.yaml:7:1: kind "Banana" is not known; this release knows ClusterNetwork, NetworkPolicy, Namespace, Pod, ServiceAccount
        bad/3.yaml:1:7: expected a word
        bad/4.json:3: it is not UTF-8 text
        bad/5.yaml: it is longer than 1 MiB
        bad/6.yaml: there is no object in it; write one with apiVersion, kind and metadata
        none: there is no .yaml, .yml or .json file in it
        missing.yaml: cannot be read: No such file or directory (os error 2)
        nothing was sent to the agent; correct this and try again
        "#);
    assert_eq!(agent.tartan_reading(&["apply", "-f", "-"], "kind: 7: 8").code, 2);
    assert_eq!(agent.asked(), Vec::<Value>::new());
}

#[test]
fn an_agent_that_is_away_has_exit_code_3() {
    let ran = tartan(&["status", "--socket", "/nonexistent/tartand.sock"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, ""));
    insta::assert_snapshot!(ran.stderr, @r#"error: cannot reach the agent at /nonexistent/tartand.sock: No such file or directory; is tartand running? start it with `systemctl start tartand` or name its socket with --socket"#);
    let ran = tartan(&["--lab", "nosuchlab", "--node", "n2", "peers", "-o", "json"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, ""));
    assert!(ran.stderr.contains(" at /run/tartan-lab/nosuchlab/n2/tartand.sock: "), "{}", ran.stderr);
}

#[test]
fn the_agents_refusals_have_their_exit_codes() {
    let codes = [
        (FailureCode::Invalid, 2),
        (FailureCode::NotFound, 1),
        (FailureCode::Kernel, 1),
        (FailureCode::TryAgain, 3),
        (FailureCode::Store, 3),
    ];
    for (code, expected) in codes {
        let ran = Agent::failing(code, "what, where, what to do").tartan(&["ipam"]);
        assert_eq!((ran.code, ran.stderr.as_str()), (expected, "error: what, where, what to do\n"));
    }
}

#[test]
fn what_is_not_there_is_a_no() {
    let agent = Agent::empty();
    let ran = agent.tartan(&["get", "clusternetwork", "blue"]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.stderr,
        "error: there is no ClusterNetwork blue; `tartan get clusternetwork` lists those that are there\n"
    );
    let ran = agent.tartan(&["endpoints"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "no endpoints\n"));
    assert_eq!(agent.tartan(&["endpoints", "-o", "json"]).stdout, "[]\n");
}

#[test]
fn an_agent_of_another_release_is_an_error() {
    let ran = Agent::empty().tartan(&["status"]);
    assert!(ran.code == 1 && ran.stderr.contains("is it of the same release"), "{} {}", ran.code, ran.stderr);
}

#[test]
fn wrong_usage_has_exit_code_2() {
    let agent = Agent::new();
    for words in [
        ["colour"].as_slice(),
        &[],
        &["get", "banana"],
        &["get", "clusternetwork", "Not_A_Name"],
        &["delete", "clusternetwork"],
        &["delete", "clusternetwork", "team/blue"],
        &["delete", "ns", "team/blue"],
        &["get", "netpol", "team/blue/x"],
        &["get", "netpol", "my.team/blue"],
        &["get", "pod", "Web"],
        &["apply"],
        &["status", "-o", "yaml"],
        &["status", "-o", "xml"],
        &["status", "--lab", "lab"],
        &["status", "--node", "n1"],
        &["status", "--lab", "../..", "--node", "n1"],
        &["status", "--lab", "lab", "--node", "n1", "--socket", "/s"],
    ] {
        let ran = agent.tartan(words);
        assert!(ran.code == 2 && ran.stdout.is_empty() && !ran.stderr.is_empty(), "{words:?}: {}", ran.code);
    }
    assert_eq!(agent.asked(), Vec::<Value>::new());
}

#[test]
fn flags_stand_before_or_behind_the_verb() {
    let agent = Agent::new();
    let socket = agent.socket();
    let socket = socket.to_str().unwrap();
    let before = tartan(&["--socket", socket, "-o", "json", "routes"]);
    let behind = tartan(&["routes", "-o", "json", "--socket", socket]);
    assert_eq!((before.code, &before.stdout), (0, &behind.stdout));
}

#[test]
fn the_version_needs_no_agent() {
    assert_eq!(tartan(&["version"]).stdout, "tartan 0.1.0\n");
}

#[test]
fn flannels_configuration_is_imported_without_an_agent() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net-conf.json");
    let name = file.to_str().unwrap();
    let put = |text: &str| std::fs::write(&file, text).unwrap();
    put("{\"Network\": \"10.9.0.0/16\",\n \"Backend\": {\"Type\": \"vxlan\", \"GBP\": true}}");
    let ran = tartan(&["import", "flannel", name, "--name", "blue"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains(&format!("{name}:2:31: Backend.GBP: left out")), "{}", ran.stderr);
    let again = tartan_api::object::parse("it", &ran.stdout).unwrap();
    assert_eq!(again[0].name(), "blue");
    let json = tartan(&["import", "flannel", name, "--name", "blue", "-o", "json"]);
    assert_eq!(tartan_api::object::parse("it", &json.stdout).unwrap(), again);
    put("{\"Network\": \"10.9.0.0/16\",\n \"Backend\": {\"Type\": \"wireguard\"}}");
    let ran = tartan(&["import", "flannel", name]);
    assert!(ran.code == 2 && ran.stdout.is_empty(), "{ran:?}");
    assert!(
        ran.stderr.starts_with(&format!("error: {name}:2:14: Backend.Type \"wireguard\"")),
        "{}",
        ran.stderr
    );
    assert_eq!(tartan(&["import", "flannel", "/nonexistent"]).code, 2);
}

#[test]
fn every_help_has_an_example() {
    for verb in [
        "status",
        "nodes",
        "peers",
        "endpoints",
        "denied",
        "ipam",
        "routes",
        "plan",
        "apply",
        "get",
        "delete",
        "check",
        "bundle",
        "import",
        "import flannel",
        "node",
        "node leave",
        "uninstall",
        "version",
    ] {
        let ran = tartan(&[&verb.split(' ').collect::<Vec<_>>(), ["--help"].as_slice()].concat());
        assert!(ran.code == 0 && ran.stdout.contains(&format!("  tartan {verb}")), "{}", ran.stdout);
    }
    insta::assert_snapshot!(tartan(&["--help"]).stdout, @r#"
        See and change the container network of this node and its cluster

        Usage: tartan [OPTIONS] <COMMAND>

        Commands:
          status     Show whether this node is healthy, and why not; exit code 1 if it is not
          nodes      List the nodes of the cluster
          peers      List the other nodes: the path in use, its MTU, and why not a better path
          endpoints  List the pods' interfaces on this node
          denied     List the packets that were refused: who sent them, why, how many
          explain    Show whether a connection is allowed, and the rule that decides; exit code 1 if it is
                     denied, 2 if an end is not known
          ipam       List the blocks of addresses, their owners and how full they are
          routes     List our routes on this node
          plan       Show what would be changed in this node's kernel; nothing is changed
          apply      Write objects to the store; nothing is written if any file has an error
          get        Show objects of the store
          delete     Take an object out of the store
          import     Make objects of the configuration of another network; they are printed, to be applied
          node       Take nodes out of the cluster
          uninstall  Take everything of ours off this node; says first what it will do
          check      Check this node, or the ways to the others; exit code 1 with the reason if something is
                     wrong
          bundle     Write what a helper needs to see into an archive, without secrets
          version    Show the version of this program
          lab        Build a whole cluster on this machine, in network namespaces
          help       Print this message or the help of the given subcommand(s)

        Options:
          -o, --output <FORMAT>
                  How to show the answer; yaml is for `get` and `import` only

                  Possible values:
                  - table: For people
                  - json:  For programs; the field names are a promise
                  - yaml:  Objects as `apply` reads them
                  
                  [default: table]

              --socket <PATH>
                  The agent's socket [env: TARTAN_SOCKET] [default: /run/tartan/tartand.sock]

              --lab <LAB>
                  Ask an agent of this lab; goes with --node

              --node <NODE>
                  The lab's node to ask

          -h, --help
                  Print help (see a summary with '-h')

          -V, --version
                  Print version

        Examples:
          tartan status                          # is this node healthy, and why not
          tartan peers                           # how the other nodes are reached
          tartan check connectivity              # do packets of every size come through
          tartan apply -f network.yaml           # write the cluster's configuration
          tartan --lab lab --node n2 endpoints   # ask an agent of a lab

        Exit codes: 0 done, 1 the answer is no, 2 wrong usage or input, 3 the agent or the store cannot be
        reached.
        "#);
}

#[test]
fn leaving_is_a_no_if_something_stays_behind() {
    let agent = Agent::new();
    let ran = agent.tartan(&["node", "leave"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{}", ran.stdout);
    let ran = agent.tartan(&["node", "leave", "--force"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (1, ""), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("still in the kernel: link tartan.1: Operation not permitted"),
        "{}",
        ran.stdout
    );
    let ran = agent.tartan(&["node", "leave", "--force", "-o", "json"]);
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["stays"], json!(["link tartan.1: Operation not permitted"]));
}
