//! Work under the repository's lock: taken before, released after on every path, and the verdict says whether.

use std::future::Future;
use std::time::Duration;

use holdfast_engine::error::{Error, ErrorKind};
use holdfast_engine::event::Ctx;
use holdfast_engine::lock::{Holder, LockGuard, LockMode, Locking, Unlock};
use holdfast_engine::repository::Repository;
use holdfast_protocol::{RunSpec, Verdict, files};

use crate::failure::Failure;
use crate::stop::Stop;

/// How long a run waits for another one's lock before it fails and leaves the waiting to the Job's next attempt.
const WAIT: Duration = Duration::from_mins(15);
/// How long the release may take: it has to fit between SIGTERM and SIGKILL.
const RELEASE: Duration = Duration::from_secs(9);

/// Who the lock says holds it. The Job's uid is what lets the operator, and a later pod of the same Job, remove
/// the lock of a runner that was killed.
pub(crate) fn holder(spec: &RunSpec) -> Holder {
    let job_uid = std::env::var(files::JOB_UID_VARIABLE).ok().filter(|uid| !uid.is_empty());
    let name = job_uid.as_deref().unwrap_or(&spec.run.uid);
    Holder {
        hostname: hostname(name),
        username: "holdfast".to_owned(),
        pid: std::process::id(),
        cluster: Some(spec.run.cluster.clone()),
        job_uid,
    }
}

/// The host name in locks and keys. Pods share pid 1, and restic takes a lock of its own host for stale when no
/// process has the pid, so every Job is a host of its own.
pub(crate) fn hostname(job_uid: &str) -> String {
    format!("holdfast-{job_uid}")
}

/// Who takes the lock of this run, and how long it waits.
pub(crate) fn locking(spec: &RunSpec) -> Locking {
    Locking { holder: holder(spec), wait: WAIT, dead_holders: spec.dead_jobs.clone() }
}

/// Does `work` under a shared lock.
pub(crate) async fn shared(
    repository: &Repository,
    spec: &RunSpec,
    ctx: &Ctx,
    work: impl AsyncFnOnce(&LockGuard) -> Result<Verdict, Failure>,
) -> Result<Verdict, Failure> {
    let Locking { holder, wait, dead_holders } = locking(spec);
    let taking = repository.lock(LockMode::Shared, &holder, wait, &dead_holders, ctx);
    let guard = take(repository, &holder, ctx, taking).await?;
    let result = work(&guard).await;
    give_back(repository, &holder, guard, result).await
}

/// Takes a lock, of which a failure says whether it may have stayed behind.
pub(crate) async fn take<T>(
    repository: &Repository,
    holder: &Holder,
    ctx: &Ctx,
    taking: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failure> {
    match Stop::bound(&ctx.cancel, taking).await {
        Ok(taken) => Ok(taken),
        Err(e) => {
            // The lock file may have been written before the wait was broken off or the store failed.
            let written =
                matches!(e.kind(), ErrorKind::Cancelled | ErrorKind::Unreachable | ErrorKind::Timeout);
            let mut failure = Failure::from(e);
            failure.lock_released = !written || remove_ours(repository, holder).await;
            Err(failure)
        }
    }
}

/// Releases the lock after the work; its result says whether that was so.
pub(crate) async fn give_back(
    repository: &Repository,
    holder: &Holder,
    guard: LockGuard,
    mut result: Result<Verdict, Failure>,
) -> Result<Verdict, Failure> {
    if guard.lost() && matches!(&result, Err(failure) if failure.reason == "Stopped") {
        result = Err(Failure::from(Error::new(
            ErrorKind::LockLost,
            "the repository's lock was removed or could not be refreshed while the run was at work; it stopped before the commit",
        )));
    }
    let released = match tokio::time::timeout(RELEASE, guard.release()).await {
        Ok(Ok(())) => true,
        Ok(Err(e)) => {
            tracing::warn!("release the lock: {}", e.chain());
            remove_ours(repository, holder).await
        }
        Err(_) => {
            tracing::warn!("release the lock: no answer within {RELEASE:?}");
            false
        }
    };
    match &mut result {
        Ok(verdict) => verdict.lock_released = released,
        Err(failure) => failure.lock_released = released,
    }
    result
}

/// Makes sure by another look that no lock of this Job is left; false when that cannot be said.
async fn remove_ours(repository: &Repository, holder: &Holder) -> bool {
    let Some(job_uid) = &holder.job_uid else { return false };
    let removal = repository.unlock(Unlock::Jobs(vec![job_uid.clone()]));
    match tokio::time::timeout(RELEASE, removal).await {
        Ok(Ok(_)) => true,
        Ok(Err(e)) => {
            tracing::warn!("look for a lock of this Job: {}", e.chain());
            false
        }
        Err(_) => false,
    }
}
