//! Leftovers: what an operator that was killed between two steps has left behind. At start and on a period.
//!
//! - Secrets of runs whose Job is not there (made by a start that was interrupted, or of a Job that was deleted by
//!   somebody else);
//! - Jobs whose object is gone; most go with their owner, but Jobs in a storage's namespace belong to the storage.
//!
//! Workloads held at zero by a run that is gone are looked after by [`crate::quiesce`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_api::{Backup, BackupStorage, Repository, Restore, names};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams, PartialObjectMeta};
use kube::{Client, Resource, ResourceExt};

use crate::context::Ctx;
use crate::errors::Chain;
use crate::jobs::checkpoint::ANNOTATION_CHECKPOINT;
use crate::jobs::{RunKind, RunRef};
use crate::kubernetes::{self, Namespaced, RequestError};

/// What is younger may be between two steps of a start.
const YOUNG: SignedDuration = SignedDuration::from_mins(10);
/// How long after the start the first sweep comes, so that controllers have seen their objects.
const FIRST: Duration = Duration::from_secs(30);

/// Sweeps until the operator stops.
pub async fn run(ctx: Arc<Ctx>) {
    let mut pause = FIRST;
    loop {
        tokio::select! {
            () = ctx.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if let Err(error) = sweep(&ctx).await {
            tracing::warn!(
                error = %Chain(&error),
                "leftovers could not be swept; they are swept later"
            );
        }
        pause = ctx.settings.sweep_period;
    }
}

async fn sweep(ctx: &Ctx) -> Result<(), RequestError> {
    let client = &ctx.client;
    let now = ctx.now();
    let secrets = metadata::<Secret>(client).await?;
    let jobs = metadata::<Job>(client).await?;
    let uids = run_uids(client).await?;
    for job in stray_jobs(&jobs, &uids, now) {
        let (namespace, name, uid) = place(job);
        tracing::info!(namespace, name, "removing a Job whose object is gone");
        kubernetes::delete::<Job>(client, &namespace, &name, uid.as_deref()).await?;
    }
    for secret in stray_secrets(&secrets, &jobs, now) {
        let (namespace, name, uid) = place(secret);
        tracing::info!(namespace, name, "removing a run's Secret without a Job");
        kubernetes::delete::<Secret>(client, &namespace, &name, uid.as_deref()).await?;
    }
    Ok(())
}

/// Names and labels only: a sweep has no business in the content of Secrets.
async fn metadata<K: Namespaced>(client: &Client) -> Result<Vec<PartialObjectMeta<K>>, RequestError> {
    let ours = format!("{}={},{}", names::LABEL_MANAGED_BY, names::MANAGED_BY, names::LABEL_TASK);
    let list = Api::<K>::all(client.clone()).list_metadata(&ListParams::default().labels(&ours)).await;
    list.map(|list| list.items).map_err(|source| RequestError {
        verb: "list",
        kind: K::kind(&()).into_owned(),
        namespace: "*".into(),
        name: ours,
        source: Box::new(source),
    })
}

async fn run_uids(client: &Client) -> Result<BTreeSet<String>, RequestError> {
    let mut uids = BTreeSet::new();
    for kind in RunKind::ALL {
        match kind {
            RunKind::BackupStorage => add::<BackupStorage>(client, &mut uids).await?,
            RunKind::Repository => add::<Repository>(client, &mut uids).await?,
            RunKind::Backup => add::<Backup>(client, &mut uids).await?,
            RunKind::Restore => add::<Restore>(client, &mut uids).await?,
        }
    }
    Ok(uids)
}

async fn add<K: Namespaced>(client: &Client, uids: &mut BTreeSet<String>) -> Result<(), RequestError> {
    let all = Api::<K>::all(client.clone()).list_metadata(&ListParams::default()).await;
    let all = all.map_err(|source| RequestError {
        verb: "list",
        kind: K::kind(&()).into_owned(),
        namespace: "*".into(),
        name: String::new(),
        source: Box::new(source),
    })?;
    uids.extend(all.items.iter().filter_map(ResourceExt::uid));
    Ok(())
}

fn place<K: Resource>(object: &K) -> (String, String, Option<String>) {
    (object.namespace().unwrap_or_default(), object.name_any(), object.uid())
}

fn is_young<K: Resource>(object: &K, now: Timestamp) -> bool {
    object.creation_timestamp().is_none_or(|made| now.duration_since(made.0) < YOUNG)
}

/// Jobs whose object is gone. Unlock Jobs are left alone while they are young: they outlive the run that they
/// clean up after.
fn stray_jobs<'a, K: Resource>(jobs: &'a [K], uids: &BTreeSet<String>, now: Timestamp) -> Vec<&'a K> {
    jobs.iter()
        .filter(|job| !is_young(*job, now))
        .filter(|job| RunRef::from_child(*job).is_some_and(|run| !uids.contains(&run.uid)))
        .collect()
}

/// Secrets of runs without a Job of their name; checkpoints, which serve all Jobs of a component, when their run has
/// no Job at all.
fn stray_secrets<'a, S: Resource, J: Resource>(secrets: &'a [S], jobs: &[J], now: Timestamp) -> Vec<&'a S> {
    let there: BTreeSet<(Option<String>, String)> =
        jobs.iter().map(|job| (job.namespace(), job.name_any())).collect();
    let at_work: BTreeSet<String> =
        jobs.iter().filter_map(|job| RunRef::from_child(job).map(|run| run.uid)).collect();
    let serves = |secret: &S| {
        secret.annotations().contains_key(ANNOTATION_CHECKPOINT)
            && RunRef::from_child(secret).is_some_and(|run| at_work.contains(&run.uid))
    };
    secrets
        .iter()
        .filter(|secret| !is_young(*secret, now))
        .filter(|secret| !there.contains(&(secret.namespace(), secret.name_any())))
        .filter(|secret| !serves(secret))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object<K: serde::de::DeserializeOwned>(name: &str, made: &str, uid: &str) -> K {
        serde_saphyr::from_str(&format!(
            "
metadata:
  name: {name}
  namespace: shop
  creationTimestamp: '2026-11-20T{made}:00Z'
  labels: {{holdfast.dev/run-kind: Backup, holdfast.dev/run-uid: {uid}, holdfast.dev/task: Backup}}
  annotations: {{holdfast.dev/run: shop/daily}}
"
        ))
        .unwrap()
    }

    fn names<K: Resource>(objects: Vec<&K>) -> Vec<String> {
        objects.into_iter().map(ResourceExt::name_any).collect()
    }

    #[test]
    fn only_old_things_without_their_other_half_are_swept() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let jobs: Vec<Job> = vec![
            object("known", "10:00", "alive"),
            object("stray", "10:00", "gone"),
            object("young", "11:55", "gone"),
        ];
        let uids = BTreeSet::from(["alive".to_owned()]);
        assert_eq!(names(stray_jobs(&jobs, &uids, now)), ["stray"]);

        let secrets: Vec<Secret> = vec![
            object("known", "10:00", "alive"),
            object("left", "10:00", "alive"),
            object("new", "11:55", "alive"),
        ];
        assert_eq!(names(stray_secrets(&secrets, &jobs, now)), ["left"]);

        let mut checkpoints: Vec<Secret> =
            vec![object("useful", "10:00", "alive"), object("useless", "10:00", "over")];
        for secret in &mut checkpoints {
            secret.annotations_mut().insert(ANNOTATION_CHECKPOINT.to_owned(), "true".to_owned());
        }
        assert_eq!(names(stray_secrets(&checkpoints, &jobs, now)), ["useless"]);
    }
}
