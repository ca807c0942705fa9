//! A write-ahead log that somebody else moves into the file.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::place::Place;
use crate::suite::{Ended, put};
use tartan_store::Store;

fn log_size(place: &Place) -> u64 {
    let mut log = place.file.clone().into_os_string();
    log.push("-wal");
    std::fs::metadata(Path::new(&log)).map_or(0, |log| log.len())
}

#[test]
fn a_log_that_is_left_alone_grows_until_another_moves_it() {
    let place = Place::new();
    let (writer, mover) = (place.open(), place.open());
    writer.leave_log().unwrap();
    let value = "x".repeat(10_000);
    for n in 0..800 {
        put(&writer, &format!("k{n}"), &value);
    }
    // Ordinary connections move it at 1000 pages of 4 KiB.
    assert!(log_size(&place) > 6 << 20, "{}", log_size(&place));
    mover.checkpoint().unwrap();
    assert_eq!(log_size(&place), 0);
    put(&writer, "last", "1");
    assert_eq!(mover.list("").unwrap().entries.len(), 801);
    drop((writer, mover));
    assert_eq!(place.open().list("").unwrap().entries.len(), 801);
}

#[test]
fn nobody_is_kept_from_writing_or_loses_anything_while_the_log_is_moved() {
    let place = Place::new();
    let (writer, mover) = (place.open(), place.open());
    writer.leave_log().unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                mover.checkpoint().unwrap();
            }
        });
        let _ended = Ended(&done);
        for n in 0..500 {
            let key = format!("k{n}");
            put(&writer, &key, &n.to_string());
            assert_eq!(writer.get(&key).unwrap().map(|entry| entry.value), Some(n.to_string().into_bytes()));
        }
    });
    assert_eq!(place.open().list("").unwrap().entries.len(), 500);
}
