//! Reads all that a Backup depends on. Decides nothing but which storage and repository are meant.

use holdfast_api::backup::ClaimsDefault;
use holdfast_api::conditions::{ConditionType, find_condition};
use holdfast_api::refs::{LocalRef, StorageRef};
use holdfast_api::repository::{RepositoryPhase, RepositorySpec};
use holdfast_api::{Backup, BackupStorage, PodConfig, Reason, Repository, names};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttachment};
use kube::api::{Api, ListParams, ObjectMeta};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::validate::{Facts, Refusal};
use crate::context::Ctx;
use crate::jobs::pod_config;
use crate::kubernetes::{self, RequestError};
use crate::usage;
use crate::volumes::NodeStates;

/// The repository of a run, or why it has to wait.
pub type Chosen = Result<Repository, Refusal>;

/// Finds the repository that a Backup saves to, and makes the namespace's shared one when there is none.
pub async fn repository(ctx: &Ctx, backup: &Backup, namespace: &Namespace) -> Result<Chosen, RequestError> {
    let own = backup.namespace().unwrap_or_default();
    let recorded = backup.status.as_ref().and_then(|status| status.repository_ref.as_ref());
    let named = recorded.or(backup.spec.repository_ref.as_ref()).map(|reference| reference.name.clone());
    let repository = match named {
        Some(name) => match kubernetes::get::<Repository>(&ctx.client, &own, &name).await? {
            Some(repository) => repository,
            None => {
                return Ok(wait(
                    Reason::RepositoryNotFound,
                    format!("Repository {own}/{name} does not exist: create it, or name another one"),
                ));
            }
        },
        None => match storage(ctx, backup, namespace).await? {
            Ok(storage) => match shared_repository(&ctx.client, &own, &storage).await? {
                Ok(repository) => repository,
                Err(refusal) => return Ok(Err(refusal)),
            },
            Err(refusal) => return Ok(Err(refusal)),
        },
    };
    Ok(ready(repository))
}

fn wait<T>(reason: Reason, message: String) -> Result<T, Refusal> {
    Err(Refusal { reason, message })
}

/// The repository itself when it can be used; else what its own status says.
pub fn ready(repository: Repository) -> Chosen {
    let name = format!("{}/{}", repository.namespace().unwrap_or_default(), repository.name_any());
    if repository.metadata.deletion_timestamp.is_some() {
        return wait(Reason::RepositoryNotFound, format!("Repository {name} is being deleted"));
    }
    let status = repository.status.as_ref();
    if status.and_then(|status| status.phase) == Some(RepositoryPhase::Ready) {
        return Ok(repository);
    }
    let said =
        status.and_then(|status| find_condition(&status.conditions, ConditionType::Ready)).map_or_else(
            || "it was not looked at yet".to_owned(),
            |ready| format!("{}: {}", ready.reason, ready.message),
        );
    // What is on its way is nobody's mistake.
    let reason = match status.and_then(|status| status.phase) {
        None | Some(RepositoryPhase::Initializing) => Reason::Initializing,
        Some(_) => Reason::RepositoryNotReady,
    };
    wait(reason, format!("Repository {name} is not ready: {said}"))
}

/// The storage that a Backup names, or the default one.
async fn storage(
    ctx: &Ctx,
    backup: &Backup,
    namespace: &Namespace,
) -> Result<Result<StorageRef, Refusal>, RequestError> {
    let own = backup.namespace().unwrap_or_default();
    if let Some(reference) = &backup.spec.storage_ref {
        return Ok(Ok(reference.clone()));
    }
    let central = &ctx.settings.namespace;
    let mut places = vec![own.as_str()];
    places.extend((*central != own).then_some(central.as_str()));
    for place in places {
        let storages = kubernetes::list::<BackupStorage>(&ctx.client, place, "").await?;
        let defaults: Vec<&BackupStorage> = storages
            .iter()
            .filter(|storage| storage.spec.default && storage.metadata.deletion_timestamp.is_none())
            .filter(|storage| usage::refusal(storage, &own, namespace.labels()).is_none())
            .collect();
        match defaults.as_slice() {
            [] => {}
            [one] => {
                let elsewhere = (place != own).then(|| place.to_owned());
                return Ok(Ok(StorageRef { name: one.name_any(), namespace: elsewhere }));
            }
            several => {
                let names: Vec<String> = several.iter().map(|storage| storage.name_any()).collect();
                let message = format!(
                    "several storages of namespace {place} are the default ({}): leave `default` on one of them, or \
                     name one in spec.storageRef",
                    names.join(", ")
                );
                return Ok(wait(Reason::AmbiguousDefault, message));
            }
        }
    }
    let message = format!(
        "no storage is named, and neither namespace {own} nor {central} has a default one that serves this namespace: \
         name one in spec.storageRef, or set `default: true` on a BackupStorage"
    );
    Ok(wait(Reason::NoDefaultStorage, message))
}

/// The PodConfig that a run names, when it names one; or why the run has to wait.
pub async fn pod_config(
    client: &Client,
    namespace: &str,
    reference: Option<&LocalRef>,
) -> Result<Result<Option<PodConfig>, Refusal>, RequestError> {
    let Some(LocalRef { name }) = reference else { return Ok(Ok(None)) };
    let Some(config) = kubernetes::get::<PodConfig>(client, namespace, name).await? else {
        let message =
            format!("PodConfig {namespace}/{name} does not exist: create it; the run then goes on by itself");
        return Ok(wait(Reason::PodConfigNotFound, message));
    };
    match pod_config::refusal(&config) {
        Some(message) => Ok(wait(Reason::PodConfigInvalid, message)),
        None => Ok(Ok(Some(config))),
    }
}

/// A Repository that has the name of the one to share, if it is in that storage: somebody may have made another one by that name.
fn leads_to(found: Repository, own: &str, storage: &StorageRef) -> Chosen {
    let theirs = &found.spec.storage_ref;
    let (wanted, there) = (storage.namespace_or(own), theirs.namespace_or(own));
    if theirs.name == storage.name && there == wanted {
        return Ok(found);
    }
    let name = found.name_any();
    Err(Refusal {
        reason: Reason::InvalidSpec,
        message: format!(
            "what is saved to BackupStorage {wanted}/{} goes to a Repository {name} unless another one is named, and the \
             Repository {name} that is there leads to {there}/{}: name a Repository in spec.repositoryRef, or give that one \
             another name",
            storage.name, theirs.name
        ),
    })
}

/// The repository that all Backups of a namespace to one storage share.
async fn shared_repository(client: &Client, own: &str, storage: &StorageRef) -> Result<Chosen, RequestError> {
    let name = names::default_repository_name(own, storage.namespace_or(own), &storage.name);
    if let Some(found) = kubernetes::get::<Repository>(client, own, &name).await? {
        return Ok(leads_to(found, own, storage));
    }
    // None is made where none can be: the Repository would stay, and say so for ever.
    let place = storage.namespace_or(own);
    let there = kubernetes::get::<BackupStorage>(client, place, &storage.name).await?;
    if let Some(refusal) = there.as_ref().and_then(Refusal::of_closed) {
        return Ok(Err(refusal));
    }
    let labels = [(names::LABEL_MANAGED_BY.to_owned(), names::MANAGED_BY.to_owned())].into();
    let repository = Repository {
        // No owner: the repository outlives the Backup that made it.
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(own.to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: RepositorySpec { storage_ref: storage.clone(), ..RepositorySpec::default() },
        status: None,
    };
    Ok(Ok(kubernetes::create(client, &repository).await?.into_inner()))
}

/// Reads a namespace.
pub async fn namespace(client: &Client, name: &str) -> Result<Namespace, RequestError> {
    Api::<Namespace>::all(client.clone())
        .get(name)
        .await
        .map_err(|source| cluster_request::<Namespace>("read", name, source))
}

/// Lists the objects of a kind that has no namespace.
pub async fn list_cluster<K>(client: &Client) -> Result<Vec<K>, RequestError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    Api::<K>::all(client.clone())
        .list(&ListParams::default())
        .await
        .map(|list| list.items)
        .map_err(|source| cluster_request::<K>("list", "", source))
}

fn cluster_request<K: Resource<DynamicType = ()>>(
    verb: &'static str,
    name: &str,
    source: kube::Error,
) -> RequestError {
    RequestError {
        verb,
        kind: K::kind(&()).into_owned(),
        namespace: String::new(),
        name: name.into(),
        source: Box::new(source),
    }
}

/// Reads what the plan is made from.
pub async fn facts(
    client: &Client,
    namespace: Namespace,
    claims_default: ClaimsDefault,
) -> Result<Facts, RequestError> {
    let name = namespace.name_any();
    let (claims, pods, classes, nodes, attachments, volumes) = Box::pin(async {
        futures::try_join!(
            kubernetes::list::<PersistentVolumeClaim>(client, &name, ""),
            kubernetes::list::<Pod>(client, &name, ""),
            list_cluster::<StorageClass>(client),
            list_cluster::<Node>(client),
            list_cluster::<VolumeAttachment>(client),
            list_cluster::<PersistentVolume>(client),
        )
    })
    .await?;
    Ok(Facts {
        namespace,
        claims,
        classes,
        pods,
        nodes: NodeStates::new(&nodes),
        attachments,
        volumes,
        claims_default,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_that_is_not_ready_says_why_itself() {
        let repository: Repository = serde_saphyr::from_str(
            r"
metadata: {name: main, namespace: shop}
spec: {storageRef: {name: s}}
status:
  phase: Failed
  conditions:
    - {type: Ready, status: 'False', reason: WrongPassword, message: the password does not open it, lastTransitionTime: '2026-11-20T02:00:00Z'}
",
        )
        .unwrap();
        let refusal = ready(repository).unwrap_err();
        assert_eq!(refusal.reason, Reason::RepositoryNotReady);
        assert!(
            refusal.message.contains("WrongPassword: the password does not open it"),
            "{}",
            refusal.message
        );
    }

    #[test]
    fn a_repository_of_the_same_name_in_another_storage_is_not_taken() {
        let found = |storage: &str| -> Repository {
            serde_saphyr::from_str(&format!(
                "{{metadata: {{name: offsite, namespace: shop}}, spec: {{storageRef: {storage}}}}}"
            ))
            .unwrap()
        };
        let to = |name: &str, namespace: Option<&str>| StorageRef {
            name: name.into(),
            namespace: namespace.map(str::to_owned),
        };
        assert!(leads_to(found("{name: offsite}"), "shop", &to("offsite", None)).is_ok());
        assert!(
            leads_to(found("{name: offsite}"), "shop", &to("offsite", Some("shop"))).is_ok(),
            "said or not"
        );
        for (there, wanted) in [
            ("{name: local-minio}", to("offsite", None)),
            ("{name: offsite, namespace: central}", to("offsite", None)),
            ("{name: offsite}", to("offsite", Some("central"))),
        ] {
            let refused = leads_to(found(there), "shop", &wanted).unwrap_err();
            assert_eq!(refused.reason, Reason::InvalidSpec);
            assert!(refused.message.contains("spec.repositoryRef"), "{}", refused.message);
        }
    }
}
