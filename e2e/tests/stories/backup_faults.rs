//! Faults around a backup: its claim is deleted, its node is drained.

use holdfast_e2e::kubectl::{Failure, Result, phase};
use holdfast_e2e::story::{RUN, Story};
use holdfast_e2e::workload::{self, Keeper};
use serde_json::Value;

use crate::crashes::{heavy, locked, runner, sound, sums};
use crate::restore_faults::saved;
use crate::{alone, together};

/// A Backup `NAME` of a claim that nobody else uses, in its middle; then the claim is deleted. The pod of its runner.
fn deleted_meanwhile(story: &Story, name: &str) -> Result<Value> {
    let own = story.namespace.as_str();
    story.kubectl.run(&["-n", own, "delete", "deployment/app"])?;
    workload::gone(&story.kubectl, own, "app")?;
    // 80 MiB of noise take half a minute.
    story.patch("backupstorage", "store", r#"{"spec":{"limits":{"uploadBytesPerSecond":"3M"}}}"#)?;
    story.start_backup(name, "{volumes: {claims: [data]}}")?;
    let pod = runner(story, name)?;
    locked(story)?;
    story.kubectl.run(&["-n", own, "delete", "pvc/data", "--wait=false"])?;
    let claim = story.kubectl.get(own, &["pvc", "data"])?;
    let run = story.kubectl.get(own, &["backup", name])?;
    if claim["metadata"]["deletionTimestamp"].is_null() || phase(&run) != "Running" {
        return Err(Failure(format!("the claim is not deleted under way: {}", run["status"])));
    }
    Ok(pod)
}

/// A claim is deleted while its volume is saved. Kubernetes keeps the volume for as long as the runner uses it: what was begun
/// is brought to its end, and then the volume goes. When the runner dies there is nothing left to go on with, which is a
/// failure that says so. From what was saved the claim is made again.
#[test]
fn a_claim_that_is_deleted_during_a_backup_is_saved_or_told_as_lost() {
    let Some(_world) = together() else { return };
    Story::tell("deleted-claim", Story::begin, |story| {
        let own = story.namespace.clone();
        let gone = || {
            story.kubectl.until_true("the claim is gone", RUN, || {
                Ok(story.kubectl.find(&own, "pvc", "data")?.is_none())
            })
        };
        heavy(story, 80)?;
        deleted_meanwhile(story, "whole")?;
        let snapshot = Story::snapshot_of(&story.expect_end("backup", "whole", "Succeeded")?)?;
        gone()?;
        story.nothing_left()?;
        let from = format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}, missingClaims: Create}}");
        story.restore("back", &from, "Succeeded")?;
        story.apply(&workload::keeper(&Keeper::deployment("app", "data")))?;
        sums(story)?;

        let pod = workload::ready_pod(&story.kubectl, &own, "app")?;
        story.shell(&pod, "cd /store; dd if=/dev/urandom of=big1 bs=1M count=80 2>/dev/null")?;
        let pod = deleted_meanwhile(story, "cut")?;
        story.bed.kill_container(&pod)?;
        let ended = story.expect_end("backup", "cut", "Failed")?;
        gone()?;
        let component = &ended["status"]["components"][0];
        let said = component["message"].as_str().unwrap_or_default();
        let is_told =
            ["ClaimNotFound", "ClaimTerminating"].iter().any(|reason| component["reason"] == *reason)
                && said.contains("claim");
        if !is_told || !ended["status"]["snapshotRef"].is_null() {
            return Err(Failure(format!("it does not say that the claim is gone: {}", ended["status"])));
        }
        sound(story)
    });
}

/// Evicts this runner by a drain of its node, follows what comes of it, and opens the node again whatever that is.
pub(crate) fn drained<T>(
    story: &Story,
    node: &str,
    evicted: &Value,
    told: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let run = evicted["metadata"]["labels"]["holdfast.dev/run-name"].as_str().unwrap_or_default();
    let selector = format!("--pod-selector=holdfast.dev/run-name={run}");
    let drained = story.kubectl.run(&["drain", node, "--force", "--ignore-daemonsets", &selector]);
    let told = drained.and_then(|said| Ok((said, told()?)));
    story.kubectl.run(&["uncordon", node])?;
    let (said, told) = told?;
    let name = evicted["metadata"]["name"].as_str().unwrap_or_default();
    if !said.contains(&format!("pod/{name} evicted")) {
        return Err(Failure(format!("the runner was not evicted: {said}")));
    }
    Ok(told)
}

/// A node is drained in the middle: the runner is evicted and tried again where the volume is, cordoned or not.
#[test]
fn a_node_that_is_drained_during_a_backup_does_not_end_it() {
    let Some(_world) = alone() else { return };
    Story::tell("drained", Story::begin, |story| {
        saved(story, 800, "n2")?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "dd if=/dev/urandom of=/store/big bs=1M count=800 2>/dev/null")?;
        story.start_backup("run", "{}")?;
        let evicted = runner(story, "run")?;
        let ended = drained(story, "n2", &evicted, || story.expect_end("backup", "run", "Succeeded"))?;
        let component = &ended["status"]["components"][0];
        if component["node"] != "n2" {
            return Err(Failure(format!("it ran elsewhere: {component}")));
        }
        story.nothing_left()
    });
}
