//! A pod's rules are there before its first packet.

use tartan_scenarios::births::no_packet_escapes;

#[test]
fn no_packet_of_a_routed_pod_escapes_at_its_start() {
    no_packet_escapes("routed", 300);
}

#[test]
fn no_packet_of_a_bridged_pod_escapes_at_its_start() {
    no_packet_escapes("bridge", 60);
}
