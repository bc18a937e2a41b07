//! What all controllers share: the watches on a run's Jobs and pods, fresh reads, pauses after errors, and the
//! end of work on shutdown. What is done with an object is the reconcilers'.

use std::error::Error;
use std::fmt::Debug;
use std::future::{Future, ready};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBuilder;
use futures::{StreamExt, stream};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::controller::{Action, Config, Error as ControllerError};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::utils::ResetTimerBackoff;
use kube::runtime::watcher::{self, Event, ExponentialBackoff, watcher};
use kube::runtime::{Controller, WatchStreamExt};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::context::Ctx;
use crate::errors::Chain;
use crate::jobs::{RunKind, RunRef};
use crate::kubernetes::{self, Namespaced};
use crate::metrics::{Metrics, Observed};

/// Most objects of one kind that are looked after at the same time.
const CONCURRENCY: u16 = 32;

/// The pauses of one watch that is interrupted: half a second, then longer ones up to ten seconds, and from the start
/// again when it has held for a minute.
pub fn pauses() -> ResetTimerBackoff<ExponentialBackoff> {
    let growing = ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(500))
        .with_max_delay(Duration::from_secs(10))
        .with_factor(2.0)
        .with_jitter()
        .without_max_times();
    ResetTimerBackoff::new(growing.into(), Duration::from_mins(1))
}

/// An object as a watch tells of it.
#[derive(Debug)]
pub enum Seen<O> {
    /// It is there, new or changed or as it was.
    There(O),
    /// It was deleted; as it was last.
    Gone(O),
}

impl<O> Seen<O> {
    fn of(event: Event<O>) -> Option<Self> {
        match event {
            Event::Apply(object) | Event::InitApply(object) => Some(Self::There(object)),
            Event::Delete(object) => Some(Self::Gone(object)),
            Event::Init | Event::InitDone => None,
        }
    }

    /// The object, there or not.
    pub fn object(&self) -> &O {
        match self {
            Self::There(object) | Self::Gone(object) => object,
        }
    }

    /// The object while it is there.
    pub fn there(&self) -> Option<&O> {
        match self {
            Self::There(object) => Some(object),
            Self::Gone(_) => None,
        }
    }
}

/// What a controller wakes on.
pub trait Wakes<K: Resource> {
    /// Looks at the objects that `concerns` names, each time when one of another kind changes.
    ///
    /// Each such watch pauses for itself after an error. A controller's own watches on other kinds share one back-off:
    /// when the API server comes back each of them fails once or twice more, and the controller then sleeps through all
    /// these pauses one after the other, for minutes.
    #[must_use]
    fn wakes_on<O, I>(
        self,
        metrics: &Arc<Metrics>,
        api: Api<O>,
        config: watcher::Config,
        concerns: impl Fn(O) -> I + Send + 'static,
    ) -> Self
    where
        O: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        O::DynamicType: Default,
        I: IntoIterator<Item = ObjectRef<K>> + 'static,
        I::IntoIter: Send,
        Self: Sized,
    {
        self.wakes_when_seen(metrics, api, config, move |seen| {
            let (Seen::There(object) | Seen::Gone(object)) = seen;
            concerns(object)
        })
    }

    /// As [`Wakes::wakes_on`], for those to whom it matters whether the object is there.
    #[must_use]
    fn wakes_when_seen<O, I>(
        self,
        metrics: &Arc<Metrics>,
        api: Api<O>,
        config: watcher::Config,
        concerns: impl Fn(Seen<O>) -> I + Send + 'static,
    ) -> Self
    where
        O: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        O::DynamicType: Default,
        I: IntoIterator<Item = ObjectRef<K>> + 'static,
        I::IntoIter: Send;
}

impl<K> Wakes<K> for Controller<K>
where
    K: Namespaced,
    K::DynamicType: Eq + Hash + Clone + Debug + Unpin,
{
    fn wakes_when_seen<O, I>(
        self,
        metrics: &Arc<Metrics>,
        api: Api<O>,
        config: watcher::Config,
        concerns: impl Fn(Seen<O>) -> I + Send + 'static,
    ) -> Self
    where
        O: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        O::DynamicType: Default,
        I: IntoIterator<Item = ObjectRef<K>> + 'static,
        I::IntoIter: Send,
    {
        let kind = O::kind(&O::DynamicType::default()).into_owned();
        let metrics = Arc::clone(metrics);
        let seen = watcher(api, config).backoff(pauses()).filter_map(move |event| {
            let event = event.inspect_err(|error| {
                metrics.watch_interrupted(&kind);
                tracing::warn!(kind, error = %Chain(error), "a watch was interrupted");
            });
            ready(event.ok().and_then(Seen::of))
        });
        self.reconcile_on(seen.flat_map(move |object| stream::iter(concerns(object))))
    }
}

/// A controller of the objects of a kind that wakes on changes of the object, of its Jobs and their pods, and on
/// what its runners tell. The kinds add their own watches.
pub fn controller<K>(ctx: &Ctx, kind: RunKind) -> Controller<K>
where
    K: Namespaced,
{
    let client = &ctx.client;
    let of_kind = watcher::Config::default().labels(&kind.selector());
    Controller::new(Api::<K>::all(client.clone()), watcher::Config::default())
        .with_config(Config::default().concurrency(CONCURRENCY))
        .trigger_backoff(pauses())
        .wakes_on(&ctx.metrics, Api::<Job>::all(client.clone()), of_kind.clone(), |job| run_of::<K>(&job))
        .wakes_on(&ctx.metrics, Api::<Pod>::all(client.clone()), of_kind, |pod| run_of::<K>(&pod))
        .reconcile_on(ctx.board.words(kind).map(|run| reference(&run)))
        .graceful_shutdown_on(ctx.stop.clone().cancelled_owned())
}

fn run_of<K: Namespaced>(child: &impl Resource) -> Option<ObjectRef<K>> {
    RunRef::from_child(child).map(|run| reference(&run))
}

/// The object that a run is.
pub fn reference<K: Namespaced>(run: &RunRef) -> ObjectRef<K> {
    ObjectRef::new(&run.name).within(&run.namespace)
}

/// Runs a controller until the operator stops.
///
/// The object is read anew for each look, because the watch may be behind our own last write: a decision made on
/// the older state would be made twice.
pub async fn run<K, R, F, E>(controller: Controller<K>, ctx: Arc<Ctx>, reconcile: R)
where
    R: Fn(Arc<K>, Arc<Ctx>) -> F + Clone + Send + Sync + 'static,
    K: Observed,
    F: Future<Output = Result<Action, E>> + Send + 'static,
    E: Error + Send + Sync + From<kubernetes::RequestError> + 'static,
{
    ctx.metrics.keep(controller.store(), ctx.client.clone(), ctx.stop.clone());
    let metrics = Arc::clone(&ctx.metrics);
    let look = move |seen: Arc<K>, ctx: Arc<Ctx>| {
        let reconcile = reconcile.clone();
        async move {
            let uid = seen.uid().unwrap_or_default();
            let namespace = seen.namespace().unwrap_or_default();
            let mut look = ctx.metrics.look::<K>();
            let Some(object) = kubernetes::get::<K>(&ctx.client, &namespace, &seen.name_any()).await? else {
                ctx.attempts.forget(&uid);
                ctx.backoff.reset(&uid);
                ctx.queue.forget(&uid);
                ctx.metrics.gone(&uid);
                look.ended_well();
                return Ok(Action::await_change());
            };
            ctx.metrics.seen(&object);
            let action = reconcile(Arc::new(object), Arc::clone(&ctx)).await?;
            ctx.backoff.reset(&uid);
            look.ended_well();
            Ok(action)
        }
    };
    let after_error = |object: Arc<K>, error: &E, ctx: Arc<Ctx>| {
        let pause = ctx.backoff.next(&object.uid().unwrap_or_default());
        tracing::warn!(
            kind = %K::kind(&()),
            namespace = object.namespace().unwrap_or_default(),
            name = object.name_any(),
            error = %Chain(error),
            "an object could not be looked after; it is tried again in {} s",
            pause.as_secs()
        );
        Action::requeue(pause)
    };
    controller
        .run(look, after_error, ctx)
        .for_each(move |result| {
            match result {
                // Told where the reconciler failed, or of an object that went meanwhile.
                Ok(_) | Err(ControllerError::ReconcilerFailed(..) | ControllerError::ObjectNotFound(_)) => {}
                Err(error) => {
                    metrics.watch_interrupted(&K::kind(&()));
                    tracing::warn!(kind = %K::kind(&()), error = %Chain(&error), "a watch was interrupted");
                }
            }
            std::future::ready(())
        })
        .await;
}
