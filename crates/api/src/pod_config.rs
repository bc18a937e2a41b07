//! `PodConfig`: how the pods of runners look, as far as users may say. An allow-list: everything else of a pod is
//! decided by Holdfast, and nothing here can make a pod do what its author could not do otherwise.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::refs::LocalRef;

/// Settings of the pods of runners, shared by the Backups and Restores of a namespace that name it in `podConfigRef`.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "PodConfig",
    plural = "podconfigs",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    shortname = "hfpc",
    category = "holdfast",
    doc = "Settings of the pods of runners, shared by the Backups and Restores of a namespace that name it in podConfigRef.",
    printcolumn(name = "Priority", type_ = "string", json_path = ".spec.priorityClassName"),
    printcolumn(name = "Memory-Limit", type_ = "string", json_path = ".spec.resources.limits.memory"),
    printcolumn(name = "CPU-Request", type_ = "string", json_path = ".spec.resources.requests.cpu"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("!has(self.labels) || self.labels.all(k, !k.startsWith('holdfast.dev/') && !k.startsWith('kubernetes.io/') && !k.startsWith('k8s.io/'))")
        .message("labels of holdfast.dev/, kubernetes.io/ and k8s.io/ are not the user's to set"),
    validation = Rule::new("!has(self.annotations) || self.annotations.all(k, !k.startsWith('holdfast.dev/') && !k.startsWith('kubernetes.io/') && !k.startsWith('k8s.io/'))")
        .message("annotations of holdfast.dev/, kubernetes.io/ and k8s.io/ are not the user's to set")
)]
#[serde(rename_all = "camelCase")]
pub struct PodConfigSpec {
    /// What a runner asks for and at what it is stopped. What is not set here is as the operator's settings say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<PodResources>,
    /// Labels that a node must have. A volume that is in use, or attached, can only be mounted on its node: where that
    /// node does not have the labels, the run waits and says so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Rules about nodes and other pods. What a runner needs to reach its volume is added to the rules about nodes, and
    /// both have to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints of nodes that the runner bears, besides those that the pod on the same volume bears.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// The PriorityClass of the pods. It must exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Labels of the pods, besides Holdfast's own: for network policies, accounting and the like. Labels that a Service
    /// or a controller selects would draw its traffic to the runner.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pods, besides Holdfast's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
    /// Secrets of the namespace to pull the runner's image with, besides those of the operator's settings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalRef>,
    /// The RuntimeClass of the pods. It must exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
}

/// What a runner asks for, and at what it is stopped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodResources {
    /// What is kept free for it on its node: `cpu`, `memory`, `ephemeral-storage`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8))]
    pub requests: BTreeMap<String, Quantity>,
    /// At what it is slowed down (`cpu`) or killed (`memory`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8))]
    pub limits: BTreeMap<String, Quantity>,
}
