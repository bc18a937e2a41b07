//! All that is known about a storage before anything is decided. The only reader.

use std::collections::BTreeMap;

use holdfast_api::{BackupStorage, Repository};
use holdfast_protocol::spec::FoundRepository;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::api::{Api, ListParams};
use kube::{Client, Resource, ResourceExt};

use super::StorageError;
use super::domain::{self, Domain, Endpoint};
use crate::access::{AccessError, StorageAccess};
use crate::context::{Attempt, Ctx};
use crate::errors::Chain;
use crate::jobs::{self, JobState, JobTask, JobView, RunKind, RunRef};
use crate::kubernetes::{self, RequestError};

/// The facts.
pub(super) struct Facts {
    pub storage: BackupStorage,
    pub run: RunRef,
    /// How it is reached, or why that cannot be told.
    pub access: Result<StorageAccess, AccessError>,
    /// Its probe Jobs.
    pub probes: Vec<JobView>,
    /// What an ended probe found.
    pub found: Option<Vec<FoundRepository>>,
    /// Whether the store is part of this cluster; looked at when a probe has ended.
    pub domain: Option<Domain>,
    /// Ids of repositories by their directory, as far as Repository objects of this cluster have opened them.
    pub ids: BTreeMap<String, String>,
    /// Which recovery password opens each of them, by namespace and name of the Repository object.
    pub recovery: BTreeMap<String, Option<String>>,
    /// The last try.
    pub attempt: Option<Attempt>,
    pub period: std::time::Duration,
    pub stuck_after: std::time::Duration,
    pub now: Timestamp,
}

impl Facts {
    /// Digest of all that a probe depends on.
    pub(super) fn inputs(&self) -> String {
        match &self.access {
            Ok(access) => {
                let generation = self.storage.metadata.generation.unwrap_or_default();
                format!("{generation}/{}", access.credentials.fingerprint())
            }
            Err(_) => String::new(),
        }
    }
}

pub(super) async fn dereference(ctx: &Ctx, storage: &BackupStorage) -> Result<Facts, StorageError> {
    let run = RunRef::of(RunKind::BackupStorage, storage);
    let access = match StorageAccess::read(&ctx.client, storage.clone()).await {
        Err(error @ AccessError::Request(_)) => return Err(error.into()),
        other => other,
    };
    let namespace = storage.namespace().unwrap_or_default();
    let probes = jobs::observe(&ctx.client, &namespace, &run).await?;
    let mut found = None;
    for view in &probes {
        if let JobState::Ended(ended) = &view.state
            && let (Some(verdict), Some(pod)) = (ended.verdict(), &ended.pod)
            && verdict.attachment.is_some()
        {
            // The list is a help for people; a storage works without it.
            match jobs::logs::rows(&ctx.client, &namespace, pod, verdict).await {
                Ok(rows) => found = Some(rows),
                Err(error) => {
                    tracing::warn!(
                        error = %Chain(&error),
                        storage = run.name,
                        "the list of repositories is left as it was"
                    );
                }
            }
        }
    }
    let ended = probes.iter().any(|view| matches!(view.state, JobState::Ended(_)));
    let domain = match storage.spec.backend.own_endpoint() {
        _ if !ended => None,
        // It only warns: what cannot be looked up must not keep a good storage from being used.
        Some(endpoint) => Some(domain(&ctx.client, endpoint, &namespace).await.unwrap_or_else(|error| {
            tracing::warn!(error = %Chain(&error), storage = run.name, "whether the store is in this cluster is not known");
            Domain::Unknown
        })),
        // A cloud's own address.
        None => Some(Domain::Elsewhere),
    };
    let all = kubernetes::list_everywhere::<Repository>(&ctx.client, "").await?;
    let ours = || all.iter().filter(|repository| crate::repository::is_in(repository, storage));
    let recovery = ours()
        .filter(|repository| !crate::repository::is_for_dry_run(repository))
        .filter_map(|repository| {
            let status = repository.status.as_ref().filter(|status| status.initialized)?;
            let name = format!("{}/{}", repository.namespace().unwrap_or_default(), repository.name_any());
            Some((name, status.recovery_password.clone()))
        })
        .collect();
    let ids = ours()
        .filter_map(|repository| {
            let status = repository.status.as_ref()?;
            Some((status.directory.clone()?, status.repository_id.clone()?))
        })
        .collect();
    Ok(Facts {
        domain,
        ids,
        recovery,
        attempt: ctx.attempts.last(&run.uid, JobTask::Probe.as_str()),
        storage: storage.clone(),
        run,
        access,
        probes,
        found,
        period: ctx.settings.validation_period,
        stuck_after: ctx.settings.stuck_after,
        now: ctx.now(),
    })
}

/// How long a name may take to be resolved.
const RESOLVE: std::time::Duration = std::time::Duration::from_secs(5);

/// Whether an endpoint is part of this cluster.
async fn domain(client: &Client, url: &str, namespace: &str) -> Result<Domain, RequestError> {
    let Some(endpoint) = Endpoint::of(url) else { return Ok(Domain::Elsewhere) };
    for (service, namespace) in endpoint.service_names(namespace) {
        if let Some(service) = kubernetes::get::<Service>(client, &namespace, &service).await? {
            return Ok(domain::is_service(&service));
        }
    }
    let lookup = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port));
    let Ok(Ok(found)) = tokio::time::timeout(RESOLVE, lookup).await else { return Ok(Domain::Unknown) };
    let addresses = domain::distinct(found.map(|address| address.ip()));
    for address in &addresses {
        if let Some(service) =
            matching::<Service>(client, &format!("spec.clusterIP={address}")).await?.first()
        {
            return Ok(domain::is_service(service));
        }
        if let Some(pod) = matching::<Pod>(client, &format!("status.podIP={address}")).await?.first() {
            return Ok(domain::is_pod(pod));
        }
    }
    let balanced = matching::<Service>(client, "spec.type=LoadBalancer").await?;
    let nodes = matching::<Node>(client, "").await?;
    Ok(domain::behind(&endpoint.host, &addresses, &balanced, &nodes))
}

async fn matching<K>(client: &Client, fields: &str) -> Result<Vec<K>, RequestError>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let params = if fields.is_empty() { ListParams::default() } else { ListParams::default().fields(fields) };
    let list = Api::<K>::all(client.clone()).list(&params).await;
    list.map(|list| list.items).map_err(|source| RequestError {
        verb: "list",
        kind: K::kind(&()).into_owned(),
        namespace: "*".to_owned(),
        name: fields.to_owned(),
        source: Box::new(source),
    })
}
