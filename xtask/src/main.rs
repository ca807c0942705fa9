//! `cargo xtask`: everything about this workspace that is done more than once.
//!
//! Each command is one module. Programs are started directly, never through a shell.

mod bench;
mod bless;
mod debian;
mod draw;
mod machine;
mod run;
mod soak;
mod tally;
mod test;
mod tidy;
mod try_lab;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  cargo xtask try                     a cluster of three nodes on this machine, and its matrix
  cargo xtask try --family dual       the same with IPv4 and IPv6
  cargo xtask test                    everything CI runs
  cargo xtask test --only unit        one step of it
  cargo xtask tidy                    only the laws of the house, a second or two
  cargo xtask bless                   accept the new golden texts, then read the diff";

/// Build, try, check and measure Tartan.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring up a lab of three nodes and six pods here, show its status and who reaches whom (root).
    Try(try_lab::Options),
    /// Run everything CI runs and end with one line `N passed, N failed` (root).
    Test(test::Options),
    /// Check the laws of the house: floors, names, unsafe code, file sizes, decisions.
    #[command(after_help = "Each breach is one line: path, what, which law. Exit code 1 when there is any.")]
    Tidy,
    /// Run the tests and accept every golden text as it is now; shows what changed.
    #[command(after_help = "Example:\n  cargo xtask bless && git diff        read before you commit")]
    Bless,
    /// Measure and write bench/RESULTS.md (root).
    #[command(after_help = "Example:\n  cargo xtask bench && git diff bench/RESULTS.md")]
    Bench,
    /// Run what takes minutes (faults by chance, agents killed, thousands of pods) and write bench/SOAK.md (root).
    Soak(soak::Options),
}

fn main() -> ExitCode {
    match workspace_root().and_then(|root| dispatch(Cli::parse().command, &root)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb, root: &std::path::Path) -> Result<ExitCode> {
    match verb {
        Verb::Try(options) => try_lab::run(root, &options)?,
        Verb::Test(options) => return test::run(root, &options),
        Verb::Tidy => tidy::run(root)?,
        Verb::Bless => bless::run(root)?,
        Verb::Bench => bench::run(root)?,
        Verb::Soak(options) => soak::run(root, &options)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The folder above this crate: asked of cargo at run time, so that a moved checkout still works.
fn workspace_root() -> Result<PathBuf> {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = PathBuf::from(manifest).parent().map(PathBuf::from).context("xtask has no folder above it")?;
    anyhow::ensure!(
        root.join("Cargo.toml").is_file(),
        "no Cargo.toml in {}: run `cargo xtask`",
        root.display()
    );
    Ok(root)
}
