//! A storage that several namespaces share, whose keys are exchanged for each run at minio's `AssumeRole`.

use std::fs;
use std::process::{Command, Stdio};

use holdfast_e2e::kubectl::{Failure, Result, condition, phase, run};
use holdfast_e2e::story::{RUN, Story};
use holdfast_testbed::S3Env;
use serde_json::Value;

use crate::together;

/// What the Secret of a run holds to reach the store.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) token: Option<String>,
    pub(crate) password: String,
}

impl Keys {
    /// Those of a Secret of a run.
    pub(crate) fn of(secret: &Value) -> Result<Self> {
        let text = |name: &str| -> Result<String> {
            let data = secret["data"][name]
                .as_str()
                .ok_or_else(|| Failure(format!("no {name} in the run's Secret")))?;
            let bytes = run(Command::new("base64").arg("-d"), data.as_bytes())?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Self {
            id: text("access-key-id")?,
            secret: text("secret-access-key")?,
            token: Some(text("session-token")?),
            password: text("password")?,
        })
    }

    /// Runs `holdfast repo ARGS` with these keys on a directory of the bucket: whether it went well, and what it said.
    pub(crate) fn repo(
        &self,
        story: &Story,
        server: &S3Env,
        directory: &str,
        args: &[&str],
    ) -> Result<(bool, String)> {
        let mut holdfast = Command::new(story.bed.holdfast()?.program());
        holdfast
            .args(["repo", "--cacert"])
            .arg(&server.ca_file)
            .args(["-r", &format!("s3:{}/{}/{directory}", server.endpoint, story.bucket)])
            .args(args)
            .env("HOLDFAST_PASSWORD", &self.password)
            .env("AWS_ACCESS_KEY_ID", &self.id)
            .env("AWS_SECRET_ACCESS_KEY", &self.secret)
            .env("AWS_REGION", &server.region)
            .stdin(Stdio::null());
        if let Some(token) = &self.token {
            holdfast.env("AWS_SESSION_TOKEN", token);
        }
        let done = holdfast.output().map_err(|e| Failure(format!("cannot start holdfast: {e}")))?;
        let said = [done.stdout, done.stderr].concat();
        Ok((done.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }

    /// Runs it and expects it to go well, or to fail with this word.
    pub(crate) fn expect(
        &self,
        story: &Story,
        server: &S3Env,
        directory: &str,
        args: &[&str],
        word: Option<&str>,
    ) -> Result<()> {
        let (well, said) = self.repo(story, server, directory, args)?;
        match word {
            None if well => Ok(()),
            Some(word) if !well && said.contains(word) => Ok(()),
            _ => Err(Failure(format!(
                "holdfast repo {args:?} on {directory} went well: {well}, and said:\n{said}"
            ))),
        }
    }
}

/// Applies the YAML of a storage in the namespace that keeps it, for all namespaces, and slow enough for the Secret of a run to
/// be seen.
pub(crate) fn share(story: &Story, keeper: &str, storage: &str) -> Result<()> {
    let yaml = format!(
        "{storage}  usagePolicy: {{allowedNamespaces: {{from: All}}}}\n  limits: {{uploadBytesPerSecond: 1Mi}}\n"
    );
    let apply = ["-n", keeper, "apply", "--validate=strict", "-f", "-"];
    story.kubectl.run_with(&apply, yaml.as_bytes()).map(drop)
}

/// A Backup of a new application to a shared storage, and what could be seen while it ran.
pub(crate) struct FirstRun {
    /// Pod of the application.
    pub(crate) pod: String,
    /// What the Secret of the run held.
    pub(crate) keys: Keys,
    /// Directory of the namespace's repository.
    pub(crate) directory: String,
    /// The Backup when it had ended.
    pub(crate) backup: Value,
}

impl FirstRun {
    /// Saves to the storage `store` that another namespace keeps.
    pub(crate) fn to_storage_of(story: &Story, keeper: &str) -> Result<Self> {
        let pod = story.app_with_a_file()?;
        story.shell(&pod, "head -c 6000000 /dev/urandom > /store/large")?;
        story.start_backup("first", &format!("{{storageRef: {{name: store, namespace: {keeper}}}}}"))?;
        let mut seen = None;
        story.kubectl.until_true("a Secret of the run", RUN, || {
            let secrets = story.kubectl.list(&story.namespace, &["secrets", "-l", "holdfast.dev/run-uid"])?;
            seen = secrets.into_iter().next();
            Ok(seen.is_some())
        })?;
        let keys = Keys::of(&seen.unwrap_or_default())?;
        let backup = story.expect_end("backup", "first", "Succeeded")?;
        let repository = backup["status"]["repositoryRef"]["name"].as_str().unwrap_or_default();
        let directory = story
            .until("repository", repository, |o| o["status"]["directory"].as_str().map(str::to_owned))?;
        Ok(Self { pod, keys, directory, backup })
    }
}

/// A tenant's runs save and restore; the keys that they have meanwhile reach nothing else, and cannot overwrite the keys
/// of the tenant's own repository. Keys that cannot be exchanged are told, and no run starts without.
#[test]
fn a_tenants_runs_get_keys_to_their_own_directory_alone() {
    let Some(_world) = together() else { return };
    Story::tell("scoped", Story::bare, |story| {
        let tenant = story.namespace.clone();
        let keeper = story.another_namespace("keeper")?;
        story.allow_root()?;
        let server = story.bed.second_s3(&story.bucket)?;
        let owner = Keys {
            id: story.bucket.clone(),
            secret: "secret-of-the-storages-owner".to_owned(),
            token: None,
            password: "of another repository".to_owned(),
        };
        story.bed.second_s3_account(&owner.id, &owner.secret, &story.bucket)?;
        let storage = |secret: &str, role: &str| -> Result<()> {
            let yaml = story
                .storage_with("store", &story.bucket, &owner.id, secret, Some(&story.bed.ca_pem))
                .replace(&story.bed.s3_endpoint, &server.endpoint)
                .replace("      bucket:", &format!("      {role}\n      bucket:"));
            share(story, &keeper, &yaml)
        };
        // What the storage says of itself, and of the keys that runs get.
        let until = |wanted: &str, scope: &str| {
            story.kubectl.until(&keeper, "backupstorage", "store", RUN, |o| {
                let (_, reason, _) = condition(o, "Ready")?;
                let (_, told, _) = condition(o, "CredentialsNotScoped")?;
                (reason == wanted && told == scope).then_some(())
            })
        };
        storage(&owner.secret, "region: us-east-1")?;
        until("Validated", "SharedKey")?;
        storage("a-wrong-secret", "assumeRole: {sessionDuration: 15m}")?;
        until("InvalidCredentials", "CannotTell")?;
        storage(&owner.secret, "assumeRole: {sessionDuration: 15m}")?;
        // Seen, not believed.
        until("Validated", "PolicyKept")?;

        let FirstRun { pod, keys, directory: own, backup: first } = FirstRun::to_storage_of(story, &keeper)?;

        // The run's keys are not the storage's, and are good for the run's directory.
        if keys.id == owner.id || keys.secret == owner.secret {
            return Err(Failure("a run had the storage's own keys".into()));
        }
        keys.expect(story, &server, &own, &["snapshots"], None)?;
        keys.expect(story, &server, &own, &["check"], None)?;
        // Not for its keys, which every later run needs.
        let file = std::env::temp_dir().join(format!("{}-password", story.bucket));
        fs::write(&file, "another").map_err(|e| Failure(format!("cannot write {}: {e}", file.display())))?;
        let add = ["key", "add", "--new-password-file", &file.display().to_string()];
        let added = keys.expect(story, &server, &own, &add, Some("AccessDenied"));
        let _ = fs::remove_file(&file);
        added?;

        // Nor for what lies beside it: a directory that begins with the same letters, and another tenant's.
        for beside in [format!("{own}-2"), "testbed/other/main-x7k2p".to_owned()] {
            owner.expect(story, &server, &beside, &["init"], None)?;
            let thief = Keys { password: owner.password.clone(), ..keys.clone() };
            thief.expect(story, &server, &beside, &["snapshots"], Some("AccessDenied"))?;
            thief.expect(story, &server, &format!("{beside}/new"), &["init"], Some("AccessDenied"))?;
            owner.expect(story, &server, &beside, &["snapshots"], None)?;
        }

        let snapshot = Story::snapshot_of(&first)?;
        story.the_file_comes_back(&pod, &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"))?;

        // Without keys of its own no run starts, and none gets the storage's instead.
        storage("a-wrong-secret", "assumeRole: {sessionDuration: 15m}")?;
        until("InvalidCredentials", "PolicyKept")?;
        story.start_backup("second", &format!("{{storageRef: {{name: store, namespace: {keeper}}}}}"))?;
        story.until("backup", "second", |o| {
            let waits = !["Succeeded", "PartiallyFailed", "Failed", "Skipped"].contains(&phase(o));
            (waits && o["status"].to_string().contains("InvalidCredentials")).then_some(())
        })?;
        if !story.kubectl.list(&tenant, &["secrets", "-l", "holdfast.dev/run-uid"])?.is_empty() {
            return Err(Failure("a run has a Secret although there are no keys for it".into()));
        }
        storage(&owner.secret, "assumeRole: {sessionDuration: 15m}")?;
        story.expect_end("backup", "second", "Succeeded")?;

        for namespace in [&tenant, &keeper] {
            let what = "events,jobs,pods,backups,restores,repositories,backupstorages";
            let objects = story.kubectl.run(&["-n", namespace, "get", what, "-o", "yaml"])?;
            for secret in [Some(&owner.secret), Some(&keys.secret), keys.token.as_ref()].into_iter().flatten()
            {
                if objects.contains(secret.as_str()) {
                    return Err(Failure("a key shows in the cluster's objects".into()));
                }
            }
        }
        story.nothing_left()
    });
}
