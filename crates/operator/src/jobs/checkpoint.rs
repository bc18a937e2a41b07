//! Handing a backup's checkpoint to whoever tries its component again: a Secret beside that of the Job, which every
//! attempt's pod mounts when it is there. A pod that the Job controller starts again finds it too.
//!
//! A checkpoint only saves work. It is lost with an operator that did not listen, and nothing is worse for it.

use std::collections::BTreeMap;

use holdfast_api::names;
use holdfast_protocol::{Checkpoint, files};
use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Client, ResourceExt};

use super::RunRef;
use crate::kubernetes::{self, RequestError};

/// Annotation of such a Secret.
pub const ANNOTATION_CHECKPOINT: &str = "holdfast.dev/checkpoint";

/// Name of the Secret: the same for all attempts at a component of a run, and that of no Job.
pub fn name(run: &RunRef, component: &str) -> String {
    let run = names::Run { kind: names::RunKind::Backup, name: &run.name, uid: &run.uid };
    names::job_name(run, names::Task::Backup, component, u32::MAX)
}

/// Makes the Secret with this checkpoint; an older one goes.
pub async fn hand_on(
    client: &Client,
    run: &RunRef,
    component: &str,
    job: &Job,
    checkpoint: &Checkpoint,
) -> Result<(), RequestError> {
    let secret = secret(job, name(run, component), checkpoint);
    let (namespace, name) = (secret.namespace().unwrap_or_default(), secret.name_any());
    if let Some(old) = kubernetes::get::<Secret>(client, &namespace, &name).await? {
        // The name holds a digest of the run's uid; a stranger's of that name is left alone all the same.
        if RunRef::from_child(&old).is_none_or(|theirs| theirs.uid != run.uid) || old.data == secret.data {
            return Ok(());
        }
        kubernetes::delete::<Secret>(client, &namespace, &name, old.uid().as_deref()).await?;
    }
    kubernetes::create(client, &secret).await.map(drop)
}

/// Labelled and owned as the Job is, so that it goes with the run.
fn secret(job: &Job, name: String, checkpoint: &Checkpoint) -> Secret {
    // A struct of two strings always serialises; an empty file costs the work that it would have saved.
    let json = serde_json::to_vec(checkpoint).unwrap_or_default();
    let mut annotations = job.metadata.annotations.clone().unwrap_or_default();
    annotations.insert(ANNOTATION_CHECKPOINT.to_owned(), "true".to_owned());
    Secret {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: job.metadata.namespace.clone(),
            labels: job.metadata.labels.clone(),
            annotations: Some(annotations),
            owner_references: job.metadata.owner_references.clone(),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(files::CHECKPOINT.to_owned(), ByteString(json))])),
        type_: Some("Opaque".into()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_goes_with_the_run_and_the_runner_can_read_it() {
        let job: Job = serde_saphyr::from_str(
            r"
metadata:
  name: j
  namespace: shop
  labels: {holdfast.dev/run-uid: u}
  annotations: {holdfast.dev/run: shop/b}
  ownerReferences: [{apiVersion: holdfast.dev/v1alpha1, kind: Backup, name: b, uid: u}]
",
        )
        .unwrap();
        let checkpoint = Checkpoint { tree: "ab".repeat(32), started: "2026-11-20T02:00:00Z".into() };
        let secret = secret(&job, "n".into(), &checkpoint);
        assert_eq!(secret.metadata.labels, job.metadata.labels);
        assert_eq!(secret.metadata.owner_references, job.metadata.owner_references);
        let data = secret.data.unwrap();
        let read: Checkpoint = serde_json::from_slice(&data[files::CHECKPOINT].0).unwrap();
        assert_eq!(read, checkpoint);
    }
}
