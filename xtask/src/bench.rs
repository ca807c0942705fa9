//! `cargo xtask bench`: run the measuring test and keep its tables beside the machine's description.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::{debian, draw, machine, run};

/// Where the tables go, below the workspace.
const OUTPUT: &str = "bench/RESULTS.md";
/// Where the drawing of the traffic goes.
const DRAWING: &str = "bench/traffic.svg";
/// The tests that measure.
const TESTS: [&str; 5] = ["bench", "traffic", "drills", "scale", "policies"];
const BEGIN: &str = "BENCH-BEGIN";
const END: &str = "BENCH-END";

/// Builds, runs the test and writes its tables.
///
/// # Errors
/// When we are not root, a test fails, or none prints a table.
pub(crate) fn run(root: &Path) -> Result<()> {
    machine::require_root("`cargo xtask bench`")?;
    debian::ensure(&[debian::TO_BUILD, debian::TO_TEST].concat())?;
    run::shown(&mut run::cargo(root, &["build", "--release", "--workspace", "--bins"]))?;
    let mut tables = Tables::default();
    let outcome = run::streamed(&mut measuring(root), |line| tables.see(line));
    // Where an aim is missed, the figures tell by how much; where nothing ran, why tells more than that there is no table.
    if outcome.is_ok() || !tables.text.is_empty() {
        write(root, &tables.text)?;
    }
    outcome
}

fn measuring(root: &Path) -> std::process::Command {
    let mut command = run::cargo(root, &["test", "--release", "-p", "tartan-scenarios"]);
    command.args(TESTS.iter().flat_map(|test| ["--test", test]));
    command.args(["--no-fail-fast", "--", "--ignored", "--nocapture", "--test-threads=1"]);
    command
}

fn write(root: &Path, tables: &str) -> Result<()> {
    if tables.trim().is_empty() {
        bail!("the test printed no table between {BEGIN} and {END}");
    }
    let text =
        format!("# Measurements\n\nWritten by `cargo xtask bench`.\n\n{}{tables}", machine::described(root)?);
    let path = root.join(OUTPUT);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    std::fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("written: {OUTPUT}");
    let Some(drawing) = draw::svg(&text) else { return Ok(()) };
    std::fs::write(root.join(DRAWING), drawing).with_context(|| format!("cannot write {DRAWING}"))?;
    println!("written: {DRAWING}");
    Ok(())
}

/// The lines between the two marks, each table after an empty line.
#[derive(Default)]
struct Tables {
    text: String,
    inside: bool,
}

impl Tables {
    fn see(&mut self, line: &str) {
        // With --nocapture libtest leaves `test NAME ... ` before a test's first line.
        if line.ends_with(BEGIN) {
            self.inside = true;
            self.text.push('\n');
        } else if line.ends_with(END) {
            self.inside = false;
        } else if self.inside {
            self.text.push_str(line);
            self.text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tables_are_kept() {
        let mut tables = Tables::default();
        let lines = "noise\ntest add ... BENCH-BEGIN\n| a |\n| 1 |\nBENCH-END\nok\nBENCH-BEGIN\n| b |\nBENCH-END\nnoise";
        lines.lines().for_each(|line| tables.see(line));
        assert_eq!(tables.text, "\n| a |\n| 1 |\n\n| b |\n");
    }

    #[test]
    fn a_run_without_tables_writes_nothing() {
        let folder = std::env::temp_dir().join(format!("tartan-xtask-{}", std::process::id()));
        let error = write(&folder, "\n").unwrap_err();
        assert!(error.to_string().contains("no table"), "{error}");
        assert!(!folder.exists());
    }
}
