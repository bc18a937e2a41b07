//! The reconciler of Restores: plan, hold the consumers at zero, write, let them go, report.
//!
//! ```text
//! Pending ─▶ Planning ─▶ Quiescing ─▶ Saving ─▶ Running ─▶ Unquiescing ─▶ Succeeded │ PartiallyFailed │ Failed
//!     │          │ dryRun: Planned        │ not saved: nothing is written ▲
//!     │          │                        └── contested, late ────────────┘
//!     └──────────┴── does not fit: Failed, nothing was touched
//! ```
//! The Snapshot is chosen once, in the first look that can ([`source`]); claims that are to be made are made when
//! nobody can use them any more, right before the first Job that writes ([`claims`]). What is overwritten is saved before that ([`undo`]).
//!
//! Every look derives anew what has to be done: who uses the claims from pods and workloads, what is held from the
//! records on the workloads, how far the writing is from the Jobs. What a Restore holds is let go on every path:
//! at the end, on deletion (a finalizer waits for it), and for Restores that are gone by [`quiesce::sweep`].

pub mod apply;
pub mod build;
mod claims;
pub mod dereference;
mod made;
mod readers;
mod save;
mod source;
mod start;
pub mod status;
mod undo;
pub mod validate;
mod wait;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use holdfast_api::names::FINALIZER_CLEANUP;
use holdfast_api::restore::Restore;
use holdfast_api::{BackupStorage, PodConfig, Repository};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::ListParams;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};

use crate::context::Ctx;
use crate::controllers::{self, Wakes};
use crate::jobs::RunKind;
use crate::quiesce::{self, PodWatch};

/// Pause after the start before the first sweep, so that the reconciler has taken up what is its own.
const FIRST_SWEEP: Duration = Duration::from_secs(5);

/// Looks after all Restores until the operator stops.
pub async fn run(ctx: Arc<Ctx>) {
    let (pods, woken) = PodWatch::<Restore>::new();
    let pods = Arc::new(pods);
    let controller = controllers::controller::<Restore>(&ctx, RunKind::Restore);
    let (of_repository, of_restore, of_claim) = (controller.store(), controller.store(), controller.store());
    let (of_storage, of_config) = (controller.store(), controller.store());
    let client = &ctx.client;
    let controller = controller
        .wakes_on(
            &ctx.metrics,
            Api::<Repository>::all(client.clone()),
            watcher::Config::default(),
            move |repository| {
                waiting_restores(&of_repository, repository.metadata.namespace.as_deref(), None)
            },
        )
        .wakes_on(
            &ctx.metrics,
            Api::<PersistentVolumeClaim>::all(client.clone()),
            watcher::Config::default(),
            move |claim| waiting_restores(&of_claim, claim.metadata.namespace.as_deref(), None),
        )
        .wakes_on(
            &ctx.metrics,
            Api::<PodConfig>::all(client.clone()),
            watcher::Config::default(),
            move |config| waiting_restores(&of_config, config.metadata.namespace.as_deref(), None),
        )
        .wakes_on(
            &ctx.metrics,
            Api::<BackupStorage>::all(client.clone()),
            watcher::Config::default(),
            move |storage| waiting_for_storage(&of_storage, &storage),
        )
        .wakes_on(
            &ctx.metrics,
            Api::<Restore>::all(client.clone()),
            watcher::Config::default(),
            move |restore| {
                waiting_restores(
                    &of_restore,
                    restore.metadata.namespace.as_deref(),
                    restore.metadata.uid.as_deref(),
                )
            },
        )
        .reconcile_on(woken)
        .reconcile_on(ctx.queue.words(RunKind::Restore).map(|run| controllers::reference(&run)));
    let reconcile = move |restore: Arc<Restore>, ctx: Arc<Ctx>| {
        let pods = Arc::clone(&pods);
        async move { apply::reconcile(&restore, &ctx, &pods).await }
    };
    tokio::join!(controllers::run(controller, Arc::clone(&ctx), reconcile), sweep(&ctx));
}

/// The Restores of a namespace that wait for something before they begin.
fn waiting_restores(
    store: &Store<Restore>,
    namespace: Option<&str>,
    but: Option<&str>,
) -> Vec<ObjectRef<Restore>> {
    let waits = |restore: &Restore| {
        restore.metadata.namespace.as_deref() == namespace
            && restore.metadata.uid.as_deref() != but
            && restore.status.as_ref().is_none_or(|status| status.start_time.is_none())
    };
    store.state_filter(waits).iter().map(|restore| ObjectRef::from_obj(&**restore)).collect()
}

/// The Restores that wait until a storage can be used.
fn waiting_for_storage(store: &Store<Restore>, storage: &BackupStorage) -> Vec<ObjectRef<Restore>> {
    let waits = |restore: &Restore| {
        restore.status.as_ref().is_none_or(|status| status.start_time.is_none())
            && names_storage(restore, storage)
    };
    store.state_filter(waits).iter().map(|restore| ObjectRef::from_obj(&**restore)).collect()
}

fn names_storage(restore: &Restore, storage: &BackupStorage) -> bool {
    let own = restore.namespace().unwrap_or_default();
    restore.spec.from.repository.as_ref().is_some_and(|from| {
        from.storage_ref.name == storage.name_any()
            && Some(from.storage_ref.namespace_or(&own)) == storage.namespace().as_deref()
    })
}

/// Lets go of workloads that only Restores hold which are not there any more: somebody removed their finalizer, or
/// the custom resources.
async fn sweep(ctx: &Ctx) {
    let mut pause = FIRST_SWEEP;
    loop {
        tokio::select! {
            () = ctx.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = match sweep_once(&ctx.client).await {
            Ok(()) => ctx.settings.sweep_period,
            Err(error) => {
                tracing::warn!(
                    error = &*error as &dyn std::error::Error,
                    "workloads held by runs that are gone could not be looked for; it is tried again"
                );
                Duration::from_mins(1).min(ctx.settings.sweep_period)
            }
        };
    }
}

async fn sweep_once(client: &Client) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // Records first, runs second: a run that begins in between is then known.
    let recorded = quiesce::recorded(client).await?;
    if recorded.is_empty() {
        return Ok(());
    }
    let restores = Api::<Restore>::all(client.clone()).list(&ListParams::default()).await?;
    let alive: BTreeSet<String> =
        restores.items.iter().filter(|restore| may_hold(restore)).filter_map(ResourceExt::uid).collect();
    let report = quiesce::sweep(client, &recorded, |run| alive.contains(run)).await;
    if report != quiesce::ReleaseReport::default() {
        tracing::info!(?report, "let go of workloads that runs held which are gone");
    }
    if !report.refused.is_empty() {
        return Err(format!("not scaled back: {}", report.refusals()).into());
    }
    Ok(())
}

/// Whether a Restore may still hold workloads: its finalizer goes when it has let go of all.
fn may_hold(restore: &Restore) -> bool {
    let over = restore
        .status
        .as_ref()
        .and_then(|status| status.phase)
        .is_some_and(|phase| phase.is_terminal(restore.spec.dry_run));
    !over || restore.finalizers().iter().any(|finalizer| finalizer == FINALIZER_CLEANUP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_wakes_the_restores_that_name_it() {
        let restore = |reference: &str| -> Restore {
            serde_saphyr::from_str(&format!(
                "{{metadata: {{name: r, namespace: shop}}, spec: {{from: {{repository: {{storageRef: {reference}}}}}}}}}"
            ))
            .unwrap()
        };
        let storage: BackupStorage =
            serde_saphyr::from_str("{metadata: {name: offsite, namespace: shop}, spec: {backend: {}}}")
                .unwrap();
        assert!(names_storage(&restore("{name: offsite}"), &storage));
        assert!(!names_storage(&restore("{name: offsite, namespace: backup}"), &storage));
        assert!(!names_storage(&restore("{name: other}"), &storage));
    }
}
