//! What all controllers share: the watches on a run's Jobs and pods, fresh reads, pauses after errors, and the
//! end of work on shutdown. What is done with an object is the reconcilers'.

use std::error::Error;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::Controller;
use kube::runtime::controller::{Action, Config, Error as ControllerError};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};

use crate::context::Ctx;
use crate::errors::Chain;
use crate::jobs::{RunKind, RunRef};
use crate::kubernetes::{self, Namespaced};

/// Most objects of one kind that are looked after at the same time.
const CONCURRENCY: u16 = 32;

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
        .watches(Api::<Job>::all(client.clone()), of_kind.clone(), |job| run_of::<K>(&job))
        .watches(Api::<Pod>::all(client.clone()), of_kind, |pod| run_of::<K>(&pod))
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
    K: Namespaced,
    K::DynamicType: Eq + Hash + Clone + std::fmt::Debug + Unpin,
    F: Future<Output = Result<Action, E>> + Send + 'static,
    E: Error + Send + Sync + From<kubernetes::RequestError> + 'static,
{
    let look = move |seen: Arc<K>, ctx: Arc<Ctx>| {
        let reconcile = reconcile.clone();
        async move {
            let uid = seen.uid().unwrap_or_default();
            let namespace = seen.namespace().unwrap_or_default();
            let Some(object) = kubernetes::get::<K>(&ctx.client, &namespace, &seen.name_any()).await? else {
                ctx.attempts.forget(&uid);
                ctx.backoff.reset(&uid);
                ctx.queue.forget(&uid);
                return Ok(Action::await_change());
            };
            let action = reconcile(Arc::new(object), Arc::clone(&ctx)).await?;
            ctx.backoff.reset(&uid);
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
        .for_each(|result| async move {
            match result {
                // Told where the reconciler failed, or of an object that went meanwhile.
                Ok(_) | Err(ControllerError::ReconcilerFailed(..) | ControllerError::ObjectNotFound(_)) => {}
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), error = %Chain(&error), "a watch was interrupted");
                }
            }
        })
        .await;
}
