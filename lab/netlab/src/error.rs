//! The failures that a caller tells apart, as they have exit codes of their own. All others are plain.

use thiserror::Error;

/// The request is wrong, or does not fit the lab as it is.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// An agent does not answer.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// The person at the keyboard said stop.
#[derive(Debug, Error)]
#[error("interrupted")]
pub struct Interrupted;

/// The exit code that an error of this crate deserves: 2 wrong usage, 3 an agent cannot be reached, 130 interrupted,
/// 1 everything else.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Interrupted>() {
        130
    } else if error.is::<Usage>() {
        2
    } else if error.is::<Unreachable>() {
        3
    } else {
        1
    }
}

/// Teardown never stops early: all of it has been tried when this is called, and what failed becomes one error.
///
/// # Errors
/// When anything failed.
pub(crate) fn gather(
    what: &str,
    results: impl IntoIterator<Item = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let failed: Vec<String> =
        results.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    if failed.is_empty() { Ok(()) } else { anyhow::bail!("{what}: {}", failed.join("\n  ")) }
}

/// Network namespaces are made by root only.
///
/// # Errors
/// [`Usage`] when we are somebody else.
pub fn require_root() -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    anyhow::bail!(Usage("a lab is made of network namespaces, which takes root: try again with sudo".into()))
}
