//! `BackupStorage`: a place to store backups and who may use it. Not the repositories inside.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::refs::PasswordSecretRef;
use crate::text::text_enum;

/// A place to store backups (a bucket or container, and a prefix) and who may use it. Deleting it never deletes data.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "BackupStorage",
    plural = "backupstorages",
    namespaced,
    status = "BackupStorageStatus",
    derive = "PartialEq",
    shortname = "hfbs",
    category = "holdfast",
    doc = "A place to store backups (a bucket or container, and a prefix) and who may use it. Deleting it never deletes data.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Default", type_ = "boolean", json_path = ".spec.default"),
    printcolumn(name = "Location", type_ = "string", json_path = ".status.location"),
    printcolumn(name = "Repositories", type_ = "integer", json_path = ".status.repositoryCount"),
    printcolumn(name = "Validated", type_ = "date", json_path = ".status.lastValidationTime"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BackupStorageSpec {
    /// Used by Backups that name neither a storage nor a repository. A namespace's own default wins over that of
    /// the operator's namespace, which serves other namespaces only where `usagePolicy` admits them.
    #[serde(default)]
    pub default: bool,
    /// Where the data goes. Exactly one backend.
    pub backend: Backend,
    /// Who may use this storage.
    #[serde(default)]
    pub usage_policy: UsagePolicy,
    /// A second password of every repository in this storage. With it and the bucket alone everything can be
    /// restored on a new cluster. One that is set or changed later is added to the repositories that exist; passwords
    /// before it keep opening them. The condition `NoRecoveryPassword` is shown while it is not set, or does not open
    /// all repositories of this cluster yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_password_secret_ref: Option<PasswordSecretRef>,
    /// What may be done with it. `ReadWrite`: all. `ReadOnly`: only restores, and nothing is ever written to it: for
    /// disaster recovery, migration, or a key that may only read. Backups to it fail and say so; a Restore that
    /// overwrites data needs `undo: false`, for what is overwritten cannot be saved.
    #[serde(default)]
    pub access_mode: StorageAccessMode,
    /// How much of the storage runs may take at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<StorageLimits>,
}

impl BackupStorageSpec {
    /// Whether nothing may be written to it.
    pub fn is_read_only(&self) -> bool {
        self.access_mode == StorageAccessMode::ReadOnly
    }
}

text_enum! {
    /// What may be done with a storage: `ReadWrite` or `ReadOnly`.
    #[derive(Default)]
    pub enum StorageAccessMode {
        /// All.
        #[default]
        ReadWrite,
        /// Only restores; nothing is written.
        ReadOnly,
    }
}

/// How much of a storage runs may take at a time. What is absent is not limited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageLimits {
    /// Most Jobs of Backups and Restores, of all namespaces together, that use the storage at a time. The others wait
    /// as `Queued`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub concurrent_jobs: Option<u32>,
    /// Most bytes a second that each Job sends to the storage, e.g. `10Mi`. All Jobs together send at most
    /// `concurrentJobs` times as much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rate")]
    pub upload_bytes_per_second: Option<Quantity>,
    /// Most bytes a second that each Job takes from the storage, e.g. `10Mi`. All Jobs together take at most
    /// `concurrentJobs` times as much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rate")]
    pub download_bytes_per_second: Option<Quantity>,
}

/// An amount above zero. A text, as all quantities here.
fn rate(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "string",
        "maxLength": 24,
        "pattern": "^[0-9]*[1-9][0-9]*(\\.[0-9]+)?(k|Ki|M|Mi|G|Gi|T|Ti)?$",
    })
}

/// Who may use a storage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsagePolicy {
    /// The namespaces whose Repositories and Backups may use this storage.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,
}

/// A choice of namespaces.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("(self.from == 'Selector') == has(self.selector)")
    .message("selector must be set when from is Selector, and only then"))]
#[serde(rename_all = "camelCase")]
pub struct AllowedNamespaces {
    /// `Same`: the storage's own namespace. `All`: every namespace. `Selector`: its own namespace and those whose
    /// labels match `selector`.
    #[serde(default)]
    pub from: NamespacesFrom,
    /// Labels of the namespaces that may use the storage; only with `from: Selector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

text_enum! {
    /// Which namespaces: `Same`, `All` or `Selector`.
    #[derive(Default)]
    pub enum NamespacesFrom {
        /// Only the storage's own namespace.
        #[default]
        Same,
        /// Every namespace.
        All,
        /// The storage's own namespace and those whose labels match.
        Selector,
    }
}

/// What is known about a storage.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupStorageStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the data goes: `s3:<endpoint>/<bucket>/<prefix>`, `gs:<bucket>:/<prefix>` or
    /// `azure:<account>/<container>:/<prefix>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// In one word: `Pending` (not yet tried), `Ready`, or `Unavailable` (the Ready condition says why).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<StoragePhase>,
    /// When the storage was last tried: an object written, read back, listed and deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_validation_time: Option<Time>,
    /// Number of directories in the bucket that hold a repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_count: Option<i64>,
    /// The directories found in the bucket, at most 50: what can be adopted on a new cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub repositories: Vec<FoundRepository>,
    /// `Ready`, and warnings such as `NoRecoveryPassword` and `CredentialsNotScoped`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

text_enum! {
    /// State of a storage in one word.
    #[derive(Default)]
    pub enum StoragePhase {
        /// Not tried yet.
        #[default]
        Pending,
        /// The last try succeeded.
        Ready,
        /// The last try failed; the Ready condition says why and what to do.
        Unavailable,
    }
}

/// A repository that the bucket holds, whether or not this cluster has an object for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FoundRepository {
    /// Directory below the storage's prefix: what to write into `spec.directory` of a Repository to adopt it.
    pub directory: String,
    /// Id of the repository, when a Repository object of this cluster has opened it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<String>,
    /// Name of the cluster that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Namespace whose data it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the Repository object that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}
