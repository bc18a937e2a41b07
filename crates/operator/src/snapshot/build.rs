//! How a recovery point looks as a Snapshot object. Pure.

use std::collections::BTreeSet;

use holdfast_api::refs::LocalRef;
use holdfast_api::snapshot::SnapshotComponent;
use holdfast_api::{Repository, Snapshot, SnapshotSpec, SnapshotStatus, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt;

use super::validate::RecoveryPoint;

/// Name of the object.
pub(super) fn name(point: &RecoveryPoint) -> String {
    names::snapshot_name(&point.backup.name, &point.backup.uid)
}

/// The object, without its status.
pub(super) fn snapshot(repository: &Repository, point: &RecoveryPoint) -> Snapshot {
    let name = name(point);
    let repository_name = repository.name_any();
    let mut snapshot = Snapshot::new(
        &name,
        SnapshotSpec {
            repository_ref: LocalRef::new(&repository_name),
            time: Time(point.time),
            backup: point.backup.clone(),
            cluster: point.cluster.clone(),
            namespace: point.namespace.clone(),
            undo_of: point.undo_of.clone(),
        },
    );
    let undo_of =
        point.undo_of.as_ref().map(|name| (names::LABEL_UNDO_OF.to_owned(), names::label_value(name)));
    snapshot.metadata = ObjectMeta {
        name: Some(name),
        namespace: repository.namespace(),
        labels: Some(
            [
                (names::LABEL_MANAGED_BY.to_owned(), names::MANAGED_BY.to_owned()),
                (names::LABEL_REPOSITORY.to_owned(), names::label_value(&repository_name)),
            ]
            .into_iter()
            .chain(undo_of)
            .collect(),
        ),
        // No owner: a Snapshot whose Repository is gone says so, and tells what could be brought back.
        ..ObjectMeta::default()
    };
    snapshot
}

/// What its status says about its content; what else stands there stays.
pub(super) fn status(point: &RecoveryPoint, before: Option<&SnapshotStatus>) -> SnapshotStatus {
    SnapshotStatus {
        complete: Some(point.complete),
        complete_before_damage: None,
        missing: Some(point.missing),
        total_size: point
            .components
            .iter()
            .map(|component| component.size)
            .try_fold(0_u64, |sum, size| size.map(|size| sum.saturating_add(size))),
        components: point.components.clone(),
        ..before.cloned().unwrap_or_default()
    }
}

/// Its status where some of it is damaged; `None` where it is so already. What a damaged component says stays, for it is all that
/// is known of what was lost. A readable one is as the list has it; one that is in neither was forgotten, and is missing.
pub(super) fn with_damage(
    current: &Snapshot,
    point: Option<&RecoveryPoint>,
    damaged: &BTreeSet<String>,
) -> Option<SnapshotStatus> {
    let before = current.status.as_ref()?;
    let listed = |name: &str| {
        point.and_then(|point| point.components.iter().find(|component| component.name == name)).cloned()
    };
    let kept = |component: &SnapshotComponent| {
        if damaged.contains(&component.snapshot_id) {
            return Some(SnapshotComponent { damaged: true, ..component.clone() });
        }
        listed(&component.name)
    };
    let components: Vec<SnapshotComponent> = before.components.iter().filter_map(kept).collect();
    let gone = u64::try_from(before.components.len().saturating_sub(components.len())).unwrap_or_default();
    let status = SnapshotStatus {
        complete: Some(false),
        complete_before_damage: before.complete_before_damage.or(before.complete),
        missing: before.missing.map(|missing| missing.saturating_add(gone)),
        components,
        ..before.clone()
    };
    (status != *before).then_some(status)
}

/// Whether the object is what the recovery point makes of it.
pub(super) fn is_up_to_date(repository: &Repository, point: &RecoveryPoint, current: &Snapshot) -> bool {
    current.spec == snapshot(repository, point).spec
        && current.status.as_ref().is_some_and(|before| status(point, Some(before)) == *before)
}
