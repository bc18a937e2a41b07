//! Faults of what a run depends on: the store, the node's agent, the API server.

use std::thread::sleep;
use std::time::Duration;

use holdfast_e2e::gate::{Gate, Mode};
use holdfast_e2e::kubectl::{Failure, Result, condition, phase};
use holdfast_e2e::story::{ENDED, RUN, Story};
use holdfast_e2e::workload;
use serde_json::Value;

use crate::crashes::{begun, heavy, heavy_on, held_meanwhile, locked, runner, sound, sums, under_way};
use crate::scoped_keys::Keys;
use crate::{alone, together};

/// A story whose storage is reached through a gate.
pub(crate) fn gated(story: &Story, gate: &Gate) -> String {
    let direct =
        story.storage_with("store", &story.bucket, &story.bed.access_key, &story.bed.secret_key, None);
    direct.replace(&story.bed.s3_endpoint, &gate.endpoint)
}

/// A clock that is wrong is named before anything is written. A store that refuses every third request, and that is
/// away for longer than the longest pause between two attempts, costs time and nothing else.
#[test]
fn a_wrong_clock_is_named_and_storms_and_outages_are_sat_out() {
    let Some(_world) = together() else { return };
    Story::tell("storms", Story::bare, |story| {
        let gate = Gate::open(story.bed)?;
        story.allow_root()?;
        gate.set(Mode::ClockSkew);
        story.apply(&gated(story, &gate))?;
        story.until("backupstorage", "store", |o| {
            let (status, reason, _) = condition(o, "Ready")?;
            (phase(o) == "Unavailable" && status == "False" && reason == "ClockSkew").then_some(())
        })?;
        gate.set(Mode::Open);
        let pod = heavy(story, 400)?;
        // A change of what the storage names has it tried at once.
        story.kubectl.run(&[
            "-n",
            &story.namespace,
            "patch",
            "secret",
            "store-s3",
            "-p",
            r#"{"stringData":{"note":"clock set"}}"#,
        ])?;
        story.storage_ready("store")?;

        gate.set(Mode::Storm);
        let before = gate.refused();
        story.start_backup("run", "{}")?;
        runner(story, "run")?;
        locked(story)?;
        gate.set(Mode::Closed);
        sleep(Duration::from_secs(35));
        let during = story.kubectl.get(&story.namespace, &["backup", "run"])?;
        gate.set(Mode::Storm);
        if phase(&during) != "Running" {
            return Err(Failure(format!("the run was not under way: {}", during["status"])));
        }
        let backup = story.expect_end("backup", "run", "Succeeded")?;
        if backup["status"]["components"][0]["attempts"] != 1 {
            return Err(Failure(format!("it was begun anew: {}", backup["status"]["components"][0])));
        }
        story.shell(&pod, "rm /store/big1; printf spoiled > /store/big2")?;
        let snapshot = Story::snapshot_of(&backup)?;
        story.restore("back", &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"), "Succeeded")?;
        sums(story)?;
        if gate.refused() < before + 5 {
            return Err(Failure(format!("only {} requests were refused: no storm", gate.refused() - before)));
        }
        gate.set(Mode::Open);
        sound(story)
    });
}

/// The store is away for ten minutes in the middle of a run. That costs time, and nothing else. Meanwhile the other stories do
/// what they want with the bed: the store behind the gate is this one's own, and its runner holds a place of the node that none
/// of them lets die.
#[test]
fn a_store_that_is_away_for_ten_minutes_costs_time_and_nothing_else() {
    let Some(world) = together() else { return };
    Story::tell("long-outage", Story::bare, move |story| {
        let gate = Gate::open(story.bed)?;
        story.allow_root()?;
        story.apply(&gated(story, &gate))?;
        story.storage_ready("store")?;
        heavy_on(story, 400, "n1")?;
        let pod = begun(story, "{}")?;
        gate.set(Mode::Closed);
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        drop(world);
        sleep(Duration::from_mins(10));
        let during = story.kubectl.get(&story.namespace, &["backup", "run"])?;
        if during["status"]["completionTime"].is_string() {
            return Err(Failure(format!(
                "{name} had ended before the store came back: {}",
                during["status"]
            )));
        }
        if gate.refused() == 0 {
            return Err(Failure("nobody asked the store meanwhile: the story proves nothing".into()));
        }
        gate.set(Mode::Open);
        let _world = together();
        let backup = story.kubectl.until(&story.namespace, "backup", "run", 3 * RUN, |o| {
            ENDED.contains(&phase(o)).then(|| o.clone())
        })?;
        if phase(&backup) != "Succeeded" {
            return Err(Failure(format!("{}", backup["status"])));
        }
        let snapshot = Story::snapshot_of(&backup)?;
        story.restore("back", &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"), "Succeeded")?;
        sums(story)?;
        sound(story)
    });
}

/// A run that is created while the store is away waits, says what for, and goes on by itself when the store is back.
#[test]
fn a_run_that_is_created_in_an_outage_waits_for_its_end() {
    let Some(_world) = together() else { return };
    Story::tell("early-run", Story::bare, |story| {
        let gate = Gate::open(story.bed)?;
        story.allow_root()?;
        story.apply(&gated(story, &gate))?;
        story.storage_ready("store")?;
        let pod = story.app_with_a_file()?;
        gate.set(Mode::Closed);
        // A change of what the storage names has it looked at before its five minutes are over.
        story.patch("secret", "store-s3", r#"{"stringData":{"note":"away"}}"#)?;
        story.kubectl.until(&story.namespace, "backupstorage", "store", 2 * RUN, |o| {
            (phase(o) == "Unavailable").then_some(())
        })?;
        story.start_backup("run", "{}")?;
        let waits = |o: &Value| {
            let said = o["status"]["message"].as_str()?;
            (phase(o) == "Pending" && said.contains("EndpointUnreachable")).then(|| said.to_owned())
        };
        let said = story.until("backup", "run", waits)?;
        if !said.contains("BackupStorage") || !story.kubectl.list(&story.namespace, &["jobs"])?.is_empty() {
            return Err(Failure(format!("it does not say what it waits for, or has a Job: {said}")));
        }
        sleep(Duration::from_secs(30));
        let during = story.kubectl.get(&story.namespace, &["backup", "run"])?;
        if waits(&during).is_none() {
            return Err(Failure(format!("it does not wait: {}", during["status"])));
        }
        gate.set(Mode::Open);
        let snapshot = Story::snapshot_of(&story.expect_end("backup", "run", "Succeeded")?)?;
        story.the_file_comes_back(&pod, &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"))?;
        sound(story)
    });
}

/// What a key that lost its right to write may do still.
const READ: [&str; 3] = ["s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation"];

/// The key's right to write is taken away in the middle of a run, which is held where it is until that is done. The run fails,
/// says what is refused and what to look at, and nothing claims to be saved. When the right is given back the next run goes
/// on in the same repository, whatever the first could not clear away, and the repository is sound.
#[test]
fn a_storage_that_turns_read_only_in_the_middle_of_a_run_is_told() {
    let Some(_world) = together() else { return };
    Story::tell("turns-read-only", Story::bare, |story| {
        story.allow_root()?;
        let server = story.bed.second_s3(&story.bucket)?;
        let (id, secret) = (story.bucket.clone(), "secret-of-the-storages-owner".to_owned());
        story.bed.second_s3_account(&id, &secret, &story.bucket)?;
        let yaml = story.storage_with("store", &story.bucket, &id, &secret, Some(&story.bed.ca_pem));
        // 200 MiB of noise take at least half a minute.
        let slow = "  limits: {uploadBytesPerSecond: 6M}\n";
        story.apply(&format!("{}{slow}", yaml.replace(&story.bed.s3_endpoint, &server.endpoint)))?;
        story.storage_ready("store")?;
        heavy(story, 200)?;
        story.start_backup("run", "{}")?;
        let pod = runner(story, "run")?;
        let name = story
            .until("backup", "run", |o| o["status"]["repositoryRef"]["name"].as_str().map(str::to_owned))?;
        let directory =
            story.until("repository", &name, |o| o["status"]["directory"].as_str().map(str::to_owned))?;
        let keys = Keys { id, secret, token: None, password: story.repository_password()? };
        let locks = || -> Result<usize> {
            let (well, said) = keys.repo(story, &server, &directory, &["list", "locks"])?;
            let ids = said.lines().filter(|line| line.trim().len() == 64).count();
            if well { Ok(ids) } else { Err(Failure(format!("locks cannot be listed: {said}"))) }
        };
        story.kubectl.until_true("a lock in the repository", RUN, || Ok(locks()? > 0))?;
        story.bed.signal_container(&pod, "SIGSTOP")?;
        let taken = story.bed.second_s3_account_may(&keys.id, &keys.secret, &story.bucket, &READ);
        // Whatever came of it.
        story.bed.signal_container(&pod, "SIGCONT")?;
        taken?;

        let failed = story.expect_end("backup", "run", "Failed")?;
        let component = &failed["status"]["components"][0];
        let said = component["message"].as_str().unwrap_or_default();
        if component["reason"] != "AccessDenied" || !said.contains("check the key's policy") {
            return Err(Failure(format!("it does not say what is refused: {component}")));
        }
        let snapshots = story.kubectl.list(&story.namespace, &["snapshots.holdfast.dev"])?;
        if !failed["status"]["snapshotRef"].is_null()
            || snapshots.iter().any(|one| one["status"]["complete"] == true)
        {
            return Err(Failure(format!("something is called saved: {}, {snapshots:?}", failed["status"])));
        }

        // Its lock could not be removed either, which is told.
        story.kubectl.until_true("an Event of the lock that stays", RUN, || {
            let events = story.kubectl.list(&story.namespace, &["events"])?;
            Ok(events
                .iter()
                .any(|e| e["reason"] == "RepositoryLocked" && e["involvedObject"]["name"] == "run"))
        })?;

        story.bed.second_s3_account(&keys.id, &keys.secret, &story.bucket)?;
        // Seen by a look that is due every five minutes; a change of what the storage names brings it about at once.
        story.patch("secret", "store-s3", r#"{"stringData":{"note":"may write again"}}"#)?;
        story.patch("backupstorage", "store", r#"{"spec":{"limits":null}}"#)?;
        story.storage_ready("store")?;
        let next = story.backup("next", "{}", "Succeeded")?;
        let snapshot = Story::snapshot_of(&next)?;
        story.restore("back", &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"), "Succeeded")?;
        sums(story)?;
        // The lock of the first is there still, and goes with a later run when it is stale, which takes half an hour.
        if locks()? != 1 {
            return Err(Failure(format!("there are {} locks, not that of the first run alone", locks()?)));
        }
        keys.expect(story, &server, &directory, &["unlock", "--remove-all"], None)?;
        keys.expect(story, &server, &directory, &["check", "--read-data"], None)?;
        story.nothing_left()
    });
}

/// A run that takes longer than it may is ended, says so, and leaves nothing once its store can be reached again.
#[test]
fn a_run_that_takes_longer_than_its_deadline_is_ended() {
    let Some(_world) = together() else { return };
    Story::tell("deadline", Story::bare, |story| {
        let gate = Gate::open(story.bed)?;
        story.allow_root()?;
        story.apply(&gated(story, &gate))?;
        story.storage_ready("store")?;
        under_way(story, 400, "{activeDeadline: 90s}")?;
        gate.set(Mode::Closed);
        story.kubectl.until_true("the end of the runner", RUN, || {
            let jobs = story.kubectl.list(&story.namespace, &["jobs", "-l", "holdfast.dev/task=Backup"])?;
            Ok(jobs.iter().all(|job| job["status"]["active"].as_u64().unwrap_or_default() == 0))
        })?;
        gate.set(Mode::Open);
        let backup = story.expect_end("backup", "run", "Failed")?;
        let component = &backup["status"]["components"][0];
        if component["reason"] != "DeadlineExceeded" || !backup["status"]["snapshotRef"].is_null() {
            return Err(Failure(format!("it does not say what ended it: {}", backup["status"])));
        }
        sound(story)?;
        story.backup("next", "{}", "Succeeded")?;
        sound(story)
    });
}

/// The same of a Restore, which holds the application at 0 meanwhile: that comes back, whatever the store does.
#[test]
fn a_restore_that_takes_longer_than_its_deadline_gives_the_replicas_back() {
    let Some(_world) = together() else { return };
    Story::tell("late-restore", Story::bare, |story| {
        let gate = Gate::open(story.bed)?;
        story.allow_root()?;
        story.apply(&gated(story, &gate))?;
        story.storage_ready("store")?;
        let pod = heavy(story, 200)?;
        let snapshot = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        story.shell(&pod, "rm /store/big1")?;
        // Its runner reads for longer than the deadline, however fast the bed is.
        story.patch("backupstorage", "store", r#"{"spec":{"limits":{"downloadBytesPerSecond":"200k"}}}"#)?;
        let from = format!("from: {{snapshotRef: {{name: {snapshot}}}}}");
        story.start_restore("back", &format!("{{undo: false, activeDeadline: 90s, {from}}}"))?;
        runner(story, "back")?;
        let held = story.kubectl.get(&story.namespace, &["deployment", "app"])?;
        if held["spec"]["replicas"] != 0 {
            return Err(Failure(format!("the application is not held at 0: {}", held["spec"]["replicas"])));
        }
        gate.set(Mode::Closed);
        // While the store is still away.
        story.scaled_back("app")?;
        gate.set(Mode::Open);
        let ended = story.expect_end("restore", "back", "Failed")?;
        if !ended["status"].to_string().contains("DeadlineExceeded") {
            return Err(Failure(format!("it does not say what ended it: {}", ended["status"])));
        }
        workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.nothing_left()?;
        story.patch("backupstorage", "store", r#"{"spec":{"limits":null}}"#)?;
        story.restore("again", &format!("{{undo: false, {from}}}"), "Succeeded")?;
        sums(story)?;
        sound(story)
    });
}

/// The kubelet of the runner's node, and then the API server, die in the middle of a run and are started again: the
/// runner goes on, and so does the operator. In the middle of a Backup, and of a Restore, which holds the application at 0.
#[test]
fn kubelet_and_api_server_are_started_again_in_the_middle_of_a_run() {
    let Some(_world) = alone() else { return };
    Story::tell("restarts", Story::begin, |story| {
        let restarted = |pod: &Value| {
            let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            story.bed.restart_daemon(&format!("{node}-kubelet"), Duration::from_secs(2))?;
            story.bed.restart_daemon("n1-apiserver", Duration::from_secs(2))?;
            story.kubectl.until_true("an answer of the API server", RUN, || {
                Ok(story.kubectl.run(&["get", "--raw", "/readyz"]).is_ok())
            })
        };
        let pod = under_way(story, 400, "{}")?;
        held_meanwhile(story, ["backup", "run"], &pod, || restarted(&pod))?;
        sound(story)?;

        let app = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&app, "rm /store/big1; printf spoiled > /store/big2")?;
        // 200 MB of noise: there is time to hold it.
        story.patch("backupstorage", "store", r#"{"spec":{"limits":{"downloadBytesPerSecond":"10M"}}}"#)?;
        story.start_restore("back", "{undo: false, from: {latestOf: {claim: data}}}")?;
        let pod = runner(story, "back")?;
        held_meanwhile(story, ["restore", "back"], &pod, || restarted(&pod))?;
        sums(story)?;
        sound(story)
    });
}

/// The runner's node dies: its kubelet is silent, what ran on it is gone, and its pods are taken away, as the node controller
/// does after five minutes. The run goes on with another attempt when the node, and with it the volume, is back.
#[test]
fn a_node_that_dies_during_a_backup_costs_an_attempt() {
    let Some(_world) = alone() else { return };
    Story::tell("dead-node", Story::begin, |story| {
        let pod = under_way(story, 800, "{}")?;
        let kubelet = format!("{}-kubelet", pod["spec"]["nodeName"].as_str().unwrap_or_default());
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        std::thread::scope(|scope| {
            let back = scope.spawn(|| story.bed.restart_daemon(&kubelet, Duration::from_mins(1)));
            sleep(Duration::from_secs(2));
            let gone = story.bed.kill_container(&pod).and_then(|()| {
                story.kubectl.run(&["-n", &story.namespace, "delete", "pod", name, "--wait=false"])
            });
            back.join()
                .map_err(|_| Failure("the thread that starts the kubelet again panicked".into()))??;
            gone
        })?;
        let backup = story.expect_end("backup", "run", "Succeeded")?;
        let component = &backup["status"]["components"][0];
        if component["attempts"].as_u64() < Some(2) {
            return Err(Failure(format!("no other attempt: {component}")));
        }
        sound(story)
    });
}
