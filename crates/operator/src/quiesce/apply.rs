//! Reads the workloads of a namespace and carries out what [`super::decide`] says, each change under the version
//! that was read. A change that somebody else overtook is decided again from what is there then.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use holdfast_api::Reason;
use holdfast_api::names::ANNOTATION_QUIESCE;
use holdfast_api::quiesce::QuiesceRecord;

use super::decide::{Change, Hold, Refusal, Release, hold, release};
use super::find::Inventory;
use super::workload::{Workload, WorkloadId, WorkloadKind, read_record};
use crate::errors::Chain;
use crate::kubernetes::{self, MANAGER, Namespaced, RequestError};

/// How often a change is tried when others change the same workload at the same time.
const TRIES: u32 = 5;

/// Why a workload could not be taken down.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The API server did not do what was asked; trying again may help.
    #[error("a workload could not be scaled down")]
    Request(#[source] Box<RequestError>),
    /// The workload must not be touched.
    #[error("{}", explain(.id, *.refusal))]
    Refused {
        /// Which.
        id: WorkloadId,
        /// Why.
        refusal: Refusal,
    },
}

impl From<RequestError> for HoldError {
    fn from(error: RequestError) -> Self {
        Self::Request(Box::new(error))
    }
}

/// Why a workload is not taken down and what to do, in a sentence.
pub fn explain(id: &WorkloadId, refusal: Refusal) -> String {
    match refusal {
        Refusal::Contested => format!(
            "{id} was scaled up while a restore holds it at 0, so somebody else decides about it: stop what scales it \
             (a person, a GitOps tool, an operator that owns it), then make another Restore"
        ),
        Refusal::DeletesClaims => format!(
            "{id} deletes its claims when it is scaled down (persistentVolumeClaimRetentionPolicy.whenScaled is \
             Delete), which would delete the data: set it to Retain"
        ),
        Refusal::UnreadableRecord => format!(
            "the annotation {ANNOTATION_QUIESCE} of {id} holds no record that Holdfast wrote: set the replicas of the \
             workload by hand and remove the annotation"
        ),
    }
}

/// The reason of a condition for a workload that is not taken down.
pub const fn reason(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::Contested => Reason::QuiesceContested,
        Refusal::DeletesClaims => Reason::ClaimsDeletedOnScale,
        Refusal::UnreadableRecord => Reason::QuiesceFailed,
    }
}

/// What came of letting workloads go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleaseReport {
    /// Scaled back to the count they had.
    pub restored: Vec<(WorkloadId, i32)>,
    /// Changed by somebody else meanwhile, and left at that.
    pub left: Vec<WorkloadId>,
    /// Still held by another run.
    pub shared: Vec<WorkloadId>,
    /// The record cannot be read any more.
    pub unreadable: Vec<WorkloadId>,
    /// Not let go, because the change was refused, with the cause; to be tried again.
    pub refused: Vec<(WorkloadId, String)>,
    /// Deployments that their controller has not seen as they are. Until then it may copy a record that is gone to a replica
    /// set.
    pub unseen: Vec<WorkloadId>,
}

impl ReleaseReport {
    /// The workloads whose change was refused, each with the cause, as text for people.
    pub fn refusals(&self) -> String {
        let each: Vec<String> = self.refused.iter().map(|(id, cause)| format!("{id}: {cause}")).collect();
        each.join("; ")
    }
}

/// Reads the pods and workloads of a namespace.
pub async fn read_inventory(client: &Client, namespace: &str) -> Result<Inventory, RequestError> {
    let (pods, deployments, stateful_sets, replica_sets) = futures::try_join!(
        kubernetes::list::<Pod>(client, namespace, ""),
        kubernetes::list::<Deployment>(client, namespace, ""),
        kubernetes::list::<StatefulSet>(client, namespace, ""),
        kubernetes::list::<ReplicaSet>(client, namespace, ""),
    )?;
    Ok(Inventory::new(pods, &deployments, &stateful_sets, &replica_sets))
}

/// Holds workloads at zero for a run. Ends at the first that must not be touched; what is held by then is let go
/// with the run.
pub async fn hold_all(
    client: &Client,
    namespace: &str,
    run: &str,
    workloads: &BTreeSet<WorkloadId>,
) -> Result<Vec<(WorkloadId, i32)>, HoldError> {
    let mut taken = Vec::new();
    for id in workloads {
        let mut tries = TRIES;
        // A workload that is gone has no pods that come back.
        while let Some(workload) = read(client, namespace, id).await? {
            match hold(&workload, run) {
                Hold::Held | Hold::Idle => break,
                Hold::Refuse(refusal) => return Err(HoldError::Refused { id: id.clone(), refusal }),
                Hold::Write(change) => {
                    tries -= 1;
                    if write(client, namespace, &workload, &change, tries == 0).await? {
                        tracing::info!(namespace, workload = %id, replicas = workload.replicas, run, "scaled down");
                        taken.push((id.clone(), workload.replicas));
                        break;
                    }
                }
            }
        }
    }
    Ok(taken)
}

/// Lets go of everything in a namespace that a run holds. All workloads are tried, also when one is refused; then
/// this has to be called again.
pub async fn release_run(client: &Client, namespace: &str, run: &str) -> Result<ReleaseReport, RequestError> {
    // First, so that what its controller still copied after that is in the other list.
    let deployments = kubernetes::list::<Deployment>(client, namespace, "").await?;
    let (sets, replica_sets) = futures::try_join!(
        kubernetes::list::<StatefulSet>(client, namespace, ""),
        kubernetes::list::<ReplicaSet>(client, namespace, ""),
    )?;
    let inventory = Inventory::new(Vec::new(), &deployments, &sets, &replica_sets);
    let unseen = inventory.workloads.iter().filter(|w| w.id.kind == WorkloadKind::Deployment && !w.is_seen);
    let unseen: Vec<WorkloadId> = unseen.map(|workload| workload.id.clone()).collect();
    let recorded = inventory
        .workloads
        .into_iter()
        .filter(|workload| workload.has_copy || !matches!(workload.record, Ok(None)));
    let ids: Vec<WorkloadId> = recorded.map(|workload| workload.id).collect();
    let report = release_each(client, namespace, &ids, &|holder| holder == run).await;
    Ok(ReleaseReport { unseen, ..report })
}

/// A workload that carries a record, and its namespace.
pub type Recorded = (String, WorkloadId, QuiesceRecord);

/// All workloads of the cluster that carry a record. Only metadata is read: there may be many.
pub async fn recorded(client: &Client) -> Result<Vec<Recorded>, RequestError> {
    let mut all = recorded_of::<Deployment>(client, WorkloadKind::Deployment).await?;
    all.extend(recorded_of::<StatefulSet>(client, WorkloadKind::StatefulSet).await?);
    all.extend(recorded_of::<ReplicaSet>(client, WorkloadKind::ReplicaSet).await?);
    Ok(all)
}

async fn recorded_of<K: Namespaced>(
    client: &Client,
    kind: WorkloadKind,
) -> Result<Vec<Recorded>, RequestError> {
    let listed = Api::<K>::all(client.clone())
        .list_metadata(&ListParams::default())
        .await
        .map_err(|source| request::<K>("list", "*", "", source))?;
    let found = listed.items.into_iter().filter_map(|object| {
        let record = read_record(&object.metadata).ok().flatten()?;
        let id = WorkloadId { kind, name: object.name_any() };
        Some((object.namespace().unwrap_or_default(), id, record))
    });
    Ok(found.collect())
}

/// Lets go of what only runs hold which are not alive any more. A run lets go itself when it ends; this is for runs
/// that were taken away without that. What was refused has to be swept again.
pub async fn sweep(client: &Client, recorded: &[Recorded], is_alive: impl Fn(&str) -> bool) -> ReleaseReport {
    let mut all = ReleaseReport::default();
    for (namespace, id, record) in recorded {
        if record.holders.iter().all(|holder| is_alive(holder)) && !record.holders.is_empty() {
            continue;
        }
        let ids = std::slice::from_ref(id);
        let report = release_each(client, namespace, ids, &|holder| !is_alive(holder)).await;
        all.restored.extend(report.restored);
        all.left.extend(report.left);
        all.shared.extend(report.shared);
        all.unreadable.extend(report.unreadable);
        all.refused.extend(report.refused);
    }
    all
}

async fn release_each(
    client: &Client,
    namespace: &str,
    ids: &[WorkloadId],
    leaves: &impl Fn(&str) -> bool,
) -> ReleaseReport {
    let mut report = ReleaseReport::default();
    for id in ids {
        if let Err(error) = release_one(client, namespace, id, leaves, &mut report).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                namespace,
                workload = %id,
                "a workload could not be scaled back; it is tried again"
            );
            report.refused.push((id.clone(), Chain(&error).to_string()));
        }
    }
    report
}

async fn release_one(
    client: &Client,
    namespace: &str,
    id: &WorkloadId,
    leaves: &impl Fn(&str) -> bool,
    report: &mut ReleaseReport,
) -> Result<(), RequestError> {
    let mut tries = TRIES;
    while let Some(workload) = read(client, namespace, id).await? {
        match release(&workload, leaves) {
            Release::NotHeld => break,
            Release::Unreadable => {
                report.unreadable.push(id.clone());
                break;
            }
            Release::Write(change) => {
                tries -= 1;
                if !write(client, namespace, &workload, &change, tries == 0).await? {
                    continue;
                }
                match (change.record, change.replicas) {
                    (Some(_), _) => report.shared.push(id.clone()),
                    (None, Some(replicas)) => {
                        tracing::info!(namespace, workload = %id, replicas, "scaled back");
                        report.restored.push((id.clone(), replicas));
                    }
                    (None, None) if workload.has_copy => {}
                    (None, None) => report.left.push(id.clone()),
                }
                break;
            }
        }
    }
    Ok(())
}

async fn read(client: &Client, namespace: &str, id: &WorkloadId) -> Result<Option<Workload>, RequestError> {
    Ok(match id.kind {
        WorkloadKind::Deployment => {
            kubernetes::get::<Deployment>(client, namespace, &id.name).await?.as_ref().map(Workload::from)
        }
        WorkloadKind::StatefulSet => {
            kubernetes::get::<StatefulSet>(client, namespace, &id.name).await?.as_ref().map(Workload::from)
        }
        WorkloadKind::ReplicaSet => {
            kubernetes::get::<ReplicaSet>(client, namespace, &id.name).await?.as_ref().map(Workload::from)
        }
    })
}

/// Makes a change under the version that was read. False: somebody was faster, and it is to be decided again;
/// with `last` that is an error.
async fn write(
    client: &Client,
    namespace: &str,
    workload: &Workload,
    change: &Change,
    last: bool,
) -> Result<bool, RequestError> {
    match workload.id.kind {
        WorkloadKind::Deployment => write_as::<Deployment>(client, namespace, workload, change, last).await,
        WorkloadKind::StatefulSet => write_as::<StatefulSet>(client, namespace, workload, change, last).await,
        WorkloadKind::ReplicaSet => write_as::<ReplicaSet>(client, namespace, workload, change, last).await,
    }
}

async fn write_as<K: Namespaced>(
    client: &Client,
    namespace: &str,
    workload: &Workload,
    change: &Change,
    last: bool,
) -> Result<bool, RequestError> {
    let name = workload.id.name.as_str();
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    match Api::<K>::namespaced(client.clone(), namespace)
        .patch(name, &params, &Patch::Merge(&patch(workload, change)))
        .await
    {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() && !last => Ok(false),
        Err(source) => Err(request::<K>("scale", namespace, name, source)),
    }
}

/// Count and record in one patch, with the version and uid that they were decided on.
fn patch(workload: &Workload, change: &Change) -> serde_json::Value {
    let annotation = change.record.as_ref().map(QuiesceRecord::to_annotation);
    let mut patch = json!({
        "metadata": {
            "uid": workload.uid,
            "resourceVersion": workload.resource_version,
            "annotations": {ANNOTATION_QUIESCE: annotation},
        },
    });
    if let (Some(replicas), Some(object)) = (change.replicas, patch.as_object_mut()) {
        object.insert("spec".to_owned(), json!({"replicas": replicas}));
    }
    patch
}

fn request<K: Namespaced>(
    verb: &'static str,
    namespace: &str,
    name: &str,
    source: kube::Error,
) -> RequestError {
    RequestError {
        verb,
        kind: K::kind(&()).into_owned(),
        namespace: namespace.into(),
        name: name.into(),
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_and_record_travel_in_one_patch_under_the_version_that_was_read() {
        let set: StatefulSet = serde_saphyr::from_str(
            "{metadata: {name: db, uid: u, resourceVersion: '7'}, spec: {replicas: 3, selector: {}, template: {}}}",
        )
        .unwrap();
        let workload = Workload::from(&set);
        let Hold::Write(change) = hold(&workload, "run") else { panic!("nothing to write") };
        assert_eq!(
            patch(&workload, &change),
            json!({
                "metadata": {
                    "uid": "u",
                    "resourceVersion": "7",
                    "annotations": {"holdfast.dev/quiesce": r#"{"holders":["run"],"replicas":3}"#},
                },
                "spec": {"replicas": 0},
            })
        );
    }

    #[test]
    fn letting_go_takes_the_record_away_with_the_same_patch() {
        let mut workload = Workload::from(&StatefulSet::default());
        workload.replicas = 0;
        workload.record = Ok(Some(QuiesceRecord { replicas: 2, holders: vec!["run".into()] }));
        let Release::Write(change) = release(&workload, |holder| holder == "run") else { panic!("not held") };
        let patch = patch(&workload, &change);
        assert_eq!(patch["metadata"]["annotations"][ANNOTATION_QUIESCE], serde_json::Value::Null);
        assert_eq!(patch["spec"]["replicas"], 2);
    }
}
