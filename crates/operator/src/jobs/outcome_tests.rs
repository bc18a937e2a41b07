use super::*;

/// A Job that may be tried twice, with these conditions.
fn job(conditions: &str) -> Job {
    serde_saphyr::from_str(&format!(
        "
metadata: {{name: j, namespace: shop, uid: job-1, creationTimestamp: '2026-11-20T02:00:00Z'}}
spec: {{backoffLimit: 1, template: {{}}}}
status: {{conditions: {conditions}}}
"
    ))
    .unwrap()
}

/// The pod of attempt `n` with this status.
fn pod(n: u32, status: &str) -> Pod {
    serde_saphyr::from_str(&format!(
        "
metadata: {{name: j-{n}, uid: pod-{n}, creationTimestamp: '2026-11-20T02:0{n}:00Z'}}
spec: {{nodeName: n1, containers: []}}
status: {status}
"
    ))
    .unwrap()
}

fn ended_pod(n: u32, code: i32, reason: &str, message: &str) -> Pod {
    pod(
        n,
        &format!(
            "{{phase: Failed, containerStatuses: [{{name: runner, ready: false, restartCount: 0, image: i, imageID: i, \
             state: {{terminated: {{exitCode: {code}, reason: {reason}, message: '{message}', \
             startedAt: '2026-11-20T02:0{n}:01Z', finishedAt: '2026-11-20T02:0{n}:05Z'}}}}}}]}}"
        ),
    )
}

fn verdict(outcome: Outcome, lock_released: bool) -> String {
    let mut verdict = Verdict::failed("Unreachable", "the store does not answer", true);
    verdict.outcome = outcome;
    verdict.lock_released = lock_released;
    verdict.to_termination_message()
}

fn ended(state: JobState) -> Ended {
    match state {
        JobState::Ended(ended) => ended,
        other => panic!("not ended: {other:?}"),
    }
}

fn waiting(state: JobState) -> Waiting {
    match state {
        JobState::Waiting(waiting) => waiting,
        other => panic!("not waiting: {other:?}"),
    }
}

const DEADLINE: &str = "[{type: Failed, status: 'True', reason: DeadlineExceeded, message: too long}]";
const BACKOFF: &str = "[{type: Failed, status: 'True', reason: BackoffLimitExceeded, message: too often}]";
const COMPLETE: &str = "[{type: Complete, status: 'True'}]";

#[test]
fn a_good_verdict_ends_the_job_before_the_job_controller_says_so() {
    let message = verdict(Outcome::Succeeded, true);
    let end = ended(state(&job("[]"), &[ended_pod(1, 0, "Completed", &message)]));
    assert!(end.is_success() && !end.lock_may_remain);
    assert_eq!((end.attempts, end.node.as_deref()), (1, Some("n1")));
    assert_eq!(end.finished.unwrap().to_string(), "2026-11-20T02:01:05Z");
}

#[test]
fn a_failure_that_may_pass_waits_for_the_next_attempt_until_there_is_none() {
    let message = verdict(Outcome::Failed, true);
    let first = ended_pod(1, exit::TEMPORARY, "Error", &message);
    let wait = waiting(state(&job("[]"), std::slice::from_ref(&first)));
    assert_eq!(wait.reason, WaitReason::Retrying);
    assert!(wait.message.contains("the store does not answer"), "{}", wait.message);

    let second = ended_pod(2, exit::TEMPORARY, "Error", &message);
    let end = ended(state(&job("[]"), &[second, first]));
    assert_eq!((end.attempts, end.reason()), (2, Some("Unreachable")));
    assert_eq!(end.pod.as_deref(), Some("j-2"), "the newest pod counts, in whatever order they come");
}

#[test]
fn a_failure_that_cannot_pass_ends_the_job_at_once() {
    let end =
        ended(state(&job("[]"), &[ended_pod(1, exit::FATAL, "Error", &verdict(Outcome::Failed, true))]));
    assert_eq!(end.reason(), Some("Unreachable"));
    assert!(!end.lock_may_remain);
}

#[test]
fn a_good_verdict_with_a_bad_exit_code_is_no_success_yet() {
    let pod = ended_pod(1, 137, "Error", &verdict(Outcome::Succeeded, true));
    assert_eq!(waiting(state(&job("[]"), &[pod])).reason, WaitReason::Retrying);
}

#[test]
fn a_killed_runner_may_leave_a_lock_and_is_tried_again() {
    let killed = ended_pod(1, 137, "OOMKilled", "");
    assert_eq!(waiting(state(&job("[]"), std::slice::from_ref(&killed))).reason, WaitReason::Retrying);
    let end = ended(state(&job(BACKOFF), std::slice::from_ref(&killed)));
    assert_eq!(end.reason(), Some("OutOfMemory"));
    assert!(end.lock_may_remain);
    assert!(end.message().unwrap().contains("resources.limits.memory in a PodConfig"));

    // The second attempt took the first one's lock over and released it.
    let done = ended_pod(2, 0, "Completed", &verdict(Outcome::Succeeded, true));
    assert!(!ended(state(&job("[]"), &[killed.clone(), done])).lock_may_remain);
    // It failed, perhaps before it had a lock: the first one's may still be there.
    let failed = ended_pod(2, exit::FATAL, "Error", &verdict(Outcome::Failed, true));
    assert!(ended(state(&job("[]"), &[killed, failed])).lock_may_remain);
}

#[test]
fn a_lock_that_was_not_released_is_told() {
    let pod = ended_pod(1, 0, "Completed", &verdict(Outcome::Succeeded, false));
    assert!(ended(state(&job("[]"), &[pod])).lock_may_remain);
}

#[test]
fn a_deadline_is_told_as_such_even_when_the_runner_says_it_was_stopped() {
    let pod = ended_pod(1, exit::STOPPED, "Error", &verdict(Outcome::Failed, true));
    let end = ended(state(&job(DEADLINE), &[pod]));
    assert_eq!(end.reason(), Some("DeadlineExceeded"));
    assert!(end.message().unwrap().contains("activeDeadline"));
    assert_eq!(ended(state(&job(DEADLINE), &[])).reason(), Some("DeadlineExceeded"));
}

#[test]
fn a_result_that_cannot_be_read_is_lost_and_never_taken_for_good() {
    for message in ["", "not json", "{}"] {
        let end = ended(state(&job(COMPLETE), &[ended_pod(1, 0, "Completed", message)]));
        assert_eq!(end.reason(), Some("VerdictLost"), "{message:?}");
        assert!(!end.is_success() && end.lock_may_remain);
    }
    assert_eq!(ended(state(&job(COMPLETE), &[])).reason(), Some("VerdictLost"));
    let mut other = Verdict::failed("X", "m", false);
    other.outcome = Outcome::Succeeded;
    other.version += 1;
    let pod = ended_pod(1, 0, "Completed", &other.to_termination_message());
    assert_eq!(ended(state(&job("[]"), &[pod])).reason(), Some("VerdictLost"));
}

#[test]
fn a_runner_that_cannot_even_start_its_work_is_told_with_its_last_words() {
    let end = ended(state(&job("[]"), &[ended_pod(1, 1, "Error", "error: unexpected argument")]));
    assert_eq!(end.reason(), Some("Crashed"));
    assert!(end.message().unwrap().contains("unexpected argument"));
}

#[test]
fn an_evicted_pod_does_not_count_as_a_failure() {
    let evicted = |n| {
        pod(
            n,
            "{phase: Failed, reason: Evicted, message: low on disk, conditions: [{type: DisruptionTarget, status: 'True'}]}",
        )
    };
    let all: Vec<_> = (1..5).map(evicted).collect();
    let wait = waiting(state(&job("[]"), &all));
    assert!(wait.message.contains("low on disk"), "{}", wait.message);
    assert_eq!(ended(state(&job(BACKOFF), &all)).reason(), Some("Evicted"));
}

/// A Job of a runner with a claim: it ends with a pod that is evicted.
fn job_with_claim(conditions: &str) -> Job {
    let mut job = job(conditions);
    let spec = job.spec.as_mut().unwrap();
    spec.backoff_limit = Some(0);
    spec.pod_failure_policy = Some(
        serde_saphyr::from_str(
            "{rules: [{action: FailJob, onPodConditions: [{type: DisruptionTarget, status: 'True'}]}]}",
        )
        .unwrap(),
    );
    job
}

#[test]
fn a_runner_that_was_evicted_from_its_volume_ends_its_job_and_is_placed_anew() {
    let mut evicted = ended_pod(1, exit::STOPPED, "Error", &verdict(Outcome::Failed, true));
    evicted.status.as_mut().unwrap().conditions = Some(
        serde_saphyr::from_str("[{type: DisruptionTarget, status: 'True', reason: EvictionByEvictionAPI}]")
            .unwrap(),
    );
    let seen = ended(state(&job_with_claim("[]"), std::slice::from_ref(&evicted)));
    assert!(seen.disrupted && seen.retryable && !seen.lock_may_remain);
    // The pod goes at once, and with it what the runner said. What the Job controller says then:
    let failed = "[{type: Failed, status: 'True', reason: PodFailurePolicy, lastTransitionTime: '2026-11-20T02:01:09Z', \
                  message: 'Pod shop/j-1 has condition DisruptionTarget matching FailJob rule at index 0'}]";
    let gone = ended(state(&job_with_claim(failed), &[]));
    assert!(gone.disrupted && gone.retryable && gone.lock_may_remain);
    assert_eq!(gone.reason(), Some("Evicted"));
    assert_eq!(gone.finished.unwrap().to_string(), "2026-11-20T02:01:09Z", "the pause counts from there");
    // One that said nothing but its exit code is another matter.
    let fatal = failed.replace(
        "Pod shop/j-1 has condition DisruptionTarget",
        "Container runner for pod shop/j-1 failed with exit code 1",
    );
    let gone = ended(state(&job_with_claim(&fatal), &[]));
    assert_eq!((gone.disrupted, gone.reason()), (false, Some("VerdictLost")));
    // An older operator's Job starts another pod itself.
    let mut older = job("[]");
    older.spec.as_mut().unwrap().backoff_limit = Some(0);
    assert_eq!(waiting(state(&older, std::slice::from_ref(&evicted))).reason, WaitReason::Retrying);
    // Killed with its node's memory and not evicted: that is a failure.
    let killed = ended(state(&job_with_claim("[]"), &[ended_pod(1, 137, "OOMKilled", "")]));
    assert!(killed.retryable && !killed.disrupted);
}

#[test]
fn a_running_pod_is_running_also_while_it_is_stopped() {
    let running = "{phase: Running, containerStatuses: [{name: runner, ready: true, restartCount: 0, image: i, \
                   imageID: i, state: {running: {startedAt: '2026-11-20T02:01:01Z'}}}]}";
    let JobState::Running(run) = state(&job("[]"), &[pod(1, running)]) else { panic!() };
    assert_eq!(
        (run.pod.as_str(), run.pod_uid.as_str(), run.attempt, run.stopping),
        ("j-1", "pod-1", 1, false)
    );
    let mut stopping = pod(1, running);
    stopping.metadata.deletion_timestamp = stopping.metadata.creation_timestamp.clone();
    let JobState::Running(run) = state(&job(DEADLINE), &[stopping]) else { panic!() };
    assert!(run.stopping);
}

#[test]
fn what_a_pod_waits_for_is_told() {
    assert_eq!(waiting(state(&job("[]"), &[])).reason, WaitReason::PodNotCreated);
    let unschedulable = "{phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, \
                         message: '0/2 nodes are available'}]}";
    let wait = waiting(state(&job("[]"), &[pod(1, unschedulable)]));
    assert_eq!(wait.reason, WaitReason::Unschedulable);
    assert!(wait.message.contains("0/2 nodes"));
    for (reason, expected) in [
        ("ImagePullBackOff", WaitReason::ImageNotPulled),
        ("CreateContainerConfigError", WaitReason::ContainerNotCreated),
        ("ContainerCreating", WaitReason::Starting),
    ] {
        let status = format!(
            "{{phase: Pending, containerStatuses: [{{name: runner, ready: false, restartCount: 0, image: i, imageID: i, \
             state: {{waiting: {{reason: {reason}}}}}}}]}}"
        );
        assert_eq!(waiting(state(&job("[]"), &[pod(1, &status)])).reason, expected, "{reason}");
    }
}

#[test]
fn what_may_be_tried_again_is_told_from_what_may_not() {
    let alone = |limit: i32, code: i32, reason: &str, message: &str, conditions: &str| {
        let mut job = job(conditions);
        job.spec.as_mut().unwrap().backoff_limit = Some(limit);
        ended(state(&job, &[ended_pod(1, code, reason, message)])).retryable
    };
    let failed = verdict(Outcome::Failed, true);
    assert!(alone(0, exit::TEMPORARY, "Error", &failed, "[]"), "the store did not answer");
    assert!(alone(0, exit::STOPPED, "Error", &failed, BACKOFF), "somebody deleted the pod");
    assert!(alone(0, 137, "OOMKilled", "", "[]"));
    assert!(alone(0, 137, "Error", "", BACKOFF), "killed");
    assert!(!alone(1, 137, "Error", "", BACKOFF), "an older operator's Job has had its retries");
    assert!(!alone(0, exit::FATAL, "Error", &failed, "[]"), "a wrong password stays wrong, a full disk full");
    assert!(!alone(0, exit::FATAL, "Error", "error: unexpected argument", "[]"));
    assert!(!alone(0, exit::DONE, "Completed", &verdict(Outcome::Succeeded, true), "[]"));
    assert!(!alone(0, exit::DONE, "Completed", &verdict(Outcome::Partial, true), "[]"));
    assert!(!alone(0, exit::STOPPED, "Error", &failed, DEADLINE), "its time is up");
}
