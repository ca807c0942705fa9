//! The programs that a lab runs, and how they are started where they belong.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result, bail};
use tartan_kernel::netns;

use crate::error::Usage;

/// Says where the programs are, if not beside the running one.
pub const DIRECTORY_VARIABLE: &str = "TARTAN_BIN_DIR";

/// The folder with `tartan`, `tartand` and `tartan-cni`.
#[derive(Debug, Clone)]
pub struct Programs(PathBuf);

impl Programs {
    /// Those beside the running program, or where [`DIRECTORY_VARIABLE`] says.
    ///
    /// # Errors
    /// When one is missing; says how to build it.
    pub fn find() -> Result<Programs> {
        let directory = match std::env::var_os(DIRECTORY_VARIABLE) {
            Some(directory) => PathBuf::from(directory),
            None => {
                let program = std::env::current_exe().context("cannot tell where this program is")?;
                program.parent().context("this program is in no folder")?.to_path_buf()
            }
        };
        Programs::within(directory)
    }

    /// Those of a folder.
    ///
    /// # Errors
    /// When one is missing; says how to build it.
    pub fn within(directory: PathBuf) -> Result<Programs> {
        for program in ["tartan", "tartand", "tartan-cni"] {
            if !directory.join(program).is_file() {
                bail!(Usage(format!(
                    "{program} is not in {}: the lab runs the programs that lie beside it; \
                     build them: cargo build --release --workspace --bins",
                    directory.display()
                )));
            }
        }
        Ok(Programs(directory))
    }

    /// The command line.
    pub fn tartan(&self) -> PathBuf {
        self.0.join("tartan")
    }

    /// The agent.
    pub fn tartand(&self) -> PathBuf {
        self.0.join("tartand")
    }

    /// The CNI plugin.
    pub fn plugin(&self) -> PathBuf {
        self.0.join("tartan-cni")
    }
}

/// Starts a program inside a network namespace.
///
/// # Errors
/// When the namespace cannot be entered or the program not started.
pub fn spawn_in(netns: BorrowedFd<'_>, command: &mut Command) -> Result<Child> {
    // A process begins in the namespace of the thread that starts it.
    let started: io::Result<Child> = netns::run_in(netns, || command.spawn())?;
    started.with_context(|| format!("cannot start {}", Path::new(command.get_program()).display()))
}
