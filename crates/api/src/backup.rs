//! `Backup`: one run that saves the volumes of a namespace. What is wanted and what came of it; not how.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::refs::{Identity, LocalRef, RunAs, StorageRef};
use crate::text::text_enum;

/// One run that saves the volumes of its namespace. Make one to back up now; its spec cannot be changed.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "Backup",
    plural = "backups",
    namespaced,
    status = "BackupStatus",
    derive = "PartialEq",
    derive = "Default",
    shortname = "hfb",
    category = "holdfast",
    doc = "One run that saves the volumes of its namespace. Make one to back up now; its spec cannot be changed.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Started", type_ = "date", json_path = ".status.startTime"),
    printcolumn(name = "Completed", type_ = "date", json_path = ".status.completionTime"),
    printcolumn(name = "Snapshot", type_ = "string", json_path = ".status.snapshotRef.name"),
    printcolumn(
        name = "Repository",
        type_ = "string",
        json_path = ".status.repositoryRef.name",
        priority = 1
    ),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", priority = 1)
)]
#[x_kube(
    validation = Rule::new("self == oldSelf").message("the spec of a Backup cannot be changed; make another Backup"),
    validation = Rule::new("!(has(self.storageRef) && has(self.repositoryRef))")
        .message("storageRef and repositoryRef exclude each other: name one, or neither to use the default storage"),
    validation = Rule::new("!has(self.tags) || !self.tags.exists(tag, tag in ['rewrite', 'repaired'])")
        .message("rewrite and repaired are tags that restic gives to what it makes of a snapshot: choose other words")
)]
#[serde(rename_all = "camelCase")]
pub struct BackupSpec {
    /// The storage to save to; its Repository for this namespace is made when there is none. The default storage
    /// when neither this nor `repositoryRef` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_ref: Option<StorageRef>,
    /// The Repository to save to, in this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_ref: Option<LocalRef>,
    /// Which volumes, and which files on them.
    #[serde(default)]
    pub volumes: BackupVolumes,
    /// What to do when something goes wrong.
    #[serde(default)]
    pub failure_policy: FailurePolicy,
    /// The run is ended as Failed after this time, e.g. `12h`.
    #[serde(default = "BackupSpec::default_active_deadline")]
    pub active_deadline: Duration,
    /// Who reads the files. `Auto` is Root where the namespace allows it, and else the identity of the workload.
    #[serde(default)]
    pub run_as: RunAs,
    /// Settings of the runners' pods: resources, where they run, priority. A PodConfig of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_config_ref: Option<LocalRef>,
    /// Words to find the snapshots by, with `restic snapshots --tag`. They are only copied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9._=:-]*[A-Za-z0-9])?$"))
    )]
    pub tags: Vec<String>,
}

impl BackupSpec {
    fn default_active_deadline() -> Duration {
        Duration::from_hours(12)
    }
}

impl Default for BackupSpec {
    fn default() -> Self {
        Self {
            storage_ref: None,
            repository_ref: None,
            volumes: BackupVolumes::default(),
            failure_policy: FailurePolicy::default(),
            active_deadline: Self::default_active_deadline(),
            run_as: RunAs::default(),
            pod_config_ref: None,
            tags: Vec::new(),
        }
    }
}

/// Which volumes, and which files on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupVolumes {
    /// Names of the claims to save. When neither this nor `selectors` is set: every claim of the namespace, or, where
    /// the default for claims is `OptIn`, those with the annotation `holdfast.dev/backup: "true"`. The annotation
    /// (`"true"` or `"false"`) wins over this list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512), inner(length(min = 1, max = 253)))]
    pub claims: Vec<String>,
    /// Labels of claims to save, in addition to `claims`; one selector that matches is enough.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub selectors: Vec<LabelSelector>,
    /// Files to leave out, as patterns in restic's notation: `*.tmp` and `cache/` wherever they are, `/scratch` in the
    /// volume's root. A later one that begins with `!` takes back in. The annotation `holdfast.dev/exclude` of a claim
    /// adds to them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 4096)))]
    pub exclude: Vec<String>,
    /// Leave out directories that hold a file `CACHEDIR.TAG`, as programs mark their caches. Never the whole volume.
    pub exclude_caches: bool,
}

impl Default for BackupVolumes {
    fn default() -> Self {
        Self { claims: Vec::new(), selectors: Vec::new(), exclude: Vec::new(), exclude_caches: true }
    }
}

/// What to do when something goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FailurePolicy {
    /// How often a component is tried again before it is Failed.
    #[schemars(range(max = 10))]
    pub retries: u32,
    /// `PartiallyFail`: all else is saved, the run is PartiallyFailed and lists the files. `Fail`: the component
    /// is Failed. `Ignore`: the files are listed and change nothing.
    pub on_unreadable_file: OnUnreadableFile,
}

impl Default for FailurePolicy {
    fn default() -> Self {
        Self { retries: 2, on_unreadable_file: OnUnreadableFile::default() }
    }
}

text_enum! {
    /// What files that cannot be read do to the result: `PartiallyFail`, `Fail` or `Ignore`.
    #[derive(Default)]
    pub enum OnUnreadableFile {
        /// All else is saved; the run is PartiallyFailed and lists the files.
        #[default]
        PartiallyFail,
        /// The component is Failed.
        Fail,
        /// The files are listed and change nothing.
        Ignore,
    }
}

/// What became of a run.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// In one word. `Succeeded`: everything that was to be saved is saved, and that was proved. `PartiallyFailed`:
    /// some is missing, and the status says what. `Skipped`: there was nothing to save.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<BackupPhase>,
    /// When the run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// What it did, or what it waits for, or why it failed and what to do, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The Repository that is saved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_ref: Option<LocalRef>,
    /// The Snapshot that was made: what to name in a Restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_ref: Option<LocalRef>,
    /// One entry a volume.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub components: Vec<BackupComponent>,
    /// What of the namespace is saved, what is not, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
    /// `Progressing`, `Completed`, and warnings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

text_enum! {
    /// State of a Backup in one word.
    #[derive(Default)]
    pub enum BackupPhase {
        /// Not looked at yet, or waiting for what the message says.
        #[default]
        Pending,
        /// Waiting for a free place; the message says where and how long the line is.
        Queued,
        /// Storage, repository and volumes are looked up.
        Preparing,
        /// Jobs are at work.
        Running,
        /// The Jobs are done; their results are gathered.
        Finishing,
        /// Everything that was to be saved is saved.
        Succeeded,
        /// Some is saved; the status says what is missing.
        PartiallyFailed,
        /// Nothing is saved.
        Failed,
        /// There was nothing to save.
        Skipped,
    }
}

impl BackupPhase {
    /// Whether the run has ended: it never leaves this phase.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Pending | Self::Queued | Self::Preparing | Self::Running | Self::Finishing => false,
            Self::Succeeded | Self::PartiallyFailed | Self::Failed | Self::Skipped => true,
        }
    }
}

text_enum! {
    /// What a component is.
    #[derive(Default)]
    pub enum ComponentKind {
        /// The files of a volume.
        #[default]
        Volume,
    }
}

text_enum! {
    /// State of a component in one word.
    #[derive(Default)]
    pub enum ComponentPhase {
        /// Its Job is not started yet.
        #[default]
        Pending,
        /// Its Job is at work.
        Running,
        /// All of it is done, and that was proved.
        Succeeded,
        /// Some of it is done; the component says what is missing.
        PartiallyFailed,
        /// Nothing of it is done.
        Failed,
    }
}

impl ComponentPhase {
    /// Whether the component has ended.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Succeeded | Self::PartiallyFailed | Self::Failed => true,
        }
    }
}

/// Where a component's data comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ComponentSource {
    /// Name of the claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
}

/// A restic snapshot that a run made and that is worth nothing. No list of the repository shows it while the Backup is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiscardedSnapshot {
    /// Its id.
    pub snapshot_id: String,
    /// Whether the run has removed it from the repository.
    #[serde(default)]
    pub removed: bool,
}

/// One part of a run, such as one volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupComponent {
    /// Its name, unique in the run: `volume/<claim>`.
    pub name: String,
    /// What it is.
    #[serde(default)]
    pub kind: ComponentKind,
    /// Where its data comes from.
    #[serde(default)]
    pub source: ComponentSource,
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
    /// Who read the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as: Option<Identity>,
    /// Id of the restic snapshot that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    /// A restic snapshot of it that is worth nothing, because the volume was written while it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discarded: Option<DiscardedSnapshot>,
    /// Files that the parent snapshot did not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_new: Option<u64>,
    /// Files that changed since the parent snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_changed: Option<u64>,
    /// Files that are as they were in the parent snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_unmodified: Option<u64>,
    /// Bytes of all files in the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_processed: Option<u64>,
    /// Bytes added to the repository (new content, compressed and encrypted).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_added: Option<u64>,
    /// Number of files, and of directories with all they hold, that were left out by `exclude`, `excludeCaches` or an
    /// annotation of the claim; absent when there is none, and where a retry took over what an earlier attempt had saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excluded: Option<u64>,
    /// Number of files that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<u64>,
    /// The first files that could not be read, at most 20; `unreadable` is the number of all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub unreadable_sample: Vec<FileProblem>,
    /// Number of files that changed while they were read; absent when there is none. They are saved as they were read, which
    /// may be parts of several moments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_while_reading: Option<u64>,
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

/// A file and what went wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileProblem {
    /// Path of the file on the volume.
    pub path: String,
    /// What went wrong.
    pub error: String,
}

/// How far a component is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Bytes done.
    #[serde(default)]
    pub bytes_done: u64,
    /// Bytes to do, once they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// Files done.
    #[serde(default)]
    pub files_done: u64,
    /// How much of the bytes is done, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub percent: Option<u32>,
    /// Bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Time left, as far as it can be foretold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<Duration>,
    /// When the runner last said that it is alive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
}

/// What of the namespace is saved, and what is not.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Coverage {
    /// Number of claims that are to be saved; once the run is over, of those whose component has succeeded.
    #[serde(default)]
    pub protected: u32,
    /// Claims that are not saved, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["claim".to_owned()]))]
    pub skipped: Vec<SkippedClaim>,
    /// What else to think about: another Backup that saves the same claims at the same time, a wish that is not done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub warnings: Vec<String>,
}

/// A claim that is not saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SkippedClaim {
    /// Name of the claim.
    pub claim: String,
    /// Why, as one word.
    pub reason: SkipReason,
    /// Why and what to do, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

text_enum! {
    /// What becomes of claims that neither an annotation nor a Backup speaks about: `OptOut` or `OptIn`.
    #[derive(Default)]
    pub enum ClaimsDefault {
        /// They are saved.
        #[default]
        OptOut,
        /// They are not.
        OptIn,
    }
}

text_enum! {
    /// Why a claim is not saved. `ExcludedByAnnotation`, `NotOptedIn` and `NotSelected` are wishes and leave the run Succeeded, as
    /// does `NoDataYet` (nothing was ever written); every other reason makes the run PartiallyFailed.
    pub enum SkipReason {
        /// The claim carries `holdfast.dev/backup: "false"` (or K8up's annotation).
        ExcludedByAnnotation,
        /// The default for claims is `OptIn`, and the claim has no annotation.
        NotOptedIn,
        /// `spec.volumes` is about other claims.
        NotSelected,
        /// The claim waits for its first consumer, so nothing was ever written to it.
        NoDataYet,
        /// The claim is not bound, and not because it waits for a consumer.
        ClaimPending,
        /// The claim has lost its volume.
        ClaimLost,
        /// The claim is being deleted.
        ClaimTerminating,
        /// `spec.volumes.claims` names a claim that does not exist.
        ClaimNotFound,
        /// The claim is ReadWriteOncePod and a pod uses it: no second pod may mount it.
        ReadWriteOncePodInUse,
        /// The volume is a block device, not a filesystem.
        BlockVolume,
        /// The volume can only be mounted on a node that is not ready or gone.
        NodeNotReady,
    }
}

impl SkipReason {
    /// Whether leaving the claim out is no failure: the user wished it, or there is nothing to save.
    pub const fn is_harmless(self) -> bool {
        match self {
            Self::ExcludedByAnnotation | Self::NotOptedIn | Self::NotSelected | Self::NoDataYet => true,
            Self::ClaimPending
            | Self::ClaimLost
            | Self::ClaimTerminating
            | Self::ClaimNotFound
            | Self::ReadWriteOncePodInUse
            | Self::BlockVolume
            | Self::NodeNotReady => false,
        }
    }
}
