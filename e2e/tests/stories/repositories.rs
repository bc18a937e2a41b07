//! Repositories: made once, never over anything else, opened only with the right password, found again.

use std::fs;

use holdfast_e2e::kubectl::{Failure, Result, condition, phase};
use holdfast_e2e::story::{RUN, Story};
use holdfast_e2e::workload::{self, Keeper};
use serde_json::Value;

use crate::{anywhere, together};

/// A Repository in the storage `store`. Without a directory a new one is made, without a Secret its password is.
pub(crate) fn repository_yaml(name: &str, directory: &str, password: &str) -> String {
    let directory = if directory.is_empty() { String::new() } else { format!(", directory: {directory}") };
    let password = if password.is_empty() {
        String::new()
    } else {
        format!(", passwordSecretRef: {{name: {password}}}")
    };
    format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: Repository\nmetadata: {{name: {name}}}\nspec: {{storageRef: {{name: store}}{directory}{password}}}\n"
    )
}

/// Reason of the Ready condition once it is False.
fn refused(story: &Story, name: &str, reason: &str) -> Result<()> {
    story.until("repository", name, |o| {
        let (status, found, message) = condition(o, "Ready")?;
        (status == "False" && found == reason && message.len() > 20).then_some(())
    })
}

#[test]
fn a_wrong_password_is_a_condition_and_never_a_new_repository() {
    let Some(_world) = together() else { return };
    Story::tell("wrong-password", Story::begin, |story| {
        story.app_with_a_file()?;
        story.backup("first", "{}", "Succeeded")?;
        let directory = story.repository_directory()?;
        let config = story.bed.bucket_directory(&story.bucket)?.join(&directory).join("config");
        let before = std::fs::read(&config).map_err(|e| Failure(e.to_string()))?;
        story.apply(
            "apiVersion: v1\nkind: Secret\nmetadata: {name: guess}\nstringData: {password: wrong}\n",
        )?;
        // The recovery password would open it: a second storage on the same bucket has none.
        let second = story
            .storage_yaml("second")
            .replace("  recoveryPasswordSecretRef: {name: second-recovery}\n", "")
            .replace("default: true", "default: false");
        story.apply(&second)?;
        story.storage_ready("second")?;
        story
            .apply(&repository_yaml("adopted", &directory, "guess").replace("name: store", "name: second"))?;
        refused(story, "adopted", "WrongPassword")?;
        if std::fs::read(&config).map_err(|e| Failure(e.to_string()))? != before {
            return Err(Failure("the repository's config was written over".into()));
        }
        // A Backup to it waits and says why.
        story.start_backup("blocked", "{repositoryRef: {name: adopted}}")?;
        story.until("backup", "blocked", |o| {
            (phase(o) == "Pending" && o["status"]["message"].as_str()?.contains("adopted")).then_some(())
        })?;
        // The right one is put into the Secret: it opens by itself.
        let password = story.repository_password()?;
        story.apply(&format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: guess}}\nstringData: {{password: '{password}'}}\n"))?;
        story.until("repository", "adopted", |o| (phase(o) == "Ready").then_some(()))?;
        story.expect_end("backup", "blocked", "Succeeded")?;
        story.nothing_left()
    });
}

#[test]
fn a_directory_that_holds_something_else_is_left_alone() {
    let Some(_world) = together() else { return };
    Story::tell("foreign", Story::begin, |story| {
        let directory = format!("testbed/{}/mine", story.namespace);
        let place = story.bed.bucket_directory(&story.bucket)?.join(&directory);
        story.bed.put_object(
            &story.bucket,
            &format!("{directory}/photos/holiday.jpg"),
            b"not a repository",
        )?;
        story.apply(&repository_yaml("mine", &directory, ""))?;
        refused(story, "mine", "ForeignContent")?;
        if place.join("config").exists() || place.join("keys").exists() {
            return Err(Failure("a repository was made over foreign files".into()));
        }
        story.nothing_left()
    });
}

/// Two first Backups at once make one repository between them.
#[test]
fn two_first_backups_share_one_repository() {
    let Some(_world) = together() else { return };
    Story::tell("race", Story::begin, |story| {
        story.app_with_a_file()?;
        story.start_backup("a", "{}")?;
        story.start_backup("b", "{}")?;
        story.expect_end("backup", "a", "Succeeded")?;
        story.expect_end("backup", "b", "Succeeded")?;
        let found = story.repositories_on_disk();
        if found.len() != 1 {
            return Err(Failure(format!("{} repositories: {found:?}", found.len())));
        }
        story.restic("0.19.1", &["check", "--read-data"])?;
        story.nothing_left()
    });
}

/// The storage's recovery password opens every repository: the bucket and one password are enough. So does one that is set
/// after the repository was made.
#[test]
fn the_recovery_password_opens_the_repository() {
    let Some(_world) = together() else { return };
    Story::tell("recovery", Story::begin, |story| {
        story.app_with_a_file()?;
        story.backup("first", "{}", "Succeeded")?;
        let first = format!("recovery of {}", story.bucket);
        opens(story, &first)?;

        let own = story.namespace.clone();
        let all = story.kubectl.list(&own, &["repositories"])?;
        let name =
            all.first().and_then(|object| object["metadata"]["name"].as_str()).unwrap_or_default().to_owned();
        let version =
            |object: &Value| object["status"]["recoveryPassword"].as_str().unwrap_or_default().to_owned();
        let before = version(&story.kubectl.get(&own, &["repository", &name])?);
        if before.is_empty() {
            return Err(Failure("the Repository does not say that the recovery password opens it".into()));
        }
        let later = "set a year later";
        let patch = format!("{{\"stringData\":{{\"password\":\"{later}\"}}}}");
        story.patch("secret", "store-recovery", &patch)?;
        story.until("repository", &name, |object| {
            let now = version(object);
            (!now.is_empty() && now != before).then_some(())
        })?;
        opens(story, later)?;
        opens(story, &first)?;
        story.until("backupstorage", "store", |object| {
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().all(|condition| condition["type"] != "NoRecoveryPassword").then_some(())
        })?;
        story.backup("second", "{}", "Succeeded")?;
        story.nothing_left()
    });
}

/// Lists the repository with stock restic and this password.
fn opens(story: &Story, password: &str) -> Result<()> {
    let repository =
        format!("s3:{}/{}/{}", story.bed.s3_endpoint, story.bucket, story.repository_directory()?);
    let out = holdfast_e2e::kubectl::run(
        std::process::Command::new(story.bed.restic("0.19.1")?)
            .args(["--no-cache", "--cacert"])
            .arg(&story.bed.ca_path)
            .args(["-r", &repository, "snapshots", "--json"])
            .env("RESTIC_PASSWORD", password)
            .env("AWS_ACCESS_KEY_ID", &story.bed.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &story.bed.secret_key),
        b"",
    )?;
    if !String::from_utf8_lossy(&out).contains("/data/data") {
        return Err(Failure("restic lists no snapshot of /data/data".into()));
    }
    Ok(())
}

/// A deleted Snapshot object is a lost mirror, not a lost backup.
#[test]
fn a_deleted_snapshot_object_comes_back() {
    let _world = anywhere();
    Story::tell("mirror", Story::begin, |story| {
        story.app_with_a_file()?;
        let snapshot = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        let before = story.kubectl.get(&story.namespace, &["snapshot.holdfast.dev", &snapshot])?;
        story.kubectl.run(&["-n", &story.namespace, "delete", "snapshot.holdfast.dev", &snapshot])?;
        let after = story.until("snapshot.holdfast.dev", &snapshot, |o| {
            (o["status"]["complete"] == true && o["metadata"]["uid"] != before["metadata"]["uid"])
                .then(|| o.clone())
        })?;
        if before["spec"] != after["spec"] || before["status"]["components"] != after["status"]["components"]
        {
            return Err(Failure(format!(
                "the mirror came back different:\n{}\n{}",
                before["status"], after["status"]
            )));
        }
        story.nothing_left()
    });
}

/// A rule of the cluster, or the size of an object, keeps one Snapshot from being made: the others are there, what is
/// missing is told where somebody looks and where they restore, and it comes when it may.
#[test]
fn a_snapshot_that_is_refused_keeps_no_other_back() {
    let Some(_world) = together() else { return };
    Story::tell("refused-snapshot", Story::begin, |story| {
        story.app_with_a_file()?;
        let own = story.namespace.clone();
        let first = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        let unwanted = Story::snapshot_of(&story.backup("unwanted", "{}", "Succeeded")?)?;
        let last = Story::snapshot_of(&story.backup("last", "{}", "Succeeded")?)?;
        let rule = Refusing::snapshots_of(story, "unwanted", &unwanted)?;
        for name in [&first, &unwanted, &last] {
            story.kubectl.run(&["-n", &own, "delete", "snapshot.holdfast.dev", name])?;
        }
        let complete = |o: &Value| (o["status"]["complete"] == true).then_some(());
        for name in [&first, &last] {
            story.until("snapshot.holdfast.dev", name, complete)?;
        }
        let repositories = story.kubectl.list(&own, &["repositories.holdfast.dev"])?;
        let repository =
            repositories.first().and_then(|o| o["metadata"]["name"].as_str()).unwrap_or_default();
        let synced = |o: &Value, wanted: &str| {
            let (status, _, message) = condition(o, "SnapshotsSynced")?;
            (status == wanted).then_some(message)
        };
        let message = story.until("repository", repository, |o| synced(o, "False"))?;
        if !message.contains("refuses what is to become of 1 of") || !message.contains(&unwanted) {
            return Err(Failure(format!("the Repository says {message:?}")));
        }
        let plan = story.restore("look", "{dryRun: true, from: {latestOf: {}}}", "Planned")?;
        let warned = plan["status"]["compatibility"]["warnings"].to_string();
        if plan["status"]["snapshotRef"]["name"] != last.as_str()
            || !warned.contains("a newer state than this")
        {
            return Err(Failure(format!("a Restore of the latest says {}", plan["status"])));
        }
        drop(rule);
        let object = format!("repositories.holdfast.dev/{repository}");
        story.kubectl.run(&["-n", &own, "annotate", &object, "holdfast.dev/sync-now=again"])?;
        story.until("snapshot.holdfast.dev", &unwanted, complete)?;
        story.until("repository", repository, |o| synced(o, "True"))?;
        story.nothing_left()
    });
}

/// A rule of the cluster by which Snapshots of one Backup in one namespace are refused, until it is dropped.
struct Refusing<'a> {
    story: &'a Story,
    name: String,
}

impl<'a> Refusing<'a> {
    fn snapshots_of(story: &'a Story, backup: &str, one: &str) -> Result<Self> {
        let rule = Self { story, name: format!("{}-refuses", story.namespace) };
        let (name, namespace) = (&rule.name, &story.namespace);
        let yaml = format!(
            "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: {name}}}
spec:
  matchConstraints:
    namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}
    resourceRules:
    - {{apiGroups: [holdfast.dev], apiVersions: ['*'], operations: [CREATE, UPDATE], resources: [snapshots]}}
  validations:
  - {{expression: \"object.spec.backup.name != '{backup}'\", message: this one is not wanted}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: {name}}}
spec: {{policyName: {name}, validationActions: [Deny]}}
"
        );
        story.kubectl.run_with(&["apply", "-f", "-"], yaml.as_bytes())?;
        // The API server takes a moment to heed it.
        let one = format!("snapshots.holdfast.dev/{one}");
        let try_it = ["-n", namespace, "annotate", &one, "tried=now", "--dry-run=server"];
        story.kubectl.until_true("the rule is in force", RUN, || {
            Ok(story.kubectl.run(&try_it).is_err_and(|failure| failure.0.contains("not wanted")))
        })?;
        Ok(rule)
    }
}

impl Drop for Refusing<'_> {
    fn drop(&mut self) {
        for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
            let _ =
                self.story.kubectl.run(&["delete", kind, &self.name, "--ignore-not-found", "--wait=false"]);
        }
    }
}

/// A namespace is deleted with everything in it. Made again, with the repository named, all of it can be restored.
#[test]
fn a_deleted_namespace_finds_its_backups_again() {
    let Some(_world) = together() else { return };
    Story::tell("lost-namespace", Story::begin, |story| {
        // The storage lives apart from the tenant, as an administrator sets it up.
        story.patch(
            "backupstorage",
            "store",
            r#"{"spec":{"usagePolicy":{"allowedNamespaces":{"from":"All"}}}}"#,
        )?;
        story.storage_ready("store")?;
        let tenant = story.another_namespace("tenant")?;
        let (kubectl, n) = (story.kubectl.clone(), tenant.as_str());
        let apply = |yaml: &str| {
            kubectl.run_with(&["-n", n, "apply", "--validate=strict", "-f", "-"], yaml.as_bytes()).map(drop)
        };
        let root = || {
            kubectl
                .run(&["annotate", &format!("namespace/{n}"), "holdfast.dev/allow-root-runner=true"])
                .map(drop)
        };
        let deploy = || {
            apply(&format!(
                "{}{}",
                workload::claim("data", "", "1Gi"),
                workload::keeper(&Keeper::deployment("app", "data"))
            ))?;
            workload::ready_pod(&kubectl, n, "app")
        };
        root()?;
        let pod = deploy()?;
        kubectl.shell(n, &pod, "echo precious > /store/file")?;
        let storage = format!("storageRef: {{name: store, namespace: {}}}", story.namespace);
        apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {{name: first}}\nspec: {{{storage}}}\n"
        ))?;
        let backup =
            kubectl.until(n, "backup", "first", RUN, |o| (phase(o) == "Succeeded").then(|| o.clone()))?;
        let snapshot = Story::snapshot_of(&backup)?;
        // No credential that outlives the run, and never the recovery password, in the tenant's namespace.
        kubectl.until_true("no Secret in the tenant's namespace", RUN, || {
            Ok(kubectl.list(n, &["secrets"])?.is_empty())
        })?;
        let directory = story.repository_directory()?;

        kubectl.run(&["delete", "namespace", n, "--wait=true", "--timeout=180s"])?;
        kubectl.run(&["create", "namespace", n])?;
        kubectl.until(n, "serviceaccount", "default", RUN, |_| Some(()))?;
        root()?;
        apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Repository\nmetadata: {{name: found}}\nspec: {{{storage}, directory: {directory}}}\n"
        ))?;
        kubectl.until(n, "snapshot.holdfast.dev", &snapshot, RUN, |o| {
            (o["status"]["complete"] == true).then_some(())
        })?;
        deploy()?;
        apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Restore\nmetadata: {{name: back}}\nspec: {{from: {{snapshotRef: {{name: {snapshot}}}}}}}\n"
        ))?;
        kubectl.until(n, "restore", "back", RUN, |o| (phase(o) == "Succeeded").then_some(()))?;
        let pod = workload::ready_pod(&kubectl, n, "app")?;
        let text = kubectl.shell(n, &pod, "cat /store/file")?;
        if text != "precious\n" {
            return Err(Failure(format!("the file says {text:?}")));
        }
        // A new repository beside the old one is possible, and the old one is pointed at.
        apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {{name: fresh}}\nspec: {{{storage}}}\n"
        ))?;
        kubectl.until(n, "backup", "fresh", RUN, |o| (phase(o) == "Succeeded").then_some(()))?;
        Ok(())
    });
}

/// A snapshot's file in the bucket is damaged. With the next list its object, the metrics and a Restore say so, before
/// anything is stopped for that Restore; the one before it still serves; and once it can be read again it is as it was.
#[test]
fn a_damaged_snapshot_is_marked_and_refused_before_anything_is_stopped() {
    let Some(_world) = together() else { return };
    Story::tell("damaged", Story::begin, |story| {
        let pod = story.app_with_a_file()?;
        let first = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        story.shell(&pod, "echo more > /store/more")?;
        let second = Story::snapshot_of(&story.backup("second", "{}", "Succeeded")?)?;
        let object = story.kubectl.get(&story.namespace, &["snapshot.holdfast.dev", &second])?;
        let id = object["status"]["components"][0]["snapshotId"].as_str().unwrap_or_default();
        let repository = object["spec"]["repositoryRef"]["name"].as_str().unwrap_or_default();
        let list_again = |when: &str| {
            let annotation = format!("holdfast.dev/sync-now={when}");
            let name = format!("repositories.holdfast.dev/{repository}");
            story
                .kubectl
                .run(&["-n", &story.namespace, "annotate", "--overwrite", &name, &annotation])
                .map(drop)
        };
        let [on_disk] =
            story.repositories_on_disk().try_into().map_err(|_| Failure("not one repository".into()))?;
        let file = on_disk.join("snapshots").join(id);
        let whole = fs::read(&file).map_err(|e| Failure(format!("{}: {e}", file.display())))?;
        let write = |content: &[u8]| {
            fs::write(&file, content).map_err(|e| Failure(format!("{}: {e}", file.display())))
        };
        write(&whole.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>())?;
        list_again("damaged")?;
        story.until("snapshot.holdfast.dev", &second, |o| {
            let (ready, reason, _) = condition(o, "Ready")?;
            (ready == "False" && reason == "SnapshotDamaged" && o["status"]["complete"] == false)
                .then_some(())
        })?;
        let labels = format!(
            r#"namespace="{}",repository="{repository}",condition="SnapshotsDamaged""#,
            story.namespace
        );
        let line = format!("holdfast_repository_condition{{{labels}}} 1");
        story
            .kubectl
            .until_true("the metrics to tell of it", RUN, || Ok(story.metrics()?.contains(&line)))?;

        let before = story.kubectl.get(&story.namespace, &["deployment", "app"])?;
        let refused = story.restore("latest", "{from: {latestOf: {}}}", "Failed")?;
        let message = refused["status"]["message"].as_str().unwrap_or_default();
        if !message.contains("cannot be read any more") || !message.contains(&format!("Snapshot {first} of"))
        {
            return Err(Failure(format!("it does not say what can be done: {message}")));
        }
        let after = story.kubectl.get(&story.namespace, &["deployment", "app"])?;
        if before["metadata"]["generation"] != after["metadata"]["generation"] {
            return Err(Failure("the application was touched for a restore that cannot be".into()));
        }
        story.restore("older", &format!("{{from: {{snapshotRef: {{name: {first}}}}}}}"), "Succeeded")?;

        write(&whole)?;
        list_again("mended")?;
        story.until("snapshot.holdfast.dev", &second, |o| {
            let (ready, ..) = condition(o, "Ready")?;
            (ready == "True" && o["status"]["complete"] == true).then_some(())
        })?;
        story.restore("newest", "{from: {latestOf: {}}}", "Succeeded")?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "grep -q more /store/more")?;
        story.nothing_left()
    });
}
