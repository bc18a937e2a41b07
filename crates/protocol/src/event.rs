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
    /// A part of the attachment.
    Attachment {
        /// Number of the part, from 0.
        part: u32,
        /// One row of the attachment, itself JSON.
        row: String,
    },
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
