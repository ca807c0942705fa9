//! Ctrl-C in the middle of a test: the labs of this process go before it does.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, Once, RwLock, RwLockReadGuard};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use crate::programs;

/// The exit code of a program that Ctrl-C has ended.
const INTERRUPTED: i32 = 130;

/// The labs that may be up.
static LABS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
/// Held by everything that changes a lab; whoever ends the process takes all of it.
static GOING_ON: RwLock<()> = RwLock::new(());
static WATCHED: Once = Once::new();

/// As long as this lives, the process is not ended by a signal. Once a signal has come nobody gets it any more.
pub(crate) fn going_on() -> RwLockReadGuard<'static, ()> {
    GOING_ON.read().expect("nobody panics with it")
}

/// Has this lab taken down when a signal ends the process.
pub(crate) fn take_along(lab: &str) {
    WATCHED.call_once(|| {
        let (mut heard, told) = UnixStream::pair().expect("a pair of sockets");
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            pipe::register(signal, told.try_clone().expect("a descriptor")).expect("to hear of signals");
        }
        thread::spawn(move || {
            if heard.read(&mut [0]).is_ok() {
                end();
            }
        });
    });
    LABS.lock().expect("nobody panics with it").insert(lab.into());
}

/// Nothing changes a lab any more, and the labs go.
fn end() -> ! {
    let _all = GOING_ON.write();
    for lab in LABS.lock().iter().flat_map(|labs| labs.iter()) {
        let mut down = Command::new(programs().join("tartan"));
        // Another Ctrl-C is not for it.
        down.args(["lab", "down", "--name", lab]).stdin(Stdio::null()).process_group(0);
        if !down.status().is_ok_and(|status| status.success()) {
            eprintln!("lab {lab} is not down; try: tartan lab down --name {lab}");
        }
    }
    std::process::exit(INTERRUPTED)
}
