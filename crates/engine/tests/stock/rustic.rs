//! Stock rustic, the other program that writes this format.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::PASSWORD;

/// The variable that names its program, of version 0.11.4.
const VARIABLE: &str = "HOLDFAST_RUSTIC";

/// rustic on one repository.
#[derive(Debug, Clone)]
pub(crate) struct Rustic {
    program: PathBuf,
    repository: OsString,
    password: String,
}

impl Rustic {
    pub(crate) fn new(repository: impl AsRef<OsStr>) -> Self {
        let Some(program) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
            panic!(
                "{VARIABLE} is not set: it must name the program of rustic 0.11.4, which this test compares with. \
                 `make test` sets it; by hand: `testbed rustic` prints the path"
            )
        };
        assert!(program.is_file(), "{VARIABLE} names {}, which is no file", program.display());
        Self { program, repository: repository.as_ref().to_owned(), password: PASSWORD.to_owned() }
    }

    /// The same with another password.
    pub(crate) fn with_password(self, password: &str) -> Self {
        Self { password: password.to_owned(), ..self }
    }

    /// Runs it and returns what it prints; fails the test when it fails.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let nowhere = std::env::temp_dir();
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            // No profile of whoever runs the tests.
            .env("HOME", &nowhere)
            .env("XDG_CONFIG_HOME", nowhere.join("no-such-profiles"))
            .env("RUSTIC_REPOSITORY", &self.repository)
            .env("RUSTIC_PASSWORD", &self.password)
            .env("RUSTIC_NO_CACHE", "true")
            .env("RUSTIC_NO_PROGRESS", "true")
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        let output = command.output().unwrap_or_else(|e| panic!("{}: {e}", self.program.display()));
        let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command:?} ended with {}\n{said}{told}", output.status);
        // Some of its commands report errors and end well.
        assert!(!told.contains("[ERROR]") && !said.contains("[ERROR]"), "{command:?}\n{said}{told}");
        said.into_owned()
    }

    /// Backs up and returns the snapshot with its summary.
    pub(crate) fn backup(&self, source: &Path, host: &str) -> Value {
        let said = self.run([
            OsStr::new("backup"),
            OsStr::new("--json"),
            OsStr::new("--host"),
            OsStr::new(host),
            source.as_os_str(),
        ]);
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("no snapshot in JSON ({e}): {said}"))
    }

    /// Reads everything and finds no fault.
    pub(crate) fn check(&self) {
        self.run(["check", "--read-data"]);
    }

    /// Restores a directory of a snapshot to `target`.
    pub(crate) fn restore(&self, snapshot: &str, directory: &Path, target: &Path) {
        let what = format!("{snapshot}:{}", directory.display());
        self.run([OsStr::new("restore"), OsStr::new(&what), target.as_os_str()]);
    }

    /// Copies all snapshots into a repository, which is made first.
    pub(crate) fn copy(&self, to: &Path, profiles: &Path) {
        let profile = profiles.join("target.toml");
        let text =
            format!("[repository]\nrepository = {:?}\npassword = {:?}\n", to.display().to_string(), PASSWORD);
        std::fs::write(&profile, text).unwrap();
        self.run([OsStr::new("copy"), OsStr::new("--init"), OsStr::new("--target"), profile.as_os_str()]);
    }
}
