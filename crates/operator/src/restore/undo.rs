//! The safety snapshot: what a Restore saves of the claims that it overwrites, before the first byte is written. Pure;
//! carried out in [`super::save`].
//!
//! It is a run of its own in the same repository, under the Restore's name and uid, and bears a tag of its own: it is
//! never chosen as the latest or by a time, counts for no retention rule, and is the parent of no ordinary snapshot.
//! It is whole or it is not used: what could not be read in full is not overwritten.

use std::time::Duration;

use holdfast_api::backup::{BackupComponent, ComponentKind, ComponentPhase, ComponentSource};
use holdfast_api::backup_storage::StoragePhase;
use holdfast_api::conditions::{ConditionType, find_condition};
use holdfast_api::refs::LocalRef;
use holdfast_api::restore::{RestoreStatus, Undo, UndoState};
use holdfast_api::snapshot::{BackupId, SnapshotSpec, SnapshotStatus};
use holdfast_api::tags::{ComponentSet, RunTags, VolumeTags};
use holdfast_api::{BackupStorage, Reason, Restore, Snapshot, names};
use holdfast_protocol::Task;
use holdfast_protocol::spec::{BackupVolume, OnUnreadable};
use holdfast_protocol::{Outcome, TaskResult};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::ResourceExt;

use super::validate::{Plan, Refusal};
use crate::backup::build::{Cluster, identity_tags, saved};
use crate::backup::status as of_backup;
use crate::jobs::{ClaimMount, End, Ended, JobPlan, JobTask, Placement, RunRef};
use crate::usage;
use crate::volumes::identity::{Access, runner_identity};

/// How the end of every message about a refusal reads.
const WAY_OUT: &str = "or set undo: false to overwrite it without a way back";

/// What will be saved first, of a plan that can be carried out. `place` is the repository's namespace.
pub(super) fn planned(restore: &Restore, plan: &Plan, storage: &BackupStorage, place: &str) -> Undo {
    let with = |state, message: String| Undo { state, message: Some(message), components: Vec::new() };
    if !restore.spec.undo {
        return with(UndoState::Off, "spec.undo is false: what is overwritten is not kept".to_owned());
    }
    let components: Vec<BackupComponent> = plan
        .components
        .iter()
        .filter(|planned| !planned.empty)
        .map(|planned| BackupComponent {
            name: names::volume_component(&planned.claim),
            kind: ComponentKind::Volume,
            source: ComponentSource { claim: Some(planned.claim.clone()) },
            node: planned.node.clone(),
            run_as: Some(planned.identity.clone()),
            ..BackupComponent::default()
        })
        .collect();
    if components.is_empty() {
        return with(
            UndoState::NotNeeded,
            "nothing is overwritten: every claim is new, or was never written to".to_owned(),
        );
    }
    if let Some(why) = obstacle(storage) {
        return with(
            UndoState::NotPossible,
            format!("what is there cannot be saved first: {why}; {WAY_OUT}"),
        );
    }
    let claims: Vec<&str> = components.iter().filter_map(|c| c.source.claim.as_deref()).take(10).collect();
    let elsewhere = if restore.namespace().as_deref() == Some(place) {
        String::new()
    } else {
        format!(", into a repository of namespace {place}, whose users can then read it")
    };
    let message = format!("will be saved first: what is in {}{elsewhere}", claims.join(", "));
    Undo { state: UndoState::Planned, message: Some(message), components }
}

/// Why nothing can be saved to a storage.
fn obstacle(storage: &BackupStorage) -> Option<String> {
    if let Some(why) = usage::closed(storage) {
        return Some(why);
    }
    let status = storage.status.as_ref()?;
    let ready = find_condition(&status.conditions, ConditionType::Ready)?;
    let closed =
        [Reason::ReadOnly, Reason::AccessDenied].iter().any(|reason| reason.as_str() == ready.reason);
    (status.phase == Some(StoragePhase::Unavailable) && closed).then(|| {
        format!(
            "BackupStorage {} cannot be written to ({}): {}",
            storage.name_any(),
            ready.reason,
            ready.message
        )
    })
}

/// Why a Restore may not begin.
pub(super) fn refusal(undo: &Undo) -> Option<Refusal> {
    (undo.state == UndoState::NotPossible)
        .then(|| Refusal::plain(Reason::UndoNotPossible, undo.message.clone().unwrap_or_default()))
}

/// The Job that saves one claim.
pub(super) fn job(
    run: &RunRef,
    owner: OwnerReference,
    component: &BackupComponent,
    placement: Placement,
    name: String,
    deadline: Duration,
) -> JobPlan {
    let claim = component.source.claim.clone().unwrap_or_default();
    JobPlan {
        name,
        namespace: run.namespace.clone(),
        owner,
        run: run.clone(),
        task: JobTask::Backup,
        component: Some(component.name.clone()),
        claim: Some(ClaimMount { path: names::data_path(&claim), claim, read_only: true }),
        identity: runner_identity(&component.run_as.clone().unwrap_or_default(), Access::Read),
        placement,
        follows: false,
        pod_config: None,
        seat: None,
        // Each attempt is a Job of its own.
        retries: 0,
        dead_jobs: Vec::new(),
        deadline,
    }
}

/// What the runner that saves one claim is told: all of it, and all or nothing.
pub(super) fn task(
    restore: &Restore,
    cluster: Cluster<'_>,
    started: Timestamp,
    set: &ComponentSet,
    component: &BackupComponent,
    volume: VolumeTags,
) -> Task {
    let namespace = restore.namespace().unwrap_or_default();
    let tags = RunTags {
        cluster: cluster.name.to_owned(),
        cluster_uid: cluster.uid.to_owned(),
        namespace: namespace.clone(),
        run: restore.name_any(),
        run_uid: restore.uid().unwrap_or_default(),
        run_start: started,
        component: component.name.clone(),
        components: set.clone(),
        volume,
        unreadable: 0,
        ignores_unreadable: false,
        undo_of: Some(restore.name_any()),
    }
    .to_tags();
    Task::BackupVolume(BackupVolume {
        component: component.name.clone(),
        path: names::data_path(component.source.claim.as_deref().unwrap_or_default()),
        host: namespace,
        identity_tags: identity_tags(&tags),
        tags,
        time: started.to_string(),
        exclude: Vec::new(),
        exclude_caches: false,
        on_unreadable: OnUnreadable::Fail,
        skip_empty: true,
    })
}

/// What the end of a Job means for its component.
pub(super) fn ended(component: &mut BackupComponent, ended: &Ended) {
    if let End::Verdict(verdict) = &ended.end
        && let (Outcome::Succeeded, Some(TaskResult::BackupVolume(result))) =
            (verdict.outcome, &verdict.result)
        && result.empty
    {
        component.phase = ComponentPhase::Succeeded;
        component.reason = Some(Reason::VolumeEmpty.as_str().to_owned());
        component.message = Some("the claim holds no files, so there is nothing to save".to_owned());
        return;
    }
    of_backup::ended(component, ended);
    // An earlier attempt's snapshot may have gaps; with them the way back would not lead to what was there.
    if component.phase == ComponentPhase::PartiallyFailed {
        component.phase = ComponentPhase::Failed;
    }
}

/// The first component that could not be saved: why nothing is overwritten, and what to do.
pub(super) fn failure(undo: &Undo) -> Option<String> {
    let failed = undo.components.iter().find(|component| component.phase == ComponentPhase::Failed)?;
    let claim = failed.source.claim.as_deref().unwrap_or_default();
    let reason = failed.reason.as_deref().unwrap_or("Failed");
    let cause = failed.message.as_deref().unwrap_or("its Job failed");
    Some(format!(
        "what is in the claim {claim} could not be saved first ({reason}: {cause}), so nothing was overwritten: mend \
         that, {WAY_OUT}"
    ))
}

/// What the components that have not ended wait for, as [`super::status::waits`] says it of those that write.
pub(super) fn waits(status: &RestoreStatus) -> Option<(Reason, String)> {
    let components = status.undo.iter().flat_map(|undo| &undo.components);
    let open = components.filter(|component| !component.phase.is_terminal());
    let said = open.map(|component| (component.name.as_str(), &component.reason, &component.message));
    super::status::first_wait(said).map(|(reason, said)| (reason, format!("saving {said}")))
}

/// The Snapshot of what was saved; none when every claim was empty. `place` is the repository's namespace.
pub(super) fn snapshot(
    restore: &Restore,
    cluster: &str,
    repository: &str,
    place: &str,
    status: &RestoreStatus,
    volume: impl Fn(&str) -> Option<VolumeTags>,
) -> Option<Snapshot> {
    let started = status.start_time.clone()?;
    let components: Vec<_> = status
        .undo
        .iter()
        .flat_map(|undo| &undo.components)
        .filter_map(|component| saved(component, volume(&component.name)))
        .collect();
    if components.is_empty() {
        return None;
    }
    let (name, uid) = (restore.name_any(), restore.uid().unwrap_or_default());
    let labels = [
        (names::LABEL_MANAGED_BY, names::MANAGED_BY.to_owned()),
        (names::LABEL_REPOSITORY, names::label_value(repository)),
        (names::LABEL_UNDO_OF, names::label_value(&name)),
    ];
    Some(Snapshot {
        // No owner: the way back stays when the Restore goes.
        metadata: ObjectMeta {
            name: Some(names::snapshot_name(&name, &uid)),
            namespace: Some(place.to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
            ..ObjectMeta::default()
        },
        spec: SnapshotSpec {
            repository_ref: LocalRef::new(repository),
            time: Time(started.0),
            backup: BackupId { name: name.clone(), uid },
            cluster: cluster.to_owned(),
            namespace: restore.namespace().unwrap_or_default(),
            undo_of: Some(name),
        },
        status: Some(SnapshotStatus {
            observed_generation: Some(1),
            complete: Some(true),
            complete_before_damage: None,
            missing: Some(0),
            total_size: Some(components.iter().filter_map(|c| c.size).fold(0, u64::saturating_add)),
            components,
            conditions: Vec::new(),
        }),
    })
}

/// What is told of the saving once it is over.
pub(super) fn concluded(undo: &mut Undo, snapshot: Option<&str>) {
    let empty: Vec<&str> = undo
        .components
        .iter()
        .filter(|component| component.snapshot_id.is_none())
        .filter_map(|component| component.source.claim.as_deref())
        .take(10)
        .collect();
    let empty = empty.join(", ");
    let (state, message) = match snapshot {
        Some(name) => {
            let rest = if empty.is_empty() { empty } else { format!("; held no files: {empty}") };
            (UndoState::Saved, format!("what was there is in Snapshot {name}{rest}"))
        }
        None => (UndoState::NotNeeded, format!("there was nothing to save, held no files: {empty}")),
    };
    undo.state = state;
    undo.message = Some(message);
}

#[cfg(test)]
#[path = "undo_tests.rs"]
mod tests;
