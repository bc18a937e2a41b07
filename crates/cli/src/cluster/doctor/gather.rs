//! What the doctor reads. A part that may not be read is an error of that part only, and the rest goes on.

use futures::StreamExt as _;
use holdfast_api::{Backup, BackupStorage, GROUP, Repository, Restore, Snapshot, VERSION};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, PartialObjectMeta, PostParams};
use kube::client::Body;
use kube::{Resource, ResourceExt};

use super::super::connect::{Cluster, Kind};
use super::super::fault::{self, Fault};
use super::super::status::defaults::Defaults;
use super::super::{operator, status};
use super::rights::{self, Asked};
use crate::failure::Result;
use holdfast_api::names::{LABEL_RUN_UID, LABEL_TASK};

/// A part of the facts, or why it is not known.
pub(super) type Read<T> = std::result::Result<T, String>;

/// Name of the operator's Lease.
const LEASE: &str = "holdfast-operator";
/// Namespace of the nodes' Leases.
const NODES: &str = "kube-node-lease";
/// Questions about rights that are asked at a time.
const AT_A_TIME: usize = 8;

/// A workload with its annotations, of any kind that is scaled.
pub(super) struct Workload {
    pub(super) kind: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) quiesce: String,
}

/// The API server's clock against ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) server: Timestamp,
    pub(super) here: Timestamp,
}

/// What the doctor judges.
pub(super) struct Facts {
    /// Namespace of the command.
    pub(super) namespace: String,
    /// Whether all namespaces were looked at, or only that of the command.
    pub(super) everywhere: bool,
    pub(super) clock: Read<Clock>,
    pub(super) server_version: Read<String>,
    /// Plural names of the kinds that are served.
    pub(super) served: Read<Vec<String>>,
    pub(super) definitions: Read<Vec<CustomResourceDefinition>>,
    pub(super) operators: Read<Vec<Deployment>>,
    /// The Leases of the operators, by namespace.
    pub(super) leases: Vec<(String, Read<Option<Lease>>)>,
    /// The Leases by which the nodes say that they live.
    pub(super) nodes: Read<Vec<Lease>>,
    pub(super) namespaces: Read<Vec<Namespace>>,
    pub(super) objects: status::Facts,
    /// Why claims or objects of ours could not be listed.
    pub(super) unlisted: Vec<String>,
    pub(super) workloads: Read<Vec<Workload>>,
    pub(super) jobs: Read<Vec<PartialObjectMeta<Job>>>,
    pub(super) pods: Read<Vec<Pod>>,
    pub(super) secrets: Read<Vec<PartialObjectMeta<Secret>>>,
    /// What the caller may do.
    pub(super) mine: Vec<Asked>,
    /// What the operator may do, by its ServiceAccount.
    pub(super) operators_rights: Vec<(String, Read<Vec<Asked>>)>,
}

/// Reads all of it. Fails only when the API server does not answer at all.
pub(super) async fn facts(cluster: &Cluster) -> Result<Facts> {
    let version = cluster.client.apiserver_version().await;
    if let Err(e) = &version
        && matches!(fault::sort(e), Fault::Unreachable | Fault::Unauthenticated)
    {
        return Err(cluster.failed(e, "ask the API server for its version"));
    }
    let everywhere =
        match Api::<Backup>::all(cluster.client.clone()).list(&ListParams::default().limit(1)).await {
            Ok(_) => true,
            Err(e) => fault::sort(&e) != Fault::Forbidden,
        };
    let list = Lister { cluster, everywhere };
    let (operators, namespaces, definitions) = tokio::join!(
        operator::deployments(cluster),
        all::<Namespace>(cluster),
        all::<CustomResourceDefinition>(cluster),
    );
    let operators = operators.map_err(|e| say(cluster, &e, "look for the operator"));
    let mut unlisted = Vec::new();
    let objects = status::Facts {
        storages: list.or_note::<BackupStorage>(&mut unlisted).await,
        repositories: list.or_note::<Repository>(&mut unlisted).await,
        backups: list.or_note::<Backup>(&mut unlisted).await,
        restores: list.or_note::<Restore>(&mut unlisted).await,
        snapshots: list.or_note::<Snapshot>(&mut unlisted).await,
        claims: list.or_note::<PersistentVolumeClaim>(&mut unlisted).await,
        defaults: Defaults::new(operators.as_deref().ok(), namespaces.as_deref().ok()),
        cluster_name: operators.as_deref().ok().and_then(operator::cluster_name),
    };
    let found = operators.as_deref().unwrap_or_default();
    let mut leases = Vec::new();
    let mut operators_rights = Vec::new();
    for operator in found {
        let namespace = operator.namespace().unwrap_or_default();
        let lease = cluster.within(&namespace).api::<Lease>().get_opt(LEASE).await;
        leases.push((namespace.clone(), lease.map_err(|e| say(cluster, &e, "read the operator's Lease"))));
        let account = operator
            .spec
            .as_ref()
            .and_then(|s| s.template.spec.as_ref())
            .and_then(|s| s.service_account_name.clone())
            .unwrap_or_else(|| "default".to_owned());
        let rights = of_operator(cluster, &namespace, &account).await;
        operators_rights.push((format!("ServiceAccount {namespace}/{account}"), rights));
    }
    let nodes = cluster.within(NODES).api::<Lease>().list(&ListParams::default()).await;
    let ours = ListParams::default().labels(LABEL_TASK);
    Ok(Facts {
        namespace: cluster.namespace.clone(),
        everywhere,
        clock: clock(cluster).await,
        server_version: version.map(|v| v.git_version).map_err(|e| say(cluster, &e, "read the version")),
        served: served(cluster).await,
        definitions,
        leases,
        nodes: nodes.map(|l| l.items).map_err(|e| say(cluster, &e, "list the Leases of the nodes")),
        namespaces,
        objects,
        unlisted,
        workloads: workloads(&list).await,
        jobs: list.metadata::<Job>(&ours).await,
        pods: list.read::<Pod>(&ListParams::default().labels(LABEL_RUN_UID)).await,
        secrets: list.metadata::<Secret>(&ours).await,
        mine: mine(cluster).await,
        operators_rights,
        operators,
    })
}

fn say(cluster: &Cluster, error: &kube::Error, doing: &str) -> String {
    cluster.failed(error, doing).cause
}

/// Lists in all namespaces where that is allowed, else in that of the command.
struct Lister<'a> {
    cluster: &'a Cluster,
    everywhere: bool,
}

impl Lister<'_> {
    fn api<K: Kind>(&self) -> Api<K> {
        if self.everywhere { Api::all(self.cluster.client.clone()) } else { self.cluster.api() }
    }

    async fn read<K: Kind>(&self, filter: &ListParams) -> Read<Vec<K>> {
        let listed = self.api::<K>().list(filter).await;
        listed.map(|l| l.items).map_err(|e| say(self.cluster, &e, &format!("list {}", K::plural(&()))))
    }

    async fn metadata<K: Kind>(&self, filter: &ListParams) -> Read<Vec<PartialObjectMeta<K>>> {
        let listed = self.api::<K>().list_metadata(filter).await;
        listed.map(|l| l.items).map_err(|e| say(self.cluster, &e, &format!("list {}", K::plural(&()))))
    }

    async fn or_note<K: Kind>(&self, unlisted: &mut Vec<String>) -> Vec<K> {
        self.read::<K>(&ListParams::default()).await.unwrap_or_else(|why| {
            unlisted.push(why);
            Vec::new()
        })
    }
}

async fn all<K>(cluster: &Cluster) -> Read<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let listed = Api::<K>::all(cluster.client.clone()).list(&ListParams::default()).await;
    listed.map(|l| l.items).map_err(|e| say(cluster, &e, &format!("list {}", K::plural(&()))))
}

/// The kinds of our group that the API server serves, which everybody may ask.
async fn served(cluster: &Cluster) -> Read<Vec<String>> {
    match cluster.client.list_api_group_resources(&format!("{GROUP}/{VERSION}")).await {
        Ok(list) => Ok(list.resources.into_iter().map(|r| r.name).collect()),
        Err(e) if matches!(fault::sort(&e), Fault::NotServed | Fault::NotFound) => Ok(Vec::new()),
        Err(e) => Err(say(cluster, &e, "ask which kinds are served")),
    }
}

/// The time by the header of any answer, to the second.
async fn clock(cluster: &Cluster) -> Read<Clock> {
    let request = http::Request::get("/version").body(Body::from(Vec::new())).map_err(|e| e.to_string())?;
    let answer = cluster.client.send(request).await.map_err(|e| say(cluster, &e, "ask for the time"))?;
    let here = Timestamp::now();
    let date = answer.headers().get(http::header::DATE).and_then(|d| d.to_str().ok());
    let date = date.ok_or_else(|| "the API server's answers tell no time".to_owned())?;
    let server = rfc2822::DateTimeParser::new().parse_timestamp(date).map_err(|e| format!("{date}: {e}"))?;
    Ok(Clock { server, here })
}

async fn workloads(list: &Lister<'_>) -> Read<Vec<Workload>> {
    let mut found = records::<Deployment>(list, "Deployment").await?;
    found.extend(records::<StatefulSet>(list, "StatefulSet").await?);
    found.extend(records::<ReplicaSet>(list, "ReplicaSet").await?);
    Ok(found)
}

/// The workloads of a kind that carry a record of who holds them at zero.
async fn records<K: Kind>(list: &Lister<'_>, kind: &'static str) -> Read<Vec<Workload>> {
    let all = list.metadata::<K>(&ListParams::default()).await?;
    let held = all.iter().filter(|object| !is_below_deployment(object.meta())).filter_map(|object| {
        let quiesce = object.annotations().get(holdfast_api::names::ANNOTATION_QUIESCE)?.clone();
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        Some(Workload { kind, namespace, name, quiesce })
    });
    Ok(held.collect())
}

/// A Deployment's annotations are copied to its replica sets, and stay there when the Deployment's own are gone.
fn is_below_deployment(metadata: &ObjectMeta) -> bool {
    let owners = metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| owner.controller == Some(true) && owner.kind == "Deployment")
}

/// What the caller may do of what the commands need.
async fn mine(cluster: &Cluster) -> Vec<Asked> {
    let api = Api::<SelfSubjectAccessReview>::all(cluster.client.clone());
    let ask = |need: rights::Need| {
        let api = api.clone();
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes(&need, Some(&cluster.namespace))),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        async move {
            let answer = api.create(&PostParams::default(), &review).await;
            let allowed = answer.ok().and_then(|review| review.status).map(|status| status.allowed);
            Asked { need, allowed }
        }
    };
    futures::stream::iter(rights::of_people()).map(ask).buffered(AT_A_TIME).collect().await
}

/// What an operator's ServiceAccount may do of what the chart gives it.
async fn of_operator(cluster: &Cluster, namespace: &str, account: &str) -> Read<Vec<Asked>> {
    let api = Api::<SubjectAccessReview>::all(cluster.client.clone());
    let user = format!("system:serviceaccount:{namespace}:{account}");
    let groups = [
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
        "system:authenticated".to_owned(),
    ];
    let ask = |need: rights::Need| {
        let api = api.clone();
        let within = need.own_namespace.then_some(namespace);
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.clone()),
                groups: Some(groups.to_vec()),
                resource_attributes: Some(attributes(&need, within)),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        async move {
            let answer = api.create(&PostParams::default(), &review).await;
            answer.map(|review| Asked { need, allowed: review.status.map(|status| status.allowed) })
        }
    };
    let needs = rights::of_operator()?;
    let mut answers = Vec::new();
    let mut asking = futures::stream::iter(needs).map(ask).buffered(AT_A_TIME);
    while let Some(answer) = asking.next().await {
        // Who may not ask about others may not ask about any.
        answers.push(answer.map_err(|e| say(cluster, &e, "ask what the operator may do"))?);
    }
    Ok(answers)
}

fn attributes(need: &rights::Need, namespace: Option<&str>) -> ResourceAttributes {
    ResourceAttributes {
        group: Some(need.group.clone()),
        resource: Some(need.resource.clone()),
        subresource: need.subresource.clone(),
        verb: Some(need.verb.clone()),
        name: need.name.clone(),
        namespace: namespace.map(str::to_owned),
        ..ResourceAttributes::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_a_record_is_no_record() {
        let below = |kind: &str| -> ObjectMeta {
            serde_json::from_value(serde_json::json!({
                "name": "app-1",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": "app", "uid": "u", "controller": true}]
            }))
            .unwrap()
        };
        assert!(is_below_deployment(&below("Deployment")));
        assert!(!is_below_deployment(&below("Rollout")), "held by itself");
        assert!(!is_below_deployment(&ObjectMeta::default()));
    }
}
