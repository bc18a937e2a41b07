//! The objects of a Backup: Jobs, run specs and the Snapshot, from the plan. Pure.

use std::time::Duration;

use holdfast_api::backup::{Backup, BackupComponent, ComponentKind, OnUnreadableFile};
use holdfast_api::names;
use holdfast_api::refs::LocalRef;
use holdfast_api::snapshot::{
    BackupId, Snapshot, SnapshotComponent, SnapshotSpec, SnapshotStatus, VolumeSource,
};
use holdfast_api::tags::{ComponentSet, RunTags, VolumeTags, is_reserved};
use holdfast_protocol::Task;
use holdfast_protocol::spec::{BackupVolume, OnUnreadable};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::validate::PlannedComponent;
use crate::jobs::{ClaimMount, JobPlan, JobTask, RunRef};
use crate::volumes::identity::{Access, runner_identity};

/// Who makes the backup.
#[derive(Debug, Clone, Copy)]
pub struct Cluster<'a> {
    /// Name of the cluster.
    pub name: &'a str,
    /// Uid of the cluster.
    pub uid: &'a str,
}

/// The Job of one component.
pub fn job(
    run: &RunRef,
    owner: OwnerReference,
    component: &PlannedComponent,
    name: String,
    deadline: Duration,
) -> JobPlan {
    JobPlan {
        name,
        namespace: run.namespace.clone(),
        owner,
        run: run.clone(),
        task: JobTask::Backup,
        component: Some(component.name.clone()),
        claim: Some(ClaimMount {
            claim: component.claim.clone(),
            path: names::data_path(&component.claim),
            read_only: true,
        }),
        identity: runner_identity(&component.identity, Access::Read),
        placement: component.placement.clone(),
        follows: component.movable,
        pod_config: None,
        seat: None,
        // Each attempt is a Job of its own.
        retries: 0,
        dead_jobs: Vec::new(),
        deadline,
    }
}

/// What the runner of one component is told. `set` is all components of the run.
pub fn task(
    backup: &Backup,
    cluster: Cluster<'_>,
    started: Timestamp,
    set: &ComponentSet,
    component: &PlannedComponent,
) -> Task {
    let ours = RunTags {
        cluster: cluster.name.to_owned(),
        cluster_uid: cluster.uid.to_owned(),
        namespace: backup.namespace().unwrap_or_default(),
        run: backup.name_any(),
        run_uid: backup.uid().unwrap_or_default(),
        run_start: started,
        component: component.name.clone(),
        components: set.clone(),
        volume: component.volume.clone(),
        unreadable: 0,
        ignores_unreadable: ignores_unreadable(backup),
        undo_of: None,
    }
    .to_tags();
    let identity_tags = identity_tags(&ours);
    let theirs = backup.spec.tags.iter().filter(|tag| !is_reserved(tag)).cloned();
    Task::BackupVolume(BackupVolume {
        component: component.name.clone(),
        path: names::data_path(&component.claim),
        host: backup.namespace().unwrap_or_default(),
        tags: ours.iter().cloned().chain(theirs).collect(),
        identity_tags,
        time: started.to_string(),
        exclude: component.exclude.clone(),
        exclude_caches: component.exclude_caches,
        on_unreadable: match backup.spec.failure_policy.on_unreadable_file {
            OnUnreadableFile::PartiallyFail => OnUnreadable::PartiallyFail,
            OnUnreadableFile::Fail => OnUnreadable::Fail,
            OnUnreadableFile::Ignore => OnUnreadable::Ignore,
        },
        skip_empty: false,
    })
}

/// Whether files that could not be read are to change nothing.
fn ignores_unreadable(backup: &Backup) -> bool {
    backup.spec.failure_policy.on_unreadable_file == OnUnreadableFile::Ignore
}

/// The tags by which a runner knows the snapshot of an earlier attempt.
pub(crate) fn identity_tags(tags: &[String]) -> Vec<String> {
    let identity = |tag: &&String| {
        ["holdfast.dev/run-uid=", "holdfast.dev/component="].iter().any(|prefix| tag.starts_with(prefix))
    };
    tags.iter().filter(identity).cloned().collect()
}

/// The Snapshot of what was saved; none when nothing was. `volumes` is what the saved volumes are like, where
/// that is still known.
pub fn snapshot(
    backup: &Backup,
    cluster: &str,
    repository: &str,
    started: Timestamp,
    components: &[BackupComponent],
    volume: impl Fn(&str) -> Option<VolumeTags>,
) -> Option<Snapshot> {
    let namespace = backup.namespace().unwrap_or_default();
    let uid = backup.uid().unwrap_or_default();
    let saved: Vec<SnapshotComponent> =
        components.iter().filter_map(|component| saved(component, volume(&component.name))).collect();
    if saved.is_empty() {
        return None;
    }
    let missing = components.len().saturating_sub(saved.len());
    let has_gaps = saved.iter().any(|component| component.unreadable.is_some_and(|files| files > 0));
    let name = names::snapshot_name(&backup.name_any(), &uid);
    let labels = [
        (names::LABEL_MANAGED_BY.to_owned(), names::MANAGED_BY.to_owned()),
        (names::LABEL_REPOSITORY.to_owned(), names::label_value(repository)),
    ];
    Some(Snapshot {
        // No owner: the Snapshot mirrors the repository, not the Backup.
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace.clone()),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        spec: SnapshotSpec {
            repository_ref: LocalRef::new(repository),
            time: Time(started),
            backup: BackupId { name: backup.name_any(), uid },
            cluster: cluster.to_owned(),
            namespace,
            undo_of: None,
        },
        status: Some(SnapshotStatus {
            observed_generation: Some(1),
            complete: Some(missing == 0 && (!has_gaps || ignores_unreadable(backup))),
            complete_before_damage: None,
            missing: u64::try_from(missing).ok(),
            total_size: Some(
                saved.iter().filter_map(|component| component.size).fold(0, u64::saturating_add),
            ),
            components: saved,
            conditions: Vec::new(),
        }),
    })
}

/// What a component's snapshot holds; none when nothing was committed.
pub(crate) fn saved(component: &BackupComponent, volume: Option<VolumeTags>) -> Option<SnapshotComponent> {
    let VolumeTags { capacity, storage_class, access_modes, volume_mode, labels, annotations } =
        volume.unwrap_or_default();
    Some(SnapshotComponent {
        name: component.name.clone(),
        kind: ComponentKind::Volume,
        snapshot_id: component.snapshot_id.clone()?,
        size: component.bytes_processed,
        files: super::status::files(component),
        unreadable: component.unreadable,
        damaged: false,
        source: VolumeSource {
            claim: component.source.claim.clone(),
            capacity: capacity.map(Quantity),
            storage_class,
            access_modes,
            volume_mode,
            labels,
            annotations,
        },
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::jobs::Placement;
    use holdfast_api::refs::Identity;

    fn backup() -> Backup {
        serde_saphyr::from_str(
            "{metadata: {name: b, namespace: shop, uid: u-1}, spec: {tags: [release-42], failurePolicy: {retries: 1}}}",
        )
        .unwrap()
    }

    /// `volume/data`, which can be read on every node.
    pub(in super::super) fn planned() -> PlannedComponent {
        PlannedComponent {
            name: "volume/data".into(),
            claim: "data".into(),
            placement: Placement::Anywhere,
            movable: false,
            moving: None,
            identity: Identity { uid: 0, ..Identity::default() },
            limits: None,
            exclude: vec!["*.tmp".into()],
            exclude_caches: true,
            volume: VolumeTags { capacity: Some("1Gi".into()), ..VolumeTags::default() },
        }
    }

    fn started() -> Timestamp {
        "2026-11-20T02:00:00Z".parse().unwrap()
    }

    #[test]
    fn the_runner_is_told_tags_from_which_everything_is_rebuilt() {
        let set = ComponentSet::of(["volume/data", "volume/logs"]);
        let cluster = Cluster { name: "prod", uid: "c-uid" };
        let Task::BackupVolume(task) = task(&backup(), cluster, started(), &set, &planned()) else {
            panic!("another task")
        };
        let tags = RunTags::parse(&task.tags).unwrap().unwrap();
        assert_eq!((tags.run_uid.as_str(), tags.components, tags.run_start), ("u-1", set, started()));
        assert!(task.tags.contains(&"release-42".to_owned()));
        assert_eq!(task.identity_tags, ["holdfast.dev/component=volume/data", "holdfast.dev/run-uid=u-1"]);
        assert_eq!((task.path.as_str(), task.host.as_str()), ("/data/data", "shop"));
        assert_eq!(task.time, "2026-11-20T02:00:00Z");
    }

    #[test]
    fn the_claim_is_mounted_so_that_nothing_can_be_written() {
        let run = RunRef::of(crate::jobs::RunKind::Backup, &backup());
        let plan = job(&run, OwnerReference::default(), &planned(), "j".into(), Duration::from_mins(1));
        assert!(plan.claim.unwrap().read_only);
        assert_eq!(plan.identity, crate::jobs::Identity::RootReader { selinux_level: None });
        assert_eq!(plan.retries, 0, "the operator tries again, after a pause");
    }

    #[test]
    fn a_snapshot_holds_what_was_saved_and_knows_whether_that_is_all() {
        let components: Vec<BackupComponent> = serde_saphyr::from_str(
            r"
- {name: volume/data, source: {claim: data}, phase: Succeeded, snapshotId: aa, bytesProcessed: 10, filesNew: 1, filesChanged: 1, filesUnmodified: 1}
- {name: volume/logs, source: {claim: logs}, phase: Failed}
",
        )
        .unwrap();
        let volume = |_: &str| Some(planned().volume);
        let snapshot = snapshot(&backup(), "prod", "main", started(), &components, volume).unwrap();
        let status = snapshot.status.unwrap();
        assert_eq!((status.complete, status.missing, status.total_size), (Some(false), Some(1), Some(10)));
        let [only] = status.components.as_slice() else { panic!("one component") };
        assert_eq!((only.snapshot_id.as_str(), only.files), ("aa", Some(3)));
        assert_eq!(only.source.capacity, Some(Quantity("1Gi".into())));
        let nothing = super::snapshot(&backup(), "prod", "main", started(), &components[1..], volume);
        assert_eq!(nothing, None);
    }

    #[test]
    fn a_snapshot_without_files_that_could_not_be_read_is_not_complete_unless_they_do_not_matter() {
        let components: Vec<BackupComponent> = serde_saphyr::from_str(
            r"
- {name: volume/data, source: {claim: data}, phase: PartiallyFailed, snapshotId: aa, unreadable: 3112}
- {name: volume/logs, source: {claim: logs}, phase: Succeeded, snapshotId: bb, unreadable: 0}
",
        )
        .unwrap();
        let of = |backup: &Backup| {
            let made = super::snapshot(backup, "prod", "main", started(), &components, |_| None).unwrap();
            let status = made.status.unwrap();
            let unreadable: Vec<_> = status.components.iter().map(|component| component.unreadable).collect();
            assert_eq!((status.missing, unreadable), (Some(0), vec![Some(3112), Some(0)]));
            status.complete
        };
        assert_eq!(of(&backup()), Some(false));
        let mut ignoring = backup();
        ignoring.spec.failure_policy.on_unreadable_file = OnUnreadableFile::Ignore;
        assert_eq!(of(&ignoring), Some(true));
        // The bucket says the same, so that a sync does not say otherwise.
        let set = ComponentSet::of(["volume/data"]);
        let told = |backup: &Backup| {
            let cluster = Cluster { name: "prod", uid: "c-uid" };
            let Task::BackupVolume(task) = task(backup, cluster, started(), &set, &planned()) else {
                panic!("another task")
            };
            RunTags::parse(&task.tags).unwrap().unwrap().ignores_unreadable
        };
        assert_eq!((told(&backup()), told(&ignoring)), (false, true));
    }
}
