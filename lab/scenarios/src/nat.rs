//! A router that translates between a node and the wire.

use std::process::Command;

use crate::{Lab, run_command};

impl Lab {
    /// Puts a node behind a router that translates, as a machine in a home or a cloud is: its own address is nobody
    /// else's business, and the tunnel's port of the router's address leads to it.
    #[track_caller]
    pub fn put_behind_nat(&self, node: &str, public: &str) {
        // The lab takes what is called so down with itself.
        let nat = format!("tartan-{}_nat", self.name());
        let node = format!("tartan-{}_{node}", self.name());
        let script = format!(
            "set -e
             ip netns add {nat}
             ip -n {node} link set eth0 netns {nat} name outer
             ip -n {nat} address add {public}/16 dev outer
             ip -n {nat} link set outer up
             ip -n {nat} link set lo up
             ip -n {nat} link add inner type veth peer name eth0 netns {node}
             ip -n {nat} address add 10.77.0.1/24 dev inner
             ip -n {nat} link set inner up
             ip -n {node} address add 10.77.0.2/24 dev eth0
             ip -n {node} link set eth0 up
             ip -n {node} route add default via 10.77.0.1
             ip netns exec {nat} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
             ip netns exec {nat} nft 'table ip nat {{
               chain in {{ type nat hook prerouting priority -100; iifname \"outer\" udp dport 8472 dnat to 10.77.0.2; }}
               chain out {{ type nat hook postrouting priority 100; oifname \"outer\" snat to {public}; }}
             }}'"
        );
        run_command(Command::new("sh").args(["-c", &script])).ok();
    }
}
