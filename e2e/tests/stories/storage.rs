//! Storages: how a wrong one is told apart from a right one.

use holdfast_e2e::kubectl::{Failure, Result, condition, phase};
use holdfast_e2e::story::{Story, storage_yaml};

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
    let _world = together();
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
        storage_yaml(s.bed, "store", &s.bucket, &s.bed.access_key, "wrong-secret-key", Some(&s.bed.ca_pem))
    });
}

#[test]
fn an_unknown_access_key_is_named() {
    wrong("unknown-key", "InvalidCredentials", |s| {
        storage_yaml(s.bed, "store", &s.bucket, "NOBODY", &s.bed.secret_key, Some(&s.bed.ca_pem))
    });
}

#[test]
fn a_missing_bucket_is_named() {
    wrong("no-bucket", "BucketNotFound", |s| {
        storage_yaml(
            s.bed,
            "store",
            "no-such-bucket",
            &s.bed.access_key,
            &s.bed.secret_key,
            Some(&s.bed.ca_pem),
        )
    });
}

#[test]
fn an_untrusted_certificate_is_named() {
    wrong("untrusted", "UntrustedCertificate", |s| {
        storage_yaml(s.bed, "store", &s.bucket, &s.bed.access_key, &s.bed.secret_key, None)
    });
}

#[test]
fn a_missing_secret_is_named() {
    let _world = together();
    Story::tell("no-secret", Story::bare, |story| {
        let yaml = story
            .storage_yaml("store")
            .replace("credentialsSecretRef: {name: store-s3}", "credentialsSecretRef: {name: absent}");
        unavailable(story, &yaml, "SecretNotFound")
    });
}

#[test]
fn a_storage_leaves_one_file_in_the_bucket_and_lists_what_it_finds() {
    let _world = together();
    Story::tell("describes", Story::begin, |story| {
        let root = story.bed.bucket_directory(&story.bucket);
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
    let _world = together();
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
