//! `tartan check`: its words and its exit codes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::Agent;

#[test]
fn a_node_that_is_well_is_shown_with_what_was_looked_at() {
    let ran = Agent::new().tartan(&["check"]);
    assert_eq!(ran.code, 1, "a network has no block: {}", ran.stdout);
    insta::assert_snapshot!(ran.stdout, @r"
    CHECK             OK    DETAIL
    agent             yes   0.1.0, since 2026-11-23T22:59:32Z
    store             yes   sqlite, connected
    uplink            yes   eth0, MTU 1500
    network default   yes   blocks 10.244.1.0/24
    network blue      no    no block held
    peers             yes   1 of 2 up
    warning           yes   peer n3: no answer through vxlan
    health            yes   everything wanted is in the kernel
    ");
}

#[test]
fn ways_are_shown_with_their_round_trips_and_one_that_fails_is_exit_code_1() {
    let agent = Agent::new();
    let all = agent.tartan(&["check", "connectivity"]);
    assert_eq!(all.code, 1);
    insta::assert_snapshot!(all.stdout, @r"
    NODE   NETWORK   PATH    FROM         TO           SMALL     MTU    FULL      OK    REASON
    n2     default   vxlan   10.244.1.0   10.244.2.0   0.25 ms   1450   0.50 ms   yes   -
    n3     default   vxlan   10.244.1.0   10.244.2.0   0.25 ms   1450   -         no    large packets are lost: 1450 bytes get no answer, small ones do
    ");
    let one = agent.tartan(&["check", "connectivity", "n2", "-o", "json"]);
    assert_eq!(one.code, 0, "{}", one.stderr);
    let rows: serde_json::Value = serde_json::from_str(&one.stdout).unwrap();
    assert_eq!((&rows[0]["full_ms"], &rows[0]["ok"]), (&0.5.into(), &true.into()));
    let none = agent.tartan(&["check", "connectivity", "n9"]);
    assert!(none.code == 1 && none.stderr.contains("no way to node n9"), "{}", none.stderr);
    assert_eq!(agent.tartan(&["check", "connectivity", "No Name"]).code, 2);
}

#[test]
fn a_bundle_is_for_its_owner_and_never_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.tar.gz");
    let words = ["bundle", file.to_str().unwrap(), "--config", "/nowhere.toml"];
    let ran = crate::harness::tartan(&words);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("tartand.toml.missing"), "{}", ran.stdout);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = crate::harness::tartan(&words);
    assert!(again.code == 1 && again.stderr.contains("name another file"), "{}", again.stderr);
}
