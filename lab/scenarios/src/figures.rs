//! Figures: rows of the benchmarks' tables, and what a process used.

use std::fs;
use std::time::Duration;

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// A row of the table: what, figure, aim.
pub fn row(what: &str, figure: &str, aim: &str) {
    println!("| {what} | {figure} | {aim} |");
}

/// A row with the median and the 99th percentile.
pub fn spread(what: &str, mut times: Vec<Duration>, aim: &str) {
    let (p50, p99) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99));
    row(what, &format!("p50 {p50:.2} ms, p99 {p99:.2} ms"), aim);
}

/// The value below which this share of the times lies, in milliseconds.
pub fn quantile(times: &mut [Duration], share: f64) -> f64 {
    times.sort();
    let at = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1;
    times[at].as_secs_f64() * 1e3
}

/// User and system time of a process, also of threads that have ended.
pub fn cpu(pid: i32) -> Duration {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).expect("the process is there");
    Duration::from(clock.now().expect("its clock"))
}

/// How often the threads of a process have waited for something, or for the time to come.
pub fn switches(pid: i32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let number = |status: String| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
    };
    statuses.filter_map(number).sum()
}

/// Resident memory of a process in KiB.
pub fn resident_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
