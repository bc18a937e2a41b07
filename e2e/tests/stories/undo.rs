//! The way back from a restore: what it overwrites is saved first, or nothing is overwritten.

use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_e2e::gate::{Gate, Mode};
use holdfast_e2e::kubectl::{Failure, Result, phase};
use holdfast_e2e::story::{ENDED, RUN, Story};
use holdfast_e2e::tree::{describe, same};
use holdfast_e2e::workload::{self, Keeper};
use serde_json::Value;

use crate::crashes::sound;
use crate::faults::gated;
use crate::{anywhere, together};

/// Name of the safety Snapshot of a Restore.
fn undo_of(restore: &Value) -> Result<String> {
    restore["status"]["undoSnapshotRef"]["name"]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| Failure(format!("no safety Snapshot is named: {}", restore["status"])))
}

/// The spec of a Restore that makes the claim `data` exactly what a Snapshot holds.
fn exactly(snapshot: &str) -> String {
    format!(
        "{{from: {{snapshotRef: {{name: {snapshot}}}}}, volumes: [{{component: volume/data, to: {{existingClaim: {{name: data}}}}, deleteExtra: true}}]}}"
    )
}

fn says(object: &Value, needles: &[&str]) -> Result<()> {
    let said = object["status"].to_string();
    match needles.iter().find(|needle| !said.contains(*needle)) {
        Some(missing) => Err(Failure(format!("the status does not say {missing:?}: {said}"))),
        None => Ok(()),
    }
}

fn app(story: &Story, keeper: &Keeper<'_>) -> Result<String> {
    story.apply(&format!("{}{}", workload::claim(keeper.claim, "", "1Gi"), workload::keeper(keeper)))?;
    workload::ready_pod(&story.kubectl, &story.namespace, keeper.name)
}

fn tree(story: &Story) -> Result<String> {
    let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
    describe(&story.kubectl, &story.namespace, &pod, "/store")
}

/// Files that the restore deleted are back, those that it made are gone, those that it changed are as they were; and
/// the undo can be undone.
#[test]
fn what_was_there_before_a_restore_can_be_put_back_exactly() {
    let _world = anywhere();
    Story::tell("undo", Story::begin, |story| {
        let pod = app(story, &Keeper::deployment("app", "data"))?;
        story.fill(&pod, 300)?;
        let first = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        let saved = tree(story)?;
        story.shell(
            &pod,
            "cd /store; rm -rf many/0001 links; echo new > after-the-backup; mkdir made; echo x > made/file; \
             printf spoiled > random.bin; chmod 700 modes; rm fifo; mkdir fifo",
        )?;
        let before = tree(story)?;

        let plan = story.restore("look", &exactly(&first).replacen('{', "{dryRun: true, ", 1), "Planned")?;
        says(&plan, &["\"state\":\"Planned\"", "will be saved first"])?;
        let back = story.restore("back", &exactly(&first), "Succeeded")?;
        same(&saved, &tree(story)?)?;
        let undo = undo_of(&back)?;
        let object = story.kubectl.get(&story.namespace, &["snapshot", &undo])?;
        if object["spec"]["undoOf"] != "back"
            || object["metadata"]["labels"]["holdfast.dev/undo-of"] != "back"
        {
            return Err(Failure(format!("the Snapshot does not say what it is: {object}")));
        }

        // It is never the latest.
        let latest = story.restore("latest", "{dryRun: true, from: {latestOf: {}}}", "Planned")?;
        if latest["status"]["snapshotRef"]["name"] != first.as_str() {
            return Err(Failure(format!("chosen as the latest: {}", latest["status"]["snapshotRef"])));
        }

        let undone = story.restore("undone", &exactly(&undo), "Succeeded")?;
        same(&before, &tree(story)?)?;
        story.restore("redone", &exactly(&undo_of(&undone)?), "Succeeded")?;
        same(&saved, &tree(story)?)?;
        sound(story)?;
        story.nothing_left()
    });
}

/// The operator dies while it saves, and again when it has saved: the next one goes on, with one safety Snapshot, and
/// what it holds is what was there.
#[test]
fn an_operator_killed_before_the_first_byte_still_leaves_a_way_back() {
    let Some(_world) = together() else { return };
    Story::tell("undo-killed", Story::begin, |story| {
        let pod = app(story, &Keeper::deployment("app", "data"))?;
        story.shell(
            &pod,
            "cd /store; dd if=/dev/urandom of=big bs=1M count=200 2>/dev/null; echo one > file",
        )?;
        let first = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        let stages: [(&str, &str); 2] = [("saving", "Saving"), ("saved", "Saved")];
        for (name, state) in stages {
            let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
            story.shell(
                &pod,
                &format!(
                    "cd /store; dd if=/dev/urandom of=big bs=1M count=200 2>/dev/null; echo {name} > file"
                ),
            )?;
            let before = tree(story)?;
            story.start_restore(name, &exactly(&first))?;
            let deadline = Instant::now() + RUN;
            loop {
                let object = story.kubectl.get(&story.namespace, &["restore", name])?;
                if object["status"]["undo"]["state"] == state {
                    break;
                }
                if matches!(phase(&object), "Succeeded" | "Failed") || Instant::now() > deadline {
                    return Err(Failure(format!("{name} was never seen {state}: {}", object["status"])));
                }
                sleep(Duration::from_millis(20));
            }
            story.kill_operator()?;
            let done = story.expect_end("restore", name, "Succeeded")?;
            let undo = undo_of(&done)?;
            story.restore(&format!("{name}-undone"), &exactly(&undo), "Succeeded")?;
            same(&before, &tree(story)?)?;
            let selector = format!("holdfast.dev/undo-of={name}");
            let all = story.kubectl.list(&story.namespace, &["snapshots", "-l", &selector])?;
            if all.len() != 1 {
                return Err(Failure(format!("{} safety Snapshots of one Restore", all.len())));
            }
        }
        story.nothing_left()
    });
}

/// What cannot be saved whole is not overwritten: the reason and the way out are told, and the application comes back.
#[test]
fn nothing_is_overwritten_that_could_not_be_saved() {
    let Some(_world) = together() else { return };
    Story::tell("undo-refused", Story::begin, |story| {
        story.kubectl.run(&[
            "annotate",
            &format!("namespace/{}", story.namespace),
            "holdfast.dev/allow-root-runner-",
        ])?;
        let pod = app(story, &Keeper { user: 1000, ..Keeper::deployment("app", "data") })?;
        story.shell(&pod, "echo saved > /store/file")?;
        let first = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        story.shell(&pod, "echo newer > /store/file; echo no > /store/secret; chmod 000 /store/secret")?;
        let spec = exactly(&first).replacen('{', "{retries: 0, ", 1);

        // A file that the runner may not read.
        let gap = story.restore("gap", &spec, "Failed")?;
        says(&gap, &["UndoNotSaved", "undo: false", "\"state\":\"Failed\"", "secret"])?;
        unchanged(story)?;

        // The password does not open the repository any more.
        let secret = story
            .kubectl
            .list(&story.namespace, &["secrets"])?
            .into_iter()
            .find(|s| s["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("holdfast-repo-")))
            .ok_or_else(|| Failure("no Secret with the password".into()))?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "rm -f /store/secret")?;
        // Made anew, because nobody can change it.
        let replace = |value: &Value| -> Result<()> {
            let metadata = &secret["metadata"];
            let object = serde_json::json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": metadata["name"], "annotations": metadata["annotations"], "labels": metadata["labels"]},
                "data": {"password": value},
            });
            let args = ["-n", &story.namespace, "replace", "--force", "-f", "-"];
            story.kubectl.run_with(&args, object.to_string().as_bytes()).map(drop)
        };
        replace(&Value::from("d3Jvbmc="))?;
        story.start_restore("wrong", &spec)?;
        // The repository may be looked at, and found not to open, before the Restore begins: then that waits and says so.
        let waiting = ["RepositoryNotReady", "WrongPassword"];
        let wrong = story.until("restore", "wrong", |restore| {
            let waits = phase(restore) == "Pending" && says(restore, &waiting).is_ok();
            (waits || ENDED.contains(&phase(restore))).then(|| restore.clone())
        })?;
        match phase(&wrong) {
            "Failed" => says(&wrong, &["UndoNotSaved", "WrongPassword", "undo: false"])?,
            "Pending" => {
                story.kubectl.run(&["-n", &story.namespace, "delete", "restore", "wrong"])?;
            }
            other => return Err(Failure(format!("it ended {other}: {}", wrong["status"]))),
        }
        unchanged(story)?;
        replace(&secret["data"]["password"])?;

        // Without a way back it goes on, because that was asked for.
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "echo no > /store/secret; chmod 000 /store/secret")?;
        let off = story.restore("without", &spec.replacen('{', "{undo: false, ", 1), "Succeeded")?;
        says(&off, &["\"state\":\"Off\""])?;
        if !off["status"]["undoSnapshotRef"].is_null() {
            return Err(Failure("a safety Snapshot that nobody wanted".into()));
        }
        story.nothing_left()
    });
}

/// The store has no space for what is overwritten: the restore ends before its first byte, says so, and goes well when
/// there is room.
#[test]
fn a_full_store_keeps_the_restore_from_overwriting_anything() {
    let Some(_world) = together() else { return };
    Story::tell("undo-full", Story::bare, |story| {
        let gate = Gate::open(story.bed)?;
        story.allow_root()?;
        story.apply(&gated(story, &gate))?;
        story.storage_ready("store")?;
        let pod = app(story, &Keeper::deployment("app", "data"))?;
        story.shell(&pod, "echo saved > /store/file")?;
        let first = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        // More than can pass for small, and nothing that was stored before.
        story.shell(
            &pod,
            "echo newer > /store/file; dd if=/dev/urandom of=/store/big bs=1M count=40 2>/dev/null",
        )?;
        let before = tree(story)?;
        gate.set(Mode::Full);
        let spec = exactly(&first).replacen('{', "{retries: 0, ", 1);
        let full = story.restore("full", &spec, "Failed")?;
        says(
            &full,
            &[
                "UndoNotSaved",
                "nothing was overwritten",
                "no space left",
                "undo: false",
                "\"state\":\"Failed\"",
            ],
        )?;
        if gate.refused() == 0 || !full["status"]["undoSnapshotRef"].is_null() {
            return Err(Failure(format!("nothing was refused, or something saved: {}", full["status"])));
        }
        unchanged(story)?;
        same(&before, &tree(story)?)?;
        story.nothing_left()?;

        gate.set(Mode::Open);
        let back = story.restore("back", &spec, "Succeeded")?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "[ \"$(cat /store/file)\" = saved ] && [ ! -e /store/big ]")?;
        story.restore("undone", &exactly(&undo_of(&back)?), "Succeeded")?;
        same(&before, &tree(story)?)?;
        sound(story)
    });
}

/// The application is back, and its file is the newer one.
fn unchanged(story: &Story) -> Result<()> {
    story.until("deployment", "app", |o| (o["status"]["readyReplicas"] == 1).then_some(()))?;
    let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
    let text = story.shell(&pod, "cat /store/file")?;
    if text.trim() == "newer" { Ok(()) } else { Err(Failure(format!("the file now holds {text:?}"))) }
}

/// A claim that holds no files needs no way back, and the status says so.
#[test]
fn an_empty_claim_needs_no_way_back() {
    let _world = anywhere();
    Story::tell("undo-empty", Story::begin, |story| {
        let pod = app(story, &Keeper::deployment("app", "data"))?;
        story.shell(&pod, "echo saved > /store/file")?;
        let first = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        story.shell(&pod, "rm /store/file")?;
        let back = story.restore("back", &exactly(&first), "Succeeded")?;
        says(&back, &["\"state\":\"NotNeeded\"", "VolumeEmpty"])?;
        if !back["status"]["undoSnapshotRef"].is_null() {
            return Err(Failure(format!("a Snapshot of nothing: {}", back["status"])));
        }
        story.nothing_left()
    });
}
