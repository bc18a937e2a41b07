//! The custom resources of Holdfast and every name that outlives a release: kinds, validation, conditions,
//! labels, object names, restic tags, the quiesce record. Holds no client and makes no decision.
//!
//! What is written here ends up in clusters and in buckets of other people. Kinds may still change while they
//! are `v1alpha1`; names and tags ([`names`], [`tags`]) may not: a repository written today has to be understood
//! by every later version.

#![expect(unreachable_pub, reason = "KubeSchema copies each type, with its visibility, into a function")]
#![expect(clippy::duplicated_attributes, reason = "each printer column says again what it is")]
#![expect(clippy::doc_markdown, reason = "comments on fields are the plain text of `kubectl explain`")]

pub mod backend;
pub mod backup;
pub mod backup_storage;
pub mod conditions;
pub mod crds;
pub mod duration;
pub mod names;
pub mod pod_config;
pub mod quiesce;
pub mod refs;
pub mod repository;
pub mod restore;
pub mod snapshot;
pub mod tags;
mod text;
pub mod wish;

pub use backup::{Backup, BackupSpec, BackupStatus};
pub use backup_storage::{BackupStorage, BackupStorageSpec, BackupStorageStatus};
pub use conditions::{ConditionType, Reason};
pub use crds::crds;
pub use duration::Duration;
pub use pod_config::{PodConfig, PodConfigSpec};
pub use repository::{Repository, RepositorySpec, RepositoryStatus};
pub use restore::{Restore, RestoreSpec, RestoreStatus};
pub use snapshot::{Snapshot, SnapshotSpec, SnapshotStatus};

/// The API group of every kind.
pub const GROUP: &str = "holdfast.dev";
/// The version of every kind.
pub const VERSION: &str = "v1alpha1";

/// Most components that one run, and so one Snapshot, can have. The status of an object has to fit into etcd's
/// limit of 1.5 MiB an object; a namespace with more claims needs several Backups that each name their claims.
pub const MAX_COMPONENTS: usize = 512;
/// Most unreadable files (or files with missing metadata) named in a component's status; their number is beside.
pub const MAX_SAMPLES: usize = 20;
/// Most lines of the runner's log kept in a component's status.
pub const MAX_LOG_LINES: usize = 10;
/// Most directories listed in the status of a `BackupStorage`.
pub const MAX_LISTED_REPOSITORIES: usize = 50;
