//! Debian packages: which are missing, and installing them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::{machine, run};

/// What a build needs: rusqlite compiles SQLite's C, libbpf-sys libbpf's, and clang makes programs for the kernel.
pub(crate) const TO_BUILD: &[&str] =
    &["gcc", "libc6-dev", "make", "pkg-config", "clang", "libelf-dev", "zlib1g-dev"];

/// What the tests need besides: programs they compare us with.
pub(crate) const TO_TEST: &[&str] = &[
    "git",
    "iproute2",
    "nftables",
    "iptables",
    "tcpdump",
    "strace",
    "iputils-ping",
    "containernetworking-plugins",
    "podman",
    "busybox-static",
    "libfaketime",
    // Its service does not start in a container; where it does, `systemctl disable --now etcd` frees port 2379, which no test needs.
    "etcd-server",
    "etcd-client",
];

/// Installs those of `packages` that are missing; on another system says which to have.
///
/// # Errors
/// When packages are missing and we are not root, or apt-get fails.
pub(crate) fn ensure(packages: &[&str]) -> Result<()> {
    if !run::works(&mut run::command("dpkg-query", Path::new("/"), &["--version"])) {
        println!("no dpkg-query here: be sure to have what Debian calls {}", packages.join(", "));
        return Ok(());
    }
    let missing = missing(packages, &installed(packages)?);
    if missing.is_empty() {
        println!("Debian packages: all there ({})", packages.join(", "));
        return Ok(());
    }
    install(&missing)
}

fn install(missing: &[&str]) -> Result<()> {
    let wanted = missing.join(" ");
    if !machine::is_root()? {
        bail!(
            "missing Debian packages: {wanted}\n  as root: apt-get install --no-install-recommends {wanted}"
        );
    }
    println!("installing missing Debian packages: {wanted}");
    // A source that cannot be reached need not be the one we install from: let the install decide.
    if let Err(error) = apt_get(&["update"]) {
        eprintln!("warning: {error:#}; going on with the package lists at hand");
    }
    let arguments: Vec<&str> =
        ["install", "-y", "--no-install-recommends"].iter().chain(missing).copied().collect();
    apt_get(&arguments).with_context(|| format!("cannot install {wanted}"))
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = run::command("apt-get", Path::new("/"), arguments);
    run::shown(command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()))
}

/// The lines that dpkg-query writes; it ends with 1 when it does not know one of the names.
fn installed(packages: &[&str]) -> Result<String> {
    let mut command = run::command("dpkg-query", Path::new("/"), &["-W", "-f=${Package} ${Status}\\n"]);
    let output = command.args(packages).stderr(Stdio::null()).output().context("cannot start dpkg-query")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn missing<'a>(packages: &[&'a str], report: &str) -> Vec<&'a str> {
    let there: BTreeSet<&str> =
        report.lines().filter_map(|line| line.strip_suffix(" install ok installed")).collect();
    packages.iter().copied().filter(|package| !there.contains(package)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_and_unknown_packages_are_missing() {
        let report = "gcc install ok installed\nstrace deinstall ok config-files\n";
        assert_eq!(missing(&["gcc", "strace", "nftables"], report), ["strace", "nftables"]);
    }
}
