//! The machine we run on: who we are, and the lines a figure needs beside it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::run;

/// Whether our effective user is root.
///
/// # Errors
/// When /proc is not mounted.
pub(crate) fn is_root() -> Result<bool> {
    // The owner of /proc/self is the effective user: proc(5).
    Ok(std::fs::metadata("/proc/self").context("cannot read /proc/self")?.uid() == 0)
}

/// Refuses early, before minutes of building.
///
/// # Errors
/// When we are not root.
pub(crate) fn require_root(what: &str) -> Result<()> {
    if !is_root()? {
        bail!("{what} makes network namespaces and needs root: run it again as root");
    }
    Ok(())
}

/// Machine, date and commit as a Markdown list.
///
/// # Errors
/// When `date` or /proc cannot be read.
pub(crate) fn described(root: &Path) -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let kernel =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    let date = run::captured(&mut run::command("date", root, &["-u", "+%Y-%m-%d %H:%M UTC"]))?;
    Ok(format!(
        "- machine: {cores} cores ({})\n- kernel: {}\n- date: {}\n- commit: {}\n",
        processor(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        kernel.trim(),
        date.trim(),
        commit(root),
    ))
}

fn processor(cpuinfo: &str) -> &str {
    let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
    model.and_then(|line| line.split_once(": ")).map_or("model unknown", |(_, model)| model.trim())
}

/// Short hash, with `-dirty` when files differ from it; an unpacked archive has none.
fn commit(root: &Path) -> String {
    let described = run::captured(&mut git(root, &["describe", "--always", "--dirty", "--exclude=*"]));
    described.map_or_else(|_| "unknown".to_owned(), |hash| hash.trim().to_owned())
}

/// `git` in the workspace, also when root looks at a checkout of somebody else.
pub(crate) fn git(root: &Path, arguments: &[&str]) -> std::process::Command {
    let mut command = run::command("git", root, &["-c", &format!("safe.directory={}", root.display())]);
    command.args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_named_once() {
        assert_eq!(
            processor("processor\t: 0\nmodel name\t: Loom 3000\nmodel name\t: Loom 3000\n"),
            "Loom 3000"
        );
        assert_eq!(processor("Features : fp"), "model unknown");
    }
}
