//! rustic, the other program that writes this repository format, compiled from its crate with its own lock file.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{command, log_error, logged, output};
use crate::error::{Error, Result};
use crate::layout::{self, Layout};
use crate::progress::Progress;

/// The version that the tests and the benchmark compare with.
pub const RUSTIC_VERSION: &str = "0.11.4";

/// Compiles rustic, once. Several minutes on two cores; a second caller waits for the first.
pub fn rustic(layout: &Layout, progress: &Progress) -> Result<PathBuf> {
    let _lock = layout.lock("rustic", || progress.say("waiting for another build of rustic"))?;
    let dir = layout.root().join("rustic").join(RUSTIC_VERSION);
    let program = dir.join("bin/rustic");
    if program.exists() {
        return Ok(program);
    }
    let log = layout.build_logs().join("rustic.log");
    layout::remove(&log)?;
    // Everything happens beside the final name: a build that was cut short is never taken for a whole one.
    let (out, work) = (dir.with_extension("new"), dir.with_extension("work"));
    layout::remove(&out)?;
    let built = progress.step(
        &format!("compiling rustic {RUSTIC_VERSION}"),
        || match std::fs::read_to_string(&log).map_or(0, |t| t.matches("Compiling ").count()) {
            0 => ", fetching crates".to_owned(),
            crates => format!(", {crates} crates begun"),
        },
        || logged("compiling rustic", &mut install(&out, &work)?, &log),
    );
    // The intermediate files are ten times the program, also after a failure.
    layout::remove(&work)?;
    built?;
    if !out.join("bin/rustic").exists() {
        return Err(log_error("compiling rustic", "the build made no such program", &log));
    }
    layout::remove(&dir)?;
    std::fs::rename(&out, &dir).map_err(Error::file("rename", &out))?;
    Ok(program)
}

fn install(out: &Path, work: &Path) -> Result<Command> {
    let mut cargo = command(cargo()?, &["install", "rustic-rs", "--version", RUSTIC_VERSION, "--locked"]);
    // Without its web server, terminal pages and telemetry, which nothing here uses.
    cargo.arg("--no-default-features").arg("--root").arg(out).arg("--target-dir").arg(work);
    cargo
        // The crate is published to be linked for many minutes; so it is as fast within a few percent.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        // What our own build is set to is not meant for it.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("CARGO_TARGET_DIR");
    Ok(cargo)
}

/// rustup puts it into the home directory, which is not in every PATH.
fn cargo() -> Result<PathBuf> {
    let at_home = std::env::var_os("HOME").map(|h| Path::new(&h).join(".cargo/bin/cargo"));
    let mut tried = Vec::new();
    for program in [Some(PathBuf::from("cargo")), at_home].into_iter().flatten() {
        match output(&mut command(&program, &["--version"])) {
            Ok(_) => return Ok(program),
            Err(error) => tried.push(error.to_string()),
        }
    }
    Err(Error::Unsupported(format!(
        "rustic is compiled from its crate, which needs cargo (https://rustup.rs) in PATH: {}",
        tried.join("; ")
    )))
}
