//! The workloads that can be scaled, in one shape for the three kinds. Decides nothing, writes nothing.

use std::fmt;

use holdfast_api::names::ANNOTATION_QUIESCE;
use holdfast_api::quiesce::QuiesceRecord;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::ObjectMeta;

/// What kind of workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkloadKind {
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` StatefulSet.
    StatefulSet,
    /// `apps/v1` ReplicaSet that no Deployment owns.
    ReplicaSet,
}

impl WorkloadKind {
    /// The kind as it stands in an owner reference.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::ReplicaSet => "ReplicaSet",
        }
    }
}

/// Names a workload within its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkloadId {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.name)
    }
}

/// A workload as it was read: what a decision about its scale depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Kind and name.
    pub id: WorkloadId,
    /// Its uid: a workload made anew under the same name is another one.
    pub uid: String,
    /// The version that was read: an update built from it fails when somebody else was faster.
    pub resource_version: String,
    /// The count that is wanted of it.
    pub replicas: i32,
    /// Its controller has seen it as it is. The generation of a Deployment counts its annotations, too.
    pub is_seen: bool,
    /// Its controller has seen the count that is wanted, and counts no pod of it any more.
    pub is_down: bool,
    /// What stands in the annotation of the quiesce record; what is wrong with it when it cannot be read.
    pub record: Result<Option<QuiesceRecord>, String>,
    /// It carries a copy of a record: the Deployment controller copies annotations of a Deployment to its replica
    /// set, and never takes them away again.
    pub has_copy: bool,
    /// The controller that owns it.
    pub owner: Option<OwnerReference>,
    /// A StatefulSet that deletes its claims when it is scaled down.
    pub deletes_claims: bool,
    /// The pod template.
    pub template: Option<PodTemplateSpec>,
    /// Names of the claim templates of a StatefulSet.
    pub claim_templates: Vec<String>,
}

impl Workload {
    fn new(kind: WorkloadKind, metadata: &ObjectMeta, replicas: Option<i32>) -> Self {
        Self {
            id: WorkloadId { kind, name: metadata.name.clone().unwrap_or_default() },
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
            // The API server defaults an absent count to one.
            replicas: replicas.unwrap_or(1),
            is_seen: false,
            is_down: false,
            record: if is_below_deployment(metadata) { Ok(None) } else { read_record(metadata) },
            has_copy: is_below_deployment(metadata) && has_record(metadata),
            owner: controller_of(metadata).cloned(),
            deletes_claims: false,
            template: None,
            claim_templates: Vec::new(),
        }
    }

    /// Down are those that are wanted at zero, once their controller says so: `status` is its observed generation
    /// and count.
    fn with_status(mut self, metadata: &ObjectMeta, status: Option<(Option<i64>, i32)>) -> Self {
        self.is_seen = status.is_some_and(|(observed, _)| observed >= metadata.generation);
        self.is_down = self.replicas == 0 && self.is_seen && status.is_some_and(|(_, pods)| pods == 0);
        self
    }

    /// Whether its pods would use the claim.
    pub fn would_use(&self, claim: &str) -> bool {
        let by_template = self
            .template
            .as_ref()
            .and_then(|template| template.spec.as_ref())
            .is_some_and(|spec| crate::volumes::uses_claim(spec, None, claim));
        by_template || self.ordinal_of(claim).is_some()
    }

    /// The ordinal of the pod whose claim, made from a claim template, this is (`<template>-<set>-<ordinal>`).
    fn ordinal_of(&self, claim: &str) -> Option<u32> {
        self.claim_templates.iter().find_map(|template| {
            let rest = claim.strip_prefix(template.as_str())?.strip_prefix('-')?;
            let ordinal = rest.strip_prefix(self.id.name.as_str())?.strip_prefix('-')?;
            ordinal.parse().ok()
        })
    }
}

fn is_below_deployment(metadata: &ObjectMeta) -> bool {
    controller_of(metadata).is_some_and(|owner| owner.kind == WorkloadKind::Deployment.as_str())
}

fn has_record(metadata: &ObjectMeta) -> bool {
    metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(ANNOTATION_QUIESCE))
}

/// The quiesce record of an object.
pub(super) fn read_record(metadata: &ObjectMeta) -> Result<Option<QuiesceRecord>, String> {
    metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(ANNOTATION_QUIESCE))
        .map(|text| QuiesceRecord::from_annotation(text).map_err(|error| error.to_string()))
        .transpose()
}

/// The controller of an object.
pub fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

impl From<&Deployment> for Workload {
    fn from(object: &Deployment) -> Self {
        let spec = object.spec.as_ref();
        let workload = Self {
            template: spec.map(|spec| spec.template.clone()),
            ..Self::new(WorkloadKind::Deployment, &object.metadata, spec.and_then(|spec| spec.replicas))
        };
        let status = object.status.as_ref().map(|s| (s.observed_generation, s.replicas.unwrap_or(0)));
        workload.with_status(&object.metadata, status)
    }
}

impl From<&ReplicaSet> for Workload {
    fn from(object: &ReplicaSet) -> Self {
        let spec = object.spec.as_ref();
        let workload = Self {
            template: spec.and_then(|spec| spec.template.clone()),
            ..Self::new(WorkloadKind::ReplicaSet, &object.metadata, spec.and_then(|spec| spec.replicas))
        };
        let status = object.status.as_ref().map(|s| (s.observed_generation, s.replicas));
        workload.with_status(&object.metadata, status)
    }
}

impl From<&StatefulSet> for Workload {
    fn from(object: &StatefulSet) -> Self {
        let spec = object.spec.as_ref();
        let deletes_claims = spec
            .and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref())
            .and_then(|policy| policy.when_scaled.as_deref())
            == Some("Delete");
        let workload = Self {
            deletes_claims,
            template: spec.map(|spec| spec.template.clone()),
            claim_templates: spec
                .iter()
                .flat_map(|spec| spec.volume_claim_templates.iter().flatten())
                .map(PersistentVolumeClaim::name_any)
                .collect(),
            ..Self::new(WorkloadKind::StatefulSet, &object.metadata, spec.and_then(|spec| spec.replicas))
        };
        let status = object.status.as_ref().map(|s| (s.observed_generation, s.replicas));
        workload.with_status(&object.metadata, status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Until a controller has seen that the record is gone it may copy it once more.
    #[test]
    fn a_deployment_is_seen_once_its_controller_has_observed_its_generation() {
        let is_seen = |status: &str| {
            let text = format!(
                "{{metadata: {{name: web, generation: 3}}, spec: {{replicas: 1, selector: {{}}, template: {{}}}}, status: {status}}}"
            );
            Workload::from(&serde_saphyr::from_str::<Deployment>(&text).unwrap()).is_seen
        };
        assert!(is_seen("{observedGeneration: 3, replicas: 0}"));
        assert!(!is_seen("{observedGeneration: 2, replicas: 0}"));
        assert!(!is_seen("{}"));
    }
}
