//! Who the runner is, under each level of Pod Security, with data of the workload's user and of root.

use holdfast_e2e::kubectl::{Failure, Result};
use holdfast_e2e::story::Story;
use holdfast_e2e::workload::{self, Keeper};
use serde_json::Value;

use crate::together;

/// What Pod Security asks of a pod at its strictest.
fn compliant(keeper: &str) -> String {
    keeper
        .replace(
            "runAsUser: 1000",
            "runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}, runAsUser: 1000",
        )
        .replace(
            "command: [sh",
            "securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}, command: [sh",
        )
}

fn enforce(story: &Story, level: &str) -> Result<()> {
    let label = format!("pod-security.kubernetes.io/enforce={level}");
    story.kubectl.run(&["label", "namespace", &story.namespace, "--overwrite", &label]).map(drop)
}

fn without_root(name: &str) -> Result<Story> {
    let story = Story::bare(name)?;
    story.apply(&story.storage_yaml("store"))?;
    story.storage_ready("store")?;
    Ok(story)
}

/// A claim on ext4 that root has given to the user 1000, with a file of that user, used by a workload of that user.
fn app(story: &Story) -> Result<String> {
    story.apply(&format!(
        "{}{}",
        workload::claim("data", "csi-small", "32Mi"),
        workload::keeper(&Keeper::deployment("maker", "data"))
    ))?;
    let pod = workload::ready_pod(&story.kubectl, &story.namespace, "maker")?;
    story.shell(&pod, "chown 1000:1000 /store; stat -c '%u %a' /store/lost+found | grep -qx '0 700'")?;
    story.kubectl.run(&["-n", &story.namespace, "delete", "deployment/maker"])?;
    workload::gone(&story.kubectl, &story.namespace, "maker")?;
    story
        .apply(&compliant(&workload::keeper(&Keeper { user: 1000, ..Keeper::deployment("app", "data") })))?;
    let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
    story.shell(&pod, "echo mine > /store/file; chmod 600 /store/file")?;
    Ok(pod)
}

fn uid(run: &Value) -> Option<i64> {
    run["status"]["components"][0]["runAs"]["uid"].as_i64()
}

fn expect_uid(run: &Value, wanted: i64) -> Result<()> {
    if uid(run) == Some(wanted) {
        return Ok(());
    }
    Err(Failure(format!("the runner was {:?}, not {wanted}: {}", uid(run), run["status"])))
}

fn says(object: &Value, needles: &[&str]) -> Result<()> {
    let said = object["status"].to_string();
    match needles.iter().find(|needle| !said.contains(*needle)) {
        Some(missing) => Err(Failure(format!("the status does not say {missing:?}: {said}"))),
        None => Ok(()),
    }
}

/// The directory that mkfs made is root's alone. It is nobody's data, and no runner without root is blamed for it.
#[test]
fn data_of_the_workload_on_ext4_is_saved_and_restored_without_root_under_every_level() {
    let Some(_world) = together() else { return };
    Story::tell("run-as-user", without_root, |story| {
        app(story)?;
        for level in ["privileged", "baseline", "restricted"] {
            enforce(story, level)?;
            for form in ["Auto", "Workload"] {
                let name = format!("{level}-{}", form.to_lowercase());
                let saved = story.backup(&name, &format!("{{runAs: {form}}}"), "Succeeded")?;
                expect_uid(&saved, 1000)?;
                if saved["status"]["components"][0]["unreadable"] != 0 {
                    return Err(Failure(format!("something was unreadable: {}", saved["status"])));
                }
                let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
                story.shell(&pod, "echo spoiled > /store/file")?;
                let snapshot = Story::snapshot_of(&saved)?;
                let back = story.restore(
                    &name,
                    &format!("{{runAs: {form}, from: {{snapshotRef: {{name: {snapshot}}}}}}}"),
                    "Succeeded",
                )?;
                expect_uid(&back, 1000)?;
                let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
                let text = story.shell(&pod, "cat /store/file; stat -c '%u %a' /store/file")?;
                if text.trim() != "mine\n1000 600" {
                    return Err(Failure(format!("{name}: the file is {text:?}")));
                }
            }
            let refused = story.backup(&format!("{level}-root"), "{runAs: Root}", "Failed")?;
            says(&refused, &["RootNotAllowed", "holdfast.dev/allow-root-runner"])?;
        }
        story.nothing_left()
    });
}

/// Root's data: counted and listed with what to do where the runner is not root; saved and restored with its owner where
/// it may be, which baseline allows and restricted does not.
#[test]
fn data_of_root_is_told_or_saved_as_each_level_allows() {
    let Some(_world) = together() else { return };
    Story::tell("run-as-root", without_root, |story| {
        let pod = app(story)?;
        let node = story.kubectl.get(&story.namespace, &["pod", &pod])?["spec"]["nodeName"].clone();
        let node = node.as_str().unwrap_or_default();
        story.apply(&workload::keeper(&Keeper { node, ..Keeper::deployment("maker", "data") }))?;
        let maker = workload::ready_pod(&story.kubectl, &story.namespace, "maker")?;
        story
            .shell(&maker, "echo roots > /store/secret; chmod 600 /store/secret; chown 0:7 /store/secret")?;
        story.kubectl.run(&["-n", &story.namespace, "delete", "deployment/maker"])?;
        workload::gone(&story.kubectl, &story.namespace, "maker")?;

        for level in ["privileged", "baseline", "restricted"] {
            enforce(story, level)?;
            let gaps = story.backup(&format!("{level}-gaps"), "{}", "PartiallyFailed")?;
            expect_uid(&gaps, 1000)?;
            says(&gaps, &["\"unreadable\":1", "/secret", "holdfast.dev/allow-root-runner"])?;
        }
        story.allow_root()?;
        // An administrator's leave does not reach past Pod Security.
        let denied = story.backup("restricted-root", "{runAs: Root}", "Failed")?;
        says(&denied, &["PodSecurity"])?;
        let as_user = story.backup("restricted-user", "{runAs: Workload}", "PartiallyFailed")?;
        expect_uid(&as_user, 1000)?;
        for level in ["baseline", "privileged"] {
            enforce(story, level)?;
            for form in ["Auto", "Root"] {
                let name = format!("{level}-{}", form.to_lowercase());
                let saved = story.backup(&name, &format!("{{runAs: {form}}}"), "Succeeded")?;
                expect_uid(&saved, 0)?;
                let snapshot = Story::snapshot_of(&saved)?;
                let copy = format!("copy-{name}");
                let back = story.restore(
                    &name,
                    &format!("{{runAs: {form}, from: {{snapshotRef: {{name: {snapshot}}}}}, volumes: [{{component: volume/data, to: {{newClaim: {{name: {copy}}}}}}}]}}"),
                    "Succeeded",
                )?;
                expect_uid(&back, 0)?;
                story.apply(&workload::keeper(&Keeper::deployment(&copy, &copy)))?;
                let pod = workload::ready_pod(&story.kubectl, &story.namespace, &copy)?;
                let owners = story.shell(&pod, "stat -c '%u:%g %a' /store/secret /store/file")?;
                if owners.trim() != "0:7 600\n1000:1000 600" {
                    return Err(Failure(format!("{name}: owners and modes are {owners:?}")));
                }
                story.kubectl.run(&[
                    "-n",
                    &story.namespace,
                    "delete",
                    &format!("deployment/{copy}"),
                    &format!("pvc/{copy}"),
                ])?;
                workload::gone(&story.kubectl, &story.namespace, &copy)?;
            }
        }
        // Restored by nobody in particular: all content, and it is counted whose it is not, with how to allow more.
        let snapshot =
            Story::snapshot_of(&story.kubectl.get(&story.namespace, &["backup", "privileged-root"])?)?;
        let done = story.restore(
            "as-user",
            &format!("{{runAs: Workload, from: {{snapshotRef: {{name: {snapshot}}}}}, volumes: [{{component: volume/data, to: {{newClaim: {{name: plain}}}}}}]}}"),
            "PartiallyFailed",
        )?;
        expect_uid(&done, 65532)?;
        says(
            &done,
            &["OwnersNotRestored", "\"ownersNotRestored\":2", "allow-root-runner", "belonged to 0:7"],
        )?;
        // By the workload's user, because that is wanted: its own files are as they were, root's are counted.
        story.apply(&format!(
            "{}{}",
            workload::claim("users", "", "1Gi"),
            workload::keeper(&Keeper { user: 1000, ..Keeper::deployment("users", "users") })
        ))?;
        workload::ready_pod(&story.kubectl, &story.namespace, "users")?;
        let to_users = |run_as: &str| {
            format!(
                "{{runAs: {run_as}, from: {{snapshotRef: {{name: {snapshot}}}}}, volumes: [{{component: volume/data, to: {{existingClaim: {{name: users}}}}}}]}}"
            )
        };
        let wanted = story.restore("as-wanted", &to_users("Workload"), "Succeeded")?;
        expect_uid(&wanted, 1000)?;
        says(&wanted, &["\"ownersNotRestored\":1", "as runAs: Workload has it"])?;
        story.nothing_left()
    });
}
