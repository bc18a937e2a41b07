//! The end of a run: its runners have stopped, their locks are gone, and nothing of it is left in the cluster.

use std::collections::BTreeSet;

use holdfast_api::Repository;
use kube::ResourceExt;

use super::RunError;
use super::lost::leave_behind;
use super::stop::{Stopped, stop};
use crate::context::Ctx;
use crate::jobs::apply::{orphaned_pods, remove_secrets};
use crate::jobs::unlock::{Unlock, clean_up, unlock};
use crate::jobs::{JobState, JobTask, JobView, RunRef, observe, remove};
use crate::volumes::consumers::is_over;

/// Where the end of a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// Something is still to go; a watch tells when.
    NotYet {
        /// What it waits for.
        message: String,
    },
    /// Nothing is left.
    Done {
        /// What could not be done, for people: a lock that could not be removed.
        warning: Option<String>,
    },
}

/// Sees to it that no runner of a run is at work. Says what it waits for, if it does.
pub async fn stop_all(
    ctx: &Ctx,
    namespace: &str,
    run: &RunRef,
    why: &Stopped,
) -> Result<(Vec<JobView>, Option<String>), RunError> {
    let client = &ctx.client;
    let all = observe(client, namespace, run).await?;
    // A storage in this namespace has the run's unlock Jobs here, too: they are no runners of the run.
    let mut views: Vec<JobView> =
        all.into_iter().filter(|view| view.task() != Some(JobTask::Unlock.as_str())).collect();
    let mut orphans = orphaned_pods(client, namespace, run).await?;
    leave_behind(client, run, &mut views, &mut orphans, ctx.now()).await?;
    let mut alive = BTreeSet::new();
    for view in &views {
        // A runner whose container has ended is over, also while its pod is still being tidied up.
        if matches!(view.state, JobState::Ended(_)) {
            continue;
        }
        stop(client, view, why).await?;
        if view.has_live_pod() {
            alive.insert(view.name().to_owned());
        }
    }
    alive.extend(orphans.iter().filter(|pod| !is_over(pod)).map(ResourceExt::name_any));
    let waits = (!alive.is_empty()).then(|| {
        let names: Vec<String> = alive.into_iter().take(5).collect();
        format!("waits for runners to stop: {}", names.join(", "))
    });
    Ok((views, waits))
}

/// Ends what is left of a run, however it ended. To be called until it is done; each call can be the first one after
/// a crash.
pub async fn settle(
    ctx: &Ctx,
    namespace: &str,
    run: &RunRef,
    repository: Option<&Repository>,
) -> Result<Settled, RunError> {
    let client = &ctx.client;
    let (views, waits) = stop_all(ctx, namespace, run, &Stopped::with_run()).await?;
    if let Some(message) = waits {
        return Ok(Settled::NotYet { message });
    }
    let dead: Vec<String> =
        views.iter().filter(|view| lock_may_remain(view)).map(|view| view.uid().to_owned()).collect();
    let mut warning = None;
    if let (false, Some(repository)) = (dead.is_empty(), repository) {
        match unlock(ctx, run, repository, &dead).await? {
            Unlock::AtWork => {
                let message = "removes the lock of a runner that was stopped or killed".to_owned();
                return Ok(Settled::NotYet { message });
            }
            Unlock::Done => {}
            Unlock::Failed { message } => warning = Some(message),
        }
        clean_up(ctx, run, repository, &dead).await?;
    }
    if let (false, None) = (dead.is_empty(), repository) {
        warning = Some(
            "the Repository object is gone, so the lock of a runner that was stopped may be left in the repository; the \
             next run that uses it removes the lock when it is stale"
                .to_owned(),
        );
    }
    for view in &views {
        remove(client, view).await?;
    }
    remove_secrets(client, namespace, run).await?;
    ctx.board.forget(run);
    Ok(Settled::Done { warning })
}

/// Whether a Job without a live pod may have left a lock. A Job that never had a pod has none; of one that was
/// stopped nobody knows how far it was, since its pods went with what they said.
pub fn lock_may_remain(view: &JobView) -> bool {
    match &view.state {
        JobState::Ended(ended) => ended.lock_may_remain,
        JobState::Waiting(_) | JobState::Running(_) => true,
    }
}
