//! Faults around a restore: what is deleted, drained, contested or done at the same time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use holdfast_e2e::kubectl::{Failure, Result, phase};
use holdfast_e2e::story::{RUN, Story};
use holdfast_e2e::workload::{self, Keeper};
use serde_json::Value;

use crate::backup_faults::drained;
use crate::crashes::{locked, runner, sound};
use crate::{alone, together};

/// A claim with some hundred MiB, used by a Deployment, and its Snapshot.
pub(crate) fn saved(story: &Story, mib: u32, node: &str) -> Result<String> {
    let keeper = Keeper { node, ..Keeper::deployment("app", "data") };
    story.apply(&format!("{}{}", workload::claim("data", "", "2Gi"), workload::keeper(&keeper)))?;
    let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
    story.shell(
        &pod,
        &format!(
            "dd if=/dev/urandom of=/store/big bs=1M count={mib} 2>/dev/null; cd /store; sha256sum big > sum"
        ),
    )?;
    Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)
}

fn says(object: &Value, needles: &[&str]) -> Result<()> {
    let said = object["status"].to_string();
    match needles.iter().find(|needle| !said.contains(*needle)) {
        Some(missing) => Err(Failure(format!("the status does not say {missing:?}: {said}"))),
        None => Ok(()),
    }
}

/// What is restored goes with its claim: the run ends, says so, and leaves nothing.
#[test]
fn a_claim_that_is_deleted_during_the_restore_ends_it() {
    let Some(_world) = together() else { return };
    Story::tell("claim-deleted", Story::begin, |story| {
        let snapshot = saved(story, 600, "")?;
        story.start_restore(
            "back",
            &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}, volumes: [{{component: volume/data, to: {{newClaim: {{name: copy}}}}}}]}}"),
        )?;
        runner(story, "back")?;
        story.kubectl.run(&["-n", &story.namespace, "delete", "pvc/copy", "--wait=false"])?;
        let ended = story.expect_end("restore", "back", "Failed")?;
        says(&ended, &["TargetNotFound", "was deleted while"])?;
        story.nothing_left()
    });
}

/// The claim of an application is deleted while it is restored to: the run ends and says so, and the application has its
/// count again, although no pod of it can start. Made again, the claim gets its data.
#[test]
fn the_claim_of_an_application_that_is_deleted_during_the_restore_ends_it() {
    let Some(_world) = together() else { return };
    Story::tell("own-claim-deleted", Story::begin, |story| {
        let snapshot = saved(story, 200, "")?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "rm /store/big")?;
        story.patch("backupstorage", "store", r#"{"spec":{"limits":{"downloadBytesPerSecond":"3M"}}}"#)?;
        let from = format!("undo: false, from: {{snapshotRef: {{name: {snapshot}}}}}");
        story.start_restore("back", &format!("{{{from}}}"))?;
        runner(story, "back")?;
        story.kubectl.run(&["-n", &story.namespace, "delete", "pvc/data", "--wait=false"])?;
        let ended = story.expect_end("restore", "back", "Failed")?;
        says(&ended, &["TargetNotFound", "was deleted while"])?;
        story.scaled_back("app")?;
        story.nothing_left()?;
        story.kubectl.until_true("the claim is gone", RUN, || {
            Ok(story.kubectl.find(&story.namespace, "pvc", "data")?.is_none())
        })?;

        story.patch("backupstorage", "store", r#"{"spec":{"limits":null}}"#)?;
        story.restore("again", &format!("{{{from}, missingClaims: Create}}"), "Succeeded")?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "cd /store; sha256sum -c --quiet sum")?;
        sound(story)
    });
}

/// An application with some hundred MiB in another namespace, whose runs use the story's storage.
fn away(story: &mut Story, suffix: &str) -> Result<String> {
    let other = story.another_namespace(suffix)?;
    story.kubectl.run(&["annotate", "namespace", &other, "holdfast.dev/allow-root-runner=true"])?;
    let yaml = workload::claim("data", "", "2Gi") + &workload::keeper(&Keeper::deployment("app", "data"));
    story.kubectl.run_with(&["-n", &other, "apply", "-f", "-"], yaml.as_bytes())?;
    let pod = workload::ready_pod(&story.kubectl, &other, "app")?;
    story.kubectl.shell(&other, &pod, "dd if=/dev/urandom of=/store/big bs=1M count=300 2>/dev/null")?;
    Ok(other)
}

/// Starts a run in this namespace, with this spec.
fn start_away(story: &Story, namespace: &str, kind: &str, spec: &str) -> Result<()> {
    let run =
        format!("apiVersion: holdfast.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: run}}\nspec: {spec}\n");
    story.kubectl.run_with(&["-n", namespace, "apply", "-f", "-"], run.as_bytes()).map(drop)
}

/// Deletes a namespace while a run is at work in it, and with a lock: both go.
fn goes_with_its_lock(story: &Story, namespace: &str, kind: &str) -> Result<()> {
    story.kubectl.until(namespace, kind, "run", RUN, |o| {
        (phase(o) == "Running" && o["status"]["components"][0]["phase"] == "Running").then_some(())
    })?;
    locked(story)?;
    story.kubectl.run(&["delete", "namespace", namespace, "--wait=false"])?;
    story.kubectl.until_true("the namespace is gone", RUN, || {
        let found =
            story.kubectl.run(&["get", "namespace", namespace, "--ignore-not-found", "-o", "name"])?;
        Ok(found.trim().is_empty())
    })?;
    // Its runner was told to stop, and gave it back; or a Job beside the storage removes it, which outlives the run that it
    // cleans up after, and is swept later.
    story.kubectl.until_true("no lock is left", RUN, || Ok(story.locks()?.is_empty()))
}

/// Nothing that we put on objects keeps a namespace from going, and no lock stays in the repository, whose storage is
/// elsewhere.
#[test]
fn a_namespace_that_is_deleted_during_a_run_goes() {
    let Some(_world) = together() else { return };
    Story::tell("namespace-deleted", Story::begin, |story| {
        let patch = r#"{"spec":{"limits":{"uploadBytesPerSecond":"3M","downloadBytesPerSecond":"3M"},"usagePolicy":{"allowedNamespaces":{"from":"All"}}}}"#;
        story.patch("backupstorage", "store", patch)?;
        let storage = format!("storageRef: {{name: store, namespace: {}}}", story.namespace);
        let other = away(story, "going")?;
        start_away(story, &other, "Backup", &format!("{{{storage}}}"))?;
        goes_with_its_lock(story, &other, "backup")?;

        let other = away(story, "too")?;
        story.patch("backupstorage", "store", r#"{"spec":{"limits":{"uploadBytesPerSecond":null}}}"#)?;
        start_away(story, &other, "Backup", &format!("{{{storage}}}"))?;
        story.kubectl.until(&other, "backup", "run", RUN, |o| (phase(o) == "Succeeded").then_some(()))?;
        let pod = workload::ready_pod(&story.kubectl, &other, "app")?;
        story.kubectl.shell(&other, &pod, "rm /store/big")?;
        start_away(story, &other, "Restore", "{undo: false, from: {latestOf: {claim: data}}}")?;
        goes_with_its_lock(story, &other, "restore")
    });
}

/// They wait for each other: what is half restored is never saved, and all three end well.
#[test]
fn two_backups_and_a_restore_of_one_claim_at_once_all_end_well() {
    let Some(_world) = together() else { return };
    Story::tell("at-once", Story::begin, |story| {
        let snapshot = saved(story, 200, "")?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "printf spoiled > /store/big")?;
        story.start_backup("one", "{}")?;
        story.start_restore("back", &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"))?;
        story.start_backup("two", "{}")?;
        story.expect_end("restore", "back", "Succeeded")?;
        for backup in ["one", "two"] {
            let saved = Story::snapshot_of(&story.expect_end("backup", backup, "Succeeded")?)?;
            let copy = format!("copy-{backup}");
            story.restore(
                &copy,
                &format!("{{from: {{snapshotRef: {{name: {saved}}}}}, volumes: [{{component: volume/data, to: {{newClaim: {{name: {copy}}}}}}}]}}"),
                "Succeeded",
            )?;
            story.apply(&workload::keeper(&Keeper::deployment(&copy, &copy)))?;
            let pod = workload::ready_pod(&story.kubectl, &story.namespace, &copy)?;
            // As it was spoiled, or as it was restored; nothing in between.
            story.shell(&pod, "cd /store; [ \"$(cat big | head -c 7)\" = spoiled ] && [ \"$(stat -c %s big)\" = 7 ] || sha256sum -c --quiet sum")?;
        }
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "cd /store; sha256sum -c --quiet sum")?;
        story.nothing_left()
    });
}

/// A restore does not wait for a backup that reads its claim, nor is what it writes mixed into that backup: the runner is
/// stopped, and the backup begins anew when the data are back. That is no failure of its: it is allowed none here.
#[test]
fn a_backup_at_work_gives_way_to_a_restore_of_its_claim() {
    let Some(_world) = together() else { return };
    Story::tell("gives-way", Story::begin, |story| {
        let snapshot = saved(story, 20, "")?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "cd /store; printf spoiled > big; head -c 60000000 /dev/urandom > noise")?;
        // 60 MB of noise at 3 MB a second: the backup takes a while.
        let slow = r#"{"spec":{"limits":{"uploadBytesPerSecond":"3M"}}}"#;
        story.patch("backupstorage", "store", slow)?;
        story.start_backup("slow", "{failurePolicy: {retries: 0}}")?;
        runner(story, "slow")?;
        story.start_restore(
            "back",
            &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}, volumes: [{{component: volume/data, to: {{existingClaim: {{name: data}}}}, deleteExtra: true}}]}}"),
        )?;
        // First that its Job stops, then that it waits: both name the Restore.
        story.until("backup", "slow", |o| {
            let component = &o["status"]["components"][0];
            let message = component["message"].as_str().unwrap_or_default();
            (component["reason"] == "ClaimInUse" && message.contains("Restore back writes")).then_some(())
        })?;
        story.expect_end("restore", "back", "Succeeded")?;
        let ended = story.expect_end("backup", "slow", "Succeeded")?;
        let component = &ended["status"]["components"][0];
        if component["attempts"].as_u64() < Some(2) {
            return Err(Failure(format!("the Job that gave way is not followed by another: {component}")));
        }
        let saved = Story::snapshot_of(&ended)?;
        let object = story.kubectl.get(&story.namespace, &["snapshot", &saved])?;
        if object["status"]["complete"] != true {
            return Err(Failure(format!("the Snapshot is not complete: {}", object["status"])));
        }
        story.restore(
            "copy",
            &format!("{{from: {{snapshotRef: {{name: {saved}}}}}, volumes: [{{component: volume/data, to: {{newClaim: {{name: copy}}}}}}]}}"),
            "Succeeded",
        )?;
        story.apply(&workload::keeper(&Keeper::deployment("copy", "copy")))?;
        for app in ["app", "copy"] {
            let pod = workload::ready_pod(&story.kubectl, &story.namespace, app)?;
            story.shell(&pod, "cd /store; [ ! -e noise ] && sha256sum -c --quiet sum")?;
        }
        story.nothing_left()
    });
}

/// A volume that was read while a Restore wrote to it is not called saved, and what was stored of it is removed. The operator
/// lets it come to this only when it is away at the wrong moment, so the Restore is said here to have ended later than it
/// did.
#[test]
fn a_volume_that_was_read_while_it_was_written_is_not_called_saved() {
    let Some(_world) = together() else { return };
    Story::tell("torn", Story::begin, |story| {
        let own = story.namespace.clone();
        let snapshot = saved(story, 1, "")?;
        let from = format!("{{undo: false, from: {{snapshotRef: {{name: {snapshot}}}}}}}");
        story.restore("back", &from, "Succeeded")?;
        let pod = workload::ready_pod(&story.kubectl, &own, "app")?;
        let later = story.shell(&pod, "date -u -d '1 hour' +%FT%TZ")?;
        let patch = format!(r#"{{"status":{{"completionTime":"{}"}}}}"#, later.trim());
        story.kubectl.run(&[
            "-n",
            &own,
            "patch",
            "restore",
            "back",
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ])?;

        let torn = story.backup("torn", "{}", "Failed")?;
        let component = &torn["status"]["components"][0];
        says(&torn, &["Restore back wrote to the claim data while it was read"])?;
        let id = component["discarded"]["snapshotId"].as_str().unwrap_or_default();
        if component["reason"] != "ClaimInUse" || component["discarded"]["removed"] != true || id.len() != 64
        {
            return Err(Failure(format!("it does not say that its snapshot was removed: {component}")));
        }
        if !component["snapshotId"].is_null() || !torn["status"]["snapshotRef"].is_null() {
            return Err(Failure(format!("its snapshot is still offered: {}", torn["status"])));
        }
        let stored = || -> Result<Vec<String>> {
            let directory = story.bed.bucket_directory(&story.bucket)?.join(story.repository_directory()?);
            let found = std::fs::read_dir(directory.join("snapshots")).map_err(|e| Failure(e.to_string()))?;
            let names = found.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
            Ok(names.filter(|name| name.len() == 64).collect())
        };
        let there = stored()?;
        if there.len() != 1 || there.iter().any(|name| name == id) {
            return Err(Failure(format!("the bucket holds {there:?}, and {id} is to be gone")));
        }
        // No list of the repository brings it back.
        let repository = torn["status"]["repositoryRef"]["name"].as_str().unwrap_or_default();
        let object = format!("repositories.holdfast.dev/{repository}");
        story.kubectl.run(&["-n", &own, "annotate", &object, "holdfast.dev/sync-now=after"])?;
        story
            .until("repository", repository, |o| (o["status"]["lastSyncRequest"] == "after").then_some(()))?;
        let all = story.kubectl.list(&own, &["snapshots.holdfast.dev"])?;
        let names: Vec<_> = all.iter().filter_map(|object| object["metadata"]["name"].as_str()).collect();
        if names != [snapshot.as_str()] {
            return Err(Failure(format!("there are the Snapshots {names:?}, not {snapshot} alone")));
        }

        // What the message advises, once that Restore is over.
        story.kubectl.run(&["-n", &own, "delete", "restore", "back", "--timeout=60s"])?;
        story.backup("another", "{}", "Succeeded")?;
        sound(story)
    });
}

/// A `GitOps` controller sets the replicas again and again, as its source says: the restore does not fight it. It ends,
/// says who is to be stopped, and the application is as that controller wants it.
#[test]
fn a_controller_that_keeps_the_replicas_up_ends_the_restore() {
    let Some(_world) = together() else { return };
    Story::tell("gitops", Story::begin, |story| {
        let snapshot = saved(story, 300, "")?;
        let over = AtomicBool::new(false);
        let ended = std::thread::scope(|threads| {
            story.start_restore("back", &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"))?;
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let args = ["-n", &story.namespace, "scale", "deployment/app", "--replicas=1"];
                    let _ = story.kubectl.run(&args);
                    sleep(Duration::from_millis(300));
                }
            });
            let ended = story.expect_end("restore", "back", "Failed");
            over.store(true, Ordering::Relaxed);
            ended
        })?;
        says(&ended, &["QuiesceContested", "GitOps"])?;
        story.scaled_back("app")?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "cd /store; sha256sum -c --quiet sum")?;
        story.nothing_left()
    });
}

/// A node is drained in the middle of a restore to a volume that only this node has: the runner is evicted and does not come back
/// to a node that is being emptied, where its application could not start either. It says so, goes on when the node takes pods
/// again, which costs none of the retries, of which there are none, and the application comes back.
#[test]
fn a_node_that_is_drained_during_a_restore_does_not_end_it() {
    let Some(_world) = alone() else { return };
    Story::tell("drained-restore", Story::begin, |story| {
        let snapshot = saved(story, 300, "n2")?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "rm /store/big")?;
        // Half a minute, while a pod is evicted in a second.
        story.patch("backupstorage", "store", r#"{"spec":{"limits":{"downloadBytesPerSecond":"10M"}}}"#)?;
        story.start_restore(
            "back",
            &format!("{{undo: false, retries: 0, from: {{snapshotRef: {{name: {snapshot}}}}}}}"),
        )?;
        let evicted = runner(story, "back")?;
        story.patch("backupstorage", "store", r#"{"spec":{"limits":null}}"#)?;
        drained(story, "n2", &evicted, || {
            story.until("restore", "back", |o| {
                let component = &o["status"]["components"][0];
                let said = component["message"].as_str()?;
                (component["reason"] == "Unschedulable" && said.contains("were unschedulable")).then_some(())
            })
        })?;
        let ended = story.expect_end("restore", "back", "Succeeded")?;
        let component = &ended["status"]["components"][0];
        if component["node"] != "n2" {
            return Err(Failure(format!("it went on elsewhere: {component}")));
        }
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "cd /store; sha256sum -c --quiet sum")?;
        sound(story)
    });
}

/// A volume that is root's alone: nothing is written to it, and why is said; a runner that may be root restores to it.
#[test]
fn a_volume_that_the_runner_may_not_open_is_named() {
    let Some(_world) = together() else { return };
    Story::tell("not-writable", Story::begin, |story| {
        let snapshot = saved(story, 1, "")?;
        story.apply(&format!(
            "{}{}",
            workload::claim("fresh", "plain", "24Mi"),
            workload::keeper(&Keeper { user: 1000, node: "n1", ..Keeper::deployment("other", "fresh") })
        ))?;
        workload::ready_pod(&story.kubectl, &story.namespace, "other")?;
        let namespace = format!("namespace/{}", story.namespace);
        story.kubectl.run(&["annotate", &namespace, "holdfast.dev/allow-root-runner-"])?;
        let to_fresh = format!(
            "{{retries: 0, from: {{snapshotRef: {{name: {snapshot}}}}}, volumes: [{{component: volume/data, to: {{existingClaim: {{name: fresh}}}}}}]}}"
        );
        let ended = story.restore("back", &to_fresh, "Failed")?;
        says(&ended, &["UndoNotSaved", "Permission denied", "nothing was overwritten", "allow-root-runner"])?;
        workload::ready_pod(&story.kubectl, &story.namespace, "other")?;
        // Who does not want it saved first is told before the first file, too.
        let unsaved = to_fresh.replace("{retries: 0,", "{retries: 0, undo: false,");
        let ended = story.restore("unsaved", &unsaved, "Failed")?;
        says(&ended, &["TargetNotWritable", "belongs to uid 0", "allow-root-runner"])?;
        workload::ready_pod(&story.kubectl, &story.namespace, "other")?;
        story.allow_root()?;
        story.restore("as-root", &to_fresh, "Succeeded")?;
        story.nothing_left()
    });
}
