//! Placement: a Job runs where its claim can be mounted.

use holdfast_e2e::kubectl::{Failure, Result};
use holdfast_e2e::story::{RUN, Story};
use holdfast_e2e::workload::{self, Keeper};
use serde_json::Value;

use crate::crashes::{locked, runner};
use crate::{alone, together};

fn node_of(backup: &Value, component: &str) -> Option<String> {
    backup["status"]["components"].as_array()?.iter().find(|c| c["name"] == component)?["node"]
        .as_str()
        .map(str::to_owned)
}

/// Two claims on two nodes, each in use: each Job runs beside its pod.
#[test]
fn each_claim_is_saved_on_the_node_that_has_it() {
    let Some(_world) = together() else { return };
    Story::tell("two-nodes", Story::begin, |story| {
        for (app, claim, class, node) in
            [("a", "one", "", "n1"), ("b", "two", "", "n2"), ("c", "disk", "csi-disk", "n2")]
        {
            story.apply(&format!(
                "{}{}",
                workload::claim(claim, class, "1Gi"),
                workload::keeper(&Keeper { node, ..Keeper::deployment(app, claim) })
            ))?;
        }
        for app in ["a", "b", "c"] {
            let pod = workload::ready_pod(&story.kubectl, &story.namespace, app)?;
            story.shell(&pod, &format!("echo {app} > /store/file"))?;
        }
        let backup = story.backup("run", "{}", "Succeeded")?;
        check(&backup, "volume/one", "n1")?;
        check(&backup, "volume/two", "n2")?;
        check(&backup, "volume/disk", "n2")?;
        story.nothing_left()
    });
}

fn check(backup: &Value, component: &str, node: &str) -> Result<()> {
    match node_of(backup, component) {
        Some(found) if found == node => Ok(()),
        other => Err(Failure(format!("{component} ran on {other:?}, its pod is on {node}"))),
    }
}

/// A claim that is bound and used by nobody is saved where its volume is.
#[test]
fn an_unused_claim_is_saved_too() {
    let Some(_world) = together() else { return };
    Story::tell("unused", Story::begin, |story| {
        story.apply(&format!(
            "{}{}",
            workload::claim("data", "", "1Gi"),
            workload::keeper(&Keeper { node: "n2", ..Keeper::deployment("app", "data") })
        ))?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "echo data > /store/file")?;
        story.kubectl.run(&["-n", &story.namespace, "delete", "deployment/app"])?;
        workload::gone(&story.kubectl, &story.namespace, "app")?;
        check(&story.backup("run", "{}", "Succeeded")?, "volume/data", "n2")?;
        story.nothing_left()
    });
}

/// An attachable volume that is in use on one node, while a pod on another one waits for it (`Multi-Attach error`): it is
/// saved where it is. When the first pod goes, the volume moves to the other node, and so do the runs; when nobody uses it,
/// it is attached for the run and let go.
#[test]
fn an_attachable_volume_is_saved_on_the_node_that_has_it() {
    let Some(_world) = together() else { return };
    Story::tell("multi-attach", Story::begin, |story| {
        story.apply(&format!(
            "{}{}",
            workload::claim("disk", "csi-disk", "1Gi"),
            workload::keeper(&Keeper { node: "n2", ..Keeper::deployment("app", "disk") })
        ))?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "echo first > /store/file")?;
        story.apply(&workload::keeper(&Keeper { node: "n1", ..Keeper::deployment("late", "disk") }))?;
        story.kubectl.until_true("a pod that cannot have the volume", RUN, || {
            let events = story.kubectl.list(&story.namespace, &["events"])?;
            Ok(events.iter().any(|e| {
                e["reason"] == "FailedAttachVolume"
                    && e["message"].as_str().is_some_and(|text| text.contains("Multi-Attach"))
            }))
        })?;
        check(&story.backup("held", "{}", "Succeeded")?, "volume/disk", "n2")?;

        story.kubectl.run(&["-n", &story.namespace, "delete", "deployment/app"])?;
        workload::gone(&story.kubectl, &story.namespace, "app")?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "late")?;
        story.shell(&pod, "[ \"$(cat /store/file)\" = first ] && echo second > /store/file")?;
        check(&story.backup("moved", "{}", "Succeeded")?, "volume/disk", "n1")?;

        story.kubectl.run(&["-n", &story.namespace, "delete", "deployment/late"])?;
        workload::gone(&story.kubectl, &story.namespace, "late")?;
        let volume = story.kubectl.get(&story.namespace, &["pvc", "disk"])?["spec"]["volumeName"].clone();
        detached(story, &volume)?;
        let snapshot = Story::snapshot_of(&story.backup("alone", "{}", "Succeeded")?)?;
        detached(story, &volume)?;
        // Held at 0 meanwhile, the application comes back to its own node.
        story.apply(&workload::keeper(&Keeper { node: "n2", ..Keeper::deployment("app", "disk") }))?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "echo spoiled > /store/file")?;
        story.restore("back", &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"), "Succeeded")?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "[ \"$(cat /store/file)\" = second ]")?;
        story.nothing_left()
    });
}

/// A node is drained during a backup that takes a while: the application and the runner are evicted, and the application is
/// ready on the other node long before the backup can have ended. The volume is not held where the node is being emptied.
/// The backup goes on beside the application, and that costs none of its retries, of which it has none.
#[test]
fn a_drained_node_does_not_keep_an_attachable_volume_from_its_application() {
    let Some(_world) = alone() else { return };
    Story::tell("drained-disk", Story::begin, |story| {
        story.apply(&format!(
            "{}{}",
            workload::claim("disk", "csi-disk", "1Gi"),
            workload::keeper(&Keeper::deployment("app", "disk"))
        ))?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        // 300 MB of noise at 1 MB a second: five minutes, while an application has three to start.
        story.shell(&pod, "cd /store; head -c 300000000 /dev/urandom > noise; sha256sum noise > sum")?;
        let node = story.kubectl.get(&story.namespace, &["pod", &pod])?["spec"]["nodeName"].clone();
        let node = node.as_str().unwrap_or_default();
        story.patch("backupstorage", "store", r#"{"spec":{"limits":{"uploadBytesPerSecond":"1M"}}}"#)?;
        story.start_backup("run", "{failurePolicy: {retries: 0}}")?;
        let evicted = runner(story, "run")?;
        locked(story)?;
        let told = drained(story, node, &evicted);
        // Whatever came of it.
        story.kubectl.run(&["uncordon", node])?;
        told?;
        story.nothing_left()
    });
}

/// Drains a node of the story's application and of this runner of its Backup `run`, and follows both to the other node.
fn drained(story: &Story, node: &str, evicted: &Value) -> Result<()> {
    let own = story.namespace.as_str();
    if evicted["spec"]["nodeName"] != node {
        return Err(Failure(format!("the runner is not beside its pod on {node}: {}", evicted["spec"])));
    }
    let name = evicted["metadata"]["name"].as_str().unwrap_or_default();
    // The Job that is at work keeps the rate that it was started with, and so would each pod of it.
    story.patch("backupstorage", "store", r#"{"spec":{"limits":null}}"#)?;
    // One label on both, so that one drain takes both and nobody else's.
    let label = format!("story.holdfast.test/drained={own}");
    story.kubectl.run(&["-n", own, "label", "pods", "--all", &label])?;
    let selector = format!("--pod-selector={label}");
    let said = story.kubectl.run(&["drain", node, "--force", "--ignore-daemonsets", &selector])?;
    if !said.contains(&format!("pod/{name} evicted")) {
        return Err(Failure(format!("the runner was not evicted: {said}")));
    }
    let pod = workload::ready_pod(&story.kubectl, own, "app")?;
    let moved = story.kubectl.get(own, &["pod", &pod])?["spec"]["nodeName"].clone();
    if moved == node {
        return Err(Failure(format!("the application is on {node} still")));
    }
    let ended = story.expect_end("backup", "run", "Succeeded")?;
    let component = &ended["status"]["components"][0];
    if component["node"] != moved || component["attempts"].as_u64() < Some(2) {
        return Err(Failure(format!(
            "it did not go on beside the application on {moved}: {}",
            ended["status"]
        )));
    }
    story.shell(&pod, "cd /store; sha256sum -c --quiet sum").map(drop)
}

/// Waits until no node has the volume.
fn detached(story: &Story, volume: &Value) -> Result<()> {
    story.kubectl.until_true("a volume that is attached nowhere", RUN, || {
        let all = story.kubectl.run(&["get", "volumeattachments", "-o", "json"])?;
        let all: Value = serde_json::from_str(&all).map_err(|e| Failure(format!("no JSON: {e}")))?;
        let mut of_volume = all["items"].as_array().into_iter().flatten();
        Ok(!of_volume.any(|one| one["spec"]["source"]["persistentVolumeName"] == *volume))
    })
}

/// The taint of a node that is kept for some workloads, and the label of its zone.
const KEPT: &str = "stories.example/kept-for";
const ZONE: &str = "topology.kubernetes.io/zone";

/// A Deployment that a node with the taint is open to, and its claim; `more` is put into its pod's spec.
fn tolerant(app: &str, claim: &str, more: &str) -> String {
    let tolerations = format!(
        "{{{more}tolerations: [{{key: {KEPT}, operator: Equal, value: files, effect: NoSchedule}}], terminationGracePeriodSeconds:"
    );
    workload::keeper(&Keeper::deployment(app, claim)).replace("{terminationGracePeriodSeconds:", &tolerations)
}

/// A node that is kept for some workloads by a taint, and cordoned: what is on it is saved there all the same, used or not. A
/// claim that is made for a restore gets its volume where its workload can run: on that node, which without the workload's
/// tolerations would be closed, while another one is open. Alone, for the node takes nobody else's pods meanwhile.
#[test]
fn runners_go_to_a_node_that_is_kept_for_the_workload() {
    let Some(_world) = alone() else { return };
    Story::tell("kept-node", Story::begin, |story| {
        let far = story.namespace.clone();
        story.kubectl.run(&["label", "--overwrite", "node", "n2", &format!("{ZONE}={far}")])?;
        let told = on_a_kept_node(story, &far);
        // Whatever came of it, and each whether it was done or not.
        let undone = [
            story.kubectl.run(&["uncordon", "n2"]),
            story.kubectl.run(&["taint", "node", "n2", &format!("{KEPT}-")]),
            story.kubectl.run(&["label", "node", "n2", &format!("{ZONE}-")]),
        ];
        told?;
        undone.into_iter().try_for_each(|done| done.map(drop))?;
        story.nothing_left()
    });
}

fn on_a_kept_node(story: &Story, far: &str) -> Result<()> {
    let n = story.namespace.as_str();
    let in_zone = format!("nodeSelector: {{{ZONE}: {far}}}, ");
    story.apply(&format!(
        "{}{}{}{}",
        workload::claim("data", "", "1Gi"),
        tolerant("app", "data", &in_zone),
        workload::claim("idle", "", "1Gi"),
        tolerant("past", "idle", &in_zone)
    ))?;
    for app in ["app", "past"] {
        let pod = workload::ready_pod(&story.kubectl, n, app)?;
        story.shell(&pod, &format!("echo {app} > /store/file"))?;
    }
    story.kubectl.run(&["-n", n, "delete", "deployment/past"])?;
    workload::gone(&story.kubectl, n, "past")?;
    story.kubectl.run(&["taint", "--overwrite", "node", "n2", &format!("{KEPT}=files:NoSchedule")])?;
    story.kubectl.run(&["cordon", "n2"])?;
    let backup = story.backup("run", "{}", "Succeeded")?;
    check(&backup, "volume/data", "n2")?;
    check(&backup, "volume/idle", "n2")?;
    let snapshot = Story::snapshot_of(&backup)?;
    story.kubectl.run(&["uncordon", "n2"])?;

    // One says itself where it runs; the other only has a volume there.
    let beside = tolerant("beside", "idle-copy", "")
        .replace("volumeMounts: [", "volumeMounts: [{name: other, mountPath: /other}, ")
        .replace("volumes: [", "volumes: [{name: other, persistentVolumeClaim: {claimName: idle}}, ");
    story.apply(&format!("{}{beside}", tolerant("copy", "data-copy", &in_zone)))?;
    let to = |claim: &str| {
        format!(
            "{{component: volume/{claim}, to: {{newClaim: {{name: {claim}-copy, storageClassName: csi-hostpath}}}}}}"
        )
    };
    let restore = story.restore(
        "back",
        &format!(
            "{{from: {{snapshotRef: {{name: {snapshot}}}}}, volumes: [{}, {}]}}",
            to("data"),
            to("idle")
        ),
        "Succeeded",
    )?;
    check(&restore, "volume/data", "n2")?;
    check(&restore, "volume/idle", "n2")?;
    for (app, content) in [("copy", "app"), ("beside", "past")] {
        let pod = workload::ready_pod(&story.kubectl, n, app)?;
        story.shell(&pod, &format!("[ \"$(cat /store/file)\" = {content} ]"))?;
    }
    Ok(())
}
