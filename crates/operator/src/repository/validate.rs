//! What a repository needs next. Pure.

use std::time::Duration;

use holdfast_api::conditions::{ConditionType, Reason, find_condition};
use holdfast_api::refs::NamespacedRef;
use holdfast_api::repository::RepositoryPhase;
use holdfast_api::{Repository, names};
use jiff::Timestamp;
use kube::ResourceExt;

use super::build;
use super::dereference::Facts;
use crate::access::{AccessError, Credentials};
use crate::jobs::{Ended, JobState, JobTask, JobView, Waiting};
use crate::usage;

/// Pause before a repository that could not be opened is tried again; it grows from here.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// Longest pause between tries to open.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// What comes next.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Something has to change first.
    Refuse { phase: RepositoryPhase, reason: Reason, message: String },
    /// Write the directory down, before anything is made in it.
    SetDirectory,
    /// Make the password, and then go on.
    MakePassword { place: NamespacedRef },
    /// Start a Job that opens or makes the repository.
    Open { job: String, must_exist: bool },
    /// Such a Job is at work, or waits.
    Opening { waiting: Option<Waiting> },
    /// Such a Job has ended.
    JudgeOpen { ended: Box<Ended>, inputs: String },
    /// Start a Job that lists the repository.
    Sync { job: String },
    /// Such a Job is at work.
    Syncing,
    /// Such a Job has ended. `answers` is the request that it answers.
    JudgeSync { ended: Box<Ended>, inputs: String, answers: Option<String>, listed: Timestamp },
    /// Nothing until then.
    Rest { until: Timestamp },
    /// The namespace is going away.
    Nothing,
}

/// What comes next, where, and which Jobs are left over.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    pub directory: String,
    pub password: Option<NamespacedRef>,
    pub step: Step,
    pub stale: Vec<String>,
}

/// Whether the repository has to be opened before it is used: never opened, described anew, or failed last time.
pub(super) fn needs_opening(repository: &Repository) -> bool {
    let Some(status) = &repository.status else { return true };
    let failed = find_condition(&status.conditions, ConditionType::Ready)
        .is_some_and(|ready| OPEN_FAILURES.iter().any(|reason| reason.as_str() == ready.reason));
    !status.initialized || status.observed_generation != repository.metadata.generation || failed
}

/// Whether the repository cannot be used before it was opened.
pub(super) fn must_be_opened(facts: &Facts, directory: &str) -> bool {
    needs_opening(&facts.repository) || has_another_password(facts, &opening_inputs(facts, directory))
}

/// Whether the storage has a recovery password that the repository did not get yet. To get it, it is opened once more;
/// meanwhile it can be used as before.
fn lacks_recovery_password(facts: &Facts) -> bool {
    let Some(Ok(access)) = &facts.access else { return false };
    let wanted = access.credentials.recovery_version();
    let has = facts.repository.status.as_ref().and_then(|status| status.recovery_password.as_deref());
    // Where nothing is written, no key is added.
    let is_closed = access.storage.spec.is_read_only() || build::is_for_dry_run(&facts.repository);
    wanted.is_some() && wanted != has && !is_closed
}

/// Reasons that only another look into the repository can take away.
const OPEN_FAILURES: [Reason; 11] = [
    Reason::WrongPassword,
    Reason::ForeignContent,
    Reason::InitFailed,
    Reason::ClusterMismatch,
    Reason::RepositoryMissing,
    Reason::RepositoryReplaced,
    Reason::InvalidCredentials,
    Reason::AccessDenied,
    Reason::EndpointUnreachable,
    Reason::UntrustedCertificate,
    Reason::BucketNotFound,
];

pub(super) fn validate(facts: &Facts) -> Plan {
    let directory = build::directory(&facts.repository, &facts.cluster);
    let password = facts
        .storage
        .as_ref()
        .and_then(|storage| build::password_place(&facts.repository, storage, &directory));
    let inputs = opening_inputs(facts, &directory);
    let open_job = open_job(facts, &inputs);
    let live = |task: JobTask| {
        facts.jobs.iter().find(move |view| view.task() == Some(task.as_str()) && !view.is_being_deleted())
    };
    let opening = live(JobTask::Init).filter(|view| view.name() == open_job);
    let syncing = live(JobTask::Sync);
    let stale = facts
        .jobs
        .iter()
        .map(JobView::name)
        .filter(|name| opening.is_none_or(|view| view.name() != *name))
        .filter(|name| syncing.is_none_or(|view| view.name() != *name))
        .map(str::to_owned)
        .collect();
    let step = step(facts, &directory, password.as_ref(), inputs, open_job, opening, syncing);
    Plan { directory, password, step, stale }
}

fn step(
    facts: &Facts,
    directory: &str,
    password: Option<&NamespacedRef>,
    inputs: String,
    open_job: String,
    opening: Option<&JobView>,
    syncing: Option<&JobView>,
) -> Step {
    if facts.namespace.terminating {
        return Step::Nothing;
    }
    // What has ended is judged before anything else, whatever has happened to the storage since.
    if let Some(JobState::Ended(ended)) = opening.map(|view| &view.state) {
        return Step::JudgeOpen { ended: Box::new(ended.clone()), inputs };
    }
    if let Some(view) = syncing
        && let JobState::Ended(ended) = &view.state
    {
        let request = request(&facts.repository);
        // A request that came while the Job was at work is not answered by it.
        let answers = if view.name() == sync_job(facts) { request } else { None };
        let listed = view.created().unwrap_or(facts.now);
        return Step::JudgeSync {
            ended: Box::new(ended.clone()),
            inputs: sync_inputs(facts),
            answers,
            listed,
        };
    }
    if let Some(refusal) = admit(facts, directory) {
        return refusal;
    }
    let status = facts.repository.status.as_ref();
    if status.and_then(|status| status.directory.as_deref()) != Some(directory) {
        return Step::SetDirectory;
    }
    match &facts.password {
        Some(Ok(_)) => {}
        Some(Err(error)) => return without_password(facts, error, password),
        None => return Step::SetDirectory,
    }
    if must_be_opened(facts, directory) || lacks_recovery_password(facts) {
        if let Some(view) = opening {
            let waiting =
                if let JobState::Waiting(waiting) = &view.state { Some(waiting.clone()) } else { None };
            return Step::Opening { waiting };
        }
        let due = match facts.opened.as_ref().filter(|attempt| attempt.inputs == inputs) {
            Some(attempt) => attempt.next(FIRST_PAUSE, LONGEST_PAUSE),
            None => facts.now,
        };
        if due > facts.now {
            return Step::Rest { until: due };
        }
        let initialized = status.is_some_and(|status| status.initialized);
        let adopted = facts.repository.spec.password_secret_ref.is_some();
        let closed = facts.storage.as_ref().is_some_and(|storage| storage.spec.is_read_only());
        return Step::Open { job: open_job, must_exist: initialized || adopted || closed };
    }
    if syncing.is_some() {
        return Step::Syncing;
    }
    let due = sync_due(facts);
    if due <= facts.now { Step::Sync { job: sync_job(facts) } } else { Step::Rest { until: due } }
}

fn refuse(phase: RepositoryPhase, reason: Reason, message: impl Into<String>) -> Step {
    Step::Refuse { phase, reason, message: message.into() }
}

/// Whether the repository may be where it is to be, and whether its storage can be used now.
fn admit(facts: &Facts, directory: &str) -> Option<Step> {
    let pending = RepositoryPhase::Pending;
    let failed = RepositoryPhase::Failed;
    let own = facts.own_namespace();
    let (storage_namespace, storage_name) =
        (facts.storage_namespace(), &facts.repository.spec.storage_ref.name);
    let Some(storage) = &facts.storage else {
        let message = format!("BackupStorage {storage_namespace}/{storage_name} does not exist; create it");
        return Some(refuse(pending, Reason::StorageNotFound, message));
    };
    if let Some(message) = usage::refusal(storage, &own, &facts.namespace.labels) {
        return Some(refuse(failed, Reason::StorageNotAllowed, message));
    }
    if own != storage_namespace && !names::directory_belongs_to(directory, &facts.cluster, &own) {
        let message = format!(
            "outside the storage's own namespace a directory has to begin with {}/{own}/, and {directory} does not; \
             make the Repository in namespace {storage_namespace}, or with another directory",
            facts.cluster
        );
        return Some(refuse(failed, Reason::DirectoryNotAllowed, message));
    }
    if let Some(rival) = &facts.rival {
        let message =
            format!("Repository {rival} has the directory {directory} already; delete one of the two");
        return Some(refuse(failed, Reason::DirectoryInUse, message));
    }
    if let Some(Err(error)) = &facts.access {
        return Some(refuse(pending, error.reason().unwrap_or(Reason::StorageNotReady), error.to_string()));
    }
    let own = facts.repository.namespace().unwrap_or_default();
    if let Some(message) = usage::not_ready(storage, &own) {
        return Some(refuse(pending, Reason::StorageNotReady, message));
    }
    None
}

fn without_password(facts: &Facts, error: &AccessError, place: Option<&NamespacedRef>) -> Step {
    let generated = facts.repository.spec.password_secret_ref.is_none();
    let initialized = facts.repository.status.as_ref().is_some_and(|status| status.initialized);
    if let (AccessError::NotFound { .. }, true, false, Some(place)) = (error, generated, initialized, place) {
        return Step::MakePassword { place: place.clone() };
    }
    let message = if generated {
        format!(
            "{error}. It held the generated password: put it back from a copy; a new one would not open the data"
        )
    } else {
        error.to_string()
    };
    refuse(RepositoryPhase::Failed, error.reason().unwrap_or(Reason::SecretNotFound), message)
}

/// Digest of all that opening depends on.
fn opening_inputs(facts: &Facts, directory: &str) -> String {
    let generation = facts.repository.metadata.generation.unwrap_or_default();
    let (credentials, password) = match (&facts.access, &facts.password) {
        (Some(Ok(access)), Some(Ok(password))) => {
            let alone = Credentials::default().with_password(password.clone());
            (access.credentials.fingerprint(), alone.fingerprint())
        }
        _ => Default::default(),
    };
    format!("{generation}/{directory}/{credentials}/{password}")
}

/// Whether the password is another one than that which opened it: whether it opens, too, is found out before the next run
/// meets it. After a restart of the operator the next sync finds out.
fn has_another_password(facts: &Facts, inputs: &str) -> bool {
    let password = |inputs: &str| inputs.rsplit('/').next().map(str::to_owned);
    facts.opened.as_ref().is_some_and(|attempt| password(&attempt.inputs) != password(inputs))
}

fn open_job(facts: &Facts, inputs: &str) -> String {
    let last = facts.opened.as_ref().map_or(0, |attempt| attempt.at.as_second());
    names::task_job_name(JobTask::Init, &facts.run.name, &facts.run.uid, &format!("{inputs}/{last}"))
}

/// The sync that the user asks for, when it was not answered yet.
fn request(repository: &Repository) -> Option<String> {
    repository.annotations().get(names::ANNOTATION_SYNC_NOW).cloned()
}

fn sync_inputs(facts: &Facts) -> String {
    request(&facts.repository).unwrap_or_default()
}

fn sync_job(facts: &Facts) -> String {
    let last = facts.repository.status.as_ref().and_then(|status| status.last_sync_time.as_ref());
    let last = last.map_or(0, |time| time.0.as_second());
    let tried = facts.synced.as_ref().map_or(0, |attempt| attempt.at.as_second());
    let occasion = format!("{last}/{tried}/{}", sync_inputs(facts));
    names::task_job_name(JobTask::Sync, &facts.run.name, &facts.run.uid, &occasion)
}

fn sync_due(facts: &Facts) -> Timestamp {
    let Some(status) = &facts.repository.status else { return facts.now };
    let inputs = sync_inputs(facts);
    // After a failure the pause counts, not the wish; unless the wish is a new one.
    if let Some(attempt) = facts.synced.as_ref().filter(|a| a.failures > 0 && a.inputs == inputs) {
        return attempt.next(FIRST_PAUSE, facts.sync_period);
    }
    let asked =
        request(&facts.repository).is_some_and(|request| status.last_sync_request.as_ref() != Some(&request));
    let there = i64::try_from(facts.snapshots.len()).unwrap_or(i64::MAX);
    // Objects that we did not remove are gone: somebody deleted mirrors, and they come back.
    let deleted = status.snapshot_count.is_some_and(|count| there < count);
    match &status.last_sync_time {
        Some(last) if !asked && !deleted => last.0.saturating_add(facts.sync_period).unwrap_or(facts.now),
        _ => facts.now,
    }
}
