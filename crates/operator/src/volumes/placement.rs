//! On which node a volume can be mounted. Does not build the pod.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
    PersistentVolumeClaim, PersistentVolumeSpec, Pod, Taint, Toleration,
};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::ResourceExt;

use super::claim::{Binding, ClaimView};
use super::consumers::{is_running, node_of, uses_claim};
use crate::jobs::Placement;

/// Taints that Kubernetes sets itself. They tell of a state, not of who may use the node.
const OF_KUBERNETES: &str = "node.kubernetes.io/";

/// Taints of what removes nodes and does not always mark them as unschedulable: Karpenter (of two generations) and the cluster
/// autoscaler. Such a node is being emptied, and nothing of ours is to stay on it.
const OF_REMOVERS: [&str; 3] =
    ["karpenter.sh/disrupted", "karpenter.sh/disruption", "ToBeDeletedByClusterAutoscaler"];

/// How long a runner waits for a pod that is moved: as long as a new node takes to come. One that finds no node for longer
/// is down anyway.
const MOVING_PATIENCE: Duration = Duration::from_mins(5);

/// Which nodes are there, and in which state.
#[derive(Debug, Clone, Default)]
pub struct NodeStates(BTreeMap<String, NodeState>);

#[derive(Debug, Clone, Default)]
struct NodeState {
    ready: bool,
    cordoned: bool,
    labels: BTreeMap<String, String>,
    /// Those that keep pods away.
    taints: Vec<Taint>,
}

impl NodeState {
    fn of(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let (removed, taints): (Vec<&Taint>, Vec<&Taint>) = spec
            .iter()
            .flat_map(|spec| spec.taints.iter().flatten())
            .filter(|taint| taint.effect != "PreferNoSchedule" && !taint.key.starts_with(OF_KUBERNETES))
            .partition(|taint| OF_REMOVERS.contains(&taint.key.as_str()));
        let unschedulable = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
        Self {
            ready: is_ready(node),
            cordoned: unschedulable || !removed.is_empty(),
            labels: node.labels().clone(),
            taints: taints.into_iter().cloned().collect(),
        }
    }

    /// Whether a pod without any toleration can be placed on it.
    fn is_open(&self) -> bool {
        self.ready && !self.cordoned && self.taints.is_empty()
    }

    /// What a pod needs that has to run there whoever the node is kept for.
    fn tolerations(&self) -> Vec<Toleration> {
        let toleration = |taint: &Taint| Toleration {
            key: Some(taint.key.clone()),
            operator: Some(if taint.value.is_some() { "Equal" } else { "Exists" }.to_owned()),
            value: taint.value.clone(),
            effect: Some(taint.effect.clone()),
            ..Toleration::default()
        };
        self.taints.iter().map(toleration).collect()
    }
}

impl NodeStates {
    /// The states of these nodes.
    pub fn new<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        Self(nodes.into_iter().map(|node| (node.name_any(), NodeState::of(node))).collect())
    }

    /// How many are ready.
    pub fn ready(&self) -> u32 {
        u32::try_from(self.0.values().filter(|state| state.ready).count()).unwrap_or(u32::MAX)
    }

    /// Whether there is such a node.
    pub fn is_known(&self, node: &str) -> bool {
        self.0.contains_key(node)
    }

    /// Whether the node is there and ready.
    pub fn is_ready(&self, node: &str) -> bool {
        self.0.get(node).is_some_and(|state| state.ready)
    }

    fn is_cordoned(&self, node: &str) -> bool {
        self.0.get(node).is_some_and(|state| state.cordoned)
    }

    /// A pod that has to run on this node, whoever it is kept for, and waits while it is not ready.
    fn at(&self, node: &str) -> Placement {
        Placement::Node { name: node.to_owned(), tolerations: self.tolerations(node) }
    }

    fn tolerations(&self, node: &str) -> Vec<Toleration> {
        self.0.get(node).map(NodeState::tolerations).unwrap_or_default()
    }
}

fn is_ready(node: &Node) -> bool {
    node.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What there is around claims that says where they can be mounted.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Which volumes are attached where.
    pub attachments: &'a [VolumeAttachment],
    /// The volumes.
    pub volumes: &'a [PersistentVolume],
    /// The claims of the namespace.
    pub claims: &'a [PersistentVolumeClaim],
    /// The nodes.
    pub nodes: &'a NodeStates,
}

impl<'a> Surroundings<'a> {
    fn volume(&self, name: Option<&str>) -> Option<&'a PersistentVolumeSpec> {
        let volume = self.volumes.iter().find(|object| Some(object.name_any().as_str()) == name)?;
        volume.spec.as_ref()
    }

    /// The nodes that a claim's volume can be mounted on, where not all can.
    fn affinity(&self, volume: Option<&str>) -> Option<&'a NodeSelector> {
        self.volume(volume)?.node_affinity.as_ref()?.required.as_ref()
    }

    /// Whether the node is being emptied and another one can have the claim's volume, with the pods that use it: whoever
    /// keeps the volume there keeps it from them.
    fn is_leaving(&self, claim: &ClaimView<'_>, node: &str) -> bool {
        self.nodes.is_cordoned(node) && self.can_move(claim, Some(node))
    }

    /// Whether a node other than this one can have the claim's volume, and only one at a time; without one, whether
    /// several can.
    pub fn can_move(&self, claim: &ClaimView<'_>, from: Option<&str>) -> bool {
        let volume = self.volume(claim.volume_name());
        let can_leave = volume.is_some_and(|spec| spec.host_path.is_none() && spec.local.is_none());
        let affinity = self.affinity(claim.volume_name());
        let takes = |(name, state): &(&String, &NodeState)| {
            let fits = affinity.is_none_or(|selector| selects(selector, name, &state.labels));
            from != Some(name.as_str()) && state.is_open() && fits
        };
        let least = if from.is_some() { 1 } else { 2 };
        can_leave && !claim.is_shared() && self.nodes.0.iter().filter(takes).count() >= least
    }

    /// A pod that is on its way from one node to another, and with it the claim's volume: where to is not known yet. A
    /// runner that goes ahead may hold the volume where the pod does not come to.
    pub fn moving(&self, claim: &ClaimView<'_>, consumers: &[&Pod]) -> Option<Moving> {
        let is_there = |pod: &Pod| pod.metadata.deletion_timestamp.is_none() && node_of(pod).is_some();
        if consumers.iter().any(|pod| is_there(pod)) {
            return None;
        }
        let moving = consumers.iter().filter_map(|pod| {
            let metadata = &pod.metadata;
            let (node, since) = match node_of(pod) {
                Some(node) if self.is_leaving(claim, node) => {
                    (Some(node), metadata.deletion_timestamp.as_ref()?)
                }
                None if self.can_move(claim, None) => (None, metadata.creation_timestamp.as_ref()?),
                Some(_) | None => return None,
            };
            Some(Moving { pod: pod.name_any(), node: node.map(str::to_owned), since: since.0 })
        });
        // One that finds no node for long is in nobody's way.
        moving.max_by_key(|moving| moving.since)
    }

    /// What to think about where a claim's data may be on one node and nobody can say on which: no pod uses it, or pods on
    /// several nodes do.
    pub fn doubt(&self, claim: &ClaimView<'_>, consumers: &[&Pod]) -> Option<String> {
        let used_on: BTreeSet<&str> = consumers
            .iter()
            .filter_map(|pod| node_of(pod))
            .filter(|node| self.nodes.is_ready(node))
            .collect();
        // A node that is not ready at the moment may be the one.
        let several = self.nodes.0.len() > 1 && used_on.len() != 1;
        (several && self.is_of_any_node(claim)).then(|| {
            format!(
                "{}: the volume {} is a directory of a node (hostPath), nothing says of which, and {}: one node's is taken; give the \
                 volume a nodeAffinity, of all nodes if they share the directory",
                claim.name(),
                claim.volume_name().unwrap_or_default(),
                if used_on.is_empty() { "no pod on a node that is ready uses it" } else { "pods on several nodes use it" }
            )
        })
    }

    /// Whether a claim's volume is a directory of whatever node it is mounted on, and nothing says on which its data is:
    /// another node may have another directory there, or none.
    pub fn is_of_any_node(&self, claim: &ClaimView<'_>) -> bool {
        let volume = claim.volume_name();
        self.volume(volume).is_some_and(|spec| spec.host_path.is_some()) && self.affinity(volume).is_none()
    }
}

/// A pod on its way to another node, as [`Surroundings::moving`] finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moving {
    /// Name of the pod.
    pub pod: String,
    /// The node that it leaves; none when it has left it, and was not placed yet.
    pub node: Option<String>,
    /// When it is to be gone from there, or began to look for another.
    pub since: Timestamp,
}

impl Moving {
    /// Whether a runner still waits for it at this time.
    pub fn is_awaited(&self, now: Timestamp) -> bool {
        self.since.saturating_add(MOVING_PATIENCE).is_ok_and(|end| now < end)
    }
}

impl fmt::Display for Moving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pod, node, since: _ } = self;
        match node {
            Some(node) => {
                write!(f, "the pod {pod} leaves the cordoned node {node} and takes the volume with it")?;
            }
            None => write!(f, "the pod {pod} was not placed on a node yet, and takes the volume with it")?,
        }
        f.write_str("; the runner goes where it comes to")
    }
}

/// The volume can be mounted on no node that runs anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// A node holds it that is not ready.
    #[error("the volume is in use on the node {node}, which is not ready")]
    HeldByDeadNode {
        /// Name of the node.
        node: String,
    },
    /// Every node that its node affinity names is gone or not ready.
    #[error(
        "no node that the volume {volume} can be mounted on is there and ready; its node affinity wants {wanted}"
    )]
    NoNode {
        /// Name of the volume.
        volume: String,
        /// The nodes of its node affinity, much as `kubectl get nodes -l` takes them.
        wanted: String,
    },
}

/// Where the runner of a claim has to run.
///
/// A volume that only one node at a time can mount goes to the node of a pod that runs with it, with that pod's
/// tolerations (the node may be tainted for it alone), cordoned or not. Without one, to the node that the volume is
/// attached to: a pod that was placed on another node waits for it in vain (`Multi-Attach error`), and so would the
/// runner; unless that node is dead, when both wait until the volume is taken from it, or cordoned without a pod that stays:
/// then the volume is on its way to another node, and the runner goes with it or lets it go. Without that, to the node of a
/// pod that is about to start; and without a pod, to where its node affinity lets it, also when all of these nodes are
/// cordoned or kept for others. Shared volumes can be mounted anywhere, but for directories of a node: those are beside the
/// pod that uses them, whatever they are called.
pub fn place(
    claim: &ClaimView<'_>,
    consumers: &[&Pod],
    around: Surroundings<'_>,
) -> Result<Placement, NoPlace> {
    if claim.is_shared() {
        // Where all nodes share the directory, a dead one holds nothing.
        let beside =
            around.is_of_any_node(claim).then(|| place_alone(claim, consumers, around).ok()).flatten();
        return Ok(beside.unwrap_or(Placement::Anywhere));
    }
    place_alone(claim, consumers, around)
}

fn place_alone(
    claim: &ClaimView<'_>,
    consumers: &[&Pod],
    around: Surroundings<'_>,
) -> Result<Placement, NoPlace> {
    let nodes = around.nodes;
    let placed: Vec<(&Pod, &str)> =
        consumers.iter().filter_map(|pod| node_of(pod).map(|node| (*pod, node))).collect();
    let beside = |pod: &Pod, node: &str| {
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
        Placement::Node { name: node.to_owned(), tolerations }
    };
    let usable = |(_, node): &&(&Pod, &str)| nodes.is_ready(node);
    if let Some((pod, node)) = placed.iter().filter(usable).find(|(pod, _)| is_running(pod)) {
        return Ok(beside(pod, node));
    }
    let attached = |attachment: &&VolumeAttachment| {
        attachment.metadata.deletion_timestamp.is_none()
            && claim.volume_name().is_some()
            && attachment.spec.source.persistent_volume_name.as_deref() == claim.volume_name()
    };
    // One that is still being attached counts for less than one that is.
    let is_attached = |attachment: &&VolumeAttachment| attachment.status.as_ref().is_some_and(|s| s.attached);
    let attached = around.attachments.iter().filter(attached).max_by_key(is_attached);
    if let Some(node) = attached.map(|attachment| attachment.spec.node_name.as_str()) {
        if !nodes.is_ready(node) {
            // The pod that takes over waits until the volume is taken from the dead node, and so does the runner.
            return match placed.iter().find(usable) {
                Some((pod, node)) => Ok(beside(pod, node)),
                None => Err(NoPlace::HeldByDeadNode { node: node.to_owned() }),
            };
        }
        let is_leaving = around.is_leaving(claim, node);
        let stays = |pod: &Pod| !is_leaving || pod.metadata.deletion_timestamp.is_none();
        let there = placed.iter().find(|(pod, of_pod)| *of_pod == node && stays(pod));
        return Ok(match there {
            Some((pod, _)) => beside(pod, node),
            None if is_leaving => match placed.iter().filter(usable).find(|(_, of_pod)| *of_pod != node) {
                Some((pod, other)) => beside(pod, other),
                None => return place_unattached(claim, around),
            },
            None => Placement::Node { name: node.to_owned(), tolerations: nodes.tolerations(node) },
        });
    }
    match (placed.iter().find(usable), placed.first()) {
        (Some((pod, node)), _) => Ok(beside(pod, node)),
        (None, Some((_, node))) => Err(NoPlace::HeldByDeadNode { node: (*node).to_owned() }),
        (None, None) => place_unattached(claim, around),
    }
}

/// A volume that nobody uses: the scheduler finds a node by itself, unless every node that can mount it is closed to a
/// pod without tolerations.
fn place_unattached(claim: &ClaimView<'_>, around: Surroundings<'_>) -> Result<Placement, NoPlace> {
    let Some(selector) = around.affinity(claim.volume_name()) else { return Ok(Placement::Anywhere) };
    let fitting =
        || around.nodes.0.iter().filter(|(name, node)| node.ready && selects(selector, name, &node.labels));
    if fitting().any(|(_, node)| node.is_open()) {
        return Ok(Placement::Anywhere);
    }
    // Better one that is only cordoned than one that is kept for somebody.
    let chosen = fitting().min_by_key(|(_, node)| node.taints.len());
    let Some((name, node)) = chosen else {
        let volume = claim.volume_name().unwrap_or_default().to_owned();
        return Err(NoPlace::NoNode { volume, wanted: described(selector) });
    };
    Ok(Placement::Node { name: name.clone(), tolerations: node.tolerations() })
}

/// Where the runner that writes to a claim has to run: as [`place`] says; and for a claim that gets its volume only
/// with its first pod, where the pod that will use it (`model`) can run, or it could never mount the volume. That is also
/// where the other volumes of that pod are: a second zone would keep it from starting for ever.
pub fn place_writer(
    claim: &ClaimView<'_>,
    consumers: &[&Pod],
    model: Option<&Pod>,
    around: Surroundings<'_>,
) -> Result<Placement, NoPlace> {
    let placement = place(claim, consumers, around)?;
    let spec = model.and_then(|pod| pod.spec.as_ref());
    let (Placement::Anywhere, Some(spec)) = (&placement, spec) else { return Ok(placement) };
    if claim.binding() == Binding::Bound {
        return Ok(placement);
    }
    let own = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
    let mut affinity = own.unwrap_or_default();
    let pod_name = model.and_then(|pod| pod.metadata.name.as_deref());
    for other in around.claims.iter().filter(|other| other.name_any() != claim.name()) {
        if !uses_claim(spec, pod_name, &other.name_any()) {
            continue;
        }
        let volume = ClaimView::new(other, &[]).volume_name();
        if let Some(selector) = around.affinity(volume) {
            let both = affinity.required_during_scheduling_ignored_during_execution.take();
            affinity.required_during_scheduling_ignored_during_execution = Some(both_of(both, selector));
        }
    }
    let is_asked = affinity != NodeAffinity::default();
    Ok(Placement::Like {
        node_selector: spec.node_selector.clone().unwrap_or_default(),
        node_affinity: is_asked.then(|| Box::new(affinity)),
        tolerations: spec.tolerations.clone().unwrap_or_default(),
    })
}

/// A selector of the nodes that both select: each term of one with each of the other.
fn both_of(first: Option<NodeSelector>, second: &NodeSelector) -> NodeSelector {
    let Some(first) = first else { return second.clone() };
    let joined = |a: &Option<Vec<NodeSelectorRequirement>>, b: &Option<Vec<NodeSelectorRequirement>>| {
        let all: Vec<_> = a.iter().chain(b).flatten().cloned().collect();
        (!all.is_empty()).then_some(all)
    };
    let terms = first.node_selector_terms.iter().flat_map(|a| {
        second.node_selector_terms.iter().map(move |b| NodeSelectorTerm {
            match_expressions: joined(&a.match_expressions, &b.match_expressions),
            match_fields: joined(&a.match_fields, &b.match_fields),
        })
    });
    NodeSelector { node_selector_terms: terms.collect() }
}

/// Whether a selector selects a node: one of its terms does, and of a term all requirements. A term without any selects
/// nothing.
fn selects(selector: &NodeSelector, name: &str, labels: &BTreeMap<String, String>) -> bool {
    selector.node_selector_terms.iter().any(|term| {
        let by_label = term.match_expressions.iter().flatten();
        let by_field = term.match_fields.iter().flatten();
        let is_empty = by_label.clone().next().is_none() && by_field.clone().next().is_none();
        !is_empty
            && by_label.clone().all(|rule| holds(rule, labels.get(&rule.key).map(String::as_str)))
            && by_field.clone().all(|rule| holds(rule, (rule.key == "metadata.name").then_some(name)))
    })
}

/// A selector of nodes in words.
fn described(selector: &NodeSelector) -> String {
    let rule = |rule: &NodeSelectorRequirement| {
        let values = rule.values.as_deref().unwrap_or_default();
        let (key, all) = (&rule.key, values.join(", "));
        match (rule.operator.as_str(), values) {
            ("In", [one]) => format!("{key}={one}"),
            ("NotIn", [one]) => format!("{key}!={one}"),
            ("In", _) => format!("{key} in ({all})"),
            ("NotIn", _) => format!("{key} notin ({all})"),
            ("Exists", _) => key.clone(),
            ("DoesNotExist", _) => format!("!{key}"),
            ("Gt", _) => format!("{key}>{all}"),
            ("Lt", _) => format!("{key}<{all}"),
            (operator, _) => format!("{key} {operator} ({all})"),
        }
    };
    let terms = selector.node_selector_terms.iter().map(|term| {
        let rules = term.match_expressions.iter().chain(&term.match_fields).flatten();
        rules.map(rule).collect::<Vec<_>>().join(",")
    });
    terms.collect::<Vec<_>>().join(" or ")
}

fn holds(rule: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let among = || value.is_some_and(|value| rule.values.iter().flatten().any(|wanted| wanted == value));
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let limit = || number(rule.values.iter().flatten().next().map(String::as_str));
    match rule.operator.as_str() {
        "In" => among(),
        "NotIn" => !among(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(value).zip(limit()).is_some_and(|(value, limit)| value > limit),
        "Lt" => number(value).zip(limit()).is_some_and(|(value, limit)| value < limit),
        _ => false,
    }
}

/// The placement of a runner that goes on with what another one, or its own plan, has begun on a node: where the volume is
/// a directory of whatever node it is mounted on, that one is the volume. While the node is not ready its pod waits, as any
/// pod that cannot be placed.
pub fn stay(
    placement: Placement,
    node: Option<&str>,
    claim: &ClaimView<'_>,
    around: Surroundings<'_>,
) -> Placement {
    match (&placement, node) {
        (Placement::Anywhere, Some(node)) if around.is_of_any_node(claim) => around.nodes.at(node),
        _ => placement,
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
#[path = "placement_tests.rs"]
mod tests;
