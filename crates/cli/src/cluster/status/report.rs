//! The whole report, from what was read. Pure.

use std::time::Duration;

use holdfast_api::conditions::{ConditionStatus, ConditionType, find_condition};
use holdfast_api::{BackupStorage, Repository};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use serde::Serialize;

use super::Facts;
use super::claims::{ClaimReport, claims};
use crate::cluster::follow::with_percent;
use crate::cluster::run_view::{Run, RunView};

/// Failed restores are shown for so long; failed backups until one succeeds.
const SHOWN: SignedDuration = SignedDuration::from_hours(24);
/// Most failed runs that are shown a namespace.
const FAILURES: usize = 5;

/// What there is to say at a glance.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) storages: Vec<StorageReport>,
    pub(super) repositories: Vec<RepositoryReport>,
    pub(super) claims: Vec<ClaimReport>,
    pub(super) runs: Vec<RunReport>,
}

/// A storage.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StorageReport {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) phase: String,
    pub(super) default: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) repositories: Option<i64>,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
    /// Types of the warnings that hold.
    pub(super) warnings: Vec<String>,
}

/// A repository.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RepositoryReport {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) phase: String,
    pub(super) storage: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) snapshots: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_successful_backup: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

/// A run that is at work, or that failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RunReport {
    pub(super) namespace: String,
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) phase: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<Timestamp>,
    /// How far it is, what it waits for, or why it failed.
    pub(super) what: String,
}

impl Report {
    /// Whether no claim needs care.
    pub(super) fn is_protected(&self) -> bool {
        !self.claims.iter().any(|claim| claim.protection.needs_care())
    }
}

/// Makes the report.
pub(super) fn report(facts: &Facts, max_age: Option<Duration>, now: Timestamp) -> Report {
    Report {
        storages: facts.storages.iter().map(storage).collect(),
        repositories: facts.repositories.iter().map(repository).collect(),
        claims: claims(facts, max_age, now),
        runs: runs(facts, now),
    }
}

fn storage(object: &BackupStorage) -> StorageReport {
    let status = object.status.clone().unwrap_or_default();
    StorageReport {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        phase: status.phase.unwrap_or_default().to_string(),
        default: object.spec.default,
        repositories: status.repository_count,
        why: not_ready(&status.conditions),
        warnings: warnings(&status.conditions),
    }
}

fn repository(object: &Repository) -> RepositoryReport {
    let status = object.status.clone().unwrap_or_default();
    let namespace = object.namespace().unwrap_or_default();
    let storage = &object.spec.storage_ref;
    RepositoryReport {
        name: object.name_any(),
        phase: status.phase.unwrap_or_default().to_string(),
        storage: match storage.namespace_or(&namespace) {
            own if own == namespace => storage.name.clone(),
            other => format!("{other}/{}", storage.name),
        },
        snapshots: status.snapshot_count,
        last_successful_backup: status.last_successful_backup.map(|t| t.0),
        why: not_ready(&status.conditions),
        namespace,
    }
}

/// Why the object cannot be used.
pub(in super::super) fn not_ready(conditions: &[Condition]) -> Option<String> {
    let ready = find_condition(conditions, ConditionType::Ready)?;
    (ready.status != ConditionStatus::True.as_str()).then(|| format!("{}: {}", ready.reason, ready.message))
}

/// The warnings that hold: every condition that is true and no sign of health.
pub(in super::super) fn warnings(conditions: &[Condition]) -> Vec<String> {
    let healthy = [ConditionType::Ready, ConditionType::SnapshotsSynced].map(ConditionType::as_str);
    conditions
        .iter()
        .filter(|c| c.status == ConditionStatus::True.as_str() && !healthy.contains(&c.type_.as_str()))
        .map(|c| c.type_.clone())
        .collect()
}

/// Runs at work, then those that failed and whose failure still matters, the newest first.
fn runs(facts: &Facts, now: Timestamp) -> Vec<RunReport> {
    let mut backups: Vec<RunView> = facts.backups.iter().map(Run::view).collect();
    let mut restores: Vec<RunView> = facts.restores.iter().map(Run::view).collect();
    for runs in [&mut backups, &mut restores] {
        runs.sort_by_key(|run| std::cmp::Reverse(run.started));
    }
    let at_work = backups.iter().chain(&restores).filter(|run| !run.ended).map(|run| one(run, run.started));
    let mut failed: Vec<&RunView> = backups
        .iter()
        .filter(|run| is_failure(run))
        .filter(|run| {
            !backups.iter().any(|later| {
                later.namespace == run.namespace && later.phase == "Succeeded" && later.started > run.started
            })
        })
        .collect();
    failed.extend(
        restores.iter().filter(|run| {
            is_failure(run) && run.completed.is_some_and(|end| now.duration_since(end) < SHOWN)
        }),
    );
    failed.sort_by_key(|run| std::cmp::Reverse(run.completed));
    let mut shown = std::collections::BTreeMap::<&str, usize>::new();
    failed.retain(|run| {
        let of_namespace = shown.entry(run.namespace.as_str()).or_default();
        *of_namespace += 1;
        *of_namespace <= FAILURES
    });
    at_work.chain(failed.into_iter().map(|run| one(run, run.completed))).collect()
}

fn is_failure(run: &RunView) -> bool {
    matches!(run.phase, "Failed" | "PartiallyFailed")
}

fn one(run: &RunView, since: Option<Timestamp>) -> RunReport {
    let running = run.components.iter().filter_map(|c| {
        let progress = c.progress.as_ref().filter(|_| !c.phase.is_terminal())?;
        Some(format!("{} {}", c.name, with_percent(progress)))
    });
    let waiting = run.components.iter().filter(|c| !c.phase.is_terminal()).find_map(|c| {
        let message = c.message.as_ref()?;
        Some(format!("{} {}", c.name, message))
    });
    let mut parts: Vec<String> =
        if run.ended { Vec::new() } else { running.take(3).chain(waiting).collect() };
    if parts.is_empty() {
        parts.extend(run.message.clone());
    }
    RunReport {
        namespace: run.namespace.clone(),
        kind: run.kind,
        name: run.name.clone(),
        phase: if run.phase.is_empty() { "New".to_owned() } else { run.phase.to_owned() },
        since,
        what: parts.join("; "),
    }
}
