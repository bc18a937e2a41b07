//! `BackupStorage`: tried by a probe Job, on creation, on every change of what it names, and on a period. Not the
//! repositories inside.

mod apply;
mod build;
mod dereference;
mod domain;
mod status;
mod validate;

use std::sync::Arc;

use holdfast_api::backend::CaBundleKind;
use holdfast_api::{BackupStorage, Repository};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
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

/// Why a storage could not be looked after.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The API server did not answer as it should.
    #[error("the storage's objects could not be read or written")]
    Request(#[from] RequestError),
    /// The probe Job could not be looked after.
    #[error("the storage's probe could not be looked after")]
    Job(#[from] JobError),
    /// What the storage names could not be read.
    #[error("what the storage names could not be read")]
    Access(#[from] AccessError),
}

/// Looks after all storages until the operator stops.
pub async fn run(ctx: Arc<Ctx>) {
    let client = ctx.client.clone();
    let controller = controllers::controller::<BackupStorage>(&ctx, RunKind::BackupStorage);
    let (by_secret, by_map) = (controller.store(), controller.store());
    // Our own Secrets change with every run and are never named by a storage.
    let foreign = watcher::Config::default().labels("app.kubernetes.io/managed-by!=holdfast");
    let controller = controller
        .wakes_on(
            &ctx.metrics,
            Api::<PartialObjectMeta<Secret>>::all(client.clone()),
            foreign,
            move |secret| {
                naming(&by_secret.state(), |storage| {
                    names_secret(storage, secret.namespace().as_deref(), &secret.name_any())
                })
            },
        )
        // One that was opened tells its id.
        .wakes_on(
            &ctx.metrics,
            Api::<Repository>::all(client.clone()),
            watcher::Config::default(),
            |repository: Repository| {
                let own = repository.namespace().unwrap_or_default();
                let reference = &repository.spec.storage_ref;
                let opened = repository.status.as_ref().is_some_and(|status| status.repository_id.is_some());
                opened.then(|| ObjectRef::new(&reference.name).within(reference.namespace_or(&own)))
            },
        )
        .wakes_on(
            &ctx.metrics,
            Api::<PartialObjectMeta<ConfigMap>>::all(client),
            watcher::Config::default(),
            move |map| {
                naming(&by_map.state(), |storage| {
                    names_config_map(storage, map.namespace().as_deref(), &map.name_any())
                })
            },
        );
    controllers::run(controller, ctx, reconcile).await;
}

fn naming(
    all: &[Arc<BackupStorage>],
    names: impl Fn(&BackupStorage) -> bool,
) -> Vec<ObjectRef<BackupStorage>> {
    all.iter().filter(|storage| names(storage)).map(|storage| ObjectRef::from_obj(storage.as_ref())).collect()
}

fn names_secret(storage: &BackupStorage, namespace: Option<&str>, name: &str) -> bool {
    let backend = &storage.spec.backend;
    let recovery = storage.spec.recovery_password_secret_ref.as_ref();
    let ca = backend.ca_bundle().filter(|ca| ca.kind == CaBundleKind::Secret);
    storage.namespace().as_deref() == namespace
        && (backend.credentials().is_some_and(|keys| keys.name == name)
            || recovery.is_some_and(|r| r.name == name)
            || ca.is_some_and(|ca| ca.name == name))
}

fn names_config_map(storage: &BackupStorage, namespace: Option<&str>, name: &str) -> bool {
    let ca = storage.spec.backend.ca_bundle();
    storage.namespace().as_deref() == namespace
        && ca.is_some_and(|ca| ca.kind == CaBundleKind::ConfigMap && ca.name == name)
}

async fn reconcile(storage: Arc<BackupStorage>, ctx: Arc<Ctx>) -> Result<Action, StorageError> {
    if storage.metadata.deletion_timestamp.is_some() {
        // Its Jobs and Secrets are owned by it and go with it; what is in the bucket stays.
        return Ok(Action::await_change());
    }
    let facts = dereference::dereference(&ctx, &storage).await?;
    let plan = validate::validate(&facts);
    apply::apply(&ctx, &storage, &facts, plan).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_wakes_the_storages_that_name_it() {
        let storage: BackupStorage = serde_saphyr::from_str(
            "
apiVersion: holdfast.dev/v1alpha1
kind: BackupStorage
metadata: {name: offsite, namespace: backup}
spec:
  backend: {s3: {bucket: b, endpoint: 'https://s3.example', credentialsSecretRef: {name: keys}, caBundleRef: {kind: ConfigMap, name: ca}}}
  recoveryPasswordSecretRef: {name: recovery}
",
        )
        .unwrap();
        let here = Some("backup");
        assert!(names_secret(&storage, here, "keys") && names_secret(&storage, here, "recovery"));
        assert!(!names_secret(&storage, here, "ca") && !names_secret(&storage, None, "keys"));
        assert!(names_config_map(&storage, here, "ca") && !names_config_map(&storage, here, "keys"));
        for backend in [
            "{gcs: {bucket: b, credentialsSecretRef: {name: cloud}}}",
            "{azure: {account: acct, container: box, credentialsSecretRef: {name: cloud}, caBundleRef: {name: ca}}}",
        ] {
            let mut storage = storage.clone();
            storage.spec.backend = serde_saphyr::from_str(backend).unwrap();
            assert!(
                names_secret(&storage, here, "cloud") && !names_secret(&storage, here, "keys"),
                "{backend}"
            );
            assert_eq!(names_secret(&storage, here, "ca"), backend.contains("azure"), "{backend}");
        }
    }
}
