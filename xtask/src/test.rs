//! `cargo xtask test`: everything CI runs, in one order, stopping at the first failure.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::tally::Tally;
use crate::{debian, machine, run, tidy};

const EXAMPLES: &str = "\
Examples:
  cargo xtask test                              everything, as CI does
  cargo xtask test --list                       the steps and what each one runs
  cargo xtask test --only clippy --only unit    two of them";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Run only this step (may be given several times; the order stays CI's).
    #[arg(long, value_name = "STEP")]
    only: Vec<Step>,
    /// List the steps and do nothing.
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    Packages,
    Format,
    Clippy,
    Tidy,
    Build,
    Unit,
    Scenarios,
}

/// Runs the chosen steps; the last line is the sum of all tests.
///
/// # Errors
/// When the chosen steps need root and we are not; a failed step is told on the way and ends with code 1.
pub(crate) fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    if options.list {
        list();
        return Ok(ExitCode::SUCCESS);
    }
    let steps = chosen(&options.only);
    if steps.contains(&Step::Scenarios) {
        machine::require_root("the step `scenarios`")?;
    }
    Ok(run_steps(root, &steps))
}

impl Step {
    /// What the step runs, for people.
    fn purpose(self) -> &'static str {
        match self {
            Step::Packages => "install missing Debian packages, look for rustfmt and clippy",
            Step::Format => "cargo fmt --all --check",
            Step::Clippy => "cargo clippy --workspace --all-targets -- -D warnings",
            Step::Tidy => "the laws of the house (cargo xtask tidy)",
            Step::Build => "cargo build --workspace --bins",
            Step::Unit => "cargo test --workspace --exclude tartan-scenarios",
            Step::Scenarios => "cargo test -p tartan-scenarios -- --test-threads=1 (namespaces, root)",
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn run(self, root: &Path, tally: &mut Tally) -> Result<()> {
        match self {
            Step::Packages => packages(root),
            Step::Format => run::shown(&mut run::cargo(root, &["fmt", "--all", "--check"])),
            Step::Clippy => run::shown(&mut run::cargo(
                root,
                &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
            )),
            Step::Tidy => tidy::run(root),
            Step::Build => run::shown(&mut run::cargo(root, &["build", "--workspace", "--bins"])),
            Step::Unit => cargo_test(root, &["--workspace", "--exclude", "tartan-scenarios"], tally),
            Step::Scenarios => cargo_test(root, &["-p", "tartan-scenarios", "--", "--test-threads=1"], tally),
        }
    }
}

fn list() {
    for step in Step::value_variants() {
        println!("{:<10} {}", step.name(), step.purpose());
    }
}

fn chosen(only: &[Step]) -> Vec<Step> {
    let wanted = |step: &Step| only.is_empty() || only.contains(step);
    Step::value_variants().iter().copied().filter(wanted).collect()
}

fn run_steps(root: &Path, steps: &[Step]) -> ExitCode {
    let begin = Instant::now();
    let mut tally = Tally::default();
    let failure =
        steps.iter().find_map(|&step| run_step(root, step, &mut tally).err().map(|error| (step, error)));
    println!("\ntotal: {}", run::spoken(begin.elapsed()));
    if let Some((step, error)) = &failure {
        println!("FAILED in step `{0}`: {error:#}\n  again: cargo xtask test --only {0}", step.name());
        // A build that breaks or a test program that dies writes no result line; the sum must not look green.
        tally.failed = tally.failed.max(1);
    }
    println!("{tally}");
    if failure.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_step(root: &Path, step: Step, tally: &mut Tally) -> Result<()> {
    println!("\n=== {}: {}", step.name(), step.purpose());
    let begin = Instant::now();
    let result = step.run(root, tally);
    let word = if result.is_ok() { "ok" } else { "FAILED" };
    println!("--- {}: {word} after {}", step.name(), run::spoken(begin.elapsed()));
    result
}

fn packages(root: &Path) -> Result<()> {
    debian::ensure(&[debian::TO_BUILD, debian::TO_TEST].concat())?;
    for component in ["fmt", "clippy"] {
        if !run::works(&mut run::cargo(root, &[component, "--version"])) {
            bail!("`cargo {component}` is missing: rustup component add rustfmt clippy");
        }
    }
    Ok(())
}

fn cargo_test(root: &Path, arguments: &[&str], tally: &mut Tally) -> Result<()> {
    let mut command = run::cargo(root, &["test"]);
    // A golden text that differs is a failure, and leaves no file behind; `bless` is for accepting it.
    command.args(arguments).env("INSTA_UPDATE", "no");
    run::streamed(&mut command, |line| tally.see(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_keep_the_order_of_ci() {
        assert_eq!(chosen(&[Step::Unit, Step::Format]), [Step::Format, Step::Unit]);
        assert_eq!(chosen(&[]), Step::value_variants());
    }

    #[test]
    fn steps_are_called_by_their_names() {
        assert_eq!(Step::Scenarios.name(), "scenarios");
    }
}
