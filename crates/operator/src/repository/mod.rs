//! `Repository`: who may have one where, its password, its initialisation by one Job, and the comparison of the
//! Snapshot objects with what it holds. Never opens it.

mod apply;
mod build;
mod dereference;
mod status;
mod validate;

use std::sync::Arc;

pub(crate) use build::is_for_dry_run;

use holdfast_api::{Backup, BackupStorage, Repository, Restore, Snapshot, names};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;

use crate::access::AccessError;
use crate::context::Ctx;
use crate::controllers::{self, Wakes};
use crate::jobs::{JobError, RunKind};
use crate::kubernetes::RequestError;

/// Why a repository could not be looked after.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The API server did not answer as it should.
    #[error("the repository's objects could not be read or written")]
    Request(#[from] RequestError),
    /// A Job could not be looked after.
    #[error("a Job of the repository could not be looked after")]
    Job(#[from] JobError),
    /// What the storage or the repository names could not be read.
    #[error("what the repository or its storage names could not be read")]
    Access(#[from] AccessError),
    /// No random numbers.
    #[error("the system gave no random numbers for a password: {0}")]
    Random(getrandom::Error),
}

/// Looks after all repositories until the operator stops.
pub async fn run(ctx: Arc<Ctx>) {
    let client = ctx.client.clone();
    let controller = controllers::controller::<Repository>(&ctx, RunKind::Repository);
    let (by_storage, by_secret) = (controller.store(), controller.store());
    // Those of runs change all the time and hold copies; all others may be a password.
    let lasting = watcher::Config::default().labels(&format!("!{}", names::LABEL_RUN_UID));
    let controller = controller
        .wakes_on(
            &ctx.metrics,
            Api::<BackupStorage>::all(client.clone()),
            watcher::Config::default(),
            move |storage| matching(&by_storage.state(), |repository| is_in(repository, &storage)),
        )
        .wakes_on(
            &ctx.metrics,
            Api::<PartialObjectMeta<Secret>>::all(client.clone()),
            lasting,
            move |secret| {
                let (namespace, name) = (secret.namespace().unwrap_or_default(), secret.name_any());
                matching(&by_secret.state(), |repository| has_password_in(repository, &namespace, &name))
            },
        )
        // A Snapshot that is deleted comes back; one that is made is counted.
        .wakes_on(
            &ctx.metrics,
            Api::<Snapshot>::all(client),
            watcher::Config::default(),
            |snapshot: Snapshot| {
                let namespace = snapshot.namespace().unwrap_or_default();
                Some(ObjectRef::new(&snapshot.spec.repository_ref.name).within(&namespace))
            },
        );
    controllers::run(controller, ctx, reconcile).await;
}

fn matching(all: &[Arc<Repository>], wanted: impl Fn(&Repository) -> bool) -> Vec<ObjectRef<Repository>> {
    all.iter().filter(|repository| wanted(repository)).map(|r| ObjectRef::from_obj(r.as_ref())).collect()
}

/// Whether a Repository's password is in this Secret, whoever made it.
fn has_password_in(repository: &Repository, namespace: &str, name: &str) -> bool {
    let named = repository.spec.password_secret_ref.as_ref();
    let own = repository.metadata.namespace.as_deref() == Some(namespace);
    let known = repository.status.as_ref().and_then(|status| status.password_secret.as_ref());
    own && named.is_some_and(|reference| reference.name == name)
        || known.is_some_and(|place| place.namespace == namespace && place.name == name)
}

/// Whether a Repository lies in a storage.
pub(crate) fn is_in(repository: &Repository, storage: &BackupStorage) -> bool {
    let own = repository.namespace().unwrap_or_default();
    let reference = &repository.spec.storage_ref;
    reference.name == storage.name_any()
        && reference.namespace_or(&own) == storage.namespace().unwrap_or_default()
}

/// Whether a Backup is at work: its recovery point is not finished.
fn is_running(backup: &Backup) -> bool {
    !backup.status.as_ref().and_then(|status| status.phase).unwrap_or_default().is_terminal()
}

/// Whether a Restore is at work and may have saved something that has no Snapshot object yet.
fn is_saving(restore: &Restore) -> bool {
    let status = restore.status.as_ref();
    let over =
        status.and_then(|status| status.phase).is_some_and(|phase| phase.is_terminal(restore.spec.dry_run));
    !over && status.is_none_or(|status| status.undo_snapshot_ref.is_none())
}

async fn reconcile(repository: Arc<Repository>, ctx: Arc<Ctx>) -> Result<Action, RepositoryError> {
    if repository.metadata.deletion_timestamp.is_some() {
        // What is in the bucket stays, and so does the password. Its Jobs are swept.
        return Ok(Action::await_change());
    }
    let facts = dereference::dereference(&ctx, &repository).await?;
    let plan = validate::validate(&facts);
    apply::apply(&ctx, &repository, &facts, plan).await
}

#[cfg(test)]
mod tests;
