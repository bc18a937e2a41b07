//! The engine's one error type: what went wrong, with what, and whether trying again can help.

use std::error::Error as StdError;
use std::fmt;

/// Result of every fallible engine function.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is. Callers map this to exit codes, conditions and advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The store refused the credentials (401, bad signature, unknown access key).
    Auth,
    /// The credentials are good but may not do this (403).
    AccessDenied,
    /// The store protects the file from being deleted or replaced until a date.
    Retained,
    /// Reading is allowed and writing is not.
    ReadOnly,
    /// The bucket, container or base directory does not exist.
    BucketNotFound,
    /// The certificate of the store is not trusted, or TLS failed otherwise.
    Tls,
    /// The store cannot be reached or answers with server errors; retries are used up.
    Unreachable,
    /// The local clock and the store's differ too much for signed requests.
    ClockSkew,
    /// A deadline passed.
    Timeout,
    /// A listing failed or stopped early. A short list is never used.
    Listing,
    /// A needed object is absent.
    Missing,
    /// Stored bytes are not what their name, MAC or header says.
    Corrupt,
    /// Bytes are intact but not of a format this version understands.
    Format,
    /// There is no repository here.
    NotARepository,
    /// A repository exists already where one was to be made.
    AlreadyInitialized,
    /// The place holds something that is no repository of ours and must not be written over.
    ForeignContent,
    /// No key of the repository opens with this password.
    WrongPassword,
    /// Another process holds a conflicting lock.
    Locked,
    /// Our own lock was removed or could not be refreshed.
    LockLost,
    /// A snapshot is there that cannot be restored, and could not be taken back.
    SnapshotInvalid,
    /// A snapshot's file is damaged, so that nobody can tell what it needs.
    SnapshotDamaged,
    /// The repository's disk or quota is full.
    Full,
    /// The source could not be read at all.
    Source,
    /// The target could not be written.
    Target,
    /// The target's disk is full.
    TargetFull,
    /// Nothing matches what was asked for.
    EmptySelection,
    /// A safety rule refused the operation.
    Guard,
    /// The request itself makes no sense.
    Usage,
    /// The caller cancelled.
    Cancelled,
    /// A bug of ours.
    Internal,
}

/// What the caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The same call may work later without anybody changing anything.
    Retryable,
    /// Somebody has to change something first.
    Fatal,
    /// The caller asked for it.
    Cancelled,
}

impl ErrorKind {
    /// Whether the same call may work later.
    pub fn class(self) -> Class {
        match self {
            Self::Unreachable | Self::Timeout | Self::Listing | Self::Locked | Self::LockLost => {
                Class::Retryable
            }
            Self::Cancelled => Class::Cancelled,
            _ => Class::Fatal,
        }
    }

    /// Stable name for logs, JSON output and run verdicts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "Auth",
            Self::AccessDenied => "AccessDenied",
            Self::Retained => "Retained",
            Self::ReadOnly => "ReadOnly",
            Self::BucketNotFound => "BucketNotFound",
            Self::Tls => "Tls",
            Self::Unreachable => "Unreachable",
            Self::ClockSkew => "ClockSkew",
            Self::Timeout => "Timeout",
            Self::Listing => "Listing",
            Self::Missing => "Missing",
            Self::Corrupt => "Corrupt",
            Self::Format => "Format",
            Self::NotARepository => "NotARepository",
            Self::AlreadyInitialized => "AlreadyInitialized",
            Self::ForeignContent => "ForeignContent",
            Self::WrongPassword => "WrongPassword",
            Self::Locked => "Locked",
            Self::LockLost => "LockLost",
            Self::SnapshotInvalid => "SnapshotInvalid",
            Self::SnapshotDamaged => "SnapshotDamaged",
            Self::Full => "Full",
            Self::Source => "Source",
            Self::Target => "Target",
            Self::TargetFull => "TargetFull",
            Self::EmptySelection => "EmptySelection",
            Self::Guard => "Guard",
            Self::Usage => "Usage",
            Self::Cancelled => "Cancelled",
            Self::Internal => "Internal",
        }
    }
}

/// An engine failure: a kind, one sentence of what was tried on what and what to do, and the cause.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure without a deeper cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// A failure caused by another one, which stays in the chain and out of the message.
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()) }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether trying again can help.
    pub fn class(&self) -> Class {
        self.kind.class()
    }

    /// The message and all causes on one line, for the edge where errors are printed once.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = self.source();
        while let Some(cause) = next {
            let said = cause.to_string();
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            next = cause.source();
        }
        text
    }
}

impl From<holdfast_pattern::Malformed> for Error {
    fn from(malformed: holdfast_pattern::Malformed) -> Self {
        Self::new(ErrorKind::Usage, malformed.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}
