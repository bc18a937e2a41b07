//! The verdict: how a run ended, short enough for a termination message.

use serde::{Deserialize, Serialize};

use crate::attachment::Seal;

/// Longest verdict in bytes. Kubernetes keeps 4,096 bytes of a termination message and cuts the rest.
pub const VERDICT_LIMIT: usize = 3072;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// [`VERSION`](crate::VERSION).
    pub version: u32,
    /// Success, success with gaps, or failure.
    pub outcome: Outcome,
    /// Typed reason of anything but success, in CamelCase (the engine's error kinds and the runner's own).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// One sentence: what was tried, on what, and why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Whether the same run may work later without anybody changing anything.
    #[serde(default)]
    pub retryable: bool,
    /// Whether the run leaves no lock. False after a failed release: the operator removes it.
    pub lock_released: bool,
    /// What was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<TaskResult>,
    /// Seal of the rows on standard output, for tasks that have such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Seal>,
}

/// How a run ended, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Everything asked for was done and proved.
    Succeeded,
    /// Done, but not everything: the result counts what is missing.
    Partial,
    /// Not done.
    Failed,
}

/// What was done, by task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum TaskResult {
    /// The storage can be used.
    Probe {
        /// Repositories found (listed in the attachment up to the limit).
        repositories: u32,
        /// More were there than the limit allowed to list.
        more: bool,
        /// What the bucket's own rules do to what is stored in it; absent when nobody looked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lifecycle: Option<Lifecycle>,
        /// Whether keys that were exchanged for this run are held to what they are for; absent when they were not
        /// exchanged, or nobody looked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_scope: Option<KeyScope>,
    },
    /// The repository is there and opens.
    Initialize {
        /// The id in its `config`, 64 hex digits.
        repository_id: String,
        /// It was made by this run.
        created: bool,
        /// restic format version, 1 or 2.
        format_version: u32,
        /// The storage's recovery password opens it too.
        recovery_key: bool,
        /// What its `repository.yaml` says when it was there before and names another owner.
        foreign_record: Option<String>,
    },
    /// Snapshots were listed.
    Sync {
        /// All snapshots in the repository.
        snapshots: u32,
        /// Locks in the repository.
        locks: u32,
    },
    /// A volume was backed up.
    BackupVolume(BackupResult),
    /// A volume was restored or a plan made.
    RestoreVolume(RestoreResult),
    /// Locks were removed.
    Unlock {
        /// How many.
        removed: u32,
    },
}

/// What came of trying something that keys of one run must not be able to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum KeyScope {
    /// It was refused.
    Kept,
    /// It went well: who gave the keys did not look at what they are for.
    Ignored {
        /// Path of an object that was written and could not be removed again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        left: Option<String>,
    },
    /// It cannot be told.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// What the rules of a bucket do to what is stored below the storage's prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Lifecycle {
    /// No enabled rule deletes or moves anything.
    Harmless,
    /// Some do.
    Found {
        /// The first of them, in words.
        rules: Vec<String>,
        /// How many there are.
        count: u32,
    },
    /// It cannot be told.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// A file that could not be handled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultRow {
    /// Its path.
    pub path: String,
    /// What was tried and why it failed.
    pub error: String,
}

/// Result of one volume's backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupResult {
    /// restic snapshot id, 64 hex digits. Absent = nothing was committed.
    pub snapshot_id: Option<String>,
    /// The volume holds no files, and the spec asks not to save such: nothing was committed.
    pub empty: bool,
    /// The snapshot of an earlier attempt of the same run was found and taken over.
    pub already_committed: bool,
    /// Snapshot whose unchanged files were not read again.
    pub parent: Option<String>,
    /// Files not in the parent.
    pub files_new: u64,
    /// Files that differ from the parent's.
    pub files_changed: u64,
    /// Files taken over from the parent.
    pub files_unmodified: u64,
    /// Files in the snapshot.
    pub files_total: u64,
    /// Plain bytes in the snapshot.
    pub bytes_processed: u64,
    /// Plain bytes new to the repository.
    pub bytes_added: u64,
    /// Bytes written to the store.
    pub bytes_stored: u64,
    /// Files, and directories with all they hold, that were left out by a rule. 0 where it is not known any more.
    pub excluded: u64,
    /// Files, directories and attributes that could not be read.
    pub unreadable: u64,
    /// The first of them.
    pub unreadable_sample: Vec<FaultRow>,
    /// Files that changed while they were read.
    pub changed_while_reading: u64,
    /// Duration in milliseconds.
    pub duration_ms: u64,
}

/// Result or plan of one volume's restore.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreResult {
    /// Entries that will be or were made.
    pub create: u64,
    /// Files of which parts will be or were written.
    pub change: u64,
    /// Entries that will be or were replaced by one of another type.
    pub replace: u64,
    /// Entries that will be or were removed.
    pub delete: u64,
    /// Entries left as they are.
    pub unchanged: u64,
    /// Bytes that will be or were written.
    pub bytes_to_write: u64,
    /// Space needed on the target beyond what is there, in bytes.
    pub bytes_required: u64,
    /// Space free on the target before, in bytes.
    pub bytes_available: u64,
    /// Files written.
    pub files_restored: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Everything was read back and compared.
    pub verified: bool,
    /// Owners, modes, times and attributes that could not be set.
    pub metadata_failures: u64,
    /// Entries that belong to the runner, and did not before: a runner that is not root does not try to give them away.
    pub owners_kept: u64,
    /// Files that could not be restored.
    pub failures: u64,
    /// The first of all three.
    pub failure_sample: Vec<FaultRow>,
    /// Duration in milliseconds.
    pub duration_ms: u64,
}

/// The reason of a restore that succeeded, and of whose patterns to leave out one matches nothing that would be touched
/// without it: perhaps a slip of the pen.
pub const UNMATCHED_EXCLUDE: &str = "UnmatchedExclude";

/// Reason of a restore of which an include pattern matched nothing. It is no success, but where a restore is undone: what
/// that had put there may have been nothing before.
pub const UNMATCHED_INCLUDE: &str = "UnmatchedInclude";

impl Verdict {
    /// A failure without a result.
    pub fn failed(reason: impl Into<String>, message: impl Into<String>, retryable: bool) -> Self {
        Self {
            version: crate::VERSION,
            outcome: Outcome::Failed,
            reason: Some(reason.into()),
            message: Some(message.into()),
            retryable,
            lock_released: true,
            result: None,
            attachment: None,
        }
    }

    /// The verdict as JSON of at most [`VERDICT_LIMIT`] bytes: samples go first, then the message and other texts are
    /// cut. Longer it would be cut by Kubernetes, and nobody could read it.
    pub fn to_termination_message(&self) -> String {
        let mut verdict = self.clone();
        loop {
            let text = serde_json::to_string(&verdict).unwrap_or_default();
            if text.len() <= VERDICT_LIMIT {
                return text;
            }
            if !verdict.drop_one_sample() && !verdict.cut_message() && !verdict.cut_result() {
                return text;
            }
        }
    }

    /// Reads a termination message.
    pub fn from_termination_message(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    fn drop_one_sample(&mut self) -> bool {
        match &mut self.result {
            Some(TaskResult::BackupVolume(r)) => r.unreadable_sample.pop().is_some(),
            Some(TaskResult::RestoreVolume(r)) => r.failure_sample.pop().is_some(),
            _ => false,
        }
    }

    fn cut_message(&mut self) -> bool {
        self.message.as_mut().is_some_and(halve)
    }

    /// Halves the texts of the result that somebody else wrote: into the bucket, or as its rules.
    fn cut_result(&mut self) -> bool {
        match &mut self.result {
            Some(
                TaskResult::Initialize { foreign_record: Some(text), .. }
                | TaskResult::Probe { key_scope: Some(KeyScope::Unknown { why: text }), .. },
            ) if !text.is_empty() => halve(text),
            Some(TaskResult::Probe { lifecycle: Some(Lifecycle::Unknown { why: text }), .. }) => halve(text),
            Some(TaskResult::Probe { lifecycle: Some(Lifecycle::Found { rules, .. }), .. }) => {
                rules.iter_mut().max_by_key(|rule| rule.len()).is_some_and(halve)
            }
            _ => false,
        }
    }
}

/// Leaves the first half of the characters; `false` when there are none.
fn halve(text: &mut String) -> bool {
    let keep: String = text.chars().take(text.chars().count() / 2).collect();
    let shorter = keep.len() < text.len();
    *text = keep;
    shorter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_a_stranger_in_the_result_are_cut_too() {
        let vile = "\u{1}ü".repeat(20_000);
        let rules = vec![vile.clone(); 3];
        let probe = |lifecycle| TaskResult::Probe {
            repositories: 1,
            more: false,
            lifecycle: Some(lifecycle),
            key_scope: Some(KeyScope::Unknown { why: vile.clone() }),
        };
        for result in [
            TaskResult::Initialize {
                repository_id: "ab".repeat(32),
                created: false,
                format_version: 2,
                recovery_key: true,
                foreign_record: Some(vile.clone()),
            },
            probe(Lifecycle::Found { rules, count: 3 }),
            probe(Lifecycle::Unknown { why: vile.clone() }),
        ] {
            let mut verdict = Verdict::failed("", "", false);
            (verdict.outcome, verdict.result) = (Outcome::Succeeded, Some(result));
            let text = verdict.to_termination_message();
            assert!(text.len() <= VERDICT_LIMIT, "{}", text.len());
            let back = Verdict::from_termination_message(&text).unwrap();
            assert_eq!(std::mem::discriminant(&back.result), std::mem::discriminant(&verdict.result));
            assert_eq!(back.outcome, Outcome::Succeeded);
        }
    }

    #[test]
    fn a_long_verdict_is_cut_to_the_limit_and_keeps_its_counts() {
        let row = FaultRow { path: "/data/x/".repeat(40), error: "open: permission denied".into() };
        let mut verdict = Verdict::failed("Unreadable", "m".repeat(9000), false);
        verdict.result = Some(TaskResult::BackupVolume(BackupResult {
            unreadable: 500,
            unreadable_sample: vec![row; 50],
            ..BackupResult::default()
        }));
        let text = verdict.to_termination_message();
        assert!(text.len() <= VERDICT_LIMIT, "{}", text.len());
        let back = Verdict::from_termination_message(&text).unwrap();
        let Some(TaskResult::BackupVolume(result)) = back.result else { panic!("result lost") };
        assert_eq!(result.unreadable, 500);
    }

    #[test]
    fn a_short_verdict_is_kept_whole() {
        let verdict = Verdict::failed("WrongPassword", "no key opens", false);
        assert_eq!(Verdict::from_termination_message(&verdict.to_termination_message()).unwrap(), verdict);
    }
}
