//! What a Job and its pods say: waiting, running or ended, and how. Pure; reads nothing, decides nothing about
//! the run.
//!
//! A Job has ended as soon as the container's verdict says so: the Job's own conditions come a second later and
//! are only needed where there is no verdict.

use holdfast_protocol::{Outcome, Verdict, exit};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, Pod, PodStatus};
use kube::ResourceExt;

use super::CONTAINER;

/// The condition of a pod that was evicted: its node is drained, goes away, or needs the room.
pub const DISRUPTED: &str = "DisruptionTarget";

/// Where a Job is.
#[derive(Debug, Clone, PartialEq)]
pub enum JobState {
    /// No runner is at work, but one will be.
    Waiting(Waiting),
    /// A runner is at work.
    Running(Running),
    /// No runner will be at work any more.
    Ended(Ended),
}

/// What a Job waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// In one word.
    pub reason: WaitReason,
    /// In a sentence, with what Kubernetes says about it.
    pub message: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// The pod that waits, when there is one: its Events say more.
    pub pod: Option<String>,
}

/// What a Job waits for, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitReason {
    /// The Job has no pod yet.
    PodNotCreated,
    /// No node takes the pod.
    Unschedulable,
    /// The volume cannot be attached or mounted.
    VolumeNotMounted,
    /// The image cannot be pulled.
    ImageNotPulled,
    /// The container cannot be made.
    ContainerNotCreated,
    /// The pod is being started.
    Starting,
    /// An attempt failed; the next one comes after a pause.
    Retrying,
}

impl WaitReason {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PodNotCreated => "PodNotCreated",
            Self::Unschedulable => "Unschedulable",
            Self::VolumeNotMounted => "VolumeNotMounted",
            Self::ImageNotPulled => "ImageNotPulled",
            Self::ContainerNotCreated => "ContainerNotCreated",
            Self::Starting => "Starting",
            Self::Retrying => "Retrying",
        }
    }
}

/// A runner at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its pod.
    pub pod: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// Its node.
    pub node: Option<String>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// It was told to stop and has not ended yet.
    pub stopping: bool,
}

/// A Job that is over.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// How.
    pub end: End,
    /// Pods that were started.
    pub attempts: u32,
    /// The last pod, while it is there.
    pub pod: Option<String>,
    /// The node of the last pod.
    pub node: Option<String>,
    /// When the last runner began.
    pub started: Option<Timestamp>,
    /// When the last runner ended.
    pub finished: Option<Timestamp>,
    /// It failed for a reason that may pass, and nobody else tries it again: another Job may fare better.
    pub retryable: bool,
    /// Its pod was evicted, which is nobody's failure; the Job controller does not start another.
    pub disrupted: bool,
    /// A lock of this Job may be left in the repository: run [`super::unlock`].
    pub lock_may_remain: bool,
}

impl Ended {
    /// The verdict, when there is one.
    pub fn verdict(&self) -> Option<&Verdict> {
        match &self.end {
            End::Verdict(verdict) => Some(verdict),
            End::Lost { .. } => None,
        }
    }

    /// Succeeded without gaps.
    pub fn is_success(&self) -> bool {
        self.verdict().is_some_and(|v| v.outcome == Outcome::Succeeded)
    }

    /// Typed reason of anything but success.
    pub fn reason(&self) -> Option<&str> {
        match &self.end {
            End::Verdict(verdict) => verdict.reason.as_deref(),
            End::Lost { loss, .. } => Some(loss.as_str()),
        }
    }

    /// Cause and what to do, of anything but success.
    pub fn message(&self) -> Option<&str> {
        match &self.end {
            End::Verdict(verdict) => verdict.message.as_deref(),
            End::Lost { message, .. } => Some(message),
        }
    }
}

/// How a Job ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// The runner said so itself.
    Verdict(Box<Verdict>),
    /// The runner could not say; what Kubernetes knows instead.
    Lost {
        /// In one word.
        loss: Loss,
        /// Cause and what to do.
        message: String,
    },
}

/// Why there is no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The Job's deadline passed.
    DeadlineExceeded,
    /// The kernel killed the runner for its use of memory.
    OutOfMemory,
    /// The pod was evicted or its node was lost.
    Evicted,
    /// The runner was killed or stopped.
    Killed,
    /// The runner ended by itself without a verdict.
    Crashed,
    /// The pod is gone, or what it left cannot be read. The work may have been done: start it again, the runner
    /// finds out.
    VerdictLost,
}

impl Loss {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::OutOfMemory => "OutOfMemory",
            Self::Evicted => "Evicted",
            Self::Killed => "Killed",
            Self::Crashed => "Crashed",
            Self::VerdictLost => "VerdictLost",
        }
    }
}

/// Judges a Job from itself and all its pods.
pub fn state(job: &Job, pods: &[Pod]) -> JobState {
    let mut pods: Vec<&Pod> = pods.iter().collect();
    pods.sort_by_key(|pod| (pod.creation_timestamp().map(|t| t.0), pod.name_any()));
    let failed = job_condition(job, &["Failed", "FailureTarget"]);
    let complete = job_condition(job, &["Complete", "SuccessCriteriaMet"]);
    let attempts = count(pods.len());
    let Some(pod) = pods.last() else {
        if failed.is_none() && complete.is_none() {
            return JobState::Waiting(Waiting {
                reason: WaitReason::PodNotCreated,
                message: "the Job has no pod yet".into(),
                since: job.creation_timestamp().map(|t| t.0),
                pod: None,
            });
        }
        let (loss, message) = without_pod(failed.as_ref());
        let disrupted = loss == Loss::Evicted;
        return JobState::Ended(Ended {
            end: End::Lost { loss, message },
            attempts: started(job),
            pod: None,
            node: None,
            started: None,
            finished: finished_without_pod(job),
            retryable: disrupted && !tried_again_by_itself(job),
            disrupted,
            lock_may_remain: true,
        });
    };
    match last_words(pod) {
        None => alive(pod, attempts),
        Some(words) => {
            let over = match (&words.verdict, words.exit_code) {
                (Some(verdict), code) => {
                    code == Some(exit::DONE) && verdict.outcome != Outcome::Failed
                        || code == Some(exit::FATAL)
                }
                (None, code) => matches!(code, Some(exit::DONE | exit::FATAL)),
            };
            if over || failed.is_some() || complete.is_some() || retries_used(job, &pods) {
                let late = failed.as_ref().is_some_and(|(reason, _)| reason == "DeadlineExceeded");
                JobState::Ended(Ended {
                    retryable: !over && !late && !tried_again_by_itself(job),
                    disrupted: !over && !late && disrupted(pod) && fails_when_disrupted(job),
                    lock_may_remain: lock_may_remain(job, &pods),
                    end: words.into_end(failed.as_ref()),
                    attempts,
                    pod: Some(pod.name_any()),
                    node: node(pod),
                    started: began(pod),
                    finished: finished(pod),
                })
            } else {
                JobState::Waiting(Waiting {
                    reason: WaitReason::Retrying,
                    message: format!("attempt {attempts} failed and is tried again: {}", words.summary()),
                    since: finished(pod),
                    pod: None,
                })
            }
        }
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Reason and message of the first of the Job's conditions that is true.
fn job_condition(job: &Job, types: &[&str]) -> Option<(String, String)> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|c| c.status == "True" && types.contains(&c.type_.as_str()))?;
    Some((found.reason.clone().unwrap_or_default(), found.message.clone().unwrap_or_default()))
}

fn started(job: &Job) -> u32 {
    let Some(status) = &job.status else { return 0 };
    let total = status.failed.unwrap_or(0).saturating_add(status.succeeded.unwrap_or(0));
    u32::try_from(total).unwrap_or(0)
}

fn without_pod(failed: Option<&(String, String)>) -> (Loss, String) {
    match failed {
        Some((reason, _)) if reason == "DeadlineExceeded" => (Loss::DeadlineExceeded, deadline_message()),
        // The pod of a runner that was evicted goes as soon as the Job controller has seen it; this is what it leaves
        // (`matchPodFailurePolicy` of Kubernetes).
        Some((reason, message))
            if reason == "PodFailurePolicy" && message.contains(&format!("has condition {DISRUPTED} ")) =>
        {
            (Loss::Evicted, EVICTED.into())
        }
        Some((reason, message)) => (
            Loss::VerdictLost,
            format!("the runner's pod is gone and with it what it said; the Job reports {reason}: {message}"),
        ),
        None => (
            Loss::VerdictLost,
            "the runner's pod was removed before its result was read; the run is started again and finds what \
             was stored"
                .into(),
        ),
    }
}

const EVICTED: &str = "the runner was ended because its pod was evicted or its node went away";

/// When a Job ended whose pod is gone. One that failed has no completion time.
fn finished_without_pod(job: &Job) -> Option<Timestamp> {
    let status = job.status.as_ref()?;
    let failed = || {
        let conditions = status.conditions.as_ref()?;
        let failed = conditions
            .iter()
            .find(|c| c.status == "True" && ["Failed", "FailureTarget"].contains(&c.type_.as_str()))?;
        failed.last_transition_time.as_ref()
    };
    status.completion_time.as_ref().or_else(failed).map(|t| t.0)
}

fn deadline_message() -> String {
    "the run took longer than its activeDeadline; raise it, or find out from the log what took so long".into()
}

fn container_state(status: &PodStatus) -> Option<&ContainerState> {
    status.container_statuses.as_ref()?.iter().find(|c| c.name == CONTAINER)?.state.as_ref()
}

fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    container_state(pod.status.as_ref()?)?.terminated.as_ref()
}

fn node(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone()
}

fn began(pod: &Pod) -> Option<Timestamp> {
    if let Some(end) = terminated(pod) {
        return end.started_at.as_ref().map(|t| t.0);
    }
    let running = container_state(pod.status.as_ref()?)?.running.as_ref()?;
    running.started_at.as_ref().map(|t| t.0)
}

fn finished(pod: &Pod) -> Option<Timestamp> {
    terminated(pod)?.finished_at.as_ref().map(|t| t.0)
}

fn disrupted(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == DISRUPTED && c.status == "True"))
}

/// What a pod that is over left behind.
struct LastWords {
    verdict: Option<Verdict>,
    exit_code: Option<i32>,
    /// Loss and what Kubernetes said, for want of a verdict.
    loss: Loss,
    detail: String,
}

impl LastWords {
    fn summary(&self) -> String {
        match &self.verdict {
            Some(verdict) => verdict.message.clone().unwrap_or_default(),
            None => self.detail.clone(),
        }
    }

    fn into_end(self, failed: Option<&(String, String)>) -> End {
        match self.verdict {
            Some(verdict) if verdict.outcome != Outcome::Failed => End::Verdict(Box::new(verdict)),
            // A runner that was stopped by the deadline says only that it was stopped.
            _ if failed.is_some_and(|(reason, _)| reason == "DeadlineExceeded") => {
                End::Lost { loss: Loss::DeadlineExceeded, message: deadline_message() }
            }
            Some(verdict) => End::Verdict(Box::new(verdict)),
            None => End::Lost { loss: self.loss, message: self.detail },
        }
    }
}

fn last_words(pod: &Pod) -> Option<LastWords> {
    if let Some(end) = terminated(pod) {
        let verdict = end
            .message
            .as_deref()
            .and_then(|text| Verdict::from_termination_message(text).ok())
            .filter(|verdict| verdict.version == holdfast_protocol::VERSION);
        let (loss, detail) = explain(end, pod);
        return Some(LastWords { verdict, exit_code: Some(end.exit_code), loss, detail });
    }
    let status = pod.status.as_ref()?;
    // A pod that is evicted or whose node is lost may never have had a container state.
    if !matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        return None;
    }
    let said = status.message.as_deref().or(status.reason.as_deref()).unwrap_or("no reason was given");
    Some(LastWords {
        verdict: None,
        exit_code: None,
        loss: Loss::Evicted,
        detail: format!("the runner's pod was ended by Kubernetes: {said}"),
    })
}

fn explain(end: &ContainerStateTerminated, pod: &Pod) -> (Loss, String) {
    let code = end.exit_code;
    if end.reason.as_deref() == Some("OOMKilled") {
        return (
            Loss::OutOfMemory,
            "the runner was killed because it used more memory than its limit; raise resources.limits.memory in a \
             PodConfig that the run names in spec.podConfigRef, or runner.resources.limits.memory of the chart for \
             all runs"
                .into(),
        );
    }
    if disrupted(pod)
        || matches!(pod.status.as_ref().and_then(|s| s.reason.as_deref()), Some("Evicted" | "NodeLost"))
    {
        return (Loss::Evicted, EVICTED.into());
    }
    if code == exit::DONE {
        return (
            Loss::VerdictLost,
            "the runner ended well but left no readable result; it is run again".into(),
        );
    }
    if code > 128 {
        return (
            Loss::Killed,
            format!("the runner was killed (exit code {code}) before it could say how far it was"),
        );
    }
    let said = end.message.as_deref().unwrap_or("no message was left").trim();
    (
        Loss::Crashed,
        format!(
            "the runner ended with code {code} and without a result: {}",
            crate::events::shorten(said, 400)
        ),
    )
}

/// Whether the Job itself had the retries of its component, as an older operator gave them to it.
fn tried_again_by_itself(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.backoff_limit).is_none_or(|limit| limit > 0)
}

/// Whether the Job ends with a pod that is evicted. Those of an older operator, and those without a claim, do not.
fn fails_when_disrupted(job: &Job) -> bool {
    let policy = job.spec.as_ref().and_then(|spec| spec.pod_failure_policy.as_ref());
    policy.iter().flat_map(|policy| &policy.rules).any(|rule| {
        rule.action == "FailJob"
            && rule.on_pod_conditions.iter().flatten().any(|pattern| pattern.type_ == DISRUPTED)
    })
}

/// Whether the Job controller will start no further pod. It says so itself a little later.
fn retries_used(job: &Job, pods: &[&Pod]) -> bool {
    let limit = job.spec.as_ref().and_then(|s| s.backoff_limit).unwrap_or(6);
    let counts_disrupted = fails_when_disrupted(job);
    let counts = |pod: &&&Pod| last_words(pod).is_some() && (counts_disrupted || !disrupted(pod));
    let failures = pods.iter().filter(counts).count();
    i32::try_from(failures).is_ok_and(|n| n > limit)
}

/// Follows the locks from pod to pod: a later pod of the same Job takes over an earlier one's lock, but only when
/// it got as far as taking a lock at all, which only success proves.
fn lock_may_remain(job: &Job, pods: &[&Pod]) -> bool {
    let mut remains = started(job) > count(pods.len());
    for pod in pods {
        match last_words(pod) {
            Some(LastWords { verdict: Some(verdict), .. }) => {
                if !verdict.lock_released {
                    remains = true;
                } else if verdict.outcome != Outcome::Failed {
                    remains = false;
                }
            }
            Some(_) => remains |= began(pod).is_some(),
            None => remains = true,
        }
    }
    remains
}

fn alive(pod: &Pod, attempt: u32) -> JobState {
    let status = pod.status.clone().unwrap_or_default();
    let state = container_state(&status);
    if let Some(running) = state.and_then(|s| s.running.as_ref()) {
        return JobState::Running(Running {
            pod: pod.name_any(),
            pod_uid: pod.uid().unwrap_or_default(),
            node: node(pod),
            since: running.started_at.as_ref().map(|t| t.0),
            attempt,
            stopping: pod.metadata.deletion_timestamp.is_some(),
        });
    }
    let (reason, message) = why_not_running(&status);
    JobState::Waiting(Waiting {
        reason,
        message,
        since: pod.creation_timestamp().map(|t| t.0),
        pod: Some(pod.name_any()),
    })
}

fn why_not_running(status: &PodStatus) -> (WaitReason, String) {
    let scheduled = status.conditions.as_ref().and_then(|c| c.iter().find(|c| c.type_ == "PodScheduled"));
    if let Some(condition) = scheduled.filter(|c| c.status == "False") {
        let said = condition.message.as_deref().unwrap_or("the scheduler gives no reason");
        return (WaitReason::Unschedulable, format!("no node takes the runner's pod: {said}"));
    }
    if let Some(waiting) = container_state(status).and_then(|s| s.waiting.as_ref()) {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let said = waiting.message.as_deref().unwrap_or(reason);
        match reason {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                return (WaitReason::ImageNotPulled, format!("the runner's image cannot be pulled: {said}"));
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                return (
                    WaitReason::ContainerNotCreated,
                    format!("the runner's container cannot be made: {said}"),
                );
            }
            _ => {}
        }
    }
    (WaitReason::Starting, "the runner's pod is being started".into())
}

#[cfg(test)]
#[path = "outcome_tests.rs"]
mod tests;
