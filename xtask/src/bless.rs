//! `cargo xtask bless`: accept every golden text as it is now.

use std::path::Path;

use anyhow::Result;

use crate::{machine, run};

/// Runs the tests with insta set to overwrite, then shows what changed.
///
/// # Errors
/// When a test fails for another reason than its golden text; the changes are shown all the same.
pub(crate) fn run(root: &Path) -> Result<()> {
    run::shown(&mut run::cargo(root, &["build", "--workspace", "--bins"]))?;
    let units = cargo_test(root, &["--workspace", "--exclude", "tartan-scenarios"]);
    let scenarios = scenarios(root);
    run::shown(&mut machine::git(root, &["--no-pager", "diff", "--stat"]))?;
    println!("new golden texts:");
    run::shown(&mut machine::git(root, &["ls-files", "--others", "--exclude-standard", "*.snap"]))?;
    units.and(scenarios)
}

fn scenarios(root: &Path) -> Result<()> {
    if !machine::is_root()? {
        println!("not root: the golden texts of lab/scenarios stay as they are");
        return Ok(());
    }
    cargo_test(root, &["-p", "tartan-scenarios"])
}

/// One test at a time: the scenarios share the machine.
fn cargo_test(root: &Path, packages: &[&str]) -> Result<()> {
    let mut command = run::cargo(root, &["test", "--no-fail-fast"]);
    run::shown(command.args(packages).args(["--", "--test-threads=1"]).env("INSTA_UPDATE", "always"))
}
