//! `cargo xtask soak`: run what takes minutes, and keep its figures beside the machine's description.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{debian, machine, run};

const EXAMPLES: &str = "\
Examples:
  cargo xtask soak                    all of it: about an hour
  cargo xtask soak --only stories     a hundred seeded sequences of faults
  cargo xtask soak --only kills       a thousand agents killed under probes
  cargo xtask soak --only pods        ten thousand pods
  cargo xtask soak --only births      ten thousand pods started under policies
  cargo xtask soak --only changes     a minute of a thousand changes of policy a second
  cargo xtask soak --only pairs       ten million pairs of policies and flows, compiled and by the reference
  cargo xtask soak --only sets        two thousand random sets of policies, by packets
  cargo xtask soak --only etcd_away   ten minutes without etcd, which then has all that it had
  cargo xtask soak --only etcd_wiped  the same, and then it is empty";

/// Where the table goes, below the workspace.
const OUTPUT: &str = "bench/SOAK.md";
/// Begins a row of the table, wherever it stands in a line.
const MARK: &str = "SOAK-ROW ";
const HEADER: &str = "| what | figure | aim | took |\n|---|---|---|---|\n";

/// A test that CI runs a short time, and that goes on here.
struct Longer {
    name: &'static str,
    /// What was held, for the table.
    what: &'static str,
    arguments: &'static [&'static str],
    /// Says how much of it, and how much.
    variable: (&'static str, &'static str),
}

const LONGER: [Longer; 2] = [
    Longer {
        name: "pairs",
        what: "10 million random pairs of objects and flow: what is compiled and explained against the reference",
        arguments: &["-p", "tartan-policy", "--test", "engine"],
        variable: ("TARTAN_POLICY_CASES", "100000"),
    },
    Longer {
        name: "sets",
        what: "2,000 random sets of policies, routed and bridged: packets and `explain` against the reference",
        arguments: &["-p", "tartan-scenarios", "--test", "policy", "random"],
        variable: ("TARTAN_POLICY_SETS", "2000"),
    },
];

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Run only the test of this name; the file stays as it is.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// Builds, runs the tests, shows their table and, when all were run and passed, writes it.
///
/// # Errors
/// When we are not root, a test fails, none is called so, or somebody says stop; no lab is left in any case.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    machine::require_root("`cargo xtask soak`")?;
    debian::ensure(&[debian::TO_BUILD, debian::TO_TEST].concat())?;
    run::shown(&mut run::cargo(root, &["build", "--release", "--workspace", "--bins"]))?;
    let only = options.only.as_deref();
    let mut longer = LONGER.iter().filter(|longer| only.is_none_or(|name| name == longer.name)).peekable();
    let mut rows = String::new();
    let outcome = match only.is_some() && longer.peek().is_some() {
        true => Ok(()),
        false => run::streamed_as(&mut soaking(root, options), pass_signals_on, |line| see(line, &mut rows)),
    };
    let outcome = outcome.and_then(|()| longer.try_for_each(|longer| go_on(root, longer, &mut rows)));
    println!("\n{HEADER}{rows}");
    outcome?;
    match only {
        Some(name) if rows.is_empty() => bail!("no test is called {name}; see cargo xtask soak --help"),
        Some(_) => Ok(()),
        None => write(root, &rows),
    }
}

fn go_on(root: &Path, longer: &Longer, rows: &mut String) -> Result<()> {
    let test = |last: &[&str]| {
        let mut command = run::cargo(root, &[&["test", "--release"], longer.arguments, last].concat());
        command.env(longer.variable.0, longer.variable.1);
        command
    };
    run::shown(&mut test(&["--no-run"]))?;
    let start = Instant::now();
    run::shown(&mut test(&["--", "--test-threads=1"]))?;
    let took = start.elapsed().as_secs();
    rows.push_str(&format!("| {} | no difference | none | {took} s |\n", longer.what));
    Ok(())
}

fn soaking(root: &Path, options: &Options) -> Command {
    let mut command =
        run::cargo(root, &["test", "--release", "-p", "tartan-scenarios", "--test", "soak", "--"]);
    command.args(["--ignored", "--nocapture", "--test-threads=1"]);
    if let Some(name) = &options.only {
        command.args(["--exact", name]);
    }
    // Of its own, so that it hears of Ctrl-C from us only, and once.
    command.process_group(0);
    command
}

/// Tells the tests when somebody says stop: they take their labs down before they end, which we wait for.
fn pass_signals_on(child: &Child) -> Result<()> {
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let (mut heard, told) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, told.try_clone()?)
            .context("cannot watch for signals")?;
    }
    std::thread::spawn(move || {
        if heard.read(&mut [0]).is_ok() {
            // Standard output is held by what passes the tests' lines on.
            eprintln!("\nstopping; the lab goes first");
            // The tests may have just ended.
            killpg(group, Signal::SIGTERM).ok();
        }
    });
    Ok(())
}

fn see(line: &str, rows: &mut String) {
    if let Some((_, row)) = line.split_once(MARK) {
        rows.push_str(row);
        rows.push('\n');
    }
}

fn write(root: &Path, rows: &str) -> Result<()> {
    if rows.is_empty() {
        bail!("the tests printed no row that begins with {MARK}");
    }
    let machine = machine::described(root)?;
    let text = format!("# Endurance\n\nWritten by `cargo xtask soak`.\n\n{machine}\n{HEADER}{rows}");
    std::fs::write(root.join(OUTPUT), text).with_context(|| format!("cannot write {OUTPUT}"))?;
    println!("written: {OUTPUT}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_are_kept() {
        let mut rows = String::new();
        for line in ["noise", "test kills ... SOAK-ROW | a | 1 |", "ok", "SOAK-ROW | b | 2 |"] {
            see(line, &mut rows);
        }
        assert_eq!(rows, "| a | 1 |\n| b | 2 |\n");
    }
}
