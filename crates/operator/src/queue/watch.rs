//! Watches the runners' Jobs, for the places that they take and leave.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::time::Instant;

use crate::context::Ctx;
use crate::errors::Chain;

/// How often places are looked for that nobody came for.
const TICK: Duration = Duration::from_secs(15);

/// Feeds the queue until the operator stops.
pub async fn run(ctx: Arc<Ctx>) {
    let config = watcher::Config::default().labels(&super::selector());
    let mut events = std::pin::pin!(watcher(Api::<Job>::all(ctx.client.clone()), config).default_backoff());
    let mut tick = tokio::time::interval(TICK);
    let mut list: Option<(Instant, Vec<(String, String)>)> = None;
    loop {
        let event = tokio::select! {
            () = ctx.stop.cancelled() => return,
            _ = tick.tick() => {
                ctx.queue.tick();
                continue;
            }
            event = events.try_next() => event,
        };
        match event {
            Ok(Some(Event::Init)) => list = Some((Instant::now(), Vec::new())),
            Ok(Some(Event::InitApply(job))) => {
                ctx.queue.seen(&job);
                if let Some((_, names)) = &mut list {
                    names.push((job.namespace().unwrap_or_default(), job.name_any()));
                }
            }
            Ok(Some(Event::InitDone)) => {
                if let Some((since, names)) = list.take() {
                    ctx.queue.all_listed(&names, since);
                }
            }
            Ok(Some(Event::Apply(job))) => ctx.queue.seen(&job),
            Ok(Some(Event::Delete(job))) => ctx.queue.gone(&job),
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "the watch on the runners' Jobs was interrupted");
            }
        }
    }
}
