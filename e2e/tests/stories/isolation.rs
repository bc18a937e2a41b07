//! Isolation: who may use a storage, and what a runner is allowed to be.

use holdfast_e2e::kubectl::{Failure, condition, phase};
use holdfast_e2e::story::{RUN, Story};
use holdfast_e2e::workload::{self, Keeper};

use crate::{anywhere, together};

#[test]
fn a_storage_is_used_only_by_whom_its_policy_names() {
    let Some(_world) = together() else { return };
    Story::tell("policy", Story::begin, |story| {
        let other = story.another_namespace("other")?;
        let kubectl = story.kubectl.clone();
        let apply =
            |yaml: String| kubectl.run_with(&["-n", &other, "apply", "-f", "-"], yaml.as_bytes()).map(drop);
        let storage = format!("storageRef: {{name: store, namespace: {}}}", story.namespace);
        apply(format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Repository\nmetadata: {{name: r}}\nspec: {{{storage}}}\n"
        ))?;
        kubectl.until(&other, "repository", "r", RUN, |o| {
            let (status, reason, _) = condition(o, "Ready")?;
            (status == "False" && reason == "StorageNotAllowed").then_some(())
        })?;
        // Allowed by label, it goes on by itself.
        kubectl.run(&["-n", &story.namespace, "patch", "backupstorage", "store", "--type=merge", "-p",
            r#"{"spec":{"usagePolicy":{"allowedNamespaces":{"from":"Selector","selector":{"matchLabels":{"backups":"yes"}}}}}}"#])?;
        kubectl.run(&["label", "namespace", &other, "backups=yes"])?;
        kubectl.until(&other, "repository", "r", RUN, |o| (phase(o) == "Ready").then_some(()))?;
        // Not even then in somebody else's directory.
        apply(format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Repository\nmetadata: {{name: thief}}\nspec: {{{storage}, directory: testbed/{}/theirs}}\n",
            story.namespace
        ))?;
        kubectl.until(&other, "repository", "thief", RUN, |o| {
            let (status, reason, _) = condition(o, "Ready")?;
            (status == "False" && reason == "DirectoryNotAllowed").then_some(())
        })
    });
}

/// A namespace with the strictest Pod Security: the runner is the workload's user and all goes well.
#[test]
fn a_restricted_namespace_is_backed_up_as_its_workload() {
    let _world = anywhere();
    Story::tell("restricted", Story::bare, |story| {
        story.kubectl.run(&[
            "label",
            "namespace",
            &story.namespace,
            "pod-security.kubernetes.io/enforce=baseline",
        ])?;
        story.apply(&story.storage_yaml("store"))?;
        story.storage_ready("store")?;
        story.apply(&format!(
            "{}{}",
            workload::claim("data", "", "1Gi"),
            workload::keeper(&Keeper { user: 1000, ..Keeper::deployment("app", "data") })
        ))?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "echo mine > /store/file; chmod 600 /store/file")?;
        story.kubectl.run(&[
            "label",
            "namespace",
            &story.namespace,
            "--overwrite",
            "pod-security.kubernetes.io/enforce=restricted",
        ])?;
        let backup = story.backup("run", "{}", "Succeeded")?;
        if backup["status"]["components"][0]["runAs"]["uid"] != 1000 {
            return Err(Failure(format!("runAs: {}", backup["status"]["components"][0]["runAs"])));
        }
        // Root is asked for where nobody allowed it: refused with a reason.
        let root = story.backup("root", "{runAs: Root}", "Failed")?;
        if !root["status"]["message"].to_string().contains("holdfast.dev/allow-root-runner") {
            return Err(Failure(format!(
                "the refusal does not say what to do: {}",
                root["status"]["message"]
            )));
        }
        // Allowed by the administrator, denied by Pod Security: said, too.
        story.allow_root()?;
        let denied = story.backup("denied", "{runAs: Root}", "Failed")?;
        if !denied["status"].to_string().contains("PodSecurity") {
            return Err(Failure(format!("the denial is not named: {}", denied["status"])));
        }
        story.nothing_left()
    });
}
