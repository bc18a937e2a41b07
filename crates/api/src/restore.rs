//! `Restore`: one run that puts components of a Snapshot back. What is wanted and what came of it; not how.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backup::{ComponentKind, ComponentPhase, FileProblem, Progress};
use crate::duration::Duration;
use crate::refs::{Identity, LocalRef, RunAs};
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
    printcolumn(name = "Snapshot", type_ = "string", json_path = ".spec.from.snapshotRef.name"),
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
    /// Names of the components to restore (`volume/<claim>`); all of the Snapshot when empty.
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
    /// What to do with the workloads that use the claims. `Auto`: scale them to 0 and afterwards back to the count
    /// they had. `None`: leave them running; the restore is refused while a pod uses a claim.
    #[serde(default)]
    pub quiesce: Quiesce,
    /// Only look: fill `status.plan` and `status.compatibility`, change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Who writes the files. Owners other than the runner's own can only be set as Root.
    #[serde(default)]
    pub run_as: RunAs,
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
            quiesce: Quiesce::default(),
            dry_run: false,
            run_as: RunAs::default(),
            active_deadline: Self::default_active_deadline(),
            retries: Self::default_retries(),
        }
    }
}

/// What to restore from. Exactly one field is set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.snapshotRef)")
    .message("exactly one source must be set; this version knows snapshotRef"))]
#[serde(rename_all = "camelCase")]
pub struct RestoreFrom {
    /// A Snapshot in this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_ref: Option<LocalRef>,
}

/// Where one component goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// Delete files on the claim that the Snapshot does not have. Off: they stay.
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
            to: RestoreTo { existing_claim: Some(LocalRef::new(claim)) },
            paths: None,
            delete_extra: false,
            verify: Self::default_verify(),
        }
    }
}

/// Where a volume goes. Exactly one field is set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.existingClaim)")
    .message("exactly one target must be set; this version knows existingClaim"))]
#[serde(rename_all = "camelCase")]
pub struct RestoreTo {
    /// A claim that exists, in this namespace. Files that are already as they should be are left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing_claim: Option<LocalRef>,
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
    pub repository_ref: Option<LocalRef>,
    /// Whether the Snapshot fits the claims. Known before anything is touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compatibility: Option<Compatibility>,
    /// What will be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<RestorePlan>,
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
        /// Snapshot, claims and workloads are looked up and compared.
        Planning,
        /// The plan is written down; a dry run ends here.
        Planned,
        /// Workloads are scaled to 0.
        Quiescing,
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
            Self::Pending | Self::Planning | Self::Quiescing | Self::Running | Self::Unquiescing => false,
            Self::Planned => dry_run,
            Self::Succeeded | Self::PartiallyFailed | Self::Failed => true,
        }
    }
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
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// What a restore will do to one volume. Counts are files, directories and links.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumePlan {
    /// Name of the component.
    pub component: String,
    /// The claim it goes to.
    pub claim: String,
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
    /// In one word.
    #[serde(default)]
    pub phase: ComponentPhase,
    /// The node its Job runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The Job that does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// How often it was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
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
    /// The first of them, at most 20.
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
