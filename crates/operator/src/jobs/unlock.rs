//! Removing what a run left in the repository: a Job in the storage's namespace that names the dead Jobs, whose locks go, and
//! the snapshots that are worth nothing. Whether a Job is dead is decided by who calls this: none of its pods may be at work
//! any more.

use std::time::Duration;

use holdfast_api::Repository;
use holdfast_api::names;
use holdfast_protocol::Task;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::denial::Denial;
use super::{Ended, Identity, JobError, JobPlan, JobState, JobTask, Placement, RunRef, Started};
use super::{apply, outcome, owner_reference};
use crate::access::{AccessError, RepositoryAccess};
use crate::context::{Attempt, Attempts, Ctx};
use crate::errors::Chain;
use crate::kubernetes;

/// An unlock is quick; what takes longer has lost its store.
const DEADLINE: Duration = Duration::from_mins(5);
/// How often it is looked whether a Job can be started that was denied for now, and how long one look stands for: ten
/// minutes together, since the end of the run waits for it.
const TRIES: u32 = 20;
const BETWEEN: SignedDuration = SignedDuration::from_secs(25);

/// Where an unlock is.
#[derive(Debug, Clone, PartialEq)]
pub enum Unlock {
    /// At work: a watch on the Jobs of the run's kind tells when it is over. Or its Job cannot be started for now, which no
    /// watch tells the end of: look again.
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

/// What a run left in its repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remains<'a> {
    /// Uids of Jobs that may have left a lock.
    pub dead_jobs: &'a [String],
    /// Ids of snapshots that are worth nothing.
    pub snapshots: &'a [String],
}

impl Remains<'_> {
    /// Whether there is nothing to do.
    pub const fn is_empty(&self) -> bool {
        self.dead_jobs.is_empty() && self.snapshots.is_empty()
    }
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

/// Sees to it that what a run left goes. Call it again until it is over, and then [`clean_up`].
pub async fn unlock(
    ctx: &Ctx,
    run: &RunRef,
    repository: &Repository,
    remains: Remains<'_>,
) -> Result<Unlock, UnlockError> {
    let access = match RepositoryAccess::read(&ctx.client, repository).await {
        Ok(access) => access,
        Err(AccessError::Request(error)) => return Err(AccessError::Request(error).into()),
        Err(error) => {
            tracing::warn!(
                error = %Chain(&error),
                run = run.name,
                "locks and snapshots cannot be removed"
            );
            return Ok(impossible(&Chain(&error)));
        }
    };
    let Some(owner) = owner_reference(&access.storage) else {
        return Ok(impossible(&"the storage has no uid"));
    };
    let namespace = access.storage.namespace().unwrap_or_default();
    let plan = JobPlan {
        name: job_name(run, remains),
        namespace: namespace.clone(),
        owner,
        run: run.clone(),
        task: JobTask::Unlock,
        component: None,
        claim: None,
        identity: Identity::Unprivileged,
        placement: Placement::Anywhere,
        follows: false,
        pod_config: None,
        seat: None,
        retries: 2,
        dead_jobs: Vec::new(),
        deadline: DEADLINE,
    };
    let identity = run.identity(&ctx.settings.cluster_name, &ctx.cluster_uid);
    let mut spec = access.spec(identity, Task::Unlock);
    spec.dead_jobs = remains.dead_jobs.to_vec();
    spec.discard = remains.snapshots.to_vec();
    if spec.read_only && !remains.snapshots.is_empty() {
        return Ok(impossible(&"the storage is for restores only"));
    }
    // Rare, and larger than all else here together.
    let started = Box::pin(apply::start(ctx, &plan, &spec, &access.credentials)).await;
    let job = match started.or_else(Started::or_denied) {
        Ok(Started::Job(job)) => job,
        Ok(Started::BeingDeleted) => return Ok(Unlock::AtWork),
        Ok(Started::Denied(denial)) => return Ok(denied(&ctx.attempts, run, remains, &denial, ctx.now())),
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
    remains: Remains<'_>,
) -> Result<(), JobError> {
    let own = repository.namespace().unwrap_or_default();
    let namespace = repository.spec.storage_ref.namespace_or(&own);
    let name = job_name(run, remains);
    kubernetes::delete::<Job>(&ctx.client, namespace, &name, None).await?;
    kubernetes::delete::<k8s_openapi::api::core::v1::Secret>(&ctx.client, namespace, &name, None).await?;
    ctx.attempts.forget(&run.uid);
    Ok(())
}

/// A Job that is denied for now is asked for again, up to an end.
fn denied(
    attempts: &Attempts,
    run: &RunRef,
    remains: Remains<'_>,
    denial: &Denial,
    now: Timestamp,
) -> Unlock {
    if !denial.may_pass {
        return impossible(&denial.message);
    }
    let (task, inputs) = (JobTask::Unlock.as_str(), job_name(run, remains));
    // Each change of anything around looks here, too.
    let is_due = |last: Attempt| last.inputs != inputs || now.duration_since(last.at) >= BETWEEN;
    if attempts.last(&run.uid, task).is_none_or(is_due) {
        attempts.ended(&run.uid, task, &inputs, false, now);
    }
    let tries = attempts.last(&run.uid, task).map_or(0, |last| last.failures);
    if tries < TRIES { Unlock::AtWork } else { impossible(&denial.message) }
}

fn job_name(run: &RunRef, remains: Remains<'_>) -> String {
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort_unstable();
        names.join(",")
    };
    let mut inputs = sorted(remains.dead_jobs);
    if !remains.snapshots.is_empty() {
        inputs = format!("{inputs};{}", sorted(remains.snapshots));
    }
    names::task_job_name(JobTask::Unlock, &run.name, &run.uid, &inputs)
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
            "what the run left in the repository may still be there, and no Job can be started to remove it: {why}; the lock of \
             a runner that was stopped goes with the next run, when it is stale"
        ),
    }
}

fn failure(ended: &Ended) -> String {
    format!(
        "what the run left in the repository could not be removed ({}); the lock of a runner that was stopped goes with the next \
         run, when it is stale",
        ended.message().unwrap_or("no reason was given")
    )
}

#[cfg(test)]
mod tests {
    use holdfast_api::conditions::Reason;

    use super::super::RunKind;
    use super::*;

    #[test]
    fn what_denies_an_unlock_for_now_is_waited_for_up_to_an_end() {
        let attempts = Attempts::default();
        let run =
            RunRef { kind: RunKind::Backup, namespace: "shop".into(), name: "b".into(), uid: "u".into() };
        let (dead, other) = (["job".to_owned()], ["other".to_owned()]);
        let remains = |dead_jobs| Remains { dead_jobs, snapshots: &[] };
        let mut denial =
            Denial { reason: Reason::AssumeRoleFailed, message: "no keys".into(), may_pass: true };
        let start = Timestamp::UNIX_EPOCH;
        let at = |seconds| start + SignedDuration::from_secs(seconds);
        let look = |denial: &Denial, seconds| denied(&attempts, &run, remains(&dead), denial, at(seconds));
        // Looks in quick succession are one.
        for _ in 0..100 {
            assert_eq!(look(&denial, 0), Unlock::AtWork);
        }
        let waited = (1..100).find(|n| look(&denial, n * 30) != Unlock::AtWork).unwrap();
        assert_eq!(waited, 19, "looks of 30 s");
        // It stays so, with the warning that tells what is left.
        let Unlock::Failed { message } = look(&denial, 600) else { panic!("it waits on") };
        assert!(message.contains("lock") && message.contains("no keys"), "{message}");
        // Another unlock of the same run begins anew.
        assert_eq!(denied(&attempts, &run, remains(&other), &denial, at(600)), Unlock::AtWork);
        denial.may_pass = false;
        assert!(matches!(look(&denial, 700), Unlock::Failed { .. }));
    }
}
