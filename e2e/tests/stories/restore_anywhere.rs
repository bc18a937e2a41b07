//! Restores to where the data did not come from: new claims, another namespace, an older state, and a cluster that knows
//! nothing but bucket and password.

use holdfast_e2e::kubectl::{Failure, Result, phase};
use holdfast_e2e::story::{RUN, Story};
use holdfast_e2e::workload::{self, Keeper};
use serde_json::Value;

use crate::{anywhere, together};

/// A claim with one file, of a workload that runs as this user.
fn app(story: &Story, user: u32) -> Result<String> {
    let keeper = Keeper { user, ..Keeper::deployment("app", "data") };
    story.apply(&format!("{}{}", workload::claim("data", "", "64Mi"), workload::keeper(&keeper)))?;
    workload::ready_pod(&story.kubectl, &story.namespace, "app")
}

fn write(story: &Story, pod: &str, text: &str) -> Result<()> {
    story
        .shell(pod, &format!("echo {text} > /store/file; mkdir -p /store/etc; echo {text} > /store/etc/conf"))
        .map(drop)
}

/// What a file of a claim holds, read by a workload made for it.
fn read(story: &Story, app: &str, claim: &str, file: &str) -> Result<String> {
    story.apply(&workload::keeper(&Keeper::deployment(app, claim)))?;
    let pod = workload::ready_pod(&story.kubectl, &story.namespace, app)?;
    Ok(story.shell(&pod, &format!("cat /store/{file}"))?.trim().to_owned())
}

/// Whether the file of the claim `data` of another namespace holds this, read by a workload made for it.
fn holds(story: &Story, namespace: &str, wanted: &str) -> Result<()> {
    story.apply_in(namespace, &workload::keeper(&Keeper::deployment("look", "data")))?;
    let pod = workload::ready_pod(&story.kubectl, namespace, "look")?;
    expect(story.kubectl.shell(namespace, &pod, "cat /store/file")?.trim(), wanted)
}

#[track_caller]
fn expect(found: &str, wanted: &str) -> Result<()> {
    if found == wanted { Ok(()) } else { Err(Failure(format!("found {found:?} instead of {wanted:?}"))) }
}

fn says(object: &Value, needles: &[&str]) -> Result<()> {
    let said = object["status"].to_string();
    match needles.iter().find(|needle| !said.contains(*needle)) {
        Some(missing) => Err(Failure(format!("the status does not say {missing:?}: {said}"))),
        None => Ok(()),
    }
}

/// A Restore of a namespace when it has ended.
fn over(story: &Story, namespace: &str, name: &str) -> Result<Value> {
    story.kubectl.until(namespace, "restore", name, RUN, |o| {
        o["status"]["completionTime"].is_string().then(|| o.clone())
    })
}

/// Something saved, the directory that it is in, and another namespace, which is like a cluster that knows nothing: it has
/// no object and no Secret of the first one.
fn saved_and_a_namespace_that_knows_nothing(story: &mut Story) -> Result<(String, String)> {
    let pod = app(story, 0)?;
    write(story, &pod, "precious")?;
    let own = story.namespace.clone();
    story.kubectl.run(&[
        "-n",
        &own,
        "annotate",
        "pvc",
        "data",
        "holdfast.dev/backup=true",
        "example.com/x=y",
    ])?;
    story.kubectl.run(&["-n", &own, "label", "pvc", "data", "tier=files"])?;
    story.backup("first", "{}", "Succeeded")?;
    let directory = story.repository_directory()?;
    let new = story.another_namespace("new")?;
    story.kubectl.run(&["annotate", "namespace", &new, "holdfast.dev/allow-root-runner=true"])?;
    Ok((directory, new))
}

#[test]
fn an_older_state_goes_into_a_new_claim_beside_the_one_in_use() {
    let _world = anywhere();
    Story::tell("new-claim", Story::begin, |story| {
        let pod = app(story, 0)?;
        write(story, &pod, "monday")?;
        let own = story.namespace.clone();
        story.kubectl.run(&["-n", &own, "label", "pvc", "data", "tier=files"])?;
        let first = story.backup("first", "{}", "Succeeded")?;
        write(story, &pod, "tuesday")?;
        story.backup("second", "{}", "Succeeded")?;
        let latest = story.restore(
            "latest",
            "{from: {latestOf: {claim: data}}, volumes: [{component: volume/data, to: {newClaim: {name: latest, capacity: 96Mi}}}]}",
            "Succeeded",
        )?;
        says(&latest, &["\"newClaim\":\"Created\"", "\"snapshotRef\":{\"name\":\"second"])?;
        let made = story.kubectl.get(&own, &["pvc", "latest"])?;
        let source = story.kubectl.get(&own, &["pvc", "data"])?;
        expect(made["spec"]["resources"]["requests"]["storage"].as_str().unwrap_or_default(), "96Mi")?;
        if made["spec"]["storageClassName"] != source["spec"]["storageClassName"] {
            return Err(Failure(format!("the new claim has another class: {}", made["spec"])));
        }
        expect(&read(story, "look-1", "latest", "file")?, "tuesday")?;
        let then = first["status"]["startTime"].as_str().unwrap_or_default();
        story.restore(
            "then",
            &format!("{{from: {{pointInTime: {{time: '{then}'}}}}, volumes: [{{component: volume/data, to: {{newClaim: {{name: then}}}}, paths: {{include: [/etc/conf]}}}}]}}"),
            "Succeeded",
        )?;
        expect(&read(story, "look-2", "then", "etc/conf")?, "monday")?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "look-2")?;
        expect(story.shell(&pod, "ls -A /store | grep -v lost+found")?.trim(), "etc")?;
        story.restore(
            "without",
            &format!("{{from: {{pointInTime: {{time: '{then}'}}}}, volumes: [{{component: volume/data, to: {{newClaim: {{name: without}}}}, paths: {{exclude: [/etc]}}}}]}}"),
            "Succeeded",
        )?;
        expect(&read(story, "look-3", "without", "file")?, "monday")?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "look-3")?;
        expect(story.shell(&pod, "ls -A /store | grep -v lost+found")?.trim(), "file")?;
        // The claim in use was left alone.
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        expect(story.shell(&pod, "cat /store/file")?.trim(), "tuesday")?;
        let taken = story.restore(
            "taken",
            "{from: {latestOf: {}}, volumes: [{component: volume/data, to: {newClaim: {name: then}}}]}",
            "Failed",
        )?;
        says(&taken, &["TargetExists"])?;
        // Made again under its name it is the claim that it was.
        story.kubectl.run(&["-n", &own, "delete", "deployment/app", "pvc/data", "--timeout=120s"])?;
        story.restore("again", "{from: {latestOf: {claim: data}}, missingClaims: Create}", "Succeeded")?;
        let claim = story.kubectl.get(&own, &["pvc", "data"])?;
        expect(claim["metadata"]["labels"]["tier"].as_str().unwrap_or_default(), "files")?;
        story.nothing_left()
    });
}

/// The claim is made for the restore, and gone when nothing could be restored to it; or kept, as the Restore says.
#[test]
fn a_new_claim_is_kept_or_removed_when_nothing_came_of_it() {
    let _world = anywhere();
    Story::tell("claim-fate", Story::begin, |story| {
        let pod = app(story, 0)?;
        write(story, &pod, "data")?;
        story.backup("first", "{}", "Succeeded")?;
        for (name, rule, fate) in [("drop", "Delete", "Removed"), ("keep", "Keep", "Kept")] {
            let spec = format!(
                "{{retries: 0, from: {{latestOf: {{}}}}, volumes: [{{component: volume/data, to: {{newClaim: {{name: {name}, onFailure: {rule}}}}}, paths: {{include: [/no/such/file]}}}}]}}"
            );
            let ended = story.restore(name, &spec, "Failed")?;
            says(&ended, &[&format!("\"newClaim\":\"{fate}\"")])?;
        }
        story.kubectl.until(&story.namespace, "pvc", "keep", workload::START, |o| {
            o["metadata"]["deletionTimestamp"].is_null().then_some(())
        })?;
        let gone = story.kubectl.find(&story.namespace, "pvc", "drop")?;
        if gone.is_some_and(|claim| claim["metadata"]["deletionTimestamp"].is_null()) {
            return Err(Failure("the claim was to be removed".into()));
        }
        story.nothing_left()
    });
}

#[test]
fn another_namespace_restores_only_where_it_was_let() {
    let _world = anywhere();
    let begin = |name: &str| -> Result<Story> {
        let story = Story::bare(name)?;
        story.allow_root()?;
        let open = story.storage_yaml("store") + "  usagePolicy: {allowedNamespaces: {from: All}}\n";
        story.apply(&open)?;
        story.storage_ready("store")?;
        Ok(story)
    };
    Story::tell("to-another", begin, |story| {
        let pod = app(story, 0)?;
        write(story, &pod, "shared")?;
        story.backup("first", "{}", "Succeeded")?;
        let source = story.namespace.clone();
        let other = story.another_namespace("copy")?;
        let apply = |name: &str| {
            let yaml = format!(
                "apiVersion: holdfast.dev/v1alpha1\nkind: Restore\nmetadata: {{name: {name}}}\nspec: {{from: {{latestOf: {{namespace: {source}}}}}, missingClaims: Create}}\n"
            );
            story.kubectl.run_with(&["-n", &other, "apply", "-f", "-"], yaml.as_bytes()).map(drop)
        };
        let ended = |name: &str| over(story, &other, name);
        apply("early")?;
        let refused = ended("early")?;
        expect(refused["status"]["phase"].as_str().unwrap_or_default(), "Failed")?;
        says(&refused, &["SourceNotAllowed", "kubectl annotate namespace"])?;
        for (namespace, annotation) in [
            (&source, format!("holdfast.dev/restore-to={other}")),
            (&other, "holdfast.dev/allow-root-runner=true".to_owned()),
        ] {
            story.kubectl.run(&["annotate", "namespace", namespace, &annotation])?;
        }
        apply("let")?;
        let done = ended("let")?;
        says(&done, &["\"phase\":\"Succeeded\"", &format!("\"namespace\":\"{source}\"")])?;
        holds(story, &other, "shared")?;
        story.nothing_left()
    });
}

/// docs/disaster-recovery.md: nothing is known but the bucket, its key and the recovery password.
#[test]
fn bucket_and_recovery_password_are_enough() {
    let _world = anywhere();
    Story::tell("from-nothing", Story::begin, |story| {
        let (directory, new) = saved_and_a_namespace_that_knows_nothing(story)?;
        let storage = story.storage_yaml("found").replace("default: true", "default: false");
        let yaml = format!(
            "{storage}---\napiVersion: holdfast.dev/v1alpha1\nkind: Restore\nmetadata: {{name: back}}\nspec:\n  from: {{repository: {{storageRef: {{name: found}}}}}}\n  missingClaims: Create\n"
        );
        story.apply_in(&new, &yaml)?;
        let done = over(story, &new, "back")?;
        says(&done, &["\"phase\":\"Succeeded\"", "\"verified\":true", "\"newClaim\":\"Created\""])?;
        let claim = story.kubectl.get(&new, &["pvc", "data"])?;
        let annotations = &claim["metadata"]["annotations"];
        expect(annotations["holdfast.dev/backup"].as_str().unwrap_or_default(), "true")?;
        // Neither what is others', nor, in another namespace, what may say to whom it belongs.
        if !annotations["example.com/x"].is_null() || !claim["metadata"]["labels"]["tier"].is_null() {
            return Err(Failure(format!("the new claim has what is not for it: {}", claim["metadata"])));
        }
        holds(story, &new, "precious")?;
        story.kubectl.until(&new, "backupstorage", "found", workload::START, |o| {
            let all = o["status"]["repositories"].as_array()?;
            all.iter()
                .any(|row| row["directory"] == *directory && row["repositoryId"].is_string())
                .then_some(())
        })?;
        story.nothing_left()
    });
}

/// The same by the command that the recovery page names: what the plan has chosen is restored, although the dry run takes the
/// Repository and its Snapshots with it.
#[test]
fn the_command_of_the_recovery_page_restores_where_nothing_is_known() {
    let _world = anywhere();
    Story::tell("by-command", Story::begin, |story| {
        let (_, new) = saved_and_a_namespace_that_knows_nothing(story)?;
        let storage = story.storage_yaml("found").replace("default: true", "default: false");
        story.apply_in(&new, &storage)?;
        let command = ["restore", "--from-storage", "found", "--create-missing", "-n", &new, "--yes"];
        story.bed.holdfast()?.expect(&command, 0, &[])?;
        holds(story, &new, "precious")?;
        story.nothing_left()
    });
}

/// A directory that is misspelt ends the Restore at once, with those that are there, and leaves no Repository; a Secret that
/// would not be tried is named, and none is needed.
#[test]
fn a_wrong_directory_leaves_nothing_and_another_password_is_told() {
    let Some(_world) = together() else { return };
    Story::tell("misspelt", Story::begin, |story| {
        let (directory, new) = saved_and_a_namespace_that_knows_nothing(story)?;
        let apply = |yaml: &str| story.apply_in(&new, yaml);
        apply(&story.storage_yaml("found").replace("default: true", "default: false"))?;
        let restore = |name: &str, repository: &str| -> Result<Value> {
            apply(&format!(
                "apiVersion: holdfast.dev/v1alpha1\nkind: Restore\nmetadata: {{name: {name}}}\nspec:\n  from: {{repository: {{storageRef: {{name: found}}, {repository}}}}}\n  missingClaims: Create\n"
            ))?;
            over(story, &new, name)
        };
        let repositories = || story.kubectl.list(&new, &["repositories.holdfast.dev"]);

        let typo = restore("typo", "directory: testbed/nowhere/store-aaaaa")?;
        says(&typo, &["\"phase\":\"Failed\"", "RepositoryNotFound", directory.as_str()])?;
        story.kubectl.until_true("no Repository left", RUN, || Ok(repositories()?.is_empty()))?;
        let right = restore("right", &format!("directory: {directory}"))?;
        says(&right, &["\"phase\":\"Succeeded\""])?;
        expect(&repositories()?.len().to_string(), "1")?;
        let other = restore("other", &format!("directory: {directory}, passwordSecretRef: {{name: other}}"))?;
        says(
            &other,
            &["\"phase\":\"Failed\"", "DirectoryInUse", "without spec.from.repository.passwordSecretRef"],
        )?;
        expect(&repositories()?.len().to_string(), "1")?;
        story.nothing_left()
    });
}

/// Where no recovery password was set the repository's own one is enough, in a Secret that the Restore names. While it is the
/// wrong one the Restore waits and says so, and it goes on by itself when that is mended.
#[test]
fn the_repositorys_own_password_is_enough() {
    let Some(_world) = together() else { return };
    Story::tell("own-password", Story::begin, |story| {
        let (directory, new) = saved_and_a_namespace_that_knows_nothing(story)?;
        let apply = |yaml: &str| story.apply_in(&new, yaml);
        let password = |text: &str| {
            apply(&format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: own}}\nstringData: {{password: '{text}'}}\n"
            ))
        };
        let storage = story
            .storage_yaml("found")
            .replace("default: true", "default: false")
            .replace("  recoveryPasswordSecretRef: {name: found-recovery}\n", "");
        apply(&storage)?;
        password("a guess")?;
        apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Restore\nmetadata: {{name: back}}\nspec:\n  from: {{repository: {{storageRef: {{name: found}}, directory: {directory}, passwordSecretRef: {{name: own}}}}}}\n  missingClaims: Create\n"
        ))?;
        story.kubectl.until(&new, "restore", "back", RUN, |o| {
            let said = o["status"]["message"].as_str()?;
            (phase(o) == "Pending" && said.contains("WrongPassword")).then_some(())
        })?;
        password(&story.repository_password()?)?;
        says(&over(story, &new, "back")?, &["\"phase\":\"Succeeded\""])?;
        holds(story, &new, "precious")?;
        story.nothing_left()
    });
}

/// A fresh file system belongs to root. A runner that is not gets it by its group.
#[test]
fn a_fresh_volume_is_restored_to_without_root() {
    let Some(_world) = together() else { return };
    let begin = |name: &str| -> Result<Story> {
        let story = Story::bare(name)?;
        story.apply(&story.storage_yaml("store"))?;
        story.storage_ready("store")?;
        Ok(story)
    };
    Story::tell("fresh-no-root", begin, |story| {
        story.apply(&workload::claim("data", "", "64Mi"))?;
        // The workload's group owns its volume, as most charts have it.
        let keeper = workload::keeper(&Keeper { user: 999, ..Keeper::deployment("app", "data") })
            .replace("runAsGroup: 999", "runAsGroup: 999, fsGroup: 999");
        story.apply(&keeper)?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        write(story, &pod, "mine")?;
        story.backup("first", "{}", "Succeeded")?;
        let copy = keeper
            .replace("name: app", "name: copy")
            .replace("app: app", "app: copy")
            .replace("claimName: data", "claimName: copy");
        story.apply(&copy)?;
        let done = story.restore(
            "back",
            "{from: {latestOf: {claim: data}}, volumes: [{component: volume/data, to: {newClaim: {name: copy, storageClassName: csi-small}}}]}",
            "Succeeded",
        )?;
        says(&done, &["\"fsGroup\":999"])?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "copy")?;
        expect(story.shell(&pod, "cat /store/file")?.trim(), "mine")?;
        story.nothing_left()
    });
}
