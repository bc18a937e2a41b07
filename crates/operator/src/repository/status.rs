//! What came back about a repository, into its status. Pure.

use std::collections::BTreeSet;

use holdfast_api::RepositoryStatus;
use holdfast_api::conditions::{
    ConditionType, ConditionUpdate, Reason, find_condition, remove_condition, set_condition,
};
use holdfast_api::repository::RepositoryPhase;
use holdfast_protocol::{Outcome, TaskResult};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::dereference::Facts;
use super::validate::{Plan, Step, must_be_opened, needs_opening};
use crate::jobs::Ended;

/// Directories listed as previous repositories at most.
const MAX_PREVIOUS: usize = 20;
/// Damaged snapshots named at most.
const DAMAGED_NAMED: usize = 5;

/// The status after a step, and what people should be told.
pub(super) struct Outcomes {
    pub status: RepositoryStatus,
    pub news: Vec<News>,
}

/// An Event.
pub(super) struct News {
    pub good: bool,
    pub reason: Reason,
    pub message: String,
}

/// What a sync found, ready to be written down.
pub(super) struct Synced {
    pub foreign: usize,
    pub unreadable: Vec<String>,
    /// Ids of snapshots that are damaged.
    pub damaged: BTreeSet<String>,
    pub total: usize,
    /// Why the API server would not have some of their Snapshots.
    pub refused: Vec<String>,
    /// When the Backup began that made the newest complete recovery point of those that are left.
    pub last_complete: Option<Timestamp>,
}

pub(super) fn status(facts: &Facts, plan: &Plan, synced: Option<&Synced>) -> Outcomes {
    let mut status = facts.repository.status.clone().unwrap_or_default();
    let mut news = Vec::new();
    let generation = facts.repository.metadata.generation;
    let mut ready: Option<(RepositoryPhase, Reason, String)> = None;

    if !matches!(plan.step, Step::Nothing) {
        counts(facts, &mut status);
        if facts.storage.as_ref().is_some_and(|storage| storage.spec.recovery_password_secret_ref.is_none()) {
            status.recovery_password = None;
        }
        previous(facts, plan, &mut status);
    }
    match &plan.step {
        Step::Refuse { phase, reason, message } => {
            if needs_opening(&facts.repository) {
                // The refusal's reason takes the place of the one that says why it has to be opened.
                status.observed_generation = None;
            }
            ready = Some((*phase, *reason, message.clone()));
        }
        Step::SetDirectory | Step::MakePassword { .. } => {
            status.directory = Some(plan.directory.clone());
            status.password_secret.clone_from(&plan.password);
            ready = Some((RepositoryPhase::Initializing, Reason::Initializing, "is being prepared".into()));
        }
        Step::Open { .. } | Step::Opening { .. } => {
            status.password_secret.clone_from(&plan.password);
            let waiting = if let Step::Opening { waiting: Some(w) } = &plan.step {
                Some(w.message.clone())
            } else {
                None
            };
            // A repository that failed keeps its reason while it is tried again, and one that can be used can be used while
            // it gets another recovery password.
            let keeps =
                status.phase == Some(RepositoryPhase::Failed) || !must_be_opened(facts, &plan.directory);
            if !keeps {
                let message = waiting.unwrap_or_else(|| "the repository is being opened".into());
                ready = Some((RepositoryPhase::Initializing, Reason::Initializing, message));
            }
        }
        Step::JudgeOpen { ended, .. } => ready = Some(judge_open(facts, plan, ended, &mut status)),
        Step::JudgeSync { ended, answers, .. } => {
            judge_sync(facts, ended, answers.as_ref(), synced, &mut status, &mut news);
            // What lies there is not what was opened: nothing may be saved to it, and it is opened again to find out.
            let said = ended.reason().filter(|_| !ended.is_success()).unwrap_or_default();
            if ["WrongPassword", "NotARepository", "RepositoryReplaced"].contains(&said) {
                let message = ended.message().unwrap_or("see the log of the pod of its Job").to_owned();
                ready = Some((RepositoryPhase::Failed, open_reason(said), message));
            }
        }
        Step::Sync { .. } | Step::Syncing => {
            status.password_secret.clone_from(&plan.password);
            usable(&mut ready);
        }
        Step::Rest { .. } if !needs_opening(&facts.repository) => {
            status.password_secret.clone_from(&plan.password);
            usable(&mut ready);
        }
        Step::Rest { .. } | Step::Nothing => {}
    }
    if let Some((phase, reason, message)) = ready {
        let update = match phase {
            RepositoryPhase::Ready => ConditionUpdate::yes(ConditionType::Ready, reason, message.clone()),
            RepositoryPhase::Initializing => {
                ConditionUpdate::unknown(ConditionType::Ready, reason, message.clone())
            }
            RepositoryPhase::Pending | RepositoryPhase::Failed => {
                ConditionUpdate::no(ConditionType::Ready, reason, message.clone())
            }
        };
        // A message can differ from try to try by a duration or a port; that is no news.
        let told = find_condition(&status.conditions, ConditionType::Ready).map(|ready| ready.reason.clone());
        let is_new = status.phase != Some(phase) || told.as_deref() != Some(reason.as_str());
        set_condition(&mut status.conditions, update, generation, facts.now);
        status.phase = Some(phase);
        let good = phase == RepositoryPhase::Ready;
        if is_new && (good || phase == RepositoryPhase::Failed) {
            news.push(News { good, reason, message });
        }
    }
    Outcomes { status, news }
}

fn usable(ready: &mut Option<(RepositoryPhase, Reason, String)>) {
    *ready = Some((RepositoryPhase::Ready, Reason::Initialized, "the repository can be used".into()));
}

/// How many Snapshot objects there are, and which is the newest complete one. Both only grow here. That the count shrank
/// is what makes a sync due, and only a sync may say so; and an object that is gone may come back, with what it stands for.
fn counts(facts: &Facts, status: &mut RepositoryStatus) {
    let there = i64::try_from(facts.snapshots.len()).unwrap_or(i64::MAX);
    if status.initialized && status.snapshot_count.is_none_or(|count| there > count) {
        status.snapshot_count = Some(there);
    }
    let complete = facts.snapshots.iter().filter(|snapshot| snapshot.is_complete_backup());
    let newest = complete.map(|snapshot| snapshot.spec.time.0).max();
    let told = status.last_successful_backup.as_ref().map(|told| told.0);
    status.last_successful_backup = newest.max(told).map(Time);
}

/// Older repositories of the same name beside this one.
fn previous(facts: &Facts, plan: &Plan, status: &mut RepositoryStatus) {
    let Some(storage) = facts.storage.as_ref().and_then(|storage| storage.status.as_ref()) else { return };
    let stem = format!("{}/{}/{}-", facts.cluster, facts.own_namespace(), facts.repository.name_any());
    let mut found: Vec<String> = storage
        .repositories
        .iter()
        .map(|repository| &repository.directory)
        .filter(|directory| **directory != plan.directory)
        .filter(|directory| directory.strip_prefix(&stem).is_some_and(|suffix| suffix.len() == 5))
        .cloned()
        .collect();
    found.sort_unstable();
    found.truncate(MAX_PREVIOUS);
    if found.is_empty() {
        remove_condition(&mut status.conditions, ConditionType::PreviousRepositoriesFound);
    } else {
        let message = format!(
            "the storage holds older repositories of this name: {}; to use one, make a Repository with its \
             directory in spec.directory",
            found.join(", ")
        );
        let update = ConditionUpdate::yes(ConditionType::PreviousRepositoriesFound, Reason::Found, message);
        set_condition(&mut status.conditions, update, facts.repository.metadata.generation, facts.now);
    }
    status.previous_repositories = found;
}

fn judge_open(
    facts: &Facts,
    plan: &Plan,
    ended: &Ended,
    status: &mut RepositoryStatus,
) -> (RepositoryPhase, Reason, String) {
    status.observed_generation = facts.repository.metadata.generation;
    status.directory = Some(plan.directory.clone());
    status.password_secret.clone_from(&plan.password);
    let failed = |reason, message| (RepositoryPhase::Failed, reason, message);
    let result =
        ended.verdict().filter(|verdict| verdict.outcome != Outcome::Failed).and_then(|v| v.result.as_ref());
    let Some(TaskResult::Initialize { repository_id, created, foreign_record, recovery_key, .. }) = result
    else {
        let message = ended.message().unwrap_or("the Job left no message; see the log of its pod").to_owned();
        return failed(open_reason(ended.reason().unwrap_or_default()), message);
    };
    if let Some(owner) = foreign_record
        && facts.repository.spec.password_secret_ref.is_none()
    {
        let message = format!(
            "the directory {} belongs to another owner: {owner}. If that cluster is gone and this one takes its \
             place, adopt the repository by naming its password in spec.passwordSecretRef; else choose another \
             directory, or another --cluster-name",
            plan.directory
        );
        return failed(Reason::ClusterMismatch, message);
    }
    if let Some(known) = status.repository_id.as_ref().filter(|known| *known != repository_id) {
        let message = format!(
            "the directory {} holds repository {repository_id}, and it held {known} before; someone has replaced \
             it: put the old one back, or make another Repository",
            plan.directory
        );
        return failed(Reason::RepositoryReplaced, message);
    }
    status.repository_id = Some(repository_id.clone());
    // The Job's name is made of what it was given: one that was given another password is not judged.
    let recovery = facts.access.as_ref().and_then(|access| access.as_ref().ok());
    let recovery = recovery.and_then(|access| access.credentials.recovery_version());
    status.recovery_password = recovery.filter(|_| *recovery_key).map(str::to_owned);
    if !status.initialized && *created {
        // Made a moment ago, and so empty: there is nothing to compare.
        status.snapshot_count = Some(0);
        synced_now(facts, status, "the repository is new and empty".to_owned());
    }
    status.initialized = true;
    let message = if *created { "the repository was made" } else { "the repository was opened" };
    (RepositoryPhase::Ready, Reason::Initialized, message.to_owned())
}

/// The condition's reason for a runner's.
pub(super) fn open_reason(said: &str) -> Reason {
    match said {
        "WrongPassword" => Reason::WrongPassword,
        "ForeignContent" | "AlreadyInitialized" | "Format" => Reason::ForeignContent,
        "NotARepository" => Reason::RepositoryMissing,
        "RepositoryReplaced" => Reason::RepositoryReplaced,
        "Auth" => Reason::InvalidCredentials,
        "AccessDenied" => Reason::AccessDenied,
        "BucketNotFound" => Reason::BucketNotFound,
        "Tls" => Reason::UntrustedCertificate,
        "Unreachable" | "Timeout" | "DeadlineExceeded" => Reason::EndpointUnreachable,
        _ => Reason::InitFailed,
    }
}

fn synced_now(facts: &Facts, status: &mut RepositoryStatus, message: String) {
    status.last_sync_time = Some(Time(facts.now));
    let update = ConditionUpdate::yes(ConditionType::SnapshotsSynced, Reason::Synced, message);
    set_condition(&mut status.conditions, update, facts.repository.metadata.generation, facts.now);
}

/// As far as the API server lets: the others can be restored from.
fn synced_in_part(facts: &Facts, status: &mut RepositoryStatus, message: String, news: &mut Vec<News>) {
    status.last_sync_time = Some(Time(facts.now));
    let update = ConditionUpdate::no(ConditionType::SnapshotsSynced, Reason::SyncFailed, message.clone());
    if set_condition(&mut status.conditions, update, facts.repository.metadata.generation, facts.now) {
        news.push(News { good: false, reason: Reason::SyncFailed, message });
    }
}

fn judge_sync(
    facts: &Facts,
    ended: &Ended,
    answers: Option<&String>,
    synced: Option<&Synced>,
    status: &mut RepositoryStatus,
    news: &mut Vec<News>,
) {
    let Some(Synced { foreign, unreadable, damaged, total, refused, last_complete }) = synced else {
        let message = match (&facts.rows, ended.is_success()) {
            (Some(Err(error)), _) => {
                format!("the list of snapshots could not be read: {error}; it is tried again")
            }
            (_, true) => {
                "the list of snapshots could not be read: its pod is gone; it is tried again".to_owned()
            }
            _ => ended.message().unwrap_or("the Job left no message; see the log of its pod").to_owned(),
        };
        let update = ConditionUpdate::no(ConditionType::SnapshotsSynced, Reason::SyncFailed, message.clone());
        if set_condition(&mut status.conditions, update, facts.repository.metadata.generation, facts.now) {
            news.push(News { good: false, reason: Reason::SyncFailed, message });
        }
        return;
    };
    let mut parts = vec![format!("{total} recovery points")];
    if *foreign > 0 {
        parts.push(format!("{foreign} snapshots of other programs are left alone"));
    }
    if let Some(first) = unreadable.first() {
        let count = unreadable.len();
        parts.push(format!("{count} snapshots have tags that cannot be understood, the first: {first}"));
    }
    if let Some(first) = refused.first() {
        let count = refused.len();
        parts.push(format!(
            "the API server refuses what is to become of {count} of their Snapshots, which is tried again; the first: {first}"
        ));
    }
    tell_damaged(facts, damaged, status, news);
    let message = parts.join("; ");
    status.snapshot_count = Some(i64::try_from(*total).unwrap_or(i64::MAX));
    // A success of which nothing is left is none.
    status.last_successful_backup = last_complete.map(Time);
    if let Some(answers) = answers {
        status.last_sync_request = Some(answers.clone());
        if refused.is_empty() {
            news.push(News { good: true, reason: Reason::Synced, message: message.clone() });
        }
    }
    if refused.is_empty() {
        synced_now(facts, status, message);
    } else {
        synced_in_part(facts, status, message, news);
    }
}

/// What a damaged snapshot held is in no recovery point: that must not pass for a backup that nobody made.
fn tell_damaged(
    facts: &Facts,
    damaged: &BTreeSet<String>,
    status: &mut RepositoryStatus,
    news: &mut Vec<News>,
) {
    if damaged.is_empty() {
        remove_condition(&mut status.conditions, ConditionType::SnapshotsDamaged);
        return;
    }
    let named: Vec<&str> = damaged.iter().take(DAMAGED_NAMED).map(String::as_str).collect();
    let message = format!(
        "{} {} in the repository cannot be read, and what they hold is in no recovery point: {}{}; save what is left with \
         `holdfast repo recover`, then remove them with `holdfast repo forget ID`",
        damaged.len(),
        if damaged.len() == 1 { "snapshot" } else { "snapshots" },
        named.join(", "),
        if damaged.len() > named.len() { ", …" } else { "" },
    );
    let update =
        ConditionUpdate::yes(ConditionType::SnapshotsDamaged, Reason::SnapshotsDamaged, message.clone());
    if set_condition(&mut status.conditions, update, facts.repository.metadata.generation, facts.now) {
        news.push(News { good: false, reason: Reason::SnapshotsDamaged, message });
    }
}
