//! Carrying out what a repository needs next. The only writer.

use std::time::Duration;

use holdfast_api::Repository;
use holdfast_api::conditions::Reason;
use holdfast_api::repository::RepositoryPhase;
use kube::runtime::controller::Action;

use super::dereference::Facts;
use super::status::{self, Synced};
use super::validate::{Plan, Step};
use super::{RepositoryError, build};
use crate::context::Ctx;
use crate::jobs::{self, JobTask, Started};
use crate::kubernetes;
use crate::snapshot;

/// When a pod that waits is asked about again: Events that say why are not watched.
const WAIT_PAUSE: Duration = Duration::from_secs(15);
/// When the next step of several is taken.
const AT_ONCE: Duration = Duration::from_millis(10);
/// When something that we wrote ourselves is looked at again, should no watch tell.
const SOON: Duration = Duration::from_secs(1);

pub(super) async fn apply(
    ctx: &Ctx,
    repository: &Repository,
    facts: &Facts,
    mut plan: Plan,
) -> Result<Action, RepositoryError> {
    match &plan.step {
        Step::MakePassword { place } => make_password(ctx, facts, &plan, place).await?,
        Step::Open { job, must_exist } => {
            let task = build::initialize(facts, &ctx.cluster_uid, *must_exist);
            if let Some(refusal) = start(ctx, facts, &plan, JobTask::Init, job, task).await? {
                plan.step = refusal;
            }
        }
        Step::Sync { job } => {
            if let Some(refusal) =
                start(ctx, facts, &plan, JobTask::Sync, job, holdfast_protocol::Task::Sync).await?
            {
                plan.step = refusal;
            }
        }
        Step::Opening { waiting: Some(waiting) } => {
            let long = waiting
                .since
                .is_some_and(|since| facts.now.duration_since(since) >= jiff::SignedDuration::from_secs(10));
            let view = facts.jobs.iter().find(|view| view.task() == Some(JobTask::Init.as_str()));
            if let (true, Some(view)) = (long, view) {
                let waiting = jobs::apply::explain_waiting(&ctx.client, view, waiting.clone()).await?;
                plan.step = Step::Opening { waiting: Some(waiting) };
            }
        }
        _ => {}
    }
    let synced = mirror(ctx, facts, &plan).await?;
    let outcomes = status::status(facts, &plan, synced.as_ref());
    if repository.status.as_ref() != Some(&outcomes.status) {
        kubernetes::apply_status(&ctx.client, repository, &outcomes.status).await?;
    }
    for news in outcomes.news {
        if news.good {
            ctx.events.normal(repository, news.reason, news.message).await;
        } else {
            ctx.events.warning(repository, news.reason, news.message).await;
        }
    }
    let whole = synced.as_ref().is_some_and(|synced| synced.refused.is_empty());
    clean_up(ctx, facts, &plan, outcomes.status.phase, whole).await?;
    Ok(next(facts, &plan.step))
}

/// Makes the password, never over one that is there: of two makers the first one wins, and the other takes its.
async fn make_password(
    ctx: &Ctx,
    facts: &Facts,
    plan: &Plan,
    place: &holdfast_api::refs::NamespacedRef,
) -> Result<(), RepositoryError> {
    let Some(storage) = &facts.storage else { return Ok(()) };
    let password = build::password().map_err(RepositoryError::Random)?;
    let secret = build::password_secret(&facts.repository, storage, &plan.directory, place, password);
    kubernetes::create(&ctx.client, &secret).await?;
    Ok(())
}

/// Starts a Job; a refusal when its pod is not admitted.
async fn start(
    ctx: &Ctx,
    facts: &Facts,
    plan: &Plan,
    task: JobTask,
    job: &str,
    what: holdfast_protocol::Task,
) -> Result<Option<Step>, RepositoryError> {
    let (Some(Ok(access)), Some(Ok(password))) = (&facts.access, &facts.password) else { return Ok(None) };
    let Some(owner) = jobs::owner_reference(&access.storage) else { return Ok(None) };
    let job_plan = build::plan(facts, access, owner, task, job);
    let spec = build::spec(facts, access, &plan.directory, &ctx.cluster_uid, what);
    let mut credentials = access.credentials.clone().with_password(password.clone());
    if task != JobTask::Init {
        credentials = credentials.without_recovery_password();
    }
    match jobs::start(ctx, &job_plan, &spec, &credentials).await? {
        Started::Job(_) | Started::BeingDeleted => Ok(None),
        Started::Denied(denial) => Ok(Some(Step::Refuse {
            phase: RepositoryPhase::Pending,
            reason: denial.reason,
            message: denial.message,
        })),
    }
}

/// Brings the Snapshot objects in line with what a sync has found.
async fn mirror(ctx: &Ctx, facts: &Facts, plan: &Plan) -> Result<Option<Synced>, RepositoryError> {
    let (Step::JudgeSync { listed, .. }, Some(Ok(rows))) = (&plan.step, &facts.rows) else { return Ok(None) };
    let listing = snapshot::points(&snapshot::without(rows, &facts.discarded));
    let (foreign, unreadable) = (listing.foreign, listing.unreadable);
    let running = facts.running.iter().cloned().collect();
    let changes = snapshot::changes(
        &facts.repository,
        listing.points,
        facts.snapshots.clone(),
        &running,
        &listing.damaged,
        *listed,
    );
    let all = snapshot::mirror(&ctx.client, &facts.repository, &changes).await?;
    Ok(Some(Synced {
        foreign,
        unreadable,
        damaged: listing.damaged,
        total: all.total,
        refused: all.refused,
        last_complete: changes.last_complete,
    }))
}

/// Jobs go only after what they said is written down.
async fn clean_up(
    ctx: &Ctx,
    facts: &Facts,
    plan: &Plan,
    phase: Option<RepositoryPhase>,
    synced: bool,
) -> Result<(), RepositoryError> {
    let done = match &plan.step {
        Step::JudgeOpen { inputs, .. } => {
            let success = phase == Some(RepositoryPhase::Ready);
            ctx.attempts.ended(&facts.run.uid, JobTask::Init.as_str(), inputs, success, facts.now);
            Some(JobTask::Init)
        }
        Step::JudgeSync { inputs, .. } => {
            ctx.attempts.ended(&facts.run.uid, JobTask::Sync.as_str(), inputs, synced, facts.now);
            Some(JobTask::Sync)
        }
        _ => None,
    };
    for view in &facts.jobs {
        let stale = plan.stale.iter().any(|name| name == view.name());
        if stale || done.is_some_and(|task| view.task() == Some(task.as_str())) {
            jobs::remove(&ctx.client, view).await?;
        }
    }
    Ok(())
}

fn next(facts: &Facts, step: &Step) -> Action {
    match step {
        Step::Nothing => Action::await_change(),
        // Storage, Secrets and Repositories are watched; what admits a pod, and who hands out keys, is not.
        Step::Refuse {
            reason:
                Reason::PodSecurityDenied
                | Reason::Failed
                | Reason::DirectoryInUse
                | Reason::AccessDenied
                | Reason::AssumeRoleFailed
                | Reason::ClockSkew
                | Reason::EndpointUnreachable
                | Reason::InvalidCredentials
                | Reason::ServiceAccountInvalid
                | Reason::ServiceAccountNotFound
                | Reason::UntrustedCertificate
                | Reason::WebIdentityNotAllowed,
            ..
        } => Action::requeue(Duration::from_mins(1)),
        Step::Refuse { .. } => Action::requeue(Duration::from_mins(10)),
        // The way to a new repository is short: each step is taken as soon as the one before is written down.
        Step::SetDirectory | Step::MakePassword { .. } | Step::JudgeOpen { .. } => Action::requeue(AT_ONCE),
        Step::JudgeSync { .. } => Action::requeue(SOON),
        Step::Opening { waiting: Some(_) } => Action::requeue(WAIT_PAUSE),
        Step::Open { .. } | Step::Opening { .. } | Step::Sync { .. } | Step::Syncing => {
            Action::requeue(Duration::from_mins(10))
        }
        Step::Rest { until } => {
            let rest = Duration::try_from(until.duration_since(facts.now)).unwrap_or_default();
            Action::requeue(rest.max(SOON))
        }
    }
}
