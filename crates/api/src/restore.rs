//! `Restore`: one run that puts components of a Snapshot back. What is wanted and what came of it; not how.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backup::{BackupComponent, ComponentKind, ComponentPhase, FileProblem, Progress};
use crate::duration::Duration;
use crate::refs::{Identity, LocalRef, ObjectRef, PasswordSecretRef, RunAs, StorageRef};
use crate::text::text_enum;

/// One run that puts components of a Snapshot back. Set `dryRun` to see what it would do. Its spec cannot be
/// changed.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "Restore",
    plural = "restores",
    namespaced,
    status = "RestoreStatus",
    derive = "PartialEq",
    derive = "Default",
    shortname = "hfr",
    category = "holdfast",
    doc = "One run that puts components of a Snapshot back. Set dryRun to see what it would do. Its spec cannot be changed.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Snapshot", type_ = "string", json_path = ".status.snapshotRef.name"),
    printcolumn(name = "Taken", type_ = "date", json_path = ".status.snapshotTime"),
    printcolumn(name = "Undo", type_ = "string", json_path = ".status.undoSnapshotRef.name", priority = 1),
    printcolumn(name = "Dry-Run", type_ = "boolean", json_path = ".spec.dryRun"),
    printcolumn(name = "Started", type_ = "date", json_path = ".status.startTime"),
    printcolumn(name = "Completed", type_ = "date", json_path = ".status.completionTime"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", priority = 1)
)]
#[x_kube(
    validation = Rule::new("self == oldSelf").message("the spec of a Restore cannot be changed; make another Restore"),
    validation = Rule::new("!has(self.components) || !has(self.volumes) || size(self.components) == 0 || self.volumes.all(v, v.component in self.components)")
        .message("every entry of volumes must name a component that is restored: add it to components, or leave components out")
)]
#[serde(rename_all = "camelCase")]
pub struct RestoreSpec {
    /// What to restore from. Exactly one field.
    pub from: RestoreFrom,
    /// Names of the components to restore (`volume/<claim>`). When empty: the one that `from` names by a claim or by
    /// an id, else all of the Snapshot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 320)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub components: Vec<String>,
    /// Where single components go, and which files of them. A component without an entry goes back, whole, to the
    /// claim it came from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["component".to_owned()]))]
    pub volumes: Vec<RestoreVolume>,
    /// What to do about claims that are not there, of components without an entry in `volumes`. `Refuse`: the Restore
    /// fails before anything is touched, and says what to make. `Create`: they are made as they were when they were
    /// saved; where a storage class is not there any more, of the cluster's default class.
    #[serde(default)]
    pub missing_claims: MissingClaims,
    /// What to do with the workloads that use the claims. `Auto`: scale them to 0 and afterwards back to the count
    /// they had. `None`: leave them running; the restore is refused while a pod uses a claim.
    #[serde(default)]
    pub quiesce: Quiesce,
    /// Whether claims that hold data are saved first, into the same repository, so that the restore can be undone:
    /// `status.undoSnapshotRef` then names a Snapshot of what was there. When that cannot be done in full, nothing is
    /// overwritten and the Restore is Failed.
    #[serde(default = "RestoreSpec::default_undo")]
    pub undo: bool,
    /// Only look: fill `status.plan` and `status.compatibility`, change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Who writes the files. Owners other than the runner's own can only be set as Root: files that belong to the runner
    /// afterwards and did not before make the Restore PartiallyFailed, except where `Workload` is asked for and the
    /// runner is the workload's user; then they are only counted, in `ownersNotRestored`.
    #[serde(default)]
    pub run_as: RunAs,
    /// Settings of the runners' pods: resources, where they run, priority. A PodConfig of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_config_ref: Option<LocalRef>,
    /// The run is ended as Failed after this time, e.g. `12h`. Workloads are scaled back all the same.
    #[serde(default = "RestoreSpec::default_active_deadline")]
    pub active_deadline: Duration,
    /// How often a component is tried again before it is Failed.
    #[serde(default = "RestoreSpec::default_retries")]
    #[schemars(range(max = 10))]
    pub retries: u32,
}

impl RestoreSpec {
    fn default_active_deadline() -> Duration {
        Duration::from_hours(12)
    }

    const fn default_undo() -> bool {
        true
    }

    const fn default_retries() -> u32 {
        2
    }
}

impl Default for RestoreSpec {
    fn default() -> Self {
        Self {
            from: RestoreFrom::default(),
            components: Vec::new(),
            volumes: Vec::new(),
            missing_claims: MissingClaims::default(),
            quiesce: Quiesce::default(),
            undo: Self::default_undo(),
            dry_run: false,
            run_as: RunAs::default(),
            pod_config_ref: None,
            active_deadline: Self::default_active_deadline(),
            retries: Self::default_retries(),
        }
    }
}

/// What to restore from. Exactly one field is set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new(
    "[has(self.snapshotRef), has(self.latestOf), has(self.pointInTime), has(self.repository)].filter(x, x).size() == 1"
).message("exactly one source must be set: snapshotRef, latestOf, pointInTime or repository"))]
#[serde(rename_all = "camelCase")]
pub struct RestoreFrom {
    /// A Snapshot. Its namespace, when it is another one than this, must let this one restore from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_ref: Option<ObjectRef>,
    /// The newest complete Snapshot. Chosen once, when the Restore begins; `status.snapshotRef` says which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_of: Option<LatestOf>,
    /// The newest complete Snapshot whose Backup began at a time or before it. Chosen once, when the Restore begins;
    /// `status.snapshotRef` says which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point_in_time: Option<PointInTime>,
    /// A repository in a storage, of which this cluster need not know anything: the Restore makes a Repository object
    /// for it, waits until its Snapshots are listed, and goes on with one of them. Where a Repository object for it is
    /// there already, its Snapshots are those of its last comparison with the repository (`status.lastSyncTime`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<FromRepository>,
}

/// Among which Snapshots the newest complete one is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LatestOf {
    /// Namespace of the Snapshots; that of the Restore when absent. Another one must let this one restore from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Only Snapshots that hold this claim, and of them only this claim (unless `components` says otherwise).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub claim: Option<String>,
    /// Only Snapshots of this Repository, in their namespace. When absent, those that were made in another namespace or
    /// cluster count only where there are none of the namespace's own, and only when all of them come from one place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_ref: Option<LocalRef>,
}

/// A time, and among which Snapshots the newest complete one up to it is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PointInTime {
    /// The time, as `2026-11-19T14:00:00Z`. A Backup counts with the time at which it began.
    pub time: Time,
    /// Namespace of the Snapshots; that of the Restore when absent. Another one must let this one restore from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Only Snapshots that hold this claim, and of them only this claim (unless `components` says otherwise).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub claim: Option<String>,
    /// Only Snapshots of this Repository, in their namespace. When absent, those that were made in another namespace or
    /// cluster count only where there are none of the namespace's own, and only when all of them come from one place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_ref: Option<LocalRef>,
}

/// A repository in a storage, and which Snapshot of it: the newest complete one, unless more is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FromRepository {
    /// The storage that holds it.
    pub storage_ref: StorageRef,
    /// Directory of the repository below the storage's prefix. When absent: the only one of the storage whose record
    /// names this namespace, or the only one at all. `status.repositories` of the storage lists them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$")
    )]
    pub directory: Option<String>,
    /// Secret (in this namespace) with a password that opens the repository: its own, or the recovery password of the
    /// storage it was made in. When absent: the recovery password of the storage, which then has to be in this
    /// namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<PasswordSecretRef>,
    /// Id of a restic snapshot, or its first 8 or more digits: the recovery point that it belongs to is restored from,
    /// and of it only this snapshot's component (unless `components` says otherwise).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = r"^[0-9a-f]{8,64}$"))]
    pub snapshot_id: Option<String>,
    /// The newest one whose Backup began at this time or before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// Only Snapshots that hold this claim, and of them only this claim (unless `components` says otherwise).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub claim: Option<String>,
}

text_enum! {
    /// What to do about claims that are not there: `Refuse` or `Create`.
    #[derive(Default)]
    pub enum MissingClaims {
        /// The Restore fails before anything is touched, and says what to make.
        #[default]
        Refuse,
        /// They are made as they were when they were saved.
        Create,
    }
}

/// Where one component goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreVolume {
    /// Name of the component: `volume/<claim>`.
    #[schemars(length(min = 1, max = 320))]
    pub component: String,
    /// Where it goes. Exactly one field.
    pub to: RestoreTo,
    /// Which files; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<RestorePaths>,
    /// Delete files on the claim that the Snapshot does not have. What its Backup left out by its rules stays, and so does
    /// what `paths.exclude` matches. Off: all stay.
    #[serde(default)]
    pub delete_extra: bool,
    /// Read every restored file again and compare it with the repository.
    #[serde(default = "RestoreVolume::default_verify")]
    pub verify: bool,
}

impl RestoreVolume {
    const fn default_verify() -> bool {
        true
    }

    /// What a component without an entry of its own gets: back, whole and verified, to the claim it came from.
    pub fn back_to(component: impl Into<String>, claim: impl Into<String>) -> Self {
        Self {
            component: component.into(),
            to: RestoreTo { existing_claim: Some(LocalRef::new(claim)), new_claim: None },
            paths: None,
            delete_extra: false,
            verify: Self::default_verify(),
        }
    }
}

/// Where a volume goes. Exactly one field is set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.existingClaim) != has(self.newClaim)")
    .message("exactly one target must be set: existingClaim or newClaim"))]
#[serde(rename_all = "camelCase")]
pub struct RestoreTo {
    /// A claim that exists, in this namespace. Files that are already as they should be are left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing_claim: Option<LocalRef>,
    /// A claim that is made for it, in this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_claim: Option<NewClaim>,
}

/// A claim to be made. What is absent is as it was when the volume was saved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewClaim {
    /// Its name. There must be no claim of this name.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
    /// Its storage class. When absent: the class the volume had, or the cluster's default class where that one is not
    /// there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// Its size, e.g. `10Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Quantity>,
    /// Its access modes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub access_modes: Vec<AccessMode>,
    /// What becomes of it when the restore to it fails. One whose restore ended well, or in part, always stays.
    #[serde(default)]
    pub on_failure: OnFailure,
}

text_enum! {
    /// How many may mount a volume.
    pub enum AccessMode {
        /// One node, for reading and writing.
        ReadWriteOnce,
        /// One pod, for reading and writing.
        ReadWriteOncePod,
        /// Several nodes, for reading and writing.
        ReadWriteMany,
    }
}

text_enum! {
    /// What becomes of a claim that was made for a restore that failed: `Keep` or `Delete`.
    #[derive(Default)]
    pub enum OnFailure {
        /// It stays: another Restore to it, as an existing claim, goes on where this one ended.
        #[default]
        Keep,
        /// It is removed, unless a pod uses it.
        Delete,
    }
}

text_enum! {
    /// What became of a claim that is made for a restore.
    pub enum ClaimFate {
        /// It will be made.
        Planned,
        /// It was made.
        Created,
        /// It was made, the restore to it failed, and it was left alone.
        Kept,
        /// It was made, the restore to it failed, and it was removed.
        Removed,
    }
}

/// What a claim that is made for a restore looks like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimPlan {
    /// Its storage class.
    pub storage_class_name: String,
    /// Its size.
    pub capacity: Quantity,
    /// Its access modes.
    #[schemars(length(max = 4))]
    pub access_modes: Vec<String>,
    /// What becomes of it when the restore to it fails.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Its labels: those of the saved claim, where it has its name and namespace again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its annotations that say whether and how it is saved: those of the saved claim, where it has its name again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Which files of a component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RestorePaths {
    /// Only what matches one of these patterns (restic's notation); all when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub include: Vec<String>,
    /// Nothing that matches one of these patterns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub exclude: Vec<String>,
}

text_enum! {
    /// What to do with workloads that use a claim: `Auto` or `None`.
    #[derive(Default)]
    pub enum Quiesce {
        /// Scale them to 0, and afterwards back to the count they had.
        #[default]
        Auto,
        /// Leave them alone; a claim that a pod uses cannot be restored to.
        None,
    }
}

/// What became of a run.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// In one word. `Planned` ends a dry run. `Succeeded`: everything that was asked for is back and verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RestorePhase>,
    /// When the run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// What it did, or what it waits for, or why it failed and what to do, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The Repository that is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_ref: Option<ObjectRef>,
    /// The Snapshot that is restored from. Once it is written down, no other is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_ref: Option<ObjectRef>,
    /// When the Backup that made this Snapshot began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_time: Option<Time>,
    /// Where it was made: not always here, for a bucket may hold other clusters' Snapshots too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_origin: Option<SnapshotOrigin>,
    /// Whether the Snapshot fits the claims. Known before anything is touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compatibility: Option<Compatibility>,
    /// What will be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<RestorePlan>,
    /// The safety Snapshot of what was there before. To put it back, name it in `from.snapshotRef` of another Restore
    /// that sets `deleteExtra` for each of its components.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_snapshot_ref: Option<ObjectRef>,
    /// Whether what is overwritten is saved first, and how far that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Undo>,
    /// One entry a volume.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub components: Vec<RestoreComponent>,
    /// `Progressing`, `Completed`, `QuiesceReverted`, and warnings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

text_enum! {
    /// State of a Restore in one word.
    #[derive(Default)]
    pub enum RestorePhase {
        /// Not looked at yet, or waiting for what the message says.
        #[default]
        Pending,
        /// Waiting for a free place, before anything is touched; the message says where and how long the line is.
        Queued,
        /// Snapshot, claims and workloads are looked up and compared.
        Planning,
        /// The plan is written down; a dry run ends here.
        Planned,
        /// Workloads are scaled to 0.
        Quiescing,
        /// What will be overwritten is saved first.
        Saving,
        /// Jobs are at work.
        Running,
        /// Workloads are scaled back.
        Unquiescing,
        /// Everything that was asked for is back and verified.
        Succeeded,
        /// Some is back; the status says what is missing.
        PartiallyFailed,
        /// Nothing is back.
        Failed,
    }
}

impl RestorePhase {
    /// Whether a run in this phase has ended; `Planned` ends only a dry run.
    pub const fn is_terminal(self, dry_run: bool) -> bool {
        match self {
            Self::Pending
            | Self::Queued
            | Self::Planning
            | Self::Quiescing
            | Self::Saving
            | Self::Running
            | Self::Unquiescing => false,
            Self::Planned => dry_run,
            Self::Succeeded | Self::PartiallyFailed | Self::Failed => true,
        }
    }
}

text_enum! {
    /// Whether what a restore overwrites is saved first, in one word.
    #[derive(Default)]
    pub enum UndoState {
        /// It will be saved before the first byte is written.
        #[default]
        Planned,
        /// Jobs save it.
        Saving,
        /// It is saved: `status.undoSnapshotRef` names the Snapshot.
        Saved,
        /// There is nothing to save: the claims are new, or hold no files.
        NotNeeded,
        /// It cannot be saved; the message says why.
        NotPossible,
        /// It could not be saved, so nothing was overwritten.
        Failed,
        /// `spec.undo` is false.
        Off,
    }
}

/// Whether what a restore overwrites is saved first, and how far that is.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Undo {
    /// In one word.
    #[serde(default)]
    pub state: UndoState,
    /// Why, and what to do, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// One entry a claim that is saved, named `volume/<claim>` after the claim that is overwritten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub components: Vec<BackupComponent>,
}

/// Whether a Snapshot fits the claims it is to be restored to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Compatibility {
    /// Whether the restore can be done. When not, it ends Failed before anything is touched.
    pub compatible: bool,
    /// What makes it impossible.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub errors: Vec<String>,
    /// What is different, but can be done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub warnings: Vec<String>,
}

/// What a restore will do.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestorePlan {
    /// One entry a volume.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["component".to_owned()]))]
    pub volumes: Vec<VolumePlan>,
    /// What to think about before going on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub warnings: Vec<String>,
}

/// Where a Snapshot was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotOrigin {
    /// Name of the cluster.
    pub cluster: String,
    /// Namespace there.
    pub namespace: String,
}

/// What a restore will do to one volume. Counts are files, directories and links.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumePlan {
    /// Name of the component.
    pub component: String,
    /// The claim it goes to.
    pub claim: String,
    /// How this claim will be made, when it is not there yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_claim: Option<ClaimPlan>,
    /// Made new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<u64>,
    /// Changed in place: content or metadata differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<u64>,
    /// Replaced, because they are of another type (a directory where a file has to be).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<u64>,
    /// Deleted, because the Snapshot does not have them (only with `deleteExtra`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<u64>,
    /// Left alone, because they are as they should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unchanged: Option<u64>,
    /// Bytes that will be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_to_write: Option<u64>,
    /// Bytes that must be free on the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_required: Option<u64>,
    /// The workloads that use the claim and will be scaled to 0, as `<kind>/<name>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub consumers: Vec<String>,
    /// What to think about before going on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub warnings: Vec<String>,
}

/// One part of a restore, such as one volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreComponent {
    /// Its name, as in the Snapshot: `volume/<claim>`.
    pub name: String,
    /// What it is.
    #[serde(default)]
    pub kind: ComponentKind,
    /// The claim it goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// What became of the claim, when it is made for this restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_claim: Option<ClaimFate>,
    /// In one word.
    #[serde(default)]
    pub phase: ComponentPhase,
    /// The node its Job runs or ran on, or has to run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The Job that does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// How often it was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// When it is tried again, after an attempt that failed for a passing reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_time: Option<Time>,
    /// Who wrote the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as: Option<Identity>,
    /// Id of the restic snapshot it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    /// Files, directories and links that were written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_restored: Option<u64>,
    /// Those that were already as they should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_unchanged: Option<u64>,
    /// Those that were deleted, because the Snapshot does not have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_deleted: Option<u64>,
    /// Bytes written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_written: Option<u64>,
    /// Whether every restored file was read again and found equal to the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<bool>,
    /// Number of files that could not be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<u64>,
    /// The first files that could not be written, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub failures_sample: Vec<FileProblem>,
    /// Number of files whose owner, mode, times or attributes could not be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_failures: Option<u64>,
    /// Number of files, directories and links that belong to the runner and not to whom they belonged, because the
    /// runner was not root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owners_not_restored: Option<u64>,
    /// The first of `metadataFailures`, else of `ownersNotRestored`, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub metadata_failures_sample: Vec<FileProblem>,
    /// When its Job began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When its Job ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Why it is in its phase, as one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it is in its phase and what to do, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The last lines of the Job's log when it failed, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub log_tail: Vec<String>,
    /// How far it is, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}
