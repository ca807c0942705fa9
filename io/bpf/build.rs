//! Compiles the programs for the kernel.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=src/guard.bpf.c");
    println!("cargo::rerun-if-changed=src/kernel.h");
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let out = PathBuf::from(env::var("OUT_DIR").map_err(|error| error.to_string())?).join("guard.bpf.o");
    // Little and big endian are told apart by the machine that it is built for.
    let target = match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb",
        _ => "bpfel",
    };
    let status = Command::new(&clang)
        .args(["-target", target, "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-c"])
        .arg("src/guard.bpf.c")
        .arg("-o")
        .arg(&out)
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{clang} cannot compile src/guard.bpf.c for BPF: {status}")),
        Err(error) => Err(format!(
            "cannot start {clang}: {error}\n  programs for the kernel are compiled by clang: apt-get install clang, or set CLANG"
        )),
    }
}
