//! `cargo xtask try`: a cluster on this machine, from nothing to a full matrix.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use crate::{debian, machine, run};

const EXAMPLES: &str = "\
Examples:
  cargo xtask try                          three nodes, six pods, IPv4
  cargo xtask try --family dual            any flag of `tartan lab up` may follow
  cargo xtask try --nodes 5 --name blue    a second lab beside the first";

/// Used unless the caller gives the same flag.
const DEFAULTS: [(&str, &str); 3] = [("--preset", "flannel"), ("--nodes", "3"), ("--pods", "2")];
const DEFAULT_NAME: &str = "lab";
/// Where labs keep the files of their nodes, a folder each.
const LABS: &str = "/run/tartan-lab";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Flags for `tartan lab up`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAG")]
    up: Vec<String>,
}

/// Builds, brings the lab up, shows it, and offers to take it down.
///
/// # Errors
/// When we are not root, a build or the lab fails, or a pod does not reach another.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    machine::require_root("`cargo xtask try`")?;
    println!("1/4 what the build needs");
    debian::ensure(debian::TO_BUILD)?;
    println!("\n2/4 building the three programs (minutes the first time, seconds after)");
    run::shown(&mut run::cargo(root, &["build", "--release", "--workspace", "--bins"]))?;
    let lab =
        Lab { root, program: program(root)?, name: value_of(&options.up, "--name").unwrap_or(DEFAULT_NAME) };
    println!("\n3/4 the lab `{}`", lab.name);
    lab.up(&options.up)?;
    println!("\n4/4 what is there, and who reaches whom");
    let shown = lab.show();
    lab.say_what_next();
    lab.offer_down()?;
    shown
}

struct Lab<'a> {
    root: &'a Path,
    program: PathBuf,
    name: &'a str,
}

impl Lab<'_> {
    fn up(&self, flags: &[String]) -> Result<()> {
        if Path::new(LABS).join(self.name).is_dir() {
            println!("it is already up: going on with it as it is, with the programs it was started with");
            println!("(for a fresh one: {} first)", self.down_command());
            return Ok(());
        }
        let begin = Instant::now();
        let arguments = up_arguments(flags);
        run::shown(&mut run::command(&self.program, self.root, &words(&arguments))).with_context(|| {
            format!("the lab did not come up; what is left of it goes with `{}`", self.down_command())
        })?;
        println!("up after {}", run::spoken(begin.elapsed()));
        Ok(())
    }

    fn show(&self) -> Result<()> {
        let status = self.lab("status");
        let matrix = self.lab("matrix").context("the matrix is not full");
        status.and(matrix)
    }

    fn lab(&self, verb: &str) -> Result<()> {
        run::shown(&mut run::command(&self.program, self.root, &["lab", verb, "--name", self.name]))
    }

    fn say_what_next(&self) {
        let (tartan, lab, flag) = (self.spoken_program(), self.name, self.name_flag());
        println!("\nTry next:");
        println!("  {tartan} --lab {lab} --node n1 peers    # how n1 reaches the others");
        println!("  {tartan} lab fault add kill n2{flag}    # kill an agent: traffic goes on");
        println!("  {tartan} lab exec{flag} p1 -- sh    # a shell in a pod's network");
    }

    fn offer_down(&self) -> Result<()> {
        if std::io::stdin().is_terminal() && said_yes("\ntake the lab down now? [y/N] ")? {
            return self.lab("down");
        }
        println!("\nThe lab stays up. To take it down:\n  {}", self.down_command());
        Ok(())
    }

    fn down_command(&self) -> String {
        format!("{} lab down{}", self.spoken_program(), self.name_flag())
    }

    fn name_flag(&self) -> String {
        if self.name == DEFAULT_NAME { String::new() } else { format!(" --name {}", self.name) }
    }

    /// As one types it in the workspace.
    fn spoken_program(&self) -> String {
        self.program.strip_prefix(self.root).unwrap_or(&self.program).display().to_string()
    }
}

/// Beside the programs that `tartan lab` starts, wherever cargo was told to build.
fn program(root: &Path) -> Result<PathBuf> {
    let mut question = cargo_metadata::MetadataCommand::new();
    let answer =
        question.manifest_path(root.join("Cargo.toml")).no_deps().exec().context("cargo metadata failed")?;
    Ok(answer.target_directory.join("release/tartan").into_std_path_buf())
}

fn up_arguments(flags: &[String]) -> Vec<String> {
    let unset = DEFAULTS.iter().filter(|(flag, _)| !has(flags, flag));
    let defaults = unset.flat_map(|(flag, value)| [*flag, *value]);
    ["lab", "up"].into_iter().chain(defaults).map(str::to_owned).chain(flags.iter().cloned()).collect()
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

fn has(flags: &[String], flag: &str) -> bool {
    flags.iter().any(|word| word == flag || word.strip_prefix(flag).is_some_and(|rest| rest.starts_with('=')))
}

fn value_of<'a>(flags: &'a [String], flag: &str) -> Option<&'a str> {
    let joined = flags.iter().find_map(|word| word.strip_prefix(flag)?.strip_prefix('='));
    joined.or_else(|| flags.iter().skip_while(|word| *word != flag).nth(1).map(String::as_str))
}

fn said_yes(question: &str) -> Result<bool> {
    print!("{question}");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_callers_flags_replace_the_defaults() {
        assert_eq!(up_arguments(&[]), flags("lab up --preset flannel --nodes 3 --pods 2"));
        assert_eq!(
            up_arguments(&flags("--nodes=5 --pods 1 --family dual")),
            flags("lab up --preset flannel --nodes=5 --pods 1 --family dual")
        );
    }

    #[test]
    fn the_labs_name_is_found_in_both_spellings() {
        assert_eq!(value_of(&flags("--nodes 5 --name blue"), "--name"), Some("blue"));
        assert_eq!(value_of(&flags("--name=red"), "--name"), Some("red"));
        assert_eq!(value_of(&flags("--nodes 5"), "--name"), None);
    }
}
