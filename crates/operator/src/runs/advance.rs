//! One look at one component of a run: starts its Job, follows it, stops it when it is stuck, and hands over the
//! end. What the end means is the reconciler's.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_api::backup::{BackupComponent, ComponentPhase, Progress};
use holdfast_api::names;
use holdfast_api::restore::RestoreComponent;
use holdfast_api::{MAX_LOG_LINES, Reason};
use holdfast_protocol::RunSpec;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::stop::{Stopped, abandoned, stop};
use super::{LookAgain, lost, time_left};
use crate::access::Credentials;
use crate::context::Ctx;
use crate::errors::Chain;
use crate::jobs::apply::explain_waiting;
use crate::jobs::follow::Silence;
use crate::jobs::{
    self, Ended, JobError, JobPlan, JobState, JobView, RunRef, Running, Started, WaitReason, Waiting, logs,
};
use crate::queue::{Answer, Asker, Demand};

/// How often a component that waits for a place tells anew where in line it is; its turn is told by the queue.
const QUEUE_LOOK: Duration = Duration::from_mins(2);
/// A wait longer than this is explained with what Kubernetes' Events say.
const EXPLAIN_AFTER: Duration = Duration::from_secs(15);

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
        self.completion_time.get_or_insert(Time(now));
    }

    fn wait(&mut self, reason: &str, message: impl Into<String>) {
        *self.phase = ComponentPhase::Pending;
        *self.reason = Some(reason.to_owned());
        *self.message = Some(message.into());
        *self.progress = None;
    }
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
    /// None is there yet; the next has this number.
    Next(u32),
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
        self.may_start && matches!(self.current(component), Current::Next(_)) && !self.is_overdue()
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
                let waits = self.views_of(&name).find_map(lost::wait_for);
                // A Restore never goes on beside a runner that may still write.
                if self.is_overdue() && self.task == names::Task::Backup {
                    let held_up = waits.unwrap_or_else(|| "a Job of it was still being stopped".to_owned());
                    component.fail(
                        Reason::DeadlineExceeded.as_str(),
                        format!("the time of the run was up before it could be tried again: {held_up}"),
                        self.now,
                    );
                    return Ok(None);
                }
                let message =
                    waits.unwrap_or_else(|| "an earlier Job of this component is being stopped".to_owned());
                component.wait("Stopping", message);
                // The state of a node changes without a word to us.
                self.look_again.after(Duration::from_secs(30));
                return Ok(None);
            }
            Current::Job(view) => {
                let view = view.clone();
                return self.follow(component, &view).await;
            }
            Current::Next(number) => number,
        };
        let Some(left) = time_left(self.started, self.deadline, self.now) else {
            component.fail(
                Reason::DeadlineExceeded.as_str(),
                "the time of the run was up before its Job began",
                self.now,
            );
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
        let made = self.views_of(&name).map(attempts_of).fold(0, u32::saturating_add);
        order.plan.retries = retries_left(order.plan.retries, made);
        let started = jobs::start(self.ctx, &order.plan, &order.spec, order.credentials).await;
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
            Err(error) => return Err(error),
        }
        Ok(None)
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
                *component.attempts = Some(earlier.saturating_add(ended.attempts.max(1)));
                component.node.clone_from(&ended.node);
                *component.progress = None;
                *component.completion_time = Some(Time(ended.finished.unwrap_or(self.now)));
                if !ended.is_success()
                    && let Some(pod) = &ended.pod
                {
                    let mut tail = logs::tail(&self.ctx.client, view.namespace(), pod).await;
                    tail.truncate(MAX_LOG_LINES);
                    *component.log_tail = tail;
                }
                return Ok(Some(ended.clone()));
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

/// The Job of a component that counts: the first one that was not given up.
fn current<'v>(
    views: &'v [JobView],
    run: names::Run<'_>,
    task: names::Task,
    component: &str,
    retries: u32,
) -> Current<'v> {
    let mut last = None;
    for number in 0..=retries {
        let name = names::job_name(run, task, component, number);
        let Some(view) = views_of(views, task, component).find(|view| view.name() == name) else {
            return Current::Next(number);
        };
        match abandoned(view) {
            Some(_) if view.has_live_pod() => return Current::Stopping,
            Some(stopped) => last = Some(stopped),
            None if view.is_being_deleted() => return Current::Stopping,
            None => return Current::Job(view),
        }
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

/// How often the next Job may try again by itself: what the Jobs before it left of the retries. It is tried once in any
/// case, for somebody has to find out what the one before it did.
fn retries_left(allowed: u32, made: u32) -> u32 {
    allowed.saturating_sub(made)
}

fn attempts_of(view: &JobView) -> u32 {
    match &view.state {
        JobState::Ended(ended) => ended.attempts.max(1),
        JobState::Running(running) => running.attempt,
        JobState::Waiting(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::batch::v1::Job;
    use k8s_openapi::api::core::v1::Pod;

    const RUN: names::Run<'static> = names::Run { kind: names::RunKind::Backup, name: "b", uid: "u" };
    const COMPONENT: &str = "volume/data";

    fn view(number: u32, annotations: &str, conditions: &str, pod: Option<&str>) -> JobView {
        let name = names::job_name(RUN, names::Task::Backup, COMPONENT, number);
        let job: Job = serde_saphyr::from_str(&format!(
            r"
metadata:
  name: {name}
  uid: uid-{number}
  labels: {{holdfast.dev/task: Backup}}
  annotations: {{holdfast.dev/component: {COMPONENT}, {annotations}}}
spec: {{backoffLimit: 0, template: {{}}}}
status: {{conditions: [{conditions}]}}
"
        ))
        .unwrap();
        let pods: Vec<Pod> = pod
            .iter()
            .map(|phase| {
                serde_saphyr::from_str(&format!("{{metadata: {{name: p}}, status: {{phase: {phase}}}}}"))
                    .unwrap()
            })
            .collect();
        JobView { state: jobs::outcome::state(&job, &pods), job, pods }
    }

    const STOPPED: &str = r#"holdfast.dev/stopped: '{"reason":"NoSignOfLife","message":"silent"}'"#;
    const COMPLETE: &str = "{type: Complete, status: 'True'}";

    fn of(views: &[JobView], retries: u32) -> String {
        match current(views, RUN, names::Task::Backup, COMPONENT, retries) {
            Current::Next(number) => format!("next {number}"),
            Current::Stopping => "stopping".into(),
            Current::Job(view) => format!("job {}", view.uid()),
            Current::UsedUp(stopped) => format!("used up: {}", stopped.reason),
        }
    }

    #[test]
    fn a_job_that_was_given_up_is_followed_by_the_next_once_its_pods_are_gone() {
        assert_eq!(of(&[], 2), "next 0");
        assert_eq!(of(&[view(0, "", "", Some("Running"))], 2), "job uid-0");
        assert_eq!(of(&[view(0, STOPPED, "", Some("Running"))], 2), "stopping");
        assert_eq!(of(&[view(0, STOPPED, "", None)], 2), "next 1");
        assert_eq!(of(&[view(0, STOPPED, "", None), view(1, "", "", Some("Pending"))], 2), "job uid-1");
    }

    #[test]
    fn a_job_whose_result_was_lost_is_run_again() {
        assert_eq!(of(&[view(0, "", COMPLETE, None)], 2), "next 1");
    }

    #[test]
    fn tries_are_bounded() {
        assert_eq!(of(&[view(0, STOPPED, "", None)], 0), "used up: NoSignOfLife");
        assert_eq!(
            of(&[view(0, "", COMPLETE, None), view(1, STOPPED, "", None)], 1),
            "used up: NoSignOfLife"
        );
    }

    #[test]
    fn attempts_of_earlier_jobs_are_not_made_again_by_the_next() {
        let made = |views: &[JobView]| views.iter().map(attempts_of).fold(0, u32::saturating_add);
        let first = view(0, STOPPED, "", None);
        assert_eq!(retries_left(2, made(&[])), 2);
        assert_eq!(retries_left(2, made(std::slice::from_ref(&first))), 1);
        assert_eq!(retries_left(2, made(&[first, view(1, STOPPED, "", None)])), 0);
        assert_eq!(retries_left(2, 5), 0);
    }

    #[test]
    fn jobs_of_another_task_or_component_do_not_count() {
        let mut other = view(0, "", "", Some("Running"));
        other.job.metadata.labels.as_mut().unwrap().insert("holdfast.dev/task".into(), "Unlock".into());
        assert_eq!(of(&[other], 2), "next 0");
    }
}
