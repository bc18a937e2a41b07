//! `Snapshot`: the mirror of a recovery point. How rows of a repository become Snapshot objects, and whether each
//! can be restored from. Which repositories are listed, and when, is decided in [`crate::repository`].

pub mod apply;
mod build;
mod dereference;
mod status;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use holdfast_api::{Repository, Snapshot, names};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::Controller;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;

pub use apply::{mirror, publish};
pub use validate::{Changes, Listing, RecoveryPoint, changes, points, without};

use crate::context::Ctx;
use crate::controllers::{self, Seen, Wakes};
use crate::kubernetes::RequestError;

/// When a Snapshot is looked at again that somebody else wrote to at the same moment.
const SOON: Duration = Duration::from_secs(1);

/// Selects the Snapshots of a repository in its namespace.
pub fn selector(repository: &str) -> String {
    format!("{}={}", names::LABEL_REPOSITORY, names::label_value(repository))
}

/// Looks after all Snapshots until the operator stops.
pub async fn run(ctx: Arc<Ctx>) {
    let client = ctx.client.clone();
    let controller = Controller::new(Api::<Snapshot>::all(client.clone()), watcher::Config::default())
        .with_config(kube::runtime::controller::Config::default().concurrency(8))
        .trigger_backoff(controllers::pauses())
        .graceful_shutdown_on(ctx.stop.clone().cancelled_owned());
    let snapshots = controller.store();
    let of_clock = Arc::clone(&ctx);
    let controller = controller.wakes_when_seen(
        &ctx.metrics,
        Api::<Repository>::all(client),
        watcher::Config::default(),
        move |seen: Seen<Repository>| concerned(&seen, &snapshots.state(), of_clock.now()),
    );
    controllers::run(controller, ctx, reconcile).await;
}

/// The Snapshots that say something else than a Repository, as it was seen, makes of them.
fn concerned(
    seen: &Seen<Repository>,
    snapshots: &[Arc<Snapshot>],
    now: Timestamp,
) -> Vec<ObjectRef<Snapshot>> {
    let repository = seen.object();
    let name = repository.name_any();
    let of = |snapshot: &Snapshot| {
        snapshot.namespace() == repository.namespace() && snapshot.spec.repository_ref.name == name
    };
    let concerned = snapshots.iter().filter(|s| of(s) && status::is_outdated(s, seen.there(), now));
    concerned.map(|snapshot| ObjectRef::from_obj(snapshot.as_ref())).collect()
}

async fn reconcile(snapshot: Arc<Snapshot>, ctx: Arc<Ctx>) -> Result<Action, RequestError> {
    if snapshot.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let repository = dereference::repository(&ctx, &snapshot).await?;
    let usable = validate::usable(&snapshot, repository.as_ref());
    let status = status::with_ready(&snapshot, &usable, ctx.now());
    match apply::write_status(&ctx.client, &snapshot, &status).await {
        // Its content was written at the same moment; the watch tells of that.
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(Action::requeue(SOON)),
        Err(error) => Err(error),
        Ok(_) => Ok(Action::await_change()),
    }
}

#[cfg(test)]
mod tests;
