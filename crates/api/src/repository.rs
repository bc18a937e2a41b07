//! `Repository`: one encrypted repository in a storage. Not what is stored in it (see `Snapshot`).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::refs::{NamespacedRef, PasswordSecretRef, StorageRef};
use crate::text::text_enum;

/// One encrypted repository (in restic's format) in a directory of a storage. Made by the first Backup of a
/// namespace, or by hand to adopt an existing one. Deleting the object never deletes data.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "Repository",
    plural = "repositories",
    namespaced,
    status = "RepositoryStatus",
    derive = "PartialEq",
    derive = "Default",
    shortname = "hfrepo",
    category = "holdfast",
    doc = "One encrypted repository (in restic's format) in a directory of a storage. Made by the first Backup of a namespace, or by hand to adopt an existing one. Deleting the object never deletes data.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Storage", type_ = "string", json_path = ".spec.storageRef.name"),
    printcolumn(name = "Snapshots", type_ = "integer", json_path = ".status.snapshotCount"),
    printcolumn(name = "Last-Backup", type_ = "date", json_path = ".status.lastSuccessfulBackup"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    printcolumn(name = "Directory", type_ = "string", json_path = ".status.directory", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.storageRef == oldSelf.storageRef")
        .message("storageRef cannot be changed; make another Repository"),
    validation = Rule::new("has(self.directory) == has(oldSelf.directory) && (!has(self.directory) || self.directory == oldSelf.directory)")
        .message("directory is chosen once, when the Repository is made; make another Repository")
)]
#[serde(rename_all = "camelCase")]
pub struct RepositorySpec {
    /// The storage that holds the repository. Cannot be changed.
    pub storage_ref: StorageRef,
    /// Directory below the storage's prefix. Absent: chosen by Holdfast as
    /// `<cluster>/<namespace>/<name>-<5 characters>` and shown in `status.directory`. Give it to adopt an
    /// existing repository; outside the storage's own namespace it must begin with `<cluster>/<namespace>/`.
    /// Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$")
    )]
    pub directory: Option<String>,
    /// Secret (in this namespace) with the password of an existing repository, to adopt it. Absent: a password is
    /// made once and kept in the storage's namespace, where it outlives this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<PasswordSecretRef>,
    /// How much of the repository runs may take at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RepositoryLimits>,
}

/// How much of a repository runs may take at a time. What is absent is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryLimits {
    /// Most Jobs of Backups and Restores that use the repository at a time. The others wait as `Queued`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub concurrent_jobs: Option<u32>,
}

/// What is known about a repository.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// In one word: `Pending`, `Initializing`, `Ready`, or `Failed` (the Ready condition says why).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RepositoryPhase>,
    /// Directory below the storage's prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Id of the repository, from its own configuration: another id at the same place is a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<String>,
    /// Whether the repository exists. Once true, it is never initialised again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub initialized: bool,
    /// Number of Snapshot objects of this repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_count: Option<i64>,
    /// When the Snapshot objects were last compared with the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sync_time: Option<Time>,
    /// The value of the annotation `holdfast.dev/sync-now` that the last sync answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sync_request: Option<String>,
    /// When the Backup began that made the newest complete Snapshot in this repository. Of claims that the Backup had to leave
    /// out it says nothing: its phase does, and `holdfast status`, claim by claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_successful_backup: Option<Time>,
    /// The Secret that holds the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<NamespacedRef>,
    /// Which version of the storage's recovery password opens the repository, too: an opaque name. Absent while there is
    /// none, or it is not known whether it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_password: Option<String>,
    /// Directories found beside this one that hold older repositories of the same name, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub previous_repositories: Vec<String>,
    /// `Ready`, `SnapshotsSynced`, `SnapshotsDamaged`, `PreviousRepositoriesFound`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

text_enum! {
    /// State of a repository in one word.
    #[derive(Default)]
    pub enum RepositoryPhase {
        /// Waits for its storage or its password.
        #[default]
        Pending,
        /// Is being opened or made.
        Initializing,
        /// Can be used.
        Ready,
        /// Cannot be used; the Ready condition says why and what to do.
        Failed,
    }
}
