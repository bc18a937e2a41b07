//! Keys of S3 that end by themselves, as minio's `AssumeRole` hands them out.

use std::process::Command;

use holdfast_e2e::kubectl::{Failure, Result, condition, phase, run};
use holdfast_e2e::story::Story;
use holdfast_testbed::S3Env;

use crate::together;

/// Temporary keys of the server's owner.
struct Keys {
    id: String,
    secret: String,
    token: String,
}

impl Keys {
    fn fetch(server: &S3Env) -> Result<Self> {
        let mut curl = Command::new("curl");
        // Keys go in by stdin: a command line can be read by every user of the machine.
        curl.args(["--config", "-", "-sS", "--fail-with-body", "-m", "60", "--cacert"])
            .arg(&server.ca_file)
            .arg("--aws-sigv4")
            .arg(format!("aws:amz:{}:sts", server.region))
            .args(["--data", "Action=AssumeRole&Version=2011-06-15&DurationSeconds=3600"])
            .arg(format!("{}/", server.endpoint));
        let user = format!("user = \"{}:{}\"\n", server.access_key, server.secret_key);
        let answer = String::from_utf8_lossy(&run(&mut curl, user.as_bytes())?).into_owned();
        let element = |name: &str| {
            let (open, close) = (format!("<{name}>"), format!("</{name}>"));
            let inner = answer.split_once(&open).and_then(|(_, rest)| rest.split_once(&close));
            inner.map(|(text, _)| text.to_owned()).ok_or_else(|| Failure(format!("no {name} was handed out")))
        };
        Ok(Self {
            id: element("AccessKeyId")?,
            secret: element("SecretAccessKey")?,
            token: element("SessionToken")?,
        })
    }

    /// The YAML of the storage `store` with these keys and this token.
    fn storage(&self, story: &Story, server: &S3Env, token: &str) -> String {
        let bed = story.bed;
        let secret = format!("AWS_SECRET_ACCESS_KEY: '{}'", self.secret);
        story
            .storage_with("store", &story.bucket, &self.id, &self.secret, Some(&bed.ca_pem))
            .replace(&bed.s3_endpoint, &server.endpoint)
            .replace(&secret, &format!("{secret}, AWS_SESSION_TOKEN: '{token}'"))
    }
}

/// A wrong token is told as wrong credentials; a right one works, and renewed keys are used without anybody's doing.
#[test]
fn temporary_keys_are_used_and_their_renewal_is_noticed() {
    let Some(_world) = together() else { return };
    Story::tell("temporary", Story::bare, |story| {
        let own = story.namespace.clone();
        let server = story.bed.second_s3(&story.bucket)?;
        story.allow_root()?;
        let keys = Keys::fetch(&server)?;
        story.apply(&keys.storage(story, &server, "wrong"))?;
        story.until("backupstorage", "store", |o| {
            let (_, reason, _) = condition(o, "Ready")?;
            (phase(o) == "Unavailable" && reason == "InvalidCredentials").then_some(())
        })?;
        story.apply(&keys.storage(story, &server, &keys.token))?;
        story.storage_ready("store")?;

        let pod = story.app_with_a_file()?;
        let snapshot = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;

        let renewed = Keys::fetch(&server)?;
        if renewed.token == keys.token {
            return Err(Failure("the keys were not renewed".into()));
        }
        story.apply(&renewed.storage(story, &server, &renewed.token))?;
        story.storage_ready("store")?;
        story.the_file_comes_back(&pod, &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"))?;
        let objects =
            story.kubectl.run(&["-n", &own, "get", "events,jobs,pods,backups,restores", "-o", "yaml"])?;
        for secret in [&keys.secret, &keys.token, &renewed.secret, &renewed.token] {
            if objects.contains(secret.as_str()) {
                return Err(Failure("a key shows in the cluster's objects".into()));
            }
        }
        story.nothing_left()
    });
}
