//! On which node a volume can be mounted. Does not build the pod.

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::ResourceExt;
use std::collections::BTreeMap;

use super::claim::{Binding, ClaimView};
use super::consumers::{is_running, node_of};
use crate::jobs::Placement;

/// Which nodes are there, and whether they are ready.
#[derive(Debug, Clone, Default)]
pub struct NodeStates(BTreeMap<String, bool>);

impl NodeStates {
    /// The states of these nodes.
    pub fn new<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        Self(nodes.into_iter().map(|node| (node.name_any(), is_ready(node))).collect())
    }

    /// Whether the node is there and ready.
    pub fn is_ready(&self, node: &str) -> bool {
        self.0.get(node).copied().unwrap_or(false)
    }
}

fn is_ready(node: &Node) -> bool {
    node.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The volume is held by a node that cannot run anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the volume is in use on the node {node}, which is not ready")]
pub struct HeldByDeadNode {
    /// Name of the node.
    pub node: String,
}

/// Where the runner of a claim has to run.
///
/// A volume that only one node at a time can mount goes to the node of a pod that uses it, with that pod's
/// tolerations (the node may be tainted for it alone), cordoned or not. Without a pod, the node that the volume is
/// still attached to. Shared volumes can be mounted anywhere.
pub fn place(
    claim: &ClaimView<'_>,
    consumers: &[&Pod],
    attachments: &[VolumeAttachment],
    nodes: &NodeStates,
) -> Result<Placement, HeldByDeadNode> {
    if claim.is_shared() {
        return Ok(Placement::Anywhere);
    }
    let placed: Vec<(&Pod, &str)> =
        consumers.iter().filter_map(|pod| node_of(pod).map(|node| (*pod, node))).collect();
    let usable = placed
        .iter()
        .filter(|(_, node)| nodes.is_ready(node))
        .max_by_key(|(pod, _)| is_running(pod))
        .map(|(pod, node)| {
            let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
            Placement::Node { name: (*node).to_owned(), tolerations }
        });
    if let Some(placement) = usable {
        return Ok(placement);
    }
    if let Some((_, node)) = placed.first() {
        return Err(HeldByDeadNode { node: (*node).to_owned() });
    }
    let attached = attachments
        .iter()
        .filter(|attachment| attachment.metadata.deletion_timestamp.is_none())
        .find(|attachment| {
            claim.volume_name().is_some()
                && attachment.spec.source.persistent_volume_name.as_deref() == claim.volume_name()
        })
        .map(|attachment| attachment.spec.node_name.as_str());
    match attached {
        Some(node) if nodes.is_ready(node) => {
            Ok(Placement::Node { name: node.to_owned(), tolerations: Vec::new() })
        }
        Some(node) => Err(HeldByDeadNode { node: node.to_owned() }),
        None => Ok(Placement::Anywhere),
    }
}

/// Where the runner that writes to a claim has to run: as [`place`] says; and for a claim that gets its volume only
/// with its first pod, where the pod that will use it (`model`) can run, or it could never mount the volume.
pub fn place_writer(
    claim: &ClaimView<'_>,
    consumers: &[&Pod],
    model: Option<&Pod>,
    attachments: &[VolumeAttachment],
    nodes: &NodeStates,
) -> Result<Placement, HeldByDeadNode> {
    let placement = place(claim, consumers, attachments, nodes)?;
    let spec = model.and_then(|pod| pod.spec.as_ref());
    match (&placement, spec) {
        (Placement::Anywhere, Some(spec)) if claim.binding() != Binding::Bound => Ok(Placement::Like {
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            node_affinity: spec
                .affinity
                .as_ref()
                .and_then(|affinity| affinity.node_affinity.clone())
                .map(Box::new),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
        }),
        _ => Ok(placement),
    }
}

/// The node that a runner is bound to.
pub fn node_name(placement: &Placement) -> Option<&str> {
    match placement {
        Placement::Anywhere | Placement::Like { .. } => None,
        Placement::Node { name, .. } => Some(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;

    fn nodes() -> NodeStates {
        let nodes: Vec<Node> = serde_saphyr::from_str(
            r"
- {metadata: {name: n1}, status: {conditions: [{type: Ready, status: 'True'}]}}
- {metadata: {name: n2}, status: {conditions: [{type: Ready, status: 'True'}]}}
- {metadata: {name: dead}, status: {conditions: [{type: Ready, status: Unknown}]}}
",
        )
        .unwrap();
        NodeStates::new(&nodes)
    }

    fn claim(mode: &str) -> PersistentVolumeClaim {
        serde_saphyr::from_str(&format!(
            "{{metadata: {{name: data}}, spec: {{accessModes: [{mode}], volumeName: pv1}}, status: {{phase: Bound}}}}"
        ))
        .unwrap()
    }

    fn pod(node: &str) -> Pod {
        serde_saphyr::from_str(&format!(
            r"
metadata: {{name: p}}
spec: {{nodeName: {node}, containers: [], tolerations: [{{key: gpu, operator: Exists}}]}}
status: {{phase: Running}}
"
        ))
        .unwrap()
    }

    fn attached(node: &str) -> VolumeAttachment {
        serde_saphyr::from_str(&format!(
            "{{metadata: {{name: a}}, spec: {{attacher: x, nodeName: {node}, source: {{persistentVolumeName: pv1}}}}}}"
        ))
        .unwrap()
    }

    #[test]
    fn a_volume_in_use_is_read_beside_its_pod_with_its_tolerations() {
        let claim = claim("ReadWriteOnce");
        let pod = pod("n2");
        let placement = place(&ClaimView::new(&claim, &[]), &[&pod], &[], &nodes()).unwrap();
        let Placement::Node { name, tolerations } = placement else { panic!("not bound to a node") };
        assert_eq!(name, "n2");
        assert_eq!(tolerations.iter().filter_map(|t| t.key.as_deref()).collect::<Vec<_>>(), ["gpu"]);
    }

    #[test]
    fn a_shared_volume_is_read_anywhere() {
        let claim = claim("ReadWriteMany");
        let pod = pod("n2");
        let placement = place(&ClaimView::new(&claim, &[]), &[&pod], &[], &nodes()).unwrap();
        assert_eq!(placement, Placement::Anywhere);
    }

    #[test]
    fn a_volume_still_attached_is_read_where_it_is() {
        let claim = claim("ReadWriteOnce");
        let placement = place(&ClaimView::new(&claim, &[]), &[], &[attached("n1")], &nodes()).unwrap();
        assert_eq!(node_name(&placement), Some("n1"));
    }

    #[test]
    fn a_volume_that_is_yet_to_come_is_made_where_its_workload_can_run() {
        let waiting: PersistentVolumeClaim = serde_saphyr::from_str(
            "{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce]}, status: {phase: Pending}}",
        )
        .unwrap();
        let model: Pod = serde_saphyr::from_str(
            "{spec: {containers: [], nodeSelector: {disk: fast}, tolerations: [{key: gpu, operator: Exists}]}}",
        )
        .unwrap();
        let placed = |claim: &PersistentVolumeClaim| {
            place_writer(&ClaimView::new(claim, &[]), &[], Some(&model), &[], &nodes()).unwrap()
        };
        let Placement::Like { node_selector, tolerations, .. } = placed(&waiting) else {
            panic!("placed anywhere")
        };
        assert_eq!(node_selector.get("disk").map(String::as_str), Some("fast"));
        assert_eq!(tolerations.len(), 1);
        assert_eq!(placed(&claim("ReadWriteOnce")), Placement::Anywhere, "a volume knows its node itself");
    }

    #[test]
    fn a_volume_held_by_a_dead_node_is_an_error_that_names_it() {
        let claim = claim("ReadWriteOnce");
        let pod = pod("dead");
        let error = place(&ClaimView::new(&claim, &[]), &[&pod], &[], &nodes()).unwrap_err();
        assert_eq!(error.node, "dead");
        assert!(place(&ClaimView::new(&claim, &[]), &[], &[attached("dead")], &nodes()).is_err());
    }
}
