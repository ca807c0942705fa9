//! `cargo xtask tidy`: the laws of the house, checked by a machine.
//!
//! The laws are pure functions over a [`Workspace`], a value, so that each of them can be fed a breach in a test.

mod code;
mod floors;
mod read;
mod sources;
mod workspace;

use std::path::Path;

use anyhow::{Result, bail};

use workspace::{Breach, Workspace};

/// Reads the workspace and judges it; every breach is one line.
///
/// # Errors
/// When the workspace cannot be read or a law is broken.
pub(crate) fn run(root: &Path) -> Result<()> {
    let workspace = read::workspace(root)?;
    let breaches = breaches(&workspace);
    for breach in &breaches {
        println!("{breach}");
    }
    if !breaches.is_empty() {
        bail!("tidy: {} breaches of the laws of the house", breaches.len());
    }
    println!(
        "tidy: {} crates and {} files keep every law",
        workspace.members().count(),
        workspace.files.len()
    );
    Ok(())
}

fn breaches(workspace: &Workspace) -> Vec<Breach> {
    let mut found: Vec<Breach> =
        floors::LAWS.iter().chain(sources::LAWS).flat_map(|law| law(workspace)).collect();
    found.sort();
    found.dedup();
    found
}
