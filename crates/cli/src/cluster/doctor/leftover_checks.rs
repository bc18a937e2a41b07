//! Is anything left of runs that are over? Pure.

use std::collections::BTreeSet;

use holdfast_api::names::{LABEL_RUN_NAME, LABEL_RUN_UID};
use holdfast_api::quiesce::QuiesceRecord;
use jiff::{SignedDuration, Timestamp};
use kube::{Resource, ResourceExt};

use super::super::run_view::{Run, RunView};
use super::finding::Finding;
use super::gather::{Facts, Read};

/// What is younger may be between two steps.
const YOUNG: SignedDuration = SignedDuration::from_mins(10);
/// A run that nobody has looked at for so long tells that nobody looks.
const UNSEEN: SignedDuration = SignedDuration::from_mins(2);

/// Which runs there are, by uid.
struct Runs {
    /// Those that have not ended.
    alive: BTreeSet<String>,
    /// All, with the storages and repositories, for which Jobs run too.
    there: BTreeSet<String>,
}

/// Judges what is left.
pub(super) fn examine(facts: &Facts, now: Timestamp, findings: &mut Vec<Finding>) {
    let runs = runs(facts);
    let before = findings.len();
    quiesce(facts, &runs, findings);
    children("Job", &facts.jobs, &runs.there, now, findings);
    children("Secret", &facts.secrets, &runs.there, now, findings);
    pods(facts, &runs, now, findings);
    waiting(facts, now, findings);
    if findings.len() == before {
        findings.push(Finding::ok("leftovers", "nothing is left of runs that are over"));
    }
}

fn runs(facts: &Facts) -> Runs {
    let objects = &facts.objects;
    let views = objects.backups.iter().map(|b| (b.uid(), b.view().ended));
    let views: Vec<_> = views.chain(objects.restores.iter().map(|r| (r.uid(), r.view().ended))).collect();
    let alive = views.iter().filter(|(_, ended)| !ended).filter_map(|(uid, _)| uid.clone()).collect();
    let there = views
        .into_iter()
        .map(|(uid, _)| uid)
        .chain(objects.storages.iter().map(ResourceExt::uid))
        .chain(objects.repositories.iter().map(ResourceExt::uid))
        .flatten()
        .collect();
    Runs { alive, there }
}

fn quiesce(facts: &Facts, runs: &Runs, findings: &mut Vec<Finding>) {
    let workloads = match &facts.workloads {
        Ok(workloads) => workloads,
        Err(why) => {
            findings.push(Finding::unknown("quiesce", why.clone()));
            return;
        }
    };
    for workload in workloads {
        let about = format!("{} {}/{}", workload.kind, workload.namespace, workload.name);
        let by_hand = |replicas: &str| {
            format!(
                "the operator puts it back when it starts; by hand: kubectl -n {0} scale {1}/{2} --replicas={replicas} && kubectl -n {0} annotate {1}/{2} holdfast.dev/quiesce-",
                workload.namespace,
                workload.kind.to_lowercase(),
                workload.name
            )
        };
        match QuiesceRecord::from_annotation(&workload.quiesce) {
            Err(_) => findings.push(
                Finding::error("quiesce", "its record of who holds it at 0 replicas cannot be read")
                    .about(about)
                    .remedy(by_hand("N")),
            ),
            // In a part of the cluster that cannot be seen a holder may be alive; here all of its namespace was seen.
            Ok(record) if !record.holders.iter().any(|holder| runs.alive.contains(holder)) => findings.push(
                Finding::error(
                    "quiesce",
                    format!("it is held at 0 replicas (it had {}) by a run that is over", record.replicas),
                )
                .about(about)
                .remedy(by_hand(&record.replicas.to_string())),
            ),
            Ok(_) => {}
        }
    }
}

fn children<K: Resource<DynamicType = ()>>(
    kind: &str,
    children: &Read<Vec<K>>,
    there: &BTreeSet<String>,
    now: Timestamp,
    findings: &mut Vec<Finding>,
) {
    let children = match children {
        Ok(children) => children,
        Err(why) => {
            findings.push(Finding::unknown("leftovers", why.clone()));
            return;
        }
    };
    for child in children {
        let of = child.labels().get(LABEL_RUN_UID);
        let orphan = of.is_some_and(|uid| !there.contains(uid));
        if orphan && is_old(child, now) {
            let run = child.labels().get(LABEL_RUN_NAME).map(String::as_str).unwrap_or_default();
            findings.push(
                Finding::warning("leftovers", format!("the run {run} that it was made for is gone"))
                    .about(format!("{kind} {}/{}", child.namespace().unwrap_or_default(), child.name_any()))
                    .remedy(
                        "the operator removes it within the hour; if it stays, see whether it is at work",
                    ),
            );
        }
    }
}

fn is_old<K: Resource>(object: &K, now: Timestamp) -> bool {
    object.creation_timestamp().is_some_and(|made| now.duration_since(made.0) > YOUNG)
}

/// Runner pods that go on although their run has ended.
fn pods(facts: &Facts, runs: &Runs, now: Timestamp, findings: &mut Vec<Finding>) {
    let pods = match &facts.pods {
        Ok(pods) => pods,
        Err(why) => {
            findings.push(Finding::unknown("leftovers", why.clone()));
            return;
        }
    };
    let owners: BTreeSet<String> = facts
        .objects
        .storages
        .iter()
        .filter_map(ResourceExt::uid)
        .chain(facts.objects.repositories.iter().filter_map(ResourceExt::uid))
        .collect();
    for pod in pods {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
        let over = pod
            .labels()
            .get(LABEL_RUN_UID)
            .is_some_and(|uid| !runs.alive.contains(uid) && !owners.contains(uid));
        if over && matches!(phase, "Running" | "Pending") && is_old(pod, now) {
            findings.push(
                Finding::warning("leftovers", format!("the runner is {phase} although its run is over"))
                    .about(format!("Pod {}/{}", pod.namespace().unwrap_or_default(), pod.name_any()))
                    .remedy("see whether the operator is at work, and whether the pod's node is alive"),
            );
        }
    }
}

/// Objects whose deletion waits, and runs that nobody has looked at.
fn waiting(facts: &Facts, now: Timestamp, findings: &mut Vec<Finding>) {
    let objects = &facts.objects;
    let views = objects.backups.iter().map(|b| (b.metadata.clone(), b.view()));
    let views = views.chain(objects.restores.iter().map(|r| (r.metadata.clone(), r.view())));
    for (metadata, view) in views {
        let about = |view: &RunView| view.title();
        if let Some(deleted) = &metadata.deletion_timestamp {
            let since = now.duration_since(deleted.0);
            if since > YOUNG {
                findings.push(
                    Finding::error(
                        "finalizer",
                        format!(
                            "it was deleted {} min ago and waits for {}",
                            since.as_mins(),
                            metadata.finalizers.unwrap_or_default().join(", ")
                        ),
                    )
                    .about(about(&view))
                    .remedy("the operator scales workloads back and removes its lock before it goes: see whether it is at work"),
                );
            }
            continue;
        }
        let made = metadata.creation_timestamp.as_ref().map(|t| now.duration_since(t.0));
        if view.phase.is_empty() && made.is_some_and(|age| age > UNSEEN) {
            findings.push(
                Finding::error("operator", "no operator has looked at it yet")
                    .about(about(&view))
                    .remedy("see whether the operator is at work: kubectl get pods -A -l app.kubernetes.io/component=operator"),
            );
        }
    }
}
