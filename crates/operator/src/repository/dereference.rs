//! All that is known about a repository before anything is decided. The only reader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_api::{Backup, BackupStorage, Repository, Restore, Snapshot};
use holdfast_protocol::spec::SnapshotRow;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::Api;

use super::RepositoryError;
use crate::access::{self, AccessError, StorageAccess};
use crate::context::{Attempt, Ctx};
use crate::errors::Chain;
use crate::jobs::{self, JobState, JobTask, JobView, RunKind, RunRef};
use crate::kubernetes::{self, RequestError};
use crate::snapshot;

/// The namespace of a repository, as far as it matters.
#[derive(Debug, Default)]
pub(super) struct NamespaceFacts {
    pub labels: BTreeMap<String, String>,
    pub terminating: bool,
}

/// The facts.
pub(super) struct Facts {
    pub repository: Repository,
    pub run: RunRef,
    pub cluster: String,
    pub namespace: NamespaceFacts,
    pub storage: Option<BackupStorage>,
    /// How the storage is reached, or why that cannot be told; `None` without a storage.
    pub access: Option<Result<StorageAccess, AccessError>>,
    /// The password, or why it is not there. `None` while it is not known where it would be.
    pub password: Option<Result<Vec<u8>, AccessError>>,
    /// Another Repository object with the same storage and directory, as `<namespace>/<name>`.
    pub rival: Option<String>,
    /// Its Jobs, in the storage's namespace.
    pub jobs: Vec<JobView>,
    /// Its Snapshot objects.
    pub snapshots: Vec<Snapshot>,
    /// Uids of Backups at work in its namespace, and of Restores at work that may save something to it first.
    pub running: Vec<String>,
    /// Ids of snapshots that a Backup found to be worth nothing. Also of those that it has removed: the list may be older.
    pub discarded: BTreeSet<String>,
    /// What an ended sync sent, or why that cannot be read.
    pub rows: Option<Result<Vec<SnapshotRow>, String>>,
    pub opened: Option<Attempt>,
    pub synced: Option<Attempt>,
    pub sync_period: Duration,
    pub now: Timestamp,
}

impl Facts {
    pub(super) fn own_namespace(&self) -> String {
        self.repository.namespace().unwrap_or_default()
    }

    pub(super) fn storage_namespace(&self) -> String {
        let own = self.own_namespace();
        self.repository.spec.storage_ref.namespace_or(&own).to_owned()
    }
}

pub(super) async fn dereference(ctx: &Ctx, repository: &Repository) -> Result<Facts, RepositoryError> {
    let client = &ctx.client;
    let run = RunRef::of(RunKind::Repository, repository);
    let own = run.namespace.clone();
    let storage_namespace = repository.spec.storage_ref.namespace_or(&own).to_owned();
    let storage_name = repository.spec.storage_ref.name.clone();

    let selector = snapshot::selector(&run.name);
    let (namespace, storage, snapshots) = tokio::try_join!(
        read_namespace(ctx, &own),
        kubernetes::get::<BackupStorage>(client, &storage_namespace, &storage_name),
        kubernetes::list::<Snapshot>(client, &own, &selector),
    )?;
    let jobs = jobs::observe(client, &storage_namespace, &run).await?;
    let access = match &storage {
        Some(storage) => match StorageAccess::read(client, storage.clone()).await {
            Err(error @ AccessError::Request(_)) => return Err(error.into()),
            other => Some(other),
        },
        None => None,
    };
    let password = match (super::build::directory(repository, &ctx.settings.cluster_name), &storage) {
        (directory, Some(storage)) => password(ctx, repository, storage, &directory).await?,
        _ => None,
    };
    let rival = if super::validate::needs_opening(repository) {
        let all = kubernetes::list_everywhere::<Repository>(client, "").await?;
        rival(repository, &super::build::directory(repository, &ctx.settings.cluster_name), &all)
    } else {
        None
    };
    let rows = rows(ctx, &jobs).await;
    let mut discarded = BTreeSet::new();
    let running = if rows.is_some() {
        let (backups, restores) = tokio::try_join!(
            kubernetes::list::<Backup>(client, &own, ""),
            // One of another namespace may restore from here.
            kubernetes::list_everywhere::<Restore>(client, ""),
        )?;
        let components =
            backups.iter().filter_map(|backup| backup.status.as_ref()).flat_map(|s| &s.components);
        discarded.extend(components.filter_map(|c| c.discarded.as_ref()).map(|d| d.snapshot_id.clone()));
        let backups = backups.iter().filter(|backup| super::is_running(backup)).filter_map(ResourceExt::uid);
        let restores =
            restores.iter().filter(|restore| super::is_saving(restore)).filter_map(ResourceExt::uid);
        backups.chain(restores).collect()
    } else {
        Vec::new()
    };
    Ok(Facts {
        opened: ctx.attempts.last(&run.uid, JobTask::Init.as_str()),
        synced: ctx.attempts.last(&run.uid, JobTask::Sync.as_str()),
        repository: repository.clone(),
        run,
        cluster: ctx.settings.cluster_name.clone(),
        namespace,
        storage,
        access,
        password,
        rival,
        jobs,
        snapshots,
        running,
        discarded,
        rows,
        sync_period: ctx.settings.sync_period,
        now: ctx.now(),
    })
}

async fn read_namespace(ctx: &Ctx, name: &str) -> Result<NamespaceFacts, RequestError> {
    let found =
        Api::<Namespace>::all(ctx.client.clone()).get_opt(name).await.map_err(|source| RequestError {
            verb: "read",
            kind: "Namespace".into(),
            namespace: String::new(),
            name: name.to_owned(),
            source: Box::new(source),
        })?;
    Ok(found.map_or_else(
        || NamespaceFacts { labels: BTreeMap::new(), terminating: true },
        |namespace| NamespaceFacts {
            terminating: namespace.metadata.deletion_timestamp.is_some(),
            labels: namespace.metadata.labels.unwrap_or_default(),
        },
    ))
}

async fn password(
    ctx: &Ctx,
    repository: &Repository,
    storage: &BackupStorage,
    directory: &str,
) -> Result<Option<Result<Vec<u8>, AccessError>>, AccessError> {
    let Some(place) = super::build::password_place(repository, storage, directory) else { return Ok(None) };
    match access::repository_password(&ctx.client, repository, &place.namespace, &place.name).await {
        Err(error @ AccessError::Request(_)) => Err(error),
        other => Ok(Some(other)),
    }
}

/// Another Repository that has, or will have, the same place. Of two that want it, the older one gets it.
fn rival(repository: &Repository, directory: &str, all: &[Repository]) -> Option<String> {
    let place = |other: &Repository| {
        let own = other.namespace().unwrap_or_default();
        let reference = &other.spec.storage_ref;
        (reference.namespace_or(&own).to_owned(), reference.name.clone())
    };
    let ours = place(repository);
    let age = |other: &Repository| (other.creation_timestamp().map(|t| t.0), other.uid());
    all.iter()
        .filter(|other| other.uid() != repository.uid() && place(other) == ours)
        .filter(|other| {
            let chosen = other.spec.directory.as_deref();
            let known = other.status.as_ref().and_then(|status| status.directory.as_deref());
            chosen.or(known) == Some(directory)
        })
        .find(|other| age(other) < age(repository))
        .map(|other| format!("{}/{}", other.namespace().unwrap_or_default(), other.name_any()))
}

/// What the sync that has ended sent.
async fn rows(ctx: &Ctx, jobs: &[JobView]) -> Option<Result<Vec<SnapshotRow>, String>> {
    let view =
        jobs.iter().find(|view| view.task() == Some(JobTask::Sync.as_str()) && !view.is_being_deleted())?;
    let JobState::Ended(ended) = &view.state else { return None };
    if !ended.is_success() {
        return None;
    }
    let (Some(verdict), Some(pod)) = (ended.verdict(), &ended.pod) else { return None };
    let rows = jobs::logs::rows(&ctx.client, view.namespace(), pod, verdict).await;
    Some(rows.map_err(|error| Chain(&error).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(namespace: &str, name: &str, created: &str, directory: &str) -> Repository {
        serde_saphyr::from_str(&format!(
            "
apiVersion: holdfast.dev/v1alpha1
kind: Repository
metadata: {{name: {name}, namespace: {namespace}, uid: {namespace}-{name}, creationTimestamp: '{created}'}}
spec: {{storageRef: {{name: offsite, namespace: backup}}, directory: {directory}}}
"
        ))
        .unwrap()
    }

    #[test]
    fn of_two_repositories_for_one_directory_the_older_one_gets_it() {
        let old = repository("a", "one", "2026-11-20T01:00:00Z", "c/a/x");
        let new = repository("b", "two", "2026-11-20T02:00:00Z", "c/a/x");
        let elsewhere = repository("b", "three", "2026-11-20T00:00:00Z", "c/a/y");
        let all = [old.clone(), new.clone(), elsewhere];
        assert_eq!(rival(&old, "c/a/x", &all), None);
        assert_eq!(rival(&new, "c/a/x", &all), Some("a/one".to_owned()));
    }
}
