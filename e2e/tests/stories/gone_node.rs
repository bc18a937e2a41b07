//! A node that is gone for good, with its Node object: what can be mounted elsewhere is saved there, what cannot is named.

use std::thread::sleep;
use std::time::Duration;

use holdfast_e2e::kubectl::{Failure, Result, condition};
use holdfast_e2e::story::{RUN, Story};
use holdfast_e2e::workload::{self, Keeper};
use serde_json::Value;

use crate::alone;
use crate::crashes::{locked, runner, sound};

/// The node that goes. The other one has the API server.
const GONE: &str = "n2";
const LEFT: &str = "n1";

/// How long a run may find no node: a quarter of an hour unless somebody sets it, which nobody wants to watch.
const PATIENCE: &str = "stuckAfter=2m";

/// Tells Kubernetes that a node is off and stays so: it takes its pods and its volumes away at once.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";

/// A node dies in the middle of two runs, and an administrator deletes its Node object. The application with an attachable
/// volume comes up on the other node, and its run goes on beside it. A volume that only that node had is told as not saved,
/// with the node that it is on: by a run that begins then, and by the one that was at work, after it has waited for the node.
/// Its last Snapshot is restored to where there is a node. When the node comes back all is saved as before.
#[test]
fn a_node_that_is_gone_for_good_is_named_and_what_can_move_is_saved_elsewhere() {
    let Some(_world) = alone() else { return };
    Story::tell("gone-node", Story::begin, |story| {
        story.kubectl.run(&["cordon", LEFT])?;
        let pods = two_applications(story);
        // Whatever came of it.
        story.kubectl.run(&["uncordon", LEFT])?;
        let [moves, stays] = pods?;
        let snapshot = Story::snapshot_of(&story.backup("before", "{}", "Succeeded")?)?;
        for pod in [&moves, &stays] {
            story.shell(pod, "head -c 200000000 /dev/urandom > /store/noise")?;
        }
        story.bed.with_values(PATIENCE, || {
            // 200 MB of noise at 1 MB a second.
            story.patch("backupstorage", "store", r#"{"spec":{"limits":{"uploadBytesPerSecond":"1M"}}}"#)?;
            for (run, claim) in [("moves", "disk"), ("stays", "local")] {
                story.start_backup(run, &format!("{{volumes: {{claims: [{claim}]}}}}"))?;
            }
            for run in ["moves", "stays"] {
                if runner(story, run)?["spec"]["nodeName"] != GONE {
                    return Err(Failure(format!("the runner of {run} is not on {GONE}")));
                }
            }
            locked(story)?;
            // The Jobs at work keep the rate that they were started with.
            story.patch("backupstorage", "store", r#"{"spec":{"limits":null}}"#)?;
            story.bed.while_dead(GONE, || without_node(story, &snapshot))
        })?;

        for app in ["moves", "stays"] {
            workload::ready_pod(&story.kubectl, &story.namespace, app)?;
        }
        story.backup("again", "{volumes: {claims: [disk, local]}}", "Succeeded")?;
        sound(story)
    });
}

/// How long a runner may be silent in the story of a Restore, in which the operator is on the node that stays.
const SILENCE: &str = "stuckAfter=1m,nodeSelector.kubernetes\\.io/hostname=n1";

/// A node dies in the middle of a Restore, to a volume that the other node could have. The Restore writes, so no other runner
/// begins beside one that nobody has seen the end of: it waits, with the application held at 0, and says what to do. When it is
/// told that the node is off it goes on elsewhere, and the application comes back. One beside it, which somebody deletes
/// meanwhile, says why it stays, and goes then.
#[test]
fn a_restore_whose_node_dies_waits_until_that_is_certain_and_goes_on() {
    let Some(_world) = alone() else { return };
    Story::tell("gone-restore", Story::begin, |story| {
        let keeper = Keeper::deployment("app", "disk");
        story.apply(&format!(
            "{}{}",
            workload::claim("disk", "csi-disk", "1Gi"),
            workload::keeper(&keeper)
        ))?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "cd /store; head -c 200000000 /dev/urandom > noise; sha256sum noise > sum")?;
        let snapshot = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        story.shell(&pod, "rm /store/noise")?;
        story.bed.with_values(SILENCE, || {
            // 200 MB of noise at 1 MB a second.
            story.patch(
                "backupstorage",
                "store",
                r#"{"spec":{"limits":{"downloadBytesPerSecond":"1M"}}}"#,
            )?;
            story.kubectl.run(&["cordon", LEFT])?;
            let from = format!("undo: false, from: {{snapshotRef: {{name: {snapshot}}}}}");
            let aside = format!(
                "{{{from}, volumes: [{{component: volume/disk, to: {{newClaim: {{name: copy}}}}}}]}}"
            );
            let pod = story
                .start_restore("aside", &aside)
                .and_then(|()| runner(story, "aside"))
                .and_then(|_| story.start_restore("back", &format!("{{{from}}}")))
                .and_then(|()| runner(story, "back"));
            // Whatever came of it.
            story.kubectl.run(&["uncordon", LEFT])?;
            let pod = pod?;
            if pod["spec"]["nodeName"] != GONE {
                return Err(Failure(format!("the runner is not on {GONE}: {}", pod["spec"])));
            }
            story.patch("backupstorage", "store", r#"{"spec":{"limits":null}}"#)?;
            story.bed.while_dead(GONE, || restored_elsewhere(story, &pod))
        })?;
        sound(story)
    });
}

/// What a Restore says and does while the node of this runner is dead.
fn restored_elsewhere(story: &Story, runner: &Value) -> Result<()> {
    let own = story.namespace.as_str();
    story.until("restore", "back", |o| {
        let component = &o["status"]["components"][0];
        let said = component["message"].as_str()?;
        let is_told = said.contains(&format!("kubectl taint node {GONE} {OUT_OF_SERVICE}"));
        (component["reason"] == "Stopping" && is_told).then_some(())
    })?;
    story.kubectl.run(&["-n", own, "delete", "restore", "aside", "--wait=false"])?;
    story.until("restore", "aside", |o| {
        let said = o["status"]["message"].as_str()?;
        said.contains(OUT_OF_SERVICE).then_some(())
    })?;
    story.kubectl.until_true("an Event of the deleted Restore", RUN, || {
        let events = story.kubectl.list(own, &["events"])?;
        let is_it = |e: &Value| e["reason"] == "NoSignOfLife" && e["involvedObject"]["name"] == "aside";
        Ok(events.iter().any(is_it))
    })?;
    // Long enough for another runner to begin, if one would.
    sleep(Duration::from_secs(40));
    let pods = story.kubectl.list(own, &["pods", "-l", "holdfast.dev/run-name=back"])?;
    let is_alone = pods.len() == 1 && pods[0]["metadata"]["uid"] == runner["metadata"]["uid"];
    let app = story.kubectl.get(own, &["deployment", "app"])?;
    let is_held = !app["metadata"]["annotations"]["holdfast.dev/quiesce"].is_null();
    if !is_alone || app["spec"]["replicas"] != 0 || !is_held {
        return Err(Failure(format!("it does not wait: {pods:?}, {app}")));
    }

    story.kubectl.run(&["taint", "node", GONE, OUT_OF_SERVICE])?;
    let ended = story.expect_end("restore", "back", "Succeeded")?;
    let component = &ended["status"]["components"][0];
    if component["node"] != LEFT || component["attempts"].as_u64() < Some(2) {
        return Err(Failure(format!("it did not go on elsewhere: {component}")));
    }
    let pod = workload::ready_pod(&story.kubectl, own, "app")?;
    story.shell(&pod, "cd /store; sha256sum -c --quiet sum")?;
    story.kubectl.until_true("the deleted Restore is gone", RUN, || {
        Ok(story.kubectl.find(own, "restore", "aside")?.is_none())
    })
}

/// Two applications on the node that goes, one with a volume that can move and one with a volume of that node; their pods.
fn two_applications(story: &Story) -> Result<[String; 2]> {
    story.apply(&format!(
        "{}{}{}{}",
        workload::claim("disk", "csi-disk", "1Gi"),
        workload::keeper(&Keeper::deployment("moves", "disk")),
        workload::claim("local", "csi-hostpath", "1Gi"),
        workload::keeper(&Keeper::deployment("stays", "local"))
    ))?;
    let ready = |app: &str| -> Result<String> {
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, app)?;
        story.shell(&pod, &format!("echo {app} > /store/file")).map(|_| pod)
    };
    Ok([ready("moves")?, ready("stays")?])
}

/// What is met while the node is dead: first it is silent, then an administrator takes it out of the cluster.
fn without_node(story: &Story, snapshot: &str) -> Result<()> {
    let own = story.namespace.as_str();
    story.kubectl.until("default", "node", GONE, RUN, |o| {
        condition(o, "Ready").is_some_and(|(status, ..)| status != "True").then_some(())
    })?;
    story.kubectl.run(&["taint", "node", GONE, OUT_OF_SERVICE])?;
    story.kubectl.until_true("no pod is left on the node", RUN, || {
        let there = format!("spec.nodeName={GONE}");
        let pods = story.kubectl.list(own, &["pods", "--field-selector", &there])?;
        Ok(pods.is_empty())
    })?;
    story.kubectl.run(&["delete", "node", GONE])?;

    let pod = workload::ready_pod(&story.kubectl, own, "moves")?;
    story.shell(&pod, "[ \"$(cat /store/file)\" = moves ]")?;
    let ended = story.expect_end("backup", "moves", "Succeeded")?;
    let component = &ended["status"]["components"][0];
    if component["node"] != LEFT || component["attempts"].as_u64() < Some(2) {
        return Err(Failure(format!("it did not go on beside the application: {component}")));
    }

    // One that begins now says at once what it cannot save.
    let late = story.backup("late", "{volumes: {claims: [disk, local]}}", "PartiallyFailed")?;
    names_node(&late["status"]["coverage"]["skipped"][0])?;
    story.restore(
        "elsewhere",
        &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}, volumes: [{{component: volume/local, to: {{newClaim: {{name: copy, storageClassName: csi-hostpath}}}}}}]}}"),
        "Succeeded",
    )?;
    story.apply(&workload::keeper(&Keeper::deployment("copy", "copy")))?;
    let pod = workload::ready_pod(&story.kubectl, own, "copy")?;
    story.shell(&pod, "[ \"$(cat /store/file)\" = stays ]")?;

    let ended = story.expect_end("backup", "stays", "Failed")?;
    names_node(&ended["status"]["components"][0])?;
    if !ended["status"]["snapshotRef"].is_null() {
        return Err(Failure(format!("something is called saved: {}", ended["status"])));
    }
    story.nothing_left()
}

/// A volume that was not saved says why, and which node it is on.
fn names_node(volume: &Value) -> Result<()> {
    let said = volume["message"].as_str().unwrap_or_default();
    if volume["reason"] == "NodeNotReady" && said.contains(&format!("topology.csi.testbed/node={GONE}")) {
        return Ok(());
    }
    Err(Failure(format!("it does not say that the node {GONE} of the volume is gone: {volume}")))
}
