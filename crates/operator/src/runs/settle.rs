//! The end of a run: its runners have stopped, their locks are gone, and nothing of it is left in the cluster.

use holdfast_api::Repository;
use holdfast_protocol::Outcome;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::RunError;
use super::lost::{Wait, leave_behind, waits_for};
use super::stop::{Stopped, stop};
use crate::context::Ctx;
use crate::jobs::apply::{orphaned_pods, remove_secrets};
use crate::jobs::unlock::{Remains, Unlock, clean_up, unlock};
use crate::jobs::{ANNOTATION_DEAD_JOBS, JobState, JobTask, JobView, RunRef, observe, remove};

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
) -> Result<(Vec<JobView>, Option<Wait>), RunError> {
    let client = &ctx.client;
    let all = observe(client, namespace, run).await?;
    // A storage in this namespace has the run's unlock Jobs here, too: they are no runners of the run.
    let mut views: Vec<JobView> =
        all.into_iter().filter(|view| view.task() != Some(JobTask::Unlock.as_str())).collect();
    let mut orphans = orphaned_pods(client, namespace, run).await?;
    leave_behind(client, run, &mut views, &mut orphans, ctx.now()).await?;
    let mut left: Vec<&Pod> = orphans.iter().collect();
    for view in &views {
        // A runner whose container has ended is over, also while its pod is still being tidied up.
        if !matches!(view.state, JobState::Ended(_)) {
            stop(client, view, why).await?;
            left.extend(&view.pods);
        }
    }
    let waits = waits_for(client, left, ctx.now()).await?;
    Ok((views, waits))
}

/// Ends what is left of a run, however it ended, and removes the `worthless` snapshots (ids) that it made. To be called until
/// it is done; each call can be the first one after a crash.
pub async fn settle(
    ctx: &Ctx,
    namespace: &str,
    run: &RunRef,
    repository: Option<&Repository>,
    worthless: &[String],
) -> Result<Settled, RunError> {
    let client = &ctx.client;
    let (views, waits) = stop_all(ctx, namespace, run, &Stopped::with_run()).await?;
    if let Some(Wait { message, .. }) = waits {
        return Ok(Settled::NotYet { message });
    }
    let dead = locks_left(&views);
    let remains = Remains { dead_jobs: &dead, snapshots: worthless };
    let mut warning = None;
    if let (false, Some(repository)) = (remains.is_empty(), repository) {
        match unlock(ctx, run, repository, remains).await? {
            Unlock::AtWork => {
                let what = if dead.is_empty() {
                    "removes a snapshot that is worth nothing"
                } else {
                    "removes the lock of a runner that was stopped or killed"
                };
                let message = what.to_owned();
                return Ok(Settled::NotYet { message });
            }
            Unlock::Done => {}
            Unlock::Failed { message } => warning = Some(message),
        }
        clean_up(ctx, run, repository, remains).await?;
    }
    if let (false, None) = (remains.is_empty(), repository) {
        warning = Some(
            "the Repository object is gone, so what the run left in the repository may still be there; the lock of a runner \
             that was stopped goes with the next run that uses it, when it is stale"
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

/// Uids of the Jobs that may have left a lock which nobody removed yet.
pub fn locks_left(views: &[JobView]) -> Vec<String> {
    let left = |view: &&JobView| {
        lock_may_remain(view) && !views.iter().any(|later| removed_lock_of(later, view.uid()))
    };
    views.iter().filter(left).map(|view| view.uid().to_owned()).collect()
}

/// Whether a Job removed the lock of an earlier one that it was told of. Only one that did its work surely came so far.
fn removed_lock_of(later: &JobView, uid: &str) -> bool {
    let told = later.job.annotations().get(ANNOTATION_DEAD_JOBS);
    let told = told.is_some_and(|uids| uids.split(',').any(|known| known == uid));
    let done = match &later.state {
        JobState::Ended(ended) => ended.verdict().is_some_and(|verdict| verdict.outcome != Outcome::Failed),
        JobState::Running(_) | JobState::Waiting(_) => false,
    };
    told && done
}

/// Whether a Job without a live pod may have left a lock. A Job that never had a pod has none; of one that was
/// stopped nobody knows how far it was, since its pods went with what they said.
pub fn lock_may_remain(view: &JobView) -> bool {
    match &view.state {
        JobState::Ended(ended) => ended.lock_may_remain,
        JobState::Waiting(_) | JobState::Running(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_protocol::Verdict;
    use k8s_openapi::api::batch::v1::Job;
    use k8s_openapi::api::core::v1::Pod;

    /// A Job that was told of dead ones, whose only pod ended with this code and verdict.
    fn view(number: u32, told: &str, code: i32, verdict: Option<&Verdict>) -> JobView {
        let job: Job = serde_saphyr::from_str(&format!(
            r"
metadata: {{name: j{number}, uid: uid-{number}, annotations: {{holdfast.dev/dead-jobs: '{told}'}}}}
spec: {{backoffLimit: 0, template: {{}}}}
"
        ))
        .unwrap();
        let mut pod: Pod = serde_saphyr::from_str(&format!(
            r"
metadata: {{name: p}}
status:
  phase: Failed
  containerStatuses:
    - {{name: runner, ready: false, restartCount: 0, image: i, imageID: i, state: {{terminated: {{exitCode: {code}, startedAt: '2026-11-20T02:00:00Z'}}}}}}
"
        ))
        .unwrap();
        let statuses = pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap();
        let terminated = statuses[0].state.as_mut().unwrap().terminated.as_mut().unwrap();
        terminated.message = verdict.map(Verdict::to_termination_message);
        let pods = vec![pod];
        JobView { state: crate::jobs::outcome::state(&job, &pods), job, pods }
    }

    #[test]
    fn the_lock_of_a_killed_runner_is_gone_when_the_next_one_was_told_of_it_and_did_its_work() {
        let mut good = Verdict::failed("x", "y", false);
        good.outcome = Outcome::Succeeded;
        let failed = Verdict::failed("x", "y", false);
        let killed = || view(1, "", 137, None);
        assert_eq!(locks_left(&[killed()]), ["uid-1"]);
        assert_eq!(locks_left(&[killed(), view(2, "uid-0,uid-1", 0, Some(&good))]), Vec::<String>::new());
        assert_eq!(locks_left(&[killed(), view(2, "", 0, Some(&good))]), ["uid-1"], "it knew nothing of it");
        let never = view(2, "uid-1", 1, Some(&failed));
        assert_eq!(locks_left(&[killed(), never]), ["uid-1"], "it may not have come so far");
    }
}
