//! A PodConfig into the pod of a runner. Pure. What Holdfast has set for correctness or security stays: rules about
//! nodes are added to its own, so that both have to hold, and of two values for one key its own wins.

use std::collections::BTreeMap;

use holdfast_api::pod_config::{PodConfig, PodConfigSpec, PodResources};
use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, NodeAffinity, NodeSelector, NodeSelectorTerm, PodSpec, PodTemplateSpec,
    ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;

use super::CONTAINER;
use crate::volumes::claim::quantity_value;

/// Annotation of Jobs and pods: the PodConfig that shaped them.
pub const ANNOTATION_POD_CONFIG: &str = "holdfast.dev/pod-config";

/// Domains whose labels and annotations are no user's: those of Kubernetes tell it how to treat a pod, also as to
/// security (seccomp, AppArmor), and those of Holdfast are how it finds its own.
const RESERVED: [&str; 3] = ["holdfast.dev", "kubernetes.io", "k8s.io"];
/// Tells the cluster autoscaler whether it may end a pod, and nothing else.
const ALLOWED: [&str; 1] = ["cluster-autoscaler.kubernetes.io"];
/// What may be asked for. Devices and the like have no place in a runner.
const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Why a PodConfig cannot be used, and what to do.
pub fn refusal(config: &PodConfig) -> Option<String> {
    let name = format!("PodConfig {}/{}", config.namespace().unwrap_or_default(), config.name_any());
    let PodConfigSpec { resources, labels, annotations, .. } = &config.spec;
    for (field, all, allowed) in [("labels", labels, [].as_slice()), ("annotations", annotations, &ALLOWED)] {
        if let Some(key) = all.keys().find(|key| is_reserved(key, allowed)) {
            return Some(format!(
                "{name} sets {key} in spec.{field}: keys of {} are not the user's to set; remove it",
                RESERVED.join(", ")
            ));
        }
    }
    let PodResources { requests, limits } = resources.as_ref()?;
    for (field, all) in [("requests", requests), ("limits", limits)] {
        for (key, quantity) in all {
            if !RESOURCES.contains(&key.as_str()) {
                return Some(format!(
                    "{name} sets {key} in spec.resources.{field}: a runner takes {}; remove it",
                    RESOURCES.join(", ")
                ));
            }
            if quantity_value(quantity).is_none() {
                return Some(format!(
                    "{name} sets spec.resources.{field}.{key} to {:?}, which is no quantity such as 500m or 2Gi",
                    quantity.0
                ));
            }
        }
    }
    None
}

fn is_reserved(key: &str, allowed: &[&str]) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    let within = |reserved: &&str| {
        domain.strip_suffix(*reserved).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    RESERVED.iter().any(within) && !allowed.contains(&domain)
}

/// Puts a PodConfig into the template of a runner's pod.
pub fn apply(template: &mut PodTemplateSpec, config: &PodConfig) {
    let PodConfigSpec {
        resources,
        node_selector,
        affinity,
        tolerations,
        priority_class_name,
        labels,
        annotations,
        image_pull_secrets,
        runtime_class_name,
    } = &config.spec;
    let metadata = template.metadata.get_or_insert_default();
    merge(&mut metadata.labels, labels);
    merge(&mut metadata.annotations, annotations);
    metadata.annotations.get_or_insert_default().insert(ANNOTATION_POD_CONFIG.to_owned(), config.name_any());
    let Some(spec) = &mut template.spec else { return };
    merge(&mut spec.node_selector, node_selector);
    if let Some(theirs) = affinity {
        spec.affinity = Some(joined(spec.affinity.take().unwrap_or_default(), theirs.clone()));
    }
    if !tolerations.is_empty() {
        let all = spec.tolerations.get_or_insert_default();
        let more: Vec<_> =
            tolerations.iter().filter(|toleration| !all.contains(toleration)).cloned().collect();
        all.extend(more);
    }
    spec.priority_class_name.clone_from(priority_class_name);
    spec.runtime_class_name.clone_from(runtime_class_name);
    if !image_pull_secrets.is_empty() {
        let more =
            image_pull_secrets.iter().map(|reference| LocalObjectReference { name: reference.name.clone() });
        spec.image_pull_secrets.get_or_insert_default().extend(more);
    }
    if let Some(theirs) = resources {
        set_resources(spec, theirs);
    }
}

/// Ours stay.
fn merge(ours: &mut Option<BTreeMap<String, String>>, theirs: &BTreeMap<String, String>) {
    if theirs.is_empty() {
        return;
    }
    let all = ours.get_or_insert_default();
    for (key, value) in theirs {
        all.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

fn joined(ours: Affinity, theirs: Affinity) -> Affinity {
    Affinity {
        node_affinity: match (ours.node_affinity, theirs.node_affinity) {
            (Some(ours), Some(theirs)) => Some(both(ours, theirs)),
            (ours, theirs) => ours.or(theirs),
        },
        // Runners have no rules of their own about other pods.
        pod_affinity: ours.pod_affinity.or(theirs.pod_affinity),
        pod_anti_affinity: ours.pod_anti_affinity.or(theirs.pod_anti_affinity),
    }
}

fn both(ours: NodeAffinity, theirs: NodeAffinity) -> NodeAffinity {
    let preferred: Vec<_> = [
        ours.preferred_during_scheduling_ignored_during_execution,
        theirs.preferred_during_scheduling_ignored_during_execution,
    ]
    .into_iter()
    .flatten()
    .flatten()
    .collect();
    let required = match (
        ours.required_during_scheduling_ignored_during_execution,
        theirs.required_during_scheduling_ignored_during_execution,
    ) {
        (Some(ours), Some(theirs)) => Some(product(&ours, &theirs)),
        (ours, theirs) => ours.or(theirs),
    };
    NodeAffinity {
        preferred_during_scheduling_ignored_during_execution: (!preferred.is_empty()).then_some(preferred),
        required_during_scheduling_ignored_during_execution: required,
    }
}

/// A node has to match one term of each: terms are alternatives, so each of ours goes with each of theirs.
fn product(ours: &NodeSelector, theirs: &NodeSelector) -> NodeSelector {
    let pairs = ours
        .node_selector_terms
        .iter()
        .flat_map(|our| theirs.node_selector_terms.iter().map(move |their| (our, their)));
    let terms = pairs.map(|(our, their)| NodeSelectorTerm {
        match_expressions: chained(our.match_expressions.as_ref(), their.match_expressions.as_ref()),
        match_fields: chained(our.match_fields.as_ref(), their.match_fields.as_ref()),
    });
    NodeSelector { node_selector_terms: terms.collect() }
}

fn chained<T: Clone>(ours: Option<&Vec<T>>, theirs: Option<&Vec<T>>) -> Option<Vec<T>> {
    let all: Vec<T> = ours.into_iter().chain(theirs).flatten().cloned().collect();
    (!all.is_empty()).then_some(all)
}

fn set_resources(spec: &mut PodSpec, theirs: &PodResources) {
    let Some(container) = spec.containers.iter_mut().find(|container| container.name == CONTAINER) else {
        return;
    };
    let ours = container.resources.get_or_insert_default();
    let mut requests = ours.requests.take().unwrap_or_default();
    let mut limits = ours.limits.take().unwrap_or_default();
    requests.extend(theirs.requests.clone());
    limits.extend(theirs.limits.clone());
    // The API server takes no pod that asks for more than its limit. Of the two, what the user said counts.
    for (key, limit) in &mut limits {
        let Some(request) = requests.get_mut(key).filter(|request| is_more(request, limit)) else { continue };
        if theirs.requests.contains_key(key) && !theirs.limits.contains_key(key) {
            limit.clone_from(request);
        } else if !theirs.requests.contains_key(key) {
            request.clone_from(limit);
        }
    }
    *ours = ResourceRequirements {
        requests: (!requests.is_empty()).then_some(requests),
        limits: (!limits.is_empty()).then_some(limits),
        claims: None,
    };
}

fn is_more(one: &Quantity, other: &Quantity) -> bool {
    matches!((quantity_value(one), quantity_value(other)), (Some(one), Some(other)) if one > other)
}

#[cfg(test)]
#[path = "pod_config_tests.rs"]
mod tests;
