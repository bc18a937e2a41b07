//! Events: what a runner tells while it runs, one JSON object a line.

use serde::{Deserialize, Serialize};

/// One line of the runner's standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event {
    /// Totals so far; at least one every 30 seconds, so that it is also the sign of life.
    Progress {
        /// What is being done, e.g. `scan`, `read`, `commit`, `waiting for lock`.
        phase: String,
        /// Files finished.
        files_done: u64,
        /// Bytes finished.
        bytes_done: u64,
        /// Files expected, 0 while unknown.
        files_total: u64,
        /// Bytes expected, 0 while unknown.
        bytes_total: u64,
    },
    /// Something a person reading the log wants to know.
    Log {
        /// `info`, `warn` or `error`.
        level: String,
        /// One sentence.
        message: String,
    },
    /// One file that could not be handled.
    Fault {
        /// Path in the source or target; bytes that are not UTF-8 are replaced.
        path: String,
        /// What was tried.
        action: String,
        /// Why it failed.
        error: String,
    },
    /// What a backup has finished so far is saved: whoever takes over from this runner need not read it again.
    Checkpoint(Checkpoint),
    /// A part of the attachment.
    Attachment {
        /// Number of the part, from 0.
        part: u32,
        /// One row of the attachment, itself JSON.
        row: String,
    },
}

/// The finished part of a backup that is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Root of the partial tree in the repository, 64 hex digits.
    pub tree: String,
    /// When the runner that made it began, RFC 3339.
    pub started: String,
}

impl Event {
    /// The event as one line, without the line end.
    pub fn to_line(&self) -> String {
        // A struct of strings and numbers always serialises; the fallback keeps the stream well-formed.
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }

    /// Reads one line; `None` when it is no event (a stray line of a library, a cut line).
    pub fn from_line(line: &str) -> Option<Self> {
        serde_json::from_str(line.trim()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_one_line_and_comes_back() {
        let checkpoint = Checkpoint { tree: "ab".repeat(32), started: "2026-11-20T02:00:00Z".into() };
        let line = Event::Checkpoint(checkpoint.clone()).to_line();
        assert!(line.starts_with(r#"{"event":"checkpoint","tree":"abab"#), "{line}");
        assert_eq!(Event::from_line(&line), Some(Event::Checkpoint(checkpoint)));
    }
}
