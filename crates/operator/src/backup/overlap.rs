//! Backups and Restores of one claim at the same time: a volume that is read while it is written is no recovery point.
//! The Restore goes first, because somebody waits for their data. What it waits for is in [`crate::restore`].
//!
//! Each of the two writes down that it is there before it looks for the other: the Restore its phase, the Backup its
//! Job. So whoever comes later sees the other one, and the Backup gives way. What slipped through all the same, because
//! the operator was down at that very moment, is found when the result is judged.

use holdfast_api::backup::{BackupComponent, DiscardedSnapshot};
use holdfast_api::restore::RestorePhase;
use holdfast_api::{Reason, Restore};
use holdfast_protocol::TaskResult;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::{Client, ResourceExt};

use crate::jobs::{Ended, JobState, JobView};
use crate::kubernetes::RequestError;
use crate::runs::stop::{Stopped, stop, why_stopped};
use crate::runs::{Common, Fields};

/// Stops the Jobs that read a claim which a Restore is about to write, or writes. True when there were any.
pub(super) async fn give_way(
    client: &Client,
    components: &[BackupComponent],
    views: &[JobView],
    restores: &[Restore],
) -> Result<bool, RequestError> {
    let mut any = false;
    for view in views {
        if let Some(stopped) = in_the_way(view, components, restores) {
            stop(client, view, &stopped).await?;
            any = true;
        }
    }
    Ok(any)
}

/// Why a Job has to make room for a Restore; none when it need not, or was stopped before.
fn in_the_way(view: &JobView, components: &[BackupComponent], restores: &[Restore]) -> Option<Stopped> {
    // A runner that has told its result reads no more.
    let is_over = matches!(view.state, JobState::Ended(_)) || view.is_being_deleted();
    if is_over || why_stopped(&view.job).is_some() {
        return None;
    }
    let component = components.iter().find(|component| Some(component.name.as_str()) == view.component())?;
    let claim = component.source.claim.as_deref()?;
    let restore = restores.iter().find(|restore| is_at_work(restore) && has_target(restore, claim))?;
    Some(Stopped::for_restore(&restore.name_any()))
}

/// Says why, while a Job that made room has not ended yet.
pub(super) fn tell(component: &mut Common<'_>, views: &[JobView]) {
    let leaving = views.iter().filter(|view| view.component() == Some(component.name) && view.has_live_pod());
    let stopped = leaving.filter_map(|view| why_stopped(&view.job)).find(Stopped::gave_way);
    if let Some(stopped) = stopped.filter(|_| component.reason.as_deref() == Some("Stopping")) {
        *component.reason = Some(stopped.reason);
        *component.message = Some(stopped.message);
    }
}

/// A component whose claim was written while it was read has not been saved, whatever its runner says. It is not tried
/// again: the next runner of the run would take over the snapshot that this one committed.
pub(super) fn judge(
    component: &mut BackupComponent,
    end: &Ended,
    views: &[JobView],
    restores: &[Restore],
    now: Timestamp,
) {
    let (Some(id), Some(claim)) = (component.snapshot_id.clone(), component.source.claim.clone()) else {
        return;
    };
    let is_of_earlier = end.verdict().is_some_and(|verdict| {
        matches!(&verdict.result, Some(TaskResult::BackupVolume(result)) if result.already_committed)
    });
    let counts = |view: &&JobView| {
        let is_last = component.job.as_deref() == Some(view.name());
        // One that took over what another had committed read nothing itself.
        view.component() == Some(component.name.as_str()) && is_last != is_of_earlier
    };
    let reads: Vec<Span> = views.iter().filter(counts).map(|view| read(view, now)).collect();
    let both = |restore: &&Restore| {
        written(restore, &claim).is_some_and(|written| reads.iter().any(|read| read.overlaps(written)))
    };
    let Some(restore) = restores.iter().find(both) else { return };
    let message = format!(
        "Restore {} wrote to the claim {claim} while it was read, so the snapshot {id} is worth nothing: it may hold some files \
         of before and some of after; make another Backup",
        restore.name_any()
    );
    component.snapshot_id = None;
    component.discarded = Some(DiscardedSnapshot { snapshot_id: id, removed: false });
    component.common().fail(Reason::ClaimInUse.as_str(), message, now);
}

/// The snapshots that the run has to remove yet.
pub(super) fn worthless(components: &[BackupComponent]) -> Vec<String> {
    let all = components.iter().filter_map(|component| component.discarded.as_ref());
    all.filter(|discarded| !discarded.removed).map(|discarded| discarded.snapshot_id.clone()).collect()
}

/// They are gone, or could not be removed. The next list of the repository leaves them out either way, for as long as this
/// Backup is there.
pub(super) fn removed(components: &mut [BackupComponent], gone: bool) {
    for component in components {
        let Some(discarded) = component.discarded.as_mut().filter(|discarded| !discarded.removed) else {
            continue;
        };
        discarded.removed = gone;
        let id = &discarded.snapshot_id;
        let asks = format!(
            "; it could not be removed: forget it (`holdfast repo forget {id}`) before you delete this Backup"
        );
        let said = component.message.take().unwrap_or_default();
        let said = said.strip_suffix(&asks).unwrap_or(&said);
        component.message = Some(if gone { said.to_owned() } else { format!("{said}{asks}") });
    }
}

/// From when to when something was done, to the second, as Kubernetes tells it. Without an end, it is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    from: Timestamp,
    until: Option<Timestamp>,
}

impl Span {
    fn new(from: Timestamp, until: Option<Timestamp>) -> Self {
        let whole = |time: Timestamp| Timestamp::from_second(time.as_second()).unwrap_or(time);
        Self { from: whole(from), until: until.map(whole) }
    }

    /// Whether a claim was read in this time while it was `written`. A Backup that waited begins in the very second in
    /// which the Restore tells its end, which comes after that of its last runner.
    fn overlaps(self, written: Self) -> bool {
        let began_before = self.until.is_none_or(|until| written.from <= until);
        let ended_after = written.until.is_none_or(|until| until > self.from);
        began_before && ended_after
    }
}

/// When a Job read, or could have.
fn read(view: &JobView, now: Timestamp) -> Span {
    let made = view.created().unwrap_or(now);
    match &view.state {
        // Of several pods only the last one is told.
        JobState::Ended(ended) if ended.attempts <= 1 => {
            Span::new(ended.started.unwrap_or(made), Some(ended.finished.unwrap_or(now)))
        }
        JobState::Ended(ended) => Span::new(made, Some(ended.finished.unwrap_or(now))),
        JobState::Running(_) | JobState::Waiting(_) => Span::new(made, suspended_at(&view.job)),
    }
}

/// When Kubernetes took the pods of a Job that was stopped away.
fn suspended_at(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let suspended = conditions.iter().find(|one| one.type_ == "Suspended" && one.status == "True")?;
    suspended.last_transition_time.as_ref().map(|time| time.0)
}

/// When a Restore wrote to a claim; none when it has not begun to.
fn written(restore: &Restore, claim: &str) -> Option<Span> {
    let status = restore.status.as_ref().filter(|_| !restore.spec.dry_run)?;
    let targets = status.components.iter().filter(|target| target.claim.as_deref() == Some(claim));
    let from = targets.filter_map(|target| target.start_time.as_ref()).map(|time| time.0).min()?;
    Some(Span::new(from, status.completion_time.as_ref().map(|time| time.0)))
}

/// Whether a Restore is about to write, or writes: from when it begins to stop who uses its claims until all of its
/// runners have ended.
pub(super) fn is_at_work(restore: &Restore) -> bool {
    match restore.status.as_ref().and_then(|status| status.phase) {
        Some(
            RestorePhase::Quiescing
            | RestorePhase::Saving
            | RestorePhase::Running
            | RestorePhase::Unquiescing,
        ) => !restore.spec.dry_run,
        Some(
            RestorePhase::Pending
            | RestorePhase::Queued
            | RestorePhase::Planning
            | RestorePhase::Planned
            | RestorePhase::Succeeded
            | RestorePhase::PartiallyFailed
            | RestorePhase::Failed,
        )
        | None => false,
    }
}

/// Whether a Restore puts something into this claim.
pub(super) fn has_target(restore: &Restore, claim: &str) -> bool {
    let targets = restore.status.iter().flat_map(|status| &status.components);
    targets.into_iter().any(|target| target.claim.as_deref() == Some(claim))
}

#[cfg(test)]
#[path = "overlap_tests.rs"]
mod tests;
