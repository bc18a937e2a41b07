//! Restores that must not begin: each is refused before anything is touched, and says why.

use holdfast_e2e::kubectl::{Failure, Result, phase};
use holdfast_e2e::story::Story;
use holdfast_e2e::workload::{self, Keeper};
use serde_json::Value;

use crate::{anywhere, together};

/// A volume with data, and its Snapshot.
fn saved(story: &Story, app: &Keeper<'_>, class: &str, size: &str) -> Result<String> {
    story.apply(&format!("{}{}", workload::claim(app.claim, class, size), workload::keeper(app)))?;
    let pod = workload::ready_pod(&story.kubectl, &story.namespace, app.name)?;
    story.shell(
        &pod,
        "echo data > /store/file; dd if=/dev/urandom of=/store/big bs=1M count=12 2>/dev/null",
    )?;
    Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)
}

/// Expects a Restore to fail with these words in its message, with nothing touched.
fn refused(story: &Story, name: &str, spec: &str, needles: &[&str]) -> Result<Value> {
    let before = story.kubectl.list(&story.namespace, &["pods", "-l", "app"])?;
    let object = story.restore(name, spec, "Failed")?;
    let said = object["status"].to_string();
    for needle in needles {
        if !said.contains(needle) {
            return Err(Failure(format!("the refusal does not say {needle:?}: {}", object["status"])));
        }
    }
    let after = story.kubectl.list(&story.namespace, &["pods", "-l", "app"])?;
    let uids = |pods: &[Value]| pods.iter().map(|p| p["metadata"]["uid"].to_string()).collect::<Vec<_>>();
    if uids(&before) != uids(&after) {
        return Err(Failure("a refused restore touched the application".into()));
    }
    Ok(object)
}

#[test]
fn a_missing_snapshot_or_component_is_named() {
    let _world = anywhere();
    Story::tell("no-snapshot", Story::begin, |story| {
        let snapshot = saved(story, &Keeper::deployment("app", "data"), "", "1Gi")?;
        refused(story, "ghost", "{from: {snapshotRef: {name: ghost}}}", &["ghost"])?;
        refused(
            story,
            "component",
            &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}, components: [volume/other]}}"),
            &["volume/other"],
        )?;
        refused(
            story,
            "paths",
            &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}, volumes: [{{component: volume/data, to: {{existingClaim: {{name: data}}}}, paths: {{include: [/no/such/path]}}}}]}}"),
            &["EmptySelection"],
        ).or_else(|e| {
            // The selection is only known once the snapshot is read: the application may have been stopped for it,
            // but it must be back.
            if e.0.contains("touched") { Ok(Value::Null) } else { Err(e) }
        })?;
        workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.nothing_left()
    });
}

#[test]
fn a_missing_or_too_small_claim_is_named() {
    let Some(_world) = together() else { return };
    Story::tell("too-small", Story::begin, |story| {
        let snapshot = saved(story, &Keeper::deployment("app", "data"), "", "1Gi")?;
        let to = |claim: &str| {
            format!(
                "{{from: {{snapshotRef: {{name: {snapshot}}}}}, volumes: [{{component: volume/data, to: {{existingClaim: {{name: {claim}}}}}}}]}}"
            )
        };
        refused(story, "absent", &to("absent"), &["absent"])?;
        story.apply(&format!(
            "{}{}",
            workload::claim("tiny", "", "4Mi"),
            workload::keeper(&Keeper::deployment("other", "tiny"))
        ))?;
        workload::ready_pod(&story.kubectl, &story.namespace, "other")?;
        refused(story, "tiny", &to("tiny"), &["tiny", "too small"])?;
        story.nothing_left()
    });
}

/// A full file system, for real: said before the first byte where it can be known.
#[test]
fn a_volume_that_is_full_is_not_half_restored_in_silence() {
    let Some(_world) = together() else { return };
    Story::tell("full", Story::begin, |story| {
        let snapshot = saved(story, &Keeper::deployment("app", "data"), "", "1Gi")?;
        story.apply(&format!(
            "{}{}",
            workload::claim("small", "csi-small", "24Mi"),
            workload::keeper(&Keeper::deployment("other", "small"))
        ))?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "other")?;
        story.shell(&pod, "dd if=/dev/zero of=/store/filler bs=1M count=14 2>/dev/null; sync")?;
        let object = story.restore(
            "full",
            &format!("{{retries: 0, from: {{snapshotRef: {{name: {snapshot}}}}}, volumes: [{{component: volume/data, to: {{existingClaim: {{name: small}}}}}}]}}"),
            "Failed",
        )?;
        if !object["status"].to_string().contains("TargetFull") {
            return Err(Failure(format!("the reason is not told: {}", object["status"])));
        }
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "other")?;
        let left = story.shell(&pod, "ls -A /store")?;
        if !left.contains("filler") || left.contains("big") {
            return Err(Failure(format!("the volume now holds {left:?}")));
        }
        story.nothing_left()
    });
}

/// A pod that nothing would bring back is never removed: the restore says which one is in the way.
#[test]
fn a_pod_that_cannot_be_scaled_is_named() {
    let _world = anywhere();
    Story::tell("bare-pod", Story::begin, |story| {
        let pod = Keeper { kind: "Pod", ..Keeper::deployment("lonely", "data") };
        let snapshot = saved(story, &pod, "", "1Gi")?;
        refused(story, "back", &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"), &["lonely"])?;
        story.nothing_left()
    });
}

/// A StatefulSet that deletes its claims when it is scaled down would lose the data to be restored.
#[test]
fn a_statefulset_that_deletes_its_claims_is_not_scaled() {
    let _world = anywhere();
    Story::tell("deletes-claims", Story::begin, |story| {
        story.apply(&format!(
            "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db}}\nspec:\n  serviceName: db\n  replicas: 1\n  persistentVolumeClaimRetentionPolicy: {{whenScaled: Delete, whenDeleted: Retain}}\n  selector: {{matchLabels: {{app: db}}}}\n  template:\n    metadata: {{labels: {{app: db}}}}\n    spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: app, image: '{}', command: [sh, -c, 'while :; do sleep 1; done'], volumeMounts: [{{name: data, mountPath: /store}}]}}]}}\n  volumeClaimTemplates:\n  - metadata: {{name: data}}\n    spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}\n",
            workload::tools()
        ))?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "db")?;
        story.shell(&pod, "echo data > /store/file")?;
        let snapshot = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        refused(
            story,
            "back",
            &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"),
            &["db", "whenScaled"],
        )?;
        story.until("pvc", "data-db-0", |o| {
            (phase(o) == "Bound" && o["metadata"]["deletionTimestamp"].is_null()).then_some(())
        })?;
        story.nothing_left()
    });
}

/// StatefulSet, bare ReplicaSet: each comes back with the count it had.
#[test]
fn every_kind_of_consumer_gets_its_count_back() {
    let _world = anywhere();
    Story::tell("consumers", Story::begin, |story| {
        let set = Keeper { kind: "StatefulSet", ..Keeper::deployment("set", "one") };
        let node = story.one_node()?;
        let bare =
            Keeper { kind: "ReplicaSet", replicas: 2, node: &node, ..Keeper::deployment("bare", "two") };
        for app in [&set, &bare] {
            story.apply(&format!("{}{}", workload::claim(app.claim, "", "1Gi"), workload::keeper(app)))?;
            let pod = workload::ready_pod(&story.kubectl, &story.namespace, app.name)?;
            story.shell(&pod, &format!("echo {} > /store/file", app.name))?;
        }
        let snapshot = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        for app in ["set", "bare"] {
            let pod = workload::ready_pod(&story.kubectl, &story.namespace, app)?;
            story.shell(&pod, "echo spoiled > /store/file")?;
        }
        story.restore("back", &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"), "Succeeded")?;
        for (kind, app, count) in [("statefulset", "set", 1), ("replicaset", "bare", 2)] {
            story.until(kind, app, |o| {
                (o["spec"]["replicas"] == count && o["status"]["readyReplicas"] == count).then_some(())
            })?;
            let pod = workload::ready_pod(&story.kubectl, &story.namespace, app)?;
            let text = story.shell(&pod, "cat /store/file")?;
            if text.trim() != app {
                return Err(Failure(format!("{app} has {text:?}")));
            }
        }
        story.nothing_left()
    });
}

/// Somebody scales the application up in the middle: the restore does not fight, it ends and says so. What that person asked
/// for stays, not the count that was there before.
#[test]
fn a_contested_quiesce_ends_the_run() {
    let Some(_world) = together() else { return };
    Story::tell("contested", Story::begin, |story| {
        story.apply(&format!(
            "{}{}",
            workload::claim("data", "", "2Gi"),
            workload::keeper(&Keeper::deployment("app", "data"))
        ))?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "dd if=/dev/urandom of=/store/big bs=1M count=700 2>/dev/null")?;
        let snapshot = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        story.shell(&pod, "rm /store/big")?;
        story.start_restore("back", &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"))?;
        story.until("restore", "back", |o| (phase(o) == "Running").then_some(()))?;
        story.kubectl.run(&["-n", &story.namespace, "scale", "deployment/app", "--replicas=2"])?;
        let object = story.expect_end("restore", "back", "Failed")?;
        if !object["status"].to_string().contains("QuiesceContested") {
            return Err(Failure(format!("the reason is not told: {}", object["status"])));
        }
        story.until("deployment", "app", |o| (o["spec"]["replicas"] == 2).then_some(()))?;
        story.nothing_left()
    });
}
