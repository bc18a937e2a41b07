//! What a running operation tells its caller while it runs: counters (latest value wins), faults (none is lost).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;

/// Something worth telling while an operation runs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A new phase begins, e.g. `scan`, `read`, `commit`.
    Phase(&'static str),
    /// Totals so far. Sent often; a receiver may drop all but the newest.
    Progress(Progress),
    /// One file, directory or attribute could not be handled; the operation goes on.
    Fault(Fault),
    /// A snapshot cannot be read; the operation goes on without it.
    SnapshotLeftOut {
        /// The snapshot.
        id: Id,
        /// Why it cannot be read.
        error: String,
    },
    /// A request to the store failed and is tried again.
    Retry {
        /// What was tried, on what.
        what: String,
        /// Why it failed.
        error: String,
    },
    /// What a backup has finished so far is saved. None is lost, and the newest is the best.
    Checkpoint(Checkpoint),
    /// The operation waits for a lock.
    WaitingForLock {
        /// Who holds it.
        holder: String,
    },
}

/// The finished part of a backup that is not over. A later run that is told of it need not read those files again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Checkpoint {
    /// Root of the partial tree.
    pub tree: Id,
    /// When the run that made it began: what changed since is read again.
    pub started: Timestamp,
}

/// Totals of a running operation. Bytes are plain (uncompressed) bytes of file content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files finished.
    pub files_done: u64,
    /// Bytes finished.
    pub bytes_done: u64,
    /// Files expected, 0 while unknown.
    pub files_total: u64,
    /// Bytes expected, 0 while unknown.
    pub bytes_total: u64,
}

/// One thing that could not be handled although the operation as a whole goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The path as the source or the snapshot names it.
    pub path: PathBuf,
    /// What was tried: `open`, `read`, `stat`, `list`, `write`, `chown`, `xattr` ….
    pub action: &'static str,
    /// The operating system's or the engine's reason.
    pub error: String,
}

/// Faults of one operation: every one is counted, only the first few are kept, so that a report stays small
/// when a whole disk is unreadable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FaultList {
    /// How many there were.
    pub total: u64,
    /// How many there were of each action.
    pub by_action: BTreeMap<&'static str, u64>,
    /// The first of them, at most [`FaultList::KEPT`].
    pub first: Vec<Fault>,
}

impl FaultList {
    /// How many faults are kept in full.
    pub const KEPT: usize = 200;

    /// Bytes of a kept fault's path, and of its reason. The kernel takes no longer path; a snapshot may name one.
    pub const KEPT_BYTES: usize = 4096;

    /// Counts one, and keeps it while there is room, its path and reason cut to [`FaultList::KEPT_BYTES`].
    pub fn push(&mut self, mut fault: Fault) {
        self.total = self.total.saturating_add(1);
        let count = self.by_action.entry(fault.action).or_default();
        *count = count.saturating_add(1);
        if self.first.len() < Self::KEPT {
            let path = fault.path.as_os_str().as_bytes();
            if path.len() > Self::KEPT_BYTES {
                fault.path = PathBuf::from(OsString::from_vec(cut(path, Self::KEPT_BYTES)));
            }
            if fault.error.len() > Self::KEPT_BYTES {
                // It was text, and is cut between two characters.
                fault.error =
                    String::from_utf8_lossy(&cut(fault.error.as_bytes(), Self::KEPT_BYTES)).into_owned();
            }
            self.first.push(fault);
        }
    }

    /// No fault at all.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }
}

/// The first `most` bytes, fewer when these would end within a character, and a sign that there were more.
fn cut(bytes: &[u8], most: usize) -> Vec<u8> {
    let within = |at: &usize| bytes.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let end = (most.saturating_sub(3)..=most).rev().find(|at| !within(at)).unwrap_or(most);
    let mut kept = bytes.get(..end).unwrap_or(bytes).to_vec();
    kept.extend_from_slice("…".as_bytes());
    kept
}

/// Receives events. Must not block: it is called from the threads that do the work.
pub trait EventSink: Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event);
}

/// Ignores everything.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl EventSink for Silent {
    fn event(&self, _event: Event) {}
}

/// What every operation gets from its caller: how to stop it, and whom to tell.
#[derive(Clone)]
pub struct Ctx {
    /// Cancelled by the caller to stop the operation at its next buffer; nothing is committed then.
    pub cancel: CancellationToken,
    /// Receives progress and faults.
    pub events: Arc<dyn EventSink>,
}

impl Default for Ctx {
    fn default() -> Self {
        Self { cancel: CancellationToken::new(), events: Arc::new(Silent) }
    }
}

impl Ctx {
    /// `Cancelled` once the caller has asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(cancelled()) } else { Ok(()) }
    }

    /// Awaits `work`, and drops it when the caller asks to stop.
    pub async fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(cancelled()),
            result = work => result,
        }
    }
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the operation was cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_fault_is_bounded_and_stays_text() {
        let mut list = FaultList::default();
        for long in ["x".repeat(1 << 20), "ä".repeat(1 << 20), format!("x{}", "€".repeat(1 << 20))] {
            list.push(Fault { path: PathBuf::from(&long), action: "open", error: long });
        }
        list.push(Fault { path: "/a".into(), action: "open", error: "no".to_owned() });
        assert_eq!(list.total, 4);
        for fault in &list.first[..3] {
            let path = fault.path.to_str().expect("whole characters");
            assert!(path.ends_with('…') && fault.error.ends_with('…') && !path.contains('\u{fffd}'));
            assert!((4090..=4100).contains(&path.len()) && fault.error.len() == path.len());
        }
        assert_eq!(list.first[3].path, PathBuf::from("/a"));
    }
}
