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
/// What libtest says of a test that stopped, perhaps amid its tables.
const FAILED: &str = "FAILED";

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
    // Where an aim is missed, the figures tell by how much; where nothing ran, the error says more than that.
    if outcome.is_ok() || tables.is_there() {
        write(root, &tables)?;
    }
    outcome
}

fn measuring(root: &Path) -> std::process::Command {
    let mut command = run::cargo(root, &["test", "--release", "-p", "tartan-scenarios"]);
    command.args(TESTS.iter().flat_map(|test| ["--test", test]));
    command.args(["--no-fail-fast", "--", "--ignored", "--nocapture", "--test-threads=1"]);
    command
}

fn write(root: &Path, tables: &Tables) -> Result<()> {
    if !tables.is_there() {
        bail!("the test printed no table between {BEGIN} and {END}");
    }
    let text = format!(
        "# Measurements\n\nWritten by `cargo xtask bench`.\n\n{}{}",
        machine::described(root)?,
        tables.text
    );
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
    fn is_there(&self) -> bool {
        !self.text.trim().is_empty()
    }

    fn see(&mut self, line: &str) {
        // With --nocapture libtest leaves `test NAME ... ` before a test's first line.
        if line.ends_with(BEGIN) {
            self.inside = true;
            self.text.push('\n');
        } else if line.ends_with(END) || line == FAILED {
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

    fn seen(lines: &str) -> Tables {
        let mut tables = Tables::default();
        lines.lines().for_each(|line| tables.see(line));
        tables
    }

    #[test]
    fn only_tables_are_kept() {
        let lines = "noise\ntest add ... BENCH-BEGIN\n| a |\n| 1 |\nBENCH-END\nok\nBENCH-BEGIN\n| b |\nBENCH-END\nnoise";
        assert_eq!(seen(lines).text, "\n| a |\n| 1 |\n\n| b |\n");
    }

    #[test]
    fn a_test_that_stops_amid_its_tables_leaves_what_it_had() {
        let lines = "test add ... BENCH-BEGIN\n| a |\nFAILED\n\nfailures:\n    add\ntest result: FAILED.";
        assert_eq!(seen(lines).text, "\n| a |\n");
        assert!(!seen("test add ... BENCH-BEGIN\nFAILED\nfailures:").is_there());
    }

    #[test]
    fn a_run_without_tables_writes_nothing() {
        let folder = std::env::temp_dir().join(format!("tartan-xtask-{}", std::process::id()));
        let error = write(&folder, &seen("BENCH-BEGIN")).unwrap_err();
        assert!(error.to_string().contains("no table"), "{error}");
        assert!(!folder.exists());
    }
}
