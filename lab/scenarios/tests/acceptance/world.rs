//! What pods are seen as from outside, and networks and blocks beside the usual ones.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use tartan_scenarios::{Lab, Place, inside, wait_until};

use crate::stand::Stand;

/// How long it may take until a dead way is told.
const TOLD: Duration = Duration::from_secs(10);

/// Who a datagram from one place to another seems to come from.
fn seen(from: &Place, to: &Place) -> IpAddr {
    let receiver = inside(&to.netns, || UdpSocket::bind((to.address, 9998))).expect("a socket");
    receiver.set_read_timeout(Some(Duration::from_secs(2))).expect("a short wait");
    let sender = inside(&from.netns, || UdpSocket::bind((from.address, 0))).expect("a socket");
    sender.send_to(b"who", SocketAddr::new(to.address, 9998)).expect("to send");
    receiver.recv_from(&mut [0; 8]).expect("it arrives").1.ip()
}

/// From a pod to outside, from a node to a pod of another, from pod to pod.
pub(crate) fn masquerade(stand: &Stand) -> String {
    let (pod, other) = (Place::pod(&stand.lab, "p1"), Place::pod(&stand.lab, "p2"));
    let node = Place::node(&stand.lab, "n1");
    let outside = Place { netns: stand.lab.netns("outside"), address: "192.0.2.2".parse().unwrap() };
    assert_eq!(seen(&pod, &outside), node.address);
    assert_eq!(seen(&pod, &other), pod.address);
    assert_eq!(seen(&node, &other), node.address);
    "by the node's address; own inside".into()
}

/// A node whose own address is nobody's business is reached by that of the router before it.
pub(crate) fn behind_nat(_: &Stand) -> String {
    let lab = Lab::beside("t-accept19", &["--nodes", "3", "--pods", "1"]);
    lab.put_behind_nat("n3", "172.30.9.9");
    lab.configure("n3", "public_address = \"172.30.9.9\"");
    lab.full_within(TOLD).expect("a full matrix");
    lab.assert_full(3, &["--protocol", "udp"]);
    "all reach all".into()
}

/// A node whose peers are all behind a cut wire says so, and stops when it is healed.
pub(crate) fn readiness(stand: &Stand) -> String {
    let healthy = || stand.lab.verb("n1", &["status"]).code == 0;
    stand.fault("partition n1 n2");
    stand.fault("partition n1 n3");
    let start = std::time::Instant::now();
    wait_until("it is told", TOLD, || !healthy());
    let told = start.elapsed();
    stand.heal();
    wait_until("it is well again", TOLD, healthy);
    format!("told after {:.1} s", told.as_secs_f64())
}

/// A block that is reserved for a node that is not there yet is its own when it comes.
pub(crate) fn reservation(stand: &Stand) -> String {
    let pools = |reserved: &str| {
        format!(
            "{{pools: [{{cidr: 10.244.0.0/16{reserved}}}, {{cidr: \"fd00:10:244::/56\", blockSize: 64}}]}}"
        )
    };
    stand.lab.apply("default", &pools(", reservations: [{node: n6, block: 10.244.77.0/24}]")).ok();
    stand.lab.lab(&["node", "add", "n6"]).ok();
    assert!(stand.blocks("n6").contains(&"10.244.77.0/24".to_string()));
    stand.fault("kill n6");
    stand.heal();
    assert!(stand.blocks("n6").contains(&"10.244.77.0/24".to_string()));
    stand.leave("n6");
    stand.lab.apply("default", &pools("")).ok();
    "kept, also over a restart".into()
}

/// Two networks on the same nodes: all inside reach each other, nothing passes between them.
pub(crate) fn two_networks(stand: &Stand) -> String {
    let pools = "{pools: [{cidr: 10.99.0.0/16}, {cidr: \"fd00:99::/56\"}], vxlan: {vni: 16777215}}";
    stand.lab.apply("blue", pools).ok();
    for (pod, node) in [("b1", "n1"), ("b2", "n2")] {
        stand.lab.lab(&["pod", "add", pod, "--node", node, "--network", "blue"]).ok();
    }
    stand.lab.assert_full(2, &["--network", "blue"]);
    for pod in ["b1", "b2"] {
        for to in stand.addresses(pod) {
            assert_ne!(stand.pod("p1", &format!("ping -c 1 -W 1 {to}")).code, 0, "p1 reaches {pod} at {to}");
        }
    }
    for pod in ["b1", "b2"] {
        stand.lab.lab(&["pod", "rm", pod]).ok();
    }
    stand.lab.verb("n1", &["delete", "clusternetwork", "blue"]).ok();
    "full inside, nothing across".into()
}
