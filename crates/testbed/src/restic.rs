//! Stock restic of several versions, the oracle for our repository format, from Debian's package files.

use std::path::PathBuf;

use crate::command::{command, output};
use crate::debian::{self, Suite};
use crate::error::{Error, Result};
use crate::layout::{self, Layout};

/// The versions that the tests want and the suites that carry them.
const VERSIONS: &[(&str, &str)] = &[("0.14.0", "bookworm"), ("0.18.0", "trixie"), ("0.19.1", "sid")];

/// An unpacked stock restic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restic {
    /// The program.
    pub program: PathBuf,
    /// What it says it is; the newest suite may have moved past the version that was asked for.
    pub version: String,
}

/// The versions that [`restic`] knows, oldest first.
pub fn restic_versions() -> impl Iterator<Item = &'static str> {
    VERSIONS.iter().map(|(version, _)| *version)
}

/// Fetches and unpacks a stock restic, once; asked for by version ("0.19.1") or by suite ("sid").
pub fn restic(layout: &Layout, wanted: &str) -> Result<Restic> {
    let suite =
        VERSIONS.iter().find(|(v, s)| wanted == *v || wanted == *s).map(|(_, s)| *s).ok_or_else(|| {
            let known: Vec<String> = VERSIONS.iter().map(|(v, s)| format!("{v} ({s})")).collect();
            Error::Unsupported(format!("no restic {wanted:?} is known; there are {}", known.join(", ")))
        })?;
    let dir = layout.root().join("restic").join(suite);
    let program = dir.join("usr/bin/restic");
    let _lock = layout.lock(&format!("restic-{suite}"), || {})?;
    if !program.exists() {
        let packages = dir.with_extension("packages");
        layout::remove(&packages)?;
        let fetched = Suite::open(layout, suite)?.fetch(&["restic"], false, &[], &packages)?;
        let temporary = dir.with_extension("new");
        layout::remove(&temporary)?;
        debian::unpack(&fetched, &temporary)?;
        layout::remove(&dir)?;
        std::fs::rename(&temporary, &dir).map_err(Error::file("rename", &temporary))?;
        layout::remove(&packages)?;
    }
    // "restic 0.19.1 compiled with go1.24 on linux/amd64"
    let said = output(&mut command(&program, &["version"]))?;
    let version = said.split_whitespace().nth(1).unwrap_or("unknown").to_owned();
    Ok(Restic { program, version })
}
