//! What came of the Jobs into the status of a Backup. Pure.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_api::backup::{
    BackupComponent, BackupPhase, BackupStatus, ComponentKind, ComponentPhase, ComponentSource, Coverage,
    FileProblem, SkipReason, SkippedClaim,
};
use holdfast_api::conditions::{ConditionType, ConditionUpdate, remove_condition, set_condition};
use holdfast_api::refs::LocalRef;
use holdfast_api::{MAX_COMPONENTS, MAX_SAMPLES, Reason};
use holdfast_protocol::verdict::{BackupResult, FaultRow};
use holdfast_protocol::{Outcome, TaskResult, Verdict};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::validate::{MOST_WARNINGS, Plan, Refusal};
use crate::jobs::{End, Ended, Loss, WaitReason};
use crate::queue::Answer;
use crate::runs::{Common, Fields, waits};
use crate::volumes::identity::advice;

/// The status of a run that waits for its storage or repository.
pub fn waiting(status: &mut BackupStatus, refusal: &Refusal, generation: Option<i64>, now: Timestamp) {
    status.observed_generation = generation;
    status.phase = Some(match refusal.reason {
        Reason::Queued => BackupPhase::Queued,
        _ => BackupPhase::Pending,
    });
    status.message = Some(refusal.message.clone());
    waits::tell(&mut status.conditions, refusal.reason, &refusal.message, generation, now);
}

/// The status of a run that has saved what it could, and whose Snapshot object cannot be made yet.
pub fn snapshot_refused(status: &mut BackupStatus, cause: &str, generation: Option<i64>, now: Timestamp) {
    status.observed_generation = generation;
    status.phase = Some(BackupPhase::Finishing);
    let message = format!(
        "what was saved is in the repository, but its Snapshot object cannot be made, which is tried again: {cause}"
    );
    let update = ConditionUpdate::no(ConditionType::Progressing, Reason::Failed, &message);
    set_condition(&mut status.conditions, update, generation, now);
    status.message = Some(message);
}

/// The status of a run that has begun: from now on the components are fixed.
pub fn begun(
    status: &mut BackupStatus,
    plan: &Plan,
    repository: &str,
    generation: Option<i64>,
    now: Timestamp,
) {
    status.observed_generation = generation;
    status.phase = Some(BackupPhase::Running);
    status.start_time = Some(Time(now));
    status.repository_ref = Some(LocalRef::new(repository));
    status.coverage = Some(listed(plan.coverage.clone()));
    status.message = Some(format!("saves {}", count(plan.components.len(), "volume")));
    status.components = plan
        .components
        .iter()
        .map(|planned| BackupComponent {
            name: planned.name.clone(),
            kind: ComponentKind::Volume,
            source: ComponentSource { claim: Some(planned.claim.clone()) },
            run_as: Some(planned.identity.clone()),
            message: planned.limits.clone(),
            ..BackupComponent::default()
        })
        .collect();
    let update = ConditionUpdate::yes(ConditionType::Progressing, Reason::Running, "Jobs are at work");
    set_condition(&mut status.conditions, update, generation, now);
}

/// As much of it as a status can list, and how much that is not.
fn listed(mut coverage: Coverage) -> Coverage {
    let more = coverage.skipped.len().saturating_sub(MAX_COMPONENTS);
    if more > 0 {
        coverage.skipped.truncate(MAX_COMPONENTS);
        let text = format!(
            "{} left out beside the {MAX_COMPONENTS} that are listed; those that were to be saved are listed first",
            count(more, "claim")
        );
        // In front, where no other warning takes its place.
        coverage.warnings.insert(0, text);
        coverage.warnings.truncate(MOST_WARNINGS);
    }
    coverage
}

/// What a run does at the moment, and what the first component that is held up waits for.
pub fn under_way(components: &mut [BackupComponent]) -> String {
    let text = format!("saves {}", count(components.len(), "volume"));
    with_progress(&text, components)
}

/// The text with how many components are done, and what the first one that is held up waits for.
pub fn with_progress<C: Fields>(text: &str, components: &mut [C]) -> String {
    let all: Vec<_> = components.iter_mut().map(Fields::common).collect();
    let over = all.iter().filter(|component| component.phase.is_terminal()).count();
    let held_up = all.iter().find_map(|component| {
        let held_up = *component.phase == ComponentPhase::Pending
            && component.reason.as_deref().is_some_and(|reason| !ON_ITS_WAY.contains(&reason));
        component
            .message
            .as_deref()
            .filter(|_| held_up)
            .map(|message| format!("; {}: {message}", component.name))
    });
    let waits = |component: &&Common<'_>| {
        *component.phase == ComponentPhase::Pending
            && component.reason.as_deref() == Some(Reason::Queued.as_str())
    };
    let queued = all.iter().filter(waits).count();
    let first = all.iter().find(waits).and_then(|component| component.message.as_deref());
    let line = first.map(|message| format!("; {queued} in line, the first {message}"));
    format!("{text}, {over} of them done{}{}", held_up.unwrap_or_default(), line.unwrap_or_default())
}

/// What a run waits for that has a place for none of its components.
pub fn queued(answers: &BTreeMap<String, Answer>) -> String {
    let place = |answer: &Answer| match answer {
        Answer::Wait { position, .. } => *position,
        Answer::Go | Answer::NotKnown => 0,
    };
    let first = answers.values().min_by_key(|answer| place(answer));
    let first = first.map_or_else(String::new, ToString::to_string);
    if answers.len() > 1 { format!("{} volumes in line, the first {first}", answers.len()) } else { first }
}

/// Components that may not start, and why.
pub fn held_up(components: &mut [BackupComponent], which: &[&str], refusal: &Refusal) {
    for component in components.iter_mut().filter(|component| which.contains(&component.name.as_str())) {
        component.reason = Some(refusal.reason.as_str().to_owned());
        component.message = Some(refusal.message.clone());
        component.next_attempt_time = None;
    }
}

/// Tells the components whose Job waits for a pod that takes the volume to another node; their names.
pub fn moving(
    components: &mut [BackupComponent],
    which: &[&str],
    plan: &Plan,
    now: Timestamp,
) -> BTreeSet<String> {
    let mut waiting = BTreeSet::new();
    for component in components.iter_mut().filter(|component| which.contains(&component.name.as_str())) {
        let planned = plan.components.iter().find(|planned| planned.name == component.name);
        let moving = planned.and_then(|planned| planned.moving.as_ref());
        if let Some(moving) = moving.filter(|moving| moving.is_awaited(now)) {
            component.common().wait(WaitReason::VolumeNotMounted.as_str(), moving.to_string());
            waiting.insert(component.name.clone());
        }
    }
    waiting
}

/// Reasons of a wait that is part of every run.
const ON_ITS_WAY: [&str; 3] =
    [WaitReason::Starting.as_str(), WaitReason::PodNotCreated.as_str(), Reason::Queued.as_str()];

/// What the end of a Job means for its component.
pub fn ended(component: &mut BackupComponent, ended: &Ended) {
    match &ended.end {
        End::Lost { loss, message } => {
            component.phase = ComponentPhase::Failed;
            component.reason = Some(loss_reason(*loss).as_str().to_owned());
            component.message = Some(message.clone());
        }
        End::Verdict(verdict) => judged(component, verdict),
    }
}

/// The reason of a Job that ended without a verdict.
pub fn loss_reason(loss: Loss) -> Reason {
    match loss {
        Loss::DeadlineExceeded => Reason::DeadlineExceeded,
        Loss::OutOfMemory => Reason::OutOfMemory,
        Loss::Evicted | Loss::Killed | Loss::Crashed | Loss::VerdictLost => Reason::RunnerKilled,
    }
}

fn judged(component: &mut BackupComponent, verdict: &Verdict) {
    component.reason.clone_from(&verdict.reason);
    component.message.clone_from(&verdict.message);
    let Some(TaskResult::BackupVolume(result)) = &verdict.result else {
        component.phase = ComponentPhase::Failed;
        if verdict.outcome != Outcome::Failed {
            component.reason = Some(Reason::Failed.as_str().to_owned());
            component.message = Some("the runner ended well but told nothing of what it saved".to_owned());
        }
        return;
    };
    counted(component, result);
    component.phase = match (verdict.outcome, &result.snapshot_id) {
        (Outcome::Failed, _) => ComponentPhase::Failed,
        // No snapshot, no success, whatever the runner thinks of itself.
        (_, None) => {
            component.reason = Some(Reason::Failed.as_str().to_owned());
            component.message = Some("the runner ended well but committed no snapshot".to_owned());
            ComponentPhase::Failed
        }
        (Outcome::Succeeded, Some(_)) => ComponentPhase::Succeeded,
        (Outcome::Partial, Some(_)) => ComponentPhase::PartiallyFailed,
    };
    if component.phase == ComponentPhase::PartiallyFailed && result.unreadable > 0 {
        component.reason = Some(Reason::UnreadableFiles.as_str().to_owned());
        component.message = Some(format!(
            "{} could not be read: {}",
            unread(result.unreadable),
            advice(component.run_as.as_ref())
        ));
    }
    if component.phase != ComponentPhase::Failed
        && let Some(torn) = torn(result.changed_while_reading)
    {
        let before = component.message.take().map(|text| format!("{text}; ")).unwrap_or_default();
        component.message = Some(format!("{before}{torn}"));
    }
}

/// What is said of files that were written to while they were read: no failure, but such a file may be of no use to its
/// program, and nobody else knows of it.
fn torn(files: u64) -> Option<String> {
    let all = count(usize::try_from(files).unwrap_or(usize::MAX), "file");
    let (verb, they) = if files == 1 { ("is", "it was") } else { ("are", "they were") };
    (files > 0).then(|| {
        format!(
            "{all} changed while {they} read and {verb} saved as {they} read, which may be of several moments: back up \
             while nothing writes, or save a dump"
        )
    })
}

fn counted(component: &mut BackupComponent, result: &BackupResult) {
    let BackupResult {
        snapshot_id,
        empty: _,
        already_committed: _,
        parent: _,
        files_new,
        files_changed,
        files_unmodified,
        files_total,
        bytes_processed,
        bytes_added,
        bytes_stored: _,
        excluded,
        unreadable,
        unreadable_sample,
        changed_while_reading,
        duration_ms: _,
    } = result;
    component.snapshot_id.clone_from(snapshot_id);
    component.files_new = Some(*files_new);
    component.files_changed = Some(*files_changed);
    // What an earlier attempt had committed is counted as a whole.
    let known = files_new.saturating_add(*files_changed).saturating_add(*files_unmodified);
    component.files_unmodified = Some(files_unmodified.saturating_add(files_total.saturating_sub(known)));
    component.bytes_processed = Some(*bytes_processed);
    component.bytes_added = Some(*bytes_added);
    component.excluded = (*excluded > 0).then_some(*excluded);
    component.unreadable = Some(*unreadable);
    component.unreadable_sample = samples(unreadable_sample);
    component.changed_while_reading = (*changed_while_reading > 0).then_some(*changed_while_reading);
}

/// Rows of a verdict as a status shows them.
pub fn samples(rows: &[FaultRow]) -> Vec<FileProblem> {
    rows.iter()
        .take(MAX_SAMPLES)
        .map(|row| FileProblem { path: row.path.clone(), error: row.error.clone() })
        .collect()
}

/// Number of files in a component's snapshot.
pub fn files(component: &BackupComponent) -> Option<u64> {
    let parts = [component.files_new, component.files_changed, component.files_unmodified];
    parts.iter().flatten().copied().reduce(u64::saturating_add)
}

/// The phase, the reason and the sentence that a run ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conclusion {
    /// The phase.
    pub phase: BackupPhase,
    /// Why.
    pub reason: Reason,
    /// In a sentence, with what to do.
    pub message: String,
}

/// What a run comes to, once each component has ended (or there is none). The coverage lists the claims whose absence
/// matters before the others.
pub fn conclude(components: &[BackupComponent], coverage: &Coverage) -> Conclusion {
    let left_out: Vec<String> = coverage
        .skipped
        .iter()
        .filter(|skip| !skip.reason.is_harmless())
        .map(|skip| format!("{} ({})", skip.claim, skip.reason))
        .collect();
    if components.is_empty() && left_out.is_empty() {
        let message = if coverage.skipped.is_empty() {
            "the namespace has no claims, so there was nothing to save".to_owned()
        } else {
            format!(
                "nothing was to be saved: {}{} left out, status.coverage says why",
                count(coverage.skipped.len(), "claim"),
                if coverage.skipped.len() < MAX_COMPONENTS { "" } else { " or more" }
            )
        };
        return Conclusion { phase: BackupPhase::Skipped, reason: Reason::NothingToBackUp, message };
    }
    let with = |phase| components.iter().filter(move |component| component.phase == phase);
    let saved = components.iter().filter(|component| component.snapshot_id.is_some()).count();
    let failed: Vec<String> = with(ComponentPhase::Failed)
        .map(|component| format!("{} ({})", component.name, component.reason.as_deref().unwrap_or("Failed")))
        .collect();
    let partial: Vec<&str> =
        with(ComponentPhase::PartiallyFailed).map(|component| component.name.as_str()).collect();

    let mut parts = vec![summary(components, saved)];
    for (text, list) in [
        ("failed", failed.clone()),
        ("files missing in", partial.iter().map(|name| (*name).to_owned()).collect()),
        ("not saved", left_out.clone()),
    ] {
        if !list.is_empty() {
            parts.push(format!("{text}: {}", shortened(&list)));
        }
    }
    if left_out.len() >= MAX_COMPONENTS {
        parts.push("more may be left out than status.coverage lists".to_owned());
    }
    let first_failure = with(ComponentPhase::Failed).find_map(|component| component.message.as_deref());
    parts.extend(first_failure.map(str::to_owned));
    let (phase, reason) = match (saved, failed.is_empty(), partial.is_empty(), left_out.is_empty()) {
        (0, true, true, _) => (BackupPhase::Failed, Reason::ClaimsSkipped),
        (0, ..) => (BackupPhase::Failed, Reason::ComponentsFailed),
        (_, true, true, true) => (BackupPhase::Succeeded, Reason::Succeeded),
        (_, false, ..) => (BackupPhase::PartiallyFailed, Reason::ComponentsFailed),
        (_, true, false, _) => (BackupPhase::PartiallyFailed, Reason::UnreadableFiles),
        (_, true, true, false) => (BackupPhase::PartiallyFailed, Reason::ClaimsSkipped),
    };
    Conclusion { phase, reason, message: parts.join("; ") }
}

fn summary(components: &[BackupComponent], saved: usize) -> String {
    if saved == 0 {
        return "nothing was saved".to_owned();
    }
    let sum = |field: fn(&BackupComponent) -> Option<u64>| {
        components.iter().filter(|c| c.snapshot_id.is_some()).filter_map(field).fold(0, u64::saturating_add)
    };
    let of = if saved == components.len() { String::new() } else { format!(" of {}", components.len()) };
    format!(
        "saved {}{of}: {} files, {}, of which {} new",
        count(saved, "volume"),
        sum(files),
        bytes(sum(|c| c.bytes_processed)),
        bytes(sum(|c| c.bytes_added))
    ) + &match sum(|c| c.excluded) {
        0 => String::new(),
        n => format!("; left out by rules: {}", unread(n)),
    }
}

fn shortened(list: &[String]) -> String {
    const SHOWN: usize = 5;
    let text = list.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match list.len().checked_sub(SHOWN) {
        None | Some(0) => text,
        Some(more) => format!("{text} and {more} more"),
    }
}

/// The status of a run that is over.
pub fn concluded(
    status: &mut BackupStatus,
    conclusion: &Conclusion,
    generation: Option<i64>,
    now: Timestamp,
) {
    let Conclusion { phase, reason, message } = conclusion;
    status.observed_generation = generation;
    status.phase = Some(*phase);
    status.completion_time = Some(Time(now));
    status.message = Some(message.clone());
    if let Some(coverage) = &mut status.coverage {
        let whole = status.components.iter().filter(|component| component.phase == ComponentPhase::Succeeded);
        coverage.protected = u32::try_from(whole.count()).unwrap_or(u32::MAX);
    }
    let ended = ConditionUpdate::no(ConditionType::Progressing, *reason, "the run is over");
    set_condition(&mut status.conditions, ended, generation, now);
    let completed = match phase {
        BackupPhase::Succeeded | BackupPhase::Skipped => {
            ConditionUpdate::yes(ConditionType::Completed, *reason, message)
        }
        _ => ConditionUpdate::no(ConditionType::Completed, *reason, message),
    };
    set_condition(&mut status.conditions, completed, generation, now);
    let name = |component: &BackupComponent| match component.excluded {
        None => component.name.clone(),
        Some(n) => format!("{} ({} in it left out by rules)", component.name, unread(n)),
    };
    let empty: Vec<String> = status
        .components
        .iter()
        .filter(|component| component.snapshot_id.is_some() && files(component) == Some(0))
        .map(name)
        .collect();
    if empty.is_empty() {
        remove_condition(&mut status.conditions, ConditionType::SourceEmpty);
    } else {
        let message = format!("no files were saved of: {}", empty.join(", "));
        let update = ConditionUpdate::yes(ConditionType::SourceEmpty, Reason::VolumeEmpty, message);
        set_condition(&mut status.conditions, update, generation, now);
    }
}

/// The status of a run that has to end before it began.
pub fn refused(status: &mut BackupStatus, refusal: &Refusal, generation: Option<i64>, now: Timestamp) {
    status.start_time.get_or_insert(Time(now));
    let conclusion =
        Conclusion { phase: BackupPhase::Failed, reason: refusal.reason, message: refusal.message.clone() };
    concluded(status, &conclusion, generation, now);
}

/// A component whose claim can no longer be saved.
pub fn vanished(component: &mut BackupComponent, plan: &Plan, now: Timestamp) {
    let claim = component.source.claim.clone().unwrap_or_default();
    let skip = plan.coverage.skipped.iter().find(|skip| skip.claim == claim);
    // That the claim is gone is the reason why nothing is selected any more.
    let refusal = plan.refusal.as_ref().filter(|refusal| refusal.reason != Reason::NothingSelected);
    let (reason, message) = match (refusal, skip) {
        (Some(refusal), _) => (refusal.reason.as_str().to_owned(), refusal.message.clone()),
        (None, Some(skip)) => (skip.reason.as_str().to_owned(), skip.message.clone().unwrap_or_default()),
        (None, None) => ("ClaimNotFound".to_owned(), format!("the claim {claim} is gone")),
    };
    component.common().fail(reason, message, now);
}

/// Whether a component whose runner was at work waits for the node of its volume, which is not ready: it has started again,
/// or is dead, and then the volume is taken from it.
pub fn waits_for_node(component: &mut BackupComponent, plan: &Plan) -> bool {
    let Some(claim) = component.source.claim.clone() else { return false };
    let is_its = |skip: &&SkippedClaim| skip.claim == claim && skip.reason == SkipReason::NodeNotReady;
    let Some(skip) = plan.coverage.skipped.iter().find(is_its) else { return false };
    let message = skip.message.clone().unwrap_or_default();
    component.common().wait(WaitReason::VolumeNotMounted.as_str(), message);
    true
}

/// A number with its noun.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// How much could not be read: of a directory that could not be listed nobody knows how much is in it.
pub fn unread(number: u64) -> String {
    if number == 1 { "1 file or directory".to_owned() } else { format!("{number} files or directories") }
}

/// A size for people: `1.5 GiB`.
pub fn bytes(size: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if size < 1024 {
        return format!("{size} B");
    }
    let mut tenths = u128::from(size) * 10 / 1024;
    let mut unit = UNITS.iter();
    let mut name = unit.next();
    while tenths >= 10_240 {
        tenths /= 1024;
        name = unit.next().or(name);
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, name.copied().unwrap_or_default())
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
