//! Reads all that a Restore depends on, and makes the Repository object for a directory that it names. Decides nothing.

use std::collections::BTreeMap;

use holdfast_api::backup_storage::{FoundRepository, StoragePhase};
use holdfast_api::restore::FromRepository;
use holdfast_api::{BackupStorage, Reason, Repository, Restore, Snapshot, names};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttachment};
use kube::{Client, ResourceExt};

use super::source::{self, Otherwise};
use super::validate::{Facts, Refusal};
use crate::backup::dereference::{list_cluster, namespace};
use crate::context::Ctx;
use crate::kubernetes::{self, RequestError};
use crate::quiesce::read_inventory;
use crate::usage;
use crate::volumes::NodeStates;

/// What a Restore is made from, as far as it is known.
#[derive(Debug)]
pub enum Found {
    /// This Snapshot.
    Snapshot(Box<Snapshot>),
    /// It will be known later.
    NotYet {
        /// Why, in one word.
        reason: Reason,
        /// What is waited for.
        message: String,
    },
    /// There is none, or it may not be read.
    Refused(Refusal),
}

impl From<Result<&Snapshot, Refusal>> for Found {
    fn from(chosen: Result<&Snapshot, Refusal>) -> Self {
        match chosen {
            Ok(snapshot) => Self::Snapshot(Box::new(snapshot.clone())),
            Err(refusal) => Self::Refused(refusal),
        }
    }
}

/// The Snapshot that a Restore is made from: the one that was chosen before, the one that it names, or the one that its
/// source comes to now.
pub async fn snapshot(ctx: &Ctx, restore: &Restore) -> Result<Found, RequestError> {
    let client = &ctx.client;
    let own = restore.namespace().unwrap_or_default();
    let from = &restore.spec.from;
    let place = source::namespace(from, &own);
    let home = if place == own { None } else { Some(namespace(client, place).await?) };
    if let Some(refusal) = source::refusal(place, home.as_ref(), &own, &ctx.settings.namespace) {
        return Ok(Found::Refused(refusal));
    }
    let chosen = restore.status.as_ref().and_then(|status| status.snapshot_ref.as_ref());
    if let Some(named) = chosen.or(from.snapshot_ref.as_ref()) {
        return Ok(match kubernetes::get(client, place, &named.name).await? {
            Some(snapshot) => Found::Snapshot(Box::new(snapshot)),
            None => Found::Refused(gone(place, &named.name)),
        });
    }
    let Some(mut wanted) = source::wanted(from) else {
        let text = "spec.from sets no source that this version of Holdfast knows".to_owned();
        return Ok(Found::Refused(Refusal::plain(Reason::InvalidSpec, text)));
    };
    let Some(from) = &from.repository else {
        let all = kubernetes::list::<Snapshot>(client, place, "").await?;
        return Ok(source::choose(&wanted, &all, &ctx.settings.cluster_name).into());
    };
    let (repository, beside) = match found_repository(client, restore, from).await? {
        Ok(found) => found,
        Err(found) => return Ok(found),
    };
    if let Some(refusal) = source::never_there(&repository, &beside) {
        return Ok(Found::Refused(refusal));
    }
    if let Some((reason, message)) = source::not_listed(&repository, &beside) {
        return Ok(Found::NotYet { reason, message });
    }
    let name = repository.name_any();
    wanted.repository = Some(&name);
    let all = kubernetes::list::<Snapshot>(client, &own, "").await?;
    Ok(source::choose(&wanted, &all, &ctx.settings.cluster_name).into())
}

fn gone(namespace: &str, name: &str) -> Refusal {
    let text = format!(
        "there is no Snapshot {name} in namespace {namespace}: `kubectl get snapshots.holdfast.dev` lists those that \
         are there; the annotation {} on a Repository brings back those that are only in the repository",
        names::ANNOTATION_SYNC_NOW
    );
    Refusal::plain(Reason::SnapshotNotFound, text)
}

/// The Repository object that leads to a directory of a storage: one that is there, else one that is made now. With it,
/// what the storage lists.
async fn found_repository(
    client: &Client,
    restore: &Restore,
    from: &FromRepository,
) -> Result<Result<(Repository, Vec<FoundRepository>), Found>, RequestError> {
    let own = restore.namespace().unwrap_or_default();
    let reference = &from.storage_ref;
    let place = reference.namespace_or(&own);
    let not_yet = |reason, message| Ok(Err(Found::NotYet { reason, message }));
    let Some(storage) = kubernetes::get::<BackupStorage>(client, place, &reference.name).await? else {
        let message = format!("BackupStorage {place}/{} does not exist: create it", reference.name);
        return not_yet(Reason::StorageNotFound, message);
    };
    let labels = namespace(client, &own).await?;
    if let Some(message) = usage::refusal(&storage, &own, labels.labels()) {
        return Ok(Err(Found::Refused(Refusal::plain(Reason::StorageNotAllowed, message))));
    }
    let status = storage.status.as_ref();
    if let Some(message) = usage::not_ready(&storage, &own) {
        let failed = status.and_then(|status| status.phase) == Some(StoragePhase::Unavailable);
        return not_yet(if failed { Reason::StorageNotReady } else { Reason::Initializing }, message);
    }
    let directory = match source::directory(from, &storage, &own) {
        Ok(directory) => directory,
        Err(refusal) => return Ok(Err(Found::Refused(refusal))),
    };
    let listed = status.map(|status| status.repositories.clone()).unwrap_or_default();
    let all = kubernetes::list::<Repository>(client, &own, "").await?;
    let password = source::password(from, &storage, &own);
    if let Some(known) = source::known(&all, reference, &directory, &own) {
        return Ok(match source::opens_otherwise(known, from, password.as_ref().ok()) {
            None => Ok((known.clone(), listed)),
            Some(Otherwise::NotYet(message)) => {
                Err(Found::NotYet { reason: Reason::RepositoryNotReady, message })
            }
            Some(Otherwise::Refused(refusal)) => Err(Found::Refused(refusal)),
        });
    }
    let password = match password {
        Ok(password) => password,
        Err(refusal) => return Ok(Err(Found::Refused(refusal))),
    };
    let wanted = source::repository(restore, reference, directory, password);
    Ok(Ok((kubernetes::create(client, &wanted).await?.into_inner(), listed)))
}

/// Why the storage of a repository in another namespace cannot be used from this one: its key would get here.
pub async fn storage_refusal(
    client: &Client,
    own: &str,
    storage: &BackupStorage,
) -> Result<Option<String>, RequestError> {
    let namespace = namespace(client, own).await?;
    Ok(usage::refusal(storage, own, namespace.labels()))
}

/// The Repository of a name.
pub async fn repository(client: &Client, own: &str, name: &str) -> Result<Option<Repository>, RequestError> {
    kubernetes::get(client, own, name).await
}

/// What the plan is made from, but for the Snapshot.
pub async fn facts(client: &Client, own: &str) -> Result<Facts, RequestError> {
    let (namespace, claims, classes, inventory, nodes, attachments, volumes) = Box::pin(async {
        futures::try_join!(
            namespace(client, own),
            kubernetes::list::<PersistentVolumeClaim>(client, own, ""),
            list_cluster::<StorageClass>(client),
            read_inventory(client, own),
            list_cluster::<Node>(client),
            list_cluster::<VolumeAttachment>(client),
            list_cluster::<PersistentVolume>(client),
        )
    })
    .await?;
    let nodes = NodeStates::new(&nodes);
    Ok(Facts {
        namespace,
        claims,
        classes,
        inventory,
        nodes,
        attachments,
        volumes,
        newer_ones: Vec::new(),
        nodes_taken: BTreeMap::new(),
    })
}

/// The Snapshots beside one that is restored: what it may have held before. None where that does not matter.
pub async fn beside(
    client: &Client,
    restore: &Restore,
    snapshot: &Snapshot,
) -> Result<Vec<Snapshot>, RequestError> {
    if !source::asks_for_others(restore, snapshot) {
        return Ok(Vec::new());
    }
    kubernetes::list(client, &snapshot.namespace().unwrap_or_default(), "").await
}

/// The other Restores of the namespace.
pub async fn others(client: &Client, restore: &Restore) -> Result<Vec<Restore>, RequestError> {
    let own = restore.namespace().unwrap_or_default();
    let all = kubernetes::list::<Restore>(client, &own, "").await?;
    Ok(all.into_iter().filter(|other| other.uid() != restore.uid()).collect())
}
