//! `BackupStorage`: a place to store backups and who may use it. Not the repositories inside.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::refs::{LocalRef, PasswordSecretRef};
use crate::text::text_enum;

/// A place to store backups (a bucket and a prefix) and who may use it. Deleting it never deletes data.
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
    doc = "A place to store backups (a bucket and a prefix) and who may use it. Deleting it never deletes data.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Default", type_ = "boolean", json_path = ".spec.default"),
    printcolumn(name = "Bucket", type_ = "string", json_path = ".spec.backend.s3.bucket"),
    printcolumn(name = "Repositories", type_ = "integer", json_path = ".status.repositoryCount"),
    printcolumn(name = "Validated", type_ = "date", json_path = ".status.lastValidationTime"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".spec.backend.s3.endpoint", priority = 1),
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
    /// restored on a new cluster. Without it the condition `NoRecoveryPassword` is shown.
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

/// Where the data goes. Exactly one field is set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.s3)").message("exactly one backend must be set; this version knows s3"))]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// A bucket of an S3-compatible object store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Backend>,
}

/// A bucket of an S3-compatible object store, addressed by path (`<endpoint>/<bucket>/…`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3Backend {
    /// Name of the bucket. It must exist: Holdfast never makes one.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))]
    pub bucket: String,
    /// Path inside the bucket under which everything is kept; the root of the bucket when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$")
    )]
    pub prefix: Option<String>,
    /// URL of the object store, with scheme and without a path: `https://minio.storage.svc:9000`. With `http`
    /// the data is still encrypted (by the repository), but names and sizes can be watched on the wire.
    #[schemars(length(min = 8, max = 512), regex(pattern = r"^https?://[^/?#@\s]+/?$"))]
    pub endpoint: String,
    /// Region used to sign requests.
    #[serde(default = "S3Backend::default_region")]
    #[schemars(length(min = 1, max = 64))]
    pub region: String,
    /// Secret in the storage's namespace with the keys `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
    pub credentials_secret_ref: LocalRef,
    /// Certificates (PEM) to trust besides the well-known ones, for a store with its own authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<CaBundleRef>,
}

impl S3Backend {
    /// Key of the access key in the credentials Secret.
    pub const ACCESS_KEY_ID: &'static str = "AWS_ACCESS_KEY_ID";
    /// Key of the secret key in the credentials Secret.
    pub const SECRET_ACCESS_KEY: &'static str = "AWS_SECRET_ACCESS_KEY";

    fn default_region() -> String {
        "us-east-1".to_owned()
    }

    /// The place of a directory in this store in restic's notation,
    /// `s3:<scheme>://<host>/<bucket>/<prefix>/<directory>`, always spelled the same for the same place:
    /// scheme and host in lower case, no default port, no empty path element. An empty `directory` is the
    /// storage itself.
    ///
    /// Names are made from the hash of this text ([`crate::names::repository_password_secret_name`]), so its
    /// form never changes.
    pub fn location(&self, directory: &str) -> String {
        let endpoint = self.endpoint.trim_end_matches('/').to_ascii_lowercase();
        let endpoint = match endpoint.split_once("://") {
            Some(("https", _)) => endpoint.strip_suffix(":443").unwrap_or(&endpoint),
            Some(("http", _)) => endpoint.strip_suffix(":80").unwrap_or(&endpoint),
            _ => &endpoint,
        };
        let path = [self.bucket.as_str(), self.prefix.as_deref().unwrap_or_default(), directory]
            .iter()
            .flat_map(|part| part.split('/'))
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("/");
        format!("s3:{endpoint}/{path}")
    }
}

/// Where the certificates of a private authority are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaBundleRef {
    /// What holds the certificates.
    #[serde(default)]
    pub kind: CaBundleKind,
    /// Name of the Secret or ConfigMap, in the storage's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key with the certificates in PEM form.
    #[serde(default = "CaBundleRef::default_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl CaBundleRef {
    fn default_key() -> String {
        "ca.crt".to_owned()
    }
}

text_enum! {
    /// What holds certificates: a Secret or a ConfigMap.
    #[derive(Default)]
    pub enum CaBundleKind {
        /// A Secret.
        #[default]
        Secret,
        /// A ConfigMap.
        ConfigMap,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(endpoint: &str, prefix: Option<&str>) -> S3Backend {
        S3Backend {
            bucket: "backups".into(),
            prefix: prefix.map(str::to_owned),
            endpoint: endpoint.into(),
            ..S3Backend::default()
        }
    }

    #[test]
    fn one_place_has_one_location() {
        let expected = "s3:https://minio.storage:9000/backups/prod/c/ns/data-x7k2p";
        for (endpoint, prefix) in [
            ("https://minio.storage:9000", "prod"),
            ("https://MinIO.storage:9000/", "prod"),
            ("HTTPS://minio.storage:9000", "/prod/"),
        ] {
            assert_eq!(backend(endpoint, Some(prefix)).location("c/ns/data-x7k2p"), expected);
        }
        assert_eq!(backend("https://s3.example:443", None).location(""), "s3:https://s3.example/backups");
        assert_eq!(backend("http://s3.example:80", None).location("a"), "s3:http://s3.example/backups/a");
        assert_eq!(
            backend("http://s3.example:443", None).location("a"),
            "s3:http://s3.example:443/backups/a"
        );
    }
}
