//! Runners that were stopped on a node that does not answer: their pods stay for ever, because nobody there confirms
//! that they have ended. A Backup only reads its claim, so it goes on without them. A Restore writes, and waits.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Client, ResourceExt};

use jiff::Timestamp;

use super::stop::abandoned;
use crate::backup::dereference::list_cluster;
use crate::jobs::{JobView, RunKind, RunRef};
use crate::kubernetes::RequestError;
use crate::volumes::NodeStates;
use crate::volumes::consumers::{is_over, node_of};

/// What tells Kubernetes that a node is off and stays so.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";

/// Takes the lost pods of a Backup out of its stopped Jobs and out of the pods whose Job is gone. Asks for the nodes
/// only when a pod should have ended by now and has not.
pub async fn leave_behind(
    client: &Client,
    run: &RunRef,
    views: &mut [JobView],
    orphans: &mut Vec<Pod>,
    now: Timestamp,
) -> Result<(), RequestError> {
    let stopped = || views.iter().filter(|view| is_stopped(view)).flat_map(|view| &view.pods);
    if run.kind != RunKind::Backup || !stopped().chain(orphans.iter()).any(|pod| is_late(pod, now)) {
        return Ok(());
    }
    let nodes = NodeStates::new(&list_cluster::<Node>(client).await?);
    forget_lost(views, orphans, &nodes, now);
    Ok(())
}

fn forget_lost(views: &mut [JobView], orphans: &mut Vec<Pod>, nodes: &NodeStates, now: Timestamp) {
    for view in views.iter_mut().filter(|view| is_stopped(view)) {
        view.pods.retain(|pod| !is_lost(pod, nodes, now));
    }
    orphans.retain(|pod| !is_lost(pod, nodes, now));
}

/// What a stopped Job still waits for: its pod, the node of it, and what to do about a node that is gone.
pub fn wait_for(view: &JobView) -> Option<String> {
    view.pods.iter().find(|pod| !is_over(pod)).map(wait_for_pod)
}

/// The same of the first of these pods that should have ended by now and has not.
pub fn wait_for_late<'p>(mut pods: impl Iterator<Item = &'p Pod>, now: Timestamp) -> Option<String> {
    pods.find(|pod| is_late(pod, now)).map(wait_for_pod)
}

/// The taint is Kubernetes' way to hear that a node is off: it then takes the node's pods away, and its volumes at once. Without
/// it a volume is let go some minutes after the Node object.
fn wait_for_pod(pod: &Pod) -> String {
    let node = node_of(pod).unwrap_or("(none)");
    format!(
        "waits until the pod {} on the node {node} has stopped; if that node is gone for good, tell Kubernetes so (kubectl \
         taint node {node} {OUT_OF_SERVICE}) or delete its Node object",
        pod.name_any()
    )
}

fn is_stopped(view: &JobView) -> bool {
    abandoned(view).is_some() || view.is_being_deleted()
}

/// It was told to end, and its grace period is over.
fn is_late(pod: &Pod, now: Timestamp) -> bool {
    !is_over(pod) && pod.metadata.deletion_timestamp.as_ref().is_some_and(|by| by.0 < now)
}

fn is_lost(pod: &Pod, nodes: &NodeStates, now: Timestamp) -> bool {
    is_late(pod, now) && node_of(pod).is_some_and(|node| !nodes.is_ready(node))
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::io::Error;

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_pod_that_should_have_ended_on_a_node_that_is_not_ready_is_lost() {
        let nodes: Vec<Node> = serde_saphyr::from_str(
            r"
- {metadata: {name: good}, status: {conditions: [{type: Ready, status: 'True'}]}}
- {metadata: {name: dead}, status: {conditions: [{type: Ready, status: Unknown}]}}
",
        )
        .unwrap();
        let nodes = NodeStates::new(&nodes);
        let lost = |node: &str, phase: &str, now: &str| {
            let pod: Pod = serde_saphyr::from_str(&format!(
                "{{metadata: {{name: p, deletionTimestamp: '2026-11-20T02:00:30Z'}}, spec: {{nodeName: {node}, \
                 containers: []}}, status: {{phase: {phase}}}}}"
            ))
            .unwrap();
            is_lost(&pod, &nodes, now.parse().unwrap())
        };
        assert!(lost("dead", "Running", "2026-11-20T02:01:00Z"));
        assert!(lost("gone", "Running", "2026-11-20T02:01:00Z"));
        assert!(!lost("good", "Running", "2026-11-20T02:01:00Z"), "its kubelet will end it");
        assert!(!lost("dead", "Running", "2026-11-20T02:00:10Z"), "it has its grace period");
        assert!(!lost("dead", "Failed", "2026-11-20T02:01:00Z"), "it has ended");
    }

    #[test]
    fn a_pod_that_nobody_told_to_end_is_not_lost() {
        let pod: Pod = serde_saphyr::from_str(
            "{metadata: {name: p}, spec: {nodeName: dead, containers: []}, status: {phase: Running}}",
        )
        .unwrap();
        assert!(!is_lost(&pod, &NodeStates::default(), Timestamp::MAX));
    }

    /// The Job of a runner on a dead node; `told` is what its pod was told, if anything.
    fn on_dead_node(annotations: &str, told: &str) -> JobView {
        let job = serde_saphyr::from_str(&format!(
            "metadata: {{name: j, uid: u, annotations: {{{annotations}}}}}\nspec: {{backoffLimit: 0, template: {{}}}}"
        ))
        .unwrap();
        let pod: Pod = serde_saphyr::from_str(&format!(
            r"
metadata: {{name: j-x, {told}}}
spec: {{nodeName: dead, containers: []}}
status:
  phase: Running
  conditions: [{{type: Ready, status: 'False'}}]
  containerStatuses: [{{name: runner, ready: true, restartCount: 0, image: i, imageID: i, state: {{running: {{}}}}}}]
"
        ))
        .unwrap();
        let pods = vec![pod];
        JobView { state: crate::jobs::outcome::state(&job, &pods), job, pods }
    }

    /// A node dies for good: its runner gives no sign of life, is stopped, and its pod is `Terminating` for ever. The
    /// Backup goes on without it, and says before that what it waits for.
    #[test]
    fn a_backup_goes_on_without_a_pod_that_terminates_for_ever_on_a_dead_node() {
        let nodes: Vec<Node> = serde_saphyr::from_str(
            "[{metadata: {name: dead}, status: {conditions: [{type: Ready, status: Unknown}]}}]",
        )
        .unwrap();
        let nodes = NodeStates::new(&nodes);
        let now: Timestamp = "2026-11-20T02:30:00Z".parse().unwrap();
        let stopped = r#"holdfast.dev/stopped: '{"reason":"NoSignOfLife","message":"silent"}'"#;
        let told = "deletionTimestamp: '2026-11-20T02:20:00Z'";
        let left = |annotations: &str, told: &str, nodes: &NodeStates| {
            let mut views = [on_dead_node(annotations, told)];
            let mut orphans = views[0].pods.clone();
            forget_lost(&mut views, &mut orphans, nodes, now);
            (views[0].has_live_pod(), orphans.len(), wait_for(&views[0]))
        };
        assert_eq!(left(stopped, told, &nodes), (false, 0, None));
        let (alive, _, waits) = left(stopped, "", &nodes);
        assert!(alive, "it was not told to end yet");
        let waits = waits.unwrap();
        assert!(
            waits.contains("pod j-x on the node dead") && waits.contains("delete its Node object"),
            "{waits}"
        );
        assert!(left("", told, &nodes).0, "its Job was not given up: the node may come back");
        // Once the Node object is gone nobody can be at work there.
        assert_eq!(left(stopped, told, &NodeStates::default()), (false, 0, None));
    }

    /// The same node, as the API server tells of it: a Backup goes on, and a Restore waits, for its runner may still write
    /// where nobody sees it; and says what to do.
    #[tokio::test]
    async fn a_restore_waits_for_a_pod_that_terminates_for_ever_on_a_dead_node() {
        let server = tower::service_fn(|_: Request<Body>| {
            let dead = json!({"metadata": {"name": "dead"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
            let nodes = json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": [dead]});
            ready(Response::builder().body(Body::from(nodes.to_string().into_bytes())).map_err(Error::other))
        });
        let client = Client::new(server, "shop");
        let now: Timestamp = "2026-11-20T02:30:00Z".parse().unwrap();
        for (kind, alive) in [(RunKind::Backup, false), (RunKind::Restore, true)] {
            let run = RunRef { kind, namespace: "shop".into(), name: "r".into(), uid: "u".into() };
            let mut views = [on_dead_node(
                r#"holdfast.dev/stopped: '{"reason":"NoSignOfLife","message":"silent"}'"#,
                "deletionTimestamp: '2026-11-20T02:20:00Z'",
            )];
            let mut orphans = views[0].pods.clone();
            leave_behind(&client, &run, &mut views, &mut orphans, now).await.unwrap();
            assert_eq!((views[0].has_live_pod(), orphans.len() == 1), (alive, alive), "{kind:?}");
            let waits = wait_for(&views[0]).unwrap_or_default();
            assert_eq!(
                waits.contains("kubectl taint node dead node.kubernetes.io/out-of-service="),
                alive,
                "{waits}"
            );
        }
    }
}
