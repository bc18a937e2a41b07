//! What can go wrong in the test bed, worded for the person in front of the terminal. Not for the product.

use std::io;
use std::path::PathBuf;

/// The test bed's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the test bed. `Display` says what was tried and what to do; causes are in `source`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried, as a verb ("read", "write", …).
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("cannot start {program}; is it installed? `testbed build` installs the Debian packages it needs")]
    Start {
        /// The program's name.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program ended with a failure.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// The command line.
        command: String,
        /// Exit status or signal.
        status: String,
        /// The end of what it wrote to stderr.
        output: String,
    },
    /// A step of the build, or a daemon, failed; its output is in a log file.
    #[error("{what} failed ({status}); the whole log is {log}, and it ends with:\n{tail}", log = log.display())]
    Logged {
        /// What was being done.
        what: String,
        /// Exit status, signal or what was missing.
        status: String,
        /// Where the whole log is.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// Something did not become true in time.
    #[error("{what} did not happen within {seconds} s; {hint}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long, in seconds.
        seconds: u64,
        /// Where to look.
        hint: String,
    },
    /// Namespaces, mounts and cgroups need root.
    #[error("the test bed makes namespaces, mounts and cgroups and must run as root; try `sudo -E`")]
    NotRoot,
    /// No test bed is up (or it is half up).
    #[error("the test bed in {root} is not up; run `testbed up`", root = root.display())]
    NotUp {
        /// The state directory that was looked at.
        root: PathBuf,
    },
    /// A file of the test bed does not hold what it should.
    #[error("{path} does not hold what the test bed wrote; run `testbed down` and `testbed up`", path = path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The machine, or the request, is not what the test bed can work with.
    #[error("{0}")]
    Unsupported(String),
    /// Something of the test bed is still on the machine after `down`.
    #[error("the test bed left something behind:\n{}", .0.join("\n"))]
    Leftovers(Vec<String>),
}

impl Error {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

/// The error and its causes in one line each, for the edge of a program.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str("\n  because: ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
