//! How a store itself keeps files from being deleted or replaced until a date ("object lock").
//!
//! Not here: which files of a repository need that, and for how long (`protect`).

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

use crate::error::{Error, ErrorKind};

/// Who may take a file's protection away before its date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetentionMode {
    /// Whoever has the store's special right to do so.
    Governance,
    /// Nobody, the owner of the account included.
    Compliance,
}

impl RetentionMode {
    /// As the S3 protocol writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Governance => "GOVERNANCE",
            Self::Compliance => "COMPLIANCE",
        }
    }
}

impl fmt::Display for RetentionMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RetentionMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Governance, Self::Compliance]
            .into_iter()
            .find(|mode| mode.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| "it is `governance` or `compliance`".to_owned())
    }
}

/// A file's protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Who may take it away before its date.
    pub mode: RetentionMode,
    /// Until when it holds, by the store's clock.
    pub until: Timestamp,
}

/// What a bucket does by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ObjectLock {
    /// The protection that each new object gets, and for how long from when it is written.
    pub default: Option<(RetentionMode, SignedDuration)>,
}

/// The answer of a store that cannot protect anything.
pub(super) fn not_offered(store: &str) -> Error {
    Error::new(
        ErrorKind::Usage,
        format!(
            "{store} cannot protect files from being deleted: only S3 servers with object lock can; for other stores \
             use credentials that may not delete"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_they_are_written_and_the_stricter_one_is_the_larger() {
        for mode in [RetentionMode::Governance, RetentionMode::Compliance] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert_eq!("compliance".parse(), Ok(RetentionMode::Compliance));
        assert!("none".parse::<RetentionMode>().is_err());
        assert!(RetentionMode::Governance < RetentionMode::Compliance);
    }
}
