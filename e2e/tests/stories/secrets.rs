//! The password of a repository goes and changes, during a run and between runs.

use holdfast_e2e::kubectl::{Failure, Result, condition, phase};
use holdfast_e2e::story::Story;
use serde_json::{Value, json};

use crate::crashes::{heavy, locked, runner, sound};
use crate::together;

/// The Secret of the story's only repository with its password, as an administrator keeps a copy of it.
fn copy(secret: &Value, password: &Value) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret["metadata"]["name"]},
        "data": {"password": password},
    })
    .to_string()
}

/// Deletes the Secret and puts another one in its place; a generated one cannot be changed otherwise.
fn replace(story: &Story, secret: &Value, password: &Value) -> Result<()> {
    remove(story, secret)?;
    story.apply(&copy(secret, password))
}

fn remove(story: &Story, secret: &Value) -> Result<()> {
    let name = secret["metadata"]["name"].as_str().unwrap_or_default();
    story.kubectl.run(&["-n", &story.namespace, "delete", "secret", name, "--ignore-not-found"]).map(drop)
}

/// Waits until the Repository is not Ready for this reason.
fn repository_says(story: &Story, name: &str, reason: &str) -> Result<String> {
    story.until("repository", name, |o| {
        let (status, found, message) = condition(o, "Ready")?;
        (status == "False" && found == reason).then_some(message)
    })
}

/// Deleted under a running Backup, the password is still that of its Job. The next one waits, names the Secret, and does
/// not take a wrong one; with the old one it goes on. Nothing is told as done that is not, and nothing is made anew.
#[test]
fn a_password_that_goes_or_changes_stops_no_runner_and_is_told_before_the_next() {
    let Some(_world) = together() else { return };
    Story::tell("password", Story::begin, |story| {
        heavy(story, 400)?;
        story.start_backup("running", "{}")?;
        runner(story, "running")?;
        locked(story)?;
        let secrets = story.kubectl.list(&story.namespace, &["secrets"])?;
        let is_it = |s: &&Value| {
            s["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("holdfast-repo-"))
        };
        let secret =
            secrets.iter().find(is_it).ok_or_else(|| Failure("no Secret with the password".into()))?.clone();
        let password = secret["data"]["password"].clone();
        remove(story, &secret)?;
        let running = story.expect_end("backup", "running", "Succeeded")?;
        let repository = running["status"]["repositoryRef"]["name"].as_str().unwrap_or_default().to_owned();

        let message = repository_says(story, &repository, "SecretNotFound")?;
        if !message.contains("put it back from a copy") {
            return Err(Failure(format!("it does not say what to do: {message}")));
        }
        story.start_backup("next", "{}")?;
        let name = secret["metadata"]["name"].as_str().unwrap_or_default();
        story.until("backup", "next", |o| {
            let said = o["status"]["message"].as_str().unwrap_or_default();
            (phase(o) == "Pending" && said.contains("SecretNotFound") && said.contains(name)).then_some(())
        })?;

        // base64 of `wrong`.
        replace(story, &secret, &json!("d3Jvbmc="))?;
        repository_says(story, &repository, "WrongPassword")?;
        let next = story.kubectl.get(&story.namespace, &["backup", "next"])?;
        if phase(&next) != "Pending" || !next["status"]["snapshotRef"].is_null() {
            return Err(Failure(format!("it went on without the password: {}", next["status"])));
        }

        replace(story, &secret, &password)?;
        story.expect_end("backup", "next", "Succeeded")?;
        if story.repositories_on_disk().len() != 1 {
            return Err(Failure(format!("made anew: {:?}", story.repositories_on_disk())));
        }

        // Changed between two runs, while nobody looks.
        replace(story, &secret, &json!("d3Jvbmc="))?;
        repository_says(story, &repository, "WrongPassword")?;
        replace(story, &secret, &password)?;
        story.backup("last", "{}", "Succeeded")?;
        sound(story)
    });
}
