//! Following all objects of a kind by their metadata only.

use std::fmt::Debug;
use std::pin::pin;

use futures::StreamExt;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::controllers::pauses;
use crate::errors::Chain;

/// Hands every change of the kind `K`, in all namespaces, to `take` until told to stop. `what` names the objects, for the
/// log.
pub(super) async fn follow<K>(
    what: &'static str,
    client: Client,
    stop: CancellationToken,
    mut take: impl FnMut(Event<PartialObjectMeta<K>>),
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let api = Api::<PartialObjectMeta<K>>::all(client);
    let mut events = pin!(watcher(api, watcher::Config::default()).backoff(pauses()));
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => event,
        };
        match event {
            Some(Ok(event)) => take(event),
            Some(Err(error)) => {
                tracing::warn!(error = %Chain(&error), "the watch of {what} was interrupted");
            }
            None => return,
        }
    }
}
