//! Starting programs: shown before they run, streamed while they run, with errors that name them.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A `cargo` command in the workspace, by the cargo that started us.
pub(crate) fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = command(program, root, arguments);
    // What cargo told us of xtask itself would be told to build scripts, and have all built anew.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
    }
    command
}

/// A command with its arguments, started in `root`.
pub(crate) fn command(program: impl AsRef<OsStr>, root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root).args(arguments);
    command
}

/// Shows the command and runs it on our own terminal.
///
/// # Errors
/// When it cannot be started or does not end with 0.
pub(crate) fn shown(command: &mut Command) -> Result<()> {
    announce(command);
    let status = command.status().with_context(|| format!("cannot start `{}`", line_of(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line_of(command));
    }
    Ok(())
}

/// Shows the command, runs it, and lets `see` read each line of its output after we passed it on.
///
/// # Errors
/// When it cannot be started or read, or does not end with 0.
pub(crate) fn streamed(command: &mut Command, see: impl FnMut(&str)) -> Result<()> {
    streamed_as(command, |_| Ok(()), see)
}

/// As [`streamed`]; `begun` gets the command once it runs.
///
/// # Errors
/// As [`streamed`], and when `begun` fails.
pub(crate) fn streamed_as(
    command: &mut Command,
    begun: impl FnOnce(&Child) -> Result<()>,
    mut see: impl FnMut(&str),
) -> Result<()> {
    announce(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", line_of(command)))?;
    begun(&child)?;
    if let Some(output) = child.stdout.take() {
        pass_on(BufReader::new(output), &mut std::io::stdout().lock(), &mut see)?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{}` failed: {status}", line_of(command));
    }
    Ok(())
}

/// What the command writes to its standard output; its errors go to ours.
///
/// # Errors
/// When it cannot be started or does not end with 0.
pub(crate) fn captured(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", line_of(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", line_of(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the command runs and ends with 0, said to nobody.
pub(crate) fn works(command: &mut Command) -> bool {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A duration as people read it: `4.2 s`, `3 min 07 s`.
pub(crate) fn spoken(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}

fn announce(command: &Command) {
    println!("$ {}", line_of(command));
}

fn line_of(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    let words = std::iter::once(name).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Bytes that are no UTF-8 are passed on as they are: a test may print anything.
fn pass_on(mut output: impl BufRead, out: &mut impl Write, see: &mut impl FnMut(&str)) -> Result<()> {
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        out.write_all(&line)?;
        out.flush()?;
        see(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(spoken(Duration::from_millis(4_240)), "4.2 s");
        assert_eq!(spoken(Duration::from_secs(187)), "3 min 07 s");
    }

    #[test]
    fn a_command_that_fails_is_named() {
        let error = shown(&mut command("false", Path::new("/"), &["x"])).unwrap_err();
        assert!(error.to_string().starts_with("`false x` failed"), "{error}");
        let error = shown(&mut command("/no/such-program", Path::new("/"), &[])).unwrap_err();
        assert!(error.to_string().contains("cannot start `such-program`"), "{error}");
    }

    #[test]
    fn every_line_is_passed_on_as_it_is_and_seen_once() {
        let (mut out, mut seen) = (Vec::new(), Vec::new());
        pass_on(&b"a\n\xff\nb"[..], &mut out, &mut |line| seen.push(line.to_owned())).unwrap();
        assert_eq!(out, b"a\n\xff\nb");
        assert_eq!(seen, ["a", "\u{fffd}", "b"]);
    }
}
