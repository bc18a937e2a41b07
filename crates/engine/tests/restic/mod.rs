//! Runs stock restic, the oracle of every test of the format. Its path comes from the environment; a test that
//! needs it fails when it is not set, since a comparison that did not take place proves nothing.
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The password of every test repository; long, so that our own key derivation is quick.
pub(crate) const PASSWORD: &str = "correct horse battery staple correct horse battery staple 123456";

/// One version of restic.
#[derive(Debug, Clone)]
pub(crate) struct Restic {
    /// `0.14`, `0.18` or `0.19`.
    pub(crate) version: &'static str,
    path: PathBuf,
}

impl Restic {
    /// The version that `HOLDFAST_RESTIC_<version>` points to.
    pub(crate) fn new(version: &'static str) -> Self {
        let variable = format!("HOLDFAST_RESTIC_{}", version.replace('.', "_"));
        let path = std::env::var_os(&variable).unwrap_or_else(|| {
            panic!("set {variable} to the path of a restic {version} binary (`make test` does), or leave this test out")
        });
        Self { version, path: path.into() }
    }

    /// The oldest that knows format version 2, Debian stable's, and the newest.
    pub(crate) fn all() -> [Self; 3] {
        ["0.14", "0.18", "0.19"].map(Self::new)
    }

    /// The newest.
    pub(crate) fn newest() -> Self {
        Self::new("0.19")
    }

    /// A command on a repository, ready for more arguments.
    pub(crate) fn command(&self, repository: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command
            .arg("--repo")
            .arg(repository)
            .args(["--no-cache"])
            .args(arguments)
            .env("RESTIC_PASSWORD", PASSWORD)
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        command
    }

    /// Runs it and gives back what it said, whether it succeeded or not.
    pub(crate) fn output(&self, repository: &Path, arguments: &[&str]) -> Output {
        self.command(repository, arguments)
            .output()
            .unwrap_or_else(|e| panic!("{}: {e}", self.path.display()))
    }

    /// Runs it, demands success, and gives back its standard output.
    pub(crate) fn run(&self, repository: &Path, arguments: &[&str]) -> String {
        let output = self.output(repository, arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(
            output.status.success(),
            "restic {} {arguments:?}: {}\n{out}\n{err}",
            self.version,
            output.status
        );
        out.into_owned()
    }
}
