//! How a repository's directory, password Secret and Jobs look. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_api::refs::NamespacedRef;
use holdfast_api::{BackupStorage, Repository, names};
use holdfast_protocol::spec::RepositoryRecord;
use holdfast_protocol::{RunSpec, Task, files};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;

use super::dereference::Facts;
use crate::access::StorageAccess;
use crate::jobs::{Identity, JobPlan, JobTask, Placement};

/// Opening takes seconds; a store that does not answer is tried again later.
const INIT_DEADLINE: Duration = Duration::from_mins(5);
/// Listing ten thousand snapshots takes minutes on a slow store.
const SYNC_DEADLINE: Duration = Duration::from_mins(30);
/// Annotation of a password Secret: the Repository that it was made for, for people.
const ANNOTATION_REPOSITORY: &str = "holdfast.dev/repository";

/// The directory of a repository: the one it was given, the one it has, or a new one. The new one's suffix comes
/// from the object's uid, so that it is the same each time it is asked for, and another one for a Repository that
/// is made again.
pub(super) fn directory(repository: &Repository, cluster: &str) -> String {
    let status = repository.status.as_ref();
    if let Some(directory) = repository.spec.directory.as_ref().or_else(|| status?.directory.as_ref()) {
        return directory.clone();
    }
    let uid = repository.uid().unwrap_or_default();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, uid.as_bytes());
    let mut random = [0; 5];
    for (to, from) in random.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    let namespace = repository.namespace().unwrap_or_default();
    names::repository_directory(cluster, &namespace, &repository.name_any(), &names::random_suffix(random))
}

/// Where the password is: in the Secret that the user names, or in a generated one beside the storage.
pub(super) fn password_place(
    repository: &Repository,
    storage: &BackupStorage,
    directory: &str,
) -> Option<NamespacedRef> {
    if let Some(reference) = &repository.spec.password_secret_ref {
        return Some(NamespacedRef {
            namespace: repository.namespace().unwrap_or_default(),
            name: reference.name.clone(),
        });
    }
    let namespace = storage.namespace().unwrap_or_default();
    // A storage that moves to another endpoint is another location, and the repository in it still opens with the
    // password that it was made with.
    let status = repository.status.as_ref().filter(|status| status.initialized);
    let known = status.and_then(|status| status.password_secret.as_ref()).filter(|known| {
        known.namespace == namespace && known.name.starts_with(names::REPOSITORY_PASSWORD_SECRET_PREFIX)
    });
    if let Some(known) = known {
        return Some(known.clone());
    }
    let location = storage.spec.backend.location(directory);
    if location.is_empty() {
        return None;
    }
    Some(NamespacedRef { namespace, name: names::repository_password_secret_name(&location) })
}

/// A new password: 32 random bytes in hexadecimal digits, so that it can be typed.
pub(super) fn password() -> Result<String, getrandom::Error> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    Ok(data_encoding::HEXLOWER.encode(&random))
}

/// The Secret of a generated password. Owned by nobody: it outlives the Repository, its namespace and the storage
/// object, as the data does.
pub(super) fn password_secret(
    repository: &Repository,
    storage: &BackupStorage,
    directory: &str,
    place: &NamespacedRef,
    password: String,
) -> Secret {
    let location = storage.spec.backend.location(directory);
    let of = format!("{}/{}", repository.namespace().unwrap_or_default(), repository.name_any());
    Secret {
        metadata: ObjectMeta {
            name: Some(place.name.clone()),
            namespace: Some(place.namespace.clone()),
            labels: Some(BTreeMap::from([(
                names::LABEL_MANAGED_BY.to_owned(),
                names::MANAGED_BY.to_owned(),
            )])),
            annotations: Some(BTreeMap::from([
                (names::ANNOTATION_LOCATION.to_owned(), location),
                (ANNOTATION_REPOSITORY.to_owned(), of),
            ])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(files::PASSWORD.to_owned(), ByteString(password.into_bytes()))])),
        type_: Some("Opaque".into()),
        // Overwriting it would lose the repository.
        immutable: Some(true),
        ..Secret::default()
    }
}

/// A Job of a repository, in the storage's namespace.
pub(super) fn plan(
    facts: &Facts,
    access: &StorageAccess,
    owner: OwnerReference,
    task: JobTask,
    name: &str,
) -> JobPlan {
    JobPlan {
        name: name.to_owned(),
        namespace: access.namespace(),
        owner,
        run: facts.run.clone(),
        task,
        component: None,
        claim: None,
        identity: Identity::Unprivileged,
        placement: Placement::Anywhere,
        follows: false,
        pod_config: None,
        seat: None,
        // The next try is ours to plan: with fresh credentials, and slower each time.
        retries: 0,
        dead_jobs: Vec::new(),
        deadline: if task == JobTask::Sync { SYNC_DEADLINE } else { INIT_DEADLINE },
    }
}

/// What the Job that opens or makes the repository is told.
pub(super) fn initialize(facts: &Facts, cluster_uid: &str, must_exist: bool) -> Task {
    Task::Initialize {
        record: RepositoryRecord {
            version: 1,
            cluster: facts.cluster.clone(),
            cluster_uid: cluster_uid.to_owned(),
            namespace: facts.own_namespace(),
            name: facts.run.name.clone(),
            created: facts.now.to_string(),
        },
        must_exist,
        read_only: is_for_dry_run(&facts.repository),
    }
}

/// Whether a Restore made it that only shows its plan: nothing is written to the repository, and the object goes again.
pub(crate) fn is_for_dry_run(repository: &Repository) -> bool {
    repository.annotations().contains_key(names::ANNOTATION_FOR_DRY_RUN)
}

/// The run spec of a task on the repository.
pub(super) fn spec(
    facts: &Facts,
    access: &StorageAccess,
    directory: &str,
    cluster_uid: &str,
    task: Task,
) -> RunSpec {
    RunSpec {
        version: holdfast_protocol::VERSION,
        run: facts.run.identity(&facts.cluster, cluster_uid),
        storage: access.location.clone(),
        directory: Some(directory.to_owned()),
        // Opening finds out the id, and says itself what another one means.
        repository_id: match task {
            Task::Initialize { .. } => None,
            _ => facts.repository.status.as_ref().and_then(|status| status.repository_id.clone()),
        },
        dead_jobs: Vec::new(),
        discard: Vec::new(),
        read_only: access.storage.spec.is_read_only(),
        upload_bytes_per_second: None,
        download_bytes_per_second: None,
        keys_end: None,
        task,
    }
}
