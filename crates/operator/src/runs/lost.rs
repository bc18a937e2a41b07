//! Runners that were stopped on a node that does not answer: their pods stay for ever, because nobody there confirms
//! that they have ended. A Backup only reads its claim, so it goes on without them. A Restore writes, and waits.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Client, ResourceExt};

use jiff::{SignedDuration, Timestamp};

use super::stop::abandoned;
use crate::backup::dereference::list_cluster;
use crate::jobs::{JobView, RunKind, RunRef};
use crate::kubernetes::RequestError;
use crate::volumes::NodeStates;
use crate::volumes::consumers::{is_over, node_of};

/// What tells Kubernetes that a node is off and stays so: it then takes the node's pods away, and its volumes at once. Without it
/// a volume is let go some minutes after the Node object.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";

/// How long after its grace period a pod may still be there: a busy kubelet is no dead one.
const SLACK: SignedDuration = SignedDuration::from_secs(30);

/// What is waited for before a run goes on or ends: a pod that was told to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Which, where, and what to do about a node that is dead.
    pub message: String,
    /// Its node is not ready, so it may never end by itself.
    pub is_on_dead_node: bool,
}

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

/// What is waited for of these pods, if one of them has not ended. Asks for the nodes only when it should have by now.
pub async fn waits_for(
    client: &Client,
    pods: impl IntoIterator<Item = &Pod>,
    now: Timestamp,
) -> Result<Option<Wait>, RequestError> {
    let open: Vec<&Pod> = pods.into_iter().filter(|pod| !is_over(pod)).collect();
    let limit = now.checked_sub(SLACK).unwrap_or(now);
    let late: Vec<&Pod> = open.iter().copied().filter(|pod| is_late(pod, limit)).collect();
    let Some(first) = late.first() else { return Ok(open.first().map(|pod| wait(pod, None))) };
    let nodes = NodeStates::new(&list_cluster::<Node>(client).await?);
    // The others may still end by themselves.
    let lost = late.iter().find(|pod| is_lost(pod, &nodes, limit));
    Ok(Some(wait(lost.unwrap_or(first), Some(&nodes))))
}

/// What to do about a node is said only where it is not ready: what it takes would end all that runs on one that is.
fn wait(pod: &Pod, nodes: Option<&NodeStates>) -> Wait {
    let name = pod.name_any();
    let Some(node) = node_of(pod) else {
        return Wait { message: format!("waits until the pod {name} is gone"), is_on_dead_node: false };
    };
    let waits = format!("waits until the pod {name} on the node {node} has stopped");
    match nodes {
        Some(nodes) if !nodes.is_known(node) => Wait {
            message: format!(
                "{waits}; the Node object is gone, so Kubernetes takes the pod away in a minute"
            ),
            is_on_dead_node: false,
        },
        Some(nodes) if !nodes.is_ready(node) => Wait {
            message: format!(
                "{waits}; that node is not ready: when it is switched off and stays so, and only then, tell Kubernetes \
                 (kubectl taint node {node} {OUT_OF_SERVICE}) or delete its Node object"
            ),
            is_on_dead_node: true,
        },
        Some(_) | None => Wait { message: waits, is_on_dead_node: false },
    }
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

    use super::super::stop::is_idle;
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
            let waits =
                views[0].pods.iter().find(|pod| !is_over(pod)).map(|pod| wait(pod, Some(nodes)).message);
            (views[0].has_live_pod(), orphans.len(), waits)
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
        let good = "[{metadata: {name: dead}, status: {conditions: [{type: Ready, status: 'True'}]}}]";
        let good = NodeStates::new(&serde_saphyr::from_str::<Vec<Node>>(good).unwrap());
        let (_, _, waits) = left(stopped, told, &good);
        assert_eq!(
            waits.unwrap(),
            "waits until the pod j-x on the node dead has stopped",
            "its kubelet will end it"
        );
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
            assert_eq!(is_idle(&views[0]), !alive, "{kind:?}");
            let waits = waits_for(&client, &orphans, now).await.unwrap();
            let taint = "kubectl taint node dead node.kubernetes.io/out-of-service=";
            assert_eq!(waits.as_ref().is_some_and(|wait| wait.message.contains(taint)), alive, "{waits:?}");
            assert_eq!(waits.is_some_and(|wait| wait.is_on_dead_node), alive);
            let gone =
                wait(&views[0].pods.first().cloned().unwrap_or_default(), Some(&NodeStates::default()));
            assert!(!gone.message.contains("taint"), "{gone:?}");
            // A moment after its time nobody is told to give a node up.
            let soon = waits_for(&client, &orphans, "2026-11-20T02:20:20Z".parse().unwrap()).await.unwrap();
            let soon = soon.map(|wait| (wait.message.contains("taint"), wait.is_on_dead_node));
            assert_eq!(soon, alive.then_some((false, false)));
        }
    }
}
