//! From a policy that is applied to packets that see it, beside much that it does not concern.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tartan_scenarios::policies::{add_pods, apply, entry, only_from};
use tartan_scenarios::{Lab, Place, figures, inside, wait_until};

use crate::times;

const APPLIES: usize = 100;
/// Between two datagrams: about 10,000 a second.
const BEAT: Duration = Duration::from_micros(50);
/// No datagram for so long: they are denied.
const SILENCE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(5);

/// Datagrams from a pod to another, and when the last came.
struct Rain {
    begin: Instant,
    stop: Arc<AtomicBool>,
    /// In microseconds after the beginning.
    last: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Rain {
    fn start(from: &Place, to: &Place) -> Rain {
        let at = SocketAddr::new(to.address, 9000);
        let receiver = inside(&to.netns, || UdpSocket::bind(at)).expect("a socket");
        receiver.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let sender = inside(&from.netns, || UdpSocket::bind((from.address, 0))).expect("a socket");
        let (begin, stop, last) =
            (Instant::now(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (sends, receives, heard) = (stop.clone(), stop.clone(), last.clone());
        let sending = thread::spawn(move || {
            while !sends.load(Ordering::Relaxed) {
                // What is refused on the way does not arrive.
                let _ = sender.send_to(b"x", at);
                thread::sleep(BEAT);
            }
        });
        let receiving = thread::spawn(move || {
            while !receives.load(Ordering::Relaxed) {
                if receiver.recv(&mut [0; 8]).is_ok() {
                    heard.store(begin.elapsed().as_micros() as u64, Ordering::Relaxed);
                }
            }
        });
        Rain { begin, stop, last, threads: vec![sending, receiving] }
    }

    fn last(&self) -> Instant {
        self.begin + Duration::from_micros(self.last.load(Ordering::Relaxed))
    }

    /// When the last one came before they stopped coming, or the first after a time.
    fn turned(&self, denied: bool, after: Instant) -> Instant {
        match denied {
            true => wait_until("no datagram", PATIENCE, || self.last().elapsed() > SILENCE),
            false => {
                while self.last() < after {
                    assert!(after.elapsed() < PATIENCE, "no datagram");
                    thread::sleep(BEAT);
                }
            }
        }
        self.last()
    }
}

impl Drop for Rain {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

pub(crate) fn seen_by_packets(lab: &Lab) {
    add_pods(lab, &["watched@n1", "watcher@n1"]);
    let [from, to] = ["watcher", "watched"].map(|pod| Place::pod(lab, pod));
    let rain = Rain::start(&from, &to);
    let store = lab.open_store();
    let write = |denied: bool| {
        let from = if denied { "app=nobody" } else { "app=watcher" };
        store.write_all(&[entry("to-watched", "app=watched", Some(from))]).expect("to write");
    };
    write(false);
    wait_until("datagrams", PATIENCE, || rain.last().elapsed() < SILENCE);
    let mut seen = [Vec::new(), Vec::new()];
    let applies = times(APPLIES);
    for number in 0..applies {
        // It rests between two.
        thread::sleep(SILENCE);
        let denied = number % 2 == 0;
        let start = Instant::now();
        write(denied);
        seen[usize::from(denied)].push(rain.turned(denied, start).saturating_duration_since(start));
    }
    let [allowed, denied] = seen;
    figures::spread(
        &format!(
            "a policy that allows is written into the store -> the first of 10,000 datagrams a second comes, {} times",
            allowed.len()
        ),
        allowed,
        "p50 < 20 ms",
    );
    figures::spread(
        &format!("one that denies -> the last comes, {} times", denied.len()),
        denied,
        "p50 < 20 ms",
    );
    lab.write_entries(&[("policy/default/to-watched".into(), None)]);
    let mut times = Vec::new();
    for number in 0..applies {
        let from: &[&str] = if number % 2 == 0 { &["nobody"] } else { &["watcher"] };
        let start = Instant::now();
        apply(lab, &only_from("watched", from));
        times.push(start.elapsed());
    }
    figures::spread(
        &format!("`apply --wait` of such a policy, its process included, {applies} times"),
        times,
        "",
    );
}
