//! Stock restic and rustic, the oracles that the engine is compared with. Its programs come from the environment; a test that
//! needs one fails when it is not set, since a comparison that did not take place proves nothing.
#![allow(dead_code, unused_imports, reason = "each test file uses its part of it")]

mod rustic;
mod source;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub(crate) use rustic::Rustic;
pub(crate) use source::*;

/// Password of every test repository; long, so that our own key derivation is quick.
pub(crate) const PASSWORD: &str = "correct horse battery staple correct horse battery staple 123456";

/// The versions that must read what we write, oldest first, and the variables that name their programs: the first
/// that knows format version 2, Debian stable's, and the newest.
pub(crate) const VERSIONS: [(&str, &str); 3] =
    [("0.14", "HOLDFAST_RESTIC_0_14"), ("0.18", "HOLDFAST_RESTIC_0_18"), ("0.19", "HOLDFAST_RESTIC_0_19")];

/// A stock restic on one repository.
#[derive(Debug, Clone)]
pub(crate) struct Restic {
    /// `0.14`, `0.18` or `0.19`.
    pub(crate) version: &'static str,
    program: PathBuf,
    repository: OsString,
    password: String,
}

impl Restic {
    /// The restic of this version, e.g. `0.19`, on a repository: a directory, or a location as restic writes it.
    pub(crate) fn new(version: &'static str, repository: impl AsRef<OsStr>) -> Self {
        let (_, variable) = VERSIONS.iter().find(|(v, _)| *v == version).expect("a version that is tested");
        let Some(program) = std::env::var_os(variable).map(PathBuf::from) else {
            panic!(
                "{variable} is not set: it must name the program of restic {version}, which this test compares with. \
                 `make test` sets it; by hand: download that version and export {variable}=/path/to/restic"
            )
        };
        assert!(program.is_file(), "{variable} names {}, which is no file", program.display());
        Self { version, program, repository: repository.as_ref().to_owned(), password: PASSWORD.to_owned() }
    }

    /// The same with another password.
    pub(crate) fn with_password(self, password: &str) -> Self {
        Self { password: password.to_owned(), ..self }
    }

    /// All versions on one repository, oldest first.
    pub(crate) fn all(repository: impl AsRef<OsStr>) -> Vec<Self> {
        VERSIONS.iter().map(|(version, _)| Self::new(version, repository.as_ref())).collect()
    }

    /// The newest.
    pub(crate) fn newest(repository: impl AsRef<OsStr>) -> Self {
        Self::new("0.19", repository)
    }

    /// A command on the repository, ready for more arguments.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--repo")
            .arg(&self.repository)
            .args(["--no-cache"])
            .args(arguments)
            .env("RESTIC_PASSWORD", &self.password)
            // As our trees: a device number only where hard links need it (known from 0.17 on).
            .env("RESTIC_FEATURES", if self.version == "0.19" { "device-id-for-hardlinks=true" } else { "" })
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        command
    }

    /// Runs it and gives back what it said, whether it succeeded or not.
    pub(crate) fn output<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        self.command(arguments).output().unwrap_or_else(|e| panic!("{}: {e}", self.program.display()))
    }

    /// Runs it and returns what it prints; fails the test when it fails.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let mut command = self.command(arguments);
        let output = command.output().unwrap_or_else(|e| panic!("{}: {e}", self.program.display()));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{command:?} ended with {}\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Reads everything and finds no fault.
    pub(crate) fn check(&self) {
        let said = self.run(["check", "--read-data"]);
        assert!(said.contains("no errors were found"), "{said}");
    }

    /// Backs up and returns the summary.
    pub(crate) fn backup(&self, source: &Path, host: &str, more: &[&str]) -> Value {
        let mut arguments: Vec<&OsStr> = ["backup", "--json", "--host", host].map(OsStr::new).to_vec();
        arguments.extend(more.iter().map(OsStr::new));
        arguments.push(source.as_os_str());
        let said = self.run(arguments);
        let last = said.lines().last().expect("a summary");
        let summary: Value = serde_json::from_str(last).expect("a summary in JSON");
        assert_eq!(summary["message_type"], "summary", "{said}");
        summary
    }

    /// Restores a snapshot; the source's path is below `target`.
    pub(crate) fn restore(&self, snapshot: &str, target: &Path) {
        self.run([OsStr::new("restore"), OsStr::new(snapshot), OsStr::new("--target"), target.as_os_str()]);
    }
}
