//! Reads all that a Restore depends on. Decides nothing.

use holdfast_api::{Repository, Restore, Snapshot};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttachment};
use kube::{Client, ResourceExt};

use super::validate::Facts;
use crate::backup::dereference::{list_cluster, namespace};
use crate::kubernetes::{self, RequestError};
use crate::quiesce::read_inventory;
use crate::volumes::NodeStates;

/// The Snapshot that a Restore names.
pub async fn snapshot(client: &Client, restore: &Restore) -> Result<Option<Snapshot>, RequestError> {
    let own = restore.namespace().unwrap_or_default();
    match &restore.spec.from.snapshot_ref {
        Some(reference) => kubernetes::get(client, &own, &reference.name).await,
        None => Ok(None),
    }
}

/// The Repository of a name.
pub async fn repository(client: &Client, own: &str, name: &str) -> Result<Option<Repository>, RequestError> {
    kubernetes::get(client, own, name).await
}

/// What the plan is made from, but for the Snapshot.
pub async fn facts(client: &Client, own: &str) -> Result<Facts, RequestError> {
    let (namespace, claims, classes, inventory, nodes, attachments) = Box::pin(async {
        futures::try_join!(
            namespace(client, own),
            kubernetes::list::<PersistentVolumeClaim>(client, own, ""),
            list_cluster::<StorageClass>(client),
            read_inventory(client, own),
            list_cluster::<Node>(client),
            list_cluster::<VolumeAttachment>(client),
        )
    })
    .await?;
    Ok(Facts { namespace, claims, classes, inventory, nodes: NodeStates::new(&nodes), attachments })
}

/// The other Restores of the namespace.
pub async fn others(client: &Client, restore: &Restore) -> Result<Vec<Restore>, RequestError> {
    let own = restore.namespace().unwrap_or_default();
    let all = kubernetes::list::<Restore>(client, &own, "").await?;
    Ok(all.into_iter().filter(|other| other.uid() != restore.uid()).collect())
}
