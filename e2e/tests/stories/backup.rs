//! Backups: what is covered, what is not, and what the status says of it.

use holdfast_e2e::kubectl::{Failure, Result, condition};
use holdfast_e2e::story::{RUN, Story};
use holdfast_e2e::workload::{self, Keeper};
use serde_json::Value;

use crate::{alone, anywhere, together};

/// Reason for which a claim was skipped.
fn skipped<'a>(backup: &'a Value, claim: &str) -> Option<&'a str> {
    backup["status"]["coverage"]["skipped"].as_array()?.iter().find(|s| s["claim"] == claim)?["reason"]
        .as_str()
}

fn expect_skip(backup: &Value, claim: &str, reason: &str) -> Result<()> {
    match skipped(backup, claim) {
        Some(found) if found == reason => Ok(()),
        other => Err(Failure(format!(
            "{claim} should be skipped for {reason}, not {other:?}: {}",
            backup["status"]
        ))),
    }
}

/// Expects these claims, by name, to have been saved and no others.
fn expect_saved(backup: &Value, claims: &[&str]) -> Result<()> {
    let all = backup["status"]["components"].as_array().map(Vec::as_slice).unwrap_or_default();
    let saved: Vec<_> = all
        .iter()
        .filter(|c| c["snapshotId"].is_string())
        .filter_map(|c| c["source"]["claim"].as_str())
        .collect();
    if saved == claims {
        return Ok(());
    }
    Err(Failure(format!("{saved:?} were saved, not {claims:?}: {}", backup["status"])))
}

/// A claim with data, used by a Deployment.
fn with_data(story: &Story, claim: &str, app: &str) -> Result<String> {
    story.apply(&format!(
        "{}{}",
        workload::claim(claim, "", "1Gi"),
        workload::keeper(&Keeper::deployment(app, claim))
    ))?;
    let pod = workload::ready_pod(&story.kubectl, &story.namespace, app)?;
    story.shell(&pod, "echo data > /store/file")?;
    Ok(pod)
}

#[test]
fn nothing_to_back_up_is_skipped_and_never_succeeded() {
    let _world = anywhere();
    Story::tell("nothing", Story::begin, |story| {
        let backup = story.backup("empty", "{}", "Skipped")?;
        if backup["status"]["snapshotRef"].is_object() {
            return Err(Failure("a skipped run names a Snapshot".into()));
        }
        story.nothing_left()
    });
}

/// Left out by the user's wish: still Succeeded, and the coverage says so.
#[test]
fn a_claim_left_out_by_annotation_does_not_hurt_the_run() {
    let _world = anywhere();
    Story::tell("left-out", Story::begin, |story| {
        with_data(story, "data", "app")?;
        with_data(story, "scratch", "other")?;
        story.kubectl.run(&["-n", &story.namespace, "annotate", "pvc/scratch", "k8up.io/backup=false"])?;
        let backup = story.backup("run", "{}", "Succeeded")?;
        expect_skip(&backup, "scratch", "ExcludedByAnnotation")?;
        if backup["status"]["coverage"]["protected"] != 1 {
            return Err(Failure(format!("coverage: {}", backup["status"]["coverage"])));
        }
        story.nothing_left()
    });
}

/// Left out against the user's wish: PartiallyFailed. A claim that no pod has used yet has no data to lose.
#[test]
fn claims_that_cannot_be_mounted_are_told_apart() {
    let Some(_world) = together() else { return };
    Story::tell("coverage", Story::begin, |story| {
        with_data(story, "data", "app")?;
        // Nobody uses it: unbound, WaitForFirstConsumer.
        story.apply(&workload::claim("unused", "", "1Gi"))?;
        let backup = story.backup("unused", "{}", "Succeeded")?;
        expect_skip(&backup, "unused", "NoDataYet")?;
        story.kubectl.run(&["-n", &story.namespace, "delete", "pvc/unused"])?;

        // Pending: its class does not exist.
        story.apply(&workload::claim("pending", "no-such-class", "1Gi"))?;
        let backup = story.backup("pending", "{}", "PartiallyFailed")?;
        expect_skip(&backup, "pending", "ClaimPending")?;
        story.kubectl.run(&["-n", &story.namespace, "delete", "pvc/pending"])?;

        // Lost: its volume was deleted under it.
        story.apply(&format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {0}-lost}}\nspec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], storageClassName: none, claimRef: {{namespace: {0}, name: lost}}, hostPath: {{path: /tmp/hostpath_pv/{0}}}}}\n---\n{1}",
            story.namespace,
            workload::claim("lost", "none", "1Gi")
        ))?;
        story.until("pvc", "lost", |o| (o["status"]["phase"] == "Bound").then_some(()))?;
        let volume = format!("{}-lost", story.namespace);
        story.kubectl.run(&["delete", "pv", &volume, "--wait=false"])?;
        story.kubectl.run(&[
            "patch",
            "pv",
            &volume,
            "--type=merge",
            "-p",
            r#"{"metadata":{"finalizers":null}}"#,
        ])?;
        story.until("pvc", "lost", |o| (o["status"]["phase"] == "Lost").then_some(()))?;
        let backup = story.backup("lost", "{}", "PartiallyFailed")?;
        expect_skip(&backup, "lost", "ClaimLost")?;
        let snapshot = Story::snapshot_of(&backup)?;
        story.until("snapshot", &snapshot, |_| Some(()))?;
        story.nothing_left()
    });
}

/// A claim in another access mode than most.
fn claim_as(name: &str, mode: &str) -> String {
    workload::claim(name, "", "16Mi").replace("ReadWriteOnce", mode)
}

/// What a claim is like decides, too: a block device has no files, and one that a single pod may mount is saved when that pod
/// is gone. One that many may mount is no obstacle.
#[test]
fn block_devices_and_claims_of_a_single_pod_are_told_apart() {
    let Some(_world) = together() else { return };
    Story::tell("modes", Story::begin, |story| {
        story.apply(&format!(
            "{}{}{}{}{}",
            workload::claim("raw", "csi-disk", "16Mi")
                .replace("accessModes:", "volumeMode: Block\n  accessModes:"),
            claim_as("single", "ReadWriteOncePod"),
            workload::keeper(&Keeper::deployment("one", "single")),
            claim_as("shared", "ReadWriteMany"),
            workload::keeper(&Keeper::deployment("many", "shared"))
        ))?;
        for app in ["one", "many"] {
            let pod = workload::ready_pod(&story.kubectl, &story.namespace, app)?;
            story.shell(&pod, "echo data > /store/file")?;
        }
        story.until("pvc", "raw", |o| (o["status"]["phase"] == "Bound").then_some(()))?;
        let backup = story.backup("in-use", "{}", "PartiallyFailed")?;
        expect_skip(&backup, "raw", "BlockVolume")?;
        expect_skip(&backup, "single", "ReadWriteOncePodInUse")?;
        expect_saved(&backup, &["shared"])?;

        story.kubectl.run(&["-n", &story.namespace, "delete", "deployment/one"])?;
        workload::gone(&story.kubectl, &story.namespace, "one")?;
        let backup = story.backup("stopped", "{volumes: {claims: [single]}}", "Succeeded")?;
        expect_saved(&backup, &["single"])?;
        story.nothing_left()
    });
}

/// A claim that was asked for by name and is not there is a failure, not a smaller success.
#[test]
fn a_named_claim_that_is_missing_is_a_failure() {
    let _world = anywhere();
    Story::tell("named", Story::begin, |story| {
        with_data(story, "data", "app")?;
        let backup = story.backup("one", "{volumes: {claims: [data, ghost]}}", "PartiallyFailed")?;
        expect_skip(&backup, "ghost", "ClaimNotFound")?;
        let backup = story.backup("none", "{volumes: {claims: [ghost]}}", "Failed")?;
        expect_skip(&backup, "ghost", "ClaimNotFound")?;
        story.nothing_left()
    });
}

/// By label and by opting in: what is chosen is saved, what is not says why, and a wish is no gap.
#[test]
fn claims_are_chosen_by_label_and_by_opting_in() {
    let _world = anywhere();
    Story::tell("chosen", Story::begin, |story| {
        let own = story.namespace.clone();
        for name in ["db", "web", "cache"] {
            with_data(story, name, name)?;
            story.kubectl.run(&["-n", &own, "label", &format!("pvc/{name}"), &format!("part={name}")])?;
        }
        let backup = story.backup(
            "by-label",
            "{volumes: {claims: [web], selectors: [{matchLabels: {part: db}}, {matchLabels: {part: none}}]}}",
            "Succeeded",
        )?;
        expect_saved(&backup, &["db", "web"])?;
        expect_skip(&backup, "cache", "NotSelected")?;

        // Who opts in where the namespace asks for it.
        story.kubectl.run(&["annotate", "namespace", &own, "holdfast.dev/claims=OptIn"])?;
        let backup = story.backup("nobody", "{}", "Skipped")?;
        expect_skip(&backup, "db", "NotOptedIn")?;
        story.kubectl.run(&["-n", &own, "annotate", "pvc/cache", "holdfast.dev/backup=true"])?;
        let backup = story.backup("opted-in", "{}", "Succeeded")?;
        expect_saved(&backup, &["cache"])?;
        expect_skip(&backup, "web", "NotOptedIn")?;
        // The annotation wins over a selection, whichever way it says.
        story.kubectl.run(&["-n", &own, "annotate", "pvc/db", "holdfast.dev/backup=false"])?;
        let backup =
            story.backup("both", "{volumes: {selectors: [{matchLabels: {part: db}}]}}", "Succeeded")?;
        expect_saved(&backup, &["cache"])?;
        expect_skip(&backup, "db", "ExcludedByAnnotation")?;
        story.nothing_left()
    });
}

/// The operator leaves claims out that do not ask for it (`defaults.claims`): what asks is saved, the others are told with why,
/// here and in `holdfast status`; and a namespace may say otherwise.
#[test]
fn an_operator_whose_default_leaves_claims_out_saves_those_that_ask() {
    let Some(_world) = alone() else { return };
    Story::tell("opted-in", Story::begin, |story| {
        let own = story.namespace.clone();
        for name in ["asks", "silent"] {
            with_data(story, name, name)?;
        }
        story.kubectl.run(&["-n", &own, "annotate", "pvc/asks", "holdfast.dev/backup=true"])?;
        story.bed.with_values("defaults.claims=OptIn", || {
            let backup = story.backup("some", "{}", "Succeeded")?;
            expect_saved(&backup, &["asks"])?;
            expect_skip(&backup, "silent", "NotOptedIn")?;
            story.bed.holdfast()?.expect(&["status", "-n", &own], 0, &["silent", "Excluded", "OptIn"])?;
            story.kubectl.run(&["annotate", "namespace", &own, "holdfast.dev/claims=OptOut"])?;
            expect_saved(&story.backup("all", "{}", "Succeeded")?, &["asks", "silent"])
        })?;
        story.nothing_left()
    });
}

/// What the snapshot of a Backup's only claim, `data`, holds, as stock restic lists it.
fn listed(story: &Story, backup: &Value) -> Result<Vec<String>> {
    let id = backup["status"]["components"][0]["snapshotId"].as_str().unwrap_or_default();
    let text = story.restic("0.19.1", &["ls", id])?;
    let mut names: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("/data/data/")).map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

/// Files are left out by the Backup's patterns, by the claim's, and as a program's cache; each rule takes what it names and no
/// more. A Backup beside it that saves the same claim is told, and is sound.
#[test]
fn files_are_left_out_by_backup_and_claim_and_an_overlap_is_told() {
    let Some(_world) = together() else { return };
    Story::tell("excludes", Story::begin, |story| {
        let own = story.namespace.clone();
        let pod = with_data(story, "data", "app")?;
        story.shell(
            &pod,
            "cd /store; mkdir -p deep/tmp deep/scratch tmp warm
            for f in a.cast a.bak deep/b.cast deep/b.bak deep/tmp/kept deep/scratch/x tmp/x warm/x; do echo $f > $f; done
            echo 'Signature: 8a477f597d28d172789f06886806bc55' > warm/CACHEDIR.TAG",
        )?;
        let rules = "holdfast.dev/exclude=*.bak, scratch/";
        story.kubectl.run(&["-n", &own, "annotate", "pvc/data", rules])?;
        let expect = |backup: &Value, names: &[&str]| match listed(story, backup)? {
            found if found == names => Ok(()),
            found => Err(Failure(format!("the snapshot holds {found:?} and not {names:?}"))),
        };
        // Before anything is begun.
        let bad = story.backup("bad", "{volumes: {exclude: ['*.cast', '*.[ch']}}", "Failed")?;
        let said = bad["status"]["message"].as_str().unwrap_or_default();
        if !said.contains("spec.volumes.exclude") || !bad["status"]["components"].is_null() {
            return Err(Failure(format!("it does not say what is wrong: {}", bad["status"])));
        }
        // The claim's name, and where its runner mounts it, are nothing that a pattern could mean.
        let patterns = "{volumes: {exclude: ['*.cast', /tmp, data, /data/data]}}";
        let some = story.backup("some", patterns, "Succeeded")?;
        expect(&some, &["deep", "deep/tmp", "deep/tmp/kept", "file", "warm", "warm/CACHEDIR.TAG"])?;

        // 100 MB of noise at 1 MB a second: it is at work for longer than the next one can stand in line.
        story.shell(&pod, "head -c 100000000 /dev/urandom > /store/noise")?;
        story.patch("backupstorage", "store", r#"{"spec":{"limits":{"uploadBytesPerSecond":"1M"}}}"#)?;
        story.start_backup("slow", "{}")?;
        story.until("backup", "slow", |o| {
            (o["status"]["components"][0]["phase"] == "Running").then_some(())
        })?;
        story.patch("backupstorage", "store", r#"{"spec":{"limits":null}}"#)?;
        // Without rules of its own, the claim's remain.
        let beside =
            story.backup("beside", "{volumes: {exclude: [noise], excludeCaches: false}}", "Succeeded")?;
        let told = "Backup slow saves the same claims to the same repository at the moment: data";
        let warnings = beside["status"]["coverage"]["warnings"].as_array();
        if !warnings.is_some_and(|all| all.iter().any(|warning| warning == told)) {
            return Err(Failure(format!("the overlap is not told: {}", beside["status"])));
        }
        story.kubectl.until_true("an Event about the overlap", RUN, || {
            let events = story.kubectl.list(&own, &["events"])?;
            let is_it = |e: &Value| e["reason"] == "Overlapping" && e["involvedObject"]["name"] == "beside";
            Ok(events.iter().any(is_it))
        })?;
        expect(
            &beside,
            &[
                "a.cast",
                "deep",
                "deep/b.cast",
                "deep/tmp",
                "deep/tmp/kept",
                "file",
                "tmp",
                "tmp/x",
                "warm",
                "warm/CACHEDIR.TAG",
                "warm/x",
            ],
        )?;
        // What it would still upload proves nothing here.
        story.kubectl.run(&["-n", &own, "delete", "backup", "slow", "--timeout=60s"])?;
        story.nothing_left()
    });
}

/// What a Backup's Snapshot says of the files that could not be read, and whether it counts as complete.
fn expect_gaps(story: &Story, backup: &Value, unreadable: u64, complete: bool) -> Result<String> {
    let name = Story::snapshot_of(backup)?;
    let status = story.kubectl.get(&story.namespace, &["snapshot", &name])?["status"].clone();
    if status["components"][0]["unreadable"] == unreadable && status["complete"] == complete {
        return Ok(name);
    }
    Err(Failure(format!(
        "{unreadable} unreadable and complete: {complete} were expected of {name}: {status}"
    )))
}

/// Files that the runner may not read make the run PartiallyFailed, with the list; the rest is saved, and is told to be
/// that wherever it is restored from.
#[test]
fn unreadable_files_are_listed() {
    let _world = anywhere();
    Story::tell("unreadable", Story::begin, |story| {
        story.kubectl.run(&[
            "annotate",
            &format!("namespace/{}", story.namespace),
            "holdfast.dev/allow-root-runner-",
        ])?;
        let app = Keeper { user: 1000, ..Keeper::deployment("app", "data") };
        story.apply(&format!("{}{}", workload::claim("data", "", "1Gi"), workload::keeper(&app)))?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "cd /store; echo ok > readable; echo no > secret; chmod 000 secret; mkdir shut; echo x > shut/in; chmod 000 shut")?;
        let backup = story.backup("run", "{}", "PartiallyFailed")?;
        let component = &backup["status"]["components"][0];
        let sample = component["unreadableSample"].to_string();
        if component["unreadable"] != 2
            || !sample.contains("secret")
            || !sample.contains("shut")
            || component["runAs"]["uid"] != 1000
        {
            return Err(Failure(format!("the unreadable files are not told: {component}")));
        }
        if component["snapshotId"].is_null() {
            return Err(Failure("what could be read was not saved".into()));
        }
        // By the pod's log while that is there, and by what the status keeps of it afterwards.
        story.bed.holdfast()?.expect(
            &["logs", "backup/run", "-n", &story.namespace],
            0,
            &["/data/data/secret", "/data/data/shut", "ermission denied"],
        )?;
        // The user may say that such files do not matter, or that they matter more than the rest.
        let ignored = story.backup("ignore", "{failurePolicy: {onUnreadableFile: Ignore}}", "Succeeded")?;
        if ignored["status"]["components"][0]["unreadable"] != 2 {
            return Err(Failure("ignored files must still be counted".into()));
        }
        let gaps = expect_gaps(story, &backup, 2, false)?;
        expect_gaps(story, &ignored, 2, true)?;
        let strict =
            story.backup("strict", "{failurePolicy: {onUnreadableFile: Fail, retries: 0}}", "Failed")?;
        if !strict["status"]["components"][0]["snapshotId"].is_null() {
            return Err(Failure("a strict run committed a snapshot with gaps".into()));
        }
        // Root may read all, where an administrator allows it.
        story.allow_root()?;
        let whole = story.backup("root", "{}", "Succeeded")?;
        let whole = expect_gaps(story, &whole, 0, true)?;
        // The mirror says what the Backup said, from the tags alone.
        story.kubectl.run(&["-n", &story.namespace, "delete", "snapshot", &gaps])?;
        story.until("snapshot", &gaps, |o| {
            (o["status"]["complete"] == false && o["status"]["components"][0]["unreadable"] == 2)
                .then_some(())
        })?;
        // A newer one with gaps does not stand in the way of one that is whole, and says so when it is named. What root
        // saved and is unchanged would be taken over without being read.
        story.shell(
            &pod,
            "cd /store; chmod 700 shut; rm -rf shut secret; echo x > new; echo y > next; chmod 000 new next",
        )?;
        let newer = story.backup("newer", "{runAs: Workload}", "PartiallyFailed")?;
        let newer = expect_gaps(story, &newer, 2, false)?;
        let restore = |name: &str, from: &str| {
            let spec = format!(
                "{{from: {{{from}}}, volumes: [{{component: volume/data, to: {{newClaim: {{name: {name}}}}}}}]}}"
            );
            story.restore(name, &spec, "Succeeded")
        };
        let latest = restore("latest", "latestOf: {claim: data}")?;
        if latest["status"]["snapshotRef"]["name"] != whole {
            return Err(Failure(format!("{whole} is the last whole one: {}", latest["status"])));
        }
        let named = restore("named", &format!("snapshotRef: {{name: {newer}}}"))?;
        let told = condition(&named, "Completed").map(|(_, _, message)| message).unwrap_or_default();
        if !told.contains("2 files or directories of claim data could not be read") {
            return Err(Failure(format!("the end does not tell of the gaps: {}", named["status"])));
        }
        story.nothing_left()
    });
}

/// An empty volume is saved, and said to be empty.
#[test]
fn an_empty_volume_raises_a_condition() {
    let _world = anywhere();
    Story::tell("empty", Story::begin, |story| {
        let pod = with_data(story, "data", "app")?;
        story.shell(&pod, "rm /store/file")?;
        let backup = story.backup("run", "{}", "Succeeded")?;
        match condition(&backup, "SourceEmpty") {
            Some((status, _, message)) if status == "True" && message.contains("data") => {
                story.nothing_left()
            }
            other => Err(Failure(format!("no condition says that the volume is empty: {other:?}"))),
        }
    });
}

/// `kubectl describe` alone is enough to see what happened: Events, reasons, sizes.
#[test]
fn describe_tells_the_whole_run() {
    let _world = anywhere();
    Story::tell("describe", Story::begin, |story| {
        with_data(story, "data", "app")?;
        story.backup("run", "{}", "Succeeded")?;
        let text = story.kubectl.run(&["-n", &story.namespace, "describe", "backup", "run"])?;
        for needle in ["Succeeded", "volume/data", "Snapshot Id", "Bytes Processed", "Events:"] {
            if !text.contains(needle) {
                return Err(Failure(format!("describe does not say {needle}:\n{text}")));
            }
        }
        let columns = story.kubectl.run(&["-n", &story.namespace, "get", "backup", "run"])?;
        if columns.contains("<unknown>") || !columns.contains("Succeeded") {
            return Err(Failure(format!("columns: {columns}")));
        }
        Ok(())
    });
}
