//! Removing the locks of runners that died: a Job in the storage's namespace that names the dead Jobs. Whether a
//! Job is dead is decided by who calls this: none of its pods may be at work any more.

use std::time::Duration;

use holdfast_api::Repository;
use holdfast_api::names;
use holdfast_protocol::Task;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{Ended, Identity, JobError, JobPlan, JobState, JobTask, Placement, RunRef, Started};
use super::{apply, outcome, owner_reference};
use crate::access::{AccessError, RepositoryAccess};
use crate::context::Ctx;
use crate::errors::Chain;
use crate::kubernetes;

/// An unlock is quick; what takes longer has lost its store.
const DEADLINE: Duration = Duration::from_mins(5);

/// Where an unlock is.
#[derive(Debug, Clone, PartialEq)]
pub enum Unlock {
    /// At work: a watch on the Jobs of the run's kind tells when it is over.
    AtWork,
    /// The locks are gone.
    Done,
    /// It failed, or cannot be started, and the locks may still be there. A later run takes them away when they have
    /// become stale.
    Failed {
        /// Cause and what to do.
        message: String,
    },
}

/// Why an unlock could not be looked after.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// The repository cannot be reached as it is described.
    #[error("the repository whose locks are to be removed cannot be reached")]
    Access(#[from] AccessError),
    /// The Job cannot be started or watched.
    #[error("the Job that removes locks cannot be looked after")]
    Job(#[from] JobError),
}

/// Sees to it that the locks of `dead_jobs` (uids of Jobs) go. Call it again until it is over, and then
/// [`clean_up`].
pub async fn unlock(
    ctx: &Ctx,
    run: &RunRef,
    repository: &Repository,
    dead_jobs: &[String],
) -> Result<Unlock, UnlockError> {
    let access = match RepositoryAccess::read(&ctx.client, repository).await {
        Ok(access) => access,
        Err(AccessError::Request(error)) => return Err(AccessError::Request(error).into()),
        Err(error) => {
            tracing::warn!(
                error = %Chain(&error),
                run = run.name,
                "locks cannot be removed"
            );
            return Ok(impossible(&Chain(&error)));
        }
    };
    let Some(owner) = owner_reference(&access.storage) else {
        return Ok(impossible(&"the storage has no uid"));
    };
    let namespace = access.storage.namespace().unwrap_or_default();
    let plan = JobPlan {
        name: job_name(run, dead_jobs),
        namespace: namespace.clone(),
        owner,
        run: run.clone(),
        task: JobTask::Unlock,
        component: None,
        claim: None,
        identity: Identity::Unprivileged,
        placement: Placement::Anywhere,
        pod_config: None,
        seat: None,
        retries: 2,
        dead_jobs: Vec::new(),
        deadline: DEADLINE,
    };
    let identity = run.identity(&ctx.settings.cluster_name, &ctx.cluster_uid);
    let mut spec = access.spec(identity, Task::Unlock);
    spec.dead_jobs = dead_jobs.to_vec();
    let job = match apply::start(ctx, &plan, &spec, &access.credentials).await {
        Ok(Started::Job(job)) => job,
        Ok(Started::BeingDeleted) => return Ok(Unlock::AtWork),
        Ok(Started::Denied(denial)) => return Ok(Unlock::Failed { message: denial.message }),
        Err(error) if error.namespace_is_terminating() => {
            return Ok(impossible(&format_args!("the storage's namespace {namespace} is being deleted")));
        }
        Err(error) => return Err(error.into()),
    };
    let pods =
        kubernetes::list::<Pod>(&ctx.client, &namespace, &run.selector()).await.map_err(JobError::from)?;
    Ok(judge(&job, pods))
}

/// Removes the Job of an unlock that is over, and its Secret.
pub async fn clean_up(
    ctx: &Ctx,
    run: &RunRef,
    repository: &Repository,
    dead_jobs: &[String],
) -> Result<(), JobError> {
    let own = repository.namespace().unwrap_or_default();
    let namespace = repository.spec.storage_ref.namespace_or(&own);
    let name = job_name(run, dead_jobs);
    kubernetes::delete::<Job>(&ctx.client, namespace, &name, None).await?;
    kubernetes::delete::<k8s_openapi::api::core::v1::Secret>(&ctx.client, namespace, &name, None).await?;
    Ok(())
}

fn job_name(run: &RunRef, dead_jobs: &[String]) -> String {
    let mut sorted = dead_jobs.to_vec();
    sorted.sort_unstable();
    names::task_job_name(JobTask::Unlock, &run.name, &run.uid, &sorted.join(","))
}

fn judge(job: &Job, pods: Vec<Pod>) -> Unlock {
    let uid = job.uid().unwrap_or_default();
    let own: Vec<Pod> = pods.into_iter().filter(|pod| super::job_uid_of(pod) == Some(uid.as_str())).collect();
    match outcome::state(job, &own) {
        JobState::Waiting(_) | JobState::Running(_) => Unlock::AtWork,
        JobState::Ended(ended) if ended.is_success() => Unlock::Done,
        JobState::Ended(ended) => Unlock::Failed { message: failure(&ended) },
    }
}

/// No Job can be started that removes the locks, and why.
fn impossible(why: &dyn std::fmt::Display) -> Unlock {
    Unlock::Failed {
        message: format!(
            "the lock of a runner that was stopped may be left in the repository, and no Job can be started to remove \
             it: {why}; the next run removes it when it is stale"
        ),
    }
}

fn failure(ended: &Ended) -> String {
    format!(
        "the lock of a runner that was stopped could not be removed ({}); the next run removes it when it is stale",
        ended.message().unwrap_or("no reason was given")
    )
}
