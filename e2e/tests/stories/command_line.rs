//! The command line for people: a backup followed, a restore planned and confirmed, an installation examined.

use std::path::{Path, PathBuf};

use holdfast_e2e::holdfast::Holdfast;
use holdfast_e2e::kubectl::{Failure, Result};
use holdfast_e2e::story::Story;
use holdfast_e2e::workload::{self, Keeper};
use serde_json::Value;

use crate::{alone, anywhere};

/// What a person does from the first backup to the restored volume, and what a script sees of it.
#[test]
fn a_person_backs_up_looks_and_restores() {
    let _world = anywhere();
    Story::tell("cli", Story::begin, |story| {
        let holdfast = story.bed.holdfast()?;
        let n = story.namespace.clone();
        let app = Keeper::deployment("app", "data");
        story.apply(&format!("{}{}", workload::claim("data", "", "1Gi"), workload::keeper(&app)))?;
        let pod = workload::ready_pod(&story.kubectl, &n, "app")?;
        story.shell(&pod, "echo saved > /store/file; echo other > /store/second")?;

        holdfast.expect(&["status", "-n", &n, "--check"], 5, &["! Unprotected", "no backup holds it"])?;
        holdfast.expect(&["backup", "-n", &n, "--claim", "dta"], 2, &["did you mean data?"])?;
        holdfast.expect(
            &["backup", "first", "-n", &n],
            0,
            &["Backup", "Succeeded", "✓ volume/data", "snapshot", "1 of 1 volume"],
        )?;
        holdfast.expect(&["backup", "first", "-n", &n], 1, &["exists already"])?;
        holdfast.expect(
            &["status", "-n", &n, "--check", "--max-age", "26h"],
            0,
            &["1 of 1 claim protected"],
        )?;
        holdfast.expect(&["status", "-n", &n, "--check", "--max-age", "0s"], 5, &["! TooOld"])?;
        let list = holdfast.json(&["snapshots", "-n", &n, "-o", "json"], 0)?;
        let snapshot = list["items"][0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        holdfast.expect(&["snapshots", "-n", &n], 0, &[&snapshot, "yes", "volume/data", "first"])?;
        holdfast.expect(
            &["describe", "backup/first", "-n", &n],
            0,
            &["Conditions", "Events", "Succeeded"],
        )?;
        holdfast.expect(&["describe", &format!("snapshot/{snapshot}"), "-n", &n], 0, &["volume/data"])?;
        holdfast.expect(&["describe", "storage/store", "-n", &n], 0, &["Ready", "s3:"])?;
        holdfast.expect(&["describe", "storage/stoer", "-n", &n], 2, &["did you mean store?"])?;
        both_forms_hold_the_same(&holdfast, &n, &list)?;
        the_logs_of_a_run(&holdfast, &n)?;

        story.shell(&pod, "echo spoiled > /store/file; rm /store/second; echo new > /store/third")?;
        holdfast.expect(&["restore", "first", "-n", &n], 2, &["no terminal to ask on"])?;
        holdfast.expect(
            &["restore", "first", "-n", &n, "--dry-run", "--delete-extra"],
            0,
            &[&snapshot, "volume/data → claim data", "delete", "stop"],
        )?;
        let look = story.shell(&pod, "cat /store/file")?;
        if look.trim() != "spoiled" {
            return Err(Failure(format!("a dry run changed the volume: {look:?}")));
        }
        no_restores(story)?;
        holdfast.expect(
            &[
                "restore",
                "--latest",
                "--claim",
                "data",
                "--delete-extra",
                "-n",
                &n,
                "--yes",
                "--name",
                "back",
            ],
            0,
            &["Restore", "Succeeded", "verified", "1 deleted"],
        )?;
        let pod = workload::ready_pod(&story.kubectl, &n, "app")?;
        let look = story.shell(&pod, "cat /store/file /store/second; ls /store")?;
        if !look.starts_with("saved\nother\n") || look.contains("third") {
            return Err(Failure(format!("the volume holds {look:?}")));
        }
        holdfast.expect(&["describe", "restore/back", "-n", &n], 0, &["Plan", "Succeeded"])?;
        holdfast.expect(&["undo", "bck", "-n", &n, "--yes"], 2, &["did you mean back?"])?;
        holdfast.expect(&["undo", "back", "-n", &n], 2, &["no terminal to ask on"])?;
        holdfast.expect(&["undo", "back", "-n", &n, "--yes"], 0, &["Restore", "Succeeded", "verified"])?;
        let pod = workload::ready_pod(&story.kubectl, &n, "app")?;
        let look = story.shell(&pod, "cd /store; cat file third; ls")?;
        if !look.starts_with("spoiled\nnew\n") || look.contains("second") {
            return Err(Failure(format!("undone, the volume holds {look:?}")));
        }
        one_file_and_back(story, &holdfast)?;
        holdfast.expect(
            &["restore", "nothing", "-n", &n, "--dry-run"],
            2,
            &["there is no Snapshot nothing"],
        )?;
        as_plugin(story, &holdfast)?;
        story.nothing_left()
    });
}

/// One file is put back, the application goes on writing, and the undo takes that file away again and nothing else.
fn one_file_and_back(story: &Story, holdfast: &Holdfast) -> Result<()> {
    let n = story.namespace.clone();
    let args =
        ["restore", "--latest", "--claim", "data", "--path", "/second", "-n", &n, "--yes", "--name", "one"];
    holdfast.expect(&args, 0, &["Restore", "Succeeded"])?;
    let pod = workload::ready_pod(&story.kubectl, &n, "app")?;
    story.shell(&pod, "cd /store; test -e second && echo later > file")?;
    holdfast.expect(
        &["undo", "one", "-n", &n, "--yes"],
        0,
        &["/second of data", "Succeeded", "1 deleted"],
    )?;
    let pod = workload::ready_pod(&story.kubectl, &n, "app")?;
    let look = story.shell(&pod, "cd /store; cat file third; ls")?;
    if !look.starts_with("later\nnew\n") || look.contains("second") {
        return Err(Failure(format!("one file undone, the volume holds {look:?}")));
    }
    Ok(())
}

/// What scripts read as YAML is what they read as JSON, and no text of it has become a number or a date.
fn both_forms_hold_the_same(holdfast: &Holdfast, n: &str, list: &Value) -> Result<()> {
    let yaml = holdfast.yaml(&["snapshots", "-n", n, "-o", "yaml"])?;
    let of = |list: &Value| {
        let one = &list["items"][0];
        // The rest of an object's metadata and its status may be written between two looks.
        serde_json::json!([list["kind"], one["kind"], one["metadata"]["name"], one["spec"]])
    };
    let components = &yaml["items"][0]["status"]["components"];
    if of(&yaml) != of(list) || components[0]["name"] != "volume/data" {
        return Err(Failure(format!("as YAML: {yaml}\nas JSON: {list}")));
    }
    let report = holdfast.yaml(&["status", "-n", n, "-o", "yaml"])?;
    let other = holdfast.json(&["status", "-n", n, "-o", "json"], 0)?;
    let claim = &report["claims"][0];
    let holds = claim["claim"] == "data"
        && claim["protection"] == "Protected"
        && claim["snapshot"] == yaml["items"][0]["metadata"]["name"]
        && report["storages"][0]["name"] == "store";
    if !holds || report["claims"] != other["claims"] {
        return Err(Failure(format!("as YAML: {report}\nas JSON: {other}")));
    }
    Ok(())
}

/// A run that goes on is followed to its end, and that is told. Of one that went well, nothing but its pods' logs is kept:
/// either those speak or it is said that they are gone. (What is told of a run that did not go well,
/// `unreadable_files_are_listed` looks at.)
fn the_logs_of_a_run(holdfast: &Holdfast, n: &str) -> Result<()> {
    holdfast.expect(&["backup", "second", "-n", n, "--no-wait"], 0, &["second"])?;
    let end = format!("Backup {n}/second: Succeeded");
    holdfast.expect(&["logs", "-f", "backup/second", "-n", n], 0, &[&end])?;
    let told = holdfast.expect(&["logs", "backup/first", "-n", n], 0, &[])?;
    let gone = told.err.contains(&format!("the pods of Backup {n}/first are gone"));
    if gone != told.out.trim().is_empty() {
        return Err(Failure(format!("of the first backup is told: {:?} {:?}", told.out, told.err)));
    }
    holdfast.expect(&["logs", "backup/first", "-n", n, "--component", "dta"], 2, &["no component dta"])?;
    Ok(())
}

/// The dry run that a plan is made with does not stay.
fn no_restores(story: &Story) -> Result<()> {
    story.kubectl.until_true("no Restore is left of a dry run", holdfast_e2e::story::RUN, || {
        Ok(story.kubectl.list(&story.namespace, &["restores.holdfast.dev"])?.is_empty())
    })
}

/// The same program, found by kubectl.
fn as_plugin(story: &Story, holdfast: &Holdfast) -> Result<()> {
    let directory = scratch(story, "plugin")?;
    let plugin = directory.join("kubectl-holdfast");
    let program = std::fs::canonicalize(holdfast.program()).map_err(|e| broken(holdfast.program(), &e))?;
    std::os::unix::fs::symlink(program, &plugin).map_err(|e| broken(&plugin, &e))?;
    let called = holdfast.called(plugin);
    called.expect(&["snapshots", "-n", &story.namespace], 0, &["first"])?;
    called.expect(&["restore", "--help"], 0, &["Usage: kubectl holdfast restore"])?;
    std::fs::remove_dir_all(&directory).map_err(|e| broken(&directory, &e))
}

fn scratch(story: &Story, name: &str) -> Result<PathBuf> {
    let directory = std::env::temp_dir().join(format!("holdfast-{}-{name}", story.namespace));
    std::fs::create_dir_all(&directory).map_err(|e| broken(&directory, &e))?;
    Ok(directory)
}

fn broken(path: &Path, e: &std::io::Error) -> Failure {
    Failure(format!("{}: {e}", path.display()))
}

/// The doctor is content with a healthy installation, finds what is planted, and tells somebody with few rights what
/// they may not do. Alone: what others leave for a moment is not this story's.
#[test]
fn the_doctor_finds_what_is_wrong_and_nothing_else() {
    let Some(_world) = alone() else { return };
    Story::tell("doctor", Story::begin, |story| {
        let holdfast = story.bed.holdfast()?;
        let n = story.namespace.clone();
        let app = Keeper::deployment("app", "data");
        story.apply(&format!("{}{}", workload::claim("data", "", "1Gi"), workload::keeper(&app)))?;
        let pod = workload::ready_pod(&story.kubectl, &n, "app")?;
        story.shell(&pod, "echo saved > /store/file")?;
        story.backup("first", "{}", "Succeeded")?;

        let of_story = |findings: &Value, severity: &str| -> Vec<String> {
            let about = |f: &&Value| f["object"].as_str().is_none_or(|o| o.contains(&n));
            let all = findings.as_array().into_iter().flatten();
            all.filter(|f| f["severity"] == severity).filter(about).map(ToString::to_string).collect()
        };
        let healthy = holdfast.run(&["doctor", "-n", &n, "-o", "json"])?;
        let findings: Value = serde_json::from_str(&healthy.out)
            .map_err(|e| Failure(format!("no JSON: {e}\n{}\n{}", healthy.out, healthy.err)))?;
        let errors = of_story(&findings, "Error");
        if !errors.is_empty() {
            return Err(Failure(format!("the doctor finds fault with a healthy installation: {errors:?}")));
        }
        holdfast.expect(
            &["doctor", "-n", &n, "--all"],
            healthy.code,
            &["leads", "all kinds are served", "rights", "nodes and the API server agree about the time"],
        )?;

        let record = r#"holdfast.dev/quiesce={"replicas":1,"holders":["nobody"]}"#;
        story.kubectl.run(&["-n", &n, "annotate", "deployment/app", record])?;
        let planted = holdfast.json(&["doctor", "-n", &n, "-o", "json"], 5)?;
        let errors = of_story(&planted, "Error");
        if !errors.iter().any(|e| e.contains("deployment/app") && e.contains("run that is over")) {
            return Err(Failure(format!("the planted record is not found: {planted}")));
        }
        story.kubectl.run(&["-n", &n, "annotate", "deployment/app", "holdfast.dev/quiesce-"])?;
        // Kubernetes copied it down, and leaves it there; the operator takes off only what it wrote itself.
        story.kubectl.run(&["-n", &n, "annotate", "replicasets", "--all", "holdfast.dev/quiesce-"])?;

        let poor = with_few_rights(story, &holdfast, "view")?;
        poor.expect(&["snapshots", "-n", &n], 0, &["first"])?;
        poor.expect(&["backup", "-n", &n], 1, &["forbidden", "role `edit`"])?;
        poor.expect(&["snapshots", "-A"], 1, &["forbidden"])?;
        poor.expect(&["doctor", "-n", &n], 0, &["you may not create backups.holdfast.dev", "only"])?;
        holdfast.expect(
            &["snapshots", "-n", &format!("{n}x")],
            2,
            &["there is no namespace", "did you mean"],
        )?;
        let nowhere = holdfast.with_kubeconfig(scratch(story, "none")?.join("absent"));
        nowhere.expect(&["status"], 2, &["no kubeconfig can be read"])?;
        story.nothing_left()
    });
}

/// Whoever may edit a namespace, and nothing else in the cluster, does all that a person does: the chart adds Holdfast's kinds to
/// the roles that Kubernetes has.
#[test]
fn who_may_edit_a_namespace_backs_it_up_and_restores_it() {
    let _world = anywhere();
    Story::tell("editor", Story::begin, |story| {
        let n = story.namespace.clone();
        let app = Keeper::deployment("app", "data");
        story.apply(&format!("{}{}", workload::claim("data", "", "1Gi"), workload::keeper(&app)))?;
        let pod = workload::ready_pod(&story.kubectl, &n, "app")?;
        story.shell(&pod, "echo saved > /store/file")?;

        let editor = with_few_rights(story, &story.bed.holdfast()?, "edit")?;
        editor.expect(&["backup", "first", "-n", &n], 0, &["Succeeded", "1 of 1 volume"])?;
        editor.expect(&["status", "-n", &n, "--check"], 0, &["1 of 1 claim protected"])?;
        editor.expect(&["snapshots", "-n", &n], 0, &["volume/data", "first"])?;
        editor.expect(&["describe", "backup/first", "-n", &n], 0, &["Conditions", "Events"])?;
        editor.expect(&["backup", "second", "-n", &n, "--no-wait"], 0, &["second"])?;
        editor.expect(&["logs", "-f", "backup/second", "-n", &n], 0, &["second: Succeeded"])?;

        let holds = |text: &str| -> Result<()> {
            let pod = workload::ready_pod(&story.kubectl, &n, "app")?;
            let look = story.shell(&pod, "cat /store/file")?;
            if look.trim() == text {
                Ok(())
            } else {
                Err(Failure(format!("the volume holds {look:?} and not {text}")))
            }
        };
        story.shell(&pod, "echo spoiled > /store/file")?;
        editor.expect(&["restore", "first", "-n", &n, "--dry-run"], 0, &["volume/data → claim data"])?;
        editor.expect(
            &["restore", "first", "-n", &n, "--yes", "--name", "back"],
            0,
            &["Succeeded", "verified"],
        )?;
        holds("saved")?;
        editor.expect(&["undo", "back", "-n", &n, "--yes"], 0, &["Succeeded", "verified"])?;
        holds("spoiled")?;
        no_dry_runs(story)?;

        let rights = format!("you may do all that the commands need in {n}");
        editor.expect(&["doctor", "-n", &n, "--all"], 0, &[&rights])?;
        editor.expect(&["snapshots", "-A"], 1, &["forbidden"])?;
        story.nothing_left()
    });
}

/// Of what plans were made with, nothing stays.
fn no_dry_runs(story: &Story) -> Result<()> {
    story.kubectl.until_true("no dry run is left", holdfast_e2e::story::RUN, || {
        let all = story.kubectl.list(&story.namespace, &["restores.holdfast.dev"])?;
        Ok(all.iter().all(|restore| restore["spec"]["dryRun"] != true))
    })
}

/// The command line as a ServiceAccount that has one of the roles that Kubernetes has for people, in the story's namespace.
fn with_few_rights(story: &Story, holdfast: &Holdfast, role: &str) -> Result<Holdfast> {
    let n = &story.namespace;
    story.kubectl.run(&["-n", n, "create", "serviceaccount", "poor"])?;
    story.kubectl.run(&[
        "-n",
        n,
        "create",
        "rolebinding",
        "poor",
        &format!("--clusterrole={role}"),
        &format!("--serviceaccount={n}:poor"),
    ])?;
    let token = story.kubectl.run(&["-n", n, "create", "token", "poor"])?;
    let config = story.kubectl.run(&["config", "view", "--raw", "--minify", "-o", "json"])?;
    let mut config: Value =
        serde_json::from_str(&config).map_err(|e| Failure(format!("the kubeconfig is no JSON: {e}")))?;
    config["users"][0]["user"] = serde_json::json!({"token": token.trim()});
    let file = scratch(story, "poor")?.join("kubeconfig");
    std::fs::write(&file, config.to_string()).map_err(|e| broken(&file, &e))?;
    Ok(holdfast.with_kubeconfig(file))
}
