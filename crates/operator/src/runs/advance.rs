//! One look at one component of a run: starts its Job, follows it, stops it when it is stuck, and hands over the
//! end. What the end means is the reconciler's.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_api::backup::{BackupComponent, ComponentPhase, Progress};
use holdfast_api::names;
use holdfast_api::restore::RestoreComponent;
use holdfast_api::{MAX_LOG_LINES, Reason};
use holdfast_protocol::{Outcome, RunSpec};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::retry::Turn;
use super::settle::lock_may_remain;
use super::stop::{Stopped, abandoned, stop};
use super::{LookAgain, lost, retry, time_left};
use crate::access::Credentials;
use crate::backup::status::loss_reason;
use crate::context::Ctx;
use crate::errors::Chain;
use crate::events::shorten;
use crate::jobs::apply::{explain_waiting, remove_read_secret};
use crate::jobs::follow::Silence;
use crate::jobs::{
    self, End, Ended, JobError, JobPlan, JobState, JobView, Loss, RunRef, Running, Started, WaitReason,
    Waiting, logs,
};
use crate::queue::{Answer, Asker, Demand};

/// How often a component that waits for a place tells anew where in line it is; its turn is told by the queue.
const QUEUE_LOOK: Duration = Duration::from_mins(1);
/// A wait longer than this is explained with what Kubernetes' Events say.
const EXPLAIN_AFTER: Duration = Duration::from_secs(15);
/// Most bytes of what an attempt failed for, or could not be started for, that are told while the next one is awaited.
const MESSAGE_LIMIT: usize = 600;

/// The fields that components of Backups and Restores share.
pub struct Common<'a> {
    /// Name of the component.
    pub name: &'a str,
    /// In one word.
    pub phase: &'a mut ComponentPhase,
    /// The node its Job runs on.
    pub node: &'a mut Option<String>,
    /// Its Job.
    pub job: &'a mut Option<String>,
    /// How often it was tried.
    pub attempts: &'a mut Option<u32>,
    /// When it is tried again.
    pub next_attempt_time: &'a mut Option<Time>,
    /// When its Job began.
    pub start_time: &'a mut Option<Time>,
    /// When its Job ended.
    pub completion_time: &'a mut Option<Time>,
    /// Why it is in its phase.
    pub reason: &'a mut Option<String>,
    /// Why, and what to do.
    pub message: &'a mut Option<String>,
    /// The last lines of its log.
    pub log_tail: &'a mut Vec<String>,
    /// How far it is.
    pub progress: &'a mut Option<Progress>,
}

/// A component of any kind of run.
pub trait Fields {
    /// The fields that all have.
    fn common(&mut self) -> Common<'_>;
}

macro_rules! fields {
    ($kind:ty) => {
        impl Fields for $kind {
            fn common(&mut self) -> Common<'_> {
                Common {
                    name: &self.name,
                    phase: &mut self.phase,
                    node: &mut self.node,
                    job: &mut self.job,
                    attempts: &mut self.attempts,
                    next_attempt_time: &mut self.next_attempt_time,
                    start_time: &mut self.start_time,
                    completion_time: &mut self.completion_time,
                    reason: &mut self.reason,
                    message: &mut self.message,
                    log_tail: &mut self.log_tail,
                    progress: &mut self.progress,
                }
            }
        }
    };
}

fields!(BackupComponent);
fields!(RestoreComponent);

impl Common<'_> {
    /// The component has failed.
    pub fn fail(&mut self, reason: impl Into<String>, message: impl Into<String>, now: Timestamp) {
        *self.phase = ComponentPhase::Failed;
        *self.reason = Some(reason.into());
        *self.message = Some(message.into());
        *self.progress = None;
        *self.next_attempt_time = None;
        self.completion_time.get_or_insert(Time(now));
    }

    /// It has no Job at work, for this reason.
    pub fn wait(&mut self, reason: &str, message: impl Into<String>) {
        *self.phase = ComponentPhase::Pending;
        *self.reason = Some(reason.to_owned());
        *self.message = Some(message.into());
        *self.progress = None;
        *self.next_attempt_time = None;
    }
}

/// What to tell of an attempt that failed since the component was last looked at. `before` is when it was to be tried
/// again by then.
pub fn retry_news(before: Option<&Time>, component: &Common<'_>) -> Option<String> {
    let is_news = component.next_attempt_time.is_some() && component.next_attempt_time.as_ref() != before;
    let message = component.message.as_deref().filter(|_| is_news)?;
    Some(format!("{}: {message}", component.name))
}

/// What to tell of a component that cannot be started since it was last looked at: its Job is refused, there are no keys
/// for it. `before` is its reason by then: how full a quota is changes all the time, which is no news.
pub fn refusal_news(before: Option<&str>, component: &Common<'_>) -> Option<(Reason, String)> {
    const OF_EACH_RUN: [Reason; 3] = [Reason::Queued, Reason::Retrying, Reason::Unschedulable];
    let said = component.reason.as_deref().filter(|said| Some(*said) != before)?;
    let reason = Reason::ALL.iter().copied().find(|reason| reason.as_str() == said)?;
    let is_refused = *component.phase == ComponentPhase::Pending && !OF_EACH_RUN.contains(&reason);
    let message = component.message.as_deref().filter(|_| is_refused)?;
    Some((reason, format!("{}: {message}", component.name)))
}

/// All that one look at a run's Jobs needs.
pub struct Crew<'a> {
    /// The operator.
    pub ctx: &'a Ctx,
    /// The run.
    pub run: &'a RunRef,
    /// The run, as names are made from it.
    pub named: names::Run<'a>,
    /// What its Jobs do.
    pub task: names::Task,
    /// How often a component is tried again.
    pub retries: u32,
    /// When the run began.
    pub started: Timestamp,
    /// How long it may take.
    pub deadline: Duration,
    /// Its Jobs.
    pub views: Vec<JobView>,
    /// Now.
    pub now: Timestamp,
    /// Whether Jobs are started; else those that are there are only followed.
    pub may_start: bool,
    /// Which of them have a place, as the queue says.
    pub answers: BTreeMap<String, Answer>,
    /// When to look again at the latest.
    pub look_again: LookAgain,
}

/// What a Job is started with.
pub struct Order<'a> {
    /// The Job.
    pub plan: JobPlan,
    /// What its runner is told.
    pub spec: RunSpec,
    /// What its runner may know.
    pub credentials: &'a Credentials,
}

/// The Job of a component that counts.
#[derive(Debug)]
enum Current<'v> {
    /// The next has this number; the one before it failed for a passing reason.
    Next(u32, Option<&'v JobView>),
    /// One before it still has a pod at work.
    Stopping,
    /// This one.
    Job(&'v JobView),
    /// Every one that was allowed came to nothing.
    UsedUp(Stopped),
}

impl Crew<'_> {
    /// Whether the run's time is up.
    pub fn is_overdue(&self) -> bool {
        time_left(self.started, self.deadline, self.now).is_none()
    }

    fn views_of<'v>(&'v self, component: &'v str) -> impl Iterator<Item = &'v JobView> {
        views_of(&self.views, self.task, component)
    }

    fn current<'v>(&'v self, component: &str) -> Current<'v> {
        current(&self.views, self.named, self.task, component, self.retries)
    }

    /// Whether the next look at a component starts a Job.
    pub fn needs_job(&self, component: &str) -> bool {
        let is_due = match self.current(component) {
            Current::Next(number, Some(failed)) => {
                self.due(component, number, failed) <= self.now && !failed.has_live_pod()
            }
            Current::Next(_, None) => true,
            Current::Stopping | Current::Job(_) | Current::UsedUp(_) => false,
        };
        self.may_start && is_due && !self.is_overdue()
    }

    /// When the newest Job of a component ended, of those whose end is known.
    pub fn last_ended(&self, component: &str) -> Option<Timestamp> {
        let ends = self.views_of(component).filter_map(|view| match &view.state {
            JobState::Ended(ended) => ended.finished,
            JobState::Waiting(_) | JobState::Running(_) => None,
        });
        ends.max()
    }

    /// When the Job with this number is due after one that failed.
    fn due(&self, component: &str, number: u32, failed: &JobView) -> Timestamp {
        let finished = match &failed.state {
            JobState::Ended(ended) => ended.finished,
            JobState::Running(_) | JobState::Waiting(_) => None,
        };
        let ended = finished.or_else(|| failed.created()).unwrap_or(self.now);
        retry::due(ended, number, &format!("{}/{component}", self.run.uid))
    }

    /// The components among these for which the next look starts a Job, if there is a place.
    pub fn needing<'c>(&self, components: impl Iterator<Item = &'c str>) -> Vec<&'c str> {
        components.filter(|component| self.needs_job(component)).collect()
    }

    /// Tells the queue which of the run's Jobs are over, and where the others run.
    pub fn tell_places(&self) {
        for view in &self.views {
            match &view.state {
                JobState::Ended(_) => self.ctx.queue.over(&view.job),
                JobState::Running(Running { node: Some(node), .. }) => self.ctx.queue.is_on(&view.job, node),
                JobState::Running(_) | JobState::Waiting(_) => {}
            }
        }
    }

    /// Asks the queue for places.
    pub fn ask(&mut self, since: Timestamp, demands: &[Demand]) {
        self.answers = self.ctx.queue.ask(&Asker { run: self.run, since }, demands);
    }

    /// Pods that were started for a component before its present Job.
    fn earlier_attempts(&self, component: &str, present: &JobView) -> u32 {
        let earlier = self.views_of(component).filter(|view| view.name() != present.name());
        earlier.fold(0, |sum, view| sum.saturating_add(attempts_of(view)))
    }

    /// Looks at one component. Returns its end when there is one now; the caller says what it means.
    pub async fn advance<'o>(
        &mut self,
        component: &mut Common<'_>,
        order: impl FnOnce(String, Duration) -> Option<Order<'o>>,
    ) -> Result<Option<Ended>, JobError> {
        let name = component.name.to_owned();
        let number = match self.current(&name) {
            Current::UsedUp(stopped) => {
                component.fail(stopped.reason, stopped.message, self.now);
                return Ok(None);
            }
            Current::Stopping => {
                self.stopping(component).await?;
                return Ok(None);
            }
            Current::Job(view) => {
                let view = view.clone();
                return self.follow(component, &view).await;
            }
            Current::Next(number, Some(failed)) => {
                let failed = failed.clone();
                let due = self.due(&name, number, &failed);
                match retry::turn(due, self.started, self.deadline, self.now) {
                    // What it failed for tells more than that its time is up.
                    Turn::Over => return self.follow(component, &failed).await,
                    Turn::After(left) => {
                        let made = self.earlier_attempts(&name, &failed).saturating_add(attempts_of(&failed));
                        pausing(component, &failed, made, due);
                        self.look_again.after(left);
                        return Ok(None);
                    }
                    Turn::Now if failed.has_live_pod() => {
                        self.stopping(component).await?;
                        return Ok(None);
                    }
                    Turn::Now => number,
                }
            }
            Current::Next(number, None) => number,
        };
        let Some(left) = time_left(self.started, self.deadline, self.now) else {
            let waited = component.message.as_deref().filter(|_| component.reason.is_some());
            let waited = waited.map(|message| format!("; it waited for this: {message}")).unwrap_or_default();
            let message = format!("the time of the run was up before its Job began{waited}");
            component.fail(Reason::DeadlineExceeded.as_str(), message, self.now);
            return Ok(None);
        };
        if !self.may_start {
            return Ok(None);
        }
        match self.answers.get(&name) {
            Some(Answer::Go) => {}
            Some(answer) => {
                component.wait(Reason::Queued.as_str(), answer.to_string());
                self.look_again.after(QUEUE_LOOK);
                return Ok(None);
            }
            None => return Ok(None),
        }
        let job_name = names::job_name(self.named, self.task, &name, number);
        let Some(mut order) = order(job_name, left) else {
            self.ctx.queue.give_back(self.run, &name);
            return Ok(None);
        };
        // Its runner removes what those before it left.
        let dead = self.views_of(&name).filter(|view| !view.has_live_pod() && lock_may_remain(view));
        order.plan.dead_jobs = dead.map(|view| view.uid().to_owned()).collect();
        order.spec.dead_jobs.clone_from(&order.plan.dead_jobs);
        let started = jobs::start(self.ctx, &order.plan, &order.spec, order.credentials).await;
        let started = started.or_else(Started::or_denied);
        match &started {
            Ok(Started::Job(job)) => self.ctx.queue.started(self.run, &name, job),
            _ => self.ctx.queue.give_back(self.run, &name),
        }
        match started {
            Ok(Started::Job(job)) => {
                component.job.clone_from(&job.metadata.name);
                component.start_time.get_or_insert(Time(self.now));
                component.wait(WaitReason::Starting.as_str(), "the runner's pod is being started");
                self.views.push(JobView {
                    state: jobs::outcome::state(&job, &[]),
                    job: *job,
                    pods: Vec::new(),
                });
                self.look_again.after(EXPLAIN_AFTER);
            }
            Ok(Started::BeingDeleted) => {
                component.wait("Stopping", "an earlier Job of this name is being deleted");
            }
            Ok(Started::Denied(denial)) if denial.may_pass => {
                component.wait(denial.reason.as_str(), denial.message);
                self.look_again.after(Duration::from_secs(30));
            }
            Ok(Started::Denied(denial)) => component.fail(denial.reason.as_str(), denial.message, self.now),
            Err(error @ JobError::NameTaken { .. }) => {
                component.fail(Reason::NameTaken.as_str(), error.to_string(), self.now);
            }
            Err(error) => {
                not_started(component, &error);
                return Err(error);
            }
        }
        Ok(None)
    }

    /// A Job before it still has a pod that may be at work.
    async fn stopping(&mut self, component: &mut Common<'_>) -> Result<(), JobError> {
        let pods = self.views_of(component.name).flat_map(|view| &view.pods);
        let waits = lost::waits_for(&self.ctx.client, pods, self.now).await?.map(|wait| wait.message);
        // A Restore never goes on beside a runner that may still write.
        if self.is_overdue() && self.task == names::Task::Backup {
            let held_up = waits.unwrap_or_else(|| "a Job of it was still being stopped".to_owned());
            component.fail(
                Reason::DeadlineExceeded.as_str(),
                format!("the time of the run was up before it could be tried again: {held_up}"),
                self.now,
            );
            return Ok(());
        }
        let message = waits.unwrap_or_else(|| "an earlier Job of this component is being stopped".to_owned());
        component.wait("Stopping", message);
        // The state of a node changes without a word to us.
        self.look_again.after(Duration::from_secs(30));
        Ok(())
    }

    async fn follow(
        &mut self,
        component: &mut Common<'_>,
        view: &JobView,
    ) -> Result<Option<Ended>, JobError> {
        *component.job = Some(view.name().to_owned());
        if component.start_time.is_none() {
            *component.start_time = Some(Time(view.created().unwrap_or(self.now)));
        }
        let earlier = self.earlier_attempts(component.name, view);
        match &view.state {
            JobState::Waiting(waiting) => self.waiting(component, view, waiting.clone()).await?,
            JobState::Running(running) => {
                *component.attempts = Some(earlier.saturating_add(running.attempt));
                self.running(component, view, running).await?;
            }
            JobState::Ended(ended) => {
                let ended = with_wait(component, ended.clone());
                *component.attempts = Some(earlier.saturating_add(ended.attempts.max(1)));
                ran_on(component, &ended);
                *component.progress = None;
                *component.next_attempt_time = None;
                *component.completion_time = Some(Time(ended.finished.unwrap_or(self.now)));
                if !ended.is_success()
                    && let Some(pod) = &ended.pod
                {
                    let mut tail = logs::tail(&self.ctx.client, view.namespace(), pod).await;
                    tail.truncate(MAX_LOG_LINES);
                    *component.log_tail = tail;
                }
                // No pod of it is started again, so its place in a quota is free for the next.
                if ended.verdict().is_some_and(|verdict| verdict.outcome != Outcome::Failed) {
                    remove_read_secret(&self.ctx.client, view).await;
                }
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }

    async fn waiting(
        &mut self,
        component: &mut Common<'_>,
        view: &JobView,
        waiting: Waiting,
    ) -> Result<(), JobError> {
        let allowed = self.ctx.settings.stuck_after;
        let since = waiting.since.unwrap_or(self.now);
        let waited = time_left(since, EXPLAIN_AFTER, self.now);
        let waiting = match waited {
            Some(rest) => {
                self.look_again.after(rest);
                waiting
            }
            None => explain_waiting(&self.ctx.client, view, waiting).await?,
        };
        let Some(rest) = time_left(since, allowed, self.now) else {
            let message = format!("after {} minutes: {}", allowed.as_secs() / 60, waiting.message);
            stop(&self.ctx.client, view, &Stopped::new(reason_of(waiting.reason).as_str(), message)).await?;
            component.wait("Stopping", format!("the Job is given up: {}", waiting.message));
            return Ok(());
        };
        // Events change without a word to us, so a long wait is looked at now and then.
        self.look_again.after(if waited.is_none() { rest.min(Duration::from_secs(30)) } else { rest });
        component.wait(waiting.reason.as_str(), waiting.message);
        Ok(())
    }

    async fn running(
        &mut self,
        component: &mut Common<'_>,
        view: &JobView,
        running: &Running,
    ) -> Result<(), JobError> {
        let board = &self.ctx.board;
        board.follow(self.run, view.namespace(), running);
        component.node.clone_from(&running.node);
        if self.task == names::Task::Backup
            && let Some(checkpoint) = board.checkpoint(&running.pod_uid)
        {
            let client = &self.ctx.client;
            match jobs::checkpoint::hand_on(client, self.run, component.name, &view.job, &checkpoint).await {
                Ok(()) => board.handed_on(&running.pod_uid, &checkpoint),
                // Tried again at the next look; the backup itself does not need it.
                Err(error) => tracing::warn!(error = %Chain(&error), "a checkpoint cannot be handed on"),
            }
        }
        match board.silence(view, self.now, self.ctx.settings.stuck_after).await {
            Silence::Alive { look_again } => {
                self.look_again.after(look_again);
                *component.phase = ComponentPhase::Running;
                *component.next_attempt_time = None;
                *component.reason = None;
                *component.message = None;
                *component.progress = board.signs(&running.pod_uid).map(|signs| signs.to_progress());
            }
            Silence::Stuck { since } => {
                let message = format!(
                    "the runner gave no sign of life since {since}, so it was stopped; the log of its pod and the \
                     state of the node {} may tell why",
                    running.node.as_deref().unwrap_or("(unknown)")
                );
                stop(&self.ctx.client, view, &Stopped::new(Reason::NoSignOfLife.as_str(), message.clone()))
                    .await?;
                component.wait("Stopping", message);
            }
        }
        Ok(())
    }
}

fn views_of<'v>(
    views: &'v [JobView],
    task: names::Task,
    component: &str,
) -> impl Iterator<Item = &'v JobView> {
    let ours =
        move |view: &&JobView| view.component() == Some(component) && view.task() == Some(task.as_str());
    views.iter().filter(ours)
}

/// Evictions of a component that cost no retry. Whoever is evicted more often is no victim of drains but of his own hunger for
/// memory, or of a node that is full.
const FREE_EVICTIONS: u32 = 5;

/// The Job of a component that counts: the first one that was not given up and is not followed by another.
fn current<'v>(
    views: &'v [JobView],
    run: names::Run<'_>,
    task: names::Task,
    component: &str,
    retries: u32,
) -> Current<'v> {
    let (mut last, mut failed) = (None, None);
    let (mut number, mut retries, mut evictions) = (0, retries, 0);
    while number <= retries {
        let name = names::job_name(run, task, component, number);
        let Some(view) = views_of(views, task, component).find(|view| view.name() == name) else {
            return Current::Next(number, failed);
        };
        match abandoned(view) {
            Some(_) if view.has_live_pod() => return Current::Stopping,
            Some(stopped) => {
                if stopped.gave_way() {
                    retries = retries.saturating_add(1);
                }
                (last, failed) = (Some(stopped), None);
            }
            None if view.is_being_deleted() => return Current::Stopping,
            None if was_disrupted(view) && evictions < FREE_EVICTIONS => {
                evictions += 1;
                retries = retries.saturating_add(1);
                failed = Some(view);
            }
            None if may_be_tried_again(view) && number < retries => failed = Some(view),
            None => return Current::Job(view),
        }
        number = number.saturating_add(1);
    }
    Current::UsedUp(last.unwrap_or_else(Stopped::with_run))
}

/// The reason of a component that waited in vain.
fn reason_of(waiting: WaitReason) -> Reason {
    match waiting {
        WaitReason::Unschedulable => Reason::Unschedulable,
        WaitReason::VolumeNotMounted => Reason::MountFailed,
        WaitReason::ImageNotPulled => Reason::ImageNotPulled,
        WaitReason::PodNotCreated
        | WaitReason::ContainerNotCreated
        | WaitReason::Starting
        | WaitReason::Retrying => Reason::NoSignOfLife,
    }
}

/// Whether a Job failed for a reason that may pass.
fn may_be_tried_again(view: &JobView) -> bool {
    matches!(&view.state, JobState::Ended(ended) if ended.retryable)
}

/// Whether a Job ended because its pod was evicted: no failure of the component.
fn was_disrupted(view: &JobView) -> bool {
    matches!(&view.state, JobState::Ended(ended) if ended.retryable && ended.disrupted)
}

/// Where a Job ran. Of one whose pod is gone nobody knows it any more but the status.
fn ran_on(component: &mut Common<'_>, ended: &Ended) {
    if ended.node.is_some() {
        component.node.clone_from(&ended.node);
    }
}

/// The end of a Job, with what its component waited for until then if its time was up: the pod is gone, and no log tells it.
fn with_wait(component: &Common<'_>, mut ended: Ended) -> Ended {
    if *component.phase == ComponentPhase::Pending
        && ended.pod.is_none()
        && component.reason.is_some()
        && let Some(waited) = component.message.as_deref()
        && let End::Lost { loss: Loss::DeadlineExceeded, message } = &mut ended.end
    {
        *message = format!("{message}; when it was last looked at, it waited for this: {waited}");
    }
    ended
}

/// Attempt number `made` failed, and the next one is not due yet. Its place is free for others meanwhile.
fn pausing(component: &mut Common<'_>, failed: &JobView, made: u32, due: Timestamp) {
    let (reason, message) = match &failed.state {
        JobState::Ended(ended) => {
            ran_on(component, ended);
            let reason = match &ended.end {
                End::Lost { loss, .. } => loss_reason(*loss).as_str(),
                End::Verdict(_) => ended.reason().unwrap_or("Failed"),
            };
            (reason, ended.message().unwrap_or_default())
        }
        JobState::Running(_) | JobState::Waiting(_) => ("Failed", ""),
    };
    let message = shorten(message, MESSAGE_LIMIT);
    let message = if was_disrupted(failed) {
        format!(
            "attempt {made} ended because its pod was evicted; the next one begins at {due}, where the volume is then"
        )
    } else {
        format!("attempt {made} failed ({reason}: {message}); the next one begins at {due}")
    };
    *component.job = Some(failed.name().to_owned());
    *component.attempts = Some(made);
    component.wait(Reason::Retrying.as_str(), message);
    *component.next_attempt_time = Some(Time(due));
}

/// The Job of a component could not be started. The error goes to the log; who looks at the run reads it here.
pub fn not_started(component: &mut Common<'_>, error: &(dyn std::error::Error + 'static)) {
    const TEXT: &str = "its Job cannot be started, which is tried again";
    // Only the first: a text that is another one each time would be written, and so wake us, without any pause.
    if component.message.as_deref().is_some_and(|message| message.starts_with(TEXT)) {
        return;
    }
    let message = format!("{TEXT}: {}", Chain(error));
    component.wait(Reason::Failed.as_str(), shorten(&message, MESSAGE_LIMIT));
}

fn attempts_of(view: &JobView) -> u32 {
    match &view.state {
        JobState::Ended(ended) => ended.attempts.max(1),
        JobState::Running(running) => running.attempt,
        JobState::Waiting(_) => 1,
    }
}

#[cfg(test)]
#[path = "advance_tests.rs"]
mod tests;
