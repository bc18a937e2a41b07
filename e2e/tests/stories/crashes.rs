//! Crashes: whoever dies in the middle, nothing is lost, nothing is left, and nothing is called good that is not.

use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_e2e::install::{OPERATOR_NAMESPACE, OTHER_IMAGE};
use holdfast_e2e::kubectl::{Failure, Result, phase};
use holdfast_e2e::story::{RUN, Story};
use holdfast_e2e::workload::{self, Keeper};
use holdfast_testbed::HOLDFAST_IMAGE;
use serde_json::{Value, json};

use crate::{alone, together};

/// A volume that takes some seconds to copy.
pub(crate) fn heavy(story: &Story, mib: u32) -> Result<String> {
    heavy_on(story, mib, "")
}

/// The same on this node; on any when it is empty.
pub(crate) fn heavy_on(story: &Story, mib: u32, node: &str) -> Result<String> {
    let keeper = Keeper { node, ..Keeper::deployment("app", "data") };
    story.apply(&format!("{}{}", workload::claim("data", "", "4Gi"), workload::keeper(&keeper)))?;
    let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
    story.shell(&pod, &format!("cd /store; for i in 1 2 3 4; do dd if=/dev/urandom of=big$i bs=1M count={} 2>/dev/null; done; sha256sum big* > sums", mib / 4))?;
    Ok(pod)
}

/// The runner pod of a run once its container runs.
pub(crate) fn runner(story: &Story, run: &str) -> Result<Value> {
    let selector = format!("holdfast.dev/run-name={run}");
    let mut found = None;
    story.kubectl.until_true("a running runner pod", RUN, || {
        found = story.kubectl.list(&story.namespace, &["pods", "-l", &selector])?.into_iter().find(|p| {
            phase(p) == "Running" && !p["status"]["containerStatuses"][0]["state"]["running"].is_null()
        });
        Ok(found.is_some())
    })?;
    found.ok_or_else(|| Failure("no runner".into()))
}

/// Waits until the run has written its lock into the repository.
pub(crate) fn locked(story: &Story) -> Result<()> {
    story.kubectl.until_true("a lock in the repository", RUN, || Ok(!story.locks()?.is_empty()))
}

/// A Backup `run` in its middle, with the lock written. Its runner's pod.
pub(crate) fn begun(story: &Story, spec: &str) -> Result<Value> {
    story.start_backup("run", spec)?;
    let pod = runner(story, "run")?;
    locked(story)?;
    Ok(pod)
}

/// The same, of a volume that takes some seconds to copy.
pub(crate) fn under_way(story: &Story, mib: u32, spec: &str) -> Result<Value> {
    heavy(story, mib)?;
    begun(story, spec)
}

pub(crate) fn sound(story: &Story) -> Result<()> {
    story.nothing_left()?;
    story.restics().last().map_or(Ok(()), |newest| story.restic(newest, &["check", "--read-data"]).map(drop))
}

/// The restored files have the sums that they had.
pub(crate) fn sums(story: &Story) -> Result<()> {
    let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
    story.shell(&pod, "cd /store && sha256sum -c --quiet sums").map(drop)
}

#[test]
fn an_operator_killed_in_the_middle_of_a_backup_finishes_it() {
    let Some(_world) = together() else { return };
    Story::tell("operator-backup", Story::begin, |story| {
        let pod = under_way(story, 400, "{}")?;
        held_meanwhile(story, ["backup", "run"], &pod, || {
            let killed = holder(story)?;
            story.kill_operator()?;
            story.kubectl.until_true("another operator leads", RUN, || {
                let now = holder(story)?;
                Ok(!now.is_empty() && now != killed)
            })
        })?;
        sound(story)
    });
}

/// A stage of a restore: its name, and how it shows.
type Stage = (&'static str, fn(&Story) -> Result<bool>);

/// The operator dies at each stage of a restore that can be seen from outside. The next one goes on from there.
#[test]
fn an_operator_killed_at_any_stage_of_a_restore_gives_the_replicas_back() {
    let Some(_world) = together() else { return };
    Story::tell("operator-restore", Story::begin, |story| {
        heavy(story, 300)?;
        let snapshot = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        let stages: [Stage; 5] = [
            ("created", |_| Ok(true)),
            ("recorded", |s| {
                Ok(!s.kubectl.get(&s.namespace, &["deployment", "app"])?["metadata"]["annotations"]["holdfast.dev/quiesce"].is_null())
            }),
            ("scaled", |s| Ok(s.kubectl.list(&s.namespace, &["pods", "-l", "app=app"])?.is_empty())),
            ("running", |s| {
                Ok(s.kubectl.list(&s.namespace, &["jobs"])?.iter().any(|j| {
                    j["metadata"]["labels"]["holdfast.dev/run-kind"] == "Restore"
                        && j["status"]["active"] == 1
                }))
            }),
            ("ended", |s| {
                Ok(s.kubectl.list(&s.namespace, &["jobs"])?.iter().any(|j| {
                    j["metadata"]["labels"]["holdfast.dev/run-kind"] == "Restore"
                        && j["status"]["succeeded"] == 1
                }))
            }),
        ];
        for (name, reached) in stages {
            let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
            story.shell(&pod, "rm -f /store/big1; printf spoiled > /store/big2")?;
            story.start_restore(name, &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"))?;
            let deadline = Instant::now() + RUN;
            loop {
                let over = matches!(
                    phase(&story.kubectl.get(&story.namespace, &["restore", name])?),
                    "Succeeded" | "Failed"
                );
                if over || reached(story)? {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(Failure(format!("the restore never came to the stage {name}")));
                }
                sleep(Duration::from_millis(20));
            }
            story.kill_operator()?;
            story.expect_end("restore", name, "Succeeded")?;
            story.scaled_back("app")?;
            sums(story)?;
        }
        sound(story)
    });
}

/// The runner is killed as the out-of-memory killer does it: that and when the next attempt begins is told, another Job
/// follows, and the run succeeds.
#[test]
fn a_killed_runner_is_tried_again() {
    let Some(_world) = together() else { return };
    Story::tell("runner-killed", Story::begin, |story| {
        let pod = under_way(story, 600, "{}")?;
        story.bed.kill_container(&pod)?;
        let first = story.until("backup", "run", |o| {
            let component = &o["status"]["components"][0];
            let pauses = component["reason"] == "Retrying" && component["nextAttemptTime"].is_string();
            pauses.then(|| component.clone())
        })?;
        let said = first["message"].as_str().unwrap_or_default();
        if !said.starts_with("attempt 1 failed (RunnerKilled: ") || first["phase"] != "Pending" {
            return Err(Failure(format!("it does not say what failed: {first}")));
        }
        let backup = story.expect_end("backup", "run", "Succeeded")?;
        if backup["status"]["components"][0]["job"] == first["job"] {
            return Err(Failure(format!("the same Job went on: {}", backup["status"])));
        }
        if backup["status"]["components"][0]["attempts"].as_u64() < Some(2) {
            return Err(Failure(format!("attempts are not told: {}", backup["status"]["components"][0])));
        }
        sound(story)
    });
}

/// Killed for good: Failed, with the reason, and no lock.
#[test]
fn a_runner_killed_without_retries_fails_the_run() {
    let Some(_world) = together() else { return };
    Story::tell("runner-dead", Story::begin, |story| {
        let pod = under_way(story, 600, "{failurePolicy: {retries: 0}}")?;
        story.bed.kill_container(&pod)?;
        let backup = story.expect_end("backup", "run", "Failed")?;
        if !backup["status"]["snapshotRef"].is_null()
            || backup["status"]["components"][0]["message"].as_str().is_none_or(str::is_empty)
        {
            return Err(Failure(format!("{}", backup["status"])));
        }
        sound(story)?;
        story.backup("next", "{}", "Succeeded")?;
        sound(story)
    });
}

/// A restore whose runner is killed is tried again; the application comes back either way.
#[test]
fn a_restore_survives_its_runner() {
    let Some(_world) = together() else { return };
    Story::tell("restore-killed", Story::begin, |story| {
        let pod = heavy(story, 600)?;
        let snapshot = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        story.shell(&pod, "rm /store/big*")?;
        // Nothing is saved first, so that the first runner is the one that writes.
        let spec = format!("{{undo: false, from: {{snapshotRef: {{name: {snapshot}}}}}}}");
        story.start_restore("back", &spec)?;
        let pod = runner(story, "back")?;
        sleep(Duration::from_millis(700));
        story.bed.kill_container(&pod)?;
        let ended = story.expect_end("restore", "back", "Succeeded")?;
        let component = &ended["status"]["components"][0];
        if component["attempts"].as_u64() < Some(2) {
            return Err(Failure(format!("the runner was done before it was killed: {component}")));
        }
        sums(story)?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        let names = story.shell(&pod, "ls -A /store")?;
        if names.split_whitespace().collect::<Vec<_>>() != ["big1", "big2", "big3", "big4", "sums"] {
            return Err(Failure(format!("temporary files were left: {names}")));
        }
        sound(story)
    });
}

/// A running Backup is deleted: its lock is gone in seconds and the next run starts.
#[test]
fn a_deleted_backup_leaves_no_lock() {
    let Some(_world) = together() else { return };
    Story::tell("deleted", Story::begin, |story| {
        under_way(story, 800, "{}")?;
        story.kubectl.run(&[
            "-n",
            &story.namespace,
            "delete",
            "backup",
            "run",
            "--wait=true",
            "--timeout=60s",
        ])?;
        story.kubectl.until_true("no lock within seconds", Duration::from_secs(20), || {
            Ok(story.locks()?.is_empty())
        })?;
        story.nothing_left()?;
        story.backup("next", "{}", "Succeeded")?;
        sound(story)
    });
}

/// A running Restore is deleted: the application is back with its count.
#[test]
fn a_deleted_restore_gives_the_replicas_back() {
    let Some(_world) = together() else { return };
    Story::tell("deleted-restore", Story::begin, |story| {
        let pod = heavy(story, 600)?;
        let snapshot = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        story.shell(&pod, "rm /store/big*")?;
        story.start_restore("back", &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"))?;
        runner(story, "back")?;
        story.kubectl.run(&[
            "-n",
            &story.namespace,
            "delete",
            "restore",
            "back",
            "--wait=true",
            "--timeout=90s",
        ])?;
        story.scaled_back("app")?;
        sound(story)
    });
}

/// The S3 server goes away in the middle of a backup and comes back: the run waits for it and succeeds.
#[test]
fn a_backup_outlives_an_outage_of_the_store() {
    let Some(_world) = alone() else { return };
    Story::tell("outage", Story::begin, |story| {
        under_way(story, 800, "{}")?;
        story.bed.stop_s3()?;
        sleep(Duration::from_secs(8));
        let during = story.kubectl.get(&story.namespace, &["backup", "run"]);
        story.bed.start_s3()?;
        if phase(&during?) == "Succeeded" {
            return Err(Failure("the run was over before the outage: the story proves nothing".into()));
        }
        story.expect_end("backup", "run", "Succeeded")?;
        sound(story)
    });
}

/// The leader dies with its node's process; the replica that stands by takes over and finishes what it had begun.
#[test]
fn a_replica_that_stands_by_takes_over() {
    let Some(_world) = alone() else { return };
    Story::tell("failover", Story::begin, |story| {
        heavy(story, 400)?;
        let scale = |replicas: usize| -> Result<()> {
            story.kubectl.run(&[
                "-n",
                OPERATOR_NAMESPACE,
                "scale",
                "deployment",
                "-l",
                "app.kubernetes.io/component=operator",
                &format!("--replicas={replicas}"),
            ])?;
            story.kubectl.until_true("the replicas asked for", RUN, || {
                let pods = story.kubectl.list(OPERATOR_NAMESPACE, &["pods"])?;
                let ready = pods.iter().filter(|p| p["status"]["containerStatuses"][0]["ready"] == true);
                Ok(pods.len() == replicas && ready.count() == replicas)
            })
        };
        scale(2)?;
        let taken_over = (|| {
            let first = holder(story)?;
            story.start_backup("run", "{}")?;
            runner(story, "run")?;
            // Not restarted in place: the pod is gone, and with it whatever it knew.
            story.kubectl.run(&[
                "-n",
                OPERATOR_NAMESPACE,
                "delete",
                "pod",
                &first,
                "--force",
                "--grace-period=0",
            ])?;
            story.kubectl.until_true("another holder of the Lease", RUN, || Ok(holder(story)? != first))?;
            story.expect_end("backup", "run", "Succeeded")?;
            sound(story)
        })();
        scale(1)?;
        taken_over
    });
}

/// The one Job that a run (`backup`, `run`) has had for its volume.
fn only_job(story: &Story, kind: &str, name: &str) -> Result<Value> {
    let task = if kind == "backup" { "Backup" } else { "Restore" };
    let selector = format!("holdfast.dev/run-name={name},holdfast.dev/task={task}");
    let jobs = story.kubectl.list(&story.namespace, &["jobs", "-l", &selector])?;
    match jobs.as_slice() {
        [job] => Ok(job.clone()),
        _ => Err(Failure(format!("the {kind} {name} has {} Jobs, not one", jobs.len()))),
    }
}

/// The operator that leads.
fn holder(story: &Story) -> Result<String> {
    let lease = story.kubectl.get(OPERATOR_NAMESPACE, &["lease", "holdfast-operator"])?;
    Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
}

/// Does something while a run is at work, whose runner is held where it is until that is done; the run then comes to its end
/// with the same Job, in one attempt.
pub(crate) fn held_meanwhile(
    story: &Story,
    [kind, name]: [&str; 2],
    pod: &Value,
    fault: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let job = only_job(story, kind, name)?;
    story.bed.signal_container(pod, "SIGSTOP")?;
    let done = fault().and_then(|()| {
        let during = story.kubectl.get(&story.namespace, &[kind, name])?;
        if phase(&during) == "Running" {
            return Ok(());
        }
        Err(Failure(format!("the run is not at work: {}", during["status"])))
    });
    // Whatever came of it.
    let held = story.bed.signal_container(pod, "SIGCONT");
    done.and(held)?;
    let ended = story.expect_end(kind, name, "Succeeded")?;
    let component = &ended["status"]["components"][0];
    if component["job"] != job["metadata"]["name"] || component["attempts"] != 1 {
        return Err(Failure(format!("it was begun anew: {component}")));
    }
    Ok(())
}

/// Waits until the operator that leads has this image.
fn leads(story: &Story, image: &str) -> Result<()> {
    story.kubectl.until_true("the operator of the other image leads", RUN, || {
        let lease = story.kubectl.get(OPERATOR_NAMESPACE, &["lease", "holdfast-operator"])?;
        let holder = &lease["spec"]["holderIdentity"];
        let pods = story.kubectl.list(OPERATOR_NAMESPACE, &["pods"])?;
        Ok(pods
            .iter()
            .any(|p| p["metadata"]["name"] == *holder && p["spec"]["containers"][0]["image"] == image))
    })
}

/// Upgrades the operator while the Backup `run` is at work with this Job, whose runner is held; then lets it go on.
fn upgraded_meanwhile(story: &Story, held: &Value, job: &Value) -> Result<()> {
    let upgraded = (|| {
        story.bed.name_other_image()?;
        story.bed.change_image(OTHER_IMAGE)?;
        leads(story, OTHER_IMAGE)?;
        let now = only_job(story, "backup", "run")?;
        let during = story.kubectl.get(&story.namespace, &["backup", "run"])?;
        if now["metadata"]["uid"] != job["metadata"]["uid"] || phase(&during) != "Running" {
            return Err(Failure(format!("the run is not at work as before: {}", during["status"])));
        }
        Ok(())
    })();
    story.bed.signal_container(held, "SIGCONT")?;
    upgraded?;
    let ended = story.expect_end("backup", "run", "Succeeded")?;
    let component = &ended["status"]["components"][0];
    if component["job"] != job["metadata"]["name"] || component["attempts"] != 1 {
        return Err(Failure(format!("it was begun anew: {component}")));
    }
    story.backup("next", "{}", "Succeeded")?;
    sound(story)
}

/// The operator is upgraded while a runner of the older one is at work, which is held where it is until that is done. The new
/// operator goes on with that very Job, and works.
#[test]
fn an_operator_upgraded_in_the_middle_of_a_backup_finishes_it() {
    let Some(_world) = alone() else { return };
    Story::tell("upgraded", Story::begin, |story| {
        let pod = under_way(story, 600, "{}")?;
        story.bed.signal_container(&pod, "SIGSTOP")?;
        let job = only_job(story, "backup", "run")?;
        let upgraded = upgraded_meanwhile(story, &pod, &job);
        let back = story.bed.change_image(HOLDFAST_IMAGE).and_then(|()| leads(story, HOLDFAST_IMAGE));
        // What went wrong first is what to look at.
        upgraded.and(back)
    });
}

/// A Job of another release is still there when the operator was upgraded, and its runner does not understand what it is
/// told: the operator starts it again (`holdfast_protocol::VERSION`). The Secret is exchanged while no node takes the pod.
#[test]
fn a_job_of_another_release_is_started_again() {
    let Some(_world) = together() else { return };
    Story::tell("other-release", Story::begin, |story| {
        let own = story.namespace.clone();
        let label = format!("story.holdfast.test/{own}");
        story.app_with_a_file()?;
        story.apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: PodConfig\nmetadata: {{name: later}}\nspec: {{nodeSelector: {{{label}: 'yes'}}}}\n"
        ))?;
        story.start_backup("run", "{podConfigRef: {name: later}}")?;
        story.until("backup", "run", |o| o["status"]["components"][0]["job"].is_string().then_some(()))?;
        let job = only_job(story, "backup", "run")?;
        let name = job["metadata"]["name"].as_str().unwrap_or_default();

        let text = story.kubectl.run(&[
            "-n",
            &own,
            "get",
            "secret",
            name,
            "-o",
            "go-template={{index .data \"spec.json\" | base64decode}}",
        ])?;
        let mut spec: Value =
            serde_json::from_str(&text).map_err(|e| Failure(format!("the run spec is no JSON: {e}")))?;
        let version = spec["version"].as_u64().unwrap_or_default();
        spec["version"] = json!(version + 1);
        let mut secret = story.kubectl.get(&own, &["secret", name])?;
        if let Some(metadata) = secret["metadata"].as_object_mut() {
            metadata
                .retain(|key, _| ["name", "namespace", "labels", "ownerReferences"].contains(&key.as_str()));
        }
        secret["stringData"] = json!({"spec.json": spec.to_string()});
        // Nothing in it can be changed: that is how it was made.
        story.kubectl.run(&["-n", &own, "delete", "secret", name])?;
        story.kubectl.run_with(&["create", "-f", "-"], secret.to_string().as_bytes())?;

        story.kubectl.run(&["label", "nodes", "--all", &format!("{label}=yes")])?;
        let ended = story.expect_end("backup", "run", "Succeeded");
        story.kubectl.run(&["label", "nodes", "--all", &format!("{label}-")])?;
        let component = &ended?["status"]["components"][0];
        if component["job"] == name || component["attempts"].as_u64() < Some(2) {
            return Err(Failure(format!("its Job was not followed by another: {component}")));
        }
        sound(story)
    });
}
