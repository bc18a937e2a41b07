//! Which pods use a claim. What started them is the business of [`crate::quiesce`].

use holdfast_api::names::{LABEL_MANAGED_BY, LABEL_RUN_UID, MANAGED_BY};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt;

/// Whether a pod of this template mounts the claim. `pod_name` is needed for generic ephemeral volumes, whose
/// claims are named `<pod>-<volume>`; a template has none yet.
pub fn uses_claim(spec: &PodSpec, pod_name: Option<&str>, claim: &str) -> bool {
    spec.volumes
        .iter()
        .flatten()
        .any(|volume| volume_claim(volume, pod_name).is_some_and(|name| name == claim))
}

/// Names of the volumes of a pod that are this claim.
pub(super) fn volumes_of_claim<'a>(pod: &'a Pod, claim: &str) -> Vec<&'a str> {
    let name = pod.metadata.name.as_deref();
    pod.spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .filter(|volume| volume_claim(volume, name).is_some_and(|found| found == claim))
        .map(|volume| volume.name.as_str())
        .collect()
}

fn volume_claim(volume: &k8s_openapi::api::core::v1::Volume, pod_name: Option<&str>) -> Option<String> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(source.claim_name.clone());
    }
    match (&volume.ephemeral, pod_name) {
        (Some(_), Some(pod)) => Some(format!("{pod}-{}", volume.name)),
        _ => None,
    }
}

/// Whether a pod has ended for good: it holds no volume any more.
pub fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Whether a pod is one of our runners.
pub fn is_runner(pod: &Pod) -> bool {
    pod.labels().get(LABEL_MANAGED_BY).is_some_and(|value| value == MANAGED_BY)
        && pod.labels().contains_key(LABEL_RUN_UID)
}

/// The pods that use a claim and are no runners of ours: running ones first, then by name, so that every pass
/// chooses the same.
pub fn active_pods<'a>(pods: &'a [Pod], claim: &str) -> Vec<&'a Pod> {
    let mut found: Vec<&Pod> = pods
        .iter()
        .filter(|pod| !is_over(pod) && !is_runner(pod))
        .filter(|pod| {
            pod.spec.as_ref().is_some_and(|spec| uses_claim(spec, pod.metadata.name.as_deref(), claim))
        })
        .collect();
    found.sort_by_key(|pod| (!is_running(pod), pod.name_any()));
    found
}

/// Whether a pod runs and is not on its way out.
pub fn is_running(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// The node a pod was placed on.
pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty())
}
