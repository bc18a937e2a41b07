//! `Snapshot`: one recovery point made of components, mirrored from the repository. Not the data.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backup::ComponentKind;
use crate::refs::LocalRef;

/// One recovery point, made of components. The object mirrors the repository: deleting it deletes no data, and
/// the next sync brings it back.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "Snapshot",
    plural = "snapshots",
    namespaced,
    status = "SnapshotStatus",
    derive = "PartialEq",
    shortname = "hfsnap",
    category = "holdfast",
    doc = "One recovery point, made of components. The object mirrors the repository: deleting it deletes no data, and the next sync brings it back.",
    printcolumn(name = "Complete", type_ = "boolean", json_path = ".status.complete"),
    printcolumn(name = "Taken", type_ = "date", json_path = ".spec.time"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".status.totalSize"),
    printcolumn(name = "Repository", type_ = "string", json_path = ".spec.repositoryRef.name"),
    printcolumn(name = "Backup", type_ = "string", json_path = ".spec.backup.name"),
    printcolumn(name = "Undo-Of", type_ = "string", json_path = ".spec.undoOf"),
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", priority = 1)
)]
#[x_kube(validation = Rule::new("self == oldSelf")
    .message("the spec of a Snapshot says what is in the repository and cannot be changed"))]
#[serde(rename_all = "camelCase")]
pub struct SnapshotSpec {
    /// The Repository that holds it.
    pub repository_ref: LocalRef,
    /// When the Backup that made it began.
    pub time: Time,
    /// The Backup that made it (or the Restore, see `undoOf`); it need not exist any more.
    pub backup: BackupId,
    /// Name of the cluster it was made in.
    #[schemars(length(min = 1, max = 63))]
    pub cluster: String,
    /// Namespace it was made in.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Only of a safety snapshot: name of the Restore that was about to overwrite what it holds, and that `backup` then
    /// stands for. It is restored from when it is named, and never chosen as the latest or by a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub undo_of: Option<String>,
}

/// Which Backup made a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupId {
    /// Name of the Backup.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Uid of the Backup: names come again, uids do not.
    #[schemars(length(min = 1, max = 63))]
    pub uid: String,
}

/// What a snapshot holds.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Whether nothing is missing of what the Backup began to save: every component is in the repository and can be read, and
    /// all files of each could be read when it was saved. Claims that it had to leave out are in its `coverage`. Where the
    /// Backup had `onUnreadableFile: Ignore`, files that could not be read change nothing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete: Option<bool>,
    /// What `complete` was before a component was damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_before_damage: Option<bool>,
    /// Number of components of the Backup that are not in it; absent while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<u64>,
    /// Bytes of all files of all components, as they were on their volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_size: Option<u64>,
    /// The components that are in the repository.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub components: Vec<SnapshotComponent>,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

impl Snapshot {
    /// Whether nothing is missing in it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.status.as_ref().and_then(|status| status.complete) == Some(true)
    }

    /// Whether a Backup made it and nothing is missing in it. What a Restore saved before it overwrote it is complete too,
    /// but no recovery point that anybody planned.
    #[must_use]
    pub fn is_complete_backup(&self) -> bool {
        self.spec.undo_of.is_none() && self.is_complete() && !self.is_damaged(None)
    }

    /// Whether this component is in it, and nothing that matters is missing in that one.
    #[must_use]
    pub fn has_all_of(&self, component: &str) -> bool {
        let mut components = self.status.iter().flat_map(|status| &status.components);
        let found = components.find(|one| one.name == component);
        found.is_some_and(|one| !one.damaged && (self.was_complete() || one.unreadable == Some(0)))
    }

    /// Whether nothing is missing in it, but for what was damaged since.
    fn was_complete(&self) -> bool {
        let before = self.status.as_ref().and_then(|status| status.complete_before_damage);
        self.is_complete() || before == Some(true)
    }

    /// Whether this component of it, or any where none is named, cannot be read any more.
    #[must_use]
    pub fn is_damaged(&self, component: Option<&str>) -> bool {
        let mut components = self.status.iter().flat_map(|status| &status.components);
        components.any(|one| one.damaged && component.is_none_or(|name| one.name == name))
    }

    /// Whether it may be chosen by itself: nothing is missing in it, or in this component of it where one is named, from
    /// which another one that has gaps takes nothing. A run that lost a component is never chosen.
    #[must_use]
    pub fn is_whole(&self, component: Option<&str>) -> bool {
        let has_all_components = self.status.as_ref().and_then(|status| status.missing) == Some(0);
        self.is_complete() || (has_all_components && component.is_some_and(|name| self.has_all_of(name)))
    }

    /// Whether it would be whole if it could still be read. To take an older one instead in silence would hide the loss: it
    /// is chosen all the same, and refused with what can be named instead.
    #[must_use]
    pub fn is_damaged_whole(&self, component: Option<&str>) -> bool {
        let Some(status) = &self.status else { return false };
        let meant = || status.components.iter().filter(|one| component.is_none_or(|name| one.name == name));
        let no_gaps = self.was_complete() || meant().all(|one| one.unreadable == Some(0));
        status.missing == Some(0) && no_gaps && meant().any(|one| one.damaged)
    }
}

/// One part of a snapshot, such as one volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotComponent {
    /// Its name, unique in the snapshot: `volume/<claim>`.
    pub name: String,
    /// What it is.
    #[serde(default)]
    pub kind: ComponentKind,
    /// Id of the restic snapshot.
    pub snapshot_id: String,
    /// Bytes of all files, as they were on the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Number of files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Number of files and directories that could not be read when it was saved; absent while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<u64>,
    /// Whether its restic snapshot cannot be read any more, by the last list of the repository.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
    /// What the volume was like.
    #[serde(default)]
    pub source: VolumeSource,
}

/// What a saved volume was like: what a new claim has to be able to take.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeSource {
    /// Name of the claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Capacity of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Quantity>,
    /// Storage class of the claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// Access modes of the claim.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub access_modes: Vec<String>,
    /// Volume mode of the claim: `Filesystem` or `Block`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_mode: Option<String>,
    /// Labels of the claim.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Those annotations of the claim that say whether and how it is saved.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}
