//! Storages: how a wrong one is told apart from a right one.

use std::path::PathBuf;

use holdfast_e2e::gate::Gate;
use holdfast_e2e::kubectl::{Failure, Result, condition, phase};
use holdfast_e2e::story::Story;

use crate::faults::gated;
use crate::repositories::repository_yaml;
use crate::together;

/// Applies a storage and expects it Unavailable for exactly this reason, with an Event that says the same.
fn unavailable(story: &Story, yaml: &str, reason: &str) -> Result<()> {
    story.apply(yaml)?;
    let message = story.until("backupstorage", "store", |o| {
        let (status, found, message) = condition(o, "Ready")?;
        (phase(o) == "Unavailable" && status == "False" && found == reason).then_some(message)
    })?;
    if message.split_whitespace().count() < 6 {
        return Err(Failure(format!("the message says too little: {message:?}")));
    }
    story.kubectl.until_true("an Event with the reason", holdfast_e2e::story::RUN, || {
        let events = story.kubectl.list(&story.namespace, &["events"])?;
        Ok(events.iter().any(|e| e["reason"] == reason && e["involvedObject"]["name"] == "store"))
    })?;
    story.nothing_left()
}

fn wrong(name: &str, reason: &'static str, yaml: impl Fn(&Story) -> String) {
    let Some(_world) = together() else { return };
    Story::tell(name, Story::bare, |story| {
        unavailable(story, &yaml(story), reason)?;
        // A backup on it waits and says for what; it is not lost and not called good.
        story.start_backup("early", "{}")?;
        story.until("backup", "early", |o| {
            let said = o["status"]["message"].as_str()?;
            (phase(o) == "Pending" && said.contains("store")).then_some(())
        })?;
        // Mended: the storage becomes Ready by itself, and the backup goes on.
        story.apply(&story.storage_yaml("store"))?;
        story.storage_ready("store")?;
        story.expect_end("backup", "early", "Skipped").map(drop)
    });
}

#[test]
fn a_wrong_secret_key_is_named_and_mended_by_changing_the_secret() {
    wrong("wrong-key", "InvalidCredentials", |s| {
        s.storage_with("store", &s.bucket, &s.bed.access_key, "wrong-secret-key", Some(&s.bed.ca_pem))
    });
}

/// Some providers want the bucket in the host's name; what is saved so is the same as by the path.
#[test]
fn a_bucket_in_the_hosts_name_is_the_same_bucket() {
    let Some(_world) = together() else { return };
    Story::tell("by-host", Story::bare, |story| {
        let (endpoint, bucket) = story.bed.s3_by_name()?;
        story.bed.make_bucket(bucket)?;
        story.allow_root()?;
        // The bucket is not this story's alone on a bed that stays up.
        let part = format!("bucket: {bucket}\n      prefix: {}\n", story.namespace);
        let storage = |name: &str| {
            let ca = Some(story.bed.ca_pem.as_str());
            let keys = (&story.bed.access_key, &story.bed.secret_key);
            let yaml = story.storage_with(name, bucket, keys.0, keys.1, ca);
            yaml.replace(&format!("bucket: {bucket}\n"), &part)
        };
        let by_path = storage("by-path").replace("default: true", "default: false");
        let by_host = storage("store")
            .replace(&story.bed.s3_endpoint, &endpoint)
            .replace("    s3:\n", "    s3:\n      addressing: VirtualHost\n");
        story.apply(&by_host)?;
        let ready = story.storage_ready("store")?;
        let location = ready["status"]["location"].as_str().unwrap_or_default();
        if !location.contains("s3.testbed") {
            return Err(Failure(format!("it is at {location}")));
        }
        let pod = story.app_with_a_file()?;
        let backup = story.backup("run", "{}", "Succeeded")?;
        story.apply(&by_path)?;
        let seen = story.until("backupstorage", "by-path", |object| {
            let all = object["status"]["repositories"].as_array()?;
            (phase(object) == "Ready").then_some(all.len())
        })?;
        if seen != 1 {
            return Err(Failure(format!("{seen} repositories are seen by the path, not the one")));
        }
        let snapshot = Story::snapshot_of(&backup)?;
        story.the_file_comes_back(&pod, &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"))?;
        story.nothing_left()
    });
}

#[test]
fn an_unknown_access_key_is_named() {
    wrong("unknown-key", "InvalidCredentials", |s| {
        s.storage_with("store", &s.bucket, "NOBODY", &s.bed.secret_key, Some(&s.bed.ca_pem))
    });
}

#[test]
fn a_missing_bucket_is_named() {
    wrong("no-bucket", "BucketNotFound", |s| {
        s.storage_with("store", "no-such-bucket", &s.bed.access_key, &s.bed.secret_key, Some(&s.bed.ca_pem))
    });
}

#[test]
fn an_untrusted_certificate_is_named() {
    wrong("untrusted", "UntrustedCertificate", |s| {
        s.storage_with("store", &s.bucket, &s.bed.access_key, &s.bed.secret_key, None)
    });
}

#[test]
fn a_missing_secret_is_named() {
    let Some(_world) = together() else { return };
    Story::tell("no-secret", Story::bare, |story| {
        let yaml = story
            .storage_yaml("store")
            .replace("credentialsSecretRef: {name: store-s3}", "credentialsSecretRef: {name: absent}");
        unavailable(story, &yaml, "SecretNotFound")
    });
}

#[test]
fn a_storage_leaves_one_file_in_the_bucket_and_lists_what_it_finds() {
    let Some(_world) = together() else { return };
    Story::tell("describes", Story::begin, |story| {
        let root = story.bed.bucket_directory(&story.bucket)?;
        let names: Vec<_> = std::fs::read_dir(&root)
            .map_err(|e| Failure(e.to_string()))?
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|n| !n.starts_with('.'))
            .collect();
        if names != ["metadata.yaml"] {
            return Err(Failure(format!("the bucket holds {names:?} after validation")));
        }
        story.nothing_left()
    });
}

#[test]
fn two_backends_none_and_unknown_fields_are_refused_by_the_schema() {
    let Some(_world) = together() else { return };
    Story::tell("schema", Story::bare, |story| {
        let refused = |yaml: &str, needle: &str| match story.apply(yaml) {
            Err(e) if e.0.contains(needle) => Ok(()),
            Err(e) => Err(Failure(format!("refused for another reason than {needle}: {e}"))),
            Ok(()) => Err(Failure(format!("accepted:\n{yaml}"))),
        };
        refused(
            "apiVersion: holdfast.dev/v1alpha1\nkind: BackupStorage\nmetadata: {name: none}\nspec: {backend: {}}\n",
            "exactly one backend",
        )?;
        refused(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {name: b}\nspec: {volume: {}}\n",
            "unknown field",
        )?;
        refused(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {name: b}\nspec: {storageRef: {name: a}, repositoryRef: {name: b}}\n",
            "exclude each other",
        )
    });
}

/// All files of the story's bucket, with their sizes.
fn objects(story: &Story) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut waiting = vec![story.bed.bucket_directory(&story.bucket)?];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).map_err(|e| Failure(e.to_string()))?.flatten() {
            let metadata = entry.metadata().map_err(|e| Failure(e.to_string()))?;
            if metadata.is_dir() {
                waiting.push(entry.path());
            } else {
                found.push((entry.path(), metadata.len()));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A storage for restores only: restores work, Backups say why not, what is overwritten is not said to be saved, and the
/// bucket stays as it is.
#[test]
fn a_storage_for_restores_only_is_never_written_to() {
    let Some(_world) = together() else { return };
    Story::tell("read-only", Story::begin, |story| {
        let pod = story.app_with_a_file()?;
        let snapshot = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        story.nothing_left()?;
        let before = objects(story)?;
        let patch = r#"{"spec":{"accessMode":"ReadOnly"}}"#;
        story.patch("backupstorage", "store", patch)?;
        story.until("backupstorage", "store", |o| {
            let (_, _, message) = condition(o, "Ready")?;
            (phase(o) == "Ready" && message.contains("nothing was written")).then_some(())
        })?;

        let refused = story.backup("second", "{}", "Failed")?;
        let said = refused["status"]["message"].as_str().unwrap_or_default();
        if !said.contains("accessMode: ReadOnly") || !refused["status"]["snapshotRef"].is_null() {
            return Err(Failure(format!("the Backup does not say why: {}", refused["status"])));
        }
        let from = format!("from: {{snapshotRef: {{name: {snapshot}}}}}");
        let refused = story.restore("with-undo", &format!("{{{from}}}"), "Failed")?;
        let said = refused["status"].to_string();
        if !said.contains("UndoNotPossible") || !said.contains("undo: false") {
            return Err(Failure(format!("the Restore does not say why: {said}")));
        }
        story.the_file_comes_back(&pod, &format!("{{undo: false, {from}}}"))?;
        let after = objects(story)?;
        if after != before {
            return Err(Failure(format!("the bucket changed: {before:?} became {after:?}")));
        }
        story.nothing_left()
    });
}

/// Waits until the storage can be used and has this condition, by its status and reason; what it says.
fn told(story: &Story, kind: &str, status: &str, reason: &str) -> Result<String> {
    story.until("backupstorage", "store", |o| {
        let (found, why, message) = condition(o, kind)?;
        (phase(o) == "Ready" && found == status && why == reason).then_some(message)
    })
}

/// Waits until the storage can be used and nothing is said of this condition.
fn not_told(story: &Story, kind: &str) -> Result<()> {
    story.until("backupstorage", "store", |o| {
        (phase(o) == "Ready" && condition(o, kind).is_none()).then_some(())
    })
}

/// Without a recovery password that is told. It is told until the one that was set opens the repositories of before, too.
#[test]
fn a_storage_without_a_recovery_password_says_so_until_it_opens_every_repository() {
    let Some(_world) = together() else { return };
    Story::tell("no-recovery", Story::bare, |story| {
        let with = story.storage_yaml("store");
        let without = with.replace("  recoveryPasswordSecretRef: {name: store-recovery}\n", "");
        if without == with {
            return Err(Failure(format!("the storage still has one:\n{without}")));
        }
        story.apply(&without)?;
        let said = told(story, "NoRecoveryPassword", "True", "NotConfigured")?;
        if !said.contains("spec.recoveryPasswordSecretRef") {
            return Err(Failure(format!("it does not say what to set: {said}")));
        }
        story.apply(&repository_yaml("main", "", ""))?;
        story.until("repository", "main", |o| (phase(o) == "Ready").then_some(()))?;
        let keys = || -> Result<usize> {
            let directory = story.bed.bucket_directory(&story.bucket)?.join(story.repository_directory()?);
            let found = std::fs::read_dir(directory.join("keys")).map_err(|e| Failure(e.to_string()))?;
            Ok(found.flatten().filter(|entry| entry.file_name().len() == 64).count())
        };
        if keys()? != 1 {
            return Err(Failure(format!("a new repository has {} keys", keys()?)));
        }
        story.apply(&with)?;
        not_told(story, "NoRecoveryPassword")?;
        // Nothing is said any more only because the repository has the key.
        if keys()? != 2 {
            return Err(Failure(format!("the repository has {} keys, not two", keys()?)));
        }
        story.nothing_left()
    });
}

/// A store that is a Service of this cluster is told by its name; once the storage goes past the Service, nothing is told.
#[test]
fn a_store_in_the_cluster_that_it_is_to_outlive_is_told() {
    let Some(_world) = together() else { return };
    Story::tell("shared-domain", Story::bare, |story| {
        let gate = Gate::open(story.bed)?;
        let own = story.namespace.clone();
        let address = gate.endpoint.trim_start_matches("http://");
        let (host, port) =
            address.split_once(':').ok_or_else(|| Failure(format!("no port in {address:?}")))?;
        story.apply(&format!(
            "apiVersion: v1
kind: Service
metadata: {{name: s3}}
spec: {{ports: [{{port: 80, targetPort: {port}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s3-of-the-machine, labels: {{kubernetes.io/service-name: s3}}}}
addressType: IPv4
ports: [{{port: {port}, protocol: TCP}}]
endpoints: [{{addresses: [{host}], conditions: {{ready: true}}}}]
"
        ))?;
        let past = gated(story, &gate);
        let through = past.replace(&gate.endpoint, &format!("http://s3.{own}.svc.cluster.local"));
        story.apply(&through)?;
        let said = told(story, "SharedFailureDomain", "True", "InCluster")?;
        if !said.contains(&format!("Service {own}/s3 of this cluster")) {
            return Err(Failure(format!("it does not say where the store is: {said}")));
        }
        story.apply(&past)?;
        not_told(story, "SharedFailureDomain")?;
        story.nothing_left()
    });
}

/// A rule of the bucket that deletes what is stored is told with its name and what it does, and that there is none when it
/// is gone.
#[test]
fn a_lifecycle_rule_of_the_bucket_is_told_until_it_is_gone() {
    let Some(_world) = together() else { return };
    Story::tell("rules", Story::bare, |story| {
        let server = story.bed.second_s3(&story.bucket)?;
        story.bed.second_s3_rule(&story.bucket)?;
        let (key, secret) = (&server.access_key, &server.secret_key);
        let yaml = story.storage_with("store", &story.bucket, key, secret, Some(&story.bed.ca_pem));
        story.apply(&yaml.replace(&story.bed.s3_endpoint, &server.endpoint))?;
        let said = told(story, "LifecycleRuleFound", "True", "RuleFound")?;
        if !said.contains("\"month\" deletes objects after 30 days") {
            return Err(Failure(format!("it does not say which rule does what: {said}")));
        }
        story.bed.second_s3_no_rule(&story.bucket)?;
        // A change of the storage has it tried at once.
        story.patch("backupstorage", "store", r#"{"spec":{"limits":{"concurrentJobs":9}}}"#)?;
        told(story, "LifecycleRuleFound", "False", "NoRuleFound")?;
        story.nothing_left()
    });
}
