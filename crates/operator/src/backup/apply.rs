//! Writes the Snapshot of a Backup. The Jobs are written by [`crate::runs`], the status by the reconciler.

use holdfast_api::backup::BackupStatus;
use holdfast_api::names::volume_component;
use holdfast_api::tags::VolumeTags;
use holdfast_api::{Backup, Reason, Snapshot, SnapshotStatus};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use std::collections::BTreeMap;

use super::{build, validate};
use crate::context::Ctx;
use crate::kubernetes::{self, Created, RequestError};
use crate::snapshot::apply::write_status;

/// Makes the Snapshot of what a Backup saved, or completes the one that a sync made already. Returns its name; none
/// when nothing was saved.
pub async fn snapshot(
    ctx: &Ctx,
    backup: &Backup,
    status: &BackupStatus,
) -> Result<Option<String>, RequestError> {
    let (Some(started), Some(repository)) = (&status.start_time, &status.repository_ref) else {
        return Ok(None);
    };
    if status.components.iter().all(|component| component.snapshot_id.is_none()) {
        return Ok(None);
    }
    let namespace = backup.namespace().unwrap_or_default();
    let claims = kubernetes::list::<PersistentVolumeClaim>(&ctx.client, &namespace, "").await?;
    let volumes: BTreeMap<String, VolumeTags> = claims
        .iter()
        .map(|claim| (volume_component(&claim.name_any()), validate::volume_tags(claim)))
        .collect();
    let volume = |component: &str| volumes.get(component).cloned();
    let cluster = &ctx.settings.cluster_name;
    let Some(snapshot) =
        build::snapshot(backup, cluster, &repository.name, started.0, &status.components, volume)
    else {
        return Ok(None);
    };
    let written = write_snapshot(ctx, &snapshot).await?;
    if written.is_none() {
        let name = snapshot.name_any();
        let note =
            format!("a Snapshot {name} of another Backup exists, so this one is only in the repository");
        ctx.events.warning(backup, Reason::NameTaken, note).await;
    }
    Ok(written)
}

/// Makes a Snapshot, or completes the one of the same run that is there already. Returns its name; none when one of
/// another run has the name.
pub(crate) async fn write_snapshot(ctx: &Ctx, snapshot: &Snapshot) -> Result<Option<String>, RequestError> {
    let content = snapshot.status.clone().unwrap_or_default();
    let made = match kubernetes::create(&ctx.client, snapshot).await? {
        Created::New(made) => made,
        Created::Existing(found) if found.spec.backup == snapshot.spec.backup => found,
        Created::Existing(_) => return Ok(None),
    };
    let content = with_conditions_of(content, made.status.as_ref());
    write_status(&ctx.client, &made, &content).await?;
    Ok(Some(snapshot.name_any()))
}

/// What the Backup knows of its Snapshot, with the conditions that the Snapshot's own reconciler wrote meanwhile.
fn with_conditions_of(content: SnapshotStatus, there: Option<&SnapshotStatus>) -> SnapshotStatus {
    let conditions = there.map(|there| there.conditions.clone()).unwrap_or_default();
    SnapshotStatus { conditions, ..content }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_of_the_snapshots_own_reconciler_stays() {
        let there: SnapshotStatus = serde_saphyr::from_str(
            r"
totalSize: 1
conditions:
  - {type: Ready, status: 'True', reason: Ready, message: m, lastTransitionTime: '2026-11-20T02:00:00Z'}
",
        )
        .unwrap();
        let content = SnapshotStatus { total_size: Some(2), ..SnapshotStatus::default() };
        let written = with_conditions_of(content.clone(), Some(&there));
        assert_eq!(written.conditions, there.conditions);
        assert_eq!(written.total_size, Some(2));
        assert_eq!(with_conditions_of(content.clone(), None), content);
    }
}
