//! Carrying out what a storage needs next. The only writer.

use std::time::Duration;

use holdfast_api::BackupStorage;
use holdfast_api::conditions::Reason;
use kube::runtime::controller::Action;

use super::dereference::Facts;
use super::validate::{FIRST_PAUSE, Plan, Step};
use super::{StorageError, build, status};
use crate::context::Ctx;
use crate::jobs::{self, JobTask, Started, WaitReason};
use crate::kubernetes;

/// When a pod that waits is asked about again: Events that say why are not watched.
const WAIT_PAUSE: Duration = Duration::from_secs(15);

pub(super) async fn apply(
    ctx: &Ctx,
    storage: &BackupStorage,
    facts: &Facts,
    plan: Plan,
) -> Result<Action, StorageError> {
    let Plan { mut step, stale } = plan;
    let mut again = None;
    if let Step::Probing { waiting: Some(waiting) } = &mut step
        && waiting
            .since
            .is_some_and(|since| facts.now.duration_since(since) >= jiff::SignedDuration::from_secs(10))
        && let Some(view) = facts.probes.iter().find(|view| !stale.iter().any(|name| name == view.name()))
    {
        *waiting = jobs::apply::explain_waiting(&ctx.client, view, waiting.clone()).await?;
    }
    if let (Step::Probe { job }, Ok(access), Some(owner)) =
        (&step, &facts.access, jobs::owner_reference(storage))
    {
        let plan = build::plan(facts, access, owner, job);
        let spec = build::spec(facts, access, &ctx.settings.cluster_name, &ctx.cluster_uid);
        let credentials = access.credentials.clone().without_recovery_password();
        match jobs::start(ctx, &plan, &spec, &credentials).await {
            Ok(Started::Job(_) | Started::BeingDeleted) => {}
            Ok(Started::Denied(denial)) => {
                if denial.may_pass {
                    // Tried again as after a probe that failed: ever slower.
                    let task = JobTask::Probe.as_str();
                    ctx.attempts.ended(&facts.run.uid, task, &facts.inputs(), false, facts.now);
                    again = ctx
                        .attempts
                        .last(&facts.run.uid, task)
                        .map(|last| last.next(FIRST_PAUSE, facts.period));
                }
                step = Step::Unusable { reason: denial.reason, message: denial.message };
            }
            Err(error) if error.namespace_is_terminating() => return Ok(Action::await_change()),
            Err(error) => return Err(error.into()),
        }
    }
    let outcomes = status::status(facts, &step);
    if facts.storage.status.as_ref() != Some(&outcomes.status) {
        kubernetes::apply_status(&ctx.client, storage, &outcomes.status).await?;
    }
    if let Some((ready, reason, message)) = outcomes.news {
        if ready {
            ctx.events.normal(storage, reason, message).await;
        } else {
            ctx.events.warning(storage, reason, message).await;
        }
    }
    // The Job goes only after what it found is written down.
    let mut done = stale;
    if let Step::Judge { ended, inputs } = &step {
        let task = JobTask::Probe.as_str();
        ctx.attempts.ended(&facts.run.uid, task, inputs, ended.is_success(), facts.now);
        done.extend(facts.probes.iter().map(|view| view.name().to_owned()));
    }
    for view in facts.probes.iter().filter(|view| done.iter().any(|name| name == view.name())) {
        jobs::remove(&ctx.client, view).await?;
    }
    Ok(next(facts, &again.map_or(step, |until| Step::Rest { until })))
}

fn next(facts: &Facts, step: &Step) -> Action {
    match step {
        // Secrets are watched; a denial of the pod or a store that comes back is not.
        Step::Unusable { reason: Reason::PodSecurityDenied | Reason::Failed, .. } => {
            Action::requeue(facts.period)
        }
        Step::Unusable { .. } => Action::await_change(),
        Step::Probing { waiting: Some(waiting) } if waiting.reason != WaitReason::Retrying => {
            Action::requeue(WAIT_PAUSE)
        }
        Step::Probe { .. } | Step::Probing { .. } => Action::requeue(facts.stuck_after),
        // The object's own change wakes us, but not when nothing in it changed.
        Step::Judge { .. } => Action::requeue(Duration::from_secs(1)),
        Step::Rest { until } => {
            let rest = Duration::try_from(until.duration_since(facts.now)).unwrap_or_default();
            Action::requeue(rest.max(Duration::from_secs(1)))
        }
    }
}
