//! References from one object to another. Only what they look like, not how they are resolved.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::text_enum;

/// Names an object in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRef {
    /// Name of the object, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

impl LocalRef {
    /// A reference to the object of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

/// Names an object in this namespace, or in another one that is named with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace of the object; the namespace of the referring object when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

impl ObjectRef {
    /// The object of this name in `namespace`, seen from an object in `own`.
    pub fn seen_from(own: &str, namespace: &str, name: impl Into<String>) -> Self {
        Self { name: name.into(), namespace: (own != namespace).then(|| namespace.to_owned()) }
    }

    /// The namespace of the object, seen from an object in `own`.
    pub fn namespace_or<'a>(&'a self, own: &'a str) -> &'a str {
        self.namespace.as_deref().unwrap_or(own)
    }
}

/// Names a `BackupStorage`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageRef {
    /// Name of the BackupStorage.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace of the BackupStorage; the namespace of the referring object when absent. The storage's
    /// `usagePolicy` decides whether it may be used from another namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

impl StorageRef {
    /// The namespace of the storage, seen from an object in `own`.
    pub fn namespace_or<'a>(&'a self, own: &'a str) -> &'a str {
        self.namespace.as_deref().unwrap_or(own)
    }
}

/// Names a Secret that holds a repository password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PasswordSecretRef {
    /// Name of the Secret, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret.
    #[serde(default = "PasswordSecretRef::default_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl PasswordSecretRef {
    fn default_key() -> String {
        "password".to_owned()
    }
}

/// Names an object in any namespace (status only; a spec never points into another namespace without a policy).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedRef {
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
}

text_enum! {
    /// Who the runner is when it reads or writes a volume. `Auto`: Root where the namespace allows it, else Workload, and
    /// what could not be read or restored is reported. `Workload`: the uid, gid,
    /// supplemental groups and SELinux level of the pod that uses the claim. `Root`: uid 0 with only the
    /// capabilities the task needs; the namespace must carry `holdfast.dev/allow-root-runner: "true"`.
    #[derive(Default)]
    pub enum RunAs {
        /// Root where the namespace allows it, else Workload.
        #[default]
        Auto,
        /// The identity of the pod that uses the claim.
        Workload,
        /// Uid 0 with the few capabilities that the task needs.
        Root,
    }
}

/// The identity a runner really had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// User id.
    pub uid: i64,
    /// Group id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<i64>,
    /// Supplemental groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub supplemental_groups: Vec<i64>,
    /// Group that the volume is given to when it is mounted. Only ever for a volume that was made for the run: on
    /// one with data the kubelet would change the owners of all files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_group: Option<i64>,
    /// SELinux level, when the workload has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selinux_level: Option<String>,
    /// Whether the identity was taken from the workload, or is Root. Absent when it is neither: nobody uses the claim,
    /// or not as a user that the runner may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<RunAs>,
}
