//! Failures as a person meets them: what happened, and what to do about it.

use holdfast_engine::error::{Error, ErrorKind};
use serde_json::json;

use crate::exit;

/// A command that was not done.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{cause}")]
pub struct Failure {
    /// One line: what was tried, on what, and why it failed.
    pub cause: String,
    /// One line: what to do about it.
    pub advice: Option<String>,
    /// The engine's kind, or `Usage`.
    pub kind: &'static str,
    /// Exit code.
    pub code: u8,
}

/// Result of everything in this crate that can fail.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// The command makes no sense as it was given.
    pub fn usage(cause: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { cause: cause.into(), advice: Some(advice.into()), kind: "Usage", code: exit::FATAL }
    }

    /// The failure as scripts read it: restic's `exit_error`, with the kind and the advice added.
    pub fn to_json(&self) -> String {
        json!({
            "message_type": "exit_error",
            "code": self.code,
            "message": self.cause,
            "kind": self.kind,
            "advice": self.advice,
        })
        .to_string()
    }
}

impl From<&clap::Error> for Failure {
    /// The first paragraph says what is wrong, those behind it what is right.
    fn from(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let (cause, advice) = text.trim().split_once("\n\n").unwrap_or((text.trim(), ""));
        let cause = cause.strip_prefix("error: ").unwrap_or(cause);
        Self::usage(one_line(cause), one_line(advice))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = error.kind();
        // That nothing is there says it all: how each store words it (S3: a page of XML) only frightens.
        let cause = if kind == ErrorKind::NotARepository { error.to_string() } else { error.chain() };
        Self {
            cause: one_line(&cause),
            advice: advice(kind).map(str::to_owned),
            kind: kind.as_str(),
            code: code(kind),
        }
    }
}

/// The exit code of a failure of this kind: restic's, where it has one.
fn code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NotARepository => exit::NO_REPOSITORY,
        ErrorKind::Locked => exit::LOCKED,
        ErrorKind::WrongPassword => exit::WRONG_PASSWORD,
        ErrorKind::Cancelled => exit::INTERRUPTED,
        _ => exit::FATAL,
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What to do about a failure of this kind.
fn advice(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::Auth => "check the access key and its secret (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)",
        ErrorKind::AccessDenied => {
            "the key is valid but may not do this: check its policy for the bucket and prefix"
        }
        ErrorKind::Retained => "the bucket's object lock protects it; wait until the protection ends",
        ErrorKind::BucketNotFound => "check the location's spelling, or create the bucket or directory first",
        ErrorKind::Tls => {
            "if the store's certificate comes from a private authority, name its file with --cacert"
        }
        ErrorKind::Unreachable => {
            "check the location's host and port and whether the store is up, then try again"
        }
        ErrorKind::ClockSkew => {
            "set this machine's clock right: signed requests are only valid for some minutes"
        }
        ErrorKind::Timeout | ErrorKind::Listing | ErrorKind::LockLost => "run the command again",
        ErrorKind::Missing | ErrorKind::Corrupt => "run `holdfast repo check` to learn what else is affected",
        ErrorKind::Format => "a newer release of Holdfast or restic may understand it",
        ErrorKind::NotARepository => {
            "check the location, or make a repository there with `holdfast repo init`"
        }
        ErrorKind::AlreadyInitialized => "use it as it is, or choose another location for a new one",
        ErrorKind::ForeignContent => "choose an empty directory or prefix for a repository",
        ErrorKind::WrongPassword => {
            "check the password (--password-file, HOLDFAST_PASSWORD_FILE) and the location"
        }
        ErrorKind::Locked => {
            "wait for it with --retry-lock 10m; if its holder has died, remove the lock with `holdfast repo unlock`"
        }
        ErrorKind::Full => {
            "make room in the repository's store, then run the command again: nothing was committed"
        }
        ErrorKind::SnapshotInvalid => {
            "forget the snapshot that is named (`holdfast repo forget`), then back up again"
        }
        ErrorKind::SnapshotDamaged => {
            "name the snapshot that you mean; `holdfast repo recover` makes a new one of what only the damaged one held, \
             and `holdfast repo forget` with its whole id removes it"
        }
        ErrorKind::Source => "check that the path exists and that you may read it",
        ErrorKind::Target => "check that the target exists and that you may write to it",
        ErrorKind::TargetFull => "make room or choose another target; --dry-run tells how much is needed",
        ErrorKind::EmptySelection => {
            "`holdfast repo snapshots`, `ls SNAPSHOT` and `list TYPE` show what is there"
        }
        ErrorKind::Internal => "this is a bug: please report it with the command that led to it",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_of_cause_and_one_of_advice() {
        let inner = std::io::Error::other("connection\nrefused");
        let failure =
            Failure::from(Error::with_source(ErrorKind::Unreachable, "list keys in s3:https://h/b", inner));
        assert_eq!(failure.cause, "list keys in s3:https://h/b: connection refused");
        assert!(failure.advice.is_some_and(|a| !a.contains('\n')));
        assert_eq!(failure.code, exit::FATAL);
    }

    #[test]
    fn a_place_without_a_repository_is_told_in_our_words_alone() {
        let answer = std::io::Error::other("404 Not Found: <?xml version=\"1.0\"?><Error>…</Error>");
        let error =
            Error::with_source(ErrorKind::NotARepository, "there is no repository at s3:https://h/b", answer);
        assert_eq!(Failure::from(error).cause, "there is no repository at s3:https://h/b");
    }

    #[test]
    fn json_errors_have_restics_fields() {
        let json = Failure::from(Error::new(ErrorKind::WrongPassword, "no key opens")).to_json();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["message_type"], "exit_error");
        assert_eq!(value["code"], 12);
        assert_eq!(value["kind"], "WrongPassword");
    }
}
