//! The run spec: everything a runner needs to know except its credentials.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

/// One run of the runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunSpec {
    /// [`VERSION`](crate::VERSION) of whoever wrote it.
    pub version: u32,
    /// On whose behalf.
    pub run: RunIdentity,
    /// Where backups are stored.
    pub storage: StorageAccess,
    /// Directory of the repository below the storage's prefix; absent for tasks on the storage itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Id that the repository there has to have; not looked at when absent. Another one was put in its place: what the
    /// operator knows is not about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<String>,
    /// Uids of Jobs of which the operator knows that none of their pods runs any more: their locks may go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dead_jobs: Vec<String>,
    /// Ids of restic snapshots that turned out to be worth nothing: `Unlock` removes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub discard: Vec<String>,
    /// Nothing may be written to the store: no lock, no probe object, no description, no key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Most bytes a second that the runner sends to the store; not limited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_bytes_per_second: Option<NonZeroU64>,
    /// Most bytes a second that the runner takes from the store; not limited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_bytes_per_second: Option<NonZeroU64>,
    /// When the store's keys end (RFC 3339), where they were made for this run and it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_end: Option<String>,
    /// What to do.
    pub task: Task,
}

/// The object that a run belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunIdentity {
    /// Kind of the object: `Backup`, `Restore`, `Repository`, `BackupStorage`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Name of the cluster, as the operator was told.
    pub cluster: String,
    /// Uid of the namespace `kube-system`, which tells two clusters of one name apart.
    pub cluster_uid: String,
}

/// Where a storage is. Credentials are files of the run's Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum StorageAccess {
    /// S3 or a server that speaks it.
    #[serde(rename_all = "camelCase")]
    S3 {
        /// `https://host[:port]`.
        endpoint: String,
        /// Bucket name.
        bucket: String,
        /// Path within the bucket under which all of the storage lies; empty = the whole bucket.
        #[serde(default)]
        prefix: String,
        /// Region for request signing.
        region: String,
        /// The bucket is named in the host (`https://bucket.host`), not in the path.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        virtual_host: bool,
    },
    /// Google Cloud Storage.
    #[serde(rename_all = "camelCase")]
    Gcs {
        /// Bucket name.
        bucket: String,
        /// Path within the bucket under which all of the storage lies; empty = the whole bucket.
        #[serde(default)]
        prefix: String,
    },
    /// Azure Blob Storage.
    #[serde(rename_all = "camelCase")]
    Azure {
        /// Storage account.
        account: String,
        /// Container name.
        container: String,
        /// Path within the container under which all of the storage lies; empty = the whole container.
        #[serde(default)]
        prefix: String,
        /// End of the host's name in another cloud than the public one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint_suffix: Option<String>,
        /// Whole URL of the account instead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<String>,
    },
}

/// What a runner is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Task {
    /// Find out whether the storage can be used: write, read, list and delete a probe object; write
    /// `metadata.yaml` once; list the repositories that lie there (attachment of [`FoundRepository`] lines).
    Probe {
        /// At most so many repositories are listed.
        scan_limit: u32,
    },
    /// Make the repository, or open it when it is there; write `repository.yaml`; add the recovery key.
    Initialize {
        /// What `repository.yaml` will say.
        record: RepositoryRecord,
        /// An adopted repository must be there already: it is never made.
        must_exist: bool,
        /// Only open it: nothing is written into it, neither record nor recovery key.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        read_only: bool,
    },
    /// List all snapshots (attachment of [`SnapshotRow`] lines).
    Sync,
    /// Back up one mounted claim as one restic snapshot.
    BackupVolume(BackupVolume),
    /// Restore one component into a mounted claim, or plan it.
    RestoreVolume(RestoreVolume),
    /// Remove what a run left in the repository: the locks of `dead_jobs`, and the snapshots to `discard`.
    Unlock,
}

/// `repository.yaml`: written once beside the repository's `config`, read when it is found again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryRecord {
    /// Version of this file's format: 1.
    pub version: u32,
    /// Cluster that made it.
    pub cluster: String,
    /// Uid of that cluster's `kube-system` namespace.
    pub cluster_uid: String,
    /// Namespace that it belongs to.
    pub namespace: String,
    /// Name of the Repository object.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
}

/// One repository found in a storage: a line of the probe's attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FoundRepository {
    /// Its directory below the storage's prefix.
    pub directory: String,
    /// What its `repository.yaml` says, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<RepositoryRecord>,
}

/// One restic snapshot: a line of the sync's attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotRow {
    /// 64 hex digits.
    pub id: String,
    /// RFC 3339.
    pub time: String,
    /// Host field (ours: the namespace).
    pub host: String,
    /// Paths backed up.
    pub paths: Vec<String>,
    /// Tags, raw.
    pub tags: Vec<String>,
    /// Files, where the snapshot's summary tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Plain bytes, where the snapshot's summary tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// It cannot be read: nothing of it is known but its id.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
}

/// Key of the tag that the runner adds to a snapshot when something in its source could not be read:
/// `holdfast.dev/unreadable=<count>`. So a later attempt that takes the snapshot over, and every sync, know that it
/// has gaps.
pub const UNREADABLE_TAG: &str = "holdfast.dev/unreadable";

/// Key of the tag of a safety snapshot, taken before a restore overwrites something: `holdfast.dev/undo-of=<restore>`.
/// Such a snapshot is no parent of an ordinary one.
pub const UNDO_TAG: &str = "holdfast.dev/undo-of";

/// Tag of a snapshot of which caches are part: a restore that deletes what the snapshot lacks deletes it in them too. Without it
/// they may have been left out.
pub const CACHES_TAG: &str = "holdfast.dev/caches=saved";

/// Back up one claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupVolume {
    /// Component name, e.g. `volume/data`.
    pub component: String,
    /// Where the claim is mounted; also the path in the snapshot.
    pub path: String,
    /// restic host field.
    pub host: String,
    /// All tags of the snapshot.
    pub tags: Vec<String>,
    /// The tags among them by which an earlier attempt's snapshot of this very component is recognised: all of
    /// them present = already done.
    pub identity_tags: Vec<String>,
    /// Start of the run, RFC 3339: the snapshot's time, the same for all components.
    pub time: String,
    /// Exclude patterns as restic's; a leading `/` means the volume's root.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Leave out directories that hold a `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// What an unreadable file does.
    pub on_unreadable: OnUnreadable,
    /// A volume that holds no files is not saved: the result then says that it is empty.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_empty: bool,
}

/// What an unreadable file does to its component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnUnreadable {
    /// The snapshot is committed, the outcome is `Partial`.
    PartiallyFail,
    /// No snapshot; the outcome is `Failed`.
    Fail,
    /// The snapshot is committed; the files are counted and listed, the outcome is `Succeeded`.
    Ignore,
}

/// Restore one component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreVolume {
    /// Component name, e.g. `volume/data`.
    pub component: String,
    /// restic snapshot, 64 hex digits.
    pub snapshot_id: String,
    /// Directory in the snapshot that becomes the target's root, e.g. `/data/data`.
    pub source_path: String,
    /// Where the claim is mounted.
    pub target: String,
    /// Only these patterns; all when empty.
    #[serde(default)]
    pub include: Vec<String>,
    /// Not these patterns.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Remove what the snapshot does not hold.
    pub delete_extra: bool,
    /// Read everything back and compare after writing.
    pub verify: bool,
    /// Plan only: nothing is written.
    pub plan_only: bool,
    /// Whether owners are restored (needs root) or left as the runner's.
    pub restore_owners: bool,
}
