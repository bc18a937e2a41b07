//! Starting, watching and removing a runner's Job and its Secret. The only place that writes them.

use std::collections::HashMap;

use holdfast_protocol::RunSpec;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use super::denial::{self, Denial};
use super::outcome::{self, JobState, WaitReason, Waiting};
use super::pod_config::ANNOTATION_POD_CONFIG;
use super::{JobPlan, RunRef, build};
use crate::access::{Credentials, RunnerFiles};
use crate::context::Ctx;
use crate::errors::Chain;
use crate::kubernetes::{self, Created, Namespaced, RequestError};
use crate::sts::{self, Exchange, ExchangeError, Proof, WebIdentityOptions};

/// Why a Job could not be started, watched or removed.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The API server refused or could not be asked.
    #[error("the API server did not do what a Job needs")]
    Request(#[from] RequestError),
    /// The run spec could not be written as JSON.
    #[error("the run spec of Job {name} cannot be written")]
    Spec {
        /// Name of the Job.
        name: String,
        /// What the writer said.
        #[source]
        source: serde_json::Error,
    },
    /// An object of the Job's name exists that is not ours.
    #[error(
        "{kind} {namespace}/{name} exists and was not made by Holdfast for this run; delete or rename it"
    )]
    NameTaken {
        /// `Job` or `Secret`.
        kind: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl JobError {
    /// The namespace is going away, so nothing can be started in it any more.
    pub fn namespace_is_terminating(&self) -> bool {
        matches!(self, Self::Request(error) if error.namespace_is_terminating())
    }
}

/// What came of starting a Job.
#[derive(Debug)]
pub enum Started {
    /// It is there, started now or before.
    Job(Box<Job>),
    /// A Job of this name is being deleted: a watch tells when it is gone.
    BeingDeleted,
    /// The cluster does not admit the Job, its pod or its Secret, or there are no keys for it.
    Denied(Denial),
}

impl Started {
    /// What a start came to that failed: a Job or Secret that the cluster refuses is a denial, to be told and waited for.
    /// Not for a storage or repository, which would be told as unusable for a quota that is used up for a moment.
    pub fn or_denied(error: JobError) -> Result<Self, JobError> {
        let JobError::Request(request) = &error else { return Err(error) };
        let Some(denial) = Denial::not_taken(request) else { return Err(error) };
        tracing::warn!(error = %Chain(&error), "a Job or its Secret is refused");
        Ok(Self::Denied(denial))
    }
}

/// Starts a Job: asks whether its pod is admitted, exchanges the keys where the storage wants that, makes the Secret, makes
/// the Job. A Job of this name that was started for the same run before is taken as it is, so the call can be repeated
/// after a crash at any point. Each Job has keys of its own.
pub async fn start(
    ctx: &Ctx,
    plan: &JobPlan,
    spec: &RunSpec,
    credentials: &Credentials,
) -> Result<Started, JobError> {
    let client = &ctx.client;
    let job = build::job(plan, &ctx.settings);
    if let Some(existing) = kubernetes::get::<Job>(client, &plan.namespace, &plan.name).await? {
        return adopt(plan, existing);
    }
    if let Some(denial) = denial::ask(client, &job).await? {
        return Ok(Started::Denied(denial));
    }
    // Rare, and larger than all else here together.
    let around = Around { client, web_identity: &ctx.settings.web_identity, now: ctx.now() };
    let (files, keys_end) = match Box::pin(for_runner(around, &plan.name, spec, credentials)).await {
        Ok(given) => given,
        Err(error) => {
            tracing::warn!(job = plan.name, error = %Chain(&error), "there are no keys for a run");
            return Ok(Started::Denied(Denial::no_keys(&error, credentials.storage(), &plan.run.namespace)));
        }
    };
    let spec = RunSpec { keys_end: keys_end.map(|end| end.to_string()), ..spec.clone() };
    let text =
        serde_json::to_string(&spec).map_err(|source| JobError::Spec { name: plan.name.clone(), source })?;
    let secret = build::secret(plan, &text, &files);
    if let Created::Existing(old) = kubernetes::create(client, &secret).await? {
        // Left by a start that was interrupted or refused, and perhaps out of date; no Job reads it yet.
        check_ours(plan, &old)?;
        kubernetes::delete::<Secret>(client, &plan.namespace, &plan.name, old.uid().as_deref()).await?;
        if let Created::Existing(other) = kubernetes::create(client, &secret).await? {
            check_ours(plan, &other)?;
        }
    }
    match kubernetes::create(client, &job).await? {
        Created::New(job) => Ok(Started::Job(Box::new(job))),
        Created::Existing(job) => adopt(plan, job),
    }
}

/// Why there would be no keys for a Job with this spec, if there would be none: asked before something is done that is only
/// worth it with them. The keys that come are thrown away.
pub async fn no_keys(
    around: Around<'_>,
    run: &RunRef,
    spec: &RunSpec,
    credentials: &Credentials,
) -> Option<Denial> {
    // Nothing is asked for where nothing is exchanged.
    credentials.exchange()?;
    // A session has a name of 2 to 64 characters.
    let session: String = format!("holdfast-{}", run.name).chars().take(64).collect();
    let error = Box::pin(for_runner(around, &session, spec, credentials)).await.err()?;
    tracing::warn!(run = run.name, error = %Chain(&error), "there are no keys for a run");
    Some(Denial::no_keys(&error, credentials.storage(), &run.namespace))
}

/// What an exchange needs of the operator.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    /// Client of the API server.
    pub client: &'a Client,
    /// Where tokens may be exchanged.
    pub web_identity: &'a WebIdentityOptions,
    /// Now.
    pub now: Timestamp,
}

/// What the runner gets of the credentials, and when its keys end where they were made for it. Where keys are to be
/// exchanged it never gets those that it would exchange.
async fn for_runner(
    around: Around<'_>,
    job: &str,
    spec: &RunSpec,
    credentials: &Credentials,
) -> Result<(RunnerFiles, Option<Timestamp>), ExchangeError> {
    let Around { client, web_identity, now } = around;
    let Some(exchange) = credentials.exchange() else {
        // Where nothing is exchanged, they are handed out as they are.
        return credentials.as_they_are().map(|files| (files, None)).ok_or(ExchangeError::Keys);
    };
    let (named, token);
    let role = match exchange {
        Exchange::Keys(role) => role,
        Exchange::Account(account) => {
            web_identity.check(&account.endpoint, &account.audience)?;
            named = sts::web::role(client, account).await?;
            &named
        }
    };
    let policy = sts::session_policy(spec, role.partition())?;
    let (proof, ca) = match exchange {
        Exchange::Keys(_) => (Proof::Keys(credentials.signing_keys()), credentials.ca()),
        Exchange::Account(account) => {
            token = sts::web::token(client, account).await?;
            // Not the storage's own authorities: its author does not vouch for whom the token is sent to.
            (Proof::Token(&token), web_identity.ca())
        }
    };
    let request = sts::Request { role, proof, ca, policy: &policy, session: job, now };
    let keys = sts::assume_role(&request).await?;
    tracing::debug!(job, expires = %keys.expires, "keys for one Job were taken");
    Ok((credentials.with_keys(&keys), Some(keys.expires)))
}

fn adopt(plan: &JobPlan, job: Job) -> Result<Started, JobError> {
    check_ours(plan, &job)?;
    if job.metadata.deletion_timestamp.is_some() {
        return Ok(Started::BeingDeleted);
    }
    Ok(Started::Job(Box::new(job)))
}

fn check_ours<K: Namespaced>(plan: &JobPlan, object: &K) -> Result<(), JobError> {
    if RunRef::from_child(object).is_some_and(|run| run.uid == plan.run.uid) {
        return Ok(());
    }
    Err(JobError::NameTaken {
        kind: K::kind(&()).into_owned(),
        namespace: plan.namespace.clone(),
        name: plan.name.clone(),
    })
}

/// A Job, its pods and what they say.
#[derive(Debug, Clone)]
pub struct JobView {
    /// The Job.
    pub job: Job,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// What both say.
    pub state: JobState,
}

impl JobView {
    /// Name of the Job.
    pub fn name(&self) -> &str {
        self.job.metadata.name.as_deref().unwrap_or_default()
    }

    /// Uid of the Job: what its runner's lock names.
    pub fn uid(&self) -> &str {
        self.job.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Namespace of the Job.
    pub fn namespace(&self) -> &str {
        self.job.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The component that it works on.
    pub fn component(&self) -> Option<&str> {
        super::component_of(&self.job)
    }

    /// Its task, as its label tells.
    pub fn task(&self) -> Option<&str> {
        super::task_label(&self.job)
    }

    /// It was told to go.
    pub fn is_being_deleted(&self) -> bool {
        self.job.metadata.deletion_timestamp.is_some()
    }

    /// When it was made.
    pub fn created(&self) -> Option<Timestamp> {
        self.job.creation_timestamp().map(|t| t.0)
    }

    /// Whether a process of this Job can still be at work: a pod that has neither ended nor is gone. Until then
    /// its lock is not dead.
    pub fn has_live_pod(&self) -> bool {
        self.pods.iter().any(|pod| {
            let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
            !matches!(phase, Some("Succeeded" | "Failed"))
        })
    }

    fn new(job: Job, pods: Vec<Pod>) -> Self {
        let state = outcome::state(&job, &pods);
        Self { job, pods, state }
    }
}

/// All Jobs of a run in one namespace, with their pods; those of several attempts too.
///
/// Pods of Jobs that are gone already are found by [`orphaned_pods`].
pub async fn observe(client: &Client, namespace: &str, run: &RunRef) -> Result<Vec<JobView>, JobError> {
    let selector = run.selector();
    let (jobs, pods) = tokio::try_join!(
        kubernetes::list::<Job>(client, namespace, &selector),
        kubernetes::list::<Pod>(client, namespace, &selector),
    )?;
    let mut of_job: HashMap<String, Vec<Pod>> = HashMap::new();
    for pod in pods {
        if let Some(uid) = super::job_uid_of(&pod) {
            of_job.entry(uid.to_owned()).or_default().push(pod);
        }
    }
    Ok(jobs
        .into_iter()
        .map(|job| {
            let own = of_job.remove(&job.uid().unwrap_or_default()).unwrap_or_default();
            JobView::new(job, own)
        })
        .collect())
}

/// Pods of a run that still run although their Job is gone: after a deletion, until they have stopped.
pub async fn orphaned_pods(client: &Client, namespace: &str, run: &RunRef) -> Result<Vec<Pod>, JobError> {
    let selector = run.selector();
    let (jobs, pods) = tokio::try_join!(
        kubernetes::list::<Job>(client, namespace, &selector),
        kubernetes::list::<Pod>(client, namespace, &selector),
    )?;
    let uids: Vec<String> = jobs.iter().filter_map(ResourceExt::uid).collect();
    Ok(pods
        .into_iter()
        .filter(|pod| !super::job_uid_of(pod).is_some_and(|uid| uids.iter().any(|known| known == uid)))
        .collect())
}

/// Removes a Job with its pods (which get SIGTERM and their grace period) and its Secret.
pub async fn remove(client: &Client, view: &JobView) -> Result<(), JobError> {
    // A Job that is deleted already is not asked again: each request would be one more round through its watch.
    if !view.is_being_deleted() {
        kubernetes::delete::<Job>(client, view.namespace(), view.name(), Some(view.uid())).await?;
    }
    kubernetes::delete::<Secret>(client, view.namespace(), view.name(), None).await?;
    Ok(())
}

/// Removes the Secret of a Job that did its work, so that a quota has room for the next Job of the run. No pod reads it
/// any more; where it cannot be removed now, it goes with the run.
pub async fn remove_read_secret(client: &Client, view: &JobView) {
    if let Err(error) = kubernetes::delete::<Secret>(client, view.namespace(), view.name(), None).await {
        tracing::debug!(job = view.name(), error = %Chain(&error), "the Secret of a Job that is over stays");
    }
}

/// Removes all Secrets of a run in a namespace, also those whose Job was never made. Their content is not read.
pub async fn remove_secrets(client: &Client, namespace: &str, run: &RunRef) -> Result<(), JobError> {
    for secret in kubernetes::list_metadata::<Secret>(client, namespace, &run.selector()).await? {
        kubernetes::delete::<Secret>(client, namespace, &secret.name_any(), secret.uid().as_deref()).await?;
    }
    Ok(())
}

/// What Kubernetes' Events add to a Job that waits: the volume that cannot be mounted, the quota that is used up.
/// One request; ask it when the wait has become long, not at every look.
pub async fn explain_waiting(client: &Client, view: &JobView, waiting: Waiting) -> Result<Waiting, JobError> {
    let (kind, name) = match (&waiting.pod, waiting.reason) {
        (_, WaitReason::Unschedulable) => return Ok(with_pod_config(view, waiting)),
        (Some(pod), WaitReason::Starting) => ("Pod", pod.clone()),
        (None, WaitReason::PodNotCreated) => ("Job", view.name().to_owned()),
        _ => return Ok(waiting),
    };
    let fields = format!("involvedObject.kind={kind},involvedObject.name={name},type=Warning");
    let events = Api::<Event>::namespaced(client.clone(), view.namespace())
        .list(&ListParams::default().fields(&fields).limit(50))
        .await
        .map(|list| list.items)
        .unwrap_or_default();
    Ok(with_event(waiting, &events))
}

/// Says whose rules a pod may be waiting for.
fn with_pod_config(view: &JobView, mut waiting: Waiting) -> Waiting {
    let shaped = view.pods.iter().find_map(|pod| pod.annotations().get(ANNOTATION_POD_CONFIG));
    if let Some(config) = shaped {
        waiting.message = format!(
            "{}; PodConfig {config} has a say in where it may run: a volume that is in use, or attached, can only be \
             mounted on its node",
            waiting.message
        );
    }
    waiting
}

fn with_event(mut waiting: Waiting, events: &[Event]) -> Waiting {
    let when = |event: &Event| {
        let seen = event.last_timestamp.as_ref().map(|t| t.0);
        seen.or_else(|| event.event_time.as_ref().map(|t| t.0))
    };
    let Some(event) = events.iter().max_by_key(|event| when(event)) else { return waiting };
    let said = event.message.as_deref().unwrap_or_default();
    match event.reason.as_deref().unwrap_or_default() {
        "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" => {
            waiting.reason = WaitReason::VolumeNotMounted;
            waiting.message = format!("the volume cannot be mounted into the runner's pod: {said}");
        }
        reason => waiting.message = format!("{}: {reason}: {said}", waiting.message),
    }
    waiting
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(directory: &str) -> RunSpec {
        serde_saphyr::from_str(&format!(
            "
version: {}
run: {{kind: Repository, namespace: shop, name: r, uid: u, cluster: c, clusterUid: k}}
storage: {{s3: {{endpoint: 'http://127.0.0.1:1', bucket: b, region: r}}}}
directory: '{directory}'
task: {{type: sync}}
",
            holdfast_protocol::VERSION
        ))
        .unwrap()
    }

    /// A client of an API server that is not there.
    fn nobody() -> Client {
        Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap()
    }

    #[tokio::test]
    async fn without_an_exchange_no_runner_gets_a_key() {
        let of = |role: &str| {
            let backend = format!(
                "{{s3: {{bucket: b, endpoint: 'http://127.0.0.1:1', credentialsSecretRef: {{name: keys}}{role}}}}}"
            );
            let secret: Secret = serde_saphyr::from_str(
                "data: {AWS_ACCESS_KEY_ID: YnJvYWQ=, AWS_SECRET_ACCESS_KEY: YnJvYWQ=}",
            )
            .unwrap();
            Credentials::of_store(&serde_saphyr::from_str(&backend).unwrap(), &secret).unwrap()
        };
        let client = nobody();
        let web_identity = WebIdentityOptions::default();
        let around = Around { client: &client, web_identity: &web_identity, now: Timestamp::UNIX_EPOCH };
        let (plain, end) = for_runner(around, "job", &spec("c/shop/r"), &of("")).await.unwrap();
        assert_eq!(plain.data().len(), 2, "a storage without a role hands out what it has");
        assert_eq!(end, None);
        // Nobody answers at this port.
        let away = of(", assumeRole: {stsEndpoint: 'https://127.0.0.1:1'}");
        let error = for_runner(around, "job", &spec("c/shop/r"), &away).await.unwrap_err();
        assert!(matches!(&error, ExchangeError::Unreachable { .. }), "{error}");
        // Asked beforehand, that is a reason to wait, and nothing is asked where nothing is exchanged.
        let run = RunRef {
            kind: super::super::RunKind::Restore,
            namespace: "shop".into(),
            name: "r".into(),
            uid: "u".into(),
        };
        let denial = no_keys(around, &run, &spec("c/shop/r"), &away).await.unwrap();
        assert!(denial.may_pass && denial.reason.as_str() == "EndpointUnreachable", "{denial:?}");
        assert_eq!(no_keys(around, &run, &spec("c/shop/r"), &of("")).await, None);
        // An object that an older schema let through.
        let error = for_runner(around, "job", &spec("c/shop/r"), &of(", assumeRole: {}")).await.unwrap_err();
        assert!(matches!(&error, ExchangeError::Endpoint(_)), "{error}");
        let error = for_runner(around, "job", &spec("c/*"), &away).await.unwrap_err();
        assert!(matches!(&error, ExchangeError::Policy(_)), "{error}");
    }

    /// What the administrator does not allow is found out before the API server is asked for anything: nobody answers at
    /// this one.
    #[tokio::test]
    async fn a_token_is_asked_for_only_where_it_may_be_sent() {
        let access = |identity: &str| {
            let storage: holdfast_api::BackupStorage = serde_saphyr::from_str(&format!(
                "
apiVersion: holdfast.dev/v1alpha1
kind: BackupStorage
metadata: {{name: store, namespace: backups}}
spec: {{backend: {{s3: {{bucket: b, webIdentity: {{serviceAccountName: store{identity}}}}}}}}}
"
            ))
            .unwrap();
            let client = nobody();
            async move { crate::access::StorageAccess::read(&client, storage).await.unwrap().credentials }
        };
        let credentials = access("").await;
        assert_eq!(credentials.as_they_are(), None, "there is nothing to hand out without an exchange");
        let off = WebIdentityOptions::default();
        let on = WebIdentityOptions {
            enabled: true,
            services: vec![sts::Service {
                host: sts::StsHost::One { host: "sts.us-east-1.amazonaws.com".into(), port: 443 },
                audience: "sts.amazonaws.com".into(),
            }],
            ca: String::new(),
        };
        let client = nobody();
        let reason = async |web_identity: &WebIdentityOptions, credentials: &Credentials| {
            let around = Around { client: &client, web_identity, now: Timestamp::UNIX_EPOCH };
            for_runner(around, "job", &spec("c/shop/r"), credentials).await.unwrap_err().reason().as_str()
        };
        assert_eq!(reason(&off, &credentials).await, "WebIdentityNotAllowed");
        let elsewhere = access(", stsEndpoint: 'https://sts.evil.example'").await;
        assert_eq!(reason(&on, &elsewhere).await, "WebIdentityNotAllowed");
        let for_others = access(", audience: other").await;
        assert_eq!(reason(&on, &for_others).await, "WebIdentityNotAllowed");
        // Allowed: now the API server is asked.
        assert_eq!(reason(&on, &credentials).await, "AssumeRoleFailed");
    }

    #[test]
    fn the_newest_event_names_the_volume_that_cannot_be_mounted() {
        let events: Vec<Event> = serde_saphyr::from_str(
            r#"
- {metadata: {}, involvedObject: {}, reason: FailedScheduling, message: old, lastTimestamp: "2026-11-20T02:00:00Z"}
- {metadata: {}, involvedObject: {}, reason: FailedAttachVolume, message: Multi-Attach error, lastTimestamp: "2026-11-20T02:01:00Z"}
"#,
        )
        .unwrap();
        let waiting = Waiting {
            reason: WaitReason::Starting,
            message: "the runner's pod is being started".into(),
            since: None,
            pod: Some("p".into()),
        };
        let explained = with_event(waiting.clone(), &events);
        assert_eq!(explained.reason, WaitReason::VolumeNotMounted);
        assert!(explained.message.contains("Multi-Attach"), "{}", explained.message);
        assert_eq!(with_event(waiting.clone(), &[]), waiting);
    }
}
