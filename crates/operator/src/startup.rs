//! How the operator starts and stops: connection, custom resources served, leadership, controllers, and back.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use kube::{Client, Config, ResourceExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::context::Ctx;
use crate::errors::Chain;
use crate::health::Health;
use crate::http;
use crate::leader::{Election, WIND_DOWN_WHEN_LOST};
use crate::metrics::Metrics;
use crate::settings::Options;
use crate::{backup, queue, repository, restore, snapshot, storage, sweep};

/// How often the operator looks whether the custom resources are served.
const CRD_PAUSE: Duration = Duration::from_secs(2);
/// Longest time that work under way gets to finish on shutdown; below the pod's grace period.
const WIND_DOWN: Duration = Duration::from_secs(20);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No way to reach a cluster was found.
    #[error("no cluster is configured; run inside a pod, or set KUBECONFIG")]
    Config(#[source] kube::config::InferConfigError),
    /// The client could not be made.
    #[error("the client of the API server could not be made")]
    Client(#[source] kube::Error),
    /// The probes' port could not be opened.
    #[error("the address {address} of the probes cannot be opened; choose another one with --probe-address")]
    Probes {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The metrics' port could not be opened.
    #[error(
        "the address {address} of the metrics cannot be opened; choose another one with --metrics-address"
    )]
    Metrics {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Signals could not be listened to.
    #[error("signals cannot be listened to")]
    Signals(#[source] std::io::Error),
    /// The controllers ended without having been told to.
    #[error("the controllers ended by themselves, which they never should; see the log for a panic")]
    Broken,
    /// Another replica took over.
    #[error("leadership was lost; this replica starts again and stands by")]
    LeadershipLost,
}

/// Runs the operator until SIGTERM or SIGINT.
///
/// Boxed, so that the whole operator is compiled here once and not again wherever it is started.
pub fn run(options: Options) -> BoxFuture<'static, Result<(), StartError>> {
    start(options).boxed()
}

async fn start(options: Options) -> Result<(), StartError> {
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;
    let health = Health::default();
    let address = options.probe_address;
    let listener = http::bind(address).await.map_err(|source| StartError::Probes { address, source })?;
    // Probes and metrics answer until the very end, also while work winds down.
    let answers = CancellationToken::new();
    let _stop_answering = answers.clone().drop_guard();
    let probed = health.clone();
    tokio::spawn(http::serve(listener, move |path| probed.answer(path), answers.clone()));
    let metrics = Arc::new(Metrics::new(&options.cluster_name, options.claims_default));
    let address = options.metrics_address;
    let listener = http::bind(address).await.map_err(|source| StartError::Metrics { address, source })?;
    let scraped = Arc::clone(&metrics);
    tokio::spawn(http::serve(listener, move |path| scraped.answer(path), answers));

    let config = Config::infer().await.map_err(StartError::Config)?;
    let client = Client::try_from(config).map_err(StartError::Client)?;
    match prepare(&client, &health, &stop).await {
        None => Ok(()),
        Some(cluster_uid) => lead(client, options, cluster_uid, metrics, &stop).await,
    }
}

fn stop_on_signal(stop: CancellationToken) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop: no new work is begun");
        stop.cancel();
    });
    Ok(())
}

/// Waits until the cluster can be worked on; its uid, or `None` when the operator is to stop before that.
async fn prepare(client: &Client, health: &Health, stop: &CancellationToken) -> Option<String> {
    loop {
        let problem = match missing_kinds(client).await {
            Ok(missing) if missing.is_empty() => match cluster_uid(client).await {
                Ok(uid) => {
                    health.ready();
                    return Some(uid);
                }
                Err(error) => format!("the namespace kube-system cannot be read: {}", Chain(&error)),
            },
            Ok(missing) => format!(
                "the API server does not serve {}; install the CustomResourceDefinitions of this version",
                missing.join(", ")
            ),
            Err(error) => format!("the API server cannot be asked what it serves: {}", Chain(&error)),
        };
        tracing::warn!("{problem}");
        health.unready(problem);
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(CRD_PAUSE) => {}
        }
    }
}

async fn missing_kinds(client: &Client) -> Result<Vec<String>, kube::Error> {
    let version = format!("{}/{}", holdfast_api::GROUP, holdfast_api::VERSION);
    let served: Vec<String> = match client.list_api_group_resources(&version).await {
        Ok(list) => list.resources.into_iter().map(|resource| resource.kind).collect(),
        Err(kube::Error::Api(status)) if status.is_not_found() => Vec::new(),
        Err(error) => return Err(error),
    };
    let wanted = ["BackupStorage", "Repository", "Backup", "Restore", "Snapshot", "PodConfig"];
    Ok(wanted.iter().filter(|kind| !served.iter().any(|k| k == *kind)).map(|&kind| kind.to_owned()).collect())
}

async fn cluster_uid(client: &Client) -> Result<String, kube::Error> {
    Ok(Api::<Namespace>::all(client.clone()).get("kube-system").await?.uid().unwrap_or_default())
}

async fn lead(
    client: Client,
    options: Options,
    cluster_uid: String,
    metrics: Arc<Metrics>,
    stop: &CancellationToken,
) -> Result<(), StartError> {
    let identity = match options.pod_name.as_str() {
        "" => format!("{}-{}", std::process::id(), jiff::Timestamp::now().as_nanosecond()),
        name => name.to_owned(),
    };
    let election =
        options.leader_election.then(|| Election::new(client.clone(), &options.namespace, identity));
    if let Some(election) = &election {
        tracing::info!("waiting for the Lease");
        if !election.win(stop).await {
            return Ok(());
        }
    }
    tracing::info!(cluster = options.cluster_name, cluster_uid, "working");

    // Work ends when the operator is told to stop, and when leadership is lost.
    let work = stop.child_token();
    metrics.leads(true);
    let ctx = Arc::new(Ctx::new(client, options, cluster_uid, Arc::clone(&metrics), work.clone()));
    let mut controllers = tokio::spawn(work_until_stopped(ctx));
    let keep = async {
        if let Some(election) = &election {
            return election.keep(stop).await;
        }
        stop.cancelled().await;
        true
    };
    let (held, broken) = tokio::select! {
        held = keep => (held, false),
        _ = &mut controllers => (true, !stop.is_cancelled()),
    };
    work.cancel();
    // From here on another replica may know better.
    metrics.leads(false);
    // Whoever has lost the Lease is out before the next one begins; else it would let go only after it is done.
    let wind_down = if held { WIND_DOWN } else { WIND_DOWN_WHEN_LOST };
    if !controllers.is_finished() && tokio::time::timeout(wind_down, &mut controllers).await.is_err() {
        tracing::warn!("work under way did not end in time; it is taken up by the next leader");
        controllers.abort();
    }
    if let Some(election) = &election
        && held
    {
        election.release().await;
    }
    match (held, broken) {
        (_, true) => Err(StartError::Broken),
        (true, false) => Ok(()),
        (false, false) => Err(StartError::LeadershipLost),
    }
}

async fn work_until_stopped(ctx: Arc<Ctx>) {
    let (metrics, client, stop) = (Arc::clone(&ctx.metrics), ctx.client.clone(), ctx.stop.clone());
    tokio::join!(
        storage::run(Arc::clone(&ctx)),
        repository::run(Arc::clone(&ctx)),
        snapshot::run(Arc::clone(&ctx)),
        backup::run(Arc::clone(&ctx)),
        restore::run(Arc::clone(&ctx)),
        queue::run(Arc::clone(&ctx)),
        metrics.follow(client, stop),
        sweep::run(ctx),
    );
}
