//! A Backup and a Restore as what they have in common for whoever looks on: phase, message, components.

use std::fmt::Debug;
use std::time::Duration;

use holdfast_api::backup::{BackupStatus, ComponentPhase, Progress};
use holdfast_api::conditions::{ConditionStatus, ConditionType, find_condition};
use holdfast_api::{Backup, Restore};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::connect::Kind;
use crate::exit;
use crate::text::{count, counted, size};

/// A run as it stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct RunView {
    /// `Backup` or `Restore`.
    pub(super) kind: &'static str,
    /// Namespace.
    pub(super) namespace: String,
    /// Name.
    pub(super) name: String,
    /// In one word; empty while the operator has not looked at it.
    pub(super) phase: &'static str,
    /// Whether it has ended.
    pub(super) ended: bool,
    /// What it does, waits for, or why it failed.
    pub(super) message: Option<String>,
    /// When it began.
    pub(super) started: Option<Timestamp>,
    /// When it ended.
    pub(super) completed: Option<Timestamp>,
    /// Its parts.
    pub(super) components: Vec<ComponentView>,
    /// What a Backup says although it is no failure, in sentences. Those of a Restore are of its plan, which is shown
    /// before it is made.
    pub(super) warnings: Vec<String>,
}

/// A part of a run as it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ComponentView {
    /// Its name.
    pub(super) name: String,
    /// In one word.
    pub(super) phase: ComponentPhase,
    /// Why, as one word.
    pub(super) reason: Option<String>,
    /// Why and what to do.
    pub(super) message: Option<String>,
    /// Node of its Job.
    pub(super) node: Option<String>,
    /// How often it was tried.
    pub(super) attempts: u32,
    /// How far it is.
    pub(super) progress: Option<Progress>,
    /// How long it took.
    pub(super) took: Option<Duration>,
    /// What it has done, in words; empty before its end.
    pub(super) result: String,
    /// Last lines of a log of a failed Job.
    pub(super) log_tail: Vec<String>,
}

/// A kind whose objects are runs.
pub(super) trait Run: Kind + Send + 'static {
    /// The run as it stands.
    fn view(&self) -> RunView;
}

impl Run for Backup {
    fn view(&self) -> RunView {
        let status = self.status.clone().unwrap_or_default();
        let components = status.components.iter().map(|c| {
            let (new, changed) = (c.files_new.unwrap_or(0), c.files_changed.unwrap_or(0));
            let mut parts = Vec::new();
            if let Some(unmodified) = c.files_unmodified {
                let all = new.saturating_add(changed).saturating_add(unmodified);
                parts.push(counted(all, "file", "files"));
            }
            parts.extend(c.bytes_processed.map(size));
            if c.files_unmodified.is_some() {
                parts.push(format!("{} new, {} changed", count(new), count(changed)));
            }
            parts.extend(c.bytes_added.map(|bytes| format!("{} added", size(bytes))));
            if let Some(unreadable @ 1..) = c.unreadable {
                parts.push(format!("{} NOT readable", counted(unreadable, "file", "files")));
            }
            if let Some(torn @ 1..) = c.changed_while_reading {
                parts.push(format!("{} changed while read", counted(torn, "file", "files")));
            }
            ComponentView {
                name: c.name.clone(),
                phase: c.phase,
                reason: c.reason.clone(),
                message: c.message.clone(),
                node: c.node.clone(),
                attempts: c.attempts.unwrap_or(0),
                progress: c.progress.clone(),
                took: between(c.start_time.as_ref(), c.completion_time.as_ref()),
                result: if c.phase.is_terminal() { parts.join(", ") } else { String::new() },
                log_tail: c.log_tail.clone(),
            }
        });
        RunView {
            kind: "Backup",
            namespace: self.namespace().unwrap_or_default(),
            name: self.name_any(),
            phase: status.phase.map(holdfast_api::backup::BackupPhase::as_str).unwrap_or_default(),
            ended: status.phase.is_some_and(holdfast_api::backup::BackupPhase::is_terminal),
            message: status.message.clone(),
            started: status.start_time.as_ref().map(|t| t.0),
            completed: status.completion_time.as_ref().map(|t| t.0),
            components: components.collect(),
            warnings: warnings(status),
        }
    }
}

/// What a Backup says beside its failures: about what is saved, and that a volume holds nothing. The latter may be a volume
/// that was lost and made anew, whose backup succeeds.
fn warnings(status: BackupStatus) -> Vec<String> {
    let empty = find_condition(&status.conditions, ConditionType::SourceEmpty)
        .filter(|condition| condition.status == ConditionStatus::True.as_str())
        .map(|condition| format!("{}: {}", condition.type_, condition.message));
    status.coverage.map(|coverage| coverage.warnings).unwrap_or_default().into_iter().chain(empty).collect()
}

impl Run for Restore {
    fn view(&self) -> RunView {
        let status = self.status.clone().unwrap_or_default();
        let components = status.components.iter().map(|c| {
            let mut parts = Vec::new();
            parts.extend(c.files_restored.map(|n| format!("{} written", counted(n, "file", "files"))));
            parts.extend(c.bytes_written.map(size));
            parts.extend(c.files_unchanged.filter(|n| *n > 0).map(|n| format!("{} as they were", count(n))));
            parts.extend(c.files_deleted.filter(|n| *n > 0).map(|n| format!("{} deleted", count(n))));
            parts.extend(c.verified.map(|yes| if yes { "verified" } else { "NOT verified" }.to_owned()));
            if let Some(failures @ 1..) = c.failures {
                parts.push(format!("{} NOT written", counted(failures, "file", "files")));
            }
            if let Some(failures @ 1..) = c.metadata_failures {
                parts.push(format!("{} without all metadata", counted(failures, "file", "files")));
            }
            if let Some(kept @ 1..) = c.owners_not_restored {
                parts.push(format!("{} of another owner", counted(kept, "entry", "entries")));
            }
            ComponentView {
                name: c.name.clone(),
                phase: c.phase,
                reason: c.reason.clone(),
                message: c.message.clone(),
                node: c.node.clone(),
                attempts: c.attempts.unwrap_or(0),
                progress: c.progress.clone(),
                took: between(c.start_time.as_ref(), c.completion_time.as_ref()),
                result: if c.phase.is_terminal() { parts.join(", ") } else { String::new() },
                log_tail: c.log_tail.clone(),
            }
        });
        RunView {
            kind: "Restore",
            namespace: self.namespace().unwrap_or_default(),
            name: self.name_any(),
            phase: status.phase.map(holdfast_api::restore::RestorePhase::as_str).unwrap_or_default(),
            ended: status.phase.is_some_and(|phase| phase.is_terminal(self.spec.dry_run)),
            message: status.message.clone(),
            started: status.start_time.as_ref().map(|t| t.0),
            completed: status.completion_time.as_ref().map(|t| t.0),
            components: components.collect(),
            warnings: Vec::new(),
        }
    }
}

impl RunView {
    /// The exit code that stands for the end of this run.
    pub(super) fn exit_code(&self) -> u8 {
        match self.phase {
            "Succeeded" | "Planned" => exit::OK,
            "PartiallyFailed" => exit::PARTIAL,
            "Skipped" => exit::NOTHING,
            _ => exit::FATAL,
        }
    }

    /// How long it took, or has taken until `now`.
    pub(super) fn took(&self, now: Timestamp) -> Option<Duration> {
        let end = self.completed.unwrap_or(now);
        Duration::try_from(end.duration_since(self.started?)).ok()
    }

    /// `kind namespace/name`, in the words of a sentence.
    pub(super) fn title(&self) -> String {
        format!("{} {}/{}", self.kind, self.namespace, self.name)
    }
}

fn between(start: Option<&Time>, end: Option<&Time>) -> Option<Duration> {
    Duration::try_from(end?.0.duration_since(start?.0)).ok()
}

/// How far something is, in words.
pub(super) fn progress_words(progress: &Progress) -> String {
    let mut parts = Vec::new();
    match progress.bytes_total {
        Some(total @ 1..) => parts.push(format!("{} of {}", size(progress.bytes_done), size(total))),
        _ => parts.push(size(progress.bytes_done)),
    }
    if progress.files_done > 0 {
        parts.push(counted(progress.files_done, "file", "files"));
    }
    if let Some(speed @ 1..) = progress.bytes_per_second {
        parts.push(format!("{}/s", size(speed)));
    }
    if let Some(eta) = progress.eta {
        parts.push(format!("{eta} left"));
    }
    parts.join("  ")
}
