//! What links cost, printed; ceilings only where a design rests on them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

mod common;

use std::time::{Duration, Instant};

use common::*;
use tartan_host::{Link, NetnsToken, Notice, Row, Scope};
use tartan_kernel::{Kernel, Rtnl};

fn name(number: usize) -> String {
    format!("tt{number:012x}")
}

fn pods(kernel: &mut Kernel, count: usize) -> (Vec<Scratch>, Vec<Link>) {
    let scratches: Vec<Scratch> = (0..count).map(|_| Scratch::new()).collect();
    let links = scratches.iter().enumerate().map(|(number, pod)| {
        let token = kernel.adopt(pod.clone_fd());
        veth(&name(number), token, "eth0")
    });
    let links: Vec<Link> = links.collect();
    (scratches, links)
}

fn removal(number: usize) -> tartan_host::Step {
    remove(Row::Link(Link { peer: None, ..veth(&name(number), NetnsToken(0), "eth0") }))
}

fn timed<T>(what: &str, run: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = run();
    let time = start.elapsed();
    eprintln!("{what:<50} {:9.3} ms", time.as_secs_f64() * 1000.0);
    (result, time)
}

#[test]
fn links() {
    let node = Scratch::new();
    let mut kernel = node.kernel();
    let (first, _) = timed("make a namespace (thread, bind mount)", Scratch::new);
    timed("open a connection into it", || Rtnl::open_in(first.fd()).unwrap());
    let (pods, links) = pods(&mut kernel, 41);
    for link in links.iter().take(3) {
        timed("create and mark a veth, other end in a namespace", || {
            done(&mut kernel, &[create(Row::Link(link.clone()))]);
        });
    }
    let steps: Vec<_> = links.iter().skip(3).map(|link| create(Row::Link(link.clone()))).collect();
    timed("create 38 more in one apply", || done(&mut kernel, &steps));
    for pod in pods.iter().take(8) {
        pod.rtnl().set_up(&ifname("eth0")).unwrap();
    }
    kernel.read(&[]).unwrap();
    for (number, link) in links.iter().enumerate().take(16) {
        let up = Row::Link(Link { peer: None, ..link.clone() });
        let down = Row::Link(Link { up: false, peer: None, ..link.clone() });
        let other = if number < 8 { "up" } else { "down" };
        timed(&format!("set a host end down, other end {other}"), || {
            done(&mut kernel, &[change(&up, &down)])
        });
        timed("set it up again", || done(&mut kernel, &[change(&down, &up)]));
    }
    for link in links.iter().take(4) {
        let up = Link { peer: None, ..link.clone() };
        let other = Link { mtu: 1400.try_into().unwrap(), ..up.clone() };
        timed("set the MTU of both ends", || done(&mut kernel, &[change(&Row::Link(up), &Row::Link(other))]));
    }
    timed("remove one veth", || done(&mut kernel, &[removal(40)]));
    let steps: Vec<_> = (0..40).map(removal).collect();
    let (_, time) = timed("remove 40 veths in one apply", || done(&mut kernel, &steps));
    assert!(rows(&mut kernel).is_empty());
    assert!(time < Duration::from_secs(1), "40 veths took {time:?}");
}

/// With everything that a pod's host end has on it; as a routed one and as a port of a bridge.
#[test]
fn a_host_end_in_use_goes_down() {
    let node = Scratch::new();
    let mut kernel = node.kernel();
    let (pods, links) = pods(&mut kernel, 8);
    done(&mut kernel, &[create(Row::Link(bridge("tartan0")))]);
    for (number, (pod, link)) in pods.iter().zip(links).enumerate() {
        let name = link.name.to_string();
        let port = number % 2 == 1;
        let master = port.then(|| ifname("tartan0"));
        let link = Link { master, ..link };
        done(&mut kernel, &[create(Row::Link(link.clone()))]);
        pod.rtnl().set_up(&ifname("eth0")).unwrap();
        if !port {
            let rows = [
                address(&name, "169.254.1.1/32", Scope::Link),
                address(&name, "fe80::1/64", Scope::Link),
                neighbor(&name, &format!("10.244.0.{number}"), "02:00:00:00:00:99"),
                Row::Route(onto(&format!("10.244.0.{number}/32"), &name)),
                Row::Route(onto(&format!("fd00::{number}/128"), &name)),
            ];
            done(&mut kernel, &rows.map(create));
        }
        let up = Row::Link(Link { peer: None, ..link.clone() });
        let down = Row::Link(Link { up: false, peer: None, ..link });
        let what = if port { "a port" } else { "a routed host end" };
        timed(&format!("set {what} in use down"), || done(&mut kernel, &[change(&up, &down)]));
        timed("remove it", || done(&mut kernel, &[removal(number)]));
    }
}

#[test]
fn routes() {
    let node = Scratch::new();
    let mut kernel = node.kernel();
    done(&mut kernel, &[create(Row::Link(bridge("tartan0")))]);
    let rows: Vec<Row> =
        (0..5000).map(|n| Row::Route(onto(&format!("10.{}.{}.0/24", n / 250, n % 250), "tartan0"))).collect();
    let steps: Vec<_> = rows.iter().cloned().map(create).collect();
    timed("create 5000 routes", || done(&mut kernel, &steps));
    let (notices, _) = timed("hear of them", || kernel.notices());
    let heard = notices.rows.iter().filter(|notice| matches!(notice, Notice::Is(Row::Route(_)))).count();
    assert_eq!((heard, notices.lost), (5000, false));
    let (read, _) = timed("read everything", || kernel.read(&[]).unwrap());
    assert_eq!(read.rows.len(), 5001);
    let steps: Vec<_> = rows.into_iter().map(remove).collect();
    timed("remove them", || done(&mut kernel, &steps));
    timed("set the link down", || {
        let up = bridge("tartan0");
        done(&mut kernel, &[change(&Row::Link(up.clone()), &Row::Link(Link { up: false, ..up }))]);
    });
}
